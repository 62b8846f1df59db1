"""The pictures of a run, looked for where its data were, or where a person says that they are now."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from vitrine.data.samples import Sample
from vitrine.data.sources import open_data
from vitrine.errors import PictureError
from vitrine.workflows.run_data import data_of
from vitrine.workflows.run_record import RunRecord


def validation_samples(record: RunRecord, names: Iterable[str], data: str | None = None) -> dict[str, Sample]:
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
    place = data or data_of(record.folder, str(record.data["reference"]))
    found = open_data(place, seed=recipe.seed, val_fraction=recipe.val_fraction)
    there = {sample.name: sample for sample in found.splits.get("validation", ())}
    return {
        name: there[name] for name in names if name in there and (name, content_sha256(there[name])) in record.pictures
    }


def content_sha256(sample: Sample) -> str | None:
    """Of a picture's own bytes, in hexadecimal; None where they cannot be had."""
    try:
        return hashlib.sha256(sample.picture.encoded()).hexdigest()
    except PictureError:
        return None
