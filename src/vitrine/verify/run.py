"""``vitrine verify``: a run's files, data and predictions compared with what the run recorded of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from vitrine.caption.inference import greedy_captions
from vitrine.caption.model import load_captioner, open_captioner
from vitrine.classify.inference import join_logits, join_multi_label_logits, predict_samples
from vitrine.classify.model import open_classifier
from vitrine.classify.predictions_csv import DEFAULT_THRESHOLD
from vitrine.config import CaptionSpec
from vitrine.data.captions.datasets import open_captions
from vitrine.data.captions.transforms import CaptionTransform
from vitrine.data.class_names import recorded_names, rename_classes
from vitrine.data.samples import Dataset, Sample
from vitrine.data.sources import open_data
from vitrine.errors import DataError, ModelError, RunError, UsageError
from vitrine.metrics.classification import (
    check_expected_accuracy,
    classification_metrics,
    logsumexp,
    require_finite,
    sigmoid,
)
from vitrine.metrics.multi_label import multi_label_metrics
from vitrine.results import Progress, no_progress
from vitrine.runs.data import describe_search, resolve_data_reference
from vitrine.runs.folder import RunFolder
from vitrine.runs.record import RecordedPrediction, RunRecord, is_correct, labels_text, read_record
from vitrine.runs.setting_changes import changes_sentence
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
    ChangedPrediction,
    Check,
    PredictionComparison,
    RerunConfig,
    VerificationResult,
    check_class_names,
    check_environment,
    check_split,
    check_vocabulary,
    check_weights,
    index_pictures,
    match_split,
)


@dataclass(frozen=True)
class Rerun:
    """What a run's model predicts now.

    Attributes:
        predictions: by recorded name, of the pictures that can be read.
        device, precision: that it was computed on and in.
        loss: negative log-likelihood of the true labels or the human captions' tokens, in nats; None unless all
            recorded pictures can be read.
        token_accuracy: share of the human captions' tokens that are the likeliest, 0 to 1; None likewise, and of a
            classifier.
    """

    predictions: Mapping[str, RecordedPrediction]
    device: torch.device
    precision: str
    loss: float | None = None
    token_accuracy: float | None = None


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
    """Compare a run with its own record: hashes of weights and data, class names, and its predictions row by row.

    Pictures are looked for by content, so that they may lie elsewhere or under other names. The model is run in the
    recorded precision unless another is asked for. A captioner's predictions are its captions; besides, its share of
    right word pieces of the human captions is measured again.

    Args:
        run: the folder of a finished run.
        data: where its pictures are now; None takes the reference that the run recorded.
        tolerance: share of the validation pictures whose label or caption may differ, 0 to 1; an accuracy cannot differ
            by more. Of a captioner, also by how much its share of right word pieces may.
        batch_size: pictures at a time.
        precision: fp32 or bf16; None takes the recorded one.
        reading: called with pictures hashed, of how many.
        progress: called with pictures predicted, of how many.

    Raises:
        RunError: not a finished run, or its files do not fit one another.
        DataError: the data cannot be opened.
        UsageError: the tolerance or the precision cannot be used.
    """
    check_expected_accuracy(0.0, tolerance)
    if precision not in (None, "fp32", "bf16"):
        raise UsageError(f"--precision {precision} cannot be used: expected fp32 or bf16.")
    record = _read_record(run)
    opened_data = _open_data(record, data)
    if record.is_multi_label:  # trained by binary cross-entropy, classes are labels as well
        opened_data = replace(opened_data, is_multi_label=True)
    index = index_pictures(opened_data, reading)
    config = RerunConfig(precision or record.metrics.precision, batch_size, tolerance, progress)
    checks = [check_weights(record.folder)]
    if record.changes:
        checks.append(Check("settings", "noted", changes_sentence(record.changes)))
    if record.is_captioner:
        checks.append(check_vocabulary(record.folder))
    else:
        checks.append(check_class_names(record, opened_data))
    finite = [name for name in ("validation", "train") if not isinstance(record.data["splits"].get(name, ""), str)]
    splits = {name: match_split(record.data, name, index) for name in finite}
    checks += [check_split(record.data, name, split) for name, split in splits.items()]
    comparison: PredictionComparison | None = None
    try:
        comparison, more = compare_predictions(record, splits["validation"].samples, config, checks)
        checks += more
        if record.leakage:
            checks.append(Check("training copies", "noted", " ".join(record.leakage.sentences())))
    except (ModelError, RunError) as error:
        what = "captions" if record.is_captioner else "predictions"
        checks.append(Check(what, "differs", " ".join(str(error).split())))
    return VerificationResult(str(run), opened_data.reference, tolerance, tuple(checks), comparison)


def _read_record(run: Path) -> RunRecord:
    folder = RunFolder(run)
    if not folder.is_started:
        raise RunError(f"{run} is not a run that vitrine train wrote, so there is nothing to verify.")
    if not folder.is_finished:
        raise RunError(f"The training in {run} has not ended. Continue it: vitrine train DATA -o {run} --resume")
    return read_record(run.name, folder)


def _open_data(record: RunRecord, data: str | None) -> Dataset:
    recipe, reference = record.recipe, str(record.data["reference"])
    place = data or resolve_data_reference(record.folder, reference)
    open_reference = open_captions if record.is_captioner else open_data
    try:
        dataset = open_reference(place, seed=recipe.seed, val_fraction=recipe.val_fraction)
        return rename_classes(dataset, recorded_names(record.folder.path))
    except DataError as error:
        if data is not None:
            raise
        first = str(error).splitlines()[0]
        search = describe_search(record.folder, reference)
        raise DataError(
            f"{first}\nThe run's data are not where they were; say where: verify RUN DATA. {search}"
        ) from error


def compare_predictions(
    record: RunRecord, samples: Mapping[str, Sample], config: RerunConfig, checks: Sequence[Check]
) -> tuple[PredictionComparison | None, list[Check]]:
    """Predict the recorded pictures again and compare the predictions with the recorded ones.

    Args:
        record: the run.
        samples: those of its validation pictures that are there, by recorded name.
        config: how to predict.
        checks: those that were made before.

    Returns:
        The comparison, None where no picture can be read; and the checks of it and of the environment.

    Raises:
        ModelError: the run's files cannot be used, or a logit is not finite.
        RunError: the recorded predictions are of other pictures or results than the run's other files.
    """
    recorded_predictions = record.predictions  # an error of the record comes before the model is opened
    rerun_classifier = _rerun_multi_label if record.is_multi_label else _rerun_classifier
    rerun = (_rerun_captioner if record.is_captioner else rerun_classifier)(record, samples, config)
    environment = check_environment(record.folder, record.metrics.precision, rerun.precision, rerun.device)
    if not rerun.predictions:
        reason = "none of the recorded pictures can be read"
        not_checked = [Check("captions" if record.is_captioner else "predictions", "not checked", reason)]
        if record.is_captioner:
            not_checked.append(Check("word pieces", "not checked", "they are measured on all recorded pictures only"))
        return None, [*not_checked, environment]
    comparison = _compare(record, recorded_predictions, rerun)
    more = [comparison.check(config.tolerance, checks)]
    if record.is_captioner:
        more.append(comparison.check_tokens(config.tolerance))
    return comparison, [*more, environment]


def _compare(
    record: RunRecord, recorded_predictions: Mapping[str, RecordedPrediction], rerun: Rerun
) -> PredictionComparison:
    changes: list[ChangedPrediction] = []
    largest: float | None = None
    largest_at: str | None = None
    for name, now in rerun.predictions.items():
        then = recorded_predictions[name]
        if then.text != now.text:
            true = None if record.is_captioner else record.true_labels[name]
            changes.append(ChangedPrediction(name, true, then.text, now.text, then.score, now.score))
        elif then.score is not None and now.score is not None:
            difference = abs(now.score - then.score)
            if largest is None or difference > largest:
                largest, largest_at = difference, name
    return PredictionComparison(
        noun="captions" if record.is_captioner else "labels",
        n_recorded=len(recorded_predictions),
        n_compared=len(rerun.predictions),
        changes=tuple(changes),
        largest_difference=largest,
        largest_at=largest_at,
        correct_then=sum(record.is_correct(name) for name in rerun.predictions),
        correct_now=sum(is_correct(now.text, record.annotations[name]) for name, now in rerun.predictions.items()),
        loss_then=None if rerun.loss is None else record.metrics.negative_log_likelihood,
        loss_now=rerun.loss,
        token_accuracy_then=None if rerun.token_accuracy is None else record.metrics.accuracy,
        token_accuracy_now=rerun.token_accuracy,
        precision=rerun.precision,
        measure="exact match" if record.is_multi_label else "accuracy",
    )


def _rerun_multi_label(record: RunRecord, samples: Mapping[str, Sample], config: RerunConfig) -> Rerun:
    """The labels that a multi-label classifier gives each picture, with the probability of the surest."""
    classifier = open_classifier(str(record.folder.path), config.precision)
    labels = classifier.labels
    indices = {row["name"]: tuple(row["labels"]) for row in record.validation_rows}
    labelled_samples = [Sample(name, each.picture, labels=indices[name]) for name, each in samples.items()]
    parts = list(predict_samples(classifier, labelled_samples, batch_size=config.batch_size, progress=config.progress))
    if not any(part.samples for part in parts):
        return Rerun({}, classifier.device, classifier.precision)
    logits = join_multi_label_logits(parts, len(labels))
    require_finite(logits.names, logits.logits_NC)
    given_NC, surest_N = logits.predictions(DEFAULT_THRESHOLD), sigmoid(logits.logits_NC.max(axis=1))
    predictions = {
        name: RecordedPrediction(
            labels_text([labels[index] for index in np.flatnonzero(given_C)]), float(surest) if given_C.any() else None
        )
        for name, given_C, surest in zip(logits.names, given_NC, surest_N, strict=True)
    }
    loss = None
    if len(predictions) == len(record.predictions):
        metrics = multi_label_metrics(logits, labels, precision=classifier.precision, threshold=DEFAULT_THRESHOLD)
        loss = metrics.negative_log_likelihood
    return Rerun(predictions, classifier.device, classifier.precision, loss)


def _rerun_classifier(record: RunRecord, samples: Mapping[str, Sample], config: RerunConfig) -> Rerun:
    """The classifier's labels, each with its probability."""
    classifier = open_classifier(str(record.folder.path), config.precision)
    indices = {label: index for index, label in enumerate(classifier.labels)}
    labelled_samples = [
        Sample(name, each.picture, indices.get(record.true_labels[name])) for name, each in samples.items()
    ]
    parts = list(predict_samples(classifier, labelled_samples, batch_size=config.batch_size, progress=config.progress))
    if not any(part.samples for part in parts):
        return Rerun({}, classifier.device, classifier.precision)
    logits = join_logits(parts)
    require_finite(logits.names, logits.logits_NC)
    best_N = np.take_along_axis(logits.logits_NC, logits.predictions[:, None], axis=1)[:, 0].astype(np.float64)
    probability_N = np.exp(best_N - logsumexp(logits.logits_NC))
    predictions = {
        name: RecordedPrediction(classifier.labels[label], probability)
        for name, label, probability in zip(logits.names, logits.predictions, probability_N.tolist(), strict=True)
    }
    loss = None
    if len(predictions) == len(record.predictions) and bool((logits.labels_N >= 0).all()):
        metrics = classification_metrics(logits, classifier.labels, precision=classifier.precision)
        loss = metrics.negative_log_likelihood
    return Rerun(predictions, classifier.device, classifier.precision, loss)


def _rerun_captioner(record: RunRecord, samples: Mapping[str, Sample], config: RerunConfig) -> Rerun:
    """The captioner's captions, each with its log-probability; and the human captions under teacher forcing."""
    captioner = open_captioner(str(record.folder.path), precision=config.precision)
    captions = greedy_captions(
        captioner,
        list(samples.values()),
        batch_size=config.batch_size,
        progress=config.progress,
    ).captions
    predictions = {each.name: RecordedPrediction(each.caption, each.log_probability) for each in captions}
    if len(predictions) < len(record.predictions):
        return Rerun(predictions, captioner.device, config.precision)
    runtime = RuntimeConfig(captioner.device, config.precision)
    score = _score_teacher_forced(record, samples, runtime, config.batch_size)
    return Rerun(predictions, captioner.device, config.precision, score.loss, score.accuracy)


def _score_teacher_forced(
    record: RunRecord, samples: Mapping[str, Sample], runtime: RuntimeConfig, batch_size: int
) -> TeacherForcedScore:
    """The recorded human captions of pictures that can all be read, measured as the training measured them."""
    captioner = load_captioner(str(record.folder.path))
    model, vocabulary = captioner.model.to(runtime.device), captioner.model.vocabulary
    transform = CaptionTransform(captioner.input)
    longest = min(model.max_length, (record.recipe.caption or CaptionSpec()).longest)
    names = list(samples)
    ids = [[encode_caption(vocabulary, text, longest) for text in record.human_captions[name]] for name in names]

    def batches() -> Iterator[CaptionBatch]:
        for batch in load_unaugmented([samples[name] for name in names], transform, batch_size, workers=0):
            indices = batch.indices_B.tolist()
            yield make_caption_batch(batch.pixels, [ids[index] for index in indices], indices, vocabulary.pad)

    return score_teacher_forced(TeacherForcing(model, frozen=True), batches(), transform, vocabulary.pad, runtime)
