"""How do time and memory grow with pictures, classes, input size and words?

    python benchmarks/growth.py                   100 to 100,000 pictures, 10 to 20,000 classes, and so on
    python benchmarks/growth.py --quick

Each point is a process of its own, so that its peak memory is its own. What is measured, and how, is in
benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Axis:
    """Something that grows.

    Attributes:
        name: of what grows, in words.
        sizes: that are measured.
        quick: fewer and smaller ones.
        slope: the exponent of the work itself: what time may grow with at most.
    """

    name: str
    sizes: tuple[int, ...]
    quick: tuple[int, ...]
    slope: float


AXES = {
    "pictures": Axis("predict, by number of pictures", (100, 1_000, 10_000, 100_000), (50, 200, 800), 1.0),
    "classes": Axis("predict 256 pictures, by number of classes", (10, 100, 1_000, 20_000), (10, 100, 1_000), 1.0),
    "evaluated": Axis("evaluate 1,000 pictures, by number of classes", (10, 100, 1_000, 20_000), (10, 100, 500), 1.0),
    "size": Axis("one picture, by side in pixels", (128, 256, 384, 512, 768), (64, 128, 192), 4.0),
    "words": Axis("a caption's words, by their number", (5, 15, 40, 120), (2, 5, 10), 2.0),
}


@dataclass(frozen=True)
class Growth:
    """One axis: seconds and MiB at each size, and the exponents of both by least squares on logarithms."""

    axis: Axis
    sizes: tuple[int, ...]
    seconds: tuple[float, ...]
    mib: tuple[float, ...]
    checks: tuple[str, ...]

    @property
    def time_exponent(self) -> float:
        """Seconds grow as the size to this power."""
        return exponent(self.sizes, self.seconds)

    @property
    def memory_exponent(self) -> float:
        """Likewise the largest memory of the process, with everything that it imports."""
        return exponent(self.sizes, self.mib)

    def told(self) -> str:
        """The exponents and the points, in words."""
        points = zip(self.sizes, self.seconds, self.mib, strict=True)
        return (
            f"time grows with exponent {self.time_exponent:.2f} (its work: at most {self.axis.slope:g}), memory with "
            f"{self.memory_exponent:.2f}: " + ", ".join(f"{n:,}: {s:.3g} s and {m:.0f} MiB" for n, s, m in points)
        )


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The slope of log(value) over log(size)."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def measure(name: str, *, quick: bool = False) -> Growth:
    """One axis, each size in a process of its own."""
    axis = AXES[name]
    sizes = axis.quick if quick else axis.sizes
    found = []
    for size in sizes:
        command = [sys.executable, __file__, "--point", name, str(size)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    seconds, mib, checks = ([each[key] for each in found] for key in ("seconds", "mib", "check"))
    return Growth(axis, sizes, tuple(seconds), tuple(mib), tuple(dict.fromkeys(checks)))


def _narrow_model(folder: Path) -> Path:
    """A saved classifier that costs next to nothing, so that everything around it shows."""
    import torch

    from vitrine.models.load import load_model
    from vitrine.runs.folder import RunFolder

    torch.manual_seed(0)
    small = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8}
    built = load_model("vit_tiny_patch16_224", pretrained=False, num_classes=5, image_size=32, model_args=small)
    labels = [f"class {number}" for number in range(5)]
    folder.mkdir()
    run = RunFolder(folder)
    run.save_model(built.module, labels, built.input)
    run.write("labels.txt", "".join(f"{label}\n" for label in labels))
    return folder


def _pictures(count: int, folder: Path) -> Iterator[str]:
    """``count`` files, about 100 of them different: predicted from listing to table."""
    from vitrine.classify.predict import predict
    from vitrine.data.scenes import write_scenes

    made = sorted(write_scenes(folder / "made", "base", {"test": 100}, size=32).rglob("*.png"))
    model = _narrow_model(folder / "model")
    (folder / "many").mkdir()
    for number in range(count):
        (folder / "many" / f"{number:06}.png").hardlink_to(made[number % len(made)])
    yield ""
    result = predict(str(model), folder / "many", folder / "p.csv", precision="fp32")
    lines = (folder / "p.csv").read_bytes().splitlines()[1:]
    labels = [line.split(b",")[1] for line in lines]
    if result.table.rows != count or any(a != b for a, b in zip(labels[len(made) :], labels, strict=False)):
        sys.exit("A picture has no row, or the same picture another label.")
    yield "every picture has a row, and equal pictures equal labels."


def _classes(count: int, _folder: Path) -> Iterator[str]:
    """Logits, labels and the five likeliest of 256 pictures."""
    import torch

    from vitrine.classify.inference import predict_batches
    from vitrine.classify.predictions_csv import PredictionColumns
    from vitrine.data.decode import BytesPicture
    from vitrine.data.loader import Batch
    from vitrine.data.samples import Sample
    from vitrine.models.load import load_model

    small = {"embed_dim": 64, "depth": 2, "num_heads": 2, "patch_size": 16}
    built = load_model("vit_tiny_patch16_224", pretrained=False, num_classes=count, image_size=64, model_args=small)
    columns = PredictionColumns(tuple(f"class {number}" for number in range(count)), top=5)
    pixels_BCHW = torch.randint(256, (64, 3, 64, 64), dtype=torch.uint8)
    batches = [Batch(pixels_BCHW, torch.full((64,), -1), torch.arange(64))] * 4
    samples = [Sample(f"{number}.png", BytesPicture(b"")) for number in range(64)]
    names = [sample.name for sample in samples]
    yield ""
    rows, device = b"", torch.device("cpu")
    for part in predict_batches(built.module, samples, batches, built.input, device=device, precision="fp32"):
        rows = columns.rows(names, part.logits_BC)
    best = part.logits_BC.argmax(-1).tolist()
    if [line.split(b",")[1].decode() for line in rows.splitlines()] != [f"class {index}" for index in best]:
        sys.exit("A row has another label than the largest logit.")
    yield "labels are those of the largest logits."


def _evaluated(count: int, _folder: Path) -> Iterator[str]:
    """The metrics of 1,000 pictures, confusion included, and the files and the text that say them."""
    from vitrine.io.files import to_json
    from vitrine.metrics.classification import LabelledLogits, classification_metrics
    from vitrine.plotting.confusion import confusion_csv
    from vitrine.plotting.tables import metrics_table

    rng = np.random.default_rng(0)
    logits_NC = rng.standard_normal((1000, count)).astype(np.float32)
    outputs = LabelledLogits(tuple(f"{n}" for n in range(1000)), logits_NC, rng.integers(0, count, 1000))
    yield ""
    found = classification_metrics(outputs, [f"class {n}" for n in range(count)], precision="fp32")
    told = len(to_json(found.to_dict())), len(confusion_csv(found)), len(metrics_table(found))
    if not all(told) or found.correct != int((logits_NC.argmax(1) == outputs.labels_N).sum()):
        sys.exit("The number of right pictures is another one.")
    yield "the number of right pictures is that of the largest logits."


def _size(side: int, _folder: Path) -> Iterator[str]:
    """One picture through ViT-Ti with patches of 16 pixels."""
    from harness.classifier import ClassifierWork

    work = ClassifierWork("vit_tiny_patch16_224", side, 1, "fp32")
    work.check_logits()
    work.infer()
    yield ""
    work.infer()
    yield "logits of every size are those of the module alone."


def _words(count: int, _folder: Path) -> Iterator[str]:
    """The words alone of a captioner of the published one's shapes; the picture is encoded before the clock starts."""
    import torch
    from harness.captioner import CaptionerWork

    work = CaptionerWork(96, count, 2, 1)
    work.check()
    with torch.inference_mode():
        encoder_output = work.models["fp32"].encode(work.pictures)
    work.words_alone(encoder_output)
    yield ""
    work.words_alone(encoder_output)
    yield "log-probabilities are those of teacher forcing without a cache."


POINTS: dict[str, Callable[[int, Path], Iterator[str]]] = {
    "pictures": _pictures,
    "classes": _classes,
    "evaluated": _evaluated,
    "size": _size,
    "words": _words,
}


def _point(name: str, size: int) -> None:
    """In a child: make ready, time, check; print JSON."""
    from harness.peak_memory import own_peak_mib

    with tempfile.TemporaryDirectory() as folder:
        steps = POINTS[name](size, Path(folder))
        next(steps)
        began = time.perf_counter()
        check = next(steps)
        seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "mib": own_peak_mib(), "check": check}))


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few and small sizes")
    parser.add_argument("--only", choices=tuple(AXES), action="append", help="one axis; may be repeated")
    parser.add_argument("--point", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.point:
        _point(options.point[0], int(options.point[1]))
        return
    for name in options.only or AXES:
        found = measure(name, quick=options.quick)
        points = ", ".join(
            f"{n:,}: {s:.3g} s, {m:.0f} MiB" for n, s, m in zip(found.sizes, found.seconds, found.mib, strict=True)
        )
        print(f"{found.axis.name}: time^{found.time_exponent:.2f}, memory^{found.memory_exponent:.2f} ({points})")
        print(f"  checked: {' '.join(found.checks)}")


if __name__ == "__main__":
    main()
