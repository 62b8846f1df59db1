"""Features of a batch of pictures, of one size or of several, and what of them is padding.

Letters: B pictures, D channels, H, W pixel rows and columns, R, C rows and columns of the (padded) feature grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from vitrine.models.captioner.backbone import ImageEncoder


@dataclass(frozen=True)
class Features:
    """What the image encoder made of a batch.

    Attributes:
        values_BDRC: the features, zeros or anything at padded cells.
        padded_BRC: bool, True at padded cells, which lie at the right and at the bottom; None where there are none.
        grids: (rows, columns) of each picture's own cells.
    """

    values_BDRC: Tensor
    padded_BRC: Tensor | None
    grids: tuple[tuple[int, int], ...]

    @classmethod
    def join(cls, values: Sequence[Tensor]) -> Features:
        """A batch of pictures' own features, (D, rows, columns) each, of any sizes: padded with zeros.

        Raises:
            ValueError: there is no picture.
        """
        if not values:
            raise ValueError("Expected the features of one picture at least.")
        grids = tuple((int(v.shape[-2]), int(v.shape[-1])) for v in values)
        if len(set(grids)) == 1:
            return cls(torch.stack(list(values)), None, grids)
        rows, columns = (max(sizes) for sizes in zip(*grids, strict=True))
        padded = torch.ones(len(values), rows, columns, dtype=torch.bool, device=values[0].device)
        batch = values[0].new_zeros(len(values), values[0].shape[0], rows, columns)
        for i, (r, c) in enumerate(grids):
            batch[i, :, :r, :c] = values[i]
            padded[i, :r, :c] = False
        return cls(batch, padded, grids)


def features_of(encoder: ImageEncoder, pixels: Sequence[Tensor], padding: str) -> Features:
    """Encode normalised pictures, (3, h, w) each, on the encoder's device and in its dtype.

    Args:
        encoder: the image encoder.
        pixels: the pictures, of any sizes.
        padding: "pixels" or "features", see :class:`~vitrine.models.captioner.config.CaptionModelConfig`.

    Raises:
        ValueError: there is no picture, or one is not (3, h, w).
    """
    if not pixels or any(p.ndim != 3 or p.shape[0] != 3 for p in pixels):
        raise ValueError(f"Expected pictures of shape (3, h, w), one at least; got {[tuple(p.shape) for p in pixels]}.")
    sizes = [(int(p.shape[1]), int(p.shape[2])) for p in pixels]
    if len(set(sizes)) == 1 or padding == "features":
        return _by_size(encoder, pixels, sizes)
    return _padded_pixels(encoder, pixels, sizes)


def _by_size(encoder: ImageEncoder, pixels: Sequence[Tensor], sizes: list[tuple[int, int]]) -> Features:
    """Pictures of each size together; their features padded."""
    if len(set(sizes)) == 1:
        values_BDRC = encoder(torch.stack(list(pixels)))
        return Features(values_BDRC, None, (tuple(values_BDRC.shape[-2:]),) * len(pixels))
    found: dict[int, Tensor] = {}
    for size in dict.fromkeys(sizes):
        members = [i for i, own in enumerate(sizes) if own == size]
        found |= zip(members, encoder(torch.stack([pixels[i] for i in members])), strict=True)
    return Features.join([found[i] for i in range(len(pixels))])


def _padded_pixels(encoder: ImageEncoder, pixels: Sequence[Tensor], sizes: list[tuple[int, int]]) -> Features:
    """All pictures in one batch, zeros at the right and at the bottom; the mask brought to the grid by nearest
    interpolation, as DETR does."""
    height, width = (max(sides) for sides in zip(*sizes, strict=True))
    batch = pixels[0].new_zeros(len(pixels), 3, height, width)
    padded_BHW = torch.ones(len(pixels), height, width, device=batch.device)
    for i, (h, w) in enumerate(sizes):
        batch[i, :, :h, :w] = pixels[i]
        padded_BHW[i, :h, :w] = 0
    values_BDRC = encoder(batch)
    padded_BRC = functional.interpolate(padded_BHW[:, None], size=values_BDRC.shape[-2:])[:, 0].bool()
    grids = tuple((int((~own[:, 0]).sum()), int((~own[0]).sum())) for own in padded_BRC)
    return Features(values_BDRC, padded_BRC, grids)
