"""The functions that train: train and sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from vitrine.api.options import PathLike, as_path, data_reference, optional_path
from vitrine.api.progress import demo_progress, sweep_lines, training_progress
from vitrine.errors import UsageError
from vitrine.messages import quiet_messages

if TYPE_CHECKING:
    from vitrine.config import Recipe
    from vitrine.sweep.run import SweepPlan, SweepResult
    from vitrine.train.events import TrainingPlan, TrainResult


@overload
def train(
    data: PathLike,
    out: PathLike | None = None,
    *,
    recipe: str | PathLike | None = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
    resume: bool = False,
    dry_run: Literal[False] = False,
    encoding: str | None = None,
    names: PathLike | None = None,
    quiet: bool = False,
) -> TrainResult: ...
@overload
def train(
    data: PathLike,
    out: PathLike | None = None,
    *,
    recipe: str | PathLike | None = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
    resume: bool = False,
    dry_run: Literal[True],
    encoding: str | None = None,
    names: PathLike | None = None,
    quiet: bool = False,
) -> TrainingPlan: ...
def train(
    data: PathLike,
    out: PathLike | None = None,
    *,
    recipe: str | PathLike | None = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
    resume: bool = False,
    dry_run: bool = False,
    encoding: str | None = None,
    names: PathLike | None = None,
    quiet: bool = False,
) -> TrainResult | TrainingPlan:
    """Fine-tune a vision transformer on labelled pictures, or train a captioner, into a run folder.

    Args:
        data: as :func:`vitrine.check` takes them.
        out: the run folder to write; None is ``runs/`` and the data's name.
        recipe: a recipe's name, or the path of a .toml file; None is ``finetune``, or with ``resume`` the run's own.
            ``vitrine train --show-recipe list`` names all.
        settings: recipe fields that are changed, such as ``{"model": "vitrine/scenes-tiny", "epochs": 3}``, or as
            ``--set`` takes them: ``["epochs=3"]``.
        resume: continue a training that was stopped, to the result that it would have reached.
        dry_run: train nothing; a few steps are taken in memory, and the answer says what would be trained, which
            settings rules chose, and what it would take: pictures a second, time to the end, memory and disk.
        encoding: of a table in the data, where it is neither UTF-8 nor UTF-16.
        names: a file with names for classes that are bare numbers.
        quiet: show no progress and say nothing.

    Raises:
        DataError, ModelError, RecipeError: the input cannot be used; nothing was written.
        RunError: the folder holds a run already, is in use, or does not fit the recipe or data.
        TrainingError: the loss was not finite.

    Examples:
        >>> settings = {"model": "vitrine/scenes-tiny", "pretrained": True, "tune": "head", "epochs": 1}
        >>> result = vitrine.train("photos", "runs/mine", recipe="scratch-tiny", settings=settings, quiet=True)
        >>> result.run.name, result.epochs
        ('mine', 1)
    """
    from vitrine.train.run import default_run_folder, plan_training
    from vitrine.train.run import train as run_training

    if dry_run and resume:
        raise UsageError("--dry-run is of a new training: leave --resume out, or --dry-run.")
    reference, class_names = data_reference(data, encoding), optional_path(names)
    run = default_run_folder(str(data)) if out is None else as_path(out)
    final_recipe = _recipe(run, recipe, settings, resume)
    with quiet_messages(quiet), training_progress() as report:
        if dry_run:
            return plan_training(reference, final_recipe, run, names=class_names, report=report)
        return run_training(reference, final_recipe, run, resume=resume, names=class_names, report=report)


def _recipe(
    run: Path, name: str | PathLike | None, settings: Mapping[str, Any] | Sequence[str], resume: bool
) -> Recipe:
    """The recipe that was named, or that of the run to be resumed, with its changes."""
    from vitrine.config import DEFAULT_RECIPE, load_recipe, override
    from vitrine.train.run import load_run_recipe

    base = load_run_recipe(run) if name is None and resume else load_recipe(str(name or DEFAULT_RECIPE))
    return override(base, settings)


@overload
def sweep(
    file: PathLike, out: PathLike, *, jobs: int = 1, dry_run: Literal[False] = False, quiet: bool = False
) -> SweepResult: ...
@overload
def sweep(
    file: PathLike, out: PathLike, *, jobs: int = 1, dry_run: Literal[True], quiet: bool = False
) -> SweepPlan: ...
def sweep(
    file: PathLike, out: PathLike, *, jobs: int = 1, dry_run: bool = False, quiet: bool = False
) -> SweepResult | SweepPlan:
    """Train every setting of a sweep with every seed, and compare them; the same call continues an interrupted one.

    Args:
        file: the SWEEP.toml: data, recipe and seeds, a table set for all runs, and what varies.
        out: the folder of the run folders.
        jobs: trainings at a time; each has a GPU of its own where there are as many.
        dry_run: train nothing; the answer lists the runs, how far they are, and about how long they take.
        quiet: show no progress and say nothing.

    Raises:
        RecipeError, RunError, UsageError: the sweep cannot be used; nothing was trained.

    Examples:
        >>> plan = vitrine.sweep("sweep.toml", "runs/sweep", dry_run=True)
        >>> [planned.state for planned in plan.runs]
        ['new', 'new']
    """
    from vitrine.sweep.run import plan
    from vitrine.sweep.run import sweep as run_sweep

    if dry_run:
        return plan(as_path(file), as_path(out), jobs=jobs)
    with quiet_messages(quiet), demo_progress() as report:
        return run_sweep(as_path(file), as_path(out), jobs=jobs, report=sweep_lines(report, alone=jobs == 1))
