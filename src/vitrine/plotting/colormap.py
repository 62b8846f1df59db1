"""The colour scale of maps, and its colour bar.

Letters: R, C rows and columns of patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Literal

import numpy as np
import numpy.typing as npt
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, LogNorm, Normalize, to_rgb
from matplotlib.figure import Figure

from vitrine.plotting.style import GREY, HAIRLINE, INK, SMALL, add_axes, add_text, shorten
from vitrine.results import count_of

_THICK, _ARROW = 0.13, 0.19  # of a colour bar, in inches
_NICE = np.array([1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10])
# The paint of maps, laid over a photograph (or over white, where a map stands alone): its opacity grows evenly with the
# distance from the value that favours no patch, and there the photograph keeps its own colours. Purple is what
# photographs have least of; it and gold stay apart with every common colour blindness, and in grey print gold is the
# lighter of the two. report/page/viewer.js has the same numbers (a test compares them); docs/decisions/0034 says why.
ABOVE = ("#d436c8", "#8a0f8f")  # of a patch with more than its share, from little more to most
BELOW = ("#e0b13a", "#c99a00")
OPACITY = 0.85  # at the scale's ends
QUANTILE = 0.98  # of the values of maps that are drawn together: there the colours end


def paint(distances: npt.ArrayLike) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]]:
    """The paint at distances from neutral: its colours (..., 3), 0 to 1, and its opacities (..., 1).

    Args:
        distances: of any shape, from -1 to 1: 0 says nothing, 1 is the scale's upper end. Of float32 the answer is
            float32, and of all else float64.
    """
    distances = _floats(distances)
    far, is_above = np.abs(distances), distances > 0
    planes = np.empty((3, *distances.shape), distances.dtype)  # one colour after the other: loops over three are slow
    for index, ends in enumerate(zip(*map(to_rgb, (*ABOVE, *BELOW)), strict=True)):
        above, most, below, least = np.array(ends, distances.dtype)
        planes[index] = np.where(is_above, above, below) + far * np.where(is_above, most - above, least - below)
    return np.moveaxis(planes, 0, -1), OPACITY * far[..., None]


def _floats(values: npt.ArrayLike) -> npt.NDArray[np.floating]:
    """Values as they are where they are float32, else as float64."""
    values = np.asarray(values)
    return values if values.dtype == np.float32 else values.astype(np.float64)


@dataclass(frozen=True)
class Scale:
    """What the colours of maps mean.

    Attributes:
        kind: "uniform": multiples of uniform from 0 to ``high``. "log": the same from 0.1 on, logarithmic. "lost":
            probability lost, from -``high`` to ``high``. "own": each map from its own least to its own largest value,
            which figures say.
        high: where the colours end; a larger value has the last colour. "own" finds it for each map.
        label: of the colour bar; "" is the kind's own.
        low: where the colours of "own" begin; None finds both ends for each map.
    """

    kind: Literal["uniform", "log", "lost", "own"]
    high: float = 1.0
    label: str = ""
    low: float | None = None

    @property
    def name(self) -> str:
        """The heading of the colour bar."""
        return self.label or ("probability lost" if self.kind == "lost" else "multiple of uniform")

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences that a figure with this scale has to show."""
        return ("Every map is stretched to its own minimum and maximum.",) if self.kind == "own" else ()

    @property
    def neutral(self) -> float:
        """The value that says nothing, where there is no paint: 0 lost, 1 times uniform; of "own" the least value."""
        return {"lost": 0.0, "own": self.low or 0.0}.get(self.kind, 1.0)

    @property
    def colormap(self) -> Colormap:
        """The paint on white, from the least to the largest value of the scale."""
        colours, opacity = paint(self.distances(self.norm.inverse(np.linspace(0, 1, 512))))
        return ListedColormap(1 - opacity * (1 - colours))

    def distances(self, values: npt.ArrayLike) -> npt.NDArray[np.floating]:
        """How far values are from neutral, -1 to 1, for :func:`paint`; what lies beyond the scale is at its end.

        1 is the scale's upper end. Below neutral the steps are as large as above: a patch that nothing looks at lies
        1 / (high - 1) away from uniform.
        """
        values = _floats(values)
        if self.kind == "log":
            distances = np.log(np.maximum(values, 0.1)) / np.log(self.high)
        else:
            distances = (values - self.neutral) / max(self.high - self.neutral, 1e-9)
        within: npt.NDArray[np.floating] = np.clip(distances, -1, 1)
        return within

    @property
    def norm(self) -> Normalize:
        """Maps values to 0 to 1, their place in the colormap; values outside the scale are clipped to its ends."""
        if self.kind == "log":
            return LogNorm(0.1, self.high, clip=True)
        return Normalize(-self.high if self.kind == "lost" else self.low or 0.0, self.high, clip=True)

    def describe_end(self, maps: Sequence[npt.ArrayLike]) -> tuple[str, ...]:
        """A sentence on the patches that lie beyond the scale, where there are any."""
        if self.kind == "own":
            return ()
        values = np.concatenate([np.asarray(each, dtype=np.float64).ravel() for each in maps])
        values = np.abs(values[np.isfinite(values)]) if self.kind == "lost" else values[np.isfinite(values)]
        beyond = int(np.count_nonzero(values > self.high * (1 + 1e-6)))
        if not beyond:
            return ()
        return (
            f"Colours end at {number(self.high)}: {count_of(beyond, 'patch', 'patches')} of {len(values):,} beyond.",
        )

    def for_map(self, map_RC: npt.ArrayLike) -> Scale:
        """The scale of one map: with ends of its own where it is "own" and has none yet, else this one."""
        if self.kind != "own" or self.low is not None:
            return self
        low, high = _ends([map_RC])
        return replace(self, low=low, high=max(high, low + 1e-6))


def shared_scale(maps: Sequence[npt.ArrayLike], minimum: float = 2.0) -> float:
    """Where one scale for several maps ends: the 98 % quantile of their magnitudes, rounded up to a number to read.

    One patch in fifty may lie beyond, so that the outliers of one picture do not leave all the others without colour;
    it has the last colour, the colour bar ends in an arrow, and figures say how many there are.

    Args:
        maps: of any shapes, multiples of uniform or probabilities lost; what is not finite does not count.
        minimum: the smallest answer, above 0.
    """
    values = np.concatenate([np.zeros(0), *(np.abs(np.asarray(each, dtype=np.float64)).ravel() for each in maps)])
    values = values[np.isfinite(values)]
    target = max(minimum, float(np.quantile(values, QUANTILE)) if len(values) else 0.0)
    power = 10.0 ** np.floor(np.log10(target))
    return float(round(power * _NICE[np.searchsorted(_NICE, target / power * (1 - 1e-9))], 12))


def colour_bar(
    figure: Figure,
    scale: Scale,
    maps: Sequence[npt.ArrayLike],
    at: tuple[float, float],
    length: float,
    *,
    level: bool = False,
) -> None:
    """A colour bar of ``length`` inches, upright or level, its foot at a place in inches.

    The value that means nothing, 1 or 0, is marked. Where a map goes beyond the scale, the bar ends in an arrow, with
    the largest (or least) value beside it.
    """
    each_its_own = scale.kind == "own" and scale.low is None and len(maps) > 1
    scale, ends = scale.for_map(maps[0]), _ends(maps)
    low, high = float(scale.norm.vmin or 0), float(scale.norm.vmax or 0)
    beyond = (not each_its_own and ends[0] < low, not each_its_own and ends[1] > high)
    axes = add_axes(figure, *at, *((length, _THICK) if level else (_THICK, length)))
    name_at = (at[0], at[1] + _THICK + 0.06) if level else (at[0], at[1] + length + 0.11)
    add_text(figure, *name_at, shorten(scale.name, 21), fontsize=SMALL, color=GREY)
    bar = figure.colorbar(
        ScalarMappable(scale.norm, scale.colormap),
        cax=axes,
        orientation="horizontal" if level else "vertical",
        extend={(False, False): "neither", (False, True): "max", (True, False): "min", (True, True): "both"}[beyond],
        extendfrac=_ARROW / length,
    )
    bar.outline.set(edgecolor=HAIRLINE, linewidth=0.8)
    ticks = [low, high] if each_its_own else _ticks(scale, low, high, room=0.15 / length)
    bar.set_ticks(ticks, labels=["least", "largest"] if each_its_own else [number(tick) for tick in ticks])
    bar.minorticks_off()
    axes.tick_params(length=0, pad=4, labelsize=SMALL, labelcolor=GREY)
    if each_its_own:
        return
    if scale.neutral in ticks:
        (axes.axvline if level else axes.axhline)(scale.neutral, color="white", linewidth=1.2)
        labels = axes.get_xticklabels() if level else axes.get_yticklabels()
        labels[ticks.index(scale.neutral)].set(weight="bold", color=INK)
    for end in (0, 1):
        if beyond[end]:
            words = f"{('down to', 'up to')[end]} {number(ends[end])}"
            _beside_arrow(figure, "and less" if scale.kind == "log" and not end else words, at, length, end, level)


def _beside_arrow(figure: Figure, words: str, at: tuple[float, float], length: float, end: int, level: bool) -> None:
    if level:
        x, side = ((at[0] - 0.06, "right"), (at[0] + length + 0.06, "left"))[end]
        add_text(figure, x, at[1] + _THICK / 2, words, ha=side, va="center", fontsize=SMALL, color=GREY)
    else:
        y = at[1] + (0.02, length - 0.02)[end]
        add_text(figure, at[0] + _THICK + 0.055, y, words, va="center", fontsize=SMALL, color=GREY)


def _ends(maps: Sequence[npt.ArrayLike]) -> tuple[float, float]:
    """Least and largest of all finite values; (0, 0) where there are none."""
    values = np.concatenate([np.asarray(each, dtype=np.float64).ravel() for each in maps])
    values = values[np.isfinite(values)]
    return (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)


def _ticks(scale: Scale, low: float, high: float, room: float) -> list[float]:
    """Ticks of a colour bar: the neutral value, and others at least ``room``, a share of the bar, away from it."""
    if scale.kind == "own":
        return [low, high]
    if scale.kind == "log":
        return [*(10.0**power for power in range(-1, ceil(np.log10(high) - 0.3))), high]
    step = next(
        m * 10.0**power for power in range(-9, 9) for m in (1, 2, 2.5, 5) if high - low <= 6.01 * m * 10.0**power
    )
    round_ones = step * np.arange(ceil(low / step - 1e-6), high / step + 1e-6)
    apart = [float(tick) for tick in round_ones if abs(tick - scale.neutral) >= room * (high - low)]
    return sorted([*apart, *([scale.neutral] if low <= scale.neutral <= high else [])])


def number(value: float) -> str:
    """A value for a colour bar: three digits at most, a true minus."""
    return f"{float(f'{value:.3g}'):zg}".replace("-", "\N{MINUS SIGN}")
