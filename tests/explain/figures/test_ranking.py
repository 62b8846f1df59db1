"""Methods ranked, as text, Markdown, CSV and a figure: the right numbers, nothing clipped, the same bytes twice."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from support.figures import require_tidy

from vitrine.attribution.ranking import METRICS, Ranking, ScoredMethod, metric, rank_methods
from vitrine.explain.figures.ranking import (
    STANDINGS,
    methods_csv,
    methods_figure,
    methods_table,
    methods_text,
    save_methods_figure,
)
from vitrine.plotting.style import ACCENT, GREY, INK

PLAIN = ("gap", "insertion", "deletion")


def make(*entries: tuple[str, float, bool, float | None], keys: tuple[str, ...] = PLAIN, pictures: int = 40) -> Ranking:
    """A ranking of methods (name, how good from 0 to 1, control, seconds)."""
    methods = []
    for number, (name, good, control, seconds) in enumerate(entries):
        rng = np.random.default_rng(number)
        values = {}
        for key in keys:
            of = metric(key)
            good_P = np.clip(rng.normal(good if of.higher_is_better else 1 - good, 0.15, pictures), of.low, 1)
            values[key] = (rng.random(pictures) < good).astype(float) if key == "pointing" else good_P
        methods.append(ScoredMethod(name, control, values, seconds))
    return rank_methods(methods)


USUAL = (
    ("relevance", 0.9, False, 0.031),
    ("attention", 0.75, False, 0.0089),
    ("occlusion", 0.9, False, 13.2),
    ("random", 0.1, True, None),
    ("centre blob", 0.6, True, None),
)
RANKINGS = {
    "without masks": make(*USUAL),
    "all metrics": make(*USUAL, keys=tuple(each.key for each in METRICS)),
    "one method": make(USUAL[0]),
    "one picture": make(*USUAL, pictures=1),
    "below zero": make(*USUAL, ("confused", -0.7, True, None)),
    "long names": make(
        ("a method that has quite a long name and an option of 3", 0.5, False, 123.4),
        ("$x_1$", 0.4, False, 1e-5),
        ("attention of the last layer, weights shuffled", 0.2, True, None),
    ),
    "long names, all metrics": make(
        ("attention of the last layer, weights shuffled", 0.5, False, 1e-5),
        ("attention, layer 11, weights shuffled", 0.4, True, None),
        keys=tuple(each.key for each in METRICS),
    ),
    "many": make(*((f"method {number}", number / 20, number < 4, 0.1 * number) for number in range(14))),
}


@pytest.mark.parametrize("ranking", RANKINGS.values(), ids=RANKINGS.keys())
def test_the_figure_is_tidy(ranking: Ranking) -> None:
    figure = methods_figure(ranking)
    require_tidy(figure)
    assert figure.get_size_inches()[0] == 9  # a README's column


def panel_numbers(figure: Figure, label: str) -> dict[str, list[float]]:
    """What a panel shows: means and ends of intervals from the top, and the best control."""
    axes = next(axes for axes in figure.axes if any(text.get_text() == label for text in axes.texts))
    lines = {"means": [], "ends": [], "control": []}  # type: dict[str, list[float]]
    for line in axes.lines:
        x = [float(value) for value in np.asarray(line.get_xdata())]
        kind = "means" if len(x) == 1 else "control" if line.get_linestyle() == ":" else "ends"
        lines[kind] += x
    return lines


def test_the_figure_draws_the_numbers() -> None:
    ranking = RANKINGS["all metrics"]
    figure = methods_figure(ranking)
    words = [text.get_text() for text in figure.findobj(Text)]
    assert "Methods ranked by pointing hit" in words
    assert sum(word == "higher is better, n = 40" for word in words) == 7
    assert sum(word == "lower is better, n = 40" for word in words) == 3
    for each in METRICS:
        numbers = panel_numbers(figure, each.label)
        estimates = [row.estimates[each.key] for row in ranking.rows]
        assert numbers["means"] == [estimate.mean for estimate in estimates]
        ends = [(estimate.interval.low, estimate.interval.high) for estimate in estimates if estimate.interval]
        assert numbers["ends"] == [end for pair in ends for end in pair]
        controls = [row.estimates[each.key].mean for row in ranking.rows if row.is_control]
        assert numbers["control"] == [(max if each.higher_is_better else min)(controls)] * 2


def test_names_run_from_best_to_worst_and_colours_tell_who_is_best() -> None:
    ranking = RANKINGS["without masks"]
    figure = methods_figure(ranking, "A title")
    names = {text.get_text(): text for text in figure.texts}
    places = [names[row.name].get_position()[1] for row in ranking.rows]
    assert places == sorted(places, reverse=True)
    colours = {row.name: names[row.name].get_color() for row in ranking.rows}
    assert colours["attention"] == INK
    assert colours["random"] == colours["centre blob"] == GREY
    assert {colours["relevance"], colours["occlusion"]} == {ACCENT}  # they tie
    assert "A title" in names
    assert "controls" in names
    assert "controls" not in {text.get_text() for text in methods_figure(RANKINGS["one method"]).texts}


def test_axes_end_at_the_ends_of_the_scale() -> None:
    for axes in methods_figure(RANKINGS["all metrics"]).axes:
        assert axes.get_xlim()[0] == 0
        assert [text.get_text() for text in axes.get_xticklabels()] == ["0", "0.5", "1"]
    gap = methods_figure(RANKINGS["below zero"]).axes[0]
    assert -1 <= gap.get_xlim()[0] < -0.7
    assert "−0.5" in [text.get_text() for text in gap.get_xticklabels()]


def test_the_table_says_the_same_as_the_ranking() -> None:
    ranking = RANKINGS["without masks"]
    table = methods_table(ranking)
    assert table.columns == (
        "method",
        "insertion − deletion, n = 40",
        "insertion area, n = 40",
        "deletion area, n = 40",
        "s/picture",
        "MB/picture",
        "by insertion − deletion",
    )
    assert table.final == 0
    for row, cells in zip(ranking.rows, table.rows, strict=True):
        estimate = row.estimates["gap"]
        assert estimate.interval is not None
        cell = f"{estimate.mean:.3f} ({estimate.interval.low:.2f} to {estimate.interval.high:.2f})"
        assert cells[0] == (f"{row.name} (control)" if row.is_control else row.name)
        assert cells[1] == cell.replace("-", "−")
        assert cells[-1] == STANDINGS[row.standing]
    by_name = {str(cells[0]): cells[-3] for cells in table.rows}
    assert by_name["occlusion"] == "13.2"
    assert by_name["attention"] == "0.009"
    assert by_name["random (control)"] is None
    assert methods_table(RANKINGS["one picture"]).rows[1][-1] == "too few pictures"
    assert "to" not in str(methods_table(RANKINGS["one picture"]).rows[1][1])
    assert methods_table(ranking).markdown().splitlines()[2].startswith("| **")


def test_every_column_says_on_how_many_pictures_it_was_measured() -> None:
    """Of twelve pictures four have the second number: it must not stand under "12 pictures"."""
    gap_P = np.where(np.arange(12) < 4, 0.5, np.nan)
    ranking = rank_methods([ScoredMethod("one", False, {"pointing": np.ones(12), "gap": gap_P})], by="pointing")
    assert methods_table(ranking).columns[1:3] == ("pointing hit, n = 12", "insertion − deletion, n = 4")
    words = [text.get_text() for text in methods_figure(ranking).findobj(Text)]
    assert "higher is better, n = 12" in words and "higher is better, n = 4" in words
    by_gap = rank_methods([ScoredMethod("one", False, {"pointing": np.ones(12), "gap": gap_P})], by="gap")
    assert methods_text(by_gap).startswith("Ranked by insertion − deletion on 4 pictures of 12; too few for intervals")
    assert by_gap.to_dict()["methods"][0]["metrics"]["gap"]["n"] == 4


def test_a_mean_that_rounds_to_zero_has_no_sign() -> None:
    values = {"gap": np.full(40, -0.0001)}
    text = methods_text(rank_methods([ScoredMethod("flat", False, values, None)]))
    assert "0.000 (" in text and "\u22120.000" not in text


def test_the_text_stays_narrow_and_shows_every_metric_once() -> None:
    for ranking in RANKINGS.values():
        text = methods_text(ranking)
        caption, *lines = text.splitlines()
        assert caption.startswith(f"Ranked by {ranking.by.label} on ")
        if max(len(row.name) for row in ranking.rows) < 28:
            assert max(map(len, lines)) <= 120
        headings = [line for line in lines if line.lstrip().startswith("method  ")]
        for each in ranking.metrics:
            assert sum(f"  {each.label}, n = " in line for line in headings) >= 1
        assert sum("s/picture" in line for line in headings) == 1


def test_the_csv_has_every_number() -> None:
    for ranking in (RANKINGS["all metrics"], RANKINGS["one picture"]):
        rows = list(csv.DictReader(io.StringIO(methods_csv(ranking).decode(), newline="")))
        assert [row["method"] for row in rows] == [row.name for row in ranking.rows]
        for csv_row, row in zip(rows, ranking.rows, strict=True):
            assert csv_row["control"] == ("yes" if row.is_control else "no")
            assert csv_row["standing"] == row.standing
            assert csv_row["p"] == ("" if row.p is None else str(round(row.p, 6)))
            assert csv_row["seconds_a_picture"] == ("" if row.seconds is None else str(row.seconds))
            for key, estimate in row.estimates.items():
                assert float(csv_row[key]) == pytest.approx(estimate.mean, abs=1e-6)
                assert int(csv_row[f"{key}_n"]) == estimate.n
                if estimate.interval is None:
                    assert csv_row[f"{key}_low"] == csv_row[f"{key}_high"] == ""
                else:
                    assert float(csv_row[f"{key}_low"]) == pytest.approx(estimate.interval.low, abs=1e-6)
                    assert float(csv_row[f"{key}_high"]) == pytest.approx(estimate.interval.high, abs=1e-6)


def test_a_saved_figure_says_where_it_came_from_and_is_the_same_twice(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "a.svg", "b.svg"):
        save_methods_figure(RANKINGS["without masks"], tmp_path / name, {"model": "runs/pets"})
    for kind in ("png", "svg"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()
    assert Image.open(tmp_path / "a.png").info["model"] == "runs/pets"
    assert b"runs/pets" in (tmp_path / "a.svg").read_bytes()
