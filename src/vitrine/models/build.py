"""A vision transformer from a reference: built by timm, loaded from a named file, its origin kept."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from vitrine.errors import ModelError
from vitrine.models.fitting import head_names, head_note, require_all_loaded, resampling_note, watched_loading
from vitrine.models.reference import ModelSource, understand
from vitrine.models.weights import WeightsFile, locate_weights, read_shapes
from vitrine.torchpair import require_torchvision

require_torchvision()

import timm  # noqa: E402


@dataclass(frozen=True)
class InputSpec:
    """What a model wants to see: a square picture, normalised per channel on a 0-to-1 scale.

    Attributes:
        size: side of the square, in pixels.
        mean, std: per channel.
        crop: share of the resized short side that the centre crop keeps (timm's crop_pct).
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop: float


@dataclass(frozen=True)
class BuiltModel:
    """A model ready for use.

    Attributes:
        module: the timm model, float32, on the CPU.
        source: the reference it was built from.
        weights: the file its weights came from; None for random ones.
        notes: sentences on what was changed to make the weights fit.
    """

    module: nn.Module
    source: ModelSource
    weights: WeightsFile | None
    notes: tuple[str, ...] = ()

    @property
    def input(self) -> InputSpec:
        """Input size and normalisation, as the model's own pretrained_cfg states them."""
        return input_spec(self.module)


def build(
    reference: str,
    *,
    pretrained: bool | str,
    num_classes: int | None = None,
    image_size: int = 0,
    model_args: Mapping[str, Any] | None = None,
    drop_path: float = 0.0,
    patch_drop: float = 0.0,
) -> BuiltModel:
    """Build a vision transformer and load its weights.

    Args:
        reference: a model reference (see :func:`understand`).
        pretrained: load the reference's own weights, none (random, from torch's global seed), or a local file's.
        num_classes: size of a new head; None keeps the head that belongs to the weights.
        image_size: side of the square input in pixels; 0 asks the model. Position embeddings are resampled to fit.
        model_args: timm constructor arguments that replace the reference's own.
        drop_path: stochastic depth of the last block, 0 to 1 (training only).
        patch_drop: share of patch tokens dropped (training only), 0 to 1.

    Raises:
        ModelError: unknown model, unusable arguments, weights that do not fit, or not a vision transformer.
        WeightsUnavailableError: the weights are not here and cannot be fetched.
    """
    source = understand(reference)
    regularisers = {"drop_path_rate": drop_path, "patch_drop_rate": patch_drop}
    # What regularised the training that wrote a run is not wanted by whoever opens it.
    args: dict[str, Any] = {k: v for k, v in source.model_args.items() if k not in regularisers} | dict(
        model_args or {}
    )
    if image_size:
        args["img_size"] = image_size
    if num_classes is not None:
        args["num_classes"] = num_classes
    args |= {name: value for name, value in regularisers.items() if value}
    cfg: dict[str, Any] = dict(source.pretrained_cfg)
    if pretrained is False:
        module = _create(source, cfg, args, weights=None)
        _require_vision_transformer(module, reference)
        return BuiltModel(module, source, None)
    weights = locate_weights(source, pretrained if isinstance(pretrained, str) else None)
    stored = read_shapes(weights.path)
    heads = head_names(cfg)
    stored_classes = stored.get(f"{heads[0]}.weight", stored.get("head/bias", (0,)))[0]
    cfg |= {"file": str(weights.path), "source": None, "custom_load": weights.path.suffix == ".npz"}
    cfg["num_classes"] = stored_classes  # a file may have another head than timm's weights of this name
    with watched_loading() as loads:
        module = _create(source, cfg, args, weights=weights)
    _require_vision_transformer(module, reference)
    require_all_loaded(loads, stored, module, weights, may_be_new=heads if num_classes is not None else ())
    notes = (*resampling_note(module, stored), *head_note(module, stored_classes))
    return BuiltModel(module, source, weights, notes)


def require_available(reference: str, pretrained: bool | str) -> None:
    """Refuse an unknown model, or weights that cannot be had, before long work that would come first.

    What has to be downloaded is in the cache folder afterwards.

    Raises:
        ModelError, WeightsUnavailableError: as :func:`build` would.
    """
    source = understand(reference)
    if pretrained is not False:
        locate_weights(source, pretrained if isinstance(pretrained, str) else None)


def _create(
    source: ModelSource, cfg: dict[str, Any], args: dict[str, Any], *, weights: WeightsFile | None
) -> nn.Module:
    logging.getLogger("timm").setLevel(logging.ERROR)  # what timm would log is said in our own words
    try:
        module: nn.Module = timm.create_model(
            source.architecture, pretrained=weights is not None, pretrained_cfg=cfg, **args
        )
    except Exception as error:  # arguments and files from outside: timm checks neither before it uses them
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        if "argument" in reason and isinstance(error, TypeError):
            raise ModelError(f"{source.architecture} does not take these model_args: {reason}") from error
        what = "it cannot be built" if weights is None else f"the weights in {weights.path} do not fit"
        raise ModelError(f"{source.reference}: {what}.\n{reason}") from error
    return module


def _require_vision_transformer(module: nn.Module, reference: str) -> None:
    if not hasattr(module, "patch_embed") or not hasattr(module, "blocks"):
        raise ModelError(
            f"{reference} is a {type(module).__name__}, not a plain vision transformer: it has no patch embedding "
            "followed by blocks.\nExpected for example vit_base_patch16_224 or deit_tiny_patch16_224."
        )


def input_spec(module: nn.Module) -> InputSpec:
    """Input size and normalisation of a timm model, from its own configuration.

    Raises:
        ModelError: its input is not square.
    """
    cfg: Mapping[str, Any] = module.pretrained_cfg  # type: ignore[assignment]
    size = getattr(module.patch_embed, "img_size", None) or tuple(cfg["input_size"][-2:])
    if size[0] != size[1]:
        raise ModelError(
            f"This model takes pictures of {size[0]} x {size[1]} pixels: pictures are cut to squares only.\n"
            "Build it with a square img_size."
        )
    mean, std = tuple(float(v) for v in cfg["mean"]), tuple(float(v) for v in cfg["std"])
    return InputSpec(int(size[0]), mean, std, float(cfg.get("crop_pct") or 1.0))  # type: ignore[arg-type]


def width_of(module: nn.Module) -> int:
    """Width of the tokens (timm's num_features)."""
    return int(module.num_features)  # type: ignore[arg-type]


def open_run(reference: str | Path, architecture: str | None = None) -> BuiltModel:
    """The model of a finished run, or any reference with a head of its own, in eval mode.

    Args:
        reference: a model reference; with ``architecture``, a weights file.
        architecture: the timm name of the model whose weights the file holds.
    """
    own = architecture is None
    built = build(str(reference) if own else str(architecture), pretrained=True if own else str(reference))
    built.module.eval()
    return built
