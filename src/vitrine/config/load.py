"""Recipes by name or from a TOML file, changed by ``key=value`` settings, and written back to TOML."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

import tomlkit

from vitrine.config.recipe import CaptionSpec, Recipe, TransformSpec, named_transforms, transforms_from_table
from vitrine.errors import RecipeError, error_summary
from vitrine.io.untrusted_files import MAX_TOML_BYTES, parse_toml, read_text

_RECIPE_FIELDS = tuple(f.name for f in fields(Recipe))
_TRANSFORM_FIELDS = tuple(f.name for f in fields(TransformSpec))
_CAPTION_FIELDS = tuple(f.name for f in fields(CaptionSpec))


def available_recipes() -> tuple[str, ...]:
    """Names of the recipes that the package carries."""
    folder = resources.files("vitrine.config").joinpath("library")
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")))


def load_recipe(name_or_path: str) -> Recipe:
    """A recipe by the name of one that the package carries, or from a TOML file.

    Raises:
        RecipeError: no such recipe, not TOML, an unknown field, or a value that cannot be used.
    """
    if name_or_path in available_recipes():
        text = resources.files("vitrine.config").joinpath("library", f"{name_or_path}.toml").read_text("utf-8")
        return recipe_from_toml(text, name_or_path)
    path = Path(name_or_path)
    if path.suffix != ".toml" or not path.is_file():
        raise RecipeError(
            f"There is no recipe {name_or_path!r}: expected the path of a .toml file, or one of "
            f"{', '.join(available_recipes())}."
        )
    try:
        text = read_text(path, MAX_TOML_BYTES)
    except (OSError, ValueError) as error:
        raise RecipeError(f"The recipe {path} cannot be read: {error_summary(error)}.") from error
    return recipe_from_toml(text, path.stem)


def recipe_from_toml(text: str, name: str) -> Recipe:
    """A recipe from the text of a TOML file; ``name`` is used where the file has none."""
    try:
        table = parse_toml(text)
    except ValueError as error:
        raise RecipeError(f"The recipe {name!r} cannot be read: {error}.") from error
    return _from_table({"name": name, **table})


def recipe_to_toml(recipe: Recipe) -> str:
    """The recipe as TOML that :func:`recipe_from_toml` reads back as an equal recipe.

    Fields that are left to the rules have no value yet, and no line.
    """
    document = tomlkit.document()
    for field in _RECIPE_FIELDS:
        if field not in ("model_args", "transforms", "caption", *recipe.automatic):
            value = getattr(recipe, field)
            document[field] = list(value) if isinstance(value, tuple) else value
    document["model_args"] = _toml_table(recipe.model_args)
    transforms = {
        f: getattr(recipe.transforms, f) for f in _TRANSFORM_FIELDS if f"transforms.{f}" not in recipe.automatic
    }
    document["transforms"] = _toml_table(transforms)
    if recipe.caption is not None:
        document["caption"] = _toml_table({f: getattr(recipe.caption, f) for f in _CAPTION_FIELDS})
    return tomlkit.dumps(document)


def override(recipe: Recipe, settings: Iterable[str] | Mapping[str, Any]) -> Recipe:
    """The recipe with ``key=value`` settings applied in order, or with the values of a dictionary as they are.

    Values are TOML (``epochs=3``, ``pretrained=false``, ``transforms.crop_scale=[0.5, 1.0]``); what is not valid TOML
    is taken as text (``transforms=tfm2``). Several settings may share one string, separated by spaces.

    Raises:
        RecipeError: a setting without ``=``, an unknown key, or a value that cannot be used.
    """
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            recipe = _set(recipe, key, value)
        return recipe
    for setting in [settings] if isinstance(settings, str) else settings:
        for part in _split_settings(setting):
            key, equals, text = part.partition("=")
            if not equals or not key:
                raise RecipeError(f"--set {part!r} cannot be read: expected key=value, for example epochs=3.")
            recipe = _set(recipe, key.strip(), _parse_toml_value(text.strip()))
    return recipe


def _split_settings(setting: str) -> list[str]:
    """Split at the spaces before each ``key=``, so that values may hold spaces."""
    return [part for part in re.split(r"\s+(?=[A-Za-z_][\w.]*=)", setting.strip()) if part]


def _set(recipe: Recipe, key: str, value: Any) -> Recipe:
    group, _, inner = key.partition(".")
    if recipe.automatic and key != "automatic":  # what a person sets is no longer left to the rules
        rest = tuple(name for name in recipe.automatic if name != key and not name.startswith(f"{key}."))
        recipe = replace(recipe, automatic=rest)
    if group == "transforms" and inner:
        _check_field(inner, _TRANSFORM_FIELDS, "transforms.")
        value = tuple(value) if isinstance(value, list) else value
        return replace(recipe, transforms=replace(recipe.transforms, **{inner: value}))
    if group == "caption" and inner:
        _check_field(inner, _CAPTION_FIELDS, "caption.")
        return replace(recipe, caption=replace(recipe.caption or CaptionSpec(), **{inner: value}))
    if group == "model_args" and inner:
        return replace(recipe, model_args={**recipe.model_args, inner: value})
    _check_field(key, _RECIPE_FIELDS, "")
    if key == "transforms":
        value = _parse_transforms(value)
    elif key == "caption":
        value = _parse_caption(value)
    return replace(recipe, **{key: value})


def _from_table(table: dict[str, Any]) -> Recipe:
    for key in table:
        _check_field(key, _RECIPE_FIELDS, "")
    if "model" not in table:
        raise RecipeError(f'The recipe {table["name"]!r} has no model: expected a line such as model = "vit_tiny_...".')
    _require_one_source(table)
    if "transforms" in table:
        table = {**table, "transforms": _parse_transforms(table["transforms"])}
    if "caption" in table:
        table = {**table, "caption": _parse_caption(table["caption"])}
    return Recipe(**table)


def _require_one_source(table: Mapping[str, Any]) -> None:
    """Refuse a field that has a value and is left to the rules as well; the file says which of both is meant."""
    transforms = table.get("transforms", {})
    inner = transforms if isinstance(transforms, dict) else _TRANSFORM_FIELDS
    values = {*table, *(f"transforms.{name}" for name in inner)}
    for name in table.get("automatic", ()):
        if name in values:
            raise RecipeError(f"{name} has a value and stands in automatic: expected one of both.")


def _parse_transforms(value: object) -> TransformSpec:
    if isinstance(value, str):
        return named_transforms(value)
    if not isinstance(value, dict):
        raise RecipeError(f"transforms = {value!r} cannot be used: expected a name or a table of fields.")
    for key in value:
        _check_field(key, _TRANSFORM_FIELDS, "transforms.")
    return transforms_from_table(value)


def _parse_caption(value: object) -> CaptionSpec:
    if not isinstance(value, dict):
        raise RecipeError(f"caption = {value!r} cannot be used: expected a table of fields.")
    for key in value:
        _check_field(key, _CAPTION_FIELDS, "caption.")
    return CaptionSpec(**value)


_NAMES_ELSEWHERE = {
    **dict.fromkeys(("lr", "base_lr", "max_lr"), "learning_rate"),
    **dict.fromkeys(("wd", "decay"), "weight_decay"),
    **dict.fromkeys(("bs", "per_device_train_batch_size"), "batch_size"),
    **dict.fromkeys(("opt", "optim"), "optimizer"),
    **dict.fromkeys(("smoothing",), "label_smoothing"),
    **dict.fromkeys(("amp", "fp16", "bf16", "dtype"), "precision"),
    **dict.fromkeys(("img_size", "input_size", "resolution"), "image_size"),
    **dict.fromkeys(("arch", "backbone", "model_name"), "model"),
    **dict.fromkeys(("max_epochs", "n_epochs", "num_train_epochs"), "epochs"),
    **dict.fromkeys(("clip_grad", "grad_clip", "max_grad_norm", "gradient_clip_val"), "clip_norm"),
    **dict.fromkeys(("grad_accum_steps", "gradient_accumulation_steps", "accum_iter"), "accumulate"),
    **dict.fromkeys(("freeze", "linear_probe", "peft"), "tune"),
    **dict.fromkeys(("patience",), "early_stopping"),
}
"""Recipe fields by the names that timm, transformers and Lightning give them."""


def _check_field(key: str, names: tuple[str, ...], prefix: str) -> None:
    if key in names:
        return
    elsewhere = _NAMES_ELSEWHERE.get(key, "")
    near = elsewhere if elsewhere in names else difflib.get_close_matches(key, names, n=1, cutoff=0.0)[0]
    raise RecipeError(f"There is no recipe field {prefix}{key}; the nearest name is {prefix}{near}.")


def _parse_toml_value(text: str) -> Any:
    try:
        return parse_toml(f"value = {text}")["value"]
    except ValueError:
        return text


def _toml_table(values: Mapping[str, object]) -> tomlkit.items.Table:
    table = tomlkit.table()
    for key, value in values.items():
        if value is not None:  # TOML has no null: a field that is absent is None
            table[key] = list(value) if isinstance(value, tuple) else value
    return table
