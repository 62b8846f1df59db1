"""What bulk work does to every part: predict, explain or caption its pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrine.bulk.worker import JobModel
from vitrine.caption.model import open_captioner
from vitrine.caption.run import CaptionProvenance, CaptionSettings, CaptionWriter, captioner_flags
from vitrine.classify.model import open_classifier
from vitrine.classify.predict import write_predictions
from vitrine.classify.predictions_csv import PredictionWriter, choose_threshold
from vitrine.data.samples import Sample
from vitrine.explain.explainer import Explainer
from vitrine.explain.run import SHEETS, ExplainSettings, MapProvenance, MapWriter, maps_csv
from vitrine.plotting.provenance import figure_names
from vitrine.results import Unreadable


def _as_path(file: str | None) -> Path | None:
    return None if file is None else Path(file)


@dataclass(frozen=True)
class PredictJob:
    """``vitrine predict``; see :func:`vitrine.classify.predict.predict`."""

    model: str
    architecture: str | None
    precision: str
    batch_size: int
    probabilities: bool
    top: int
    threshold: float | None = None
    names: str | None = None

    def open(self) -> JobModel:
        """The classifier."""
        classifier = open_classifier(self.model, self.precision, self.architecture, names=_as_path(self.names))
        return JobModel(classifier, classifier)

    def process(
        self,
        runner: Any,
        samples: Sequence[Sample],
        figures: Mapping[str, str] | None,  # noqa: ARG002  a table alone is written
        rows: Path,
        loaders: int,
    ) -> Sequence[Unreadable]:
        """Write the rows of ``predictions.csv``."""
        top = min(self.top, len(runner.labels))
        threshold = choose_threshold(self.threshold, is_multi_label=runner.is_multi_label)
        with PredictionWriter(
            rows, runner.labels, probabilities=self.probabilities, top=top, threshold=threshold
        ) as writer:
            writer.resume_after([sample.name for sample in samples])
            write_predictions(writer, runner, samples, self.batch_size, loaders)
            return writer.finish().unreadable


@dataclass(frozen=True)
class ExplainJob:
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
    names: str | None = None

    def open(self) -> JobModel:
        """The explainer."""
        classifier = open_classifier(self.model, self.precision, self.architecture, names=_as_path(self.names))
        return JobModel(classifier, Explainer(classifier, self.settings.method, self.settings.target))

    def process(
        self, runner: Any, samples: Sequence[Sample], figures: Mapping[str, str] | None, rows: Path, loaders: int
    ) -> Sequence[Unreadable]:
        """Draw the figures and write the rows of ``maps.csv``."""
        settings = self.settings
        if figures is None:
            figures = figure_names([sample.name for sample in samples], settings.kind, SHEETS)
        provenance = MapProvenance(self.model, runner.classifier, settings, self.architecture, _as_path(self.names))
        writer = MapWriter(provenance, self.images, self.out, figures, is_folder=self.folder, draw_sheets=False)
        for batch in runner.run(samples, self.batch_size, workers=loaders, check=settings.check, seed=settings.seed):
            writer.write(batch)
        rows.write_bytes(maps_csv(writer.records, self.out))
        return (*writer.unreadable, *writer.unwritten)


@dataclass(frozen=True)
class CaptionJob:
    """``vitrine caption``; ``folder``: whether a picture's path is ``images`` and its name."""

    model: str
    architecture: str | None
    vocabulary: Path | None
    batch_size: int
    images: Path
    folder: bool
    out: Path
    settings: CaptionSettings

    def open(self) -> JobModel:
        """The captioner."""
        precision = self.settings.precision
        captioner = open_captioner(self.model, self.architecture, self.vocabulary, precision=precision)
        captioner = self.settings.prepare(captioner)
        return JobModel(captioner, captioner)

    def process(
        self,
        runner: Any,
        samples: Sequence[Sample],
        figures: Mapping[str, str] | None,
        rows: Path,
        loaders: int,  # noqa: ARG002  pictures are decoded where they are captioned
    ) -> Sequence[Unreadable]:
        """Draw the figures and write the rows of ``captions.csv``."""
        if figures is None:
            figures = figure_names([sample.name for sample in samples], self.settings.kind)
        provenance = CaptionProvenance(
            self.model, runner, self.settings, captioner_flags(self.architecture, self.vocabulary)
        )
        writer = CaptionWriter(provenance, self.images, self.out, figures, rows, is_folder=self.folder)
        writer.caption(samples, self.batch_size)
        writer.finish_table()
        return (*writer.unreadable, *writer.unwritten)
