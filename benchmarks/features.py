"""How much sooner an epoch of head-only training ends where features are computed once.

    python benchmarks/features.py [--model vit_base_patch16_224] [--pictures 64] [--views 1] [--json]

Two trainings of the same recipe by ``vitrine train``'s own function, one that keeps features and one that is not
allowed to, in one process, alternating round by round; random weights, JPEG files of 500 × 375. An epoch is training
and validation. Both must report the same losses within 1e-3 (5e-2 where they compute in bf16), or nothing is printed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch
from harness.rounds import Spread, ratios
from side_by_side.task import write_pictures

from vitrine.config import Recipe, TransformSpec
from vitrine.runs.folder import RunFolder
from vitrine.train import feature_cache
from vitrine.train.run import train

_CLASSES = 4
_TRANSFORMS = TransformSpec(name="some", rotation=20, crop_scale=(0.7, 1.0), brightness=0.3)


def write_data(folder: Path, pictures: int) -> None:
    """Class folders: ``pictures`` to train on, half as many to validate."""
    loose = folder / "loose"
    loose.mkdir()
    write_pictures(loose, pictures + pictures // 2)
    for number, path in enumerate(sorted(loose.glob("*.jpg"))):
        split = "train" if number < pictures else "validation"
        to = folder / split / f"class {number % _CLASSES}" / path.name
        to.parent.mkdir(parents=True, exist_ok=True)
        path.rename(to)
    loose.rmdir()


def one_training(data: Path, recipe: Recipe, run: Path, keep: bool) -> tuple[list[float], list[float]]:
    """Seconds of every epoch, training and validation together; and its losses."""
    allowed = feature_cache.MAX_CACHE_BYTES
    feature_cache.MAX_CACHE_BYTES = allowed if keep else 0
    try:
        train(str(data), recipe, run)
    finally:
        feature_cache.MAX_CACHE_BYTES = allowed
    rows = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    losses = [row[name] for row in rows for name in ("train_loss", "validation_loss")]
    return [row["train_seconds"] + row["evaluation_seconds"] for row in RunFolder(run).read_timings()], losses


def measure(options: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Later epochs of both, their ratio round by round, and the first epoch, in which features are computed."""
    data = folder / "data"
    data.mkdir()
    write_data(data, options.pictures)
    recipe = Recipe(
        name="head", model=options.model, pretrained=False, tune="head", batch_size=32, epochs=options.views + 2,
        transforms=_TRANSFORMS if options.views > 1 else TransformSpec(), views=options.views, early_stopping=0,
        precision=options.precision, learning_rate=1e-3,
    )  # fmt: skip
    later: dict[bool, list[float]] = {True: [], False: []}
    first: list[float] = []
    worst = 0.0
    for number in range(options.rounds):
        losses = {}
        for keep in (True, False) if number % 2 else (False, True):
            seconds, losses[keep] = one_training(data, recipe, folder / f"{number}-{keep}", keep)
            later[keep].append(sum(seconds[1:]) / len(seconds[1:]))
            first += [seconds[0]] if keep else []
        worst = max(worst, *(abs(a - b) / max(1.0, abs(b)) for a, b in zip(losses[True], losses[False], strict=True)))
    return {
        "model": options.model,
        "training_pictures": options.pictures,
        "views": options.views,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "largest_difference_of_losses": worst,
        "first_epoch_seconds": Spread.of(first),
        "later_epoch_seconds": Spread.of(later[True]),
        "epoch_seconds_without": Spread.of(later[False]),
        "times_as_fast": ratios(later[False], later[True]),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="vit_base_patch16_224")
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--views", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options, Path(folder))
    allowed = 1e-3 if options.precision == "fp32" else 5e-2
    if found["largest_difference_of_losses"] > allowed:  # type: ignore[operator]
        print(
            f"The losses differ by {found['largest_difference_of_losses']}: these speeds mean nothing.", file=sys.stderr
        )
        return 1
    if options.json:
        plain = {key: asdict(value) if isinstance(value, Spread) else value for key, value in found.items()}
        print(json.dumps(plain, indent=2))
    else:
        for key, value in found.items():
            print(f"{key.replace('_', ' '):32}{value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
