"""Files of captions: COCO's, Karpathy's, Flickr's, LAVIS's, tables and lines of JSON, to pictures with their captions.

Sources of the formats: X. Chen and others (2015), Microsoft COCO captions: data collection and evaluation server;
A. Karpathy and L. Fei-Fei (2015), Deep visual-semantic alignments for generating image descriptions (the authors'
``dataset_*.json``); M. Hodosh and others (2013), Framing image description as a ranking task (Flickr8k); P. Young and
others (2014), From image descriptions to visual denotations (Flickr30k); D. Li and others (2022), LAVIS, whose lists
BLIP was trained on.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vitrine.data.decode import FilePicture, promised_format
from vitrine.data.image_folder import SPLIT_NAMES, entries, is_folder, tables_in_splits
from vitrine.data.manifest import PATH_COLUMNS, SPLIT_COLUMNS, has_columns
from vitrine.data.picture_finder import PictureFinder
from vitrine.data.samples import clean_caption, printable
from vitrine.data.table_files import Row, read_rows
from vitrine.data.text_files import EncodingError, read_lines, read_text
from vitrine.errors import DataError, PictureError, error_summary
from vitrine.io.untrusted_files import is_regular_file
from vitrine.results import agree, and_n_more, count_of

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
        absent: pictures with captions that do not exist, by name.
        without_captions: pictures that the file lists without a caption, by name.
    """

    layout: str
    files: tuple[CaptionedFile, ...]
    notes: tuple[str, ...]
    absent: tuple[str, ...] = ()
    without_captions: tuple[str, ...] = ()


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
        self._finder = PictureFinder(root, source)

    def choose_folder(self, folders: Sequence[str], names: Sequence[object]) -> None:
        """Read later paths relative to that of some folders (below the root) which has most of the files ``names``."""
        step = max(1, len(names) // _MAX_SAMPLED)
        sampled_names = [name for name in names[::step] if isinstance(name, str) and name.strip()]

        def count_existing(folder: str) -> int:
            return sum(
                is_regular_file(Path(path)) for name in sampled_names if (path := self._path(folder, name)) is not None
            )

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

    def collect(self, layout: str, *, search: bool = False) -> CaptionedFiles:
        """All pictures that exist and have a caption, and notes on those that do not.

        Args:
            layout: how the file was understood.
            search: look for pictures that are named without their ending or their folder.

        Raises:
            DataError: there is none, or several pictures can be meant by a name.
        """
        if not any(self._captions.values()):
            raise DataError(f"{self._source} has no caption for any picture. Is it a file of captions?")
        if search:
            self._search()
        names = [name for name, texts in self._captions.items() if texts]
        absent = [printable(name) for name in names if not is_regular_file(self.root / name)]
        if len(absent) == len(names):
            raise DataError(
                f"{self._source}: none of its {count_of(len(names), 'picture')} exists; the first was looked for at "
                f"{self.root / absent[0]}.\nPaths are relative to {self.root}, or to a folder of pictures in it."
            )
        without = [printable(name) for name, texts in self._captions.items() if not texts]
        self._note_missing(absent, without, len(names))
        absent_names = set(absent)
        files = tuple(
            CaptionedFile(name_, self.root / name, tuple(self._captions[name]), self._splits[name])
            for name in names
            if (name_ := printable(name)) not in absent_names
        )
        return CaptionedFiles(layout, files, tuple(self.notes), tuple(absent), tuple(without))

    def _note_missing(self, absent: Sequence[str], without: Sequence[str], total: int) -> None:
        if absent:
            self.notes.append(
                f"{len(absent):,} of {count_of(total, 'picture')} that are listed "
                f"{agree(len(absent), 'does not exist and was', 'do not exist and were')} left out: "
                f"{and_n_more(absent, 3)}."
            )
        if self._empty:
            self.notes.append(
                f"{count_of(self._empty, 'caption')} {agree(self._empty, 'was', 'were')} left out, as "
                f"nothing is in {agree(self._empty, 'it', 'them')}."
            )
        if without:
            self.notes.append(
                f"{count_of(len(without), 'picture')} without a caption {agree(len(without), 'was', 'were')} "
                f"left out: {and_n_more(without, 3)}."
            )

    def _search(self) -> None:
        """Give pictures that are not where they are said to be the path at which they are."""
        for name in [name for name in self._captions if not is_regular_file(self.root / name)]:
            place = self._finder.find(name, str(self._source), self._splits[name])
            if place is None:
                continue
            texts, split = self._captions.pop(name), self._splits.pop(name)
            if self._splits.setdefault(place, split) != split:
                raise DataError(f"{self._source}: {printable(place)} is in two splits. Keep one.")
            self._captions.setdefault(place, []).extend(texts)
        if self._finder.places:
            self.notes.append(self._finder.note())

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
            if as_written.startswith(root) and is_regular_file(Path(as_written)):
                return as_written
        return path


CAPTION_COLUMNS = ("caption", "captions", "text", "sentence", "sentences", "comment", "description", "title")
"""Column names that are understood, in order of preference; case does not matter."""


def read_table(collector: CaptionCollector, file: Path, options: Mapping[str, str] | None = None) -> CaptionedFiles:
    """Read ``.csv`` (comma, semicolon, tab or bar), ``.tsv``, ``.jsonl`` or a ``.json`` list of objects.

    In JSON a caption may be a text, a list of texts, or a list of objects with a "text": written scenes have those.

    Raises:
        DataError: see :func:`vitrine.data.captions.files.read_captions`.
    """
    options = options or {}
    columns_by_header: dict[tuple[str, ...], tuple[str, str, str | None]] = {}
    for number, row in _read_rows(file, options.get("encoding", "")):
        where = f"{file}, line {number}"
        keys = tuple(row)
        if keys not in columns_by_header:
            columns_by_header[keys] = _columns(keys, where, options)
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
    return collector.collect(f"captions in {file.suffix.lower()[1:]}", search=True)


def has_captions(file: Path, options: Mapping[str, str] | None = None) -> bool:
    """Whether the first row of a table names a picture and a caption; of one in another encoding, its columns do."""
    options = options or {}
    if _has_token_lines(file, options):
        return True
    try:
        _columns(tuple(next(_read_rows(file, options.get("encoding", "")))[1]), str(file), options)
    except EncodingError:
        return not options.get("encoding") and has_captions(file, {**options, "encoding": "latin-1"})
    except (DataError, StopIteration):
        return False
    return True


def _columns(keys: tuple[str, ...], where: str, options: Mapping[str, str]) -> tuple[str, str, str | None]:
    """Which columns are path, caption and split."""
    columns = {column.lower(): column for column in reversed(keys)}
    missing = [each for option in ("image", "caption", "split") if (each := options.get(option)) and each not in keys]
    if missing:
        raise DataError(f"{where}: there is no column {missing[0]!r}; it has {and_n_more(keys, 12)}.")
    path, caption, split = (
        options.get(option) or next((columns[name] for name in usual if name in columns), None)
        for option, usual in (("image", PATH_COLUMNS), ("caption", CAPTION_COLUMNS), ("split", SPLIT_COLUMNS))
    )
    if path is None or caption is None:
        raise DataError(
            f"{where}: expected columns such as path and caption (and optionally split); "
            f"it has {and_n_more(keys, 12)}.\n"
            "Rename them, or name them: 'DATA?image=COLUMN&caption=COLUMN'."
        )
    return path, caption, split


def _read_rows(file: Path, encoding: str) -> Iterator[Row]:
    try:
        yield from read_rows(file, encoding)
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise DataError(f"{file} cannot be read as captions: {error_summary(error, 160)}.") from error


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


__all__ = ["LAYOUTS", "OPTIONS", "CaptionedFile", "CaptionedFiles", "is_captioned", "read_captions"]

OPTIONS = ("image", "caption", "split", "encoding", "pictures")
"""Options that may follow a reference to captions: columns by name, a table's encoding, and the folder that its paths
begin at."""

LAYOUTS = (
    "annotations/captions_*.json with a folder of pictures for each (COCO), dataset*.json (Karpathy's), lists of "
    "{image, caption} in json (LAVIS), captions.txt or *.token.txt with a folder of pictures (Flickr8k), captions, "
    "results or metadata as .csv, .tsv or .jsonl with path, caption and optionally split, in the folder or beside it, "
    "and written scenes"
)

_TABLES = tuple(
    f"{stem}{ending}" for stem in ("captions", "metadata", "results") for ending in (".jsonl", ".csv", ".tsv")
)
_TEXTS = ("captions.txt", "*.token.txt", "*.token", "*[tT]ext*/*.token.txt")  # of Flickr8k and Flickr30k
_TABLE_ENDINGS = (".csv", ".tsv", ".jsonl")
_KARPATHY_SPLITS = SPLIT_NAMES | {"restval": "train"}  # COCO's validation pictures that he trains on
_NOT_KARPATHY = ("dataset_dict.json", "dataset_info.json")  # of Hugging Face datasets
_HEAD = 1 << 16  # bytes of a JSON file that are looked at, to see whether it is a list of captions


def read_captions(path: Path, options: Mapping[str, str] | None = None) -> CaptionedFiles:
    """Read a folder of captioned pictures, or one file of captions; every picture that is named has a caption.

    Args:
        path: the folder or file. For a folder without captions, those that lie beside it are read.
        options: see :data:`OPTIONS`.

    Raises:
        DataError: nothing there, no known layout, a file that cannot be read, contradictory entries, a path that
            leads out of the data folder, or no picture that exists and has a caption.
    """
    options = options or {}
    if path.is_dir():
        return _read_folder(path, options)
    if not path.is_file():
        raise DataError(
            f"There is no file or folder {path}. Give a folder or a file of captions, or scenes:new.\n"
            f"Known are {LAYOUTS}."
        )
    return _read_files(path.parent, [path], options)


def is_captioned(path: Path) -> bool:
    """Whether a folder has, or a file is, captions in a known layout; a table that has classes too counts as labelled.

    Raises:
        DataError: a file that may be Karpathy's cannot be read.
    """
    choices = [[path]] if path.is_file() else _choices(path) if path.is_dir() else []
    if not choices:
        return path.is_dir() and bool(_choices(path.absolute().parent)) and _has_captions_beside(path)
    first = choices[0][0]
    if first.suffix.lower() in _TABLE_ENDINGS:
        return has_captions(first) and not has_columns(first)
    if first.suffix.lower() == ".json":
        return _is_caption_list(first) or _is_caption_document(_document(first))  # others are called dataset*.json too
    return first.suffix.lower() in (".txt", ".token")


def _is_caption_document(document: Any) -> bool:
    annotations = document.get("annotations") if isinstance(document, dict) else None
    is_coco = isinstance(annotations, list) and isinstance(document.get("images"), list)
    return _is_karpathy(document) or _is_mapping(document) or (is_coco and _mentions_captions(annotations))


def _mentions_captions(annotations: Any) -> bool:
    return any(isinstance(entry, dict) and "caption" in entry for entry in annotations[:1])


def _has_captions_beside(folder: Path) -> bool:
    try:
        return bool(_read_folder(folder, {}).files)
    except DataError:
        return False


def _choices(folder: Path) -> list[list[Path]]:
    """Groups of caption files in a folder, each of one kind, in order of preference."""
    annotations = sorted([*(folder / "annotations").glob("captions_*.json"), *folder.glob("captions_*.json")])
    splits = [path for path in sorted(folder.glob("dataset*.json")) if path.name not in _NOT_KARPATHY]
    others = [*sorted((folder / "annotations").glob("*.json")), *sorted(folder.glob("*.json"))]
    lists = [path for path in others if path not in {*annotations, *splits} and _is_caption_list(path)]
    single_file = folder / "captions.json"
    if single_file.is_file() and single_file not in lists and _is_caption_document(_document(single_file)):
        annotations = annotations or [single_file]
    tables = [folder / name for name in _TABLES if (folder / name).is_file()]
    caption_tables = [path for path in tables if has_captions(path)]
    texts = [path for pattern in _TEXTS for path in sorted(folder.glob(pattern)) if path.is_file()]
    in_splits = [path for path in _tables_in_splits(folder) if has_captions(path)]
    single = [[path] for path in (*caption_tables, *texts)] + ([in_splits] if in_splits else [])
    groups = [group for group in (annotations, *([path] for path in splits), lists, *single) if group]
    return groups or [[path] for path in tables[:1]]  # whose columns an error names


def _tables_in_splits(folder: Path) -> list[Path]:
    """Tables among the pictures of split folders, as Hugging Face datasets has them."""
    return list(tables_in_splits(folder, _TABLES))


def _read_tables_in_splits(files: Sequence[Path], options: Mapping[str, str]) -> CaptionedFiles:
    """Tables in split folders as one: names from the folder above them, and the split that each one's folder means."""
    parts = []
    for file in files:
        captions, split = read_table(CaptionCollector(file.parent, file), file, options), file.parent.name
        prefix = f"{printable(split)}/"
        part = tuple(
            replace(each, name=prefix + each.name, split=each.split or SPLIT_NAMES[split.lower()])
            for each in captions.files
        )
        absent, without = ([prefix + name for name in names] for names in (captions.absent, captions.without_captions))
        parts.append(CaptionedFiles(captions.layout, part, captions.notes, tuple(absent), tuple(without)))
    return CaptionedFiles(
        f"{parts[0].layout} in split folders",
        tuple(file for part in parts for file in part.files),
        tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        tuple(name for part in parts for name in part.absent),
        tuple(name for part in parts for name in part.without_captions),
    )


def _is_caption_list(file: Path) -> bool:
    """Whether a JSON file begins as a list of objects with an image and a caption; only its beginning is read."""
    try:
        with file.open("rb") as stream:
            head = stream.read(_HEAD).decode("utf-8-sig", "replace")
    except OSError:
        return False
    match = re.match(r"\s*\[\s*\{[^{}]*", head)
    keys = set(re.findall(r'"(\w+)"\s*:', match[0])) if match else set()
    return bool(keys & set(PATH_COLUMNS)) and bool(keys & set(CAPTION_COLUMNS))


def _read_folder(folder: Path, options: Mapping[str, str]) -> CaptionedFiles:
    choices = _choices(folder)
    if not choices:
        return _read_beside(folder, options)
    aside = [path.name for group in choices[1:] for path in group]
    notes = [f"Not used: {and_n_more(aside)}. Give such a file itself to read it."] if aside else []
    return _read_files(folder, choices[0], options, notes)


def _read_beside(folder: Path, options: Mapping[str, str]) -> CaptionedFiles:
    """The pictures of a folder whose captions lie beside it, with names relative to it.

    Raises:
        DataError: there are none, or none of these pictures.
    """
    parent = folder.absolute().parent
    choices = _choices(parent)
    if not choices:
        raise DataError(f"{folder} has no captions in a known layout, nor has {parent}.\nKnown are {LAYOUTS}.")
    captions = _read_files(parent, choices[0], options)
    prefix = f"{printable(folder.absolute().name)}/"

    def below(names: Iterable[str]) -> tuple[str, ...]:
        return tuple(name.removeprefix(prefix) for name in names if name.startswith(prefix))

    files = tuple(replace(f, name=f.name.removeprefix(prefix)) for f in captions.files if f.name.startswith(prefix))
    names = and_n_more([path.name for path in choices[0]])
    if not files:
        raise DataError(
            f"{folder} has no captions in a known layout, and {names} beside it has none of its pictures.\n"
            f"Known are {LAYOUTS}."
        )
    notes = (f"The captions are in {names} beside {folder.name}/.", *captions.notes)
    if len(files) < len(captions.files):
        notes = (
            *notes,
            f"{count_of(len(captions.files) - len(files), 'picture')} of other folders there "
            f"{agree(len(captions.files) - len(files), 'was', 'were')} left aside.",
        )
    return CaptionedFiles(captions.layout, files, notes, below(captions.absent), below(captions.without_captions))


def _read_files(
    folder: Path, files: list[Path], options: Mapping[str, str], notes: list[str] | None = None
) -> CaptionedFiles:
    """The pictures of caption files of one kind."""
    ending = files[0].suffix.lower()
    root = folder.parent if folder.name == "annotations" and ending == ".json" else folder
    if options.get("pictures"):
        root = Path(os.path.normpath(root / options["pictures"]))
    if files[0].parent != folder and ending in _TABLE_ENDINGS:
        return _read_tables_in_splits(files, options)
    collector = CaptionCollector(root, files[0], notes)
    if ending == ".json":
        return _read_json(collector, files, options)
    if ending in (".txt", ".token") or _has_token_lines(files[0], options):
        return _read_lines_of_captions(collector, files[0], options)
    if ending not in _TABLE_ENDINGS:
        raise DataError(f"{files[0]} is no file of captions.\nKnown are {LAYOUTS}.")
    return read_table(collector, files[0], options)


def _read_json(collector: CaptionCollector, files: Sequence[Path], options: Mapping[str, str]) -> CaptionedFiles:
    documents = [(file, _document(file, options.get("encoding", ""))) for file in files]
    first = documents[0][1]
    if isinstance(first, list):
        return _read_lists(collector, documents)
    if len(documents) == 1 and _is_mapping(first):
        return _read_lists(collector, [(files[0], [{"image": name, "caption": first[name]} for name in first])])
    if len(documents) == 1 and _is_karpathy(first):
        return _read_karpathy(collector, *documents[0])
    return _read_coco(collector, documents)


def _document(file: Path, encoding: str = "") -> Any:
    try:
        data = FilePicture(file).read_bytes()
        return json.loads(read_text(file, encoding) if encoding else data)
    except UnicodeDecodeError as error:
        read_text(file)  # says where, and what to do
        raise DataError(f"{file} cannot be read as captions: {error_summary(error, 120)}.") from error
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
            collector.notes.append(
                f"{file.name}: {count_of(orphans, 'caption')} {agree(orphans, 'is', 'are')} of pictures that "
                f"it does not list."
            )
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
        collector.notes.append(
            f"{count_of(rest, 'picture')} of restval "
            f"{agree(rest, 'counts as a training picture', 'count as training pictures')}."
        )
    for index, (image, name) in enumerate(zip(images, names, strict=True)):
        where = f"{file}, image {index}"
        split = parse_split(image.get("split"), where, _KARPATHY_SPLITS)
        collector.add(name, caption_texts(image.get("sentences"), where), split, where)
    return collector.collect("Karpathy's splits")


def _join_path(folder: object, name: object) -> object:
    return f"{folder}/{name}" if isinstance(folder, str) and folder and isinstance(name, str) else name


# --- lists of LAVIS (BLIP), and objects of captions by picture


def _is_mapping(document: Any) -> bool:
    """Whether a document is an object of captions by picture: ``{"1.jpg": ["a dog", ...]}``."""
    return isinstance(document, dict) and bool(document) and all(promised_format(name) for name in document)


def _read_lists(collector: CaptionCollector, documents: list[tuple[Path, Any]]) -> CaptionedFiles:
    for file, entries_ in documents:
        if not isinstance(entries_, list) or not all(isinstance(entry, dict) for entry in entries_):
            raise DataError(f"{file} is no file of captions: expected a list of objects.\nKnown are {LAYOUTS}.")
        path, caption, _ = _columns(tuple(entries_[0]) if entries_ else (), str(file), {})
        collector.choose_folder(["", "images", *_folders(collector.root)], [entry.get(path) for entry in entries_])
        split = _split_in_name(file.stem)
        for number, entry in enumerate(entries_, start=1):
            where = f"{file}, entry {number}"
            own = parse_split(entry.get("split"), where, _KARPATHY_SPLITS) if "split" in entry else split
            collector.add(entry.get(path), caption_texts(entry.get(caption), where), own, where)
        if not split and len(documents) > 1:
            collector.notes.append(f"{file.name} names no split: its pictures count as training pictures.")
    return collector.collect("a list of captions", search=True)


def _split_in_name(stem: str) -> str:
    """The split that the last word of a file's name means: ``coco_karpathy_val`` is validation."""
    words = [word for word in re.split(r"[^a-z]+", stem.lower()) if word]
    return SPLIT_NAMES.get(words[-1], "") if words else ""


# --- Flickr8k and Flickr30k: a picture and a caption on each line

_TOKEN = re.compile(r"(?P<name>.+?)#\d+[\t ,|]+(?P<caption>.*)")


def _read_lines_of_captions(collector: CaptionCollector, file: Path, options: Mapping[str, str]) -> CaptionedFiles:
    encoding = options.get("encoding", "")
    lines = [(number, line.strip("\r\n")) for number, line in read_lines(file, encoding) if line.strip()]
    splits = _flickr_splits(file, encoding)
    if lines and _TOKEN.fullmatch(lines[0][1]):
        rows = [(number, *_token_line(line, f"{file}, line {number}")) for number, line in lines]
    else:
        header = _Header.read(lines[0][1], options) if lines else _Header()
        if lines and header is None:
            raise DataError(
                f"{file} does not begin with image,caption. Expected lines of a picture, a comma or a tab, a caption; "
                "or of a picture, # and a number, a tab, a caption."
            )
        assert header is not None
        rows = [(number, *header.picture_and_caption(line)) for number, line in lines[header.lines :]]
    collector.choose_folder(["", *_folders(collector.root)], [name for _, name, _ in rows])
    left = 0
    for number, name, caption in rows:
        if splits and name not in splits:
            left += 1
        else:
            collector.add(name, [caption], splits.get(name, ""), f"{file}, line {number}")
    if splits:
        collector.notes.append(f"Splits are those of the lists beside {file.name}.")
    if left:
        collector.notes.append(
            f"{count_of(left, 'caption')} of pictures that no list of a split has "
            f"{agree(left, 'was', 'were')} left aside."
        )
    return collector.collect("Flickr8k captions", search=True)


def _has_token_lines(file: Path, options: Mapping[str, str]) -> bool:
    """Whether a file, whatever it is called, begins with a picture, # and a number, and a caption."""
    try:
        first = next((line for _, line in read_lines(file, options.get("encoding", "")) if line.strip()), "")
    except DataError:
        return False
    return promised_format(first.partition("#")[0].strip()) is not None and bool(_TOKEN.fullmatch(first.strip("\r\n")))


def _token_line(line: str, where: str) -> tuple[str, str]:
    match = _TOKEN.fullmatch(line)
    if match is None:
        raise DataError(f"{where}: expected a picture, # and a number, a tab, and a caption; got {line!r:.60}.")
    return match["name"].strip(), match["caption"].strip()


def _flickr_splits(file: Path, encoding: str) -> dict[str, str]:
    """The split of each picture by ``Flickr_8k.trainImages.txt`` and so on, which lie beside the captions."""
    splits: dict[str, str] = {}
    for word, split in (("train", "train"), ("dev", "validation"), ("test", "test")):
        for path in sorted(file.parent.glob(f"*[._]{word}Images.txt")):
            splits |= {line.strip(): split for _, line in read_lines(path, encoding) if line.strip()}
    return splits


@dataclass(frozen=True)
class _Header:
    """How lines of captions are cut: at most ``cells`` parts, the picture and the caption among them."""

    delimiter: str = ","
    cells: int = 2
    path: int = 0
    caption: int = 1
    lines: int = 0  # of the file, that are this header

    @staticmethod
    def read(line: str, options: Mapping[str, str]) -> _Header | None:
        """From a file's first line; None where it is neither a header nor begins with a picture."""
        for delimiter in ("\t", "|", ";", ","):
            columns = [cell.strip().strip('"') for cell in line.split(delimiter)]
            if promised_format(columns[0]) and len(columns) > 1:
                return _Header(delimiter)
            try:
                path, caption, _ = _columns(tuple(columns), "", options)
            except DataError:
                continue
            return _Header(delimiter, len(columns), columns.index(path), columns.index(caption), 1)
        return None

    def picture_and_caption(self, line: str) -> tuple[str, str]:
        """A line on its own: a stray quotation mark in a caption must not swallow the lines after it."""
        cells = line.split(self.delimiter, self.cells - 1)
        cells += [""] * (self.cells - len(cells))
        name, caption = (cells[index].strip() for index in (self.path, self.caption))
        if len(caption) > 1 and caption.startswith('"') and caption.endswith('"'):
            caption = caption[1:-1].replace('""', '"')
        return name, caption


def _folders(root: Path) -> list[str]:
    return [entry.name for entry in entries(root) if is_folder(entry)]
