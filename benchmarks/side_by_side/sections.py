"""The sections of the suite: the scripts' own measurements as rows of one table."""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import attention
import caption
import growth
import loader
import positions
import startup
import torch
import train
from harness.classifier_rows import classifier_rows
from harness.rounds import Spread, alternate, ratios
from harness.rows import Row

from side_by_side.best_peers import peers_at_best
from side_by_side.caption_ways import PUBLISHED
from side_by_side.caption_ways import Ways as CaptionWays
from side_by_side.memory import TOOLS, make_tool, peak_mib
from side_by_side.ours import Ours, OursReady
from side_by_side.task import Task, Tool, write_pictures
from vitrine.config import named_transforms

LARGE = 128  # pictures of a batch that is measured on CUDA besides
QUEUED = 10  # steps of a round there: one by one they would be waited for


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        model: timm name of the classifier, at its own input size.
        batches: pictures of a batch, of steps and predictions; after the first only beside PyTorch-Pretrained-ViT.
        rounds: that count; the longest pieces of work take a round less, and one at least.
        epoch_batches: batches of an epoch with data.
        map_image, map_batch: of attention maps.
        share_images: sides at which the share of the matrix rate is measured.
        caption_image, words, beams, caption_batch: of captions.
        grid: patches of a side of the position figure.
        photographs: of the loader.
        helped: whether every verb's help is timed, or two.
        grown: whether growth is measured at its full sizes.
    """

    model: str = "vit_base_patch16_224"
    batches: tuple[int, ...] = (8,)
    rounds: int = 2
    epoch_batches: int = 2
    map_image: int = 384
    map_batch: int = 4
    share_images: tuple[int, ...] = (224, 384)
    caption_image: int = 299
    words: int = 20
    beams: int = 5
    caption_batch: int = 8
    grid: int = 24
    photographs: int = 64
    helped: bool = True
    grown: bool = True


FULL = Sizes()
QUICK = Sizes("vit_tiny_patch16_224", (2,), 1, 1, 64, 2, (64,), 96, 3, 2, 2, 6, 4, helped=False, grown=False)


def _fewer(sizes: Sizes) -> int:
    return max(1, sizes.rounds - 1)


def steps(sizes: Sizes, device: str = "cpu") -> Iterator[Row]:
    """Predictions and training steps on pictures in memory, beside three other tools."""
    for batch in sizes.batches if device == "cpu" else (*sizes.batches, LARGE):
        with tempfile.TemporaryDirectory() as folder:
            first = batch == sizes.batches[0]
            rounds = sizes.rounds if first else _fewer(sizes)
            batches = "1" if device == "cpu" else str(QUEUED)
            words = ["--model", sizes.model, "--batch", str(batch), "--batches", batches, "--device", device]
            options = train.parser_of().parse_args(words)
            task = replace(train.task_of(options, folder), rounds=rounds + 1)
            names = [name for name in TOOLS if name != Ours.name] if first else [train.BASELINE]
            tools: list[Tool] = [make_tool(name, task) for name in names]
            yield from _beside(task, [*tools, OursReady(task)], rounds, {"infer": "inference", "train": "training"})


def rivals(sizes: Sizes, device: str = "cpu") -> Iterator[Row]:
    """The same steps beside the other tools as an expert would set them, and beside timm compiled."""
    batch = sizes.batches[0] if device == "cpu" else LARGE
    batches = "1" if device == "cpu" else str(QUEUED)
    words = ["--model", sizes.model, "--batch", str(batch), "--batches", batches, "--device", device]
    with tempfile.TemporaryDirectory() as folder:
        task = replace(train.task_of(train.parser_of().parse_args(words), folder), rounds=sizes.rounds + 1)
        tools = peers_at_best(task)
        sections = {"infer": "inference, others at their best", "train": "training, others at their best"}
        for row in _beside(task, [*tools, OursReady(task)], sizes.rounds, sections):
            compiled = next((tool for tool in tools if tool.compiled and row.name.startswith(tool.name)), None)
            waited = (
                f"the first prediction, with the compilation, took {compiled.compile_seconds:.0f} s" if compiled else ""
            )
            yield replace(row, note=waited)


def epochs(sizes: Sizes, device: str = "cpu") -> Iterator[Row]:
    """Whole epochs and predictions of files: everybody decodes and augments, on the same cores."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["--model", sizes.model, "--batch", str(sizes.batches[0]), "--batches", str(sizes.epoch_batches)]
        words += ["--device", device]
        rounds = _fewer(sizes)
        task = replace(train.task_of(train.parser_of().parse_args([*words, "--peers-load"]), folder), rounds=rounds + 1)
        write_pictures(Path(folder), task.batch * task.batches)
        names = (train.BASELINE, Ours.name)
        tools = [make_tool(name, task) for name in names]
        peaks = {name: peak_mib(name, "train", task) for name in names if device == "cpu"}
        sections = {"infer": "inference of files", "train": "whole epoch of files"}
        yield from _beside(task, tools, rounds, sections, peaks)


def _beside(
    task: Task, tools: Sequence[Tool], rounds: int, sections: Mapping[str, str], peaks: Mapping[str, int] | None = None
) -> Iterator[Row]:
    try:
        differences = train.same_logits(task, tools)
        far = ", ".join(f"{name} {value:.1g}" for name, value in differences.items())
        check = f"logits of {task.batch} pictures, largest difference from vitrine's in float32: {far}."
        for work, section in sections.items():  # training comes last: it changes the weights
            speeds = alternate({tool.name: getattr(tool, work) for tool in tools}, rounds=rounds)
            ours = speeds[Ours.name]
            for tool in tools:
                own, mine = speeds[tool.name], tool.name == Ours.name
                beside = {other: ratios(ours, speeds[other]) for other in speeds if mine and other != Ours.name}
                size = f"{task.model}, {task.image} px, batch {task.batch}"
                peak = (peaks or {}).get(tool.name) if work == "train" else None
                name = f"{tool.name}, {size}"
                yield Row(section, name, "pictures/s", Spread.of(own), check, beside, peak_mib=peak)
    finally:
        for tool in tools:
            tool.close()


def maps(sizes: Sizes, device: str = "cpu") -> Iterator[Row]:
    """The class token's map and rollout, beside what transformers and PyTorch-Pretrained-ViT give."""
    words = ["--model", sizes.model, "--image", str(sizes.map_image), "--batch", str(sizes.map_batch)]
    words += ["--device", device]
    options = attention.parser_of().parse_args(words)
    ways = attention.Ways(options)
    far = ", ".join(f"{name} {value:.1g}" for name, value in attention.same_maps(ways).items())
    speeds = alternate(ways.counted(), rounds=sizes.rounds)
    for name, own in speeds.items():
        beside = {}
        if name.startswith("vitrine, map"):
            beside = {
                peer: ratios(own, speeds[peer]) for peer in (attention.BASELINE, "PyTorch-Pretrained-ViT, scores")
            }
            beside |= {peer: ratios(own, speeds[peer]) for peer in attention.BEST if "bf16" in name}
            beside["no map"] = ratios(own, speeds[name.replace("map", "no map")])
        elif name.startswith("vitrine, rollout"):
            beside = {"transformers, rollout": ratios(own, speeds["transformers, rollout"])}
        wanted = name.startswith("vitrine, map") or name == attention.BASELINE
        peak = attention.peak_of(name, options) if wanted and device == "cpu" else None
        title = f"{name}, {sizes.map_image} px, batch {sizes.map_batch}"
        check = f"maps in float32, largest difference: {far}."
        yield Row("attention maps", title, "pictures/s", Spread.of(own), check, beside, peak_mib=peak)


def captions(sizes: Sizes, device: str = "cpu") -> Iterator[Row]:
    """Captions with the maps of all their words, beside the published captioner's way."""
    options = argparse.Namespace(
        image=sizes.caption_image,
        words=sizes.words,
        beams=sizes.beams,
        batch=sizes.caption_batch,
        published_words=min(2, sizes.words),
        catr=None,
        device=device,
    )
    ways = CaptionWays(options)
    compared = ", ".join(f"{name} {value:.2g}" for name, value in caption.same(ways).items())
    speeds = alternate(ways.all(), rounds=sizes.rounds)
    for name, own in speeds.items():
        beside = {} if name == PUBLISHED else {ways.published.name: ratios(own, speeds[PUBLISHED])}
        if name.startswith(("words", "image side")):
            beside = {}
        title = f"{name}, {sizes.words} words, {sizes.caption_image} px"
        yield Row("captions", title, "captions/s", Spread.of(own), f"{compared}.", beside)


def pictures(sizes: Sizes) -> Iterator[Row]:
    """Decoding and augmenting on one core, beside torchvision; in a process of its own, as loaders' workers are."""
    with ProcessPoolExecutor(1, get_context("spawn")) as alone:
        rates, gap = alone.submit(_loaded, sizes.photographs, sizes.rounds + 3).result()
    check = f"pixels: mean difference {gap:.2f} of 255 levels, blurred, to torchvision with bilinear rotation."
    for name, own in rates.items():
        beside = {other: ratios(own, rates[other]) for other in rates if name == "vitrine" and other != name}
        yield Row("loader", f"{name}, tfm1, 500 x 375 to 224 px", "pictures/s and core", Spread.of(own), check, beside)


def _loaded(photographs: int, rounds: int) -> tuple[dict[str, list[float]], float]:
    """Rates of every pipeline, and how far apart their pixels are."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as made:
        folder, side, spec = Path(made), 224, named_transforms("tfm1")
        loader.write_photographs(folder, photographs, (500, 375))
        work = loader.planned(sorted(folder.glob("*.jpg")), spec, side)
        rows = loader.pipelines(spec, side)
        gap = loader.disagreement(rows["vitrine"], rows["torchvision, bilinear rotation"], work[:16], side)
        if gap > loader.LARGEST_GAP:
            raise ValueError(f"The loaders' outputs differ by {gap:.2f} levels. Nothing was timed.")
        return loader.measure(rows, work, rounds), gap


def position_figure(sizes: Sizes) -> Iterator[Row]:
    """The figure of position similarities, beside one subplot a patch."""
    with tempfile.TemporaryDirectory() as folder:
        figures = positions.Figures(sizes.grid, 768, Path(folder))
        check = figures.check()
        speeds = alternate(figures.all(), rounds=sizes.rounds)
    for name, own in speeds.items():
        beside = {} if name == positions.SUBPLOTS else {positions.SUBPLOTS: ratios(own, speeds[positions.SUBPLOTS])}
        yield Row("position figure", f"{name}, {sizes.grid} x {sizes.grid}", "s", _seconds(own), check, beside)


def start_up(sizes: Sizes) -> Iterator[Row]:
    """Every verb's help, and short work."""
    with tempfile.TemporaryDirectory() as folder:
        starts = startup.Starts(Path(folder), None if sizes.helped else ("train", "predict"))
        check = starts.check()
        speeds = alternate(starts.all(), rounds=sizes.rounds, warm_up=0)  # the check was the warm-up
    for name, own in speeds.items():
        beside = {} if name == startup.TORCH else {startup.TORCH: ratios(own, speeds[startup.TORCH])}
        yield Row("start-up", name, "s", _seconds(own), check, beside)


def shares(sizes: Sizes, device: str = "cpu") -> Iterator[Row]:
    """vitrine alone beside one matrix product: how near to what the machine can."""
    for image in sizes.share_images:
        batch, on = sizes.batches[0], torch.device(device)
        for row in classifier_rows(sizes.model, image, batch, _fewer(sizes), plain=False, device=on):
            yield replace(row, section=f"arithmetic: {row.section}")


def grown(sizes: Sizes) -> Iterator[Row]:
    """Time and memory against the size of the work."""
    for name in growth.AXES:
        found = growth.measure(name, quick=not sizes.grown)
        most = Spread.of([found.time_exponent])
        peak = round(max(found.mib))
        check = " ".join(found.checks)
        yield Row("growth", found.axis.name, "exponent of time", most, check, peak_mib=peak, note=found.told())


def _seconds(rates: list[float]) -> Spread:
    seconds = [1 / rate for rate in rates]
    return Spread(statistics.median(seconds), min(seconds), max(seconds))


def on_cuda(section: Callable[[Sizes, str], Iterator[Row]]) -> Callable[[Sizes], Iterator[Row]]:
    """A section's rows of CUDA, under sections of their own: those of the processor stay what they are called."""

    def rows(sizes: Sizes) -> Iterator[Row]:
        for row in section(sizes, "cuda"):
            yield replace(row, section=f"{row.section}, CUDA")

    return rows


SECTIONS: dict[str, Callable[[Sizes], Iterator[Row]]] = {
    "steps": steps,
    "rivals": rivals,
    "epochs": epochs,
    "maps": maps,
    "captions": captions,
    "loader": pictures,
    "positions": position_figure,
    "start-up": start_up,
    "shares": shares,
    "growth": grown,
}
CUDA_SECTIONS = {
    "steps, cuda": on_cuda(steps),
    "rivals, cuda": on_cuda(rivals),
    "epochs, cuda": on_cuda(epochs),
    "maps, cuda": on_cuda(maps),
    "captions, cuda": on_cuda(captions),
    "shares, cuda": on_cuda(shares),
}
RATIO_SECTIONS = ("steps", "rivals", "epochs", "maps", "captions", "loader", "positions", "start-up", "shares")
