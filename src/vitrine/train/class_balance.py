"""Weights of classes, labels and pictures by how many training pictures have them.

Axes: N pictures, C classes or labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from vitrine.config.recipe import invalid_value

Floats = npt.NDArray[np.float64]


def count_labels(label_sets: Iterable[Sequence[int]], labels: int) -> npt.NDArray[np.int64]:
    """How many pictures have each label, int64 (C,), C being ``labels``."""
    counts_C = np.zeros(labels, dtype=np.int64)
    for label_set in label_sets:
        counts_C[list(label_set)] += 1
    return counts_C


def balanced_class_weights(counts_C: npt.NDArray[np.int64]) -> Floats:
    """n / (classes x pictures of the class), float64 (C,): scikit-learn's ``compute_class_weight("balanced")``.

    Over all pictures the weights have the mean 1. Classes without a picture do not count among the classes; their own
    weight is 1.

    Source: G. King, L. Zeng (2001), Logistic regression in rare events data, Political Analysis 9.
    """
    classes = np.count_nonzero(counts_C)
    weights_C: Floats = np.ones(len(counts_C))
    np.divide(counts_C.sum(), classes * counts_C, out=weights_C, where=counts_C > 0)
    return weights_C


def balanced_positive_weights(counts_C: npt.NDArray[np.int64], pictures: int) -> Floats:
    """Pictures without a label over pictures with it, float64 (C,), by which the label is weighed where it is there.

    Both sides of every label then weigh the same. A label that no picture has, or every one, has weight 1.

    Source: torch's ``BCEWithLogitsLoss``, ``pos_weight``.
    """
    is_both_C, weights_C = (counts_C > 0) & (counts_C < pictures), np.ones(len(counts_C))
    np.divide(pictures - counts_C, counts_C, out=weights_C, where=is_both_C)
    return weights_C


def balanced_sampling_weights(labels_N: npt.NDArray[np.int64]) -> Floats:
    """1 / pictures of the class, float64 (N,): drawn by these weights, every class comes as often as every other."""
    weights_N: Floats = 1 / np.bincount(labels_N)[labels_N]
    return weights_N


def check_balance(class_weights: str, sampling: str, *, endless: bool, is_multi_label: bool) -> None:
    """Refuse to balance what cannot be counted, or has no one class to be drawn by.

    Raises:
        RecipeError: training pictures come in a stream, or are multi-label and should be drawn by class.
    """
    if endless and class_weights == "balanced":
        raise invalid_value("class_weights", class_weights, "none, as these training pictures come in a stream")
    if endless and sampling == "balanced":
        raise invalid_value("sampling", sampling, "shuffle, as these training pictures come in a stream")
    if is_multi_label and sampling == "balanced":
        raise invalid_value(
            "sampling",
            sampling,
            "shuffle, as a picture of multi-label data has no one class; class_weights = balanced weighs its labels",
        )
