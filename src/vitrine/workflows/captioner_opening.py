"""A captioner from a reference: its weights, its vocabulary, and how pictures are prepared for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from vitrine.caption.vocabulary import Vocabulary, read_vocabulary
from vitrine.data.caption_transform import CaptionTransform
from vitrine.errors import ModelError
from vitrine.models.captioner.loading import load_catr
from vitrine.models.captioner.model import CaptionModel
from vitrine.models.captioner.released import RELEASES, fetch_release
from vitrine.models.hub import fetch
from vitrine.models.precision import default_device
from vitrine.models.weights import WeightsFile

_WORDS_OF = "google-bert/bert-base-uncased"  # the published captioner's word pieces


@dataclass(frozen=True)
class OpenedCaptioner:
    """A captioner in eval mode on its device.

    Attributes:
        module: the model, with its vocabulary.
        vocabulary: its word pieces.
        transform: what is done to pictures.
        weights: the file its weights came from.
        notes: sentences on which files are in use.
    """

    module: CaptionModel
    vocabulary: Vocabulary
    transform: CaptionTransform
    weights: WeightsFile
    device: torch.device
    notes: tuple[str, ...]


def open_captioner(
    reference: str,
    architecture: str | None = None,
    vocabulary: Path | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> OpenedCaptioner:
    """Open the published captioner: ``catr/v1``, ``catr/v2``, ``catr/v3``, or a file of its weights.

    Args:
        reference: one of those names; with ``architecture``, a weights file.
        architecture: ``catr`` where the reference is a file.
        vocabulary: its vocab.txt or tokenizer.json; None looks beside the weights, then in the cache folder and on
            the hub.
        progress: called with bytes done, of how many, during a download.

    Raises:
        ModelError: no such captioner, weights that do not fit, or another vocabulary.
        WeightsUnavailableError: a file is not here and cannot be fetched.
    """
    if architecture not in (None, "catr"):
        raise ModelError(f"There is no captioner --arch {architecture}: expected catr.")
    path = _weights_path(reference, architecture, progress)
    # Each picture's features are computed at its own size and padded afterwards: a batch says what one picture does.
    module = load_catr(path, padding="features", ready=True)
    words_path = _vocabulary_path(path, vocabulary)
    module.vocabulary = words = read_vocabulary(words_path)
    if words.size != module.config.vocabulary_size:
        raise ModelError(
            f"{words_path} has {words.size:,} word pieces; the captioner has {module.config.vocabulary_size:,}.\n"
            "Give the vocab.txt of bert-base-uncased: --vocab vocab.txt"
        )
    device = default_device()
    notes = (f"Weights: {path}.", f"Word pieces: {words_path}.")
    return OpenedCaptioner(module.to(device), words, CaptionTransform(), WeightsFile(path, str(path)), device, notes)


def _weights_path(reference: str, architecture: str | None, progress: Callable[[int, int], None]) -> Path:
    if reference in RELEASES:
        return fetch_release(reference, progress)
    path = Path(reference).expanduser()
    if architecture is None:
        known = ", ".join(RELEASES)
        hint = f"\nA weights file needs its kind: --arch catr, as in: vitrine caption {reference} IMAGES --arch catr"
        raise ModelError(f"{reference!r} is no captioner that is known: {known}.{hint if path.is_file() else ''}")
    return path


def _vocabulary_path(weights: Path, named: Path | None) -> Path:
    if named is not None:
        return named
    beside = weights.parent / "vocab.txt"
    return beside if beside.is_file() else fetch(_WORDS_OF, ("vocab.txt",), "and name the file: --vocab vocab.txt.")
