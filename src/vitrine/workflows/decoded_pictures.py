"""Pictures through a captioner: decoded in batches, whatever is done with their captions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from vitrine.caption.decoded import DecodedCaption, Progress, captions_of
from vitrine.data.samples import Sample
from vitrine.errors import PictureError
from vitrine.explain.placement import Placement
from vitrine.models.captioner.interface import Memory
from vitrine.models.captioner.prediction import images_rounded
from vitrine.models.precision import autocast

Decode = Callable[[Any, Memory, Sequence[Sample]], Iterator[Progress]]


@dataclass(frozen=True, eq=False)
class DecodedPicture:
    """One picture and its caption.

    Attributes:
        sample: the picture.
        photo: decoded, mode RGB, upright.
        caption: with its maps.
        placement: of the maps on the photograph.
    """

    sample: Sample
    photo: Image.Image
    caption: DecodedCaption
    placement: Placement


def decode_pictures(
    module: Any,
    transform: Any,
    samples: Sequence[Sample],
    decode: Decode,
    *,
    device: torch.device,
    precision: str = "fp32",
    batch_size: int = 8,
    unreadable: Callable[[str, str], None] | None = None,
) -> Iterator[DecodedPicture]:
    """Caption pictures, batch by batch.

    Args:
        module: the captioner, in eval mode.
        transform: what is done to a picture; it has a ``geometry``.
        samples: the pictures.
        decode: the decoding of one encoded batch, given the captioner, the memory and the batch's samples.
        device: where the module is.
        precision: "fp32" or "bf16", which the captioner was opened with; one that was opened in float32 is put under
            autocast for bf16, pictures and words.
        batch_size: pictures at a time.
        unreadable: called with name and reason of a picture that cannot be read; None raises.

    Raises:
        PictureError: a picture cannot be read, where nobody is told.
    """
    for first in range(0, len(samples), batch_size):
        readable = []
        for sample in samples[first : first + batch_size]:
            try:
                readable.append((sample, sample.picture.decoded()))
            except PictureError as error:
                if unreadable is None:
                    raise
                unreadable(sample.name, str(error))
        if not readable:
            continue
        with torch.inference_mode(), autocast(device, "fp32" if images_rounded(module) else precision):
            memory = module.encode([transform(photo).to(device) for _, photo in readable])
            captions = captions_of(decode(module, memory, [sample for sample, _ in readable]))
        for (sample, photo), caption in zip(readable, captions, strict=True):
            placement = Placement(transform.geometry(*photo.size), *caption.grid)
            yield DecodedPicture(sample, photo, caption, placement)
