"""What a model reference means: which architecture, and where its weights would come from."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from vitrine.errors import ModelError
from vitrine.models.formats.processor import FILE as PROCESSOR_FILE
from vitrine.models.formats.table import describe, says_itself
from vitrine.models.formats.transformers import describe_transformers, is_transformers_config
from vitrine.models.hub import fetch, fetch_if_there
from vitrine.torchpair import require_torchvision

require_torchvision()

import timm  # noqa: E402
from timm.models import get_pretrained_cfg  # noqa: E402
from timm.models._hub import load_model_config_from_path  # noqa: E402
from timm.models._registry import split_model_name_tag  # noqa: E402

BUNDLED = "vitrine/scenes-tiny"
_FAMILIES = ["*vit*", "*deit*", "*beit*", "*eva*"]  # whose names are suggested


@dataclass(frozen=True)
class ModelSource:
    """A model reference, understood.

    Attributes:
        reference: what the person wrote.
        architecture: timm's name of the model, without tag.
        model_args: constructor arguments that belong to the reference.
        pretrained_cfg: timm's description of the weights: input size, normalisation, classes.
        folder: the folder that holds config.json and the weights; None for weights on the hub.
        file: the weights file, where the reference is one.
        hub_id: owner/name on the hub; None where the weights are local or there are none.
        hub_filename: the weights file there; None lets the repository's usual names decide.
        notes: sentences on what was recognised or assumed.
    """

    reference: str
    architecture: str
    model_args: Mapping[str, Any] = field(default_factory=dict)
    pretrained_cfg: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    hub_id: str | None = None
    hub_filename: str | None = None
    file: Path | None = None
    notes: tuple[str, ...] = ()


def bundled_folder() -> Path:
    """The folder of ``vitrine/scenes-tiny`` inside the installed package."""
    return Path(str(resources.files("vitrine.models").joinpath("scenes_tiny")))


def understand(reference: str, given: Mapping[str, Any] | None = None) -> ModelSource:
    """Find out what a model reference names. ``hf-hub:`` ids need their config.json, the rest needs no network.

    Args:
        reference: a run or model folder, a weights file, a timm name, or ``hf-hub:owner/name``.
        given: timm constructor arguments that a person gives, for what a weights file does not say.

    Raises:
        ModelError: nothing is called that; the message lists near names, what a folder lacks, or which models fit.
        WeightsUnavailableError: the hub's config.json is not here and cannot be fetched.
    """
    if reference == BUNDLED:
        return _from_folder(reference, bundled_folder())
    if reference.startswith("hf-hub:"):
        return _from_hub(reference)
    path = Path(reference.removeprefix("local-dir:")).expanduser()
    if path.is_dir():
        return _from_folder(reference, path)
    return _from_file(reference, path, given) if path.is_file() else _from_timm_name(reference)


def _from_file(reference: str, path: Path, given: Mapping[str, Any] | None) -> ModelSource:
    if (path.parent / "config.json").is_file() and not says_itself(path):
        beside = _from_folder(reference, path.parent)
        return replace(beside, file=path, notes=(*beside.notes, f"{path.parent / 'config.json'} says what it is."))
    found = describe(path, given)
    return ModelSource(reference, found.architecture, found.model_args, found.cfg, file=path, notes=found.notes)


def _from_folder(reference: str, folder: Path) -> ModelSource:
    if (folder / "recipe.toml").is_file() and not (folder / "config.json").is_file():
        raise ModelError(
            f"The training in {folder} was stopped before its first epoch ended, so it has no weights yet.\n"
            f"Continue it: vitrine train DATA -o {folder} --resume"
        )
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{reference} is a folder without config.json, so it is not a run or a model of timm or transformers.\n"
            "Expected the folder that vitrine train wrote, with model.safetensors and config.json."
        )
    return _from_config(reference, folder, hub_id=None)


def _from_hub(reference: str) -> ModelSource:
    hub_id = reference.removeprefix("hf-hub:").removeprefix("hf_hub:")
    remedy = "with its weights, into one folder, and give that folder as the model."
    config = fetch(hub_id, ("config.json",), remedy)
    if is_transformers_config(config.parent):
        fetch_if_there(hub_id, PROCESSOR_FILE, remedy)  # into the same folder
    return _from_config(reference, config.parent, hub_id=hub_id)


def _from_config(reference: str, folder: Path, *, hub_id: str | None) -> ModelSource:
    if is_transformers_config(folder):
        found = describe_transformers(folder)
        place = None if hub_id else folder
        return ModelSource(reference, found.architecture, found.model_args, found.cfg, place, hub_id, notes=found.notes)
    try:
        cfg, architecture, model_args = load_model_config_from_path(folder)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{folder / 'config.json'} is not a timm model description ({type(error).__name__}: {error}).\n"
            "Expected timm's hub layout, with architecture and pretrained_cfg, or transformers', with model_type."
        ) from error
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise ModelError(f"{folder / 'config.json'} names the architecture {architecture!r}, which timm does not have.")
    cfg = {key: value for key, value in cfg.items() if key not in ("file", "source")}
    return ModelSource(reference, architecture, model_args, cfg, None if hub_id else folder, hub_id)


def _from_timm_name(reference: str) -> ModelSource:
    name = reference.removeprefix("timm/")
    architecture, tag = split_model_name_tag(name)
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(_FAMILIES), n=3, cutoff=0.5)
        hint = f" Near names: {', '.join(near)}." if near else ""
        raise ModelError(
            f"There is no model {reference!r}.{hint}\n"
            f"Expected a run folder, {BUNDLED}, a timm name (vit_base_patch16_224.orig_in21k) or hf-hub:owner/name."
        )
    try:
        cfg = get_pretrained_cfg(name)
    except RuntimeError as error:
        known = ", ".join(timm.list_models(f"{architecture}.*", pretrained=True)) or "none"
        raise ModelError(f"The model {architecture} has no weights tagged {tag!r}. Those known: {known}.") from error
    if cfg is None:
        raise ModelError(f"timm knows the model {architecture} but not its input size and normalisation.")
    table = {key: value for key, value in cfg.to_dict().items() if value is not None}
    return ModelSource(
        reference, architecture, {}, table, None, table.get("hf_hub_id") or None, table.get("hf_hub_filename")
    )
