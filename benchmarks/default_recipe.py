"""How far the default recipe is from a small search over its own fields.

Each set is trained with ``finetune`` as its rules have it, and 12 times with fields drawn at random by ``vitrine
sweep``, all with the same number of epochs and one seed. The best of the twelve is chosen on the validation pictures;
its accuracy there is that of a maximum, and so better than it is: where a set has test pictures, both are compared on
those too.

    python benchmarks/default_recipe.py clothing FOLDER -o DIR      # the same command goes on where it was interrupted
    python benchmarks/default_recipe.py pets37 FOLDER -o DIR
    python benchmarks/default_recipe.py scenes -o DIR

Epochs and pictures are fewer than a person would take, so that a set is done in some minutes of one core.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vitrine.classify.evaluate import evaluate
from vitrine.config import load_recipe, override
from vitrine.data.scenes import write_scenes
from vitrine.data.sources import open_data
from vitrine.metrics.intervals import mean_interval
from vitrine.metrics.paired_tests import mcnemar_exact
from vitrine.runs.folder import RunFolder
from vitrine.sweep.run import sweep
from vitrine.train.run import train

_SEARCH = """\
data = "{data}"
recipe = "finetune"

[set]
model = "vitrine/scenes-tiny"
epochs = {epochs}
workers = 0
decoded_cache = 1.0

[random]
count = 12
seed = 1
learning_rate = {{ low = 1e-4, high = 5e-3, log = true }}
layer_decay = [0.5, 0.65, 0.75, 0.85, 1.0]
optimizer = ["adamw", "muon"]
batch_size = [16, 32, 64]
label_smoothing = [0.0, 0.1]
transforms.crop_scale = [[0.3, 1.0], [0.5, 1.0], [0.7, 1.0], [0.9, 1.0]]
"""
_SCENES = {"train": 600, "validation": 500, "test": 500}


@dataclass(frozen=True)
class BenchmarkSet:
    """A set: epochs on both sides, and every how manieth training picture of a class is taken."""

    epochs: int
    every: int = 1


SETS = {"clothing": BenchmarkSet(5, every=3), "pets37": BenchmarkSet(8), "scenes": BenchmarkSet(5)}


@dataclass(frozen=True)
class Difference:
    """The best of the search less the rules, on the same pictures: points with their 95 % interval, and McNemar's p."""

    split: str
    pictures: int
    best: float
    rules: float
    low: float
    high: float
    p: float

    def row(self) -> str:
        """For a table in Markdown."""
        points = self.best - self.rules
        return (
            f"| {self.split} | {self.pictures} | {self.rules:.1f} | {self.best:.1f} | {points:+.1f} | "
            f"{self.low:+.1f} to {self.high:+.1f} | {self.p:.2g} |"
        )


def prepare(name: str, data: Path | None, out: Path) -> Path:
    """The folder that is trained on."""
    pictures = out / "pictures"
    if name == "scenes":
        return pictures if pictures.is_dir() else write_scenes(pictures, "base", _SCENES)
    if data is None:
        raise SystemExit(f"{name}: give its folder.")
    if SETS[name].every == 1:
        return data
    for split in ("train", "validation", "test"):
        every = SETS[name].every if split == "train" else 1
        for label in sorted((data / split).iterdir()):
            (pictures / split / label.name).mkdir(parents=True, exist_ok=True)
            for file in sorted(label.iterdir())[::every]:
                link = pictures / split / label.name / file.name
                if not link.exists():
                    link.symlink_to(file.resolve())
    return pictures


def run_set(name: str, data: Path | None, out: Path) -> Iterator[Difference]:
    """Train the search and the rules, as far as they are not finished, and compare them."""
    out.mkdir(parents=True, exist_ok=True)
    pictures, epochs = prepare(name, data, out).resolve(), SETS[name].epochs
    file = out / "search.toml"
    file.write_text(_SEARCH.format(data=pictures, epochs=epochs), encoding="utf-8")
    runs = [planned.folder for planned in sweep(file, out / "search").plan.runs]
    settings = ["model=vitrine/scenes-tiny", f"epochs={epochs}", "workers=0", "decoded_cache=1.0"]
    train(str(pictures), override(load_recipe("finetune"), settings), out / "rules", resume=True)
    best = max(runs, key=validation_accuracy)
    for run in sorted(runs, key=validation_accuracy):
        print(f"{validation_accuracy(run):.4f} {describe(run)}")
    print(f"{validation_accuracy(out / 'rules'):.4f} {describe(out / 'rules')} (the rules)")
    for split in open_data(str(pictures)).splits:
        if split != "train":
            yield compare(pictures, split, best, out / "rules")


def validation_accuracy(run: Path) -> float:
    """0 to 1; -1 of a run that failed."""
    metrics = run / "metrics.json"
    return float(json.loads(metrics.read_text("utf-8"))["accuracy"]) if metrics.is_file() else -1.0


def describe(run: Path) -> str:
    """The fields that were drawn, as a run has them."""
    recipe = RunFolder(run).read_recipe()
    names = ("optimizer", "learning_rate", "layer_decay", "batch_size", "label_smoothing")
    fields = [f"{name}={getattr(recipe, name)}" for name in names]
    return " ".join([*fields, f"crop_scale={recipe.transforms.crop_scale[0]}"])


def compare(data: Path, split: str, best: Path, rules: Path) -> Difference:
    """Both models on a split."""
    opened = open_data(str(data))
    true_labels = {sample.name: opened.label_text(sample) for sample in opened.splits[split]}
    hits = []
    for run in (best, rules):
        evaluate(str(run), str(data), split=split, out=run / split)
        with (run / split / "predictions.csv").open(encoding="utf-8", newline="") as stream:
            predictions = {row["filename"]: row["label"] for row in csv.DictReader(stream)}
        hits.append([float(predictions[name] == label) for name, label in true_labels.items()])
    differences = [first - second for first, second in zip(*hits, strict=True)]
    ends = mean_interval(differences, -1, 1)
    low, high = (float("nan"),) * 2 if ends is None else (100 * ends.low, 100 * ends.high)
    wins, losses = sum(each > 0 for each in differences), sum(each < 0 for each in differences)
    accuracies = [100 * sum(each) / len(each) for each in hits]
    return Difference(split, len(differences), *accuracies, low, high, mcnemar_exact(wins, losses))


def main() -> None:
    """Measure one set, and print its rows of docs/finetuning.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=SETS)
    parser.add_argument("data", nargs="?", type=Path, help="its folder; scenes are generated")
    parser.add_argument("-o", "--out", type=Path, required=True)
    arguments = parser.parse_args()
    print("\n".join(each.row() for each in run_set(arguments.set, arguments.data, arguments.out)))


if __name__ == "__main__":
    main()
