"""Words guessed ahead by a decoder in int8, for the decoder in float32 to read together.

Speculative decoding (Leviathan et al. 2023, arXiv:2211.17192) where the likeliest word is taken each time, with a
rounded copy of the decoder as the draft. One word at a time, a decoder does nothing but read its weights. The draft
reads a quarter as many bytes a word; the decoder itself reads all guesses in one pass, and a guess that is not its own
likeliest word is thrown away. So a bad guess costs time and never a word.

Letters: T positions of the model, S words so far, H heads, K cells of the picture, D channels of all heads, E of one,
I and O channels of a linear layer, V vocabulary.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

MOST_GUESSES = 9
"""Words that are guessed before the decoder reads them: with the word before them ten rows, of which one product with
packed weights costs hardly more than of two."""

_HIGHEST = 127  # of int8, on both sides of 0
_COLUMNS = 64  # torch's kernel reads whole vectors of a row: others than multiples are not given to it


@cache
def can_draft() -> bool:
    """Whether this torch and this processor multiply int8 weights with bf16 inputs, and not by emulation."""
    if not torch.cpu._is_avx512_bf16_supported():
        return False
    weight_OI = torch.eye(_COLUMNS) - 0.5
    layer = Int8Linear(weight_OI)
    try:
        product = layer(weight_OI[:1], torch.zeros(_COLUMNS))
    except (AttributeError, RuntimeError, TypeError):  # not built in, not for this type, or with other arguments
        return False
    return torch.allclose(product, weight_OI[:1] @ weight_OI.T, rtol=0.05)


class Int8Linear:
    """A linear layer for one row, its weights rounded to int8 with a scale a row; without its bias."""

    def __init__(self, weight_OI: Tensor) -> None:
        """Round the weights, float32."""
        scale_O = (weight_OI.abs().amax(1) / _HIGHEST).clamp_min(1e-20).to(torch.bfloat16)
        levels_OI = (weight_OI / scale_O.float()[:, None]).round_().clamp_(-_HIGHEST, _HIGHEST)
        self._weight_OI, self._scale_O = levels_OI.to(torch.int8).contiguous(), scale_O

    def __call__(self, x_1I: Tensor, bias_O: Tensor) -> Tensor:
        """Float32 (1, O), of inputs that are rounded to bf16."""
        product_1O: Tensor = torch._weight_int8pack_mm(x_1I.to(torch.bfloat16), self._weight_OI, self._scale_O)
        return product_1O + bias_O  # float32, as the bias is


class _DraftLayer:
    """A decoder layer for one new word of one picture. Its norms are the layer's own."""

    def __init__(self, layer: Any, positions_TD: Tensor) -> None:
        own, cross = layer.self_attn, layer.multihead_attn
        width = positions_TD.shape[1]
        self.norms = layer.norm1, layer.norm2, layer.norm3
        self.heads = own.heads
        # Positions are added to the inputs of queries and keys, so their products are part of the bias.
        in_bias_TO = own.in_proj_bias.expand(len(positions_TD), -1).clone()
        in_bias_TO[:, : 2 * width] += positions_TD @ own.in_proj_weight[: 2 * width].T
        query_weight_OI = cross.in_proj_weight[:width]
        query_bias_TO = functional.linear(positions_TD, query_weight_OI, cross.in_proj_bias[:width])
        scale = (width // self.heads) ** -0.5  # of the scores with the picture
        self.in_proj, self.in_bias_TO = Int8Linear(own.in_proj_weight), in_bias_TO
        self.query, self.query_bias_TO = Int8Linear(query_weight_OI * scale), query_bias_TO * scale
        self.linears = [(Int8Linear(each.weight), each.bias) for each in (
            own.out_proj, cross.out_proj, layer.linear1, layer.linear2,
        )]  # fmt: skip

    def __call__(self, x_1D: Tensor, place: int, past: tuple[Tensor, Tensor], image: tuple[Tensor, Tensor]) -> Tensor:
        """(1, D). ``past`` is room for keys and values, (1, H, T, E) each, in which those of this place are put."""
        (merge, merge_bias), (look, look_bias), (widen, widen_bias), (narrow, narrow_bias) = self.linears
        keys, values = past
        query, key, value = self.in_proj(self.norms[0](x_1D), self.in_bias_TO[place]).view(3, 1, self.heads, 1, -1)
        keys[:, :, place : place + 1], values[:, :, place : place + 1] = key, value
        own_heads = functional.scaled_dot_product_attention(query, keys[:, :, : place + 1], values[:, :, : place + 1])
        x_1D = x_1D + merge(own_heads.view(1, -1), merge_bias)
        query_H1E = self.query(self.norms[1](x_1D), self.query_bias_TO[place]).view(self.heads, 1, -1)
        keys_HEK, values_HKE = image
        cross_heads_H1E = torch.bmm(torch.bmm(query_H1E, keys_HEK).softmax(-1), values_HKE)
        x_1D = x_1D + look(cross_heads_H1E.view(1, -1), look_bias)
        return x_1D + narrow(widen(self.norms[2](x_1D), widen_bias).relu_(), narrow_bias)


class _Draft:
    """Decoder and head of a captioner, for one new word of one picture."""

    def __init__(self, model: Any) -> None:
        self._words, self._positions_TD = model.embeddings.words.weight, model.embeddings.positions.weight
        self._norms = model.embeddings.norm, model.decoder.norm
        self._layers = [_DraftLayer(layer, self._positions_TD) for layer in model.decoder.layers]
        self._head = [(Int8Linear(each.weight), each.bias) for each in model.head.layers]

    def guess(self, token_id: int, image: Any, past: Any | None, count: int, end: int) -> list[int]:
        """The likeliest words after this one, ``count`` of them or those before the end."""
        start = 0 if past is None else past.length
        rooms = [self._room(start + count, None if past is None else past.layers[i]) for i in range(len(self._layers))]
        images = [(keys[0], values[0]) for keys, values in zip(image.keys, image.values, strict=True)]
        guesses: list[int] = []
        for place in range(start, start + count):
            x_1D = self._norms[0](self._words[token_id] + self._positions_TD[place])[None]
            for layer, room, picture in zip(self._layers, rooms, images, strict=True):
                x_1D = layer(x_1D, place, room, picture)
            x_1D = self._norms[1](x_1D)
            for linear, bias in self._head[:-1]:
                x_1D = linear(x_1D, bias).relu_()
            last, bias = self._head[-1]
            token_id = int(last(x_1D, bias).argmax())
            if token_id == end:
                break
            guesses.append(token_id)
        return guesses

    def _room(self, length: int, past: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        width, heads = self._positions_TD.shape[1], self._layers[0].heads
        room = self._positions_TD.new_empty(2, 1, heads, length, width // heads)
        if past is not None:
            room[:, :, :, : past[0].shape[2]] = torch.stack(past)
        return room[0], room[1]


class Guesser(nn.Module):
    """Guesses words of a captioner that was prepared for prediction; a part of it without weights of its own.

    The draft is made at its first use, takes a byte for each weight of decoder and head, and is dropped when the
    captioner is moved, cast or copied.
    """

    _draft: _Draft | None = None

    def guess(self, model: Any, token_id: int, image: Any, past: Any | None, count: int) -> list[int]:
        """Words that ``model`` will probably take after this one.

        Args:
            model: the captioner.
            token_id: the newest word.
            image: keys and values of the picture.
            past: keys and values of the words before; None at the start.
            count: so many at most.

        Returns:
            their ids, fewer where the end is among them; none where this captioner cannot guess, or not here.
        """
        count = min(count, MOST_GUESSES, model.max_length - (0 if past is None else past.length) - 1)
        if count < 1 or len(image.keys[0]) != 1 or image.padded_PK is not None or not self._fits(model):
            return []
        if self._draft is None:
            for layer in (*model.decoder.modules(), *model.head.modules()):
                if hasattr(layer, "drop_packed_weight"):
                    layer.drop_packed_weight()
            with torch.inference_mode():
                self._draft = _Draft(model)
        return self._draft.guess(token_id, image, past, count, model.end)

    def _fits(self, model: Any) -> bool:
        words = model.embeddings.words.weight
        is_plain = not (torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or model.training)
        sizes = {words.shape[1], *(layer.in_features for layer in model.head.layers), model.config.feed_forward}
        is_whole = all(size % _COLUMNS == 0 for size in sizes)
        return is_plain and is_whole and words.dtype == torch.float32 and words.device.type == "cpu" and can_draft()

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles, which make a draft of their own."""
        return self.__dict__ | {"_draft": None}

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        self._draft = None
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
