"""Axes without ready-made ticks look as matplotlib's own, and a picture keeps its pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vitrine.plotting.panel_axes import PanelAxes

PLACE = (0.2, 0.2, 0.6, 0.5)


def pixels_of(kind: type[Axes], draw: Callable[[Any], None]) -> np.ndarray:
    figure = Figure(figsize=(2, 2), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes = kind(figure, PLACE)
    figure.add_axes(axes)
    draw(axes)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def bars(axes: Axes) -> None:
    axes.bar([0, 1, 2], [3, 1, 2])
    axes.set(xlabel="class", ylabel="share", title="of three", xticks=[0, 1, 2], xticklabels=["a", "b", "c"])


def log_lines(axes: Axes) -> None:
    axes.plot([1, 10, 100], [1, 5, 2])
    axes.set_xscale("log")
    axes.yaxis.grid(True)
    axes.tick_params(length=0, labelcolor="red")


def bare_picture(axes: Axes) -> None:
    axes.imshow(np.eye(4), extent=(0, 4, 4, 0))
    axes.set(xticks=[], yticks=[])


def right_hand(axes: Axes) -> None:
    axes.plot([0, 1])
    axes.yaxis.tick_right()
    axes.spines["top"].set_visible(False)
    axes.twinx().plot([3, 1], color="red")


def bars_taken_away(axes: Axes) -> None:
    bars(axes)
    axes.clear()
    axes.plot([2, 1])


@pytest.mark.parametrize("draw", [bars, log_lines, bare_picture, right_hand, bars_taken_away, lambda axes: None])
def test_they_look_as_matplotlibs_own(draw: Callable[[Axes], None]) -> None:
    assert np.array_equal(pixels_of(PanelAxes, draw), pixels_of(Axes, draw))


def test_no_tick_is_made_before_one_is_shown() -> None:
    axes = PanelAxes(Figure(), PLACE)
    bare_picture(axes)
    assert [len(axis.majorTicks) + len(axis.minorTicks) for axis in (axes.xaxis, axes.yaxis)] == [0, 0]
    axes.set_xticks([1, 2, 3])
    assert len(axes.xaxis.majorTicks) == 3


def test_a_picture_keeps_its_pixels_and_a_larger_file_enlarges_it() -> None:
    levels = np.random.default_rng(0).integers(0, 256, (100, 120, 3), np.uint8)
    figure = Figure(figsize=(2, 2), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes = PanelAxes(figure, PLACE)
    figure.add_axes(axes)
    axes.set_axis_off()
    axes.cover(levels, (0, 12, 10, 0), zorder=1)
    assert axes.whole_pixels() == (100, 120)
    canvas.draw()
    assert np.array_equal(np.asarray(canvas.buffer_rgba())[60:160, 40:160, :3], levels)
    figure.set_dpi(200)
    canvas.draw()
    twice = np.asarray(canvas.buffer_rgba())[120:320, 80:320, :3]
    assert np.array_equal(twice, levels.repeat(2, axis=0).repeat(2, axis=1))


def test_a_place_between_pixels_is_no_whole_number_of_them() -> None:
    figure = Figure(figsize=(2, 2), dpi=100)
    assert PanelAxes(figure, (0.2, 0.2, 0.6, 0.5025)).whole_pixels() is None
    assert PanelAxes(figure, (0.2025, 0.2, 0.6, 0.5)).whole_pixels() is None
