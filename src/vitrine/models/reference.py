"""What a model reference means: which architecture, and where its weights would come from."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import timm
from timm.models import get_pretrained_cfg
from timm.models._hub import load_model_config_from_path
from timm.models._registry import split_model_name_tag

from vitrine.errors import ModelError
from vitrine.models.checkpoints.registry import describe, is_self_describing
from vitrine.models.checkpoints.transformers import FILE as PROCESSOR_FILE
from vitrine.models.checkpoints.transformers import describe_transformers, is_transformers_config
from vitrine.models.hub import fetch, fetch_optional

BUNDLED = "vitrine/scenes-tiny"
_FAMILIES = ["*vit*", "*deit*", "*beit*", "*eva*"]  # whose names are suggested


@dataclass(frozen=True)
class ModelReference:
    """A model reference, understood.

    Attributes:
        text: the reference as it was given.
        architecture: timm's name of the model, without tag.
        model_args: constructor arguments that belong to the reference.
        pretrained_cfg: timm's description of the weights: input size, normalisation, classes.
        folder: the folder that holds config.json and the weights; None for weights on the hub.
        file: the weights file, where the reference is one.
        hub_id: owner/name on the hub; None where the weights are local or there are none.
        hub_filename: the weights file there; None lets the repository's usual names decide.
        notes: sentences on what was recognised or assumed.
    """

    text: str
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


def resolve_reference(reference: str, given: Mapping[str, Any] | None = None) -> ModelReference:
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


def _from_file(reference: str, path: Path, given: Mapping[str, Any] | None) -> ModelReference:
    if (path.parent / "config.json").is_file() and not is_self_describing(path):
        beside = _from_folder(reference, path.parent)
        return replace(beside, file=path, notes=(*beside.notes, f"{path.parent / 'config.json'} says what it is."))
    found = describe(path, given)
    return ModelReference(reference, found.architecture, found.model_args, found.cfg, file=path, notes=found.notes)


def _from_folder(reference: str, folder: Path) -> ModelReference:
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


def _from_hub(reference: str) -> ModelReference:
    hub_id = reference.removeprefix("hf-hub:").removeprefix("hf_hub:")
    remedy = "with its weights, into one folder, and give that folder as the model."
    config = fetch(hub_id, ("config.json",), remedy)
    if is_transformers_config(config.parent):
        fetch_optional(hub_id, PROCESSOR_FILE, remedy)  # into the same folder
    return _from_config(reference, config.parent, hub_id=hub_id)


def _from_config(reference: str, folder: Path, *, hub_id: str | None) -> ModelReference:
    if is_transformers_config(folder):
        found = describe_transformers(folder)
        place = None if hub_id else folder
        return ModelReference(
            reference, found.architecture, found.model_args, found.cfg, place, hub_id, notes=found.notes
        )
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
    return ModelReference(reference, architecture, model_args, cfg, None if hub_id else folder, hub_id)


def _from_timm_name(reference: str) -> ModelReference:
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
    return ModelReference(
        reference, architecture, {}, table, None, table.get("hf_hub_id") or None, table.get("hf_hub_filename")
    )


_USUAL_NAMES = ("model.safetensors", "pytorch_model.bin")
_IN_PARTS = "model.safetensors.index.json"


@dataclass(frozen=True)
class WeightsFile:
    """One weights file and its origin.

    Attributes:
        path: where it lies on this machine.
        origin: where it came from: a hub id, or the path itself.
    """

    path: Path
    origin: str

    @cached_property
    def sha256(self) -> str:
        """Of the file's bytes, in hexadecimal; computed when it is first asked for."""
        return file_sha256(self.path)


def file_sha256(path: Path) -> str:
    """sha256 of a file, in hexadecimal, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def locate_weights(source: ModelReference, override: str | None = None) -> WeightsFile:
    """The weights of a model reference, or of the file given instead of them.

    Raises:
        ModelError: the file is missing, or the reference has no weights.
        WeightsUnavailableError: they would have to be downloaded and cannot be.
    """
    if override is not None:
        return _local(Path(override).expanduser(), f"pretrained = {override!r}")
    if source.file is not None:
        return _local(source.file, source.text)
    if source.folder is not None:
        if (source.folder / _IN_PARTS).is_file():
            raise ModelError(
                f"The weights in {source.folder} are in several files, which are not put together here.\n"
                "Save them as one: model.save_pretrained(FOLDER, max_shard_size='100GB')."
            )
        there = [name for name in _USUAL_NAMES if (source.folder / name).is_file()]
        return _local(source.folder / (there or _USUAL_NAMES)[0], source.text)
    if source.hub_id is None:
        raise ModelError(
            f"There are no pretrained weights for {source.text!r}.\n"
            "Use a name with a tag (vit_base_patch16_224.orig_in21k), a file (--set pretrained=FILE), "
            "or --set pretrained=false to start from nothing."
        )
    names = (source.hub_filename,) if source.hub_filename else _USUAL_NAMES
    path = fetch(
        source.hub_id, names, "and name the file: --set pretrained=FILE; or start from nothing: --set pretrained=false."
    )
    return WeightsFile(path, f"hf-hub:{source.hub_id}/{path.name}")


def _local(path: Path, wanted_by: str) -> WeightsFile:
    if not path.is_file():
        raise ModelError(f"The weights file {path} does not exist (wanted by {wanted_by}).")
    return WeightsFile(path, str(path))
