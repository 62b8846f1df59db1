"""Pictures per second and core: decode, augment, normalise; ours beside the plain torchvision sequence; by stage.

    python benchmarks/loader.py [--data FOLDER] [--transforms tfm1] [--size 224] [--json]

All rows run in one process and one thread, picture by picture in turn, with the same sampled changes. Time is the
thread's own CPU time, so that other work on the machine shows little; a row's figure is the median over rounds, with
the lowest and highest. Before anything is printed, the outputs are compared: with torchvision's within two grey levels,
the stages' with the loader's own to the bit, pictures from the cache with decoded ones to the bit where they were not
reduced.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image
from side_by_side.stages import DIRECT, KEPT, Stages, measure_stages, print_stages
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as plain

from vitrine.config import TransformSpec, named_transforms
from vitrine.data.decode import FilePicture
from vitrine.data.decoded_cache import DecodedPicture
from vitrine.data.loader import normalise
from vitrine.data.transforms import TrainChange, TrainTransform, short_side

MEAN = STD = (0.5, 0.5, 0.5)
BILINEAR = v2.InterpolationMode.BILINEAR
_BATCH = 32
LARGEST_GAP = 2.0  # mean levels of 255 between blurred outputs
Pipeline = Callable[[Path, TrainChange], torch.Tensor]


def write_photographs(folder: Path, count: int, size: tuple[int, int]) -> None:
    """JPEGs of quality 90 that weigh what photographs of their size weigh: gradients, soft blobs, film grain."""
    rng = np.random.default_rng(0)
    width, height = size
    y, x = np.mgrid[0:height, 0:width]
    for number in range(count):
        slope = rng.uniform(-0.2, 0.2, (2, 3))
        light = 128 + (x[..., None] - width / 2) * slope[0] + (y[..., None] - height / 2) * slope[1]
        coarse = Image.fromarray(rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8))
        blobs = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), dtype=float) - 128
        pixels = light + 0.5 * blobs + rng.normal(0, 5, light.shape)
        Image.fromarray(np.uint8(pixels.clip(0, 255))).save(folder / f"{number:03}.jpg", quality=90)


def our_pipeline(spec: TransformSpec, size: int) -> Pipeline:
    """vitrine: one warp, uint8 until the batch, one multiplication and addition to normalise."""
    transform = TrainTransform(spec, (size, size))

    def run(path: Path, change: TrainChange) -> torch.Tensor:
        pixels_HWC = transform.apply(FilePicture(path).decode(transform.short), change)
        pixels_BCHW = torch.from_numpy(pixels_HWC).permute(2, 0, 1).contiguous()[None]
        return normalise(pixels_BCHW, MEAN, STD)[0]

    return run


def kept_pictures(paths: list[Path], spec: TransformSpec, size: int, folder: Path) -> dict[Path, DecodedPicture]:
    """The pictures in a cache of decoded ones, which is filled here."""
    short, kept = short_side(spec, size), {}
    for path in paths:
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        kept[path] = DecodedPicture(FilePicture(path), sha256, folder, short)
        kept[path].decode()
    return kept


def kept_pipeline(spec: TransformSpec, size: int, kept: dict[Path, DecodedPicture]) -> Pipeline:
    """vitrine from the second epoch on, with ``decoded_cache``."""
    transform = TrainTransform(spec, (size, size))

    def run(path: Path, change: TrainChange) -> torch.Tensor:
        pixels_HWC = transform.apply(kept[path].decode(), change)
        pixels_BCHW = torch.from_numpy(pixels_HWC).permute(2, 0, 1).contiguous()[None]
        return normalise(pixels_BCHW, MEAN, STD)[0]

    return run


def plain_pipeline(size: int, rotation: v2.InterpolationMode) -> Pipeline:
    """What a person would write with torchvision.transforms.v2 on Pillow pictures."""
    adjust = {
        "brightness": plain.adjust_brightness,
        "contrast": plain.adjust_contrast,
        "saturation": plain.adjust_saturation,
    }

    def run(path: Path, change: TrainChange) -> torch.Tensor:
        image = Image.open(path).convert("RGB")
        if change.angle:
            image = plain.rotate(image, change.angle, interpolation=rotation)
        box = change.crop
        image = plain.resized_crop(
            image, box.top, box.left, box.height, box.width, [size, size], BILINEAR, antialias=True
        )
        if change.flip:
            image = plain.horizontal_flip(image)
        for name, factor in change.colour:
            image = adjust[name](image, factor)
        pixels_CHW: torch.Tensor = plain.to_dtype(plain.to_image(image), torch.float32, scale=True)
        normalised_CHW: torch.Tensor = plain.normalize(pixels_CHW, list(MEAN), list(STD))
        return normalised_CHW

    return run


def pipelines(spec: TransformSpec, size: int) -> dict[str, Pipeline]:
    """What is compared, by name."""
    return {
        "vitrine": our_pipeline(spec, size),
        "torchvision, nearest rotation (default)": plain_pipeline(size, v2.InterpolationMode.NEAREST),
        "torchvision, bilinear rotation": plain_pipeline(size, BILINEAR),
    }


def disagreement(first: Pipeline, second: Pipeline, work: list[tuple[Path, TrainChange]], size: int) -> float:
    """Mean absolute difference in grey levels, after a blur that takes the interpolation's own grain away."""
    window = max(3, size // 32)

    def soft(pixels_CHW: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(pixels_CHW[None], window, stride=window)

    gaps = [(soft(first(*item)) - soft(second(*item))).abs().mean().item() * 255 * STD[0] for item in work]
    return statistics.mean(gaps)


def measure(rows: dict[str, Pipeline], work: list[tuple[Path, TrainChange]], rounds: int) -> dict[str, list[float]]:
    """Pictures per CPU second of every row in every round; rows take turns at each picture."""
    rates: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(rounds):
        spent = dict.fromkeys(rows, 0.0)
        for item in work:
            for name, pipeline in rows.items():
                start = time.thread_time()
                pipeline(*item)
                spent[name] += time.thread_time() - start
        for name in rows:
            rates[name].append(len(work) / spent[name])
    return rates


def planned(paths: list[Path], spec: TransformSpec, size: int) -> list[tuple[Path, TrainChange]]:
    """One draw of the random changes for each picture."""
    transform, work = TrainTransform(spec, (size, size)), []
    for number, path in enumerate(paths):
        with Image.open(path) as image:
            change = transform.draw(image.width, image.height, np.random.default_rng(number))
        work.append((path, change))
    return work


def differences(stages: Stages, kept: dict[Path, DecodedPicture]) -> str | None:
    """What is not equal that has to be; None where all is."""
    found = {source: stages.run(source) for source in (DIRECT, KEPT)}
    for source, batch in found.items():
        if not torch.equal(batch, stages.loaded(source)):
            return f"{source}: the stages do not give what the loader gives"
    whole = [row for row, (path, picture) in enumerate(kept.items()) if _size(path) == picture.decode().size]
    if not torch.equal(found[DIRECT][whole], found[KEPT][whole]):
        return "pictures that were not reduced differ from decoded ones"
    return None


def _size(path: Path) -> tuple[int, int]:
    return FilePicture(path).decode().size


def report(rates: dict[str, list[float]], gaps: dict[str, float]) -> None:
    """The table of pipelines."""
    middle = {name: statistics.median(values) for name, values in rates.items()}
    ours = middle["vitrine"]
    print(f"{'pipeline':42}{'pictures/s per core':>20}{'lowest':>9}{'highest':>9}{'vitrine is':>12}")
    for name, values in rates.items():
        times = f"{ours / middle[name]:.2f} ×"
        print(f"{name:42}{middle[name]:20.0f}{min(values):9.0f}{max(values):9.0f}{times:>12}")
    for name, gap in gaps.items():
        print(f"{name}: mean difference {gap:.2f} of 255 levels, blurred, to torchvision with bilinear rotation")


def as_json(
    rates: dict[str, list[float]], gaps: dict[str, float], stages: dict[str, dict[str, Any]]
) -> dict[str, object]:
    """Everything for other programs."""
    rows = {name: {"median": statistics.median(v), "lowest": min(v), "highest": max(v)} for name, v in rates.items()}
    milliseconds = {source: {name: vars(spread) for name, spread in by.items()} for source, by in stages.items()}
    return {
        "pictures_per_second_per_core": rows,
        "mean_difference_levels": gaps,
        "milliseconds_by_stage": milliseconds,
        "versions": {"torch": torch.__version__, "pillow": PIL.__version__},
    }


def _sides(text: str) -> tuple[int, int]:
    """Width and height in ``4000x3000``."""
    width, _, height = text.partition("x")
    return int(width), int(height)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, help="a folder of JPEGs; otherwise they are generated")
    parser.add_argument("--picture", type=_sides, default=(500, 375), metavar="WxH", help="of generated ones")
    parser.add_argument("--transforms", default="tfm1")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    spec = named_transforms(options.transforms)
    if spec.erase:
        parser.error("the plain sequence here has no erasing: choose transforms without it")
    size = options.size
    with tempfile.TemporaryDirectory() as made, tempfile.TemporaryDirectory() as cache:
        folder = options.data or Path(made)
        if not options.data:
            write_photographs(folder, options.count, options.picture)
        paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))[: options.count]
        if not paths:
            parser.error(f"no JPEGs in {folder}")
        kept = kept_pictures(paths, spec, size, Path(cache))
        cached = {"vitrine, decoded_cache, second epoch on": kept_pipeline(spec, size, kept)}
        rows = pipelines(spec, size) | cached
        work, stages = planned(paths, spec, size), Stages(paths[:_BATCH], [kept[p] for p in paths[:_BATCH]], spec, size)
        gaps = {
            name: disagreement(rows[name], rows["torchvision, bilinear rotation"], work[:16], size) for name in rows
        }
        gaps = {name: gap for name, gap in gaps.items() if name.startswith("vitrine")}
        wrong = differences(stages, dict(list(kept.items())[:_BATCH]))
        if max(gaps.values()) > LARGEST_GAP or wrong:
            told = wrong or f"the outputs differ by {max(gaps.values()):.2f} levels"
            print(f"These speeds mean nothing: {told}.", file=sys.stderr)
            return 1
        rates = measure(rows, work, options.rounds)
        by_stage = measure_stages(stages, options.rounds)
    if options.json:
        json.dump(as_json(rates, gaps, by_stage), sys.stdout, indent=2)
        print()
    else:
        report(rates, gaps)
        print_stages(by_stage)
    return 0


if __name__ == "__main__":
    sys.exit(main())
