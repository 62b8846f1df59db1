"""``vitrine train``: locks the run folder, checks what may be resumed, trains, and reads the result."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from vitrine.config import Recipe, recipe_from_toml
from vitrine.config.recipe import flat_fields
from vitrine.config.recipe_rules import adopt
from vitrine.data.class_names import RUN_FILE
from vitrine.data.sources import require_place
from vitrine.errors import LostProcessError, OutputInUseError, RecipeError, RunError
from vitrine.models.load import resolve_with_weights
from vitrine.results import count_of
from vitrine.runs.checkpoint import delete_checkpoint
from vitrine.runs.folder import RunFolder
from vitrine.runs.model_card import CARD, write_model_card
from vitrine.runs.record import read_record
from vitrine.runs.setting_changes import require_resumable
from vitrine.train.automatic import resolve_automatic
from vitrine.train.captioner import CaptionerTask, resolve_image_model
from vitrine.train.classifier import ClassifierTask
from vitrine.train.data import prepare_captions, prepare_data
from vitrine.train.distributed import ProcessGroup
from vitrine.train.events import Event, ProgressUpdate, TrainingPlan, TrainResult
from vitrine.train.multi_label import MultiLabelTask
from vitrine.train.settings import DataSettings, TaskSettings
from vitrine.train.trainer import Trainer


def train(
    reference: str,
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    names: Path | None = None,
    report: Callable[[Event], None] = lambda _: None,
) -> TrainResult:
    """Train a classifier, or with the recipe's ``caption`` a captioner, into a run folder.

    Args:
        reference: the data (see ``vitrine.data.sources.open_data``; for a captioner,
            ``vitrine.data.captions.datasets``).
        recipe: every setting.
        out: the run folder; new, or with ``resume`` one that a stopped training left.
        resume: continue to the result that the stopped training would have reached.
        names: of a classifier, a file with names for classes that are bare numbers in the data; the run keeps them.
        report: called with every event, in the main process only.

    Under torchrun or ``accelerate launch``, every process calls this, and all train one model together, each on its
    part of every batch. The main process writes and reports; all return the same result.

    Raises:
        DataError, ModelError, RecipeError: the input cannot be used; nothing was written, and no folder was made.
        RunError: the folder holds a run already, is in use, or does not fit the recipe or data.
        TrainingError: the loss was not finite.
        LostProcessError: another process was killed.
        SystemExit: in all processes but the main one, which raises one of these errors.
    """
    run, processes = RunFolder(out), ProcessGroup.from_launcher()
    try:
        with processes.fail_together():
            if names is None and (run.path / RUN_FILE).is_file():
                names = run.path / RUN_FILE
            return _train(run, reference, recipe, resume, report, processes, names)
    except LostProcessError:
        if processes.is_main or _is_free(run):
            raise
        raise SystemExit(LostProcessError.exit_code) from None  # the main process lives, and reports it


def plan_training(
    reference: str,
    recipe: Recipe,
    out: Path,
    *,
    names: Path | None = None,
    report: Callable[[Event], None] = lambda _: None,
) -> TrainingPlan:
    """What :func:`train` would do, and what it would take: a few steps are taken in memory, and nothing is written.

    Arguments and errors are those of :func:`train`.
    """
    run, processes = RunFolder(out), ProcessGroup.from_launcher()
    with processes.fail_together():
        _check_folder(run, recipe, resume=False)
        own_report = report if processes.is_main else lambda _: None
        trainer = _make_trainer(run, reference, recipe, own_report, processes, names)
        plan, estimate = trainer.measure()
        return TrainingPlan(out, plan, estimate, flat_fields(trainer.recipe))


def _train(
    run: RunFolder,
    reference: str,
    recipe: Recipe,
    resume: bool,
    report: Callable[[Event], None],
    processes: ProcessGroup,
    names: Path | None,
) -> TrainResult:
    with run.lock() if processes.is_main else nullcontext():

        def begin() -> tuple[Recipe, bool]:
            own_recipe = adopt(recipe, run.read_recipe()) if resume and run.is_started else recipe
            _check_folder(run, own_recipe, resume)
            return own_recipe, run.is_finished

        recipe, is_finished = processes.broadcast_from_main(begin)
        if not is_finished:
            own_report = report if processes.is_main else lambda _: None
            _make_trainer(run, reference, recipe, own_report, processes, names).train()
        elif processes.is_main:
            _complete(run)
        return processes.broadcast_from_main(lambda: _read_result(run))


def _check_processes(recipe: Recipe, processes: ProcessGroup) -> None:
    """Refuse what these processes cannot train together, as far as it is decided."""
    if processes.uses_fsdp:
        _check_fsdp(recipe)
    if "batch_size" in recipe.automatic:
        return
    minimum = processes.count * (2 if recipe.mixup or recipe.cutmix else 1)  # one picture alone cannot be mixed
    if recipe.batch_size < minimum:
        raise RecipeError(
            f"batch_size = {recipe.batch_size} is too small for "
            f"{count_of(processes.count, 'process', 'processes')}, which share it: expected "
            f"{minimum} or more."
        )


def _check_fsdp(recipe: Recipe) -> None:
    """Refuse what needs the whole model's weights between or in steps: under FSDP a process holds a part of them."""
    required_values = {"caption": None, "ema": 0, "compile": False, "optimizer": "adamw"}
    unsupported_fields = [name for name, value in required_values.items() if getattr(recipe, name) != value]
    unsupported_fields += ["tune"] if recipe.tune == "head" or recipe.tune.startswith("lora") else []
    if unsupported_fields:
        raise RecipeError(
            f"{', '.join(unsupported_fields)}: not possible where FSDP shards the model. Launch without FSDP: each "
            "process then holds the whole model."
        )


def _is_free(run: RunFolder) -> bool:
    """Whether no process has locked the folder."""
    try:
        with run.lock():
            return True
    except OutputInUseError:
        return False


def _make_trainer(
    run: RunFolder,
    reference: str,
    recipe: Recipe,
    report: Callable[[Event], None],
    processes: ProcessGroup,
    names: Path | None = None,
) -> Trainer:
    """Resolve the model first, since reading the pictures can take long; then read them."""

    def progress(done: int, total: int) -> None:
        report(ProgressUpdate(done, total))

    _check_processes(recipe, processes)
    data_settings, caption = DataSettings.from_recipe(recipe), recipe.caption
    if caption is None:
        require_place(reference)
        model = processes.local_main_first(
            lambda: resolve_with_weights(recipe.model, recipe.pretrained, recipe.model_args)
        )
        data = prepare_data(reference, data_settings, progress, processes, names)
        recipe, choices = resolve_automatic(recipe, data, model, processes)
        _check_processes(recipe, processes)
        settings = TaskSettings.from_recipe(recipe)
        task = MultiLabelTask if data.source.is_multi_label else ClassifierTask
        return Trainer(run, recipe, lambda: task(settings, data, report, model), report, processes, choices)
    settings = TaskSettings.from_recipe(recipe)
    image_model = processes.local_main_first(lambda: resolve_image_model(settings.model))
    captions = prepare_captions(reference, data_settings, progress, processes)

    def make_captioner() -> CaptionerTask:
        return CaptionerTask(settings, caption, captions, report, image_model)

    return Trainer(run, recipe, make_captioner, report, processes)


def default_run_folder(reference: str) -> Path:
    """Where a training on these data is written if nothing else is said: ``runs/`` and the data's name."""
    name = re.split(r"[?#]", reference)[0].rstrip("/\\")
    words = re.sub(r"[^\w.+-]+", "-", re.split(r"[/\\]", name)[-1]).strip(".-")
    return Path("runs") / (words[:80] or "run")


def _check_folder(run: RunFolder, recipe: Recipe, resume: bool) -> None:
    if not run.is_started:
        return
    if not resume:
        raise RunError(f"{run.path} holds a run already. Continue it with --resume, or choose another -o.")
    require_resumable(run, recipe)


def _complete(run: RunFolder) -> None:
    """Do what a training that was killed at its very end, or an earlier version, left undone in a finished run."""
    delete_checkpoint(run.path)
    if not (run.path / CARD).exists():
        write_model_card(run.path)


def _read_result(run: RunFolder) -> TrainResult:
    rows = run.read_history()
    record = read_record(run.path.name, run)
    return TrainResult(run.path, run.read_best_epoch(), len(rows), record.metrics, record.leakage)


def load_run_recipe(folder: Path) -> Recipe:
    """The resolved recipe of a run folder.

    Raises:
        RunError: there is none to resume.
    """
    path = folder / "recipe.toml"
    if not path.is_file():
        raise RunError(f"{folder} holds no run to resume: it has no recipe.toml. Start one without --resume.")
    return recipe_from_toml(path.read_text("utf-8"), folder.name)
