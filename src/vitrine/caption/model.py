"""A captioner opened from a model reference, on its device: module, vocabulary and how its pictures are prepared."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

import torch

from vitrine.caption.tokenizer import Vocabulary, read_vocabulary
from vitrine.config.preprocessing import CaptionInput
from vitrine.data.captions.transforms import CaptionTransform, ProcessorTransform
from vitrine.errors import ModelError, UsageError
from vitrine.models.captioner.build import LoadedCaptioner
from vitrine.models.captioner.catr import RELEASES, fetch_release, load_catr
from vitrine.models.captioner.checkpoint import load_captioner_checkpoint
from vitrine.models.captioner.inference import cast_image_encoder, has_bf16_image_encoder, prepare_for_prediction
from vitrine.models.captioner.model import CaptionModel
from vitrine.models.hf_captioners.load import open_transformers_captioner
from vitrine.models.hub import fetch
from vitrine.models.kind import captioner_kind, is_hub_reference
from vitrine.models.precision import default_device, refuse_four_bit, spreads_over_devices
from vitrine.models.reference import WeightsFile
from vitrine.models.vlm.device_map import AutoDeviceMap
from vitrine.models.vlm.load import open_vision_language_model
from vitrine.models.vlm.memory_plan import Precision
from vitrine.models.vlm.prompt import PromptTransform
from vitrine.models.vlm.query_tokens import QueryLayers
from vitrine.results import Progress, count_of, no_progress
from vitrine.runs.environment import weights_notes

_VOCABULARY_REPOSITORY = "google-bert/bert-base-uncased"  # has the published captioner's word pieces


@dataclass(frozen=True)
class Captioner:
    """A captioner in eval mode on its device.

    Attributes:
        module: the model, with its vocabulary.
        vocabulary: its word pieces.
        transform: prepares a picture for it.
        weights: the file its weights came from.
        device: where the module is.
        precision: "fp32" or "bf16"; of a vision-language model "4bit", too.
        notes: sentences on which files are in use.
        folder: of the run that it is; None of others.
        reference: that it was opened by.
        prompt: the words that captions go on from, of a BLIP or GIT; "" where they begin by themselves. What a
            vision-language model is asked is of its transform.
    """

    module: Any
    vocabulary: Vocabulary
    transform: CaptionTransform | ProcessorTransform | PromptTransform
    weights: WeightsFile
    device: torch.device
    precision: str
    notes: tuple[str, ...]
    folder: Path | None = None
    reference: str = ""
    prompt: str = ""

    @property
    def attention(self) -> str:
        """The kind of attention that its word maps show."""
        return str(getattr(self.module, "attention", "cross-attention"))

    @property
    def question(self) -> str | None:
        """What a vision-language model is asked of every picture; None of captioners that are asked nothing."""
        return self.transform.question if isinstance(self.transform, PromptTransform) else None

    def with_prompt(
        self,
        prompt: str | None,
        relative: bool = False,
        query_layers: QueryLayers = "mean",
        prompt_maps: bool = False,
    ) -> Captioner:
        """The captioner with something to be asked of every picture; None leaves it as it is.

        Args:
            prompt: the question.
            relative: whether a neutral prompt is read on every picture as well.
            query_layers: of a model with query tokens, the layers in which they read a picture that are looked at.
            prompt_maps: whether the question's own words have maps.

        Raises:
            UsageError: the captioner takes no prompt, or the prompt is empty or holds the sign of a picture; or it has
                no query tokens whose layers could be chosen.
        """
        family = self.transform.family if isinstance(self.transform, PromptTransform) else None
        if query_layers != "mean" and (family is None or family.query_tokens is None):
            raise UsageError("This captioner has no query tokens: leave --query-layers out.")
        if prompt is None and not relative and query_layers == "mean" and not prompt_maps:
            return self
        if not isinstance(self.transform, PromptTransform):
            if not getattr(self.module, "takes_prompt", False):
                raise UsageError(
                    "This captioner takes no prompt: it says what is on a picture and answers no questions.\n"
                    "Leave --prompt, --relative and --prompt-maps out, or give a vision-language model."
                )
            if relative or prompt_maps or prompt is None:
                raise UsageError(
                    "Maps relative to a neutral prompt and of the prompt's words are of vision-language models.\n"
                    "Leave --relative and --prompt-maps out."
                )
            return self._going_on_from(prompt)
        if prompt_maps and not self.module.has_prompt_maps:
            raise UsageError(
                f"The prompt's words have no maps in {self.reference or 'this model'}: its encoder reads picture and "
                "prompt together.\nLeave --prompt-maps out."
            )
        changes: dict[str, Any] = {"prompt": prompt, "is_relative": relative, "query_layers": query_layers}
        return replace(self, transform=replace(self.transform, **changes, has_prompt_maps=prompt_maps))

    def _going_on_from(self, prompt: str) -> Captioner:
        """The captioner whose captions go on from a text, as the library's ``generate`` goes on from ``input_ids``."""
        ids, most = self.vocabulary.encode(prompt.strip()), self.module.spec.max_length - 2
        if not ids:
            raise UsageError("The prompt is empty: give words to go on from, or leave it out for a caption.")
        signs = {self.module.start, self.module.end, self.module.pad}.intersection(ids)
        if signs:
            sign = self.vocabulary.token(min(signs))
            raise UsageError(f"The prompt holds {sign}, which begins or ends this captioner's captions: leave it out.")
        if len(ids) > most:
            raise UsageError(
                f"The prompt has {count_of(len(ids), 'word piece')}, and this captioner has positions for {most}: give "
                "a shorter one."
            )
        return replace(self, module=self.module.with_prompt(ids), prompt=prompt.strip())


def open_captioner(
    reference: str | Captioner,
    architecture: str | None = None,
    vocabulary: Path | None = None,
    progress: Progress = no_progress,
    precision: str = "fp32",
) -> Captioner:
    """Open a captioner for prediction: a run of ``vitrine train``, the published one, or one of transformers.

    Args:
        reference: an open captioner, which is taken as it is; a run folder; ``catr/v1``, ``catr/v2`` or ``catr/v3``; a
            folder or ``hf-hub:owner/name`` of a BLIP, GIT, VisionEncoderDecoder or vision-language model; with
            ``architecture``, a weights file.
        architecture: ``catr`` where the reference is a file.
        vocabulary: the published captioner's vocab.txt or tokenizer.json; None looks beside the weights, then in the
            cache folder and on the hub.
        progress: called with bytes done, of how many, during a download.
        precision: "fp32" (or "auto", which is the same), or "bf16": the image side is rounded to bf16 once and for all,
            words stay in float32. A captioner of transformers is opened in float32 either way; its products are
            rounded as it decodes. A vision-language model can be in "4bit": its linear layers, by bitsandbytes. A
            captioner that is open keeps its own with "auto", and another where its weights allow it.

    Raises:
        ModelError: no such captioner, weights that do not fit, or another vocabulary.
        WeightsUnavailableError: a file is not here and cannot be fetched.
        UsageError: a precision that there is not, or that this captioner cannot be in.
    """
    if precision not in ("auto", *get_args(Precision)):
        raise UsageError(f"--precision {precision} cannot be used: expected auto, {', '.join(get_args(Precision))}.")
    if isinstance(reference, Captioner):
        return _in_precision(reference, precision)
    precision = "fp32" if precision == "auto" else precision
    if architecture is None and captioner_kind(reference) == "vision-language":
        return _open_vision_language_model(reference, vocabulary, precision)
    refuse_four_bit(precision, reference)
    # A repository of the hub that is no captioner is refused by name when its files are located.
    if architecture is None and (is_hub_reference(reference) or captioner_kind(reference) == "transformers"):
        return _open_transformers(reference, vocabulary, precision)
    captioner = load_captioner(reference, architecture, vocabulary, progress)
    assert captioner.weights is not None, "a captioner that was trained has them"
    device = default_device()
    model = prepare_for_prediction(captioner.model)
    module = (cast_image_encoder(model) if precision == "bf16" else model).to(device)
    transform = CaptionTransform(captioner.input)
    return Captioner(
        module,
        module.vocabulary,
        transform,
        captioner.weights,
        device,
        precision,
        captioner.notes,
        captioner.folder,
        reference,
    )


def _in_precision(captioner: Captioner, precision: str) -> Captioner:
    """An open captioner in another precision, where that does not depend on how its weights were read."""
    if precision in ("auto", captioner.precision):
        return captioner
    if captioner.question is not None or has_bf16_image_encoder(captioner.module):
        raise UsageError(
            f"{captioner.reference or 'This captioner'} is open in {captioner.precision}, which its weights were read "
            f"in: leave precision {precision} out, or open it with that precision."
        )
    refuse_four_bit(precision, captioner.reference or "this captioner")
    return replace(captioner, precision=precision)


def load_captioner(
    reference: str,
    architecture: str | None = None,
    vocabulary: Path | None = None,
    progress: Progress = no_progress,
) -> LoadedCaptioner:
    """Load a captioner of vitrine's own architecture to train it on: float32, on the CPU, with its vocabulary.

    Arguments and errors are those of :func:`open_captioner`.
    """
    if architecture not in (None, "catr"):
        raise ModelError(f"There is no captioner --arch {architecture}: expected catr.")
    kind = captioner_kind(reference, architecture)
    if kind in ("transformers", "vision-language"):
        raise ModelError(
            f"{reference} is a model of transformers, which vitrine runs and does not train.\n"
            "Give a captioner that vitrine trained, catr/v3, or an image model for a new captioner."
        )
    if kind == "run":
        return _load_run(Path(reference).expanduser(), vocabulary)
    path = _weights_path(reference, architecture, progress)
    # Each picture's features are computed at its own size and padded afterwards: a batch says what one picture does.
    model = load_catr(path, padding="features")
    vocabulary_path = _vocabulary_path(path, vocabulary)
    model.vocabulary = read_vocabulary(vocabulary_path)
    _check_size(model, vocabulary_path)
    weights = WeightsFile(path, RELEASES.get(reference, str(path)))
    notes = (*weights_notes(weights), f"Word pieces: {vocabulary_path}.")
    return LoadedCaptioner(model, CaptionInput(), weights, notes)


def _open_transformers(reference: str, vocabulary: Path | None, precision: str) -> Captioner:
    model = open_transformers_captioner(reference)
    path = vocabulary or model.vocabulary.path
    words = read_vocabulary(path, start=model.vocabulary.start, end=model.vocabulary.end, pad=model.vocabulary.pad)
    model.module.vocabulary = words
    device = default_device()
    transform = ProcessorTransform(model.image)
    notes = (*weights_notes(model.weights), f"Word pieces: {path}.")
    module = model.module.to(device)
    return Captioner(module, words, transform, model.weights, device, precision, notes, reference=reference)


def _open_vision_language_model(reference: str, vocabulary: Path | None, precision: str) -> Captioner:
    if vocabulary is not None:
        raise UsageError(f"{reference} has word pieces of its own: leave --vocab {vocabulary} out.")
    devices = AutoDeviceMap() if spreads_over_devices() else default_device()
    model = open_vision_language_model(reference, cast(Precision, precision), devices)
    words = Vocabulary(model.tokenizer, start=model.end, end=model.end, pad=model.end)
    model.module.vocabulary = words
    notes = (*weights_notes(model.weights), *model.notes)
    return Captioner(
        model.module, words, model.transform, model.weights, model.device, model.precision, notes, reference=reference
    )


def _load_run(folder: Path, vocabulary: Path | None) -> LoadedCaptioner:
    if vocabulary is not None:
        raise ModelError(f"{folder} has word pieces of its own: leave --vocab {vocabulary} out.")
    checkpoint = load_captioner_checkpoint(folder)
    model, special = checkpoint.model, checkpoint.special_tokens
    model.vocabulary = read_vocabulary(
        checkpoint.vocabulary, start=special["start"], end=special["end"], pad=special["pad"]
    )
    _check_size(model, checkpoint.vocabulary)
    weights = WeightsFile(checkpoint.weights, str(checkpoint.weights))
    return LoadedCaptioner(model, checkpoint.input, weights, weights_notes(weights, folder), folder)


def _check_size(model: CaptionModel, path: Path) -> None:
    """Refuse a vocabulary of another size than the captioner's."""
    if model.vocabulary.size != model.config.vocabulary_size:
        raise ModelError(
            f"{path} has {count_of(model.vocabulary.size, 'word piece')}; the captioner has "
            f"{model.config.vocabulary_size:,}.\n"
            "Give the file that belongs to its weights; the published captioner's is the vocab.txt of "
            "bert-base-uncased: --vocab vocab.txt"
        )


def _weights_path(reference: str, architecture: str | None, progress: Progress) -> Path:
    if reference in RELEASES:
        return fetch_release(reference, progress)
    path = Path(reference).expanduser()
    if architecture is None:
        releases = ", ".join(RELEASES)
        hint = f"\nA weights file needs its kind: --arch catr, as in: vitrine caption {reference} IMAGES --arch catr"
        raise ModelError(
            f"{reference!r} is no captioner that is known: {releases}, the folder of a run that trained one, or that "
            f"of a BLIP, GIT or vision-encoder-decoder model of transformers.{hint if path.is_file() else ''}"
        )
    return path


def _vocabulary_path(weights: Path, chosen_file: Path | None) -> Path:
    if chosen_file is not None:
        return chosen_file
    beside = weights.parent / "vocab.txt"
    remedy = "and name the file: --vocab vocab.txt."
    return beside if beside.is_file() else fetch(_VOCABULARY_REPOSITORY, ("vocab.txt",), remedy)
