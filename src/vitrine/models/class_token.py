"""The last block of a vision transformer, computed for the class token alone where nothing else is read of it.

Letters: B pictures, H heads, N tokens, D channels, of all heads or of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from vitrine.torchpair import require_torchvision

require_torchvision()

from timm.layers import Attention, GluMlp, Mlp, SwiGLU  # noqa: E402
from timm.models.vision_transformer import Block, VisionTransformer  # noqa: E402


@contextmanager
def class_token_alone(module: nn.Module) -> Iterator[None]:
    """Inside the ``with`` block, a classifier's last block computes one token where its head reads no other.

    Patches still give their keys and values. Their queries' attention, projections and feed-forward layers, of which
    the head sees nothing and which get no gradient, are left out: nine twelfths of one block's products. Logits and
    gradients are the same up to rounding. Other models than timm's plain ones are left as they are.

    Args:
        module: the model, or one that holds it. Its last block is put back afterwards.
    """
    models: list[Any] = [each for each in module.modules() if type(each) is VisionTransformer]
    blocks = [model.blocks[-1] for model in models if _reads_one(model)]
    with ExitStack() as stack:
        for block in blocks:
            stack.enter_context(_forward(block, partial(_one_token, block)))
            stack.enter_context(_forward(block.attn, partial(_attended, block.attn)))
        yield


@contextmanager
def _forward(part: Any, other: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Another forward pass for one module; hooks stay."""
    before = vars(part).get("forward")
    part.forward = other
    try:
        yield
    finally:
        if before is None:
            del part.forward
        else:
            part.forward = before


def _reads_one(model: Any) -> bool:
    """Whether the head reads the class token alone, and the last block is one that is known."""
    block: Any = model.blocks[-1] if len(model.blocks) else None
    return (
        model.global_pool == "token"
        and model.attn_pool is None
        and model.cls_token is not None
        and isinstance(model.norm, nn.LayerNorm | nn.Identity)
        and type(block) is Block
        and type(block.attn) is Attention
        and getattr(block.attn, "gate", None) is None
        and type(block.mlp) in (Mlp, GluMlp, SwiGLU)
    )


def _one_token(block: Any, x_BND: Tensor) -> Tensor:
    """The last block's forward pass: (B, N, D) to (B, 1, D)."""
    token_B1D = x_BND[:, :1]
    token_B1D = token_B1D + block.drop_path1(block.ls1(block.attn(block.norm1(x_BND))))
    made_B1D: Tensor = token_B1D + block.drop_path2(block.ls2(block.mlp(block.norm2(token_B1D))))
    return made_B1D


def _attended(attention: Any, x_BND: Tensor) -> Tensor:
    """As timm's ``Attention``, for the first token's query."""
    shape = (*x_BND.shape[:2], 3, attention.num_heads, -1)
    q_BHND, k_BHND, v_BHND = attention.qkv(x_BND).reshape(shape).permute(2, 0, 3, 1, 4).unbind(0)
    q_BH1D, k_BHND = attention.q_norm(q_BHND[:, :, :1]), attention.k_norm(k_BHND)
    dropped = attention.attn_drop.p if attention.training else 0.0
    seen_BH1D = functional.scaled_dot_product_attention(q_BH1D, k_BHND, v_BHND, dropout_p=dropped)
    made_B1D: Tensor = attention.proj_drop(attention.proj(attention.norm(seen_BH1D.transpose(1, 2).flatten(2))))
    return made_B1D
