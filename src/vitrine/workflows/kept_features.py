"""Features of an image encoder that is not trained: computed once, kept for every epoch.

Letters: D channels, R, C rows and columns of a picture's own grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from vitrine.data.caption_batch import PictureBatch
from vitrine.data.caption_transform import CaptionTransform
from vitrine.models.captioner.features import Features
from vitrine.models.captioner.model import CaptionModel
from vitrine.models.precision import autocast
from vitrine.workflows.training_task import Setting

KEPT_BYTES = 4 << 30  # features are kept up to here, and computed every epoch beyond


class KeptFeatures:
    """Features (D, R, C) of pictures, by their position."""

    def __init__(self, values: dict[int, Tensor]) -> None:
        self._values = values

    def __getitem__(self, indices: Sequence[int]) -> Features:
        """A batch of these pictures."""
        return Features.join([self._values[index] for index in indices])


def keep_features(
    model: CaptionModel,
    batches: Iterable[PictureBatch],
    transform: CaptionTransform,
    setting: Setting,
    count: int,
    progress: Callable[[int], None],
) -> KeptFeatures | None:
    """Run the image encoder over all pictures once.

    Args:
        model: in eval mode, on the setting's device.
        batches: the pictures, as prediction sees them.
        transform: how they are normalised.
        setting: device and precision.
        count: pictures in all.
        progress: called with pictures done.

    Returns:
        what was kept on the CPU, in the precision it was computed in; None where that would be too much.
    """
    values: dict[int, Tensor] = {}
    dtype = torch.bfloat16 if setting.precision == "bf16" else torch.float32
    for batch in batches:
        pixels = [transform.normalised(each.to(setting.device)) for each in batch.pixels]
        with torch.no_grad(), autocast(setting.device, setting.precision):
            features = model.see(pixels)
        for row, (index, grid) in enumerate(zip(batch.indices_B.tolist(), features.grids, strict=True)):
            own = features.values_BDRC[row, :, : grid[0], : grid[1]]
            values[index] = own.to("cpu", dtype, copy=True)
        if count * next(iter(values.values())).nbytes > KEPT_BYTES:
            return None
        progress(len(values))
    return KeptFeatures(values)
