"""Pictures of several sizes that go through a captioner together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from vitrine.data.batch import sample_rng
from vitrine.data.caption_transform import CaptionTrainTransform
from vitrine.data.samples import Sample
from vitrine.errors import PictureError


@dataclass(frozen=True)
class PictureBatch:
    """Decoded pictures.

    Attributes:
        pixels: uint8 (h, w, 3) each.
        indices_B: int64 positions in the samples that were given.
        unreadable: (position, reason) of pictures that belong here and could not be read.
        lent: these pictures are only here so that their process can take part in a step; they count nowhere.
    """

    pixels: tuple[torch.Tensor, ...]
    indices_B: torch.Tensor
    unreadable: tuple[tuple[int, str], ...] = ()
    lent: bool = False

    def __len__(self) -> int:
        """Pictures that could be read."""
        return len(self.pixels)

    def pin_memory(self) -> PictureBatch:
        """As :meth:`vitrine.data.batch.Batch.pin_memory`."""
        return replace(self, pixels=tuple(each.pin_memory() for each in self.pixels))


def load_pictures(
    samples: Sequence[Sample], indices: Sequence[int], transform: CaptionTrainTransform, *, seed: int, epoch: int
) -> PictureBatch:
    """Decode and transform ``samples``, whose positions in their data are ``indices``.

    Raises:
        RuntimeError: anything but an unreadable picture went wrong; the message names the sample.
    """
    pixels, kept, unreadable = [], [], []
    for index, sample in zip(indices, samples, strict=True):
        try:
            pixels.append(torch.from_numpy(transform(sample.picture.decoded(), sample_rng(seed, epoch, index))))
        except PictureError as error:
            unreadable.append((index, str(error)))
            continue
        except Exception as error:
            raise RuntimeError(f"Loading {sample.name} failed: {type(error).__name__}: {error}") from error
        kept.append(index)
    return PictureBatch(tuple(pixels), torch.tensor(kept).long(), tuple(unreadable))
