"""The settings of a training as a table of its model card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from vitrine.recipes import Recipe
from vitrine.report.card_facts import CardFacts
from vitrine.report.card_text import code, inline, published

_ALWAYS = ("model", "pretrained", "image_size", "epochs", "batch_size", "learning_rate", "weight_decay", "tune", "seed")
_ELSEWHERE = ("name", "description", "workers", "checkpoint_minutes", "trackers", "transforms", "caption", "model_args")


def recipe(facts: CardFacts) -> str:
    """Every setting that says what was learnt, and those that are not the default."""
    given = facts.recipe
    rows: list[tuple[str, str]] = []
    for field in fields(Recipe):
        value = getattr(given, field.name)
        if field.name == "image_size" and not value:
            value = "the model's own"
        if field.name in _ALWAYS or (field.name not in _ELSEWHERE and value != field.default):
            rows.append((field.name, _value(value, facts.places)))
    rows += [(f"model_args.{name}", _value(value, facts.places)) for name, value in given.model_args.items()]
    for part in ("transforms", "caption"):
        spec = getattr(given, part)
        rows += [(f"{part}.{name}", _value(value, facts.places)) for name, value in _changed(spec)]
    shown = [f"| {code(name)} | {inline(value)} |" for name, value in rows]
    trained = f"{len(facts.history)} epochs were trained"
    best = f"; the weights are those of epoch {facts.best_epoch}, the best on the validation pictures"
    return f"{trained}{best if facts.best_epoch else ''}.\n\n" + "\n".join(
        ["| setting | value |", "| --- | --- |", *shown]
    )


def _changed(spec: Any) -> list[tuple[str, Any]]:
    if not is_dataclass(spec):
        return []
    pairs = [(field, getattr(spec, field.name)) for field in fields(spec)]
    return [(field.name, value) for field, value in pairs if value != field.default]


def _value(value: Any, places: Sequence[str]) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return published(value, places)
    if isinstance(value, tuple | list):
        return ", ".join(_value(each, places) for each in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
