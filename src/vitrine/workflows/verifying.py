"""``vitrine verify``: a run's files, data and predictions held against what the run recorded of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vitrine.data.captions import CaptionData, open_captions
from vitrine.data.samples import LabelledData
from vitrine.data.sources import open_data
from vitrine.errors import DataError, ModelError, RunError, UsageError
from vitrine.evaluate.expectation import check_expectation
from vitrine.models.run_folder import RunFolder
from vitrine.workflows.captioner_record import CaptionerRecord
from vitrine.workflows.finished_run import FinishedRun, read_finished_run
from vitrine.workflows.run_data import data_of, looked_for
from vitrine.workflows.run_record import RunRecord
from vitrine.workflows.verified import Again, CaptionsCompared, Check, RowsCompared, Verification
from vitrine.workflows.verified_captions import verify_captions
from vitrine.workflows.verified_data import check_split, find_split, look_at
from vitrine.workflows.verified_files import classes_check, vocabulary_check, weights_check
from vitrine.workflows.verified_rows import verify_rows

Progress = Callable[[int, int], None]


def verify(
    run: Path,
    data: str | None = None,
    *,
    tolerance: float = 0.005,
    batch_size: int = 64,
    precision: str | None = None,
    reading: Progress = lambda _done, _total: None,
    progress: Progress = lambda _done, _total: None,
) -> Verification:
    """Hold a run against its own record: hashes of weights and data, class names, and its predictions row by row.

    Pictures are looked for by content, so that they may lie elsewhere or under other names. The model is run in the
    recorded precision unless another is asked for. A captioner's predictions are its captions; besides, the share of
    right word pieces of the human captions is measured again.

    Args:
        run: the folder of a finished run.
        data: where its pictures are now; None takes the reference that the run recorded.
        tolerance: share of the validation pictures whose label or caption may differ, 0 to 1; an accuracy cannot move
            by more. Of a captioner, also by how much its share of right word pieces may.
        batch_size: pictures at a time.
        precision: fp32 or bf16; None takes the recorded one.
        reading: called with pictures hashed, of how many.
        progress: called with pictures evaluated, of how many.

    Raises:
        RunError: not a finished run, or its files do not fit one another.
        DataError: the data cannot be opened.
        UsageError: the tolerance or the precision cannot be used.
    """
    check_expectation(0.0, tolerance)
    if precision not in (None, "fp32", "bf16"):
        raise UsageError(f"--precision {precision} cannot be used: expected fp32 or bf16.")
    record = _record(run)
    found = _open(record, data)
    present = look_at(found, reading)
    splits = {name: find_split(record.data, name, present) for name in ("validation", "train") if _finite(record, name)}
    again = Again(precision or record.metrics.precision, batch_size, tolerance, progress)
    checks = [weights_check(record.folder)]
    if isinstance(record, RunRecord) and isinstance(found, LabelledData):
        checks.append(classes_check(record, found))
    else:
        checks.append(vocabulary_check(record.folder))
    checks += [check_split(record.data, name, split) for name, split in splits.items()]
    rows: RowsCompared | CaptionsCompared | None = None
    samples = splits["validation"].samples
    try:
        if isinstance(record, CaptionerRecord):
            rows, more = verify_captions(record, samples, again, checks)
        else:
            rows, more = verify_rows(record, samples, again, checks)
        checks += more
    except (ModelError, RunError) as error:
        what = "captions" if isinstance(record, CaptionerRecord) else "predictions"
        checks.append(Check(what, "differs", " ".join(str(error).split())))
    return Verification(str(run), found.reference, tolerance, tuple(checks), rows)


def _record(run: Path) -> FinishedRun:
    folder = RunFolder(run)
    if not folder.started:
        raise RunError(f"{run} is not a run that vitrine train wrote, so there is nothing to verify.")
    if not folder.finished:
        raise RunError(f"The training in {run} has not ended. Continue it: vitrine train DATA -o {run} --resume")
    return read_finished_run(run.name, folder)


def _finite(record: FinishedRun, split: str) -> bool:
    return not isinstance(record.data["splits"].get(split, ""), str)


def _open(record: FinishedRun, data: str | None) -> LabelledData | CaptionData:
    recipe, reference = record.recipe, str(record.data["reference"])
    place = data or data_of(record.folder, reference)
    opening = open_captions if isinstance(record, CaptionerRecord) else open_data
    try:
        return opening(place, seed=recipe.seed, val_fraction=recipe.val_fraction)
    except DataError as error:
        if data is not None:
            raise
        first = str(error).splitlines()[0]
        looked = looked_for(record.folder, reference)
        raise DataError(
            f"{first}\nThe run's data are not where they were; say where: verify RUN DATA. {looked}"
        ) from error
