"""How many copies of a photograph a perceptual hash finds, and how often it takes different photographs for copies.

    python benchmarks/near_copies.py ../shared/data

False alarms: all pairs of the photographs in the folders are compared, by all bits of the hashes and, as vitrine does,
after a quick look at some of them. The nearest pairs are named, so that a person can see whether they are different
photographs at all; ``--same A,B`` takes a pair that is not out of the count.

Finds: a sample of the photographs is recompressed, scaled, cropped, mirrored and recoloured, and each changed picture
is held against its original. Both tables are in docs/leakage.md.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance, ImageOps

from vitrine.data.decode import EXTENSIONS, decode
from vitrine.data.perceptual_hash import BITS, COMPARISONS, MAX_DISTANCE, find_near, signature

THRESHOLDS = (64, 72, 76, 80, 88, 96, 104, 112, 128)
_NEAREST = 12  # pairs that are named
_ROWS = 128  # of the matrix of pairs, at a time

Change = Callable[[Image.Image], Image.Image]


def recompress(quality: int) -> Change:
    """Stored as JPEG of a quality, and read again."""

    def change(picture: Image.Image) -> Image.Image:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        return decode(file.getvalue())

    return change


def scale(factor: float) -> Change:
    """Both sides times a factor."""
    return lambda picture: picture.resize(
        (max(1, round(picture.width * factor)), max(1, round(picture.height * factor))), Image.Resampling.BICUBIC
    )


def crop(left: float, top: float, right: float, bottom: float) -> Change:
    """Without so much of the width and the height at each side."""
    return lambda picture: picture.crop(
        (
            round(picture.width * left),
            round(picture.height * top),
            round(picture.width * (1 - right)),
            round(picture.height * (1 - bottom)),
        )
    )


def _frame(share: float) -> Change:
    return crop(share / 2, share / 2, share / 2, share / 2)


CHANGES: dict[str, Change] = {
    **{f"JPEG, quality {quality}": recompress(quality) for quality in (95, 75, 50, 30)},
    **{f"scaled by {factor:g}": scale(factor) for factor in (2.0, 0.5, 0.25)},
    "mirrored": ImageOps.mirror,
    "mirrored, JPEG 50, scaled by 0.5": lambda picture: recompress(50)(scale(0.5)(ImageOps.mirror(picture))),
    "brightness × 1.2": lambda picture: ImageEnhance.Brightness(picture).enhance(1.2),
    "contrast × 0.8": lambda picture: ImageEnhance.Contrast(picture).enhance(0.8),
    "saturation × 0.5": lambda picture: ImageEnhance.Color(picture).enhance(0.5),
    "greyscale": lambda picture: picture.convert("L").convert("RGB"),
    **{f"{share:.0%} cropped off, all round": _frame(share) for share in (0.02, 0.05, 0.08, 0.1)},
    "10% cropped off all round, JPEG 50": lambda picture: recompress(50)(_frame(0.1)(picture)),
    "10% cropped off all round, mirrored": lambda picture: ImageOps.mirror(_frame(0.1)(picture)),
    **{f"{share:.0%} cropped off, at the bottom": crop(0, 0, 0, share) for share in (0.02, 0.05, 0.08, 0.1)},
    "5% cropped off at the right, mirrored, JPEG 50": lambda picture: recompress(50)(
        ImageOps.mirror(crop(0, 0, 0.05, 0)(picture))
    ),
    **{f"{share:.0%} cropped off, at left and top": crop(share, share, 0, 0) for share in (0.02, 0.05, 0.08, 0.1)},
}


def list_photographs(folders: Sequence[Path]) -> list[Path]:
    """The pictures below some folders, without masks."""
    paths = (path for folder in folders for path in sorted(folder.rglob("*")))
    return [path for path in paths if path.suffix.lower() in EXTENSIONS and "masks" not in path.parts]


def pair_distances(signatures: Sequence[bytes]) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """Row by row, the distance of a picture from every later one: the least over all comparisons of all bits.

    Slow and plain: what :func:`vitrine.data.perceptual_hash.find_near` finds quickly is counted here once more.
    """
    bytes_N = np.frombuffer(b"".join(signatures), np.uint8)
    bits_NHB = np.unpackbits(bytes_N.reshape(len(signatures), -1, BITS // 8), axis=2)
    signs_HNB = np.ascontiguousarray(bits_NHB.transpose(1, 0, 2).astype(np.float32) * 2 - 1)
    for first in range(0, len(signatures), _ROWS):
        block = slice(first, first + _ROWS)
        distance = np.min(
            [(BITS - signs_HNB[one, block] @ signs_HNB[other].T) / 2 for one, other, _ in COMPARISONS], axis=0
        )
        for row, distances in enumerate(np.rint(distance).astype(np.int64), start=first):
            yield row, distances[row + 1 :]


def false_alarms(paths: Sequence[Path], signatures: Sequence[bytes], same: set[frozenset[str]]) -> None:
    """Print how many pairs of different photographs are within each distance, and which are nearest."""
    counts, pairs, nearest = np.zeros(BITS + 1, np.int64), 0, list[tuple[int, str, str]]()
    for row, distances in pair_distances(signatures):
        for column in np.flatnonzero(distances <= THRESHOLDS[-1]).tolist():
            names = [path_name(paths[index]) for index in (row, row + 1 + column)]
            if frozenset(names) in same:
                distances[column] = BITS
            else:
                nearest.append((int(distances[column]), *names))
        counts += np.bincount(distances, minlength=BITS + 1)
        pairs += len(distances)
    began = time.process_time()
    near = find_near(signatures, signatures, earlier_only=True)
    nanoseconds = 1e9 * (time.process_time() - began) / max(1, pairs)
    pairs_of_near = [frozenset(path_name(paths[place]) for place in (each.query, each.reference)) for each in near]
    quick = sum(each not in same for each in pairs_of_near)
    print(f"\n{len(signatures):,} photographs, {pairs:,} pairs, {len(same)} pairs of the same thing left out\n")
    print(f"Comparing a pair takes {nanoseconds:.0f} ns.\n")
    print("| distance at most | pairs of different photographs | in a million |\n| ---: | ---: | ---: |")
    for threshold in THRESHOLDS:
        count = int(counts[: threshold + 1].sum())
        print(f"| {threshold} | {count:,} | {1e6 * count / pairs:.2f} |")
    print(f"\nPhotographs that find_near takes for a copy of an earlier one, at {MAX_DISTANCE}: {quick}")
    print("\nNearest pairs:")
    for distance, one, other in sorted(nearest)[:_NEAREST]:
        print(f"  {distance} {one} ~ {other}")


def path_name(path: Path) -> str:
    """The end of a path, by which the tables call a photograph."""
    return "/".join(path.parts[-3:])


def finds(pictures: Sequence[Image.Image]) -> None:
    """Print, for each change, which share of the changed pictures is within each distance of its original."""
    originals = [signature(picture) or b"" for picture in pictures]
    shown = [64, 72, 76, 80, 88]
    print(f"\n{len(pictures)} photographs, each changed and compared with itself; share within a distance\n")
    print(f"| change | {' | '.join(f'≤ {each}' for each in shown)} | found (≤ {MAX_DISTANCE}, as used) |")
    print(f"| --- |{' ---: |' * (len(shown) + 1)}")
    for name, change in CHANGES.items():
        changed = [signature(change(picture)) or b"" for picture in pictures]
        distance = np.array([pair_distance(one, other) for one, other in zip(originals, changed, strict=True)])
        used = np.mean([bool(find_near([one], [other])) for one, other in zip(changed, originals, strict=True)])
        shares = " | ".join(f"{np.mean(distance <= each):.3f}" for each in shown)
        print(f"| {name} | {shares} | {used:.3f} |", flush=True)


def pair_distance(one: bytes, other: bytes) -> int:
    """The distance of two pictures by all bits of all comparisons."""
    (_, distances), *_ = pair_distances([one, other])
    return int(distances[0])


def main() -> None:
    """Measure both, and the time that a hash and a comparison take."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--sample", type=int, default=300, help="photographs that are changed")
    parser.add_argument("--same", action="append", default=[], metavar="A,B", help="a pair that shows the same thing")
    arguments = parser.parse_args()
    paths = list_photographs(arguments.folders)
    chosen = set(np.random.default_rng(0).permutation(len(paths))[: arguments.sample].tolist())
    signatures, kept, pictures, seconds = [], list[Path](), list[Image.Image](), 0.0
    for number, path in enumerate(paths):
        picture = decode(path.read_bytes())
        began = time.process_time()
        each = signature(picture)
        seconds += time.process_time() - began
        if each is not None:
            signatures.append(each)
            kept.append(path)
            pictures += [picture] if number in chosen else []
    print(f"A signature takes {1e3 * seconds / len(paths):.2f} ms of one core, beside decoding.")
    same = {frozenset(each.split(",")) for each in arguments.same}
    false_alarms(kept, signatures, same)
    finds(pictures)


if __name__ == "__main__":
    main()
