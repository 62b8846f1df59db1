"""A recipe of a tiny training, and the files that two equal trainings share."""

from collections.abc import Callable
from pathlib import Path

from support.models import MICRO
from vitrine.config import Recipe, named_transforms

TrainOnce = Callable[[Path, Recipe], Path]
"""The fixture ``train_once``."""

REPEATABLE = ("history.jsonl", "metrics.json", "predictions.csv", "model.safetensors", "data.json", "config.json")


def recipe(**changes: object) -> Recipe:
    settings = {
        "name": "micro",
        "model": "vit_tiny_patch16_224",
        "model_args": MICRO,
        "pretrained": False,
        "image_size": 32,
        "transforms": named_transforms("scenes"),
        "batch_size": 16,
        "epochs": 2,
        "learning_rate": 2e-3,
        "workers": 0,
        "precision": "fp32",
    }
    return Recipe(**{**settings, **changes})  # type: ignore[arg-type]


def same_files(one: Path, other: Path) -> None:
    for name in REPEATABLE:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


FULL = {
    "mixup": 0.2,
    "cutmix": 0.5,
    "mix_off_epochs": 1,
    "ema": 0.9,
    "drop_path": 0.1,
    "patch_drop": 0.25,
    "accumulate": 2,
}
