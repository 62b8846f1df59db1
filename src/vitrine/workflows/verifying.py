"""``vitrine verify``: a run's files, data and predictions held against what the run recorded of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from vitrine.data.samples import LabelledData
from vitrine.data.sources import open_data
from vitrine.errors import DataError, ModelError, RunError, UsageError
from vitrine.evaluate.expectation import check_expectation
from vitrine.models.captioner.saved import is_captioner_folder
from vitrine.models.run_folder import RunFolder
from vitrine.workflows.environment import describe_environment
from vitrine.workflows.opened import OpenedModel, open_model
from vitrine.workflows.run_record import RunRecord, read_record
from vitrine.workflows.verified import Check, RowsCompared, Verification
from vitrine.workflows.verified_data import check_split, find_split, look_at
from vitrine.workflows.verified_rows import compare_rows
from vitrine.workflows.weights_notes import MEASURED

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
    recorded precision unless another is asked for.

    Args:
        run: the folder of a finished run of a classifier.
        data: where its pictures are now; None takes the reference that the run recorded.
        tolerance: share of the validation pictures whose label may differ, 0 to 1; an accuracy cannot move by more.
        batch_size: pictures at a time.
        precision: fp32 or bf16; None takes the recorded one.
        reading: called with pictures hashed, of how many.
        progress: called with pictures evaluated, of how many.

    Raises:
        RunError: not a finished run of a classifier, or its files do not fit one another.
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
    checks = [
        _weights(record),
        _classes(record, found),
        *(check_split(record.data, name, split) for name, split in splits.items()),
    ]
    rows = None
    try:
        _ = record.answers  # refuses predictions that are of other pictures or results than the run's other files
        opened = open_model(str(run), precision or record.metrics.precision)
        rows = compare_rows(record, splits["validation"].samples, opened, batch_size, progress)
        checks += [_predictions(rows, tolerance, checks), _environment(record, opened)]
    except (ModelError, RunError) as error:
        checks.append(Check("predictions", "differs", " ".join(str(error).split())))
    return Verification(str(run), found.reference, tolerance, tuple(checks), rows)


def _record(run: Path) -> RunRecord:
    folder = RunFolder(run)
    if not folder.started:
        raise RunError(f"{run} is not a run that vitrine train wrote, so there is nothing to verify.")
    if not folder.finished:
        raise RunError(f"The training in {run} has not ended. Continue it: vitrine train DATA -o {run} --resume")
    if is_captioner_folder(run):
        raise RunError(f"{run} trained a captioner; verify is for classifiers. See: vitrine evaluate {run} DATA")
    return read_record(run.name, folder)


def _finite(record: RunRecord, split: str) -> bool:
    return not isinstance(record.data["splits"].get(split, ""), str)


def _open(record: RunRecord, data: str | None) -> LabelledData:
    recipe = record.recipe
    try:
        return open_data(data or str(record.data["reference"]), seed=recipe.seed, val_fraction=recipe.val_fraction)
    except DataError as error:
        if data is not None:
            raise
        first = str(error).splitlines()[0]
        raise DataError(f"{first}\nThe run's data are not where they were; say where: verify RUN DATA") from error


def _weights(record: RunRecord) -> Check:
    """The hash of the weights beside the one that the run recorded when it was measured."""
    path = record.folder.path / "model.safetensors"
    if not path.is_file():
        return Check("weights", "differs", "model.safetensors is missing")
    then = json.loads((record.folder.path / "metrics.json").read_text("utf-8")).get(MEASURED)
    with path.open("rb") as stream:
        now = hashlib.file_digest(stream, "sha256").hexdigest()
    if then is None:
        return Check("weights", "not checked", f"the run recorded no hash of them; now sha256 {now[:12]}…")
    if then == now:
        return Check("weights", "same", f"model.safetensors is the file that was measured (sha256 {now[:12]}…)")
    return Check("weights", "differs", f"model.safetensors was sha256 {then[:12]}…, now {now[:12]}…")


def _classes(record: RunRecord, found: LabelledData) -> Check:
    """Class names in the run's files and in the data."""
    then = tuple(record.data["labels"])
    config = json.loads((record.folder.path / "config.json").read_text("utf-8"))
    places = {"labels.txt": record.folder.labels(), "config.json": tuple(config.get("label_names", then))}
    for place, names in places.items():
        if names != then:
            return Check("class names", "differs", f"{place} was changed: {_difference(then, names)}")
    if set(found.labels) - set(then):
        return Check("class names", "differs", f"the data have other classes: {_difference(then, found.labels)}")
    if len(set(then) - set(found.labels)):
        return Check("class names", "differs", f"the data lack classes: {_difference(then, found.labels)}")
    return Check("class names", "same", f"{len(then)} classes")


def _difference(then: tuple[str, ...], now: tuple[str, ...]) -> str:
    gone, new = ([x for x in one if x not in other] for one, other in ((then, now), (now, then)))
    told = [f"{', '.join(map(repr, names[:5]))} {word}" for names, word in ((gone, "gone"), (new, "new")) if names]
    return "; ".join(told) or "their order is another"


def _predictions(rows: RowsCompared | None, tolerance: float, checks: list[Check]) -> Check:
    if rows is None:
        return Check("predictions", "not checked", "none of the recorded pictures can be read")
    count = len(rows.moved)
    told = f"{count:,} of {rows.compared:,} labels differ (allowed: {100 * tolerance:g} %)"
    if rows.compared < rows.recorded:
        told += f"; {rows.recorded - rows.compared:,} recorded pictures could not be compared"
    told += f"; accuracy {rows.accuracy_then:.4f} then, {rows.accuracy_now:.4f} now"
    if rows.loss_then is not None and rows.loss_now is not None:
        told += f"; loss {rows.loss_then:.5f} then, {rows.loss_now:.5f} now"
    if rows.largest is None:
        told += "; probabilities were not recorded"
    else:
        told += f"; the largest difference of a probability is {rows.largest:.2g} ({rows.largest_at})"
    if rows.share_moved <= tolerance + 1e-9:
        return Check("predictions", "same", told)
    if not any(check.status == "differs" for check in checks):
        told += "; nothing else differs, so that versions, hardware or precision moved them (see environment)"
    return Check("predictions", "differs", told)


def _environment(record: RunRecord, opened: OpenedModel) -> Check:
    """Versions and hardware then and now: no difference by itself, but what may explain one."""
    path = record.folder.path / "environment.json"
    if not path.is_file():
        return Check("environment", "not checked", "the run recorded none")
    then = json.loads(path.read_text("utf-8"))
    now = describe_environment(opened.device) | {"precision": opened.precision}
    then["precision"] = record.metrics.precision
    before, after = _flat(then), _flat(now)
    different = [
        f"{key} {before[key]} then, {after[key]} now" for key in after if before.get(key, after[key]) != after[key]
    ]
    if different:
        return Check("environment", "noted", "; ".join(different))
    return Check(
        "environment", "same", f"versions, {now['device']}, {torch.get_num_threads()} threads, {opened.precision}"
    )


def _flat(environment: Mapping[str, Any]) -> dict[str, Any]:
    return {**{key: v for key, v in environment.items() if key != "packages"}, **environment.get("packages", {})}
