"""``vitrine knn``: how far a model's frozen features alone get, before anything is trained on them.

Axes: N training pictures, Q pictures that are measured, D features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from vitrine.classify.evaluate import choose_split, split_of_run
from vitrine.classify.inference import known_labels, predict_samples
from vitrine.classify.model import Classifier, open_classifier, place_on_device
from vitrine.data.samples import Dataset, Sample
from vitrine.data.sources import open_data
from vitrine.errors import DataError, ModelError, UsageError
from vitrine.metrics.classification import require_finite
from vitrine.metrics.intervals import wilson
from vitrine.metrics.paired_tests import LEVEL, count_pairs
from vitrine.models.captioner.checkpoint import is_captioner_folder
from vitrine.models.finetune import PooledFeatures
from vitrine.models.load import load_recipe_model, recipe_input
from vitrine.models.reference import bundled_folder
from vitrine.plotting.tables import Table
from vitrine.results import (
    Interval,
    Progress,
    no_progress,
    none_readable,
    rounded,
    shown_number,
    unreadable_lines,
    unreadable_to_json,
)
from vitrine.runs.folder import RunFolder
from vitrine.runs.record import RunRecord, read_json, read_record

NEIGHBOURS = 20
TEMPERATURE = 0.07
_AT_ONCE = 1 << 24  # similarities that exist at a time: 64 MiB


def knn_votes(
    known_ND: npt.NDArray[np.float32],
    labels_N: npt.NDArray[np.int64],
    asked_QD: npt.NDArray[np.float32],
    *,
    classes: int,
    k: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> npt.NDArray[np.float64]:
    """The votes of the k most similar labelled pictures, by class.

    Similarity s is the cosine of two feature vectors, and a neighbour's vote for its own class weighs
    exp(s / temperature). Of equally similar pictures the earlier ones in ``known_ND`` are the neighbours.

    Source: Z. Wu, Y. Xiong, S. Yu, D. Lin (2018), Unsupervised feature learning via non-parametric instance
    discrimination, CVPR, section 3.4 (arXiv:1805.01978), with its temperature of 0.07; with k = 20 as in M. Caron et
    al. (2021), Emerging properties in self-supervised vision transformers (DINO), ICCV, section 4.1 and appendix
    (arXiv:2104.14294).

    Args:
        known_ND: float32, finite; features of the labelled pictures. A vector of zeros is similar to nothing (s = 0).
        labels_N: int64, 0 to C - 1.
        asked_QD: float32, finite; likewise.
        classes: C.
        k: neighbours that vote, at least 1; all N where there are fewer.
        temperature: above 0.

    Returns:
        float64 (Q, C), at least 0; the largest is the predicted class.

    Raises:
        ValueError: an argument is outside of its range, or shapes do not fit one another.
    """
    if k < 1 or temperature <= 0 or not len(known_ND):
        raise ValueError(f"Expected k >= 1, temperature > 0, N >= 1; got {k}, {temperature:g}, {len(known_ND)}.")
    if known_ND.shape[1:] != asked_QD.shape[1:] or labels_N.shape != known_ND.shape[:1]:
        raise ValueError(f"Shapes do not fit: {known_ND.shape}, {labels_N.shape}, {asked_QD.shape}.")
    known = functional.normalize(torch.from_numpy(known_ND).float(), dim=1)
    asked = functional.normalize(torch.from_numpy(asked_QD).float(), dim=1)
    labels, k = torch.from_numpy(labels_N), min(k, len(known_ND))
    votes_QC = torch.zeros(len(asked), classes, dtype=torch.float64)
    step = max(1, _AT_ONCE // len(known))
    for first in range(0, len(asked), step):
        similar_QK, which_QK = _nearest(asked[first : first + step] @ known.T, k)
        weights_QK = (similar_QK.double() / temperature).exp()
        votes_QC[first : first + step].scatter_add_(1, labels[which_QK], weights_QK)
    result: npt.NDArray[np.float64] = votes_QC.numpy()
    return result


def _nearest(similar_QN: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row and their places; of equal ones the first, which ``topk`` alone does not promise."""
    values_QK, places_QK = similar_QN.topk(k, dim=1)
    tied = (similar_QN >= values_QK[:, -1:]).sum(1) > k
    for row in tied.nonzero()[:, 0].tolist():
        places_QK[row] = similar_QN[row].sort(descending=True, stable=True).indices[:k]
    return values_QK, places_QK


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
            "unreadable": unreadable_to_json(self.unreadable),
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
        return "\n".join(lines + unreadable_lines(self.unreadable))


def _paired_dict(one: Guesser, other: Guesser) -> dict[str, Any]:
    counts = count_pairs(one.right, other.right)
    return {
        "first": one.name,
        "second": other.name,
        "only_first_right": counts.first,
        "only_second_right": counts.second,
        "p": counts.p,
    }


def _sentence(one: Guesser, other: Guesser) -> str:
    counts = count_pairs(one.right, other.right)
    if not counts.discordant:
        return f"{other.name} beside {one.name}: right on the very same pictures."
    points = 100 * (other.accuracy - one.accuracy)
    told = f"{other.name} beside {one.name}: {shown_number(points, 1, sign=True)} points"
    which = f"right alone on {counts.second:,} and {counts.first:,} pictures, exact p {counts.p:.2g}"
    return f"{told} ({which}){'' if counts.p <= LEVEL else ', which may be chance'}."


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """Features of the readable pictures of a split.

    Attributes:
        samples: the pictures.
        features_ND: float32, finite.
        labels_N: int64, as the data number them.
        unreadable: (name, reason) of the others.
    """

    samples: tuple[Sample, ...]
    features_ND: npt.NDArray[np.float32]
    labels_N: npt.NDArray[np.int64]
    unreadable: tuple[tuple[str, str], ...]


def knn(
    model: str,
    data: str,
    *,
    split: str | None = None,
    k: int = NEIGHBOURS,
    batch_size: int = 64,
    precision: str = "auto",
    seed: int | None = None,
    architecture: str | None = None,
    progress: Progress = no_progress,
) -> KnnResult:
    """Label the pictures of a split by their nearest training pictures; see ``vitrine.classify.knn``.

    Where ``model`` is a run, the features of the weights that it began with are measured too, and what the run
    recorded stands beside both where it is of the same pictures with the same contents.

    Args:
        model: a model reference; it need not have a head.
        data: a data reference with training pictures.
        split: which split; by default validation, which is what runs record, else test.
        k: neighbours that vote.
        batch_size: pictures at a time.
        precision: auto, fp32 or bf16.
        seed: of the split made where the data have none; by default a run's own, else 0.
        architecture: the timm name of the model where ``model`` is a weights file.
        progress: called with pictures done, of how many.

    Raises:
        UsageError: the split is that of the neighbours.
        DataError, ModelError: the input cannot be used.
    """
    if split == "train":
        raise UsageError("--split train: the neighbours are training pictures. Expected validation or test.")
    opened = open_classifier(model, precision, architecture, features=True)
    folder = opened.folder
    own_seed, fraction = split_of_run(folder)
    found = open_data(data, seed=own_seed if seed is None else seed, val_fraction=fraction)
    name = split or ("validation" if len(found.splits.get("validation", ())) else choose_split(found, "test"))
    parts = [_labelled(found, each) for each in ("train", choose_split(found, name))]
    run = _own_run(folder)
    start, told = (None, ()) if run is None else _started_from(run, precision)
    watch = _Counted(progress, (1 if start is None else 2) * sum(map(len, parts)))
    known, asked = (_features(opened, part, batch_size, watch) for part in parts)
    record = None if run is None or not run.is_finished else read_record(run.path.name, run)
    if k > len(known.samples):
        told = (*told, f"There are {len(known.samples)} training pictures, fewer than {k}: all of them vote.")
    return KnnResult(
        model=model,
        data=data,
        split=name,
        k=min(k, len(known.samples)),
        temperature=TEMPERATURE,
        precision=opened.precision,
        classes=len(found.labels),
        features=known.features_ND.shape[1],
        known=len(known.samples),
        majority=_majority(known, asked, found.labels),
        knn=_voted(
            "neighbours in its features" if run else "neighbours in frozen features", known, asked, len(found.labels), k
        ),
        start=None if start is None else _of_start(start, parts, len(found.labels), k, batch_size, watch),
        head=None if record is None else _recorded(record, asked, found.labels),
        unreadable=(*known.unreadable, *asked.unreadable),
        notes=(*opened.notes, *found.notes, *told),
    )


def _own_run(folder: Path | None) -> RunFolder | None:
    """The run that a model is of; None of others, and of the run that comes with the package."""
    if folder is None or folder == bundled_folder() or not RunFolder(folder).is_started:
        return None
    return RunFolder(folder)


class _Counted:
    """Pictures done over several passes."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def __call__(self, pictures: int) -> None:
        self.done += pictures
        self.progress(self.done, self.total)


def _labelled(found: Dataset, split: str) -> tuple[Sample, ...]:
    samples = tuple(found.splits[choose_split(found, split)])
    unknown = next((each for each in samples if each.label is None), None)
    if unknown is not None:
        raise DataError(f"{unknown.name} of the {split} pictures has no label: neighbours need labelled pictures.")
    return samples


def _features(opened: Classifier, samples: Sequence[Sample], batch_size: int, watch: _Counted) -> FeatureTable:
    parts = []
    for part in predict_samples(replace(opened, module=PooledFeatures(opened.module)), samples, batch_size=batch_size):
        parts.append(part)
        watch(len(part.samples) + len(part.unreadable))
    unreadable = tuple(each for part in parts for each in part.unreadable)
    readable = tuple(sample for part in parts for sample in part.samples)
    if not readable:
        raise none_readable(unreadable)
    features_ND = np.concatenate([part.logits_BC for part in parts if part.samples])
    require_finite([sample.name for sample in readable], features_ND)
    return FeatureTable(readable, features_ND, known_labels(readable), unreadable)


def _voted(name: str, known: FeatureTable, asked: FeatureTable, classes: int, k: int) -> Guesser:
    votes_QC = knn_votes(known.features_ND, known.labels_N, asked.features_ND, classes=classes, k=k)
    right_Q = votes_QC.argmax(1) == asked.labels_N
    return Guesser(name, {each.name: bool(right) for each, right in zip(asked.samples, right_Q, strict=True)})


def _majority(known: FeatureTable, asked: FeatureTable, labels: Sequence[str]) -> Guesser:
    """Of classes that are equally frequent, the first."""
    most = int(np.bincount(known.labels_N, minlength=len(labels)).argmax())
    return Guesser(f"always class {labels[most]}", {each.name: each.label == most for each in asked.samples})


def _of_start(
    start: Classifier, parts: Sequence[Sequence[Sample]], classes: int, k: int, batch_size: int, watch: _Counted
) -> Guesser:
    known, asked = (_features(start, part, batch_size, watch) for part in parts)
    return _voted("neighbours before fine-tuning", known, asked, classes, k)


def _started_from(run: RunFolder, precision: str) -> tuple[Classifier | None, tuple[str, ...]]:
    """The model that a run began with, prepared as the run prepared it; or a sentence on why not."""
    recipe = run.read_recipe()
    if recipe.pretrained is False or is_captioner_folder(run.path):
        return None, ("The run began with random weights: there are no features before fine-tuning.",)
    try:
        built = load_recipe_model(recipe, len(run.read_labels()))
        assert built.weights is not None
        recorded = read_json(run.path / "environment.json").get("starting_weights") or {}
        if built.weights.sha256 != recorded.get("sha256"):
            raise ModelError(f"{built.weights.path} is not the file that it began with.")
    except ModelError as error:
        why = str(error).splitlines()[0]
        return None, (f"The weights that the run began with cannot be had, so they are not measured: {why}",)
    note = f"Before fine-tuning: {built.weights.path}."
    return place_on_device(built, (), recipe_input(built, recipe), precision), (note,)


def _recorded(record: RunRecord, asked: FeatureTable, labels: Sequence[str]) -> Guesser | None:
    """What the run's own head said, where it is of these very pictures and classes."""
    if {each.name for each in asked.samples} != record.true_labels.keys() or dict(
        _truths(asked, labels)
    ) != record.true_labels:
        return None
    hashed = {(each.name, hashlib.sha256(each.picture.read_bytes()).hexdigest()) for each in asked.samples}
    if hashed != record.pictures:
        return None
    return Guesser("the run's own head, as recorded", {name: record.is_correct(name) for name in record.predictions})


def _truths(asked: FeatureTable, labels: Sequence[str]) -> Iterator[tuple[str, str]]:
    return ((each.name, labels[label]) for each, label in zip(asked.samples, asked.labels_N.tolist(), strict=True))
