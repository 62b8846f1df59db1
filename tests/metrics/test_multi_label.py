"""The figures of a multi-label classifier against scikit-learn, and against leaving pictures out one by one."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, precision_score, recall_score
from torch.nn import functional

from vitrine.errors import DataError, ModelError
from vitrine.metrics.intervals import jackknife_interval
from vitrine.metrics.multi_label import (
    MultiLabelLogits,
    average_precision,
    concatenate_multi_label,
    multi_hot,
    multi_label_metrics,
)
from vitrine.results import MultiLabelMetrics, classifier_metrics_from_dict

LETTERS = tuple("abcdefghijkl")


def make_logits(
    n: int, labels: int, seed: int, *, share: float = 0.3, coarse: bool = False, even: bool = False
) -> MultiLabelLogits:
    """Random logits that know the labels a little; ``coarse`` ones are full of ties."""
    rng = np.random.default_rng(seed)
    targets_NC = rng.random((n, labels)) < share * (1 if even else rng.uniform(0.1, 2, labels))
    targets_NC[0, 0] = True
    logits_NC = rng.normal(size=(n, labels)) + 2 * targets_NC - 1
    logits_NC = np.round(logits_NC) if coarse else logits_NC
    return MultiLabelLogits(tuple(f"{i:04}.jpg" for i in range(n)), logits_NC.astype(np.float32), targets_NC)


def measure(logits: MultiLabelLogits, threshold: float = 0.5) -> MultiLabelMetrics:
    labels = LETTERS[: logits.logits_NC.shape[1]]
    return multi_label_metrics(logits, labels, precision="fp32", threshold=threshold)


shapes = st.tuples(st.integers(1, 40), st.integers(2, 8), st.integers(0, 10_000), st.booleans())


@given(shapes, st.sampled_from([0.0, 0.2, 0.5, 0.9]))
@settings(max_examples=60, deadline=None)
def test_figures_are_those_of_sklearn(shape: tuple[int, int, int, bool], threshold: float) -> None:
    n, labels, seed, coarse = shape
    logits = make_logits(n, labels, seed, coarse=coarse)
    metrics = measure(logits, threshold)
    targets_NC, scores_NC = logits.targets_NC, logits.logits_NC
    given_NC = torch.from_numpy(scores_NC).double().sigmoid().numpy() > threshold
    with_pictures = targets_NC.any(axis=0)
    wanted = average_precision_score(targets_NC[:, with_pictures], scores_NC[:, with_pictures], average="macro")
    assert metrics.mean_average_precision == pytest.approx(wanted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        both = {"y_true": targets_NC, "y_pred": given_NC}
        assert metrics.micro_f1 == pytest.approx(f1_score(**both, average="micro", zero_division=np.nan))
        assert metrics.macro_f1 == pytest.approx(f1_score(**both, average="macro", zero_division=np.nan))
        assert metrics.accuracy == pytest.approx(accuracy_score(**both))
        for name, score in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)):
            by_label = score(**both, average=None, zero_division=np.nan)
            shown = [math.nan if getattr(each, name) is None else getattr(each, name) for each in metrics.classes]
            np.testing.assert_allclose(shown, by_label)
    for c, each in enumerate(metrics.classes):
        if with_pictures[c]:
            assert each.average_precision == pytest.approx(average_precision_score(targets_NC[:, c], scores_NC[:, c]))
        else:
            assert each.average_precision is None and each.label in metrics.labels_without_pictures
    assert metrics.without_label == sum(not row.any() for row in targets_NC)
    loss = functional.binary_cross_entropy_with_logits(
        torch.from_numpy(scores_NC).double(), torch.from_numpy(targets_NC).double()
    )
    assert metrics.negative_log_likelihood == pytest.approx(float(loss))


@given(shapes)
@settings(max_examples=40, deadline=None)
def test_without_a_picture_is_what_it_is_without_it(shape: tuple[int, int, int, bool]) -> None:
    n, _, seed, coarse = shape
    logits = make_logits(n, 1, seed, coarse=coarse)
    scores_N, targets_N = logits.logits_NC[:, 0], logits.targets_NC[:, 0]
    _, without_N = average_precision(scores_N, targets_N)
    for i in range(n):
        rest = np.delete(np.arange(n), i)
        if not targets_N[rest].any():
            assert math.isnan(without_N[i])
        else:
            assert without_N[i] == pytest.approx(average_precision_score(targets_N[rest], scores_N[rest]))


def slow_interval(
    logits: MultiLabelLogits, figure: Callable[[MultiLabelMetrics], float], *, corrected: bool
) -> tuple[float, float]:
    """The jackknife by measuring every set of all pictures but one."""
    n, without = len(logits.names), []
    for i in range(n):
        rest = np.delete(np.arange(n), i)
        names = tuple(logits.names[each] for each in rest)
        without.append(figure(measure(MultiLabelLogits(names, logits.logits_NC[rest], logits.targets_NC[rest]))))
    value = figure(measure(logits))
    without_bias = n * value - (n - 1) * float(np.mean(without)) if corrected else value
    interval = jackknife_interval(without_bias, np.array(without), 0, 1)
    assert interval is not None
    return interval.low, interval.high


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("share", [0.06, 0.6])  # few: labels come and go with single pictures
def test_intervals_are_the_jackknife_over_pictures(coarse: bool, share: float) -> None:
    logits = make_logits(60, 4, seed=3, share=share, coarse=coarse, even=share > 0.1)
    metrics = measure(logits)
    for name in ("mean_average_precision", "micro_f1", "macro_f1"):
        interval = getattr(metrics, f"{name}_interval")
        if name == "mean_average_precision" and min(each.support for each in metrics.classes if each.support) < 20:
            assert interval is None and share < 0.1
            continue
        wanted = slow_interval(
            logits,
            lambda each, name=name: float(getattr(each, name)),
            corrected=name == "mean_average_precision",  # type: ignore[misc]
        )
        assert (interval.low, interval.high) == pytest.approx(wanted), name


def test_too_few_pictures_have_no_interval() -> None:
    metrics = measure(make_logits(19, 3, seed=1))
    assert metrics.mean_average_precision_interval is None and metrics.macro_f1_interval is None


def test_the_surest_mistakes_come_first() -> None:
    logits = MultiLabelLogits(
        ("one", "two"), np.array([[3, -4], [-1, 2]], dtype=np.float32), np.array([[False, True], [True, True]])
    )
    mistakes = [(each.name, each.label, each.is_present) for each in measure(logits).hardest]
    assert mistakes == [("one", "b", True), ("one", "a", False), ("two", "a", True)]


def test_metrics_are_read_back_as_they_were_written() -> None:
    for n in (5, 40):
        metrics = measure(make_logits(n, 4, seed=n, share=0.1))
        stored = json.loads(json.dumps(metrics.to_dict()))
        again = classifier_metrics_from_dict(stored)
        assert isinstance(again, MultiLabelMetrics) and again.to_dict() == metrics.to_dict()


def test_what_cannot_be_measured_is_refused() -> None:
    logits = make_logits(4, 3, seed=0)
    nothing = MultiLabelLogits(logits.names, logits.logits_NC, np.zeros_like(logits.targets_NC))
    with pytest.raises(DataError, match="None of the 4 pictures has a label"):
        measure(nothing)
    broken_NC = logits.logits_NC.copy()
    broken_NC[2, 1] = np.nan
    with pytest.raises(ModelError, match=r"0002\.jpg is not finite"):
        measure(MultiLabelLogits(logits.names, broken_NC, logits.targets_NC))
    with pytest.raises(ValueError, match="different labels"):
        multi_label_metrics(logits, ("a", "a", "b"), precision="fp32", threshold=0.5)
    with pytest.raises(ValueError, match="targets"):
        MultiLabelLogits(logits.names, logits.logits_NC, logits.targets_NC[:, :2])


def test_parts_are_joined_and_sets_become_rows() -> None:
    logits = make_logits(7, 3, seed=5)
    parts = [
        MultiLabelLogits(logits.names[rows], logits.logits_NC[rows], logits.targets_NC[rows])
        for rows in (slice(0, 3), slice(3, 7))
    ]
    assert measure(concatenate_multi_label(parts)) == measure(logits)
    sets = [tuple(np.flatnonzero(row).tolist()) for row in logits.targets_NC]
    assert (multi_hot(sets, 7, 3) == logits.targets_NC).all()
