"""Regions of pictures that captions can name, and which words of a caption name them.

Regions are the objects of scenes, or all instances of a COCO category together.

Axes: H rows, W columns of the upright picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vitrine.data.captions.nouns import COLOURS, VERBS, Lexicon, coco_phrases, find_names, names_of, plural
from vitrine.data.decode import FilePicture
from vitrine.data.masks import FOLDER, coco_category_masks, find_masks
from vitrine.data.reference_options import without_options
from vitrine.data.samples import Sample
from vitrine.data.scenes.background import COLOUR_NAMES
from vitrine.data.scenes.dataset import ScenePicture
from vitrine.data.scenes.shapes import FAMILIES
from vitrine.errors import DataError, PictureError, error_summary
from vitrine.io.untrusted_files import parse_json
from vitrine.results import agree, count_of

Mask = npt.NDArray[np.bool_]
Mention = tuple[int, int, int]  # start and end among the characters, index of the region


@dataclass(frozen=True, eq=False)
class Region:
    """Something in a picture that a caption can name.

    Attributes:
        kind: what it is: the name of a shape or of a category.
        names: what captions call it, lower case, singulars and plurals.
        attributes: of an object of a scene, its colour and size; nothing for COCO, whose region is all instances of a
            category.
        draw: makes its mask, bool (H, W) in the upright photograph's own pixels; anew at every call.
    """

    kind: str
    names: tuple[str, ...]
    attributes: tuple[str, ...]
    draw: Callable[[], Mask]


@dataclass(frozen=True, eq=False)
class PictureRegions:
    """The regions of one picture, complete for its lexicon: a thing that it names and that is no region is not there.

    Attributes:
        regions: at least one.
        lexicon: what can be named.
        mentions: by a caption of its own, which of its characters name which region, exactly.
    """

    regions: tuple[Region, ...]
    lexicon: Lexicon
    mentions: Mapping[str, tuple[Mention, ...]] = field(default_factory=dict)

    def mask(self, indices: Sequence[int], size: tuple[int, int] | None = None) -> Mask:
        """Some regions together: bool (H, W).

        Args:
            indices: of the regions, one at least.
            size: (width, height) of the upright picture, which the mask must have too; None does not compare.

        Raises:
            DataError: a mask cannot be read, or has another size.
        """
        mask_HW: Mask = np.logical_or.reduce([self.regions[index].draw() for index in indices])
        height, width = mask_HW.shape
        if size is not None and size != (width, height):
            raise DataError(
                f"A region called {self.regions[indices[0]].kind} has {width} x {height} pixels, its upright picture "
                f"{size[0]} x {size[1]}.\nRegions must be in the upright picture's own pixels."
            )
        return mask_HW


@dataclass(frozen=True)
class NamedWord:
    """A word that names something.

    Attributes:
        index: of the word in the caption; of a phrase, that of its head.
        name: as it stands there, lower case: "star", "dining table".
        regions: which of the picture's; nothing where no such thing is in the picture: a wrong word.
    """

    index: int
    name: str
    regions: tuple[int, ...]


@dataclass(frozen=True)
class NamedRegions:
    """Regions of some pictures.

    Attributes:
        origin: where they are from, in words.
        notes: sentences on what was decided on the way.
        loaders: by the name of each picture that has some, what makes them.
    """

    origin: str
    notes: tuple[str, ...]
    loaders: Mapping[str, Callable[[], PictureRegions]]

    def of(self, name: str) -> PictureRegions | None:
        """The regions of a picture; None where nothing is known of it, which need not mean that nothing is there."""
        return self.loaders[name]() if name in self.loaders else None


def find_named_words(words: Sequence[str], picture: PictureRegions) -> tuple[NamedWord, ...]:
    """Which words of a caption name something that is known to be, or not to be, in its picture.

    A caption of the picture's own that comes with its mentions is read by those. Any other is read by the rules of
    :mod:`vitrine.data.captions.nouns`; a name stands for all regions of its kind, or, where colours stand
    before it, for those of all these colours.

    Args:
        words: the caption's whole words, with the punctuation attached to them.
        picture: what is known of it.
    """
    mentions = picture.mentions.get(plain_text(" ".join(words)))
    if mentions is not None:
        ends = list(accumulate(len(word) + 1 for word in words))
        return tuple(
            NamedWord(sum(end <= stop - 1 for end in ends), plain_text(" ".join(words))[start:stop], (region,))
            for start, stop, region in mentions
        )
    result = []
    for name in find_names(words, picture.lexicon):
        regions = tuple(
            index
            for index, region in enumerate(picture.regions)
            if region.kind == name.kind and set(name.selectors) <= set(region.attributes)
        )
        result.append(NamedWord(name.index, name.phrase, regions))
    return tuple(result)


def plain_text(caption: str) -> str:
    """A caption in lower case and with single blanks, as captions are compared."""
    return " ".join(caption.lower().split())


__all__ = ["NamedRegions", "NamedWord", "PictureRegions", "Region", "find_named_words", "open_regions"]

_SIZES = frozenset({"large", "small"})
_MOST_OBJECTS = 255  # that a label map of 8 bits can tell apart


def open_regions(reference: str, samples: Sequence[Sample]) -> NamedRegions | None:
    """Find what is known of the things in captioned pictures.

    Generated scenes know their objects. Written scenes have them in ``captions.jsonl`` and ``masks/``; COCO's layout
    in ``annotations/instances_*.json`` or beside the captions.

    Args:
        reference: as it was given to :func:`vitrine.data.captions.datasets.open_captions`.
        samples: pictures of those data.

    Returns:
        None where the data have no regions of any of the pictures.

    Raises:
        DataError: a file of regions is there and cannot be read.
    """
    scenes = {sample.name: sample.picture for sample in samples if isinstance(sample.picture, ScenePicture)}
    if scenes:
        return NamedRegions("the scenes themselves", (), {n: partial(_scene_regions, p) for n, p in scenes.items()})
    path = Path(without_options(reference)).expanduser()
    root = path if path.is_dir() else path.parent.parent if path.parent.name == "annotations" else path.parent
    names = [sample.name for sample in samples]
    regions = _written_scenes(root, samples) or _coco(root, names)
    return regions if regions is not None and regions.loaders else None


# --- scenes


@cache
def _scene_lexicon() -> Lexicon:
    shapes = [shape for family in FAMILIES.values() for shape in family.labels]
    names = {name: shape for shape in shapes for name in (shape, plural(shape))}
    return Lexicon(names, selectors=frozenset(COLOUR_NAMES), fillers=_SIZES)


def _scene_region(shape: str, colour: str, size: str, draw: Callable[[], Mask]) -> Region:
    return Region(shape, (shape, plural(shape)), (colour, size), draw)


def _scene_regions(picture: ScenePicture) -> PictureRegions:
    scene = picture.scene
    regions = tuple(_scene_region(o.shape, o.colour, o.size, partial(np.copy, o.mask)) for o in scene.objects)
    mentions = {
        plain_text(caption.text): tuple((each.start, each.end, each.object_index) for each in caption.mentions)
        for caption in scene.captions
    }
    return PictureRegions(regions, _scene_lexicon(), mentions)


def _written_scenes(root: Path, samples: Sequence[Sample]) -> NamedRegions | None:
    """Objects of scenes that were written to files; None where there are none."""
    source = root / FOLDER
    facts = _scene_facts(root / "captions.jsonl", {sample.name for sample in samples}) if source.is_dir() else {}
    if not facts:
        return None
    scene_samples = [sample for sample in samples if sample.name in facts]
    # The label maps have the value i for object i, counting from 1.
    masks = [
        find_masks(scene_samples, data=root, source=source, value=value)
        for value in range(1, 1 + max(len(objects) for objects, _ in facts.values()))
    ]
    loaders: dict[str, Callable[[], PictureRegions]] = {}
    for name, (objects, mentions) in facts.items():
        draws = [None if each is None else each.loaders.get(name) for each in masks[: len(objects)]]
        regions = [_scene_region(*item, draw) for item, draw in zip(objects, draws, strict=True) if draw is not None]
        if len(regions) == len(objects):
            loaders[name] = partial(PictureRegions, tuple(regions), _scene_lexicon(), mentions)
    return NamedRegions(f"{root / 'captions.jsonl'} and {source}", (), loaders)


_Facts = tuple[list[tuple[str, str, str]], dict[str, tuple[Mention, ...]]]


def _scene_facts(file: Path, names: set[str]) -> dict[str, _Facts]:
    """Objects (shape, colour, size) and mentions of each picture of written scenes; none in a file of other captions.

    Raises:
        DataError: a line that has objects cannot be understood.
    """
    if not file.is_file():
        return {}
    facts: dict[str, _Facts] = {}
    try:
        for number, line in enumerate(FilePicture(file).read_bytes().split(b"\n"), start=1):
            entry = parse_json(line) if line.strip() else None
            if not isinstance(entry, dict) or not {"mask", "objects", "file"} <= entry.keys():
                continue
            if entry["file"] in names:
                facts[entry["file"]] = _facts(entry, f"{file}, line {number}")
    except (PictureError, ValueError) as error:
        raise DataError(f"{file} cannot be read as scenes: {error_summary(error, 120)}.") from error
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
        split_names = [name for name in names if folder in name.split("/")[:-1]] or names
        draws, file_notes = coco_category_masks(file, split_names)
        notes += file_notes
        for name, draw_by_category in draws.items():
            loaders.setdefault(name, partial(_category_regions, draw_by_category))
    unknown = len(names) - len(loaders)
    if unknown:
        notes.append(
            f"{unknown:,} of {count_of(len(names), 'picture')} {agree(unknown, 'has', 'have')} no instances: "
            f"nothing is known of what is in them."
        )
    return NamedRegions(", ".join(str(file) for file in files), tuple(notes), loaders)


def _category_regions(draw_by_category: Mapping[str, Callable[[], Mask]]) -> PictureRegions:
    kinds = {plain_text(category): draw for category, draw in draw_by_category.items()}
    regions = tuple(Region(kind, names_of(kind), (), draw) for kind, draw in kinds.items())
    names = {name: kind for kind in kinds for name in names_of(kind)}
    return PictureRegions(regions, Lexicon({**coco_phrases(), **names}, verbs=VERBS, colours=COLOURS))
