"""From what a person writes for RUN to run folders: folders, patterns, and folders that hold runs."""

from __future__ import annotations

import glob
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vitrine.errors import RunError
from vitrine.runs.folder import RunFolder

FAILED = "failed.json"
"""What a sweep leaves in the folder of a run that failed."""


@dataclass(frozen=True)
class LeftOut:
    """A folder that is no finished run, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class FoundRuns:
    """Finished runs by name, in the order given, and what was left out."""

    runs: dict[str, RunFolder]
    left_out: tuple[LeftOut, ...]


def find_runs(references: Sequence[str]) -> FoundRuns:
    """Find the finished runs.

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
    left_out = []
    for place, folder in folders.items():
        reason = _why_not(RunFolder(folder))
        if reason is None:
            runs[names[place]] = RunFolder(folder)
        else:
            left_out.append(LeftOut(names[place], reason))
    if not runs:
        told = "; ".join(f"{each.name}: {each.reason}" for each in left_out[:3])
        raise RunError(f"There is no finished run among {', '.join(references)}{f' ({told})' if told else ''}.")
    return FoundRuns(runs, tuple(left_out))


def _folders(reference: str) -> list[Path]:
    path = Path(reference).expanduser()
    if path.is_dir():
        return _runs_in(path)
    if glob.has_magic(reference):
        found = [Path(each) for each in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207  may be absolute
        folders = [each for each in found if each.is_dir()]
        if folders:
            return [run for each in folders for run in (_runs_in(each, required=False) or [each])]
        raise RunError(f"No folder is called like {reference}. Expected run folders that vitrine train wrote.")
    raise RunError(f"There is no folder {reference}. Expected a run folder that vitrine train wrote, or a sweep's.")


def _runs_in(folder: Path, *, required: bool = True) -> list[Path]:
    """The folder itself where it is a run, else the runs in it."""
    if _is_run(folder):
        return [folder]
    inside = sorted(each for each in folder.iterdir() if each.is_dir() and _is_run(each))
    if required and not inside:
        raise RunError(f"{folder} is no run and holds none. Expected a folder that vitrine train or sweep wrote.")
    return inside


def _is_run(folder: Path) -> bool:
    return RunFolder(folder).started or (folder / FAILED).is_file()


def _why_not(run: RunFolder) -> str | None:
    """Why a folder cannot be compared; None where it can."""
    if run.started and run.finished:
        return None
    if (run.path / FAILED).is_file():
        return f"it failed: {failure(run.path)}"
    if not run.started:
        return "it is not a run that vitrine train wrote"
    epochs = len(run.history())
    return f"its training has not ended ({epochs} epoch{'s' * (epochs != 1)} so far)"


def failure(folder: Path) -> str:
    """The first line of the error in a failed run's folder."""
    try:
        content = json.loads((folder / FAILED).read_text("utf-8"))
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
