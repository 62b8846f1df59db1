"""``vitrine predict`` on a part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vitrine.data.samples import Sample
from vitrine.evaluate.predictions import PredictionWriter
from vitrine.workflows.bulk.worker import Unreadable, sha256_of
from vitrine.workflows.opened import OpenedModel, open_model
from vitrine.workflows.prediction import write_predictions


@dataclass(frozen=True)
class PredictWork:
    """``vitrine predict``; see :func:`vitrine.workflows.prediction.predict`."""

    model: str
    architecture: str | None
    precision: str
    batch_size: int
    probabilities: bool
    top: int

    def open(self, loaders: int) -> _Predicting:
        return _Predicting(self, open_model(self.model, self.precision, self.architecture), loaders)


class _Predicting:
    def __init__(self, asked: PredictWork, opened: OpenedModel, loaders: int) -> None:
        self.asked, self.opened, self.loaders = asked, opened, loaders
        self.precision, self.weights = opened.precision, sha256_of(opened.built.weights)

    def work(self, samples: Sequence[Sample], figures: Mapping[str, str] | None, rows: Path) -> Unreadable:  # noqa: ARG002
        asked, labels = self.asked, self.opened.labels
        top = min(asked.top, len(labels))
        with PredictionWriter(rows, labels, probabilities=asked.probabilities, top=top) as writer:
            writer.resume_after([sample.name for sample in samples])
            for _ in write_predictions(writer, self.opened, samples, asked.batch_size, self.loaders):
                pass
            return list(writer.finish().unreadable)
