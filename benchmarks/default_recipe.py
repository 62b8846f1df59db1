"""How far the default recipe is from a small search over its own fields.

Each set is trained with ``finetune`` as its rules have it, and 12 times with fields drawn at random by ``vitrine
sweep``, all with the same number of epochs and one seed. The best of the twelve is chosen on the validation pictures;
its accuracy there is that of a maximum, and so better than it is: where a set has test pictures, both are compared on
those too.

    python benchmarks/default_recipe.py scenes -o DIR               # the same command goes on where it was interrupted
    python benchmarks/default_recipe.py clothing FOLDER -o DIR      # a sixth of its training pictures
    python benchmarks/default_recipe.py clothing-from-nothing FOLDER -o DIR
    python benchmarks/default_recipe.py pets37 FOLDER -o DIR

Every training is a run folder of DIR: a finished one is not repeated, an unfinished one continued. Epochs and pictures
are fewer than a person would take, so that a set is done in some minutes; both sides have the same.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vitrine.classify.evaluate import evaluate
from vitrine.config import Recipe, load_recipe, override
from vitrine.data.scenes import write_scenes
from vitrine.data.sources import open_data
from vitrine.metrics.intervals import mean_interval
from vitrine.metrics.paired_tests import mcnemar_exact
from vitrine.runs.folder import RunFolder
from vitrine.sweep.run import RunEnded, SweepEvent, sweep
from vitrine.train.run import train

_SEARCH = """\
data = "{data}"
recipe = "finetune"

[set]
{settings}

[random]
count = 12
seed = 1
{fields}
optimizer = ["adamw", "muon"]
batch_size = [16, 32, 64]
label_smoothing = [0.0, 0.1]
transforms.crop_scale = [[0.3, 1.0], [0.5, 1.0], [0.7, 1.0], [0.9, 1.0]]
"""
_FINE_TUNING = """\
learning_rate = { low = 1e-4, high = 5e-3, log = true }
layer_decay = [0.5, 0.65, 0.75, 0.85, 1.0]"""
_FROM_NOTHING = """\
learning_rate = { low = 3e-4, high = 1e-2, log = true }
patch_drop = [0.0, 0.25]"""
_SCENES = {"train": 280, "validation": 210, "test": 420}


@dataclass(frozen=True)
class BenchmarkSet:
    """A set: epochs on both sides, every how manieth training picture of a class is taken, and from which weights."""

    epochs: int
    every: int = 1
    is_pretrained: bool = True

    def settings(self) -> dict[str, object]:
        """What the rules and every draw are trained with."""
        start: dict[str, object] = {} if self.is_pretrained else {"pretrained": False}
        return {"model": "vitrine/scenes-tiny", **start, "epochs": self.epochs, "workers": 0, "decoded_cache": 1.0}

    def recipe(self) -> Recipe:
        """The default recipe, with rules for all the rest."""
        return override(load_recipe("finetune"), [f"{name}={json.dumps(to)}" for name, to in self.settings().items()])

    def search(self, data: Path) -> str:
        """The sweep's file."""
        settings = "\n".join(f"{name} = {json.dumps(value)}" for name, value in self.settings().items())
        fields = _FINE_TUNING if self.is_pretrained else _FROM_NOTHING
        return _SEARCH.format(data=data, settings=settings, fields=fields)


SETS = {
    "scenes": BenchmarkSet(5),
    "clothing": BenchmarkSet(5, every=6),
    "clothing-from-nothing": BenchmarkSet(10, every=6, is_pretrained=False),
    "pets37": BenchmarkSet(8),
}


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
        return pictures if pictures.is_dir() else write_scenes(pictures, "new", _SCENES)
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
    """Train the rules and the search, as far as they are not finished, and compare them."""
    out.mkdir(parents=True, exist_ok=True)
    pictures, rules = prepare(name, data, out).resolve(), out / "rules"
    if not RunFolder(rules).is_finished:
        train(str(pictures), SETS[name].recipe(), rules, resume=True)
        say_accuracy(rules)
    file = out / "search.toml"
    file.write_text(SETS[name].search(pictures), encoding="utf-8")
    runs = [planned.folder for planned in sweep(file, out / "search", jobs=2, report=say_progress).plan.runs]
    for run in sorted(runs, key=validation_accuracy):
        print(draw_row(run))
    print(f"{draw_row(rules)} (the rules)")
    best = max(runs, key=validation_accuracy)
    for split in open_data(str(pictures)).splits:
        if split != "train":
            yield compare(pictures, split, best, rules)


def say_progress(event: SweepEvent) -> None:
    """One line for every training that ends."""
    if isinstance(event, RunEnded):
        print(f"{event.name}: {event.seconds:.0f} s {event.failure or ''}", flush=True)


def say_accuracy(run: Path) -> None:
    """One line for a training that is finished."""
    print(f"{run.name}: {validation_accuracy(run):.4f}", flush=True)


def validation_accuracy(run: Path) -> float:
    """0 to 1; -1 of a run that failed."""
    metrics = run / "metrics.json"
    return float(json.loads(metrics.read_text("utf-8"))["accuracy"]) if metrics.is_file() else -1.0


def draw_row(run: Path) -> str:
    """For a table in Markdown: the fields that were drawn, as a run has them, and what came out."""
    recipe = RunFolder(run).read_recipe()
    names = ("optimizer", "learning_rate", "layer_decay", "batch_size", "label_smoothing", "patch_drop")
    fields = [str(getattr(recipe, name)) for name in names]
    cells = [*fields, str(recipe.transforms.crop_scale[0]), f"{100 * validation_accuracy(run):.1f}"]
    return f"| {' | '.join(cells)} |"


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
