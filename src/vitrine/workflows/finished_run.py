"""A finished run of either kind, read back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from vitrine.models.captioner.saved import is_captioner_folder
from vitrine.models.run_folder import RunFolder
from vitrine.workflows.captioner_record import CaptionerRecord, read_captioner_record
from vitrine.workflows.run_record import RunRecord, read_record

FinishedRun: TypeAlias = RunRecord | CaptionerRecord

ReadRun: TypeAlias = Callable[[str, RunFolder], FinishedRun]
"""From a name and a folder to the run in it."""


def read_finished_run(name: str, folder: RunFolder) -> FinishedRun:
    """Read a finished run.

    Raises:
        RunError: a file is missing or cannot be read.
    """
    return read_captioner_record(name, folder) if is_captioner_folder(folder.path) else read_record(name, folder)
