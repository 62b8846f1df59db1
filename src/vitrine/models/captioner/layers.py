"""The encoder and decoder layers of the captioner: pre-norm, positions added to queries and keys but not to values.

After DETR (Carion et al. 2020, arXiv:2005.12872), with causal self-attention over words.

Letters: B pictures or beams, P pictures of the encoder output (B = P times the repeats), N grid cells or words, T new
words, S words so far, K cells of the feature grid, H heads, D channels of all heads, E channels of one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Attention(nn.Module):
    """The projections of multi-head attention, with packed weights as in ``torch.nn.MultiheadAttention``."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))  # queries, keys, values
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    @property
    def dropout_p(self) -> float:
        """Probability with which an attention weight is dropped: 0 in eval mode."""
        return self.dropout if self.training else 0.0

    def project(self, x_BND: Tensor, first: int, count: int = 1) -> tuple[Tensor, ...]:
        """``count`` projections from ``first`` on (0 queries, 1 keys, 2 values), each (B, H, N, E)."""
        width = x_BND.shape[-1]
        rows = slice(first * width, (first + count) * width)
        projections = functional.linear(x_BND, self.in_proj_weight[rows], self.in_proj_bias[rows])
        shape = (*projections.shape[:-1], self.heads, width // self.heads)
        return tuple(part.reshape(shape).transpose(1, 2) for part in projections.chunk(count, dim=-1))

    def merge_heads(self, heads_BHNE: Tensor) -> Tensor:
        """The heads' outputs, concatenated and projected: (B, N, D)."""
        output_BND: Tensor = self.out_proj(heads_BHNE.transpose(1, 2).flatten(2))
        return output_BND


class FeedForward(nn.Module):
    """Two linear layers with ReLU between. Both kinds of layer derive from it, so that their weights keep the published
    names."""

    def __init__(self, width: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, feed_forward)
        self.linear2 = nn.Linear(feed_forward, width)
        self.dropout = nn.Dropout(dropout)

    def feed_forward(self, x_BND: Tensor) -> Tensor:
        """The residual branch (B, N, D), dropout included."""
        branch_BND: Tensor = self.dropout(self.linear2(self.dropout(self.linear1(x_BND).relu())))
        return branch_BND


class EncoderLayer(FeedForward):
    """Self-attention among the cells of the grid, then the feed-forward layers."""

    def __init__(self, width: int, heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__(width, feed_forward, dropout)
        self.self_attn = Attention(width, heads, dropout)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x_BKD: Tensor, position_BKD: Tensor, real_BK: Tensor | None) -> Tensor:
        """One layer. ``real_BK`` is False at padded cells, None where there are none."""
        y_BKD = self.norm1(x_BKD)
        queries, keys = self.self_attn.project(y_BKD + position_BKD, 0, 2)
        (values,) = self.self_attn.project(y_BKD, 2)
        mask = None if real_BK is None else real_BK[:, None, None, :]
        heads = functional.scaled_dot_product_attention(queries, keys, values, mask, self.self_attn.dropout_p)
        x_BKD = x_BKD + self.dropout(self.self_attn.merge_heads(heads))
        return x_BKD + self.feed_forward(self.norm2(x_BKD))


class DecoderLayer(FeedForward):
    """Causal self-attention of new words to the words so far, then cross-attention to the picture, then the
    feed-forward layers."""

    def __init__(self, width: int, heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__(width, feed_forward, dropout)
        self.self_attn = Attention(width, heads, dropout)
        self.multihead_attn = Attention(width, heads, dropout)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)

    def forward(
        self,
        x_BTD: Tensor,
        position_TD: Tensor,
        past: tuple[Tensor, Tensor] | None,
        image: tuple[Tensor, Tensor],
        padded_PK: Tensor | None,
        need_weights: bool,
    ) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor | None]:
        """One layer over the new words.

        Args:
            x_BTD: the new words.
            position_TD: their positions.
            past: this layer's keys and values of the words before them, (B, H, S, E) each.
            image: this layer's keys (P, H, E, K) and values (P, H, K, E) of the pictures.
            padded_PK: True at padded cells; None where there are none.
            need_weights: whether to return the cross-attention.

        Returns:
            (B, T, D); keys and values of all words; cross-attention (B, H, T, K) or None.
        """
        y_BTD = self.norm1(x_BTD)
        queries, keys = self.self_attn.project(y_BTD + position_TD, 0, 2)
        (values,) = self.self_attn.project(y_BTD, 2)
        if past is not None:
            keys, values = torch.cat((past[0], keys), dim=2), torch.cat((past[1], values), dim=2)
        heads = functional.scaled_dot_product_attention(
            queries, keys, values, _causal_mask(queries, keys), self.self_attn.dropout_p
        )
        x_BTD = x_BTD + self.dropout(self.self_attn.merge_heads(heads))
        branch_BTD, cross_BHTK = self._cross_attend(self.norm2(x_BTD) + position_TD, image, padded_PK, need_weights)
        x_BTD = x_BTD + self.dropout(branch_BTD)
        return x_BTD + self.feed_forward(self.norm3(x_BTD)), (keys, values), cross_BHTK

    def _cross_attend(
        self, x_BTD: Tensor, image: tuple[Tensor, Tensor], padded_PK: Tensor | None, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Cross-attention. Beams of one picture are queries of one product, so its keys are read once."""
        keys_PHEK, values_PHKE = image
        attention, batch, words = self.multihead_attn, x_BTD.shape[0], x_BTD.shape[1]
        pictures = keys_PHEK.shape[0]
        (queries,) = attention.project(x_BTD.reshape(pictures, -1, x_BTD.shape[-1]), 0)
        if need_weights:
            scores = (queries * queries.shape[-1] ** -0.5) @ keys_PHEK
            if padded_PK is not None:
                scores = scores.masked_fill(padded_PK[:, None, None, :], float("-inf"))
            weights = scores.softmax(-1, dtype=torch.float32)
            heads = functional.dropout(weights, attention.dropout_p).to(values_PHKE.dtype) @ values_PHKE
        else:
            mask = None if padded_PK is None else ~padded_PK[:, None, None, :]
            keys = keys_PHEK.transpose(-1, -2)
            heads = functional.scaled_dot_product_attention(queries, keys, values_PHKE, mask, attention.dropout_p)
        output_BTD = attention.merge_heads(heads).reshape(batch, words, -1)
        if not need_weights:
            return output_BTD, None
        cross = weights.unflatten(2, (batch // pictures, words)).transpose(1, 2)
        return output_BTD, cross.reshape(batch, attention.heads, words, -1)


def _causal_mask(queries_BHTE: Tensor, keys_BHSE: Tensor) -> Tensor | None:
    """(T, S), True where a new word may attend: to itself and the words before. None for one new word: it sees all."""
    new, total = queries_BHTE.shape[2], keys_BHSE.shape[2]
    if new == 1:
        return None
    return torch.ones(new, total, dtype=torch.bool, device=keys_BHSE.device).tril(total - new)
