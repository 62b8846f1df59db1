"""The pictures on which two runs disagree, each with the maps of both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from vitrine.data.samples import Sample
from vitrine.errors import DataError
from vitrine.explain.methods import Method
from vitrine.report.contact_sheet import save_contact_sheets
from vitrine.report.maps import MapPicture
from vitrine.report.scale import Scale, shared_scale
from vitrine.workflows.compared import Disagreements
from vitrine.workflows.map_pictures import map_picture
from vitrine.workflows.mapping import Mapper
from vitrine.workflows.opened import open_model
from vitrine.workflows.run_pictures import validation_samples
from vitrine.workflows.run_record import RunRecord

_MOST = 60  # pictures whose maps are drawn


def save_disagreement_maps(
    found: Disagreements, pair: tuple[RunRecord, RunRecord], path: Path
) -> tuple[list[Path], list[str]]:
    """Draw the attention maps of both runs for each picture, side by side, on contact sheets with one scale.

    Returns:
        What was written, and sentences on what was left out.

    Raises:
        ModelError: a run's weights cannot be used.
    """
    wanted = [each.name for each in found.pictures]
    try:
        samples = tuple(validation_samples(pair[0], wanted[:_MOST]).values())
    except DataError as error:
        return [], [f"No maps were drawn, as the pictures cannot be opened: {str(error).splitlines()[0]}"]
    notes = []
    if len(wanted) > _MOST:
        notes.append(f"pictures.png shows the first {_MOST} of {len(wanted)} pictures; pictures.csv names all.")
    if len(samples) < min(_MOST, len(wanted)):
        notes.append(f"{min(_MOST, len(wanted)) - len(samples)} pictures are no longer there and have no maps.")
    if not samples:
        return [], notes
    share = f"{len(samples)}" if len(samples) == len(wanted) else f"{len(samples)} of {len(wanted)}"
    first, second = (list(_maps(record, samples)) for record in pair)
    drawn = [each for both in zip(first, second, strict=True) for each in both]
    scale = Scale("uniform", shared_scale([each.map_RC for each in drawn]))
    sheets = save_contact_sheets(
        drawn,
        scale,
        path,
        {"runs": f"{pair[0].folder.path}, {pair[1].folder.path}"},
        title=f"{share} pictures on which two runs disagree",
        detail=f"of each pair left: {found.first}, right: {found.second}; {drawn[0].method}",
        pairs=False,
    )
    return sheets, notes


def _maps(record: RunRecord, samples: tuple[Sample, ...]) -> Iterator[MapPicture]:
    opened = open_model(str(record.folder.path), record.metrics.precision)
    mapper = Mapper(opened, Method())
    for mapped in mapper.run(samples, batch_size=16):
        for b, index in enumerate(mapped.batch.indices_B.tolist()):
            sample = samples[index]
            true = record.truths[sample.name]
            yield replace(map_picture(mapper, mapped, b, sample, true), notes=()).lighter(320)
