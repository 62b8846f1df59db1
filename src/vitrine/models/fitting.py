"""Whether weights fit the model that they were loaded into, and what was changed to make them fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from vitrine.errors import ModelError
from vitrine.models.weights import WeightsFile

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


def require_all_loaded(
    loads: list[Any],
    stored: Mapping[str, tuple[int, ...]],
    module: nn.Module,
    weights: WeightsFile,
    *,
    may_be_new: tuple[str, ...],
) -> None:
    """Refuse weights of another model.

    Args:
        loads: from :func:`watched_loading`.
        stored: names and shapes in the file.
        module: the model they were loaded into.
        weights: the file.
        may_be_new: modules whose tensors need not be in the file, or be of use: the head, in training.

    Raises:
        ModelError: tensors are missing or left over.
    """
    found = []
    for what in ("missing", "unexpected"):
        names = [name for load in loads for name in getattr(load, f"{what}_keys")]
        names = [name for name in names if name.rpartition(".")[0] not in may_be_new]
        if names:
            shown = f"{', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
            found.append(f"{len(names)} tensor{' is' if len(names) == 1 else 's are'} {what} ({shown})")
    if f"Transformer/encoderblock_{len(module.blocks)}/LayerNorm_0/bias" in stored:  # type: ignore[arg-type]
        found.append("it has more blocks")
    if found:
        raise ModelError(
            f"The weights in {weights.path} do not fit this {type(module).__name__}: {'; '.join(found)}.\n"
            "Expected the weights of this very model, with the same model_args."
        )


def head_names(cfg: Mapping[str, Any]) -> tuple[str, ...]:
    """The modules that classify, by timm's configuration; a distilled model has two."""
    names = cfg.get("classifier") or "head"
    return (names,) if isinstance(names, str) else tuple(names)


def head_note(module: nn.Module, stored: int) -> tuple[str, ...]:
    """A sentence where the head does not come from the weights, which have one for ``stored`` classes."""
    wanted = int(getattr(module, "num_classes", 0))
    if wanted == stored:
        return ()
    before = f"the one in the weights, for {stored} classes, is left out" if stored else "the weights have none"
    return (f"The classification head is new, for {wanted} classes; {before}.",)


def resampling_note(module: nn.Module, stored: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    """A sentence where position embeddings were brought to another grid."""
    here = getattr(module, "pos_embed", None)
    there = stored.get("pos_embed", stored.get(_NPZ_POSITIONS))
    grid = getattr(module.patch_embed, "grid_size", None)
    if not isinstance(here, torch.Tensor) or there is None or there[1] == here.shape[1] or grid is None:
        return ()
    prefix = int(getattr(module, "num_prefix_tokens", 0)) if not getattr(module, "no_embed_class", False) else 0
    side = round((there[1] - prefix) ** 0.5)
    return (f"Position embeddings were resampled from {side} x {side} to {grid[0]} x {grid[1]} patches.",)
