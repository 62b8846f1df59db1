"""What ``vitrine compare`` found, for a person, a README, a paper and a program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrine.report.card_text import inline, named_table
from vitrine.report.comparison import (
    CaptionerRow,
    RunRow,
    captioners_table,
    outcomes_of_runs,
    runs_table,
    settings_of_runs,
)
from vitrine.report.tables import Cell, Table
from vitrine.workflows.comparison_claims import CAVEAT, NEARNESS, QUESTIONS, Claim, SeedsClaim
from vitrine.workflows.finding_runs import LeftOut
from vitrine.workflows.run_summary import NEARER

_MOST = 20  # sentences on pairs that a person reads


@dataclass(frozen=True)
class Disagreement:
    """A validation picture that two runs call by different names."""

    name: str
    true: str
    first: str
    second: str


@dataclass(frozen=True)
class Disagreements:
    """The pictures on which two runs, ``first`` and ``second``, disagree, in the order of the data."""

    first: str
    second: str
    pictures: tuple[Disagreement, ...]

    def table(self) -> Table:
        """A row a picture."""
        rows = tuple((each.name, each.true, each.first, each.second) for each in self.pictures)
        return Table(("picture", "true", self.first, self.second), rows)


@dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    Attributes:
        rows: classifiers, best accuracy first.
        captioners: runs that trained captioners, best first.
        claims: of each pair that shares its validation pictures: one on classifiers, two on captioners.
        over_seeds: what several seeds of two settings say together.
        groups: names of classifiers by the validation pictures they share; None of more than one run share none.
        disagreements: where they were asked for, the pictures on which two runs disagree.
        left_out: folders that are no finished runs.
        notes: sentences on what was decided on the way.
        varied: settings that differ among the runs.
        written: files.
    """

    rows: tuple[RunRow, ...]
    captioners: tuple[CaptionerRow, ...]
    claims: tuple[Claim, ...]
    over_seeds: tuple[SeedsClaim, ...]
    groups: Mapping[str, tuple[str, ...]]
    disagreements: Disagreements | None = None
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    varied: tuple[str, ...] = ()
    written: tuple[Path, ...] = ()

    def text(self) -> str:
        """For a terminal."""
        parts = [settings_of_runs(self.rows).text(), outcomes_of_runs(self.rows).text()] if self.rows else []
        if self.captioners:
            parts.append(captioners_table(self.captioners).text())
        parts += ["\n".join(paragraph) for paragraph in self._paragraphs()]
        if self.disagreements is not None:
            parts.append(self.disagreements.table().text())
        if self.written:
            parts.append("\n".join(["Written:", *(f"  {path}" for path in self.written)]))
        return "\n\n".join(parts)

    def markdown(self) -> str:
        """For a README."""
        tables = [runs_table(self.rows)] if self.rows else []
        tables += [captioners_table(self.captioners)] if self.captioners else []
        parts = [named_table(table) for table in tables]
        parts += ["\n".join(f"- {inline(line)}" for line in paragraph) for paragraph in self._paragraphs()]
        if self.disagreements is not None:
            parts.append(named_table(self.disagreements.table()))
        return "\n\n".join(parts) + "\n"

    def latex(self) -> str:
        """The tables for a paper; what the tests say is a table there."""
        tables = [runs_table(self.rows)] if self.rows else []
        tables += [captioners_table(self.captioners)] if self.captioners else []
        tables += [self.tests()] if self.claims else []
        return "\n\n".join(table.latex() for table in tables) + "\n"

    def csv(self) -> bytes:
        """The runs for a program; where disagreements were asked for, those."""
        if self.disagreements is not None:
            return self.disagreements.table().csv()
        return (runs_table(self.rows) if self.rows else captioners_table(self.captioners)).csv()

    def tests(self) -> Table:
        """The paired tests: a row a pair."""
        columns = ("run", "claim", "other run", "verdict", "for the run", "for the other", "pictures", "p", "p (Holm)")
        return Table(columns, tuple(map(_test_row, self.claims)))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        content: dict[str, Any] = {
            "runs": [
                {
                    "run": row.name,
                    "settings": dict(row.settings),
                    "accuracy": row.accuracy,
                    "accuracy_interval_95": [row.interval.low, row.interval.high],
                    "n": row.n,
                    "negative_log_likelihood": row.loss,
                    "expected_calibration_error": row.calibration_error,
                    "best_epoch": row.best_epoch,
                    "pictures_per_second": row.pictures_per_second,
                    "peak_memory_mib": row.peak_memory_mib,
                    "seconds": row.seconds,
                }
                for row in self.rows
            ],
            "captioners": [
                {
                    "run": row.name,
                    "settings": dict(row.settings),
                    "piece_accuracy": row.accuracy,
                    "pieces": row.pieces,
                    "n": row.n,
                    "negative_log_likelihood": row.loss,
                    "exact_captions": row.exact,
                    "exact_interval_95": [row.exact_interval.low, row.exact_interval.high],
                }
                for row in self.captioners
            ],
            "tests": [claim.to_dict() for claim in self.claims],
            "over_seeds": [claim.to_dict() for claim in self.over_seeds],
            "validation_sets": [list(names) for names in self.groups.values()],
            "left_out": [vars(each) for each in self.left_out],
            "notes": list(self.notes),
        }
        if self.disagreements is not None:
            content["disagreements"] = [vars(each) for each in self.disagreements.pictures]
        return content

    def _paragraphs(self) -> list[list[str]]:
        """Sentences in groups: the tests, what seeds say together, what was left out."""
        shown = self._shown_claims()
        tests = [claim.sentence for claim in shown]
        if len(shown) < len(self.claims):
            decided = sum(claim.verdict != "undecided" for claim in self.claims)
            tests.append(
                f"These are the pairs of the best run; of all {len(self.claims)}, {decided} are decided. "
                "All are in tests.csv (with -o) and in --json."
            )
        if self.claims:
            tests.append(CAVEAT)
        if any(claim.question == NEARER for claim in self.claims):
            tests.append(NEARNESS)
        notes = [*self.group_sentences(), *self.notes]
        notes += [f"Left out: {each.name}: {each.reason}." for each in self.left_out]
        return [part for part in (tests, [claim.sentence for claim in self.over_seeds], notes) if part]

    def _shown_claims(self) -> tuple[Claim, ...]:
        if len(self.claims) <= _MOST:
            return self.claims
        best = {rows[0].name for rows in (self.rows, self.captioners) if rows}
        return tuple(claim for claim in self.claims if best & {claim.first, claim.second})

    def group_sentences(self) -> list[str]:
        """What is said where not all runs share their validation pictures; else nothing."""
        if len(self.groups) < 2:
            return []
        sizes = {row.name: row.n for row in self.rows}
        told = "; ".join(f"{', '.join(names)} ({sizes[names[0]]:,})" for names in self.groups.values())
        return [
            f"Not all runs were measured on the same validation pictures with the same labels: {told}. "
            "Runs of different groups are not tested against one another, and their accuracies are of different things."
        ]


def _test_row(claim: Claim) -> tuple[Cell, ...]:
    counts, asked = claim.counts, QUESTIONS[claim.question].claim
    decided = (counts.first, counts.second, counts.n, counts.p, claim.corrected)
    return (claim.first, asked, claim.second, claim.verdict, *decided)
