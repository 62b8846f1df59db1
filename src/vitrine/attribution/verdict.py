"""The verdict on a map: four questions with yes or no, the numbers behind them, one flag and a sentence.

Axes: B pictures, R grid rows, C grid columns.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vitrine.attribution.ranking import metric
from vitrine.results import Interval, join_words, percent, round_number, shown_number

MAX_CORRELATION = 0.5
"""Mean rank correlation with the map of a fully randomised model from which a map does not depend on the weights. At
0.5 a quarter of one map's order is explained by the other. Attention of ``vitrine/scenes-tiny`` has -0.03 on average,
and 0.25 as its standard deviation from picture to picture, so that few single pictures get here by accident."""

CENTRE_MARGIN = 0.05
"""What a map must be better by than a centre blob where there are too few pictures for an interval, in the metric's own
unit. Of 128 scenes, random maps beat the blob by this much in insertion less deletion on 2 %."""

MAX_UNIFORM_MASS = 0.15
"""Share of the mass on the strongest tenth of patches below which a map is spread evenly; 0.10 is uniform. Untrained
vision transformers have 0.100 to 0.108, ``vitrine/scenes-tiny`` with shuffled weights 0.11 to 0.13, trained 0.41 and
more: one and a half times uniform lies above all that noise, and on a scale of multiples of uniform hardly shows."""

MIN_OUTLIER_MASS = 0.25
"""Share of the mass on outlier tokens from which they carry a map. They are a few per cent of the patches: with a
quarter of the mass they are its brightest spots, and what is seen first has nothing to do with where it lies."""

_JSON_KEYS = {"top_decile_mass": "strongest_tenth", "outlier_mass": "carried"}
"""Keys in files of those attributes of :class:`Evidence` that have another name there."""

Flag = Literal["believable", "doubtful", "not checked"]


@dataclass(frozen=True)
class Evidence:
    """The numbers that a verdict is decided on, means over the pictures; None was not measured.

    Attributes:
        pictures: how many there were, 1 or more.
        correlation: with the map of the fully randomised model, -1 to 1: ``Sensitivity.final_B``.
        metric: key of the metric that map and centre blob were compared by.
        advantage: by how much the map is better than the centre blob in it, whatever its direction.
        advantage_interval: its 95 % interval from pairs; None with too few pictures.
        top_decile_mass: share of the mass on the strongest tenth of patches, 0.1 to 1: :func:`top_decile_mass`.
        outlier_mass: share of the mass on outlier tokens, 0 to 1.
        outliers: outlier tokens a picture.
    """

    pictures: int = 1
    correlation: float | None = None
    metric: str = "gap"
    advantage: float | None = None
    advantage_interval: Interval | None = None
    top_decile_mass: float | None = None
    outlier_mass: float | None = None
    outliers: float | None = None


@dataclass(frozen=True)
class Verdict:
    """Whether a map can be believed. None: it was not checked.

    Attributes:
        sensitive_to_weights: it changes when the weights are randomised.
        better_than_centre: it is better than a blob in the centre.
        spread_evenly: it is uniform but for noise.
        carried_by_outliers: outlier tokens hold much of it.
        evidence: the numbers.
    """

    sensitive_to_weights: bool | None
    better_than_centre: bool | None
    spread_evenly: bool | None
    carried_by_outliers: bool | None
    evidence: Evidence

    @property
    def flag(self) -> Flag:
        """Doubtful with anything against it; else believable if it passed both tests that a map of nothing fails
        (weights and centre), and not checked if one of them was not made."""
        if self._against():
            return "doubtful"
        return "believable" if self.sensitive_to_weights and self.better_than_centre else "not checked"

    @property
    def sentence(self) -> str:
        """The verdict in one or two sentences for a person."""
        one = self.evidence.pictures == 1
        maps, it, its = ("this map", "it", "its") if one else ("these maps", "they", "their")
        against, in_favour = self._against(), self._in_favour()
        if against:
            second = f" In {its} favour, {it} {join_words(in_favour)}." if in_favour else ""
            return f"Do not rely on {maps}: {it} {join_words(against)}.{second}"
        if self.flag == "believable":
            return f"{maps.capitalize()} can be believed: {it} {join_words(in_favour)}."
        missing = [
            *(["whether the weights matter"] if self.sensitive_to_weights is None else []),
            *(["whether a blob in the centre does as well"] if self.better_than_centre is None else []),
        ]
        was = "was" if len(missing) == 1 else "were"
        return f"Nothing speaks against {maps} so far, but {join_words(missing)} {was} not checked."

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: flag, sentence, the four answers, and the numbers rounded to ``DECIMALS``."""
        numbers = {_JSON_KEYS.get(name, name): value for name, value in asdict(self.evidence).items()}
        if self.evidence.advantage_interval is not None:
            numbers["advantage_interval"] = [
                self.evidence.advantage_interval.low,
                self.evidence.advantage_interval.high,
            ]
        return {
            "flag": self.flag,
            "sentence": self.sentence,
            "sensitive_to_weights": self.sensitive_to_weights,
            "better_than_centre": self.better_than_centre,
            "spread_evenly": self.spread_evenly,
            "carried_by_outliers": self.carried_by_outliers,
            "evidence": {name: _round_floats(value) for name, value in numbers.items()},
        }

    @property
    def _verbs(self) -> tuple[str, str]:
        return ("is", "changes") if self.evidence.pictures == 1 else ("are", "change")

    def _against(self) -> list[str]:
        evidence, (are, change) = self.evidence, self._verbs
        worse = evidence.advantage_interval is not None and evidence.advantage_interval.high < 0
        reasons = [
            (self.spread_evenly is True, f"{are} spread evenly ({_tenth(evidence)}, uniform is 10 %)"),
            (self.sensitive_to_weights is False, f"hardly {change} with randomised weights ({_weights(evidence)})"),
            (
                self.better_than_centre is False,
                f"{are} {'worse' if worse else 'no better'} than a blob in the centre ({_centre(evidence)})",
            ),
            (self.carried_by_outliers is True, f"{are} carried by outlier tokens ({_outliers(evidence)})"),
        ]
        return [words for true, words in reasons if true]

    def _in_favour(self) -> list[str]:
        evidence, (are, change) = self.evidence, self._verbs
        reasons = [
            (self.sensitive_to_weights is True, f"{change} with randomised weights ({_weights(evidence)})"),
            (self.better_than_centre is True, f"{are} better than a blob in the centre ({_centre(evidence)})"),
            (self.spread_evenly is False, f"{are} not spread evenly ({_tenth(evidence)})"),
        ]
        return [words for true, words in reasons if true]


def judge(evidence: Evidence) -> Verdict:
    """Decide the four questions by the thresholds of this module.

    With an interval, the map is better than the centre blob where the whole interval lies above 0; without one, where
    the advantage is more than :data:`CENTRE_MARGIN`.

    Raises:
        ValueError: an unknown metric, no picture, or a number that is not finite.
    """
    metric(evidence.metric)
    numbers = (
        evidence.correlation,
        evidence.advantage,
        evidence.top_decile_mass,
        evidence.outlier_mass,
        evidence.outliers,
    )
    if evidence.pictures < 1 or not all(number is None or np.isfinite(number) for number in numbers):
        raise ValueError(f"Expected finite numbers from one picture or more; got {evidence}.")
    better: bool | None = None
    if evidence.advantage_interval is not None:
        better = bool(evidence.advantage_interval.low > 0)
    elif evidence.advantage is not None:
        better = bool(evidence.advantage > CENTRE_MARGIN)
    return Verdict(
        sensitive_to_weights=None if evidence.correlation is None else bool(evidence.correlation < MAX_CORRELATION),
        better_than_centre=better,
        spread_evenly=None if evidence.top_decile_mass is None else bool(evidence.top_decile_mass < MAX_UNIFORM_MASS),
        carried_by_outliers=None if evidence.outlier_mass is None else bool(evidence.outlier_mass >= MIN_OUTLIER_MASS),
        evidence=evidence,
    )


def top_decile_mass(scores_BRC: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Share of each map's positive mass that its strongest tenth of patches holds: (B,), 0.1 (uniform) to 1.

    Where a tenth is no whole number of patches, the last one counts in part, so that a uniform map has 0.1 on any
    grid. A map without positive mass points nowhere and counts as uniform.

    Args:
        scores_BRC: finite; (R, C) is taken as one picture.

    Raises:
        ValueError: a score is not finite, or there is none.
    """
    scores_BRC = np.asarray(scores_BRC, dtype=np.float64)
    if scores_BRC.ndim not in (2, 3) or not scores_BRC.size or not np.isfinite(scores_BRC).all():
        raise ValueError(f"Expected finite scores (B, rows, columns); got shape {scores_BRC.shape}.")
    mass_BN = np.maximum(scores_BRC, 0).reshape(-1, scores_BRC.shape[-2] * scores_BRC.shape[-1])
    mass_BN[mass_BN.sum(axis=1) == 0] = 1
    counted_N = np.clip(mass_BN.shape[1] / 10 - np.arange(mass_BN.shape[1]), 0, 1)
    held_B = np.sort(mass_BN, axis=1)[:, ::-1] @ counted_N / mass_BN.sum(axis=1)
    return np.asarray(held_B, dtype=np.float64)


def _weights(evidence: Evidence) -> str:
    return "" if evidence.correlation is None else f"rank correlation {shown_number(evidence.correlation)}"


def _tenth(evidence: Evidence) -> str:
    share = evidence.top_decile_mass
    return "" if share is None else f"the strongest tenth of the patches holds {percent(share, 0)}"


def _outliers(evidence: Evidence) -> str:
    if evidence.outlier_mass is None:
        return ""
    count = "" if evidence.outliers is None else f"{evidence.outliers:.3g} a picture, "
    return f"{count}{percent(evidence.outlier_mass, 0)} of the mass"


def _centre(evidence: Evidence) -> str:
    if evidence.advantage is None:
        return ""
    interval, ends = evidence.advantage_interval, ""
    if interval is not None:
        low, high = (shown_number(end, sign=True) for end in (interval.low, interval.high))
        ends = f", 95 % interval {low} to {high}"
    return f"{metric(evidence.metric).label} {shown_number(evidence.advantage, sign=True)}{ends}"


def _round_floats(value: Any) -> Any:
    if isinstance(value, list):
        return [_round_floats(part) for part in value]
    return round_number(value) if isinstance(value, float) else value
