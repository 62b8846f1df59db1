"""A captioner that was opened once, and is asked about pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal, NoReturn, overload

from vitrine.api.model import OnePicture, one_or_many
from vitrine.api.options import require_counts
from vitrine.caption.model import Captioner, open_captioner
from vitrine.caption.picture_caption import Caption, describe_pictures
from vitrine.caption.run import CaptionProvenance, CaptionSettings, captioner_flags
from vitrine.data.picture_inputs import picture_input
from vitrine.errors import DataError, ModelError
from vitrine.results import count_of

BATCH_SIZE = 8
"""Pictures that are captioned at a time, where nothing else is said."""


class CaptionerModel:
    """A captioner that :func:`vitrine.load` opened."""

    def __init__(self, captioner: Captioner, architecture: str | None = None, vocabulary: Path | None = None) -> None:
        self.captioner, self._architecture, self._vocabulary = captioner, architecture, vocabulary
        self._flags = captioner_flags(architecture, vocabulary)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as its reference: another process opens the same files."""
        captioner = self.captioner
        how = (self._architecture, self._vocabulary, captioner.precision, captioner.weights.sha256)
        return _open_again, (self.reference, *how)

    def __deepcopy__(self, memo: dict[int, Any]) -> CaptionerModel:
        return CaptionerModel(deepcopy(self.captioner, memo), self._architecture, self._vocabulary)

    @property
    def reference(self) -> str:
        """What it was opened by."""
        return self.captioner.reference

    @property
    def notes(self) -> tuple[str, ...]:
        """Which files the weights and word pieces came from."""
        return self.captioner.notes

    @overload
    def caption(self, pictures: OnePicture, *, batch_size: int = BATCH_SIZE, **how: Any) -> Caption: ...
    @overload
    def caption(
        self, pictures: list[Any] | tuple[Any, ...], *, batch_size: int = BATCH_SIZE, **how: Any
    ) -> list[Caption]: ...
    @overload
    def caption(self, pictures: Iterable[Any], *, batch_size: int = BATCH_SIZE, **how: Any) -> Iterator[Caption]: ...
    def caption(
        self, pictures: Any, *, batch_size: int = BATCH_SIZE, **how: Any
    ) -> Caption | list[Caption] | Iterator[Caption]:
        """Caption one picture or several, with a map for every word.

        Args:
            pictures: one picture (a path, bytes, a PIL image, a NumPy array (H, W, 3), a torch tensor (C, H, W)): the
                answer is one caption; a list of these: a list of captions; a generator, a ``datasets`` split or a
                DataLoader: captions one by one, in constant memory.
            batch_size: pictures that are captioned at a time.
            how: ``beams``, ``max_pieces``, ``layer``, ``heads``, ``join`` and the other fields of
                :class:`vitrine.caption.run.CaptionSettings`.

        Raises:
            DataError, PictureError: a picture cannot be used.
            ModelError: the captioner has no such layer or head.
            UsageError: a setting that there is not.

        Examples:
            >>> caption = vitrine.load("runs/captioner").caption("cat.jpg")
            >>> len(caption.words) == len(caption.text.split())
            True
        """
        require_counts(batch_size=batch_size)
        inputs = picture_input(pictures)
        if inputs.path is not None and not inputs.is_one:
            raise DataError(f"{inputs.path} is a folder: give one picture, or use vitrine.caption(model, folder, OUT).")
        settings = CaptionSettings(**{"precision": self.captioner.precision, **how})
        captioner = settings.prepare(self.captioner)
        verb: Literal["ask", "caption"] = "caption" if settings.prompt is None else "ask"
        provenance = CaptionProvenance(self.reference, captioner, settings, self._flags, verb)
        return one_or_many(inputs, describe_pictures(inputs.samples, provenance, inputs.path, batch_size))  # type: ignore[no-any-return]

    def ask(self, picture: OnePicture, question: str, **how: Any) -> Caption:
        """Ask a vision-language model about one picture; its answer's words have a map each.

        Args:
            picture: as of :meth:`caption`.
            question: in plain words.
            how: as of :meth:`caption`.

        Raises:
            DataError, PictureError: the picture cannot be used, or does not fit the model's context.
            ModelError: the model has no such layer or head.
            UsageError: the question is empty, or the captioner takes none.

        Examples:
            >>> answer = vitrine.load("models/llava").ask("cat.jpg", "What is in the picture?", max_pieces=4)
            >>> len(answer.words) > 0
            True
        """
        return self.caption(picture, **{**how, "prompt": question})

    def predict(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: a captioner has no classes.

        Raises:
            ModelError: always.
        """
        raise ModelError(f"{self.reference} is a captioner, which has no classes: use .caption(PICTURE).")

    def explain(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: a captioner has a map for every word instead.

        Raises:
            ModelError: always.
        """
        raise ModelError(f"{self.reference} is a captioner: .caption(PICTURE).words have a map each.")

    def __repr__(self) -> str:
        words = f"{count_of(self.captioner.vocabulary.size, 'word piece')}"
        return f"<vitrine captioner {self.reference}: {words}, {self.captioner.precision}>"


def _open_again(
    reference: str, architecture: str | None, vocabulary: Path | None, precision: str, sha256: str
) -> CaptionerModel:
    """Open a pickled captioner, if its weights are still those that were pickled.

    Raises:
        ModelError: they are not.
    """
    captioner = open_captioner(reference, architecture, vocabulary, precision=precision)
    if captioner.weights.sha256 != sha256:
        raise ModelError(
            f"{reference} has other weights than when it was pickled: {captioner.weights.sha256[:12]}, not "
            f"{sha256[:12]}.\nOpen it anew, with vitrine.load."
        )
    return CaptionerModel(captioner, architecture, vocabulary)
