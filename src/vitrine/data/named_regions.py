"""Where the things are that captions name: objects of scenes, and COCO's instances by category."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from vitrine.data.captions import CaptionedSample
from vitrine.data.coco_names import COLOURS, VERBS, coco_phrases, names_of, plural
from vitrine.data.decoding import FilePicture
from vitrine.data.instances import coco_category_masks
from vitrine.data.masks import FOLDER, find_masks
from vitrine.data.naming import Lexicon
from vitrine.data.regions import (
    Mask,
    Mention,
    NamedRegions,
    NamedWord,
    PictureRegions,
    Region,
    named_words,
    plain_text,
)
from vitrine.data.scenes.palette import COLOUR_NAMES
from vitrine.data.scenes.shapes import FAMILIES
from vitrine.data.scenes.stream import ScenePicture
from vitrine.errors import DataError, PictureError

__all__ = ["NamedRegions", "NamedWord", "PictureRegions", "Region", "named_words", "open_regions"]

_SIZES = frozenset({"large", "small"})
_MOST_OBJECTS = 255  # that a label map of 8 bits can tell apart


def open_regions(reference: str, samples: Sequence[CaptionedSample]) -> NamedRegions | None:
    """Find what is known of the things in captioned pictures.

    Generated scenes know their objects. Written scenes have them in ``captions.jsonl`` and ``masks/``; COCO's layout
    in ``annotations/instances_*.json`` or beside the captions.

    Args:
        reference: as it was given to :func:`vitrine.data.captions.open_captions`.
        samples: pictures of those data.

    Returns:
        None where the data have no regions of any of the pictures.

    Raises:
        DataError: a file of regions is there and cannot be read.
    """
    scenes = {sample.name: sample.picture for sample in samples if isinstance(sample.picture, ScenePicture)}
    if scenes:
        return NamedRegions("the scenes themselves", (), {n: partial(_of_scene, p) for n, p in scenes.items()})
    path = Path(reference).expanduser()
    root = path if path.is_dir() else path.parent.parent if path.parent.name == "annotations" else path.parent
    names = [sample.name for sample in samples]
    found = _written_scenes(root, samples) or _coco(root, names)
    return found if found is not None and found.loaders else None


# --- scenes


@cache
def _scene_lexicon() -> Lexicon:
    shapes = [shape for family in FAMILIES.values() for shape in family.labels]
    names = {name: shape for shape in shapes for name in (shape, plural(shape))}
    return Lexicon(names, choosing=frozenset(COLOUR_NAMES), passing=_SIZES)


def _object(shape: str, colour: str, size: str, draw: Callable[[], Mask]) -> Region:
    return Region(shape, (shape, plural(shape)), (colour, size), draw)


def _of_scene(picture: ScenePicture) -> PictureRegions:
    scene = picture.scene
    regions = tuple(_object(o.shape, o.colour, o.size, partial(np.copy, o.mask)) for o in scene.objects)
    mentions = {
        plain_text(caption.text): tuple((each.start, each.end, each.object_index) for each in caption.mentions)
        for caption in scene.captions
    }
    return PictureRegions(regions, _scene_lexicon(), mentions)


def _written_scenes(root: Path, samples: Sequence[CaptionedSample]) -> NamedRegions | None:
    """Objects of scenes that were written to files; None where there are none."""
    source = root / FOLDER
    facts = _scene_facts(root / "captions.jsonl", {sample.name for sample in samples}) if source.is_dir() else {}
    if not facts:
        return None
    meant = [sample.unlabelled for sample in samples if sample.name in facts]
    # The label maps have the value i for object i, counting from 1.
    masks = [
        find_masks(meant, data=root, source=source, value=value)
        for value in range(1, 1 + max(len(objects) for objects, _ in facts.values()))
    ]
    loaders: dict[str, Callable[[], PictureRegions]] = {}
    for name, (objects, mentions) in facts.items():
        drawn = [None if each is None else each.loaders.get(name) for each in masks[: len(objects)]]
        regions = [_object(*item, draw) for item, draw in zip(objects, drawn, strict=True) if draw is not None]
        if len(regions) == len(objects):
            loaders[name] = partial(PictureRegions, tuple(regions), _scene_lexicon(), mentions)
    return NamedRegions(f"{root / 'captions.jsonl'} and {source}", (), loaders)


_Facts = tuple[list[tuple[str, str, str]], dict[str, tuple[Mention, ...]]]


def _scene_facts(file: Path, names: set[str]) -> dict[str, _Facts]:
    """Of each picture its objects (shape, colour, size) and its captions' mentions; nothing in a file of others.

    Raises:
        DataError: a line that has objects cannot be understood.
    """
    if not file.is_file():
        return {}
    facts: dict[str, _Facts] = {}
    try:
        for number, line in enumerate(FilePicture(file).encoded().splitlines(), start=1):
            entry = json.loads(line) if line.strip() else None
            if not isinstance(entry, dict) or not {"mask", "objects", "file"} <= entry.keys():
                continue
            if entry["file"] in names:
                facts[entry["file"]] = _facts(entry, f"{file}, line {number}")
    except (PictureError, ValueError, RecursionError) as error:
        raise DataError(f"{file} cannot be read as scenes: {' '.join(str(error).split())[:120]}.") from error
    return facts


def _facts(entry: Mapping[str, Any], where: str) -> _Facts:
    try:
        objects = [(str(item["shape"]), str(item["colour"]), str(item["size"])) for item in entry["objects"]]
        mentions = {
            plain_text(caption["text"]): tuple(
                (int(start), int(end), int(index)) for start, end, index in caption["mentions"]
            )
            for caption in entry.get("captions", ())
        }
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise DataError(f"{where}: its objects or mentions are not as scenes are written.") from error
    spans = [(text, *mention) for text, each in mentions.items() for mention in each]
    sound = all(0 <= a < b <= len(text) and 0 <= index < len(objects) for text, a, b, index in spans)
    if not 0 < len(objects) <= _MOST_OBJECTS or not sound:
        raise DataError(f"{where}: a mention is of no character or object there, or there are no objects.")
    return objects, mentions


# --- COCO


def _coco(root: Path, names: Sequence[str]) -> NamedRegions | None:
    """Instances by category; None where there is no file of them."""
    files = sorted([*(root / "annotations").glob("instances_*.json"), *root.glob("instances_*.json")])
    if not files:
        return None
    loaders: dict[str, Callable[[], PictureRegions]] = {}
    notes: list[str] = []
    for file in files:
        # Pictures of two splits may have one file name; a file of instances is called after its folder.
        folder = file.stem.removeprefix("instances_")
        own = [name for name in names if folder in name.split("/")[:-1]] or names
        found, said = coco_category_masks(file, own)
        notes += said
        for name, drawn in found.items():
            loaders.setdefault(name, partial(_of_categories, drawn))
    unknown = len(names) - len(loaders)
    if unknown:
        notes.append(f"{unknown:,} of {len(names):,} pictures have no instances: nothing is known of what is in them.")
    return NamedRegions(", ".join(str(file) for file in files), tuple(notes), loaders)


def _of_categories(drawn: Mapping[str, Callable[[], Mask]]) -> PictureRegions:
    kinds = {plain_text(category): draw for category, draw in drawn.items()}
    regions = tuple(Region(kind, names_of(kind), (), draw) for kind, draw in kinds.items())
    names = {name: kind for kind in kinds for name in names_of(kind)}
    return PictureRegions(regions, Lexicon({**coco_phrases(), **names}, verbs=VERBS, colours=COLOURS))
