"""Settings that a training was resumed with and had not begun with: recorded with the step they hold from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypedDict

from vitrine.config import Recipe, recipe_to_toml
from vitrine.config.recipe import RESUME_REASONS, changed_settings, flat_fields
from vitrine.errors import RunError
from vitrine.io.files import to_json
from vitrine.runs.folder import RunFolder

FILE = "changes.json"


@dataclass(frozen=True)
class SettingChange:
    """One field of the recipe that has another value from a step on.

    Attributes:
        step: the first optimizer step with the new value, from 1.
        epoch: the epoch of that step, from 1.
        field: its name; inner ones as ``caption.backbone_learning_rate``.
        before, now: its values.
    """

    step: int
    epoch: int
    field: str
    before: Any
    now: Any

    def sentence(self) -> str:
        """For a person: ``learning_rate was 0.01 until step 120, and 0.001 from step 121 (epoch 3) on``."""
        old, new = _format(self.before), _format(self.now)
        if self.step == 1:
            return f"{self.field} was {old} until the training was resumed at its beginning with {new}"
        since = f"from step {self.step} (epoch {self.epoch}) on"
        return f"{self.field} was {old} until step {self.step - 1}, and {new} {since}"


class _ChangeRow(TypedDict):
    step: int
    epoch: int
    field: str
    before: Any
    now: Any


def require_resumable(run: RunFolder, now: Recipe) -> None:
    """Refuse a recipe that a started training cannot be continued with.

    Raises:
        RunError: fields differ that decided what was computed before, or the training has ended.
    """
    changes = changed_settings(run.read_recipe(), now)
    wrong = [name for name, values in changes.items() if name not in RESUME_REASONS or _freezes(name, values)]
    if wrong:
        pairs = ", ".join(f"{name} was {changes[name][0]!r}, now {changes[name][1]!r}" for name in wrong[:3])
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise RunError(
            f"{run.path} was begun with another recipe: {pairs}{more}.\n"
            f"Resume without that, or train a new run. May be changed: {', '.join(RESUME_REASONS)}."
        )
    if changes and run.is_finished:
        raise RunError(
            f"The training in {run.path} has ended with {_assignments(changes, 0)}; {_assignments(changes, 1)} has no "
            "step left to change.\nTrain a new run; it may start from this one's weights: "
            f"--set pretrained={run.path / 'model.safetensors'}"
        )


def record_changes(run: RunFolder, now: Recipe, step: int, epoch: int) -> tuple[SettingChange, ...]:
    """Write what differs from the run's recipe into the run, and make the recipe its own.

    Args:
        run: a training that was started.
        now: the recipe that it goes on with.
        step: optimizer steps that its checkpoint has.
        epoch: whole epochs that its checkpoint has.

    Returns:
        The changes of this time; none where nothing differs.
    """
    before = run.read_recipe()
    pairs = changed_settings(before, now)
    if not pairs:
        return ()
    new = tuple(SettingChange(step + 1, epoch + 1, name, *values) for name, values in pairs.items())
    # What was changed at this very step before has changed nothing: the first value before and the last one now count.
    same_step = {each.field: each for each in read_changes(run) if each.step == step + 1}
    merged = [replace(each, before=same_step.get(each.field, each).before) for each in new]
    names = {each.field for each in new}
    other_changes = [each for each in read_changes(run) if each.step != step + 1 or each.field not in names]
    rows = [asdict(each) for each in (*other_changes, *merged) if each.before != each.now]
    # In this order: a record that the recipe does not bear out is of a kill between the two, and is not read.
    run.write(FILE, to_json(rows))
    run.write("recipe.toml", recipe_to_toml(now))
    return new


def read_changes(run: RunFolder) -> tuple[SettingChange, ...]:
    """The changes of a run in their order; none of a training that went on as it had begun.

    Raises:
        RunError: the record is damaged.
    """
    if not (run.path / FILE).is_file():
        return ()
    rows = run.read_json(FILE, list[_ChangeRow])
    changes = [SettingChange(row["step"], row["epoch"], row["field"], row["before"], row["now"]) for row in rows]
    last = {each.field: each for each in changes}
    current = flat_fields(run.read_recipe())
    in_force = {name for name, each in last.items() if current.get(name) == each.now}
    return tuple(each for each in changes if each is not last[each.field] or each.field in in_force)


def changes_sentence(changes: Sequence[SettingChange]) -> str:
    """One sentence on all changes; empty where there are none."""
    sentences = "; ".join(each.sentence() for each in changes)
    return f"Settings were changed while it trained: {sentences}." if changes else ""


def _freezes(name: str, values: tuple[object, object]) -> bool:
    """Whether the image encoder is trained on one side of a change and frozen on the other."""
    return name == "caption.backbone_learning_rate" and 0 in values


def _format(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def _assignments(changes: Mapping[str, tuple[object, object]], which: int) -> str:
    return ", ".join(f"{name} = {_format(values[which])}" for name, values in changes.items())
