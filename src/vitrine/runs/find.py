"""Find run folders by what a person writes for RUN: folders, patterns, and folders that hold runs."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrine.errors import RunError
from vitrine.io.untrusted_files import read_json
from vitrine.results import count_of
from vitrine.runs.folder import RunFolder

FAILURE_FILE = "failed.json"
"""The file that a sweep leaves in the folder of a run that failed."""


@dataclass(frozen=True)
class SkippedFolder:
    """A folder that holds no finished run, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class RunSearch:
    """Finished runs by name, in the order given, and the folders that hold none."""

    runs: dict[str, RunFolder]
    skipped_folders: tuple[SkippedFolder, ...]


def find_runs(references: Sequence[str]) -> RunSearch:
    """Find the finished runs that references name.

    Args:
        references: each a run folder, a pattern (``runs/*``; ``**`` goes into sub-folders), or a folder that holds
            runs, such as a sweep's.

    Raises:
        RunError: there is nothing by that name, or no finished run at all.
    """
    folders: dict[Path, Path] = {}
    for reference in references:
        for folder in _folders(reference):
            folders.setdefault(folder.resolve(), folder)
    names = _short_names(list(folders))
    runs: dict[str, RunFolder] = {}
    skipped_folders = []
    for path, folder in folders.items():
        reason = _reason_to_skip(RunFolder(folder))
        if reason is None:
            runs[names[path]] = RunFolder(folder)
        else:
            skipped_folders.append(SkippedFolder(names[path], reason))
    if not runs:
        reasons = "; ".join(f"{each.name}: {each.reason}" for each in skipped_folders[:3])
        raise RunError(f"There is no finished run among {', '.join(references)}{f' ({reasons})' if reasons else ''}.")
    return RunSearch(runs, tuple(skipped_folders))


def has_runs(folder: Path) -> bool:
    """Whether a folder is a run, finished or not, or has runs directly in it."""
    return bool(_runs_in(folder, or_fail=False))


def _folders(reference: str) -> list[Path]:
    path = Path(reference).expanduser()
    if path.is_dir():
        return _runs_in(path)
    if glob.has_magic(reference):
        matches = [Path(each) for each in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207  may be absolute
        folders = [each for each in matches if each.is_dir()]
        if folders:
            return [run for each in folders for run in (_runs_in(each, or_fail=False) or [each])]
        raise RunError(f"No folder is called like {reference}. Expected run folders that vitrine train wrote.")
    raise RunError(f"There is no folder {reference}. Expected a run folder that vitrine train wrote, or a sweep's.")


def _runs_in(folder: Path, *, or_fail: bool = True) -> list[Path]:
    """The folder itself where it is a run, else the runs directly in it."""
    if _is_run(folder):
        return [folder]
    inside = sorted(each for each in folder.iterdir() if each.is_dir() and _is_run(each))
    if or_fail and not inside:
        raise RunError(f"{folder} is no run and holds none. Expected a folder that vitrine train or sweep wrote.")
    return inside


def _is_run(folder: Path) -> bool:
    return RunFolder(folder).is_started or (folder / FAILURE_FILE).is_file()


def _reason_to_skip(run: RunFolder) -> str | None:
    """Why a folder is no finished run; None where it is one."""
    if run.is_started and run.is_finished:
        return None
    if (run.path / FAILURE_FILE).is_file():
        return f"it failed: {read_failure(run.path)}"
    if not run.is_started:
        return "it is not a run that vitrine train wrote"
    return f"its training has not ended ({count_of(len(run.read_history()), 'epoch')} so far)"


def read_failure(folder: Path) -> str:
    """Read the first line of the error that a sweep recorded in a failed run's folder."""
    try:
        content = read_json(folder / FAILURE_FILE, dict[str, Any])
        return str(content["error"]).splitlines()[0]
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return "the error was not recorded"


def _short_names(places: Sequence[Path]) -> dict[Path, str]:
    """The last parts of the paths, as many as it takes to tell all apart."""
    longest = max((len(place.parts) for place in places), default=1)
    for count in range(1, longest + 1):
        names = {place: "/".join(place.parts[-count:]) for place in places}
        if len(set(names.values())) == len(places):
            return names
    return {place: str(place) for place in places}
