"""What was found of the words of captions: do they look at what they name? Numbers, one flag and a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vitrine.explain.noun_means import NounMean
from vitrine.explain.ranking import Metric, metric

METRICS: tuple[Metric, ...] = (metric("pointing"), metric("inside"))
"""What is scored; the first decides the verdict."""

WORD = "word"
MAPS: Mapping[str, str] = {
    WORD: "word map",
    "mean": "mean map of the caption",
    "centre": "centre blob",
    "uniform": "uniform",
}
"""The map of the word and the controls, by key and by name."""

CONTROLS = tuple(key for key in MAPS if key != WORD)
"""Keys of the maps that cannot know what a word names."""

_IN_A_SENTENCE = {"mean": "the mean map of the caption", "centre": "a centre blob", "uniform": "a uniform map"}
_SHORT = {"mean": "mean map", "centre": "centre blob", "uniform": "uniform"}
Flag = Literal["points", "leans", "no better", "worse", "too few", "nothing"]


@dataclass(frozen=True)
class Grounding:
    """How well the words of some captions look at what they name.

    Attributes:
        estimates: by metric and by map (:data:`MAPS`), its mean; a metric without any noun is missing.
        leads: by metric and by control, by how much the word map is better, from pairs.
        captions, pictures: how many there were, those without such a noun included.
        nouns: whose region is known.
        absent: nouns that name what is not there.
        unpaired: nouns that have no neighbour to take a map from, with a shift.
        shift: 0; with 1 each noun has the map of the next word instead, with -1 of the one before.
        resamples, seed: of the bootstrap.
    """

    estimates: Mapping[str, Mapping[str, NounMean]]
    leads: Mapping[str, Mapping[str, NounMean]]
    captions: int
    pictures: int
    nouns: int
    absent: int
    unpaired: int
    shift: int
    resamples: int
    seed: int

    def undecided(self, key: str) -> int:
        """Nouns on which every map would score alike, by the key of a metric."""
        scored = self.estimates[key][WORD].nouns if key in self.estimates else 0
        return self.nouns - self.unpaired - scored

    @property
    def flag(self) -> Flag:
        """By the pointing hit. ``nothing`` to score; ``too few`` pictures for an interval; ``worse`` than a control,
        or ``no better``, by the interval of the difference; better than all, ``points`` where its own interval lies
        above one half, else ``leans``."""
        by = METRICS[0].key
        if by not in self.estimates:
            return "nothing"
        own = self.estimates[by][WORD].interval
        if own is None:
            return "too few"
        if self._behind(by):
            return "worse"
        return "no better" if self._unbeaten(by) else "points" if own.low > 0.5 else "leans"

    @property
    def finding(self) -> str:
        """The verdict for a person, without numbers and without a full stop."""
        by = METRICS[0].key
        match self.flag:
            case "nothing":
                found = "no noun of these captions can be scored"
            case "too few":
                found = "too few pictures to say whether words look at what they name"
            case "worse":
                found = f"word maps are worse than {_listed(self._behind(by))}"
            case "no better":
                found = f"word maps are no better than {_listed(self._unbeaten(by))}"
            case "leans":
                found = "word maps hit what they name more often than every control, but not reliably"
            case "points":
                found = "word maps point at what they name"
        said = self._shifted + found
        return said[0].upper() + said[1:]

    @property
    def sentence(self) -> str:
        """The verdict with the numbers that it rests on."""
        by = METRICS[0].key
        if by not in self.estimates:
            return f"{self.finding}."
        row = self.estimates[by]
        ends = row[WORD].interval
        within = "" if ends is None else f" ({ends.low:.2f} to {ends.high:.2f})"
        controls = ", ".join(f"{_SHORT[key]} {row[key].mean:.2f}" for key in CONTROLS)
        return f"{self.finding}: {METRICS[0].label} {row[WORD].mean:.2f}{within}, {controls}."

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready and stable: floats are rounded to ``DECIMALS``."""
        return {
            "flag": self.flag,
            "sentence": self.sentence,
            "captions": self.captions,
            "pictures": self.pictures,
            "nouns": self.nouns,
            "named_but_not_there": self.absent,
            "shift": self.shift,
            "without_neighbour": self.unpaired,
            "every_map_alike": {each.key: self.undecided(each.key) for each in METRICS},
            "bootstrap": {"unit": "picture", "resamples": self.resamples, "seed": self.seed},
            "metrics": {
                key: {name: mean.to_dict() for name, mean in row.items()} for key, row in self.estimates.items()
            },
            "word_map_better_by": {
                key: {name: lead.to_dict() for name, lead in row.items()} for key, row in self.leads.items()
            },
        }

    @property
    def _shifted(self) -> str:
        if not self.shift:
            return ""
        words = "the next word" if self.shift == 1 else "the word before" if self.shift == -1 else ""
        return f"with the map of {words or f'the word {self.shift:+d} places on'} for each noun, "

    def _unbeaten(self, by: str) -> list[str]:
        return [key for key, lead in self.leads[by].items() if lead.interval is None or lead.interval.low <= 0]

    def _behind(self, by: str) -> list[str]:
        return [key for key, lead in self.leads[by].items() if lead.interval is not None and lead.interval.high < 0]


def _listed(keys: Sequence[str]) -> str:
    names = [_IN_A_SENTENCE[key] for key in keys]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
