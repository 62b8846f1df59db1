"""A picture's caption in Python: its words with their maps, and the figure of both. Axes: R grid rows, C columns."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from PIL import Image

from vitrine.caption.figures.figure_file import save_caption_figure
from vitrine.caption.figures.words import caption_figure
from vitrine.caption.inference import CaptionedPicture, caption_batches
from vitrine.caption.model import Captioner, open_captioner
from vitrine.caption.run import (
    CaptionOrigin,
    CaptionProvenance,
    CaptionRecord,
    CaptionResult,
    CaptionSettings,
    WordMaps,
    captioner_flags,
    prepare_word_maps,
)
from vitrine.data.picture_inputs import PictureInput, count_at_hand, path_in
from vitrine.data.samples import Sample
from vitrine.display import notebook_html
from vitrine.plotting.colormap import Scale
from vitrine.plotting.own_axes import current_axes, plot_overlay
from vitrine.plotting.style import figure_bytes
from vitrine.results import Progress, Unreadable, no_progress, none_readable, shown_number


@dataclass(frozen=True, eq=False)
class Word:
    """One word of a caption.

    Attributes:
        text: with the punctuation that belongs to it.
        probability: 0 to 1.
        map: float32 (R, C), in multiples of uniform.
        is_localized: whether the map has a place where it looks, rather than being spread out.
        query_attention: float32 (N,), the attention to each query token, of models whose maps are the product of that
            and the caption's ``query_maps``; None of others.
    """

    text: str
    probability: float
    map: npt.NDArray[np.float32]
    is_localized: bool
    query_attention: npt.NDArray[np.float32] | None = None

    def __repr__(self) -> str:
        return f"<{self.text!r} {100 * self.probability:.1f} %{'' if self.is_localized else ', spread out'}>"


@dataclass(frozen=True, eq=False)
class Caption:
    """A picture's caption.

    Attributes:
        text: the whole caption.
        log_probability: its natural logarithm of probability, at most 0.
        words: with their maps.
        query_maps: float32 (N, R, C), the share of each query token's attention that went to each cell, of models that
            have query tokens; None of others.
    """

    text: str
    log_probability: float
    words: tuple[Word, ...]
    _word_maps: WordMaps
    _sample: Sample
    _path: Path | None
    _origin: CaptionOrigin
    query_maps: npt.NDArray[np.float32] | None = None

    @classmethod
    def of(cls, picture: CaptionedPicture, provenance: CaptionProvenance, path: Path | None) -> Caption:
        """The caption of a picture that was captioned; ``path`` is where its file lies, None of one in memory."""
        word_maps = prepare_word_maps(picture, provenance.captioner, provenance.settings, provenance.model)
        words = tuple(
            Word(word.text, word.probability, word.map_RC, check.is_localized, word.queries_N)
            for word, check in zip(word_maps.words, word_maps.checks, strict=True)
        )
        text, log_probability = word_maps.picture.caption, picture.caption.log_probability
        sample, query_maps = picture.sample, picture.query_maps_NRC
        return cls(text, log_probability, words, word_maps, sample, path, provenance.origin, query_maps)

    @property
    def name(self) -> str:
        """Of the picture: its file's, or ``picture-0`` and so on."""
        return self._sample.name

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences below the figure: what was asked, whether it was cut for its length, and on attention sinks."""
        return self._word_maps.picture.notes

    @property
    def caption(self) -> str:
        """The text, as :class:`~vitrine.caption.run.CaptionRecord` calls it."""
        return self.text

    @property
    def scale(self) -> Scale:
        """The colour scale that all words of the figure share."""
        return self._word_maps.scale

    def plot(self, word: int, ax: Axes | None = None, *, scale: Scale | None = None) -> Axes:
        """Draw the map of one word over the photograph into matplotlib axes, with title and colour bar.

        Args:
            word: its place in ``words``, from 0 or from the end with -1.
            ax: the axes; None is pyplot's current ones.
            scale: of the colours; None is that of the caption's words.
        """
        picture, chosen_word = self._word_maps.picture, self.words[word]
        axes, title = current_axes() if ax is None else ax, repr(chosen_word).strip("<>")
        return plot_overlay(
            axes, picture.photo_HWC, chosen_word.map, picture.placement, scale or self.scale, title=title
        )

    def overlay(self) -> Image.Image:
        """The figure as a picture: photograph, caption, a map a word."""
        return Image.open(io.BytesIO(self._repr_png_()))

    def save(self, path: str | Path) -> Path:
        """Write the figure as .png or .svg, with its origin in its metadata.

        Raises:
            ValueError: another ending.
        """
        path = Path(path)
        out = path if self._origin.verb == "ask" else path.parent
        provenance = self._origin.of(self._sample, self._path, str(out))
        save_caption_figure(self._word_maps.picture, self._word_maps.scale, path, provenance.to_metadata())
        return path

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, maps included."""
        words, checks = self._word_maps.words, self._word_maps.checks
        maps = self.query_maps, self._word_maps.prompt
        return CaptionRecord(self.name, None, self.text, self.log_probability, words, checks, *maps).to_dict()

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"<{self.text!r}, log-probability {shown_number(self.log_probability)}>"

    def _repr_png_(self) -> bytes:
        return self._png

    def _repr_html_(self) -> str:
        return notebook_html(f"{self.name}: {self.text}", "", self._png)

    @cached_property
    def _png(self) -> bytes:
        return figure_bytes(caption_figure(self._word_maps.picture, self._word_maps.scale), "png", {})


def caption_in_memory(
    model: str | Captioner,
    pictures: PictureInput,
    settings: CaptionSettings,
    *,
    architecture: str | None = None,
    vocabulary: Path | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    progress: Progress = no_progress,
    download: Progress = no_progress,
) -> CaptionResult:
    """As :func:`vitrine.caption.run.caption_pictures`, of captions that are kept in place of written.

    Raises:
        DataError: none of the pictures can be read.
        ModelError, WeightsUnavailableError: the captioner cannot be opened.
    """
    samples = pictures.choose(limit, settings.seed)
    captioner = open_captioner(model, architecture, vocabulary, download, settings.precision)
    captioner = settings.prepare(captioner)
    flags = captioner_flags(architecture, vocabulary)
    provenance = CaptionProvenance(captioner.reference, captioner, settings, flags)
    captions: list[Caption] = []
    unreadable: list[Unreadable] = []
    for some, others in describe_pictures(samples, provenance, pictures.path, batch_size):
        captions += some
        unreadable += others
        progress(len(captions) + len(unreadable), count_at_hand(samples) or 0)
    if not captions:
        raise none_readable(unreadable)
    notes = (*captioner.notes, *pictures.notes)
    return CaptionResult(None, tuple(captions), None, tuple(unreadable), (), notes)


def describe_pictures(
    samples: Iterable[Sample], provenance: CaptionProvenance, path: Path | None, batch_size: int
) -> Iterator[tuple[tuple[Caption, ...], tuple[Unreadable, ...]]]:
    """Caption pictures batch by batch: the captions of a batch, and its unreadable pictures.

    Args:
        samples: of pictures that come one by one, no more than a batch is held.
        provenance: of figures; it has the captioner and the settings.
        path: the file or folder that was given; None of pictures in memory.
        batch_size: pictures at a time.
    """
    settings = provenance.settings
    captioner = replace(provenance.captioner, precision=settings.precision)
    for batch in caption_batches(
        captioner,
        samples,
        settings.decode,
        read=settings.read,
        read_prompts=settings.read_prompts,
        batch_size=batch_size,
    ):
        yield _captions(batch.pictures, provenance, path), batch.unreadable


def _captions(
    pictures: Sequence[CaptionedPicture], provenance: CaptionProvenance, path: Path | None
) -> tuple[Caption, ...]:
    return tuple(
        Caption.of(each, provenance, path_in(path, each.sample, path is not None and path.is_dir()))
        for each in pictures
    )
