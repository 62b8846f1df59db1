"""``vitrine predict``: a table of labels for a folder of pictures, as a stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrine.classify.inference import predict_samples
from vitrine.classify.model import Classifier, open_classifier
from vitrine.classify.predictions_csv import PredictionTable, PredictionWriter, choose_threshold
from vitrine.data.image_folder import require_pictures
from vitrine.data.samples import Sample
from vitrine.io.output_lock import writes_file
from vitrine.results import Progress, no_progress, unreadable_to_json


@dataclass(frozen=True)
class PredictionResult:
    """What ``vitrine predict`` wrote.

    Attributes:
        table: the CSV and what has no row in it.
        precision: that the model ran in, "fp32" or "bf16".
        notes: sentences on the weights, and on what was left aside.
        is_multi_label: a picture has a row for each of its labels.
    """

    table: PredictionTable
    precision: str
    notes: tuple[str, ...] = ()
    is_multi_label: bool = False

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        table = self.table
        return {
            "table": str(table.path),
            "written": table.rows,
            "unreadable": unreadable_to_json(table.unreadable),
            "unreadable_table": None if table.unreadable_path is None else str(table.unreadable_path),
            "precision": self.precision,
            "notes": list(self.notes),
        }


@writes_file("predict")
def predict(
    model: str,
    images: Path,
    out: Path,
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
    """Predict every picture of a folder.

    Args:
        model: a model reference with a head of its own.
        images: a folder, searched with its sub-folders, or one picture.
        out: the CSV; ``filename,label`` and the optional columns. An unfinished table is ``OUT.partial``.
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
    pictures = require_pictures(images)
    samples = pictures.samples
    classifier = open_classifier(model, precision, architecture, names=names)
    weights = classifier.weights
    made_with = {"weights sha256": weights.sha256 if weights else "none", "precision": classifier.precision}
    with PredictionWriter(
        out,
        classifier.labels,
        probabilities=probabilities,
        top=min(top, len(classifier.labels)),
        threshold=choose_threshold(threshold, is_multi_label=classifier.is_multi_label),
        resume=resume,
        made_with=made_with,
    ) as writer:
        first = writer.resume_after([sample.name for sample in samples], batch_size)
        write_predictions(
            writer,
            classifier,
            samples[first:],
            batch_size,
            progress=lambda count, _: progress(first + count, len(samples)),
        )
        table = writer.finish()
    notes = (*classifier.notes, *pictures.notes)
    return PredictionResult(table, classifier.precision, notes, classifier.is_multi_label)


def write_predictions(
    writer: PredictionWriter,
    classifier: Classifier,
    samples: Sequence[Sample],
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
