"""What a run was made with: versions, device, threads and memory, and notes on weights that changed since."""

from __future__ import annotations

import os
import platform
import resource
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from vitrine.io.hub_cache import changed_sentence, short_hash
from vitrine.io.untrusted_files import read_json
from vitrine.models.load import LoadedModel
from vitrine.models.reference import WeightsFile
from vitrine.version import __version__

_PACKAGES = ("torch", "torchvision", "timm", "accelerate", "numpy", "pillow", "safetensors")


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Versions, device and thread count, ready for JSON."""
    return {
        "vitrine": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: metadata.version(name) for name in _PACKAGES},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def peak_memory_mib() -> float:
    """The largest resident memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20) if sys.platform == "darwin" else peak / (1 << 10)  # bytes on macOS, KiB on Linux


def device_memory_bytes(device: torch.device) -> int:
    """Memory of a device: of the GPU itself, else of the machine."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@contextmanager
def redirect_native_stderr() -> Iterator[None]:
    """Redirect file descriptor 2, which C++ code writes to, to the null device; Python's own stderr stays as it is."""
    before, python, original = os.dup(2), sys.stderr, sys.__stderr__
    try:
        if original is not None and python is original:
            sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, encoding=original.encoding, errors=original.errors)
        with Path(os.devnull).open("wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        meanwhile, sys.stderr = sys.stderr, python
        os.dup2(before, 2)
        os.close(before)
        if meanwhile is not python:
            meanwhile.close()


WEIGHTS_SHA256 = "weights_sha256"
"""Key of a run's metrics.json: the hash of the weights that were measured."""

VOCABULARY_SHA256 = "vocabulary_sha256"
"""Key of a captioner's metrics.json: the hash of the tokenizer.json that was measured with."""


def model_notes(model: LoadedModel) -> tuple[str, ...]:
    """Sentences on a loaded model: its weights file, and what was recognised or changed to make the weights fit."""
    if model.is_in_memory:
        return ("The model is in memory: its weights are what they are now, and of no file.", *model.notes)
    if model.weights is None:
        return ("The weights are random.", *model.notes)
    return (*weights_notes(model.weights, model.reference.folder), *model.notes)


def weights_notes(weights: WeightsFile, run: Path | None = None) -> tuple[str, ...]:
    """Sentences on a weights file: where it is, and whether it has changed.

    Args:
        weights: the file.
        run: the folder of the run, or of the model, that it belongs to; None of other files.
    """
    where = "" if weights.origin == str(weights.path) else f" ({weights.origin})"
    changes = (changed_sentence(weights.path, weights.origin), None if run is None else _changed_run(run, weights))
    return (f"Weights: {weights.path}{where}.", *(each for each in changes if each))


def _changed_run(run: Path, weights: WeightsFile) -> str | None:
    """A sentence where a run's weights are not those that were measured; None where they are, or no hash is known."""
    try:
        sha256 = read_json(run / "metrics.json", dict[str, Any])[WEIGHTS_SHA256]
    except (OSError, ValueError, KeyError, TypeError):  # a run that has not ended, or a folder of something else
        return None
    if not isinstance(sha256, str) or sha256 == weights.sha256:
        return None
    return (
        f"{weights.path} has changed since the run's metrics were written: its sha256 was {short_hash(sha256)} and "
        f"is {short_hash(weights.sha256)}."
    )


def starting_weights_note(environment: Mapping[str, Any], weights: WeightsFile | None, is_resumed: bool) -> str | None:
    """A sentence where a run began with other starting weights than their reference has now; else None.

    Args:
        environment: content of the run's environment.json.
        weights: what the reference has now; None for random ones.
        is_resumed: whether the training continues from a checkpoint.
    """
    before = environment.get("starting_weights")
    if weights is None or not isinstance(before, dict) or before.get("sha256") in (None, weights.sha256):
        return None
    onwards = "goes on from its own state, made with the former" if is_resumed else "begins again, with those of now"
    return (
        f"The starting weights {weights.origin} have changed since this run was begun: their sha256 was "
        f"{short_hash(str(before['sha256']))} and is {short_hash(weights.sha256)}. The training {onwards}."
    )
