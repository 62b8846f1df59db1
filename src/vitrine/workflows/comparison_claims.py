"""What the paired tests say of "A is better than B", in sentences made by plain rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

from vitrine.evaluate.paired import LEVEL, PairedCounts, holm, paired_counts
from vitrine.report.tables import Cell
from vitrine.workflows.run_record import DATA, SHOWN, RunRecord, differing

Verdict = Literal["supported", "not supported", "undecided"]

CAVEAT = (
    "Each test is of two trained models on these pictures: pictures on which exactly one is right decide (exact "
    "McNemar test,\ntwo-sided, Holm's correction, level 0.05). It does not know how much another seed would have moved "
    "either of them."
)


@dataclass(frozen=True)
class Claim:
    """One hypothesis, "``first`` is better than ``second``", and what the pictures say of it.

    It is not chosen by its result: where the two recipes differ in one number, the smaller one is said to be better;
    in one switch, on; else the run that was named first.

    Attributes:
        first, second: names of the runs.
        differs: what their recipes have otherwise: (setting, of the first, of the second).
        counts: the pictures.
        corrected: p after Holm's correction.
        tests: over how many tests.
    """

    first: str
    second: str
    differs: tuple[tuple[str, str, str], ...]
    counts: PairedCounts
    corrected: float
    tests: int

    @property
    def verdict(self) -> Verdict:
        """supported; not supported, where the second is better; undecided, where the test finds no difference."""
        if self.corrected > LEVEL:
            return "undecided"
        return "supported" if self.counts.first > self.counts.second else "not supported"

    @property
    def sentence(self) -> str:
        """The claim, its verdict, and what decides it."""
        c = self.counts
        claim = f"{self.first} is better than {self.second}{self._difference()}: {self.verdict}"
        if not c.discordant:
            return f"{claim}: both are right on the same {c.both:,} of {c.n:,} pictures, so that none decides."
        reverse = f" ({self.second} is the better one)" if self.verdict == "not supported" else ""
        corrected = f", corrected for {self.tests} tests {_p(self.corrected)}" if self.tests > 1 else ""
        return (
            f"{claim}{reverse}. {c.discordant:,} of {c.n:,} pictures decide: {c.first:,} only the first got right, "
            f"{c.second:,} only the second; p = {_p(c.p)}{corrected}."
        )

    def _difference(self) -> str:
        if len(self.differs) != 1:
            return "" if self.differs else " (the same recipe)"
        ((name, one, other),) = self.differs
        return f" ({shown_name(name)} {one} against {other}, the rest alike)"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        c = self.counts
        return {
            "first": self.first,
            "second": self.second,
            "differs": [{"setting": name, "first": one, "second": other} for name, one, other in self.differs],
            "verdict": self.verdict,
            "pictures": c.n,
            "only_first_right": c.first,
            "only_second_right": c.second,
            "p": c.p,
            "p_holm": self.corrected,
            "tests": self.tests,
            "sentence": self.sentence,
        }


@dataclass(frozen=True)
class SeedsClaim:
    """The same hypothesis on two settings that were trained with the same several seeds.

    Attributes:
        setting: what is said to be better than what.
        verdicts: of the pairs, by seed.
    """

    setting: str
    verdicts: Mapping[int, Verdict]

    @property
    def verdict(self) -> Verdict:
        """supported or not supported where all seeds agree, else undecided."""
        found = set(self.verdicts.values())
        return found.pop() if len(found) == 1 else "undecided"

    @property
    def sentence(self) -> str:
        """The claim, its verdict, and every seed's."""
        each = ", ".join(f"seed {seed}: {verdict}" for seed, verdict in self.verdicts.items())
        return f"{self.setting}: {self.verdict} over {len(self.verdicts)} seeds ({each})."

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        seeds = {str(seed): verdict for seed, verdict in self.verdicts.items()}
        return {"setting": self.setting, "verdict": self.verdict, "seeds": seeds, "sentence": self.sentence}


def claims_of(records: Sequence[RunRecord]) -> tuple[Claim, ...]:
    """A claim for each pair of runs that were measured on the same pictures with the same labels, in the order given.

    Raises:
        RunError: a run's predictions do not fit its other files.
    """
    settings = [record.settings for record in records]
    validation = [record.validation for record in records]
    rights = [{name: each.right for name, each in record.answers.items()} for record in records]
    pairs = []
    for a, b in combinations(range(len(records)), 2):
        if validation[a] != validation[b] or records[a].pictures != records[b].pictures:
            continue
        names = differing(settings[a], settings[b])
        if len(names) == 1 and _comes_after(settings[a].get(names[0]), settings[b].get(names[0])):
            a, b = b, a
        differs = tuple(
            (name, shown_value(settings[a].get(name)), shown_value(settings[b].get(name))) for name in names
        )
        pairs.append((records[a].name, records[b].name, differs, paired_counts(rights[a], rights[b])))
    corrected = holm([counts.p for *_, counts in pairs])
    return tuple(
        Claim(first, second, differs, counts, p, len(pairs))
        for (first, second, differs, counts), p in zip(pairs, corrected, strict=True)
    )


def seeds_claims(records: Sequence[RunRecord], claims: Sequence[Claim]) -> tuple[SeedsClaim, ...]:
    """What several seeds of two settings say together; nothing where no two settings have two seeds in common."""
    by_name = {record.name: record for record in records}
    varied = {name for one, two in combinations(records, 2) for name in differing(one.settings, two.settings)}
    found: dict[str, dict[int, Verdict]] = {}
    for claim in claims:
        seeds = {by_name[name].recipe.seed for name in (claim.first, claim.second)}
        differs = [each for each in claim.differs if each[0] not in ("seed", DATA)]
        if len(seeds) != 1 or not differs:
            continue
        one = ", ".join(f"{shown_name(name)} {first}" for name, first, _ in differs)
        other = ", ".join(f"{shown_name(name)} {second}" for name, _, second in differs)
        rest = _rest(by_name[claim.first], varied - {name for name, _, _ in differs})
        found.setdefault(f"{one} is better than {other}{rest}", {})[seeds.pop()] = claim.verdict
    return tuple(SeedsClaim(setting, verdicts) for setting, verdicts in found.items() if len(verdicts) > 1)


def _rest(record: RunRecord, varied: Set[str]) -> str:
    """The other settings that vary among the runs, which the pair has in common."""
    common = [name for name in record.settings if name in varied and name not in ("seed", DATA)]
    told = ", ".join(f"{shown_name(name)} {shown_value(record.settings[name])}" for name in common)
    return f" (with {told})" if told else ""


def _comes_after(one: Cell, other: Cell) -> bool:
    """Whether the other value's run is the one that is said to be better."""
    if isinstance(one, bool) and isinstance(other, bool):
        return other
    numbers = [each for each in (one, other) if isinstance(each, int | float) and not isinstance(each, bool)]
    return len(numbers) == 2 and numbers[1] < numbers[0]


def shown_name(setting: str) -> str:
    """A setting's name in tables and sentences."""
    return SHOWN.get(setting, setting.replace("_", " "))


def shown_value(value: Cell) -> str:
    """A setting's value in sentences."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _p(p: float) -> str:
    return f"{p:.2g}" if p >= 1e-99 else "below 1e-99"
