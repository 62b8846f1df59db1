"""Claims that one run is better than another, each decided by a paired test and stated in a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from vitrine.metrics.paired_tests import LEVEL, PairedCounts, SignCounts, count_every_pair, holm
from vitrine.plotting.tables import Cell
from vitrine.results import agree, count_of
from vitrine.runs.index import ALL_RIGHT, EXACT, NEARER, RIGHT, RunSummary
from vitrine.runs.record import DATA, SHOWN, differing_settings, varying_settings

Verdict = Literal["supported", "not supported", "undecided"]

CAVEAT = (
    "Each test is of two trained models on these pictures: pictures on which exactly one is right decide (exact "
    "McNemar test,\ntwo-sided, level 0.05 after Holm's correction for the number of tests, pairs of seeds apart). It "
    "does not know how much another seed\nwould have moved either of them."
)

NEARNESS = (
    "Nearness is ROUGE-L of a caption to its picture's own: words in common, in order. Pictures on which both are "
    "equally near decide nothing\n(exact sign test, two-sided, in the same correction). It is no judgement of what the "
    "captions mean."
)


@dataclass(frozen=True)
class Question:
    """What a test asks of a pair of runs, as parts of sentences.

    Attributes:
        claim: stands between the names of the two runs.
        reverse: said of the second run where the test finds the opposite.
        decision: what is said of the pictures that decide; ``first`` and ``second`` are their numbers.
        no_decision: why there are none; ``both`` of ``n`` pictures.
    """

    claim: str
    reverse: str
    decision: str
    no_decision: str


QUESTIONS = {
    RIGHT: Question(
        "is better than",
        "is the better one",
        "{first:,} only the first got right, {second:,} only the second",
        "both are right on the same {both:,} of {n:,} pictures, so that none decides",
    ),
    ALL_RIGHT: Question(
        "gets all labels of a picture right more often than",
        "does so more often",
        "{first:,} only the first got right, {second:,} only the second",
        "both do so on the same {both:,} of {n:,} pictures, so that none decides",
    ),
    EXACT: Question(
        "gives human captions word for word more often than",
        "does so more often",
        "{first:,} only the first captions so, {second:,} only the second",
        "both do so on the same {both:,} of {n:,} pictures, so that none decides",
    ),
    NEARER: Question(
        "is nearer to the human captions than",
        "is the nearer one",
        "on {first:,} the first is nearer, on {second:,} the second",
        "both are equally near on all {n:,} pictures, so that none decides",
    ),
}
"""By what is known of each picture: a key of :attr:`vitrine.runs.index.RunSummary.outcomes`."""


@dataclass(frozen=True)
class Claim:
    """One hypothesis, "``first`` is better than ``second``", and what the pictures say of it.

    The claim is not chosen by its result: where the two recipes differ in one number, the smaller one is said to be
    better; in one switch, on; else the run that was named first.

    Attributes:
        first, second: names of the runs.
        differs: settings in which they differ: (name, the first one's value, the second one's).
        counts: pictures by which of the two does better on them.
        corrected_p: p after Holm's correction.
        tests: that the correction is over.
        question: a key of :data:`QUESTIONS`: what better means.
    """

    first: str
    second: str
    differs: tuple[tuple[str, str, str], ...]
    counts: PairedCounts | SignCounts
    corrected_p: float
    tests: int
    question: str = RIGHT

    @property
    def verdict(self) -> Verdict:
        """supported; not supported, where the second is better; undecided, where the test finds no difference."""
        if self.corrected_p > LEVEL:
            return "undecided"
        return "supported" if self.counts.first > self.counts.second else "not supported"

    @property
    def sentence(self) -> str:
        """The claim, its verdict, and what decides it."""
        c, question = self.counts, QUESTIONS[self.question]
        claim = f"{self.first} {question.claim} {self.second}{self._difference()}: {self.verdict}"
        if not c.discordant:
            both = c.both if isinstance(c, PairedCounts) else c.ties
            return f"{claim}: {question.no_decision.format(both=both, n=c.n)}."
        reverse = f" ({self.second} {question.reverse})" if self.verdict == "not supported" else ""
        correction = f", corrected for {count_of(self.tests, 'test')} {_p(self.corrected_p)}" if self.tests > 1 else ""
        return (
            f"{claim}{reverse}. {c.discordant:,} of {count_of(c.n, 'picture')} "
            f"{agree(c.discordant, 'decides', 'decide')}: "
            f"{question.decision.format(first=c.first, second=c.second)}; p = {_p(c.p)}{correction}."
        )

    def _difference(self) -> str:
        if len(self.differs) != 1:
            return "" if self.differs else " (the same recipe)"
        ((name, one, other),) = self.differs
        return f" ({setting_label(name)} {one} against {other}, the rest alike)"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        c = self.counts
        return {
            "first": self.first,
            "second": self.second,
            "differs": [{"setting": name, "first": one, "second": other} for name, one, other in self.differs],
            "question": self.question,
            "claim": QUESTIONS[self.question].claim,
            "verdict": self.verdict,
            "pictures": c.n,
            "decided_for_first": c.first,
            "decided_for_second": c.second,
            "p": c.p,
            "p_holm": self.corrected_p,
            "tests": self.tests,
            "sentence": self.sentence,
        }


@dataclass(frozen=True)
class SeedsClaim:
    """One hypothesis on two settings, each trained with the same several seeds.

    Attributes:
        setting: the claim: which setting is better than which.
        verdicts: of the pairs of runs, by seed.
    """

    setting: str
    verdicts: Mapping[int, Verdict]

    @property
    def verdict(self) -> Verdict:
        """supported or not supported where all seeds agree, else undecided."""
        verdicts = set(self.verdicts.values())
        return verdicts.pop() if len(verdicts) == 1 else "undecided"

    @property
    def sentence(self) -> str:
        """The claim, its verdict, and every seed's."""
        each = ", ".join(f"seed {seed}: {verdict}" for seed, verdict in self.verdicts.items())
        return f"{self.setting}: {self.verdict} over {count_of(len(self.verdicts), 'seed')} ({each})."

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        seeds = {str(seed): verdict for seed, verdict in self.verdicts.items()}
        return {"setting": self.setting, "verdict": self.verdict, "seeds": seeds, "sentence": self.sentence}


def compare_pairs(runs: Sequence[RunSummary]) -> tuple[Claim, ...]:
    """Test each pair of runs that were measured on the same pictures with the same labels or captions, in that order.

    Holm's correction is over all of the tests of settings. Pairs that differ in their seed alone are no question that a
    comparison of settings asks: they are corrected among themselves, and take nothing from the others.
    """
    varying = varying_settings([run.settings for run in runs])
    settings = [{name: value for name, value in run.settings.items() if name in varying} for run in runs]
    pair_counts = _count_pairs(runs)
    pairs = []
    for a, b in sorted(pair_counts):
        questions = pair_counts[a, b]
        names = differing_settings(settings[a], settings[b])
        is_turned = len(names) == 1 and _comes_after(settings[a].get(names[0]), settings[b].get(names[0]))
        if is_turned:
            a, b = b, a
        differs = tuple(
            (name, format_value(settings[a].get(name)), format_value(settings[b].get(name))) for name in names
        )
        for question, counts in questions.items():
            ours = counts.swap() if is_turned else counts
            pairs.append((runs[a].name, runs[b].name, differs, ours, question))
    claims: dict[int, Claim] = {}
    for is_of_seeds in (False, True):
        family = [i for i, (_, _, differs, _, _) in enumerate(pairs) if _is_of_seeds(differs) == is_of_seeds]
        corrected_p = holm([pairs[i][3].p for i in family])
        for i, p in zip(family, corrected_p, strict=True):
            first, second, differs, counts, question = pairs[i]
            claims[i] = Claim(first, second, differs, counts, p, len(family), question)
    return tuple(claims[i] for i in range(len(pairs)))


def _count_pairs(runs: Sequence[RunSummary]) -> dict[tuple[int, int], dict[str, PairedCounts | SignCounts]]:
    """Counts by question of each pair of runs that can be tested, by their places."""
    pair_counts: dict[tuple[int, int], dict[str, PairedCounts | SignCounts]] = {}
    for question in QUESTIONS:
        groups: dict[tuple[str, str], list[int]] = {}
        for place, run in enumerate(runs):
            if question in run.outcomes:
                groups.setdefault((run.kind, run.validation), []).append(place)
        for places in groups.values():
            values_RN = np.array([runs[place].outcomes[question] for place in places], float)
            for a, b, counts in count_every_pair(values_RN, as_signs=question == NEARER):
                pair_counts.setdefault((places[a], places[b]), {})[question] = counts
    return pair_counts


def _is_of_seeds(differs: Sequence[tuple[str, str, str]]) -> bool:
    """Whether two runs differ in nothing but their seed."""
    return [name for name, _, _ in differs] == ["seed"]


def combine_seeds(runs: Sequence[RunSummary], claims: Sequence[Claim]) -> tuple[SeedsClaim, ...]:
    """Combine the claims on two settings over their seeds; nothing where no two settings have two seeds in common."""
    by_name = {run.name: run for run in runs}
    varying = varying_settings([run.settings for run in runs])
    verdicts: dict[str, dict[int, Verdict]] = {}
    for claim in claims:
        seeds = {by_name[name].seed for name in (claim.first, claim.second)}
        differs = [each for each in claim.differs if each[0] not in ("seed", DATA)]
        if len(seeds) != 1 or not differs:
            continue
        one = ", ".join(f"{setting_label(name)} {first}" for name, first, _ in differs)
        other = ", ".join(f"{setting_label(name)} {second}" for name, _, second in differs)
        rest = _rest(by_name[claim.first], varying - {name for name, _, _ in differs})
        setting = f"{one} {QUESTIONS[claim.question].claim} {other}{rest}"
        verdicts.setdefault(setting, {})[seeds.pop()] = claim.verdict
    return tuple(SeedsClaim(setting, by_seed) for setting, by_seed in verdicts.items() if len(by_seed) > 1)


def _rest(run: RunSummary, varying: Set[str]) -> str:
    """The other settings that vary among the runs, which the pair has in common."""
    common = [name for name in run.settings if name in varying and name not in ("seed", DATA)]
    pairs = ", ".join(f"{setting_label(name)} {format_value(run.settings[name])}" for name in common)
    return f" (with {pairs})" if pairs else ""


def _comes_after(one: Cell, other: Cell) -> bool:
    """Whether the claim is that the run with the other value is the better one: switched on, or the smaller number."""
    if isinstance(one, bool) and isinstance(other, bool):
        return other
    numbers = [each for each in (one, other) if isinstance(each, int | float) and not isinstance(each, bool)]
    return len(numbers) == 2 and numbers[1] < numbers[0]


def setting_label(setting: str) -> str:
    """A setting's name in tables and sentences."""
    return SHOWN.get(setting, setting.replace("_", " "))


def format_value(value: Cell) -> str:
    """A setting's value in sentences."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _p(p: float) -> str:
    return f"{p:.2g}" if p >= 1e-99 else "below 1e-99"
