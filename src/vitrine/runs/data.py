"""Where a run's data are: where its training found them, else where its reference leads from here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from vitrine.data.samples import Sample
from vitrine.data.sources import absolute_reference, open_data, reference_exists
from vitrine.errors import PictureError
from vitrine.runs.folder import RunFolder
from vitrine.runs.record import RunRecord

WORKING_FOLDER = "started_in"
"""The entry of environment.json that says in which folder the training was started."""


def resolve_data_reference(run: RunFolder, reference: str) -> str:
    """A reference that opens a run's data from any working directory.

    Args:
        run: the run.
        reference: of its data, as data.json has it; may be relative to the folder that the training was started in.

    Returns:
        What it meant there, where something is there; else the reference as it is, for a run that was taken elsewhere
        together with its data.
    """
    there = _then(run, reference)
    return there if reference_exists(there) else reference


def describe_search(run: RunFolder, reference: str) -> str:
    """Where :func:`resolve_data_reference` looked in vain, as a sentence."""
    places = dict.fromkeys((_then(run, reference), absolute_reference(reference, Path.cwd())))
    return f"Looked for at {' and '.join(places)}."


def _then(run: RunFolder, reference: str) -> str:
    """What the reference meant in training; itself where that was not written down."""
    try:
        folder = json.loads((run.path / "environment.json").read_text("utf-8"))[WORKING_FOLDER]
    except (OSError, ValueError, KeyError, TypeError):
        return reference
    return absolute_reference(reference, Path(folder)) if isinstance(folder, str) else reference


def find_validation_samples(record: RunRecord, names: Iterable[str], data: str | None = None) -> dict[str, Sample]:
    """The run's validation pictures of these names, in their order; those that are no longer there, or have another
    content than they had, are left out.

    Args:
        record: the run.
        names: of pictures, as data.json has them.
        data: where its data are; None: where they were in training.

    Raises:
        DataError: there are no such data.
    """
    recipe = record.recipe
    place = data or resolve_data_reference(record.folder, str(record.data["reference"]))
    found = open_data(place, seed=recipe.seed, val_fraction=recipe.val_fraction)
    there = {sample.name: sample for sample in found.splits.get("validation", ())}
    return {
        name: there[name] for name in names if name in there and (name, content_sha256(there[name])) in record.pictures
    }


def content_sha256(sample: Sample) -> str | None:
    """Of a picture's own bytes, in hexadecimal; None where they cannot be had."""
    try:
        return hashlib.sha256(sample.picture.read_bytes()).hexdigest()
    except PictureError:
        return None
