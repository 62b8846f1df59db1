"""A captioner from a reference: its weights, its vocabulary, and how pictures are prepared for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vitrine.caption.tokenizer import Vocabulary, read_vocabulary
from vitrine.config.preprocessing import CaptionInput
from vitrine.data.captions.transforms import CaptionTransform, ProcessorTransform
from vitrine.errors import ModelError
from vitrine.models.captioner.catr import RELEASES, fetch_release, load_catr
from vitrine.models.captioner.checkpoint import is_captioner_folder, load_captioner_checkpoint
from vitrine.models.captioner.inference import cast_image_encoder, prepare_for_prediction
from vitrine.models.captioner.model import CaptionModel
from vitrine.models.hf_captioners.load import is_transformers_captioner, open_transformers_captioner
from vitrine.models.hub import fetch
from vitrine.models.kind import _is_hub
from vitrine.models.precision import default_device
from vitrine.models.reference import WeightsFile
from vitrine.results import Progress, no_progress
from vitrine.runs.environment import weights_notes

_WORDS_OF = "google-bert/bert-base-uncased"  # the published captioner's word pieces


@dataclass(frozen=True)
class Captioner:
    """A captioner in eval mode on its device.

    Attributes:
        module: the model, with its vocabulary.
        vocabulary: its word pieces.
        transform: what is done to pictures.
        weights: the file its weights came from.
        notes: sentences on which files are in use.
        folder: of the run that it is; None of others.
    """

    module: Any
    vocabulary: Vocabulary
    transform: CaptionTransform | ProcessorTransform
    weights: WeightsFile
    device: torch.device
    notes: tuple[str, ...]
    folder: Path | None = None

    @property
    def attention(self) -> str:
        """What its word maps are of."""
        return str(getattr(self.module, "attention", "cross-attention"))


@dataclass(frozen=True)
class LoadedCaptioner:
    """A captioner as its files have it: float32, on the CPU, to be trained on or made ready to predict.

    Attributes:
        model: with its vocabulary.
        input: how its pictures are prepared.
        weights: the file its weights came from.
        notes: sentences on which files are in use.
        folder: of the run that it is; None of others.
    """

    model: CaptionModel
    input: CaptionInput
    weights: WeightsFile
    notes: tuple[str, ...]
    folder: Path | None = None


def open_captioner(
    reference: str,
    architecture: str | None = None,
    vocabulary: Path | None = None,
    progress: Progress = no_progress,
    precision: str = "fp32",
) -> Captioner:
    """Open a captioner for prediction: a run of ``vitrine train``, the published one, or one of transformers.

    Args:
        reference: a run folder; ``catr/v1``, ``catr/v2`` or ``catr/v3``; a folder or ``hf-hub:owner/name`` of a BLIP,
            GIT or VisionEncoderDecoder model; with ``architecture``, a weights file.
        architecture: ``catr`` where the reference is a file.
        vocabulary: the published captioner's vocab.txt or tokenizer.json; None looks beside the weights, then in the
            cache folder and on the hub.
        progress: called with bytes done, of how many, during a download.
        precision: "fp32", or "bf16": the image side is rounded to bf16 once and for all, words stay in float32. A
            captioner of transformers is opened in float32 either way; its products are rounded as it decodes.

    Raises:
        ModelError: no such captioner, weights that do not fit, or another vocabulary.
        WeightsUnavailableError: a file is not here and cannot be fetched.
    """
    if architecture is None and (_is_hub(reference) or is_transformers_captioner(Path(reference).expanduser())):
        return _of_transformers(reference, vocabulary)
    loaded = load_captioner(reference, architecture, vocabulary, progress)
    device = default_device()
    ready = prepare_for_prediction(loaded.model)
    module = (cast_image_encoder(ready) if precision == "bf16" else ready).to(device)
    transform = CaptionTransform(loaded.input)
    return Captioner(module, module.vocabulary, transform, loaded.weights, device, loaded.notes, loaded.folder)


def load_captioner(
    reference: str,
    architecture: str | None = None,
    vocabulary: Path | None = None,
    progress: Progress = no_progress,
) -> LoadedCaptioner:
    """Read a captioner's files; arguments and errors are those of :func:`open_captioner`."""
    if architecture not in (None, "catr"):
        raise ModelError(f"There is no captioner --arch {architecture}: expected catr.")
    folder = Path(reference).expanduser()
    if architecture is None and is_captioner_folder(folder):
        return _of_run(folder, vocabulary)
    path = _weights_path(reference, architecture, progress)
    # Each picture's features are computed at its own size and padded afterwards: a batch says what one picture does.
    model = load_catr(path, padding="features")
    words_path = _vocabulary_path(path, vocabulary)
    model.vocabulary = _checked(read_vocabulary(words_path), words_path, model)
    weights = WeightsFile(path, RELEASES.get(reference, str(path)))
    notes = (*weights_notes(weights), f"Word pieces: {words_path}.")
    return LoadedCaptioner(model, CaptionInput(), weights, notes)


def _of_transformers(reference: str, vocabulary: Path | None) -> Captioner:
    found = open_transformers_captioner(reference)
    path = vocabulary or found.words.path
    words = read_vocabulary(path, start=found.words.start, end=found.words.end, pad=found.words.pad)
    found.module.vocabulary = words
    device = default_device()
    transform = ProcessorTransform(found.image)
    notes = (*weights_notes(found.weights), f"Word pieces: {path}.")
    return Captioner(found.module.to(device), words, transform, found.weights, device, notes)


def _of_run(folder: Path, vocabulary: Path | None) -> LoadedCaptioner:
    if vocabulary is not None:
        raise ModelError(f"{folder} has word pieces of its own: leave --vocab {vocabulary} out.")
    saved = load_captioner_checkpoint(folder)
    saved.model.vocabulary = _checked(
        read_vocabulary(saved.words, start=saved.marks["start"], end=saved.marks["end"], pad=saved.marks["pad"]),
        saved.words,
        saved.model,
    )
    weights = WeightsFile(saved.weights, str(saved.weights))
    return LoadedCaptioner(saved.model, saved.input, weights, weights_notes(weights, folder), folder)


def _checked(words: Vocabulary, path: Path, model: CaptionModel) -> Vocabulary:
    if words.size != model.config.vocabulary_size:
        raise ModelError(
            f"{path} has {words.size:,} word pieces; the captioner has {model.config.vocabulary_size:,}.\n"
            "Give the file that belongs to its weights; the published captioner's is the vocab.txt of "
            "bert-base-uncased: --vocab vocab.txt"
        )
    return words


def _weights_path(reference: str, architecture: str | None, progress: Progress) -> Path:
    if reference in RELEASES:
        return fetch_release(reference, progress)
    path = Path(reference).expanduser()
    if architecture is None:
        known = ", ".join(RELEASES)
        hint = f"\nA weights file needs its kind: --arch catr, as in: vitrine caption {reference} IMAGES --arch catr"
        raise ModelError(
            f"{reference!r} is no captioner that is known: {known}, the folder of a run that trained one, or that of "
            f"a BLIP, GIT or vision-encoder-decoder model of transformers.{hint if path.is_file() else ''}"
        )
    return path


def _vocabulary_path(weights: Path, named: Path | None) -> Path:
    if named is not None:
        return named
    beside = weights.parent / "vocab.txt"
    return beside if beside.is_file() else fetch(_WORDS_OF, ("vocab.txt",), "and name the file: --vocab vocab.txt.")
