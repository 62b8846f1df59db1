"""``vitrine predict``: a table of labels for a folder of pictures, as a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitrine.classify.inference import eval_batches, predict_batches
from vitrine.classify.model import Classifier, open_classifier
from vitrine.classify.predictions_csv import PredictionWriter
from vitrine.data.image_folder import list_pictures
from vitrine.data.samples import Sample
from vitrine.runs.environment import model_notes


@dataclass(frozen=True)
class PredictionResult:
    """What ``vitrine predict`` wrote.

    Attributes:
        table: the CSV, one row a readable picture, in name order.
        written: rows in it.
        unreadable: (name, reason) of pictures that have no row.
        unreadable_table: where those are listed; None where there are none.
        precision: that the model ran in.
        notes: sentences on the weights.
    """

    table: Path
    written: int
    unreadable: tuple[tuple[str, str], ...]
    unreadable_table: Path | None
    precision: str
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "table": str(self.table),
            "written": self.written,
            "unreadable": [{"name": name, "reason": reason} for name, reason in self.unreadable],
            "unreadable_table": None if self.unreadable_table is None else str(self.unreadable_table),
            "precision": self.precision,
            "notes": list(self.notes),
        }


def predict(
    model: str,
    images: Path,
    out: Path,
    *,
    probabilities: bool = False,
    top: int = 0,
    batch_size: int = 64,
    precision: str = "auto",
    resume: bool = False,
    architecture: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PredictionResult:
    """Predict every picture of a folder.

    Args:
        model: a model reference with a head of its own.
        images: a folder, searched with its sub-folders, or one picture.
        out: the CSV; ``filename,label`` and the optional columns. An unfinished table is ``OUT.partial``.
        probabilities: add the predicted label's probability.
        top: add the K most likely labels with their probabilities; 0 adds none.
        batch_size: pictures at a time.
        precision: auto, fp32 or bf16.
        resume: continue an unfinished table after its last whole row.
        architecture: the timm name of the model where ``model`` is a weights file.
        progress: called with pictures done, of how many.

    Raises:
        DataError: no pictures, or a partial table of other pictures.
        ModelError: the model cannot be used.
    """
    samples = list_pictures(images)
    opened = open_classifier(model, precision, architecture)
    top = min(top, len(opened.labels))
    weights = opened.loaded.weights
    made_with = {"weights sha256": weights.sha256 if weights else "none", "precision": opened.precision}
    with PredictionWriter(
        out, opened.labels, probabilities=probabilities, top=top, resume=resume, made_with=made_with
    ) as writer:
        rest = samples[writer.resume_after([s.name for s in samples], batch_size) :]
        done = len(samples) - len(rest)
        for pictures in write_predictions(writer, opened, rest, batch_size):
            done += pictures
            if progress is not None:
                progress(done, len(samples))
        summary = writer.finish()
    notes = model_notes(opened.loaded)
    return PredictionResult(out, summary.written, summary.unreadable, summary.unreadable_table, opened.precision, notes)


def write_predictions(
    writer: PredictionWriter, opened: Classifier, samples: Sequence[Sample], batch_size: int, workers: int = -1
) -> Iterator[int]:
    """Predict the pictures that a table waits for, batch by batch.

    Args:
        writer: of the table.
        opened: the model.
        samples: the pictures that come next in it.
        batch_size: pictures at a time.
        workers: background processes that load pictures; -1 chooses.

    Yields:
        How many pictures a batch had, readable or not.
    """
    source = eval_batches(samples, opened.spec, batch_size=batch_size, workers=workers)
    for part in predict_batches(opened.module, source, opened.spec, device=opened.device, precision=opened.precision):
        names = [samples[i].name for i in part.batch.indices_B.tolist()]
        failed = [(samples[i].name, reason) for i, reason in part.batch.unreadable]
        writer.write(names, np.asarray(part.logits_BC), failed)
        yield len(names) + len(failed)
