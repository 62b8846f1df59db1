"""What is held of a picture for a model: its answer, its attention, and the maps that were made of it.

Axes: C classes (in pixels channels), H, W pixels of the model's input.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from vitrine.explain.held import HeldAttention
from vitrine.explain.maps import BatchMaps
from vitrine.explain.placement import Placement

KEPT = 64
"""Maps, and checks, of one picture at most: a model of a thousand classes has thousands that can be asked for."""


def keep(kept: dict[Any, Any], key: Any, value: Any) -> Any:
    """Keep something as the latest of at most :data:`KEPT`, and give it back."""
    kept[key] = value
    for old in list(kept)[:-KEPT]:
        kept.pop(old, None)
    return value


@dataclass(frozen=True, eq=False)
class EncodedPicture:
    """One picture as one classifier saw it.

    Attributes:
        sha256: of the file.
        placement: of the grid on the photograph.
        square_CHW: uint8, what the model sees, for methods that run it again.
        probabilities_C: float32.
        attention: of every layer; None where the model has none that can be shown.
        maps: of methods that run the model again, by method and class; the latest :data:`KEPT`, see :func:`keep`.
        checked: what checks found, by method, layer, heads, query and class; likewise.
    """

    sha256: str
    placement: Placement
    square_CHW: torch.Tensor
    probabilities_C: npt.NDArray[np.float32]
    attention: HeldAttention | None
    maps: dict[tuple[str, int], BatchMaps] = field(default_factory=dict)
    checked: dict[Any, Any] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes, about, once as many maps and checks are kept as may be."""
        attention = 0 if self.attention is None else self.attention.nbytes
        maps = 2 * KEPT * 4 * self.placement.rows * self.placement.columns
        return attention + maps + self.square_CHW.nbytes + self.probabilities_C.nbytes

    @property
    def size(self) -> list[int]:
        """Width and height of the photograph."""
        return [self.placement.geometry.width, self.placement.geometry.height]

    @property
    def box(self) -> list[float]:
        """Left, top, width and height of the grid on the photograph, in its pixels."""
        left, top, right, bottom = self.placement.geometry.box
        return [left, top, right - left, bottom - top]
