"""The verdict: every threshold from both sides, and a sentence that says what was found and nothing else."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from decimal import ROUND_HALF_EVEN, Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitrine.attribution.baselines import random_map
from vitrine.attribution.verdict import (
    CENTRE_MARGIN,
    MAX_CORRELATION,
    MAX_UNIFORM_MASS,
    MIN_OUTLIER_MASS,
    Evidence,
    judge,
    top_decile_mass,
)
from vitrine.results import Interval, shown_number

GOOD = Evidence(
    pictures=1, correlation=0.02, metric="gap", advantage=0.21, top_decile_mass=0.45, outlier_mass=0.0, outliers=0.0
)


def test_a_good_map_can_be_believed() -> None:
    verdict = judge(GOOD)
    assert verdict.flag == "believable"
    assert (verdict.sensitive_to_weights, verdict.better_than_centre) == (True, True)
    assert (verdict.spread_evenly, verdict.carried_by_outliers) == (False, False)
    assert verdict.sentence == (
        "This map can be believed: it changes with randomised weights (rank correlation 0.02), is better than a blob "
        "in the centre (insertion − deletion +0.21) and is not spread evenly (the strongest tenth of the patches "
        "holds 45 %)."
    )


@pytest.mark.parametrize(
    ("change", "question", "words"),
    [
        ({"correlation": MAX_CORRELATION}, "sensitive_to_weights", "hardly changes with randomised weights"),
        ({"advantage": CENTRE_MARGIN}, "better_than_centre", "no better than a blob in the centre"),
        ({"advantage": 0.3, "advantage_interval": Interval(0.0, 0.6)}, "better_than_centre", "no better than"),
        ({"advantage": -0.3, "advantage_interval": Interval(-0.6, -0.1)}, "better_than_centre", "worse than"),
        ({"top_decile_mass": np.nextafter(MAX_UNIFORM_MASS, 0)}, "spread_evenly", "spread evenly (the strongest tenth"),
        (
            {"outlier_mass": MIN_OUTLIER_MASS, "outliers": 2.0},
            "carried_by_outliers",
            "carried by outlier tokens (2 a picture",
        ),
    ],
)
def test_each_thing_against_a_map_is_enough_for_doubt(change: dict[str, object], question: str, words: str) -> None:
    good, bad = judge(GOOD), judge(replace(GOOD, **change))
    assert bad.flag == "doubtful"
    assert getattr(bad, question) is (not getattr(good, question))
    others = {"sensitive_to_weights", "better_than_centre", "spread_evenly", "carried_by_outliers"} - {question}
    assert all(getattr(bad, other) is getattr(good, other) for other in others)
    assert bad.sentence.startswith("Do not rely on this map: it ")
    assert words in bad.sentence.split(". ")[0]


@pytest.mark.parametrize(
    "change",
    [
        {"correlation": np.nextafter(MAX_CORRELATION, 0)},
        {"correlation": -0.9},
        {"advantage": np.nextafter(CENTRE_MARGIN, 1)},
        {"advantage": 0.001, "advantage_interval": Interval(0.0005, 0.002)},
        {"top_decile_mass": MAX_UNIFORM_MASS},
        {"outlier_mass": np.nextafter(MIN_OUTLIER_MASS, 0)},
    ],
)
def test_just_on_the_good_side_of_a_threshold_is_good(change: dict[str, object]) -> None:
    assert judge(replace(GOOD, **change)).flag == "believable"


def test_what_was_not_checked_is_not_claimed() -> None:
    nothing = judge(Evidence())
    assert nothing.flag == "not checked"
    assert nothing.sentence == (
        "Nothing speaks against this map so far, but whether the weights matter and whether a blob in the centre does "
        "as well were not checked."
    )
    half = judge(replace(GOOD, correlation=None))
    assert half.flag == "not checked"
    assert half.sensitive_to_weights is None
    assert half.sentence.endswith("whether the weights matter was not checked.")
    even = judge(Evidence(top_decile_mass=0.101))
    assert even.flag == "doubtful"
    assert even.sentence == (
        "Do not rely on this map: it is spread evenly (the strongest tenth of the patches holds 10 %, uniform is 10 %)."
    )
    assert judge(replace(GOOD, outlier_mass=None, outliers=None, top_decile_mass=None)).flag == "believable"


def test_many_pictures_are_spoken_of_as_many_with_their_interval() -> None:
    poor = judge(
        Evidence(
            pictures=60,
            correlation=0.81,
            metric="pointing",
            advantage=-0.1,
            advantage_interval=Interval(-0.2, -0.01),
            top_decile_mass=0.3,
            outlier_mass=0.4,
            outliers=2.5,
        )
    )
    assert poor.sentence == (
        "Do not rely on these maps: they hardly change with randomised weights (rank correlation 0.81), are worse than "
        "a blob in the centre (pointing hit −0.10, 95 % interval −0.20 to −0.01) and are carried by outlier tokens "
        "(2.5 a picture, 40 % of the mass). In their favour, they are not spread evenly (the strongest tenth of the "
        "patches holds 30 %)."
    )


@given(
    st.integers(1, 50),
    st.none() | st.floats(-1, 1),
    st.none() | st.floats(-1, 1),
    st.none() | st.floats(0, 1),
    st.none() | st.floats(0, 1),
)
def test_any_evidence_has_one_flag_and_at_most_two_sentences(
    pictures: int, correlation: float | None, advantage: float | None, tenth: float | None, outlier_mass: float | None
) -> None:
    verdict = judge(Evidence(pictures, correlation, "gap", advantage, None, tenth, outlier_mass, None))
    assert verdict == judge(verdict.evidence)
    against = [
        verdict.sensitive_to_weights is False,
        verdict.better_than_centre is False,
        verdict.spread_evenly is True,
        verdict.carried_by_outliers is True,
    ]
    complete = verdict.sensitive_to_weights is not None and verdict.better_than_centre is not None
    assert verdict.flag == ("doubtful" if any(against) else "believable" if complete else "not checked")
    assert 1 <= verdict.sentence.count(". ") + 1 <= 2
    assert "None" not in verdict.sentence
    assert "()" not in verdict.sentence
    assert "nan" not in verdict.sentence
    content = json.loads(json.dumps(verdict.to_dict(), allow_nan=False))
    assert content["flag"] == verdict.flag
    assert content["evidence"]["pictures"] == pictures


def test_numpy_numbers_give_plain_answers_and_intervals_are_stored() -> None:
    verdict = judge(
        replace(
            GOOD, correlation=np.float32(0.1), top_decile_mass=np.float64(0.4), advantage_interval=Interval(0.1, 0.3)
        )
    )
    assert verdict.sensitive_to_weights is True
    assert verdict.spread_evenly is False
    assert verdict.to_dict()["evidence"]["advantage_interval"] == [0.1, 0.3]


def test_unusable_evidence_is_refused() -> None:
    for change in ({"correlation": np.nan}, {"pictures": 0}, {"outlier_mass": np.inf}):
        with pytest.raises(ValueError, match="finite numbers"):
            judge(replace(GOOD, **change))
    with pytest.raises(ValueError, match="No metric"):
        judge(replace(GOOD, metric="beauty"))


# --- numbers in sentences


@given(st.floats(-2, 2), st.integers(0, 4), st.booleans())
def test_a_shown_number_is_the_rounded_one_and_zero_has_no_sign(value: float, decimals: int, sign: bool) -> None:
    exact = Decimal(value).quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_EVEN)
    mark = "" if exact == 0 else "−" if exact < 0 else "+" if sign else ""
    assert shown_number(value, decimals, sign=sign) == f"{mark}{abs(exact)}"


@pytest.mark.parametrize("value", [-0.004, -0.0, 0.0, 0.004])
def test_no_verdict_speaks_of_a_signed_zero(value: float) -> None:
    """Of numbers on both sides of zero that round to it."""
    for better in (Interval(value, value), None):
        evidence = replace(GOOD, correlation=value, advantage=value, advantage_interval=better)
        sentence = judge(evidence).sentence
        assert "rank correlation 0.00)" in sentence and "insertion − deletion 0.00" in sentence
        assert not re.search(r"[-+−]0\.00", sentence)


# --- the strongest tenth


def slow_tenth(scores_RC: np.ndarray) -> float:
    """Cut every patch into ten equal parts, and add up the strongest tenth of all parts."""
    parts = sorted((max(0.0, float(score)) / 10 for score in scores_RC.ravel() for _ in range(10)), reverse=True)
    return sum(parts[: scores_RC.size]) / sum(parts)


@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 9))
def test_the_strongest_tenth_equals_a_slow_count(seed: int, rows: int, columns: int) -> None:
    scores_BRC = np.random.default_rng(seed).normal(0.5, 1, (3, rows, columns))
    scores_BRC[:, 0, 0] = 1  # some mass
    found_B = top_decile_mass(scores_BRC)
    assert found_B == pytest.approx([slow_tenth(scores_RC) for scores_RC in scores_BRC])
    assert top_decile_mass(scores_BRC[0]) == pytest.approx(found_B[:1])


def test_the_strongest_tenth_at_its_ends() -> None:
    for side in (1, 3, 7, 14):
        assert top_decile_mass(np.full((side, side), 0.2)) == pytest.approx([0.1])
    assert top_decile_mass(-np.ones((4, 4))) == pytest.approx([0.1])  # no mass: it points nowhere
    single_RC = np.zeros((14, 14))
    single_RC[3, 3] = 2
    assert top_decile_mass(single_RC) == pytest.approx([1])
    assert judge(Evidence(top_decile_mass=float(top_decile_mass(1 + 0.1 * random_map(14, 14, 0))[0]))).spread_evenly
    with pytest.raises(ValueError, match="finite scores"):
        top_decile_mass(np.array([[np.nan]]))
