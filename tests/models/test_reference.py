"""How often a model reference is resolved, its weights are located and read, and its module is built."""

from __future__ import annotations

import functools
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from support.checkpoints import expect_error

from vitrine.classify.predict import predict
from vitrine.config import Recipe, named_transforms
from vitrine.models import reference
from vitrine.models.checkpoints import state_dict
from vitrine.train.run import train


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts of calls, under ``resolve``, ``locate``, ``scan``, ``read`` and ``build``, from here to the test's end."""
    counts: Counter[str] = Counter()

    def counting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            counts[name] += 1
            return function(*args, **options)

        return call

    def watch(name: str, function: Callable[..., Any]) -> None:
        """Replace a function under every name that a module of vitrine has for it."""
        replacement = counting(name, function)
        for module in [module for key, module in sys.modules.items() if key.startswith("vitrine")]:
            for attribute in [key for key, value in vars(module).items() if value is function]:
                monkeypatch.setattr(module, attribute, replacement)

    watch("resolve", reference.resolve_reference)
    watch("locate", reference.locate_weights)
    watch("scan", state_dict.open_weights)
    monkeypatch.setattr(state_dict.StateDictFile, "tensors", counting("read", state_dict.StateDictFile.tensors))
    monkeypatch.setattr(timm, "create_model", counting("build", timm.create_model))
    return counts


def test_a_pth_file_beside_a_config_is_scanned_once(
    small_run: Path, small_scenes: Path, tmp_path: Path, calls: Counter[str]
) -> None:
    shutil.copy(small_run / "config.json", tmp_path)
    torch.save(load_file(small_run / "model.safetensors"), tmp_path / "weights.pth")
    predict(str(tmp_path / "weights.pth"), small_scenes, tmp_path / "predictions.csv")
    assert calls == {"resolve": 1, "locate": 1, "scan": 1, "read": 1, "build": 1}


def test_a_training_resolves_its_model_once(
    small_run: Path, small_scenes: Path, tmp_path: Path, calls: Counter[str]
) -> None:
    recipe = Recipe(
        name="micro",
        model=str(small_run),
        transforms=named_transforms("scenes"),
        batch_size=16,
        epochs=1,
        workers=0,
        precision="fp32",
    )
    train(str(small_scenes), recipe, tmp_path / "run")
    # Once for the model that training starts from, once for the written run, which is measured as others will open it.
    assert calls == {"resolve": 2, "locate": 2, "scan": 2, "read": 2, "build": 2}


def test_an_adapter_is_refused_by_its_name(tmp_path: Path) -> None:
    """A folder and a file as peft writes them: what is added to a model is none."""
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    name = "base_model.model.vit.encoder.layer.0.attention.attention.query.lora_A.weight"
    save_file({name: torch.zeros(8, 48)}, tmp_path / "adapter_model.safetensors")
    for path in (tmp_path, tmp_path / "adapter_model.safetensors"):
        expect_error(path, r"is an adapter of the library peft.*\n.*merge_and_unload")
