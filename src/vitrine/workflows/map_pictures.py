"""From a batch of maps to pictures that figures are drawn of.

Axes: B pictures, R grid rows, C grid columns; H, W pixel rows and columns of a photograph.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vitrine.data.samples import Sample
from vitrine.explain.maps import BatchMaps, Unit
from vitrine.explain.outliers import without_outliers
from vitrine.explain.placement import Placement
from vitrine.report.maps import MapPicture, Scale, shared_scale
from vitrine.workflows.explained import ExplainSettings
from vitrine.workflows.inference import eval_transform
from vitrine.workflows.mapping import Checked, MappedBatch, Mapper

FLAGS = {"believable": "Believable", "doubtful": "Doubtful", "not checked": "Not checked"}

Floats = npt.NDArray[np.float32]


def shown(scores_RC: Floats, unit: Unit) -> Floats:
    """As figures show a map: multiples of uniform, or probability lost; a map of nothing is nothing."""
    if unit == "drop":
        return scores_RC
    mean = float(scores_RC.mean())
    return scores_RC / mean if mean > 0 else np.zeros_like(scores_RC)


def scale_of(maps: BatchMaps, settings: ExplainSettings) -> Scale:
    """One scale for the pictures of a call: as asked for, else found on these maps."""
    lost = maps.unit == "drop"
    if settings.stretch:
        return Scale("own", label="probability lost" if lost else "")
    each = [shown(scores_RC, maps.unit) for scores_RC in maps.scores_BRC.numpy()]
    high = settings.scale or shared_scale(each, least=0.05 if lost else 2.0)
    return Scale("lost" if lost else "uniform", high)


def map_picture(
    mapper: Mapper,
    mapped: MappedBatch,
    b: int,
    sample: Sample,
    true: str | None = None,
    checked: Checked | None = None,
    smooth: bool = True,
) -> MapPicture:
    """One picture of a batch with its map, what the model said, and what the checks found.

    Args:
        mapper: made the maps.
        mapped: the batch.
        b: the picture's place in it.
        sample: the picture itself.
        true: its true label, None where it is not known.
        checked: the batch's checks; None without.
        smooth: draw the overlay smoothly between the middles of patches.
    """
    scores_RC, unit = mapped.maps.scores_BRC[b].numpy(), mapped.maps.unit
    photo_HWC = np.asarray(sample.picture.decoded())
    height, width = photo_HWC.shape[:2]
    likeliest = int(mapped.probabilities_BC[b].argmax())
    verdict = None if checked is None else checked.verdicts[b]
    marked: tuple[tuple[int, int], ...] = ()
    masked_RC = None
    if checked is not None and checked.outliers_BRC[b].any():
        marked = tuple((int(row), int(column)) for row, column in np.argwhere(checked.outliers_BRC[b]))
        masked_RC = shown(without_outliers(scores_RC, checked.outliers_BRC[b]), unit)
    return MapPicture(
        photo_HWC=photo_HWC,
        map_RC=shown(scores_RC, unit),
        placement=Placement(eval_transform(mapper.opened.spec).geometry(width, height), *scores_RC.shape),
        name=sample.name,
        predicted=mapper.opened.labels[likeliest],
        probability=float(mapped.probabilities_BC[b, likeliest]),
        true=true,
        method=mapper.method.describe(mapper.opened.module),
        notes=_notes(mapper, mapped, b, likeliest),
        flag="" if verdict is None else FLAGS[verdict.flag],
        verdict="" if verdict is None else verdict.sentence,
        marked=marked,
        masked_RC=masked_RC,
        smooth=smooth,
    )


def _notes(mapper: Mapper, mapped: MappedBatch, b: int, likeliest: int) -> tuple[str, ...]:
    notes = []
    if mapper.method.for_a_class and int(mapped.targets_B[b]) != likeliest:
        notes.append(f"The map is for the class {mapper.opened.labels[int(mapped.targets_B[b])]}.")
    if mapped.maps.prefix_share_B is not None:
        share = float(mapped.maps.prefix_share_B[b])
        count = mapper.layout.prefix
        tokens = "the prefix token" if count == 1 else f"the {count} prefix tokens"
        notes.append(
            f"{'Less than 1' if share < 0.01 else f'{100 * share:.0f}'} % of the mass is on {tokens} and not drawn."
        )
    if mapper.method.name == "attention" and mapper.layout.readout == "mean":
        notes.append("This model's head reads the mean of the patches, not this row.")
    return tuple(notes)
