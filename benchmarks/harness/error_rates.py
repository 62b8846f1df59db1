"""Error rates as tables: what a verdict says of maps whose truth is known, beside what it aims at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

TOLERANCE = 0.08
"""By how much a rate may be worse than the committed one: two standard errors of a rate of 0.7 on 120 pictures."""


@dataclass(frozen=True)
class Aim:
    """A rate, or another number from 0 to 1, with what it should be.

    Attributes:
        what: it is of, in words.
        value: that was measured.
        direction: of the limit.
        limit: that it should keep.
    """

    what: str
    value: float
    direction: Literal["at least", "at most"]
    limit: float

    @property
    def is_met(self) -> bool:
        """Whether the value keeps the limit."""
        return self.value >= self.limit if self.direction == "at least" else self.value <= self.limit

    @property
    def sentence(self) -> str:
        """The aim and what was reached."""
        reached = "met" if self.is_met else "**missed**"
        return f"{self.what}: {self.value:.3g}; aim: {self.direction} {self.limit:.3g}, {reached}."

    def worse_by(self, earlier: Aim) -> float:
        """By how much the value is worse than an earlier one; negative where it is better."""
        return earlier.value - self.value if self.direction == "at least" else self.value - earlier.value


@dataclass(frozen=True)
class RateTable:
    """One table of a section.

    Attributes:
        section: that the table belongs to, one of those of ``verdicts.py``.
        title: above it.
        columns: their names.
        rows: cells as they are shown; as many as columns.
        aims: of its numbers.
        notes: sentences below it: how many of what were measured.
    """

    section: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    aims: tuple[Aim, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> RateTable:
        """What ``dataclasses.asdict`` made of one, read from JSON."""
        return cls(
            content["section"],
            content["title"],
            tuple(content["columns"]),
            tuple(tuple(row) for row in content["rows"]),
            tuple(Aim(**aim) for aim in content["aims"]),
            tuple(content["notes"]),
        )

    def markdown(self) -> str:
        """Title, table, aims and notes."""
        lines = [self.columns, tuple("---" for _ in self.columns), *self.rows]
        table = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
        below = "".join(f"- {sentence}\n" for sentence in (*(aim.sentence for aim in self.aims), *self.notes))
        return f"**{self.title}**\n\n{table}" + (f"\n{below}" if below else "")


@dataclass(frozen=True)
class RateResults:
    """All tables of a run.

    Attributes:
        machine: what it ran on.
        settings: sizes; only results with equal ones can be compared.
        tables: in the order of the page.
        minutes: that it took.
    """

    machine: Mapping[str, Any]
    settings: Mapping[str, Any]
    tables: Sequence[RateTable]
    minutes: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        tables = [asdict(table) for table in self.tables]
        for table in tables:
            for aim in table["aims"]:
                aim["value"] = round(aim["value"], 4)
        return {
            "machine": dict(self.machine),
            "settings": dict(self.settings),
            "minutes": round(self.minutes, 1),
            "tables": tables,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> RateResults:
        """What :meth:`to_dict` wrote.

        Raises:
            KeyError, TypeError: something is missing.
        """
        tables = [RateTable.from_dict(each) for each in content["tables"]]
        return cls(content["machine"], content["settings"], tables, content["minutes"])

    def section(self, name: str) -> str:
        """The tables of one section as Markdown."""
        return "\n".join(table.markdown() for table in self.tables if table.section == name)


def worse_aims(before: Iterable[RateTable], now: Iterable[RateTable]) -> list[str]:
    """Sentences on the aims of both that are worse than before by more than :data:`TOLERANCE`."""
    earlier = {(table.title, aim.what): aim for table in before for aim in table.aims}
    sentences = []
    for table in now:
        for aim in table.aims:
            known = earlier.get((table.title, aim.what))
            if known is not None and aim.worse_by(known) > TOLERANCE:
                sentences.append(f"{table.title}: {aim.what}: {known.value:.3g} before, {aim.value:.3g} now")
    return sentences
