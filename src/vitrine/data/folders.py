"""Folders of pictures: class folders, flat ``{label}_{id}`` files, split folders, and pictures without labels."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vitrine.data.decoding import FilePicture
from vitrine.data.listing import entries, is_folder, is_picture, left_aside, listed, printable, walk
from vitrine.data.samples import FiniteSplit, LabelledData, Sample, Split
from vitrine.errors import DataError

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What folders, manifest values and hub splits are called (lower case), and the split each one means."""

LAYOUTS = (
    "class folders (DATA/cat/1.jpg), files named {label}_{id} (DATA/cat_1.jpg), either of them below train/, "
    "val|valid|validation/ and test/, a manifest (.csv, .tsv, .parquet with columns path, label and optionally split) "
    "or a folder written by Hugging Face datasets"
)

_Classes = Mapping[str, Sequence[tuple[Path, str]]]  # class folder to (path, name) of its pictures
_FLAT_STEM = re.compile(r"(?P<label>.+)_(?P<id>[^_]+)")


class UnknownLayoutError(DataError):
    """The folder holds no labelled pictures in a known layout; it may hold pictures without labels.

    Attributes:
        found: what was found instead, in a few words.
        pictures: whether there are pictures at all.
    """

    def __init__(self, folder: Path, found: str, *, pictures: bool) -> None:
        super().__init__(f"{folder} has no known layout: it holds {found}.\nKnown are {LAYOUTS}.")
        self.found = found
        self.pictures = pictures


@dataclass(frozen=True)
class LabelledFile:
    """One picture file with the name of its class and of its split ("" where the data have none)."""

    name: str
    path: Path
    label: str
    split: str = ""


@dataclass
class _Aside:
    """What was seen and not used; becomes the notes."""

    extensions: Counter[str] = field(default_factory=Counter)
    sentences: list[str] = field(default_factory=list)

    def pictures(self, count: int, why: str) -> None:
        if count:
            self.sentences.append(f"{count:,} pictures {why} and were left aside.")

    def notes(self) -> tuple[str, ...]:
        return (*self.sentences, *left_aside(self.extensions))


def open_folder(folder: Path, reference: str) -> LabelledData:
    """Read a folder of labelled pictures in any of the layouts this module knows.

    Raises:
        UnknownLayoutError: no known layout; the message says what was found.
        DataError: a folder cannot be read.
    """
    aside = _Aside()
    parts = _split_folders(folder)
    if not parts:
        layout, files = _labelled(folder, "", "", aside)
        return labelled_data(reference, layout, files, aside.notes())
    others = [e.name for e in entries(folder) if is_folder(e) and e.name not in parts]
    if others:
        aside.sentences.append(f"Folders beside the splits were left aside: {listed(others)}.")
    layout, files = "", []
    for split in ("train", "validation", "test"):
        for name in (name for name, meaning in parts.items() if meaning == split):
            try:
                found_layout, found = _labelled(folder / name, f"{name}/", split, aside)
            except UnknownLayoutError as unknown:
                if split == "train":
                    raise
                aside.sentences.append(f"{name}/ was left aside: {unknown.found}.")
                continue
            if layout and found_layout != layout:
                aside.sentences.append(f"{name}/ was left aside: it holds {found_layout}, the others {layout}.")
                continue
            layout, files = found_layout, [*files, *found]
    if not files:
        raise UnknownLayoutError(
            folder, f"split folders without labelled pictures ({listed(list(parts))})", pictures=True
        )
    return labelled_data(reference, f"{layout} in split folders", files, aside.notes())


def labelled_data(
    reference: str, layout: str, files: Sequence[LabelledFile], notes: Iterable[str] = ()
) -> LabelledData:
    """Join files to :class:`LabelledData`; files without a split are called "train"."""
    labels = ordered_labels(class_name(file.label) for file in files)
    index = {label: position for position, label in enumerate(labels)}
    by_split: dict[str, list[Sample]] = {}
    for file in files:
        sample = Sample(file.name, FilePicture(file.path), index[class_name(file.label)])
        by_split.setdefault(file.split or "train", []).append(sample)
    splits: dict[str, Split] = {
        name: FiniteSplit(sorted(by_split[name], key=lambda sample: sample.name))
        for name in ("train", "validation", "test")
        if name in by_split
    }
    return LabelledData(reference, layout, labels, splits, tuple(notes))


def class_name(label: str) -> str:
    """A label as text; NFC, because macOS writes "é" in two code points and other systems in one."""
    return printable(unicodedata.normalize("NFC", label))


def ordered_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """Distinct class names in order: whole numbers by value when all of them are, else by code point."""
    distinct = set(labels)
    if all(re.fullmatch(r"-?[0-9]+", label) for label in distinct):
        return tuple(sorted(distinct, key=lambda label: (int(label), label)))
    return tuple(sorted(distinct))


def _split_folders(folder: Path) -> dict[str, str]:
    """Folder name to split, where there is a ``train`` folder or nothing but split folders; else empty."""
    folders = [entry.name for entry in entries(folder) if is_folder(entry)]
    parts = {name: SPLIT_NAMES[name.lower()] for name in folders if name.lower() in SPLIT_NAMES}
    twice = [split for split, n in Counter(parts.values()).items() if n > 1]
    if twice:
        both = listed([name for name, split in parts.items() if split == twice[0]])
        raise DataError(f"{folder} has two folders for the split {twice[0]}: {both}. Keep one of them.")
    return parts if "train" in parts.values() or len(parts) == len(folders) else {}


def _labelled(folder: Path, prefix: str, split: str, aside: _Aside) -> tuple[str, list[LabelledFile]]:
    """One folder in one of the two layouts; the one that holds more pictures where traces of both are there."""
    direct = [entry.name for entry in entries(folder) if not is_folder(entry) and is_picture(entry)]
    matches = {name: _FLAT_STEM.fullmatch(Path(name).stem) for name in direct}
    flat = {name: match["label"] for name, match in matches.items() if match}
    below = Counter[str]()
    classes = _class_folders(folder, prefix, below)
    largest = max(map(len, classes.values()), default=0)
    where = prefix or str(folder)
    if len(flat) >= max(largest, 1) and 2 * len(flat) > len(direct):
        if classes:
            aside.sentences.append(f"Folders beside the labelled files were left aside: {listed(list(classes))}.")
        aside.pictures(len(direct) - len(flat), f"in {where} are not named {{label}}_{{id}}")
        aside.extensions.update(_other_files(folder))
        return "flat files {label}_{id}", [
            LabelledFile(printable(prefix + name), folder / name, label, split) for name, label in flat.items()
        ]
    if not largest:
        raise UnknownLayoutError(folder, _found(direct, classes), pictures=bool(direct))
    _refuse_wrong_level(folder, prefix, classes)
    aside.pictures(len(direct), f"in {where} lie beside the class folders")
    aside.extensions.update(below + _other_files(folder))
    aside.sentences.extend(_class_notes(prefix, classes))
    return "class folders", [
        LabelledFile(name, path, label, split) for label, files in classes.items() for path, name in files
    ]


def _class_folders(folder: Path, prefix: str, aside: Counter[str]) -> _Classes:
    return {
        entry.name: list(walk(Path(entry.path), f"{prefix}{entry.name}/", aside, set()))
        for entry in entries(folder)
        if is_folder(entry)
    }


def _other_files(folder: Path) -> Counter[str]:
    return Counter(
        Path(entry.name).suffix.lower() for entry in entries(folder) if not is_folder(entry) and not is_picture(entry)
    )


def _refuse_wrong_level(folder: Path, prefix: str, classes: _Classes) -> None:
    """Refuse folders that would be read as classes but are another level of the tree.

    Raises:
        DataError: split folders lie below class folders, or everything lies below one folder's folders.
    """
    below = {
        (label, name.removeprefix(prefix).split("/")[1])
        for label, files in classes.items()
        for _, name in files
        if name.removeprefix(prefix).count("/") > 1
    }
    splits = sorted(f"{label}/{part}" for label, part in below if part.lower() in SPLIT_NAMES)
    filled = [label for label, files in classes.items() if files]
    if len(filled) == 1 and all(name.removeprefix(prefix).count("/") > 1 for _, name in classes[filled[0]]):
        raise DataError(f"All pictures in {folder} lie in folders below one folder. Give {folder / filled[0]} itself.")
    if splits:
        raise DataError(
            f"{folder} has splits below classes, {listed(splits)}: expected classes below splits. Move them."
        )


def _class_notes(prefix: str, classes: _Classes) -> list[str]:
    notes = []
    empty = [f"{prefix}{label}/" for label, files in classes.items() if not files]
    if empty:
        notes.append(f"Folders without a picture are no classes: {listed(empty)}.")
    deep = sum(name.removeprefix(prefix).count("/") > 1 for files in classes.values() for _, name in files)
    if deep:
        notes.append(f"{deep:,} pictures lie in folders below a class folder and count to that class.")
    alike = [label for label, files in classes.items() if files and label.lower().rstrip("0123456789_-") in SPLIT_NAMES]
    if alike:
        notes.append(f"Folders that sound like splits were read as classes: {listed(alike)}.")
    return notes


def _found(direct: Sequence[str], classes: _Classes) -> str:
    found = f"{len(direct):,} pictures such as {printable(direct[0])}" if direct else "no pictures"
    if classes:
        found += f" and {len(classes):,} folders without pictures such as {printable(next(iter(classes)))}/"
    return found
