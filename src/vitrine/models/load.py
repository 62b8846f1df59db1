"""A timm vision transformer from a model reference: built, its weights loaded and checked, its origin kept."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

import torch
from timm.data import resolve_model_data_config
from torch import nn

from vitrine.config import TransformSpec
from vitrine.config.preprocessing import CROP_MODES, RESIZE_FILTERS, InputSpec
from vitrine.errors import ModelError, error_summary
from vitrine.models.checkpoints.base import (
    ConvertedCheckpoint,
    Readout,
    count_names,
    explain_mismatch,
    group_size_mismatches,
)
from vitrine.models.checkpoints.heads import attach_head, head_modules
from vitrine.models.checkpoints.state_dict import Shape
from vitrine.models.checkpoints.timm import count_blocks
from vitrine.models.reference import ModelReference, WeightsFile, resolve_reference
from vitrine.models.timm_model import NoRandomValues, create_timm_model
from vitrine.results import count_of

_NPZ_POSITIONS = "Transformer/posembed_input/pos_embedding"  # in the files of the ViT paper's authors
_LARGEST_RATIO = 32  # a configuration's number over the file's, from which the model is refused before it is made
_ABSENT = object()  # stands for an argument that a reference does not have
_SMALL_EPS = 1e-5  # up to here a layer norm's epsilon changes nothing that can be seen
_READOUT_NOTES = {
    "class and mean": "Its head reads the class token and the mean of the patches.",
    "representation": "Its head has a representation layer after the last norm.",
    "representation before norm": "Its head has a representation layer before the last norm.",
}


@dataclass(frozen=True)
class LoadedModel:
    """A timm model with its weights and its origin.

    Attributes:
        module: the timm model, float32, on the CPU.
        reference: what it was built from.
        weights: the file its weights came from; None for random ones.
        notes: sentences on what was changed to make the weights fit.
        is_in_memory: whether a person holds the module, so that no reference opens it.
    """

    module: nn.Module
    reference: ModelReference
    weights: WeightsFile | None
    notes: tuple[str, ...] = ()
    is_in_memory: bool = False

    @property
    def input(self) -> InputSpec:
        """How pictures are prepared for it, as the model's own pretrained_cfg states it."""
        return input_spec(self.module)


def load_model(
    reference: str | ModelReference,
    *,
    pretrained: bool | str,
    num_classes: int | None = None,
    labels: Sequence[str] = (),
    image_size: int = 0,
    model_args: Mapping[str, Any] | None = None,
    drop_path: float = 0.0,
    patch_drop: float = 0.0,
) -> LoadedModel:
    """Build a vision transformer and load its weights.

    Args:
        reference: a model reference, or what :func:`~vitrine.models.reference.resolve_reference` made of it: then its
            weights are not located and opened again.
        pretrained: load the reference's own weights, none (random, from torch's global seed), or a local file's, which
            a resolved reference holds already.
        num_classes: size of a new head; None keeps the head that belongs to the weights.
        labels: class names of the new head, in order. Where they are those of the weights, in whatever order, their
            head goes on as the new one; without names, a head of the same size is taken as it is.
        image_size: side of the square input in pixels; 0 asks the model. Position embeddings are resampled to fit.
        model_args: timm constructor arguments that replace the reference's own.
        drop_path: stochastic depth of the last block, 0 to 1 (training only).
        patch_drop: share of patch tokens dropped (training only), 0 to 1.

    Raises:
        ModelError: unknown model, unusable arguments, weights that do not fit, or not a vision transformer.
        WeightsUnavailableError: the weights are not here and cannot be fetched.
    """
    if isinstance(reference, str):
        reference = resolve_reference(reference, model_args, pretrained if isinstance(pretrained, str) else None)
    regularisers = {"drop_path_rate": drop_path, "patch_drop_rate": patch_drop}
    # What regularised the training that wrote a run is not wanted by whoever opens it.
    args: dict[str, Any] = {k: v for k, v in reference.model_args.items() if k not in regularisers}
    args |= model_args or {}
    if image_size:
        args["img_size"] = image_size
    if num_classes is not None:
        args["num_classes"] = num_classes
    args |= {name: value for name, value in regularisers.items() if value}
    cfg: dict[str, Any] = dict(reference.pretrained_cfg)
    if pretrained is False:
        module = _create_module(reference, cfg, args)
        require_vision_transformer(module, reference.text)
        return LoadedModel(module, reference, None, _unused_weights_note(reference, model_args or {}))
    weights, checkpoint = reference.weights, reference.checkpoint
    is_bare_file = reference.pretrained_file is not None or reference.file is not None
    pooling = _pooling_of_file(checkpoint, args) if is_bare_file else {}
    args |= pooling
    module, changes = _load_checkpoint(reference, cfg | dict(checkpoint.cfg), args, checkpoint, num_classes, labels)
    notes = reference.notes if reference.pretrained_file is None else _format_notes(checkpoint, reference)
    if pooling:
        changes = (*changes, "Its head reads the mean of the patches (global_pool = 'avg'), as the file has fc_norm.")
    return LoadedModel(module, reference, weights, (*notes, *checkpoint.notes, *changes))


def _unused_weights_note(reference: ModelReference, model_args: Mapping[str, Any]) -> tuple[str, ...]:
    """A sentence where a model has weights and begins without them; none where its arguments make another model."""
    has_weights = reference.folder is not None or reference.file is not None or reference.hub_id is not None
    changes = {name for name, value in model_args.items() if reference.model_args.get(name, _ABSENT) != value}
    if not has_weights or changes - {"img_size", "weight_init"}:
        return ()
    return (
        f"{reference.text} has weights, and pretrained = false leaves them out: to start from them, "
        "--set pretrained=true.",
    )


def _pooling_of_file(checkpoint: ConvertedCheckpoint, args: Mapping[str, Any]) -> dict[str, str]:
    """timm's ``global_pool`` where the file's names decide it and nobody gave it: fc_norm follows a mean."""
    has_norm_of_mean = "fc_norm.weight" in checkpoint.shapes and "norm.weight" not in checkpoint.shapes
    return {"global_pool": "avg"} if has_norm_of_mean and "global_pool" not in args else {}


def load_for_inference(reference: str | Path, architecture: str | None = None, image_size: int = 0) -> LoadedModel:
    """The model of a finished run, or any reference with a head of its own, in eval mode.

    Args:
        reference: a model reference.
        architecture: the timm name of the model whose weights the file holds, where it does not say so itself; with
            constructor arguments behind a colon, where they differ: ``vit_base_patch16_224:global_pool=avg``.
        image_size: as in :func:`load_model`.

    Raises:
        ModelError: see :func:`load_model`; or an argument without a value.
    """
    if architecture is None:
        model = load_model(str(reference), pretrained=True, image_size=image_size)
    else:
        name, model_args = parse_architecture(architecture)
        model = load_model(name, pretrained=str(reference), model_args=model_args, image_size=image_size)
    model.module.eval()
    return model


def parse_architecture(text: str) -> tuple[str, dict[str, Any]]:
    """A timm name and constructor arguments: ``vit_base_patch16_224:global_pool=avg,qkv_bias=false``.

    Values are numbers, true or false, or text.

    Raises:
        ModelError: an argument without a value.
    """
    name, _, rest = text.partition(":")
    arguments = {}
    for part in rest.split(",") if rest else ():
        key, mark, value = (word.strip() for word in part.partition("="))
        if not mark or not key or not value:
            raise ModelError(
                f"--arch {text}: {part!r} is no argument of a model.\n"
                "Expected NAME:key=value,key=value, for example vit_base_patch16_224:global_pool=avg."
            )
        arguments[key] = _parse_value(value)
    return name, arguments


def _parse_value(text: str) -> bool | int | float | str:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def resolve_with_weights(
    reference: str, pretrained: bool | str, model_args: Mapping[str, Any] | None = None
) -> ModelReference:
    """Resolve the model that a training starts from, and locate its weights before long work that would come first.

    What has to be downloaded is in the cache folder afterwards.

    Args:
        reference: a model reference.
        pretrained: as in :func:`load_model`.
        model_args: likewise.

    Raises:
        ModelError, WeightsUnavailableError: an unknown model, or weights that cannot be had.
    """
    model = resolve_reference(reference, model_args, pretrained if isinstance(pretrained, str) else None)
    if pretrained is not False:
        _ = model.weights
    return model


@dataclass(frozen=True)
class Architecture:
    """The size of a vision transformer: features of a token, blocks, tokens of a picture, and parameters."""

    width: int
    depth: int
    tokens: int
    parameters: int


def measure_architecture(
    reference: ModelReference, model_args: Mapping[str, Any] | None = None, image_size: int = 0
) -> Architecture:
    """The size of a model with its own head, without memory for its weights.

    Args:
        reference: which model.
        model_args: as in :func:`load_model`.
        image_size: likewise.

    Raises:
        ModelError: it cannot be built, or is no vision transformer.
    """
    args = {**reference.model_args, **(model_args or {})} | ({"img_size": image_size} if image_size else {})
    with torch.device("meta"):
        module = _create_module(reference, dict(reference.pretrained_cfg), args)
    require_vision_transformer(module, reference.text)
    patches: Any = module.patch_embed
    return Architecture(
        width=width_of(module),
        depth=len(module.blocks),  # type: ignore[arg-type]
        tokens=int(patches.num_patches) + int(getattr(module, "num_prefix_tokens", 0)),
        parameters=sum(each.numel() for each in module.parameters()),
    )


def training_input(model: LoadedModel, transforms: TransformSpec) -> InputSpec:
    """The model's own input, with what a recipe's transforms ask for: the evaluation crop, and where given the rest."""
    own_input = model.input
    return replace(
        own_input,
        mean=transforms.mean or own_input.mean,
        std=transforms.std or own_input.std,
        crop=transforms.eval_crop,
        crop_mode=transforms.crop_mode or own_input.crop_mode,
        interpolation=transforms.interpolation or own_input.interpolation,
    )


def input_spec(module: nn.Module) -> InputSpec:
    """The input of a timm model: its own size, and all else as timm resolves it from the model's configuration.

    Raises:
        ModelError: the configuration prepares pictures in a way that is not known.
    """
    cfg = resolve_model_data_config(module)
    size = getattr(module.patch_embed, "img_size", None) or cfg["input_size"][-2:]
    mean, std = (tuple(float(value) for value in cfg[name]) for name in ("mean", "std"))
    for name, choices in (("crop_mode", CROP_MODES), ("interpolation", RESIZE_FILTERS)):
        if cfg[name] not in choices:
            raise ModelError(
                f"This model's configuration asks for {name} = {cfg[name]!r}: expected {', '.join(choices)}.\n"
                f"Set {name} in its pretrained_cfg."
            )
    rows, columns = (int(side) for side in size)
    return InputSpec((rows, columns), mean, std, float(cfg["crop_pct"]), cfg["crop_mode"], cfg["interpolation"])  # type: ignore[arg-type]


def width_of(module: nn.Module) -> int:
    """Width of the tokens (timm's num_features)."""
    return int(module.num_features)  # type: ignore[arg-type]


def require_vision_transformer(module: nn.Module, text: str) -> None:
    """Refuse a module that is no plain vision transformer of timm's.

    Raises:
        ModelError: it has no patch embedding followed by blocks; ``text`` says which it is.
    """
    if not hasattr(module, "patch_embed") or not hasattr(module, "blocks"):
        raise ModelError(
            f"{text} is a {type(module).__name__}, not a plain vision transformer: it has no patch embedding "
            "followed by blocks.\nExpected for example vit_base_patch16_224 or deit_tiny_patch16_224."
        )


def _format_notes(checkpoint: ConvertedCheckpoint, reference: ModelReference) -> tuple[str, ...]:
    """Sentences for weights of another library that a person put into a named model."""
    if checkpoint.title == "timm":
        return ()
    notes = [f"Names were carried over from {checkpoint.title}."]
    model_cfg = {name: tuple(reference.pretrained_cfg.get(name, ())) for name in checkpoint.cfg}
    if any(model_cfg[name] != tuple(value) for name, value in checkpoint.cfg.items()):
        mean = ", ".join(f"{value:g}" for value in checkpoint.cfg["mean"])
        notes.append(f"Pictures are normalised as {checkpoint.title} does (mean {mean}), not as {reference.text}.")
    return tuple(notes)


def _make_readout(
    module: nn.Module, readout: Readout, checkpoint: ConvertedCheckpoint, num_classes: int | None, skip: Sequence[str]
) -> None:
    """The file's own head in its way of reading tokens, or a new one where timm could not make it."""
    if num_classes is None:
        attach_head(module, readout, {n: v for n, v in checkpoint.load().items() if n.rpartition(".")[0] in skip})
    elif checkpoint.is_npz:
        module.reset_classifier(num_classes)  # type: ignore[operator]


def _load_checkpoint(
    reference: ModelReference,
    cfg: dict[str, Any],
    args: dict[str, Any],
    checkpoint: ConvertedCheckpoint,
    num_classes: int | None,
    labels: Sequence[str] = (),
) -> tuple[nn.Module, tuple[str, ...]]:
    """A model with the weights of a file, and sentences on what was changed to make them fit.

    ``num_classes`` is what a new head is trained for; None keeps the file's head.
    """
    heads, has_new_head = _head_names(cfg), num_classes is not None
    classes, readout = checkpoint.classes(heads[0]), checkpoint.readout
    skip = _modules_not_loaded(checkpoint, has_new_head=has_new_head)
    own_names = tuple(map(str, cfg.get("label_names") or range(classes)))
    is_of_others = has_new_head and bool(labels) and sorted(own_names) != sorted(labels)
    if has_new_head:
        cfg.pop("label_names", None)
    if readout and (not has_new_head or checkpoint.is_npz):  # timm's reader of .npz would try the file's head
        args = args | {"num_classes": 0}
    # A number of classes that is not the model's makes timm leave the file's head out.
    cfg |= {"source": None, "custom_load": False, "num_classes": 0 if readout or is_of_others else classes}
    # Where the file has every weight, and a missing one is an error, none is drawn at random before. timm reads .npz by
    # itself, without a report.
    is_whole = not (has_new_head or skip or checkpoint.is_npz)
    may_take = checkpoint.path.suffix == ".safetensors"  # which is read into memory; what torch.load gives is mapped
    with collect_load_reports(take_tensors=may_take) as reports, NoRandomValues() if is_whole else nullcontext():
        module = _create_module(reference, cfg, args, checkpoint, skip)
    require_vision_transformer(module, reference.text)
    check_load_reports(reports, checkpoint, module, may_be_new=(*heads, *skip) if has_new_head else skip)
    if readout:
        _make_readout(module, readout, checkpoint, num_classes, skip)
    if checkpoint.eps is not None and not has_new_head:  # a run keeps timm's own, with which others will open it
        _set_epsilon(module, checkpoint.eps)
    module.pretrained_cfg["num_classes"] = int(module.num_classes)  # type: ignore[index, operator, arg-type]
    notes: tuple[str, ...] = (_READOUT_NOTES[readout],) if readout and not has_new_head else ()
    if not notes:
        notes = _head_note(module, classes, readout, is_of_others=is_of_others)
        notes += _reorder_classes(module, heads, own_names, () if readout or is_of_others else labels)
    if has_new_head and checkpoint.eps is not None and checkpoint.eps > _SMALL_EPS:
        notes += (f"The file's layer norms have epsilon {checkpoint.eps:g}; timm's 1e-6 is trained with.",)
    if has_new_head and skip:
        notes += ("The last norm is new, as the file's belongs to its representation.",)
    return module, (*_resampling_notes(module, checkpoint.shapes), *notes)


def _modules_not_loaded(checkpoint: ConvertedCheckpoint, *, has_new_head: bool) -> tuple[str, ...]:
    """What timm's layout has no place for, or what the new head does not read."""
    readout = checkpoint.readout
    if readout and not has_new_head:
        return tuple(head_modules(readout))
    is_of_head = readout == "representation before norm" and has_new_head and _norm_is_of_head(checkpoint)
    return ("norm",) if is_of_head else ()


def _reorder_classes(
    module: nn.Module, heads: Sequence[str], names: Sequence[str], labels: Sequence[str]
) -> tuple[str, ...]:
    """Put the outputs of a module's heads, of these names, into the order of ``labels``, if any; a sentence on it."""
    if not labels or tuple(labels) == tuple(names):
        return ()
    order = [names.index(label) for label in labels]
    with torch.no_grad():
        for head in heads:
            for parameter in module.get_submodule(head).parameters():
                parameter.copy_(parameter[order].clone())
    return ("The classification head is that of the weights, with its classes in the order of the data.",)


def _set_epsilon(module: nn.Module, eps: float) -> None:
    for part in module.modules():
        if isinstance(part, nn.LayerNorm):
            part.eps = eps


def _norm_is_of_head(checkpoint: ConvertedCheckpoint) -> bool:
    """Whether the last norm has another width than the tokens."""
    return checkpoint.shapes.get("norm.weight", ())[:1] != checkpoint.shapes.get("cls_token", ())[-1:]


@contextmanager
def collect_load_reports(*, take_tensors: bool = False) -> Iterator[list[Any]]:
    """Collect what every ``load_state_dict`` inside the block finds missing or unexpected.

    timm itself stops being strict where the number of classes differs: half of another model would go unnoticed.
    With ``take_tensors``, tensors that nobody else holds become the model's own in place of being copied into it.
    """
    original = nn.Module.load_state_dict
    reports: list[Any] = []

    def load(self: nn.Module, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:  # noqa: ARG001
        may_take = take_tensors and _are_own(self, state_dict)
        reports.append(original(self, state_dict, strict=False, assign=assign or may_take))
        return reports[-1]

    nn.Module.load_state_dict = load  # type: ignore[method-assign]
    try:
        yield reports
    finally:
        nn.Module.load_state_dict = original  # type: ignore[method-assign]


def _are_own(module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether all tensors are of the module's kind, and each has memory of its own."""
    kinds = {(each.dtype, each.device) for each in module.parameters()}
    storages = [each.untyped_storage() for each in tensors.values()]
    return (
        {(each.dtype, each.device) for each in tensors.values()} == kinds
        and all(each.is_contiguous() for each in tensors.values())
        and [storage.nbytes() for storage in storages] == [each.nbytes for each in tensors.values()]
        and len({storage.data_ptr() for storage in storages}) == len(storages)
    )


def check_load_reports(
    reports: list[Any], checkpoint: ConvertedCheckpoint, module: nn.Module, *, may_be_new: tuple[str, ...]
) -> None:
    """Refuse weights of another model, by what loading them reported.

    Args:
        reports: from :func:`collect_load_reports`.
        checkpoint: the file's weights in timm's names.
        module: the model they were loaded into.
        may_be_new: modules whose tensors need not be in the file, or be of use: the head, in training.

    Raises:
        ModelError: tensors are missing or left over; they are grouped and explained in a few lines.
    """

    def names(what: str) -> list[str]:
        all_names = [name for report in reports for name in getattr(report, f"{what}_keys")]
        return [name for name in all_names if name.rpartition(".")[0] not in may_be_new]

    missing, left_over = names("missing"), _without_zero_biases(names("unexpected"), checkpoint)
    depths = (count_blocks(checkpoint.shapes), len(module.blocks))  # type: ignore[arg-type]
    next_block = f"Transformer/encoderblock_{depths[1]}/LayerNorm_0/bias"
    is_deeper = next_block in checkpoint.shapes or depths[0] > depths[1]
    if not missing and not left_over and not is_deeper:
        return
    counts = [count_names(names, what) for names, what in ((missing, "missing"), (left_over, "unexpected")) if names]
    lines = [
        f"The weights in {checkpoint.path} do not fit this {type(module).__name__}"
        f"{': ' + '; '.join(counts) if counts else ': it has more blocks'}.",
        explain_mismatch(missing, left_over, depths)
        or "Expected the weights of this very model, with the same model_args.",
    ]
    raise ModelError("\n".join(lines))


def _without_zero_biases(left_over: list[str], checkpoint: ConvertedCheckpoint) -> list[str]:
    """Names that are left over but for biases of zeros, which change nothing: timm has DINOv3 with them and without."""
    biases = [name for name in left_over if name.endswith((".attn.q_bias", ".attn.v_bias"))]
    tensors = checkpoint.load() if biases else {}
    zero_biases = {name for name in biases if not torch.any(tensors[name] != 0)}
    return [name for name in left_over if name not in zero_biases]


def _head_names(cfg: Mapping[str, Any]) -> tuple[str, ...]:
    """The modules that classify, by timm's configuration; a distilled model has two."""
    names = cfg.get("classifier") or "head"
    return (names,) if isinstance(names, str) else tuple(names)


def _head_note(
    module: nn.Module, file_classes: int, readout: str | None = None, *, is_of_others: bool = False
) -> tuple[str, ...]:
    """A sentence where the head does not come from the weights, which have one for ``file_classes`` classes.

    Args:
        module: the model.
        file_classes: number of classes of the weights.
        readout: how the weights' head reads the tokens, where the model has no place for it.
        is_of_others: the weights' classes have other names.
    """
    classes = int(getattr(module, "num_classes", 0))
    if classes == file_classes and readout is None and not is_of_others:
        return ()
    other = "other class" if is_of_others and file_classes == classes else "class"
    how = {"class and mean": ", which reads the mean of the patches too", None: ""}
    text = how.get(readout, " with its representation")
    before = (
        f"the one in the weights, for {count_of(file_classes, other, other + 'es')}{text}, is left out"
        if file_classes
        else "the weights have none"
    )
    return (f"The classification head is new, for {count_of(classes, 'class', 'classes')}; {before}.",)


def _resampling_notes(module: nn.Module, shapes: Mapping[str, Shape]) -> tuple[str, ...]:
    """Sentences where position embeddings were brought to another grid, or patches to another size."""
    return (*_positions_note(module, shapes), *_patches_note(module, shapes))


def _positions_note(module: nn.Module, shapes: Mapping[str, Shape]) -> tuple[str, ...]:
    here = getattr(module, "pos_embed", None)
    there = shapes.get("pos_embed", shapes.get(_NPZ_POSITIONS))
    grid = getattr(module.patch_embed, "grid_size", None)
    if not isinstance(here, torch.Tensor) or there is None or len(there) != 3 or grid is None:
        return ()
    if there[1] == here.shape[1]:
        return ()
    has_prefix = not getattr(module, "no_embed_class", False) or "register_tokens" in shapes  # Meta's have the class's
    prefix = int(getattr(module, "num_prefix_tokens", 0)) if has_prefix else 0
    side = round((there[1] - prefix) ** 0.5)
    if (side, side) == tuple(grid):
        return ()
    return (f"Position embeddings were resampled from {side} x {side} to {grid[0]} x {grid[1]} patches.",)


def _patches_note(module: nn.Module, shapes: Mapping[str, Shape]) -> tuple[str, ...]:
    here = getattr(getattr(module.patch_embed, "proj", None), "weight", None)
    there = shapes.get("patch_embed.proj.weight", ())
    if not isinstance(here, torch.Tensor) or len(there) != 4 or here.ndim != 4 or tuple(here.shape[2:]) == there[2:]:
        return ()
    return (
        f"The patch embedding was resampled from patches of {there[2]} x {there[3]} pixels to "
        f"{here.shape[2]} x {here.shape[3]}.",
    )


def _create_module(
    reference: ModelReference,
    cfg: dict[str, Any],
    args: dict[str, Any],
    checkpoint: ConvertedCheckpoint | None = None,
    skip: tuple[str, ...] = (),
) -> nn.Module:
    """timm's model with the checkpoint's weights in it.

    Args:
        reference: which model.
        cfg: timm's description of the weights.
        args: timm's constructor arguments.
        checkpoint: the weights; None for random ones.
        skip: modules in timm's layout whose tensors are not loaded.

    Raises:
        ModelError: it cannot be built, or the weights do not fit.
    """
    logging.getLogger("timm").setLevel(logging.ERROR)  # what timm would log is said in our own words
    if checkpoint is not None and checkpoint.is_npz:
        cfg = cfg | {"file": str(checkpoint.path), "custom_load": True}
    elif checkpoint is not None:
        _require_plausible(reference, args, checkpoint)
        cfg = cfg | {"state_dict": _state_dict(checkpoint, cfg, args, skip)}
    try:
        with _without_deep_copies(cfg.get("state_dict", {})):
            module: nn.Module = create_timm_model(
                reference.architecture, pretrained=checkpoint is not None, pretrained_cfg=cfg, **args
            )
    except Exception as error:  # arguments and files from outside: timm checks neither before it uses them
        raise _creation_error(error, reference, cfg, args, checkpoint) from error
    for name in ("state_dict", "file"):
        module.pretrained_cfg.pop(name, None)  # type: ignore[operator, union-attr]
    return module


def _creation_error(
    error: Exception,
    reference: ModelReference,
    cfg: dict[str, Any],
    args: dict[str, Any],
    checkpoint: ConvertedCheckpoint | None,
) -> ModelError:
    """What timm could not build or load, in our own words."""
    reason = error_summary(error, 300)
    if "argument" in reason and isinstance(error, TypeError):
        return ModelError(f"{reference.architecture} does not take these model_args: {reason}")
    what = "it cannot be built" if checkpoint is None else f"the weights in {checkpoint.path} do not fit"
    why = group_size_mismatches(str(error)) or reason
    if checkpoint is not None and not checkpoint.is_npz:
        why = _explain_names(reference, cfg, args, checkpoint.shapes) or why
    return ModelError(f"{reference.text}: {what}.\n{why}")


def _require_plausible(reference: ModelReference, args: dict[str, Any], checkpoint: ConvertedCheckpoint) -> None:
    """Refuse a configuration whose numbers are far above those of its weights, before memory is taken for them."""
    kernel, positions = checkpoint.shapes.get("patch_embed.proj.weight", ()), checkpoint.shapes.get("pos_embed", ())
    size = args.get("img_size")
    patches = size // kernel[-1] if _is_int(size) and len(kernel) == 4 and kernel[-1] else 0
    for what, in_file, in_model in (
        ("width", kernel[0] if kernel else 0, args.get("embed_dim")),
        ("number of blocks", count_blocks(checkpoint.shapes), args.get("depth")),
        ("number of patches along a side", math.isqrt(positions[1]) if len(positions) == 3 else 0, patches),
    ):
        if in_file and _is_int(in_model) and in_model > _LARGEST_RATIO * in_file:
            raise ModelError(
                f"{reference.text}: the weights in {checkpoint.path} do not fit.\n"
                f"size mismatch: the {what} is {in_file} in the file and {in_model:,} in the model"
            )


def _is_int(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _explain_names(
    reference: ModelReference, cfg: dict[str, Any], args: dict[str, Any], shapes: Mapping[str, Shape]
) -> str:
    """What the names alone say, where loading stopped at a size; empty where they are the model's."""
    try:
        with torch.device("meta"):
            bare_cfg = {name: value for name, value in cfg.items() if name != "state_dict"}
            module: nn.Module = create_timm_model(reference.architecture, pretrained_cfg=bare_cfg, **args)
        depth = len(module.blocks)  # type: ignore[arg-type]
    except Exception:  # it cannot be built at all, which the error says already
        return ""
    heads = _head_names(cfg)
    in_model = {name for name in module.state_dict() if name.rpartition(".")[0] not in heads}
    in_file = {name for name in shapes if name.rpartition(".")[0] not in heads}
    return explain_mismatch(sorted(in_model - in_file), sorted(in_file - in_model), (count_blocks(shapes), depth))


@contextmanager
def _without_deep_copies(tensors: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Have deep copies of these tensors be themselves: timm copies descriptions of weights, and these with them."""
    for each in tensors.values():
        each.__deepcopy__ = partial(_itself, each)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for each in tensors.values():
            del each.__deepcopy__


def _itself(tensor: torch.Tensor, _memo: dict[int, Any]) -> torch.Tensor:
    return tensor


def _state_dict(
    checkpoint: ConvertedCheckpoint, cfg: Mapping[str, Any], args: Mapping[str, Any], skip: tuple[str, ...]
) -> dict[str, torch.Tensor]:
    """The file's tensors, positions on the model's grid where their own library resamples them in its own way."""
    state = {name: value for name, value in checkpoint.load().items() if name.rpartition(".")[0] not in skip}
    kernel, positions = checkpoint.shapes.get("patch_embed.proj.weight"), checkpoint.shapes.get("pos_embed")
    if checkpoint.resample_positions is None or kernel is None or positions is None:
        return state
    if len(kernel) != 4 or len(positions) != 3:
        return state
    size = args.get("img_size") or tuple(cfg.get("input_size", (3, 224, 224)))[-2:]
    rows, columns = (size, size) if isinstance(size, int) else size
    if min(rows, columns) >= kernel[-1]:
        grid = (rows // kernel[-1], columns // kernel[-1])
        state["pos_embed"] = checkpoint.resample_positions(state["pos_embed"], grid)
    return state
