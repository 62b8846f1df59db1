"""A matrix of how alike the maps of every two methods are.

Axes: M methods.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from vitrine.attribution.method_agreement import Agreement
from vitrine.plotting.colormap import Scale
from vitrine.plotting.style import (
    GREY,
    INK,
    LABEL,
    MARGIN,
    SMALL,
    TITLE,
    WIDTH,
    add_axes,
    add_text,
    figure_style,
    new_figure,
    save,
    shorten,
    text_size,
)
from vitrine.results import count_of, shown_number

_NAME = 30  # characters of a name
_CELL = 0.46  # inches a side, at most


def save_agreement_figure(agreement: Agreement, path: Path, metadata: Mapping[str, str]) -> None:
    """Write :func:`agreement_figure` as PNG or SVG; see :func:`vitrine.plotting.style.save`."""
    save(agreement_figure(agreement), path, metadata)


def agreement_figure(agreement: Agreement) -> Figure:
    """A square a pair of methods, with its rank correlation: purple is alike, white unrelated, gold opposite.

    Methods stand in the order of their likeness, so that those that agree are beside one another.
    """
    order = likeness_order(agreement)
    names = [shorten(agreement.names[index], _NAME) for index in order]
    correlation_MM = agreement.correlation_MM[np.ix_(order, order)]
    with figure_style():
        widest, tall = text_size(names, LABEL)
        left = MARGIN + widest + 0.1
        cell = min(_CELL, (WIDTH - left - MARGIN) / len(names))
        side, under = cell * len(names), widest + 0.15
        figure = new_figure(WIDTH, 0.72 + side + under + tall)
        top = figure.get_size_inches()[1]
        add_text(figure, MARGIN, top - 0.33, "How alike the methods' maps are", fontsize=TITLE, weight="bold")
        fewest, most = agreement.pictures
        pictures = f"{'' if fewest == most else f'{fewest:,} to '}{count_of(most, 'picture')}"
        detail = (
            f"Spearman's rank correlation of two maps of a picture, mean over {pictures}; "
            "1 is the same order of patches"
        )
        add_text(figure, MARGIN, top - 0.53, detail, fontsize=SMALL, color=GREY)
        axes = add_axes(figure, left, top - 0.72 - side, side, side)
        axes.imshow(np.ma.masked_invalid(correlation_MM), cmap=Scale("lost").colormap, vmin=-1, vmax=1)
        for row, column in np.ndindex(correlation_MM.shape):
            value = correlation_MM[row, column]
            text = "–" if np.isnan(value) else shown_number(float(value))
            colour = GREY if np.isnan(value) else "white" if value > 0.5 else INK
            axes.text(column, row, text, ha="center", va="center", fontsize=min(SMALL, 15 * cell), color=colour)
        axes.set_yticks(range(len(names)), names, fontsize=LABEL)
        axes.set_xticks(range(len(names)), names, fontsize=LABEL, rotation=90)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        return figure


def likeness_order(agreement: Agreement) -> list[int]:
    """The methods, each followed by the one that is most like it of those that are left; the first one begins."""
    correlation_MM = np.nan_to_num(agreement.correlation_MM, nan=-1.0)
    order, left = [0], list(range(1, len(agreement.names)))
    while left:
        order.append(max(left, key=lambda index: float(correlation_MM[order[-1], index])))
        left.remove(order[-1])
    return order
