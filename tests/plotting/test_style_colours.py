"""Colours of series: seen on every paper, and told apart by everybody, on white and on the pages, light and dark."""

from __future__ import annotations

import re
from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from vitrine.plotting.curves import learning_curves
from vitrine.plotting.style import SERIES
from vitrine.report.html import figure_svg, read_asset

# Machado, Oliveira and Fernandes (2009), A physiologically-based model for simulation of color vision deficiency:
# severity 1, on linear RGB.
SIGHT = {
    "usual": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def linear(colour: str) -> np.ndarray:
    rgb = np.array(to_rgb(colour))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """WCAG 2.2, contrast ratio: 1 to 21."""
    low, high = sorted(float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* under D65, of linear sRGB."""
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(to_xyz) @ np.clip(rgb, 0, 1) / [0.9505, 1.0, 1.089]
    x, y, z = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def theme(dark: bool) -> dict[str, str]:
    """The tokens of theme.css that are colours, as #rrggbb."""
    tokens = dict(re.findall(r"--([\w-]+): ([^;]+);", read_asset("theme.css").split("}")[0]))

    def resolve_token(value: str) -> str:
        if reference := re.fullmatch(r"var\(--([\w-]+)\)", value):
            return resolve_token(tokens[reference[1]])
        pair = re.fullmatch(r"light-dark\((#\w+), (#\w+)\)", value)
        return pair[1 + dark] if pair else value

    return {
        name: hex_colour
        for name, value in tokens.items()
        if re.fullmatch("#[0-9a-f]{6}", hex_colour := resolve_token(value))
    }


def series(tokens: dict[str, str]) -> list[str]:
    return [tokens[f"series-{number}"] for number in range(1, len(SERIES) + 1)]


LIGHT, DARK = theme(dark=False), theme(dark=True)
PALETTES = {"white": list(SERIES), "light": series(LIGHT), "dark": series(DARK)}
PAPERS = {
    "white": ["#ffffff"],
    **{name: [page["paper"], page["surface"]] for name, page in (("light", LIGHT), ("dark", DARK))},
}


def test_the_contrast_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21) and contrast("#123456", "#123456") == 1
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)  # the known grey that just fails 4.5


@pytest.mark.parametrize("page", PAPERS)
def test_every_series_is_seen_on_every_paper(page: str) -> None:
    for paper in PAPERS[page]:
        for colour in PALETTES[page]:
            assert contrast(colour, paper) >= 3, f"{colour} on {paper}"


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("page", PALETTES)
def test_every_two_series_are_told_apart(page: str, sight: str) -> None:
    """By 16 in CIE L*a*b* at least, where 2.3 is just seen: as far as the series of Okabe and Ito come on white."""
    lab_by_colour = {colour: lab(np.array(SIGHT[sight]) @ linear(colour)) for colour in PALETTES[page]}
    assert len(lab_by_colour) == len(SERIES)
    for one, other in combinations(lab_by_colour, 2):
        assert np.linalg.norm(lab_by_colour[one] - lab_by_colour[other]) > 16, f"{one} and {other}"


def test_the_page_is_light_in_the_colours_of_the_figures() -> None:
    """But for black, which is its ink."""
    assert PALETTES["light"][:-1] == list(SERIES[:-1])


def test_lines_in_a_page_follow_it_into_the_dark() -> None:
    history = [{"epoch": 1, "train_loss": 1, "validation_loss": 1, "validation_accuracy": 0.5, "best": True}]
    svg_text = figure_svg(learning_curves({f"run {i}": history for i in range(len(SERIES))}), "curves")
    assert not [colour for colour in SERIES if colour in svg_text]
    for token in ("accent", *(f"series-{number}" for number in range(2, len(SERIES))), "ink"):
        assert f"stroke: var(--{token})" in svg_text and f"fill: var(--{token})" in svg_text
