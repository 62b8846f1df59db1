"""Whether words look at what they name, as text and as a figure: the right numbers, nothing clipped, the same bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from support.figures import require_tidy
from support.grounded_captions import perfect, random_caption

from vitrine.attribution.grounding import CONTROLS, MAPS, GroundedCaption, Grounding, grounding
from vitrine.caption.figures.grounding import grounding_figure, grounding_table, grounding_text, save_grounding_figure
from vitrine.plotting.style import ACCENT, GREY

GOOD = grounding([perfect(seed, hits=0.9) for seed in range(40)])
POOR = grounding([random_caption(seed) for seed in range(40)])
SHIFTED = grounding(
    [
        GroundedCaption(each.name, each.maps, each.placement, each.nouns, absent_nouns=40)
        for each in map(random_caption, range(40))
    ],
    shift=1,
)
RESULTS: dict[str, dict[str, Grounding]] = {
    "one": {"predicted": GOOD},
    "two": {"predicted captions": GOOD, "human captions": POOR},
    "shifted": {"predicted captions": GOOD, "predicted captions, shifted by one word or more": SHIFTED},
    "few": {"predicted": grounding([perfect(seed) for seed in range(3)])},
    "nothing": {"predicted": grounding([]), "human": GOOD},
}


@pytest.mark.parametrize("results", RESULTS.values(), ids=RESULTS.keys())
def test_the_figure_is_tidy(results: dict[str, Grounding]) -> None:
    figure = grounding_figure(results)
    require_tidy(figure)
    assert figure.get_size_inches()[0] == 9  # a README's column


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text)]


def test_the_figure_shows_means_and_intervals() -> None:
    results = RESULTS["two"]
    figure = grounding_figure(results)
    assert len(figure.axes) == 4
    for index, axes in enumerate(figure.axes):
        result, key = [GOOD, POOR][index // 2], ["pointing", "inside"][index % 2]
        row = result.estimates[key]
        assert axes.get_xlim() == (0, 1)
        points = [line for line in axes.lines if line.get_marker() == "o"]
        assert [float(np.ravel(line.get_xdata())[0]) for line in points] == [row[name].mean for name in MAPS]
        assert [line.get_color() for line in points] == [ACCENT, GREY, GREY, GREY]
        heights = [float(np.ravel(line.get_ydata())[0]) for line in points]
        assert heights == sorted(heights)
        assert axes.yaxis_inverted()
        lines = [line for line in axes.lines if line.get_marker() != "o" and line.get_linestyle() == "-"]
        ends = [tuple(np.ravel(line.get_xdata()).tolist()) for line in lines]
        assert ends == [(mean.interval.low, mean.interval.high) for mean in row.values() if mean.interval]
        (dotted_line,) = [line for line in axes.lines if line.get_linestyle() == ":"]
        assert set(np.ravel(dotted_line.get_xdata()).tolist()) == {max(row[name].mean for name in CONTROLS)}
    words = texts(figure)
    for label, result in results.items():
        assert label in words
        assert f"{result.finding}." in words
        for key in ("pointing", "inside"):
            assert f"{result.estimates[key]['word'].mean:.2f}" in words
            for name in CONTROLS:
                lead = result.leads[key][name]
                assert lead.interval is not None
                interval_ends = [f"{round(v, 2) + 0.0:.2f}" for v in (lead.interval.low, lead.interval.high)]
                mean = f"{round(lead.mean, 2) + 0.0:+.2f}".replace("+0.00", "0.00")
                text = f"{mean} ({interval_ends[0]} to {interval_ends[1]})".replace("-", "−")
                assert text in words


def test_what_could_not_be_measured_is_said() -> None:
    words = texts(grounding_figure(RESULTS["nothing"]))
    assert words.count("not measured") == 2
    assert "No noun of these captions can be scored." in words
    assert "0 pictures, 0 nouns" in words


def test_the_table_has_every_number() -> None:
    table = grounding_table(RESULTS["two"])
    assert table.columns[:2] == ("captions", "map")
    assert [row[:2] for row in table.rows] == [(label, name) for label in RESULTS["two"] for name in MAPS.values()]
    word_mean = GOOD.estimates["pointing"]["word"]
    assert word_mean.interval is not None
    assert table.rows[0][2] == f"{word_mean.mean:.3f} ({word_mean.interval.low:.2f} to {word_mean.interval.high:.2f})"
    assert table.rows[0][3] is None
    lead = POOR.leads["inside"]["centre"]
    assert str(table.rows[6][5]).startswith(f"{lead.mean:+.2f}".replace("-", "−"))
    assert grounding_table(RESULTS["one"]).columns[0] == "map"


def test_the_text_counts_what_was_left_out_and_says_the_finding() -> None:
    text = grounding_text(RESULTS["shifted"])
    assert GOOD.sentence in text
    assert SHIFTED.sentence in text
    assert f"40 pictures, {SHIFTED.nouns} nouns; 1,600 more name what is not there; left out: " in text
    assert f"{SHIFTED.unpaired_nouns} (no neighbour)" in text
    assert "95 % intervals over pictures" in text
    assert max(map(len, grounding_table(RESULTS["one"]).text().splitlines())) <= 120
    assert "intervals" not in grounding_text(RESULTS["few"])


@pytest.mark.parametrize("ending", [".png", ".svg"])
def test_the_figure_is_written_with_its_origin_and_the_same_twice(tmp_path: Path, ending: str) -> None:
    first, second = tmp_path / f"a{ending}", tmp_path / f"b{ending}"
    for path in (first, second):
        save_grounding_figure(RESULTS["two"], path, {"vitrine:model": "a/captioner"}, title="Here")
    assert first.read_bytes() == second.read_bytes()
    if ending == ".png":
        with Image.open(first) as image:
            assert image.text["vitrine:model"] == "a/captioner"  # type: ignore[attr-defined]
    else:
        assert "a/captioner" in first.read_text()
