"""Weights in several files: the index that says which tensor lies in which (``model.safetensors.index.json``)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

from vitrine.errors import ModelError
from vitrine.io.files import file_sha256
from vitrine.io.untrusted_files import read_json
from vitrine.results import agree, count_of

SUFFIX = ".index.json"
_SINGLE = ("model.safetensors", "pytorch_model.bin")
WEIGHTS_NAMES = (*_SINGLE, *(f"{name}{SUFFIX}" for name in _SINGLE))
"""What folders and repositories call their weights, the preferred one first."""
_EXPECTED = 'Expected what save_pretrained writes: {"weight_map": {"name of a tensor": "name of a file beside it"}}.'


class _Index(TypedDict):
    weight_map: dict[str, str]


def is_index(path: Path) -> bool:
    """Whether a file is such an index, by its name."""
    return path.name.endswith(SUFFIX)


def read_index(path: Path) -> Mapping[str, str]:
    """The file of every tensor, by the tensor's name.

    Raises:
        ModelError: the file is no such index, or names a file that is not beside it by a plain name.
    """
    try:
        file_by_name = read_json(path, _Index)["weight_map"]
        if not file_by_name:
            raise ValueError("weight_map maps no names to files")
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{path} is not an index of weights ({type(error).__name__}: {reason}).\n{_EXPECTED}"
        ) from error
    for file in set(file_by_name.values()):
        if file in ("", ".", "..") or "/" in file or "\\" in file or not file.isprintable() or file.endswith(SUFFIX):
            raise ModelError(f"{path} names a file that is not beside it: {file!r}.\n{_EXPECTED}")
    return dict(file_by_name)


def part_paths(path: Path) -> list[Path]:
    """The files that an index names, in the order of their names.

    Raises:
        ModelError: see :func:`read_index`; or one of them is missing.
    """
    names = sorted(set(read_index(path).values()))
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        raise ModelError(
            f"{len(missing)} of the {count_of(len(names), 'file')} that {path} names "
            f"{agree(len(missing), 'is', 'are')} missing, {missing[0]} among them.\n"
            "Put all of them into its folder."
        )
    return [path.parent / name for name in names]


def weights_sha256(path: Path) -> str:
    """sha256 of a weights file, in hexadecimal; of an index, that of the hashes of the files that it names."""
    if is_index(path):
        lines = "".join(f"{weights_sha256(part)}  {part.name}\n" for part in part_paths(path))
        return hashlib.sha256(lines.encode()).hexdigest()
    return file_sha256(path)
