"""A run prepares pictures as its model or its recipe says, writes that down, and plain timm does the same."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from support.format_makers import seeded
from support.models import MICRO
from support.training import recipe

import vitrine
from vitrine.config import TransformSpec
from vitrine.config.preprocessing import InputSpec
from vitrine.export.run import export
from vitrine.runs.folder import RunFolder
from vitrine.train.run import train

SHAPES = [(70, 40), (40, 90), (33, 33), (120, 31), (31, 95)]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of pictures of many shapes: dark at the left, or dark at the right."""
    folder, rng = tmp_path_factory.mktemp("shapes"), np.random.default_rng(2)
    for split, copies in (("train", 2), ("validation", 1)):
        for label in ("left", "right"):
            (folder / split / label).mkdir(parents=True)
            for number, (width, height) in enumerate(SHAPES * copies):
                ramp = np.linspace(0, 200, width)[:: 1 if label == "left" else -1]
                pixels = np.broadcast_to(ramp[None, :, None], (height, width, 3)) + rng.normal(
                    0, 25, (height, width, 3)
                )
                image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
                image.save(folder / split / label / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def squashing_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose configuration asks for what the published EVA models ask for, and for another filter."""
    folder = tmp_path_factory.mktemp("models")
    module = seeded(timm.create_model("vit_tiny_patch16_224", **MICRO, num_classes=3))
    mean, std = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
    RunFolder(folder).save_model(module, ("a", "b", "c"), InputSpec((32, 32), mean, std, 0.9, "squash", "bilinear"))
    return folder


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "as the model": (
        {},
        {"input_size": [3, 32, 32], "crop_mode": "squash", "interpolation": "bilinear", "crop_pct": 1.0},
    ),
    "as the recipe, not square": (
        {
            "model": "vit_tiny_patch16_224",
            "model_args": {**MICRO, "img_size": (24, 40)},
            "image_size": 0,
            "pretrained": False,
            "transforms": TransformSpec(
                flip=0.5, erase=0.5, eval_crop=0.9, crop_mode="border", interpolation="lanczos"
            ),
        },
        {"input_size": [3, 24, 40], "crop_mode": "border", "interpolation": "lanczos", "crop_pct": 0.9},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_plain_timm_says_what_the_run_says(case: str, photographs: Path, squashing_model: Path, tmp_path: Path) -> None:
    changes, expected = CASES[case]
    settings = {"model": str(squashing_model), "model_args": {}, "pretrained": True, "transforms": TransformSpec()}
    run = tmp_path / "run"
    train(str(photographs), recipe(**{**settings, "epochs": 1, "batch_size": 4, **changes}), run)

    cfg = json.loads((run / "config.json").read_text())["pretrained_cfg"]
    assert {name: cfg[name] for name in expected} == expected
    module = timm.create_model(f"local-dir:{run}", pretrained=True).eval()
    prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(module), is_training=False)
    with (run / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 10
    for row in rows:
        picture = Image.open(photographs / row["filename"]).convert("RGB")
        with torch.inference_mode():
            probabilities = module(prepare(picture)[None]).softmax(1)[0].tolist()
        assert row["label"] == ("left", "right")[int(np.argmax(probabilities))]
        assert float(row["probability"]) == pytest.approx(max(probabilities), abs=2e-6), row["filename"]

    assert export(run, "timm", tmp_path / "timm").same
    explanation = vitrine.load(run, precision="fp32").explain(photographs / rows[3]["filename"])
    assert explanation.map.shape == (expected["input_size"][1] // 8, expected["input_size"][2] // 8)
    share = explanation.picture.placement.visible_share
    assert share == 1 if case == "as the model" else 0.85 < share < 1, "the crop leaves out a tenth of the long side"
