"""``vitrine train``: data, recipe and model joined into a run folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path

from vitrine.config import Recipe, recipe_from_toml
from vitrine.errors import LostProcessError, RecipeError, RunError
from vitrine.models.load import resolve_recipe_model
from vitrine.results import CaptioningMetrics, ClassificationMetrics
from vitrine.runs.folder import RunFolder
from vitrine.train.captioner import CaptionerTask, resolve_image_model
from vitrine.train.classifier import ClassifierTask
from vitrine.train.data import prepare_captions, prepare_data
from vitrine.train.distributed import ProcessGroup
from vitrine.train.events import Event, ProgressUpdate, TrainResult
from vitrine.train.trainer import Trainer


def train(
    reference: str, recipe: Recipe, out: Path, *, resume: bool = False, report: Callable[[Event], None] = lambda _: None
) -> TrainResult:
    """Train a classifier, or with the recipe's ``caption`` a captioner, into a run folder.

    Args:
        reference: the data (see ``vitrine.data.sources.open_data``; for a captioner,
            ``vitrine.data.captions.datasets``).
        recipe: every setting.
        out: the run folder; new, or with ``resume`` one that a stopped training left.
        resume: continue to the result that the stopped training would have reached.
        report: called with every event; what it shows is the caller's business.

    Under torchrun or ``accelerate launch``, every process calls this, and all train one model together: each has its
    part of every batch, and the result is one process's. The first one writes and reports; all return the same.

    Raises:
        DataError, ModelError, RecipeError: the input cannot be used; nothing was written, and no folder was made.
        RunError: the folder holds a run already, is in use, or does not fit the recipe or data.
        TrainingError: the loss was not finite.
        LostProcessError: another process was killed.
        SystemExit: on all but the first of several processes, where the first one raises one of these errors.
    """
    run, processes = RunFolder(out), ProcessGroup.from_launcher()
    try:
        with processes.fail_together():
            return _train(run, reference, recipe, resume, report, processes)
    except LostProcessError:
        if processes.is_main or _is_free(run):
            raise
        raise SystemExit(LostProcessError.exit_code) from None  # the first process lives, and says it


def _train(
    run: RunFolder,
    reference: str,
    recipe: Recipe,
    resume: bool,
    report: Callable[[Event], None],
    processes: ProcessGroup,
) -> TrainResult:
    _require_a_part_each(recipe, processes)
    if processes.uses_fsdp:
        _require_cuttable(recipe)
    with run.lock() if processes.is_main else nullcontext():

        def is_finished() -> bool:
            _check_folder(run, recipe, resume)
            return run.is_finished

        if not processes.broadcast_from_main(is_finished):
            told = report if processes.is_main else lambda _: None
            _session(run, reference, recipe, told, processes).train()
        return processes.broadcast_from_main(lambda: _result(run, recipe))


def _require_a_part_each(recipe: Recipe, processes: ProcessGroup) -> None:
    least = processes.count * (2 if recipe.mixup or recipe.cutmix else 1)  # one picture alone cannot be mixed
    if recipe.batch_size < least:
        raise RecipeError(
            f"batch_size = {recipe.batch_size} is too small for {processes.count} processes, which share it: expected "
            f"{least} or more."
        )


def _require_cuttable(recipe: Recipe) -> None:
    """What is done with a whole model's weights between or in steps cannot be done with a part of them."""
    off = {"caption": None, "ema": 0, "compile": False, "optimizer": "adamw"}
    changed = [name for name, value in off.items() if getattr(recipe, name) != value]
    changed += ["tune"] if recipe.tune == "head" or recipe.tune.startswith("lora") else []
    if changed:
        raise RecipeError(
            f"{', '.join(changed)}: not where FSDP cuts the model apart. Launch without FSDP: each process then holds "
            "the whole model."
        )


def _is_free(run: RunFolder) -> bool:
    """Whether no process holds the folder."""
    try:
        with run.lock():
            return True
    except RunError:
        return False


def _session(
    run: RunFolder, reference: str, recipe: Recipe, report: Callable[[Event], None], processes: ProcessGroup
) -> Trainer:
    """Weights are looked for before pictures are read, which can take long."""

    def reading(done: int, total: int) -> None:
        report(ProgressUpdate(done, total))

    if recipe.caption is None:
        model = processes.local_main_first(lambda: resolve_recipe_model(recipe))
        data = prepare_data(reference, recipe, reading, processes)
        return Trainer(run, recipe, lambda: ClassifierTask(recipe, data, report, model), report, processes)
    image_model = processes.local_main_first(lambda: resolve_image_model(recipe))
    captions = prepare_captions(reference, recipe, reading, processes)
    return Trainer(run, recipe, lambda: CaptionerTask(recipe, captions, report, image_model), report, processes)


def _check_folder(run: RunFolder, recipe: Recipe, resume: bool) -> None:
    if not run.is_started:
        return
    if not resume:
        raise RunError(f"{run.path} holds a run already. Continue it with --resume, or choose another -o.")
    before = run.read_recipe()
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
    rows = run.read_history()
    best = [row["epoch"] for row in rows if row["best"]][-1]
    return TrainResult(run.path, best, len(rows), kind.from_dict(content))


def load_run_recipe(folder: Path) -> Recipe:
    """The resolved recipe of a run folder.

    Raises:
        RunError: there is none to resume.
    """
    path = folder / "recipe.toml"
    if not path.is_file():
        raise RunError(f"{folder} holds no run to resume: it has no recipe.toml. Start one with --recipe NAME.")
    return recipe_from_toml(path.read_text("utf-8"), folder.name)
