"""What is known of the things in one picture, and which words of a caption name them.

Axes: H rows, W columns of the upright picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from vitrine.data.naming import Lexicon, find_names
from vitrine.errors import DataError

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
    """All that is known of one picture. What its lexicon can name and is no region here, is not in the picture.

    Attributes:
        regions: at least one.
        lexicon: what can be named.
        mentions: by a caption of its own, which of its characters name which region, exactly.
    """

    regions: tuple[Region, ...]
    lexicon: Lexicon
    mentions: Mapping[str, tuple[Mention, ...]] = field(default_factory=dict)

    def mask(self, chosen: Sequence[int], size: tuple[int, int] | None = None) -> Mask:
        """Some regions together: bool (H, W).

        Args:
            chosen: indices, one at least.
            size: (width, height) of the upright picture, which the mask must have too; None does not compare.

        Raises:
            DataError: a mask cannot be read, or has another size.
        """
        mask_HW: Mask = np.logical_or.reduce([self.regions[index].draw() for index in chosen])
        height, width = mask_HW.shape
        if size is not None and size != (width, height):
            raise DataError(
                f"A region called {self.regions[chosen[0]].kind} has {width} x {height} pixels, its upright picture "
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


def named_words(words: Sequence[str], found: PictureRegions) -> tuple[NamedWord, ...]:
    """Which words of a caption name something that is known to be, or not to be, in its picture.

    A caption of the picture's own that comes with its mentions is read by those. Any other is read by the rules of
    :mod:`vitrine.data.naming`; a name stands for all regions of its kind, or, where colours stand before it, for those
    of all these colours.

    Args:
        words: the caption's whole words, with the punctuation attached to them.
        found: what is known of the picture.
    """
    own = found.mentions.get(plain_text(" ".join(words)))
    if own is not None:
        ends = list(accumulate(len(word) + 1 for word in words))
        return tuple(
            NamedWord(sum(end <= stop - 1 for end in ends), plain_text(" ".join(words))[start:stop], (region,))
            for start, stop, region in own
        )
    named = []
    for name in find_names(words, found.lexicon):
        regions = tuple(
            index
            for index, region in enumerate(found.regions)
            if region.kind == name.kind and set(name.chosen) <= set(region.attributes)
        )
        named.append(NamedWord(name.index, name.phrase, regions))
    return tuple(named)


def plain_text(caption: str) -> str:
    """Lower case, single blanks: what captions are compared in."""
    return " ".join(caption.lower().split())
