"""``vitrine predict``: a table of labels for a folder of pictures, as a stream; in Python also labels in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrine.classify.inference import predict_samples
from vitrine.classify.model import Classifier, open_classifier
from vitrine.classify.picture_prediction import PicturePrediction, predict_pictures
from vitrine.classify.predictions_csv import PredictionTable, PredictionWriter, choose_threshold
from vitrine.data.picture_inputs import PictureInput, picture_input
from vitrine.data.samples import Sample
from vitrine.display import ResultSequence, csv_rows
from vitrine.errors import UsageError
from vitrine.io.output_lock import writes_file
from vitrine.results import Progress, Unreadable, count_of, no_progress, none_readable, percent, unreadable_to_json

_SHOWN = 10  # predictions in a notebook; to_pandas() has all


@dataclass(frozen=True, repr=False)
class PredictionResult(ResultSequence):
    """What ``vitrine predict`` wrote, or found.

    Attributes:
        table: the CSV and what has no row in it; None where nothing was written.
        precision: that the model ran in, "fp32" or "bf16".
        notes: sentences on the weights, and on what was left aside.
        is_multi_label: a picture has a row for each of its labels.
        predictions: in memory, one a readable picture, where nothing was written.
        unreadable: (name, reason) of the other pictures.
    """

    table: PredictionTable | None
    precision: str
    notes: tuple[str, ...] = ()
    is_multi_label: bool = False
    predictions: tuple[PicturePrediction, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()

    def each_picture(self) -> Sequence[PicturePrediction]:
        """Its prediction.

        Raises:
            UsageError: a table was written instead.
        """
        if self.table is not None:
            raise UsageError(
                f"The predictions were written to {self.table.path}: read that, .table_rows() or .to_pandas(); or "
                "predict without out to keep them in memory."
            )
        return self.predictions

    def headline(self) -> str:
        """How many predictions, and where they are."""
        aside = f", {count_of(len(self.unreadable), 'picture')} could not be read" if self.unreadable else ""
        if self.table is not None:
            return f"{count_of(self.table.rows, 'row')} in {self.table.path} ({self.precision}){aside}"
        return f"{count_of(len(self.predictions), 'prediction')} ({self.precision}){aside}"

    def details(self) -> str:
        """The first predictions."""
        lines = [
            f"{each.name}: {', '.join(each.labels) or '(none)'} {percent(each.probability)}"
            for each in self.predictions
        ]
        return "\n".join([*lines[:_SHOWN], *([f"and {len(lines) - _SHOWN:,} more"] if len(lines) > _SHOWN else [])])

    def table_rows(self) -> Sequence[Mapping[str, Any]]:
        """A row a picture: filename, label, probability; or those of the table that was written."""
        if self.table is not None:
            return csv_rows(self.table.path.read_bytes())
        return [
            {"filename": each.name, "label": "|".join(each.labels), "probability": each.probability}
            for each in self.predictions
        ]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        table = self.table
        unreadable_path = None if table is None else table.unreadable_path
        content = {
            "table": None if table is None else str(table.path),
            "written": 0 if table is None else table.rows,
            "unreadable": unreadable_to_json(self.unreadable),
            "unreadable_table": None if unreadable_path is None else str(unreadable_path),
            "precision": self.precision,
            "notes": list(self.notes),
        }
        return (
            content if table is not None else content | {"predictions": [each.to_dict() for each in self.predictions]}
        )


@writes_file("predict")
def predict(
    model: str | Classifier,
    images: Path | PictureInput,
    out: Path | None,
    *,
    probabilities: bool = False,
    top: int = 0,
    threshold: float | None = None,
    batch_size: int = 64,
    precision: str = "auto",
    resume: bool = False,
    architecture: str | None = None,
    names: Path | None = None,
    progress: Progress = no_progress,
) -> PredictionResult:
    """Predict every picture of a folder, or pictures that were given in Python.

    Args:
        model: a model reference with a head of its own, or an open classifier.
        images: a folder, searched with its sub-folders, or one picture; or pictures that were given in Python.
        out: the CSV; ``filename,label`` and the optional columns. An unfinished table is ``OUT.partial``. None keeps
            the predictions in memory.
        probabilities: add the predicted label's probability.
        top: add the K most likely labels with their probabilities; 0 adds none.
        threshold: of a multi-label model, the probability above which a label gets a row, 0 to 1; None is 0.5.
        batch_size: pictures at a time.
        precision: auto, fp32 or bf16.
        resume: continue an unfinished table after its last whole row.
        architecture: the timm name of the model where ``model`` is a weights file.
        names: a file with names for the model's classes, where they are bare numbers.
        progress: called with pictures done, of how many.

    Raises:
        DataError: no pictures, or a partial table of other pictures.
        ModelError: the model cannot be used.
        UsageError: a threshold that is no probability, or for a model that gives every picture one label.
    """
    pictures = images if isinstance(images, PictureInput) else picture_input(images)
    classifier = open_classifier(model, precision, architecture, names=names)
    chosen_threshold = choose_threshold(threshold, is_multi_label=classifier.is_multi_label)
    notes = (*classifier.notes, *pictures.notes)
    if out is None:
        parts = list(predict_pictures(classifier, pictures.samples, chosen_threshold, batch_size, progress))
        unreadable = tuple(each for _, some in parts for each in some)
        predictions = tuple(each for some, _ in parts for each in some)
        if not predictions:
            raise none_readable(unreadable)
        return PredictionResult(None, classifier.precision, notes, classifier.is_multi_label, predictions, unreadable)
    weights = classifier.weights
    made_with = {"weights sha256": weights.sha256 if weights else "none", "precision": classifier.precision}
    with PredictionWriter(
        out,
        classifier.labels,
        probabilities=probabilities,
        top=min(top, len(classifier.labels)),
        threshold=chosen_threshold,
        resume=resume,
        made_with=made_with,
    ) as writer:
        _write_all(writer, classifier, pictures.samples, batch_size, progress)
        table = writer.finish()
    return PredictionResult(table, classifier.precision, notes, classifier.is_multi_label, unreadable=table.unreadable)


def _write_all(
    writer: PredictionWriter,
    classifier: Classifier,
    samples: Sequence[Sample] | Iterator[Sample],
    batch_size: int,
    progress: Progress,
) -> None:
    if not isinstance(samples, Sequence):
        writer.begin_stream()
        write_predictions(writer, classifier, samples, batch_size, progress=progress)
        return
    first = writer.resume_after([sample.name for sample in samples], batch_size)
    write_predictions(
        writer,
        classifier,
        samples[first:],
        batch_size,
        progress=lambda count, _: progress(first + count, len(samples)),
    )


def write_predictions(
    writer: PredictionWriter,
    classifier: Classifier,
    samples: Iterable[Sample],
    batch_size: int,
    workers: int = -1,
    progress: Progress = no_progress,
) -> None:
    """Predict pictures and write their rows, batch by batch.

    Args:
        writer: of the table.
        classifier: that predicts.
        samples: the pictures that come next in the table.
        batch_size: pictures at a time.
        workers: background processes that load pictures; -1 chooses.
        progress: called with pictures written, as rows or as unreadable, of how many.
    """
    for part in predict_samples(classifier, samples, batch_size=batch_size, workers=workers, progress=progress):
        writer.write([sample.name for sample in part.samples], part.logits_BC, part.unreadable)
