"""Opening a captioner of transformers from a folder or the hub: its files, image settings, weights and vocabulary."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from vitrine.config.preprocessing import ProcessorInput
from vitrine.errors import ModelError, error_summary
from vitrine.io.untrusted_files import read_json as read_json_file
from vitrine.io.untrusted_files import read_lines
from vitrine.models.checkpoints.image_processor import PROCESSOR_DEFAULTS, processor_input, read_json
from vitrine.models.checkpoints.state_dict import open_weights
from vitrine.models.checkpoints.weights_index import WEIGHTS_NAMES
from vitrine.models.hf_captioners.base import HFCaptioner, quiet, transformers_library
from vitrine.models.hf_captioners.encoder_decoder import (
    blip_captioner,
    check_encoder_decoder,
    encoder_decoder_captioner,
)
from vitrine.models.hf_captioners.git import git_captioner
from vitrine.models.hub import fetch_optional, fetch_weights
from vitrine.models.reference import WeightsFile

MODEL_TYPES = ("blip", "git", "vision-encoder-decoder")
"""``model_type`` in the config.json of captioners that can be opened."""

_HUB = "hf-hub:"
_REMEDY = "with the repository's other files, into one folder, and give that folder as the model."

_CONFIG = ("config.json",)
_VOCABULARY = ("tokenizer.json", "vocab.txt")
_IMAGE = ("preprocessor_config.json", "processor_config.json")  # version 5 writes the latter beside a tokenizer
_GENERATION = "generation_config.json"


@dataclass(frozen=True)
class CaptionerFiles:
    """The files of a captioner.

    Attributes:
        config: what config.json says; its ``model_type`` is one of :data:`MODEL_TYPES`.
        config_path: of config.json.
        weights: safetensors, or what torch.save wrote.
        vocabulary: a tokenizer.json or vocab.txt.
        image: says how pictures are prepared.
        generation: what generation_config.json says; empty where there is none.
    """

    config: dict[str, Any]
    config_path: Path
    weights: WeightsFile
    vocabulary: Path
    image: Path
    generation: dict[str, Any]


def is_transformers_captioner(folder: Path) -> bool:
    """Whether a folder's config.json is that of a captioner of transformers, judged by its ``model_type``."""
    try:
        return read_json_file(folder / "config.json", dict[str, Any]).get("model_type") in MODEL_TYPES
    except (OSError, ValueError):
        return False


def locate_captioner(reference: str) -> CaptionerFiles:
    """Find the files of ``hf-hub:owner/name``, with ``@revision`` where wanted, or of a folder.

    Raises:
        ModelError: a file is missing or cannot be read, or the model is of another kind.
        WeightsUnavailableError: a file of the hub is not here and cannot be fetched.
    """
    config_path = _file(reference, _CONFIG)
    config = read_json(config_path)
    kind = config.get("model_type")
    if kind not in MODEL_TYPES:
        raise ModelError(
            f"{config_path} is of a model of the type {kind!r}, which is no captioner that is known.\n"
            f"Expected one of these types of transformers: {', '.join(MODEL_TYPES)}."
        )
    weights = _file(reference, WEIGHTS_NAMES)
    origin = f"{reference}/{weights.name}" if reference.startswith(_HUB) else str(weights)
    return CaptionerFiles(
        config=config,
        config_path=config_path,
        weights=WeightsFile(weights, origin),
        vocabulary=_file(reference, _VOCABULARY),
        image=_file(reference, _IMAGE),
        generation=_generation(reference),
    )


def _file(reference: str, names: tuple[str, ...]) -> Path:
    if reference.startswith(_HUB):
        return fetch_weights(reference.removeprefix(_HUB), names, _REMEDY)
    folder = Path(reference).expanduser()
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        what = f"{folder} has no {' or '.join(names)}" if folder.is_dir() else f"There is no folder {folder}"
        raise ModelError(
            f"{what}.\nExpected a captioner's folder as transformers saves it: {_CONFIG[0]}, {WEIGHTS_NAMES[0]}, "
            f"{' or '.join(_VOCABULARY)}, {' or '.join(_IMAGE)}."
        )
    return path


def _generation(reference: str) -> dict[str, Any]:
    """Older repositories have none, and say the same in config.json."""
    if reference.startswith(_HUB):
        path = fetch_optional(reference.removeprefix(_HUB), _GENERATION, _REMEDY)
    else:
        path = Path(reference).expanduser() / _GENERATION
    return read_json(path) if path and path.is_file() else {}


_PROCESSORS = (
    "BeitImageProcessor",
    "BlipImageProcessor",
    "CLIPImageProcessor",
    "DeiTImageProcessor",
    "ViTImageProcessor",
)


def read_image_settings(library: Any, path: Path, image_size: tuple[int, int]) -> ProcessorInput:
    """Read a preprocessor_config.json or a processor_config.json; what it leaves out is as the library has it.

    Args:
        library: transformers.
        path: of the file.
        image_size: (rows, columns) in pixels that the model takes.

    Raises:
        ModelError: an image processor of another kind, or one that gives pictures of another size.
    """
    content = read_json(path)
    content = content.get("image_processor") or content
    type_name = str(content.get("image_processor_type") or content.get("feature_extractor_type"))
    name = type_name.removesuffix("Fast").removesuffix("Pil").replace("FeatureExtractor", "ImageProcessor")
    if name not in _PROCESSORS:
        raise ModelError(
            f"{path} prepares pictures by {type_name}, which is not known here.\n"
            f"Expected one of these image processors of transformers: {', '.join(_PROCESSORS)}."
        )
    processor = getattr(library, f"{name}Pil")
    defaults = {key: getattr(processor, key, default) for key, default in PROCESSOR_DEFAULTS.items()}
    defaults |= {"size": processor.size}
    if content.get("do_pad") or (content.get("do_center_crop") and not content.get("crop_size", defaults["crop_size"])):
        raise ModelError(f"{path} does not say how pictures are prepared: it pads them, or crops them to no size.")
    settings = processor_input(content, path, defaults, is_square=processor.default_to_square)
    smallest = settings.resize if isinstance(settings.resize, int) else min(settings.resize)
    if settings.size != image_size or (settings.crop and smallest < max(settings.crop)):
        raise ModelError(
            f"{path} prepares pictures of {_pixels(settings.size)}; the model takes {_pixels(image_size)}.\n"
            "Give the preprocessor_config.json that belongs to these weights."
        )
    return settings


def _pixels(size: tuple[int, int] | None) -> str:
    return f"{size[0]} x {size[1]} pixels" if size else "different sizes"


_CLASSES = {
    "blip": "BlipForConditionalGeneration",
    "git": "GitForCausalLM",
    "vision-encoder-decoder": "VisionEncoderDecoderModel",
}

# Masks and counted positions, which earlier versions of the library wrote beside the weights and later ones compute.
_COMPUTED = re.compile(r"(^|\.)(position_ids|(attn|crossattention)\.(bias|masked_bias))$")

# The head of an encoder that a captioner does not use; some files leave it out.
_UNUSED = re.compile(r"^encoder\.pooler\.")

_SHOWN = 3  # names in a message


def load_transformers_model(library: Any, files: CaptionerFiles) -> Any:
    """The library's model, float32 on the CPU, in eval mode; every weight is from the file.

    Attention that maps are made of is computed by ``eager`` code, which returns it; an image encoder's stays fused.

    Raises:
        ModelError: the settings or the weights cannot be read, do not fit one another, or are of no known kind.
    """
    kind = files.config["model_type"]
    model_class = getattr(library, _CLASSES[kind])
    with quiet(library):
        try:
            config = model_class.config_class.from_dict(files.config)
        except Exception as error:  # checks of values differ from one part of the library to the next
            raise ModelError(
                f"{files.config_path} does not describe a {kind} model: {error_summary(error)}.\n"
                "Expected the config.json that transformers wrote with these weights."
            ) from error
        options: dict[str, Any] = {}
        if kind == "vision-encoder-decoder":
            check_encoder_decoder(config)
            options["attn_implementation"] = {"encoder": "sdpa", "decoder": "eager"}
        tensors = open_weights(files.weights.path).tensors()
        weights = {name: value for name, value in tensors.items() if not _COMPUTED.search(name)}
        try:
            model, report = model_class.from_pretrained(
                None,
                config=config,
                state_dict=weights,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,  # reported below, with the rest
                output_loading_info=True,
                **options,
            )
        except Exception as error:  # likewise
            raise ModelError(
                f"{files.weights.path} cannot be loaded into a {kind} model: {error_summary(error)}."
            ) from error
    require_fit(files.weights.path, files.config_path, report, _CLASSES[kind])
    return model.eval()


def require_fit(weights: Path, config: Path, report: Any, model_class: str) -> None:
    """Refuse weights that are not all of a model's, and nothing else.

    Args:
        weights: their file.
        config: the file that describes the model.
        report: what the library says of loading them.
        model_class: the library's name of the model.

    Raises:
        ModelError: weights are missing, unknown or of another shape; it names some.
    """
    missing = [name for name in report["missing_keys"] if not _UNUSED.match(name)]
    shapes = [f"{name} ({_shape(one)} in place of {_shape(other)})" for name, one, other in report["mismatched_keys"]]
    faults = {"missing": missing, "unknown": list(report["unexpected_keys"]), "of another shape": shapes}
    differences = "; ".join(_list_names(fault, sorted(names)) for fault, names in faults.items() if names)
    if differences or report["error_msgs"]:
        raise ModelError(
            f"{weights} does not fit {model_class} as {config.name} describes it: "
            f"{differences or error_summary(report['error_msgs'][0])}.\n"
            "Give the files that transformers saved together."
        )


def _list_names(fault: str, names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} {fault}: {', '.join(names[:_SHOWN])}{more}"


def _shape(size: Any) -> str:
    return " x ".join(map(str, size)) or "a scalar"


_ROLES = ("bos_token_id", "decoder_start_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True)
class VocabularyFile:
    """The arguments of :func:`vitrine.caption.tokenizer.read_vocabulary` for a captioner's vocabulary.

    Attributes:
        path: a tokenizer.json or vocab.txt.
        start: the token that starts a caption; None where the file does not have it, as BLIP's ``[DEC]``, which is
            never part of a caption.
        end, pad: the tokens that end a caption and fill it up; the file has them.
    """

    path: Path
    start: str | None
    end: str
    pad: str


@dataclass(frozen=True)
class TransformersCaptioner:
    """A captioner of transformers, opened.

    Attributes:
        module: float32 on the CPU, in eval mode; its ``vocabulary`` is None until it is assigned.
        image: how pictures are prepared for it.
        vocabulary: the file of its vocabulary, and its special tokens.
        weights: the file its weights came from.
    """

    module: HFCaptioner
    image: ProcessorInput
    vocabulary: VocabularyFile
    weights: WeightsFile


def open_transformers_captioner(reference: str) -> TransformersCaptioner:
    """Open BLIP, GIT, or a vision encoder with a text decoder, as transformers saves them.

    Args:
        reference: ``hf-hub:owner/name``, with ``@revision`` where wanted, or a folder.

    Raises:
        ModelError: transformers is not installed; a file is missing, damaged, of another kind, or does not fit the
            others; or a weights file carries code, which is not run.
        WeightsUnavailableError: a file of the hub is not here and cannot be fetched.
    """
    library = transformers_library()
    files = locate_captioner(reference)
    module = _wrap_model(library, files).eval()
    vocabulary = _vocabulary_file(files.vocabulary, module)
    image = read_image_settings(library, files.image, module.spec.image_size)
    return TransformersCaptioner(module, image, vocabulary, files.weights)


def _wrap_model(library: Any, files: CaptionerFiles) -> HFCaptioner:
    model = load_transformers_model(library, files)
    token_ids = {role: _one_id(files, role, getattr(model.generation_config, role, None)) for role in _ROLES}
    token_ids |= {role: _one_id(files, role, files.generation[role]) for role in _ROLES if role in files.generation}
    if files.config["model_type"] == "blip":
        return blip_captioner(library, model)
    if files.config["model_type"] == "git":
        return git_captioner(library, model, token_ids)
    return encoder_decoder_captioner(library, model, token_ids)


def _one_id(files: CaptionerFiles, role: str, number: Any) -> int | None:
    if isinstance(number, list) and len(number) == 1:
        number = number[0]
    if number is not None and not isinstance(number, int):
        raise ModelError(f"{files.config_path} gives {role} as {number!r}.\nExpected the number of one word piece.")
    return number


def _vocabulary_file(path: Path, module: HFCaptioner) -> VocabularyFile:
    pieces, size = _read_tokens(path), module.spec.vocabulary_size
    if pieces and max(pieces) >= size:
        raise ModelError(
            f"{path} has word pieces up to number {max(pieces):,}; the captioner has {size:,}.\n"
            "Give the tokenizer.json or vocab.txt that belongs to these weights."
        )
    missing = [number for number in (module.end, module.pad) if number not in pieces]
    if missing:
        raise ModelError(
            f"{path} has no word piece {missing[0]:,}, with which this captioner ends or fills up a caption.\n"
            "Give the tokenizer.json or vocab.txt that belongs to these weights."
        )
    return VocabularyFile(path, pieces.get(module.start), pieces[module.end], pieces[module.pad])


def _read_tokens(path: Path) -> dict[int, str]:
    """The tokens of a vocabulary file by id."""
    try:
        if path.suffix == ".json":
            by_name = Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True)
            return {number: piece for piece, number in by_name.items()}
        return dict(enumerate(read_lines(path)))
    except Exception as error:  # the tokenizers library raises nothing more particular
        raise ModelError(f"{path} cannot be read as a vocabulary: {error}") from None


__all__ = [
    "MODEL_TYPES",
    "TransformersCaptioner",
    "is_transformers_captioner",
    "open_transformers_captioner",
]
