"""Occlusion: how much of a class's probability is lost where the picture is covered (Zeiler and Fergus 2014).

Slow, but it needs nothing of the model but its probabilities, so that the other methods can be compared with it. Axes:
B pictures, C channels, H, W pixels, R grid rows, C grid columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

import torch
from torch import nn

from vitrine.attribution.maps import BatchMaps, token_layout
from vitrine.errors import ModelError
from vitrine.models.precision import class_token_alone
from vitrine.results import count_of

_COVERS = 8  # default: a cover hides about an eighth of the side


def occlusion_maps(
    module: nn.Module,
    pixels_BCHW: torch.Tensor,
    targets_B: torch.Tensor,
    probabilities: Callable[[torch.Tensor], torch.Tensor],
    window: int = 0,
) -> BatchMaps:
    """:func:`occlusion` of a model on its own grid of patches; ``probabilities`` are those of its logits."""
    layout = token_layout(module, *pixels_BCHW.shape[-2:])
    grid = (layout.rows, layout.columns)
    with class_token_alone(module):
        return occlusion(
            lambda some_BCHW: probabilities(module(some_BCHW)), pixels_BCHW, targets_B, grid, window=window
        )


def occlusion(
    probability: Callable[[torch.Tensor], torch.Tensor],
    pixels_BCHW: torch.Tensor,
    targets_B: torch.Tensor,
    grid: tuple[int, int],
    *,
    window: int = 0,
    batch_size: int = 64,
) -> BatchMaps:
    """The mean loss of the class's probability over all covers that hide a patch.

    A square cover of ``window`` × ``window`` patches, grey (0 after normalisation), moves over the picture by half of
    its side, at least one patch; covers reach over the edges, so that border patches are hidden as often as others.

    Args:
        probability: normalised pixels (B, C, H, W) to probabilities (B, classes).
        pixels_BCHW: normalised.
        targets_B: int64, a class for each picture.
        grid: rows and columns of patches.
        window: patches a side of the cover; 0 is about an eighth of the grid.
        batch_size: covered pictures at a time.

    Returns:
        Probability lost, -1 to 1, negative where covering helps.

    Raises:
        ModelError: the cover is larger than the grid.
    """
    rows, columns = grid
    if window > max(grid):
        raise ModelError(
            f"A cover of {count_of(window, 'patch', 'patches')} a side is larger than the grid, which has "
            f"{rows} x {columns}."
        )
    window = window or max(1, round(max(grid) / _COVERS))
    with torch.no_grad():
        intact = [probability(some_BCHW).float().cpu() for some_BCHW in pixels_BCHW.split(batch_size)]
    maps = [
        _occlude_picture(probability, pixels_CHW, float(intact_C[target]), target, (rows, columns), window, batch_size)
        for pixels_CHW, intact_C, target in zip(
            pixels_BCHW, (each for part_BC in intact for each in part_BC), targets_B.tolist(), strict=True
        )
    ]
    return BatchMaps(torch.stack(maps) if maps else torch.zeros(0, rows, columns), unit="drop")


def _occlude_picture(
    probability: Callable[[torch.Tensor], torch.Tensor],
    pixels_CHW: torch.Tensor,
    intact: float,
    target: int,
    grid: tuple[int, int],
    window: int,
    batch_size: int,
) -> torch.Tensor:
    """One picture, whose class has the probability ``intact``: float32 (R, C) on the CPU."""
    rows, columns = grid
    with torch.no_grad():
        lost_RC = torch.zeros(rows, columns)
        covers_RC = torch.zeros(rows, columns)
        places = _places(rows, columns, window)
        while some := list(islice(places, batch_size)):
            covered_BCHW = torch.stack([_cover(pixels_CHW, place, rows, columns) for place in some])
            probabilities = probability(covered_BCHW)[:, target].float().cpu()
            for (top, left, bottom, right), value in zip(some, probabilities.tolist(), strict=True):
                lost_RC[top:bottom, left:right] += intact - value
                covers_RC[top:bottom, left:right] += 1
        return lost_RC / covers_RC


def _places(rows: int, columns: int, window: int) -> Iterator[tuple[int, int, int, int]]:
    """(top, left, bottom, right) of every cover, in patches."""
    step = max(1, window // 2)
    first = step - window  # the first cover hides `step` patches of the border
    for top in range(first, rows, step):
        for left in range(first, columns, step):
            yield max(0, top), max(0, left), min(rows, top + window), min(columns, left + window)


def _cover(pixels_CHW: torch.Tensor, place: tuple[int, int, int, int], rows: int, columns: int) -> torch.Tensor:
    top, left, bottom, right = place
    height, width = pixels_CHW.shape[-2:]
    covered_CHW = pixels_CHW.clone()
    covered_CHW[
        :, top * height // rows : bottom * height // rows, left * width // columns : right * width // columns
    ] = 0
    return covered_CHW
