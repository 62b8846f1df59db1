"""Open any model reference: a classifier or a captioner, whichever it names."""

from __future__ import annotations

from pathlib import Path

from vitrine.caption.model import Captioner, open_captioner
from vitrine.classify.model import Classifier, open_classifier
from vitrine.models.kind import is_captioner
from vitrine.results import Progress, no_progress


def open_model(
    reference: str,
    precision: str = "auto",
    architecture: str | None = None,
    vocabulary: Path | None = None,
    progress: Progress = no_progress,
) -> Classifier | Captioner:
    """Open a model for prediction.

    Args:
        reference: a run folder, ``vitrine/scenes-tiny``, a timm name, ``hf-hub:owner/name``, ``catr/v3``, the folder of
            a model of timm or transformers, or a weights file.
        precision: auto, fp32 or bf16; auto is fp32 for a captioner; 4bit of a vision-language model.
        architecture: the timm name of the model whose weights the file holds; or ``catr``.
        vocabulary: of the published captioner, its vocab.txt or tokenizer.json; None looks beside the weights.
        progress: called with bytes done, of how many, while a published captioner is downloaded.

    Raises:
        ModelError: there is no such model, or its files do not fit one another.
        WeightsUnavailableError: a file is not here and cannot be fetched.
        UsageError: 4 bits of another model, or a precision that there is not.
    """
    if is_captioner(reference, architecture):
        return open_captioner(reference, architecture, vocabulary, progress, precision)
    return open_classifier(reference, precision, architecture)
