"""Pictures read once, several at a time and in order: the hash, the header and the readability of each."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from vitrine.data.decode import PictureFacts, decode, describe
from vitrine.data.perceptual_hash import signature
from vitrine.data.samples import Sample
from vitrine.errors import PictureError
from vitrine.results import Progress

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class SampleIndex:
    """Hashes, size and readability of every picture of some data.

    Attributes:
        hashes: sample name to the SHA-256 of its file's bytes, in hexadecimal; a file whose bytes cannot be had at
            all is missing here.
        unreadable: (name, reason in one line) of every picture that does not decode.
        sizes: sample name to width and height in pixels, as its header has them.
        signatures: sample name to its perceptual hashes (see :mod:`vitrine.data.perceptual_hash`); pictures that do not
            decode, and those of one colour, are missing here.
    """

    hashes: Mapping[str, str]
    unreadable: tuple[tuple[str, str], ...]
    sizes: Mapping[str, tuple[int, int]]
    signatures: Mapping[str, bytes] = field(default_factory=dict)

    @classmethod
    def concatenate(cls, parts: Sequence[SampleIndex]) -> SampleIndex:
        """The index of pictures that were read in parts, in their order."""
        hashes = {name: sha256 for part in parts for name, sha256 in part.hashes.items()}
        sizes = {name: size for part in parts for name, size in part.sizes.items()}
        signatures = {name: each for part in parts for name, each in part.signatures.items()}
        return cls(hashes, tuple(row for part in parts for row in part.unreadable), sizes, signatures)


@dataclass(frozen=True)
class Reading:
    """What one picture was found to be when it was read.

    Attributes:
        name: the sample's name.
        sha256: of the file's bytes; None where they cannot be had.
        size: length of the file in bytes.
        facts: the header; None where there is none.
        problem: why the picture cannot be used; None where it can.
        signature: its perceptual hashes; None where it does not decode or is of one colour.
        brightest: the largest value of any channel after decoding, 0 to 255, of a picture of more than 8 bits; None of
            others.
    """

    name: str
    sha256: str | None = None
    size: int = 0
    facts: PictureFacts | None = None
    problem: str | None = None
    signature: bytes | None = None
    brightest: int | None = None


def index_samples(samples: Sequence[Sample], *, workers: int = -1, progress: Progress | None = None) -> SampleIndex:
    """Decode every picture and hash its bytes and what it shows.

    Args:
        samples: the pictures; names are unique.
        workers: threads; -1 chooses, 0 reads in the calling thread.
        progress: called with (done, total) after each picture, from the calling thread.
    """
    hashes: dict[str, str] = {}
    unreadable: list[tuple[str, str]] = []
    sizes: dict[str, tuple[int, int]] = {}
    signatures: dict[str, bytes] = {}
    for reading in read_samples(samples, workers=workers, progress=progress):
        if reading.sha256 is not None:
            hashes[reading.name] = reading.sha256
        if reading.facts is not None:
            sizes[reading.name] = reading.facts.width, reading.facts.height
        if reading.problem is not None:
            unreadable.append((reading.name, reading.problem))
        if reading.signature is not None:
            signatures[reading.name] = reading.signature
    return SampleIndex(hashes, tuple(unreadable), sizes, signatures)


def read_samples(
    samples: Sequence[Sample], *, workers: int = -1, progress: Progress | None = None
) -> Iterator[Reading]:
    """Yield a :class:`Reading` of every picture in order. Threads suffice: Pillow decodes without Python's lock."""
    total = len(samples)
    for done, reading in enumerate(map_in_order(read_sample, samples, workers), start=1):
        if progress is not None:
            progress(done, total)
        yield reading


def read_sample(sample: Sample) -> Reading:
    """Read, hash and decode one picture; a :class:`PictureError` becomes the reading's ``problem``."""
    try:
        data = sample.picture.read_bytes()
    except PictureError as error:
        return Reading(sample.name, problem=str(error))
    sha256 = hashlib.sha256(data).hexdigest()
    facts = None
    try:
        facts = describe(data)
        picture = decode(data)
    except PictureError as error:
        return Reading(sample.name, sha256, len(data), facts, str(error))
    brightest = int(np.asarray(picture).max()) if facts.bits > 8 else None
    return Reading(sample.name, sha256, len(data), facts, signature=signature(picture), brightest=brightest)


def map_in_order(work: Callable[[Sample], _Result], samples: Iterable[Sample], workers: int = -1) -> Iterator[_Result]:
    """Yield ``work(sample)`` of each sample, in order, computed by threads that run ahead by a bounded number.

    Args:
        work: called with one sample.
        samples: any number.
        workers: threads; -1 chooses, 0 works in the calling thread.
    """
    threads = _available_cores() if workers < 0 else workers
    if threads == 0:
        yield from map(work, samples)
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="vitrine-read") as pool:
        waiting: deque[Future[_Result]] = deque()  # bounded: a million pictures are not a million futures
        try:
            for sample in samples:
                waiting.append(pool.submit(work, sample))
                if len(waiting) >= 16 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:  # an interruption does not wait for what was not begun
                future.cancel()


def _available_cores() -> int:
    """Cores this process may use; os.cpu_count() also counts those that it may not."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
