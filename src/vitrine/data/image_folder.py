"""Folders of pictures: class folders, flat ``{label}_{id}`` files, split folders, and pictures without labels."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vitrine.data.decode import EXTENSIONS, FilePicture
from vitrine.data.ignored_files import FilesAside, is_ignored
from vitrine.data.mask_folders import are_mask_files, is_called_masks, leave_masks_aside
from vitrine.data.samples import Dataset, FiniteSplit, Sample, Split, control_character, printable
from vitrine.errors import DataError
from vitrine.results import agree, and_n_more, count_of


@dataclass(frozen=True)
class UnlabelledPictures:
    """The pictures below a folder, without labels.

    Attributes:
        samples: in the order of their names, which are relative to the folder.
        aside: what else lies there.
        notes: sentences on what was left aside and a person may have wanted: masks, and what is no data.
    """

    samples: tuple[Sample, ...]
    aside: FilesAside
    notes: tuple[str, ...] = ()


def read_pictures(folder: Path, masks: str = "auto") -> UnlabelledPictures:
    """Read the names of the pictures below a folder, or of the one file given; there may be none.

    Links are followed, and no folder is entered twice, so a loop of links ends. The pictures' own masks and what is no
    data (:mod:`vitrine.data.ignored_files`) are left aside.

    Args:
        folder: a folder, or one file (which is taken as a picture whatever it is called).
        masks: how folders called like masks are read, one of :data:`vitrine.data.mask_folders.CHOICES`.

    Raises:
        DataError: the path does not exist or cannot be read.
    """
    aside = FilesAside()
    if folder.is_file():
        return UnlabelledPictures((Sample(printable(folder.name), FilePicture(folder)),), aside)
    if not folder.exists():
        raise DataError(f"There is no file or folder {folder}. Give a picture or a folder of pictures.")
    files = list(walk(folder, "", aside, set()))
    if aside.has_mask_names:
        files = leave_masks_aside(files, aside, masks)
    notes = replace(aside, extensions=Counter()).notes(
        "Move it elsewhere to have it left aside.", "Give that folder itself to have them read as pictures."
    )
    return UnlabelledPictures(tuple(Sample(name, FilePicture(path)) for path, name in files), aside, notes)


def one_picture(picture: str | Path, verbs: str) -> Sample:
    """A file as a sample; a folder is refused.

    Args:
        picture: a file.
        verbs: what folders are for, in words, for the message.

    Raises:
        DataError: there is no such file, or it is a folder.
    """
    path = Path(picture).expanduser()
    if path.is_dir():
        raise DataError(f"{picture} is a folder: give one picture, or use {verbs}.")
    return list_pictures(path)[0]


def require_pictures(folder: Path) -> UnlabelledPictures:
    """The pictures below a folder, or the one file given, one at least; see :func:`read_pictures`.

    Raises:
        DataError: nothing there, or no picture in it.
    """
    pictures = read_pictures(folder)
    if not pictures.samples:
        notes = " ".join(pictures.aside.notes()) or "It is empty."
        raise DataError(f"There are no pictures in {folder}. {notes}\nKnown are {' '.join(EXTENSIONS)}.")
    return pictures


def list_pictures(folder: Path) -> tuple[Sample, ...]:
    """The samples of :func:`require_pictures`."""
    return require_pictures(folder).samples


def entries(folder: Path, aside: FilesAside | None = None) -> list[os.DirEntry[str]]:
    """Entries of a folder that may be data, ordered so that a walk is sorted by relative path.

    Raises:
        DataError: the folder cannot be read.
    """
    try:
        with os.scandir(folder) as scan:
            all_entries = list(scan)
    except OSError as error:
        raise DataError(f"The folder {folder} cannot be read: {error.strerror}.") from error
    visible_entries = [entry for entry in all_entries if not is_ignored(entry.name)]
    if aside is not None and len(visible_entries) < len(all_entries):
        for entry in all_entries:
            if is_ignored(entry.name):
                aside.ignore(printable(entry.name))
    return sorted(visible_entries, key=lambda entry: entry.name + "/" if is_folder(entry) else entry.name)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or a link to one; a link that leads nowhere or to itself is not."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_picture(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a picture by its extension. A broken link is one: it is reported as unreadable."""
    if os.path.splitext(entry.name)[1].lower() not in EXTENSIONS:  # noqa: PTH122 - called for every file
        return False
    try:
        return entry.is_file() or (entry.is_symlink() and not entry.is_dir())
    except OSError:
        return True


def walk(
    folder: Path, prefix: str, aside: FilesAside, visited_folders: set[tuple[int, int]]
) -> Iterator[tuple[Path, str]]:
    """Yield (path, name) of every picture below a folder.

    Args:
        folder: where to start.
        prefix: what every name starts with; the path relative to ``folder`` follows it.
        aside: counts what else lies there.
        visited_folders: device and inode of folders that were walked already and are not walked again.
    """
    status = folder.stat()
    if (status.st_dev, status.st_ino) in visited_folders:
        return
    visited_folders.add((status.st_dev, status.st_ino))
    for entry in entries(folder, aside):
        if is_folder(entry):
            aside.has_mask_names = aside.has_mask_names or is_called_masks(entry.name)
            yield from walk(Path(entry.path), f"{prefix}{entry.name}/", aside, visited_folders)
        elif is_picture(entry):
            yield Path(entry.path), printable(prefix + entry.name)
        else:
            aside.extensions[Path(entry.name).suffix.lower()] += 1


SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What folders, manifest values and hub splits are called (lower case), and the split each one means."""


def tables_in_splits(folder: Path, names: Sequence[str]) -> dict[Path, str]:
    """Files of some names in split folders, with their splits; the folder, which may be large, is not listed."""
    tables: dict[Path, str] = {}
    for split, meaning in SPLIT_NAMES.items():
        spelling = next(
            (each for each in (split, split.capitalize(), split.upper()) if (folder / each).is_dir()), split
        )
        tables |= {folder / spelling / name: meaning for name in names if (folder / spelling / name).is_file()}
    return tables


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
        contents: what it holds instead, in a few words.
        pictures: whether there are pictures at all.
    """

    def __init__(self, folder: Path, contents: str, *, pictures: bool) -> None:
        super().__init__(f"{folder} has no known layout: it holds {contents}.\nKnown are {LAYOUTS}.")
        self.contents = contents
        self.pictures = pictures


@dataclass(frozen=True)
class LabelledFile:
    """One picture file with the name of its class and of its split ("" where the data have none).

    Of multi-label data, ``label`` is a tuple of all its labels, which may be empty.
    """

    name: str
    path: Path
    label: str | tuple[str, ...]
    split: str = ""

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of all its labels."""
        return self.label if isinstance(self.label, tuple) else (self.label,)


@dataclass
class _SkippedFiles:
    """Files and pictures that are not used, for the notes; and how folders called like masks are read."""

    masks: str = "auto"
    aside: FilesAside = field(default_factory=FilesAside)
    sentences: list[str] = field(default_factory=list)

    def pictures(self, count: int, why: str) -> None:
        if count:
            self.sentences.append(f"{count_of(count, 'picture')} {why} and {agree(count, 'was', 'were')} left aside.")

    def notes(self) -> tuple[str, ...]:
        aside = "DATA?masks=aside leaves it aside."
        return (*self.sentences, *self.aside.notes(aside, "DATA?masks=pictures reads them as pictures."))


def open_folder(folder: Path, reference: str, folders: str = "", masks: str = "auto") -> Dataset:
    """Read a folder of labelled pictures in any of the layouts this module knows.

    Args:
        folder: the folder.
        reference: as a person wrote it, for messages.
        folders: what folders that are called like splits are: "classes" or "splits"; empty looks at what they hold.
        masks: how folders called like masks are read, one of :data:`vitrine.data.mask_folders.CHOICES`.

    Raises:
        UnknownLayoutError: no known layout; the message says what was found.
        DataError: a folder cannot be read.
    """
    skipped_files = _SkippedFiles(masks)
    parts, note = _split_folders(folder, folders)
    skipped_files.sentences += [note] if note else []
    if not parts:
        layout, files = _read_layout(folder, "", "", skipped_files)
        return labelled_data(reference, layout, files, skipped_files.notes())
    others = [e.name for e in entries(folder, skipped_files.aside) if is_folder(e) and e.name not in parts]
    if others:
        skipped_files.sentences.append(f"Folders beside the splits were left aside: {and_n_more(others)}.")
    layout, files = "", []
    for split in ("train", "validation", "test"):
        for name in (name for name, meaning in parts.items() if meaning == split):
            try:
                found_layout, layout_files = _read_layout(folder / name, f"{name}/", split, skipped_files)
            except UnknownLayoutError as unknown:
                if split == "train":
                    raise
                skipped_files.sentences.append(f"{name}/ was left aside: {unknown.contents}.")
                continue
            if layout and found_layout != layout:
                skipped_files.sentences.append(f"{name}/ was left aside: it holds {found_layout}, the others {layout}.")
                continue
            layout, files = found_layout, [*files, *layout_files]
    if not files:
        raise UnknownLayoutError(
            folder, f"split folders without labelled pictures ({and_n_more(list(parts))})", pictures=True
        )
    return labelled_data(reference, f"{layout} in split folders", files, skipped_files.notes())


def labelled_data(
    reference: str,
    layout: str,
    files: Sequence[LabelledFile],
    notes: Iterable[str] = (),
    order: Sequence[str] | None = None,
) -> Dataset:
    """A data set of labelled files; files without a split are called "train".

    Args:
        reference: as a person wrote it.
        layout: in a few words.
        files: all with one label, or all with a tuple of labels.
        notes: sentences.
        order: of the class names; None sorts those that there are.
    """
    labels = ordered_labels(class_name(each) for file in files for each in file.labels)
    if order is not None:
        labels = tuple(map(class_name, order))
    index = {label: position for position, label in enumerate(labels)}
    is_multi_label = any(isinstance(file.label, tuple) for file in files)
    by_split: dict[str, list[Sample]] = {}
    for file in files:
        indices = tuple(sorted(index[class_name(each)] for each in file.labels))
        picture = FilePicture(file.path)
        sample = (
            Sample(file.name, picture, labels=indices) if is_multi_label else Sample(file.name, picture, indices[0])
        )
        by_split.setdefault(file.split or "train", []).append(sample)
    splits: dict[str, Split] = {
        name: FiniteSplit(sorted(by_split[name], key=lambda sample: sample.name))
        for name in ("train", "validation", "test")
        if name in by_split
    }
    return Dataset(reference, layout, labels, splits, tuple(notes), is_multi_label)


def class_name(label: str) -> str:
    """A label as text; NFC, because macOS writes "é" in two code points and other systems in one.

    Raises:
        DataError: it holds a control character, such as a line break.
    """
    if control := control_character(label):
        raise DataError(f"The class {label!r:.80} holds {control}: class names are one a line. Rename it.")
    return printable(unicodedata.normalize("NFC", label))


def ordered_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """Distinct class names in order: whole numbers by value when all of them are, else by code point."""
    distinct = set(labels)
    if all(re.fullmatch(r"-?[0-9]+", label) for label in distinct):
        return tuple(sorted(distinct, key=lambda label: (int(label), label)))
    return tuple(sorted(distinct))


def _split_folders(folder: Path, reading: str) -> tuple[dict[str, str], str]:
    """Folder name to split, and a sentence where what the folders are was not clear; no names for class folders.

    A name decides nothing alone: a folder called ``train`` beside others that hold pictures as it does is a class.
    """
    names = [entry.name for entry in entries(folder) if is_folder(entry)]
    parts = {name: SPLIT_NAMES[name.lower()] for name in names if name.lower() in SPLIT_NAMES}
    if reading == "classes" or not parts:
        return {}, ""
    others = [name for name in names if name not in parts and not _are_masks(folder / name)]
    if reading != "splits":
        if others and "train" not in parts.values():
            return {}, ""
        is_alike, is_clear = _are_classes(folder, list(parts), others)
        folders_text = and_n_more([f"{name}/" for name in parts])
        if is_alike:
            why = "as the folders beside look alike"
            return {}, f"Read as classes, {why}: {folders_text}. DATA?folders=splits reads splits."
        note = "" if is_clear else f"Read as splits by their names: {folders_text}. DATA?folders=classes reads classes."
    else:
        note = ""
    twice = [split for split, n in Counter(parts.values()).items() if n > 1]
    if twice:
        both = and_n_more([name for name, split in parts.items() if split == twice[0]])
        raise DataError(f"{folder} has two folders for the split {twice[0]}: {both}. Keep one of them.")
    return parts, note


def _are_classes(folder: Path, parts: Sequence[str], others: Sequence[str]) -> tuple[bool, bool]:
    """Whether folders that are called like splits are classes, by what lies beside them; and whether that is clear."""
    kinds = {name: _kind_of_folder(folder / name) for name in (*parts, *others)}
    siblings = [kinds[name] for name in others if kinds[name] != "empty"]
    own = {kinds[name] for name in parts} - {"empty"}
    direct = {"pictures", "labelled pictures"}
    if not siblings or not own:
        return False, True
    if own == {"pictures"}:  # as splits they would have no labels
        return "pictures" in siblings or "labelled pictures" in siblings, True
    if own <= direct and len(parts) == 1 and sum(kind in direct for kind in siblings) > 1:
        return True, False
    return False, len(parts) > 1 or not own & set(siblings)


def _kind_of_folder(folder: Path) -> str:
    """What a folder holds: "folders" of pictures, "labelled pictures" of several labels, "pictures", or "empty"."""
    inner = entries(folder)
    if any(next(walk(Path(e.path), "", FilesAside(), set()), None) for e in inner if is_folder(e)):
        return "folders"
    stems = [Path(entry.name).stem for entry in inner if is_picture(entry)]
    labels = [match["label"] for stem in stems if (match := _FLAT_STEM.fullmatch(stem))]
    if not stems:
        return "empty"
    return "labelled pictures" if len(set(labels)) > 1 and 2 * len(labels) > len(stems) else "pictures"


def _read_layout(folder: Path, prefix: str, split: str, skipped_files: _SkippedFiles) -> tuple[str, list[LabelledFile]]:
    """One folder in one of the two layouts; the one that holds more pictures where traces of both are there."""
    direct = [e.name for e in entries(folder, skipped_files.aside) if not is_folder(e) and is_picture(e)]
    matches = {name: _FLAT_STEM.fullmatch(Path(name).stem) for name in direct}
    flat = {name: match["label"] for name, match in matches.items() if match}
    below = FilesAside()
    classes = _class_folders(folder, prefix, [(folder / name, prefix + name) for name in direct], below, skipped_files)
    largest = max(map(len, classes.values()), default=0)
    where = prefix or str(folder)
    if len(flat) >= max(largest, 1) and 2 * len(flat) > len(direct):
        if classes:
            folders = and_n_more(list(classes))
            skipped_files.sentences.append(f"Folders beside the labelled files were left aside: {folders}.")
        skipped_files.pictures(len(direct) - len(flat), f"in {where} are not named {{label}}_{{id}}")
        skipped_files.aside.extensions.update(_other_files(folder))
        return "flat files {label}_{id}", [
            LabelledFile(printable(prefix + name), folder / name, label, split) for name, label in flat.items()
        ]
    if not largest:
        raise UnknownLayoutError(folder, _describe_contents(direct, classes), pictures=bool(direct))
    _refuse_wrong_level(folder, prefix, classes)
    skipped_files.pictures(len(direct), f"in {where} lie beside the class folders")
    skipped_files.aside.extensions.update(below.extensions + _other_files(folder))
    skipped_files.aside.ignored_names.update(below.ignored_names)
    skipped_files.sentences.extend(_class_notes(prefix, classes))
    return "class folders", [
        LabelledFile(name, path, label, split) for label, files in classes.items() for path, name in files
    ]


def _class_folders(
    folder: Path, prefix: str, direct: Sequence[tuple[Path, str]], below: FilesAside, skipped_files: _SkippedFiles
) -> _Classes:
    """Folders with the pictures in them, without those of the pictures' own masks."""
    names = [entry.name for entry in entries(folder) if is_folder(entry)]
    by_folder = {name: list(walk(folder / name, f"{prefix}{name}/", below, set())) for name in names}
    if not below.has_mask_names and not any(map(is_called_masks, names)):
        return by_folder
    files = [*direct, *(file for files in by_folder.values() for file in files)]
    rest = {name for _, name in leave_masks_aside(files, skipped_files.aside, skipped_files.masks)}
    if len(rest) == len(files):
        return by_folder
    classes = {name: [file for file in files if file[1] in rest] for name, files in by_folder.items()}
    return {name: files for name, files in classes.items() if files or not by_folder[name]}


def _are_masks(folder: Path) -> bool:
    """Whether a folder beside splits is of masks, by its name and some of its files' headers."""
    return is_called_masks(folder.name) and are_mask_files(path for path, _ in walk(folder, "", FilesAside(), set()))


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
    nonempty = [label for label, files in classes.items() if files]
    if len(nonempty) == 1 and all(name.removeprefix(prefix).count("/") > 1 for _, name in classes[nonempty[0]]):
        raise DataError(
            f"All pictures in {folder} lie in folders below one folder. Give {folder / nonempty[0]} itself."
        )
    if splits:
        raise DataError(
            f"{folder} has splits below classes, {and_n_more(splits)}: expected classes below splits. Move them."
        )


def _class_notes(prefix: str, classes: _Classes) -> list[str]:
    notes = []
    empty = [f"{prefix}{label}/" for label, files in classes.items() if not files]
    if empty:
        notes.append(f"Folders without a picture are no classes: {and_n_more(empty)}.")
    deep = sum(name.removeprefix(prefix).count("/") > 1 for files in classes.values() for _, name in files)
    if deep:
        notes.append(
            f"{count_of(deep, 'picture')} in folders below a class folder {agree(deep, 'counts', 'count')} "
            f"to that class."
        )
    alike = [label for label, files in classes.items() if files and label.lower().rstrip("0123456789_-") in SPLIT_NAMES]
    if alike:
        notes.append(f"Folders that sound like splits were read as classes: {and_n_more(alike)}.")
    return notes


def _describe_contents(direct: Sequence[str], classes: _Classes) -> str:
    text = f"{count_of(len(direct), 'picture')} such as {printable(direct[0])}" if direct else "no pictures"
    if classes:
        text += f" and {count_of(len(classes), 'folder')} without pictures such as {printable(next(iter(classes)))}/"
    return text
