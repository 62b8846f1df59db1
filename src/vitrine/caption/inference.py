"""Pictures through a captioner: decoded in batches, whatever is done with their captions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from vitrine.attribution.placement import Placement
from vitrine.caption.decoding import DecodedCaption, DecodeStep, final_captions, greedy
from vitrine.caption.model import Captioner
from vitrine.data.captions.datasets import CaptionedSample
from vitrine.data.samples import Sample
from vitrine.errors import DataError, PictureError
from vitrine.io.csv_tables import csv_row
from vitrine.metrics.captions import CaptionScores, caption_scores
from vitrine.models.captioner.inference import has_bf16_image_encoder
from vitrine.models.captioner.model import EncoderOutput
from vitrine.models.precision import autocast

Decode = Callable[[Any, EncoderOutput, Sequence[Sample]], Iterator[DecodeStep]]


@dataclass(frozen=True, eq=False)
class CaptionedPicture:
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
) -> Iterator[CaptionedPicture]:
    """Caption pictures, batch by batch.

    Args:
        module: the captioner, in eval mode.
        transform: what is done to a picture; it has a ``geometry``.
        samples: the pictures.
        decode: the decoding of one encoded batch, given the captioner, the encoder output and the batch's samples.
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
                readable.append((sample, sample.picture.decode()))
            except PictureError as error:
                if unreadable is None:
                    raise
                unreadable(sample.name, str(error))
        if not readable:
            continue
        with torch.inference_mode(), autocast(device, "fp32" if has_bf16_image_encoder(module) else precision):
            encoder_output = module.encode([transform(photo).to(device) for _, photo in readable])
            captions = final_captions(decode(module, encoder_output, [sample for sample, _ in readable]))
        for (sample, photo), caption in zip(readable, captions, strict=True):
            placement = Placement(transform.geometry(*photo.size), *caption.grid)
            yield CaptionedPicture(sample, photo, caption, placement)


@dataclass(frozen=True)
class PredictedCaption:
    """One picture's caption.

    Attributes:
        name: of the picture.
        caption: the text.
        log_probability: natural, of the whole caption.
    """

    name: str
    caption: str
    log_probability: float


@dataclass(frozen=True)
class ScoredCaptioner:
    """Captions of a split and their scores.

    Attributes:
        captions: of the readable pictures, in the split's order.
        scores: against the human captions.
        unreadable: (name, reason) of pictures that count in no figure.
    """

    captions: tuple[PredictedCaption, ...]
    scores: CaptionScores
    unreadable: tuple[tuple[str, str], ...]


def score_captioner(
    opened: Captioner,
    samples: Sequence[CaptionedSample],
    *,
    precision: str = "fp32",
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> ScoredCaptioner:
    """Caption every picture greedily and score the captions.

    Args:
        opened: the captioner.
        samples: pictures with their human captions.
        precision: "fp32" or "bf16".
        progress: called with pictures done, of how many.

    Raises:
        DataError: no picture can be read.
    """
    unreadable: list[tuple[str, str]] = []
    pictures = [each.unlabelled for each in samples]
    found = []
    for caption in greedy_captions(
        opened, pictures, precision=precision, unreadable=lambda name, reason: unreadable.append((name, reason))
    ):
        found.append(caption)
        progress(len(found) + len(unreadable), len(pictures))
    if not found:
        name, reason = unreadable[0] if unreadable else ("", "there are none")
        raise DataError(f"None of the {len(pictures)} pictures can be read, for example {name}: {reason}")
    references = {each.name: each.captions for each in samples}
    scores = caption_scores(
        {each.name: each.caption for each in found},
        {each.name: references[each.name] for each in found},
    )
    return ScoredCaptioner(tuple(found), scores, tuple(unreadable))


def greedy_captions(
    opened: Captioner,
    pictures: Sequence[Sample],
    *,
    precision: str,
    unreadable: Callable[[str, str], None],
    batch_size: int = 16,
) -> Iterator[PredictedCaption]:
    """The caption of every picture that can be read, in order.

    Args:
        opened: the captioner.
        pictures: to caption.
        precision: "fp32" or "bf16", which the captioner was opened with.
        unreadable: called with name and reason of every picture that cannot be read.
        batch_size: pictures at a time; captions do not depend on it but for rounding.
    """
    for done in decode_pictures(
        opened.module,
        opened.transform,
        pictures,
        lambda module, encoder_output, _: greedy(module, encoder_output),
        device=opened.device,
        precision=precision,
        batch_size=batch_size,
        unreadable=unreadable,
    ):
        text = opened.vocabulary.decode(done.caption.ids)
        yield PredictedCaption(done.sample.name, text, done.caption.log_probability)


def captions_csv(captions: Sequence[PredictedCaption]) -> bytes:
    """filename, caption and log-probability (natural), one line a picture."""
    rows = [csv_row(("filename", "caption", "log_probability"))]
    rows += [csv_row((each.name, each.caption, f"{each.log_probability:z.6f}")) for each in captions]
    return b"".join(rows)
