"""What a run wrote down of its validation pictures: names, true classes, and what it said of each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from vitrine.data.decoding import decode
from vitrine.data.samples import Picture
from vitrine.errors import PictureError, RunError
from vitrine.models.captioner.saved import is_captioner_folder
from vitrine.models.run_folder import RunFolder
from vitrine.results import ClassificationMetrics
from vitrine.workflows.run_record import read_predictions, read_record


@dataclass(frozen=True)
class Said:
    """What the run said of a picture: the likeliest class, and its probability where it was written down."""

    label: str
    probability: float | None


@dataclass(frozen=True)
class Recorded:
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
    said: Mapping[str, Said]
    metrics: ClassificationMetrics | None = None


@dataclass(frozen=True)
class CheckedPicture:
    """A picture that is shown for one that the run recorded, as long as it has the content that was recorded."""

    picture: Picture
    sha256: str

    def encoded(self) -> bytes:
        """The file's bytes.

        Raises:
            PictureError: they cannot be had, or are another picture's.
        """
        data = self.picture.encoded()
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise PictureError("its content is not what the run recorded of it")
        return data

    def decoded(self) -> Image.Image:
        """Upright 8-bit RGB; see :func:`vitrine.data.decoding.decode`."""
        return decode(self.encoded())


def read_recorded(folder: RunFolder) -> Recorded:
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
    if is_captioner_folder(folder.path) or not folder.finished:
        return Recorded(reference, labels, names, truths, hashes, {})
    return Recorded(reference, labels, names, truths, hashes, _said(folder), read_record("run", folder).metrics)


def _said(folder: RunFolder) -> dict[str, Said]:
    if not (folder.path / "predictions.csv").is_file():
        return {}
    try:
        return {
            row["filename"]: Said(row["label"], float(row["probability"]) if row.get("probability") else None)
            for row in read_predictions(folder.path)
        }
    except ValueError as error:
        raise RunError(f"{folder.path / 'predictions.csv'} has a probability that is no number ({error}).") from error
