"""A sweep: a base recipe, the fields that vary, and seeds, as frozen data checked before anything is trained."""

from __future__ import annotations

import difflib
import hashlib
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import exp, log, prod
from pathlib import Path
from typing import Any

import tomlkit

from vitrine.config.load import load_recipe, override
from vitrine.config.recipe import Recipe, require_number
from vitrine.errors import RecipeError
from vitrine.io.limits import limit
from vitrine.io.untrusted_files import MAX_TOML_BYTES, parse_toml, read_text
from vitrine.results import count_of

Changes = tuple[tuple[str, Any], ...]
"""(recipe field, value), as ``--set`` would have them."""

NamedChanges = tuple[str, Changes]
"""One setting of a sweep: its name, or "", and the recipe fields that it changes."""

_MAX_NAME_LENGTH = 100  # characters of a folder's name, without its seed


def folder_names(settings: Sequence[NamedChanges]) -> list[str]:
    """A readable folder name for every setting, in which no value can add a part of a path.

    Names that would be equal, or too long, end in a hash of the setting.

    Raises:
        RecipeError: two settings are the same.
    """
    labels = [
        _slug(name) if name else ",".join(f"{key}={_slug(value)}" for key, value in changes) or "base"
        for name, changes in settings
    ]
    hashes = [hashlib.sha256(repr(setting).encode()).hexdigest()[:8] for setting in settings]
    if len(set(hashes)) != len(hashes):
        twice = next(setting for i, setting in enumerate(settings) if hashes[i] in hashes[:i])
        raise RecipeError(f"the setting {dict(twice[1]) or twice[0]} is there twice.")
    folded_labels = [label.casefold() for label in labels]  # some file systems do not distinguish A from a
    return [
        f"{label[:_MAX_NAME_LENGTH]},{digest}"
        if folded_labels.count(folded_label) > 1 or len(label) > _MAX_NAME_LENGTH
        else label
        for label, folded_label, digest in zip(labels, folded_labels, hashes, strict=True)
    ]


def _slug(value: object) -> str:
    """A value as letters, digits and ``.+-``; only the last part of a path."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return "-".join(_slug(each) for each in value)
    words = re.sub(r"[^A-Za-z0-9.+-]+", "-", re.split(r"[/\\]", str(value).rstrip("/\\"))[-1])
    return words.strip(".-")[:40] or "value"


_KEYS = ("data", "recipe", "seeds", "set", "grid", "list", "random")
_KINDS = ("grid", "list", "random")
_GROUPS = ("transforms", "model_args", "caption")
_FIXED = {
    "name": "runs are named by their settings",
    "description": "it changes nothing",
    "seed": "give seeds = [...] beside the recipe",
}
MAX_RUNS = limit("MAX_RUNS", 10_000)
"""Runs of a sweep: more is a mistake in its file."""


@dataclass(frozen=True)
class SweepRun:
    """One training of a sweep.

    Attributes:
        name: of its folder: the settings, in characters that every file system takes, and the seed.
        recipe: resolved.
    """

    name: str
    recipe: Recipe


@dataclass(frozen=True)
class Sweep:
    """What is to be trained.

    Attributes:
        data: reference of the data, as ``vitrine train`` takes it.
        runs: in the order of the file, the seeds of a setting one after the other.
        text: of the file.
    """

    data: str
    runs: tuple[SweepRun, ...]
    text: str


def load_sweep(path: Path) -> Sweep:
    """Read and check a SWEEP.toml.

    ::

        data = "pictures"              # beside this file, else as vitrine train would find it
        recipe = "scenes-tiny"         # a name, or a .toml file likewise
        seeds = [0, 1, 2]              # each setting is trained with each; default: the recipe's own
        [set]                          # what all runs have otherwise than the recipe
        epochs = 3
        [grid]                         # every combination; or [[list]]: one table a setting; or [random]
        batch_size = [16, 32]
        learning_rate = [1e-3, 2e-3]

    ``[random]`` has ``count``, ``seed`` and for each field a list to choose from or ``{low = 1e-4, high = 1e-2, log =
    true, whole = false}``; numbers are rounded to three digits. A table of ``[[list]]`` may have a ``name``.

    Raises:
        RecipeError: there is no such file, it is not TOML, or a field or value cannot be used.
    """
    try:
        text = read_text(path, MAX_TOML_BYTES)
        table = parse_toml(text)
    except (OSError, ValueError) as error:
        raise RecipeError(f"The sweep {path} cannot be read: {error}. Expected a TOML file.") from error
    try:
        return Sweep(_find_beside(path, _text(table, "data")), _runs(table, path), text)
    except RecipeError as error:
        raise RecipeError(f"{path.name}: {error}") from error


def _runs(table: Mapping[str, Any], path: Path) -> tuple[SweepRun, ...]:
    for key in table:
        if key not in _KEYS:
            (near,) = difflib.get_close_matches(key, _KEYS, n=1, cutoff=0.0)
            raise RecipeError(f"there is no entry {key}; the nearest is {near}. Fields of all runs go under [set].")
    kinds = [kind for kind in _KINDS if kind in table]
    if len(kinds) != 1:
        present = " and ".join(kinds) or "none"
        raise RecipeError(f"expected one of [grid], [[list]] and [random], which says what varies; found {present}.")
    base = _apply(load_recipe(_find_beside(path, _text(table, "recipe"))), _flat(_table(table.get("set", {}), "[set]")))
    settings = list(
        {"grid": _grid_settings, "list": _list_settings, "random": _random_settings}[kinds[0]](table[kinds[0]])
    )
    seeds = _seeds(table.get("seeds", [base.seed]))
    if not 1 <= len(settings) * len(seeds) <= MAX_RUNS:
        raise RecipeError(f"it comes to {count_of(len(settings) * len(seeds), 'run')}; expected 1 to {MAX_RUNS:,}.")
    names = folder_names(settings)
    runs = []
    for name, (_, changes) in zip(names, settings, strict=True):
        recipe = _apply(base, changes)
        for seed in seeds:
            full = f"{name},seed={seed}"
            runs.append(SweepRun(full, replace(recipe, name=full, seed=seed)))
    return tuple(runs)


def _text(table: Mapping[str, Any], key: str) -> str:
    value = table.get(key)
    if not isinstance(value, str) or not value:
        raise RecipeError(f'{key} is missing or no text: expected a line such as {key} = "...".')
    return value


def _table(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise RecipeError(f"{what} is not a table of recipe fields.")
    return value


def _find_beside(path: Path, reference: str) -> str:
    """A relative path is looked for beside the file first."""
    near = path.parent / reference
    exists = near.exists() or (path.parent / reference.partition("?")[0]).exists()  # options follow a question mark
    return str(near) if not Path(reference).is_absolute() and exists else reference


def _seeds(value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or not value:
        raise RecipeError(f"seeds = {value!r} cannot be used: expected a list such as [0, 1, 2].")
    for seed in value:
        require_number("seeds", seed, 0, whole=True)
    if len(set(value)) != len(value):
        raise RecipeError(f"seeds = {value!r} has one of them twice.")
    return tuple(value)


def _flat(table: Mapping[str, Any]) -> Changes:
    """``transforms = {rotation = 5}`` is ``transforms.rotation = 5``."""
    changes: list[tuple[str, Any]] = []
    for key, value in table.items():
        if key in _FIXED:
            raise RecipeError(f"{key} cannot vary or be set: {_FIXED[key]}.")
        if key in _GROUPS and isinstance(value, dict):
            changes += [(f"{key}.{inner}", each) for inner, each in value.items()]
        else:
            changes.append((key, value))
    return tuple(changes)


def _apply(recipe: Recipe, changes: Changes) -> Recipe:
    for key, value in changes:
        if isinstance(value, dict):
            raise RecipeError(f"{key} = {value!r} cannot be used: expected a value, not a table.")
        recipe = override(recipe, [f"{key}={tomlkit.item(value).as_string()}"])
    return recipe


def _grid_settings(table: object) -> Iterator[NamedChanges]:
    fields = _flat(_table(table, "[grid]"))
    for key, values in fields:
        if not isinstance(values, list) or not values:
            raise RecipeError(f"[grid] {key} = {values!r} cannot be used: expected a list of values.")
    if (count := prod(len(values) for _, values in fields)) > MAX_RUNS:
        raise RecipeError(f"[grid] comes to {count_of(count, 'setting')}; expected 1 to {MAX_RUNS:,} runs.")
    for values in product(*(values for _, values in fields)):
        yield "", tuple((key, value) for (key, _), value in zip(fields, values, strict=True))


def _list_settings(tables: object) -> Iterator[NamedChanges]:
    if not isinstance(tables, list):
        raise RecipeError("[list] is one table: expected [[list]], once for each setting.")
    for entry in tables:
        fields = dict(_table(entry, "[[list]]"))
        name = fields.pop("name", "")
        if not isinstance(name, str):
            raise RecipeError(f"[[list]] name = {name!r} cannot be used: expected text.")
        if not name and not fields:
            raise RecipeError(
                '[[list]] has an empty table: give it a field, or a name = "..." for the recipe as it is.'
            )
        yield name, _flat(fields)


def _random_settings(table: object) -> Iterator[NamedChanges]:
    fields = dict(_table(table, "[random]"))
    count, seed = fields.pop("count", None), fields.pop("seed", 0)
    require_number("random.count", count, 1, MAX_RUNS, whole=True)
    require_number("random.seed", seed, 0, whole=True)
    chances = _flat(fields)
    if not chances:
        raise RecipeError("[random] has no field to draw.")
    for number in range(count):  # each draw has a stream of its own, so that a larger count keeps the first ones
        yield (
            "",
            tuple((key, _draw(key, how, random.Random(f"{seed} {number} {key}"))) for key, how in chances),  # noqa: S311
        )


def _draw(key: str, how: object, source: random.Random) -> Any:
    if isinstance(how, list) and how:
        return how[int(source.random() * len(how))]
    expected = "a list of values, or {low = ..., high = ..., log = true or false, whole = true or false}"
    if not isinstance(how, dict) or not {"low", "high"} <= how.keys() <= {"low", "high", "log", "whole"}:
        raise RecipeError(f"[random] {key} = {how!r} cannot be used: expected {expected}.")
    low, high = how["low"], how["high"]
    for end in (low, high):
        require_number(f"random.{key}", end, float("-inf"), whole=bool(how.get("whole")))
    if not low < high or (how.get("log") and low <= 0):
        raise RecipeError(f"[random] {key} = {how!r} cannot be used: expected low below high, and above 0 with log.")
    share = source.random()
    if how.get("whole") and not how.get("log"):
        return int(low + share * (high - low + 1))
    value = exp(log(low) + share * (log(high) - log(low))) if how.get("log") else low + share * (high - low)
    if how.get("whole"):
        return round(value)
    return float(f"{value:.3g}")
