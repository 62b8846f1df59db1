"""Nearest neighbours: what a model's features are worth before anything is trained on them.

Axes: N labelled pictures, Q pictures in question, D features, C classes, K neighbours.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

NEIGHBOURS = 20
TEMPERATURE = 0.07
_AT_ONCE = 1 << 24  # similarities that exist at a time: 64 MiB


def neighbour_votes(
    known_ND: npt.NDArray[np.float32],
    labels_N: npt.NDArray[np.int64],
    asked_QD: npt.NDArray[np.float32],
    *,
    classes: int,
    k: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> npt.NDArray[np.float64]:
    """The votes of the k most similar labelled pictures, by class.

    Similarity s is the cosine of two feature vectors, and a neighbour's vote for its own class weighs
    exp(s / temperature). Of equally similar pictures the earlier ones in ``known_ND`` are the neighbours.

    Source: Z. Wu, Y. Xiong, S. Yu, D. Lin (2018), Unsupervised feature learning via non-parametric instance
    discrimination, CVPR, section 3.4 (arXiv:1805.01978), with its temperature of 0.07; with k = 20 as in M. Caron et
    al. (2021), Emerging properties in self-supervised vision transformers (DINO), ICCV, section 4.1 and appendix
    (arXiv:2104.14294).

    Args:
        known_ND: float32, finite; features of the labelled pictures. A vector of zeros is similar to nothing (s = 0).
        labels_N: int64, 0 to C - 1.
        asked_QD: float32, finite; likewise.
        classes: C.
        k: neighbours that vote, at least 1; all N where there are fewer.
        temperature: above 0.

    Returns:
        float64 (Q, C), at least 0; the largest is the predicted class.

    Raises:
        ValueError: an argument is outside of its range, or shapes do not fit one another.
    """
    if k < 1 or temperature <= 0 or not len(known_ND):
        raise ValueError(f"Expected k >= 1, temperature > 0, N >= 1; got {k}, {temperature:g}, {len(known_ND)}.")
    if known_ND.shape[1:] != asked_QD.shape[1:] or labels_N.shape != known_ND.shape[:1]:
        raise ValueError(f"Shapes do not fit: {known_ND.shape}, {labels_N.shape}, {asked_QD.shape}.")
    known = functional.normalize(torch.from_numpy(known_ND).float(), dim=1)
    asked = functional.normalize(torch.from_numpy(asked_QD).float(), dim=1)
    labels, k = torch.from_numpy(labels_N), min(k, len(known_ND))
    votes_QC = torch.zeros(len(asked), classes, dtype=torch.float64)
    step = max(1, _AT_ONCE // len(known))
    for first in range(0, len(asked), step):
        similar_QK, which_QK = _nearest(asked[first : first + step] @ known.T, k)
        weights_QK = (similar_QK.double() / temperature).exp()
        votes_QC[first : first + step].scatter_add_(1, labels[which_QK], weights_QK)
    result: npt.NDArray[np.float64] = votes_QC.numpy()
    return result


def _nearest(similar_QN: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row and their places; of equal ones the first, which ``topk`` alone does not promise."""
    values_QK, places_QK = similar_QN.topk(k, dim=1)
    tied = (similar_QN >= values_QK[:, -1:]).sum(1) > k
    for row in tied.nonzero()[:, 0].tolist():
        places_QK[row] = similar_QN[row].sort(descending=True, stable=True).indices[:k]
    return values_QK, places_QK
