"""``--resume`` with other settings: what may be changed, from which step it holds, and who says so."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from unittest import mock

import pytest
from support.training import REPEATABLE, recipe, same_files

from vitrine.compare.run import compare
from vitrine.config import CaptionSpec, Recipe
from vitrine.config.recipe import RESUME_REASONS, changed_settings, flat_fields
from vitrine.errors import RunError, TrainingError
from vitrine.runs.folder import RunFolder
from vitrine.runs.model_card import write_model_card
from vitrine.runs.setting_changes import FILE, read_changes, record_changes, require_resumable
from vitrine.train import loop
from vitrine.train.events import Plan
from vitrine.train.loop import StepDone, advice_for
from vitrine.train.run import train
from vitrine.train.settings import LoopSettings
from vitrine.verify.run import verify

Command = Callable[..., tuple[int, str, str]]

BEGUN = recipe(epochs=3, checkpoint_minutes=1e-9)


class StoppedError(Exception):
    pass


@pytest.fixture(scope="module")
def stopped(small_scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of nine steps that was stopped after its fourth: its checkpoint has three."""

    def stop(event: object) -> None:
        if isinstance(event, StepDone) and event.step == 4:
            raise StoppedError

    folder = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.raises(StoppedError):
        train(str(small_scenes), BEGUN, folder, report=stop)
    return folder


def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


def rate(settings: Recipe, step: int) -> float:
    """The documented schedule by its formula: a linear warm-up, then a cosine, over nine steps, from 1."""
    total, warmup = 9, min(round(settings.warmup_epochs * 3), 9 // 2)
    if step < warmup:
        return settings.learning_rate * step / warmup
    share = (step - warmup) / (total - warmup)
    low = settings.learning_rate * settings.final_lr_ratio
    return low + 0.5 * (settings.learning_rate - low) * (1 + math.cos(math.pi * share))


def test_a_lowered_rate_holds_from_the_step_that_comes(stopped: Path, small_scenes: Path, tmp_path: Path) -> None:
    run, settings, events = copy(stopped, tmp_path), replace(BEGUN, learning_rate=2e-4), list[object]()
    train(str(small_scenes), settings, run, resume=True, report=events.append)
    steps = {event.step: event.learning_rate for event in events if isinstance(event, StepDone)}
    assert list(steps) == [4, 5, 6, 7, 8, 9]
    assert list(steps.values()) == pytest.approx([rate(settings, step) for step in steps], rel=1e-6)
    assert steps[4] < 0.2 * rate(BEGUN, 4), "lower than it would have been"
    (change,) = read_changes(RunFolder(run))
    assert (change.step, change.epoch, change.field) == (4, 2, "learning_rate")
    assert change.sentence() == "learning_rate was 0.002 until step 3, and 0.0002 from step 4 (epoch 2) on"
    (plan,) = [event for event in events if isinstance(event, Plan)]
    assert any(change.sentence() in note for note in plan.notes)
    assert RunFolder(run).read_recipe() == settings


def test_the_result_is_that_of_a_training_whose_rate_fell_at_that_step(
    stopped: Path, small_scenes: Path, tmp_path: Path
) -> None:
    """The reference never stops: its schedule and its weight decay are switched between two steps."""
    settings = replace(BEGUN, learning_rate=2e-4, weight_decay=0.3, clip_norm=0.5)
    run = copy(stopped, tmp_path)
    train(str(small_scenes), settings, run, resume=True)
    set_rate, take_step = loop._set_learning_rate, loop._train_step

    def switched_rate(training: loop.TrainingState, step: int) -> float:
        set_rate(training, step)
        for group in training.optimizer.param_groups:
            if step < 3:
                group["lr"] = rate(BEGUN, step + 1) * group.get("lr_scale", 1)
            if group["weight_decay"]:
                group["weight_decay"] = BEGUN.weight_decay if step < 3 else settings.weight_decay
        return 0.0

    def switched_step(
        training: loop.TrainingState, objective: object, own: LoopSettings, *rest: object, **more: object
    ):
        own = replace(own, clip_norm=BEGUN.clip_norm if training.progress.step < 3 else settings.clip_norm)
        return take_step(training, objective, own, *rest, **more)  # type: ignore[arg-type]

    with (
        mock.patch.object(loop, "_set_learning_rate", switched_rate),
        mock.patch.object(loop, "_train_step", switched_step),
    ):
        train(str(small_scenes), settings, tmp_path / "whole")
    for name in REPEATABLE:
        if name not in ("history.jsonl",):
            assert (run / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


CHANGED = {
    "learning_rate": 1e-4,
    "automatic": ("epochs",),
    "final_lr_ratio": 0.5,
    "weight_decay": 0.2,
    "clip_norm": 0.1,
    "precision": "bf16",
    "compile": True,
    "early_stopping": 7,
    "checkpoint_minutes": 3.0,
    "workers": 1,
    "decoded_cache": 0.5,
    "trackers": "tensorboard",
    "description": "another",
    "caption.backbone_learning_rate": 1e-6,
    "name": "other",
    "model": "vit_small_patch16_224",
    "model_args": {"depth": 3},
    "pretrained": True,
    "image_size": 64,
    "transforms": "none",
    "batch_size": 8,
    "accumulate": 2,
    "epochs": 5,
    "epoch_size": 77,
    "optimizer": "muon",
    "beta2": 0.9,
    "warmup_epochs": 2.0,
    "layer_decay": 0.5,
    "label_smoothing": 0.1,
    "loss": "binary_cross_entropy",
    "class_weights": "balanced",
    "sampling": "balanced",
    "mixup": 0.1,
    "cutmix": 0.1,
    "mix_off_epochs": 1,
    "ema": 0.9,
    "drop_path": 0.1,
    "patch_drop": 0.1,
    "tune": "head",
    "views": 2,
    "val_fraction": 0.5,
    "max_unreadable": 0.5,
    "shuffle_buffer": 5,
    "seed": 1,
    "caption": CaptionSpec(),
}


@pytest.mark.parametrize("name", CHANGED)
def test_every_field_may_be_changed_or_is_refused_by_its_name(name: str, stopped: Path, tmp_path: Path) -> None:
    from vitrine.config import named_transforms

    run = RunFolder(copy(stopped, tmp_path))
    value = named_transforms("none") if name == "transforms" else CHANGED[name]
    if name == "caption.backbone_learning_rate":
        run.write("recipe.toml", (run.path / "recipe.toml").read_text() + "\n[caption]\n")
        before = run.read_recipe()
        assert before.caption is not None
        settings = replace(before, caption=replace(before.caption, backbone_learning_rate=value))
        frozen = replace(before, caption=replace(before.caption, backbone_learning_rate=0.0))
        with pytest.raises(RunError, match="backbone_learning_rate"):
            require_resumable(run, frozen)
    else:
        settings = replace(run.read_recipe(), **{name: value})  # type: ignore[arg-type]
    if name in RESUME_REASONS:
        require_resumable(run, settings)
        (change,) = record_changes(run, settings, 3, 1)
        assert change.field == name and read_changes(run) == (change,)
        assert flat_fields(run.read_recipe())[name] == value
    else:
        with pytest.raises(RunError, match=rf"another recipe: {name}[\w.]* was .*, now") as refused:
            require_resumable(run, settings)
        assert len(str(refused.value).splitlines()) == 2 and "learning_rate" in str(refused.value)


def test_the_table_has_every_field() -> None:
    assert {name.partition(".")[0] for name in CHANGED} == {field.name for field in fields(Recipe)}
    assert all(len(reason) > 20 for reason in RESUME_REASONS.values())
    assert set(RESUME_REASONS) <= set(CHANGED)
    assert not changed_settings(BEGUN, replace(BEGUN))


def test_what_is_changed_twice_before_a_step_is_one_change(stopped: Path, tmp_path: Path) -> None:
    run = RunFolder(copy(stopped, tmp_path))
    record_changes(run, replace(BEGUN, learning_rate=1e-3), 3, 1)
    record_changes(run, replace(BEGUN, learning_rate=1e-4, clip_norm=0.0), 3, 1)
    assert [(each.field, each.before, each.now) for each in read_changes(run)] == [
        ("learning_rate", 2e-3, 1e-4),
        ("clip_norm", 1.0, 0.0),
    ]
    record_changes(run, replace(BEGUN, learning_rate=1e-5, clip_norm=0.0), 6, 2)
    assert [each.step for each in read_changes(run)] == [4, 4, 7]
    record_changes(run, replace(BEGUN, learning_rate=1e-4), 6, 2)
    assert [(each.step, each.field) for each in read_changes(run)] == [
        (4, "learning_rate"),
        (4, "clip_norm"),
        (7, "clip_norm"),
    ]
    assert record_changes(run, replace(BEGUN, learning_rate=1e-4), 6, 2) == ()


def test_a_kill_between_the_record_and_the_recipe_changes_nothing(stopped: Path, tmp_path: Path) -> None:
    run = RunFolder(copy(stopped, tmp_path))
    begun = (run.path / "recipe.toml").read_text()
    record_changes(run, replace(BEGUN, learning_rate=1e-3), 3, 1)
    run.write("recipe.toml", begun)  # as if it had not been written
    assert (run.path / FILE).is_file() and read_changes(run) == ()
    record_changes(run, replace(BEGUN, learning_rate=1e-4), 6, 2)
    assert [(each.step, each.before, each.now) for each in read_changes(run)] == [(7, 2e-3, 1e-4)]


@pytest.mark.parametrize("content", ["[", "{}", '[{"step": 1}]', "[3]", "null"])
def test_a_damaged_record_is_a_sentence(content: str, stopped: Path, tmp_path: Path) -> None:
    run = RunFolder(copy(stopped, tmp_path))
    run.write(FILE, content)
    with pytest.raises(RunError, match=r"changes\.json is damaged"):
        read_changes(run)


def test_a_finished_training_has_no_step_left_to_change(small_scenes: Path, small_run: Path) -> None:
    settings = RunFolder(small_run).read_recipe()
    with pytest.raises(
        RunError, match=r"has ended with learning_rate = 0\.002; learning_rate = 0\.001 has no step left"
    ):
        train(str(small_scenes), replace(settings, learning_rate=1e-3), small_run, resume=True)


def test_the_card_verify_and_compare_say_it(
    stopped: Path, small_scenes: Path, small_run: Path, tmp_path: Path, vitrine_command: Command
) -> None:
    run = copy(stopped, tmp_path)
    options = ("--resume", "--set", "learning_rate=5e-4 precision=bf16")
    status, out, err = vitrine_command("train", small_scenes, "-o", run, *options)
    assert status == 0, err
    rates = "learning_rate was 0.002 until step 3, and 0.0005 from step 4 (epoch 2) on"
    assert rates in err and "precision was fp32 until step 3, and bf16 from step 4" in err
    card = (run / "README.md").read_text("utf-8").replace("\\", "")
    assert rates in card and "The table has what it ended with." in card
    assert json.loads((run / "environment.json").read_text())["precision"] == "bf16"
    assert json.loads((run / "metrics.json").read_text())["precision"] == "bf16"
    checks = {check.what: check for check in verify(run, str(small_scenes)).checks}
    assert checks["settings"].status == "noted" and rates in checks["settings"].detail
    comparison = compare([str(run), str(small_run)])
    assert f"Settings of run were changed while it trained: {rates}" in comparison.text()
    assert out and not comparison.seed_spreads
    (run / FILE).unlink()
    write_model_card(run)
    assert "changed while" not in (run / "README.md").read_text("utf-8")
    assert "settings" not in {check.what for check in verify(run, str(small_scenes)).checks}


@pytest.mark.parametrize("clip_norm", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_advice_names_what_is_not_set_already(clip_norm: float, precision: str) -> None:
    settings = LoopSettings.from_recipe(replace(BEGUN, learning_rate=0.02, clip_norm=clip_norm))
    advice = advice_for(settings, precision)
    assert "Lower learning_rate (it is 0.02)" in advice and "--resume --set learning_rate=0.002" in advice
    assert ("clip" in advice) == (clip_norm == 0)
    assert ("fp32" in advice) == (precision == "bf16")


def test_the_advice_works_before_the_first_checkpoint(
    small_scenes: Path, tmp_path: Path, vitrine_command: Command
) -> None:
    """Nothing was computed that could stay: the training begins anew, with the new rate and no change to record."""
    settings = replace(BEGUN, learning_rate=1e30, warmup_epochs=0.0, checkpoint_minutes=10.0)
    with pytest.raises(TrainingError, match=r"the last checkpoint: --resume --set learning_rate=1e\+29") as end:
        train(str(small_scenes), settings, tmp_path / "run")
    assert "clip" not in str(end.value) and "fp32" not in str(end.value)
    options = ("-o", tmp_path / "run", "--resume", "--set", "learning_rate=1e-3")
    status, _, err = vitrine_command("train", small_scenes, *options)
    assert status == 0 and "Settings were changed" not in err
    train(str(small_scenes), replace(settings, learning_rate=1e-3), tmp_path / "whole")
    same_files(tmp_path / "run", tmp_path / "whole")


def test_the_advice_works_after_a_checkpoint(
    stopped: Path, small_scenes: Path, tmp_path: Path, vitrine_command: Command
) -> None:
    run = copy(stopped, tmp_path)
    settings = replace(BEGUN, learning_rate=1e30, clip_norm=0.0, checkpoint_minutes=10.0)
    with pytest.raises(TrainingError, match=r"or clip gradients, and continue .* or clip_norm=1$"):
        train(str(small_scenes), settings, run, resume=True)
    status, _, err = vitrine_command(
        "train", small_scenes, "-o", run, "--resume", "--set", "learning_rate=1e-3 clip_norm=1"
    )
    assert status == 0, err
    (change,) = [each for each in read_changes(RunFolder(run)) if each.field == "learning_rate"]
    assert (change.step, change.before, change.now) == (4, BEGUN.learning_rate, 1e-3), (
        "the wild rate left nothing behind"
    )


def test_weights_that_are_spoilt_in_the_checkpoint_are_called_that(
    small_scenes: Path, tmp_path: Path, vitrine_command: Command
) -> None:
    """Finite, and beyond use: no rate helps, and the message does not say that one would."""
    settings = replace(BEGUN, learning_rate=1e30, warmup_epochs=0.0)
    with pytest.raises(TrainingError, match="--resume --set"):
        train(str(small_scenes), settings, tmp_path / "run")
    options = ("-o", tmp_path / "run", "--resume", "--set", "learning_rate=1e-3")
    status, _, err = vitrine_command("train", small_scenes, *options)
    assert status == 1 and "already spoilt" in err and "--resume" not in err.splitlines()[-1]
