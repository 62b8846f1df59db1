"""``vitrine demo``: the whole job in small, on generated pictures, with no network."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vitrine.data.scenes import write_scenes
from vitrine.errors import RunError
from vitrine.models.reference import BUNDLED
from vitrine.models.run_folder import RunFolder, write_atomically
from vitrine.recipes import Recipe, load_recipe, override
from vitrine.report.curves import save_learning_curves
from vitrine.report.settings import save_settings_figure
from vitrine.report.tables import Setting, settings_table
from vitrine.workflows.check import check, render
from vitrine.workflows.demo_captioning import CaptionView, caption_scenes
from vitrine.workflows.demo_seeing import InsideView, see_inside
from vitrine.workflows.evaluation import Evaluation, evaluate
from vitrine.workflows.prediction import predict
from vitrine.workflows.training import train
from vitrine.workflows.training_events import Event, TrainResult

_COUNTS = {"train": 2000, "validation": 500, "test": 500}

# What is compared: the same model with and without its pretraining at two learning rates, and its frozen features. A
# start from nothing needs all layers to learn alike, and a probe all patches.
_SCRATCH = ("pretrained=false", "layer_decay=1")
_SETTINGS = (
    ("pretrained-2e-3", "pretrained", ("learning_rate=2e-3",)),
    ("pretrained-1e-3", "pretrained", ("learning_rate=1e-3",)),
    ("scratch-2e-3", "from scratch", (*_SCRATCH, "learning_rate=2e-3")),
    ("scratch-1e-3", "from scratch", (*_SCRATCH, "learning_rate=1e-3")),
    ("linear-probe", "linear probe", ("tune=head", "learning_rate=1e-2", "patch_drop=0")),
)


@dataclass(frozen=True)
class DemoRun:
    """One trained run of the demo, and what it started from."""

    name: str
    start: str
    recipe: Recipe
    result: TrainResult
    seconds: float


@dataclass(frozen=True)
class DemoResult:
    """What the demo made.

    Attributes:
        out: its folder.
        runs: in the order in which they were trained.
        final: the one with the best validation accuracy, ties by loss.
        test: the final run on the test split, which chose nothing.
        inside: what was seen inside it.
        captions: what a captioner made of scenes.
        seconds: what each part took.
    """

    out: Path
    runs: tuple[DemoRun, ...]
    final: DemoRun
    test: Evaluation
    inside: InsideView
    captions: CaptionView
    seconds: dict[str, float]

    def text(self) -> str:
        """The summary that the command line prints."""
        metrics = self.test.metrics
        interval = metrics.accuracy_interval
        made = [f"  {path:<24} {what}" for path, what in _MADE]
        spent = [f"  {part:<28} {seconds:6.1f} s" for part, seconds in self.seconds.items()]
        return "\n".join(
            [
                settings_table(_settings(self.runs, self.final)).text(),
                "",
                "* the final result: the best on the validation pictures.",
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
            ]
        )


_MADE = (
    ("pictures/", "the scenes, in class folders, with masks and captions"),
    ("check.txt", "what vitrine check says of them"),
    ("runs/", "a run folder for every setting"),
    ("settings.png, .csv, .md", "the settings and what came out"),
    ("curves.png", "learning curves"),
    ("evaluation/", "the final run on the test split: metrics, confusion matrix, predictions"),
    ("positions.png", "position embeddings before and after fine-tuning"),
    ("maps/", "what it looks at: a figure for some test pictures, and a contact sheet"),
    ("methods/", "methods and controls ranked by how well they find the object"),
    ("runs/captioner/", "a captioner on the features of vitrine/scenes-tiny"),
    ("captioner/", "its captions scored: metrics, captions, whether words look at what they name"),
    ("captioned/, captions/", "twelve scenes, and a figure of each with a map for every word"),
    ("predictions.csv", "the final run's labels of the test pictures: filename,label,probability"),
)

_FILES = (
    *("pictures", "check.txt", "runs", "settings.png", "settings.csv", "settings.md"),
    *("curves.png", "evaluation", "predictions.csv", "positions.png", "maps", "methods"),
    *("captioner", "captioned", "captions"),
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
    """
    _make_room(out)
    seconds: dict[str, float] = {}
    pictures = out / "pictures"
    with _timing(seconds, "generate pictures"):
        report(f"Generating {sum(_COUNTS.values()):,} scenes of shapes that {BUNDLED} has never seen, into {pictures}")
        write_scenes(pictures, "new", _COUNTS, seed=seed)
    with _timing(seconds, "check them"):
        write_atomically(out / "check.txt", render(check(str(pictures))) + "\n")
    runs = []
    for setting in _SETTINGS:
        with _timing(seconds, f"train {setting[0]}"):
            runs.append(_train(setting, pictures, out / "runs", seed, report))
    final = max(runs, key=lambda run: (run.result.metrics.accuracy, -run.result.metrics.negative_log_likelihood))
    report(f"Evaluating {final.name} on the test pictures, and predicting them")
    with _timing(seconds, "evaluate"):
        test = evaluate(str(final.result.run), str(pictures), split="test", out=out / "evaluation")
    with _timing(seconds, "predict"):
        predict(str(final.result.run), pictures / "test", out / "predictions.csv", probabilities=True)
    with _timing(seconds, "see inside"):
        report(f"Looking inside {final.name}: position embeddings, attention maps, methods scored on masks")
        inside = see_inside(final.result.run, pictures, out, seed=seed)
    with _timing(seconds, "train and score a captioner"):
        report("Training a captioner on scenes, scoring its captions, and drawing a map for every word")
        captions = caption_scenes(out, seed=seed, report=report)
    with _timing(seconds, "draw tables and figures"):
        _write_tables(out, runs, final)
    return DemoResult(out, tuple(runs), final, test, inside, captions, seconds)


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


def _train(
    setting: tuple[str, str, tuple[str, ...]],
    pictures: Path,
    runs: Path,
    seed: int,
    report: Callable[[str | Event], None],
) -> DemoRun:
    name, start, changes = setting
    recipe = override(load_recipe("scenes-tiny"), [*changes, f"name={name}", f"seed={seed}"])
    report(f"Training {name}")
    began = time.monotonic()
    result = train(str(pictures), recipe, runs / name, report=report)
    return DemoRun(name, start, recipe, result, time.monotonic() - began)


def _settings(runs: Sequence[DemoRun], final: DemoRun) -> list[Setting]:
    """The rows of the demo's table."""
    rows = []
    for run in runs:
        metrics = run.result.classified
        values = {
            "run": run.name,
            "starts": run.start,
            "learning rate": f"{run.recipe.learning_rate:.0e}".replace("e-0", "e-"),
            "tuned": run.recipe.tune,
            "best epoch": f"{run.result.best_epoch} of {run.result.epochs}",
            "seconds": f"{run.seconds:.0f}",
        }
        rows.append(Setting(values, metrics.accuracy, metrics.accuracy_interval, metrics.n, final=run is final))
    return rows


def _write_tables(out: Path, runs: Sequence[DemoRun], final: DemoRun) -> None:
    rows = _settings(runs, final)
    table = settings_table(rows)
    write_atomically(out / "settings.csv", table.csv())
    write_atomically(out / "settings.md", table.markdown() + "\n")
    save_settings_figure(rows, out / "settings.png", {"data": "validation split of the generated scenes"})
    histories = {run.name: RunFolder(run.result.run).history() for run in runs}
    save_learning_curves(histories, out / "curves.png", {"data": "the generated scenes"})
