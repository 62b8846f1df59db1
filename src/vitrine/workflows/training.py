"""``vitrine train``: data, recipe and model joined into a run folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from vitrine.errors import RunError
from vitrine.models.build import require_available
from vitrine.models.run_folder import RunFolder
from vitrine.recipes import Recipe
from vitrine.results import CaptioningMetrics, ClassificationMetrics
from vitrine.workflows.captioner_task import CaptionerTask, require_captioner_available
from vitrine.workflows.classifier_task import ClassifierTask
from vitrine.workflows.training_data import prepare_captions, prepare_data
from vitrine.workflows.training_events import Event, Reading, TrainResult
from vitrine.workflows.training_session import TrainingSession


def train(
    reference: str, recipe: Recipe, out: Path, *, resume: bool = False, report: Callable[[Event], None] = lambda _: None
) -> TrainResult:
    """Train a classifier, or with the recipe's ``caption`` a captioner, into a run folder.

    Args:
        reference: the data (see ``vitrine.data.sources.open_data``; for a captioner, ``vitrine.data.captions``).
        recipe: every setting.
        out: the run folder; new, or with ``resume`` one that a stopped training left.
        resume: continue to the result that the stopped training would have reached.
        report: called with every event; what it shows is the caller's business.

    Raises:
        DataError, ModelError, RecipeError: the input cannot be used; nothing was written but the folder.
        RunError: the folder holds a run already, is in use, or does not fit the recipe or data.
        TrainingError: the loss was not finite.
    """
    run = RunFolder(out)
    with run.locked():
        _check_folder(run, recipe, resume)
        if not run.finished:
            _session(run, reference, recipe, report).train()
        return _result(run, recipe)


def _session(run: RunFolder, reference: str, recipe: Recipe, report: Callable[[Event], None]) -> TrainingSession:
    """Weights are looked for before pictures are read, which can take long."""

    def reading(done: int, total: int) -> None:
        report(Reading(done, total))

    if recipe.caption is None:
        require_available(recipe.model, recipe.pretrained)
        data = prepare_data(reference, recipe, reading)
        return TrainingSession(run, recipe, lambda: ClassifierTask(recipe, data, report), report)
    require_captioner_available(recipe)
    captions = prepare_captions(reference, recipe, reading)
    return TrainingSession(run, recipe, lambda: CaptionerTask(recipe, captions, report), report)


def _check_folder(run: RunFolder, recipe: Recipe, resume: bool) -> None:
    if not run.started:
        return
    if not resume:
        raise RunError(f"{run.path} holds a run already. Continue it with --resume, or choose another -o.")
    before = run.recipe()
    changed = [f.name for f in fields(Recipe) if getattr(before, f.name) != getattr(recipe, f.name)]
    if changed:
        pairs = ", ".join(
            f"{name} was {getattr(before, name)!r}, now {getattr(recipe, name)!r}" for name in changed[:3]
        )
        raise RunError(
            f"{run.path} was begun with another recipe: {pairs}.\nResume without changes, or train a new run."
        )


def _result(run: RunFolder, recipe: Recipe) -> TrainResult:
    content = json.loads((run.path / "metrics.json").read_text("utf-8"))
    kind = ClassificationMetrics if recipe.caption is None else CaptioningMetrics
    rows = run.history()
    best = [row["epoch"] for row in rows if row["best"]][-1]
    return TrainResult(run.path, best, len(rows), kind.from_dict(content))
