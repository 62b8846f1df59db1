"""What a person is told of a method that there is not, and of options that are none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from vitrine.attribution.method_options import METHOD_OPTIONS, nearest_method, require_method
from vitrine.attribution.methods import Method, method_with
from vitrine.attribution.registry import LIBRARY_ENTRIES
from vitrine.errors import ModelError, UsageError


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("GradCAM", "gradcam"),
        ("grad-cam", "gradcam"),
        ("gradcam++", "cam:GradCAMPlusPlus"),
        ("cam:gradcam++", "cam:GradCAMPlusPlus"),
        ("LayerCAM", "cam:LayerCAM"),
        ("Saliency", "captum:Saliency"),
        ("captum:integrated_gradients", "captum:IntegratedGradients"),
        ("Integrated Gradients", "integrated-gradients"),
        ("attention_rollout", "rollout"),
        ("relevence", "relevance"),
        ("magic", None),
    ],
)
def test_the_name_of_another_library_is_answered_with_ours(name: str, nearest: str | None) -> None:
    assert nearest_method(name) == nearest
    with pytest.raises(ModelError) as refusal:
        require_method(name)
    assert str(refusal.value).partition("\n")[2] == (f"Did you mean {nearest}?" if nearest else "")


def test_every_method_is_nearest_to_its_own_name() -> None:
    names = [*METHOD_OPTIONS, *(entry.name for entry in LIBRARY_ENTRIES)]
    assert [nearest_method(name.upper()) for name in names] == names


@pytest.mark.parametrize(
    ("method", "options", "says"),
    [
        (None, {}, "A method is one's name, such as 'attention', or a function of your own; got NoneType."),
        (3, {}, "got int."),
        ("attention", {"layer": "last"}, "layer = 'last' cannot be used: expected a whole number."),
        ("gradcam", {"layer": 1.0}, "layer = 1.0 cannot be used"),
        (
            "attention",
            {"heads": None},
            "heads = None cannot be used: expected mean, max, min, each or a head's number.",
        ),
        ("attention", {"heads": "each"}, "vitrine.explain(model, pictures, out, heads='each')"),
        ("occlusion", {"window": "3"}, "window = '3' cannot be used"),
        ("attention", {"colormap": "jet"}, "colormap is no option of a map: expected one of layer, heads"),
        ("attention", {"layers": 1}, "Did you mean layer?"),
        ("attention", {"function": print}, "function is no option of a map"),
    ],
)
def test_a_wrong_option_is_named_before_any_work(method: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as refusal:
        method_with(method, options)
    assert says in str(refusal.value) and len(str(refusal.value).splitlines()) <= 2


def test_whole_numbers_of_numpy_and_torch_are_numbers() -> None:
    chosen = Method("attention", layer=np.int64(1), heads=torch.tensor(2))  # type: ignore[arg-type]
    assert (type(chosen.layer), type(chosen.heads)) == (int, int)
    assert chosen == Method("attention", layer=1, heads=2)
