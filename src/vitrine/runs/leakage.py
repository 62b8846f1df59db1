"""Leakage: pictures that a model is measured on and that also stand in training, and the result without them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vitrine.data.perceptual_hash import BITS
from vitrine.data.training_copies import HashedPicture, TrainingCopy, find_training_copies
from vitrine.errors import RunError
from vitrine.metrics.intervals import wilson
from vitrine.results import Interval, count_of, round_number

TRAINING_COPIES = "training_copies"
"""Key of data.json: the validation pictures that also stand in training; null where that cannot be known."""

LEAKAGE = "leakage"
"""Key of an evaluation's metrics.json."""

ACCURACY = "accuracy"
EXACT_LABELS = "share of pictures with all labels right"
EXACT_CAPTIONS = "share of captions that are word for word a human one"


@dataclass(frozen=True)
class Share:
    """How many of some pictures are right: of a captioner, have a caption that is word for word a human one."""

    right: int
    n: int

    @property
    def value(self) -> float:
        """0 to 1; 0 of no pictures."""
        return self.right / self.n if self.n else 0.0

    @property
    def interval(self) -> Interval:
        """Its 95 % interval over pictures (Wilson); ``n`` is 1 or more."""
        return wilson(self.right, self.n)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        ends = [round_number(self.interval.low), round_number(self.interval.high)] if self.n else None
        return {"share": round_number(self.value) if self.n else None, "interval_95": ends, "n": self.n}


@dataclass(frozen=True)
class Leakage:
    """The pictures of a split that also stand in training, beside all of it.

    Attributes:
        split: validation or test.
        measure: what is right: :data:`ACCURACY`, :data:`EXACT_LABELS` or :data:`EXACT_CAPTIONS`.
        n, right: pictures of the split, and those that are right.
        exact, exact_right: files that are byte for byte in training: a fact.
        near, near_right: other pictures that look like copies of training pictures: a suspicion.
        nearest: smallest distance of these, in bits of a perceptual hash; None without any.
        near_checked: whether near copies were looked for; runs of older versions have no perceptual hashes.
    """

    split: str
    measure: str
    n: int
    right: int
    exact: int = 0
    exact_right: int = 0
    near: int = 0
    near_right: int = 0
    nearest: int | None = None
    near_checked: bool = True

    def __bool__(self) -> bool:
        """Whether there is any such picture."""
        return bool(self.exact or self.near)

    @property
    def whole(self) -> Share:
        """All pictures."""
        return Share(self.right, self.n)

    @property
    def without_exact(self) -> Share:
        """The pictures that are not byte for byte in training."""
        return Share(self.right - self.exact_right, self.n - self.exact)

    @property
    def without_any(self) -> Share:
        """The pictures that are neither in training nor look like a copy of a training picture."""
        return Share(self.right - self.exact_right - self.near_right, self.n - self.exact - self.near)

    def sentences(self) -> tuple[str, ...]:
        """The finding in words, facts first; none where there is nothing to say."""
        sentences = []
        if self.exact:
            stand = "stands" if self.exact == 1 else "stand"
            sentences.append(
                f"{self.exact:,} of the {count_of(self.n, f'{self.split} picture')} also {stand} in training, byte for "
                f"byte. {self._without(self.without_exact, 'it' if self.exact == 1 else 'them')}."
            )
        if self.near:
            is_one = self.near == 1
            looks = "looks like a copy of a training picture" if is_one else "look like copies of training pictures"
            pictures = f"{self.near:,} more" if self.exact else f"{self.near:,} of the {self.n:,} {self.split} pictures"
            which = "a near copy, at" if is_one else "near copies, the nearest at"
            them = f"{'it' if is_one else 'them'}{' too' if self.exact else ''}"
            sentences.append(
                f"{pictures} {looks} ({which} distance {self.nearest} of {BITS}): a suspicion, not a fact. "
                f"{self._without(self.without_any, them)}."
            )
        return tuple(sentences)

    def verdict(self) -> tuple[str, ...]:
        """:meth:`sentences`, or that there is no such picture, and what was looked for."""
        near = "and none looks like a copy of one there" if self.near_checked else "and near copies were not looked for"
        return self.sentences() or (
            f"None of the {count_of(self.n, f'{self.split} picture')} also stands in training, byte for byte, {near}.",
        )

    def _without(self, rest: Share, them: str) -> str:
        if not rest.n:
            return f"Without {them} no picture is left"
        return (
            f"Without {them} the {self.measure} is {rest.value:.4f} (95 % interval over pictures "
            f"{rest.interval.low:.4f} to {rest.interval.high:.4f}, n = {rest.n:,}); with all pictures it is "
            f"{self.whole.value:.4f} (n = {self.n:,})"
        )

    def headline(self) -> str:
        """The number without copies in a few words, for titles; "" where there are none."""
        if not self:
            return ""
        kinds = [f"{self.exact:,} in training too"] if self.exact else []
        kinds += [f"{count_of(self.near, 'near copy', 'near copies')}"] if self.near else []
        rest = self.without_any
        value = f"{rest.value:.4f}" if rest.n else "nothing left"
        return f"{value} without {' and '.join(kinds)}, n = {rest.n:,}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self) | {
            "without_exact": self.without_exact.to_dict(),
            "without_exact_and_near": self.without_any.to_dict(),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Leakage:
        """What :meth:`to_dict` wrote.

        Raises:
            KeyError: an entry is missing.
        """
        return cls(**{name: content[name] for name in cls.__dataclass_fields__})


def count_leakage(
    copies: Sequence[TrainingCopy],
    is_right: Mapping[str, bool],
    *,
    split: str,
    measure: str = ACCURACY,
    near_checked: bool = True,
) -> Leakage:
    """Count the copies of training pictures among those that a model was measured on.

    Args:
        copies: those of the split.
        is_right: of every picture that was measured, by its name, whether the model got it right.
        split: validation or test.
        measure: what is right.
        near_checked: whether near copies were looked for.
    """
    exact = [each for each in copies if each.is_exact and each.name in is_right]
    near = [each for each in copies if not each.is_exact and each.name in is_right]
    return Leakage(
        split=split,
        measure=measure,
        n=len(is_right),
        right=sum(is_right.values()),
        exact=len(exact),
        exact_right=sum(is_right[each.name] for each in exact),
        near=len(near),
        near_right=sum(is_right[each.name] for each in near),
        nearest=min((each.distance for each in near if each.distance is not None), default=None),
        near_checked=near_checked,
    )


def recorded_copies(data: Mapping[str, Any]) -> tuple[TrainingCopy, ...] | None:
    """The validation pictures that also stand in training, by a run's data.json; None where that cannot be known.

    A run of an older version recorded none; files with the same bytes are found by their hashes all the same.

    Raises:
        RunError: the entry is damaged.
    """
    try:
        if TRAINING_COPIES in data:
            rows = data[TRAINING_COPIES]
            return None if rows is None else tuple(map(TrainingCopy.from_dict, rows))
        train, validation = (data["splits"][name] for name in ("train", "validation"))
        if not isinstance(train, list):
            return None
        return find_training_copies(map(HashedPicture.from_row, validation), map(HashedPicture.from_row, train))
    except (KeyError, TypeError) as error:
        raise RunError(f"data.json does not say which pictures were trained on ({type(error).__name__}).") from error
