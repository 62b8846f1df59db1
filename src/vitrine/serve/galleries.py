"""Pictures that come with a model: the validation split of its run, or generated scenes for the bundled one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL import Image

from vitrine.data.captions.datasets import open_captions
from vitrine.data.decode import FilePicture, decode
from vitrine.data.samples import Picture, Sample
from vitrine.data.sources import open_data
from vitrine.data.training_copies import TrainingCopy
from vitrine.errors import PictureError, RunError, VitrineError
from vitrine.io.hub_cache import download_settings
from vitrine.models.captioner_folder import is_captioner_folder
from vitrine.models.reference import BUNDLED
from vitrine.results import ClassificationMetrics, agree, count_of
from vitrine.runs.data import describe_search, resolve_data_reference
from vitrine.runs.folder import RunFolder
from vitrine.runs.leakage import recorded_copies
from vitrine.runs.record import RecordedPrediction, label_of_row, read_label_predictions, read_record
from vitrine.runs.schema import PictureRow

MAX_SAMPLES = 12  # pictures that are offered with a model

_SCENES = "scenes:base"  # what the bundled model was trained on


@dataclass(frozen=True)
class RecordedValidation:
    """What a run recorded of its validation pictures.

    Attributes:
        reference: data reference of the run.
        labels: class names; empty for a captioner.
        names: of the pictures, in the order of the split.
        truths: true classes by picture name.
        hashes: sha256 of the files by picture name.
        predictions: by picture name; empty if none were recorded.
        metrics: of a finished classifier of one label a picture; else None.
        leakage: sentences on pictures that also stand in training.
        copies: these pictures, by their names.
    """

    reference: str
    labels: tuple[str, ...]
    names: tuple[str, ...]
    truths: Mapping[str, str]
    hashes: Mapping[str, str]
    predictions: Mapping[str, RecordedPrediction]
    metrics: ClassificationMetrics | None = None
    leakage: tuple[str, ...] = ()
    copies: Mapping[str, TrainingCopy] = field(default_factory=dict)


@dataclass(frozen=True)
class CheckedPicture:
    """A picture that is shown only while its content is what the run recorded, told by its sha256."""

    picture: Picture
    sha256: str

    def read_bytes(self) -> bytes:
        """The file's bytes.

        Raises:
            PictureError: they cannot be read, or are not those that the run recorded.
        """
        data = self.picture.read_bytes()
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise PictureError("its content is not what the run recorded of it")
        return data

    def decode(self) -> Image.Image:
        """Upright 8-bit RGB; see :func:`vitrine.data.decode.decode`."""
        return decode(self.read_bytes())


def file_of(picture: Picture) -> Path | None:
    """The file that a picture is; None where it is generated, or lies inside another file."""
    match picture:
        case FilePicture():
            return picture.path
        case CheckedPicture():
            return file_of(picture.picture)
    return None


def read_recorded_validation(folder: RunFolder) -> RecordedValidation:
    """Read what a run recorded of its validation pictures, from data.json and predictions.csv.

    Raises:
        RunError: one of them is damaged.
    """
    content = folder.read_data()
    rows = content["splits"].get("validation")
    if not isinstance(rows, list):
        raise RunError(f"{folder.path / 'data.json'} does not list validation pictures.")
    labels, reference = tuple(content.get("labels", ())), content["reference"]
    names = tuple(row["name"] for row in rows)
    truths = {row["name"]: label_of_row(row, labels) for row in rows if labels and _has_label(row)}
    hashes = {row["name"]: row["sha256"] for row in rows}
    if is_captioner_folder(folder.path) or not folder.is_finished:
        return RecordedValidation(reference, labels, names, truths, hashes, {})
    record = read_record("run", folder)
    predictions: dict[str, RecordedPrediction] = {}
    if (folder.path / "predictions.csv").is_file():
        predictions = record.predictions if record.is_multi_label else read_label_predictions(folder.path)
    leakage = record.leakage.sentences() if record.leakage else ()
    copies = {each.name: each for each in recorded_copies(record.data) or ()}
    metrics = None if record.is_multi_label else record.classification_metrics
    return RecordedValidation(reference, labels, names, truths, hashes, predictions, metrics, leakage, copies)


def _has_label(row: PictureRow) -> bool:
    """Whether a row of data.json says what its picture is, or which labels it has."""
    return "labels" in row or row.get("label") is not None


@dataclass(frozen=True)
class Gallery:
    """Pictures that come with a model.

    Attributes:
        samples: by id; only pictures that still exist.
        first_ids: ids of the few samples that are offered first.
        labels: class names, which the samples' labels index.
        validation: what the run recorded of its validation pictures; None for a model that is no run.
        notes: sentences on pictures that are missing.
    """

    samples: Mapping[str, Sample]
    first_ids: tuple[str, ...]
    labels: tuple[str, ...] = ()
    validation: RecordedValidation | None = None
    notes: tuple[str, ...] = ()

    def label(self, picture_id: str) -> str | None:
        """True class of a picture; None if it is not known."""
        index = self.samples[picture_id].label
        return None if index is None or index >= len(self.labels) else self.labels[index]


NO_PICTURES = Gallery({}, ())


def open_gallery(reference: str) -> Gallery:
    """The pictures of a model reference; a model that is no run has none."""
    if reference == BUNDLED:
        data = open_data(_SCENES)
        scenes = {picture_id(index): data.splits["validation"][index] for index in range(2 * MAX_SAMPLES)}
        return Gallery(scenes, _one_per_class(scenes), data.labels)
    folder = RunFolder(Path(reference).expanduser())
    if not folder.is_started or not (folder.path / "data.json").is_file():
        return NO_PICTURES
    try:
        with download_settings(offline=True):  # a run's data may be on the hub: nothing is downloaded to show it
            return _run_gallery(folder)
    except VitrineError as error:
        return Gallery({}, (), notes=(f"The run's pictures cannot be shown: {' '.join(str(error).split())}",))


def _run_gallery(folder: RunFolder) -> Gallery:
    """The validation pictures of a run, as far as they still exist with the content that the run recorded."""
    validation = read_recorded_validation(folder)
    recipe, reference = folder.read_recipe(), resolve_data_reference(folder, validation.reference)
    recorded_reference, validation = validation.reference, replace(validation, reference=reference)
    labels: Sequence[str] = ()
    try:
        if is_captioner_folder(folder.path):
            captions = open_captions(reference, seed=recipe.seed, val_fraction=recipe.val_fraction)
            samples = list(captions.splits["validation"])
        else:
            data = open_data(reference, seed=recipe.seed, val_fraction=recipe.val_fraction)
            samples, labels = list(data.splits["validation"]), data.labels
    except (VitrineError, KeyError) as error:
        reason = str(error).splitlines()[0]
        advice = f"{describe_search(folder, recorded_reference)} Put the data there, or start where they lie."
        note = f"The run's pictures are not where they were: {reason} {advice}"
        return Gallery({}, (), validation=validation, notes=(note,))
    by_name = {
        sample.name: replace(sample, picture=CheckedPicture(sample.picture, validation.hashes[sample.name]))
        for sample in samples
        if sample.name in validation.hashes
    }
    by_id = {picture_id(index): by_name[name] for index, name in enumerate(validation.names) if name in by_name}
    missing = len(validation.names) - len(by_id)
    notes = (
        (
            f"{missing:,} of the run's {count_of(len(validation.names), 'validation picture')} "
            f"{agree(missing, 'is', 'are')} missing.",
        )
        if missing
        else ()
    )
    return Gallery(by_id, _one_per_class(by_id), tuple(labels), validation, notes)


def picture_id(index: int) -> str:
    """The id of a picture from its index in the validation split."""
    return f"v{index}"


def _one_per_class(samples: Mapping[str, Sample]) -> tuple[str, ...]:
    """At most :data:`MAX_SAMPLES` ids: one of every class in turn, the earliest first."""
    rounds: dict[int | None, int] = {}
    order = []
    for index, (id_, sample) in enumerate(samples.items()):
        round_ = rounds[sample.label] = rounds.get(sample.label, -1) + 1
        order.append((round_, index, id_))
    return tuple(id_ for _, _, id_ in sorted(order)[:MAX_SAMPLES])
