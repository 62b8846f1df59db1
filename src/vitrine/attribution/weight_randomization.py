"""Does a map depend on what the model learned? Its weights are shuffled layer by layer, and the map is made again.

Axes: B pictures, R grid rows, C grid columns, N patches.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from vitrine.errors import ModelError


def rankdata(values_N: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Ranks from 1, equal values sharing the mean of theirs: float64 (N,)."""
    order_N = np.argsort(values_N)
    ascending_N = values_N[order_N]
    starts = np.flatnonzero(np.r_[True, ascending_N[1:] != ascending_N[:-1]])
    ends = np.r_[starts[1:], len(values_N)]
    rank_N = np.empty(len(values_N))
    rank_N[order_N] = np.repeat((starts + ends + 1) / 2, ends - starts)
    return rank_N


_BLOCKS = "blocks"  # timm's name for the sequence of transformer blocks
HEAD, EMBEDDING = "head", "embedding"


def correlation_with_intact(intact_BRC: npt.ArrayLike, maps_BRC: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """How much of maps survives in those of a randomised model: Spearman's rank correlation, (B,), -1 to 1.

    A map that hardly changes shows the picture or the architecture, not what the model learned. Where both maps of a
    picture are constant nothing changed, and it counts as 1; where one of them is, nothing of the other is left, and it
    counts as 0.

    Args:
        intact_BRC: maps by the model as it is.
        maps_BRC: by a randomised copy, of the same pictures; a method that explains a class explains the class that the
            *intact* model predicted.

    Raises:
        ValueError: shapes differ, or a score is not finite.
    """
    intact_BN, maps_BN = _flat(intact_BRC), _flat(maps_BRC)
    correlation_B = rank_correlation(intact_BN, maps_BN)
    constants_2B = np.stack([np.ptp(each_BN, axis=1) == 0 for each_BN in (intact_BN, maps_BN)])
    return np.where(constants_2B.all(axis=0), 1.0, np.where(constants_2B.any(axis=0), 0.0, correlation_B))


def randomised_copies(module: nn.Module, *, seed: int) -> Iterator[tuple[str, nn.Module]]:
    """Yield (stage, model): the model with its weights randomised from the head down, block by block.

    Stages are "head" (all that follows the blocks), "block N" to "block 1", "embedding" (all that comes before them).
    Each adds to the ones before it. It is one copy that changes between the stages: use it before asking for the next.
    The module itself is never changed.

    Every weight tensor is shuffled in itself rather than drawn anew. Weights as before a training are small, and with
    them attention is almost uniform: its map would differ from the learned one by scale alone. A shuffle keeps mean,
    spread and heavy tails of every tensor and takes nothing but the arrangement, which is what was learned.

    Source: J. Adebayo, J. Gilmer, M. Muelly, I. Goodfellow, M. Hardt, B. Kim (2018), Sanity checks for saliency maps,
    NeurIPS (cascading randomisation; drawn anew there).

    Raises:
        ModelError: the model has no blocks.
    """
    blocks = getattr(module, _BLOCKS, None)
    if not isinstance(blocks, nn.Sequential | nn.ModuleList) or not len(blocks):
        raise ModelError(
            f"{type(module).__name__} is no sequence of blocks: its weights cannot be randomised layer by layer."
        )
    copied_module = copy.deepcopy(module)
    rng = np.random.default_rng(seed)
    for stage, parameters in weight_stages(copied_module):
        with torch.no_grad():
            for parameter in parameters:
                order_N = torch.from_numpy(rng.permutation(parameter.numel())).to(parameter.device)
                parameter.copy_(parameter.flatten()[order_N].reshape(parameter.shape))
        yield stage, copied_module


def weight_stages(module: nn.Module) -> list[tuple[str, list[nn.Parameter]]]:
    """Every weight of a model once, by stage, from the head down; stages without weights are left out."""
    parameters_by_stage: dict[str, list[nn.Parameter]] = {}
    seen_blocks = False
    for name, parameter in module.named_parameters():  # in order of registration; shared weights once
        part, _, rest = name.partition(".")
        if part == _BLOCKS:
            seen_blocks = True
            stage = f"block {int(rest.partition('.')[0])}"
        else:
            stage = HEAD if seen_blocks else EMBEDDING
        parameters_by_stage.setdefault(stage, []).append(parameter)
    middle = [stage for stage in parameters_by_stage if stage not in (HEAD, EMBEDDING)]
    return [
        (stage, parameters_by_stage[stage])
        for stage in (HEAD, *reversed(middle), EMBEDDING)
        if stage in parameters_by_stage
    ]


def rank_correlation(first_BN: npt.ArrayLike, second_BN: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Spearman's rank correlation row by row, equal values sharing the mean of their ranks: (B,), -1 to 1.

    NaN where a row is constant: it has no order.

    Source: C. Spearman (1904), The proof and measurement of association between two things.

    Raises:
        ValueError: shapes differ or are not (B, N), or a value is not finite.
    """
    ranks_BN, others_BN = _ranks(first_BN), _ranks(second_BN)
    if ranks_BN.shape != others_BN.shape:
        raise ValueError(f"Expected two arrays of one shape; got {ranks_BN.shape} and {others_BN.shape}.")
    ranks_BN -= ranks_BN.mean(axis=1, keepdims=True)
    others_BN -= others_BN.mean(axis=1, keepdims=True)
    scale_B = np.sqrt(np.square(ranks_BN).sum(axis=1) * np.square(others_BN).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.clip((ranks_BN * others_BN).sum(axis=1) / scale_B, -1, 1))


def _ranks(values_BN: npt.ArrayLike) -> npt.NDArray[np.float64]:
    values_BN = np.asarray(values_BN, dtype=np.float64)
    if values_BN.ndim != 2 or not np.isfinite(values_BN).all():
        raise ValueError(f"Expected finite values of shape (B, N); got shape {values_BN.shape}.")
    return np.stack([rankdata(values_N) for values_N in values_BN]) if len(values_BN) else np.empty_like(values_BN)


def _flat(maps_BRC: npt.ArrayLike) -> npt.NDArray[np.float64]:
    maps_BRC = np.asarray(maps_BRC, dtype=np.float64)
    return maps_BRC.reshape(len(maps_BRC), -1)
