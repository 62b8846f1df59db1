"""Files of captions: COCO's, Karpathy's, Flickr8k's, tables and lines of JSON, each to pictures with their captions.

Sources of the formats: X. Chen and others (2015), Microsoft COCO captions: data collection and evaluation server;
A. Karpathy and L. Fei-Fei (2015), Deep visual-semantic alignments for generating image descriptions (the authors'
``dataset_*.json``); M. Hodosh and others (2013), Framing image description as a ranking task (Flickr8k).
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrine.data.decode import FilePicture, promised_format
from vitrine.data.image_folder import SPLIT_NAMES, entries, is_folder
from vitrine.data.manifest import PATH_COLUMNS, SPLIT_COLUMNS, has_columns
from vitrine.data.samples import clean_caption, printable
from vitrine.errors import DataError, PictureError, error_summary
from vitrine.results import and_n_more

_MAX_SAMPLED = 64  # pictures that are looked for, to tell in which folder they are


@dataclass(frozen=True)
class CaptionedFile:
    """One picture file with its captions, none of them empty, and its split ("" where the data have none)."""

    name: str
    path: Path
    captions: tuple[str, ...]
    split: str = ""


@dataclass(frozen=True)
class CaptionedFiles:
    """The captioned pictures of a folder or file, one at least.

    Attributes:
        layout: how the file was understood, in a few words.
        files: the pictures with their captions.
        notes: sentences on what was decided.
    """

    layout: str
    files: tuple[CaptionedFile, ...]
    notes: tuple[str, ...]


class CaptionCollector:
    """Collects pictures with their captions from a file of captions, and checks paths and splits.

    Attributes:
        root: the data folder, which no path leads out of.
        notes: sentences on what was decided.
    """

    def __init__(self, root: Path, source: Path, notes: Iterable[str] | None = None) -> None:
        """``source`` is the file that errors name."""
        self.root = root
        self._absolute = os.path.normpath(root.absolute())
        self.notes: list[str] = list(notes or ())
        self._source = source
        self._folder = ""
        self._captions: dict[str, list[str]] = {}
        self._splits: dict[str, str] = {}
        self._empty = 0

    def choose_folder(self, folders: Sequence[str], names: Sequence[object]) -> None:
        """Read later paths relative to that of some folders (below the root) which has most of the files ``names``."""
        step = max(1, len(names) // _MAX_SAMPLED)
        sampled_names = [name for name in names[::step] if isinstance(name, str) and name.strip()]

        def count_existing(folder: str) -> int:
            return sum(_is_file(Path(path)) for name in sampled_names if (path := self._path(folder, name)) is not None)

        best = max(folders, key=count_existing)  # the first of equals
        self._folder = best
        if best and best != folders[0]:
            self.notes.append(f"{self._source.name}: its pictures are in {best}/.")

    def add(self, path: object, captions: Iterable[object], split: str, where: str) -> None:
        """Add captions of a picture.

        Args:
            path: as the file has it.
            captions: texts; None and blank ones are counted and left out.
            split: "" where the data have none.
            where: what errors begin with.

        Raises:
            DataError: no usable path, a path out of the data folder, a caption that is no text, or another split than
                the picture had before.
        """
        if not isinstance(path, str) or not path.strip() or "\0" in path:
            raise DataError(f"{where}: expected the path of a picture; got {path!r:.60}.")
        name = self._inside(self._folder, path, where)
        if self._splits.setdefault(name, split) != split:
            splits = [each or "none" for each in (self._splits[name], split)]
            raise DataError(f"{where}: {printable(name)} is in two splits, {splits[0]} and {splits[1]}. Keep one.")
        texts = self._captions.setdefault(name, [])
        for caption in captions:
            if caption is not None and not isinstance(caption, str):
                raise DataError(f"{where}: expected a caption as text; got {caption!r:.60}.")
            text = clean_caption(caption or "")
            if text:
                texts.append(text)
            else:
                self._empty += 1

    def collect(self, layout: str) -> CaptionedFiles:
        """All pictures that exist and have a caption, and notes on those that do not.

        Raises:
            DataError: there is none.
        """
        names = [name for name, texts in self._captions.items() if texts]
        if not names:
            raise DataError(f"{self._source} has no caption for any picture. Is it a file of captions?")
        absent = [printable(name) for name in names if not _is_file(self.root / name)]
        if len(absent) == len(names):
            raise DataError(
                f"{self._source}: none of its {len(names):,} pictures exists; the first was looked for at "
                f"{self.root / absent[0]}.\nPaths are relative to {self.root}, or to a folder of pictures in it."
            )
        if absent:
            self.notes.append(
                f"{len(absent):,} of {len(names):,} pictures that are listed do not exist and were left out: "
                f"{and_n_more(absent, 3)}."
            )
        if self._empty:
            self.notes.append(f"{self._empty:,} captions are empty and were left out.")
        without = [printable(name) for name, texts in self._captions.items() if not texts]
        if without:
            self.notes.append(f"{len(without):,} pictures have no caption and were left out: {and_n_more(without, 3)}.")
        absent_names = set(absent)
        files = tuple(
            CaptionedFile(name_, self.root / name, tuple(self._captions[name]), self._splits[name])
            for name in names
            if (name_ := printable(name)) not in absent_names
        )
        return CaptionedFiles(layout, files, tuple(self.notes))

    def _inside(self, folder: str, path_text: str, where: str) -> str:
        """A path as relative to the root, with slashes.

        Raises:
            DataError: it leads out of the root. Links within the root are the person's own, and are followed.
        """
        path = self._path(folder, path_text)
        if path is None:
            raise DataError(
                f"{where}: the picture {path_text!r:.80} is not in the data folder, {self.root}.\n"
                "Put it there, and give its path relative to that folder."
            )
        return path[len(self._absolute) :].replace(os.sep, "/").lstrip("/")

    def _path(self, folder: str, path_text: str) -> str | None:
        """An absolute path without dots; None where it is not below the root."""
        plain, root = path_text.strip(), self._absolute.rstrip(os.sep) + os.sep
        path = os.path.normpath(os.path.join(self._absolute, folder, plain.replace("\\", "/")))  # noqa: PTH118
        if not path.startswith(root):
            return None
        if "\\" in plain:  # written on Windows, unless a file has such a name
            as_written = os.path.normpath(os.path.join(self._absolute, folder, plain))  # noqa: PTH118
            if as_written.startswith(root) and _is_file(Path(as_written)):
                return as_written
        return path


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or that no file system can have
        return False


CAPTION_COLUMNS = ("caption", "captions", "text", "sentence", "sentences", "comment", "description")
"""Column names that are understood, in order of preference; case does not matter."""

_LONGEST_LINE = 10_000_000  # characters

_Row = tuple[int, Mapping[str, Any]]  # line in the file, and the cells by column


def read_table(collector: CaptionCollector, file: Path) -> CaptionedFiles:
    """Read ``.csv`` (comma, semicolon, tab or bar), ``.tsv`` or ``.jsonl``.

    In JSON a caption may be a text, a list of texts, or a list of objects with a "text": written scenes have those.

    Raises:
        DataError: see :func:`vitrine.data.captions.files.read_captions`.
    """
    reader = _read_json_lines if file.suffix.lower() == ".jsonl" else _read_delimited
    columns_by_header: dict[tuple[str, ...], tuple[str, str, str | None]] = {}
    for number, row in _read_rows(file, reader):
        where = f"{file}, line {number}"
        keys = tuple(row)
        if keys not in columns_by_header:
            columns_by_header[keys] = _columns(keys, where)
        path, caption, split = columns_by_header[keys]
        collector.add(
            row[path], caption_texts(row[caption], where), parse_split(row[split], where) if split else "", where
        )
    first = next(iter(columns_by_header), ())
    if {"mask", "objects", "file"} <= set(first):
        return collector.collect("written scenes")
    used = [column for columns in [*columns_by_header.values()][:1] for column in columns if column]
    rest = [column for column in first if column not in used]
    collector.notes.append(f"Columns used: {', '.join(used)}" + (f"; not used: {and_n_more(rest)}." if rest else "."))
    return collector.collect(f"captions in {file.suffix.lower()[1:]}")


def has_captions(file: Path) -> bool:
    """Whether the first row of a table names a picture and a caption."""
    reader = _read_json_lines if file.suffix.lower() == ".jsonl" else _read_delimited
    try:
        _columns(tuple(next(_read_rows(file, reader))[1]), str(file))
    except (DataError, StopIteration):
        return False
    return True


def _columns(keys: tuple[str, ...], where: str) -> tuple[str, str, str | None]:
    """Which columns are path, caption and split."""
    columns = {column.lower(): column for column in reversed(keys)}
    path, caption, split = (
        next((columns[name] for name in usual if name in columns), None)
        for usual in (PATH_COLUMNS, CAPTION_COLUMNS, SPLIT_COLUMNS)
    )
    if path is None or caption is None:
        raise DataError(
            f"{where}: expected columns such as path and caption (and optionally split); "
            f"it has {and_n_more(keys, 12)}.\nUnderstood are {', '.join((*PATH_COLUMNS, *CAPTION_COLUMNS))}."
        )
    return path, caption, split


def _read_rows(file: Path, reader: Callable[[Path], Iterator[_Row]]) -> Iterator[_Row]:
    try:
        yield from reader(file)
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise DataError(f"{file} cannot be read as captions: {error_summary(error, 160)}.") from error


def _read_delimited(file: Path) -> Iterator[_Row]:
    with file.open(encoding="utf-8-sig", newline="") as stream:
        header = stream.readline(_LONGEST_LINE)
        stream.seek(0)
        reader = csv.reader(stream, delimiter=max(",;\t|", key=header.count), strict=True)
        columns = [cell.strip() for cell in next(reader, [])]
        for cells in reader:
            if len(cells) > len(columns):
                raise ValueError(
                    f"line {reader.line_num} has {len(cells)} cells, the header {len(columns)}: put captions in quotes"
                )
            if cells:
                yield reader.line_num, dict.fromkeys(columns, "") | dict(zip(columns, cells, strict=False))


def _read_json_lines(file: Path) -> Iterator[_Row]:
    for number, line in read_lines(file):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"line {number}: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is not a JSON object")
            yield number, row


def read_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file as (number from 1, text).

    Raises:
        DataError: the file cannot be read as text, or a line is too long.
    """
    try:
        with file.open(encoding="utf-8-sig") as stream:
            number = 0
            while line := stream.readline(_LONGEST_LINE + 1):
                number += 1
                if len(line) > _LONGEST_LINE:
                    raise DataError(f"{file}, line {number} has more than {_LONGEST_LINE:,} characters.")
                yield number, line
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read as text: {error_summary(error, 160)}.") from error


def caption_texts(value: object, where: str) -> list[object]:
    """Captions as they are written: one text, a list of texts, or of objects with a text."""
    if not isinstance(value, list):
        return [value]
    return [_text_of(each, where) if isinstance(each, dict) else each for each in value]


def _text_of(sentence: dict[str, Any], where: str) -> object:
    for key in ("text", "raw", "caption"):
        if key in sentence:
            text: object = sentence[key]
            return text
    raise DataError(f"{where}: a caption has neither text nor raw; it has {and_n_more(list(sentence), 8)}.")


def parse_split(value: object, where: str, split_names: Mapping[str, str] = SPLIT_NAMES) -> str:
    """The split that a word in a file means, "" where there is no word.

    Raises:
        DataError: another word, or no word.
    """
    if value is None or value == "":
        return ""
    split = split_names.get(value.strip().lower()) if isinstance(value, str) else None
    if split is None:
        raise DataError(f"{where}: the split {value!r:.60} is none of {', '.join(split_names)}.")
    return split


__all__ = ["LAYOUTS", "CaptionedFile", "CaptionedFiles", "is_captioned", "read_captions"]

LAYOUTS = (
    "annotations/captions_*.json with a folder of pictures for each (COCO), dataset*.json (Karpathy's), captions.txt "
    "with a folder of pictures (Flickr8k), captions or metadata as .csv, .tsv or .jsonl with path, caption and "
    "optionally split, and written scenes"
)

_TABLES = tuple(f"{stem}{ending}" for stem in ("captions", "metadata") for ending in (".jsonl", ".csv", ".tsv"))
_KARPATHY_SPLITS = SPLIT_NAMES | {"restval": "train"}  # COCO's validation pictures that he trains on
_NOT_KARPATHY = ("dataset_dict.json", "dataset_info.json")  # of Hugging Face datasets


def read_captions(path: Path) -> CaptionedFiles:
    """Read a folder of captioned pictures, or one file of captions; every picture that is named has a caption.

    Raises:
        DataError: nothing there, no known layout, a file that cannot be read, contradictory entries, a path that
            leads out of the data folder, or no picture that exists and has a caption.
    """
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise DataError(
            f"There is no file or folder {path}. Give a folder or a file of captions, or scenes:new.\n"
            f"Known are {LAYOUTS}."
        )
    return _read_files(path.parent, [path])


def is_captioned(path: Path) -> bool:
    """Whether a folder has, or a file is, captions in a known layout; a table that has classes too counts as labelled.

    Raises:
        DataError: a file that may be Karpathy's cannot be read.
    """
    choices = [[path]] if path.is_file() else _choices(path) if path.is_dir() else []
    if not choices:
        return False
    first = choices[0][0]
    if first.suffix.lower() in (".csv", ".tsv", ".jsonl"):
        return has_captions(first) and not has_columns(first)
    if first.suffix.lower() == ".json" and not first.name.startswith("captions_"):
        return path.is_file() or _is_karpathy(_document(first))  # other things are called dataset*.json too
    return first.suffix.lower() in (".json", ".txt")


def _choices(folder: Path) -> list[list[Path]]:
    """Groups of caption files in a folder, each of one kind, in order of preference."""
    annotations = sorted([*(folder / "annotations").glob("captions_*.json"), *folder.glob("captions_*.json")])
    splits = [path for path in sorted(folder.glob("dataset*.json")) if path.name not in _NOT_KARPATHY]
    others = [folder / name for name in (*_TABLES, "captions.txt") if (folder / name).is_file()]
    return [group for group in (annotations, *([path] for path in (*splits, *others))) if group]


def _read_folder(folder: Path) -> CaptionedFiles:
    choices = _choices(folder)
    if not choices:
        raise DataError(f"{folder} has no captions in a known layout.\nKnown are {LAYOUTS}.")
    aside = [path.name for group in choices[1:] for path in group]
    notes = [f"Not used: {and_n_more(aside)}. Give such a file itself to read it."] if aside else []
    return _read_files(folder, choices[0], notes)


def _read_files(folder: Path, files: list[Path], notes: list[str] | None = None) -> CaptionedFiles:
    """The pictures of caption files of one kind."""
    ending = files[0].suffix.lower()
    if ending == ".json":
        documents = [(file, _document(file)) for file in files]
        root = folder.parent if folder.name == "annotations" else folder
        collector = CaptionCollector(root, files[0], notes)
        karpathy = [_is_karpathy(document) for _, document in documents]
        if all(karpathy) and len(documents) == 1:
            return _read_karpathy(collector, *documents[0])
        return _read_coco(collector, documents)
    collector = CaptionCollector(folder, files[0], notes)
    if ending == ".txt":
        return _read_flickr8k(collector, files[0])
    if ending not in (".csv", ".tsv", ".jsonl"):
        raise DataError(f"{files[0]} is no file of captions.\nKnown are {LAYOUTS}.")
    return read_table(collector, files[0])


def _document(file: Path) -> Any:
    try:
        return json.loads(FilePicture(file).read_bytes())
    except (PictureError, ValueError, RecursionError, MemoryError) as error:
        reason = error_summary(error, 120)
        raise DataError(f"{file} cannot be read as captions: {reason}.") from error


def _objects(document: Any, key: str, file: Path) -> list[dict[str, Any]]:
    entries = document.get(key) if isinstance(document, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(f"{file} is no file of captions: it has no list of objects called {key}.\nKnown are {LAYOUTS}.")
    return entries


# --- COCO


def _read_coco(collector: CaptionCollector, documents: list[tuple[Path, Any]]) -> CaptionedFiles:
    for file, document in documents:
        names = _names_by_id(_objects(document, "images", file), file)
        captions: dict[str, list[object]] = {number: [] for number in names}
        orphans = 0
        for entry in _objects(document, "annotations", file):
            number = str(entry.get("image_id"))
            if number in captions:
                captions[number].append(entry.get("caption"))
            else:
                orphans += 1
        if orphans:
            collector.notes.append(f"{file.name}: {orphans:,} captions are of pictures that it does not list.")
        part = file.stem.removeprefix("captions_")
        split = SPLIT_NAMES.get(part.rstrip("0123456789_-").lower(), "")
        if not split:
            collector.notes.append(f"{file.name} names no split: its pictures count as training pictures.")
        collector.choose_folder([part, f"images/{part}", "", "images"], list(names.values()))
        for number, name in names.items():
            collector.add(name, captions[number], split, f"{file}, image {number:.40}")
    return collector.collect("COCO captions")


def _names_by_id(images: list[dict[str, Any]], file: Path) -> dict[str, object]:
    names: dict[str, object] = {}
    for image in images:
        number, name = image.get("id"), image.get("file_name")
        if number is None:
            raise DataError(f"{file}: the image {name!r:.60} has no id, so that its captions cannot be found.")
        if names.setdefault(str(number), name) != name:
            raise DataError(f"{file}: two images have the id {number!r:.40}. Keep one of them.")
    return names


# --- Karpathy's splits


def _is_karpathy(document: Any) -> bool:
    images = document.get("images") if isinstance(document, dict) else None
    return isinstance(images, list) and any(isinstance(image, dict) and "sentences" in image for image in images[:1])


def _read_karpathy(collector: CaptionCollector, file: Path, document: Any) -> CaptionedFiles:
    images = _objects(document, "images", file)
    names = [_join_path(image.get("filepath"), image.get("filename")) for image in images]
    collector.choose_folder(["", *_folders(collector.root)], names)
    rest = sum(image.get("split") == "restval" for image in images)
    if rest:
        collector.notes.append(f"{rest:,} pictures of restval count as training pictures.")
    for index, (image, name) in enumerate(zip(images, names, strict=True)):
        where = f"{file}, image {index}"
        split = parse_split(image.get("split"), where, _KARPATHY_SPLITS)
        collector.add(name, caption_texts(image.get("sentences"), where), split, where)
    return collector.collect("Karpathy's splits")


def _join_path(folder: object, name: object) -> object:
    return f"{folder}/{name}" if isinstance(folder, str) and folder and isinstance(name, str) else name


# --- Flickr8k


def _read_flickr8k(collector: CaptionCollector, file: Path) -> CaptionedFiles:
    rows = [(number, *_picture_and_caption(line)) for number, line in read_lines(file) if line.strip()]
    if rows and not promised_format(rows[0][1]):  # the header
        _, first, second = rows.pop(0)
        if first.lower() not in PATH_COLUMNS or second.lower() not in CAPTION_COLUMNS:
            raise DataError(
                f"{file} does not begin with image,caption. Expected lines of a picture, a comma, a caption."
            )
    collector.choose_folder(["", *_folders(collector.root)], [name for _, name, _ in rows])
    for number, name, caption in rows:
        collector.add(name, [caption], "", f"{file}, line {number}")
    return collector.collect("Flickr8k captions")


def _picture_and_caption(line: str) -> tuple[str, str]:
    """A line on its own: a stray quotation mark in a caption must not swallow the lines after it."""
    name, _, caption = line.partition(",")
    caption = caption.strip()
    if len(caption) > 1 and caption.startswith('"') and caption.endswith('"'):
        caption = caption[1:-1].replace('""', '"')
    return name.strip(), caption


def _folders(root: Path) -> list[str]:
    return [entry.name for entry in entries(root) if is_folder(entry)]
