"""The readout: which tokens a classification head reads, and with which weights; described once, and checked by noise.

Axes: B pictures, V variants of one picture's tokens, D channels, N tokens (prefix tokens first), Q queries, K keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

import timm.layers
import torch
from timm.layers import AttentionPoolLatent
from timm.models.beit import Beit
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_relpos import VisionTransformerRelPos
from torch import nn

from vitrine.attribution.maps import TokenLayout
from vitrine.attribution.model_tail import Constant, copy_with
from vitrine.errors import ModelError
from vitrine.models.checkpoints.heads import ClassAndMeanTransformer
from vitrine.models.forward_hooks import watch_outputs
from vitrine.results import count_of

# Older versions of timm have no such pool.
_ATTENTION_POOLS = (AttentionPoolLatent, getattr(timm.layers, "AttentionPoolPrr", AttentionPoolLatent))

Pooling = Literal["mean", "max", "attention"]


@dataclass(frozen=True)
class ReadoutPart:
    """Tokens that a head reads as one.

    Attributes:
        pooling: "mean" or "max" over the tokens, channel by channel, or "attention", whose weights the model computes.
        tokens: their numbers, with the prefix tokens first; one alone is its own mean.
        share: what the part weighs in what the head reads, above 0; the shares of all parts sum to 1.
        name: in words.
    """

    pooling: Pooling
    tokens: range
    share: float
    name: str


@dataclass(frozen=True)
class Readout:
    """What reads tokens: a classification head, or one token that a person asks about.

    Attributes:
        parts: at least one; an attention pool is always alone.
        averages_queries: of an attention pool: its output is the mean over its queries, not the first one's.
    """

    parts: tuple[ReadoutPart, ...]
    averages_queries: bool = False

    @classmethod
    def of_token(cls, token: int, name: str) -> Readout:
        """One token alone."""
        return cls((ReadoutPart("mean", range(token, token + 1), 1.0, name),))

    @property
    def token(self) -> int | None:
        """The token that is read, where it is one alone."""
        first = self.parts[0]
        is_alone = len(self.parts) == 1 and first.pooling == "mean" and len(first.tokens) == 1
        return first.tokens.start if is_alone else None

    @property
    def is_pool(self) -> bool:
        """Whether an attention pool reads the tokens."""
        return self.parts[0].pooling == "attention"

    @property
    def depends_on_class(self) -> bool:
        """Whether parts differ in what they weigh in the logit of one class or another."""
        return len(self.parts) > 1 or self.parts[0].pooling == "max"

    @property
    def depends_on_picture(self) -> bool:
        """Whether the weights are another picture by picture: which patch is the maximum, say."""
        return any(part.pooling != "mean" for part in self.parts)

    def reads(self, token: int) -> bool:
        """Whether a token, by its number with the prefix tokens first, has any weight."""
        return any(token in part.tokens for part in self.parts)

    @property
    def words(self) -> str:
        """In words, with the shares where there are several parts."""
        if len(self.parts) == 1:
            return self.parts[0].name
        return " and ".join(f"{part.name} ({part.share:.2f})" for part in self.parts)

    @property
    def names(self) -> str:
        """The parts' names, without their shares."""
        return " and ".join(part.name for part in self.parts)

    def weights(
        self, count: int, tokens_BND: torch.Tensor | None = None, pool_BQK: torch.Tensor | None = None
    ) -> torch.Tensor:
        """What each token weighs: (B, N), rows sum to 1; (1, N) where no picture differs from another.

        A token's weight in a maximum is the share of the channels in which it is the largest.

        Args:
            count: N.
            tokens_BND: as the head gets them, after the last norm; for a maximum.
            pool_BQK: the attention pool's weights, mean over its heads; for a pool.
        """
        of_pictures = pool_BQK if tokens_BND is None else tokens_BND
        pictures, device = (1, None) if of_pictures is None else (len(of_pictures), of_pictures.device)
        weights_BN = torch.zeros(pictures, count, device=device)
        for part in self.parts:
            span = slice(part.tokens.start, part.tokens.stop)
            if part.pooling == "mean":
                weights_BN[:, span] += part.share / len(part.tokens)
            elif part.pooling == "max":
                assert tokens_BND is not None
                weights_BN[:, span] += part.share * _maximum_shares(tokens_BND[:, span])
            else:
                assert pool_BQK is not None
                return self.pool_row(pool_BQK, count)
        return weights_BN

    def pool_row(self, pool_QK: torch.Tensor, count: int) -> torch.Tensor:
        """The row of an attention pool that reaches the head, with zeros for tokens that the pool does not read.

        Args:
            pool_QK: (..., Q, K), K the tokens that the pool reads.
            count: N, the number of all tokens.

        Returns:
            (..., N); a row of another length where the pool reads other tokens than the description says.
        """
        row_K = pool_QK.mean(dim=-2) if self.averages_queries else pool_QK[..., 0, :]
        (part,) = self.parts
        if row_K.shape[-1] != len(part.tokens):
            return row_K
        return nn.functional.pad(row_K, (part.tokens.start, count - part.tokens.stop))


def _maximum_shares(tokens_BND: torch.Tensor) -> torch.Tensor:
    """The share of channels in which each token is the largest: float32 (B, N)."""
    largest_BD = tokens_BND.argmax(dim=1)
    shares_BN = torch.zeros(tokens_BND.shape[:2], device=tokens_BND.device)
    channel_share_BD = torch.ones_like(largest_BD, dtype=shares_BN.dtype) / largest_BD.shape[1]
    return shares_BN.scatter_add_(1, largest_BD, channel_share_BD)


@contextmanager
def watch_head_tokens(module: nn.Module) -> Iterator[list[torch.Tensor]]:
    """The tokens (B, N, D) that each forward pass inside the ``with`` block gives to the head, after the last norm."""
    norm: nn.Module = module.norm  # type: ignore[assignment]
    with watch_outputs(norm) as tokens:
        yield tokens


@dataclass(frozen=True)
class _HeadInput:
    """What some columns of a head's weight matrix are multiplied with.

    Attributes:
        head: the module's name.
        block, blocks: which of how many equal blocks of columns.
        parts: pooled tokens, whose shares sum to 1.
        averages_queries: see :class:`Readout`.
    """

    head: str
    parts: tuple[ReadoutPart, ...]
    block: int = 0
    blocks: int = 1
    averages_queries: bool = False

    def columns(self, matrix: torch.Tensor) -> torch.Tensor:
        """Its columns of a matrix."""
        return matrix.chunk(self.blocks, dim=1)[self.block]


def describe_readout(module: nn.Module, layout: TokenLayout) -> Readout:
    """What a classifier's head reads.

    The description follows from the functions of timm, and of :mod:`vitrine.models.checkpoints.heads`, that pool and
    classify. It is checked once for a model: noise is put into tokens after the last block, and what reaches the head
    must change where a token is said to be read, and nowhere else. Where a head reads several parts through weights
    of their own, the share of each is the sum of its absolute weights, over channels and classes, in the sum of all.

    Args:
        module: a timm vision transformer in eval mode.
        layout: of its tokens.

    Raises:
        ModelError: what the head reads is not known, or not what the model's settings say.
    """
    inputs = _head_inputs(module, layout)
    checked_inputs = _CHECKED.setdefault(module, set())
    if inputs not in checked_inputs:
        _require_agreement(module, layout, inputs)
        checked_inputs.add(inputs)
    weights = _input_weights(module, inputs)
    parts = tuple(
        ReadoutPart(part.pooling, part.tokens, part.share * weight, part.name)
        for each, weight in zip(inputs, weights, strict=True)
        for part in each.parts
        if weight > 0
    )
    return Readout(parts, inputs[0].averages_queries)


_CHECKED: WeakKeyDictionary[nn.Module, set[tuple[_HeadInput, ...]]] = WeakKeyDictionary()

_FORWARD_HEADS: tuple[Any, ...] = (
    VisionTransformer.forward_head,
    Eva.forward_head,
    Beit.forward_head,
    VisionTransformerRelPos.forward_head,
)
_POOLS: tuple[Any, ...] = (VisionTransformer.pool, Eva.pool, None)  # None: forward_head pools by itself


def _head_inputs(module: nn.Module, layout: TokenLayout) -> tuple[_HeadInput, ...]:
    """The inputs of the head, or of both heads, by the functions that make them."""
    forward_head, pool = _function(module, "forward_head"), _function(module, "pool")
    patches = range(layout.prefix, layout.tokens)
    if forward_head is VisionTransformerDistilled.forward_head:
        return _HeadInput("head", (_one(0, "[class]"),)), _HeadInput("head_dist", (_one(1, "[distillation]"),))
    if forward_head is VisionTransformer.forward_head and pool is ClassAndMeanTransformer.pool:
        mean = ReadoutPart("mean", patches, 1.0, "the mean of the patches")
        return _HeadInput("head", (_one(0, "[class]"),), 0, 2), _HeadInput("head", (mean,), 1, 2)
    if forward_head not in _FORWARD_HEADS or pool not in _POOLS:
        name = "forward_head" if forward_head not in _FORWARD_HEADS else "pool"
        raise _unknown(module, f"its {name} is none of timm's that are known")
    if getattr(module, "attn_pool", None) is not None:
        return (_pool_input(module, layout, reads_prefix=pool is Eva.pool),)
    return (_HeadInput("head", _pooled_parts(module, layout)),)


def _one(token: int, name: str) -> ReadoutPart:
    return ReadoutPart("mean", range(token, token + 1), 1.0, name)


def _pool_input(module: nn.Module, layout: TokenLayout, *, reads_prefix: bool) -> _HeadInput:
    pool: Any = module.attn_pool
    if not isinstance(pool, _ATTENTION_POOLS) or pool.pool not in ("token", "avg"):
        raise _unknown(module, f"its attention pool is a {type(pool).__name__}")
    start = 0 if reads_prefix or getattr(module, "pool_include_prefix", False) else layout.prefix
    part = ReadoutPart("attention", range(start, layout.tokens), 1.0, "the attention pool")
    return _HeadInput("head", (part,), averages_queries=pool.pool == "avg")


def _pooled_parts(module: nn.Module, layout: TokenLayout) -> tuple[ReadoutPart, ...]:
    pooling = getattr(module, "global_pool", None)
    if pooling == "token":
        return (_one(0, "[class]" if layout.has_class else "the first token"),)
    if pooling not in ("avg", "max", "avgmax"):
        raise _unknown(module, f"its global_pool is {pooling!r}")
    includes_prefix = bool(getattr(module, "pool_include_prefix", False)) and layout.prefix > 0
    tokens, what = range(layout.prefix, layout.tokens), "the patches"
    if includes_prefix:
        tokens, what = range(layout.tokens), "all tokens"
    share = 0.5 if pooling == "avgmax" else 1.0
    mean = ReadoutPart("mean", tokens, share, f"the mean of {what}")
    maximum = ReadoutPart("max", tokens, share, f"the maximum over {what}")
    return {"avg": (mean,), "max": (maximum,), "avgmax": (mean, maximum)}[pooling]


def _function(module: nn.Module, name: str) -> Any:
    """The function behind a method, also one that an instance has of its own; None without it."""
    method = getattr(module, name, None)
    return getattr(method, "__func__", method)


def _input_weights(module: nn.Module, inputs: Sequence[_HeadInput]) -> list[float]:
    """What each input weighs, 0 to 1: its part of the sum of absolute weights; equal where all weights are 0."""
    if len(inputs) == 1:
        return [1.0]
    sums = []
    for each in inputs:
        head = getattr(module, each.head)
        if not isinstance(head, nn.Linear):
            raise _unknown(module, f"its {each.head} is a {type(head).__name__}, not one matrix of weights")
        sums.append(float(each.columns(head.weight.detach()).abs().sum(dtype=torch.float64)))
    total = sum(sums)
    return [part / total for part in sums] if total > 0 else [1 / len(sums)] * len(sums)


_GROUPS = 4  # interleaved groups of a mean's tokens, each of which must be read
_NOTICEABLE = 1e-3  # of the change that noise in all tokens makes; float32 rounds at 1e-6 of it


def _require_agreement(module: nn.Module, layout: TokenLayout, inputs: tuple[_HeadInput, ...]) -> None:
    """Put noise into tokens after the last block, and see that what reaches the head follows the description.

    Raises:
        ModelError: it does not.
    """
    groups = _token_groups(layout, inputs)
    features = _head_features(module, layout, {each.head for each in inputs}, groups)
    for each in inputs:
        feature_VD = each.columns(features[each.head])
        change_V = (feature_VD[1:] - feature_VD[:1]).abs().amax(dim=1)
        if not change_V[0] > 0:
            continue  # a norm or a pool of zeros: nothing that could be seen
        for group, change in zip(groups, (change_V[1:] / change_V[0]).tolist(), strict=True):
            is_read = any(token in part.tokens for part in each.parts for token in group[:1])
            if (change > _NOTICEABLE) != is_read:
                claim = "is said to be read, and changes nothing" if is_read else "is said to be unread, and changes it"
                tokens = (
                    f"token {group[0]}" if len(group) == 1 else f"{count_of(len(group), 'token')}, from {group[0]} on,"
                )
                raise _unknown(module, f"noise in {tokens} {claim}")


def _token_groups(layout: TokenLayout, inputs: tuple[_HeadInput, ...]) -> list[list[int]]:
    """Tokens that are read, or unread, together: each prefix token, and the patches, in several groups for a mean.

    A maximum or an attention pool may give one token next to nothing: those that it reads are one group.
    """
    parts = [part for each in inputs for part in each.parts]
    is_mean = all(part.pooling == "mean" for part in parts)
    if not is_mean and parts[0].tokens.start == 0:
        return [list(range(layout.tokens))]
    count = min(_GROUPS, layout.patches) if is_mean else 1
    patches = [list(range(layout.prefix + first, layout.tokens, count)) for first in range(count)]
    return [[token] for token in range(layout.prefix)] + patches


def _head_features(
    module: nn.Module, layout: TokenLayout, heads: set[str], groups: Sequence[Sequence[int]]
) -> dict[str, torch.Tensor]:
    """What reaches each head: (V, D) by its name, of plain tokens, of noise in all, and of noise in each group.

    A copy of the model that shares every weight runs, with its blocks and heads replaced, so that the model itself
    may run at the same time in another thread.

    Raises:
        ModelError: the model does not run that way.
    """
    parameter = next(module.parameters())
    generator = torch.Generator().manual_seed(0)
    plain_ND, noise_ND = torch.randn(2, layout.tokens, int(module.embed_dim), generator=generator)  # type: ignore[arg-type]
    tokens_VND = torch.stack([plain_ND, noise_ND, *(plain_ND.clone() for _ in groups)])
    for variant, group in enumerate(groups, start=2):
        tokens_VND[variant, list(group)] = noise_ND[list(group)]
    tokens_VND = tokens_VND.to(parameter.device, parameter.dtype)
    recorders = {name: _Recorder() for name in heads}
    copied_module = copy_with(module, {"blocks": nn.Sequential(Constant(tokens_VND)), **recorders})
    embed: Any = module.patch_embed
    patch_height, patch_width = embed.patch_size
    size = embed.img_size or (layout.rows * patch_height, layout.columns * patch_width)
    pixels_BCHW = torch.zeros(1, 3, *size, device=parameter.device, dtype=parameter.dtype)
    try:
        with torch.no_grad(), torch.autocast(parameter.device.type, enabled=False):
            copied_module.forward(pixels_BCHW)
        return {name: recorder.features.float() for name, recorder in recorders.items()}
    except (RuntimeError, TypeError, AttributeError, ValueError) as error:
        raise _unknown(module, "its head cannot be run on tokens alone") from error


class _Recorder(nn.Module):
    """A head that notes what it is given."""

    features: torch.Tensor

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """What came in."""
        self.features = features
        return features


def _unknown(module: nn.Module, reason: str) -> ModelError:
    return ModelError(
        f"What the head of this {type(module).__name__} reads is not known: {reason}.\n"
        "Use --method gradcam or occlusion, or the attention of one token: --query class or ROW,COLUMN."
    )
