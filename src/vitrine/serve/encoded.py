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


@dataclass(frozen=True, eq=False)
class EncodedPicture:
    """One picture as one classifier saw it.

    Attributes:
        sha256: of the file.
        placement: of the grid on the photograph.
        square_CHW: uint8, what the model sees, for methods that run it again.
        probabilities_C: float32.
        attention: of every layer; None where the model has none that can be shown.
        maps: of methods that run the model again, by method and class.
        checked: what checks found, by method, layer, heads, query and class.
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
        """Bytes, about: maps and checks are small."""
        held = 0 if self.attention is None else self.attention.nbytes
        return held + self.square_CHW.nbytes + self.probabilities_C.nbytes + 4096 * (len(self.maps) + len(self.checked))

    @property
    def size(self) -> list[int]:
        """Width and height of the photograph."""
        return [self.placement.geometry.width, self.placement.geometry.height]

    @property
    def box(self) -> list[float]:
        """Left, top, width and height of the grid on the photograph, in its pixels."""
        left, top, right, bottom = self.placement.geometry.box
        return [left, top, right - left, bottom - top]
