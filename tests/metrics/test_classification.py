"""The figures of a classifier against slow, obvious versions of themselves and published values."""

from __future__ import annotations

import csv
import io
import json
import math
import tracemalloc
import warnings
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.dummy import DummyClassifier
from sklearn.metrics import balanced_accuracy_score, f1_score

from vitrine.errors import DataError, ModelError, VitrineError
from vitrine.metrics.classification import (
    CALIBRATION_BINS,
    LabelledLogits,
    check_expected_accuracy,
    classification_metrics,
    count_changed_labels,
    expected_calibration_error,
    is_within_tolerance,
    logsumexp,
)
from vitrine.metrics.intervals import wilson
from vitrine.plotting.confusion import confusion_csv, confusion_figure
from vitrine.plotting.tables import metrics_table
from vitrine.results import ClassificationMetrics, Interval

LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")


def make_outputs(n: int, classes: int, seed: int, *, strength: float = 1.5, coarse: bool = False) -> LabelledLogits:
    """Random logits that know the label a little; ``coarse`` ones are full of ties."""
    rng = np.random.default_rng(seed)
    labels_N = rng.integers(0, classes, n)
    logits_NC = rng.normal(size=(n, classes))
    logits_NC[np.arange(n), labels_N] += strength
    if coarse:
        logits_NC = np.round(logits_NC)
    return LabelledLogits(tuple(f"{i:04}.jpg" for i in range(n)), logits_NC.astype(np.float32), labels_N)


shapes = st.tuples(st.integers(1, 60), st.integers(2, 12), st.integers(0, 10_000), st.booleans())


def matrix_of(metrics: ClassificationMetrics) -> list[list[int]]:
    """The confusion matrix, cell by cell."""
    cells = {(cell.true, cell.predicted): cell.pictures for cell in metrics.confusion}
    assert len(cells) == len(metrics.confusion) and all(cells.values())
    return [
        [cells.get((true, predicted), 0) for predicted in range(len(metrics.labels))]
        for true in range(len(metrics.labels))
    ]


def measure(shape: tuple[int, int, int, bool]) -> tuple[LabelledLogits, ClassificationMetrics]:
    n, classes, seed, coarse = shape
    outputs = make_outputs(n, classes, seed, coarse=coarse)
    return outputs, classification_metrics(outputs, LETTERS[:classes], precision="fp32")


# --- intervals


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # R. G. Newcombe (1998), Two-sided confidence intervals for the single proportion, Statistics in Medicine 17,
        # 857-872, table I, method 3 (score, no continuity correction).
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_values(successes: int, n: int, low: float, high: float) -> None:
    interval = wilson(successes, n)
    assert (round(interval.low, 4), round(interval.high, 4)) == (low, high)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from([0.8, 0.95]))
@settings(max_examples=40)
def test_wilson_is_the_inverted_score_test(case: tuple[int, int], confidence: float) -> None:
    """Every p inside is one that the score test keeps, and every p outside one that it rejects: by trying them."""
    successes, n = case
    critical = -torch.special.ndtri(torch.tensor((1 - confidence) / 2, dtype=torch.float64)).item()
    p = np.linspace(0, 1, 20_001)[1:-1]
    not_rejected = p[np.abs(successes / n - p) <= critical * np.sqrt(p * (1 - p) / n)]
    interval = wilson(successes, n, confidence)
    assert interval.low == pytest.approx(not_rejected.min(), abs=1.01e-4)
    assert interval.high == pytest.approx(not_rejected.max(), abs=1.01e-4)
    assert 0 <= interval.low <= successes / n <= interval.high <= 1


@pytest.mark.parametrize("case", [(0, 0, 0.95), (-1, 5, 0.95), (6, 5, 0.95), (1, 5, 95)])
def test_wilson_refuses_what_is_no_proportion(case: tuple[int, int, float]) -> None:
    with pytest.raises(ValueError, match=r"needs|between"):
        wilson(*case)


# --- metrics


@given(shapes)
@settings(max_examples=60)
def test_metrics_agree_with_obvious_loops(shape: tuple[int, int, int, bool]) -> None:
    outputs, metrics = measure(shape)
    classes = len(metrics.labels)
    confusion = [[0] * classes for _ in range(classes)]
    loss, in_top5, wrong = 0.0, 0, []
    for name, logits, true in zip(outputs.names, outputs.logits_NC.tolist(), outputs.labels_N.tolist(), strict=True):
        order = sorted(range(classes), key=lambda c: (-logits[c], c))
        total = math.fsum(math.exp(value - max(logits)) for value in logits)
        shares = [math.exp(value - max(logits)) / total for value in logits]
        confusion[true][order[0]] += 1
        loss -= math.log(shares[true])
        in_top5 += true in order[:5]
        if order[0] != true:
            wrong.append((-round(shares[order[0]], 6), name, LETTERS[true], LETTERS[order[0]]))
    n = len(outputs.names)
    assert matrix_of(metrics) == confusion
    assert [(cell.true, cell.predicted) for cell in metrics.confusion] == [
        (true, predicted) for true, row in enumerate(confusion) for predicted, count in enumerate(row) if count
    ]
    assert metrics.negative_log_likelihood == pytest.approx(loss / n, abs=1e-9)
    assert metrics.top5 == (pytest.approx(in_top5 / n) if classes > 5 else None)
    surest = [(-m.probability, m.name, m.true, m.predicted) for m in metrics.hardest]
    assert [row[1:] for row in surest] == [row[1:] for row in sorted(wrong)[:20]]
    assert [row[0] for row in surest] == pytest.approx([row[0] for row in sorted(wrong)[:20]], abs=2e-6)
    for i, entry in enumerate(metrics.classes):
        n_given = sum(row[i] for row in confusion)
        assert entry.support == sum(confusion[i])
        assert entry.precision == (confusion[i][i] / n_given if n_given else None)
        assert entry.recall == (confusion[i][i] / entry.support if entry.support else None)


@given(shapes)
@settings(max_examples=60)
def test_figures_fit_one_another(shape: tuple[int, int, int, bool]) -> None:
    _, metrics = measure(shape)
    assert (
        sum(cell.pictures for cell in metrics.confusion) == metrics.n == sum(entry.support for entry in metrics.classes)
    )
    assert metrics.accuracy == metrics.correct / metrics.n
    mean_recall = sum((entry.recall or 0) * entry.support for entry in metrics.classes) / metrics.n
    assert mean_recall == pytest.approx(metrics.accuracy)
    assert metrics.accuracy_interval == wilson(metrics.correct, metrics.n)
    assert metrics.top5 is None or metrics.accuracy <= metrics.top5 <= 1
    assert 0 <= metrics.calibration_error <= 1
    assert metrics.negative_log_likelihood >= 0


@given(st.lists(st.tuples(st.sampled_from([*np.linspace(0, 1, 31)]) | st.floats(0, 1), st.booleans()), min_size=1))
def test_calibration_error_agrees_with_a_loop_over_the_bins(pictures: list[tuple[float, bool]]) -> None:
    """Edges of bins included: a confidence of m/15 belongs to the lower bin, 0 to the first and 1 to the last."""
    expected = 0.0
    for m in range(1, CALIBRATION_BINS + 1):
        low, high = (m - 1) / CALIBRATION_BINS, m / CALIBRATION_BINS
        members = [(c, r) for c, r in pictures if low < c <= high or (m == 1 and c == 0)]
        if members:
            accuracy = sum(r for _, r in members) / len(members)
            confidence = math.fsum(c for c, _ in members) / len(members)
            expected += len(members) / len(pictures) * abs(accuracy - confidence)
    confidence_N, right_N = (np.array(column) for column in zip(*pictures, strict=True))
    assert expected_calibration_error(confidence_N, right_N) == pytest.approx(expected, abs=1e-12)


def test_calibration_error_agrees_with_torchmetrics() -> None:
    from torchmetrics.functional.classification import multiclass_calibration_error

    outputs = make_outputs(500, 6, seed=3)
    ours = classification_metrics(outputs, LETTERS[:6], precision="fp32").calibration_error
    theirs = multiclass_calibration_error(
        torch.from_numpy(outputs.logits_NC), torch.from_numpy(outputs.labels_N), num_classes=6, n_bins=15
    )
    assert ours == pytest.approx(theirs.item(), abs=1e-6)


def test_per_class_figures_agree_with_torchmetrics() -> None:
    from torchmetrics.functional.classification import (
        multiclass_accuracy,
        multiclass_confusion_matrix,
        multiclass_precision,
        multiclass_recall,
    )

    outputs = make_outputs(400, 9, seed=5)
    metrics = classification_metrics(outputs, LETTERS[:9], precision="fp32")
    pair = torch.from_numpy(outputs.logits_NC), torch.from_numpy(outputs.labels_N)
    precision_C = multiclass_precision(*pair, num_classes=9, average=None)
    recall_C = multiclass_recall(*pair, num_classes=9, average=None)
    assert [entry.precision for entry in metrics.classes] == pytest.approx(precision_C.tolist(), abs=1e-6)
    assert [entry.recall for entry in metrics.classes] == pytest.approx(recall_C.tolist(), abs=1e-6)
    top5 = multiclass_accuracy(*pair, num_classes=9, top_k=5, average="micro").item()
    assert metrics.top5 == pytest.approx(top5, abs=1e-6)
    assert matrix_of(metrics) == multiclass_confusion_matrix(*pair, num_classes=9).tolist()


def test_twenty_thousand_classes_take_no_more_than_pictures_and_classes() -> None:
    """A matrix of them has 400 million cells: 3 GB. The logits, 16 MB, are there before."""
    classes, n = 20_000, 200
    outputs = make_outputs(n, classes, seed=2, strength=4.0)
    labels = [f"class {number}" for number in range(classes)]
    tracemalloc.start()
    metrics = classification_metrics(outputs, labels, precision="fp32")
    text = json.dumps(metrics.to_dict())
    again = ClassificationMetrics.from_dict(json.loads(text))
    tables = confusion_csv(metrics), metrics_table(metrics)
    figure = confusion_figure(metrics)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 150e6
    assert again.confusion == metrics.confusion and len(metrics.confusion) <= n
    right = int((outputs.predictions == outputs.labels_N).sum())
    assert 0 < right < n and metrics.correct == again.correct == right
    rows = list(csv.DictReader(io.StringIO(tables[0].decode())))
    pairs = Counter((labels[a], labels[b]) for a, b in zip(outputs.labels_N, outputs.predictions, strict=True))
    assert {(row["true"], row["predicted"]): int(row["pictures"]) for row in rows} == pairs
    assert tables[1].count("class ") >= classes
    mesh = figure.axes[0].collections[0].get_array()
    assert mesh is not None and mesh.shape == (1000, 1000)


def test_loss_agrees_with_torch_and_survives_large_logits() -> None:
    outputs = make_outputs(300, 5, seed=1)
    loss = classification_metrics(outputs, LETTERS[:5], precision="fp32").negative_log_likelihood
    pair = torch.from_numpy(outputs.logits_NC).double(), torch.from_numpy(outputs.labels_N)
    assert loss == pytest.approx(torch.nn.functional.cross_entropy(*pair).item(), abs=1e-12)
    assert logsumexp(np.array([[1e30, -1e30]], dtype=np.float32)) == pytest.approx([np.float32(1e30)])


def test_many_pictures_are_normalised_in_parts() -> None:
    logits_NC = np.random.default_rng(0).normal(size=(9000, 2)).astype(np.float32)
    assert logsumexp(logits_NC) == pytest.approx(np.logaddexp(*logits_NC.astype(np.float64).T), abs=1e-12)


def test_many_classes_are_normalised_in_parts() -> None:
    logits_NC = np.random.default_rng(0).normal(size=(70, 70_000)).astype(np.float32)
    wanted_N = torch.logsumexp(torch.from_numpy(logits_NC).double(), 1).numpy()
    assert logsumexp(logits_NC) == pytest.approx(wanted_N, abs=1e-12)


# --- what is stored


@given(shapes)
@settings(max_examples=30)
def test_what_is_stored_comes_back_and_is_stable(shape: tuple[int, int, int, bool]) -> None:
    outputs, metrics = measure(shape)
    text = json.dumps(metrics.to_dict())
    again = ClassificationMetrics.from_dict(json.loads(text))
    assert json.dumps(again.to_dict()) == text
    assert again.confusion == metrics.confusion
    assert again.accuracy == pytest.approx(metrics.accuracy, abs=5.1e-7)
    # What another thread count does to logits moves no stored figure by more than its last decimal.
    rng = np.random.default_rng(0)
    if not shape[3]:
        noisy_NC = (outputs.logits_NC * (1 + 1e-7 * rng.normal(size=outputs.logits_NC.shape))).astype(np.float32)
        other = classification_metrics(
            LabelledLogits(outputs.names, noisy_NC, outputs.labels_N), metrics.labels, precision="fp32"
        )
        assert other.negative_log_likelihood == pytest.approx(metrics.negative_log_likelihood, abs=1e-5)


def test_the_stored_form() -> None:
    logits_NC = np.array([[2, 0], [1, 0], [0, 1]], dtype=np.float32)
    outputs = LabelledLogits(("a.jpg", "b.jpg", "ü\udcff.jpg"), logits_NC, np.array([0, 1, 1]))
    content: dict[str, Any] = classification_metrics(outputs, ("cat", "dog"), precision="bf16").to_dict()
    assert content["n"] == 3
    assert content["precision"] == "bf16"
    assert content["accuracy"] == 0.666667
    assert content["top5"] is None
    assert content["classes"][0] == {"label": "cat", "precision": 0.5, "recall": 1.0, "support": 1}
    assert content["confusion"] == {"cat": {"cat": 1}, "dog": {"cat": 1, "dog": 1}}
    assert content["hardest_mistakes"] == [
        {"name": "b.jpg", "true": "dog", "predicted": "cat", "probability": round(1 / (1 + math.exp(-1)), 6)}
    ]
    json.dumps(content, ensure_ascii=False).encode()


def test_a_name_that_is_no_text_can_be_stored() -> None:
    outputs = LabelledLogits(("caf\udce9.jpg",), np.array([[1, 0]], dtype=np.float32), np.array([1]))
    content = classification_metrics(outputs, ("cat", "dog"), precision="fp32").to_dict()
    assert content["hardest_mistakes"][0]["name"] == "caf\\xe9.jpg"


def test_a_class_that_never_occurs_has_no_figures_rather_than_zeros() -> None:
    outputs = LabelledLogits(("a",), np.array([[1, 0, 0]], dtype=np.float32), np.array([0]))
    never = classification_metrics(outputs, ("x", "y", "z"), precision="fp32").classes[2]
    assert (never.precision, never.recall, never.support) == (None, None, 0)


def test_one_class_is_enough() -> None:
    outputs = LabelledLogits(("a", "b"), np.zeros((2, 1), dtype=np.float32), np.zeros(2, dtype=np.int64))
    metrics = classification_metrics(outputs, ("x",), precision="fp32")
    assert (metrics.accuracy, matrix_of(metrics), metrics.negative_log_likelihood) == (1.0, [[2]], 0.0)


# --- refusals


def test_pictures_that_cannot_be_counted_are_refused() -> None:
    logits_NC = np.zeros((2, 2), dtype=np.float32)
    with pytest.raises(DataError, match=r"1 picture has no label, for example b"):
        classification_metrics(LabelledLogits(("a", "b"), logits_NC, np.array([0, -1])), ("x", "y"), precision="fp32")
    with pytest.raises(DataError, match="no picture"):
        empty = LabelledLogits((), logits_NC[:0], np.array([], dtype=np.int64))
        classification_metrics(empty, ("x", "y"), precision="fp32")
    logits_NC[1, 0] = np.nan
    with pytest.raises(ModelError, match="for b is not finite"):
        classification_metrics(LabelledLogits(("a", "b"), logits_NC, np.array([0, 1])), ("x", "y"), precision="fp32")


@pytest.mark.parametrize("labels", [("x",), ("x", "x"), ("x", "y", "z")])
def test_class_names_have_to_fit(labels: tuple[str, ...]) -> None:
    outputs = LabelledLogits(("a",), np.zeros((1, 2), dtype=np.float32), np.array([0]))
    with pytest.raises(ValueError, match="2 different class names"):
        classification_metrics(outputs, labels, precision="fp32")


def test_outputs_have_to_fit() -> None:
    with pytest.raises(ValueError, match="Expected N names"):
        LabelledLogits(("a",), np.zeros((2, 2), dtype=np.float32), np.zeros(2, dtype=np.int64))
    with pytest.raises(ValueError, match="Labels must be"):
        LabelledLogits(("a",), np.zeros((1, 2), dtype=np.float32), np.array([2]))


# --- two evaluations


@given(st.integers(0, 1000), st.integers(1, 50))
@settings(max_examples=30)
def test_moved_labels_are_counted(seed: int, n: int) -> None:
    first, second = make_outputs(n, 3, seed), make_outputs(n, 3, seed + 1)
    by_hand = sum(
        int(np.argmax(a)) != int(np.argmax(b)) for a, b in zip(first.logits_NC, second.logits_NC, strict=True)
    )
    assert count_changed_labels(first, second) == count_changed_labels(second, first) == by_hand
    assert count_changed_labels(first, first) == 0


def test_other_pictures_are_not_compared() -> None:
    with pytest.raises(ValueError, match="different pictures"):
        count_changed_labels(make_outputs(3, 2, 0), make_outputs(4, 2, 0))


@pytest.mark.parametrize(
    ("accuracy", "is_met"), [(0.945, True), (0.955, True), (0.95, True), (0.9449, False), (0.9551, False), (1.0, False)]
)
def test_an_expectation_has_two_ends_that_belong_to_it(accuracy: float, is_met: bool) -> None:
    assert is_within_tolerance(accuracy, 0.95, 0.005) is is_met


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.integers(0, 1000))
def test_an_expectation_is_decided_as_in_exact_arithmetic(case: tuple[int, int], thousandths: int) -> None:
    from fractions import Fraction

    correct, n = case
    exact = abs(Fraction(correct, n) - Fraction(thousandths, 1000)) <= Fraction(5, 1000)
    assert is_within_tolerance(correct / n, thousandths / 1000, 0.005) is exact


@pytest.mark.parametrize(("expected", "tolerance"), [(95, 0.005), (-0.1, 0.005), (0.95, -1), (0.95, 2), (math.nan, 0)])
def test_an_expectation_in_per_cent_is_refused(expected: float, tolerance: float) -> None:
    with pytest.raises(VitrineError, match="between 0 and 1"):
        check_expected_accuracy(expected, tolerance)


def test_intervals_are_values() -> None:
    assert Interval(0.1, 0.2) == Interval(0.1, 0.2)


# --- uneven classes


@pytest.mark.parametrize("n", [1, 7, 60, 500])
@pytest.mark.parametrize("classes", [2, 5, 12])
def test_figures_of_uneven_classes_are_those_of_sklearn(n: int, classes: int) -> None:
    outputs = make_outputs(n, classes, seed=n + classes, coarse=True)
    uneven_N = np.minimum(outputs.labels_N, np.random.default_rng(n).integers(0, classes, n))
    outputs = LabelledLogits(outputs.names, outputs.logits_NC, uneven_N)
    metrics = classification_metrics(outputs, LETTERS[:classes], precision="fp32")
    predicted_N = outputs.predictions
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a class is predicted that no picture has
        balanced = balanced_accuracy_score(uneven_N, predicted_N)
    assert metrics.balanced_accuracy == pytest.approx(balanced)
    assert metrics.macro_f1 == pytest.approx(f1_score(uneven_N, predicted_N, average="macro"))
    guess = DummyClassifier(strategy="most_frequent").fit(np.zeros((n, 1)), uneven_N)
    assert metrics.majority is not None
    label, share = metrics.majority
    assert label == LETTERS[int(guess.predict(np.zeros((1, 1)))[0])]
    assert share == pytest.approx(guess.score(np.zeros((n, 1)), uneven_N))
    stored = metrics.to_dict()
    assert stored["balanced_accuracy"] == round(balanced, 6)
    assert stored["majority"] == {"label": label, "share": round(share, 6)}
    assert ClassificationMetrics.from_dict(stored).macro_f1 == metrics.macro_f1
    table = metrics_table(metrics)
    for words in ("balanced accuracy", f"{metrics.macro_f1:.4f}", f"{share:.4f}  ({label})"):
        assert words in table
