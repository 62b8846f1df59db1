"""The pictures of a run: the reference that opens them now, and the recorded ones that are still there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from vitrine.data.samples import Sample
from vitrine.data.sources import absolute_reference, open_data, reference_exists
from vitrine.errors import PictureError, RunError
from vitrine.results import join_words
from vitrine.runs.folder import RunFolder
from vitrine.runs.record import RunRecord

WORKING_FOLDER = "started_in"
"""Key of environment.json: the folder that the training was started in."""


def resolve_data_reference(run: RunFolder, reference: str) -> str:
    """Resolve the reference of a run's data, so that it opens them from any working directory.

    Args:
        run: the run.
        reference: of its data, as data.json has it; may be relative to the folder that the training was started in.

    Returns:
        The reference from that folder, where something is there; else the reference as it is, for a run that was moved
        together with its data.
    """
    absolute = _recorded_reference(run, reference)
    return absolute if reference_exists(absolute) else reference


def describe_search(run: RunFolder, reference: str) -> str:
    """The places where :func:`resolve_data_reference` looks, as a sentence for a person who has no data there."""
    places = dict.fromkeys((_recorded_reference(run, reference), absolute_reference(reference, Path.cwd())))
    return f"Looked for at {join_words(list(places))}."


def _recorded_reference(run: RunFolder, reference: str) -> str:
    """The absolute reference that the training used; the reference itself where its folder was not recorded."""
    try:
        folder = run.read_environment().get("started_in")
    except RunError:
        return reference
    return absolute_reference(reference, Path(folder)) if folder else reference


def find_validation_samples(record: RunRecord, names: Iterable[str], data: str | None = None) -> dict[str, Sample]:
    """Open the run's validation pictures of these names, in their order.

    Pictures that are no longer there, or have another content than they had, are left out.

    Args:
        record: the run.
        names: of pictures, as data.json has them.
        data: reference of its data; None takes the recorded one.

    Raises:
        DataError: there are no such data.
    """
    recipe = record.recipe
    reference = data or resolve_data_reference(record.folder, str(record.data["reference"]))
    splits = open_data(reference, seed=recipe.seed, val_fraction=recipe.val_fraction).splits
    samples = {sample.name: sample for sample in splits.get("validation", ())}
    return {
        name: samples[name]
        for name in names
        if name in samples and (name, content_sha256(samples[name])) in record.pictures
    }


def content_sha256(sample: Sample) -> str | None:
    """The sha256 of a picture's bytes, in hexadecimal; None where they cannot be read."""
    try:
        return hashlib.sha256(sample.picture.read_bytes()).hexdigest()
    except PictureError:
        return None
