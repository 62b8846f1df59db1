"""A vision-language model spread over several devices: layers on GPUs, then in memory, then on the disk.

The library accelerate decides where each layer goes and moves what passes between them, as it does for
``from_pretrained(device_map="auto")`` of transformers. Layers that a GPU has no room for wait in memory or on the disk
and are copied to it each time they are used.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from vitrine.models.vlm.memory_plan import free_gpu_memory, free_memory
from vitrine.results import count_of

SHARE_FOR_WEIGHTS = 0.9
"""Of a device's free memory; the rest is left for what is computed."""


@dataclass(frozen=True)
class AutoDeviceMap:
    """Room on each device of this machine.

    Attributes:
        limits: bytes for weights at most, by a GPU's number and ``cpu``; empty: :data:`SHARE_FOR_WEIGHTS` of what is
            free.
    """

    limits: Mapping[int | str, int] = field(default_factory=dict)

    def room(self) -> dict[int | str, int] | None:
        """Bytes for weights on each device; None where that is not known, and is left to accelerate."""
        if self.limits:
            return dict(self.limits)
        memory = free_memory()
        if memory is None or torch.backends.mps.is_available():
            return None
        free: dict[int | str, int] = dict(free_gpu_memory().items())
        return {device: int(SHARE_FOR_WEIGHTS * count) for device, count in (*free.items(), ("cpu", memory))}

    def load(self, model_class: Any, **options: Any) -> tuple[Any, Any]:
        """The library's model and its report of loading.

        What goes to the disk is written to a folder that is removed with the model.

        Args:
            model_class: the library's.
            options: of its ``from_pretrained``.
        """
        folder = tempfile.mkdtemp(prefix="vitrine-layers-")
        try:
            with _without_warnings():
                model, report = model_class.from_pretrained(
                    None, device_map="auto", max_memory=self.room(), offload_folder=folder, **options
                )
            _find_tied_weights(model)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        weakref.finalize(model, shutil.rmtree, folder, ignore_errors=True)
        return model, report


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Within the block, accelerate does not warn of parameters that it put elsewhere, which is what was asked for."""
    logger = logging.getLogger("accelerate.big_modeling")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"accelerate\.")
            yield
    finally:
        logger.setLevel(level)


def _find_tied_weights(model: Any) -> None:
    """Weights that two layers share are written to the disk once: let them be found under both names."""
    maps = (getattr(getattr(module, "_hf_hook", None), "weights_map", None) for module in model.modules())
    for index in (each.dataset.index for each in maps if each is not None):
        for name, source in model.all_tied_weights_keys.items():
            if source in index:
                index.setdefault(name, index[source])


def main_device(model: Any) -> torch.device:
    """The device that a spread model computes on first: its first GPU, else the CPU."""
    return torch.device(next((name for name in _devices(model) if name not in ("cpu", "disk")), "cpu"))


def describe_spread(model: Any) -> str:
    """Where the parts of a model are, in a sentence."""
    names = _devices(model)
    if set(names) == {"cpu"}:
        no_gpu = "" if torch.cuda.is_available() else "; this machine has no GPU"
        return f"Devices: all of this model is in memory, on the CPU{no_gpu}."
    if len(set(names)) == 1:
        return f"Devices: all of this model is on {names[0]}."
    counts = {name: names.count(name) for name in dict.fromkeys(names)}
    parts = ", ".join(f"{_place(name)} {count}" for name, count in counts.items())
    slow = {"cpu", "disk"}.intersection(names) - {_name(main_device(model))}
    warning = f" What is not on {main_device(model)} is copied to it for every word, which is slow." if slow else ""
    return f"Devices: of the {count_of(len(names), 'part')} of this model, {parts}.{warning}"


def _devices(model: Any) -> list[str]:
    """The device of each part, as accelerate has parted it; a model that is on one device has one part."""
    parts = getattr(model, "hf_device_map", None) or {"": next(model.parameters()).device}
    return [_name(device) for device in parts.values()]


def _place(name: str) -> str:
    return {"cpu": "in memory", "disk": "on the disk"}.get(name, f"on {name}")


def _name(device: Any) -> str:
    return f"cuda:{device}" if isinstance(device, int) else str(device)
