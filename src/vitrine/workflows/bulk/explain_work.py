"""``vitrine explain`` on a part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vitrine.data.samples import Sample
from vitrine.workflows.bulk.worker import Unreadable, sha256_of
from vitrine.workflows.explained import ExplainSettings, table_rows
from vitrine.workflows.explaining import SHEETS, ExplainSession
from vitrine.workflows.figure_names import figure_names
from vitrine.workflows.mapping import Mapper
from vitrine.workflows.opened import open_model


@dataclass(frozen=True)
class ExplainWork:
    """``vitrine explain`` without contact sheets; ``settings`` have the scale that all figures share.

    ``folder``: whether a picture's path is ``images`` and its name.
    """

    model: str
    architecture: str | None
    precision: str
    batch_size: int
    images: Path
    folder: bool
    out: Path
    settings: ExplainSettings

    def open(self, loaders: int) -> _Explaining:
        opened = open_model(self.model, self.precision, self.architecture)
        return _Explaining(self, Mapper(opened, self.settings.method, self.settings.target), loaders)


class _Explaining:
    def __init__(self, asked: ExplainWork, mapper: Mapper, loaders: int) -> None:
        self.asked, self.mapper, self.loaders = asked, mapper, loaders
        self.precision, self.weights = mapper.opened.precision, sha256_of(mapper.opened.built.weights)

    def work(self, samples: Sequence[Sample], figures: Mapping[str, str] | None, rows: Path) -> Unreadable:
        asked = self.asked
        session = ExplainSession(
            asked.model,
            asked.images,
            asked.out,
            self.mapper,
            asked.settings,
            samples,
            figure_names([sample.name for sample in samples], asked.settings.kind, SHEETS)
            if figures is None
            else figures,
            asked.architecture,
            folder=asked.folder,
            sheets=False,
        )
        for mapped in self.mapper.run(samples, asked.batch_size, self.loaders):
            session.draw(mapped)
        rows.write_bytes(b"".join(table_rows(session.explained, asked.out)))
        return session.unreadable
