"""The verdict on a method's maps of many pictures: what was tested, what came of it, one flag and a few sentences.

Axes: B pictures, R grid rows, C grid columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vitrine.attribution.ranking import Estimate, PairedDifference, metric
from vitrine.metrics.intervals import MIN_PICTURES, wilson
from vitrine.metrics.paired_tests import LEVEL, holm
from vitrine.results import Interval, agree, count_of, join_words, percent, round_number, shown_number

MIN_LEAD = 0.05
"""What a method must lead every control by, in the metric's unit: a smaller lead is of no use, however sure it is."""

MAX_CORRELATION = 0.5
"""Mean rank correlation with the maps of a model whose head is shuffled, from which maps are not about the class. At
0.5 a quarter of one map's order is explained by the other. On 200 scenes Grad-CAM has 0.15 there, relevance 0.75."""

MAX_UNIFORM_MASS = 0.15
"""Share of the mass on the strongest tenth of patches below which a map is nearly even; 0.10 is uniform. Untrained
vision transformers have 0.100 to 0.108, ``vitrine/scenes-tiny`` with shuffled weights 0.11 to 0.13, trained 0.41 and
more."""

MIN_OUTLIER_MASS = 0.25
"""Share of the mass on outlier tokens from which they carry a map: they are a few per cent of the patches."""

HEAD, EVERYTHING = "head", "embedding"  # first and last stage of the cascade, as weight_randomization names them

Flag = Literal["believable", "doubtful", "cannot tell"]


@dataclass(frozen=True)
class Accuracy:
    """What a model answered on the pictures whose maps are judged.

    Attributes:
        right: pictures that it gave their own label.
        pictures: with a known label.
        chance: what always naming the commonest label among them reaches, or one label of the model drawn by lot if
            that is more.
    """

    right: int
    pictures: int
    chance: float

    @property
    def interval(self) -> Interval:
        """The 95 % interval of the accuracy (Wilson)."""
        return wilson(self.right, self.pictures)

    @property
    def required_share(self) -> float:
        """Half of what chance leaves: a model below it is wrong on most pictures that chance does not get right."""
        return self.chance + (1 - self.chance) / 2

    @property
    def knows(self) -> bool | None:
        """Whether the whole interval lies above :attr:`required_share`; False where it lies below; None between, or
        with less than ``MIN_PICTURES``."""
        if self.pictures < MIN_PICTURES:
            return None
        return _side(self.interval, self.required_share)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, rounded to ``DECIMALS``."""
        return {
            "right": self.right,
            "pictures": self.pictures,
            "interval_95": [round_number(self.interval.low), round_number(self.interval.high)],
            "chance": round_number(self.chance),
            "required": round_number(self.required_share),
        }


@dataclass(frozen=True)
class ControlComparison:
    """A control beside the method, on the same pictures.

    Attributes:
        name: of the control, in words that follow "better than".
        mean: of the control.
        lead: by how much the method is better.
    """

    name: str
    mean: float
    lead: PairedDifference


@dataclass(frozen=True)
class Stage:
    """A stage of the cascade: its weights are shuffled, and those of all stages before it.

    Attributes:
        name: "head", "block 6" and so on, "embedding".
        correlation: rank correlation of the maps with those of the intact model, over pictures.
    """

    name: str
    correlation: Estimate


@dataclass(frozen=True)
class SetEvidence:
    """The numbers that a verdict on many pictures is decided on.

    Attributes:
        metric: key of the metric that method and controls are compared by.
        mean: of the method in it.
        controls: a blob in the centre, edges, and the same method on a model whose weights are all shuffled.
        stages: the cascade of shuffled weights, from the head down; empty where it was not made.
        for_a_class: whether the method explains a class. A method that does not cannot depend on the head.
        accuracy: of the model; None where no labels are known.
        right, wrong: the mean again, over pictures with a right answer and over those with a wrong one; None without.
            All of them count in ``mean``: a map of a wrong answer that misses the object speaks against the method.
        blank: maps that are zero everywhere.
        top_decile_mass: share of the mass on the strongest tenth of patches, 0.1 to 1: :func:`top_decile_mass`.
        outlier_mass: share of the mass on outlier tokens, 0 to 1.
    """

    metric: str
    mean: Estimate
    controls: tuple[ControlComparison, ...]
    stages: tuple[Stage, ...] = ()
    for_a_class: bool = True
    accuracy: Accuracy | None = None
    right: Estimate | None = None
    wrong: Estimate | None = None
    blank: int = 0
    top_decile_mass: float | None = None
    outlier_mass: float | None = None

    @property
    def p(self) -> float:
        """Of the hypothesis that some control is as good: the largest p of all controls, two-sided; 1 where one of them
        is ahead. Rejecting it needs every control to be beaten, so the number of controls is not corrected for
        (R. L. Berger 1982, Multiparameter hypothesis testing and acceptance sampling, Technometrics 24)."""
        return max(each.lead.p if each.lead.difference.mean > 0 else 1.0 for each in self.controls)

    def stage(self, name: str) -> Estimate | None:
        """The correlation at a stage; None where it was not made."""
        return next((stage.correlation for stage in self.stages if stage.name == name), None)


@dataclass(frozen=True, repr=False)
class SetVerdict:
    """How far a method's maps can be relied on, by what was tested on many pictures.

    Attributes:
        evidence: the numbers.
        methods: how many methods were tried on the same pictures.
        p: of the evidence, corrected for their number (Holm).
    """

    evidence: SetEvidence
    methods: int
    p: float

    def __repr__(self) -> str:
        return f"<{self.sentence}>"

    def __str__(self) -> str:
        return self.sentence

    @property
    def beats_controls(self) -> bool | None:
        """Better than every control, by :data:`MIN_LEAD` or more and with a corrected p of at most ``LEVEL``. False
        where some control is certainly not beaten by that much; None where the pictures are too few to say."""
        leads = [each.lead.difference for each in self.evidence.controls]
        if any(lead.n < MIN_PICTURES for lead in leads):
            return None
        if self.p <= LEVEL and all(lead.mean >= MIN_LEAD for lead in leads):
            return True
        return False if any(lead.interval and lead.interval.high < MIN_LEAD for lead in leads) else None

    @property
    def is_about_the_class(self) -> bool | None:
        """Whether the maps change when the head's weights are shuffled; False for a method that explains no class."""
        if not self.evidence.for_a_class:
            return False
        head = self.evidence.stage(HEAD)
        if head is None or head.interval is None:
            return None
        survives = _side(head.interval, MAX_CORRELATION)
        return None if survives is None else not survives

    @property
    def flag(self) -> Flag:
        """Believable where the method beats every control on a model that knows these pictures; doubtful where one of
        both certainly fails; else it cannot be told. Whether the maps are about the class only changes what for."""
        accuracy = self.evidence.accuracy
        answers = [self.beats_controls, None if accuracy is None else accuracy.knows]
        return "doubtful" if False in answers else "believable" if all(answers) else "cannot tell"

    @property
    def sentence(self) -> str:
        """The verdict in a few sentences: what it is, and every number that it rests on."""
        failures, open_questions = self._reasons(False), self._reasons(None)
        if self.flag == "doubtful":
            claim = f"Do not rely on these maps: {join_words(failures)}."
        elif self.flag == "cannot tell":
            claim = f"Whether these maps can be relied on cannot be told: {join_words(open_questions)}."
        else:
            claim = f"These maps can be believed {self._what_for()}."
        parts = [claim, self._controls_sentence(), self._accuracy_sentence(), self._head_sentence(), *self._remarks()]
        return " ".join(part for part in parts if part)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: flag, sentence, answers, and the numbers rounded to ``DECIMALS``."""
        evidence = self.evidence
        return {
            "flag": self.flag,
            "sentence": self.sentence,
            "beats_controls": self.beats_controls,
            "model_knows_pictures": None if evidence.accuracy is None else evidence.accuracy.knows,
            "about_the_class": self.is_about_the_class,
            "methods_tried": self.methods,
            "p": round_number(self.p),
            "metric": evidence.metric,
            "mean": evidence.mean.to_dict(),
            "controls": [
                {"name": each.name, "mean": round_number(each.mean), "lead": each.lead.to_dict()}
                for each in evidence.controls
            ],
            "rank_correlation_with_shuffled": {each.name: each.correlation.to_dict() for each in evidence.stages},
            "accuracy": None if evidence.accuracy is None else evidence.accuracy.to_dict(),
            "mean_where_right": None if evidence.right is None else evidence.right.to_dict(),
            "mean_where_wrong": None if evidence.wrong is None else evidence.wrong.to_dict(),
            "all_zero_maps": evidence.blank,
            "strongest_tenth": round_number(evidence.top_decile_mass),
            "outlier_mass": round_number(evidence.outlier_mass),
        }

    def _what_for(self) -> str:
        target = "the object" if self.evidence.metric != "gap" else "what the answer depends on"
        if self.is_about_the_class:
            return f"as what speaks for the class: they mark {target}"
        limit = "whether they are about the class cannot be told" if self.is_about_the_class is None else ""
        where = f"as where the model looks: they mark {target}"
        return f"{where}; {limit}" if limit else f"{where}, but not as what speaks for its answer"

    def _reasons(self, answer: bool | None) -> list[str]:
        """What failed (False), or is open (None)."""
        accuracy = self.evidence.accuracy
        reasons = []
        if self.beats_controls is answer:
            leads = [(each.name, each.lead.difference) for each in self.evidence.controls]
            if answer is False:
                names = [name for name, lead in leads if lead.interval and lead.interval.high < MIN_LEAD]
                reasons.append(f"they are no better than {join_words(names, 'or')}")
            elif any(lead.n < MIN_PICTURES for _, lead in leads):
                n = min(lead.n for _, lead in leads)
                reasons.append(
                    f"{count_of(n, 'picture')} {agree(n, 'is', 'are')} too few to compare them with controls"
                )
            else:
                names = [each.name for each in self.evidence.controls if not self._is_beaten(each)]
                reasons.append(f"they are not surely better than {join_words(names, 'or')}")
        if accuracy is None and answer is None:
            reasons.append("these pictures have no labels that say whether the model knows them")
        elif accuracy is not None and accuracy.knows is answer:
            knows = "does not know these pictures" if answer is False else "may not know these pictures"
            reasons.append(f"the model {knows}")
        return reasons

    def _is_beaten(self, control: ControlComparison) -> bool:
        share = self.p if self.evidence.p == 0 else self.p / self.evidence.p  # what the correction multiplies by
        return control.lead.difference.mean >= MIN_LEAD and control.lead.p * share <= LEVEL

    def _controls_sentence(self) -> str:
        evidence = self.evidence
        beside = join_words([f"{each.name} {shown_number(each.mean)}" for each in evidence.controls])
        correction = f", corrected for {count_of(self.methods, 'method')}" if self.methods > 1 else ""
        p = "p < 0.001" if self.p < 0.001 else f"p = {self.p:.2g}"
        label, mean = metric(evidence.metric).label, shown_number(evidence.mean.mean)
        return (
            f"{label[0].upper()}{label[1:]} on {count_of(evidence.mean.n, 'picture')}: {mean}; {beside} "
            f"(test of being better than each of them: {p}{correction})."
        )

    def _accuracy_sentence(self) -> str:
        accuracy = self.evidence.accuracy
        if accuracy is None:
            return ""
        low, high = (percent(end, 0) for end in (accuracy.interval.low, accuracy.interval.high))
        return (
            f"The model is right on {accuracy.right:,} of {count_of(accuracy.pictures, 'picture')} "
            f"({percent(accuracy.right / accuracy.pictures, 0)}, 95 % interval {low} to {high}; "
            f"chance {percent(accuracy.chance, 0)})."
        )

    def _head_sentence(self) -> str:
        head, everything = self.evidence.stage(HEAD), self.evidence.stage(EVERYTHING)
        if head is None or everything is None:
            return ""
        after = f"rank correlation {shown_number(head.mean)}, after all weights {shown_number(everything.mean)}"
        if not self.evidence.for_a_class:
            return f"They explain no class: shuffling the head's weights leaves them as they are ({after})."
        answers = {True: "change", False: "hardly change", None: "may or may not change much"}
        return f"They {answers[self.is_about_the_class]} when the head's weights are shuffled ({after})."

    def _remarks(self) -> list[str]:
        evidence, remarks = self.evidence, []
        if evidence.blank:
            are = "is" if evidence.blank == 1 else "are"
            remarks.append(f"{evidence.blank:,} of {count_of(evidence.mean.n, 'map')} {are} zero everywhere.")
        if evidence.top_decile_mass is not None and evidence.top_decile_mass < MAX_UNIFORM_MASS:
            share = percent(evidence.top_decile_mass, 0)
            remarks.append(
                f"They are nearly even: the strongest tenth of the patches has {share} of a map; were all alike, 10 %."
            )
        if evidence.outlier_mass is not None and evidence.outlier_mass >= MIN_OUTLIER_MASS:
            remarks.append(
                f"Of them, {percent(evidence.outlier_mass, 0)} is on outlier tokens: patches with inner "
                f"numbers far larger "
                "than the others', which say little of their place."
            )
        return remarks


def _side(interval: Interval, value: float) -> bool | None:
    """Whether an interval lies above a value as a whole; False where below; None where it holds it."""
    return True if interval.low > value else False if interval.high < value else None


def judge_sets(evidence: Mapping[str, SetEvidence]) -> dict[str, SetVerdict]:
    """Verdicts on methods that were tried on the same pictures, by name: their p values are corrected for their number.

    Raises:
        ValueError: a method has no control.
    """
    lacking = [name for name, each in evidence.items() if not each.controls]
    if lacking:
        raise ValueError(f"A verdict needs a control to beat; {lacking[0]} has none.")
    corrected_p = holm([each.p for each in evidence.values()])
    return {
        name: SetVerdict(each, len(evidence), p) for (name, each), p in zip(evidence.items(), corrected_p, strict=True)
    }


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
