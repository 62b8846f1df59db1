"""The figure of several methods: maps in multiples of their mean size, names on one line, words under signed maps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.figures import blob, boxes_of, photo, place_grid, require_tidy, words_of

from vitrine.attribution.maps import display_scores, mean_size_multiples
from vitrine.explain.figures.map import MapPicture
from vitrine.explain.figures.method_sheet import SheetColumn, method_sheet
from vitrine.plotting.style import figure_style

NAMES = (
    "attention",
    "integrated-gradients",
    "captum:IntegratedGradients",
    "a_module_of_mine:my_very_own_method",
    "rise",
)

MORE = ("saliency", "lime", "mine", "yours")


def row(width: int, height: int, **words: object) -> list[MapPicture]:
    first = MapPicture(
        photo(width, height), blob(6, 8), place_grid(width, height, 6, 8), name="a.png", predicted="cat", **words
    )  # type: ignore[arg-type]
    signed = replace(first, map_RC=first.map_RC - 0.5, flag="\N{MINUS SIGN}0.0123 logit")
    return [first, *[signed] * 8]


def test_a_sheet_of_all_shapes_is_tidy_and_its_names_end_on_one_line() -> None:
    rows = [row(200, 100, true="dog", probability=0.5), row(60, 240)]
    columns = [SheetColumn(name, index > 0) for index, name in enumerate(NAMES + MORE)]
    figure = method_sheet(rows, columns, 0.4, title="2 pictures by 9 methods", detail="model runs/cats")
    require_tidy(figure)
    words = words_of(figure)
    assert "true: dog" in words and words.count("\N{MINUS SIGN}0.0123 logit") == 16
    beyond = sum(int((np.abs(each.map_RC) > 0.4 * (1 + 1e-6)).sum()) for one in rows for each in one)
    assert any(f"Colours end at 0.4: {beyond} patches of {2 * 9 * 48} beyond" in each for each in words)
    with figure_style():
        boxes = {text.get_text(): box for text, box in boxes_of(figure)}
        lasts = {text.get_text(): text.get_position()[1] for text, _ in boxes_of(figure)}
    ends = [lasts[name] for name in ("attention", "gradients", "Gradients", "own_method", "rise")]
    assert np.ptp(ends) < 1e-9, "the names' last lines stand on one line"
    assert boxes["attention"].x0 < boxes["gradients"].x0 < boxes["Gradients"].x0 < boxes["rise"].x0


@pytest.mark.parametrize("count", [2, 14], ids=["few", "many"])
def test_columns_stay_broad_enough_to_see(count: int) -> None:
    figure = method_sheet([row(64, 64)[:1] * count], [SheetColumn(NAMES[0], False)] * count, 4.0, title="t")
    drawings = [axes.get_position().width * figure.get_size_inches()[0] for axes in figure.axes[1:]]
    assert all(0.85 < each <= 1.61 for each in drawings) and len(drawings) == count + 1
    assert not any("signs" in words for words in words_of(figure))


@pytest.mark.parametrize(
    ("scores", "unit", "one"),
    [
        ([[1.0, 3.0]], "mass", 2.0),
        ([[-1.0, 3.0]], "logit", 2.0),
        ([[-0.001, 0.003]], "drop", 0.01),
        ([[-0.001, 0.003]], "score", 0.002),
        ([[0.0, 0.0]], "mass", 0.0),
        ([[0.0, 0.0]], "gain", 0.01),
    ],
)
def test_a_map_is_in_multiples_of_the_mean_size_of_its_scores(scores: list[list[float]], unit: str, one: float) -> None:
    scores_RC = np.array(scores, np.float32)
    multiples_RC, size = mean_size_multiples(scores_RC, unit)  # type: ignore[arg-type]
    assert size == pytest.approx(one) and multiples_RC.dtype == np.float32
    np.testing.assert_allclose(multiples_RC * size, scores_RC, rtol=1e-6)
    if unit == "mass":
        np.testing.assert_allclose(multiples_RC, display_scores(scores_RC, "mass"), rtol=1e-6)
