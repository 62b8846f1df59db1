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
from typing import Protocol

import torch

from vitrine.bulk.ledger import UNREADABLE_HEADER, FinishedPart, part_name, unreadable_name, write_parquet
from vitrine.data.bulk_slices import Slice
from vitrine.data.samples import Sample
from vitrine.errors import RunError, VitrineError
from vitrine.io.csv_tables import csv_row
from vitrine.models.reference import WeightsFile

Unreadable = list[tuple[str, str]]
"""(name, reason) of pictures that cannot be read."""

MOST_ATTEMPTS = 3
"""Of one part. A part that kills its worker so often (memory, a damaged library) ends the job with an error."""


@dataclass(frozen=True)
class Part:
    """A numbered slice. ``figures`` are the names of its pictures' figures where the slice alone cannot tell."""

    number: int
    slice: Slice
    figures: Mapping[str, str] | None = None


class JobRunner(Protocol):
    """A model that is ready to work."""

    precision: str
    weights: str

    def work(self, samples: Sequence[Sample], figures: Mapping[str, str] | None, rows: Path) -> Unreadable:
        """Write the CSV rows of samples, the header first; return those that cannot be read."""
        ...


class Job(Protocol):
    """What is done to every part: a description that can be pickled."""

    def open(self, loaders: int) -> JobRunner:
        """Load the model. ``loaders`` background processes may load pictures.

        Raises:
            VitrineError: it cannot be opened.
        """
        ...


class PartWorker:
    """One worker.

    Args:
        work: what is done.
        parts: the folder of the parts, which all workers share.
        ending: of a part's rows, ``.csv`` or ``.parquet``.
        folder: what relative paths are relative to.
        cores: that this worker may use.
        loaders: background processes that load pictures; 0 loads in the worker.
    """

    def __init__(self, work: Job, parts: Path, ending: str, folder: Path, cores: int, loaders: int = 0) -> None:
        if not folder.is_dir():
            raise RunError(
                f"{socket.gethostname()} has no folder {folder}: workers need the same paths as this machine."
            )
        os.chdir(folder)
        self.parts, self.ending = parts, ending
        torch.set_num_threads(cores)
        self.opened = work.open(loaders)

    def __call__(self, part: Part) -> FinishedPart:
        """Work on a part.

        Raises:
            VitrineError: it cannot be done, or has killed its worker too often.
        """
        stem = part_name(part.number)
        attempts = len(list(self.parts.glob(f".{stem}.*")))
        if attempts >= MOST_ATTEMPTS:
            raise RunError(
                f"Part {part.number} ended its worker {attempts} times; often memory runs out.\n"
                "Try fewer --workers or a smaller --batch-size, and --resume: finished parts are kept."
            )
        attempt = Path(tempfile.mkdtemp(prefix=f".{stem}.", dir=self.parts))
        samples = part.slice.samples()
        unreadable = self.opened.work(samples, part.figures, attempt / "rows.csv")
        self._finish(attempt, part.number, unreadable)
        shutil.rmtree(attempt, ignore_errors=True)
        count = len(unreadable)
        return FinishedPart(part.number, len(samples) - count, count, self.opened.precision, self.opened.weights)

    def _finish(self, attempt: Path, number: int, unreadable: Sequence[tuple[str, str]]) -> None:
        listing = self.parts / unreadable_name(number)
        if unreadable:
            named = attempt / "unreadable.csv"
            named.write_bytes(csv_row(UNREADABLE_HEADER) + b"".join(csv_row(item) for item in unreadable))
            named.replace(listing)
        else:
            listing.unlink(missing_ok=True)
        rows = attempt / "rows.csv"
        if self.ending == ".parquet":
            rows = write_parquet(rows, attempt / "rows.parquet")
        with rows.open("rb") as stream:
            os.fsync(stream.fileno())
        rows.replace(self.parts / f"{part_name(number)}{self.ending}")


def sha256_of(weights: WeightsFile | None) -> str:
    """Of a model's weights, for the record of what was in use."""
    return "none" if weights is None else weights.sha256


def told(error: Exception, where: str) -> VitrineError:
    """An error of a worker as the person's own process raises it: of the same kind; of an unforeseen one, its trace."""
    if isinstance(error, VitrineError):
        return error
    trace = "".join(traceback.format_exception(error))
    return RunError(f"{where} on {socket.gethostname()}: {type(error).__name__}: {error}\n{trace}")
