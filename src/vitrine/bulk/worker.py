"""What a worker process does: it opens the model once, then works on one part after the other.

It knows nothing of the engine that starts it. A part's rows are written in a folder of the attempt and get the part's
name when they are whole: an attempt that is killed leaves nothing that counts, and a part that is worked on twice is
there once.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from vitrine.bulk.ledger import FinishedPart, part_name, unreadable_name, write_parquet
from vitrine.caption.model import Captioner
from vitrine.classify.model import Classifier
from vitrine.data.bulk_slices import Slice
from vitrine.data.samples import Sample
from vitrine.errors import RunError, VitrineError
from vitrine.io.resumable_csv import unreadable_csv
from vitrine.results import Unreadable

MAX_ATTEMPTS = 3
"""Of one part. A part that kills its worker so often (memory, a damaged library) ends the job with an error."""


@dataclass(frozen=True)
class Part:
    """A numbered slice of the pictures.

    Attributes:
        number: from 0, in the order of the result.
        slice: the pictures.
        figures: the path of each picture's figure by its name; None where the slice alone decides, or none is drawn.
    """

    number: int
    slice: Slice
    figures: Mapping[str, str] | None = None


@dataclass(frozen=True)
class JobModel:
    """The model of a job, ready to run.

    Attributes:
        model: the classifier or captioner.
        runner: what works on pictures: the same, or an explainer of it.
    """

    model: Classifier | Captioner
    runner: Any

    @property
    def weights_sha256(self) -> str:
        """Of the weights, for the record of what was in use; "none" of random ones."""
        return "none" if self.model.weights is None else self.model.weights.sha256


class Job(Protocol):
    """What is done to every part: a description that can be pickled."""

    def open(self) -> JobModel:
        """Load the model.

        Raises:
            VitrineError: it cannot be opened.
        """
        ...

    def process(
        self, runner: Any, samples: Sequence[Sample], figures: Mapping[str, str] | None, rows: Path, loaders: int
    ) -> Sequence[Unreadable]:
        """Work on the pictures of one part.

        Args:
            runner: the one that :meth:`open` gave.
            samples: the pictures.
            figures: see :class:`Part`.
            rows: the CSV to write, its header first.
            loaders: background processes that may load pictures.

        Returns:
            (name, reason) of the pictures that cannot be read.
        """
        ...


class PartWorker:
    """A worker with one model, which is called with one part after the other.

    Args:
        job: what is done.
        parts: the folder of the parts, which all workers share.
        ending: of a part's rows, ``.csv`` or ``.parquet``.
        folder: what relative paths are relative to.
        cores: that this worker may use.
        loaders: background processes that load pictures; 0 loads in the worker.

    Raises:
        RunError: this machine has no such ``folder``.
        VitrineError: the model cannot be opened.
    """

    def __init__(self, job: Job, parts: Path, ending: str, folder: Path, cores: int, loaders: int = 0) -> None:
        if not folder.is_dir():
            raise RunError(
                f"{socket.gethostname()} has no folder {folder}: workers need the same paths as this machine."
            )
        os.chdir(folder)
        self.parts, self.ending = parts, ending
        torch.set_num_threads(cores)
        self.job, self.job_model, self.loaders = job, job.open(), loaders

    def __call__(self, part: Part) -> FinishedPart:
        """Work on a part.

        Raises:
            VitrineError: it cannot be done, or has killed its worker too often.
        """
        stem = part_name(part.number)
        attempts = len(list(self.parts.glob(f".{stem}.*")))
        if attempts >= MAX_ATTEMPTS:
            raise RunError(
                f"Part {part.number} ended its worker {attempts} times; often memory runs out.\n"
                "Try fewer --workers or a smaller --batch-size, and --resume: finished parts are kept."
            )
        attempt = Path(tempfile.mkdtemp(prefix=f".{stem}.", dir=self.parts))
        samples = part.slice.samples()
        unreadable = self.job.process(self.job_model.runner, samples, part.figures, attempt / "rows.csv", self.loaders)
        self._publish(attempt, part.number, unreadable)
        shutil.rmtree(attempt, ignore_errors=True)
        count, precision = len(unreadable), self.job_model.model.precision
        return FinishedPart(part.number, len(samples) - count, count, precision, self.job_model.weights_sha256)

    def _publish(self, attempt: Path, number: int, unreadable: Sequence[Unreadable]) -> None:
        """Give the files of an attempt the names of the part; the rows come last."""
        unreadable_path = self.parts / unreadable_name(number)
        if unreadable:
            partial = attempt / "unreadable.csv"
            partial.write_bytes(unreadable_csv(unreadable))
            partial.replace(unreadable_path)
        else:
            unreadable_path.unlink(missing_ok=True)
        rows = attempt / "rows.csv"
        if self.ending == ".parquet":
            rows = write_parquet(rows, attempt / "rows.parquet")
        with rows.open("rb") as stream:
            os.fsync(stream.fileno())
        rows.replace(self.parts / f"{part_name(number)}{self.ending}")


def to_vitrine_error(error: Exception, context: str) -> VitrineError:
    """An error of a worker as the calling process raises it: one of vitrine's own as it is, any other with its trace.

    ``context`` says what failed.
    """
    if isinstance(error, VitrineError):
        return error
    trace = "".join(traceback.format_exception(error))
    return RunError(f"{context} on {socket.gethostname()}: {type(error).__name__}: {error}\n{trace}")
