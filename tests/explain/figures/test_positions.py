"""Figures of position embeddings: every cell in its place and colour, on an honest scale, tidy, the same twice."""

from __future__ import annotations

import html
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from support.figures import lightness, require_tidy

from vitrine.attribution.position_metrics import PositionFindings, assess_positions, cosine_similarity, sine_embedding
from vitrine.explain.figures.positions import (
    CHANGE,
    SIMILARITY,
    change_figure,
    draw_positions,
    position_figure,
    save_position_figure,
)
from vitrine.plotting.style import HAIRLINE

ORIGIN = {"vitrine:model": "runs/pets", "vitrine:command": "vitrine positions runs/für -o 'a b.png'"}


def noisy_findings(rows: int, columns: int, noise: float = 0.5, seed: int = 0) -> PositionFindings:
    noise_RCD = np.random.default_rng(seed).normal(size=(rows, columns, 32))
    return assess_positions(sine_embedding(rows, columns, 32) + noise * noise_RCD, notes=("A note.",))


def pixels(figure: Figure) -> npt.NDArray[np.uint8]:
    """The figure as it is drawn: rows from the top, columns, RGB."""
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def colour_at(pixels_YXC: npt.NDArray[np.uint8], axes: Axes, across: float, down: float) -> npt.NDArray[np.int64]:
    """The colour at a point in the axes' own coordinates."""
    x, y = axes.transData.transform((across, down))
    return pixels_YXC[len(pixels_YXC) - 1 - int(y), int(x)].astype(np.int64)


def expected_colour(colours: Colormap, value: float, limit: float = 1.0) -> npt.NDArray[np.float64]:
    return 255 * np.array(colours((value / limit + 1) / 2)[:3])


# --- every cell in its place


GRIDS = [(6, 6), (5, 3), (3, 7)]


@pytest.mark.parametrize(("rows", "columns"), GRIDS)
def test_every_cell_of_every_tile_has_the_colour_of_its_similarity(rows: int, columns: int) -> None:
    """The expected colours come from embeddings by a double loop, not from the drawn array."""
    embeddings_RCD = sine_embedding(rows, columns, 32) + np.random.default_rng(1).normal(size=(rows, columns, 32))
    unit_RCD = embeddings_RCD / np.linalg.norm(embeddings_RCD, axis=2, keepdims=True)
    figure = position_figure(assess_positions(embeddings_RCD), "A title")
    pixels_YXC, axes = pixels(figure), figure.axes[0]
    for r, c, i, j in np.ndindex(rows, columns, rows, columns):
        # Tile (r, c) is centred at (column c, row r); nine tenths of its pitch are cells.
        across, down = c + ((j + 0.5) / columns - 0.5) * 0.96, r + ((i + 0.5) / rows - 0.5) * 0.96
        expected = expected_colour(SIMILARITY, float(unit_RCD[r, c] @ unit_RCD[i, j]))
        assert np.abs(colour_at(pixels_YXC, axes, across, down) - expected).max() <= 3, (r, c, i, j)


def test_rows_are_rows() -> None:
    """Every row has an embedding of its own: each tile is white but for a dark band in the row that it stands for."""
    rows_RCD = np.repeat(np.eye(4)[:, None], 6, axis=1)
    figure = position_figure(assess_positions(rows_RCD), "Rows")
    pixels_YXC, axes = pixels(figure), figure.axes[0]
    for row, column in np.ndindex(4, 6):
        darkness = [
            [765 - colour_at(pixels_YXC, axes, column + x, row + y).sum() for x in (-0.3, 0.0, 0.3)]
            for y in (-0.36, -0.12, 0.12, 0.36)
        ]
        assert [min(band) > 500 for band in darkness] == [k == row for k in range(4)]
        assert [max(band) < 10 for band in darkness] == [k != row for k in range(4)]


def test_a_cell_of_24_by_24_is_whole_pixels_and_gaps_are_seen() -> None:
    findings = noisy_findings(24, 24)
    figure = position_figure(findings, "Large")
    pixels_YXC, axes = pixels(figure), figure.axes[0]
    box = axes.get_window_extent()
    left, right, top = round(box.x0), round(box.x1), len(pixels_YXC) - round(box.y1)
    assert right - left == 2 * (24 * 25 - 1)
    inside = pixels_YXC[top : top + right - left, left:right].astype(int)
    blocks = inside.reshape(599, 2, 599, 2, 3)[2:-2, :, 2:-2]  # the frame lies over the outermost
    assert (blocks == blocks[:, :1, :, :1]).all()
    units = inside[::2, ::2]
    gap = np.array(to_rgba(HAIRLINE)[:3]) * 255
    assert np.abs(units[24::25, 2:-2] - gap).max() <= 1
    assert np.abs(units[2:-2, 24::25] - gap).max() <= 1
    row, column = 5, 17
    tile = units[row * 25 : row * 25 + 24, column * 25 : column * 25 + 24]
    expected = 255 * SIMILARITY((findings.similarity_RCRC[row, column].astype(float) + 1) / 2)[..., :3]
    assert np.abs(tile - expected).max() <= 3


def test_one_patch_is_drawn_large_and_framed() -> None:
    findings = noisy_findings(4, 6)
    figure = position_figure(findings, "One patch", cell=(1, 4))
    pixels_YXC, axes = pixels(figure), figure.axes[0]
    for i, j in np.ndindex(4, 6):
        expected = expected_colour(SIMILARITY, float(findings.similarity_RCRC[1, 4, i, j]))
        assert np.abs(colour_at(pixels_YXC, axes, j + 0.25, i - 0.25) - expected).max() <= 3
    _, ink = axes.patches
    assert ink.get_extents().containsx(axes.transData.transform((4, 1))[0])
    assert np.abs(colour_at(pixels_YXC, axes, 3.5, 1.25) - 255 * np.array(to_rgba(ink.get_edgecolor())[:3])).max() <= 3
    values = {tuple(text.get_position()): text.get_text() for text in axes.texts}
    assert len(values) == 24
    assert values[4, 1] == "1.00"
    assert values[0, 3] == f"{findings.similarity_RCRC[1, 4, 3, 0]:.2f}".replace("-", "−")
    assert "row 1, column 4 (" in " ".join(text.get_text() for text in figure.texts)
    assert not position_figure(noisy_findings(24, 24), "Many", cell=(1, 4)).axes[0].texts  # no room for values


def test_before_and_after_share_a_scale_and_the_difference_has_its_own() -> None:
    before, after = noisy_findings(4, 5, noise=3.0), noisy_findings(4, 5, noise=0.3, seed=1)
    figure = change_figure(before, after, "Both")
    pixels_YXC = pixels(figure)
    change = after.similarity_RCRC.astype(float) - before.similarity_RCRC
    first, second, third, scale, change_scale = figure.axes
    limit = change_scale.get_xlim()[1]
    assert change_scale.get_xlim() == (-limit, limit)
    assert np.abs(change).max() <= limit <= 1.5 * np.abs(change).max()
    assert scale.get_xlim() == (-1, 1)
    panels = ((first, before.similarity_RCRC, SIMILARITY, 1.0), (second, after.similarity_RCRC, SIMILARITY, 1.0))
    for axes, values, colours, end in (*panels, (third, change, CHANGE, limit)):
        for r, c, i, j in np.ndindex(4, 5, 4, 5):
            across, down = c + ((j + 0.5) / 5 - 0.5) * 0.96, r + ((i + 0.5) / 4 - 0.5) * 0.96
            expected = expected_colour(colours, float(values[r, c, i, j]), end)
            assert np.abs(colour_at(pixels_YXC, axes, across, down) - expected).max() <= 4
    words = [text.get_text() for text in figure.findobj(Text)]
    for numbers in (before.numbers, after.numbers):
        assert f"{100 * numbers.neighbour_share:.1f} %" in words
    mean = np.abs(change).sum() / (20 * 19)
    assert any(f"changed by {mean:.2g} on average, {np.abs(change).max():.2g} at most" in word for word in words)


def test_no_change_is_white() -> None:
    findings = noisy_findings(3, 3)
    figure = change_figure(findings, findings, "The same")
    assert (colour_at(pixels(figure), figure.axes[2], 2.1, 2.1) == 255).all()
    assert figure.axes[4].get_xlim() == (-0.01, 0.01)


# --- what is written on it


def test_a_figure_says_what_it_shows() -> None:
    findings = noisy_findings(8, 8)
    figure = position_figure(findings, "Position embeddings of runs/pets")
    words = [text.get_text() for text in figure.findobj(Text) if text.get_text()]
    assert "Position embeddings of runs/pets" in words
    assert any("8 × 8 patches, 32 channels" in word for word in words)
    for name in ("input patch row", "input patch column", "cosine similarity", "untrained", "fixed 2-D sine"):
        assert name in words
    for numbers in (findings.numbers, findings.controls.untrained_mean, findings.controls.sine):
        assert f"{100 * numbers.neighbour_share:.1f} %" in words
        assert f"{numbers.distance_correlation:.2f}".replace("-0.00", "0.00").replace("-", "−") in words
        assert f"{100 * (numbers.additive_share or 0):.1f} %" in words
    assert findings.sentence in " ".join(words)
    assert "A note." in words
    ticks = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert ticks == [str(row) for row in range(8)]
    low, high = figure.axes[1].get_ylim()
    assert (low, high) == (-1, 1)
    assert {"−1", "0", "1"} <= {text.get_text() for text in figure.axes[1].get_yticklabels()}


def test_many_rows_are_numbered_now_and_then() -> None:
    axes = position_figure(noisy_findings(24, 24), "Large").axes[0]
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text() for label in labels] == ["0", "5", "10", "15", "20"]
    axes = draw_positions(Figure(figsize=(4, 4)).add_subplot(), np.zeros((40, 40, 40, 40), np.float32))
    assert list(axes.get_yticks()) == [0, 5, 10, 15, 20, 25, 30, 35]
    axes = draw_positions(Figure(figsize=(2, 2)).add_subplot(), np.zeros((40, 40, 40, 40), np.float32))
    assert list(axes.get_yticks()) == [0, 10, 20, 30]


SHAPES: list[tuple[int, int, tuple[int, int] | None]] = [
    *((rows, columns, None) for rows, columns in ((8, 8), (24, 24), (14, 10), (2, 2), (1, 8), (9, 1), (5, 20))),
    *((rows, columns, (0, 0)) for rows, columns in ((8, 8), (24, 24), (1, 8), (9, 1))),
]


@pytest.mark.parametrize(("rows", "columns", "cell"), SHAPES)
def test_figures_are_tidy(rows: int, columns: int, cell: tuple[int, int] | None) -> None:
    title = "Position embeddings of a/rather/long/path/to/some/run/with/a/long/name " * 2
    findings = noisy_findings(rows, columns)
    for figure in (
        position_figure(findings, title, cell=cell),
        change_figure(noisy_findings(rows, columns, 3.0), findings, title, cell=cell),
    ):
        require_tidy(figure)
        assert figure.get_size_inches()[0] <= 10.9


def test_only_what_fits_is_drawn() -> None:
    with pytest.raises(ValueError, match="no patch"):
        position_figure(noisy_findings(3, 4), "", cell=(3, 0))
    with pytest.raises(ValueError, match="equal grids"):
        change_figure(noisy_findings(3, 4), noisy_findings(4, 3), "")


# --- files, colours, somebody's own axes


@pytest.mark.parametrize("kind", ["png", "svg"])
@pytest.mark.parametrize("has_before", [False, True])
def test_a_file_is_the_same_twice_and_carries_its_origin(kind: str, has_before: bool, tmp_path: Path) -> None:
    before = noisy_findings(5, 4, noise=2.0) if has_before else None
    for name in ("a", "b"):
        save_position_figure(noisy_findings(5, 4), tmp_path / f"{name}.{kind}", ORIGIN, title="Twice", before=before)
    content = (tmp_path / f"a.{kind}").read_bytes()
    assert content == (tmp_path / f"b.{kind}").read_bytes()
    if kind == "png":
        with Image.open(tmp_path / "a.png") as picture:
            assert ORIGIN.items() <= dict(picture.text).items()  # type: ignore[attr-defined]
    else:
        assert json.dumps(ORIGIN, ensure_ascii=False) in html.unescape(content.decode())


@pytest.mark.parametrize("colours", [SIMILARITY, CHANGE], ids=["similarity", "change"])
def test_colours_darken_evenly_from_white_at_zero(colours: Colormap) -> None:
    assert colours(0.5)[:3] == (1, 1, 1)
    for arm in (np.linspace(0.5, 1, 17), np.linspace(0.5, 0, 17)):
        steps = -np.diff([lightness(colours(place)) for place in arm])
        assert steps.min() > 0.5 * steps.mean()
        assert steps.max() < 1.5 * steps.mean()
    # In grey, whatever is darker than the lower end belongs to the upper arm, which goes far beyond it.
    assert lightness(colours(0.0)) > 50
    assert lightness(colours(1.0)) < 30


# Machado, Oliveira and Fernandes (2009), severity 1.0, on linear RGB.
BLINDNESS = {
    "protan": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deutan": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritan": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}


@pytest.mark.parametrize("blindness", BLINDNESS)
@pytest.mark.parametrize("colours", [SIMILARITY, CHANGE], ids=["similarity", "change"])
def test_the_arms_are_told_apart_with_every_colour_blindness(colours: Colormap, blindness: str) -> None:
    """At every lightness that both arms have, from a third of the lower arm on."""
    rgb_N3 = np.array([[*colours(place)[:3]] for place in np.linspace(0, 1, 201)])
    linear = (
        np.where(rgb_N3 <= 0.04045, rgb_N3 / 12.92, ((rgb_N3 + 0.055) / 1.055) ** 2.4)
        @ np.array(BLINDNESS[blindness]).T
    )
    simulated_N3 = np.clip(linear, 0, 1)
    simulated_N3 = np.where(simulated_N3 <= 0.0031308, 12.92 * simulated_N3, 1.055 * simulated_N3 ** (1 / 2.4) - 0.055)
    light = np.array([lightness(colour) for colour in rgb_N3])
    for place in range(67):
        same = 100 + int(np.abs(light[100:] - light[place]).argmin())
        assert np.abs(simulated_N3[place] - simulated_N3[same]).max() > 0.1, (place / 100 - 1, same / 100 - 1)


def test_somebody_draws_into_their_own_axes() -> None:
    figure = Figure(figsize=(6, 4), dpi=100)
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    similarity = cosine_similarity(np.random.default_rng(0).normal(size=(3, 4, 8)))
    assert draw_positions(right, similarity) is right
    assert not left.images
    (image,) = right.images
    assert image.get_clim() == (-1, 1)
    figure.colorbar(image, ax=right)
    pixels_YXC = pixels(figure)
    for row, column in np.ndindex(3, 4):
        # The reference cell is as dark as can be: at its own place within the tile.
        across, down = column + ((column + 0.5) / 4 - 0.5) * 0.95, row + ((row + 0.5) / 3 - 0.5) * 0.95
        assert np.abs(colour_at(pixels_YXC, right, across, down) - expected_colour(SIMILARITY, 1.0)).max() <= 3
