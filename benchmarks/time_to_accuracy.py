"""How accurate is a model after a given time of training, by vitrine, a timm loop and the Trainer of transformers?

    python benchmarks/time_to_accuracy.py scenes -o DIR             vitrine/scenes-tiny on shapes that it has not seen
    python benchmarks/time_to_accuracy.py clothing FOLDER -o DIR    photographs of garments, from random weights
    python benchmarks/time_to_accuracy.py probe -o DIR              its head alone, on the shapes of the first

Every tool starts from the same weights and has the same processor time on one thread. vitrine is also given a third of
it. The same command goes on where it was interrupted. What is measured, and how, is in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from harness.rounds import Spread
from side_by_side.trainers import OURS, TOOLS, USUAL, Job

from vitrine.data.scenes import write_scenes

_SCENES = {"train": 2000, "validation": 500, "test": 500}


@dataclass(frozen=True)
class TaskSet:
    """vitrine's recipe with the fields set beside it, the budget, and whether the head alone learns."""

    recipe: str
    fields: tuple[str, ...]
    seconds: float
    head_only: bool = False


SETS = {
    "scenes": TaskSet("scenes-tiny", (), 120.0),
    "clothing": TaskSet("scratch-tiny", (), 720.0),
    "probe": TaskSet("scenes-tiny", ("learning_rate=1e-2", "layer_decay=1.0", "patch_drop=0.0"), 60.0, head_only=True),
}


@dataclass(frozen=True)
class Entry:
    """One way to train, over all seeds."""

    tool: str
    recipe: str
    share: float
    accuracy: Spread
    mean: float
    epochs: int
    seconds: float

    def row(self) -> str:
        """For a table in Markdown."""
        accuracy = f"{self.mean:.3f} ({self.accuracy.low:.3f} to {self.accuracy.high:.3f})"
        return f"| {self.tool} | {self.recipe} | {self.share:.2g} | {self.seconds:.0f} | {self.epochs} | {accuracy} |"


def main() -> None:
    """Parse, train what is not there yet, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=tuple(SETS), metavar="SET", help="scenes, clothing or probe")
    parser.add_argument("data", nargs="?", type=Path, metavar="FOLDER", help="of the clothing: train, validation, test")
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="DIR", help="where finished trainings are kept"
    )
    parser.add_argument("--seeds", type=int, default=3, help="trainings of every kind (default 3)")
    parser.add_argument("--seconds", type=float, help="budget in processor time (default: that of the set)")
    options = parser.parse_args()
    seconds = options.seconds or SETS[options.name].seconds
    data = prepare(options.name, options.data, options.out)
    print("| tool | recipe | of the time | processor s | epochs | test accuracy, mean (lowest to highest) |")
    print("| --- | --- | --- | --- | --- | --- |")
    for entry in measure(options.name, data, options.out, seconds, range(options.seeds)):
        print(entry.row(), flush=True)


def prepare(name: str, data: Path | None, out: Path) -> Path:
    """The folder that is trained on."""
    if name == "clothing":
        if data is None:
            raise SystemExit("clothing: give its folder.")
        return data.resolve()
    out.mkdir(parents=True, exist_ok=True)
    pictures = out / "pictures"
    return (pictures if pictures.is_dir() else write_scenes(pictures, "new", _SCENES)).resolve()


def write_part(data: Path, out: Path, every: int) -> Path:
    """Links to one of so many pictures of each class, one at least, on which trainings are timed."""
    part = out / f"one-in-{every}"
    for folder in sorted(each for split in ("train", "validation", "test") for each in (data / split).iterdir()):
        (part / folder.relative_to(data)).mkdir(parents=True, exist_ok=True)
        for file in sorted(folder.iterdir())[::every]:
            link = part / file.relative_to(data)
            if not link.exists():
                link.symlink_to(file)
    return part


def measure(name: str, data: Path, out: Path, seconds: float, seeds: Sequence[int]) -> Iterator[Entry]:
    """Every way to train."""
    ways = [("vitrine", OURS, 1 / 3), ("vitrine", OURS, 1.0)]
    ways += [(tool, recipe, 1.0) for tool in TOOLS[1:] for recipe in (USUAL, OURS)]
    chosen = SETS[name]
    for tool, recipe, share in ways:
        first = Job(tool, recipe, (chosen.recipe, chosen.fields), str(data), 1, chosen.head_only, 0)
        epochs = epochs_within(share * seconds, *epoch_seconds(first, data, out, f"{name}-{tool}-{recipe}"))
        done = [
            trained(replace(first, epochs=epochs, seed=seed), out / f"{name}-{tool}-{recipe}-{epochs}-{seed}.json")
            for seed in seeds
        ]
        found = [each["accuracy"] for each in done]
        spent = sum(each["seconds"] for each in done) / len(done)
        yield Entry(tool, recipe, share, Spread.of(found), sum(found) / len(found), done[0]["epochs"], spent)


def epoch_seconds(job: Job, data: Path, out: Path, name: str) -> tuple[float, float]:
    """Processor time of what a training pays once, some of it for each picture, and of an epoch, by short trainings."""

    def spent(every: int, epochs: int) -> float:
        part = replace(job, data=str(write_part(data, out, every)), epochs=epochs)
        return float(trained(part, out / f"{name}-one-in-{every}-{epochs}.json")["seconds"])

    tenth, fifth, fifth_thrice = spent(10, 1), spent(5, 1), spent(5, 3)
    epoch = 5 * (fifth_thrice - fifth) / 2
    whole = tenth + 9 * (fifth - tenth)  # one epoch of all pictures: nine tenths more than a tenth
    return whole - epoch, epoch


def epochs_within(seconds: float, once: float, epoch: float) -> int:
    """How many epochs, one at least, a budget has room for."""
    return max(1, math.floor((seconds - once) / epoch))


def trained(job: Job, file: Path) -> dict[str, Any]:
    """What a training came to: read where it was finished, else run in a process of its own."""
    if not file.is_file():
        out = run_apart(job)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(out, encoding="utf-8")
    content: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return content


def run_apart(job: Job) -> str:
    """The last line that the training prints, as JSON."""
    command = [sys.executable, "-m", "side_by_side.trainers", json.dumps(asdict(job))]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command, cwd=Path(__file__).parent, check=True, stdout=subprocess.PIPE, text=True, env=environment
    )
    return done.stdout.splitlines()[-1] + "\n"


if __name__ == "__main__":
    main()
