"""``vitrine caption``: one figure for every picture, with a map for every word, and a table of captions.

Axes: B pictures of a batch, R grid rows, C grid columns.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from vitrine.caption.word_checks import check_words
from vitrine.caption.words import caption_words
from vitrine.data.listing import list_pictures
from vitrine.data.samples import Sample, drawn
from vitrine.errors import DataError
from vitrine.report.caption_records import CAPTION_HEADER, caption_record
from vitrine.report.provenance import Provenance
from vitrine.report.scale import Scale, shared_scale
from vitrine.report.words import CaptionPicture, WordPanel, save_caption_figure
from vitrine.workflows.captioned import Captioned, Captions, CaptionSettings
from vitrine.workflows.captioner_opening import OpenedCaptioner, open_captioner
from vitrine.workflows.decoded_pictures import DecodedPicture, decode_pictures
from vitrine.workflows.figure_names import figure_names


def caption_pictures(
    model: str,
    images: Path,
    out: Path,
    settings: CaptionSettings,
    *,
    architecture: str | None = None,
    vocabulary: Path | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    download: Callable[[int, int], None] = lambda _done, _total: None,
) -> Captions:
    """Caption every picture, as pictures come: what was drawn before an interruption stays.

    Args:
        model: ``catr/v1``, ``catr/v2``, ``catr/v3``; with ``architecture``, a weights file.
        images: a folder, searched with its sub-folders, or one picture.
        out: the folder of figures and captions.csv.
        settings: how captions are decoded.
        architecture: ``catr`` where ``model`` is a file.
        vocabulary: the captioner's vocab.txt or tokenizer.json; None finds it.
        limit: pictures at most; with more, a choice drawn with the settings' seed. None takes all.
        batch_size: pictures at a time; captions do not depend on it but for rounding.
        progress: called with pictures done, of how many.
        download: called with bytes done, of how many.

    Raises:
        DataError: no pictures, or none that can be read.
        ModelError, WeightsUnavailableError: the captioner cannot be opened.
    """
    samples = drawn(list_pictures(images), limit, settings.seed)
    opened = open_captioner(model, architecture, vocabulary, download)
    given = ["--arch", architecture] if architecture else []
    given += ["--vocab", str(vocabulary)] if vocabulary else []
    session = _Session(opened, model, images, out, settings, samples, [*given, *settings.flags()])
    for first in range(0, len(samples), batch_size):
        session.caption(samples[first : first + batch_size])
        progress(min(first + batch_size, len(samples)), len(samples))
    return session.finish()


class _Session:
    """One call: figures and rows are written batch by batch; an unfinished table is captions.csv.partial."""

    def __init__(
        self,
        opened: OpenedCaptioner,
        model: str,
        images: Path,
        out: Path,
        settings: CaptionSettings,
        samples: Sequence[Sample],
        flags: Sequence[str],
    ) -> None:
        self.opened, self.model, self.images, self.out, self.settings = opened, model, images, out, settings
        self.flags = flags
        self.attention = str(getattr(opened.module, "attention", "cross-attention"))
        self.figures = figure_names(samples, settings.kind)
        self.made: list[Captioned] = []
        self.unreadable: list[tuple[str, str]] = []
        out.mkdir(parents=True, exist_ok=True)
        self.partial = out / "captions.csv.partial"
        self.partial.write_bytes(CAPTION_HEADER)

    def caption(self, samples: Sequence[Sample]) -> None:
        """One batch."""
        decoded = decode_pictures(
            self.opened.module,
            self.opened.transform,
            samples,
            lambda module, memory, _: self.settings.decode(module, memory),
            device=self.opened.device,
            precision=self.settings.precision,
            batch_size=len(samples),
            unreadable=lambda name, reason: self.unreadable.append((name, reason)),
        )
        with self.partial.open("ab") as rows:
            for each in decoded:
                rows.write(self._draw(each))

    def _draw(self, decoded: DecodedPicture) -> bytes:
        sample, caption = decoded.sample, decoded.caption
        words = caption_words(caption, self.opened.vocabulary, self.settings.join)
        checks = check_words(words)
        panels = tuple(
            WordPanel(word.text, word.probability, word.map_RC, not check.particular)
            for word, check in zip(words, checks, strict=True)
        )
        text = self.opened.vocabulary.text(caption.ids)
        of_heads, layer = self.settings.heads, self.settings.layer
        heads = f"head {of_heads}" if isinstance(of_heads, int) else f"{of_heads} of heads"
        where = "last decoder layer" if layer == -1 else f"decoder layer {layer}"
        picture = CaptionPicture(
            photo_HWC=np.asarray(decoded.photo),
            placement=decoded.placement,
            caption=text,
            words=panels,
            name=sample.name,
            log_probability=caption.log_probability,
            method=f"{self.attention} of the query that predicted each word, {where}, {heads}",
            notes=() if caption.finished else ("The caption was cut for its length.",),
        )
        made = Captioned(
            sample.name, self.out / self.figures[sample.name], text, caption.log_probability, words, checks
        )
        scale = Scale("uniform", shared_scale([word.map_RC for word in words]) if words else 2.0)
        save_caption_figure(picture, scale, made.figure, self._origin(sample, made.figure).to_metadata())
        self.made.append(made)
        return caption_record(picture)

    def _origin(self, sample: Sample, figure: Path) -> Provenance:
        where = str(self.images / sample.name if self.images.is_dir() else self.images)
        return Provenance(
            figure="caption",
            model=self.model,
            weights_sha256=self.opened.weights.sha256,
            picture=where,
            picture_sha256=hashlib.sha256(sample.picture.encoded()).hexdigest(),
            method=self.attention,
            layer=str(self.settings.layer),
            heads=str(self.settings.heads),
            precision=self.settings.precision,
            command=shlex.join(["vitrine", "caption", self.model, where, "-o", str(figure.parent), *self.flags]),
        )

    def finish(self) -> Captions:
        """The table under its name."""
        if not self.made:
            name, reason = self.unreadable[0]
            raise DataError(f"None of the {len(self.unreadable)} pictures can be read, for example {name}: {reason}")
        table = self.partial.with_name("captions.csv")
        self.partial.replace(table)
        return Captions(self.out, tuple(self.made), table, tuple(self.unreadable), self.opened.notes)
