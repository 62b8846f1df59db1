"""Pictures that come with a model: the validation split of its run, or generated scenes for the bundled one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from vitrine.data.captions.datasets import open_captions
from vitrine.data.decode import decode
from vitrine.data.samples import Picture, Sample
from vitrine.data.sources import open_data
from vitrine.errors import PictureError, RunError, VitrineError
from vitrine.io.hub_cache import download_settings
from vitrine.models.captioner.checkpoint import is_captioner_folder
from vitrine.models.reference import BUNDLED
from vitrine.results import ClassificationMetrics
from vitrine.runs.data import describe_search, resolve_data_reference
from vitrine.runs.folder import RunFolder
from vitrine.runs.record import read_predictions, read_record


@dataclass(frozen=True)
class RecordedPrediction:
    """What the run said of a picture: the likeliest class, and its probability where it was written down."""

    label: str
    probability: float | None


@dataclass(frozen=True)
class RecordedValidation:
    """A run's validation pictures.

    Attributes:
        reference: of its data.
        labels: class names; empty for a captioner.
        names: of the pictures, in order.
        truths: true classes by name.
        hashes: sha256 of the files by name.
        said: by name; empty where nothing was written down.
        metrics: of a finished classifier; else None.
    """

    reference: str
    labels: tuple[str, ...]
    names: tuple[str, ...]
    truths: Mapping[str, str]
    hashes: Mapping[str, str]
    said: Mapping[str, RecordedPrediction]
    metrics: ClassificationMetrics | None = None


@dataclass(frozen=True)
class CheckedPicture:
    """A picture that is shown for one that the run recorded, as long as it has the content that was recorded."""

    picture: Picture
    sha256: str

    def read_bytes(self) -> bytes:
        """The file's bytes.

        Raises:
            PictureError: they cannot be had, or are another picture's.
        """
        data = self.picture.read_bytes()
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise PictureError("its content is not what the run recorded of it")
        return data

    def decode(self) -> Image.Image:
        """Upright 8-bit RGB; see :func:`vitrine.data.decode.decode`."""
        return decode(self.read_bytes())


def read_recorded(folder: RunFolder) -> RecordedValidation:
    """Read data.json and predictions.csv.

    Raises:
        RunError: they are damaged.
    """
    path = folder.path / "data.json"
    try:
        content: dict[str, Any] = json.loads(path.read_text("utf-8"))
        rows = content["splits"]["validation"]
        labels = tuple(str(label) for label in content.get("labels", ()))
        names = tuple(str(row["name"]) for row in rows)
        truths = {str(row["name"]): labels[row["label"]] for row in rows if labels and row.get("label") is not None}
        hashes = {str(row["name"]): str(row["sha256"]) for row in rows}
        reference = str(content["reference"])
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise RunError(f"{path} is missing or damaged ({type(error).__name__}: {error}).") from error
    if is_captioner_folder(folder.path) or not folder.is_finished:
        return RecordedValidation(reference, labels, names, truths, hashes, {})
    return RecordedValidation(
        reference, labels, names, truths, hashes, _said(folder), read_record("run", folder).metrics
    )


def _said(folder: RunFolder) -> dict[str, RecordedPrediction]:
    if not (folder.path / "predictions.csv").is_file():
        return {}
    try:
        return {
            row["filename"]: RecordedPrediction(
                row["label"], float(row["probability"]) if row.get("probability") else None
            )
            for row in read_predictions(folder.path)
        }
    except ValueError as error:
        raise RunError(f"{folder.path / 'predictions.csv'} has a probability that is no number ({error}).") from error


SHOWN = 12  # samples of a model

_SCENES = "scenes:base"  # what the bundled model was trained on


@dataclass(frozen=True)
class Gallery:
    """Pictures by id.

    Attributes:
        samples: by id; only those whose picture is there.
        shown: ids of the few that are offered first.
        labels: class names that the samples' labels count in.
        recorded: what the run said of its validation pictures; None where there is no run, or no predictions.
        notes: sentences on what is missing.
    """

    samples: Mapping[str, Sample]
    shown: tuple[str, ...]
    labels: tuple[str, ...] = ()
    recorded: RecordedValidation | None = None
    notes: tuple[str, ...] = ()

    def label(self, number: str) -> str | None:
        """True class of a picture, where it is known."""
        at = self.samples[number].label
        return None if at is None or at >= len(self.labels) else self.labels[at]


def open_gallery(reference: str) -> Gallery:
    """The pictures of a model reference; a model that is no run has none."""
    if reference == BUNDLED:
        data = open_data(_SCENES)
        scenes = {id_at(place): data.splits["validation"][place] for place in range(2 * SHOWN)}
        return Gallery(scenes, _spread(scenes), data.labels)
    folder = RunFolder(Path(reference).expanduser())
    if not folder.is_started or not (folder.path / "data.json").is_file():
        return Gallery({}, ())
    try:
        with download_settings(offline=True):  # what was trained on may be on the hub: nothing is fetched to show it
            return _of_run(folder)
    except VitrineError as error:
        return Gallery({}, (), notes=(f"The run's pictures cannot be shown: {' '.join(str(error).split())}",))


def _of_run(folder: RunFolder) -> Gallery:
    recorded = read_recorded(folder)
    recipe, place = folder.read_recipe(), resolve_data_reference(folder, recorded.reference)
    labels: Sequence[str] = ()
    try:
        if is_captioner_folder(folder.path):
            captions = open_captions(place, seed=recipe.seed, val_fraction=recipe.val_fraction)
            there = [each.unlabelled for each in captions.splits["validation"]]
        else:
            data = open_data(place, seed=recipe.seed, val_fraction=recipe.val_fraction)
            there, labels = list(data.splits["validation"]), data.labels
    except (VitrineError, KeyError) as error:
        first = str(error).splitlines()[0]
        looked = f"{describe_search(folder, recorded.reference)} Put the data there, or start where they lie."
        note = f"The run's pictures are not where they were: {first} {looked}"
        return Gallery({}, (), recorded=recorded, notes=(note,))
    by_name = {
        sample.name: replace(sample, picture=CheckedPicture(sample.picture, recorded.hashes[sample.name]))
        for sample in there
        if sample.name in recorded.hashes
    }
    by_id = {id_at(place): by_name[name] for place, name in enumerate(recorded.names) if name in by_name}
    missing = len(recorded.names) - len(by_id)
    notes = (f"{missing:,} of the run's {len(recorded.names):,} validation pictures are missing.",) if missing else ()
    return Gallery(by_id, _spread(by_id), tuple(labels), recorded, notes)


def id_at(place: int) -> str:
    """The id of a picture by its place in the validation split."""
    return f"v{place}"


def _spread(samples: Mapping[str, Sample]) -> tuple[str, ...]:
    """A few ids: one of every class in turn, the earliest first."""
    turns: dict[int | None, int] = {}
    order = []
    for place, (number, sample) in enumerate(samples.items()):
        turn = turns[sample.label] = turns.get(sample.label, -1) + 1
        order.append((turn, place, number))
    return tuple(number for _, _, number in sorted(order)[:SHOWN])
