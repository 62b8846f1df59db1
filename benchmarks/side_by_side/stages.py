"""Where the loader's time goes: every step from a file to a normalised batch, with and without decoded pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from harness.rounds import Spread

from vitrine.config import TransformSpec
from vitrine.data.decode import FilePicture, decode, full_size
from vitrine.data.decoded_cache import DecodedPicture
from vitrine.data.loader import load_batch, normalise
from vitrine.data.samples import Picture, Sample
from vitrine.data.transforms import TrainTransform, recolour, warp

MEAN = STD = (0.5, 0.5, 0.5)
DIRECT, KEPT = "decoded from files", "read from decoded_cache"
_SEED, _EPOCH = 0, 1
T = TypeVar("T")


class Stages:
    """The pictures of one batch, taken through the loader's steps one by one.

    Args:
        paths: the files.
        kept: the same pictures in the cache of decoded ones.
        spec: the random changes; without erasing.
        size: side of the model's input, pixels.
    """

    def __init__(self, paths: Sequence[Path], kept: Sequence[DecodedPicture], spec: TransformSpec, size: int) -> None:
        self.sources: dict[str, Sequence[Picture]] = {DIRECT: [FilePicture(path) for path in paths], KEPT: kept}
        self.transform = TrainTransform(spec, (size, size))
        self.spent: dict[str, dict[str, float]] = {}

    def run(self, source: str) -> torch.Tensor:
        """Every step of one batch, each timed by the thread's own clock: the normalised batch."""
        self._spent = self.spent.setdefault(source, {})
        pictures, size = self.sources[source], self.transform.size
        pixels_BCHW = torch.empty((len(pictures), 3, *size), dtype=torch.uint8)
        pixels_BHWC = pixels_BCHW.permute(0, 2, 3, 1).numpy()
        for row, picture in enumerate(pictures):
            if source == DIRECT:
                data = self._timed("read", picture.read_bytes)
                image = self._timed("decode", lambda data=data: decode(data, short=self.transform.short))
            else:
                image = self._timed("read", picture.decode)
            rng = np.random.default_rng(np.random.SeedSequence((_SEED, _EPOCH, row)))
            change = self._timed("draw", lambda image=image, rng=rng: self.transform.draw(*full_size(image), rng))
            how = (change.angle, change.crop, change.flip, size)
            pixels = self._timed("warp", lambda image=image, how=how: warp(image, *how))
            if change.colour:
                pixels = self._timed("colour", lambda pixels=pixels, to=change.colour: recolour(pixels, to))
            self._timed("collate", lambda row=row, pixels=pixels: np.copyto(pixels_BHWC[row], pixels))
        return self._timed("normalise", lambda: normalise(pixels_BCHW, MEAN, STD))

    def loaded(self, source: str) -> torch.Tensor:
        """The same batch by the loader's own function."""
        samples = [Sample(str(row), picture) for row, picture in enumerate(self.sources[source])]
        batch = load_batch(samples, range(len(samples)), self.transform, seed=_SEED, epoch=_EPOCH)
        return normalise(batch.pixels_BCHW, MEAN, STD)

    def _timed(self, name: str, step: Callable[[], T]) -> T:
        began = time.thread_time()
        result = step()
        self._spent[name] = self._spent.get(name, 0.0) + time.thread_time() - began
        return result


def measure_stages(stages: Stages, rounds: int) -> dict[str, dict[str, Spread]]:
    """Milliseconds a picture of every step, by source: median over rounds with lowest and highest; first a warm-up."""
    found: dict[str, dict[str, list[float]]] = {source: {} for source in stages.sources}
    for number in range(rounds + 1):
        for source in list(stages.sources)[:: 1 if number % 2 else -1]:
            stages.spent.pop(source, None)
            stages.run(source)
            if not number:
                continue
            each = {name: 1e3 * spent / len(stages.sources[source]) for name, spent in stages.spent[source].items()}
            for name, value in (each | {"all": sum(each.values())}).items():
                found[source].setdefault(name, []).append(value)
    return {source: {name: Spread.of(values) for name, values in by.items()} for source, by in found.items()}


def print_stages(found: dict[str, dict[str, Spread]]) -> None:
    """A table for each source."""
    for source, by in found.items():
        print(f"\n{source + ', ms a picture':38}{'median':>9}{'lowest':>9}{'highest':>9}{'share':>9}")
        for name, spread in by.items():
            share = f"{100 * spread.median / by['all'].median:.0f} %"
            print(f"  {name:36}{spread.median:9.3f}{spread.low:9.3f}{spread.high:9.3f}{share:>9}")
    direct, kept = (found[source]["all"].median for source in (DIRECT, KEPT))
    print(f"\none core: {1e3 / direct:.0f} pictures/s decoded, {1e3 / kept:.0f} from the cache ({direct / kept:.2f} ×)")
