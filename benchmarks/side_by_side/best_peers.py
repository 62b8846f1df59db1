"""The other tools at their best: with the same model, what an expert would set in the loop around it."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping

import torch
from harness.arithmetic import finish
from harness.plain import ExpertLoop, PlainLoop
from torch import Tensor, nn

from side_by_side.peers import HuggingFace, Peer, PretrainedViT, Timm
from side_by_side.task import Task

COMPILED = "compiled"


class AtBest:
    """One of the other tools, set by somebody who knows PyTorch well.

    Predictions are made by weights in bf16 (as fast as bf16 autocast or faster with each of these tools on a processor:
    weights are not rounded at every call), on pictures that are in bf16 and channels last already. Training keeps its
    weights in float32, computes under bf16 autocast, and steps with the fused AdamW. Attention is what the tool's own
    model computes: fused in timm and transformers, plain products in PyTorch-Pretrained-ViT.

    Args:
        peer: the tool as it comes.
        compiled: whether ``torch.compile`` is applied, with weights frozen for predictions. The first round of each
            kind of work compiles: it must not count. ``compile_seconds`` says how long the first predictions took.
    """

    def __init__(self, peer: Peer, *, compiled: bool = False) -> None:
        self.peer, self.compiled = peer, compiled
        self.name = ", ".join([peer.name, *[COMPILED] * compiled, "at its best"])
        self.compile_seconds = 0.0
        self._ready = [(_as_run(pixels), labels) for pixels, labels in peer.ready]
        self._predicting: PlainLoop | None = None
        self._training: PlainLoop | None = None

    def load(self, weights: Mapping[str, Tensor]) -> None:
        self.peer.load(weights)

    def logits(self, pixels_BCHW: Tensor) -> Tensor:
        return self.peer.logits(pixels_BCHW)

    def logits_as_run(self, pixels_BCHW: Tensor) -> Tensor:
        """The same as they are timed: in bf16, and compiled."""
        loop, began = self._predictor(), time.perf_counter()
        with torch.inference_mode():
            logits_BC = loop.forward(_as_run(self.peer.normalised(pixels_BCHW))).float().cpu()
        self.compile_seconds = time.perf_counter() - began
        return logits_BC

    def infer(self) -> int:
        pictures = self._predictor().infer(self._ready)
        finish(self.peer.device)
        return pictures

    def train(self) -> int:
        if self._training is None:
            if self.compiled:
                self.peer.module.compile()
            self._training = ExpertLoop(self.peer.module, self.peer.forward)
            self._predicting = None  # its weights would only take room from here on
        pictures = self._training.train(self.peer.ready)
        finish(self.peer.device)
        return pictures

    def _predictor(self) -> PlainLoop:
        """The loop over weights in bf16, made once the weights are loaded."""
        if self._predicting is None:
            module: nn.Module = copy.deepcopy(self.peer.module).eval()
            module = module.to(torch.bfloat16, memory_format=torch.channels_last)  # type: ignore[call-overload]
            if self.compiled:
                module.compile(options={"freezing": True} if self.peer.device.type == "cpu" else None)
            self._predicting = PlainLoop(module, lambda pixels_BCHW: self.peer.forward(pixels_BCHW, module))
        return self._predicting

    def close(self) -> None:
        self.peer.close()


def _as_run(pixels_BCHW: Tensor) -> Tensor:
    """In bf16 and channels last."""
    return pixels_BCHW.to(torch.bfloat16, memory_format=torch.channels_last)


def peers_at_best(task: Task) -> list[AtBest]:
    """Every other tool at its best, and timm compiled besides. Pictures are in bf16 before any clock starts."""
    tools = [AtBest(kind(task)) for kind in (PretrainedViT, HuggingFace, Timm)]
    return [*tools, AtBest(Timm(task), compiled=True)]
