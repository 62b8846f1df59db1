"""What stands in the files of a run: their shapes, against which they are held when they are read.

Runs are passed between people, so that a file of one may have been changed, cut off or made by something else. A shape
names what readers use; other keys may be there.
"""

from __future__ import annotations

from typing import Annotated, Any, NotRequired, TypeAlias, TypedDict

from msgspec import Meta

Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
Count: TypeAlias = Annotated[int, Meta(ge=0)]
Ends: TypeAlias = tuple[float, float]


class PictureRow(TypedDict):
    """A picture of data.json: with ``label`` of a classifier, ``labels`` of a multi-label one, ``captions`` of a
    captioner."""

    name: str
    sha256: str
    label: NotRequired[Count]
    labels: NotRequired[list[Count]]
    captions: NotRequired[list[str]]
    perceptual_hash: NotRequired[str | None]


class DataContent(TypedDict):
    """data.json. A split of an endless stream is a text that describes it."""

    reference: str
    splits: dict[str, list[PictureRow] | str]
    labels: NotRequired[list[str]]
    layout: NotRequired[str]
    notes: NotRequired[list[str]]
    quarantine: NotRequired[list[dict[str, str]]]


class EnvironmentContent(TypedDict):
    """environment.json."""

    packages: NotRequired[dict[str, str | None]]
    starting_weights: NotRequired[dict[str, Any] | None]
    started_in: NotRequired[str]
    vitrine: NotRequired[str]
    python: NotRequired[str]
    platform: NotRequired[str]
    device: NotRequired[str]
    precision: NotRequired[str]
    cpu_capability: NotRequired[str | None]
    threads: NotRequired[int]
    processes: NotRequired[int]
    seed: NotRequired[int]


class HistoryRow(TypedDict):
    """A line of history.jsonl."""

    epoch: Annotated[int, Meta(ge=1)]
    best: bool
    train_loss: NotRequired[float | None]
    validation_loss: NotRequired[float | None]
    validation_accuracy: NotRequired[float | None]
    train_accuracy: NotRequired[float | None]
    learning_rate: NotRequired[float | None]


class TimingsRow(TypedDict):
    """A line of timings.jsonl."""

    epoch: Annotated[int, Meta(ge=1)]
    train_seconds: float
    evaluation_seconds: float
    pictures: Count
    peak_memory_mib: float


class _ClassRow(TypedDict):
    label: str
    precision: Share | None
    recall: Share | None
    support: Count


class ClassificationContent(TypedDict):
    """metrics.json of a classifier."""

    n: Annotated[int, Meta(ge=1)]
    precision: str
    accuracy: Share
    accuracy_interval_95: Ends
    top5: Share | None
    negative_log_likelihood: float
    expected_calibration_error: Share
    calibration_bins: Count
    classes: list[_ClassRow]
    confusion: dict[str, dict[str, Count]]
    hardest_mistakes: list[dict[str, Any]]


class _LabelRow(TypedDict):
    label: str
    average_precision: Share | None
    precision: Share | None
    recall: Share | None
    f1: Share | None
    support: Count
    predicted: Count


class MultiLabelContent(TypedDict):
    """metrics.json of a multi-label classifier."""

    n: Annotated[int, Meta(ge=1)]
    precision: str
    threshold: Share
    mean_average_precision: Share
    mean_average_precision_interval_95: Ends | None
    micro_f1: Share
    micro_f1_interval_95: Ends | None
    macro_f1: Share
    macro_f1_interval_95: Ends | None
    exact_match: Share
    exact_match_interval_95: Ends
    negative_log_likelihood: float
    pictures_without_label: Count
    labels: list[_LabelRow]
    hardest_mistakes: list[dict[str, Any]]


class _Exact(TypedDict):
    n: Count


class _Scores(TypedDict):
    exact: _Exact


class _CaptionScores(TypedDict):
    predicted: _Scores


class CaptioningContent(TypedDict):
    """metrics.json of a captioner."""

    n: Annotated[int, Meta(ge=1)]
    pieces: Annotated[int, Meta(ge=1)]
    precision: str
    negative_log_likelihood: float
    piece_accuracy: Share
    captions: _CaptionScores


def require_known_labels(data: DataContent) -> None:
    """Refuse pictures of classes that are not among the labels.

    Raises:
        ValueError: what was expected and found, and where.
    """
    labels = data.get("labels")
    if labels is None:
        return
    for split, rows in data["splits"].items():
        for number, row in enumerate(rows if isinstance(rows, list) else ()):
            numbers = row.get("labels", [row["label"]] if "label" in row else [])
            if max(numbers, default=-1) >= len(labels):
                raise ValueError(
                    f"expected labels below {len(labels)}, got {max(numbers)}, at splits.{split}[{number}]"
                )
