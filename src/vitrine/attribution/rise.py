"""RISE: how likely the class is on pictures of which random parts are seen (Petsiuk, Das and Saenko 2018).

Slow, and like occlusion it needs nothing of the model but its probabilities. Axes: B pictures, C channels, H, W pixels,
M masks, R grid rows, S grid columns.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from vitrine.attribution.maps import BatchMaps, token_layout
from vitrine.models.precision import class_token_alone

_MASKS = 512
_CELLS = 7  # of a mask's longer side: the paper's
_SHOWN = 0.5  # the probability that a cell is seen: the paper's
_BATCH = 64  # pictures at a time


def rise(
    module: nn.Module,
    pixels_BCHW: torch.Tensor,
    targets_B: torch.Tensor,
    probabilities: Callable[[torch.Tensor], torch.Tensor],
    seed: int = 0,
) -> BatchMaps:
    """Σ_m p(x ⊙ m) m / Σ_m m - mean_m p(x ⊙ m): how much likelier the class is where a patch is seen.

    Masks are grids of 7 cells, seen or not by chance, enlarged smoothly and shifted; what they hide fades to the mean
    colour. 512 masks, the same for every picture of one size; the paper takes thousands, of pictures of 224 pixels.
    Its maps are the first term, from which ours differ by one number a picture: there 0 is a patch that does not
    matter. A patch's m is the mean over its pixels. Source: V. Petsiuk, A. Das, K. Saenko (2018), arXiv:1806.07421.

    Args:
        module: a model in eval mode.
        pixels_BCHW: normalised.
        targets_B: int64, a class for each picture.
        probabilities: of logits.
        seed: of the masks.
    """
    height, width = pixels_BCHW.shape[-2:]
    layout = token_layout(module, height, width)
    masks_MHW = random_masks(height, width, seed)
    patches_MN = functional.adaptive_avg_pool2d(masks_MHW[:, None], (layout.rows, layout.columns)).flatten(1)
    maps = []
    with torch.no_grad(), class_token_alone(module):
        for pixels_CHW, target in zip(pixels_BCHW, targets_B.tolist(), strict=True):
            parts = [
                probabilities(module(pixels_CHW * some_MHW[:, None].to(pixels_CHW.device)))[:, target].float().cpu()
                for some_MHW in masks_MHW.split(_BATCH)
            ]
            probability_M = torch.cat(parts)
            maps.append((probability_M @ patches_MN) / patches_MN.sum(0) - probability_M.mean())
    return BatchMaps(torch.stack(maps).reshape(-1, layout.rows, layout.columns), unit="gain")


def random_masks(height: int, width: int, seed: int, count: int = _MASKS) -> torch.Tensor:
    """Smooth random masks, 0 (hidden) to 1 (seen): float32 (M, H, W) on the CPU."""
    cell = -(-max(height, width) // _CELLS)  # pixels a side
    rows, columns = -(-height // cell), -(-width // cell)
    generator = torch.Generator().manual_seed(seed)
    cells_MRS = (torch.rand(count, 1, rows + 1, columns + 1, generator=generator) < _SHOWN).float()
    large_MHW = functional.interpolate(
        cells_MRS, size=((rows + 1) * cell, (columns + 1) * cell), mode="bilinear", align_corners=False
    )[:, 0]
    shifts_M2 = torch.randint(0, cell, (count, 2), generator=generator).tolist()
    return torch.stack(
        [mask[top : top + height, left : left + width] for mask, (top, left) in zip(large_MHW, shifts_M2, strict=True)]
    )
