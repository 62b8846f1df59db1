"""Perceptual hashes: pictures that show the same have hashes that differ in few bits, whatever was done to the file.

The hash is two of imagehash's, of 256 bits each: ``phash``, the signs of the 16 × 16 lowest frequencies of the grey
picture about their median, which says how its large shapes lie; and ``dhash``, whether each of 16 × 16 cells is lighter
than the next, which tells pictures of like shapes apart. A picture has twelve: of all of it, of its middle 95 % and
90 %, of its mirror image, and without a strip at each side and each corner, so that a slightly cropped or a mirrored
copy is near one of them. What this finds, and how often different photographs are taken for copies, is measured by
``benchmarks/near_copies.py``: see docs/leakage.md.

Axes: Q queries, R references, P pairs of both, H hashes a picture, W words of 64 bits a hash.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, ImageStat

BITS = 512
"""Bits of a hash."""

MAX_DISTANCE = 76
"""Bits that may differ between near copies. Chosen by ``benchmarks/near_copies.py``; see docs/leakage.md."""

_SIDE = 16  # of both hashes: twice _SIDE² is BITS
_STRIP, _CORNER = 0.06, 0.05
# What is left out of the parts that are hashed: shares of the picture at left, top, right and bottom.
_FRAMES = ((0.0, 0.0, 0.0, 0.0), (0.025, 0.025, 0.025, 0.025), (0.05, 0.05, 0.05, 0.05))
_STRIPS = ((_STRIP, 0.0, 0.0, 0.0), (0.0, _STRIP, 0.0, 0.0), (0.0, 0.0, _STRIP, 0.0), (0.0, 0.0, 0.0, _STRIP))
_CORNERS = (
    (_CORNER, _CORNER, 0.0, 0.0),
    (0.0, _CORNER, _CORNER, 0.0),
    (0.0, 0.0, _CORNER, _CORNER),
    (_CORNER, 0.0, 0.0, _CORNER),
)
_MIRRORED = len(_FRAMES)  # place of the mirror image's hash: after the frames, before strips and corners
_HASHES = len(_FRAMES) + 1 + len(_STRIPS) + len(_CORNERS)
_PARTS = tuple(place for place in range(1, _HASHES) if place != _MIRRORED)
# Of the 64 bits of lowest frequency, at which a quick look comes first: of whole pictures, then of what is compared.
_MAX_LOW_DISTANCE, _MAX_LOW_DISTANCE_OF_PARTS = 22, 12
_THUMBNAIL = 128  # pixels a side, from which all are made
_LEAST_CONTRAST = 2.0  # standard deviation of the grey values, of 255: below it there is nothing to compare
_QUERIES_AT_ONCE, _REFERENCES_AT_ONCE = 64, 8192  # 4 MiB of words

SIGNATURE_BYTES = _HASHES * BITS // 8
"""Length of a picture's signature: all its hashes."""

SHORT_SIGNATURE_BYTES = (_MIRRORED + 1) * BITS // 8
"""Length of the part of a signature without strips and corners, which files keep."""

COMPARISONS = tuple(
    (one, other, is_mirrored)
    for whole, is_mirrored in ((0, False), (_MIRRORED, True))
    for one, other in ((whole, 0), *((whole, place) for place in _PARTS), *((place, whole) for place in _PARTS))
)
"""Which hash of the query is compared with which hash of the reference, and whether one of them is a mirror image's."""

Words = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]


def signature(picture: Image.Image) -> bytes | None:
    """The perceptual hashes of a picture, :data:`SIGNATURE_BYTES` long.

    Args:
        picture: upright, of any size and mode.

    Returns:
        None where the picture is of one colour, so that there is nothing to compare.
    """
    import imagehash  # takes a moment to import

    side = (_THUMBNAIL, _THUMBNAIL)
    thumbnail = picture.convert("L").resize(side, Image.Resampling.BILINEAR, reducing_gap=2.0)
    if ImageStat.Stat(thumbnail).stddev[0] < _LEAST_CONTRAST:
        return None
    parts = [_cut(thumbnail, *margins) for margins in (*_FRAMES, *_STRIPS, *_CORNERS)]
    parts.insert(_MIRRORED, ImageOps.mirror(parts[0]))
    return b"".join(_pack(imagehash.phash(each, _SIDE).hash, imagehash.dhash(each, _SIDE).hash) for each in parts)


def _cut(thumbnail: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    """The thumbnail without these shares of its sides, in the size that a hash is made of."""
    box = (_THUMBNAIL * left, _THUMBNAIL * top, _THUMBNAIL * (1 - right), _THUMBNAIL * (1 - bottom))
    return thumbnail.resize((4 * _SIDE, 4 * _SIDE), Image.Resampling.BILINEAR, box=box)


def lengthen(short_signature: bytes) -> bytes:
    """A whole signature from the part that files keep: what is missing is taken by the hash of the whole picture."""
    missing = (SIGNATURE_BYTES - SHORT_SIGNATURE_BYTES) // (BITS // 8)
    return short_signature + missing * short_signature[: BITS // 8]


def _pack(frequencies: npt.NDArray[np.bool_], differences: npt.NDArray[np.bool_]) -> bytes:
    """Both hashes of a picture as bytes: the quarter of lowest frequencies first."""
    half = _SIDE // 2
    rows = (frequencies[:half], frequencies[half:])
    quarters = [part for row in rows for part in (row[:, :half], row[:, half:])]
    return np.packbits(np.concatenate([each.ravel() for each in (*quarters, differences)])).tobytes()


@dataclass(frozen=True)
class NearestPicture:
    """A query and the reference that is nearest to it.

    Attributes:
        query, reference: their places.
        distance: bits that differ, 0 to :data:`BITS`.
        is_mirrored: whether one of them is nearer to the other's mirror image.
    """

    query: int
    reference: int
    distance: int
    is_mirrored: bool


def find_near(
    queries: Sequence[bytes],
    references: Sequence[bytes],
    *,
    earlier_only: bool = False,
    max_distance: int = MAX_DISTANCE,
) -> list[NearestPicture]:
    """The nearest reference of each query that has one within ``max_distance``; of equally near ones the first.

    Every pair is compared, block by block, so that memory does not grow with the pairs. A pair takes less than a
    tenth of a microsecond.

    Args:
        queries: signatures.
        references: signatures.
        earlier_only: compare a query with the references before its own place only; both are one sequence then.
        max_distance: bits that may differ.
    """
    if not queries or not references:
        return []
    query_QHW, reference_RHW = _unpack(queries), _unpack(references)
    nearest: dict[int, NearestPicture] = {}
    for first in range(0, len(query_QHW), _QUERIES_AT_ONCE):
        for start in range(0, len(reference_RHW), _REFERENCES_AT_ONCE):
            if earlier_only and start >= first + _QUERIES_AT_ONCE:
                break
            block = _Block(
                query_QHW[first : first + _QUERIES_AT_ONCE],
                reference_RHW[start : start + _REFERENCES_AT_ONCE],
                first - start if earlier_only else None,
                max_distance,
            )
            for query, reference, distance, is_mirrored in block.nearest():
                before = nearest.get(first + query)
                if before is None or distance < before.distance:
                    nearest[first + query] = NearestPicture(first + query, start + reference, distance, is_mirrored)
    return [nearest[query] for query in sorted(nearest)]


def _unpack(signatures: Sequence[bytes]) -> Words:
    words = np.frombuffer(b"".join(signatures), dtype="<u8").astype(np.uint64)
    return words.reshape(len(signatures), _HASHES, -1)


@dataclass(frozen=True, eq=False)
class _Block:
    """Some queries and some references, of which every pair is compared.

    Attributes:
        query_QHW, reference_RHW: their hashes.
        offset: place of the first query among the references; None where the two have nothing to do with one another.
        max_distance: bits that may differ.
    """

    query_QHW: Words
    reference_RHW: Words
    offset: int | None
    max_distance: int

    def nearest(self) -> Iterator[tuple[int, int, int, bool]]:
        """Query, its nearest reference, their distance, and whether one is mirrored; of near ones only."""
        parts = [self._near_pairs(is_mirrored) for is_mirrored in (False, True)]
        query_P, reference_P, distance_P, is_mirrored_P = (np.concatenate(each) for each in zip(*parts, strict=True))
        order = np.lexsort((is_mirrored_P, reference_P, distance_P, query_P))
        _, first_of_query = np.unique(query_P[order], return_index=True)
        for place in order[first_of_query].tolist():
            yield int(query_P[place]), int(reference_P[place]), int(distance_P[place]), bool(is_mirrored_P[place])

    def _near_pairs(self, is_mirrored: bool) -> tuple[Places, Places, Places, Places]:
        """Queries, references, least distances, and whether mirrored, of the near pairs."""
        whole = _MIRRORED if is_mirrored else 0
        low_QR = np.bitwise_count(self.query_QHW[:, whole, 0, None] ^ self.reference_RHW[None, :, 0, 0])
        query_P, reference_P = np.nonzero(low_QR <= _MAX_LOW_DISTANCE)
        if self.offset is not None:
            is_earlier_P = reference_P < query_P + self.offset
            query_P, reference_P = query_P[is_earlier_P], reference_P[is_earlier_P]
        distance_P = np.full(len(query_P), BITS + 1)
        for one, other, _ in (each for each in COMPARISONS if each[2] == is_mirrored):
            low_P = np.bitwise_count(self.query_QHW[query_P, one, 0] ^ self.reference_RHW[reference_P, other, 0])
            alike = np.flatnonzero(low_P <= _MAX_LOW_DISTANCE_OF_PARTS)
            differing = self.query_QHW[query_P[alike], one] ^ self.reference_RHW[reference_P[alike], other]
            distance_P[alike] = np.minimum(distance_P[alike], np.bitwise_count(differing).sum(1, dtype=np.int64))
        near_P = np.flatnonzero(distance_P <= self.max_distance)
        return query_P[near_P], reference_P[near_P], distance_P[near_P], np.full(len(near_P), int(is_mirrored))
