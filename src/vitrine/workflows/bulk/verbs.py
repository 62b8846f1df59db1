"""``vitrine predict``, ``explain`` and ``caption`` with ``--engine ray``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from vitrine.data.slices import Sliced
from vitrine.errors import DataError
from vitrine.workflows.bulk.caption_work import CaptionWork
from vitrine.workflows.bulk.explain_work import ExplainWork
from vitrine.workflows.bulk.job import (
    Bulk,
    BulkSettings,
    Progress,
    cut,
    described,
    limited,
    named_parts,
    run_job,
    summary,
)
from vitrine.workflows.bulk.ledger import Ledger
from vitrine.workflows.bulk.predict_work import PredictWork
from vitrine.workflows.bulk.worker import Part, Work, sha256_of
from vitrine.workflows.captioner_opening import open_captioner
from vitrine.workflows.explained import ExplainSettings
from vitrine.workflows.explaining import SHEETS
from vitrine.workflows.map_pictures import scale_of
from vitrine.workflows.mapping import Mapper
from vitrine.workflows.opened import open_model
from vitrine.workflows.weights_notes import model_notes


def predict_in_bulk(
    work: PredictWork, images: Path, out: Path, settings: BulkSettings, progress: Progress | None = None
) -> Bulk:
    """Predict every picture of a folder, of shards or of Parquet files.

    Args:
        work: the model and the columns.
        images: a folder of pictures, shards or Parquet files, or one file of these.
        out: ``.csv``: one table, the bytes that a single process writes, put together from ``OUT.parts/``;
            ``.parquet``: a folder of Parquet parts, which stays as it is.
        settings: how the job is run.
        progress: called with pictures done, of how many; 0 where that is not known.

    Raises:
        DataError: no pictures, or ``out`` is neither.
        ModelError: the model cannot be used.
        RunError: an unfinished job of another kind; see :func:`vitrine.workflows.bulk.job.run_job`.
    """
    ending = out.suffix.lower()
    if ending not in (".csv", ".parquet"):
        raise DataError(f"{out} ends in neither .csv (one table) nor .parquet (a folder of parts): rename it.")
    if ending == ".csv" and out.is_dir():
        raise DataError(f"{out} is a folder. Name the table to write, for example -o {out / 'predictions.csv'}.")
    found = cut(images, settings, work.batch_size)
    parts = tuple(Part(number, each) for number, each in enumerate(found.slices))
    opened = open_model(work.model, work.precision, work.architecture)
    notes = (*model_notes(opened.built), *found.notes)
    weights = sha256_of(opened.built.weights)
    del opened
    folder = out.with_name(f"{out.name}.parts") if ending == ".csv" else out
    options = {name: value for name, value in asdict(work).items() if name != "model"}
    ledger = Ledger(folder, ending, described("predict", work, weights, parts, options))
    before = run_job(work, parts, ledger, settings, progress)
    if ending == ".parquet":
        return summary(ledger, len(parts), before, out, out / "_unreadable.csv", notes)
    return _one_table(ledger, parts, before, out, notes)


def explain_in_bulk(
    work: ExplainWork, settings: BulkSettings, limit: int | None = None, progress: Progress | None = None
) -> Bulk:
    """Draw a map for every picture: figures as a single process draws them, and ``maps.csv``; no contact sheets.

    ``work.folder`` is found here. Arguments and errors are those of :func:`predict_in_bulk`.
    """
    asked = work.settings
    work = replace(work, folder=_is_folder(work.images))
    found = limited(cut(work.images, settings, work.batch_size), limit, asked.seed, _size(settings, work.batch_size))
    parts = named_parts(found, asked.kind, SHEETS)
    opened = open_model(work.model, work.precision, work.architecture)
    mapper = Mapper(opened, asked.method, asked.target)
    if not asked.stretch and not asked.scale:
        work = replace(work, settings=replace(asked, scale=_shared_scale(mapper, asked, found, work.batch_size)))
    notes = (*model_notes(opened.built), *found.notes)
    weights = sha256_of(opened.built.weights)
    del opened, mapper
    return _figures("explain", work, work.out / "maps.csv", parts, weights, settings, notes, progress)


def caption_in_bulk(
    work: CaptionWork, settings: BulkSettings, limit: int | None = None, progress: Progress | None = None
) -> Bulk:
    """Caption every picture: figures as a single process draws them, and ``captions.csv``.

    Arguments and errors are those of :func:`explain_in_bulk`.
    """
    asked = work.settings
    work = replace(work, folder=_is_folder(work.images))
    found = limited(cut(work.images, settings, work.batch_size), limit, asked.seed, _size(settings, work.batch_size))
    parts = named_parts(found, asked.kind)
    opened = open_captioner(work.model, work.architecture, work.vocabulary, precision=asked.precision)
    notes = (*opened.notes, *found.notes)
    weights = sha256_of(opened.weights)
    del opened
    return _figures("caption", work, work.out / "captions.csv", parts, weights, settings, notes, progress)


def _size(settings: BulkSettings, batch_size: int) -> int:
    return max(1, settings.part_size // batch_size) * batch_size


def _is_folder(images: Path) -> bool:
    return images.is_dir() or images.suffix.lower() in (".tar", ".parquet")


def _shared_scale(mapper: Mapper, asked: ExplainSettings, found: Sliced, batch_size: int) -> float:
    """Where the colours of all figures end: found on the first batch that can be read, as in a single process."""
    for each in found.slices:
        for mapped in mapper.run(each.samples(), batch_size, workers=0):
            if len(mapped.pixels_BCHW):
                return scale_of(mapped.maps, asked).high
    raise DataError("None of the pictures can be read.")


def _figures(
    verb: str,
    work: ExplainWork | CaptionWork,
    table: Path,
    parts: Sequence[Part],
    weights: str,
    settings: BulkSettings,
    notes: Sequence[str],
    progress: Progress | None,
) -> Bulk:
    job: Work = work
    options = asdict(work) | {"images": str(work.images), "out": str(work.out), "vocabulary": ""}
    ledger = Ledger(table.with_name(f"{table.name}.parts"), ".csv", described(verb, work, weights, parts, options))
    before = run_job(job, parts, ledger, settings, progress)
    if not any(part.rows for part in ledger.finished.values()):
        name, reason = next(ledger.unreadable(len(parts)), ("", "there are none"))
        ledger.remove()
        raise DataError(f"None of the pictures can be read, for example {name}: {reason}")
    return _one_table(ledger, parts, before, table, notes)


def _one_table(ledger: Ledger, parts: Sequence[Part], before: int, table: Path, notes: Sequence[str]) -> Bulk:
    result = summary(ledger, len(parts), before, table, table.with_name(f"{table.stem}.unreadable.csv"), notes)
    ledger.merge(len(parts), table)
    ledger.remove()
    return result
