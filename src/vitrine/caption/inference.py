"""A captioner run over samples, batch by batch, and its captions held against human ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from vitrine.attribution.placement import Placement
from vitrine.caption.decoding import DecodedCaption, DecodeStep, final_captions, greedy
from vitrine.caption.model import Captioner
from vitrine.caption.tokenizer import Vocabulary
from vitrine.data.samples import Sample
from vitrine.errors import PictureError
from vitrine.io.resumable_csv import csv_row
from vitrine.metrics.captions import CaptionScores, caption_scores
from vitrine.models.captioner.inference import has_bf16_image_encoder
from vitrine.models.captioner.model import EncoderOutput
from vitrine.models.precision import autocast
from vitrine.results import Progress, Unreadable, no_progress

Decode = Callable[[Any, EncoderOutput, Sequence[Sample]], Iterator[DecodeStep]]
"""Decodes one encoded batch, given the captioner's module, the encoder's output and the batch's samples."""


@dataclass(frozen=True, eq=False)
class EncodedBatch:
    """The readable pictures of one batch.

    Attributes:
        captioner: that encoded them.
        encoder_output: its encoder's output.
        samples, photos: of each picture; photographs mode RGB, upright.
    """

    captioner: Captioner
    encoder_output: EncoderOutput
    samples: Sequence[Sample]
    photos: Sequence[Image.Image]


Read = Callable[[EncodedBatch, Sequence[DecodedCaption]], Sequence[DecodedCaption]]
"""Gives captions that were decoded their maps, where those are read when all words are there."""


ReadPrompts = Callable[[EncodedBatch], Sequence[DecodedCaption]]
"""Gives the prompt of each picture of a batch, with the maps of its words."""


@dataclass(frozen=True, eq=False)
class CaptionedPicture:
    """One picture and its caption.

    Attributes:
        sample: the picture.
        photo: its pixels, mode RGB, upright.
        caption: with its maps.
        placement: of the maps on the photograph.
        query_maps_NRC: float32, what each query token read of each cell, of captioners that have some; else None.
        prompt: the words of the prompt with their maps, in the form of a caption whose words are certain; None without.
    """

    sample: Sample
    photo: Image.Image
    caption: DecodedCaption
    placement: Placement
    query_maps_NRC: npt.NDArray[np.float32] | None = None
    prompt: DecodedCaption | None = None


@dataclass(frozen=True, eq=False)
class BatchCaptions:
    """The captions of one batch.

    Attributes:
        pictures: its readable pictures, in order.
        unreadable: (name, reason) of its other pictures.
    """

    pictures: tuple[CaptionedPicture, ...]
    unreadable: tuple[Unreadable, ...] = ()


def caption_batches(
    captioner: Captioner,
    samples: Iterable[Sample],
    decode: Decode,
    *,
    read: Read | None = None,
    read_prompts: ReadPrompts | None = None,
    batch_size: int = 8,
    progress: Progress = no_progress,
) -> Iterator[BatchCaptions]:
    """Caption pictures, batch by batch.

    Args:
        captioner: run in its precision; one of bf16 whose image encoder is in float32 is put under autocast, pictures
            and words.
        samples: the pictures; of those that come one by one, no more than a batch is held.
        decode: how captions are chosen.
        read: how their maps are read; None takes those of the decoding.
        read_prompts: gives the prompts' words with maps; None leaves them out.
        batch_size: pictures at a time; captions do not depend on it but for rounding.
        progress: called with pictures done, readable or not, of how many (0 where that is not known), each time the
            caller asks for more.
    """
    source, done, total = iter(samples), 0, len(samples) if isinstance(samples, Sequence) else 0
    while part := tuple(islice(source, batch_size)):
        done += len(part)
        yield _caption_part(captioner, part, decode, read, read_prompts)
        part = ()  # its pictures need not wait for the next ones
        progress(done, total)


def _caption_part(
    captioner: Captioner,
    part: Sequence[Sample],
    decode: Decode,
    read: Read | None,
    read_prompts: ReadPrompts | None,
) -> BatchCaptions:
    module, transform, device = captioner.module, captioner.transform, captioner.device
    precision = "fp32" if has_bf16_image_encoder(module) else captioner.precision
    readable: list[tuple[Sample, Image.Image, Any]] = []
    unreadable: list[Unreadable] = []
    for sample in part:
        try:
            photo = sample.picture.decode()
            readable.append((sample, photo, transform(photo)))
        except PictureError as error:
            unreadable.append((sample.name, str(error)))
    captions: Sequence[DecodedCaption] = ()
    query_maps: Sequence[npt.NDArray[np.float32] | None] = [None] * len(readable)
    prompts: Sequence[DecodedCaption | None] = [None] * len(readable)
    if readable:
        with torch.inference_mode(), autocast(device, precision):
            encoder_output = module.encode([pixels.to(device) for _, _, pixels in readable])
            samples, photos, _ = zip(*readable, strict=True)
            captions = final_captions(decode(module, encoder_output, samples))
            batch = EncodedBatch(captioner, encoder_output, samples, photos)
            captions = captions if read is None else read(batch, captions)
            prompts = prompts if read_prompts is None else read_prompts(batch)
            has_queries = hasattr(module, "query_maps")
            query_maps = module.query_maps(encoder_output) if has_queries else query_maps
    pictures = (
        CaptionedPicture(sample, photo, caption, _placement(captioner, photo, caption), maps, prompt)
        for (sample, photo, _), caption, maps, prompt in zip(readable, captions, query_maps, prompts, strict=True)
    )
    return BatchCaptions(tuple(pictures), tuple(unreadable))


def _placement(captioner: Captioner, photo: Image.Image, caption: DecodedCaption) -> Placement:
    return Placement(captioner.transform.geometry(*photo.size), *caption.grid)


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
class CaptionPredictions:
    """Captions of many pictures.

    Attributes:
        captions: of the readable pictures, in order.
        unreadable: (name, reason) of the others.
    """

    captions: tuple[PredictedCaption, ...]
    unreadable: tuple[Unreadable, ...]


def greedy_captions(
    captioner: Captioner,
    samples: Sequence[Sample],
    *,
    batch_size: int = 16,
    progress: Progress = no_progress,
) -> CaptionPredictions:
    """Caption every picture greedily, without keeping photographs or maps.

    Args:
        captioner: the captioner.
        samples: the pictures.
        batch_size: pictures at a time; captions do not depend on it but for rounding.
        progress: called with pictures done, of how many.
    """
    captions: list[PredictedCaption] = []
    unreadable: list[Unreadable] = []
    for part in caption_batches(
        captioner,
        samples,
        lambda module, encoder_output, _: greedy(module, encoder_output),
        batch_size=batch_size,
        progress=progress,
    ):
        unreadable += part.unreadable
        captions += (predicted_caption(picture, captioner.vocabulary) for picture in part.pictures)
    return CaptionPredictions(tuple(captions), tuple(unreadable))


def predicted_caption(picture: CaptionedPicture, vocabulary: Vocabulary) -> PredictedCaption:
    """A picture's caption as text."""
    caption = picture.caption
    return PredictedCaption(picture.sample.name, vocabulary.decode(caption.ids), caption.log_probability)


def score_captions(
    captions: Sequence[PredictedCaption], samples: Sequence[Sample], *, java: bool = False
) -> CaptionScores:
    """Hold captions against the human ones of the same pictures; see :func:`vitrine.metrics.captions.caption_scores`.

    Args:
        captions: at least one.
        samples: with human captions; those without a predicted one are left out.
        java: METEOR and SPICE too, which need Java.
    """
    predicted = {each.name: each.caption for each in captions}
    references = {sample.name: sample.captions for sample in samples if sample.name in predicted}
    return caption_scores(predicted, references, java=java)


def captions_csv(captions: Sequence[PredictedCaption]) -> bytes:
    """filename, caption and log-probability (natural), one line a picture."""
    rows = [csv_row(("filename", "caption", "log_probability"))]
    rows += [csv_row((each.name, each.caption, f"{each.log_probability:z.6f}")) for each in captions]
    return b"".join(rows)
