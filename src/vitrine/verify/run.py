"""``vitrine verify``: a run's files, data and predictions held against what the run recorded of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from vitrine.caption.inference import greedy_captions
from vitrine.caption.model import Captioner, load_captioner, open_captioner
from vitrine.classify.inference import join_logits, predict_samples
from vitrine.classify.model import Classifier, open_classifier
from vitrine.config import CaptionSpec
from vitrine.data.captions.datasets import CaptionData, open_captions
from vitrine.data.captions.transforms import CaptionTransform
from vitrine.data.samples import LabelledData, Sample
from vitrine.data.sources import open_data
from vitrine.errors import DataError, ModelError, RunError, UsageError
from vitrine.metrics.classification import (
    LabelledLogits,
    check_expected_accuracy,
    classification_metrics,
    logsumexp,
    require_finite,
)
from vitrine.results import Progress, no_progress
from vitrine.runs.data import describe_search, resolve_data_reference
from vitrine.runs.folder import RunFolder
from vitrine.runs.record import CaptionerRecord, FinishedRun, RunRecord, is_exact, read_finished_run, read_predictions
from vitrine.train.losses import CaptionBatch, TeacherForcing
from vitrine.train.task import RuntimeConfig
from vitrine.train.teacher_forcing import (
    TeacherForcedScore,
    encode_caption,
    load_unaugmented,
    make_caption_batch,
    score_teacher_forced,
)
from vitrine.verify.checks import (
    CaptionsCompared,
    Check,
    MovedCaption,
    MovedLabel,
    RerunConfig,
    RowsCompared,
    VerificationResult,
    check_class_names,
    check_environment,
    check_split,
    check_vocabulary,
    check_weights,
    index_pictures,
    match_split,
)


def verify_captions(
    record: CaptionerRecord, samples: Mapping[str, Sample], again: RerunConfig, checks: Sequence[Check]
) -> tuple[CaptionsCompared | None, list[Check]]:
    """Caption and compare.

    Args:
        record: the run.
        samples: what is there of its validation pictures, by recorded name.
        again: how.
        checks: those that were made before.

    Returns:
        What was compared, None where no picture can be read; and what to say of it and of the environment.

    Raises:
        ModelError: the captioner's files cannot be used.
        RunError: captions.csv is of other pictures or results than the run's other files.
    """
    _ = record.captions
    opened = open_captioner(str(record.folder.path), precision=again.precision)
    rows = _compare_captions(record, samples, opened, again)
    if rows is not None and rows.compared == rows.recorded:
        found = _forced(record, samples, RuntimeConfig(opened.device, again.precision), again.batch_size)
        rows = replace(
            rows,
            pieces_then=record.metrics.accuracy,
            pieces_now=found.accuracy,
            loss_then=record.metrics.negative_log_likelihood,
            loss_now=found.loss,
        )
    environment = check_environment(record.folder, record.metrics.precision, again.precision, opened.device)
    return rows, [_captions(rows, again.tolerance, checks), _pieces(rows, again.tolerance), environment]


def _compare_captions(
    record: CaptionerRecord, samples: Mapping[str, Sample], opened: Captioner, again: RerunConfig
) -> CaptionsCompared | None:
    found = greedy_captions(
        opened,
        list(samples.values()),
        precision=again.precision,
        batch_size=again.batch_size,
        progress=again.progress,
    ).captions
    if not found:
        return None
    moved = []
    largest: tuple[float | None, str | None] = (None, None)
    for now in found:
        then = record.captions[now.name]
        apart = abs(now.log_probability - then.log_probability)
        if now.caption != then.text:
            moved.append(MovedCaption(now.name, then.text, now.caption, then.log_probability, now.log_probability))
        elif largest[0] is None or apart > largest[0]:
            largest = apart, now.name
    return CaptionsCompared(
        recorded=len(record.captions),
        compared=len(found),
        moved=tuple(moved),
        largest=largest[0],
        largest_at=largest[1],
        exact_then=sum(is_exact(record.captions[each.name].text, record.humans[each.name]) for each in found),
        exact_now=sum(is_exact(each.caption, record.humans[each.name]) for each in found),
        precision=again.precision,
    )


def _forced(
    record: CaptionerRecord, samples: Mapping[str, Sample], runtime: RuntimeConfig, batch_size: int
) -> TeacherForcedScore:
    """The recorded human captions of pictures that can all be read, measured as the training measured them."""
    loaded = load_captioner(str(record.folder.path))
    model, words = loaded.model.to(runtime.device), loaded.model.vocabulary
    transform = CaptionTransform(loaded.input)
    longest = min(model.max_length, (record.recipe.caption or CaptionSpec()).longest)
    names = list(samples)
    ids = [[encode_caption(words, text, longest) for text in record.humans[name]] for name in names]

    def batches() -> Iterator[CaptionBatch]:
        for found in load_unaugmented([samples[name] for name in names], transform, batch_size, workers=0):
            indices = found.indices_B.tolist()
            yield make_caption_batch(found.pixels, [ids[index] for index in indices], indices, words.pad)

    return score_teacher_forced(TeacherForcing(model, frozen=True), batches(), transform, words.pad, runtime)


def _captions(rows: CaptionsCompared | None, tolerance: float, checks: Sequence[Check]) -> Check:
    if rows is None:
        return Check("captions", "not checked", "none of the recorded pictures can be read")
    details = [f"word for word human ones: {rows.exact_then:,} then, {rows.exact_now:,} now"]
    if rows.largest is not None:
        details.append(f"the largest difference of a log-probability is {rows.largest:.2g} ({rows.largest_at})")
    return rows.check("captions", "captions", details, tolerance, checks)


def _pieces(rows: CaptionsCompared | None, tolerance: float) -> Check:
    """The human captions' word pieces, each predicted from those before it."""
    if rows is None or rows.pieces_then is None or rows.pieces_now is None:
        return Check("word pieces", "not checked", "they are measured on all recorded pictures only")
    told = (
        f"{rows.pieces_then:.4f} of them the likeliest then, {rows.pieces_now:.4f} now; "
        f"loss {rows.loss_then:.5f} then, {rows.loss_now:.5f} now"
    )
    same = abs(rows.pieces_then - rows.pieces_now) <= tolerance + 1e-9
    return Check("word pieces", "same" if same else "differs", told)


def verify_rows(
    record: RunRecord, samples: Mapping[str, Sample], again: RerunConfig, checks: Sequence[Check]
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
    opened = open_classifier(str(record.folder.path), again.precision)
    rows = _compare_rows(record, samples, opened, again.batch_size, again.progress)
    environment = check_environment(record.folder, record.metrics.precision, opened.precision, opened.device)
    return rows, [_predictions(rows, again.tolerance, checks), environment]


def _compare_rows(
    record: RunRecord,
    samples: Mapping[str, Sample],
    opened: Classifier,
    batch_size: int,
    progress: Progress,
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
    opened: Classifier,
    batch_size: int,
    progress: Progress,
) -> LabelledLogits | None:
    known = {label: index for index, label in enumerate(opened.labels)}
    listed = [Sample(name, each.picture, known.get(record.truths[name])) for name, each in samples.items()]
    parts = list(predict_samples(opened, listed, batch_size=batch_size, progress=progress))
    if not any(part.samples for part in parts):
        return None
    outputs = join_logits(parts)
    require_finite(outputs.names, outputs.logits_NC)
    return outputs


def _differences(
    record: RunRecord, recorded: Mapping[str, Mapping[str, str]], outputs: LabelledLogits, labels: Sequence[str]
) -> tuple[tuple[MovedLabel, ...], tuple[float | None, str | None]]:
    """Labels that moved; and of the others the largest difference of a probability, with its picture."""
    best_N = np.take_along_axis(outputs.logits_NC, outputs.predicted[:, None], axis=1)[:, 0].astype(np.float64)
    probability_N = np.exp(best_N - logsumexp(outputs.logits_NC))
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


def verify(
    run: Path,
    data: str | None = None,
    *,
    tolerance: float = 0.005,
    batch_size: int = 64,
    precision: str | None = None,
    reading: Progress = no_progress,
    progress: Progress = no_progress,
) -> VerificationResult:
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
    check_expected_accuracy(0.0, tolerance)
    if precision not in (None, "fp32", "bf16"):
        raise UsageError(f"--precision {precision} cannot be used: expected fp32 or bf16.")
    record = _record(run)
    found = _open(record, data)
    present = index_pictures(found, reading)
    splits = {
        name: match_split(record.data, name, present) for name in ("validation", "train") if _finite(record, name)
    }
    again = RerunConfig(precision or record.metrics.precision, batch_size, tolerance, progress)
    checks = [check_weights(record.folder)]
    if isinstance(record, RunRecord) and isinstance(found, LabelledData):
        checks.append(check_class_names(record, found))
    else:
        checks.append(check_vocabulary(record.folder))
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
    return VerificationResult(str(run), found.reference, tolerance, tuple(checks), rows)


def _record(run: Path) -> FinishedRun:
    folder = RunFolder(run)
    if not folder.is_started:
        raise RunError(f"{run} is not a run that vitrine train wrote, so there is nothing to verify.")
    if not folder.is_finished:
        raise RunError(f"The training in {run} has not ended. Continue it: vitrine train DATA -o {run} --resume")
    return read_finished_run(run.name, folder)


def _finite(record: FinishedRun, split: str) -> bool:
    return not isinstance(record.data["splits"].get(split, ""), str)


def _open(record: FinishedRun, data: str | None) -> LabelledData | CaptionData:
    recipe, reference = record.recipe, str(record.data["reference"])
    place = data or resolve_data_reference(record.folder, reference)
    opening = open_captions if isinstance(record, CaptionerRecord) else open_data
    try:
        return opening(place, seed=recipe.seed, val_fraction=recipe.val_fraction)
    except DataError as error:
        if data is not None:
            raise
        first = str(error).splitlines()[0]
        looked = describe_search(record.folder, reference)
        raise DataError(
            f"{first}\nThe run's data are not where they were; say where: verify RUN DATA. {looked}"
        ) from error
