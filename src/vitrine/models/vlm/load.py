"""Opening a vision-language model of transformers from a folder or the hub: its files, weights and processor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from vitrine.errors import ModelError, error_summary
from vitrine.io.untrusted_files import read_json as read_json_file
from vitrine.models.checkpoints.image_processor import read_json
from vitrine.models.checkpoints.weights_index import WEIGHTS_NAMES
from vitrine.models.hf_captioners.base import quiet, transformers_library
from vitrine.models.hub import fetch, fetch_optional, fetch_weights
from vitrine.models.reference import WeightsFile
from vitrine.models.vlm.attention_rows import use_row_attention
from vitrine.models.vlm.device_map import AutoDeviceMap, describe_spread, main_device
from vitrine.models.vlm.encoder_decoder import EncoderDecoderModel
from vitrine.models.vlm.families import FAMILIES, Family, image_token_id
from vitrine.models.vlm.four_bit import saved_settings, use_cpu_layout
from vitrine.models.vlm.memory_plan import Precision
from vitrine.models.vlm.model import VisionLanguageModel
from vitrine.models.vlm.prompt import PromptTransform
from vitrine.models.vlm.weights import Devices, load_model

CPU = torch.device("cpu")

_HUB = "hf-hub:"
_REMEDY = "with the repository's other files, into one folder, and give that folder as the model."
_SAVED_IN_4_BITS = "These weights were saved in 4 bits and are taken as they are; --precision is of the others."
_PROCESSOR = ("processor_config.json", "preprocessor_config.json")
_OPTIONAL = (
    *_PROCESSOR,
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "video_preprocessor_config.json",
    "chat_template.jinja",
    "chat_template.json",
)
_EXPECTED = (
    f"Expected the folder of a vision-language model as transformers saves it: config.json, {WEIGHTS_NAMES[0]}, "
    f"tokenizer.json, {' or '.join(_PROCESSOR)}."
)


@dataclass(frozen=True)
class OpenedModel:
    """A vision-language model, opened.

    Attributes:
        module: in eval mode; its ``vocabulary`` is None until it is assigned.
        transform: prepares a picture with a prompt.
        tokenizer: its word pieces.
        end: the piece that ends an answer; one of them, where there are several.
        weights: the file its weights came from.
        device: where its prompts go.
        precision: that its weights are in: the one asked for, but for weights that were saved in 4 bits.
        notes: sentences on where its weights are.
    """

    module: VisionLanguageModel
    transform: PromptTransform
    tokenizer: Tokenizer
    end: str
    weights: WeightsFile
    device: torch.device
    precision: Precision
    notes: tuple[str, ...] = ()


def is_vision_language_folder(folder: Path) -> bool:
    """Whether a folder's config.json is that of a vision-language model, of a family that is known or not.

    Of a type that is not known it is judged by what such files have: a ``vision_config``, and an architecture that ends
    in ``ForConditionalGeneration``.
    """
    try:
        config = read_json_file(folder / "config.json", dict[str, Any])
    except (OSError, ValueError):
        return False
    names = config.get("architectures")
    writes = isinstance(names, list) and any(str(name).endswith("ForConditionalGeneration") for name in names)
    kind = config.get("model_type")
    return (isinstance(kind, str) and kind in FAMILIES) or ("vision_config" in config and writes)


def open_vision_language_model(reference: str, precision: Precision = "fp32", devices: Devices = CPU) -> OpenedModel:
    """Open a vision-language model that transformers saved. None of a repository's code is run.

    Args:
        reference: ``hf-hub:owner/name``, with ``@revision`` where wanted, or a folder.
        precision: of the weights.
        devices: where they go.

    Raises:
        ModelError: transformers is not installed; the model is of no family that is known; a file is missing, damaged,
            or does not fit the others.
        WeightsUnavailableError: a file of the hub is not here and cannot be fetched.
    """
    library = transformers_library()
    folder, config = _config(reference)
    family = _family(folder, config)
    four_bit_settings = saved_settings(folder / "config.json", config)
    precision = "4bit" if four_bit_settings else precision
    weights, folder = _files(reference, folder, family)
    model = load_model(library, family, config, folder, weights.path, precision, devices, four_bit_settings)
    processor = _load_processor(library, family, folder)
    tokenizer = _tokenizer(processor, folder)
    if family.image_places is None:
        _require_image_token(folder, model.config, tokenizer)
    ends = _end_ids(folder, model.config, tokenizer)
    language_model = family.language_model(model)
    use_row_attention(library, model, None if language_model is model else language_model)
    if model.config.get_text_config().is_encoder_decoder:
        prefix = _decoder_prefix(folder, model.config, tokenizer)
        module: VisionLanguageModel = EncoderDecoderModel(library, model, family, ends, prefix)
    else:
        module = VisionLanguageModel(library, model, family, ends)
    if use_cpu_layout(model):
        module.has_gradients = False
    transform = PromptTransform(processor, model.config, family)
    end = str(tokenizer.id_to_token(ends[0]))
    device = main_device(model) if isinstance(devices, AutoDeviceMap) else devices
    notes = (
        *([_SAVED_IN_4_BITS] if four_bit_settings else []),
        *([describe_spread(model)] if isinstance(devices, AutoDeviceMap) else []),
    )
    return OpenedModel(module.eval(), transform, tokenizer, end, weights, device, precision, notes)


def _config(reference: str) -> tuple[Path, dict[str, Any]]:
    if reference.startswith(_HUB):
        path = fetch(reference.removeprefix(_HUB), ("config.json",), _REMEDY)
        return path.parent, read_json(path)
    folder = Path(reference).expanduser()
    return folder, read_json(folder / "config.json")


def _family(folder: Path, config: Mapping[str, Any]) -> Family:
    """The description of a model's family; an unknown one is refused with what its config.json says of it."""
    kind = config.get("model_type")
    if isinstance(kind, str) and kind in FAMILIES:
        return FAMILIES[kind]
    parts = (config.get(name) for name in ("vision_config", "text_config"))
    vision, text = (part if isinstance(part, dict) else {} for part in parts)
    sign = config.get("image_token_id", config.get("image_token_index"))
    facts = [
        f"vision encoder {vision.get('model_type') or 'not named'}",
        f"patches of {vision['patch_size']} pixels" if "patch_size" in vision else "",
        f"language model {text.get('model_type') or 'not named'}",
        "no image token" if sign is None else f"image token {sign}",
    ]
    raise ModelError(
        f"{folder / 'config.json'} is of a model of the type {kind!r}, and what its image tokens see is not known here "
        f"({', '.join(filter(None, facts))}).\nExpected one of these types: {', '.join(FAMILIES)}."
    )


def _files(reference: str, folder: Path, family: Family) -> tuple[WeightsFile, Path]:
    """The weights, and the folder of the other files, all of which are there."""
    if reference.startswith(_HUB):
        hub_id = reference.removeprefix(_HUB)
        path = fetch_weights(hub_id, WEIGHTS_NAMES, _REMEDY)
        fetch(hub_id, ("tokenizer.json",), _REMEDY)
        for name in (*_OPTIONAL, *family.more_files):
            fetch_optional(hub_id, name, _REMEDY)
        folder = path.parent
        origin = f"{reference}/{path.name}"
    else:
        paths = [folder / name for name in WEIGHTS_NAMES if (folder / name).is_file()]
        if not paths:
            raise ModelError(f"{folder} has no {' or '.join(WEIGHTS_NAMES)}.\n{_EXPECTED}")
        path, origin = paths[0], str(paths[0])
    if not (folder / "tokenizer.json").is_file():
        raise ModelError(f"{folder} has no tokenizer.json.\n{_EXPECTED}")
    if not any((folder / name).is_file() for name in _PROCESSOR):
        raise ModelError(f"{folder} has no processor: no {' or '.join(_PROCESSOR)}.\n{_EXPECTED}")
    return WeightsFile(path, origin), folder


def _load_processor(library: Any, family: Family, folder: Path) -> Any:
    try:
        with quiet(library):
            return getattr(library, family.processor_class).from_pretrained(
                folder, trust_remote_code=False, local_files_only=True
            )
    except Exception as error:  # likewise
        raise ModelError(
            f"The processor in {folder} cannot be opened as that of a {family.name}: {error_summary(error)}.\n"
            f"{_EXPECTED}"
        ) from error


def _tokenizer(processor: Any, folder: Path) -> Tokenizer:
    """A copy of the processor's tokenizer, with the pieces that the processor added."""
    try:
        return Tokenizer.from_str(processor.tokenizer.backend_tokenizer.to_str())
    except Exception as error:  # the tokenizers library raises nothing more particular
        raise ModelError(
            f"{folder / 'tokenizer.json'} cannot be read as word pieces: {error_summary(error)}."
        ) from None


def _end_ids(folder: Path, config: Any, tokenizer: Tokenizer) -> list[int]:
    """The ids that end an answer, as generation_config.json says, else config.json."""
    numbers = _setting(folder, config, "eos_token_id")
    ends = [numbers] if isinstance(numbers, int) else list(numbers or ())
    if not ends or not all(isinstance(each, int) and tokenizer.id_to_token(each) for each in ends):
        raise ModelError(
            f"Neither generation_config.json nor config.json in {folder} says which word piece ends an answer: "
            f"eos_token_id is {numbers!r}.\nExpected the number of a piece of tokenizer.json, or several."
        )
    return ends


def _decoder_prefix(folder: Path, config: Any, tokenizer: Tokenizer) -> list[int]:
    """The ids that an answer begins with in a decoder of its own, before its first word."""
    start, first = (_setting(folder, config, name) for name in ("decoder_start_token_id", "forced_bos_token_id"))
    start = _setting(folder, config, "bos_token_id") if start is None else start
    prefix = [start] if first is None else [start, first]
    if not all(isinstance(each, int) and tokenizer.id_to_token(each) for each in prefix):
        raise ModelError(
            f"Neither generation_config.json nor config.json in {folder} says which word piece an answer begins with: "
            f"decoder_start_token_id is {start!r}.\nExpected the number of a piece of tokenizer.json."
        )
    return prefix


def _setting(folder: Path, config: Any, name: str) -> Any:
    """What generation_config.json says, else config.json of the language model, else of the whole; None where none
    does."""
    path = folder / "generation_config.json"
    content = read_json(path) if path.is_file() else {}
    sources = (content.get(name), getattr(config.get_text_config(), name, None), getattr(config, name, None))
    return next((each for each in sources if each is not None), None)


def _require_image_token(folder: Path, config: Any, tokenizer: Tokenizer) -> None:
    """Refuse a model without a piece that stands for an image token."""
    number = image_token_id(config)
    if number is None:
        raise ModelError(
            f"{folder / 'config.json'} says of no word piece that it stands for an image token.\n"
            "Give the folder or repository as newer versions of transformers write it, with an image_token_id."
        )
    if tokenizer.id_to_token(number) is None:
        raise ModelError(
            f"{folder / 'tokenizer.json'} has no piece {number:,}, which config.json says is the image token.\n"
            "Give the tokenizer.json that belongs to these weights."
        )
