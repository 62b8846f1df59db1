"""A bulk job from beginning to end: cut, work on what is not finished, put together."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vitrine.bulk.jobs import CaptionJob, ExplainJob, PredictJob
from vitrine.bulk.ledger import Ledger
from vitrine.bulk.ray import pool, ray_running, run_parts
from vitrine.bulk.worker import Job, Part, sha256_of
from vitrine.caption.model import open_captioner
from vitrine.classify.model import open_classifier
from vitrine.data.bulk_slices import BulkInput, FolderSlice, slice_pictures
from vitrine.data.samples import random_subset
from vitrine.errors import DataError, UsageError
from vitrine.explain.explainer import Explainer
from vitrine.explain.run import SHEETS, ExplainSettings, choose_scale
from vitrine.io.files import to_json
from vitrine.plotting.provenance import figure_names
from vitrine.results import Progress


@dataclass(frozen=True)
class BulkSettings:
    """How a job is run.

    Attributes:
        part_size: pictures of a part; a multiple of the batch size is made of it. A shard is a part of its own.
        workers: processes with a model each; 0: one a GPU, else one for every two cores.
        address: of a Ray cluster; None starts Ray on this machine.
        resume: continue an unfinished job.
    """

    part_size: int = 1024
    workers: int = 0
    address: str | None = None
    resume: bool = False


@dataclass(frozen=True)
class BulkResult:
    """What a bulk job made.

    Attributes:
        result: the table, or the folder of Parquet parts.
        rows: pictures that have a row.
        unreadable: (name, reason) of the first ten that have none.
        unreadable_count: how many have none.
        unreadable_table: lists them all; None where there are none.
        parts: of the job.
        before: of these, finished by earlier calls.
        precision: that the model ran in; several where workers differ.
        notes: sentences on weights and on what was left aside.
    """

    result: Path
    rows: int
    unreadable: tuple[tuple[str, str], ...]
    unreadable_count: int
    unreadable_table: Path | None
    parts: int
    before: int
    precision: str
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        content = asdict(self) | {"result": str(self.result), "notes": list(self.notes)}
        content["unreadable"] = [{"name": name, "reason": reason} for name, reason in self.unreadable]
        content["unreadable_table"] = None if self.unreadable_table is None else str(self.unreadable_table)
        return content


def cut(images: Path, settings: BulkSettings, batch_size: int) -> BulkInput:
    """Cut what was given into slices of whole batches, so that batches are those of a single process.

    Raises:
        DataError: see :func:`vitrine.data.bulk_slices.sliced`.
    """
    return slice_pictures(images, max(1, settings.part_size // batch_size) * batch_size)


def limited(found: BulkInput, limit: int | None, seed: int, size: int) -> BulkInput:
    """``limit`` pictures drawn from a folder's, as a single process draws them; None takes all.

    Raises:
        UsageError: of shards or rows, which are not drawn from.
    """
    if limit is None:
        return found
    if found.kind != "pictures":
        raise UsageError(f"--limit draws from a folder of pictures; this is one of {found.kind}. Leave it out.")
    pictures = random_subset([sample for each in found.slices for sample in each.samples()], limit, seed)
    runs = tuple(FolderSlice(pictures[first : first + size]) for first in range(0, len(pictures), size))
    return replace(found, slices=runs)


def named_parts(found: BulkInput, kind: str, taken: Sequence[str] = ()) -> tuple[Part, ...]:
    """Parts with the names of their figures; a shard's figures have a folder of their own, named where it is read.

    Args:
        found: the slices.
        kind: the figures' ending.
        taken: stems that no figure may have.

    Raises:
        DataError: several pictures have one name, and would have one figure.
    """
    if found.kind == "shards":
        return tuple(Part(number, each) for number, each in enumerate(found.slices))
    names = [each.names() for each in found.slices]
    twice = [name for name, count in Counter(name for some in names for name in some).items() if count > 1]
    if twice:
        raise DataError(f"{len(twice)} names come more than once, for example {twice[0]}: each picture needs its own.")
    figures = figure_names([name for some in names for name in some], kind, taken)
    return tuple(
        Part(number, each, {name: figures[name] for name in some})
        for number, (each, some) in enumerate(zip(found.slices, names, strict=True))
    )


def run_job(
    work: Job, parts: Sequence[Part], ledger: Ledger, settings: BulkSettings, progress: Progress | None = None
) -> int:
    """Work on the parts that are not finished.

    Args:
        work: what is done to each.
        parts: all of the job.
        ledger: where finished ones are noted.
        settings: of the run.
        progress: called with pictures done, of how many; 0 where that is not known.

    Returns:
        How many parts were finished before.

    Raises:
        RunError: there is another unfinished job; the engine does not start; a worker was killed too often.
        VitrineError: a part cannot be done.
    """
    ledger.begin(resume=settings.resume)
    before = len(ledger.finished)
    rest = [part for part in parts if part.number not in ledger.finished]
    counts = [part.slice.count for part in parts]
    total = 0 if None in counts else sum(count or 0 for count in counts)
    done = sum(each.rows + each.unreadable for each in ledger.finished.values())
    if rest:
        with ray_running(settings.address) as ray:
            chosen = pool(ray, settings.workers)
            for part in run_parts(ray, chosen, work, rest, ledger.folder.absolute(), ledger.ending):
                ledger.record(part)
                done += part.rows + part.unreadable
                if progress is not None:
                    progress(done, total)
    return before


def fingerprint(parts: Sequence[Part]) -> str:
    """sha256 of what the parts are: other pictures, or another cut, give another one."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.slice.identity.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()


def described(verb: str, work: Any, weights: str, parts: Sequence[Part], options: Mapping[str, Any]) -> dict[str, Any]:
    """What a job is, for its manifest, JSON-ready."""
    return {
        "verb": verb,
        "model": work.model,
        "weights": weights,
        "pictures": fingerprint(parts),
        "parts": len(parts),
        "options": to_json(options),
    }


def summary(
    ledger: Ledger, parts: int, before: int, result: Path, unreadable: Path, notes: Sequence[str]
) -> BulkResult:
    """What a finished job comes to; the list of unreadable pictures is written."""
    done = ledger.finished.values()
    first = [item for _, item in zip(range(10), ledger.unreadable(parts), strict=False)]
    table = ledger.write_unreadable(parts, unreadable)
    ledger.close()
    return BulkResult(
        result,
        sum(part.rows for part in done),
        tuple(first),
        sum(part.unreadable for part in done),
        table,
        parts,
        before,
        " and ".join(sorted({part.precision for part in done})),
        tuple(notes),
    )


def predict_in_bulk(
    work: PredictJob, images: Path, out: Path, settings: BulkSettings, progress: Progress | None = None
) -> BulkResult:
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
        RunError: an unfinished job of another kind; see :func:`vitrine.bulk.run.run_job`.
    """
    ending = out.suffix.lower()
    if ending not in (".csv", ".parquet"):
        raise DataError(f"{out} ends in neither .csv (one table) nor .parquet (a folder of parts): rename it.")
    if ending == ".csv" and out.is_dir():
        raise DataError(f"{out} is a folder. Name the table to write, for example -o {out / 'predictions.csv'}.")
    found = cut(images, settings, work.batch_size)
    parts = tuple(Part(number, each) for number, each in enumerate(found.slices))
    opened = open_classifier(work.model, work.precision, work.architecture)
    notes = (*opened.notes, *found.notes)
    weights = sha256_of(opened.weights)
    del opened
    folder = out.with_name(f"{out.name}.parts") if ending == ".csv" else out
    options = {name: value for name, value in asdict(work).items() if name != "model"}
    ledger = Ledger(folder, ending, described("predict", work, weights, parts, options))
    before = run_job(work, parts, ledger, settings, progress)
    if ending == ".parquet":
        return summary(ledger, len(parts), before, out, out / "_unreadable.csv", notes)
    return _one_table(ledger, parts, before, out, notes)


def explain_in_bulk(
    work: ExplainJob, settings: BulkSettings, limit: int | None = None, progress: Progress | None = None
) -> BulkResult:
    """Draw a map for every picture: figures as a single process draws them, and ``maps.csv``; no contact sheets.

    ``work.folder`` is found here. Arguments and errors are those of :func:`predict_in_bulk`.
    """
    asked = work.settings
    work = replace(work, folder=_is_folder(work.images))
    found = limited(cut(work.images, settings, work.batch_size), limit, asked.seed, _size(settings, work.batch_size))
    parts = named_parts(found, asked.kind, SHEETS)
    opened = open_classifier(work.model, work.precision, work.architecture)
    explainer = Explainer(opened, asked.method, asked.target)
    if not asked.stretch and not asked.scale:
        work = replace(work, settings=replace(asked, scale=_shared_scale(explainer, asked, found, work.batch_size)))
    notes = (*opened.notes, *found.notes)
    weights = sha256_of(opened.weights)
    del opened, explainer
    return _figures("explain", work, work.out / "maps.csv", parts, weights, settings, notes, progress)


def caption_in_bulk(
    work: CaptionJob, settings: BulkSettings, limit: int | None = None, progress: Progress | None = None
) -> BulkResult:
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


def _shared_scale(explainer: Explainer, asked: ExplainSettings, found: BulkInput, batch_size: int) -> float:
    """Where the colours of all figures end: found on the first batch that can be read, as in a single process."""
    for each in found.slices:
        for batch in explainer.run(each.samples(), batch_size, workers=0):
            if batch.pictures:
                maps = [explained.display_RC for explained in batch.pictures]
                return choose_scale(maps, batch.pictures[0].unit, asked).high
    raise DataError("None of the pictures can be read.")


def _figures(
    verb: str,
    work: ExplainJob | CaptionJob,
    table: Path,
    parts: Sequence[Part],
    weights: str,
    settings: BulkSettings,
    notes: Sequence[str],
    progress: Progress | None,
) -> BulkResult:
    job: Job = work
    options = asdict(work) | {"images": str(work.images), "out": str(work.out), "vocabulary": ""}
    ledger = Ledger(table.with_name(f"{table.name}.parts"), ".csv", described(verb, work, weights, parts, options))
    before = run_job(job, parts, ledger, settings, progress)
    if not any(part.rows for part in ledger.finished.values()):
        name, reason = next(ledger.unreadable(len(parts)), ("", "there are none"))
        ledger.remove()
        raise DataError(f"None of the pictures can be read, for example {name}: {reason}")
    return _one_table(ledger, parts, before, table, notes)


def _one_table(ledger: Ledger, parts: Sequence[Part], before: int, table: Path, notes: Sequence[str]) -> BulkResult:
    result = summary(ledger, len(parts), before, table, table.with_name(f"{table.stem}.unreadable.csv"), notes)
    ledger.merge(len(parts), table)
    ledger.remove()
    return result
