"""Axes of a figure that is laid out in whole pixels: ticks are made when one is shown, and pictures keep their pixels.

matplotlib makes four ticks for every axes, whether they are shown or not, which is two thirds of what a panel without
ticks costs. And it resamples a picture that fills its axes to the pixel, since places in inches are never exact.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis, YAxis
from matplotlib.image import AxesImage
from matplotlib.transforms import IdentityTransform

_WHOLE = 0.02  # pixels that a place may lie beside a whole one by the rounding of inches


class _TicksOnDemand(Axis):
    """An axis that begins without ticks; whatever asks for some, as ``set_ticks`` does, has them made."""

    def reset_ticks(self) -> None:
        self.majorTicks: list[Any] = []
        self.minorTicks: list[Any] = []

    def _get_tick(self, major: bool) -> Any:
        tick = super()._get_tick(major)  # type: ignore[misc]  # not in matplotlib's stubs
        tick.set_clip_path(self.axes.patch)  # of its grid line
        return tick


class _XAxis(_TicksOnDemand, XAxis):
    pass


class _YAxis(_TicksOnDemand, YAxis):
    pass


class PanelAxes(Axes):
    """Axes at a fixed place of a figure."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._place_spines()

    def clear(self) -> None:
        super().clear()
        self._place_spines()

    def _place_spines(self) -> None:
        """Put spines on the edges, which matplotlib does when it makes the first tick."""
        for spine in self.spines.values():
            spine.set_position(("outward", 0.0))

    def _init_axis(self) -> None:  # the hook of matplotlib's own projections for axes of their own
        self.xaxis, self.yaxis = _XAxis(self, clear=False), _YAxis(self, clear=False)
        for axis, sides in ((self.xaxis, ("bottom", "top")), (self.yaxis, ("left", "right"))):
            for side in sides:
                self.spines[side].register_axis(axis)

    def whole_pixels(self) -> tuple[int, int] | None:
        """Rows and columns of pixels that the axes cover exactly; None where an edge lies between pixels."""
        box = self.get_window_extent()
        edges = (box.x0, box.y0, box.width, box.height)
        return (
            None if any(abs(edge - round(edge)) > _WHOLE for edge in edges) else (round(box.height), round(box.width))
        )

    def cover(
        self, levels_HWC: npt.NDArray[np.uint8], extent: tuple[float, float, float, float], zorder: float
    ) -> None:
        """Show a picture (H, W, 3) over the whole axes, which have as many pixels as it has.

        Args:
            levels_HWC: the picture.
            extent: left, right, bottom and top of the axes, which get these limits.
            zorder: of the picture among what else is drawn.
        """
        picture = _PixelPicture(self, extent=extent, interpolation="nearest", zorder=zorder)
        picture.set_data(levels_HWC)
        picture.set_clip_path(self.patch)
        self.add_image(picture)
        self.set(xlim=extent[:2], ylim=extent[2:])


class _PixelPicture(AxesImage):
    """A picture that is copied where its axes have its own number of pixels, else resampled."""

    def make_image(self, renderer: Any, magnification: float = 1.0, *rest: Any, **settings: Any) -> Any:
        levels, box = np.asarray(self.get_array()), self.axes.get_window_extent()
        whole = self.axes.whole_pixels() if isinstance(self.axes, PanelAxes) else None
        if magnification != 1 or whole != levels.shape[:2]:
            return super().make_image(renderer, magnification, *rest, **settings)
        rgba = np.full((*levels.shape[:2], 4), 255, np.uint8)
        rgba[..., :3] = levels[::-1]  # renderers count rows from below
        return rgba, round(box.x0), round(box.y0), IdentityTransform()
