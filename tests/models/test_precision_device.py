"""The device that models are opened on, where one is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.tiny_vlms import photographs, save_tiny_vlm

import vitrine
from vitrine.errors import UsageError
from vitrine.models.precision import default_device, on_device

Command = Callable[..., tuple[int, str, str]]


def test_a_named_device_goes_before_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert default_device() == torch.device("cuda")
    with on_device("cpu"):
        assert default_device() == torch.device("cpu")
        with on_device("cuda:1"):
            assert default_device() == torch.device("cuda:1")
        with on_device(None):
            assert default_device() == torch.device("cuda")
    assert default_device() == torch.device("cuda")
    with (
        pytest.raises(UsageError, match=r"--device cuda:2 cannot be used: this machine has cpu.*cuda:1"),
        on_device("cuda:2"),
    ):
        pass


def test_a_device_is_of_a_model_that_is_opened(vitrine_command: Command, tmp_path: Path) -> None:
    save_tiny_vlm("llava", tmp_path / "model")
    photographs((40, 40))[0].save(tmp_path / "a.png")
    call = ("ask", tmp_path / "model", tmp_path / "a.png", "What?", "-o", tmp_path / "b.png", "--max-pieces", 2)
    assert vitrine_command(*call, "--device", "cpu")[0] == 0
    status, _, err = vitrine_command(*call, "--device", "tpu")
    assert status == 2 and "--device tpu cannot be used: this machine has cpu" in err
    with pytest.raises(UsageError, match="open already"):
        vitrine.ask(vitrine.load(tmp_path / "model"), tmp_path / "a.png", "What?", device="cpu", quiet=True)
