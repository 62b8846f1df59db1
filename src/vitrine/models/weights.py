"""Weights files: which file a model reference means, where it lies, and its hash."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from vitrine.errors import ModelError
from vitrine.models.hub import fetch
from vitrine.models.reference import ModelSource

_USUAL_NAMES = ("model.safetensors", "pytorch_model.bin")
_IN_PARTS = "model.safetensors.index.json"


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
    if source.file is not None:
        return _local(source.file, source.reference)
    if source.folder is not None:
        if (source.folder / _IN_PARTS).is_file():
            raise ModelError(
                f"The weights in {source.folder} are in several files, which are not put together here.\n"
                "Save them as one: model.save_pretrained(FOLDER, max_shard_size='100GB')."
            )
        there = [name for name in _USUAL_NAMES if (source.folder / name).is_file()]
        return _local(source.folder / (there or _USUAL_NAMES)[0], source.reference)
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
