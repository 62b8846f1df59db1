"""Words and numbers of sentences: the shapes that lists and counts take."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitrine.results import and_n_more, count_of, join_words, list_names, percent, shown_number


@pytest.mark.parametrize(
    ("words", "sentence"), [([], ""), (["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")]
)
def test_words_join_as_in_a_sentence(words: list[str], sentence: str) -> None:
    assert join_words(words) == sentence
    assert join_words(words, last="or") == sentence.replace("and", "or")


@pytest.mark.parametrize(
    ("count", "limit", "shown"),
    [(0, 2, ""), (1, 2, "0"), (2, 2, "0, 1"), (3, 2, "0, 1 and 1 more"), (1002, 2, "0, 1 and 1,000 more")],
)
def test_only_the_first_names_are_named(count: int, limit: int, shown: str) -> None:
    assert and_n_more([str(i) for i in range(count)], limit) == shown


def test_counts_have_their_noun_and_shares_their_sign() -> None:
    assert [count_of(n, "picture") for n in (0, 1, 1500)] == ["0 pictures", "1 picture", "1,500 pictures"]
    assert count_of(2, "class", "classes") == "2 classes"
    assert (percent(0.9375), percent(0.5, 0), percent(1.0)) == ("93.8 %", "50 %", "100.0 %")


@given(st.floats(-2, 2), st.integers(0, 4), st.booleans())
def test_a_shown_number_is_the_rounded_one_and_zero_has_no_sign(value: float, decimals: int, sign: bool) -> None:
    exact = Decimal(value).quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_EVEN)
    mark = "" if exact == 0 else "−" if exact < 0 else "+" if sign else ""
    assert shown_number(value, decimals, sign=sign) == f"{mark}{abs(exact)}"


def test_names_with_commas_are_told_apart() -> None:
    assert list_names(["cat", "crane, bird", "dog"]) == 'cat, "crane, bird", dog'
    assert and_n_more(["a, b", "c", "d"], 2) == '"a, b", c and 1 more'
