"""What ``vitrine verify`` found: what of a run is as it was recorded, and what is not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from vitrine.report.tables import Table
from vitrine.results import shown_number

Status = Literal["same", "differs", "noted", "not checked"]

# Of predictions that moved on the same pictures, classes and weights.
_UNEXPLAINED = "; nothing else differs, so that versions, hardware or precision moved them (see environment)"
_MOST = 10  # rows and names that a person reads


@dataclass(frozen=True)
class Again:
    """How predictions are made again.

    Attributes:
        precision: fp32 or bf16.
        batch_size: pictures at a time.
        tolerance: share of them that may differ, 0 to 1.
        progress: called with pictures done, of how many.
    """

    precision: str
    batch_size: int
    tolerance: float
    progress: Callable[[int, int], None]


@dataclass(frozen=True)
class Check:
    """One thing that was held against the record.

    Attributes:
        what: "weights", "class names", "validation pictures", "training pictures", "predictions" or "captions",
            "word pieces", "environment".
        status: ``differs`` decides the exit status; ``noted`` may explain a difference but is none itself.
        detail: a sentence.
        examples: names of files, the first few.
    """

    what: str
    status: Status
    detail: str
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class MovedLabel:
    """A validation picture that is called otherwise than it was.

    The probabilities, 0 to 1, are of the label of then, then, and of the label of now, now; None where not recorded.
    """

    name: str
    true: str
    then: str
    now: str
    then_probability: float | None
    now_probability: float


@dataclass(frozen=True)
class MovedCaption:
    """A validation picture that has another caption than it had, with the natural log-probabilities of both."""

    name: str
    then: str
    now: str
    then_log_probability: float
    now_log_probability: float


Moved = TypeVar("Moved", bound=MovedLabel | MovedCaption)


@dataclass(frozen=True, kw_only=True)
class Compared(Generic[Moved]):
    """What a run recorded of its validation pictures and what it says of them now, row by row.

    Attributes:
        recorded: rows of the run's table.
        compared: those whose picture could be read.
        moved: those with another label or caption.
        largest: difference of the probabilities of a label that is the same, or of the log-probabilities of a caption
            that is, in nats; None where they were not recorded.
        largest_at: the picture that has it.
        loss_then, loss_now: negative log-likelihood in nats; None unless all pictures were compared.
        precision: what was computed in now.
    """

    recorded: int
    compared: int
    moved: tuple[Moved, ...]
    largest: float | None
    largest_at: str | None
    loss_then: float | None = None
    loss_now: float | None = None
    precision: str

    @property
    def share_moved(self) -> float:
        """Share of the compared pictures that moved; no accuracy can move by more."""
        return len(self.moved) / self.compared if self.compared else 0.0

    def check(self, what: str, noun: str, details: Sequence[str], tolerance: float, before: Sequence[Check]) -> Check:
        """The check of this comparison.

        Args:
            what: its name.
            noun: what moved, in the plural.
            details: further parts of its sentence.
            tolerance: share that may have moved.
            before: the checks that were made before, of which one may explain a difference.
        """
        parts = [f"{len(self.moved):,} of {self.compared:,} {noun} differ (allowed: {100 * tolerance:g} %)"]
        if self.compared < self.recorded:
            parts.append(f"{self.recorded - self.compared:,} recorded pictures could not be compared")
        told = "; ".join([*parts, *details])
        if self.share_moved <= tolerance + 1e-9:
            return Check(what, "same", told)
        explained = any(check.status == "differs" for check in before)
        return Check(what, "differs", told if explained else told + _UNEXPLAINED)


@dataclass(frozen=True, kw_only=True)
class RowsCompared(Compared[MovedLabel]):
    """The recorded predictions and those of now.

    Attributes:
        accuracy_then, accuracy_now: on the compared pictures, 0 to 1.
    """

    accuracy_then: float
    accuracy_now: float

    def table(self, most: int) -> Table:
        """The first labels that moved, a row a picture."""
        rows = tuple(
            (each.name, each.true, each.then, _share(each.then_probability), each.now, _share(each.now_probability))
            for each in self.moved[:most]
        )
        return Table(("picture", "true", "then", "probability", "now", "probability now"), rows)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "recorded": self.recorded,
            "compared": self.compared,
            "moved_labels": len(self.moved),
            "share_moved": self.share_moved,
            "largest_probability_difference": self.largest,
            "largest_at": self.largest_at,
            "accuracy": {"then": self.accuracy_then, "now": self.accuracy_now},
            "negative_log_likelihood": {"then": self.loss_then, "now": self.loss_now},
            "precision": self.precision,
            "moved": [vars(each) for each in self.moved],
        }


@dataclass(frozen=True, kw_only=True)
class CaptionsCompared(Compared[MovedCaption]):
    """The recorded captions and those of now; losses are of the human captions' word pieces.

    Attributes:
        exact_then, exact_now: of the compared pictures, how many captions are word for word one of their own.
        pieces_then, pieces_now: share of the human captions' word pieces that were the likeliest, 0 to 1; None unless
            all pictures were compared.
    """

    exact_then: int
    exact_now: int
    pieces_then: float | None = None
    pieces_now: float | None = None

    def table(self, most: int) -> Table:
        """The first captions that moved, a row a picture."""
        rows = tuple(
            (
                each.name,
                each.then,
                shown_number(each.then_log_probability, 4),
                each.now,
                shown_number(each.now_log_probability, 4),
            )
            for each in self.moved[:most]
        )
        return Table(("picture", "then", "log-probability", "now", "log-probability now"), rows)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "recorded": self.recorded,
            "compared": self.compared,
            "moved_captions": len(self.moved),
            "share_moved": self.share_moved,
            "largest_log_probability_difference": self.largest,
            "largest_at": self.largest_at,
            "exact_captions": {"then": self.exact_then, "now": self.exact_now},
            "piece_accuracy": {"then": self.pieces_then, "now": self.pieces_now},
            "negative_log_likelihood": {"then": self.loss_then, "now": self.loss_now},
            "precision": self.precision,
            "moved": [vars(each) for each in self.moved],
        }


@dataclass(frozen=True)
class Verification:
    """A run held against its own record.

    Attributes:
        run, data: what was verified, on what.
        tolerance: share of the labels or captions that may differ.
        checks: in the order in which they were made.
        rows: the predictions; None where they could not be made.
    """

    run: str
    data: str
    tolerance: float
    checks: tuple[Check, ...]
    rows: RowsCompared | CaptionsCompared | None

    @property
    def same(self) -> bool:
        """Whether nothing differs beyond the tolerance, and the predictions were made."""
        return self.rows is not None and not self.differing

    @property
    def differing(self) -> tuple[str, ...]:
        """What differs."""
        return tuple(check.what for check in self.checks if check.status == "differs")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "run": self.run,
            "data": self.data,
            "tolerance": self.tolerance,
            "verified": self.same,
            "differs": list(self.differing),
            "checks": [_plain(vars(check)) for check in self.checks],
            "predictions": None if self.rows is None else self.rows.to_dict(),
        }

    def text(self) -> str:
        """For a terminal."""
        width = max(len(check.what) for check in self.checks)
        lines = [f"{self.run} on {self.data}", ""]
        for check in self.checks:
            first, *more = check.detail.split("; ")
            more += check.examples[:_MOST]
            if len(check.examples) > _MOST:
                more.append(f"and {len(check.examples) - _MOST} more")
            lines.append(f"{check.what:<{width}}  {check.status:<11}  {first}")
            lines += [f"{'':<{width + 15}}{line}" for line in more]
        if self.rows is not None and self.rows.moved:
            lines += ["", self.rows.table(_MOST).text()]
            if len(self.rows.moved) > _MOST:
                lines.append(f"and {len(self.rows.moved) - _MOST} more; --json has all.")
        return "\n".join([*lines, "", self._conclusion()])

    def _conclusion(self) -> str:
        if self.same:
            unseen = [check.what for check in self.checks if check.status == "not checked"]
            besides = f" Not checked: {', '.join(unseen)}." if unseen else ""
            return f"Verified: this run still says what it was recorded to say.{besides}"
        if not self.differing:
            return "Not verified: the predictions could not be made."
        return f"Not verified; what differs: {', '.join(self.differing)}."


def _share(value: float | None) -> str | None:
    return None if value is None else f"{value:.4f}"


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
