"""A captioner's finished run read back: its recipe as plain values, its pictures, and its caption of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from vitrine.errors import RunError
from vitrine.evaluate.caption_tokens import tokenise
from vitrine.evaluate.csv_records import whole_records
from vitrine.evaluate.intervals import wilson
from vitrine.models.run_folder import RunFolder
from vitrine.report.comparison import CaptionerRow
from vitrine.report.tables import Cell
from vitrine.results import CaptioningMetrics
from vitrine.workflows.recorded_run import RecordedRun
from vitrine.workflows.run_record import DATA, digest, flat_settings, read_json, training_pictures


@dataclass(frozen=True)
class RecordedCaption:
    """A caption of captions.csv and its natural log-probability."""

    text: str
    log_probability: float


@dataclass(frozen=True)
class CaptionerRecord(RecordedRun[CaptioningMetrics]):
    """A captioner's finished run."""

    @cached_property
    def humans(self) -> dict[str, tuple[str, ...]]:
        """The human captions of each validation picture."""
        return {row["name"]: tuple(row["captions"]) for row in self.data["splits"]["validation"]}

    @cached_property
    def captions(self) -> dict[str, RecordedCaption]:
        """What the run said of each validation picture, in the order of the data.

        Raises:
            RunError: captions.csv is missing, or is of other pictures or results than data.json and metrics.json.
        """
        found = read_captions(self.folder.path)
        if found.keys() != self.humans.keys():
            count = len(found.keys() ^ self.humans.keys())
            raise RunError(f"captions.csv in {self.folder.path} is of other pictures than data.json ({count}).")
        exact = sum(is_exact(found[name].text, humans) for name, humans in self.humans.items())
        if exact != self.recorded_exact:
            raise RunError(
                f"In {self.folder.path}, {exact} captions of captions.csv are word for word human ones, metrics.json "
                f"says {self.recorded_exact}: one of them was changed."
            )
        return {name: found[name] for name in self.humans}

    @property
    def recorded_exact(self) -> int:
        """Pictures whose caption is word for word one of their own, as metrics.json has it."""
        return int(self.metrics.scores["predicted"]["exact"]["n"])

    @cached_property
    def validation(self) -> str:
        """A name for the validation pictures with their captions: the same for the same ones."""
        return digest((*pair, *self.humans[pair[0]]) for pair in self.pictures)

    @cached_property
    def settings(self) -> Mapping[str, Cell]:
        """Everything that decides what comes out; see :func:`vitrine.workflows.run_record.flat_settings`."""
        size = self.recipe.image_size or int(read_json(self.folder.path / "config.json")["input"]["long_side"])
        return flat_settings(self.recipe) | {"image_size": size, DATA: training_pictures(self.data)}

    def row(self, settings: Mapping[str, Cell]) -> CaptionerRow:
        """The run as a row of the table, with the settings that the table shows."""
        m, exact = self.metrics, self.recorded_exact
        return CaptionerRow(
            self.name, m.accuracy, m.pieces, m.n, m.negative_log_likelihood, exact, wilson(exact, m.n), dict(settings)
        )


def is_exact(caption: str, humans: Sequence[str]) -> bool:
    """Whether a caption is word for word one of the human ones; those without a word count for none."""
    return tokenise(caption) in {words for words in map(tokenise, humans) if words}


def read_captioner_record(name: str, folder: RunFolder) -> CaptionerRecord:
    """Read a captioner's finished run.

    Raises:
        RunError: a file is missing or cannot be read.
    """
    metrics, data = (read_json(folder.path / file) for file in ("metrics.json", "data.json"))
    rows = data.get("splits", {}).get("validation")
    if not isinstance(rows, list) or not all("captions" in row for row in rows):
        raise RunError(f"{folder.path / 'data.json'} does not list validation pictures with captions.")
    try:
        record = CaptionerRecord(name, folder, folder.recipe(), CaptioningMetrics.from_dict(metrics), data)
        _ = record.recorded_exact
    except (KeyError, TypeError) as error:
        raise RunError(f"{folder.path / 'metrics.json'} is not a captioner's metrics (no {error}).") from error
    return record


def read_captions(run: Path) -> dict[str, RecordedCaption]:
    """The rows of a run's captions.csv by picture.

    Raises:
        RunError: there is none, or it is no such table.
    """
    path = run / "captions.csv"
    if not path.is_file():
        raise RunError(f"{run} has no captions.csv, so there is nothing to hold against. Train it anew.")
    header, *rows = [fields for _, fields in whole_records(path)] or [[]]
    try:
        if header != ["filename", "caption", "log_probability"]:
            raise ValueError(header)
        return {name: RecordedCaption(caption, float(likely)) for name, caption, likely in rows}
    except ValueError as error:
        raise RunError(f"{path} is no table of captions: expected filename,caption,log_probability.") from error
