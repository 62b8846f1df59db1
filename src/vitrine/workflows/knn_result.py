"""What ``vitrine knn`` found, as frozen data that shows itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vitrine.evaluate.intervals import wilson
from vitrine.evaluate.paired import LEVEL, paired_counts
from vitrine.report.tables import Table
from vitrine.results import Interval, rounded, shown_number


@dataclass(frozen=True)
class Guesser:
    """Something that gave each picture a label.

    Attributes:
        name: what tables call it.
        right: by the picture's name, whether its label is right.
    """

    name: str
    right: Mapping[str, bool]

    @property
    def n(self) -> int:
        """Pictures."""
        return len(self.right)

    @property
    def correct(self) -> int:
        """Pictures with the right label."""
        return sum(self.right.values())

    @property
    def accuracy(self) -> float:
        """Share of them, 0 to 1."""
        return self.correct / self.n

    @property
    def interval(self) -> Interval:
        """The accuracy's 95 % interval (Wilson)."""
        return wilson(self.correct, self.n)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        ends = [rounded(self.interval.low), rounded(self.interval.high)]
        return {
            "name": self.name,
            "n": self.n,
            "correct": self.correct,
            "accuracy": rounded(self.accuracy),
            "accuracy_interval_95": ends,
        }


@dataclass(frozen=True)
class KnnResult:
    """What neighbours in feature space are worth on one split.

    Attributes:
        model, data, split: what was measured.
        k: neighbours that voted.
        temperature: of their weights.
        precision: fp32 or bf16: the arithmetic that the features were computed in.
        classes: C.
        features: numbers that a picture becomes.
        known: training pictures among which neighbours were looked for.
        majority: always the most frequent class of the training pictures.
        knn: neighbours in the model's own features.
        start: neighbours in the features of the weights that the run began with; None where MODEL is no run, or its
            weights cannot be had.
        head: what the run recorded of the same pictures; None where there is no such record.
        unreadable: (name, reason) of pictures that count in no figure.
        notes: sentences on weights and decisions.
    """

    model: str
    data: str
    split: str
    k: int
    temperature: float
    precision: str
    classes: int
    features: int
    known: int
    majority: Guesser
    knn: Guesser
    start: Guesser | None = None
    head: Guesser | None = None
    unreadable: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> tuple[Guesser, ...]:
        """Everything that gave labels, the simplest first."""
        return tuple(each for each in (self.majority, self.start, self.knn, self.head) if each is not None)

    @property
    def pairs(self) -> tuple[tuple[Guesser, Guesser], ...]:
        """What says whether fine-tuning helped: before and after it, and the trained head beside no head."""
        found = [(self.start, self.knn), (self.start or self.knn, self.head)]
        return tuple((one, other) for one, other in found if one is not None and other is not None)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; the same measurement gives the same bytes."""
        parts = {"knn_of_starting_weights": self.start, "recorded_head": self.head}
        return {
            "model": self.model,
            "data": self.data,
            "split": self.split,
            "k": self.k,
            "temperature": self.temperature,
            "precision": self.precision,
            "classes": self.classes,
            "features": self.features,
            "training_pictures": self.known,
            **{key: value for key, value in self.knn.to_dict().items() if key != "name"},
            "majority_class": self.majority.to_dict(),
            **{key: each.to_dict() for key, each in parts.items() if each is not None},
            "paired": [_paired_dict(one, other) for one, other in self.pairs],
            "unreadable": [{"name": name, "reason": reason} for name, reason in self.unreadable],
        }

    def table(self) -> str:
        """The same for a person."""
        cells = [
            (row.name, f"{row.accuracy:.4f}", f"{row.interval.low:.4f} to {row.interval.high:.4f}") for row in self.rows
        ]
        lines = [
            f"{self.model} on {self.data}, {self.split} split: {self.knn.n:,} pictures, {self.classes} classes",
            f"{self.k} nearest of {self.known:,} training pictures by cosine of {self.features:,} features, votes "
            f"weighted by exp(cosine / {self.temperature:g}), {self.precision}",
            "",
            Table(("labels by", "accuracy", "95 % interval"), tuple(cells)).text(),
        ]
        lines += ["", *(_sentence(one, other) for one, other in self.pairs)] if self.pairs else []
        if self.unreadable:
            lines += ["", f"{len(self.unreadable)} pictures could not be read and count in no figure:"]
            lines += [f"  {name}: {reason}" for name, reason in self.unreadable[:10]]
        return "\n".join(lines)


def _paired_dict(one: Guesser, other: Guesser) -> dict[str, Any]:
    counts = paired_counts(one.right, other.right)
    return {
        "first": one.name,
        "second": other.name,
        "only_first_right": counts.first,
        "only_second_right": counts.second,
        "p": counts.p,
    }


def _sentence(one: Guesser, other: Guesser) -> str:
    counts = paired_counts(one.right, other.right)
    if not counts.discordant:
        return f"{other.name} beside {one.name}: right on the very same pictures."
    points = 100 * (other.accuracy - one.accuracy)
    told = f"{other.name} beside {one.name}: {shown_number(points, 1, sign=True)} points"
    which = f"right alone on {counts.second:,} and {counts.first:,} pictures, exact p {counts.p:.2g}"
    return f"{told} ({which}){'' if counts.p <= LEVEL else ', which may be chance'}."
