"""Captions whose words look where they should, and captions that look anywhere."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vitrine.attribution.grounding import (
    GroundedCaption,
)
from vitrine.attribution.placement import Placement
from vitrine.data.captions.transforms import WholeGeometry

WIDTH, HEIGHT, ROWS, COLUMNS = 36, 24, 4, 6
WHOLE = Placement(WholeGeometry(WIDTH, HEIGHT, 299, 199), ROWS, COLUMNS)


def box(left: int, top: int, right: int, bottom: int) -> npt.NDArray[np.bool_]:
    mask_HW = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask_HW[top:bottom, left:right] = True
    return mask_HW


def random_caption(seed: int, placement: Placement = WHOLE, name: str = "", words: int = 5) -> GroundedCaption:
    rng = np.random.default_rng(seed)
    maps = [rng.random((placement.rows, placement.columns)).astype(np.float32) for _ in range(words)]
    nouns = []
    for word in rng.choice(words, 3, replace=False).tolist():
        left, top = int(rng.integers(0, WIDTH - 14)), int(rng.integers(0, HEIGHT - 12))
        nouns.append((word, box(left, top, left + int(rng.integers(7, 14)), top + int(rng.integers(7, 12)))))
    return GroundedCaption(name or f"{seed}.png", maps, placement, nouns)


def perfect(seed: int, hits: float = 1.0, at: int = 1) -> GroundedCaption:
    """Two words, the second a noun whose map is its region for a share of seeds; the first looks elsewhere."""
    rng = np.random.default_rng(seed)
    row, column = int(rng.integers(0, ROWS)), int(rng.integers(0, COLUMNS))
    here_RC = np.zeros((ROWS, COLUMNS))
    here_RC[row, column] = 1
    away_RC = np.roll(here_RC, 2, axis=1)
    seen_RC = here_RC if rng.random() < hits else np.roll(here_RC, 3, axis=1)
    mask_HW = box(column * 6, row * 6, column * 6 + 6, row * 6 + 6)
    maps = [away_RC * 3, seen_RC] if at else [seen_RC, away_RC * 3]
    return GroundedCaption(f"{seed}.png", maps, WHOLE, [(at, mask_HW)])
