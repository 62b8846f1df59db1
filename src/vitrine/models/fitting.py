"""Whether weights fit the model that they were loaded into, and what was changed to make them fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from vitrine.errors import ModelError
from vitrine.models.formats.carried import Carried
from vitrine.models.formats.differences import counted, explained
from vitrine.models.formats.sizes import depth_of
from vitrine.models.formats.stored import Shape

_NPZ_POSITIONS = "Transformer/posembed_input/pos_embedding"  # in the files of the ViT paper's authors


@contextmanager
def watched_loading() -> Iterator[list[Any]]:
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


def require_all_loaded(loads: list[Any], carried: Carried, module: nn.Module, *, may_be_new: tuple[str, ...]) -> None:
    """Refuse weights of another model.

    Args:
        loads: from :func:`watched_loading`.
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
    depths = (depth_of(carried.shapes), len(module.blocks))  # type: ignore[arg-type]
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
