"""Heads that timm lacks: kept where a model is opened, made anew where it is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from support.checkpoints import pixels
from support.format_makers import (
    CASES,
)

from vitrine.classify.model import open_classifier
from vitrine.models.load import load_model
from vitrine.runs.folder import RunFolder

OWN_HEADS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "PyTorch-Pretrained-ViT with representation": (
        CASES["PyTorch-Pretrained-ViT with representation"],
        "representation",
    ),
    "Google's .npz with representation": (CASES["Google's .npz with representation"], "representation"),
    "torchvision with representation": (CASES["torchvision with representation"], "representation"),
    "transformers Dinov2": (CASES["transformers Dinov2"], "mean of the patches too"),
}


def file_head_bias(path: Path) -> torch.Tensor:
    """The bias of the 37 classes in a file; its tensors' names are its library's."""
    if path.suffix == ".npz":
        return torch.from_numpy(np.load(path)["head/bias"])
    tensors = load_file(path / "model.safetensors") if path.is_dir() else torch.load(path, weights_only=True)
    return next(value for value in tensors.values() if value.shape == (37,))


@pytest.mark.parametrize("name", [*OWN_HEADS, "PyTorch-Pretrained-ViT", "transformers DeiT", "Google's .npz"])
@pytest.mark.parametrize("classes", [37, 5])
def test_training_starts_from_every_format_and_saves_a_model_that_timm_opens(
    name: str, classes: int, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    case = CASES[name](tmp_path / "in")
    model = load_model(str(case.reference), pretrained=True, num_classes=classes)
    new = [note for note in model.notes if f"The classification head is new, for {classes} classes" in note]
    if name in OWN_HEADS:
        assert len(new) == 1 and OWN_HEADS[name][1] in new[0]
        if classes == 37:  # the file's head has the right size, and reads something else
            assert float(model.module.head.bias.abs().max()) < 0.2 < float(file_head_bias(case.reference).abs().max())
    else:
        assert len(new) == (classes != 37)
    labels = [str(i) for i in range(classes)]
    RunFolder(tmp_path / "run").path.mkdir()
    RunFolder(tmp_path / "run").save_model(model.module, labels, model.input)
    module = model.module.eval()
    again = timm.create_model(f"local-dir:{tmp_path / 'run'}", pretrained=True).eval()
    run = open_classifier(str(tmp_path / "run"), "fp32")
    with torch.no_grad():
        expected = module(pixels(case.size))
        assert torch.equal(again(pixels(case.size)), expected)
        assert torch.equal(run.module(pixels(case.size)), expected)
    assert run.labels == tuple(labels) and run.spec == model.input
