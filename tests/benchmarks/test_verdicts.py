"""The benchmark of verdicts: what counts as worse, what stands in the documentation, and the area under a curve."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from types import ModuleType

import numpy as np
import pytest
from harness.error_rates import TOLERANCE, Aim, RateResults, RateTable, worse_aims
from support.paths import CHECKOUT

BENCHMARKS = CHECKOUT / "benchmarks"


@pytest.fixture(scope="module")
def verdicts() -> Iterator[ModuleType]:
    """The script, as where it runs."""
    for package in ("transformers", "pytorch_pretrained_vit"):
        pytest.importorskip(package, reason=f"the benchmarks name their versions of {package}, of the extra [bench]")
    sys.path.insert(0, str(BENCHMARKS))
    import verdicts

    yield verdicts
    sys.path.remove(str(BENCHMARKS))


def table(*aims: Aim, section: str = "pictures") -> RateTable:
    return RateTable(section, "A table", ("map", "rate"), (("mask", "0.8"),), aims, ("A note.",))


def test_an_aim_is_met_or_said_to_be_missed() -> None:
    assert Aim("mask", 0.8, "at least", 0.8).is_met
    assert "**missed**" in Aim("mask", 0.79, "at least", 0.8).sentence
    assert Aim("random", 0.05, "at most", 0.05).is_met
    assert "**missed**" in Aim("random", 0.06, "at most", 0.05).sentence


def test_a_rate_that_got_worse_by_more_than_noise_is_found_whichever_way_it_should_go() -> None:
    high, low = Aim("mask", 0.85, "at least", 0.8), Aim("random", 0.03, "at most", 0.05)
    for change, expected in ((0.0, 0), (TOLERANCE / 2, 0), (TOLERANCE + 0.01, 2), (-0.5, 0)):
        now = table(replace(high, value=high.value - change), replace(low, value=low.value + change))
        assert len(worse_aims([table(high, low)], [now])) == expected
    assert worse_aims([], [table(high)]) == []


def test_results_come_back_from_their_file_and_stand_in_the_page(verdicts: ModuleType) -> None:
    made = RateResults({"machine": "one"}, {"pictures": 4}, [table(Aim("mask", 0.5, "at least", 0.8))], 1.0)
    again = RateResults.from_dict(json.loads(json.dumps(made.to_dict())))
    assert again.tables == made.tables
    start, end = "<!-- table pictures, written by `make verdicts` -->\n", "<!-- end of table -->"
    page = verdicts.with_tables(f"before\n{start}old\n{end}\nafter\n", made)
    assert page.startswith(f"before\n{start}**A table**") and page.endswith(f"{end}\nafter\n") and "old" not in page
    assert "| mask | 0.8 |" in page and "aim: at least 0.8, **missed**" in page and "- A note." in page
    assert verdicts.with_tables(page, made) == page


def test_one_section_measured_anew_replaces_its_tables_alone(verdicts: ModuleType) -> None:
    before = RateResults({}, {}, [table(), table(section="words")], 1.0)
    made = RateResults({}, {}, [replace(table(), title="Another")], 2.0)
    both = verdicts._replace_sections(before, made, ["pictures"])
    assert [(each.section, each.title) for each in both.tables] == [("pictures", "Another"), ("words", "A table")]


def test_the_documentation_has_the_tables_that_were_measured(verdicts: ModuleType) -> None:
    results = verdicts._read(BENCHMARKS / "verdicts.json")
    page = verdicts.PAGE.read_text("utf-8")
    assert verdicts.with_tables(page, results) == page
    assert results.settings == asdict(verdicts.FULL)
    for name in {each.section for each in results.tables}:
        assert f"<!-- table {name}, written by `make verdicts` -->" in page


def test_the_area_under_the_curve_is_the_share_of_pairs(verdicts: ModuleType) -> None:
    from verdict_pictures import area_under_curve

    rng = np.random.default_rng(0)
    high, low = rng.integers(0, 6, 30).tolist(), rng.integers(0, 5, 20).tolist()
    pairs = [(a > b) + (a == b) / 2 for a in high for b in low]
    assert area_under_curve(high, low) == pytest.approx(np.mean(pairs))
    assert np.isnan(area_under_curve([], [1.0]))
