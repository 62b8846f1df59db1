"""Scenes written to disk, in layouts that other tools and ``vitrine train`` read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from PIL import Image

from vitrine.data.scenes.dataset import SIZES, ScenePicture
from vitrine.data.scenes.scene import SPLIT_CODES, Placement, Scene
from vitrine.data.scenes.shapes import FAMILIES
from vitrine.errors import DataError
from vitrine.io.file_names import temporary_path
from vitrine.io.files import remove_unfinished

Layout = Literal["folders", "flat", "coco"]
_COCO_SPLITS = {"train": "train2017", "validation": "val2017", "test": "test2017"}


def write_scenes(
    folder: Path | str,
    family: str,
    counts: Mapping[str, int],
    *,
    size: int = 64,
    seed: int = 0,
    layout: Layout = "folders",
    placement: Placement = "inside",
) -> Path:
    """Writes the first scenes of each split as PNG files, with masks and captions beside them.

    Pictures lie at ``{split}/{label}/{index}.png`` ("folders"), ``{split}/{label}_{index}.png`` ("flat") or, as in
    COCO 2017, ``train2017/{id}.png`` with ``annotations/captions_train2017.json`` ("coco"). In every layout
    ``masks/`` repeats the pictures' paths with 8-bit grey label maps (0 background, i object i, main object 1),
    and ``captions.jsonl`` has one line a picture: file, split, label, objects and captions, whose mentions are
    [start, end, object index]. All appears at once at the end, or nothing does.

    Args:
        folder: where to; new or empty.
        family: "base" or "new".
        counts: number of pictures of "train", "validation" and "test", or of some of them.
        size: pixels a side, 32 to 512.
        seed: of the streams the scenes come from, 0 or more: the same pictures as ``open_scenes`` gives.
        layout: "folders", "flat" or "coco".
        placement: "inside" or "anywhere": where main objects lie, as in ``open_scenes``.

    Returns:
        The folder.

    Raises:
        DataError: an argument cannot be used, or the folder is not empty.
    """
    _check(family, counts, size, seed, layout, placement)
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} is not an empty folder; name a new one, or empty it first.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(folder.parent)
    content = temporary_path(folder.absolute())
    content.mkdir()
    try:
        _fill(content, family, counts, size, seed, layout, placement)
        if folder.exists():
            folder.rmdir()
        content.rename(folder)
    finally:
        shutil.rmtree(content, ignore_errors=True)
    return folder


def _check(family: str, counts: Mapping[str, int], size: int, seed: int, layout: str, placement: str) -> None:
    if family not in FAMILIES:
        raise DataError(f"no family of scenes is called {family!r}; there are {', '.join(FAMILIES)}.")
    if layout not in get_args(Layout):
        raise DataError(f"layout must be one of {', '.join(get_args(Layout))}, not {layout!r}.")
    if placement not in get_args(Placement):
        raise DataError(f"placement must be one of {', '.join(get_args(Placement))}, not {placement!r}.")
    if not counts or any(split not in SPLIT_CODES or count < 1 for split, count in counts.items()):
        raise DataError(f"counts must give 1 or more for some of {', '.join(SPLIT_CODES)}, not {dict(counts)}.")
    if not SIZES[0] <= size <= SIZES[1]:
        raise DataError(f"size must be {SIZES[0]} to {SIZES[1]} pixels, not {size}.")
    if not 0 <= seed < 2**32:
        raise DataError(f"seed must be 0 to {2**32 - 1}, not {seed}.")


def _fill(
    content: Path,
    family: str,
    counts: Mapping[str, int],
    size: int,
    seed: int,
    layout: Layout,
    placement: Placement,
) -> None:
    number = 0
    with (content / "captions.jsonl").open("w", encoding="utf-8", newline="\n") as lines:
        for split, count in counts.items():
            images: list[dict[str, Any]] = []
            annotations: list[dict[str, Any]] = []
            for picture in (ScenePicture(family, seed, split, index, size, placement) for index in range(count)):
                number += 1
                scene = picture.scene
                label = FAMILIES[family].labels[scene.label]
                path = _path(layout, split, label, picture.index, number)
                _save(content / path, scene.pixels)
                _save(content / "masks" / path, scene.label_map)
                lines.write(json.dumps(_facts(path, split, label, scene)) + "\n")
                name = path.rpartition("/")[2]
                images.append({"id": number, "file_name": name, "width": size, "height": size})
                annotations += [{"image_id": number, "caption": caption.text} for caption in scene.captions]
            if layout == "coco":
                # COCO's annotation ids are unique within a file.
                annotations_with_ids = [{"id": place, **entry} for place, entry in enumerate(annotations, start=1)]
                document = {
                    "info": {"description": f"generated scenes, family {family}, seed {seed}"},
                    "licenses": [],
                    "images": images,
                    "annotations": annotations_with_ids,
                }
                target = content / "annotations" / f"captions_{_COCO_SPLITS[split]}.json"
                target.parent.mkdir(exist_ok=True)
                target.write_text(json.dumps(document), encoding="utf-8")


def _path(layout: Layout, split: str, label: str, index: int, number: int) -> str:
    match layout:
        case "folders":
            return f"{split}/{label}/{index:06d}.png"
        case "flat":
            return f"{split}/{label}_{index:06d}.png"
        case "coco":
            return f"{_COCO_SPLITS[split]}/{number:012d}.png"


def _save(path: Path, pixels: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def _facts(path: str, split: str, label: str, scene: Scene) -> dict[str, Any]:
    """One line of captions.jsonl."""
    return {
        "file": path,
        "mask": f"masks/{path}",
        "split": split,
        "label": label,
        "objects": [
            {
                "shape": item.shape,
                "colour": item.colour,
                "size": item.size,
                "centre": [round(part, 2) for part in item.centre],
                "angle": round(item.angle, 1),
            }
            for item in scene.objects
        ],
        "captions": [
            {
                "text": caption.text,
                "mentions": [[each.start, each.end, each.object_index] for each in caption.mentions],
            }
            for caption in scene.captions
        ],
    }
