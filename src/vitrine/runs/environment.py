"""What a result was made with: versions, device, threads, memory."""

from __future__ import annotations

import json
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


@contextmanager
def redirect_native_stderr() -> Iterator[None]:
    """Drop what C++ code writes to file descriptor 2, and leave Python's own stderr as it is."""
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
"""Key of metrics.json in a run: the hash of the weights that were measured."""

VOCABULARY_SHA256 = "vocabulary_sha256"
"""Likewise of a captioner's word pieces, tokenizer.json."""


def model_notes(built: LoadedModel) -> tuple[str, ...]:
    """Sentences on a model that was opened: its weights, and what was recognised or changed to make them fit."""
    if built.weights is None:
        return ("The weights are random.", *built.notes)
    return (*weights_notes(built.weights, built.reference.folder), *built.notes)


def weights_notes(weights: WeightsFile, run: Path | None = None) -> tuple[str, ...]:
    """Sentences on a weights file.

    Args:
        weights: the file.
        run: the folder of the run, or of the model, that it belongs to; None of others.
    """
    where = "" if weights.origin == str(weights.path) else f" ({weights.origin})"
    changed = (changed_sentence(weights.path, weights.origin), None if run is None else _changed_run(run, weights))
    return (f"Weights: {weights.path}{where}.", *(each for each in changed if each))


def _changed_run(run: Path, weights: WeightsFile) -> str | None:
    """That a run's weights are not those that its metrics are of; None where they are, or where that is not known."""
    try:
        measured = json.loads((run / "metrics.json").read_text("utf-8"))[WEIGHTS_SHA256]
    except (OSError, ValueError, KeyError, TypeError):  # a run that has not ended, or a folder of something else
        return None
    if not isinstance(measured, str) or measured == weights.sha256:
        return None
    return (
        f"{weights.path} has changed since the run's metrics were written: its sha256 was {short_hash(measured)} and "
        f"is {short_hash(weights.sha256)}."
    )


def starting_weights_note(environment: Mapping[str, Any], weights: WeightsFile | None, restored: bool) -> str | None:
    """That a run was begun with other starting weights than the same reference has now; None where they are the same.

    Args:
        environment: content of the run's environment.json.
        weights: what the reference has now; None for random ones.
        restored: whether the training goes on from a state of its own.
    """
    before = environment.get("starting_weights")
    if weights is None or not isinstance(before, dict) or before.get("sha256") in (None, weights.sha256):
        return None
    onwards = "goes on from its own state, made with the former" if restored else "begins again, with those of now"
    return (
        f"The starting weights {weights.origin} have changed since this run was begun: their sha256 was "
        f"{short_hash(str(before['sha256']))} and is {short_hash(weights.sha256)}. The training {onwards}."
    )
