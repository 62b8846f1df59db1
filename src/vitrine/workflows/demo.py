"""``vitrine demo``: the whole job in small, on generated pictures, with no network."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vitrine.data.scenes import write_scenes
from vitrine.errors import RunError, TrainingError
from vitrine.models.reference import BUNDLED
from vitrine.models.run_folder import write_atomically
from vitrine.report.comparison import RunRow, outcomes_of_runs, settings_of_runs
from vitrine.workflows.check import check, render
from vitrine.workflows.compared import Comparison
from vitrine.workflows.demo_captioning import CaptionView, caption_scenes
from vitrine.workflows.demo_seeing import InsideView, see_inside
from vitrine.workflows.evaluation import Evaluation, evaluate
from vitrine.workflows.prediction import predict
from vitrine.workflows.reporting import Report, ReportSettings
from vitrine.workflows.reporting import report as write_report
from vitrine.workflows.sweeping import RunBegan, RunTold, SweepEvent, sweep
from vitrine.workflows.training_events import Event

_COUNTS = {"train": 2000, "validation": 500, "test": 500}

# What is compared: the same model with and without its pretraining, and its frozen features. A start from nothing needs
# all layers to learn alike, and a probe all patches.
_SWEEP = """\
data = "pictures"
recipe = "scenes-tiny"
seeds = [{seed}]

[[list]]
name = "pretrained"

[[list]]
name = "from-scratch"
pretrained = false
layer_decay = 1.0

[[list]]
name = "linear-probe"
tune = "head"
learning_rate = 1e-2
patch_drop = 0.0
"""


@dataclass(frozen=True)
class DemoResult:
    """What the demo made.

    Attributes:
        out: its folder.
        comparison: of its three settings.
        final: the one with the best validation accuracy, ties by loss.
        test: the final run on the test split, which chose nothing.
        inside: what was seen inside it.
        captions: what a captioner made of scenes.
        report: the page on all of it.
        seconds: what each part took.
    """

    out: Path
    comparison: Comparison
    final: RunRow
    test: Evaluation
    inside: InsideView
    captions: CaptionView
    report: Report
    seconds: dict[str, float]

    def text(self) -> str:
        """The summary that the command line prints."""
        metrics = self.test.metrics
        interval = metrics.accuracy_interval
        made = [f"  {path:<24} {what}" for path, what in _MADE]
        spent = [f"  {part:<28} {seconds:6.1f} s" for part, seconds in self.seconds.items()]
        return "\n".join(
            [
                settings_of_runs(self.comparison.rows).text(),
                "",
                outcomes_of_runs(self.comparison.rows).text(),
                "",
                *(claim.sentence for claim in self.comparison.claims),
                "",
                f"The final result: {self.final.name}, the best on the validation pictures.",
                f"  On {metrics.n} test pictures, which chose nothing, its accuracy is {metrics.accuracy:.4f} "
                f"(95 % interval {interval.low:.4f} to {interval.high:.4f}, {metrics.precision}).",
                "",
                self.inside.text(),
                "",
                self.captions.text(),
                "",
                f"Made in {self.out}:",
                *made,
                "",
                "Time:",
                *spent,
                f"  {'all':<28} {sum(self.seconds.values()):6.1f} s",
                "",
                f"Look at it all: {self.report.written[0]}",
            ]
        )


_MADE = (
    ("report.html", "one page on all of this, which opens from disk"),
    ("pictures/", "the scenes, in class folders, with masks and captions"),
    ("check.txt", "what vitrine check says of them"),
    ("sweep.toml", "the three settings"),
    ("runs/", "a run folder for every setting, and their comparison"),
    ("positions.png", "position embeddings before and after fine-tuning"),
    ("maps/", "what it looks at: a figure for some test pictures, and a contact sheet"),
    ("runs/captioner/", "a captioner on the features of vitrine/scenes-tiny"),
    ("captioned/, captions/", "twelve scenes, and a figure of each with a map for every word"),
    ("predictions.csv", "the final run's labels of the test pictures: filename,label,probability"),
)

_FILES = (
    *("report.html", "pictures", "check.txt", "sweep.toml", "runs", "predictions.csv", "positions.png", "maps"),
    *("captioned", "captions"),
)


@contextmanager
def _timing(seconds: dict[str, float], part: str) -> Iterator[None]:
    """Add the time of the block to ``part``."""
    began = time.monotonic()
    yield
    seconds[part] = seconds.get(part, 0.0) + time.monotonic() - began


def run_demo(out: Path, *, seed: int = 0, report: Callable[[str | Event], None] = lambda _: None) -> DemoResult:
    """Generate pictures, compare settings, evaluate the best and predict, all below ``out``.

    Args:
        out: a folder that does not exist yet, or is empty.
        seed: of the pictures and the trainings.
        report: called with sentences and with the trainings' events.

    Raises:
        RunError: ``out`` holds something that is not an earlier demo.
        TrainingError: a training failed.
    """
    _make_room(out)
    seconds: dict[str, float] = {}
    pictures = out / "pictures"
    with _timing(seconds, "generate pictures"):
        report(f"Generating {sum(_COUNTS.values()):,} scenes of shapes that {BUNDLED} has never seen, into {pictures}")
        write_scenes(pictures, "new", _COUNTS, seed=seed)
    with _timing(seconds, "check them"):
        write_atomically(out / "check.txt", render(check(str(pictures))) + "\n")
    with _timing(seconds, "train three settings"):
        comparison = _compare(out, seed, report)
    final = comparison.rows[0]
    run = out / "runs" / final.name
    report(f"Evaluating {final.name} on the test pictures, and predicting them")
    with _timing(seconds, "evaluate"):
        test = evaluate(str(run), str(pictures), split="test", out=run / "test")
    with _timing(seconds, "predict"):
        predict(str(run), pictures / "test", out / "predictions.csv", probabilities=True)
    with _timing(seconds, "see inside"):
        report(f"Looking inside {final.name}: position embeddings, attention maps, methods scored on masks")
        inside = see_inside(run, pictures, out, seed=seed)
    with _timing(seconds, "train and score a captioner"):
        report("Training a captioner on scenes, scoring its captions, and drawing a map for every word")
        captions = caption_scenes(out, seed=seed, report=report)
    with _timing(seconds, "write the report"):
        report("Writing the report")
        page = write_report([str(out / "runs")], out / "report.html", ReportSettings(title="vitrine demo"))
    return DemoResult(out, comparison, final, test, inside, captions, page, seconds)


def _make_room(out: Path) -> None:
    """Remove what an earlier demo wrote, and nothing else."""
    marker = out / ".vitrine-demo"
    if marker.is_file():
        for path in (out / name for name in _FILES):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out} holds something that is not an earlier demo. Choose another folder with -o.")
    out.mkdir(parents=True, exist_ok=True)
    marker.write_text("vitrine demo replaces what it wrote here\n", encoding="utf-8")


def _compare(out: Path, seed: int, report: Callable[[str | Event], None]) -> Comparison:
    """Train the three settings."""
    file = out / "sweep.toml"
    write_atomically(file, _SWEEP.format(seed=seed))

    def told(event: SweepEvent) -> None:
        if isinstance(event, RunBegan):
            report(f"Training {event.name}, {event.number} of {event.of}")
        elif isinstance(event, RunTold):
            report(event.event)

    result = sweep(file, out / "runs", report=told)
    if result.failed or result.comparison is None:
        name, why = next(iter(result.failed.items()))
        raise TrainingError(f"The training of {name} failed: {why.error}")
    return result.comparison
