"""What tells a folder or file of Hugging Face ``datasets`` from others, found without importing that library."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow
import pyarrow.parquet

from vitrine.data.folders import SPLIT_NAMES


def is_saved(folder: Path) -> bool:
    """Whether ``save_to_disk`` of Hugging Face datasets wrote this folder."""
    return (folder / "dataset_dict.json").is_file() or (
        (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    )


def picture_tables(folder: Path) -> dict[str, list[str]]:
    """Parquet files with pictures in them, by split: in a folder, in its ``data/`` and in its split folders."""
    found: dict[str, list[str]] = {}
    for path in sorted((*folder.glob("*.parquet"), *folder.glob("*/*.parquet"))):
        if holds_pictures(path):
            start = re.match(r"[A-Za-z]+", path.name)
            names = (start[0].lower() if start else "", path.parent.name.lower())
            split = next((SPLIT_NAMES[name] for name in names if name in SPLIT_NAMES), "train")
            found.setdefault(split, []).append(str(path))
    return found


def holds_pictures(table: Path) -> bool:
    """Whether a parquet file has a column of encoded pictures, as Hugging Face datasets writes them."""
    try:
        schema = pyarrow.parquet.read_schema(table)
    except (OSError, pyarrow.ArrowException):
        return False
    return any(is_picture_struct(field.type) for field in schema)


def is_picture_struct(kind: pyarrow.DataType) -> bool:
    """Whether an Arrow type is that of datasets' image columns: the encoded bytes, or the path of a file."""
    return bool(pyarrow.types.is_struct(kind)) and {field.name for field in kind} == {"bytes", "path"}
