"""A vision transformer from a reference: built by timm, loaded from a named file, its origin kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from vitrine.errors import ModelError
from vitrine.models.creation import create_module
from vitrine.models.fitting import head_names, head_note, require_all_loaded, resampling_notes, watched_loading
from vitrine.models.formats.carried import Carried
from vitrine.models.formats.readouts import attach, own_modules
from vitrine.models.formats.table import carry
from vitrine.models.reference import ModelSource, understand
from vitrine.models.weights import WeightsFile, locate_weights
from vitrine.torchpair import require_torchvision

require_torchvision()


_SMALL_EPS = 1e-5  # up to here a layer norm's epsilon changes nothing that can be seen
_OWN_HEADS = {
    "class and mean": "Its head reads the class token and the mean of the patches.",
    "representation": "Its head has a representation layer after the last norm.",
    "representation before norm": "Its head has a representation layer before the last norm.",
}


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
    source = understand(reference, model_args)
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
        module = create_module(source, cfg, args)
        _require_vision_transformer(module, reference)
        return BuiltModel(module, source, None)
    weights = locate_weights(source, pretrained if isinstance(pretrained, str) else None)
    carried = carry(weights.path)
    module, notes = _loaded(source, cfg | dict(carried.cfg), args, carried, num_classes)
    told = source.notes if not isinstance(pretrained, str) else _format_notes(carried, source)
    return BuiltModel(module, source, weights, (*told, *carried.notes, *notes))


def _format_notes(carried: Carried, source: ModelSource) -> tuple[str, ...]:
    """Sentences for weights of another library that a person put into a named model."""
    if carried.title == "timm":
        return ()
    told = [f"Names were carried over from {carried.title}."]
    own = {name: tuple(source.pretrained_cfg.get(name, ())) for name in carried.cfg}
    if any(own[name] != tuple(value) for name, value in carried.cfg.items()):
        mean = ", ".join(f"{value:g}" for value in carried.cfg["mean"])
        told.append(f"Pictures are normalised as {carried.title} does (mean {mean}), not as {source.reference}.")
    return tuple(told)


def _loaded(
    source: ModelSource, cfg: dict[str, Any], args: dict[str, Any], carried: Carried, wanted: int | None
) -> tuple[nn.Module, tuple[str, ...]]:
    """A model with the weights of a file, and sentences on what was changed to make them fit.

    ``wanted`` is the number of classes to train for; None keeps the file's head.
    """
    heads, new_head = head_names(cfg), wanted is not None
    classes, own = carried.classes(heads[0]), carried.readout
    aside = own_modules(own) if own and not new_head else ()  # what only a head of its own has a place for
    if own == "representation before norm" and new_head and _norm_is_of_head(carried):
        aside = ("norm",)
    if new_head:
        cfg.pop("label_names", None)
    if own and (not new_head or carried.npz):  # timm's reader of .npz would try the file's head
        args = args | {"num_classes": 0}
    cfg |= {"source": None, "custom_load": False, "num_classes": 0 if own else classes}
    with watched_loading() as loads:
        module = create_module(source, cfg, args, carried, aside)
    _require_vision_transformer(module, source.reference)
    require_all_loaded(loads, carried, module, may_be_new=(*heads, *aside) if new_head else aside)
    if own and new_head and carried.npz:
        module.reset_classifier(wanted)  # type: ignore[operator]
    if own and not new_head:
        attach(module, own, {n: v for n, v in carried.make().items() if n.rpartition(".")[0] in aside})
    if carried.eps is not None and not new_head:  # a run keeps timm's own, with which others will open it
        for part in module.modules():
            if isinstance(part, nn.LayerNorm):
                part.eps = carried.eps
    module.pretrained_cfg["num_classes"] = int(module.num_classes)  # type: ignore[index, operator, arg-type]
    changed = head_note(module, classes, own) if new_head or not own else (_OWN_HEADS[own],)
    if new_head and carried.eps is not None and carried.eps > _SMALL_EPS:
        changed += (f"The file's layer norms have epsilon {carried.eps:g}; timm's 1e-6 is trained with.",)
    if new_head:
        changed += ("The last norm is new, as the file's belongs to its representation.",) if aside else ()
    return module, (*resampling_notes(module, carried.shapes), *changed)


def _norm_is_of_head(carried: Carried) -> bool:
    """Whether the last norm has another width than the tokens."""
    return carried.shapes.get("norm.weight", ())[:1] != carried.shapes.get("cls_token", ())[-1:]


def require_available(reference: str, pretrained: bool | str) -> None:
    """Refuse an unknown model, or weights that cannot be had, before long work that would come first.

    What has to be downloaded is in the cache folder afterwards.

    Raises:
        ModelError, WeightsUnavailableError: as :func:`build` would.
    """
    own_file = Path(reference).expanduser()
    if pretrained is not False and own_file.is_file():
        carry(own_file)  # which model it is of may depend on model_args
        return
    source = understand(reference)
    if pretrained is not False:
        locate_weights(source, pretrained if isinstance(pretrained, str) else None)


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
        reference: a model reference.
        architecture: the timm name of the model whose weights the file holds, where it does not say so itself.
    """
    own = architecture is None
    built = build(str(reference) if own else str(architecture), pretrained=True if own else str(reference))
    built.module.eval()
    return built
