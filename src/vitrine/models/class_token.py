"""The last block of a vision transformer, computed for the class token alone where nothing else is read of it.

Letters: B pictures, H heads, N tokens, D channels, of all heads or of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from threading import Lock
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from vitrine.models.compiled import is_compiled
from vitrine.torchpair import require_torchvision

require_torchvision()

from timm.layers import Attention, GluMlp, Mlp, SwiGLU  # noqa: E402
from timm.models.vision_transformer import Block, VisionTransformer  # noqa: E402


@contextmanager
def class_token_alone(module: nn.Module) -> Iterator[None]:
    """Inside the ``with`` block, a classifier's last block computes one token where its head reads no other.

    Patches still give their keys and values. Their queries' attention, projections and feed-forward layers, of which
    the head sees nothing and which get no gradient, are left out: nine twelfths of one block's products. Logits and
    gradients are the same up to rounding; with dropout inside the block, other units are dropped. Other models than
    timm's plain ones are left as they are, and so are compiled ones and other threads.

    Args:
        module: the model, or one that holds it.
    """
    models: list[Any] = [] if is_compiled(module) else [each for each in module.modules() if _reads_one(each)]
    with ExitStack() as stack:
        for block in (model.blocks[-1] for model in models):
            stack.enter_context(_short_way(block, _one_token))
            stack.enter_context(_short_way(block.attn, _attended))
        yield


def _reads_one(model: Any) -> bool:
    """Whether the head reads the class token alone, and the last block is one that is known."""
    if type(model) is not VisionTransformer or not len(model.blocks):
        return False
    block: Any = model.blocks[-1]
    return (
        model.global_pool == "token"
        and model.attn_pool is None
        and model.cls_token is not None
        and not model.grad_checkpointing  # whose backward pass computes the block again, outside of the with block
        and isinstance(model.norm, nn.LayerNorm | nn.Identity)
        and type(block) is Block
        and type(block.attn) is Attention
        and getattr(block.attn, "gate", None) is None
        and type(block.mlp) in (Mlp, GluMlp, SwiGLU)
        # Somebody else's forward pass on one of the two is left alone.
        and all(isinstance(vars(part).get("forward"), _Forward | None) for part in (block, block.attn))
    )


_shortened: ContextVar[tuple[nn.Module, ...]] = ContextVar("_shortened", default=())
_lock = Lock()


class _Forward:
    """A part's forward pass while some thread takes the short way: that thread takes it, and nobody else does."""

    def __init__(self, part: nn.Module, short: Callable[[Any, Tensor], Tensor]) -> None:
        self.part, self.short, self.users = part, short, 0

    def __call__(self, x_BND: Tensor, *args: Any, **settings: Any) -> Any:
        if args or settings or not any(self.part is each for each in _shortened.get()):
            return type(self.part).forward(self.part, x_BND, *args, **settings)
        return self.short(self.part, x_BND)


@contextmanager
def _short_way(part: Any, short: Callable[[Any, Tensor], Tensor]) -> Iterator[None]:
    with _lock:
        own = vars(part).get("forward")
        if own is None:
            own = part.forward = _Forward(part, short)
        own.users += 1
    token = _shortened.set((*_shortened.get(), part))
    try:
        yield
    finally:
        _shortened.reset(token)
        with _lock:
            own.users -= 1
            if not own.users:
                del part.forward


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
