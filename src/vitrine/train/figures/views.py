"""What becomes of single pictures: the file, what a model is measured on, and what it is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from vitrine.plotting.style import ACCENT, GREY, LINE, MARGIN, SERIES, WIDTH, figure_style
from vitrine.train.figures.batch import fit_words
from vitrine.train.figures.mosaic import Mosaic, Pixels, fit_box

VIEWS = 4
"""Training versions of each picture."""

_PHOTO, _VIEW, _GAP = 2.0, 1.2, 0.12
Rectangle = tuple[float, float, float, float]
"""Left, top, right and bottom, each a share of the photograph's width or height, 0 to 1."""


@dataclass(frozen=True)
class PictureViews:
    """One picture on its way into the model.

    Attributes:
        reason: why this picture is drawn, such as "the broadest".
        label: what it is labelled.
        size: width and height of the file, pixels.
        photo_HWC: the photograph, possibly reduced.
        evaluated_HWC: what a model is measured on.
        trained_HWC: what it is trained on in the first epochs.
        evaluation_crop: the part of the photograph that evaluation sees.
        training_crops: the parts that training sees; none where the photograph is turned.
    """

    reason: str
    label: str
    size: tuple[int, int]
    photo_HWC: Pixels
    evaluated_HWC: Pixels
    trained_HWC: tuple[Pixels, ...]
    evaluation_crop: Rectangle
    training_crops: tuple[Rectangle, ...]


def views_figure(pictures: Sequence[PictureViews]) -> Figure:
    """A row a picture: the file with what is cut out of it, the evaluated version, and training versions."""
    height, width = pictures[0].evaluated_HWC.shape[:2]
    details = [
        "Left the file, with the part that the model is measured on in blue and those that it is trained on in orange; "
        f"then both, at {width} × {height} px.",
        "Is the object in every version, is it recognisable at this size, and is its mirror image still of its class? "
        "If not: --set transforms.crop_scale=[0.8,1], image_size, transforms.flip=0.",
    ]
    view = min(_VIEW, (WIDTH - 2 * MARGIN - _PHOTO - (VIEWS + 1) * _GAP) / (VIEWS + 1))
    step = view + 2 * LINE + 0.14
    heads = ["the file", "measured on", "trained on: epoch 1", *(f"epoch {number}" for number in range(2, VIEWS + 1))]
    places = [MARGIN, *(MARGIN + _PHOTO + _GAP + number * (view + _GAP) for number in range(VIEWS + 1))]
    with figure_style():
        mosaic = Mosaic(LINE + 0.06 + len(pictures) * step - 0.1, "What becomes of single pictures", details)
        for head, left in zip(heads, places, strict=True):
            mosaic.write(head, left, LINE - 0.04, weight="bold", color=GREY)
        for row, picture in enumerate(pictures):
            top = LINE + 0.06 + row * step
            _photograph(mosaic, picture, top, view)
            for left, pixels in zip(places[1:], (picture.evaluated_HWC, *picture.trained_HWC), strict=False):
                mosaic.paste(pixels, left, top, *fit_box(pixels, view, view))
        return mosaic.finish()


def _photograph(mosaic: Mosaic, picture: PictureViews, top: float, view: float) -> None:
    width, height = fit_box(picture.photo_HWC, _PHOTO, view)
    mosaic.paste(picture.photo_HWC, MARGIN, top, width, height)
    for colour, crops in ((SERIES[1], picture.training_crops), (ACCENT, (picture.evaluation_crop,))):
        for left, upper, right, lower in crops:
            box = (MARGIN + left * width, top + upper * height, (right - left) * width, (lower - upper) * height)
            mosaic.outline(colour, *box, 0.02 if colour == ACCENT else 0.01)
    words = f"{picture.label}: {picture.size[0]:,} × {picture.size[1]:,} px"
    mosaic.write(fit_words(words, _PHOTO), MARGIN, top + height + LINE, color=GREY)
    mosaic.write(fit_words(picture.reason, _PHOTO), MARGIN, top + height + 2 * LINE, color=GREY)
