"""Weights files: which file a model reference means, where it lies, and its hash."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from vitrine.errors import ModelError
from vitrine.models.hub import fetch
from vitrine.models.reference import ModelSource
from vitrine.torchpair import require_torchvision

require_torchvision()

from timm.models import load_state_dict  # noqa: E402

_USUAL_NAMES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class WeightsFile:
    """One weights file and its origin.

    Attributes:
        path: where it lies on this machine.
        origin: where it came from: a hub id, or the path itself.
    """

    path: Path
    origin: str

    @cached_property
    def sha256(self) -> str:
        """Of the file's bytes, in hexadecimal; computed when it is first asked for."""
        return file_sha256(self.path)


def file_sha256(path: Path) -> str:
    """sha256 of a file, in hexadecimal, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def locate_weights(source: ModelSource, override: str | None = None) -> WeightsFile:
    """The weights of a model reference, or of the file given instead of them.

    Raises:
        ModelError: the file is missing, or the reference has no weights.
        WeightsUnavailableError: they would have to be downloaded and cannot be.
    """
    if override is not None:
        return _local(Path(override).expanduser(), f"pretrained = {override!r}")
    if source.folder is not None:
        return _local(source.folder / "model.safetensors", source.reference)
    if source.hub_id is None:
        raise ModelError(
            f"There are no pretrained weights for {source.reference!r}.\n"
            "Use a name with a tag (vit_base_patch16_224.orig_in21k), a file (--set pretrained=FILE), "
            "or --set pretrained=false to start from nothing."
        )
    names = (source.hub_filename,) if source.hub_filename else _USUAL_NAMES
    path = fetch(
        source.hub_id, names, "and name the file: --set pretrained=FILE; or start from nothing: --set pretrained=false."
    )
    return WeightsFile(path, f"hf-hub:{source.hub_id}/{path.name}")


def _local(path: Path, wanted_by: str) -> WeightsFile:
    if not path.is_file():
        raise ModelError(f"The weights file {path} does not exist (wanted by {wanted_by}).")
    return WeightsFile(path, str(path))


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a weights file, in which no code is ever run.

    A ``state_dict`` or ``model`` around them is looked into, as timm does when it loads the file.

    Raises:
        ModelError: it is not a weights file, is damaged, or carries Python objects.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as stored:  # its header alone
                return {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118
        content: dict[str, Any] = _arrays(path) if path.suffix == ".npz" else load_state_dict(str(path))
        return {name: tuple(value.shape) for name, value in content.items() if hasattr(value, "shape")}
    except Exception as error:  # a damaged file makes its parser raise anything from EOFError to SafetensorError
        carries = "weights_only" in str(error) or "allow_pickle" in str(error)
        reason = "it carries Python objects, which could run code" if carries else f"{type(error).__name__}: {error}"
        raise ModelError(
            f"{path} is not a weights file that can be read safely ({' '.join(reason.split())[:200]}).\n"
            "Expected safetensors, a state dict saved by torch.save, or the .npz of a published ViT."
        ) from error


def _arrays(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}
