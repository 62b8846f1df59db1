"""What a comparison needs of a finished run, small enough to be kept beside the runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from vitrine.evaluate.caption_ngrams import rouge_l
from vitrine.evaluate.caption_tokens import tokenise
from vitrine.models.run_folder import RunFolder
from vitrine.report.comparison import CaptionerRow, RunRow
from vitrine.report.tables import Cell
from vitrine.results import Interval
from vitrine.workflows.captioner_record import CaptionerRecord, is_exact
from vitrine.workflows.finished_run import FinishedRun, ReadRun, read_finished_run
from vitrine.workflows.run_record import digest

Kind = Literal["classifier", "captioner"]

RIGHT, EXACT, NEARER = "right", "exact", "nearer"
"""What is known of each picture: its label is right; its caption is one of its own; the caption's ROUGE-L to those."""

_EQUAL = 9  # decimals: values of equal captions are the same


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


def read_summary(name: str, folder: RunFolder, read: ReadRun = read_finished_run) -> RunSummary:
    """Read a finished run's files and sum them up.

    Raises:
        RunError: a file is missing or cannot be read, or they contradict one another.
    """
    record = read(name, folder)
    if isinstance(record, CaptionerRecord):
        return _summary("captioner", record, record.row({}), _of_captions(record))
    right = {RIGHT: tuple(int(each.right) for _, each in sorted(record.answers.items()))}
    return _summary("classifier", record, record.row({}), right)


def _summary(
    kind: Kind,
    record: FinishedRun,
    row: RunRow | CaptionerRow,
    outcomes: Mapping[str, tuple[float, ...]],
) -> RunSummary:
    return RunSummary(
        name=record.name,
        folder=record.folder,
        kind=kind,
        seed=record.recipe.seed,
        precision=record.metrics.precision,
        settings=record.settings,
        pictures=digest(record.pictures),
        validation=record.validation,
        outcomes=outcomes,
        row=replace(row, settings={}),
    )


def _of_captions(record: CaptionerRecord) -> dict[str, tuple[float, ...]]:
    names = sorted(record.captions)
    texts = [record.captions[name].text for name in names]
    exact = tuple(int(is_exact(text, record.humans[name])) for name, text in zip(names, texts, strict=True))
    humans = [[words for words in map(tokenise, record.humans[name]) if words] for name in names]
    near = rouge_l([tokenise(text) for text in texts], humans) if all(humans) else None
    return {EXACT: exact} | ({NEARER: tuple(round(value, _EQUAL) for value in near)} if near is not None else {})
