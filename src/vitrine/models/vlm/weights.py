"""The weights of a vision-language model read into the library's model, in one precision and on its devices."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vitrine.errors import ModelError, error_summary
from vitrine.messages import say
from vitrine.models.checkpoints.state_dict import Shape, open_weights
from vitrine.models.hf_captioners.base import quiet
from vitrine.models.hf_captioners.load import require_fit
from vitrine.models.vlm.device_map import AutoDeviceMap
from vitrine.models.vlm.families import UNBOUNDED, Family, context_length
from vitrine.models.vlm.four_bit import check_four_bit, require_bitsandbytes, settings_for
from vitrine.models.vlm.memory_plan import MemoryPlan, Precision, free_gpu_memory, free_memory

Devices = torch.device | AutoDeviceMap
"""Where a model's weights go: to one device, or over all of them."""


def load_model(
    library: Any,
    family: Family,
    content: Mapping[str, Any],
    folder: Path,
    weights: Path,
    precision: Precision,
    devices: Devices,
    four_bit_settings: Mapping[str, Any] | None = None,
) -> Any:
    """The library's model, in eval mode.

    Args:
        library: transformers.
        family: what is known of it.
        content: of its config.json.
        folder: of its files.
        weights: their file, or the index of several.
        precision: of the weights.
        devices: where they go.
        four_bit_settings: of weights that were saved in 4 bits, their settings.

    Raises:
        ModelError: the files do not fit one another, memory has no room for the weights, or they are to be in 4 bits
            and the library for that is not installed.
    """
    is_in_4_bits = precision == "4bit" or four_bit_settings is not None
    if is_in_4_bits:
        require_bitsandbytes()
    model_class = getattr(library, family.model_class)
    with quiet(library):
        try:
            config = model_class.config_class.from_dict(
                {**content, **({"quantization_config": four_bit_settings} if four_bit_settings else {})}
            )
        except Exception as error:  # checks of values differ from one part of the library to the next
            raise ModelError(
                f"{folder / 'config.json'} does not describe a {family.name}: {error_summary(error)}.\n"
                "Expected the config.json that transformers wrote with these weights."
            ) from error
        file = open_weights(weights, as_named=True)
        _check_memory(_plan(weights, file.shapes, config, precision, four_bit_settings is not None), devices)
        options = {
            "config": config,
            "state_dict": file.tensors(),
            "dtype": torch.float32 if precision == "fp32" else torch.bfloat16,
            "ignore_mismatched_sizes": True,  # reported below, with the rest
            "output_loading_info": True,
        }
        if is_in_4_bits and four_bit_settings is None:
            options["quantization_config"] = settings_for(library, model_class, config)
        try:
            model, report = _load_onto(devices, model_class, options)
        except ModelError:
            raise
        except Exception as error:  # likewise
            raise ModelError(f"{weights} cannot be loaded into a {family.name}: {error_summary(error)}.") from error
    require_fit(weights, folder / "config.json", report, family.model_class)
    if is_in_4_bits:
        check_four_bit(model, weights)
    return model.eval()


def _load_onto(devices: Devices, model_class: Any, options: dict[str, Any]) -> tuple[Any, Any]:
    if isinstance(devices, AutoDeviceMap):
        return devices.load(model_class, **options)
    if devices.type == "cuda":  # straight from the file, so that memory need not hold all of it
        options["device_map"] = {"": devices}
    model, report = model_class.from_pretrained(None, **options)
    return model.to(devices), report


def _plan(path: Path, shapes: Mapping[str, Shape], config: Any, precision: Precision, is_in_4_bits: bool) -> MemoryPlan:
    context = context_length(config)
    positions = 0 if context == UNBOUNDED else context
    text = config.get_text_config()
    return MemoryPlan.of(path, shapes, text, positions, precision, is_in_4_bits=is_in_4_bits)


def _check_memory(plan: MemoryPlan, devices: Devices) -> None:
    """Refuse weights that memory has no room for before they are read, and say where a full context would have none."""
    if isinstance(devices, AutoDeviceMap):
        room = devices.room()
        warning = plan.check_cache(sum(room.values()) if room else None)
    elif devices.type == "cuda":
        number = torch.cuda.current_device() if devices.index is None else devices.index
        warning = plan.check_gpu(f"cuda:{number}", free_gpu_memory()[number], free_memory())
    else:
        warning = plan.check(free_memory())
    if warning:
        say(warning)
