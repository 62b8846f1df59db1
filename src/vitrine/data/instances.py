"""COCO's instances as masks: polygons and run lengths from an annotation file, drawn picture by picture.

Source of the format: T.-Y. Lin and others (2014), Microsoft COCO: common objects in context; cocodataset.org, "Data
format".

Axes: H rows, W columns of the upright picture.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from vitrine.data.decoding import MAX_PIXELS, FilePicture
from vitrine.data.listing import listed
from vitrine.errors import DataError, PictureError

_FINE = 5  # odd, so that a pixel has a middle

Mask = npt.NDArray[np.bool_]
_Shape = npt.NDArray[np.float64]


def coco_masks(
    file: Path, names: Sequence[str], category: str | None
) -> tuple[dict[str, Callable[[], Mask]], tuple[str, ...]]:
    """By the name of each picture that has instances, what draws them; and notes on what was left aside.

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
    chosen = _category_ids(_entries(document, "categories", file) if category else [], category, file)
    found, notes = _canvases(document, names, file, chosen)
    masks = {
        name: _Canvas(size, [shape for shapes in by_category.values() for shape in shapes]).mask
        for name, size, by_category in found
        if any(by_category.values())
    }
    return masks, notes


def coco_category_masks(
    file: Path, names: Sequence[str]
) -> tuple[dict[str, dict[str, Callable[[], Mask]]], tuple[str, ...]]:
    """By the name of each picture that has instances and by the names of their categories, what draws all instances
    of one together; and notes on what was left aside. Otherwise as :func:`coco_masks`.

    Raises:
        DataError: the file cannot be read or is another one, a category has no name, or an annotation of one of the
            pictures cannot be read or is of no category that is listed.
    """
    document = _document(file)
    categories = {str(entry.get("id")): entry.get("name") for entry in _entries(document, "categories", file)}
    found, notes = _canvases(document, names, file, None)
    masks: dict[str, dict[str, Callable[[], Mask]]] = {}
    for name, size, by_category in found:
        for number, shapes in by_category.items():
            category = categories.get(number)
            if not isinstance(category, str) or not category.strip():
                raise DataError(f"{file}: an instance on {name} is of category {number:.40}, which has no name there.")
            if shapes:
                masks.setdefault(name, {})[category] = _Canvas(size, shapes).mask
    return masks, notes


def _document(file: Path) -> Any:
    try:
        return json.loads(FilePicture(file).encoded())
    except (PictureError, ValueError, RecursionError) as error:
        raise DataError(f"{file} cannot be read as COCO instances: {' '.join(str(error).split())[:120]}.") from error


def _canvases(
    document: Any, names: Sequence[str], file: Path, chosen: set[str] | None
) -> tuple[list[tuple[str, tuple[int, int], dict[str, list[_Shape]]]], tuple[str, ...]]:
    """Of each of the pictures that the document lists: name, (width, height), shapes by number of their category."""
    images, annotations = _entries(document, "images", file), _entries(document, "annotations", file)
    by_name: dict[str, list[str]] = {}
    for name in names:
        by_name.setdefault(PurePosixPath(name).name, []).append(name)
    twice = [same[0] for same in by_name.values() if len(same) > 1]
    notes = [f"Pictures of one file name in several folders have no mask here: {listed(twice)}."] if twice else []
    found: dict[str, tuple[str, tuple[int, int], dict[str, list[_Shape]]]] = {}
    for image in images:
        meant = by_name.get(PurePosixPath(str(image.get("file_name"))).name, [])
        if len(meant) == 1:
            found[str(image.get("id"))] = meant[0], _size(image, f"{file}: {meant[0]}"), {}
    for entry in annotations:
        number, category = str(entry.get("image_id")), str(entry.get("category_id"))
        if number in found and (chosen is None or category in chosen):
            name, size, by_category = found[number]
            by_category.setdefault(category, []).extend(_shapes(entry, size, f"{file}: an instance on {name}"))
    return list(found.values()), tuple(notes)


@dataclass(frozen=True)
class _Canvas:
    """Shapes of one picture: polygons (corners, 2) of x and y, or run lengths (runs,)."""

    size: tuple[int, int]
    shapes: list[_Shape]

    def mask(self) -> Mask:
        width, height = self.size
        # Pillow fills every pixel that an outline touches, which makes small objects several per cent too large. Each
        # pixel is drawn as 5 × 5, of which the middle one counts; in large pictures the outline is a small part.
        fine = _FINE if width * height * _FINE**2 <= MAX_PIXELS else 1
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
    stored = entry.get("segmentation")
    runs = stored.get("counts") if isinstance(stored, dict) else None
    if isinstance(runs, str):
        raise DataError(
            f"{where} is stored as compressed run lengths, which are not read.\n"
            "Decode it with pycocotools.mask.decode and save it as PNG, or leave it out."
        )
    try:
        if isinstance(stored, dict):
            lengths = np.array(runs, dtype=np.float64)
            fits = lengths.ndim == 1 and lengths.sum() == size[0] * size[1] and (lengths >= 0).all()
            if fits and (lengths == np.floor(lengths)).all() and stored.get("size") == [size[1], size[0]]:
                return [lengths]
        elif isinstance(stored, list):
            polygons = [np.array(flat, dtype=np.float64) for flat in stored]
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
    found = document.get(key) if isinstance(document, dict) else None
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise DataError(f"{file} is no COCO instances file: it has no list called {key}.")
    return found


def _category_ids(categories: Sequence[Mapping[str, Any]], category: str | None, file: Path) -> set[str] | None:
    if category is None:
        return None
    ids = {str(entry.get("id")) for entry in categories if category in (str(entry.get("name")), str(entry.get("id")))}
    if not ids:
        names = [str(entry.get("name")) for entry in categories]
        near = difflib.get_close_matches(category, names, n=3, cutoff=0.5)
        raise DataError(f"{file} has no category {category!r}. Near names: {listed(near or names)}.")
    return ids
