"""Attention maps of two runs, side by side, for the pictures on which they disagree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from vitrine.attribution.methods import Method
from vitrine.classify.model import open_classifier
from vitrine.data.samples import Sample
from vitrine.errors import DataError
from vitrine.explain.explainer import Explainer
from vitrine.explain.figures.contact_sheet import save_contact_sheets
from vitrine.explain.figures.map import MapPicture
from vitrine.plotting.colormap import Scale, shared_scale
from vitrine.results import agree, count_of
from vitrine.runs.data import find_validation_samples
from vitrine.runs.record import RunRecord

_MAX_MAPS = 60  # pictures whose maps are drawn


def save_disagreement_maps(
    names: Sequence[str], pair: tuple[RunRecord, RunRecord], path: Path
) -> tuple[list[Path], list[str]]:
    """Draw the attention maps of both runs for each picture, side by side, on contact sheets with one scale.

    Args:
        names: of the pictures, in the order of the data.
        pair: the runs, the first one's maps on the left.
        path: of the first sheet.

    Returns:
        The sheets' paths, and sentences on the pictures that have no maps.

    Raises:
        ModelError: a run's weights cannot be used.
    """
    try:
        samples = tuple(find_validation_samples(pair[0], names[:_MAX_MAPS]).values())
    except DataError as error:
        return [], [f"No maps were drawn, as the pictures cannot be opened: {str(error).splitlines()[0]}"]
    notes = []
    if len(names) > _MAX_MAPS:
        notes.append(
            f"pictures.png shows the first {_MAX_MAPS} of {count_of(len(names), 'picture')}; pictures.csv names all."
        )
    if len(samples) < min(_MAX_MAPS, len(names)):
        absent = min(_MAX_MAPS, len(names)) - len(samples)
        notes.append(f"{count_of(absent, 'picture')} {agree(absent, 'is', 'are')} no longer there and without a map.")
    if not samples:
        return [], notes
    some = "" if len(samples) == len(names) else f"{len(samples)} of "
    first, second = (list(_explain(record, samples)) for record in pair)
    maps = [each for both in zip(first, second, strict=True) for each in both]
    scale = Scale("uniform", shared_scale([each.map_RC for each in maps]))
    sheets = save_contact_sheets(
        maps,
        scale,
        path,
        {"runs": f"{pair[0].folder.path}, {pair[1].folder.path}"},
        title=f"{some}{count_of(len(names), 'picture')} on which two runs disagree",
        detail=f"photograph, then the map of {pair[0].name}, then of {pair[1].name}; {maps[0].method}",
        maps_each=2,
    )
    return sheets, notes


def _explain(record: RunRecord, samples: tuple[Sample, ...]) -> Iterator[MapPicture]:
    """The run's attention maps of the pictures, small enough for a contact sheet."""
    explainer = Explainer(open_classifier(str(record.folder.path), record.metrics.precision), Method())
    for batch in explainer.run(samples, batch_size=16):
        for item in batch.pictures:
            picture = MapPicture.of(item, record.true_labels[item.sample.name])
            yield replace(picture, notes=()).with_smaller_photo(320)
