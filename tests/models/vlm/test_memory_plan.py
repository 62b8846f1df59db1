"""The plan of memory, beside what the model and the cache that it makes take."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.tiny_vlms import photographs, save_tiny_vlm

from vitrine.errors import ModelError
from vitrine.models.checkpoints.state_dict import open_weights
from vitrine.models.vlm import load
from vitrine.models.vlm.families import context_length
from vitrine.models.vlm.load import open_vision_language_model
from vitrine.models.vlm.memory_plan import MemoryPlan, free_memory


@pytest.mark.parametrize("kind", ["llava", "qwen2_vl"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_plan_is_what_is_taken(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    save_tiny_vlm(kind, tmp_path)
    opened = open_vision_language_model(str(tmp_path), dtype)
    model, path = opened.module.model, tmp_path / "model.safetensors"
    text = model.config.get_text_config()
    plan = MemoryPlan.of(path, open_weights(path, as_named=True).shapes, text, context_length(model.config), dtype)
    assert plan.weights == sum(value.nbytes for value in model.state_dict().values())
    assert (plan.loading > plan.weights) == (dtype == torch.bfloat16), "the file is in float32"
    with torch.inference_mode():
        (prefill,) = opened.module.encode([opened.transform(photographs((40, 40))[0])]).features.rows
    cache = sum(keys.nbytes + values.nbytes for keys, values in prefill.layers)
    assert plan.cache == cache // prefill.length * context_length(model.config)


def test_weights_that_do_not_fit_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny_vlm("llava", tmp_path)
    monkeypatch.setattr(load, "free_memory", lambda: 50_000)
    with (tmp_path / "model.safetensors").open("r+b") as file:  # reading them would fail in another way
        file.seek(-40_000, 2)
        file.truncate()
        file.seek(0, 2)
        file.write(bytes(40_000))
    with pytest.raises(ModelError, match=r"GiB are free\.\nGive a smaller model.* Or give --precision bf16"):
        open_vision_language_model(str(tmp_path))


def test_a_context_that_does_not_fit_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save_tiny_vlm("llava", tmp_path)
    plans: list[MemoryPlan] = []
    check = MemoryPlan.check
    monkeypatch.setattr(MemoryPlan, "check", lambda plan, free, dtype: plans.append(plan) or check(plan, free, dtype))
    monkeypatch.setattr(load, "free_memory", lambda: plans[0].loading + 1 if plans else None)
    open_vision_language_model(str(tmp_path))
    assert not caplog.text
    open_vision_language_model(str(tmp_path))
    warning = caplog.text
    assert "if they fill its 640 positions" in warning and "--batch-size" in warning


def test_free_memory_is_some_and_less_than_all() -> None:
    free = free_memory()
    if free is None:
        pytest.skip("Nothing is known of memory here.")
    total = int(Path("/proc/meminfo").read_text("ascii").split("MemTotal:")[1].split()[0]) * 1024
    assert 0 < free < total
