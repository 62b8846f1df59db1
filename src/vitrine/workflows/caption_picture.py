"""From a decoded caption to what its figure is drawn of, and where the figure says that it came from."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vitrine.caption.word_checks import WordCheck, check_words
from vitrine.caption.words import CaptionWord, caption_words
from vitrine.data.samples import Sample
from vitrine.report.provenance import Provenance
from vitrine.report.scale import Scale, shared_scale
from vitrine.report.words import CaptionPicture, WordPanel
from vitrine.workflows.captioned import CaptionSettings
from vitrine.workflows.captioner_opening import OpenedCaptioner
from vitrine.workflows.decoded_pictures import DecodedPicture


@dataclass(frozen=True, eq=False)
class WordedPicture:
    """A caption in words.

    Attributes:
        words: with their maps.
        checks: one a word.
        picture: what the figure is drawn of.
        scale: of its maps.
    """

    words: tuple[CaptionWord, ...]
    checks: tuple[WordCheck, ...]
    picture: CaptionPicture
    scale: Scale


def worded_picture(decoded: DecodedPicture, opened: OpenedCaptioner, settings: CaptionSettings) -> WordedPicture:
    """Join word pieces, check their maps, and say what they are."""
    caption = decoded.caption
    words = caption_words(caption, opened.vocabulary, settings.join)
    checks = check_words(words)
    of_heads, layer = settings.heads, settings.layer
    heads = f"head {of_heads}" if isinstance(of_heads, int) else f"{of_heads} of heads"
    where = "last decoder layer" if layer == -1 else f"decoder layer {layer}"
    picture = CaptionPicture(
        photo_HWC=np.asarray(decoded.photo),
        placement=decoded.placement,
        caption=opened.vocabulary.text(caption.ids),
        words=tuple(
            WordPanel(word.text, word.probability, word.map_RC, not check.particular)
            for word, check in zip(words, checks, strict=True)
        ),
        name=decoded.sample.name,
        log_probability=caption.log_probability,
        method=f"{opened.attention} of the query that predicted each word, {where}, {heads}",
        notes=() if caption.finished else ("The caption was cut for its length.",),
    )
    return WordedPicture(
        words, checks, picture, Scale("uniform", shared_scale([word.map_RC for word in words]) if words else 2.0)
    )


def caption_origin(
    reference: str,
    opened: OpenedCaptioner,
    settings: CaptionSettings,
    sample: Sample,
    picture: str,
    folder: str,
    flags: Sequence[str] = (),
) -> Provenance:
    """Where a figure of a caption came from, and the command that makes it again.

    Args:
        reference: of the captioner, as it was given.
        opened: the captioner.
        settings: of the decoding.
        sample: the picture.
        picture: its path, as a command has it.
        folder: of the figure.
        flags: options of the command beside those of the settings.
    """
    command = ["vitrine", "caption", reference, picture, "-o", folder, *flags, *settings.flags()]
    return Provenance(
        figure="caption",
        model=reference,
        weights_sha256=opened.weights.sha256,
        picture=picture,
        picture_sha256=hashlib.sha256(sample.picture.encoded()).hexdigest(),
        method=opened.attention,
        layer=str(settings.layer),
        heads=str(settings.heads),
        precision=settings.precision,
        command=shlex.join(command),
    )
