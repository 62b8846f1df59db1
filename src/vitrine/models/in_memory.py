"""A model that a person holds in memory: timm's as it is, or one of transformers carried over to timm's and compared.

timm's module stays the person's: it is looked at in eval mode, and is as it was afterwards. Of another library's, a
copy under timm's names is looked at; a training of the original that goes on is not seen by it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
from torch import nn

from vitrine.config.preprocessing import InputSpec
from vitrine.errors import ModelError, UsageError, error_summary
from vitrine.models.checkpoints.image_processor import PROCESSOR_FILE
from vitrine.models.checkpoints.state_dict import StateDictFile
from vitrine.models.checkpoints.transformers import convert_transformers, describe_transformers
from vitrine.models.load import LoadedModel, input_spec, load_model, require_vision_transformer
from vitrine.models.reference import ModelReference

T = TypeVar("T")

_INPUT_KEYS = ("input_size", "mean", "std", "crop_pct", "crop_mode", "interpolation")
_WRAPPERS = ("_orig_mod", "module")  # of torch.compile, and of DataParallel and its kin
_LARGEST_DIFFERENCE = 1e-3  # of two libraries' logits in float32, as a share of the largest


@dataclass(frozen=True)
class MemoryModel:
    """A model in memory, ready to be looked at.

    Attributes:
        loaded_model: the model; its reference says what it is called.
        labels: class names that the model itself has; none where it has none.
        spec: how pictures are prepared for it.
        is_own: whether the module is the person's, and not a copy.
    """

    loaded_model: LoadedModel
    labels: tuple[str, ...]
    spec: InputSpec
    is_own: bool


def model_in_memory(module: nn.Module, how_prepared: Any = None) -> MemoryModel:
    """Look at a module that a person holds.

    Args:
        module: a timm vision transformer, or a ViT, DeiT or DINOv2 classifier of transformers; also inside of what
            torch.compile or DistributedDataParallel made of it.
        how_prepared: how pictures are prepared, where the model does not say: timm's data configuration, or an image
            processor of transformers.

    Raises:
        ModelError: another kind of module, weights that are not float32, or logits that are not the same after they
            were carried over.
        UsageError: ``how_prepared`` cannot be read.
    """
    own_module = _unwrap(module)
    _require_float32(own_module)
    if hasattr(own_module, "config") and hasattr(own_module, "save_pretrained"):
        return _carry_over(own_module, how_prepared)
    name = f"{type(own_module).__name__} in memory"
    require_vision_transformer(own_module, name)
    cfg = dict(getattr(own_module, "pretrained_cfg", None) or {})
    labels = tuple(map(str, cfg.get("label_names") or ()))
    reference = ModelReference(name, str(cfg.get("architecture") or type(own_module).__name__), pretrained_cfg=cfg)
    spec, notes = _with_changes(input_spec(own_module), how_prepared)
    loaded_model = LoadedModel(own_module, reference, None, notes, is_in_memory=True)
    return MemoryModel(loaded_model, labels, spec, is_own=True)


def require_picklable(module: nn.Module) -> None:
    """Refuse a module with hooks that are lambdas or functions inside of functions, which pickle cannot name.

    Raises:
        UsageError: it says which, and what to do.
    """
    for name, part in module.named_modules():
        for hooks in (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks, part._backward_pre_hooks):
            for hook in hooks.values():
                if "<" in getattr(hook, "__qualname__", ""):
                    raise UsageError(
                        f"The model has a hook {hook.__qualname__} at {name or 'its outside'}, which cannot be "
                        "pickled.\nRemove it first (the handle's remove()), or make it a function of a module."
                    )


def _unwrap(module: nn.Module) -> nn.Module:
    while (inner := next((getattr(module, name, None) for name in _WRAPPERS if name in dir(module)), None)) is not None:
        if not isinstance(inner, nn.Module):
            break
        module = inner
    return module


def _require_float32(module: nn.Module) -> None:
    kinds = {str(each.dtype).removeprefix("torch.") for each in module.parameters()}
    if not kinds:
        raise ModelError(f"{type(module).__name__} has no weights: expected a vision transformer.")
    if any(each.is_meta for each in module.parameters()):
        raise ModelError(
            f"This {type(module).__name__} is on the meta device, where weights have no values: load them first."
        )
    if kinds != {"float32"}:
        raise ModelError(
            f"The weights of this {type(module).__name__} are {', '.join(sorted(kinds))}: expected float32.\n"
            "Give model.float(); precision='bf16' computes in bf16."
        )


def _with_changes(spec: InputSpec, how_prepared: Any) -> tuple[InputSpec, tuple[str, ...]]:
    """The model's own input with what a person says otherwise, in timm's words, and a sentence where it does not fit.

    The size is the module's own: timm's ``resolve_model_data_config`` gives that of the weights, whatever ``img_size``
    the module was made with.
    """
    if how_prepared is None:
        return spec, ()
    values = _timm_words(how_prepared)
    if unknown := [key for key in values if key not in _INPUT_KEYS]:
        raise UsageError(f"input has {', '.join(map(repr, unknown))}: expected {', '.join(_INPUT_KEYS)}.")
    size = tuple(values.get("input_size", spec.size))[-2:]
    note: tuple[str, ...] = ()
    if size != spec.size:
        own_size = f"{spec.size[0]} x {spec.size[1]}"
        note = (f"Pictures become {own_size} pixels, which the model takes, whatever the input's size says.",)
    changed_spec = replace(
        spec,
        mean=_three(values.get("mean", spec.mean)),
        std=_three(values.get("std", spec.std)),
        crop=float(values.get("crop_pct") or spec.crop),
        crop_mode=str(values.get("crop_mode") or spec.crop_mode),
        interpolation=str(values.get("interpolation") or spec.interpolation),
    )
    return changed_spec, note


def _three(values: Any) -> tuple[float, float, float]:
    """A number for each channel.

    Raises:
        UsageError: they are not three.
    """
    try:
        red, green, blue = (float(value) for value in values)
    except (TypeError, ValueError):
        raise UsageError(f"input has {values!r} for a mean or std: expected three numbers, one a channel.") from None
    return red, green, blue


def _timm_words(how_prepared: Any) -> Mapping[str, Any]:
    if isinstance(how_prepared, Mapping):
        return how_prepared
    raise UsageError(
        f"input is of the type {type(how_prepared).__name__}: expected timm's data configuration, such as "
        "timm.data.resolve_model_data_config(model), or of a model of transformers its image processor."
    )


def _carry_over(module: nn.Module, processor: Any) -> MemoryModel:
    """A copy of a transformers model under timm's names, whose logits were compared."""
    name = f"{type(module).__name__} in memory"
    with TemporaryDirectory(prefix="vitrine-") as place:
        folder = Path(place)  # its configuration is read as that of a folder; the weights stay in memory
        _write_json(folder / "config.json", _configuration(module))
        if processor is not None:
            _write_json(folder / PROCESSOR_FILE, _processor_words(processor))
        tensors = {key: value.detach().to("cpu", copy=True) for key, value in module.state_dict().items()}
        shapes = {key: tuple(value.shape) for key, value in tensors.items()}
        file = StateDictFile(folder / "model.safetensors", shapes, read=lambda: dict(tensors))
        description, checkpoint = describe_transformers(folder), convert_transformers(file)
    cfg, labels = dict(description.cfg), tuple(map(str, description.cfg.get("label_names") or ()))
    reference = ModelReference(
        name,
        description.architecture,
        description.model_args,
        cfg,
        notes=description.notes,
        problem_type=description.problem_type,
    )
    reference.__dict__["checkpoint"] = checkpoint  # in place of one that is read from a file
    reference.__dict__["weights"] = None
    loaded_model = load_model(reference, pretrained=True)
    loaded_model.module.eval()
    notes = (*loaded_model.notes, _compare_logits(module, loaded_model.module, loaded_model.input))
    loaded_model = replace(loaded_model, reference=replace(reference), weights=None, notes=notes, is_in_memory=True)
    return MemoryModel(loaded_model, labels, loaded_model.input, is_own=False)


def _configuration(module: nn.Module) -> dict[str, Any]:
    config = module.config.to_dict()  # type: ignore[union-attr, operator]
    return {**config, "architectures": [type(module).__name__]}


def _processor_words(processor: Any) -> dict[str, Any]:
    if not hasattr(processor, "to_dict"):
        raise UsageError(f"input is of the type {type(processor).__name__}: expected this model's image processor.")
    words: dict[str, Any] = processor.to_dict()
    return words


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, default=str), "utf-8")


def _compare_logits(module: nn.Module, copy: nn.Module, spec: InputSpec) -> str:
    """A sentence on how near the logits of the copy are to the original's, for the same random input.

    Raises:
        ModelError: they differ by more than rounding.
    """
    generator = torch.Generator().manual_seed(0)
    pixels_BCHW = torch.randn(2, 3, *spec.size, generator=generator)
    device = next(module.parameters()).device
    with evaluating(module), torch.no_grad():
        try:
            expected_BC = module(pixel_values=pixels_BCHW.to(device)).logits.float().cpu()
        except (AttributeError, TypeError, ValueError, RuntimeError) as error:
            raise ModelError(
                f"{type(module).__name__} gives no logits for a picture ({error_summary(error, 120)}): expected a "
                "classifier, such as ViTForImageClassification."
            ) from error
        logits_BC = copy(pixels_BCHW).float()
    if logits_BC.shape != expected_BC.shape:
        raise ModelError(f"{type(module).__name__} could not be carried over: its classes are others in timm's model.")
    difference = float((logits_BC - expected_BC).abs().max())
    if not difference <= _LARGEST_DIFFERENCE * max(1.0, float(expected_BC.abs().max())):
        raise ModelError(
            f"{type(module).__name__} could not be carried over to timm's model: logits differ by {difference:.3g}.\n"
            "Please report it with the model's configuration."
        )
    return f"Carried over from transformers; logits of a random input differ by {difference:.1e} at most."


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """A module in eval mode inside the block; afterwards every part of it is in the mode that it was in."""
    parts = [(part, part.training) for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part, mode in parts:
            part.training = mode


def in_eval_mode(module: nn.Module, source: Iterator[T]) -> Iterator[T]:
    """The items of an iterator that runs the module for each, in eval mode only while it does."""
    while True:
        with evaluating(module):
            item = next(source, None)
        if item is None:
            return
        yield item
