"""A vision transformer from a reference: built by timm, loaded from a named file, its origin kept."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

import timm
import torch
from torch import nn

from vitrine.config import Recipe
from vitrine.config.preprocessing import InputSpec
from vitrine.errors import ModelError
from vitrine.models.checkpoints.base import ConvertedCheckpoint, counted, explained, mismatches
from vitrine.models.checkpoints.heads import attach, own_modules
from vitrine.models.checkpoints.registry import convert
from vitrine.models.checkpoints.state_dict import Shape
from vitrine.models.checkpoints.timm import count_blocks
from vitrine.models.reference import ModelReference, WeightsFile, locate_weights, resolve_reference

_NPZ_POSITIONS = "Transformer/posembed_input/pos_embedding"  # in the files of the ViT paper's authors


@contextmanager
def collect_load_reports() -> Iterator[list[Any]]:
    """What every ``load_state_dict`` inside finds missing or unexpected.

    timm itself stops being strict where the number of classes differs: half of another model would go unnoticed.
    """
    original = nn.Module.load_state_dict
    loads: list[Any] = []

    def watched(self: nn.Module, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:  # noqa: ARG001
        loads.append(original(self, state_dict, strict=False, assign=assign))
        return loads[-1]

    nn.Module.load_state_dict = watched  # type: ignore[method-assign]
    try:
        yield loads
    finally:
        nn.Module.load_state_dict = original  # type: ignore[method-assign]


def check_load_reports(
    loads: list[Any], carried: ConvertedCheckpoint, module: nn.Module, *, may_be_new: tuple[str, ...]
) -> None:
    """Refuse weights of another model.

    Args:
        loads: from :func:`collect_load_reports`.
        carried: the file's weights in timm's names.
        module: the model they were loaded into.
        may_be_new: modules whose tensors need not be in the file, or be of use: the head, in training.

    Raises:
        ModelError: tensors are missing or left over; they are grouped and explained in a few lines.
    """

    def names(what: str) -> list[str]:
        found = [name for load in loads for name in getattr(load, f"{what}_keys")]
        return [name for name in found if name.rpartition(".")[0] not in may_be_new]

    missing, unexpected = names("missing"), names("unexpected")
    depths = (count_blocks(carried.shapes), len(module.blocks))  # type: ignore[arg-type]
    deeper = f"Transformer/encoderblock_{depths[1]}/LayerNorm_0/bias" in carried.shapes or depths[0] > depths[1]
    if not missing and not unexpected and not deeper:
        return
    told = [counted(given, what) for given, what in ((missing, "missing"), (unexpected, "unexpected")) if given]
    lines = [
        f"The weights in {carried.path} do not fit this {type(module).__name__}"
        f"{': ' + '; '.join(told) if told else ': it has more blocks'}.",
        explained(missing, unexpected, depths) or "Expected the weights of this very model, with the same model_args.",
    ]
    raise ModelError("\n".join(lines))


def head_names(cfg: Mapping[str, Any]) -> tuple[str, ...]:
    """The modules that classify, by timm's configuration; a distilled model has two."""
    names = cfg.get("classifier") or "head"
    return (names,) if isinstance(names, str) else tuple(names)


def head_note(module: nn.Module, stored: int, own: str | None = None) -> tuple[str, ...]:
    """A sentence where the head does not come from the weights, which have one for ``stored`` classes.

    Args:
        module: the model.
        stored: number of classes of the weights.
        own: how the weights' head reads the tokens, where the model has no place for it.
    """
    wanted = int(getattr(module, "num_classes", 0))
    if wanted == stored and own is None:
        return ()
    how = {"class and mean": ", which reads the mean of the patches too", None: ""}.get(own, " with its representation")
    before = f"the one in the weights, for {stored:,} classes{how}, is left out" if stored else "the weights have none"
    return (f"The classification head is new, for {wanted:,} classes; {before}.",)


def resampling_notes(module: nn.Module, stored: Mapping[str, Shape]) -> tuple[str, ...]:
    """Sentences where position embeddings were brought to another grid, or patches to another size."""
    return (*_positions_note(module, stored), *_patches_note(module, stored))


def _positions_note(module: nn.Module, stored: Mapping[str, Shape]) -> tuple[str, ...]:
    here = getattr(module, "pos_embed", None)
    there = stored.get("pos_embed", stored.get(_NPZ_POSITIONS))
    grid = getattr(module.patch_embed, "grid_size", None)
    if not isinstance(here, torch.Tensor) or there is None or len(there) != 3 or grid is None:
        return ()
    if there[1] == here.shape[1]:
        return ()
    prefix = int(getattr(module, "num_prefix_tokens", 0)) if not getattr(module, "no_embed_class", False) else 0
    side = round((there[1] - prefix) ** 0.5)
    return (f"Position embeddings were resampled from {side} x {side} to {grid[0]} x {grid[1]} patches.",)


def _patches_note(module: nn.Module, stored: Mapping[str, Shape]) -> tuple[str, ...]:
    here = getattr(getattr(module.patch_embed, "proj", None), "weight", None)
    there = stored.get("patch_embed.proj.weight", ())
    if not isinstance(here, torch.Tensor) or len(there) != 4 or here.ndim != 4 or tuple(here.shape[2:]) == there[2:]:
        return ()
    return (
        f"The patch embedding was resampled from patches of {there[2]} x {there[3]} pixels to "
        f"{here.shape[2]} x {here.shape[3]}.",
    )


_FAR = 32  # times the file's number, where a model is refused before it is made


def create_module(
    source: ModelReference,
    cfg: dict[str, Any],
    args: dict[str, Any],
    carried: ConvertedCheckpoint | None = None,
    aside: tuple[str, ...] = (),
) -> nn.Module:
    """timm's model, with the carried weights in it but for the modules that are left aside.

    Args:
        source: which model.
        cfg: timm's description of the weights.
        args: timm's constructor arguments.
        carried: the weights; None for random ones.
        aside: modules in timm's layout whose tensors are not loaded.

    Raises:
        ModelError: it cannot be built, or the weights do not fit.
    """
    logging.getLogger("timm").setLevel(logging.ERROR)  # what timm would log is said in our own words
    if carried is not None and carried.npz:
        cfg = cfg | {"file": str(carried.path), "custom_load": True}
    elif carried is not None:
        _require_likely(source, args, carried)
        cfg = cfg | {"state_dict": _state(carried, cfg, args, aside)}
    try:
        module: nn.Module = timm.create_model(
            source.architecture, pretrained=carried is not None, pretrained_cfg=cfg, **args
        )
    except Exception as error:  # arguments and files from outside: timm checks neither before it uses them
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        if "argument" in reason and isinstance(error, TypeError):
            raise ModelError(f"{source.architecture} does not take these model_args: {reason}") from error
        what = "it cannot be built" if carried is None else f"the weights in {carried.path} do not fit"
        why = mismatches(str(error)) or reason
        if carried is not None and not carried.npz:
            why = _other_names(source, cfg, args, carried.shapes) or why
        raise ModelError(f"{source.text}: {what}.\n{why}") from error
    for name in ("state_dict", "file"):
        module.pretrained_cfg.pop(name, None)  # type: ignore[operator, union-attr]
    return module


def _require_likely(source: ModelReference, args: dict[str, Any], carried: ConvertedCheckpoint) -> None:
    """Refuse a configuration whose numbers are far above those of its weights, before memory is taken for them."""
    kernel, positions = carried.shapes.get("patch_embed.proj.weight", ()), carried.shapes.get("pos_embed", ())
    size = args.get("img_size")
    patches = size // kernel[-1] if _whole(size) and len(kernel) == 4 and kernel[-1] else 0
    for what, there, wanted in (
        ("width", kernel[0] if kernel else 0, args.get("embed_dim")),
        ("number of blocks", count_blocks(carried.shapes), args.get("depth")),
        ("number of patches along a side", math.isqrt(positions[1]) if len(positions) == 3 else 0, patches),
    ):
        if there and _whole(wanted) and wanted > _FAR * there:
            raise ModelError(
                f"{source.text}: the weights in {carried.path} do not fit.\n"
                f"size mismatch: the {what} is {there} in the file and {wanted:,} in the model"
            )


def _whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _other_names(
    source: ModelReference, cfg: dict[str, Any], args: dict[str, Any], stored: Mapping[str, tuple[int, ...]]
) -> str:
    """What the names alone say, where loading stopped at a size; empty where they are the model's."""
    try:
        with torch.device("meta"):
            bare = {name: value for name, value in cfg.items() if name != "state_dict"}
            module: nn.Module = timm.create_model(source.architecture, pretrained_cfg=bare, **args)
        depth = len(module.blocks)  # type: ignore[arg-type]
    except Exception:  # it cannot be built at all, which is what is told already
        return ""
    wanted = {name for name in module.state_dict() if name.rpartition(".")[0] not in head_names(cfg)}
    found = {name for name in stored if name.rpartition(".")[0] not in head_names(cfg)}
    return explained(sorted(wanted - found), sorted(found - wanted), (count_blocks(stored), depth))


def _state(
    carried: ConvertedCheckpoint, cfg: Mapping[str, Any], args: Mapping[str, Any], aside: tuple[str, ...]
) -> dict[str, torch.Tensor]:
    """The carried tensors, positions on the model's grid where their own library resamples them in its own way."""
    state = {name: value for name, value in carried.load().items() if name.rpartition(".")[0] not in aside}
    kernel, positions = carried.shapes.get("patch_embed.proj.weight"), carried.shapes.get("pos_embed")
    if carried.positions is None or kernel is None or positions is None or len(kernel) != 4 or len(positions) != 3:
        return state
    size = args.get("img_size") or cfg.get("input_size", (3, 224, 224))[-1]
    grid = size // kernel[-1] if isinstance(size, int) else 0
    if grid > 0 and positions[1] != 1 + grid * grid:
        state["pos_embed"] = carried.positions(state["pos_embed"], grid)
    return state


_SMALL_EPS = 1e-5  # up to here a layer norm's epsilon changes nothing that can be seen
_OWN_HEADS = {
    "class and mean": "Its head reads the class token and the mean of the patches.",
    "representation": "Its head has a representation layer after the last norm.",
    "representation before norm": "Its head has a representation layer before the last norm.",
}


@dataclass(frozen=True)
class LoadedModel:
    """A model ready for use.

    Attributes:
        module: the timm model, float32, on the CPU.
        reference: what it was built from.
        weights: the file its weights came from; None for random ones.
        notes: sentences on what was changed to make the weights fit.
    """

    module: nn.Module
    reference: ModelReference
    weights: WeightsFile | None
    notes: tuple[str, ...] = ()

    @property
    def input(self) -> InputSpec:
        """Input size and normalisation, as the model's own pretrained_cfg states them."""
        return input_spec(self.module)


def load_model(
    reference: str,
    *,
    pretrained: bool | str,
    num_classes: int | None = None,
    image_size: int = 0,
    model_args: Mapping[str, Any] | None = None,
    drop_path: float = 0.0,
    patch_drop: float = 0.0,
) -> LoadedModel:
    """Build a vision transformer and load its weights.

    Args:
        reference: a model reference (see :func:`~vitrine.models.reference.resolve_reference`).
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
    source = resolve_reference(reference, model_args)
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
        return LoadedModel(module, source, None)
    weights = locate_weights(source, pretrained if isinstance(pretrained, str) else None)
    carried = convert(weights.path)
    module, notes = _loaded(source, cfg | dict(carried.cfg), args, carried, num_classes)
    told = source.notes if not isinstance(pretrained, str) else _format_notes(carried, source)
    return LoadedModel(module, source, weights, (*told, *carried.notes, *notes))


def _format_notes(carried: ConvertedCheckpoint, source: ModelReference) -> tuple[str, ...]:
    """Sentences for weights of another library that a person put into a named model."""
    if carried.title == "timm":
        return ()
    told = [f"Names were carried over from {carried.title}."]
    own = {name: tuple(source.pretrained_cfg.get(name, ())) for name in carried.cfg}
    if any(own[name] != tuple(value) for name, value in carried.cfg.items()):
        mean = ", ".join(f"{value:g}" for value in carried.cfg["mean"])
        told.append(f"Pictures are normalised as {carried.title} does (mean {mean}), not as {source.text}.")
    return tuple(told)


def _loaded(
    source: ModelReference, cfg: dict[str, Any], args: dict[str, Any], carried: ConvertedCheckpoint, wanted: int | None
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
    with collect_load_reports() as loads:
        module = create_module(source, cfg, args, carried, aside)
    _require_vision_transformer(module, source.text)
    check_load_reports(loads, carried, module, may_be_new=(*heads, *aside) if new_head else aside)
    if own and new_head and carried.npz:
        module.reset_classifier(wanted)  # type: ignore[operator]
    if own and not new_head:
        attach(module, own, {n: v for n, v in carried.load().items() if n.rpartition(".")[0] in aside})
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


def _norm_is_of_head(carried: ConvertedCheckpoint) -> bool:
    """Whether the last norm has another width than the tokens."""
    return carried.shapes.get("norm.weight", ())[:1] != carried.shapes.get("cls_token", ())[-1:]


def check_available(reference: str, pretrained: bool | str) -> None:
    """Refuse an unknown model, or weights that cannot be had, before long work that would come first.

    What has to be downloaded is in the cache folder afterwards.

    Raises:
        ModelError, WeightsUnavailableError: as :func:`build` would.
    """
    own_file = Path(reference).expanduser()
    if pretrained is not False and own_file.is_file():
        convert(own_file)  # which model it is of may depend on model_args
        return
    source = resolve_reference(reference)
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


def load_for_inference(reference: str | Path, architecture: str | None = None) -> LoadedModel:
    """The model of a finished run, or any reference with a head of its own, in eval mode.

    Args:
        reference: a model reference.
        architecture: the timm name of the model whose weights the file holds, where it does not say so itself.
    """
    own = architecture is None
    built = load_model(str(reference) if own else str(architecture), pretrained=True if own else str(reference))
    built.module.eval()
    return built


def load_recipe_model(recipe: Recipe, classes: int) -> LoadedModel:
    """The recipe's model with a head for this many classes; see ``vitrine.models.load.load_model``."""
    return load_model(
        recipe.model,
        pretrained=recipe.pretrained,
        num_classes=classes,
        image_size=recipe.image_size,
        model_args=recipe.model_args,
        drop_path=recipe.drop_path,
        patch_drop=recipe.patch_drop,
    )


def recipe_input(built: LoadedModel, recipe: Recipe) -> InputSpec:
    """The model's own input, with what the recipe's transforms say instead."""
    own, wanted = built.input, recipe.transforms
    return replace(own, mean=wanted.mean or own.mean, std=wanted.std or own.std, crop=wanted.eval_crop)
