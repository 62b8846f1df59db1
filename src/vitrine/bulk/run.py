"""A bulk job from beginning to end: cut into parts, work on those that are not finished, put together."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vitrine.bulk.jobs import CaptionJob, ExplainJob, PredictJob
from vitrine.bulk.ledger import Ledger
from vitrine.bulk.ray import process_parts, ray_session, worker_pool
from vitrine.bulk.worker import JobModel, Part
from vitrine.caption.run import captioner_flags
from vitrine.data.bulk_slices import BulkInput, FolderSlice, slice_pictures
from vitrine.data.samples import random_subset
from vitrine.display import ResultDisplay
from vitrine.errors import DataError, UsageError
from vitrine.explain.explainer import Explainer
from vitrine.explain.run import SHEETS, ExplainSettings, choose_scale, explain_flags
from vitrine.io.figure_folder import FigureCall, claim_folder, picture_choice
from vitrine.io.file_names import beside
from vitrine.io.files import remove_unfinished, to_json
from vitrine.io.output_lock import lock_folder, writes_file
from vitrine.plotting.provenance import figure_names
from vitrine.results import Progress, Unreadable, agree, count_of, no_progress, none_readable, unreadable_to_json


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

    def slice_size(self, batch_size: int) -> int:
        """Pictures of a part: whole batches, so that they are those of a single process; at least one."""
        return max(1, self.part_size // batch_size) * batch_size


@dataclass(frozen=True, repr=False)
class BulkResult(ResultDisplay):
    """What a bulk job made.

    Attributes:
        out: the table, or the folder of Parquet parts.
        rows: pictures that have a row.
        unreadable: (name, reason) of the first ten that have none.
        unreadable_count: how many have none.
        unreadable_table: lists them all; None where there are none.
        parts: how many parts the job has.
        resumed_parts: how many of these an earlier call finished.
        precision: that the model ran in; several where workers differ.
        notes: sentences on weights and on what was left aside.
    """

    out: Path
    rows: int
    unreadable: tuple[Unreadable, ...]
    unreadable_count: int
    unreadable_table: Path | None
    parts: int
    resumed_parts: int
    precision: str
    notes: tuple[str, ...]

    def headline(self) -> str:
        """How many rows, and where."""
        return f"{count_of(self.rows, 'row')} in {self.out} ({self.precision})"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "result": str(self.out),
            "rows": self.rows,
            "unreadable": unreadable_to_json(self.unreadable),
            "unreadable_count": self.unreadable_count,
            "unreadable_table": None if self.unreadable_table is None else str(self.unreadable_table),
            "parts": self.parts,
            "before": self.resumed_parts,
            "precision": self.precision,
            "notes": list(self.notes),
        }


def limit_slices(slices: BulkInput, limit: int | None, seed: int, size: int) -> BulkInput:
    """``limit`` pictures drawn from a folder's, as a single process draws them; None takes all.

    Raises:
        UsageError: of shards or rows, which are not drawn from.
    """
    if limit is None:
        return slices
    if slices.kind != "pictures":
        raise UsageError(f"--limit draws from a folder of pictures; this is one of {slices.kind}. Leave it out.")
    pictures = random_subset([sample for each in slices.slices for sample in each.samples()], limit, seed)
    chunks = tuple(FolderSlice(pictures[first : first + size]) for first in range(0, len(pictures), size))
    return replace(slices, slices=chunks)


def parts_with_figures(slices: BulkInput, kind: str, reserved_stems: Sequence[str] = ()) -> tuple[Part, ...]:
    """Parts with the names of their figures; a shard's figures have a folder of their own, named where it is read.

    Args:
        slices: of the pictures.
        kind: the figures' ending.
        reserved_stems: stems that no figure may have.

    Raises:
        DataError: several pictures have one name, and would have one figure.
    """
    if slices.kind == "shards":
        return tuple(Part(number, each) for number, each in enumerate(slices.slices))
    names = [each.names() for each in slices.slices]
    repeats = [name for name, count in Counter(name for some in names for name in some).items() if count > 1]
    if repeats:
        raise DataError(
            f"{count_of(len(repeats), 'name')} {agree(len(repeats), 'comes', 'come')} more than once, for "
            f"example {repeats[0]}: each picture needs its own."
        )
    figures = figure_names([name for some in names for name in some], kind, reserved_stems)
    return tuple(
        Part(number, each, {name: figures[name] for name in some})
        for number, (each, some) in enumerate(zip(slices.slices, names, strict=True))
    )


@writes_file("predict")
def predict_in_bulk(
    job: PredictJob, images: Path, out: Path, settings: BulkSettings, progress: Progress = no_progress
) -> BulkResult:
    """Predict every picture of a folder, of shards or of Parquet files.

    Args:
        job: the model and the columns.
        images: a folder of pictures, shards or Parquet files, or one file of these.
        out: ``.csv``: one table, the bytes that a single process writes, put together from ``OUT.parts/``;
            ``.parquet``: a folder of Parquet parts, which stays as it is.
        settings: how the job is run.
        progress: called with pictures done, of how many; 0 where that is not known.

    Raises:
        DataError: no pictures, or ``out`` is neither.
        ModelError: the model cannot be used.
        RunError: an unfinished job of another kind; the engine does not start; a worker was killed too often.
        VitrineError: a part cannot be done.
    """
    ending = out.suffix.lower()
    if ending not in (".csv", ".parquet"):
        raise DataError(f"{out} ends in neither .csv (one table) nor .parquet (a folder of parts): rename it.")
    if ending == ".csv" and out.is_dir():
        raise DataError(f"{out} is a folder. Name the table to write, for example -o {out / 'predictions.csv'}.")
    slices = slice_pictures(images, settings.slice_size(job.batch_size))
    parts = tuple(Part(number, each) for number, each in enumerate(slices.slices))
    options = {name: value for name, value in asdict(job).items() if name != "model"}
    plan = _Plan("predict", job, options, out, parts).with_model(job.open(), slices.notes)
    return _run(plan, settings, progress)


def explain_in_bulk(
    job: ExplainJob,
    settings: BulkSettings,
    limit: int | None = None,
    progress: Progress = no_progress,
    replace_others: bool = False,
) -> BulkResult:
    """Draw a map for every picture: figures as a single process draws them, and ``maps.csv``; no contact sheets.

    Args:
        job: the model, the pictures and the figures; its ``folder`` is decided here.
        settings: how the job is run.
        limit: pictures at most; with more, a choice drawn with the job's seed. None takes all.
        progress: called with pictures done, of how many; 0 where that is not known.
        replace_others: remove the figures of another call from the job's folder, instead of refusing to draw beside
            them.

    Raises:
        UsageError: a limit of shards or rows.
        RunError: the folder has figures of another call.
        DataError: no pictures, or none that can be read.
        VitrineError: see :func:`predict_in_bulk`.
    """
    with lock_folder(job.out, "explain"):
        job = replace(job, folder=_has_many_pictures(job.images))
        slices = _limited_slices(job, settings, limit)
        parts = parts_with_figures(slices, job.settings.kind, SHEETS)
        model = job.open()
        if not job.settings.stretch and not job.settings.scale:
            scale = _shared_scale(model.runner, job.settings, slices, job.batch_size)
            job = replace(job, settings=replace(job.settings, scale=scale))
        flags = explain_flags(job.settings, model.runner.classifier.precision, job.architecture)
        flags += ["--names", job.names] if job.names else []
        notes = (*slices.notes, *_claim_folder("explain", job, parts, flags, limit, replace_others))
        plan = _Plan("explain", job, _figure_options(job), job.out / "maps.csv", parts).with_model(model, notes)
        del model  # workers have their own
        return _run(plan, settings, progress)


def caption_in_bulk(
    job: CaptionJob,
    settings: BulkSettings,
    limit: int | None = None,
    progress: Progress = no_progress,
    replace_others: bool = False,
) -> BulkResult:
    """Caption every picture: figures as a single process draws them, and ``captions.csv``.

    Arguments and errors are those of :func:`explain_in_bulk`.
    """
    with lock_folder(job.out, "caption"):
        job = replace(job, folder=_has_many_pictures(job.images))
        slices = _limited_slices(job, settings, limit)
        parts = parts_with_figures(slices, job.settings.kind)
        flags = [*captioner_flags(job.architecture, job.vocabulary), *job.settings.flags()]
        notes = (*slices.notes, *_claim_folder("caption", job, parts, flags, limit, replace_others))
        plan = _Plan("caption", job, _figure_options(job), job.out / "captions.csv", parts)
        return _run(plan.with_model(job.open(), notes), settings, progress)


def _claim_folder(
    verb: str,
    job: ExplainJob | CaptionJob,
    parts: Sequence[Part],
    flags: Sequence[str],
    limit: int | None,
    replace_others: bool,
) -> list[str]:
    """Make the folder the job's own, and say what was removed.

    Figures of shards are named by workers, and are not listed.
    """
    files = [name for part in parts for name in (part.figures or {}).values()]
    table = "maps.csv" if verb == "explain" else "captions.csv"
    call = FigureCall(verb, (job.model, *flags), picture_choice(job.images, limit, job.settings.seed))
    claim = claim_folder(job.out, call, (*files, table), replace=replace_others)
    claim.take()
    return claim.notes


def _has_many_pictures(images: Path) -> bool:
    return images.is_dir() or images.suffix.lower() in (".tar", ".parquet")


def _limited_slices(job: ExplainJob | CaptionJob, settings: BulkSettings, limit: int | None) -> BulkInput:
    size = settings.slice_size(job.batch_size)
    return limit_slices(slice_pictures(job.images, size), limit, job.settings.seed, size)


def _figure_options(job: ExplainJob | CaptionJob) -> dict[str, Any]:
    vocabulary = job.vocabulary if isinstance(job, CaptionJob) else None
    return asdict(job) | {"images": str(job.images), "out": str(job.out), "vocabulary": str(vocabulary or "")}


def _shared_scale(explainer: Explainer, settings: ExplainSettings, slices: BulkInput, batch_size: int) -> float:
    """Where the colours of all figures end: found on the first batch that can be read, as in a single process."""
    unreadable: list[Unreadable] = []
    for each in slices.slices:
        for batch in explainer.run(each.samples(), batch_size, workers=0):
            if batch.pictures:
                maps = [picture.display_RC for picture in batch.pictures]
                return choose_scale(maps, batch.pictures[0].unit, settings).high
            unreadable += batch.unreadable
    raise none_readable(unreadable)


@dataclass(frozen=True)
class _Plan:
    """A job with everything that is known before it starts.

    Attributes:
        verb: "predict", "explain" or "caption".
        job: what is done to each part.
        options: of the job, JSON-ready; must be equal for parts to belong together.
        out: the table, or the folder of Parquet parts.
        parts: all of them.
        weights_sha256: of the model.
        notes: sentences on weights and on what was left aside.
    """

    verb: str
    job: PredictJob | ExplainJob | CaptionJob
    options: Mapping[str, Any]
    out: Path
    parts: tuple[Part, ...]
    weights_sha256: str = "none"
    notes: tuple[str, ...] = ()

    def with_model(self, model: JobModel, notes: tuple[str, ...]) -> _Plan:
        """The same with what the model says; the model itself is not kept, since workers have their own."""
        return replace(self, weights_sha256=model.weights_sha256, notes=(*model.model.notes, *notes))

    def manifest(self) -> dict[str, Any]:
        """What must be equal for finished parts to belong to this job, JSON-ready."""
        digest = hashlib.sha256()
        for part in self.parts:
            digest.update(part.slice.identity.encode("utf-8", "surrogateescape") + b"\0")
        return {
            "verb": self.verb,
            "model": self.job.model,
            "weights": self.weights_sha256,
            "pictures": digest.hexdigest(),
            "parts": len(self.parts),
            "options": to_json(self.options),
        }


def _run(plan: _Plan, settings: BulkSettings, progress: Progress) -> BulkResult:
    """Work on the parts that are not finished, and put all of them together."""
    out, count = plan.out, len(plan.parts)
    ending = out.suffix.lower()
    _remove_unfinished_figures(plan)
    one_table = ending == ".csv"
    ledger = Ledger(beside(out, ".parts") if one_table else out, ending, plan.manifest())
    resumed_parts = _process_unfinished(plan, ledger, settings, progress)
    finished_parts = ledger.finished_parts.values()
    unreadable = tuple(item for _, item in zip(range(10), ledger.unreadable(count), strict=False))
    unreadable_count = sum(part.unreadable for part in finished_parts)
    if plan.verb != "predict" and not any(part.rows for part in finished_parts):  # figures are what was wanted
        ledger.remove()
        raise none_readable(unreadable, unreadable_count)
    unreadable_path = beside(out, ".unreadable.csv", keep_ending=False) if one_table else out / "_unreadable.csv"
    unreadable_table = ledger.write_unreadable(count, unreadable_path)
    if one_table:
        ledger.merge(count, out)
        ledger.remove()
    else:
        ledger.remove_attempts()
    return BulkResult(
        out,
        sum(part.rows for part in finished_parts),
        unreadable,
        unreadable_count,
        unreadable_table,
        count,
        resumed_parts,
        " and ".join(sorted({part.precision for part in finished_parts})),
        plan.notes,
    )


def _remove_unfinished_figures(plan: _Plan) -> None:
    """Delete what killed workers left half drawn; where figures are named by a shard's worker, in the folder alone."""
    names = (name for part in plan.parts for name in (part.figures or {}).values())
    remove_unfinished(*{(plan.out.parent / name).parent for name in names})


def _process_unfinished(plan: _Plan, ledger: Ledger, settings: BulkSettings, progress: Progress) -> int:
    """Work on the parts that are not finished; how many were."""
    ledger.begin(resume=settings.resume)
    resumed_parts = len(ledger.finished_parts)
    rest = [part for part in plan.parts if part.number not in ledger.finished_parts]
    counts = [part.slice.count for part in plan.parts]
    total = 0 if None in counts else sum(count or 0 for count in counts)
    count = sum(part.rows + part.unreadable for part in ledger.finished_parts.values())
    if rest:
        with ray_session(settings.address) as ray:
            pool = worker_pool(ray, settings.workers)
            for part in process_parts(ray, pool, plan.job, rest, ledger.folder.absolute(), ledger.ending):
                ledger.record(part)
                count += part.rows + part.unreadable
                progress(count, total)
    return resumed_parts
