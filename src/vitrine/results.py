"""What a measurement found, as frozen data that other floors pass around, show and store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vitrine.errors import DataError

# Stored floats: finer than any sampling error, coarser than what a thread count or another processor changes.
DECIMALS = 6

Progress = Callable[[int, int], None]
"""Called with how much is done, of how much."""

Unreadable = tuple[str, str]
"""A picture that cannot be read: its name, and why."""


OVER_PICTURES = "95 % interval over pictures"
"""What tables call the interval of a figure that was measured on some pictures, by one set of weights."""

ONE_TRAINING = "These are the weights of one training. Another seed moves the result too; by how much is not known."
"""Said beside a figure of one run, whose interval is over pictures alone."""


def no_progress(_count: int, _total: int) -> None:
    """A :data:`Progress` that reports nothing."""


@dataclass(frozen=True)
class Interval:
    """A confidence interval; ``low`` and ``high`` are in the unit of what was estimated."""

    low: float
    high: float


@dataclass(frozen=True)
class ClassMetrics:
    """One class. All shares are 0 to 1.

    Attributes:
        label: the class name.
        precision: of the pictures that were given this label, the share that has it; None where none was given it.
        recall: of the pictures that have this label, the share that was given it; None where there is none.
        support: pictures that have this label.
    """

    label: str
    precision: float | None
    recall: float | None
    support: int


@dataclass(frozen=True)
class Mistake:
    """A picture with a wrong label. ``probability`` (0 to 1) is what the model gave the wrong label."""

    name: str
    true: str
    predicted: str
    probability: float


@dataclass(frozen=True, slots=True)
class ConfusionCount:
    """A cell of the confusion matrix that is not zero.

    Attributes:
        true, predicted: positions of both classes, in class order.
        pictures: of the true class that were given the predicted one's label; at least 1.
    """

    true: int
    predicted: int
    pictures: int


@dataclass(frozen=True)
class ClassificationMetrics:
    """A classifier's figures on one split.

    Attributes:
        n: pictures that were counted.
        precision: ``fp32`` or ``bf16``: the arithmetic that the model ran in.
        accuracy: share of pictures with the right label, 0 to 1.
        accuracy_interval: its 95 % interval (Wilson).
        top5: share of pictures whose label is among the five likeliest; None with five classes or fewer.
        negative_log_likelihood: mean over the pictures, in nats; at least 0.
        calibration_error: expected calibration error, 0 to 1.
        calibration_bins: equal-width bins of confidence that it was computed with.
        classes: one entry a class, in class order.
        confusion: pictures by true and predicted class, by true class first. Only pairs that occur: never more than
            there are pictures, however many classes.
        hardest: the mistakes that the model was surest of, surest first.
    """

    n: int
    precision: str
    accuracy: float
    accuracy_interval: Interval
    top5: float | None
    negative_log_likelihood: float
    calibration_error: float
    calibration_bins: int
    classes: tuple[ClassMetrics, ...]
    confusion: tuple[ConfusionCount, ...]
    hardest: tuple[Mistake, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, in class order."""
        return tuple(entry.label for entry in self.classes)

    @property
    def correct(self) -> int:
        """Pictures with the right label."""
        return sum(cell.pictures for cell in self.confusion if cell.true == cell.predicted)

    @property
    def balanced_accuracy(self) -> float | None:
        """Mean recall of the classes that have a picture, 0 to 1; None where nothing was counted.

        Source: K. H. Brodersen and others (2010), The balanced accuracy and its posterior distribution, ICPR.
        """
        true, right, _ = self._class_counts()
        recalls = [right[label] / count for label, count in true.items()]
        return sum(recalls) / len(recalls) if recalls else None

    @property
    def macro_f1(self) -> float | None:
        """Mean F1 of the classes that have a picture or were given to one, 0 to 1; None where nothing was counted."""
        true, right, predicted = self._class_counts()
        scores = [2 * right[label] / (true[label] + predicted[label]) for label in true | predicted]
        return sum(scores) / len(scores) if scores else None

    @property
    def majority(self) -> tuple[str, float] | None:
        """The most frequent class and its share of the pictures, which always guessing it gets right.

        The first of several; None where nothing was counted.
        """
        true, _, _ = self._class_counts()
        if not true:
            return None
        label = max(sorted(true), key=lambda each: true[each])
        return self.classes[label].label, true[label] / true.total()

    def _class_counts(self) -> tuple[Counter[int], Counter[int], Counter[int]]:
        """Pictures of each class, those of them with the right label, and those that were given it; no zeros."""
        true, right, predicted = Counter[int](), Counter[int](), Counter[int]()
        for cell in self.confusion:
            true[cell.true] += cell.pictures
            predicted[cell.predicted] += cell.pictures
            if cell.true == cell.predicted:
                right[cell.true] += cell.pictures
        return true, right, predicted

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready and stable: floats are rounded to ``DECIMALS``, zero cells of the confusion left out."""
        labels, majority = self.labels, self.majority
        confusion: dict[str, dict[str, int]] = {label: {} for label in labels}
        for cell in self.confusion:
            confusion[labels[cell.true]][labels[cell.predicted]] = cell.pictures
        return {
            "n": self.n,
            "precision": self.precision,
            "accuracy": round_number(self.accuracy),
            "accuracy_interval_95": [
                round_number(self.accuracy_interval.low),
                round_number(self.accuracy_interval.high),
            ],
            "balanced_accuracy": round_number(self.balanced_accuracy),
            "macro_f1": round_number(self.macro_f1),
            "majority": None if majority is None else {"label": majority[0], "share": round_number(majority[1])},
            "top5": round_number(self.top5),
            "negative_log_likelihood": round_number(self.negative_log_likelihood),
            "expected_calibration_error": round_number(self.calibration_error),
            "calibration_bins": self.calibration_bins,
            "classes": [
                {
                    "label": entry.label,
                    "precision": round_number(entry.precision),
                    "recall": round_number(entry.recall),
                    "support": entry.support,
                }
                for entry in self.classes
            ],
            "confusion": confusion,
            "hardest_mistakes": [
                {
                    "name": _storable(entry.name),
                    "true": entry.true,
                    "predicted": entry.predicted,
                    "probability": round_number(entry.probability),
                }
                for entry in self.hardest
            ],
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> ClassificationMetrics:
        """What :meth:`to_dict` wrote, with floats as rounded there; other keys are ignored.

        Raises:
            KeyError: an entry is missing.
        """
        at = {entry["label"]: place for place, entry in enumerate(content["classes"])}
        cells = (
            ConfusionCount(place, at[predicted], count)
            for true, place in at.items()
            for predicted, count in content["confusion"][true].items()
            if count
        )
        return cls(
            n=content["n"],
            precision=content["precision"],
            accuracy=content["accuracy"],
            accuracy_interval=Interval(*content["accuracy_interval_95"]),
            top5=content["top5"],
            negative_log_likelihood=content["negative_log_likelihood"],
            calibration_error=content["expected_calibration_error"],
            calibration_bins=content["calibration_bins"],
            classes=tuple(ClassMetrics(**entry) for entry in content["classes"]),
            confusion=tuple(sorted(cells, key=lambda cell: (cell.true, cell.predicted))),
            hardest=tuple(Mistake(**entry) for entry in content["hardest_mistakes"]),
        )


@dataclass(frozen=True)
class LabelMetrics:
    """One label of a multi-label model. All shares are 0 to 1.

    Attributes:
        label: its name.
        average_precision: mean precision over the pictures that have it, as they are ranked; None where none has it.
        precision: of the pictures that were given it, the share that has it; None where none was given it.
        recall: of the pictures that have it, the share that was given it; None where there is none.
        f1: of both; None where no picture has it or was given it.
        support: pictures that have it.
        predicted: pictures that were given it.
    """

    label: str
    average_precision: float | None
    precision: float | None
    recall: float | None
    f1: float | None
    support: int
    predicted: int


@dataclass(frozen=True)
class LabelMistake:
    """A label that a picture was wrongly given, or wrongly not given.

    Attributes:
        name: of the picture.
        label: which.
        is_present: whether the picture has it.
        probability: that the model gave it, 0 to 1.
    """

    name: str
    label: str
    is_present: bool
    probability: float


@dataclass(frozen=True)
class MultiLabelMetrics:
    """A multi-label classifier's figures on one split.

    Attributes:
        n: pictures that were counted.
        precision: ``fp32`` or ``bf16``: the arithmetic that the model ran in.
        threshold: the probability above which a label counts as given, 0 to 1.
        mean_average_precision: mean over the labels that a picture has, 0 to 1.
        micro_f1: of all labels of all pictures together, at the threshold.
        macro_f1: mean over the labels that a picture has or was given, at the threshold.
        accuracy: share of pictures all of whose labels are right at the threshold (exact match).
        accuracy_interval: its 95 % interval (Wilson); the other intervals are of the same kind over the pictures, and
            None with too few of them.
        negative_log_likelihood: binary cross-entropy, mean over pictures and labels, in nats.
        without_label: pictures that have no label.
        classes: one entry a label, in class order.
        hardest: the mistakes that the model was surest of, surest first.
    """

    n: int
    precision: str
    threshold: float
    mean_average_precision: float
    mean_average_precision_interval: Interval | None
    micro_f1: float
    micro_f1_interval: Interval | None
    macro_f1: float
    macro_f1_interval: Interval | None
    accuracy: float
    accuracy_interval: Interval
    negative_log_likelihood: float
    without_label: int
    classes: tuple[LabelMetrics, ...]
    hardest: tuple[LabelMistake, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels, in class order."""
        return tuple(entry.label for entry in self.classes)

    @property
    def labels_without_pictures(self) -> tuple[str, ...]:
        """Labels that no picture has, which count in no mean average precision."""
        return tuple(entry.label for entry in self.classes if not entry.support)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready and stable: floats are rounded to ``DECIMALS``."""
        precision_interval = self.mean_average_precision_interval
        return {
            "kind": MULTI_LABEL,
            "n": self.n,
            "precision": self.precision,
            "threshold": self.threshold,
            **_with_interval("mean_average_precision", self.mean_average_precision, precision_interval),
            **_with_interval("micro_f1", self.micro_f1, self.micro_f1_interval),
            **_with_interval("macro_f1", self.macro_f1, self.macro_f1_interval),
            **_with_interval("exact_match", self.accuracy, self.accuracy_interval),
            "negative_log_likelihood": round_number(self.negative_log_likelihood),
            "pictures_without_label": self.without_label,
            "labels": [
                {name: round_number(value) if isinstance(value, float) else value for name, value in vars(each).items()}
                for each in self.classes
            ],
            "hardest_mistakes": [
                {
                    "name": _storable(each.name),
                    "label": each.label,
                    "is_present": each.is_present,
                    "probability": round_number(each.probability),
                }
                for each in self.hardest
            ],
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> MultiLabelMetrics:
        """What :meth:`to_dict` wrote, with floats as rounded there; other keys are ignored.

        Raises:
            KeyError: an entry is missing.
        """
        return cls(
            n=content["n"],
            precision=content["precision"],
            threshold=content["threshold"],
            mean_average_precision=content["mean_average_precision"],
            mean_average_precision_interval=_interval_of(content["mean_average_precision_interval_95"]),
            micro_f1=content["micro_f1"],
            micro_f1_interval=_interval_of(content["micro_f1_interval_95"]),
            macro_f1=content["macro_f1"],
            macro_f1_interval=_interval_of(content["macro_f1_interval_95"]),
            accuracy=content["exact_match"],
            accuracy_interval=Interval(*content["exact_match_interval_95"]),
            negative_log_likelihood=content["negative_log_likelihood"],
            without_label=content["pictures_without_label"],
            classes=tuple(LabelMetrics(**entry) for entry in content["labels"]),
            hardest=tuple(LabelMistake(**entry) for entry in content["hardest_mistakes"]),
        )


MULTI_LABEL = "multi_label"
"""What metrics.json says under ``kind`` where they are of a multi-label model."""


def classifier_metrics_from_dict(content: Mapping[str, Any]) -> ClassificationMetrics | MultiLabelMetrics:
    """The metrics of a classifier that were written as JSON, of whichever kind they are.

    Raises:
        KeyError: an entry is missing.
    """
    kind = MultiLabelMetrics if content.get("kind") == MULTI_LABEL else ClassificationMetrics
    return kind.from_dict(content)


def _with_interval(name: str, value: float, interval: Interval | None) -> dict[str, Any]:
    ends = None if interval is None else [round_number(interval.low), round_number(interval.high)]
    return {name: round_number(value), f"{name}_interval_95": ends}


def _interval_of(ends: Sequence[float] | None) -> Interval | None:
    return None if ends is None else Interval(*ends)


def uneven_classes_figures(metrics: ClassificationMetrics) -> list[tuple[str, str]]:
    """(name, value) of what says how much an accuracy on uneven classes is worth; none where nothing was counted."""
    if metrics.balanced_accuracy is None or metrics.macro_f1 is None or metrics.majority is None:
        return []
    label, share = metrics.majority
    return [
        ("balanced accuracy", f"{metrics.balanced_accuracy:.4f}"),
        ("macro F1", f"{metrics.macro_f1:.4f}"),
        ("always the most frequent class", f"{share:.4f}  ({label})"),
    ]


@dataclass(frozen=True)
class CaptioningMetrics:
    """A captioner's figures on one split.

    Attributes:
        n: pictures that were counted.
        pieces: word pieces, ends included, that were predicted from the human captions before them.
        precision: ``fp32`` or ``bf16``: the arithmetic that the model ran in.
        negative_log_likelihood: mean over the pieces, in nats; at least 0.
        accuracy: share of pieces that were the likeliest, 0 to 1.
        scores: what the captions themselves come to, as ``vitrine.metrics.captions`` writes it.
    """

    n: int
    pieces: int
    precision: str
    negative_log_likelihood: float
    accuracy: float
    scores: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready and stable: floats are rounded to ``DECIMALS``."""
        return {
            "n": self.n,
            "pieces": self.pieces,
            "precision": self.precision,
            "negative_log_likelihood": round_number(self.negative_log_likelihood),
            "piece_accuracy": round_number(self.accuracy),
            "captions": dict(self.scores),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> CaptioningMetrics:
        """What :meth:`to_dict` wrote; other keys are ignored.

        Raises:
            KeyError: an entry is missing.
        """
        return cls(
            n=content["n"],
            pieces=content["pieces"],
            precision=content["precision"],
            negative_log_likelihood=content["negative_log_likelihood"],
            accuracy=content["piece_accuracy"],
            scores=content["captions"],
        )


def round_number(value: float | None) -> float | None:
    """A number as files store it: to ``DECIMALS``; None stays None."""
    return None if value is None else round(value, DECIMALS) + 0.0  # no "-0.0" in a file


def shown_number(value: float, decimals: int = 2, *, sign: bool = False) -> str:
    """A number as people read it, with a true minus; what rounds to 0 has no sign.

    Args:
        value: finite.
        decimals: digits after the point.
        sign: a plus before what is more than 0.
    """
    words = f"{value:z.{decimals}f}"
    plus = "+" if sign and float(words) > 0 else ""
    return f"{plus}{words}".replace("-", "\N{MINUS SIGN}")


def percent(share: float, decimals: int = 1) -> str:
    """A share of 1 as per cent: 0.9375 is ``93.8 %``."""
    return f"{100 * share:.{decimals}f} %"


def duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3.5 h``, ``2.1 days``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5_400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 129_600 else f"{seconds / 86_400:.1f} days"


def count_of(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun: ``1 picture``, ``1,500 pictures``; ``plural`` where an s is not enough."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def agree(number: int, one: str, many: str) -> str:
    """The word that goes with a number of things: ``is`` with 1, ``are`` with any other."""
    return one if number == 1 else many


def join_words(words: Sequence[str], last: str = "and") -> str:
    """Words as a sentence lists them: ``a``, ``a and b``, ``a, b and c``; nothing for none."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}" if words else ""


def list_names(names: Iterable[str]) -> str:
    """Names separated by commas, those that contain one in quotation marks: ``cat, "crane, bird"``."""
    return ", ".join(f'"{name}"' if "," in name else name for name in names)


def and_n_more(names: Sequence[str], limit: int = 5) -> str:
    """The first few names, and how many more there are: ``a, b and 3 more``; see :func:`list_names`."""
    first = list_names(names[:limit])
    return first if len(names) <= limit else f"{first} and {len(names) - limit:,} more"


def none_readable(unreadable: Sequence[Unreadable], count: int = 0, noun: str = "picture", of: str = "") -> DataError:
    """The error where not one picture can be read.

    Args:
        unreadable: the pictures, or the first of them.
        count: how many there are; 0 counts ``unreadable``.
        noun: what one of them is called.
        of: what they are of, for the sentence: " of a batch".
    """
    if not unreadable:
        return DataError(f"There are no {noun}s{of}.")
    name, reason = unreadable[0]
    return DataError(
        f"None of the {count_of(count or len(unreadable), noun)}{of} can be read, for example {name}: {reason}"
    )


def none_drawn(unreadable: Sequence[Unreadable], unwritten: Sequence[Unreadable]) -> DataError:
    """The error where not one picture has a figure, because it cannot be read or its figure cannot be written."""
    if not unwritten:
        return none_readable(unreadable)
    name, reason = unwritten[0]
    count = len(unreadable) + len(unwritten)
    return DataError(f"None of the {count_of(count, 'picture')} has a figure, for example {name}: {reason}")


def unreadable_to_json(unreadable: Sequence[Unreadable]) -> list[dict[str, str]]:
    """Unreadable pictures as every JSON result lists them."""
    return [{"name": name, "reason": reason} for name, reason in unreadable]


def unreadable_lines(unreadable: Sequence[Unreadable], limit: int = 10) -> list[str]:
    """Unreadable pictures below a table: a blank line, how many there are, and the first; no line for none."""
    if not unreadable:
        return []
    heading = f"{count_of(len(unreadable), 'picture')} could not be read and count in no figure:"
    return ["", heading, *(f"  {name}: {reason}" for name, reason in unreadable[:limit])]


def _storable(name: str) -> str:
    r"""A file's name for a UTF-8 file: bytes that are not UTF-8 (Linux allows them) become ``\xNN``."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
