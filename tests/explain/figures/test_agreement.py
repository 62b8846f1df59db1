"""The figure of how alike methods' maps are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitrine.attribution.method_agreement import Agreement
from vitrine.explain.figures.agreement import agreement_figure, likeness_order, save_agreement_figure

MATRIX = np.array([[1.0, -0.2, 0.9], [-0.2, 1.0, np.nan], [0.9, np.nan, 1.0]])


def test_the_figure_has_every_number_beside_its_methods(tmp_path: Path) -> None:
    agreement = Agreement(("attention", "occlusion", "gradcam, blocks[5].norm1"), MATRIX, (38, 1040))
    assert likeness_order(agreement) == [0, 2, 1]
    (axes,) = agreement_figure(agreement).axes
    assert [text.get_text() for text in axes.get_yticklabels()] == [
        "attention",
        "gradcam, blocks[5].norm1",
        "occlusion",
    ]
    assert axes.texts[1].get_text() == "0.90" and axes.texts[5].get_text() == "–"
    assert any("mean over 38 to 1,040 pictures;" in text.get_text() for text in agreement_figure(agreement).texts)
    save_agreement_figure(agreement, tmp_path / "agreement.png", {})
    assert Image.open(tmp_path / "agreement.png").size[0] > 500


@pytest.mark.parametrize("count", [2, 24])
def test_any_number_of_methods_fits(count: int) -> None:
    names = tuple(f"method of a long name {number}" for number in range(count))
    figure = agreement_figure(Agreement(names, np.eye(count), (1, 1)))
    figure.canvas.draw()
    size = figure.get_size_inches() * figure.dpi
    for text in [*figure.axes[0].get_xticklabels(), *figure.axes[0].get_yticklabels(), *figure.texts]:
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= size[0] and box.y1 <= size[1], text.get_text()
