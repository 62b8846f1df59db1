"""A run's predictions made again, and held against the recorded ones row by row. Axes: N pictures, C classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from vitrine.data.samples import Sample
from vitrine.evaluate.metrics import classification_metrics
from vitrine.evaluate.outputs import Outputs, log_normaliser, require_finite
from vitrine.workflows.inference import collect, eval_batches, run_batches
from vitrine.workflows.opened import OpenedModel, open_model
from vitrine.workflows.run_record import RunRecord, read_predictions
from vitrine.workflows.verified import Again, Check, MovedLabel, RowsCompared
from vitrine.workflows.verified_files import environment_check


def verify_rows(
    record: RunRecord, samples: Mapping[str, Sample], again: Again, checks: Sequence[Check]
) -> tuple[RowsCompared | None, list[Check]]:
    """Predict and compare.

    Args:
        record: the run.
        samples: what is there of its validation pictures, by recorded name.
        again: how.
        checks: those that were made before.

    Returns:
        What was compared, None where no picture can be read; and what to say of it and of the environment.

    Raises:
        ModelError: the weights cannot be used, or a logit is not finite.
        RunError: predictions.csv is of other pictures or results than the run's other files.
    """
    _ = record.answers
    opened = open_model(str(record.folder.path), again.precision)
    rows = _compared(record, samples, opened, again.batch_size, again.progress)
    environment = environment_check(record.folder, record.metrics.precision, opened.precision, opened.device)
    return rows, [_predictions(rows, again.tolerance, checks), environment]


def _compared(
    record: RunRecord,
    samples: Mapping[str, Sample],
    opened: OpenedModel,
    batch_size: int,
    progress: Callable[[int, int], None],
) -> RowsCompared | None:
    outputs = _outputs(record, samples, opened, batch_size, progress)
    if outputs is None:
        return None
    labels = [opened.labels[index] for index in outputs.predicted]
    recorded = {row["filename"]: row for row in read_predictions(record.folder.path)}
    moved, (largest, largest_at) = _differences(record, recorded, outputs, labels)
    whole = len(outputs.names) == len(recorded) and bool((outputs.labels_N >= 0).all())
    metrics = classification_metrics(outputs, opened.labels, precision=opened.precision) if whole else None
    answers = [record.answers[name] for name in outputs.names]
    return RowsCompared(
        recorded=len(recorded),
        compared=len(answers),
        moved=moved,
        largest=largest,
        largest_at=largest_at,
        accuracy_then=sum(each.right for each in answers) / len(answers),
        accuracy_now=sum(each.true == now for each, now in zip(answers, labels, strict=True)) / len(answers),
        loss_then=record.metrics.negative_log_likelihood if metrics else None,
        loss_now=metrics.negative_log_likelihood if metrics else None,
        precision=opened.precision,
    )


def _outputs(
    record: RunRecord,
    samples: Mapping[str, Sample],
    opened: OpenedModel,
    batch_size: int,
    progress: Callable[[int, int], None],
) -> Outputs | None:
    known = {label: index for index, label in enumerate(opened.labels)}
    listed = [Sample(name, each.picture, known.get(record.truths[name])) for name, each in samples.items()]
    source = eval_batches(listed, opened.spec, batch_size=batch_size)
    parts, done = [], 0
    for part in run_batches(opened.module, source, opened.spec, device=opened.device, precision=opened.precision):
        parts.append(part)
        done += len(part.batch.indices_B) + len(part.batch.unreadable)
        progress(done, len(listed))
    if not any(len(part.batch.indices_B) for part in parts):
        return None
    outputs = collect(listed, parts)
    require_finite(outputs.names, outputs.logits_NC)
    return outputs


def _differences(
    record: RunRecord, recorded: Mapping[str, Mapping[str, str]], outputs: Outputs, labels: Sequence[str]
) -> tuple[tuple[MovedLabel, ...], tuple[float | None, str | None]]:
    """Labels that moved; and of the others the largest difference of a probability, with its picture."""
    best_N = np.take_along_axis(outputs.logits_NC, outputs.predicted[:, None], axis=1)[:, 0].astype(np.float64)
    probability_N = np.exp(best_N - log_normaliser(outputs.logits_NC))
    moved: list[MovedLabel] = []
    largest: tuple[float | None, str | None] = (None, None)
    for name, now, probability in zip(outputs.names, labels, probability_N.tolist(), strict=True):
        then = recorded[name]
        before = float(then["probability"]) if "probability" in then else None
        if then["label"] != now:
            moved.append(MovedLabel(name, record.truths[name], then["label"], now, before, probability))
        elif before is not None and (largest[0] is None or abs(probability - before) > largest[0]):
            largest = abs(probability - before), name
    return tuple(moved), largest


def _predictions(rows: RowsCompared | None, tolerance: float, checks: Sequence[Check]) -> Check:
    if rows is None:
        return Check("predictions", "not checked", "none of the recorded pictures can be read")
    details = [f"accuracy {rows.accuracy_then:.4f} then, {rows.accuracy_now:.4f} now"]
    if rows.loss_then is not None and rows.loss_now is not None:
        details.append(f"loss {rows.loss_then:.5f} then, {rows.loss_now:.5f} now")
    if rows.largest is None:
        details.append("probabilities were not recorded")
    else:
        details.append(f"the largest difference of a probability is {rows.largest:.2g} ({rows.largest_at})")
    return rows.check("predictions", "labels", details, tolerance, checks)
