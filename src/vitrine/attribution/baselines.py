"""Maps that know nothing of the model: what a method has to beat before its map means anything.

Axes: B pictures, C input channels, H and W pixel rows and columns; in maps R grid rows, C grid columns.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.nn import functional

SPREAD = 1 / 4
"""Standard deviation of the centre blob as a share of each side: two thirds of its mass lie in the middle half."""

Floats = npt.NDArray[np.float32]


def random_map(rows: int, columns: int, seed: int) -> Floats:
    """Independent uniform scores from 0 to 1: float32 (rows, columns). Give every picture a seed of its own."""
    return np.random.default_rng(seed).random((rows, columns), dtype=np.float32)


def centre_blob(rows: int, columns: int) -> Floats:
    """A Gaussian around the middle of the picture, 1 there: float32 (rows, columns).

    Its standard deviation is :data:`SPREAD` of each side. Photographers put what they mean in the middle, so this is
    hard to beat and is the control that counts. Mirrored patches have exactly equal scores.
    """
    # Whole numbers until the last step: (2i + 1 - n) / 2n is a patch centre's distance from the middle in sides.
    down_R, across_C = (np.square(2 * np.arange(n) + 1 - n) / (2 * n * SPREAD) ** 2 for n in (rows, columns))
    blob: Floats = np.exp(-(down_R[:, None] + across_C) / 2).astype(np.float32)
    return blob


def edges(pixels_BCHW: Tensor, rows: int, columns: int) -> Floats:
    """How much edge each patch holds: float32 (B, rows, columns), the mean gradient magnitude, 0 or more.

    The gradient is Sobel's (I. Sobel, G. Feldman 1968, a 3 × 3 isotropic gradient operator), the magnitude the root of
    its squares summed over both directions and all channels, so that edges between equally bright colours count. The
    picture's border is repeated outwards and is no edge itself. In units of the input a pixel.

    Args:
        pixels_BCHW: floating point, as the model sees them.
        rows: of the grid; they divide H.
        columns: of the grid; they divide W.

    Raises:
        ValueError: the grid does not divide the picture.
    """
    height, width = pixels_BCHW.shape[-2:]
    if height % rows or width % columns:
        raise ValueError(f"A grid of {rows} x {columns} patches does not divide {height} x {width} pixels evenly.")
    # Sums and differences of neighbours rather than a convolution, whose rounding finds edges in a flat picture.
    padded_BCHW = functional.pad(pixels_BCHW.detach().float(), (1, 1, 1, 1), mode="replicate")
    smooth_down = (padded_BCHW[..., :-2, :] + 2 * padded_BCHW[..., 1:-1, :] + padded_BCHW[..., 2:, :]) / 4
    smooth_across = (padded_BCHW[..., :-2] + 2 * padded_BCHW[..., 1:-1] + padded_BCHW[..., 2:]) / 4
    across_BCHW = (smooth_down[..., 2:] - smooth_down[..., :-2]) / 2
    down_BCHW = (smooth_across[..., 2:, :] - smooth_across[..., :-2, :]) / 2
    magnitude_B1HW = (across_BCHW.square() + down_BCHW.square()).sum(dim=1, keepdim=True).sqrt()
    edges_BRC: Floats = functional.avg_pool2d(magnitude_B1HW, (height // rows, width // columns))[:, 0].cpu().numpy()
    return edges_BRC
