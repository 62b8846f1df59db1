"""What is known of the runs in one folder, kept beside them so that only what changed is read again.

The folders are the store; the file is made from them and may be deleted at any time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from vitrine.evaluate.caption_ngrams import scorers
from vitrine.models.run_folder import RunFolder, write_atomically
from vitrine.version import __version__
from vitrine.workflows.finished_run import ReadRun, read_finished_run
from vitrine.workflows.run_summary import RunSummary, read_summary, summary_from

FILE = ".vitrine-index.json"
"""The index of a folder of runs."""

_READ = (
    "recipe.toml",
    "metrics.json",
    "data.json",
    "config.json",
    "predictions.csv",
    "captions.csv",
    "history.jsonl",
    "timings.jsonl",
)
_FRESH = 2.0  # seconds: the coarsest clock of a file system in use, by which two writes may have one time
_FORMAT = 1


def read_summaries(runs: Mapping[str, RunFolder], read: ReadRun = read_finished_run) -> tuple[RunSummary, ...]:
    """Sum up finished runs, in the order given.

    Several runs of one folder are kept in its index. What a run's files say is taken from there only while each of
    them has the size and the times that it had when it was read. ``read`` reads the others.

    Raises:
        RunError: a file is missing or cannot be read, or they contradict one another.
    """
    parents: dict[Path, int] = {}
    for run in runs.values():
        parents[run.path.parent] = parents.get(run.path.parent, 0) + 1
    indices = {parent: RunIndex(parent) for parent, count in parents.items() if count > 1}
    found = []
    for name, run in runs.items():
        index = indices.get(run.path.parent)
        found.append(read_summary(name, run, read) if index is None else index.summary(name, run, read))
    for index in indices.values():
        index.save()
    return tuple(found)


class RunIndex:
    """The index of one folder.

    Args:
        folder: that holds the runs.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made_by = {"format": _FORMAT, "vitrine": __version__, "scorers": scorers() is not None}
        self._entries = self._kept()
        self._changed = False

    def summary(self, name: str, run: RunFolder, read: ReadRun) -> RunSummary:
        """What is known of a finished run of the folder.

        Raises:
            RunError: a file is missing or cannot be read, or they contradict one another.
        """
        began, now = time.time_ns(), _stamps(run.path)
        entry = self._entries.get(run.path.name)
        if isinstance(entry, dict) and entry.get("files") == now:
            with suppress(KeyError, TypeError, ValueError, AttributeError):  # someone's edit, or damage
                return summary_from(entry["summary"], name, run)
        found = read_summary(name, run, read)
        self._changed = True
        self._entries.pop(run.path.name, None)
        if all(stamp[1] < began - _FRESH * 1e9 for stamp in now.values()):
            self._entries[run.path.name] = {"files": now, "summary": found.to_dict()}
        return found

    def save(self) -> None:
        """Write what changed, without the runs that are gone."""
        there = {name: entry for name, entry in self._entries.items() if (self._folder / name).is_dir()}
        if not self._changed and len(there) == len(self._entries):
            return
        with suppress(OSError):  # a folder that may only be read: the runs are read again next time
            write_atomically(self._folder / FILE, json.dumps(self._made_by | {"runs": there}))

    def _kept(self) -> dict[str, Any]:
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # none yet, or damaged
            content = json.loads((self._folder / FILE).read_text("utf-8"))
            if {key: content.get(key) for key in self._made_by} == self._made_by:
                return dict(content["runs"])
        return {}


def _stamps(run: Path) -> dict[str, list[int]]:
    """(size, modified, changed, inode) of the files that are read; times in nanoseconds."""
    stamps = {}
    for name in _READ:
        try:
            found = (run / name).stat()
        except OSError:
            continue
        stamps[name] = [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
    return stamps
