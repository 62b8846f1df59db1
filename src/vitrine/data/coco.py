"""COCO's instances as labels: a picture has every category of which it shows an object.

Source of the format: T.-Y. Lin and others (2014), Microsoft COCO: common objects in context; https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vitrine.data.image_folder import SPLIT_NAMES, LabelledFile, labelled_data
from vitrine.data.samples import Dataset, printable
from vitrine.errors import DataError, error_summary
from vitrine.io.untrusted_files import is_regular_file
from vitrine.results import agree, and_n_more, count_of

_PREFIX = "instances_"
_MAX_SAMPLED = 64  # pictures that are looked for, to tell in which folder they are


def instance_files(folder: Path) -> list[Path]:
    """The files ``instances_*.json`` in a folder's ``annotations/``, or in the folder itself."""
    return sorted([*(folder / "annotations").glob(f"{_PREFIX}*.json"), *folder.glob(f"{_PREFIX}*.json")])


def is_instances(file: Path) -> bool:
    """Whether a file is called like COCO's instances, or has their three lists."""
    if file.suffix.lower() != ".json":
        return False
    if file.name.startswith(_PREFIX):
        return True
    try:
        document = json.loads(file.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(document, dict) and {"images", "annotations", "categories"} <= set(document)


def open_instances(files: Sequence[Path], reference: str) -> Dataset:
    """Read files of instances as multi-label data, a split a file; labels are the categories in the files' own order.

    Pictures that a file lists without any instance have no label, and count. Crowds count as their category.

    Args:
        files: of one folder; ``instances_train2017.json`` and the like name their split.
        reference: what the person wrote.

    Raises:
        DataError: a file cannot be read, is not of this format, names a split twice or categories otherwise than
            another, or no picture exists.
    """
    root = files[0].parent.parent if files[0].parent.name == "annotations" else files[0].parent
    notes = ["Multi-label: a picture has every category of which it shows an object."]
    categories: dict[str, None] = {}
    pictures: dict[str, LabelledFile] = {}
    for file in files:
        document = _document(file)
        names = {str(entry.get("id")): _category(entry, file) for entry in _objects(document, "categories", file)}
        categories |= dict.fromkeys(names.values())
        part = file.stem.removeprefix(_PREFIX)
        split = SPLIT_NAMES.get(part.rstrip("0123456789_-").lower(), "")
        if not split:
            notes.append(f"{file.name} names no split: its pictures count as training pictures.")
        for picture in _read(document, names, root, part, split, file):
            before = pictures.setdefault(picture.name, picture)
            if before is not picture:
                raise DataError(f"{file}: {picture.name} is listed twice, or in two files. Keep one of them.")
    absent = [name for name, picture in pictures.items() if not is_regular_file(picture.path)]
    if len(absent) == len(pictures):
        where = pictures[absent[0]].path if absent else root
        raise DataError(
            f"{files[0]}: none of its {count_of(len(pictures), 'picture')} exists; the first was looked for "
            f"at {where}.\n"
            f"Put the pictures into {root}, or into a folder in it that is called like the file ({part})."
        )
    if absent:
        notes.append(
            f"{len(absent):,} of {count_of(len(pictures), 'picture')} that are listed "
            f"{agree(len(absent), 'does not exist and was', 'do not exist and were')} left out: "
            f"{and_n_more(absent, 3)}."
        )
        for name in absent:
            del pictures[name]
    return labelled_data(reference, "COCO instances, multi-label", tuple(pictures.values()), notes, tuple(categories))


def _read(document: Any, names: Mapping[str, str], root: Path, part: str, split: str, file: Path) -> list[LabelledFile]:
    labels: dict[str, dict[str, None]] = defaultdict(dict)
    for number, entry in enumerate(_objects(document, "annotations", file)):
        category = str(entry.get("category_id"))
        if category not in names:
            raise DataError(f"{file}, annotation {number}: there is no category {category:.40}.")
        labels[str(entry.get("image_id"))][names[category]] = None
    images = _objects(document, "images", file)
    folder = _choose_folder(root, part, [image.get("file_name") for image in images])
    files = []
    for image in images:
        name = image.get("file_name")
        path = root / folder / name if isinstance(name, str) and name.strip() and "\0" not in name else root
        if path == root or not path.is_relative_to(root) or ".." in path.relative_to(root).parts:
            raise DataError(f"{file}: the image {image.get('id')!s:.40} has no path below {root}: {name!r:.60}.")
        files.append(
            LabelledFile(printable(path.relative_to(root).as_posix()), path, tuple(labels[str(image.get("id"))]), split)
        )
    return files


def _choose_folder(root: Path, part: str, names: Sequence[object]) -> str:
    """Of the folders where pictures usually lie, the one that has most of some of them; the first of equals."""
    sampled_names = [name for name in names[:: max(1, len(names) // _MAX_SAMPLED)] if isinstance(name, str)]
    folders = (part, f"images/{part}", "", "images")
    return max(folders, key=lambda folder: sum(is_regular_file(root / folder / name) for name in sampled_names))


def _category(entry: Mapping[str, Any], file: Path) -> str:
    name = entry.get("name")
    if not isinstance(name, str) or not name.strip():
        raise DataError(f"{file}: a category has no name: {name!r:.60}.")
    return name


def _document(file: Path) -> Any:
    try:
        return json.loads(file.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise DataError(f"{file} cannot be read as COCO instances: {error_summary(error, 120)}.") from error


def _objects(document: Any, key: str, file: Path) -> list[dict[str, Any]]:
    entries = document.get(key) if isinstance(document, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(f"{file} is no file of COCO instances: it has no list of objects called {key}.")
    return entries
