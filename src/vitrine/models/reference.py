"""Model references: which model a reference names, and the weights file that belongs to it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import timm
from msgspec import Meta
from timm.models import get_pretrained_cfg
from timm.models._hub import load_model_config_from_path
from timm.models._registry import split_model_name_tag

from vitrine.errors import ModelError, error_summary
from vitrine.io.untrusted_files import read_json
from vitrine.models.checkpoints.base import ConvertedCheckpoint
from vitrine.models.checkpoints.image_processor import PROCESSOR_FILE, WHOLE_PROCESSOR_FILE
from vitrine.models.checkpoints.registry import convert, describe, is_self_describing, open_checkpoint
from vitrine.models.checkpoints.transformers import describe_transformers
from vitrine.models.checkpoints.transformers_config import PROBLEM_TYPES, is_transformers_config
from vitrine.models.checkpoints.weights_index import WEIGHTS_NAMES, weights_sha256
from vitrine.models.hub import fetch, fetch_optional, fetch_weights

BUNDLED = "vitrine/scenes-tiny"
_SUGGESTED = ["*vit*", "*deit*", "*beit*", "*eva*"]  # families whose names an error lists


@dataclass(frozen=True)
class WeightsFile:
    """One weights file and its origin.

    Attributes:
        path: where it lies on this machine.
        origin: where it came from: a hub id, or the path itself.
        selection: of several state dicts in it, the one that is wanted; empty lets the file's reader choose.
    """

    path: Path
    origin: str
    selection: str = ""

    @cached_property
    def sha256(self) -> str:
        """sha256 of the file, or of all files that an index names, in hexadecimal; computed when first asked for."""
        return weights_sha256(self.path)


@dataclass(frozen=True)
class ModelReference:
    """A resolved model reference: the architecture that it names, and the weights that belong to it.

    Attributes:
        text: the reference as it was given.
        architecture: timm's name of the model, without tag.
        model_args: constructor arguments that belong to the reference.
        pretrained_cfg: timm's description of the weights: input size, normalisation, classes.
        folder: the folder that holds config.json and the weights; None for weights on the hub.
        hub_id: owner/name on the hub; None where the weights are local or there are none.
        hub_filename: the weights file there; None lets the repository's usual names decide.
        file: the opened weights file, where the reference is one.
        pretrained_file: a weights file that is taken instead of the reference's own, as it was given; None of others.
        notes: sentences on what was recognised or assumed.
        problem_type: what config.json says that the outputs are, in the words of transformers; None where it does not.
    """

    text: str
    architecture: str
    model_args: Mapping[str, Any] = field(default_factory=dict)
    pretrained_cfg: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    hub_id: str | None = None
    hub_filename: str | None = None
    file: ConvertedCheckpoint | None = None
    pretrained_file: str | None = None
    notes: tuple[str, ...] = ()
    problem_type: str | None = None

    @cached_property
    def weights(self) -> WeightsFile:
        """The weights file, located (or downloaded) when it is first asked for.

        Raises:
            ModelError, WeightsUnavailableError: as :func:`locate_weights` says.
        """
        return locate_weights(self)

    @cached_property
    def checkpoint(self) -> ConvertedCheckpoint:
        """The weights under timm's names; the file is opened once, and its tensors are read when they are loaded.

        Raises:
            ModelError, WeightsUnavailableError: the file is not there, cannot be read, or is incomplete.
        """
        path = self.weights.path
        if self.file is not None and self.file.path == path:
            return self.file
        return convert(open_checkpoint(path, self.weights.selection))

    def __getstate__(self) -> dict[str, Any]:
        """Without open files: a copy, also in another process, opens the weights anew where it needs them."""
        return {name: value for name, value in vars(self).items() if name != "checkpoint"} | {"file": None}


def bundled_folder() -> Path:
    """The folder of ``vitrine/scenes-tiny`` inside the installed package."""
    return Path(str(resources.files("vitrine.models").joinpath("scenes_tiny")))


def resolve_reference(
    text: str, model_args: Mapping[str, Any] | None = None, pretrained_file: str | None = None
) -> ModelReference:
    """Find out which model a reference names. ``hf-hub:`` ids need their config.json, the rest needs no network.

    Args:
        text: a run or model folder, a weights file, a timm name, or ``hf-hub:owner/name``.
        model_args: timm constructor arguments that a person gives, for what a weights file does not say.
        pretrained_file: a weights file to take instead of the reference's own.

    Raises:
        ModelError: nothing is called that; the message lists near names, what a folder lacks, or which models fit.
        WeightsUnavailableError: the hub's config.json is not here and cannot be fetched.
    """
    reference = _resolve(text, model_args)
    return reference if pretrained_file is None else replace(reference, pretrained_file=pretrained_file)


def _resolve(text: str, model_args: Mapping[str, Any] | None) -> ModelReference:
    if text == BUNDLED:
        return _from_folder(text, bundled_folder())
    if text.startswith("hf-hub:"):
        return _from_hub(text)
    path, selection = split_selection(text.removeprefix("local-dir:"))
    if path.is_dir():
        return _from_folder(text, path)
    return _from_file(text, path, model_args, selection) if path.is_file() else _from_timm_name(text)


def split_selection(text: str) -> tuple[Path, str]:
    """The path of a weights file, and what is wanted of it: ``last.ckpt#student`` is the student in ``last.ckpt``."""
    path = Path(text).expanduser()
    before, mark, selection = text.rpartition("#")
    return (Path(before).expanduser(), selection) if mark and not path.exists() else (path, "")


def _from_file(text: str, path: Path, model_args: Mapping[str, Any] | None, selection: str) -> ModelReference:
    weights = open_checkpoint(path, selection)
    if any(".lora_A." in name for name in weights.shapes):
        raise _adapter_error(text)
    checkpoint, config = convert(weights), path.parent / "config.json"
    if config.is_file() and not is_self_describing(weights):
        reference = _from_folder(text, path.parent)
        return replace(reference, file=checkpoint, notes=(*reference.notes, f"{config} says what it is."))
    model = describe(checkpoint, model_args)
    return ModelReference(
        text,
        model.architecture,
        model.model_args,
        model.cfg,
        file=checkpoint,
        notes=model.notes,
        problem_type=model.problem_type,
    )


def _from_folder(text: str, folder: Path) -> ModelReference:
    if (folder / "recipe.toml").is_file() and not (folder / "config.json").is_file():
        raise ModelError(
            f"The training in {folder} was stopped before its first epoch ended, so it has no weights yet.\n"
            f"Continue it: vitrine train DATA -o {folder} --resume"
        )
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise _adapter_error(text)
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{text} is a folder without config.json, so it is not a run or a model of timm or transformers.\n"
            "Expected the folder that vitrine train wrote, with model.safetensors and config.json."
        )
    return _from_config(text, folder, hub_id=None)


def _adapter_error(text: str) -> ModelError:
    return ModelError(
        f"{text} is an adapter of the library peft: what is added to a model, without the model.\n"
        "Put both together where it was made, and give that folder: "
        "model.merge_and_unload().save_pretrained('FOLDER')."
    )


def _from_hub(text: str) -> ModelReference:
    hub_id = text.removeprefix("hf-hub:").removeprefix("hf_hub:")
    remedy = "with its weights, into one folder, and give that folder as the model."
    config = fetch(hub_id, ("config.json",), remedy)
    if is_transformers_config(config.parent):
        _fetch_processor(hub_id, remedy)
    return _from_config(text, config.parent, hub_id=hub_id)


def _fetch_processor(hub_id: str, remedy: str) -> None:
    """Get what says how pictures are prepared into the folder of config.json; not every repository has it."""
    if fetch_optional(hub_id, PROCESSOR_FILE, remedy) is None:
        fetch_optional(hub_id, WHOLE_PROCESSOR_FILE, remedy)


class _PretrainedCfg(TypedDict):
    mean: NotRequired[Annotated[list[float], Meta(min_length=1, max_length=4)]]
    std: NotRequired[Annotated[list[Annotated[float, Meta(gt=0)]], Meta(min_length=1, max_length=4)]]
    input_size: NotRequired[tuple[int, int, int]]
    crop_pct: NotRequired[Annotated[float, Meta(gt=0)] | None]
    interpolation: NotRequired[str]
    crop_mode: NotRequired[str | None]
    classifier: NotRequired[str | list[str] | None]


class _TimmConfig(TypedDict):
    """What is read of timm's config.json; of an old one, pretrained_cfg's entries stand beside the architecture."""

    architecture: str
    pretrained_cfg: NotRequired[_PretrainedCfg]
    model_args: NotRequired[dict[str, Any] | None]
    num_classes: NotRequired[int]
    label_names: NotRequired[list[str] | dict[str, str]]
    problem_type: NotRequired[str | None]


def _from_config(text: str, folder: Path, *, hub_id: str | None) -> ModelReference:
    local_folder = None if hub_id else folder
    if is_transformers_config(folder):
        model = describe_transformers(folder)
        return ModelReference(
            text,
            model.architecture,
            model.model_args,
            model.cfg,
            local_folder,
            hub_id,
            notes=model.notes,
            problem_type=model.problem_type,
        )
    try:
        config = read_json(folder / "config.json", _TimmConfig)
        cfg, architecture, model_args = load_model_config_from_path(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{folder / 'config.json'} is not a timm model description ({error_summary(error)}).\n"
            "Expected timm's hub layout, with architecture and pretrained_cfg, or transformers', with model_type."
        ) from error
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise ModelError(f"{folder / 'config.json'} names the architecture {architecture!r}, which timm does not have.")
    cfg = {key: value for key, value in cfg.items() if key not in ("file", "source")}
    problem_type = config.get("problem_type")
    if problem_type not in (None, *PROBLEM_TYPES):
        known_types = ", ".join(PROBLEM_TYPES)
        raise ModelError(
            f"{folder / 'config.json'}: problem_type = {problem_type!r} is not known; known: {known_types}."
        )
    return ModelReference(text, architecture, model_args, cfg, local_folder, hub_id, problem_type=problem_type)


def _near_names(text: str, architecture: str) -> list[str]:
    """What a name that is none most likely means: our own model, timm's, or one of the hub without its prefix."""
    if difflib.get_close_matches(text, (BUNDLED, BUNDLED.partition("/")[2]), n=1, cutoff=0.8):
        return [BUNDLED]
    near = difflib.get_close_matches(architecture, timm.list_models(_SUGGESTED), n=3, cutoff=0.5)
    of_hub = [f"hf-hub:{text}"] if near and re.fullmatch(r"(?!timm/|runs/)\w[\w.-]*/[\w.-]+", text) else []
    return [*of_hub, *near]


def _from_timm_name(text: str) -> ModelReference:
    name = text.removeprefix("timm/")
    architecture, tag = split_model_name_tag(name)
    if not timm.is_model(architecture):
        near = _near_names(text, architecture)
        hint = f" Near names: {', '.join(near)}." if near else ""
        raise ModelError(
            f"There is no model {text!r}.{hint}\n"
            f"Expected a run folder, {BUNDLED}, a timm name (vit_base_patch16_224.orig_in21k) or hf-hub:owner/name."
        )
    try:
        cfg = get_pretrained_cfg(name)
    except RuntimeError as error:
        names = ", ".join(timm.list_models(f"{architecture}.*", pretrained=True)) or "none"
        raise ModelError(f"The model {architecture} has no weights tagged {tag!r}. Those known: {names}.") from error
    if cfg is None:
        raise ModelError(f"timm knows the model {architecture} but not its input size and normalisation.")
    values = {key: value for key, value in cfg.to_dict().items() if value is not None}
    return ModelReference(
        text,
        architecture,
        pretrained_cfg=values,
        hub_id=values.get("hf_hub_id") or None,
        hub_filename=values.get("hf_hub_filename"),
    )


def locate_weights(reference: ModelReference) -> WeightsFile:
    """The weights file of a reference; those on the hub are downloaded where they are not in the cache folder.

    :attr:`ModelReference.weights` keeps the answer.

    Raises:
        ModelError: the file is missing, or the reference has no weights.
        WeightsUnavailableError: they would have to be downloaded and cannot be.
    """
    if reference.pretrained_file is not None:
        path, selection = split_selection(reference.pretrained_file)
        return replace(_local(path, f"pretrained = {reference.pretrained_file!r}"), selection=selection)
    if reference.file is not None:
        return _local(reference.file.path, reference.text)
    if reference.folder is not None:
        folder = reference.folder
        names = [name for name in WEIGHTS_NAMES if (folder / name).is_file()]
        return _local(folder / (names or WEIGHTS_NAMES)[0], reference.text)
    if reference.hub_id is None:
        raise ModelError(
            f"There are no pretrained weights for {reference.text!r}.\n"
            "Use a name with a tag (vit_base_patch16_224.orig_in21k), a file (--set pretrained=FILE), "
            "or --set pretrained=false to start from nothing."
        )
    hub_names = (reference.hub_filename,) if reference.hub_filename else WEIGHTS_NAMES
    remedy = (
        f"and name the file: --set pretrained=FILE; or train without it: --set model={BUNDLED} (small weights that are "
        "here), --recipe scratch-tiny, or from nothing with --set pretrained=false."
    )
    path = fetch_weights(reference.hub_id, hub_names, remedy)
    return WeightsFile(path, f"hf-hub:{reference.hub_id}/{path.name}")


def _local(path: Path, wanted_by: str) -> WeightsFile:
    if not path.is_file():
        raise ModelError(f"The weights file {path} does not exist (wanted by {wanted_by}).")
    return WeightsFile(path, str(path))
