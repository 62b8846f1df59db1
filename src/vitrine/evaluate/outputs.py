"""What a classifier said of pictures. Axes: N pictures, C classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vitrine.errors import ModelError

# float64 copies of so many rows, of so many numbers at most, exist at a time, however many pictures there are
_ROWS_AT_ONCE, _NUMBERS_AT_ONCE = 4096, 1 << 22


@dataclass(frozen=True, eq=False)
class Outputs:
    """Logits of named pictures.

    Attributes:
        names: N names, as in the data.
        logits_NC: float32, finite; before the softmax.
        labels_N: int64, index of the true class; -1 where it is not known.

    Raises:
        ValueError: shapes do not fit one another, or a label is no class.
    """

    names: tuple[str, ...]
    logits_NC: npt.NDArray[np.float32]
    labels_N: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        shape = self.logits_NC.shape
        if len(shape) != 2 or self.labels_N.shape != shape[:1] or len(self.names) != shape[0]:
            raise ValueError(
                f"Expected N names, (N, C) logits and N labels; got {len(self.names)} names, logits {shape}, "
                f"labels {self.labels_N.shape}."
            )
        if len(self.labels_N) and not -1 <= self.labels_N.min() <= self.labels_N.max() < shape[1]:
            raise ValueError(
                f"Labels must be -1 to {shape[1] - 1}; got {self.labels_N.min()} to {self.labels_N.max()}."
            )

    @property
    def predicted(self) -> npt.NDArray[np.int64]:
        """int64 (N,), the likeliest class of each picture; the first of several that are equal."""
        likeliest_N: npt.NDArray[np.int64] = self.logits_NC.argmax(axis=1).astype(np.int64)
        return likeliest_N


def joined(parts: Sequence[Outputs]) -> Outputs:
    """The outputs of pictures that were computed in parts, in the order of the parts."""
    return Outputs(
        names=tuple(name for part in parts for name in part.names),
        logits_NC=np.concatenate([part.logits_NC for part in parts]),
        labels_N=np.concatenate([part.labels_N for part in parts]),
    )


def moved_labels(first: Outputs, second: Outputs) -> int:
    """The number of pictures that two outputs (another precision, another batch size) label differently.

    Raises:
        ValueError: they are not of the same pictures in the same order.
    """
    if first.names != second.names:
        raise ValueError(
            f"Outputs of different pictures cannot be compared: {len(first.names)} and {len(second.names)}."
        )
    return int(np.count_nonzero(first.predicted != second.predicted))


def require_finite(names: Sequence[str], logits_NC: npt.NDArray[np.floating]) -> None:
    """Refuse logits from which a label would be a guess.

    Raises:
        ModelError: a logit is not finite; names the first picture concerned.
    """
    finite_N = np.isfinite(logits_NC).all(axis=1)
    if not finite_N.all():
        wrong = int(np.argmin(finite_N))
        raise ModelError(
            f"The model's output for {names[wrong]} is not finite ({int(np.count_nonzero(~finite_N))} such pictures).\n"
            "Its weights may be damaged; or try --precision fp32."
        )


def log_normaliser(logits_NC: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """log(sum(exp(logits))) of each row, float64 (N,): a probability is exp(logit - this)."""
    result_N = np.empty(len(logits_NC), dtype=np.float64)
    step = min(_ROWS_AT_ONCE, max(1, _NUMBERS_AT_ONCE // max(1, logits_NC.shape[1])))
    for start in range(0, len(logits_NC), step):
        rows = slice(start, start + step)
        part_NC = logits_NC[rows].astype(np.float64)
        top_N1 = part_NC.max(axis=1, keepdims=True)  # subtracted so that exp does not overflow
        result_N[rows] = np.log(np.exp(part_NC - top_N1).sum(axis=1)) + top_N1[:, 0]
    return result_N
