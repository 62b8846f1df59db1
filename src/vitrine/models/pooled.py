"""What a vision transformer's classifier reads, the features of a whole picture; and a classifier trained on them.

Axes: B pictures, C channels or classes, H, W pixels, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from vitrine.models.class_token import class_token_alone

# What draws random numbers in training, by the names of its classes, and the attributes that switch it on.
_DRAWS = ("p", "prob", "drop_prob")


class Pooled(nn.Module):
    """A timm vision transformer without its last layer.

    The class token, the mean of the patches, or whatever else the model's own head reads, after its last norm.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """(B, C, H, W), normalised, to (B, D)."""
        tokens = self.module.forward_features(pixels_BCHW)  # type: ignore[operator]
        features_BD: Tensor = self.module.forward_head(tokens, pre_logits=True)  # type: ignore[operator]
        return features_BD


class HeadOnFrozen(nn.Module):
    """The classifier of a model whose other parts are not trained; its parameters and state are the classifier's alone.

    Attributes:
        head: the classifier.
        whole: the model that it is of, beside it rather than inside: a copy of this module shares it.
    """

    def __init__(self, whole: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.head = head
        self._beside = (whole, Pooled(whole))  # a tuple hides them from parameters(), state_dict() and deepcopy

    @property
    def whole(self) -> nn.Module:
        return self._beside[0]

    @property
    def features(self) -> Pooled:
        """What the classifier reads."""
        return self._beside[1]

    def forward(self, seen: Tensor) -> Tensor:
        """Logits (B, C) of normalised pixels (B, 3, H, W), or of their features (B, D)."""
        if seen.ndim == 4:
            with torch.no_grad(), class_token_alone(self.whole):
                seen = self.features(seen)
        logits_BC: Tensor = self.head(seen)
        return logits_BC

    def train(self, mode: bool = True) -> HeadOnFrozen:
        """Switch training mode, of the frozen parts too: what they drop at random, they drop as in other trainings."""
        self.whole.train(mode)
        super().train(mode)
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> HeadOnFrozen:
        self.whole._apply(fn, recurse)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> HeadOnFrozen:
        return HeadOnFrozen(self.whole, deepcopy(self.head, memo))

    @contextmanager
    def put_together(self) -> Iterator[nn.Module]:
        """The whole model with this classifier, which may be a moving average; its own comes back afterwards."""
        own: nn.Module = self.whole.get_classifier()  # type: ignore[operator]
        before = {name: value.clone() for name, value in own.state_dict().items()}
        own.load_state_dict(self.head.state_dict())
        try:
            yield self.whole
        finally:
            own.load_state_dict(before)


def draws_at_random(module: nn.Module) -> bool:
    """Whether a module in training mode may give another output for the same input: dropout in any form, batch norm."""
    return any(
        isinstance(part, nn.modules.batchnorm._BatchNorm)
        or ("Drop" in type(part).__name__ and any(float(getattr(part, name, None) or 0) > 0 for name in _DRAWS))
        for part in module.modules()
    )


def one_head(module: nn.Module, size: int) -> nn.Module | None:
    """The one layer that classifies, where it reads what :class:`Pooled` gives; None of other models.

    Some models average two classifiers, and another library's head may read something else: the model is asked, with a
    picture of ``size`` × ``size`` seeded random pixels.
    """
    head = module.get_classifier()  # type: ignore[operator]
    if not isinstance(head, nn.Linear):
        return None
    read: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            pixels_BCHW = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
            module(pixels_BCHW)
            features_BD = Pooled(module)(pixels_BCHW)
    finally:
        handle.remove()
        module.train(was_training)
    same = len(read) == 1 and read[0].shape == features_BD.shape and torch.allclose(read[0], features_BD, atol=1e-5)
    return head if same else None
