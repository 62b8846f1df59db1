"""Grounding of captions: does the map of a word lie on the thing that the word names?

For each noun whose region is known, the map of the word is compared with maps that do not know the word: the mean map
of the caption's words, a blob in the centre, and a uniform map.

Axes: R grid rows, C grid columns, H and W pixel rows and columns, N nouns, K maps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vitrine.attribution.baselines import centre_blob
from vitrine.attribution.placement import Placement
from vitrine.attribution.pointing import centres_inside, pointing_hit, share_inside
from vitrine.attribution.ranking import Metric, metric
from vitrine.metrics.intervals import METHOD, clustered_intervals
from vitrine.results import Interval, agree, count_of, join_words, round_number

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class ClusteredMean:
    """A mean over nouns, with its 95 % interval from :data:`~vitrine.metrics.intervals.MIN_PICTURES` pictures on."""

    mean: float
    interval: Interval | None
    nouns: int
    pictures: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, rounded to ``DECIMALS``."""
        ends = None if self.interval is None else [round_number(self.interval.low), round_number(self.interval.high)]
        return {"mean": round_number(self.mean), "interval_95": ends, "nouns": self.nouns, "pictures": self.pictures}


def clustered_means(names: Sequence[str], values_NK: Floats, low: float) -> list[ClusteredMean]:
    """The mean over nouns of each column, with its interval over pictures.

    Args:
        names: of the picture of each noun.
        values_NK: finite.
        low: the lowest value there can be; the highest is 1. See
            :func:`~vitrine.metrics.intervals.clustered_intervals`.
    """
    pictures, intervals = len(set(names)), clustered_intervals(values_NK, names, low, 1.0)
    columns = zip(values_NK.mean(axis=0), intervals, strict=True)
    return [ClusteredMean(float(mean), interval, len(names), pictures) for mean, interval in columns]


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
        absent_nouns: nouns that name what is not there.
        unpaired_nouns: nouns that have no neighbour to take a map from, with a shift.
        shift: 0; with 1 each noun has the map of the next word instead, with -1 of the one before.
    """

    estimates: Mapping[str, Mapping[str, ClusteredMean]]
    leads: Mapping[str, Mapping[str, ClusteredMean]]
    captions: int
    pictures: int
    nouns: int
    absent_nouns: int
    unpaired_nouns: int
    shift: int

    def tied_nouns(self, key: str) -> int:
        """Nouns on which every map would score alike, by the key of a metric."""
        scored_nouns = self.estimates[key][WORD].nouns if key in self.estimates else 0
        return self.nouns - self.unpaired_nouns - scored_nouns

    @property
    def flag(self) -> Flag:
        """By the pointing hit. ``nothing`` to score; ``too few`` pictures for an interval; ``worse`` than a control,
        or ``no better``, by the interval of the difference; better than all, ``points`` where its own interval lies
        above one half, else ``leans``."""
        by = METRICS[0].key
        if by not in self.estimates:
            return "nothing"
        interval = self.estimates[by][WORD].interval
        if interval is None:
            return "too few"
        if self._behind(by):
            return "worse"
        return "no better" if self._unbeaten(by) else "points" if interval.low > 0.5 else "leans"

    @property
    def finding(self) -> str:
        """The verdict for a person, without numbers and without a full stop."""
        by = METRICS[0].key
        match self.flag:
            case "nothing":
                finding = "no noun of these captions can be scored"
            case "too few":
                finding = "too few pictures to say whether words look at what they name"
            case "worse":
                finding = f"word maps are worse than {_join_controls(self._behind(by))}"
            case "no better":
                finding = f"word maps are no better than {_join_controls(self._unbeaten(by))}"
            case "leans":
                finding = "word maps hit what they name more often than every control, but not reliably"
            case "points":
                finding = "word maps point at what they name"
        sentence = self._shift_words + finding
        return sentence[0].upper() + sentence[1:]

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
            "named_but_not_there": self.absent_nouns,
            "shift": self.shift,
            "without_neighbour": self.unpaired_nouns,
            "every_map_alike": {each.key: self.tied_nouns(each.key) for each in METRICS},
            "intervals": {"unit": "picture", "method": METHOD},
            "metrics": {
                key: {name: mean.to_dict() for name, mean in row.items()} for key, row in self.estimates.items()
            },
            "word_map_better_by": {
                key: {name: lead.to_dict() for name, lead in row.items()} for key, row in self.leads.items()
            },
        }

    @property
    def _shift_words(self) -> str:
        if not self.shift:
            return ""
        words = "the next word" if self.shift == 1 else "the word before" if self.shift == -1 else ""
        return f"with the map of {words or f'the word {self.shift:+d} places on'} for each noun, "

    def _unbeaten(self, by: str) -> list[str]:
        return [key for key, lead in self.leads[by].items() if lead.interval is None or lead.interval.low <= 0]

    def _behind(self, by: str) -> list[str]:
        return [key for key, lead in self.leads[by].items() if lead.interval is not None and lead.interval.high < 0]


def _join_controls(keys: Sequence[str]) -> str:
    return join_words([_IN_A_SENTENCE[key] for key in keys])


__all__ = [
    "ClusteredMean",
    "GroundedCaption",
    "Grounding",
    "GroundingTally",
    "NounScore",
    "alignment_drop",
    "grounding",
    "score_nouns",
]

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class GroundedCaption:
    """A caption with its maps and the regions of its nouns.

    Attributes:
        name: of the picture. Captions of one picture have one name.
        maps: of all its words, in order: (R, C) each, finite, in any unit that is the same for all of them.
        placement: of that grid on the photograph.
        nouns: (index of the word, bool (H, W) in the upright photograph's own pixels) of each noun whose region is
            known.
        absent_nouns: nouns that name something which is not in the picture; they are counted, and cannot be scored.

    Raises:
        ValueError: a map of another grid than the placement's, or a noun that is no word of the caption.
    """

    name: str
    maps: Sequence[Floats]
    placement: Placement
    nouns: Sequence[tuple[int, Mask]]
    absent_nouns: int = 0

    def __post_init__(self) -> None:
        grid = (self.placement.rows, self.placement.columns)
        wrong = [np.shape(map_RC) for map_RC in self.maps if np.shape(map_RC) != grid]
        if wrong:
            raise ValueError(f"{self.name}: expected maps of {grid[0]} x {grid[1]} cells; got {wrong[0]}.")
        outside = [word for word, _ in self.nouns if not 0 <= word < len(self.maps)]
        if outside:
            raise ValueError(
                f"{self.name}: word {outside[0]} is a noun, but there {agree(len(self.maps), 'is', 'are')} "
                f"{count_of(len(self.maps), 'map')}."
            )


@dataclass(frozen=True)
class NounScore:
    """One noun.

    Attributes:
        name: of the picture.
        word: index of the noun in its caption.
        values: by metric and by map, 0 to 1; without a metric that every map would score alike on: one whose region
            holds the centres of all patches or of none (pointing), or all that was seen or nothing (share inside).
    """

    name: str
    word: int
    values: Mapping[str, Mapping[str, float]]


def score_nouns(caption: GroundedCaption, shift: int = 0) -> tuple[NounScore | None, ...]:
    """Score every noun of a caption; None for one that has no neighbour at that shift.

    Args:
        caption: with its maps.
        shift: which word's map a noun gets: its own, or that of the word so many places on.

    Raises:
        ValueError: a mask of another size than the photograph, or a map that is not finite.
    """
    at = caption.placement
    controls = {"centre": centre_blob(at.rows, at.columns), "uniform": np.ones((at.rows, at.columns), np.float32)}
    if caption.maps:
        controls["mean"] = np.mean(np.stack([np.asarray(each, np.float64) for each in caption.maps]), axis=0)
    scores: list[NounScore | None] = []
    for word, mask_HW in caption.nouns:
        if not 0 <= word + shift < len(caption.maps):
            scores.append(None)
            continue
        maps = {WORD: caption.maps[word + shift], **controls}
        hit_RC, coverage_RC = centres_inside(mask_HW, at), at.coverage(mask_HW)
        values = {
            "pointing": {key: pointing_hit(maps[key], hit_RC) for key in MAPS},
            "inside": {key: share_inside(maps[key], coverage_RC) for key in MAPS},
        }
        # Whether there is a score depends on the region alone: all maps have one, or none has.
        scores_by_metric = {
            key: {name: value for name, value in row.items() if value is not None} for key, row in values.items()
        }
        scores.append(NounScore(caption.name, word, {key: row for key, row in scores_by_metric.items() if row}))
    return tuple(scores)


@dataclass
class GroundingTally:
    """The scores of nouns, caption by caption; maps and masks are not kept.

    Attributes:
        shift: see :func:`score_nouns`.
        scores: one a noun so far.
        captions, absent_nouns: how many there were.
        names: of the pictures.
    """

    shift: int = 0
    scores: list[NounScore | None] = field(default_factory=list)
    captions: int = 0
    absent_nouns: int = 0
    names: set[str] = field(default_factory=set)

    def add(self, caption: GroundedCaption) -> None:
        """Score a caption's nouns.

        Raises:
            ValueError: see :func:`score_nouns`.
        """
        self.scores += score_nouns(caption, self.shift)
        self.captions += 1
        self.absent_nouns += caption.absent_nouns
        self.names.add(caption.name)

    def grounding(self) -> Grounding:
        """What they come to; see :func:`grounding`."""
        pairs = [score for score in self.scores if score is not None]
        estimates: dict[str, dict[str, ClusteredMean]] = {}
        leads: dict[str, dict[str, ClusteredMean]] = {}
        for each in METRICS:
            comparable = [score for score in pairs if each.key in score.values]
            if not comparable:
                continue
            names = [score.name for score in comparable]
            values_NK = np.array([[score.values[each.key][key] for key in MAPS] for score in comparable])
            better_NK = values_NK[:, :1] - values_NK[:, 1:]
            means = clustered_means(names, values_NK, 0.0)
            estimates[each.key] = dict(zip(MAPS, means, strict=True))
            leads[each.key] = dict(zip(CONTROLS, clustered_means(names, better_NK, -1.0), strict=True))
        return Grounding(
            estimates=estimates,
            leads=leads,
            captions=self.captions,
            pictures=len(self.names),
            nouns=len(self.scores),
            absent_nouns=self.absent_nouns,
            unpaired_nouns=len(self.scores) - len(pairs),
            shift=self.shift,
        )


def grounding(captions: Sequence[GroundedCaption], *, shift: int = 0) -> Grounding:
    """Score the nouns of captions, and say whether words look at what they name.

    Means are over nouns, their intervals over pictures: see
    :func:`~vitrine.attribution.grounding.clustered_means`. Each comparison stands for itself.

    Args:
        captions: of any number of pictures.
        shift: see :func:`score_nouns`. A score that does not fall when nouns get the map of the next word says that
            rows and words are out of step, or that neighbours look alike.

    Raises:
        ValueError: see :func:`score_nouns`.
    """
    tally = GroundingTally(shift)
    for caption in captions:
        tally.add(caption)
    return tally.grounding()


def alignment_drop(
    captions: Sequence[GroundedCaption],
    shift: int = 1,
    by: Metric = METRICS[0],
) -> ClusteredMean | None:
    """By how much a score falls when each noun gets the map of its neighbour, on the nouns that have one.

    Returns:
        The mean of (own map - neighbour's map), -1 to 1, with the interval of :func:`grounding`; None where no noun has
        both. An interval above 0 shows that rows and words are in step as far as neighbours look at different things.
    """
    names: list[str] = []
    drops: list[float] = []
    for caption in captions:
        for score, shifted_score in zip(score_nouns(caption), score_nouns(caption, shift), strict=True):
            if score is not None and shifted_score is not None and by.key in score.values:
                names.append(caption.name)
                drops.append(score.values[by.key][WORD] - shifted_score.values[by.key][WORD])
    return clustered_means(names, np.array(drops)[:, None], -1.0)[0] if drops else None
