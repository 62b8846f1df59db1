"""The seeded split: sizes against exact arithmetic, and independence of order."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from vitrine.data.decode import BytesPicture
from vitrine.data.samples import Sample
from vitrine.data.splits import hold_out

NOTHING = BytesPicture(b"")


def samples(*sizes: int) -> list[Sample]:
    return [Sample(f"{label}/{n}.jpg", NOTHING, label) for label, size in enumerate(sizes) for n in range(size)]


def counts(held_out: tuple[Sample, ...]) -> dict[int | None, int]:
    return dict(Counter(sample.label for sample in held_out))


def test_shares_are_proportional() -> None:
    rest, held_out = hold_out(samples(100, 50, 10), 32)
    assert counts(held_out) == {0: 20, 1: 10, 2: 2}
    assert len(rest) == 128


def test_largest_remainders_get_what_is_left() -> None:
    # shares of 10 among 47, 16, 15, 22: 4.7, 1.6, 1.5, 2.2; floors 4 + 1 + 1 + 2 = 8; the two left go to .7 and .6
    _, held_out = hold_out(samples(47, 16, 15, 22), 10)
    assert counts(held_out) == {0: 5, 1: 2, 2: 1, 3: 2}


def test_every_class_of_two_is_on_both_sides() -> None:
    rest, held_out = hold_out(samples(200, 2, 2, 1), 10)
    assert {0, 1, 2} == set(counts(held_out))
    assert {0, 1, 2, 3} == set(counts(rest))
    rest, held_out = hold_out(samples(2, 2), 4)
    assert counts(rest) == counts(held_out) == {0: 1, 1: 1}


def test_exact_counts_where_classes_may_miss_out() -> None:
    _, held_out = hold_out(samples(*[99] * 36, 105), 1500, keep_both=False)
    assert len(held_out) == 1500
    assert set(counts(held_out).values()) <= {40, 41, 42, 43}


def test_order_and_other_pictures_do_not_matter_but_the_seed_does() -> None:
    everything = samples(30, 20)
    _, held_out = hold_out(everything, 10)
    _, again = hold_out(everything[::-1], 10)
    assert {s.name for s in held_out} == {s.name for s in again}
    assert [s.name for s in held_out] == [s.name for s in everything if s in held_out]
    _, other = hold_out(everything, 10, seed=1)
    assert {s.name for s in held_out} != {s.name for s in other}
    _, more = hold_out([*everything, Sample("0/new.jpg", NOTHING, 0)], 10)
    assert len({s.name for s in held_out} - {s.name for s in more}) <= 2


def test_the_draw_itself_is_fixed() -> None:
    """A split that changed with a library's or a Python's version would compare runs on different pictures."""
    _, held_out = hold_out(samples(6, 6), 4)
    assert [s.name for s in held_out] == ["0/0.jpg", "0/5.jpg", "1/3.jpg", "1/5.jpg"]  # by coreutils' sha256sum


def test_nothing_to_split() -> None:
    assert hold_out([], 3) == ((), ())


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.floats(0.01, 0.9), st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_a_split_is_a_partition(sizes: list[int], fraction: float, seed: int) -> None:
    everything = samples(*sizes)
    count = round(len(everything) * fraction)
    rest, held_out = hold_out(everything, count, seed=seed)
    assert sorted(s.name for s in (*rest, *held_out)) == sorted(s.name for s in everything)
    for label, size in enumerate(sizes):
        share = counts(held_out).get(label, 0)
        assert (share == 0) if size == 1 else (1 <= share <= size - 1)
    exactly = hold_out(everything, count, seed=seed, keep_both=False)[1]
    assert len(exactly) == count
    for label, size in enumerate(sizes):
        assert abs(counts(exactly).get(label, 0) - size * count / len(everything)) < 1
