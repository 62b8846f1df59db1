"""Object masks: from a folder of masks, from generated scenes, or from a file of COCO instances.

A mask belongs to the upright picture (turned as its EXIF orientation says) and has one value for each of its pixels;
one of another size is refused, never resized.

Axes: H rows, W columns of the upright picture.
"""

from __future__ import annotations

import difflib
import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageOps

from vitrine.data.decode import FORMATS, MAX_PIXELS, FilePicture, decode, describe
from vitrine.data.ignored_files import FilesAside
from vitrine.data.image_folder import SPLIT_NAMES, walk
from vitrine.data.mask_folders import LOSSLESS
from vitrine.data.samples import Sample
from vitrine.data.scenes.dataset import ScenePicture
from vitrine.errors import DataError, PictureError, error_summary
from vitrine.io.untrusted_files import open_regular_file, parse_json
from vitrine.results import and_n_more

_OVERSAMPLING = 5  # odd, so that a pixel has a middle

Mask = npt.NDArray[np.bool_]
_Shape = npt.NDArray[np.float64]


def coco_masks(
    file: Path, names: Sequence[str], category: str | None
) -> tuple[dict[str, Callable[[], Mask]], tuple[str, ...]]:
    """The masks of COCO instances: a function that draws the mask, by picture name; and notes on what was left aside.

    File names in the document are compared with the ends of the pictures' names; they open nothing. A picture without
    instances has no entry: in COCO that need not mean that there is nothing to see.

    Args:
        file: of the COCO instances format (2014 and later): polygons, or run lengths that are not compressed.
        names: of the pictures, relative paths.
        category: name or number of the category whose instances count; None takes all of them.

    Raises:
        DataError: the file cannot be read or is another one, there is no such category, or an annotation of one of
            the pictures cannot be read.
    """
    document = _document(file)
    category_ids = _category_ids(_entries(document, "categories", file) if category else [], category, file)
    pictures, notes = _shapes_by_picture(document, names, file, category_ids)
    masks = {
        name: _ShapeMask(size, [shape for shapes in by_category.values() for shape in shapes]).mask
        for name, size, by_category in pictures
        if any(by_category.values())
    }
    return masks, notes


def coco_category_masks(
    file: Path, names: Sequence[str]
) -> tuple[dict[str, dict[str, Callable[[], Mask]]], tuple[str, ...]]:
    """The masks of COCO categories: by picture name and category, a function that draws all its instances together.

    Notes on what was left aside come with them. Otherwise as :func:`coco_masks`.

    Raises:
        DataError: the file cannot be read or is another one, a category has no name, or an annotation of one of the
            pictures cannot be read or is of no category that is listed.
    """
    document = _document(file)
    categories = {str(entry.get("id")): entry.get("name") for entry in _entries(document, "categories", file)}
    pictures, notes = _shapes_by_picture(document, names, file, None)
    masks: dict[str, dict[str, Callable[[], Mask]]] = {}
    for name, size, by_category in pictures:
        for number, shapes in by_category.items():
            category = categories.get(number)
            if not isinstance(category, str) or not category.strip():
                raise DataError(f"{file}: an instance on {name} is of category {number:.40}, which has no name there.")
            if shapes:
                masks.setdefault(name, {})[category] = _ShapeMask(size, shapes).mask
    return masks, notes


def _document(file: Path) -> Any:
    try:
        return parse_json(FilePicture(file).read_bytes())
    except (PictureError, ValueError) as error:
        raise DataError(f"{file} cannot be read as COCO instances: {error_summary(error, 120)}.") from error


def _shapes_by_picture(
    document: Any, names: Sequence[str], file: Path, category_ids: set[str] | None
) -> tuple[list[tuple[str, tuple[int, int], dict[str, list[_Shape]]]], tuple[str, ...]]:
    """Name, (width, height) and shapes by category number of each of the pictures that the document lists."""
    images, annotations = _entries(document, "images", file), _entries(document, "annotations", file)
    by_name: dict[str, list[str]] = {}
    for name in names:
        by_name.setdefault(PurePosixPath(name).name, []).append(name)
    twice = [same[0] for same in by_name.values() if len(same) > 1]
    notes = [f"Pictures of one file name in several folders have no mask here: {and_n_more(twice)}."] if twice else []
    pictures: dict[str, tuple[str, tuple[int, int], dict[str, list[_Shape]]]] = {}
    for image in images:
        candidates = by_name.get(PurePosixPath(str(image.get("file_name"))).name, [])
        if len(candidates) == 1:
            pictures[str(image.get("id"))] = candidates[0], _size(image, f"{file}: {candidates[0]}"), {}
    for entry in annotations:
        number, category = str(entry.get("image_id")), str(entry.get("category_id"))
        if number in pictures and (category_ids is None or category in category_ids):
            name, size, by_category = pictures[number]
            by_category.setdefault(category, []).extend(_shapes(entry, size, f"{file}: an instance on {name}"))
    return list(pictures.values()), tuple(notes)


@dataclass(frozen=True)
class _ShapeMask:
    """Shapes of one picture: polygons (corners, 2) of x and y, or run lengths (runs,)."""

    size: tuple[int, int]
    shapes: list[_Shape]

    def mask(self) -> Mask:
        width, height = self.size
        # Pillow fills every pixel that an outline touches, which makes small objects several per cent too large. Each
        # pixel is drawn as 5 × 5, of which the middle one counts; in large pictures the outline is a small part.
        fine = _OVERSAMPLING if width * height * _OVERSAMPLING**2 <= MAX_PIXELS else 1
        image = Image.new("1", (width * fine, height * fine))
        draw = ImageDraw.Draw(image)
        for corners in (shape for shape in self.shapes if shape.ndim == 2):
            # Both mean by pixel i what lies from i to i + 1. Corners far outside are brought near: no picture has any,
            # and Pillow counts in 32 bits.
            near = np.clip(corners, -max(self.size), 2 * max(self.size)) * fine
            draw.polygon([(float(x), float(y)) for x, y in near], fill=1)
        mask_HW: Mask = np.array(image)[fine // 2 :: fine, fine // 2 :: fine].copy()
        for runs in (shape for shape in self.shapes if shape.ndim == 1):
            inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs.astype(np.int64))
            mask_HW |= inside.reshape(width, height).T  # down each column, column by column
        return mask_HW


def _shapes(entry: Mapping[str, Any], size: tuple[int, int], where: str) -> list[_Shape]:
    """An annotation's polygons or run lengths, checked.

    Raises:
        DataError: they are neither, or compressed.
    """
    segmentation = entry.get("segmentation")
    runs = segmentation.get("counts") if isinstance(segmentation, dict) else None
    if isinstance(runs, str):
        raise DataError(
            f"{where} is stored as compressed run lengths, which are not read.\n"
            "Decode it with pycocotools.mask.decode and save it as PNG, or leave it out."
        )
    try:
        if isinstance(segmentation, dict):
            lengths = np.array(runs, dtype=np.float64)
            fits = lengths.ndim == 1 and lengths.sum() == size[0] * size[1] and (lengths >= 0).all()
            if fits and (lengths == np.floor(lengths)).all() and segmentation.get("size") == [size[1], size[0]]:
                return [lengths]
        elif isinstance(segmentation, list):
            polygons = [np.array(flat, dtype=np.float64) for flat in segmentation]
            if all(flat.ndim == 1 and len(flat) % 2 == 0 and np.isfinite(flat).all() for flat in polygons):
                return [flat.reshape(-1, 2) for flat in polygons if len(flat) >= 6]
    except (TypeError, ValueError, OverflowError):
        pass
    raise DataError(f"{where} has no usable segmentation: expected polygons as lists of x, y, x, y ...")


def _size(image: Mapping[str, Any], where: str) -> tuple[int, int]:
    width, height = image.get("width"), image.get("height")
    if isinstance(width, int) and isinstance(height, int) and min(width, height) > 0 and width * height <= MAX_PIXELS:
        return width, height
    raise DataError(f"{where} has no usable size there: width {width!r:.20}, height {height!r:.20}.")


def _entries(document: Any, key: str, file: Path) -> list[dict[str, Any]]:
    entries = document.get(key) if isinstance(document, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(f"{file} is no COCO instances file: it has no list called {key}.")
    return entries


def _category_ids(categories: Sequence[Mapping[str, Any]], category: str | None, file: Path) -> set[str] | None:
    if category is None:
        return None
    ids = {str(entry.get("id")) for entry in categories if category in (str(entry.get("name")), str(entry.get("id")))}
    if not ids:
        names = [str(entry.get("name")) for entry in categories]
        near = difflib.get_close_matches(category, names, n=3, cutoff=0.5)
        raise DataError(f"{file} has no category {category!r}. Near names: {and_n_more(near or names)}.")
    return ids


FOLDER = "masks"
"""The folder that is looked for where no source of masks is named."""

_MAIN_OBJECT = 1  # its value in the scenes' label maps

Inside = int | Literal["any"] | None
_Loader = Callable[[], Mask]


@dataclass(frozen=True)
class Masks:
    """Masks of some pictures.

    Attributes:
        origin: where they are from, in words.
        notes: sentences on what was decided on the way.
        loaders: by the name of each picture that has a mask, what reads it.
    """

    origin: str
    notes: tuple[str, ...]
    loaders: Mapping[str, _Loader]

    def mask_of(self, name: str, size: tuple[int, int] | None = None) -> Mask | None:
        """The mask of a picture: bool (H, W), True inside; None where it has none. Read anew at every call.

        Args:
            name: the sample's name.
            size: (width, height) of the upright picture, which the mask must have too; None does not compare.

        Raises:
            DataError: the mask cannot be read, or has another size; the message names both sizes.
        """
        if name not in self.loaders:
            return None
        mask_HW = self.loaders[name]()
        height, width = mask_HW.shape
        if size is not None and size != (width, height):
            raise DataError(
                f"The mask of {name} has {width} x {height} pixels, its upright picture {size[0]} x {size[1]}.\n"
                f"Masks must be in the upright picture's own pixels; this one is from {self.origin}."
            )
        return mask_HW


def find_masks(
    samples: Sequence[Sample],
    *,
    data: Path | None = None,
    source: Path | None = None,
    value: Inside = None,
    category: str | None = None,
) -> Masks | None:
    """Find the masks of pictures.

    In a folder, a picture's mask has its relative path, or the longest end of it that is there, with its own ending
    or .png: ``masks/train/cat/1.png``, ``masks/cat/1.png`` or ``masks/1.png`` for ``train/cat/1.jpg``. A mask that
    would serve two pictures serves none, which the notes say.

    Args:
        samples: the pictures.
        data: the folder or file that was given as data, which the samples' names are relative to.
        source: a folder of masks, or a COCO instances file (.json). None takes generated scenes' own masks, else
            looks for a folder ``masks`` in ``data`` or, where that is part of a larger folder, beside it.
        value: pixels of this value are inside; "any": those that are not 0. None is "any", and 1 for written scenes
            (their main object). In pictures with a palette the value is the index.
        category: name or number of a COCO category whose instances are inside; None takes all objects.

    Returns:
        None where no source was named and none was found.

    Raises:
        DataError: the source cannot be read, or has no mask of any of the pictures.
    """
    if source is None:
        scenes = {sample.name: sample.picture for sample in samples if isinstance(sample.picture, ScenePicture)}
        if scenes:
            return Masks("the scenes themselves (main object)", (), {n: _SceneMask(p).mask for n, p in scenes.items()})
        return None if data is None else _find_beside(data, samples, value)
    source = source.expanduser()
    if source.suffix.lower() == ".json":
        loaders, notes = coco_masks(source, [sample.name for sample in samples], category)
        masks = Masks(f"{category} in {source}" if category else str(source), notes, loaders)
    elif source.is_dir():
        prefix = "" if data is None else list(_parent_folders(data))[-1][1]
        masks = _from_folder(source, samples, prefix, value, whole=False)
    else:
        raise DataError(f"There is no folder of masks {source}. Give a folder, or a COCO instances file (.json).")
    if not masks.loaders:
        example = f", for example {samples[0].name}" if samples else ""
        notes_text = " ".join(["", *masks.notes])
        raise DataError(
            f"{source} has no mask for any of the pictures ({len(samples):,}){example}.{notes_text}\n"
            "A mask is named like its picture: the same relative path or name, ending in .png."
        )
    return masks


def _parent_folders(data: Path) -> Iterator[tuple[Path, str]]:
    """The data's folder and the two above it, each with what samples' names begin with when seen from there."""
    folder, prefix = data.expanduser().absolute(), ""
    folder = folder.parent if folder.is_file() else folder
    for _ in range(3):
        yield folder, prefix
        folder, prefix = folder.parent, f"{folder.name}/{prefix}"


def _find_beside(data: Path, samples: Sequence[Sample], value: Inside) -> Masks | None:
    """The masks of a folder ``masks`` in the data or in a folder above them; None where there are none."""
    for level, (folder, prefix) in enumerate(_parent_folders(data)):
        if not (folder / FOLDER).is_dir() or any((prefix + sample.name).startswith(f"{FOLDER}/") for sample in samples):
            continue  # none, or a class of that name
        # A folder above may be anybody's: there only whole paths count, unless the data are one of its splits.
        whole = level > 1 or (level == 1 and prefix.rstrip("/").lower() not in SPLIT_NAMES)
        masks = _from_folder(folder / FOLDER, samples, prefix, value, whole=whole)
        if masks.loaders:
            return masks
    return None


# --- a folder of pictures


def _from_folder(folder: Path, samples: Sequence[Sample], prefix: str, value: Inside, *, whole: bool) -> Masks:
    files = {name: path for path, name in walk(folder, "", FilesAside(), set())}
    file_of = {sample.name: _matching_file(prefix + sample.name, files, whole) for sample in samples}
    claims = Counter(file_of.values())
    notes = []
    ambiguous = [name for name, count in claims.items() if name is not None and count > 1]
    if ambiguous:
        notes.append(f"Masks that more than one picture could claim by name were left aside: {and_n_more(ambiguous)}.")
    if value is None and _is_scene_export(folder):
        value = _MAIN_OBJECT
        notes.append(f"In the scenes' label maps the main object (value {value}) is the mask.")
    loaders: dict[str, _Loader] = {
        sample: _MaskFile(files[name], value).mask for sample, name in file_of.items() if name and claims[name] == 1
    }
    return Masks(str(folder), tuple(notes), loaders)


def _matching_file(name: str, files: Mapping[str, Path], whole: bool) -> str | None:
    """The file with the longest end of a picture's path, ending in .png or as the picture does."""
    parts = PurePosixPath(name).parts
    for cut in range(1 if whole else len(parts)):
        end = "/".join(parts[cut:])
        for candidate in (end.removesuffix(PurePosixPath(end).suffix) + ".png", end):
            if candidate in files:
                return candidate
    return None


def _is_scene_export(folder: Path) -> bool:
    """Whether a folder of masks was written with scenes: their captions file lies beside it."""
    try:
        with open_regular_file(folder.parent / "captions.jsonl") as lines:
            first = parse_json(lines.readline(1_000_000))
    except (OSError, ValueError):
        return False
    return isinstance(first, dict) and {"mask", "objects", "file"} <= first.keys()


@dataclass(frozen=True)
class _MaskFile:
    path: Path
    value: Inside

    def mask(self) -> Mask:
        try:
            values_HW = _stored_values(FilePicture(self.path).read_bytes(), exact=isinstance(self.value, int))
        except PictureError as error:
            raise DataError(f"The mask {self.path} cannot be used: {error}.") from error
        mask_HW: Mask = values_HW == self.value if isinstance(self.value, int) else values_HW != 0
        return mask_HW


def _stored_values(data: bytes, *, exact: bool) -> npt.NDArray[np.generic]:
    """The numbers in a picture of one channel, upright; of colours, whether they are black, unless ``exact``.

    Raises:
        PictureError: it cannot be decoded, or its numbers cannot be trusted.
    """
    kind = describe(data)
    if kind.format not in LOSSLESS:
        raise PictureError(f"{kind.format} does not keep pixel values: save masks as PNG")
    if kind.has_alpha and kind.mode != "P":
        raise PictureError("it is transparent in places: save masks in black and white, or as a label map")
    image = decode(data)
    if kind.mode == "P" or kind.bits > 8:  # decoded, an index has become a colour and a small number nothing
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(data), formats=FORMATS))
        return np.array(image)
    pixels_HWC = np.array(image)
    if exact and (pixels_HWC != pixels_HWC[..., :1]).any():
        raise PictureError("it is in colour: a mask with values has one channel, or a palette")
    values_HW: npt.NDArray[np.uint8] = pixels_HWC.max(axis=2)
    return values_HW


@dataclass(frozen=True)
class _SceneMask:
    picture: ScenePicture

    def mask(self) -> Mask:
        mask_HW: Mask = self.picture.scene.label_map == _MAIN_OBJECT
        return mask_HW
