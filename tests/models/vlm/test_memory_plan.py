"""The plan of memory, beside what the model and the cache that it makes take."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.tiny_vlms import photographs, save_tiny_vlm

from vitrine.errors import ModelError
from vitrine.models.checkpoints.state_dict import open_weights
from vitrine.models.vlm import weights
from vitrine.models.vlm.families import context_length
from vitrine.models.vlm.load import open_vision_language_model
from vitrine.models.vlm.memory_plan import MemoryPlan, Precision, free_gpu_memory, free_memory


@pytest.mark.parametrize("kind", ["llava", "qwen2_vl"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_plan_is_what_is_taken(kind: str, precision: Precision, tmp_path: Path) -> None:
    save_tiny_vlm(kind, tmp_path)
    opened = open_vision_language_model(str(tmp_path), precision)
    model, path = opened.module.model, tmp_path / "model.safetensors"
    text = model.config.get_text_config()
    shapes = open_weights(path, as_named=True).shapes
    plan = MemoryPlan.of(path, shapes, text, context_length(model.config), precision)
    assert plan.weights == plan.loading == sum(value.nbytes for value in model.state_dict().values())
    with torch.inference_mode():
        (prefill,) = opened.module.encode([opened.transform(photographs((40, 40))[0])]).features.rows
    cache = sum(keys.nbytes + values.nbytes for keys, values in prefill.layers)
    assert plan.cache == cache // prefill.length * context_length(model.config)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_file_that_is_read_whole_lies_beside_weights_of_another_precision(
    precision: Precision, tmp_path: Path
) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save({"w": torch.zeros(5000, 5)}, path)
    config = SimpleNamespace(num_attention_heads=1, hidden_size=1, num_hidden_layers=1)
    plan = MemoryPlan.of(path, {"w": (5000, 5)}, config, 1, precision)
    beside = path.stat().st_size if precision == "bf16" else 0
    assert plan.loading == 25_000 * (4 if precision == "fp32" else 2) + beside


def test_weights_that_do_not_fit_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny_vlm("llava", tmp_path)
    monkeypatch.setattr(weights, "free_memory", lambda: 50_000)
    with (tmp_path / "model.safetensors").open("r+b") as file:  # reading them would fail in another way
        file.seek(-40_000, 2)
        file.truncate()
        file.seek(0, 2)
        file.write(bytes(40_000))
    with pytest.raises(ModelError, match=r"GiB are free\.\nGive a smaller model.* Or give --precision bf16"):
        open_vision_language_model(str(tmp_path))


def test_a_context_that_does_not_fit_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny_vlm("llava", tmp_path)
    plans: list[MemoryPlan] = []
    check = MemoryPlan.check
    monkeypatch.setattr(MemoryPlan, "check", lambda plan, free: plans.append(plan) or check(plan, free))
    monkeypatch.setattr(weights, "free_memory", lambda: plans[0].loading + 1 if plans else None)
    warnings: list[str] = []
    monkeypatch.setattr(weights, "say", warnings.append)
    open_vision_language_model(str(tmp_path))
    assert not warnings
    open_vision_language_model(str(tmp_path))
    (warning,) = warnings
    assert "if they fill its 640 positions" in warning and "--batch-size" in warning


def test_free_memory_is_some_and_less_than_all() -> None:
    free = free_memory()
    if free is None:
        pytest.skip("Nothing is known of memory here.")
    total = int(Path("/proc/meminfo").read_text("ascii").split("MemTotal:")[1].split()[0]) * 1024
    assert 0 < free < total


def test_a_gpu_that_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for two GPUs of 50,000 and 100,000 bytes, 20,000 of which torch holds without use."""
    save_tiny_vlm("llava", tmp_path)
    free, cuda = (50_000, 80_000), torch.cuda
    for name, stand_in in {
        "is_available": lambda: True,
        "device_count": lambda: 2,
        "mem_get_info": lambda number: (free[number], 200_000),
        "memory_reserved": lambda number: 30_000 * number,
        "memory_allocated": lambda number: 10_000 * number,
    }.items():
        monkeypatch.setattr(cuda, name, stand_in)
    assert free_gpu_memory() == {0: 50_000, 1: 100_000}
    with pytest.raises(
        ModelError, match=r"and cuda:1 has 0\.00 GiB free\.\nGive --device auto, .* or --precision bf16"
    ):
        open_vision_language_model(str(tmp_path), "fp32", torch.device("cuda:1"))
    plan = MemoryPlan(read=9, weights=70, cache=40, positions=5, precision="bf16")
    assert plan.check_gpu("cuda:0", 110, None) == ""
    assert "if they fill its 5 positions" in plan.check_gpu("cuda:0", 109, None)
    with pytest.raises(ModelError, match="while it is read"):
        plan.check_gpu("cuda:0", 110, 8)
