"""The classes of pictures that are predicted in Python, one result a picture. Axes: B pictures, C classes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from vitrine.classify.inference import predict_samples
from vitrine.classify.model import Classifier
from vitrine.data.samples import Sample
from vitrine.display import notebook_html
from vitrine.errors import PictureError
from vitrine.models.in_memory import in_eval_mode
from vitrine.results import Progress, Unreadable, no_progress, percent, round_number


@dataclass(frozen=True)
class PicturePrediction:
    """The classes of one picture, with their probabilities.

    Attributes:
        label: the likeliest class; where a model has several of one name, with its number: ``crane [134]``.
        probability: of it, 0 to 1.
        probabilities: of every class, by its label, in class order. They sum to 1, but for a multi-label model.
        index: the likeliest class's number, from 0.
        threshold: of a multi-label model, the probability above which a label is one of the picture's; else None.
        name: of the picture: its file's, or ``picture-0`` and so on.
        logits: float32 (C,), in class order.
    """

    label: str
    probability: float
    probabilities: dict[str, float]
    index: int = 0
    threshold: float | None = None
    name: str = ""
    logits: npt.NDArray[np.float32] | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(
        cls,
        labels: tuple[str, ...],
        probabilities_C: torch.Tensor,
        threshold: float | None,
        name: str,
        logits_C: npt.NDArray[np.float32] | None = None,
    ) -> PicturePrediction:
        """The prediction of a picture from the probabilities of all classes."""
        shares, index = probabilities_C.tolist(), int(probabilities_C.argmax())
        return cls(
            labels[index], shares[index], dict(zip(labels, shares, strict=True)), index, threshold, name, logits_C
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """The picture's labels, likeliest first: of a multi-label model those above the threshold, else the one."""
        if self.threshold is None:
            return (self.label,)
        return tuple(label for label, probability in self.top(len(self.probabilities)) if probability > self.threshold)

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """The likeliest classes with their probabilities, likeliest first."""
        return sorted(self.probabilities.items(), key=lambda pair: -pair[1])[:count]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "filename": self.name,
            "label": self.label,
            "labels": list(self.labels),
            "probability": round_number(self.probability),
            "probabilities": {label: round_number(share) for label, share in self.probabilities.items()},
        }

    def _repr_html_(self) -> str:
        return notebook_html(f"{self.name}: {repr(self).strip('<>')}", _bars(self))

    def __repr__(self) -> str:
        if self.threshold is not None and not self.labels:
            return f"<no label above {self.threshold:g}; {self.label} {100 * self.probability:.1f} %>"
        return f"<{', '.join(f'{label} {100 * self.probabilities[label]:.1f} %' for label in self.labels)}>"


def _bars(prediction: PicturePrediction, count: int = 5) -> str:
    """The likeliest classes, each with a bar of text."""
    pairs = prediction.top(count)
    width = max(len(label) for label, _ in pairs)
    return "\n".join(f"{label:<{width}}  {percent(share):>7}  {'█' * round(24 * share)}" for label, share in pairs)


def predict_pictures(
    classifier: Classifier,
    samples: Iterable[Sample],
    threshold: float | None,
    batch_size: int,
    progress: Progress = no_progress,
) -> Iterator[tuple[tuple[PicturePrediction, ...], tuple[Unreadable, ...]]]:
    """Predict pictures batch by batch: the predictions of a batch, and its unreadable pictures.

    Args:
        classifier: the model.
        samples: as :func:`vitrine.classify.inference.predict_samples` takes them.
        threshold: of a multi-label model; else None.
        batch_size: pictures at a time.
        progress: called with pictures done, of how many; 0 where that is not known.
    """
    parts = predict_samples(classifier, samples, batch_size=batch_size, progress=progress)
    for part in in_eval_mode(classifier.module, parts):
        probabilities_BC = classifier.probabilities(torch.from_numpy(part.logits_BC))
        rows = zip(part.samples, probabilities_BC, part.logits_BC, strict=True)
        yield (
            tuple(
                PicturePrediction.of(classifier.labels, probabilities_C, threshold, sample.name, logits_C)
                for sample, probabilities_C, logits_C in rows
            ),
            part.unreadable,
        )


def require_readable(unreadable: Iterable[Unreadable], count: int = 1) -> None:
    """Refuse pictures that cannot be read, where each has to have an answer.

    Raises:
        PictureError: one cannot; of several, the message names it.
    """
    for name, reason in unreadable:
        which = "The picture" if count == 1 else f"The picture {name}"
        raise PictureError(f"{which} cannot be used: {reason}.")
