"""``vitrine predict`` on a part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vitrine.bulk.worker import Unreadable, sha256_of
from vitrine.caption.model import Captioner, open_captioner
from vitrine.caption.run import CaptionSession, CaptionSettings, captioner_flags
from vitrine.classify.model import Classifier, open_classifier
from vitrine.classify.predict import write_predictions
from vitrine.classify.predictions_csv import PredictionWriter
from vitrine.data.samples import Sample
from vitrine.explain.explainer import Explainer
from vitrine.explain.run import SHEETS, ExplainSettings, MapProvenance, MapWriter, maps_csv
from vitrine.plotting.provenance import figure_names


@dataclass(frozen=True)
class PredictJob:
    """``vitrine predict``; see :func:`vitrine.classify.predict.predict`."""

    model: str
    architecture: str | None
    precision: str
    batch_size: int
    probabilities: bool
    top: int

    def open(self, loaders: int) -> _Predicting:
        return _Predicting(self, open_classifier(self.model, self.precision, self.architecture), loaders)


class _Predicting:
    def __init__(self, asked: PredictJob, opened: Classifier, loaders: int) -> None:
        self.asked, self.opened, self.loaders = asked, opened, loaders
        self.precision, self.weights = opened.precision, sha256_of(opened.weights)

    def work(self, samples: Sequence[Sample], figures: Mapping[str, str] | None, rows: Path) -> Unreadable:  # noqa: ARG002
        asked, labels = self.asked, self.opened.labels
        top = min(asked.top, len(labels))
        with PredictionWriter(rows, labels, probabilities=asked.probabilities, top=top) as writer:
            writer.resume_after([sample.name for sample in samples])
            write_predictions(writer, self.opened, samples, asked.batch_size, self.loaders)
            return list(writer.finish().unreadable)


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

    def open(self, loaders: int) -> _Explaining:
        opened = open_classifier(self.model, self.precision, self.architecture)
        return _Explaining(self, Explainer(opened, self.settings.method, self.settings.target), loaders)


class _Explaining:
    def __init__(self, asked: ExplainJob, explainer: Explainer, loaders: int) -> None:
        self.asked, self.explainer, self.loaders = asked, explainer, loaders
        self.precision, self.weights = explainer.classifier.precision, sha256_of(explainer.classifier.weights)

    def work(self, samples: Sequence[Sample], figures: Mapping[str, str] | None, rows: Path) -> Unreadable:
        asked = self.asked
        settings = asked.settings
        if figures is None:
            figures = figure_names([sample.name for sample in samples], settings.kind, SHEETS)
        provenance = MapProvenance(asked.model, self.explainer.classifier, settings, asked.architecture)
        writer = MapWriter(provenance, asked.images, asked.out, figures, is_folder=asked.folder, draw_sheets=False)
        loaders, seed = self.loaders, settings.seed
        for batch in self.explainer.run(samples, asked.batch_size, workers=loaders, check=settings.check, seed=seed):
            writer.write(batch)
        rows.write_bytes(maps_csv(writer.records, asked.out))
        return writer.unreadable


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

    def open(self, loaders: int) -> _Captioning:  # noqa: ARG002  pictures are decoded where they are captioned
        captioner = open_captioner(self.model, self.architecture, self.vocabulary, precision=self.settings.precision)
        return _Captioning(self, captioner)


class _Captioning:
    def __init__(self, asked: CaptionJob, opened: Captioner) -> None:
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
            captioner_flags(asked.architecture, asked.vocabulary),
            rows,
            folder=asked.folder,
        )
        session.caption(samples, asked.batch_size)
        session.partial.replace(rows)
        return session.unreadable
