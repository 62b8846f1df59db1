"""Files of captions: COCO's, Karpathy's, Flickr8k's, tables and lines of JSON, each to pictures with their captions.

Sources of the formats: X. Chen and others (2015), Microsoft COCO captions: data collection and evaluation server;
A. Karpathy and L. Fei-Fei (2015), Deep visual-semantic alignments for generating image descriptions (the authors'
``dataset_*.json``); M. Hodosh and others (2013), Framing image description as a ranking task (Flickr8k).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vitrine.data.caption_entries import CaptionedFile, Found, Gathering
from vitrine.data.caption_tables import CAPTION_COLUMNS, has_captions, lines, read_table, sentences, split_named
from vitrine.data.decoding import FilePicture
from vitrine.data.folders import SPLIT_NAMES
from vitrine.data.formats import promised_format
from vitrine.data.listing import entries, is_folder, listed
from vitrine.data.manifests import PATH_COLUMNS, has_columns
from vitrine.errors import DataError, PictureError

__all__ = ["LAYOUTS", "CaptionedFile", "Found", "is_captioned", "read_captions"]

LAYOUTS = (
    "annotations/captions_*.json with a folder of pictures for each (COCO), dataset*.json (Karpathy's), captions.txt "
    "with a folder of pictures (Flickr8k), captions or metadata as .csv, .tsv or .jsonl with path, caption and "
    "optionally split, and written scenes"
)

_TABLES = tuple(f"{stem}{ending}" for stem in ("captions", "metadata") for ending in (".jsonl", ".csv", ".tsv"))
_KARPATHY_SPLITS = SPLIT_NAMES | {"restval": "train"}  # COCO's validation pictures that he trains on
_NOT_KARPATHY = ("dataset_dict.json", "dataset_info.json")  # of Hugging Face datasets


def read_captions(path: Path) -> Found:
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
    """What of a folder may be read, files of one kind each; the first is."""
    annotations = sorted([*(folder / "annotations").glob("captions_*.json"), *folder.glob("captions_*.json")])
    splits = [path for path in sorted(folder.glob("dataset*.json")) if path.name not in _NOT_KARPATHY]
    others = [folder / name for name in (*_TABLES, "captions.txt") if (folder / name).is_file()]
    return [group for group in (annotations, *([path] for path in (*splits, *others))) if group]


def _read_folder(folder: Path) -> Found:
    choices = _choices(folder)
    if not choices:
        raise DataError(f"{folder} has no captions in a known layout.\nKnown are {LAYOUTS}.")
    aside = [path.name for group in choices[1:] for path in group]
    notes = [f"Not used: {listed(aside)}. Give such a file itself to read it."] if aside else []
    return _read_files(folder, choices[0], notes)


def _read_files(folder: Path, files: list[Path], notes: list[str] | None = None) -> Found:
    """Files of one kind."""
    ending = files[0].suffix.lower()
    if ending == ".json":
        documents = [(file, _document(file)) for file in files]
        root = folder.parent if folder.name == "annotations" else folder
        gathering = Gathering(root, files[0], notes)
        karpathy = [_is_karpathy(document) for _, document in documents]
        if all(karpathy) and len(documents) == 1:
            return _karpathy(gathering, *documents[0])
        return _coco(gathering, documents)
    gathering = Gathering(folder, files[0], notes)
    if ending == ".txt":
        return _flickr8k(gathering, files[0])
    if ending not in (".csv", ".tsv", ".jsonl"):
        raise DataError(f"{files[0]} is no file of captions.\nKnown are {LAYOUTS}.")
    return read_table(gathering, files[0])


def _document(file: Path) -> Any:
    try:
        return json.loads(FilePicture(file).encoded())
    except (PictureError, ValueError, RecursionError, MemoryError) as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise DataError(f"{file} cannot be read as captions: {reason}.") from error


def _listed(document: Any, key: str, file: Path) -> list[dict[str, Any]]:
    found = document.get(key) if isinstance(document, dict) else None
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise DataError(f"{file} is no file of captions: it has no list of objects called {key}.\nKnown are {LAYOUTS}.")
    return found


# --- COCO


def _coco(gathering: Gathering, documents: list[tuple[Path, Any]]) -> Found:
    for file, document in documents:
        names = _names_by_id(_listed(document, "images", file), file)
        captions: dict[str, list[object]] = {number: [] for number in names}
        lost = 0
        for entry in _listed(document, "annotations", file):
            number = str(entry.get("image_id"))
            if number in captions:
                captions[number].append(entry.get("caption"))
            else:
                lost += 1
        if lost:
            gathering.notes.append(f"{file.name}: {lost:,} captions are of pictures that it does not list.")
        part = file.stem.removeprefix("captions_")
        split = SPLIT_NAMES.get(part.rstrip("0123456789_-").lower(), "")
        if not split:
            gathering.notes.append(f"{file.name} names no split: its pictures count as training pictures.")
        gathering.look_in([part, f"images/{part}", "", "images"], list(names.values()))
        for number, name in names.items():
            gathering.add(name, captions[number], split, f"{file}, image {number:.40}")
    return gathering.found("COCO captions")


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


def _karpathy(gathering: Gathering, file: Path, document: Any) -> Found:
    images = _listed(document, "images", file)
    names = [_joined(image.get("filepath"), image.get("filename")) for image in images]
    gathering.look_in(["", *_folders(gathering.root)], names)
    rest = sum(image.get("split") == "restval" for image in images)
    if rest:
        gathering.notes.append(f"{rest:,} pictures of restval count as training pictures.")
    for index, (image, name) in enumerate(zip(images, names, strict=True)):
        where = f"{file}, image {index}"
        split = split_named(image.get("split"), where, _KARPATHY_SPLITS)
        gathering.add(name, sentences(image.get("sentences"), where), split, where)
    return gathering.found("Karpathy's splits")


def _joined(folder: object, name: object) -> object:
    return f"{folder}/{name}" if isinstance(folder, str) and folder and isinstance(name, str) else name


# --- Flickr8k


def _flickr8k(gathering: Gathering, file: Path) -> Found:
    rows = [(number, *_picture_and_caption(line)) for number, line in lines(file) if line.strip()]
    if rows and not promised_format(rows[0][1]):  # the header
        _, first, second = rows.pop(0)
        if first.lower() not in PATH_COLUMNS or second.lower() not in CAPTION_COLUMNS:
            raise DataError(
                f"{file} does not begin with image,caption. Expected lines of a picture, a comma, a caption."
            )
    gathering.look_in(["", *_folders(gathering.root)], [name for _, name, _ in rows])
    for number, name, caption in rows:
        gathering.add(name, [caption], "", f"{file}, line {number}")
    return gathering.found("Flickr8k captions")


def _picture_and_caption(line: str) -> tuple[str, str]:
    """A line on its own: a stray quotation mark in a caption must not swallow the lines after it."""
    name, _, caption = line.partition(",")
    caption = caption.strip()
    if len(caption) > 1 and caption.startswith('"') and caption.endswith('"'):
        caption = caption[1:-1].replace('""', '"')
    return name.strip(), caption


def _folders(root: Path) -> list[str]:
    return [entry.name for entry in entries(root) if is_folder(entry)]
