"""``vitrine.load`` of modules in memory: timm's own and transformers', whose training goes on as before."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image
from torch import nn

import vitrine
from vitrine.errors import ModelError, UsageError

SIDE, CLASSES = 32, 3
SHAPE: dict[str, Any] = {"img_size": SIDE, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8))


def small_vit(**changes: Any) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", **(SHAPE | {"num_classes": CLASSES} | changes))


def hooks(module: nn.Module) -> int:
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")
    return sum(len(getattr(part, name)) for part in module.modules() for name in names)


def train_step(module: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    pixels_BCHW, targets_B = torch.randn(4, 3, SIDE, SIDE, generator=generator), torch.tensor([0, 1, 2, 0])
    optimizer.zero_grad()
    nn.functional.cross_entropy(module(pixels_BCHW), targets_B).backward()
    optimizer.step()


def test_training_goes_on_as_if_nobody_had_looked(photo: Image.Image) -> None:
    """Twins take the same two steps with dropout; one is looked at in between by every means."""
    looked_at = small_vit(proj_drop_rate=0.2, drop_path_rate=0.1).train()
    looked_at.blocks[0].eval()  # a part that its owner froze
    twin = copy.deepcopy(looked_at)
    optimizers = [torch.optim.AdamW(each.parameters(), 1e-2) for each in (looked_at, twin)]
    for module, optimizer in zip((looked_at, twin), optimizers, strict=True):
        torch.manual_seed(5)
        train_step(module, optimizer, 1)
    modes, count = [part.training for part in looked_at.modules()], hooks(looked_at)
    gradients = [each.grad.clone() for each in looked_at.parameters()]  # type: ignore[union-attr]
    state = torch.get_rng_state()

    model = vitrine.load(looked_at, labels=["ant", "bee", "cat"], precision="fp32")
    for method in ("attention", "rollout", "relevance", "gradcam", "occlusion"):
        seen = model.explain(photo, method=method)
        assert seen.map.shape == (4, 4) and np.isfinite(seen.map).all()
    assert "attention" in repr(model.explain([photo, photo])[1])
    assert seen.verdict.sentence
    assert vitrine.positions(looked_at).findings.rows == 4
    stream = model.predict(iter([photo] * 3), batch_size=1)
    next(stream)
    assert looked_at.training, "between two answers of a stream the module is as its owner left it"

    assert [part.training for part in looked_at.modules()] == modes
    assert hooks(looked_at) == count
    assert all(torch.equal(a, b.grad) for a, b in zip(gradients, looked_at.parameters(), strict=True))  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), state), "dropout draws what it would have drawn"
    for module, optimizer in zip((looked_at, twin), optimizers, strict=True):
        torch.manual_seed(6)
        train_step(module, optimizer, 2)
    assert all(torch.equal(a, b) for a, b in zip(looked_at.parameters(), twin.parameters(), strict=True))
    before = model.predict(photo)
    with torch.no_grad():
        looked_at.head.bias[2] += 100
    assert model.predict(photo).label == "cat" != before.label or before.label == "cat", "its weights as they are now"


def test_a_timm_model_answers_as_timm_does(photo: Image.Image) -> None:
    module = small_vit().eval()
    config = timm.data.resolve_model_data_config(module)
    pixels_BCHW = timm.data.create_transform(**{**config, "input_size": (3, SIDE, SIDE)})(photo)[None]
    with torch.no_grad():
        expected = module(pixels_BCHW)[0].numpy()
    model = vitrine.load(module, precision="fp32")
    np.testing.assert_allclose(model.predict(photo).logits, expected, atol=1e-5)
    assert model.labels == ("0", "1", "2") and "in memory" in repr(model)
    changed = vitrine.load(module, input={**config, "mean": (0, 0, 0), "std": (1, 1, 1), "crop_pct": 1.0})
    assert any("32 x 32 pixels" in note for note in changed.notes), "timm's configuration says 224"
    assert changed.classifier.spec.mean == (0, 0, 0) and changed.classifier.spec.crop == 1.0  # type: ignore[union-attr]
    wrapped = vitrine.load(nn.DataParallel(module), precision="fp32")
    np.testing.assert_array_equal(wrapped.predict(photo).logits, model.predict(photo).logits)


def transformers_models() -> Iterator[nn.Module]:
    torch.manual_seed(0)
    shape = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": SIDE, "patch_size": 8}
    names = {0: "ant", 1: "bee", 2: "cat"}
    common = {**shape, "id2label": names, "label2id": {name: number for number, name in names.items()}}
    yield transformers.ViTForImageClassification(transformers.ViTConfig(intermediate_size=48, **common))
    deit = transformers.DeiTConfig(intermediate_size=48, **common)
    yield transformers.DeiTForImageClassificationWithTeacher(deit)
    yield transformers.Dinov2ForImageClassification(transformers.Dinov2Config(**common))


@pytest.mark.parametrize("module", list(transformers_models()), ids=lambda module: type(module).__name__)
def test_a_transformers_classifier_is_carried_over_with_its_logits(module: Any, photo: Image.Image) -> None:
    processor = transformers.ViTImageProcessorFast(
        size={"height": SIDE, "width": SIDE}, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4]
    )
    module.train()
    model = vitrine.load(module, input=processor, precision="fp32")
    assert model.labels == ("ant", "bee", "cat")
    assert module.training and any("logits of a random input differ" in note for note in model.notes)
    answer = model.predict(photo)
    module.eval()
    with torch.no_grad():
        expected = module(**processor(photo.resize((SIDE, SIDE)), return_tensors="pt")).logits[0].numpy()
    small = model.predict(photo.resize((SIDE, SIDE)))
    np.testing.assert_allclose(small.logits, expected, atol=2e-3)
    assert model.explain(photo).prediction.label == answer.label


def test_what_cannot_be_looked_at_is_refused_in_a_sentence(photo: Image.Image, tmp_path: Path) -> None:
    module = small_vit()
    for arguments, kind, words in (
        ((nn.Linear(2, 2), {}), ModelError, "patch embedding"),
        ((timm.create_model("resnet10t"), {}), ModelError, "patch embedding"),
        ((small_vit().half(), {}), ModelError, "float16"),
        ((small_vit(num_classes=0), {}), ModelError, "no classification head"),
        ((module, {"labels": ["a", "b"]}), UsageError, "3 outputs"),
        ((module, {"labels": "abc"}), UsageError, "one text"),
        ((module, {"labels": {1: "a", 2: "b", 3: "c"}}), UsageError, "0, 1, 2"),
        ((module, {"labels": {"a": 0, "b": 1, "c": 2}}), UsageError, "names by number"),
        ((copy.deepcopy(module).to("meta"), {}), ModelError, "meta device"),
        ((module, {"input": 224}), UsageError, "data configuration"),
        ((module, {"input": {"mean": 0.5}}), UsageError, "three numbers"),
        ((module, {"input": {"means": 1}}), UsageError, "means"),
        ((module, {"arch": "vit_tiny_patch16_224"}), UsageError, "arch"),
        ((7, {}), UsageError, "int is no model"),
        (("vitrine/scenes-tiny", {"labels": ["a"]}), UsageError, "in memory"),
        ((transformers.ViTModel(transformers.ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1)), {}),
         ModelError, "classifi"),
    ):  # fmt: skip
        with pytest.raises(kind, match=words):
            vitrine.load(arguments[0], **arguments[1])
    figure = vitrine.load(module, labels=list("abc")).explain(photo).save(tmp_path / "map.png")
    assert "vitrine:command" not in Image.open(figure).info, "no command opens a module in memory"
