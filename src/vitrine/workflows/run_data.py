"""Where a run's data are: where its training found them, else where its reference leads from here."""

from __future__ import annotations

import json
from pathlib import Path

from vitrine.data.absolute import absolute_reference, is_there
from vitrine.models.run_folder import RunFolder

STARTED_IN = "started_in"
"""The entry of environment.json that says in which folder the training was started."""


def data_of(run: RunFolder, reference: str) -> str:
    """A reference that opens a run's data from any working directory.

    Args:
        run: the run.
        reference: of its data, as data.json has it; may be relative to the folder that the training was started in.

    Returns:
        What it meant there, where something is there; else the reference as it is, for a run that was taken elsewhere
        together with its data.
    """
    there = _then(run, reference)
    return there if is_there(there) else reference


def looked_for(run: RunFolder, reference: str) -> str:
    """Where :func:`data_of` looked in vain, as a sentence."""
    places = dict.fromkeys((_then(run, reference), absolute_reference(reference, Path.cwd())))
    return f"Looked for at {' and '.join(places)}."


def _then(run: RunFolder, reference: str) -> str:
    """What the reference meant in training; itself where that was not written down."""
    try:
        folder = json.loads((run.path / "environment.json").read_text("utf-8"))[STARTED_IN]
    except (OSError, ValueError, KeyError, TypeError):
        return reference
    return absolute_reference(reference, Path(folder)) if isinstance(folder, str) else reference
