"""``vitrine caption``: one figure for every picture, with a map for every word, and a table of captions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from vitrine.data.listing import list_pictures
from vitrine.data.samples import Sample, drawn
from vitrine.errors import DataError
from vitrine.report.caption_records import CAPTION_HEADER, caption_record
from vitrine.report.words import save_caption_figure
from vitrine.workflows.caption_picture import caption_origin, worded_picture
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
    opened = open_captioner(model, architecture, vocabulary, download, settings.precision)
    given = given_flags(architecture, vocabulary)
    figures = figure_names([sample.name for sample in samples], settings.kind)
    session = CaptionSession(opened, model, images, out, settings, figures, given, out / "captions.csv")
    for first in range(0, len(samples), batch_size):
        session.caption(samples[first : first + batch_size])
        progress(min(first + batch_size, len(samples)), len(samples))
    return session.finish()


def given_flags(architecture: str | None, vocabulary: Path | None) -> list[str]:
    """The options that say what a captioner's weights file is."""
    flags = ["--arch", architecture] if architecture else []
    return flags + (["--vocab", str(vocabulary)] if vocabulary else [])


class CaptionSession:
    """One call: figures and rows are written batch by batch.

    Args:
        opened: the captioner.
        model: its reference, as it was given.
        images: what was given.
        out: the folder of figures.
        settings: of the decoding.
        figures: the path of each picture's figure, from ``out`` on.
        flags: options that say what the captioner is.
        table: the CSV; unfinished it is ``TABLE.partial``.
        folder: whether a picture's path is ``images`` and its name; None looks.
    """

    def __init__(
        self,
        opened: OpenedCaptioner,
        model: str,
        images: Path,
        out: Path,
        settings: CaptionSettings,
        figures: Mapping[str, str],
        flags: Sequence[str],
        table: Path,
        folder: bool | None = None,
    ) -> None:
        self.opened, self.model, self.images, self.out, self.settings = opened, model, images, out, settings
        self.flags, self.figures, self.table = flags, figures, table
        self.folder = images.is_dir() if folder is None else folder
        self.made: list[Captioned] = []
        self.unreadable: list[tuple[str, str]] = []
        out.mkdir(parents=True, exist_ok=True)
        self.partial = table.with_name(f"{table.name}.partial")
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
        sample, worded = decoded.sample, worded_picture(decoded, self.opened, self.settings)
        figure, text = self.out / self.figures[sample.name], worded.picture.caption
        where = str(self.images / sample.name if self.folder else self.images)
        origin = caption_origin(self.model, self.opened, self.settings, sample, where, str(figure.parent), self.flags)
        save_caption_figure(worded.picture, worded.scale, figure, origin.to_metadata())
        likely = decoded.caption.log_probability
        self.made.append(Captioned(sample.name, figure, text, likely, worded.words, worded.checks))
        return caption_record(worded.picture)

    def finish(self) -> Captions:
        """The table under its name."""
        if not self.made:
            name, reason = self.unreadable[0]
            raise DataError(f"None of the {len(self.unreadable)} pictures can be read, for example {name}: {reason}")
        self.partial.replace(self.table)
        return Captions(self.out, tuple(self.made), self.table, tuple(self.unreadable), self.opened.notes)
