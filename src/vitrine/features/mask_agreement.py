"""How well regions of patch tokens agree with masks, beside regions that know nothing of the model.

Axes: P pictures, R grid rows, C grid columns, D channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vitrine.attribution.placement import Placement
from vitrine.classify.inference import eval_transform
from vitrine.config.preprocessing import InputSpec
from vitrine.data.masks import Masks
from vitrine.data.samples import Sample
from vitrine.features.regions import adjusted_rand_index, assign, fit_centres
from vitrine.metrics.intervals import mean_interval
from vitrine.results import Interval, count_of, join_words

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class MeanAgreement:
    """The mean agreement of one kind of regions with masks.

    Attributes:
        name: what the regions are of.
        mean: adjusted Rand index over pictures, 1 for the same groups and 0 on average for random ones.
        interval: 95 %, over pictures; None with few of them.
        lead: mean and interval of how much more this model's own regions agree, picture by picture; None of these.
    """

    name: str
    mean: float
    interval: Interval | None
    lead: tuple[float, Interval | None] | None = None


@dataclass(frozen=True)
class RegionAgreement:
    """How well regions agree with masks.

    Attributes:
        pictures: with a mask that has patches inside and outside.
        regions: how many there are.
        origin: of the masks.
        own: of the model's tokens.
        controls: of what knows nothing of the model.
    """

    pictures: int
    regions: int
    origin: str
    own: MeanAgreement
    controls: tuple[MeanAgreement, ...]

    @property
    def sentence(self) -> str:
        """What follows: more than every control, or than which not."""
        rows = ", ".join(f"{each.name} {_number(each)}" for each in self.controls)
        figures = (
            f"{self.regions} regions agree with the masks of {count_of(self.pictures, 'picture')} by an adjusted Rand "
            f"index of {_number(self.own)} (1: the same groups; 0: no more than random groups do). Controls: {rows}."
        )
        intervals = [each.lead[1] for each in self.controls if each.lead is not None and each.lead[1] is not None]
        if len(intervals) < len(self.controls):
            return f"{figures} There are too few pictures to compare these."
        ahead = [each.name for each in self.controls if each.lead and each.lead[1] and each.lead[1].low > 0]
        behind = [each.name for each in self.controls if each.name not in ahead]
        if not behind:
            return f"{figures} They agree more than every control does."
        return f"{figures} That is not clearly more than {join_words(behind, 'or')}."

    def to_dict(self) -> dict[str, object]:
        """JSON-ready."""
        return {
            "pictures": self.pictures,
            "regions": self.regions,
            "masks": self.origin,
            "own": _to_dict(self.own),
            "controls": {each.name: _to_dict(each) for each in self.controls},
        }


def _number(each: MeanAgreement) -> str:
    if each.interval is None:
        return f"{each.mean:.2f}"
    return f"{each.mean:.2f} ({each.interval.low:.2f} to {each.interval.high:.2f})"


def _to_dict(each: MeanAgreement) -> dict[str, object]:
    def ends(interval: Interval | None) -> list[float] | None:
        return None if interval is None else [round(interval.low, 6), round(interval.high, 6)]

    content: dict[str, object] = {"mean": round(each.mean, 6), "interval": ends(each.interval)}
    if each.lead is not None:
        content["lead"] = {"mean": round(each.lead[0], 6), "interval": ends(each.lead[1])}
    return content


def patch_mask(masks: Masks, sample: Sample, spec: InputSpec, grid: tuple[int, int]) -> Bools | None:
    """Which patches of a picture lie in its mask, by more than half of their area: bool (R, C).

    None where there is no mask, or where all patches lie on one side of it.

    Raises:
        DataError: the mask cannot be read, or has another size than the picture.
        PictureError: the picture cannot be read.
    """
    if sample.name not in masks.loaders:
        return None
    width, height = sample.picture.decode().size
    mask_HW = masks.mask_of(sample.name, (width, height))
    assert mask_HW is not None
    inside_RC = Placement(eval_transform(spec).geometry(width, height), *grid).coverage(mask_HW) > 0.5
    return inside_RC if 0 < inside_RC.sum() < inside_RC.size else None


def place_control(rows: int, columns: int, regions: int, seed: int) -> npt.NDArray[np.int64]:
    """Regions of the places alone: int64 (R, C), the same for every picture."""
    row_RC, column_RC = np.mgrid[:rows, :columns].astype(np.float32)
    places_RC2 = np.stack([row_RC / max(rows, columns), column_RC / max(rows, columns)], axis=-1)
    return assign(places_RC2, fit_centres(places_RC2.reshape(-1, 2), regions, seed))


def agreement(
    own: Sequence[npt.ArrayLike], controls: Mapping[str, Sequence[npt.ArrayLike]], inside: Sequence[Bools], origin: str
) -> RegionAgreement:
    """Compare groupings of the patches of pictures with their masks.

    Args:
        own: the region of each patch, (R, C) a picture, by the model.
        controls: the same of each control, by its name.
        inside: bool (R, C), the patches inside of each picture's mask.
        origin: of the masks, in words.

    Raises:
        ValueError: there is no picture.
    """
    values = {name: _indices(labels, inside) for name, labels in (("", own), *controls.items())}
    own_P = values.pop("")
    rows = tuple(
        MeanAgreement(
            name,
            float(values_P.mean()),
            mean_interval(values_P, -1, 1),
            (float((own_P - values_P).mean()), mean_interval(own_P - values_P, -2, 2)),
        )
        for name, values_P in values.items()
    )
    regions = len({int(label) for labels in own for label in np.unique(np.asarray(labels))})
    model = MeanAgreement("this model", float(own_P.mean()), mean_interval(own_P, -1, 1))
    return RegionAgreement(len(inside), regions, origin, model, rows)


def _indices(labels: Sequence[npt.ArrayLike], inside: Sequence[Bools]) -> npt.NDArray[np.float64]:
    if not inside:
        raise ValueError("There is no picture with a mask to compare with.")
    return np.array([adjusted_rand_index(each, mask_RC) for each, mask_RC in zip(labels, inside, strict=True)])
