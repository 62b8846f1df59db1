"""Linear layers in 4 bits, by the library bitsandbytes: its settings, and weights that were saved so.

Dettmers et al. 2023 (QLoRA, arXiv:2305.14314): blocks of 64 weights share a scale, and each weight is the number of
one of 16 values (nf4). Products are computed in another type, to which a layer's weights are brought on the way.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from math import ceil, prod
from pathlib import Path
from typing import Any

import torch
from packaging.version import Version
from torch import nn

from vitrine.errors import ModelError

MIN_VERSION = "0.50"
"""Oldest version of bitsandbytes that is known to compute on CPUs what is computed here."""

SETTINGS: Mapping[str, Any] = {
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_compute_dtype": "bfloat16",
    "bnb_4bit_use_double_quant": False,
}
"""Of weights that are brought into 4 bits here, as transformers' ``BitsAndBytesConfig`` takes them."""

BLOCK = 64
"""Weights that share a scale. On CPUs bitsandbytes gives wrong numbers where a layer's inputs are no whole blocks."""

_INSTALL = "Install it: pip install 'vitrine[bitsandbytes]'"
_CHOICES: Mapping[str, tuple[Any, ...]] = {
    "bnb_4bit_quant_type": ("nf4", "fp4"),
    "bnb_4bit_compute_dtype": ("bfloat16", "float16", "float32"),
    "bnb_4bit_use_double_quant": (True, False),
    "bnb_4bit_quant_storage": ("uint8",),
}


def require_bitsandbytes() -> None:
    """Import bitsandbytes.

    On some processors it would have the library ``kernels`` fetch compiled code from a hub and run it; not here.

    Raises:
        ModelError: it is not installed, or is older than :data:`MIN_VERSION`.
    """
    try:
        with _without_kernels():
            version = import_module("bitsandbytes").__version__
    except ImportError as error:
        raise ModelError(
            f"Weights in 4 bits need the library bitsandbytes, which is not here ({error}).\n{_INSTALL}"
        ) from None
    if Version(version) < Version(MIN_VERSION):
        raise ModelError(f"Weights in 4 bits need bitsandbytes {MIN_VERSION} or newer; this is {version}.\n{_INSTALL}")


@contextmanager
def _without_kernels() -> Iterator[None]:
    """Within the block ``kernels`` cannot be imported, and that it cannot is not warned of."""
    modules: dict[str, Any] = sys.modules  # None in it forbids an import
    before = {name: modules[name] for name in ("kernels",) if name in modules}
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    level = logger.level
    logger.setLevel(logging.ERROR)
    modules["kernels"] = None
    try:
        yield
    finally:
        del modules["kernels"]
        modules.update(before)
        logger.setLevel(level)


def saved_settings(path: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The ``quantization_config`` of weights that bitsandbytes saved in 4 bits, without what is not known of it; None
    where there is none.

    Args:
        path: of config.json.
        config: what it says.

    Raises:
        ModelError: the weights are in a few bits in another way.
    """
    settings = config.get("quantization_config")
    if not settings:
        return None
    settings = settings if isinstance(settings, dict) else {}
    method = str(settings.get("quant_method") or "of no method")
    if method != "bitsandbytes" or not settings.get("load_in_4bit"):
        method += " in 8 bits" if method == "bitsandbytes" else ""
        raise ModelError(
            f"{path} is of weights in a few bits (quantization_config: {method}), which are not taken.\n"
            "Give weights in 4 bits of bitsandbytes, or in float32, float16 or bfloat16, and --precision bf16 or 4bit."
        )
    own_settings: dict[str, Any] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    for name, choices in _CHOICES.items():
        value = settings.get(name, choices[0] if name == "bnb_4bit_quant_storage" else None)
        if value not in choices:
            raise ModelError(f"{path} says {name} {value!r}.\nExpected one of these: {', '.join(map(str, choices))}.")
        own_settings[name] = value
    skip = settings.get("llm_int8_skip_modules")
    if isinstance(skip, list) and all(isinstance(name, str) for name in skip):
        own_settings["llm_int8_skip_modules"] = skip
    return own_settings


def settings_for(library: Any, model_class: Any, config: Any) -> Any:
    """:data:`SETTINGS` for one model, as the library takes them: layers whose inputs are no whole blocks stay as they
    are, and those that the library leaves out, such as the vocabulary's.

    Args:
        library: transformers.
        model_class: its class of the model.
        config: of the model.
    """
    with torch.device("meta"):
        model = model_class(config)
    skip = set(library.quantizers.base.get_keys_to_not_convert(model))
    linear = ((name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear))
    skip.update(name for name, layer in linear if layer.in_features % BLOCK)
    return library.BitsAndBytesConfig(**SETTINGS, llm_int8_skip_modules=sorted(skip))


def check_four_bit(model: Any, path: Path) -> None:
    """Refuse packed weights whose parts are of other sizes than their layer's, as compiled code would read past them;
    and layers that a CPU would get wrong.

    Args:
        model: the library's, loaded.
        path: of its weights.

    Raises:
        ModelError: it names the layer.
    """
    for name, layer in _layers(model):
        state = getattr(layer.weight, "quant_state", None)
        if state is None or not _fits(layer, state):
            raise ModelError(
                f"{path} has weights of {name} in 4 bits that do not fit its {layer.out_features:,} x "
                f"{layer.in_features:,} layer.\nGive the files that were saved together."
            )
        if layer.weight.device.type == "cpu" and layer.in_features % state.blocksize:
            raise ModelError(
                f"{path} has {name} in 4 bits, whose {layer.in_features:,} inputs are no whole blocks of "
                f"{state.blocksize}: bitsandbytes gives wrong numbers for it on a CPU.\n"
                "Give the model's weights in bfloat16 with --precision 4bit, or use a GPU."
            )


def use_cpu_layout(model: Any) -> bool:
    """Have layers on a CPU computed from the layout that bitsandbytes brings them into at first, where it can.

    It takes whole blocks of 32 outputs and of inputs that share a scale; other layers are left in the layout of the
    file. No gradient passes through a layer in it, and bitsandbytes says nothing of that.

    Returns:
        whether there are such layers.
    """
    uses_layout = []
    for _, layer in _layers(model):
        is_whole = layer.out_features % 32 == 0 and layer.in_features % layer.weight.quant_state.blocksize == 0
        layer.support_avx512bf16_for_cpu = layer.support_avx512bf16_for_cpu and is_whole
        uses_layout.append(layer.support_avx512bf16_for_cpu and layer.weight.device.type == "cpu")
    return any(uses_layout)


def _layers(model: Any) -> list[tuple[str, Any]]:
    return [(name, layer) for name, layer in model.named_modules() if type(layer).__name__ == "Linear4bit"]


def _fits(layer: Any, state: Any) -> bool:
    count = layer.out_features * layer.in_features
    scales = ceil(count / state.blocksize) if state.blocksize in (32, 64, 128, 256, 512, 1024, 2048, 4096) else -1
    inner = state.state2 if state.nested else None
    return (
        tuple(state.shape) == (layer.out_features, layer.in_features)
        and layer.weight.numel() * layer.weight.element_size() == ceil(count / 2)
        and state.absmax.numel() == scales
        and state.code.numel() == 16
        and (
            inner is None
            or (
                inner.code.numel() == 256
                and inner.blocksize > 0
                and prod(inner.absmax.shape) == ceil(scales / inner.blocksize)
            )
        )
    )
