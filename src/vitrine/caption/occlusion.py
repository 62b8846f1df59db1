"""Leave-patch-out occlusion: by how much a word's log-probability falls when a cell of the photograph is covered.

The yardstick for other maps (Zeiler and Fergus 2014, arXiv:1311.2901): it looks at nothing inside of the model. Each
cell of the map's grid is covered at the photograph's own pixels with the mean colour of the model's normalisation, and
the caption is followed under teacher forcing.

Axes: T tokens, K cells of the padded grid, row by row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil, floor

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from vitrine.attribution.placement import Placement
from vitrine.caption.decoding import DecodedCaption, MapChoice, final_captions, teacher_forced
from vitrine.caption.model import Captioner
from vitrine.results import Progress, no_progress

CELLS_AT_ONCE = 16
"""Covered photographs that are encoded and followed together."""

_LEAST = float(np.finfo(np.float32).tiny)


def occlusion_maps(
    captioner: Captioner, photo: Image.Image, caption: DecodedCaption, progress: Progress = no_progress
) -> npt.NDArray[np.float32]:
    """The fall of each token's log-probability, in nats, for every cell: (T, 1, 1, K), 0 or more.

    A cell without which a token is likelier counts as 0, as does padding; a token that no cell matters to has an even
    map at the smallest number there is.

    Args:
        captioner: on its device; called within its precision.
        photo: mode RGB, upright.
        caption: of this photograph, without its maps being looked at.
        progress: called with cells done, of how many.
    """
    rows, columns = caption.grid
    placement = Placement(captioner.transform.geometry(*photo.size), rows, columns)
    if not caption.ids:
        return np.zeros((0, 1, 1, int(np.prod(caption.padded_grid))), np.float32)
    (whole_T,) = _log_probabilities(captioner, [photo], caption.ids)
    fall_TRC = np.zeros((len(whole_T), *caption.padded_grid), np.float32)
    cells = list(covered_photographs(photo, placement, captioner.transform.mean_colour))
    for first in range(0, len(cells), CELLS_AT_ONCE):
        part = cells[first : first + CELLS_AT_ONCE]
        falls = _log_probabilities(captioner, [picture for _, _, picture in part], caption.ids)
        for (row, column, _), covered_T in zip(part, falls, strict=True):
            fall_TRC[:, row, column] = np.maximum(whole_T - covered_T, 0)
        progress(first + len(part), len(cells))
    own_TRC = fall_TRC[:, :rows, :columns]
    own_TRC[own_TRC.sum((1, 2)) == 0] = _LEAST
    return fall_TRC.reshape(len(whole_T), 1, 1, -1)


def covered_photographs(
    photo: Image.Image, placement: Placement, colour: tuple[int, int, int]
) -> Iterator[tuple[int, int, Image.Image]]:
    """(row, column, photograph) of every cell that lies on the photograph, which covers all pixels that it touches."""
    width, height = photo.size
    for row in range(placement.rows):
        for column in range(placement.columns):
            left, top, right, bottom = placement.patch_box(row, column)
            box = max(0, floor(left)), max(0, floor(top)), min(width, ceil(right)), min(height, ceil(bottom))
            if box[0] < box[2] and box[1] < box[3]:
                picture = photo.copy()
                picture.paste(colour, box)
                yield row, column, picture


def _log_probabilities(
    captioner: Captioner, photos: Sequence[Image.Image], ids: Sequence[int]
) -> npt.NDArray[np.float64]:
    """Of each token of one caption after each photograph: (photographs, T)."""
    inputs = [captioner.transform(photo).to(captioner.device) for photo in photos]
    with torch.no_grad():
        encoder_output = captioner.module.encode(inputs)
        steps = teacher_forced(
            captioner.module, encoder_output, [ids] * len(inputs), with_end=False, maps=MapChoice(-1, 0)
        )
        captions = final_captions(steps)
    return np.array([caption.log_probabilities for caption in captions])
