"""The loops that users of a library write, on tensors that are ready: the plain one, and that of an expert."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

Forward = Callable[[Tensor], Tensor]


class PlainLoop:
    """Inference and training of a module: in float32, with AdamW as torch makes it.

    Args:
        module: any classifier.
        forward: normalised pixels to logits; None calls the module.
    """

    def __init__(self, module: nn.Module, forward: Forward | None = None) -> None:
        self.module = module
        self.forward: Forward = module if forward is None else forward
        self._optimizer: torch.optim.Optimizer | None = None

    def infer(self, batches: Iterable[tuple[Tensor, Tensor]]) -> int:
        """Logits of every batch of (normalised pixels, labels); the number of pictures."""
        self.module.eval()
        pictures = 0
        with torch.inference_mode():
            for pixels_BCHW, _ in batches:
                pictures += len(self.forward(pixels_BCHW).cpu())
        return pictures

    def train(self, batches: Iterable[tuple[Tensor, Tensor]]) -> int:
        """One optimizer step a batch; the number of pictures."""
        if self._optimizer is None:
            self._optimizer = self._make_optimizer()
        self.module.train()
        pictures = 0
        for pixels_BCHW, labels_B in batches:
            self._optimizer.zero_grad()
            loss = self._loss(pixels_BCHW, labels_B)
            loss.backward()
            self._optimizer.step()
            loss.item()
            pictures += len(labels_B)
        return pictures

    def _make_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.module.parameters(), lr=1e-5, weight_decay=1e-4)

    def _loss(self, pixels_BCHW: Tensor, labels_B: Tensor) -> Tensor:
        return functional.cross_entropy(self.forward(pixels_BCHW), labels_B)


class ExpertLoop(PlainLoop):
    """Trains under bf16 autocast, with the fused AdamW."""

    def _make_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.module.parameters(), lr=1e-5, weight_decay=1e-4, fused=True)

    def _loss(self, pixels_BCHW: Tensor, labels_B: Tensor) -> Tensor:
        with torch.autocast(pixels_BCHW.device.type, torch.bfloat16):
            return super()._loss(pixels_BCHW, labels_B)
