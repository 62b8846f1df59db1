"""Summaries of finished runs for comparisons, and the index file that keeps them beside the runs."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from vitrine.io.files import write_atomically
from vitrine.io.untrusted_files import read_json
from vitrine.metrics.caption_ngrams import rouge_l, scorers
from vitrine.metrics.caption_text import tokenise
from vitrine.plotting.tables import Cell
from vitrine.results import Interval
from vitrine.runs.folder import RunFolder
from vitrine.runs.leakage import Leakage
from vitrine.runs.record import (
    AnyRow,
    CaptionerRow,
    MultiLabelRow,
    RecordReader,
    RunRecord,
    RunRow,
    digest,
    read_record,
)
from vitrine.version import __version__

Kind = Literal["classifier", "multi-label", "captioner"]

RIGHT, ALL_RIGHT, EXACT, NEARER = "right", "all right", "exact", "nearer"
"""Outcomes of a picture: its label is right; all its labels are; its caption is word for word a human one; and the
ROUGE-L of its caption."""

_DECIMALS = 9  # of ROUGE-L: rounded, the values of equal captions are equal


@dataclass(frozen=True)
class RunSummary:
    """What a comparison needs of a finished run.

    Attributes:
        name: what the comparison calls it.
        folder: its files.
        kind: of model.
        seed: of the recipe.
        precision: that it was measured in.
        settings: everything that decides what comes out, flat.
        pictures: a hash of the validation pictures.
        validation: a hash of the validation pictures with their labels or captions.
        outcomes: by :data:`RIGHT`, :data:`ALL_RIGHT`, :data:`EXACT` and :data:`NEARER`, a number for every validation
            picture in the order of their names, higher is better; those that apply, and nearness only where its scorer
            is installed.
        row: the results, without settings.
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
    row: AnyRow

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, but for the name and the folder."""
        content = {key: getattr(self, key) for key in ("kind", "seed", "precision", "pictures", "validation")}
        outcomes = {key: list(values) for key, values in self.outcomes.items()}
        return content | {"settings": dict(self.settings), "outcomes": outcomes, "row": asdict(self.row)}


def summary_from(content: Mapping[str, Any], name: str, folder: RunFolder) -> RunSummary:
    """Read back what :meth:`RunSummary.to_dict` wrote.

    Raises:
        KeyError, TypeError, ValueError: the content is something else.
    """
    kind: Any = {"classifier": RunRow, "multi-label": MultiLabelRow, "captioner": CaptionerRow}[content["kind"]]
    intervals = {key: each and Interval(**each) for key, each in content["row"].items() if key.endswith("interval")}
    leakage = content["row"]["leakage"]
    recorded_leakage = None if leakage is None else Leakage(**leakage)
    row = kind(**{**content["row"], **intervals, "name": name, "leakage": recorded_leakage})
    outcomes = {key: tuple(values) for key, values in content["outcomes"].items()}
    return RunSummary(**{**content, "name": name, "folder": folder, "outcomes": outcomes, "row": row})


def read_summary(name: str, folder: RunFolder, read: RecordReader = read_record) -> RunSummary:
    """Read a finished run's files and summarise them.

    Raises:
        RunError: a file is missing or cannot be read, or they contradict one another.
    """
    record = read(name, folder)
    return RunSummary(
        name=record.name,
        folder=record.folder,
        kind="captioner" if record.is_captioner else "multi-label" if record.is_multi_label else "classifier",
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
        return {ALL_RIGHT if record.is_multi_label else RIGHT: correct}
    captions = [tokenise(record.predictions[name].text) for name in names]
    references = [[words for words in map(tokenise, record.human_captions[name]) if words] for name in names]
    rouge = rouge_l(captions, references) if all(references) else None
    return {EXACT: correct} | ({NEARER: tuple(round(value, _DECIMALS) for value in rouge)} if rouge is not None else {})


INDEX_FILE = ".vitrine-index.json"
"""The index of a folder of runs."""

_FILES_READ = (
    "recipe.toml",
    "changes.json",
    "metrics.json",
    "data.json",
    "config.json",
    "predictions.csv",
    "captions.csv",
    "history.jsonl",
    "timings.jsonl",
)
_CLOCK_SECONDS = 2.0  # seconds: the coarsest clock of a file system in use, by which two writes may have one time
_FORMAT = 3


def read_summaries(runs: Mapping[str, RunFolder], read: RecordReader = read_record) -> tuple[RunSummary, ...]:
    """Summarise finished runs, in the order given.

    Where several runs are in one folder, their summaries are kept in its index. One is taken from there only while each
    of the run's files has the size and the times that it had when it was read; ``read`` reads the other runs.

    Raises:
        RunError: a file is missing or cannot be read, or they contradict one another.
    """
    parents: dict[Path, int] = {}
    for run in runs.values():
        parents[run.path.parent] = parents.get(run.path.parent, 0) + 1
    indices = {parent: RunIndex(parent) for parent, count in parents.items() if count > 1}
    summaries = []
    for name, run in runs.items():
        index = indices.get(run.path.parent)
        summaries.append(read_summary(name, run, read) if index is None else index.summary(name, run, read))
    for index in indices.values():
        index.save()
    return tuple(summaries)


class RunIndex:
    """The summaries of one folder's runs, in its index file.

    Args:
        folder: that holds the runs.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made_by = {"format": _FORMAT, "vitrine": __version__, "scorers": scorers() is not None}
        self._entries = self._read_entries()
        self._is_modified = False

    def summary(self, name: str, run: RunFolder, read: RecordReader) -> RunSummary:
        """The summary of a finished run of the folder, read anew where a file of it has changed.

        Raises:
            RunError: a file is missing or cannot be read, or they contradict one another.
        """
        began, now = time.time_ns(), _stamps(run.path)
        entry = self._entries.get(run.path.name)
        if isinstance(entry, dict) and entry.get("files") == now:
            with suppress(KeyError, TypeError, ValueError, AttributeError):  # someone's edit, or damage
                return summary_from(entry["summary"], name, run)
        summary = read_summary(name, run, read)
        self._is_modified = True
        self._entries.pop(run.path.name, None)
        if all(stamp[1] < began - _CLOCK_SECONDS * 1e9 for stamp in now.values()):
            self._entries[run.path.name] = {"files": now, "summary": summary.to_dict()}
        return summary

    def save(self) -> None:
        """Write the index where it changed, without the runs that no longer exist."""
        entries = {name: entry for name, entry in self._entries.items() if (self._folder / name).is_dir()}
        if not self._is_modified and len(entries) == len(self._entries):
            return
        with suppress(OSError):  # a folder that may only be read: the runs are read again next time
            write_atomically(self._folder / INDEX_FILE, json.dumps(self._made_by | {"runs": entries}))

    def _read_entries(self) -> dict[str, Any]:
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # none yet, or damaged
            content = read_json(self._folder / INDEX_FILE, dict[str, Any])
            if {key: content.get(key) for key in self._made_by} == self._made_by:
                return dict(content["runs"])
        return {}


def _stamps(run: Path) -> dict[str, list[int]]:
    """(size, time of modification, time of change, inode) of each file that a summary is read from; times in ns."""
    stamps = {}
    for name in _FILES_READ:
        try:
            status = (run / name).stat()
        except OSError:
            continue
        stamps[name] = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    return stamps
