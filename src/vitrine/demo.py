"""``vitrine demo``: the whole job in small, on generated pictures, with no network."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from vitrine.attribution.ranking import RankedMethod
from vitrine.attribution.registry import CORE_METHODS
from vitrine.caption.evaluate import CaptionerEvaluation, evaluate_captioner
from vitrine.caption.figures.grounding import mean_text
from vitrine.caption.run import CaptionResult, CaptionSettings, caption_pictures
from vitrine.check import check, render
from vitrine.classify.evaluate import ClassifierEvaluation, evaluate
from vitrine.classify.model import open_classifier
from vitrine.classify.predict import predict
from vitrine.compare.figures import run_outcomes_table, run_settings_table
from vitrine.compare.run import ComparisonResult
from vitrine.config import load_recipe, override
from vitrine.config.sweep import SweepRun, load_sweep
from vitrine.data.scenes import write_scenes
from vitrine.errors import RunError, TrainingError
from vitrine.explain.positions import PositionsResult, positions
from vitrine.explain.run import ExplainResult, ExplainSettings, explain
from vitrine.explain.score import MethodScores, ScoreSettings, score_methods, write_scores
from vitrine.io.files import write_atomically
from vitrine.io.output_lock import writes_file
from vitrine.models.precision import bf16_in_hardware, default_device
from vitrine.models.reference import BUNDLED
from vitrine.report.run import Report, ReportSettings, write_report
from vitrine.results import ONE_TRAINING, OVER_PICTURES, count_of
from vitrine.runs.record import RunRow
from vitrine.sweep.run import RunEvent, RunStarted, SweepEvent, sweep
from vitrine.sweep.worker import RunProcess
from vitrine.train.events import EpochRow, Event

_RECIPE = "scenes-captioner"
_DATA = "scenes:base?validation=300&test=300&seed=7"
_CAPTIONED_PICTURES = 12
_MAPPED_PICTURES = 24
_SCORED_PICTURES = 120
_CURVE_PICTURES = 10
_COUNTS = {"train": 2000, "validation": 500, "test": 500}
_JOBS = 2  # classifiers that are trained at a time, and the captioner beside them
# What is compared: the same model with and without its pretraining, and its frozen features. A start from nothing needs
# all layers to learn alike. A probe's features are computed once, so that its epochs cost next to nothing.
_SWEEP = """\
data = "pictures"
recipe = "scenes-tiny"
seeds = [{seed}]

[set]
precision = "{precision}"

[[list]]
name = "pretrained"

[[list]]
name = "from-scratch"
pretrained = false
layer_decay = 1.0

[[list]]
name = "linear-probe"
tune = "head"
transforms = "none"
learning_rate = 1e-2
epochs = 20
"""
_CONTENTS = (
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


@dataclass(frozen=True)
class CaptionView:
    """What the demo made of captions.

    Attributes:
        test: of 300 scenes that it was neither trained nor chosen on.
        captions: figures of twelve of these.
    """

    test: CaptionerEvaluation
    captions: CaptionResult

    def text(self) -> str:
        """The lines that the demo prints."""
        predicted, human = self.test.scores.predicted, self.test.human_grounding
        lines = [
            f"Do captions say what is there? {predicted.exact} of {predicted.pictures} are word for word one of the "
            f"scene's own ({predicted.exact / predicted.pictures:.2f}, {OVER_PICTURES} "
            f"{predicted.exact_interval.low:.2f} to {predicted.exact_interval.high:.2f}; one training).",
            f"  One caption for all pictures: {self.test.scores.constant.exact}.",
        ]
        for what, grounding in (("predicted", self.test.predicted_grounding), ("the scenes' own", human)):
            if grounding is not None:
                right = grounding.nouns / max(1, grounding.nouns + grounding.absent_nouns)
                present = (
                    f" {100 * right:.0f} % of the objects that they name are there." if grounding.absent_nouns else ""
                )
                lines.append(
                    f"  Words of {what} captions: {grounding.sentence[0].lower()}{grounding.sentence[1:]}{present}"
                )
        if self.test.next_word_drop is not None:
            lines.append(f"  With the map of the next word the hit falls by {mean_text(self.test.next_word_drop)}.")
        return "\n".join(lines)


def caption_scenes(run: Path, out: Path) -> CaptionView:
    """Write the captioner's scores into test/ of its run, and captions/ below ``out``.

    Args:
        run: the captioner's.
        out: the demo's folder.
    """
    test = evaluate_captioner(str(run), _DATA, split="test", out=run / "test", batch_size=32)
    pictures = write_scenes(out / "captioned", "base", {"test": _CAPTIONED_PICTURES})
    captions = caption_pictures(str(run), pictures / "test", out / "captions", CaptionSettings())
    return CaptionView(test, captions)


@dataclass(frozen=True)
class InsideView:
    """What the demo saw inside its final model.

    Attributes:
        positions: of the model before and after its fine-tuning.
        maps: of some test pictures.
        scores: of the methods, on test pictures with the scenes' own masks.
    """

    positions: PositionsResult
    maps: ExplainResult
    scores: MethodScores

    def text(self) -> str:
        """The lines that the demo prints."""
        best = self.scores.ranking.rows[0]
        controls = [row for row in self.scores.ranking.rows if row.is_control]
        beside = ", ".join(f"{row.name} {_hit(row)}" for row in controls)
        return (
            f"Do maps point at the object? Of {count_of(len(self.scores.verdicts), 'method')} and layers, "
            f"{best.name} does best: "
            f"its strongest patch\n  is on the object in {_hit(best)} of {best.estimates['pointing'].n} test pictures. "
            f"Controls: {beside}.\n  {self.scores.verdicts[best.name].sentence}"
        )


def _hit(row: RankedMethod) -> str:
    estimate = row.estimates["pointing"]
    ends = "" if estimate.interval is None else f" ({estimate.interval.low:.2f} to {estimate.interval.high:.2f})"
    return f"{estimate.mean:.2f}{ends}"


def see_inside(run: Path, pictures: Path, out: Path, *, seed: int) -> InsideView:
    """Write positions.png and maps/ below ``out``, and methods/ into the run.

    Args:
        run: the final run.
        pictures: the demo's scenes, with masks.
        out: the demo's folder.
        seed: of the pictures that are drawn.
    """
    model = str(run)
    return InsideView(
        positions=positions(model, out / "positions.png", before=BUNDLED),
        maps=explain(
            model,
            pictures / "test",
            out / "maps",
            ExplainSettings(check=True, seed=seed),
            limit=_MAPPED_PICTURES,
            precision=_precision(),
        ),
        scores=_score(model, pictures, run / "methods", seed),
    )


def _precision() -> str:
    """What classifiers are trained and looked into with: models this small gain by bf16 too, but not by ``auto``."""
    return "bf16" if bf16_in_hardware(default_device()) else "fp32"


def _score(model: str, pictures: Path, out: Path, seed: int) -> MethodScores:
    settings = ScoreSettings(
        CORE_METHODS,
        fillers=(),
        layers=True,
        split="test",
        limit=_SCORED_PICTURES,
        curves=_CURVE_PICTURES,
        batch_size=16,
        seed=seed,
    )
    scores = score_methods(open_classifier(model, precision=_precision()), model, str(pictures), settings)
    write_scores(scores, out)
    return scores


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
    comparison: ComparisonResult
    final: RunRow
    test: ClassifierEvaluation
    inside: InsideView
    captions: CaptionView
    report: Report
    seconds: dict[str, float]

    def text(self) -> str:
        """The summary that the command line prints."""
        metrics = self.test.metrics
        interval = metrics.accuracy_interval
        files = [f"  {path:<24} {what}" for path, what in _CONTENTS]
        times = [f"  {part:<28} {seconds:6.1f} s" for part, seconds in self.seconds.items()]
        return "\n".join(
            [
                run_settings_table(self.comparison.rows).text(),
                "",
                run_outcomes_table(self.comparison.rows).text(),
                "",
                *(claim.sentence for claim in self.comparison.claims),
                "",
                f"The final result: {self.final.name}, the best on the validation pictures.",
                f"  On {count_of(metrics.n, 'test picture')}, which chose nothing, its accuracy is "
                f"{metrics.accuracy:.4f} "
                f"({OVER_PICTURES} {interval.low:.4f} to {interval.high:.4f}, {metrics.precision}).",
                *(f"  {sentence}" for sentence in (self.test.leakage.sentences() if self.test.leakage else ())),
                f"  {ONE_TRAINING}",
                "",
                self.inside.text(),
                "",
                self.captions.text(),
                "",
                f"Made in {self.out}:",
                *files,
                "",
                "Time:",
                *times,
                f"  {'all':<28} {sum(self.seconds.values()):6.1f} s",
                "",
                f"Look at it all: {self.report.paths[0]}",
            ]
        )


@contextmanager
def _timing(seconds: dict[str, float], part: str) -> Iterator[None]:
    """Add the time of the block to ``part``."""
    began = time.monotonic()
    yield
    seconds[part] = seconds.get(part, 0.0) + time.monotonic() - began


@writes_file("demo")
def run_demo(out: Path, *, seed: int = 0, report: Callable[[str], None] = lambda _: None) -> DemoResult:
    """Generate pictures, compare settings, evaluate the best and predict, all below ``out``.

    Args:
        out: a folder that does not exist yet, or is empty.
        seed: of the pictures and the trainings.
        report: called with sentences, from several threads.

    Raises:
        RunError: ``out`` holds something that is not an earlier demo.
        TrainingError: a training failed.
    """
    _make_room(out)
    seconds: dict[str, float] = {}
    pictures = out / "pictures"
    with _timing(seconds, "generate pictures"):
        report(f"Generating {sum(_COUNTS.values()):,} scenes of shapes that {BUNDLED} has never seen, into {pictures}")
        write_scenes(pictures, "new", _COUNTS, seed=seed, placement="anywhere")
    with _timing(seconds, "check them"):
        write_atomically(out / "check.txt", render(check(str(pictures))) + "\n")
    with _timing(seconds, "train four models"), _training_captioner(out, seed, report) as captioner:
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
    with _timing(seconds, "score the captioner"):
        report("Scoring the captions of the captioner, and drawing a map for every word of some")
        captions = caption_scenes(captioner, out)
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


@contextmanager
def _training_captioner(out: Path, seed: int, report: Callable[[str], None]) -> Iterator[Path]:
    """Train the captioner while the block runs, and wait for it at its end; yields the run.

    Raises:
        TrainingError: it failed.
    """
    run = SweepRun("captioner", override(load_recipe(_RECIPE), [f"seed={seed}"]))
    folder = out / "runs" / run.name
    folder.mkdir(parents=True)
    report("Training a captioner on scenes, beside three classifiers")
    process = _start(run, _DATA, folder, {}, folder / "log.txt")

    def follow() -> None:
        for event in process.events():
            _report_epoch(report, run, event)
        if process.failure is not None:
            raise TrainingError(f"The training of {run.name} failed: {process.failure.error}")

    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(follow)
        try:
            yield folder
            following.result()
        finally:  # after an interruption or a failure too, so that no training goes on unseen
            process.stop()


def _start(run: SweepRun, data: str, folder: Path, environment: Mapping[str, str], output: Path | None) -> RunProcess:
    """Start a training with its share of the cores: more threads than cores would wait for one another."""
    threads = max(1, torch.get_num_threads() // (_JOBS + 1))
    share = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(threads)}
    return RunProcess(run, data, folder, {**environment, **share}, output)


def _report_epoch(report: Callable[[str], None], run: SweepRun, event: Event) -> None:
    if isinstance(event, EpochRow):
        of = f"{event.epoch} of {run.recipe.epochs}"
        what = "accuracy" if run.recipe.caption is None else "right word pieces"
        report(f"    {run.name}: epoch {of}, validation {what} {100 * event.validation_accuracy:.1f} %")


def _compare(out: Path, seed: int, report: Callable[[str], None]) -> ComparisonResult:
    """Train the three settings."""
    file = out / "sweep.toml"
    write_atomically(file, _SWEEP.format(seed=seed, precision=_precision()))
    runs = {run.name: run for run in load_sweep(file).runs}

    def report_event(event: SweepEvent) -> None:
        if isinstance(event, RunStarted):
            report(f"Training {event.name}, {event.number} of {event.of}")
        elif isinstance(event, RunEvent):
            _report_epoch(report, runs[event.name], event.event)

    result = sweep(file, out / "runs", jobs=_JOBS, report=report_event, start=_start)
    if result.failures or result.comparison is None:
        name, why = next(iter(result.failures.items()))
        raise TrainingError(f"The training of {name} failed: {why.error}")
    return result.comparison
