"""The library's model with the weights of a file. No code that a file carries is ever run."""

from __future__ import annotations

import re
from typing import Any

import torch

from vitrine.errors import ModelError
from vitrine.models.formats.stored import open_weights
from vitrine.models.transformers_captioners.encoder_decoder import check_encoder_decoder
from vitrine.models.transformers_captioners.files import CaptionerFiles
from vitrine.models.transformers_captioners.library import quiet

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


def load_library_model(library: Any, files: CaptionerFiles) -> Any:
    """The library's model, float32 on the CPU, in eval mode; every weight is from the file.

    The attention that maps are made of is computed in the open (``eager``); an encoder's is not needed: it stays fused.

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
                f"{files.config_path} does not describe a {kind} model: {_one_line(error)}.\n"
                "Expected the config.json that transformers wrote with these weights."
            ) from error
        options: dict[str, Any] = {}
        if kind == "vision-encoder-decoder":
            check_encoder_decoder(config)
            options["attn_implementation"] = {"encoder": "sdpa", "decoder": "eager"}
        stored = open_weights(files.weights.path).tensors()
        weights = {name: value for name, value in stored.items() if not _COMPUTED.search(name)}
        try:
            model, found = model_class.from_pretrained(
                None,
                config=config,
                state_dict=weights,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,  # they are told below, with the rest
                output_loading_info=True,
                **options,
            )
        except Exception as error:  # likewise
            raise ModelError(
                f"{files.weights.path} cannot be loaded into a {kind} model: {_one_line(error)}."
            ) from error
    _require_fit(files, found, kind)
    return model.eval()


def _require_fit(files: CaptionerFiles, found: Any, kind: str) -> None:
    missing = [name for name in found["missing_keys"] if not _UNUSED.match(name)]
    shapes = [f"{name} ({_shape(one)} in place of {_shape(other)})" for name, one, other in found["mismatched_keys"]]
    faults = {"missing": missing, "unknown": list(found["unexpected_keys"]), "of another shape": shapes}
    told = "; ".join(_listed(fault, sorted(names)) for fault, names in faults.items() if names)
    if told or found["error_msgs"]:
        raise ModelError(
            f"{files.weights.path} does not fit {_CLASSES[kind]} as {files.config_path.name} describes it: "
            f"{told or _one_line(found['error_msgs'][0])}.\nGive the files that transformers saved together."
        )


def _listed(fault: str, names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} {fault}: {', '.join(names[:_SHOWN])}{more}"


def _shape(size: Any) -> str:
    return " x ".join(map(str, size)) or "a scalar"


def _one_line(error: object) -> str:
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
