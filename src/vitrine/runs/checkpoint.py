"""The checkpoint that ``--resume`` continues from: written atomically, read without executing pickled code."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import torch

from vitrine.errors import RunError
from vitrine.io.files import atomic_path

_FOLDER, _FILE = "state", "training.pt"


def save_checkpoint(run: Path, state: dict[str, Any]) -> None:
    """Replace the run's checkpoint by ``state`` (tensors and plain values)."""
    (run / _FOLDER).mkdir(exist_ok=True)
    # Through a stream of Python: where a disk is full, torch's own writer may end the process.
    with atomic_path(run / _FOLDER / _FILE) as file, file.open("wb") as stream:
        torch.save(state, stream)


def load_checkpoint(run: Path) -> dict[str, Any] | None:
    """Load the run's checkpoint; None where the training was stopped before its first one.

    Raises:
        RunError: the file is damaged.
    """
    path = run / _FOLDER / _FILE
    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError) as error:
        raise RunError(
            f"{path} cannot be read ({type(error).__name__}), so this training cannot be resumed.\n"
            "Delete the run folder and train again."
        ) from error
    return state


def delete_checkpoint(run: Path) -> None:
    """Delete the checkpoint of a training that is finished."""
    shutil.rmtree(run / _FOLDER, ignore_errors=True)


def has_checkpoint(run: Path) -> bool:
    """Whether the run has a checkpoint, which a training that has not ended leaves."""
    return (run / _FOLDER / _FILE).is_file()
