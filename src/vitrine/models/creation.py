"""A timm model, made with weights that were carried over; what stops it is told in our words."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any, TypeGuard

import torch
from torch import nn

from vitrine.errors import ModelError
from vitrine.models.fitting import head_names
from vitrine.models.formats.carried import Carried
from vitrine.models.formats.differences import explained, mismatches
from vitrine.models.formats.sizes import depth_of
from vitrine.models.reference import ModelSource
from vitrine.torchpair import require_torchvision

require_torchvision()

import timm  # noqa: E402

_FAR = 32  # times the file's number, where a model is refused before it is made


def create_module(
    source: ModelSource,
    cfg: dict[str, Any],
    args: dict[str, Any],
    carried: Carried | None = None,
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
        raise ModelError(f"{source.reference}: {what}.\n{why}") from error
    for name in ("state_dict", "file"):
        module.pretrained_cfg.pop(name, None)  # type: ignore[operator, union-attr]
    return module


def _require_likely(source: ModelSource, args: dict[str, Any], carried: Carried) -> None:
    """Refuse a configuration whose numbers are far above those of its weights, before memory is taken for them."""
    kernel, positions = carried.shapes.get("patch_embed.proj.weight", ()), carried.shapes.get("pos_embed", ())
    size = args.get("img_size")
    patches = size // kernel[-1] if _whole(size) and len(kernel) == 4 and kernel[-1] else 0
    for what, there, wanted in (
        ("width", kernel[0] if kernel else 0, args.get("embed_dim")),
        ("number of blocks", depth_of(carried.shapes), args.get("depth")),
        ("number of patches along a side", math.isqrt(positions[1]) if len(positions) == 3 else 0, patches),
    ):
        if there and _whole(wanted) and wanted > _FAR * there:
            raise ModelError(
                f"{source.reference}: the weights in {carried.path} do not fit.\n"
                f"size mismatch: the {what} is {there} in the file and {wanted:,} in the model"
            )


def _whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _other_names(
    source: ModelSource, cfg: dict[str, Any], args: dict[str, Any], stored: Mapping[str, tuple[int, ...]]
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
    return explained(sorted(wanted - found), sorted(found - wanted), (depth_of(stored), depth))


def _state(
    carried: Carried, cfg: Mapping[str, Any], args: Mapping[str, Any], aside: tuple[str, ...]
) -> dict[str, torch.Tensor]:
    """The carried tensors, positions on the model's grid where their own library resamples them in its own way."""
    state = {name: value for name, value in carried.make().items() if name.rpartition(".")[0] not in aside}
    kernel, positions = carried.shapes.get("patch_embed.proj.weight"), carried.shapes.get("pos_embed")
    if carried.positions is None or kernel is None or positions is None or len(kernel) != 4 or len(positions) != 3:
        return state
    size = args.get("img_size") or cfg.get("input_size", (3, 224, 224))[-1]
    grid = size // kernel[-1] if isinstance(size, int) else 0
    if grid > 0 and positions[1] != 1 + grid * grid:
        state["pos_embed"] = carried.positions(state["pos_embed"], grid)
    return state
