"""``vitrine knn``: how far a model's frozen features alone get, before anything is trained on them.

Axes: N training pictures, Q pictures that are measured, D features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vitrine.data.samples import LabelledData, Sample
from vitrine.data.sources import open_data
from vitrine.errors import DataError, ModelError, UsageError
from vitrine.evaluate.neighbours import NEIGHBOURS, TEMPERATURE, neighbour_votes
from vitrine.evaluate.outputs import require_finite
from vitrine.models.captioner.saved import is_captioner_folder
from vitrine.models.pooled import Pooled
from vitrine.models.reference import bundled_folder
from vitrine.models.run_folder import RunFolder
from vitrine.workflows.evaluated_split import choose_split, split_of_run
from vitrine.workflows.inference import eval_batches, run_batches
from vitrine.workflows.knn_result import Guesser, KnnResult
from vitrine.workflows.opened import OpenedModel, on_device, open_model
from vitrine.workflows.recipe_model import build_for, input_of
from vitrine.workflows.run_record import RunRecord, read_json, read_record
from vitrine.workflows.weights_notes import model_notes

Progress = Callable[[int, int], None]


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
    progress: Progress = lambda _done, _total: None,
) -> KnnResult:
    """Label the pictures of a split by their nearest training pictures; see ``vitrine.evaluate.neighbours``.

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
    opened = open_model(model, precision, architecture, features=True)
    folder = opened.built.source.folder
    own_seed, fraction = split_of_run(folder)
    found = open_data(data, seed=own_seed if seed is None else seed, val_fraction=fraction)
    name = split or ("validation" if len(found.splits.get("validation", ())) else choose_split(found, "test"))
    parts = [_labelled(found, each) for each in ("train", choose_split(found, name))]
    run = _own_run(folder)
    start, told = (None, ()) if run is None else _started_from(run, precision)
    watch = _Counted(progress, (1 if start is None else 2) * sum(map(len, parts)))
    known, asked = (_features(opened, part, batch_size, watch) for part in parts)
    record = None if run is None or not run.finished else read_record(run.path.name, run)
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
        notes=(*model_notes(opened.built), *found.notes, *told),
    )


def _own_run(folder: Path | None) -> RunFolder | None:
    """The run that a model is of; None of others, and of the run that comes with the package."""
    if folder is None or folder == bundled_folder() or not RunFolder(folder).started:
        return None
    return RunFolder(folder)


class _Counted:
    """Pictures done over several passes."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def __call__(self, pictures: int) -> None:
        self.done += pictures
        self.progress(self.done, self.total)


def _labelled(found: LabelledData, split: str) -> tuple[Sample, ...]:
    samples = tuple(found.splits[choose_split(found, split)])
    unknown = next((each for each in samples if each.label is None), None)
    if unknown is not None:
        raise DataError(f"{unknown.name} of the {split} pictures has no label: neighbours need labelled pictures.")
    return samples


def _features(opened: OpenedModel, samples: Sequence[Sample], batch_size: int, watch: _Counted) -> FeatureTable:
    indices: list[int] = []
    values: list[npt.NDArray[np.float32]] = []
    unreadable: list[tuple[str, str]] = []
    source = eval_batches(samples, opened.spec, batch_size=batch_size)
    pooled, how = Pooled(opened.module), {"device": opened.device, "precision": opened.precision}
    for part in run_batches(pooled, source, opened.spec, **how):  # type: ignore[arg-type]
        unreadable += [(samples[i].name, reason) for i, reason in part.batch.unreadable]
        if len(part.batch):
            indices += part.batch.indices_B.tolist()
            values.append(part.logits_BC.numpy())
        watch(len(part.batch) + len(part.batch.unreadable))
    if not values:
        raise DataError(f"None of {len(samples)} pictures can be read, for example {': '.join(unreadable[0])}")
    readable, features_ND = tuple(samples[i] for i in indices), np.concatenate(values)
    require_finite([each.name for each in readable], features_ND)
    labels = [-1 if each.label is None else each.label for each in readable]
    return FeatureTable(readable, features_ND, np.array(labels, dtype=np.int64), tuple(unreadable))


def _voted(name: str, known: FeatureTable, asked: FeatureTable, classes: int, k: int) -> Guesser:
    votes_QC = neighbour_votes(known.features_ND, known.labels_N, asked.features_ND, classes=classes, k=k)
    right_Q = votes_QC.argmax(1) == asked.labels_N
    return Guesser(name, {each.name: bool(right) for each, right in zip(asked.samples, right_Q, strict=True)})


def _majority(known: FeatureTable, asked: FeatureTable, labels: Sequence[str]) -> Guesser:
    """Of classes that are equally frequent, the first."""
    most = int(np.bincount(known.labels_N, minlength=len(labels)).argmax())
    return Guesser(f"always class {labels[most]}", {each.name: each.label == most for each in asked.samples})


def _of_start(
    start: OpenedModel, parts: Sequence[Sequence[Sample]], classes: int, k: int, batch_size: int, watch: _Counted
) -> Guesser:
    known, asked = (_features(start, part, batch_size, watch) for part in parts)
    return _voted("neighbours before fine-tuning", known, asked, classes, k)


def _started_from(run: RunFolder, precision: str) -> tuple[OpenedModel | None, tuple[str, ...]]:
    """The model that a run began with, prepared as the run prepared it; or a sentence on why not."""
    recipe = run.recipe()
    if recipe.pretrained is False or is_captioner_folder(run.path):
        return None, ("The run began with random weights: there are no features before fine-tuning.",)
    try:
        built = build_for(recipe, len(run.labels()))
        assert built.weights is not None
        recorded = read_json(run.path / "environment.json").get("starting_weights") or {}
        if built.weights.sha256 != recorded.get("sha256"):
            raise ModelError(f"{built.weights.path} is not the file that it began with.")
    except ModelError as error:
        why = str(error).splitlines()[0]
        return None, (f"The weights that the run began with cannot be had, so they are not measured: {why}",)
    note = f"Before fine-tuning: {built.weights.path}."
    return on_device(built, (), input_of(built, recipe), precision), (note,)


def _recorded(record: RunRecord, asked: FeatureTable, labels: Sequence[str]) -> Guesser | None:
    """What the run's own head said, where it is of these very pictures and classes."""
    if {each.name for each in asked.samples} != record.truths.keys() or dict(_truths(asked, labels)) != record.truths:
        return None
    hashed = {(each.name, hashlib.sha256(each.picture.encoded()).hexdigest()) for each in asked.samples}
    if hashed != record.pictures:
        return None
    return Guesser("the run's own head, as recorded", {name: each.right for name, each in record.answers.items()})


def _truths(asked: FeatureTable, labels: Sequence[str]) -> Iterator[tuple[str, str]]:
    return ((each.name, labels[label]) for each, label in zip(asked.samples, asked.labels_N.tolist(), strict=True))
