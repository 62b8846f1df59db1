"""``predictions.csv``: its columns, and a writer that can be interrupted. Axes: B pictures of a batch, C classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from vitrine.errors import DataError, UsageError
from vitrine.io.resumable_csv import ResumableTable, count_records, csv_row
from vitrine.metrics.classification import LabelledLogits, logsumexp, require_finite, sigmoid
from vitrine.metrics.multi_label import MultiLabelLogits
from vitrine.results import Unreadable, count_of


@dataclass(frozen=True)
class PredictionTable:
    """A finished table of predictions.

    Attributes:
        path: of the CSV: one row a readable picture, in name order; of a multi-label model one row a label of it.
        rows: how many.
        unreadable: (name, reason) of the pictures that have no row, in name order.
        unreadable_path: of the CSV that lists those; None where there are none.
    """

    path: Path
    rows: int
    unreadable: tuple[Unreadable, ...]
    unreadable_path: Path | None


@dataclass(frozen=True)
class PredictionColumns:
    """Which columns a table of predictions has.

    Attributes:
        labels: the C class names, as the training data wrote them.
        probabilities: whether there is a column ``probability``: that of the label, six decimals.
        top: how many pairs ``topK_label``, ``topK_probability`` there are; of equal classes the first leads.
        threshold: None for a model that gives a picture one label. Of a multi-label model a picture has a row for every
            label whose probability is above it, the likeliest first; where none is, one row whose label is empty.

    Raises:
        ValueError: ``top`` is negative or more than there are classes, or the threshold is not 0 to 1.
    """

    labels: tuple[str, ...]
    probabilities: bool = False
    top: int = 0
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None:
            require_threshold(self.threshold)
        if not 0 <= self.top <= len(self.labels):
            raise ValueError(f"top must be 0 to {len(self.labels)}, the number of classes; got {self.top}.")

    @property
    def header(self) -> list[str]:
        """The first row."""
        tops = [f"top{rank}_{what}" for rank in range(1, self.top + 1) for what in ("label", "probability")]
        return ["filename", "label", *(["probability"] if self.probabilities else []), *tops]

    def rows(self, names: Sequence[str], logits_BC: npt.NDArray[np.floating]) -> bytes:
        """The rows of a batch.

        Raises:
            ModelError: a logit is not finite.
            ValueError: there are not as many logits as names and classes.
        """
        if not names:
            return b""
        if logits_BC.shape != (len(names), len(self.labels)):
            raise ValueError(f"Expected logits ({len(names)}, {len(self.labels)}); got {logits_BC.shape}.")
        require_finite(names, logits_BC)
        count = len(self.labels) if self.threshold is not None else max(1, self.top)
        order_BK = (
            np.argsort(-logits_BC, axis=1, kind="stable")[:, :count] if count > 1 else logits_BC.argmax(1)[:, None]
        )
        logits_BK = np.take_along_axis(logits_BC, order_BK, axis=1).astype(np.float64)
        if self.threshold is None:
            probability_BK = np.exp(logits_BK - logsumexp(logits_BC)[:, None])
        else:
            probability_BK = sigmoid(logits_BK)
        rows = zip(names, order_BK.tolist(), probability_BK.tolist(), strict=True)
        return b"".join(
            csv_row(cells) for name, order, likely in rows for cells in self._picture_rows(name, order, likely)
        )

    def _picture_rows(self, name: str, order: Sequence[int], probabilities: Sequence[float]) -> Iterator[list[str]]:
        """The rows of one picture, from its classes and their probabilities, likeliest first."""
        pairs = [(self.labels[index], f"{likely:.6f}") for index, likely in zip(order, probabilities, strict=True)]
        own_pairs = pairs[:1]
        if self.threshold is not None:
            above = sum(likely > self.threshold for likely in probabilities)
            own_pairs = pairs[:above] or [("", "")]
        tops = [cell for pair in pairs[: self.top] for cell in pair]
        for label, probability in own_pairs:
            yield [name, label, *([probability] if self.probabilities else []), *tops]


DEFAULT_THRESHOLD = 0.5
"""The probability above which a label of a multi-label model counts as present."""


def require_threshold(threshold: float) -> None:
    """Refuse a threshold that is no probability.

    Raises:
        UsageError: it is not 0 to 1.
    """
    if not 0 <= threshold <= 1:
        raise UsageError(f"The threshold must be a probability from 0 to 1, for example 0.5; got {threshold:g}.")


def choose_threshold(threshold: float | None, *, is_multi_label: bool) -> float | None:
    """The threshold of a model's labels: a multi-label model's is 0.5 by default, and no other model has one.

    Raises:
        UsageError: it is no probability, or the model gives every picture one label.
    """
    if not is_multi_label:
        if threshold is not None:
            raise UsageError(
                "A threshold is for multi-label models; this one gives every picture its likeliest label.\n"
                "Leave --threshold out; --probabilities and --top K say how likely labels are."
            )
        return None
    value = DEFAULT_THRESHOLD if threshold is None else threshold
    require_threshold(value)
    return value


def predictions_csv(
    logits: LabelledLogits | MultiLabelLogits,
    labels: Sequence[str],
    *,
    probabilities: bool = False,
    top: int = 0,
    threshold: float | None = None,
) -> bytes:
    """The whole table of logits that are in memory, as the bytes of a CSV file; see :class:`PredictionColumns`."""
    columns = PredictionColumns(tuple(labels), probabilities, top, threshold)
    return csv_row(columns.header) + columns.rows(logits.names, logits.logits_NC)


class PredictionWriter:
    """Writes a table of predictions batch by batch, in constant memory, so that a kill at any moment loses little.

    Rows go to ``OUT.partial``, one write a batch; :meth:`finish` renames it to ``OUT``, so ``OUT`` is always a whole
    table. Pictures that cannot be read have no row: they are listed in ``NAME.unreadable.csv`` (``filename,reason``),
    which exists only where there are any, and grows as ``NAME.unreadable.csv.partial`` meanwhile.

    ::

        with PredictionWriter(out, labels, resume=True) as writer:
            for batch in batches_of(names[writer.resume_after(names) :]):
                writer.write(batch.names, batch.logits_BC, batch.unreadable)
            table = writer.finish()

    Args:
        out: the CSV.
        labels: class names, as the training data wrote them.
        probabilities: see :class:`PredictionColumns`.
        top: see :class:`PredictionColumns`.
        threshold: see :class:`PredictionColumns`.
        resume: continue the unfinished table where there is one.
        made_with: what must be the same when the table is continued: the model's hash, its precision. Kept in
            ``OUT.partial.json`` until the table is finished.

    Raises:
        DataError: ``out`` is a folder.
        RunError: there is an unfinished table and ``resume`` is false.
    """

    def __init__(
        self,
        out: Path,
        labels: Sequence[str],
        *,
        probabilities: bool = False,
        top: int = 0,
        threshold: float | None = None,
        resume: bool = False,
        made_with: Mapping[str, str] | None = None,
    ) -> None:
        if out.is_dir():
            raise DataError(f"{out} is a folder. Name the table to write, for example -o {out / 'predictions.csv'}.")
        self._columns = PredictionColumns(tuple(labels), probabilities, top, threshold)
        is_multi_label = threshold is not None
        if is_multi_label:  # a picture may have no label, or several rows
            labels, made_with = (*labels, ""), {**(made_with or {}), "threshold": f"{threshold:g}"}
        self._table = ResumableTable(out, self._columns.header, labels, made_with, repeats_names=is_multi_label)
        self._resume = resume
        if not resume:
            self._table.require_no_rows()
        self._names: Sequence[str] | None = None
        self._is_stream = False
        self._position = self._row_count = 0
        self._unreadable: dict[str, str] = {}

    def __enter__(self) -> PredictionWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._table.close()

    def resume_after(self, names: Sequence[str], batch_size: int = 1) -> int:
        """Open the table for these pictures; called once, before anything is written.

        Args:
            names: of all pictures, in the order in which they will come.
            batch_size: what the caller cuts the rest into; see :meth:`ResumableTable.recover`.

        Returns:
            How many of the pictures are finished, as rows or as unreadable: the caller goes on after them. 0 without
            ``resume``, and where there is no unfinished table.

        Raises:
            DataError: the unfinished table is of other pictures, or of another model's labels.
            RunError: it has other columns, or was made with something else.
        """
        self._names = names
        if not (self._resume and self._table.exists):
            self._table.begin()
            return 0
        point = self._table.recover(names, batch_size)
        self._position, self._row_count, self._unreadable = point.position, point.rows, point.unreadable
        return point.position

    def begin_stream(self) -> None:
        """Open a new table for pictures that come one by one, in place of :meth:`resume_after`.

        Raises:
            UsageError: it was to be resumed, which needs to know all pictures.
        """
        if self._resume:
            raise UsageError("Pictures that come one by one cannot be resumed: leave resume out, or give a folder.")
        self._is_stream, self._names = True, ()
        self._table.begin()

    def write(
        self, names: Sequence[str], logits_BC: npt.NDArray[np.floating], unreadable: Sequence[Unreadable] = ()
    ) -> None:
        """Add one batch.

        Args:
            names: its B readable pictures.
            logits_BC: float, of those.
            unreadable: (name, reason) of its other pictures.

        Raises:
            ModelError: a logit is not finite; nothing of the batch is written.
            ValueError: these are not the next pictures in order.
        """
        self._require_next(names, unreadable)
        rows = self._columns.rows(names, logits_BC)
        self._table.append(rows, unreadable)
        self._position += len(names) + len(unreadable)
        self._row_count += len(names) if self._columns.threshold is None else count_records(rows)
        self._unreadable.update(unreadable)

    def finish(self) -> PredictionTable:
        """Give the table its final name.

        Raises:
            ValueError: pictures are missing.
        """
        if self._names is None or (self._position != len(self._names) and not self._is_stream):
            raise ValueError(
                f"The table is not complete: {self._position} of {count_of(len(self._names or ()), 'picture')}."
            )
        self._table.finish(any_unreadable=bool(self._unreadable))
        unreadable_path = self._table.unreadable_out if self._unreadable else None
        return PredictionTable(self._table.out, self._row_count, tuple(self._unreadable.items()), unreadable_path)

    def _require_next(self, names: Sequence[str], unreadable: Sequence[Unreadable]) -> None:
        if self._names is None:
            raise ValueError("Call resume_after with all names before the first write.")
        if self._is_stream:
            return
        end = self._position + len(names) + len(unreadable)
        without_row = {name for name, _ in unreadable}
        expected = self._names[self._position : end]
        if [name for name in expected if name not in without_row] != list(names) or not without_row <= set(expected):
            raise ValueError(
                f"Expected the {count_of(len(expected), 'picture')} after {self._position} in order; got "
                f"{names[:3]} ..."
            )
