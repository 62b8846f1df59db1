"""Whether training waits for pictures: the share of every epoch that passes without a batch to train on.

    python benchmarks/waiting.py [--pictures 4000] [--model vit_tiny_patch16_224] [--cache 4] [--json]

``vitrine train``'s own function over JPEG files of 500 × 375 with ``tfm1``, its background workers on the same cores;
two epochs, of which the second reads ``decoded_cache`` where ``--cache`` allows it gigabytes. Timed is every request
for the next batch. Nothing is printed unless every picture was trained on in every epoch.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loader import write_photographs

from vitrine.config import Recipe, named_transforms
from vitrine.data.loader import PictureLoader
from vitrine.io.hub_cache import download_settings
from vitrine.train.run import train

_CLASSES, _EPOCHS, _DIFFERENT = 10, 2, 200


def write_data(folder: Path, pictures: int) -> None:
    """Class folders. Pictures repeat beyond 200, in files that differ: each has bytes of its own after its end."""
    originals = folder / "originals"
    originals.mkdir(parents=True)
    write_photographs(originals, min(pictures, _DIFFERENT), (500, 375))
    encoded = [path.read_bytes() for path in sorted(originals.glob("*.jpg"))]
    for number in range(pictures + _CLASSES):
        split = "train" if number < pictures else "validation"
        to = folder / "data" / split / f"class{number % _CLASSES}" / f"{number:06}.jpg"
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(encoded[number % len(encoded)] + number.to_bytes(4, "big"))


@contextmanager
def timed_epochs() -> Iterator[list[dict[str, float]]]:
    """A row an epoch of training inside the ``with`` block: seconds in all, seconds of waiting, and pictures."""
    plain = PictureLoader.epoch
    rows: list[dict[str, float]] = []

    def epoch(loader: PictureLoader, *args: Any, **settings: Any) -> Iterator[Any]:
        batches = plain(loader, *args, **settings)
        if not settings.get("shuffle"):  # validation
            yield from batches
            return
        row = {"seconds": 0.0, "waited": 0.0, "pictures": 0}
        rows.append(row)
        started = time.perf_counter()
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            row["waited"] += time.perf_counter() - asked
            row["seconds"] = time.perf_counter() - started
            if batch is None:
                return
            row["pictures"] += len(batch)
            yield batch

    PictureLoader.epoch = epoch  # type: ignore[method-assign]
    try:
        yield rows
    finally:
        PictureLoader.epoch = plain  # type: ignore[method-assign]


def measure(options: argparse.Namespace, folder: Path) -> list[dict[str, float]]:
    """A row an epoch.

    Raises:
        ValueError: pictures are missing.
    """
    write_data(folder, options.pictures)
    recipe = Recipe(
        name="waiting", model=options.model, pretrained=False, batch_size=options.batch, epochs=_EPOCHS,
        transforms=named_transforms("tfm1"), early_stopping=0, learning_rate=1e-4, decoded_cache=options.cache,
    )  # fmt: skip
    with timed_epochs() as rows, download_settings(into=folder / "cache"):
        train(str(folder / "data"), recipe, folder / "run")
    if [row["pictures"] for row in rows] != [options.pictures] * _EPOCHS:
        raise ValueError(f"Nothing is printed: not all of {options.pictures} pictures were trained on: {rows}")
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pictures", type=int, default=4000)
    parser.add_argument("--model", default="vit_tiny_patch16_224")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--cache", type=float, default=4.0, metavar="GB")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(options, Path(folder))
    if options.json:
        print(json.dumps(rows, indent=2))
        return 0
    for number, row in enumerate(rows, 1):
        speed, share = row["pictures"] / row["seconds"], row["waited"] / row["seconds"]
        print(f"epoch {number}: {speed:.3g} pictures/s, {share:.1%} of {row['seconds']:.3g} s waiting for batches")
    return 0


if __name__ == "__main__":
    sys.exit(main())
