"""A served classifier: what can be asked of it follows from what its head reads, and its classes are told apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from vitrine.classify.model import Classifier, open_classifier
from vitrine.errors import ModelError
from vitrine.serve.classifier import ServedClassifier
from vitrine.serve.errors import ApiError
from vitrine.serve.schema import ViewParams
from vitrine.serve.views import attention_to, describe_view, explain_view, parse_view

SMALL = {"depth": 2, "embed_dim": 32, "num_heads": 2, "num_classes": 4, "img_size": 32, "patch_size": 8}
VIT = "vit_tiny_patch16_224"
BIRDS = ("owl", "crane", "ox", "crane")


def served(folder: Path, name: str = VIT, labels: tuple[str, ...] = BIRDS, **args: Any) -> ServedClassifier:
    """A small model of timm's with random weights, as the server has it."""
    torch.manual_seed(0)
    module = timm.create_model(name, **SMALL | args)
    config = {"model_args": SMALL | args, "label_names": list(labels)}
    timm.models.save_for_hf(module, str(folder), model_config=config, safe_serialization=True)
    return ServedClassifier("0", "a model", open_classifier(str(folder), "fp32"))


def encode(classifier: ServedClassifier) -> Any:
    pixels = torch.randint(0, 256, (3, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return classifier.encode("0" * 64, (32, 32), pixels)


@pytest.mark.parametrize(
    ("name", "args", "queries", "words"),
    [
        (VIT, {}, ("auto", "class"), "attention of [class]"),
        (VIT, {"global_pool": "avg"}, ("auto", "class"), "attention of the mean of the patches"),
        (VIT, {"global_pool": "avg", "class_token": False}, ("auto",), "attention of the mean of the patches"),
        (VIT, {"global_pool": "map", "class_token": False}, ("auto", "pool"), "weights of the attention pool"),
        ("deit_tiny_distilled_patch16_224", {}, ("auto", "class", "distillation"), "attention of [class] (0.46)"),
    ],
)
def test_what_can_be_asked_follows_from_the_readout(
    name: str, args: dict[str, Any], queries: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    classifier = served(tmp_path, name, **args)
    assert classifier.queries == queries
    encoding = encode(classifier)
    view = parse_view(ViewParams(model="0"), classifier, encoding)
    assert explain_view(view, classifier, encoding, "a.png").described.startswith(words)
    for query in queries:
        assert explain_view(
            parse_view(ViewParams(model="0", query=query), classifier, encoding), classifier, encoding, ""
        )
    towards = parse_view(ViewParams(model="0", direction="to"), classifier, encoding)
    if args or name != VIT:
        with pytest.raises(ModelError, match="Nobody attends to"):
            attention_to(towards, encoding)
    else:
        assert attention_to(towards, encoding).shape == (4, 4)
        assert describe_view(towards, classifier).startswith("attention of the patches to [class]")


def test_a_head_that_is_not_known_leaves_what_needs_it_out(tmp_path: Path) -> None:
    known = served(tmp_path)
    module = known.model.module

    def pool(x: torch.Tensor, pool_type: str | None = None) -> torch.Tensor:
        return x[:, 1:].median(dim=1).values

    module.pool = pool  # type: ignore[assignment]
    classifier = ServedClassifier("0", "a model", known.model)
    assert {"attention", "gradcam", "occlusion", "rise", "smoothgrad"} <= set(classifier.methods)
    assert {"rollout", "relevance", "legrad", "value-norm"}.isdisjoint(classifier.methods)
    assert classifier.queries == ("class",)
    assert any("its pool is none of timm's" in note for note in classifier.notes)
    encoding = encode(classifier)
    view = parse_view(ViewParams(model="0", query="1,2"), classifier, encoding)
    assert explain_view(view, classifier, encoding, "").described.startswith("attention of patch (1, 2)")


def test_every_class_of_one_name_can_be_the_target(tmp_path: Path) -> None:
    classifier = served(tmp_path)
    encoding = encode(classifier)
    encoding.maps[("relevance", 3)] = encoding.maps[("relevance", 1)] = None
    targets = {
        text: parse_view(_relevance(text), classifier, encoding).target for text in ("crane [1]", "crane [3]", "2")
    }
    assert targets == {"crane [1]": 1, "crane [3]": 3, "2": 2}
    with pytest.raises(ApiError, match=r"2 classes called 'crane'"):
        parse_view(_relevance("crane"), classifier, encoding)
    assert any("crane [1], crane [3]" in note for note in classifier.notes)


def _relevance(target: str) -> ViewParams:
    return ViewParams(model="0", method="relevance", target=target)


def test_probabilities_of_a_multi_label_model_are_sigmoids(tmp_path: Path) -> None:
    one_label = served(tmp_path, labels=("a", "b", "c", "d"))
    model: Classifier = replace(one_label.model, is_multi_label=True)
    classifier = ServedClassifier("0", "a model", model)
    encoding = encode(classifier)
    with torch.no_grad():
        logits = model.module(classifier.explainer.pixels(encoding.input_CHW[None]))[0]
    assert encoding.probabilities_C == pytest.approx(logits.sigmoid().numpy(), abs=1e-6)
    assert classifier.predict([encoding.input_CHW])[0] == pytest.approx(logits.sigmoid().numpy(), abs=1e-6)
    assert any("multi-label" in note for note in classifier.notes)
