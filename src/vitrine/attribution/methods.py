"""Attribution methods by name, with their settings: their maps of a batch, and what they show in words.

Axes: B pictures, C channels (or classes, in logits_BC), H, W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from vitrine.attribution.attention import (
    HEAD_REDUCTIONS,
    POOL,
    attention_map,
    head_count,
    layer_number,
    query_layers,
    query_readout,
)
from vitrine.attribution.gradcam import gradcam, gradcam_tokens
from vitrine.attribution.maps import BatchMaps, TokenLayout, token_layout
from vitrine.attribution.occlusion import occlusion
from vitrine.attribution.readout import describe_readout
from vitrine.attribution.relevance import relevance
from vitrine.attribution.rollout import rollout
from vitrine.errors import ModelError

METHODS = ("attention", "rollout", "relevance", "gradcam", "occlusion")


def softmax(logits_BC: torch.Tensor) -> torch.Tensor:
    """Probabilities of classes of which a picture has one: (B, C), rows sum to 1."""
    return logits_BC.softmax(-1)


_FOR_A_CLASS = ("relevance", "gradcam", "occlusion")


@dataclass(frozen=True)
class Method:
    """A method with its settings.

    Attributes:
        name: one of ``METHODS``.
        layer: of ``attention`` and ``gradcam``: a block from 0, or from the end with -1.
        heads: of ``attention``: mean, max, min, or a head's number from 0.
        query: of ``attention``: class, distillation, pool, a patch (row, column) from 0, or auto: what the head reads.
        window: of ``occlusion``: patches a side of the cover; 0 chooses.

    Raises:
        ModelError: no such method or way over heads.
    """

    name: str = "attention"
    layer: int = -1
    heads: str | int = "mean"
    query: str | tuple[int, int] = "auto"
    window: int = 0

    def __post_init__(self) -> None:
        if self.name not in METHODS:
            raise ModelError(f"There is no method {self.name!r}: expected one of {', '.join(METHODS)}.")
        if isinstance(self.heads, str) and self.heads not in HEAD_REDUCTIONS:
            raise ModelError(f"heads = {self.heads!r} cannot be used: expected mean, max, min, each or a number.")

    @property
    def for_a_class(self) -> bool:
        """Whether the map is of one class; the others are the same whatever the class."""
        return self.name in _FOR_A_CLASS

    def maps(
        self,
        module: nn.Module,
        pixels_BCHW: torch.Tensor,
        targets_B: torch.Tensor,
        probabilities: Callable[[torch.Tensor], torch.Tensor] = softmax,
    ) -> BatchMaps:
        """Maps of a batch of normalised pictures.

        Args:
            module: a timm vision transformer in eval mode.
            pixels_BCHW: normalised, on the module's device.
            targets_B: int64, a class for each picture; ignored by methods that explain no class.
            probabilities: of logits (B, C); a softmax by default.

        Raises:
            ModelError: the model has no such layer, head or query, or an attention that cannot be shown.
        """
        match self.name:
            case "attention":
                return attention_map(module, pixels_BCHW, layer=self.layer, heads=self.heads, query=self.query)
            case "rollout":
                return rollout(module, pixels_BCHW)
            case "relevance":
                return relevance(module, pixels_BCHW, targets_B)
            case "gradcam":
                return gradcam(module, pixels_BCHW, targets_B, self.layer)
            case _:
                layout = token_layout(module, *pixels_BCHW.shape[-2:])
                return occlusion(
                    lambda some_BCHW: probabilities(module(some_BCHW)),
                    pixels_BCHW,
                    targets_B,
                    (layout.rows, layout.columns),
                    window=self.window,
                )

    def describe(self, module: nn.Module) -> str:
        """What the map is, in words for a figure."""
        layout = token_layout(module)
        match self.name:
            case "attention":
                return self._describe_attention(module, layout)
            case "rollout":
                return (
                    f"attention rollout through {layout.blocks} layers, from {describe_readout(module, layout).words}"
                )
            case "relevance":
                readout = describe_readout(module, layout)
                by = ", each by its weight in the class's logit" if readout.depends_on_class else ""
                return f"gradient-weighted attention over {layout.blocks} layers, from {readout.names}{by}"
            case "gradcam":
                return f"Grad-CAM on the tokens of {gradcam_tokens(module, self.layer)}"
            case _:
                return "occlusion: mean loss of the class's probability while a patch is covered"

    def notes(self, module: nn.Module) -> tuple[str, ...]:
        """Sentences on what has to be known to read the map: that the head does not read the token that was asked for.

        A patch that was asked for needs none: its attention is what a person wanted to see.
        """
        if self.name != "attention" or self.query not in ("class", "distillation"):
            return ()
        layout = token_layout(module)
        token = query_readout(layout, self.query, lambda: describe_readout(module, layout))
        try:
            readout = describe_readout(module, layout)
        except ModelError:
            return ("Whether this model's head reads this token is not known.",)
        if token.token is None or readout.reads(token.token):
            return ()
        return (f"This model's head does not read {token.names}: it reads {readout.names}.",)

    def _describe_attention(self, module: nn.Module, layout: TokenLayout) -> str:
        readout = query_readout(layout, self.query, lambda: describe_readout(module, layout))
        if query_layers(layout, readout, self.query, self.layer) == (POOL,):
            return f"weights of the attention pool, {self._heads_in_words(None)}"
        number = layer_number(self.layer, layout.blocks) + 1
        where = "last layer" if number == layout.blocks else f"layer {number} of {layout.blocks}"
        heads = self._heads_in_words(head_count(module, self.layer))
        reader = "the patches, by the attention pool's weights," if readout.is_pool else readout.words
        return f"attention of {reader} to the patches, {where}, {heads}"

    def _heads_in_words(self, count: int | None) -> str:
        if isinstance(self.heads, int):
            return f"head {self.heads}"
        reduction = {"mean": "mean", "max": "maximum", "min": "minimum"}[self.heads]
        return f"{reduction} of {count} heads" if count else f"{reduction} over heads"
