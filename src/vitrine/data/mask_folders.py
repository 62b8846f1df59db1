"""Folders of masks among pictures: told from a class of that name by their files' headers and names.

A mask is stored without loss, has one channel or a palette (or is black and white), and is called like its picture.
A folder called ``masks`` that holds photographs of faces with masks is none of that, and is data.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from PIL import Image

from vitrine.data.decode import FORMATS, promised_format
from vitrine.data.ignored_files import FilesAside
from vitrine.io.limits import limit
from vitrine.results import agree, count_of

LOSSLESS = ("PNG", "BMP", "GIF", "TIFF", "PPM")
"""Formats that keep the values of pixels."""

CHOICES = ("auto", "aside", "pictures")
"""How folders that are called like masks are read: by what they hold; never; or as any other folder."""

_NAMES = "masks?|segmentations?|segmentation_masks|segmentation_?class|segmentation_?object|trimaps"
_FOLDER = re.compile(rf"(?P<folder>(?P<parent>(?:.*?/)?)(?:{_NAMES}))/.", re.IGNORECASE)
_ADDITION = re.compile(r"[_-](?:masks?|seg|segmentation|gt|label)$", re.IGNORECASE)  # 1_mask.png is of 1.jpg
_SAMPLED = 16  # files whose header is read, of each folder
_MAX_VALUES = 32  # of a mask's pixels; photographs in grey have more
MAX_MASK_PIXELS = limit("MAX_MASK_PIXELS", 50_000_000)
"""Width × height of a file in a folder called like masks, up to which its pixels tell whether it is a mask."""

_File = tuple[Path, str]


def leave_masks_aside(files: Sequence[_File], aside: FilesAside, choice: str = "auto") -> list[_File]:
    """The files that are not in a folder of masks; what was decided is noted in ``aside``.

    Names are looked through once; of files in folders called like masks, some headers are read.

    Args:
        files: (path, name) of everything below one folder, names relative to it.
        aside: where masks are counted by folder.
        choice: one of :data:`CHOICES`.
    """
    by_folder: dict[str, list[_File]] = defaultdict(list)
    parents: dict[str, str] = {}
    pictures: list[_File] = []
    for path, name in files:
        match = _FOLDER.match(name) if choice != "pictures" else None
        if match is None:
            pictures.append((path, name))
        else:
            by_folder[match["folder"]].append((path, name))
            parents[match["folder"]] = match["parent"]
    if not by_folder:
        return pictures
    beside = _beside(pictures, set(parents.values()))
    classes: list[_File] = []
    for folder, inside in by_folder.items():
        why = "" if choice == "aside" else _why_pictures(inside, beside[parents[folder]])
        if why:
            classes += inside
            aside.mask_like[folder] = why
        else:
            aside.masks[folder] += len(inside)
    if not classes:
        return pictures
    data_names = {name for _, name in (*pictures, *classes)}
    return [file for file in files if file[1] in data_names]


def is_called_masks(name: str) -> bool:
    """Whether a folder of this name may be one of masks."""
    return _FOLDER.fullmatch(f"{name}/.") is not None


def are_mask_files(paths: Iterable[Path]) -> bool:
    """Whether the formats of some files, and the headers of a few of them, are those of masks."""
    return not _not_mask_files(list(paths))


def _beside(pictures: Sequence[_File], parents: set[str]) -> dict[str, list[_File]]:
    """The pictures below each of some folders, which end with a slash or are empty."""
    beside: dict[str, list[_File]] = {parent: [] for parent in parents}
    depths = {parent.count("/") for parent in parents}
    for path, name in pictures:
        parts = name.split("/")
        for depth in depths:
            parent = "".join(f"{part}/" for part in parts[:depth])
            if depth < len(parts) and parent in beside:
                beside[parent].append((path, name))
    return beside


def _why_pictures(inside: Sequence[_File], beside: Sequence[_File]) -> str:
    """Why files of a folder that is called like masks are pictures all the same; empty where they are masks."""
    stems = {PurePosixPath(name).stem for _, name in beside}
    own = [PurePosixPath(name).stem for _, name in inside]
    matches = sum(stem in stems or _ADDITION.sub("", stem) in stems for stem in own)
    if 2 * matches < len(own):
        return (
            f"{len(own) - matches:,} of its {count_of(len(own), 'file')} "
            f"{agree(len(own) - matches, 'is', 'are')} not called like a picture beside it"
        )
    why = _not_mask_files([path for path, _ in inside])
    if not why and _are_grey([path for path, _ in beside]) and not _have_few_values([path for path, _ in inside]):
        return "the pictures beside it are grey too, and its own have the many values of photographs"
    return why


def _not_mask_files(paths: Sequence[Path]) -> str:
    lossy = next((path.name for path in paths if promised_format(path.name) not in LOSSLESS), None)
    if lossy is not None:
        return f"{lossy} is in a format that does not keep the values of masks"
    modes = [mode for path in _some(paths) if (mode := _mask_mode(path)) is not None]
    if not modes:
        return "none of the files looked at can be read"
    colours = modes.count(False)
    return (
        f"{colours:,} of {count_of(len(modes), 'file')} looked at {agree(colours, 'is', 'are')} in colour"
        if colours
        else ""
    )


def _mask_mode(path: Path) -> bool | None:
    """Whether a file may be a mask by its format and channels; None where it cannot be read."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.format not in LOSSLESS:
                return False
            return image.mode in ("1", "L", "P", "I") or image.mode.startswith("I;16") or _is_black_and_white(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _is_black_and_white(image: Image.Image) -> bool:
    if image.mode != "RGB" or image.width * image.height > MAX_MASK_PIXELS:
        return False
    colours = image.getcolors(2)
    return colours is not None and {colour for _, colour in colours} <= {(0, 0, 0), (255, 255, 255)}


def _are_grey(paths: Sequence[Path]) -> bool:
    """Whether most of some pictures have one channel and are stored without loss."""
    modes = [_mask_mode(path) for path in _some(paths)]
    return 2 * modes.count(True) > len(modes)


def _have_few_values(paths: Sequence[Path]) -> bool:
    few = []
    for path in _some(paths):
        try:
            with Image.open(path, formats=FORMATS) as image:
                small = image.width * image.height <= MAX_MASK_PIXELS
                few.append(small and (image.mode == "P" or image.getcolors(_MAX_VALUES) is not None))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue
    return 2 * sum(few) > len(few)


def _some(paths: Sequence[Path]) -> Sequence[Path]:
    step = max(1, len(paths) // _SAMPLED)
    return paths[::step][:_SAMPLED]
