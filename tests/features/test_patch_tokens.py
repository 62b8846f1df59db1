"""Patch tokens are those that timm returns, for every kind of plain vision transformer, and are computed once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from support.models import MICRO

from vitrine.classify.model import Classifier, place_on_device
from vitrine.data.image_folder import require_pictures
from vitrine.data.loader import normalise
from vitrine.features import patch_tokens
from vitrine.features.patch_tokens import PatchTokens, last_norm
from vitrine.models.load import LoadedModel, input_spec

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "class token": ("vit_tiny_patch16_224", {}),
    "mean": ("vit_tiny_patch16_224", {"global_pool": "avg", "class_token": False}),
    "class token beside a mean": ("vit_tiny_patch16_224", {"global_pool": "avg", "fc_norm": False}),
    "attention pool": ("vit_tiny_patch16_224", {"global_pool": "map", "class_token": False}),
    "registers": ("vit_tiny_patch16_224", {"reg_tokens": 3, "no_embed_class": True, "init_values": 1e-2}),
    "not square": ("vit_tiny_patch16_224", {"img_size": (16, 48)}),
    "distilled": ("deit_tiny_distilled_patch16_224", {}),
    "rotary": ("eva02_tiny_patch14_224", {"embed_dim": 48, "num_heads": 3}),
    "relative positions": ("beit_base_patch16_224", {}),
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for index in range(5):
        pixels = rng.integers(0, 256, (40, 50 + index, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    (folder / "3.png").write_bytes(b"no picture")
    return folder


def tiny(name: str, **arguments: Any) -> Classifier:
    torch.manual_seed(0)
    module = timm.create_model(name, **{**MICRO, "num_classes": 0, **arguments}).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    loaded = LoadedModel(module, None, None)  # type: ignore[arg-type]
    return place_on_device(loaded, (), input_spec(module), "fp32")


@pytest.mark.parametrize("layer", [0, -1])
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_timms(kind: str, layer: int, pictures: Path) -> None:
    name, arguments = KINDS[kind]
    classifier = tiny(name, **arguments)
    samples = require_pictures(pictures).samples
    (batch,) = PatchTokens(classifier, samples, layer)
    assert [sample.name for sample in batch.samples] == ["0.png", "1.png", "2.png", "4.png"]
    spec = classifier.spec
    (loaded,) = patch_tokens.eval_batches(samples, spec, batch_size=16)
    pixels_BCHW = normalise(loaded.pixels_BCHW, spec.mean, spec.std)
    module: Any = classifier.module
    with torch.no_grad():
        (features_BDRC,) = module.forward_intermediates(
            pixels_BCHW, indices=[layer], norm=False, intermediates_only=True
        )
        features_BRCD = features_BDRC.permute(0, 2, 3, 1)
        norm = last_norm(module)
        expected_BRCD = features_BRCD if norm is None else norm(features_BRCD)
    assert batch.tokens_BRCD.shape == expected_BRCD.shape
    assert np.allclose(batch.tokens_BRCD, expected_BRCD.numpy(), atol=1e-5)
    rows, columns = batch.tokens_BRCD.shape[1:3]
    height, width = spec.size[0] // rows, spec.size[1] // columns
    corner = loaded.pixels_BCHW[0, :, :height, -width:].float().mean(dim=(1, 2)) / 255
    assert np.allclose(batch.colours_BRC3[0, 0, -1], corner.numpy(), atol=1e-5)


def test_what_fits_is_computed_once_and_the_rest_each_time(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = tiny("vit_tiny_patch16_224")
    samples = require_pictures(pictures).samples
    counts: list[int] = []
    forward = classifier.module.forward_features

    def counted(pixels_BCHW: torch.Tensor) -> torch.Tensor:
        counts.append(len(pixels_BCHW))
        return forward(pixels_BCHW)

    monkeypatch.setattr(classifier.module, "forward_features", counted)
    progress: list[int] = []
    everything = PatchTokens(classifier, samples, batch_size=2, progress=lambda done, _of: progress.append(done))
    first, again = list(everything), list(everything)
    assert (counts, progress) == ([2, 1, 1], [2, 4, 5])
    assert all(np.array_equal(a.tokens_BRCD, b.tokens_BRCD) for a, b in zip(first, again, strict=True))
    assert [name for name, _ in everything.unreadable] == ["3.png"]

    counts.clear()
    monkeypatch.setattr(patch_tokens, "MAX_KEPT_TOKEN_BYTES", first[0].size)
    some = PatchTokens(classifier, samples, batch_size=2)
    for _ in range(3):
        assert [b.tokens_BRCD.shape for b in some] == [b.tokens_BRCD.shape for b in first]
    assert all(np.array_equal(a.tokens_BRCD, b.tokens_BRCD) for a, b in zip(some, first, strict=True))
    assert counts == [2, 1, 1, 1, 1, 1, 1, 1, 1]
    assert [name for name, _ in some.unreadable] == ["3.png"]


def test_nothing_is_left_behind_on_the_model(pictures: Path) -> None:
    classifier = tiny("vit_tiny_patch16_224")
    list(PatchTokens(classifier, require_pictures(pictures).samples))
    assert not any(module._forward_hooks for module in classifier.module.modules())


def test_outliers_are_told_by_their_length(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = tiny("vit_tiny_patch16_224")
    block = classifier.module.blocks[-1]  # type: ignore[index]

    def enlarge(_module: object, _inputs: object, tokens_BND: torch.Tensor) -> torch.Tensor:
        tokens_BND = tokens_BND.clone()
        tokens_BND[:, 1 + 6] *= 100
        return tokens_BND

    hook = block.register_forward_hook(enlarge)
    (batch,) = PatchTokens(classifier, require_pictures(pictures).samples)
    hook.remove()
    assert batch.outliers_BRC[:, 1, 2].all()
    assert batch.outliers_BRC.sum() == len(batch.samples)
