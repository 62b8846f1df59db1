"""A captioner in Python: opened once, then asked about pictures, with captions that show themselves in a notebook.

Axes: R grid rows, C grid columns.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
from PIL import Image

from vitrine.data.listing import one_picture
from vitrine.data.samples import Sample
from vitrine.errors import ModelError
from vitrine.report.provenance import Provenance
from vitrine.report.words import caption_figure, save_caption_figure
from vitrine.results import shown_number
from vitrine.workflows.caption_picture import WordedPicture, caption_origin, worded_picture
from vitrine.workflows.captioned import CaptionSettings
from vitrine.workflows.captioner_opening import OpenedCaptioner
from vitrine.workflows.decoded_pictures import DecodedPicture, decode_pictures


@dataclass(frozen=True, eq=False)
class Word:
    """One word of a caption.

    Attributes:
        text: with the punctuation that belongs to it.
        probability: 0 to 1.
        map: float32 (R, C), in multiples of uniform.
        looked: whether it looked anywhere in particular.
    """

    text: str
    probability: float
    map: npt.NDArray[np.float32]
    looked: bool


@dataclass(frozen=True, eq=False)
class Caption:
    """A picture's caption.

    Attributes:
        text: the whole of it.
        log_probability: natural.
        words: with their maps.
    """

    text: str
    log_probability: float
    words: tuple[Word, ...]
    _worded: WordedPicture
    _origin: Any

    def overlay(self) -> Image.Image:
        """The figure as a picture: photograph, caption, a map a word."""
        return Image.open(io.BytesIO(self._repr_png_()))

    def save(self, path: str | Path) -> Path:
        """Write the figure as .png or .svg, with its origin in its metadata.

        Raises:
            ValueError: another ending.
        """
        path = Path(path)
        origin: Provenance = self._origin(str(path.parent))
        save_caption_figure(self._worded.picture, self._worded.scale, path, origin.to_metadata())
        return path

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"<{self.text!r}, log-probability {shown_number(self.log_probability)}>"

    def _repr_png_(self) -> bytes:
        return self._drawn

    @cached_property
    def _drawn(self) -> bytes:
        drawn = io.BytesIO()
        caption_figure(self._worded.picture, self._worded.scale).savefig(drawn, format="png")
        return drawn.getvalue()


class CaptionerModel:
    """An opened captioner. Made by :func:`vitrine.load`."""

    def __init__(self, reference: str, opened: OpenedCaptioner, precision: str, architecture: str | None) -> None:
        self.reference, self.opened = reference, opened
        self._precision, self._flags = precision, ["--arch", architecture] if architecture else []

    @property
    def notes(self) -> tuple[str, ...]:
        """Which files the weights and word pieces came from."""
        return self.opened.notes

    def caption(self, picture: str | Path, **how: Any) -> Caption:
        """Caption one picture.

        Args:
            picture: a file.
            how: ``beams``, ``max_pieces``, ``layer``, ``heads``, ``join`` and the other fields of
                :class:`vitrine.workflows.captioned.CaptionSettings`.

        Raises:
            DataError, PictureError: the picture cannot be read.
            ModelError: the captioner has no such layer or head.
        """
        settings = CaptionSettings(**{"precision": self._precision, **how})
        sample = one_picture(picture, "vitrine caption")
        decoded = self._decoded(sample, settings)
        worded = worded_picture(decoded, self.opened, settings)
        words = tuple(
            Word(word.text, word.probability, word.map_RC, check.particular)
            for word, check in zip(worded.words, worded.checks, strict=True)
        )

        def origin(folder: str) -> Provenance:
            return caption_origin(self.reference, self.opened, settings, sample, str(picture), folder, self._flags)

        return Caption(worded.picture.caption, decoded.caption.log_probability, words, worded, origin)

    def _decoded(self, sample: Sample, settings: CaptionSettings) -> DecodedPicture:
        opened = self.opened
        return next(
            decode_pictures(
                opened.module,
                opened.transform,
                [sample],
                lambda module, memory, _: settings.decode(module, memory),
                device=opened.device,
                precision=settings.precision,
            )
        )

    def predict(self, *_: Any, **__: Any) -> NoReturn:
        """A captioner has no classes.

        Raises:
            ModelError: always.
        """
        raise ModelError(f"{self.reference} is a captioner, which has no classes: use .caption(PICTURE).")

    def explain(self, *_: Any, **__: Any) -> NoReturn:
        """A captioner has a map for every word instead.

        Raises:
            ModelError: always.
        """
        raise ModelError(f"{self.reference} is a captioner: .caption(PICTURE).words have a map each.")

    def __repr__(self) -> str:
        return f"<vitrine captioner {self.reference}: {self.opened.vocabulary.size:,} word pieces, {self._precision}>"
