"""``vitrine caption`` on a part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vitrine.data.samples import Sample
from vitrine.workflows.bulk.worker import Unreadable, sha256_of
from vitrine.workflows.captioned import CaptionSettings
from vitrine.workflows.captioner_opening import OpenedCaptioner, open_captioner
from vitrine.workflows.captioning import CaptionSession, given_flags
from vitrine.workflows.figure_names import figure_names


@dataclass(frozen=True)
class CaptionWork:
    """``vitrine caption``; ``folder``: whether a picture's path is ``images`` and its name."""

    model: str
    architecture: str | None
    vocabulary: Path | None
    batch_size: int
    images: Path
    folder: bool
    out: Path
    settings: CaptionSettings

    def open(self, loaders: int) -> _Captioning:  # noqa: ARG002  pictures are decoded where they are captioned
        captioner = open_captioner(self.model, self.architecture, self.vocabulary, precision=self.settings.precision)
        return _Captioning(self, captioner)


class _Captioning:
    def __init__(self, asked: CaptionWork, opened: OpenedCaptioner) -> None:
        self.asked, self.opened = asked, opened
        self.precision, self.weights = asked.settings.precision, sha256_of(opened.weights)

    def work(self, samples: Sequence[Sample], figures: Mapping[str, str] | None, rows: Path) -> Unreadable:
        asked = self.asked
        session = CaptionSession(
            self.opened,
            asked.model,
            asked.images,
            asked.out,
            asked.settings,
            figure_names([sample.name for sample in samples], asked.settings.kind) if figures is None else figures,
            given_flags(asked.architecture, asked.vocabulary),
            rows,
            folder=asked.folder,
        )
        for first in range(0, len(samples), asked.batch_size):
            session.caption(samples[first : first + asked.batch_size])
        session.partial.replace(rows)
        return session.unreadable
