"""What a comparison needs of a finished run, small enough to be kept beside the runs."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from vitrine.io.files import write_atomically
from vitrine.metrics.caption_ngrams import rouge_l, scorers
from vitrine.metrics.caption_text import tokenise
from vitrine.plotting.tables import Cell
from vitrine.results import Interval
from vitrine.runs.folder import RunFolder
from vitrine.runs.record import (
    CaptionerRow,
    RecordReader,
    RunRecord,
    RunRow,
    digest,
    read_record,
)
from vitrine.version import __version__

Kind = Literal["classifier", "captioner"]

RIGHT, EXACT, NEARER = "right", "exact", "nearer"
"""What is known of each picture: its label is right; its caption is one of its own; the caption's ROUGE-L to those."""

_DECIMALS = 9  # of ROUGE-L: rounded, the values of equal captions are equal


@dataclass(frozen=True)
class RunSummary:
    """A finished run.

    Attributes:
        name: what a comparison calls it.
        folder: its files.
        kind: what was trained.
        seed: of the recipe.
        precision: that it was measured in.
        settings: everything that decides what comes out, flat.
        pictures: a name for the validation pictures: the same for the same ones.
        validation: likewise with their labels or captions.
        outcomes: by :data:`RIGHT`, :data:`EXACT` and :data:`NEARER`, a number for every validation picture in the order
            of their names, higher is better; those that apply, and nearness only where its scorer is installed.
        row: what came out, without settings.
    """

    name: str
    folder: RunFolder
    kind: Kind
    seed: int
    precision: str
    settings: Mapping[str, Cell]
    pictures: str
    validation: str
    outcomes: Mapping[str, tuple[float, ...]]
    row: RunRow | CaptionerRow

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, but for the name and the folder."""
        kept = ("kind", "seed", "precision", "pictures", "validation")
        content = {key: getattr(self, key) for key in kept}
        outcomes = {key: list(values) for key, values in self.outcomes.items()}
        return content | {"settings": dict(self.settings), "outcomes": outcomes, "row": asdict(self.row)}


def summary_from(content: Mapping[str, Any], name: str, folder: RunFolder) -> RunSummary:
    """What :meth:`RunSummary.to_dict` wrote.

    Raises:
        KeyError, TypeError, ValueError: it is something else.
    """
    kind = RunRow if content["kind"] == "classifier" else CaptionerRow
    intervals = {key: Interval(**each) for key, each in content["row"].items() if key.endswith("interval")}
    row = kind(**{**content["row"], **intervals, "name": name})
    outcomes = {key: tuple(values) for key, values in content["outcomes"].items()}
    return RunSummary(**{**content, "name": name, "folder": folder, "outcomes": outcomes, "row": row})


def read_summary(name: str, folder: RunFolder, read: RecordReader = read_record) -> RunSummary:
    """Read a finished run's files and sum them up.

    Raises:
        RunError: a file is missing or cannot be read, or they contradict one another.
    """
    record = read(name, folder)
    return RunSummary(
        name=record.name,
        folder=record.folder,
        kind="captioner" if record.is_captioner else "classifier",
        seed=record.recipe.seed,
        precision=record.metrics.precision,
        settings=record.settings,
        pictures=digest(record.pictures),
        validation=record.validation,
        outcomes=_outcomes(record),
        row=record.row({}),
    )


def _outcomes(record: RunRecord) -> dict[str, tuple[float, ...]]:
    names = sorted(record.predictions)
    correct = tuple(int(record.is_correct(name)) for name in names)
    if not record.is_captioner:
        return {RIGHT: correct}
    captions = [tokenise(record.predictions[name].text) for name in names]
    references = [[words for words in map(tokenise, record.human_captions[name]) if words] for name in names]
    rouge = rouge_l(captions, references) if all(references) else None
    return {EXACT: correct} | ({NEARER: tuple(round(value, _DECIMALS) for value in rouge)} if rouge is not None else {})


INDEX_FILE = ".vitrine-index.json"
"""The index of a folder of runs."""

_FILES_READ = (
    "recipe.toml",
    "metrics.json",
    "data.json",
    "config.json",
    "predictions.csv",
    "captions.csv",
    "history.jsonl",
    "timings.jsonl",
)
_CLOCK_SECONDS = 2.0  # seconds: the coarsest clock of a file system in use, by which two writes may have one time
_FORMAT = 1


def read_summaries(runs: Mapping[str, RunFolder], read: RecordReader = read_record) -> tuple[RunSummary, ...]:
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
        self._entries = self._read_entries()
        self._is_modified = False

    def summary(self, name: str, run: RunFolder, read: RecordReader) -> RunSummary:
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
        self._is_modified = True
        self._entries.pop(run.path.name, None)
        if all(stamp[1] < began - _CLOCK_SECONDS * 1e9 for stamp in now.values()):
            self._entries[run.path.name] = {"files": now, "summary": found.to_dict()}
        return found

    def save(self) -> None:
        """Write what changed, without the runs that are gone."""
        there = {name: entry for name, entry in self._entries.items() if (self._folder / name).is_dir()}
        if not self._is_modified and len(there) == len(self._entries):
            return
        with suppress(OSError):  # a folder that may only be read: the runs are read again next time
            write_atomically(self._folder / INDEX_FILE, json.dumps(self._made_by | {"runs": there}))

    def _read_entries(self) -> dict[str, Any]:
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # none yet, or damaged
            content = json.loads((self._folder / INDEX_FILE).read_text("utf-8"))
            if {key: content.get(key) for key in self._made_by} == self._made_by:
                return dict(content["runs"])
        return {}


def _stamps(run: Path) -> dict[str, list[int]]:
    """(size, modified, changed, inode) of the files that are read; times in nanoseconds."""
    stamps = {}
    for name in _FILES_READ:
        try:
            found = (run / name).stat()
        except OSError:
            continue
        stamps[name] = [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
    return stamps
