"""Names of weights in transformers' vision models: which timm tensor each is, and what is not of the image tower.

The library has three layouts: that of ViT, DeiT and DINOv2; DINOv3's; and the one that CLIP and SigLIP share. Its files
name some tensors otherwise than its modules do since version 5: both are read.

Axes: N tokens or positions, D channels, P x P pixels of a patch, C colours.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from vitrine.models.checkpoints.base import (
    ConvertedCheckpoint,
    NamePlan,
    convert_names,
    left_out_note,
    plan_names,
    rearrange_checkpoint,
)
from vitrine.models.checkpoints.state_dict import StateDictFile
from vitrine.results import count_of

_VIT_PREFIX = r"^(?:vit|deit|dinov2|dinov2_with_registers)\."
_VIT_RENAMES = (
    (_VIT_PREFIX, ""),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^(?:encoder\.layer|encoder\.layers|layers)\.(\d+)\.", r"blocks.\1."),
    (r"^(blocks\.\d+)\.attention\.attention\.([qkv])(?:uery|ey|alue)\.", r"\1.attn.\2."),
    (r"^(blocks\.\d+)\.attention\.([qkv])_proj\.", r"\1.attn.\2."),
    (r"^(blocks\.\d+)\.attention\.(?:output\.dense|o_proj)\.", r"\1.attn.proj."),
    (r"^(blocks\.\d+)\.(?:intermediate\.dense|mlp\.weights_in)\.", r"\1.mlp.fc1."),
    (r"^(blocks\.\d+)\.(?:output\.dense|mlp\.weights_out|mlp\.down_proj)\.", r"\1.mlp.fc2."),
    (r"^(blocks\.\d+)\.mlp\.(gate|up)_proj\.", r"\1.mlp.\2."),
    (r"^(blocks\.\d+)\.layernorm_before\.", r"\1.norm1."),
    (r"^(blocks\.\d+)\.layernorm_after\.", r"\1.norm2."),
    (r"^(blocks\.\d+)\.layer_scale([12])\.lambda1$", r"\1.ls\2.gamma"),
    (r"^layernorm\.", "norm."),
    (r"^(?:classifier|cls_classifier)\.", "head."),
    (r"^distillation_classifier\.", "head_dist."),
)
_DINOV3_RENAMES = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.patch_embeddings\.", "patch_embed.proj."),
    (r"^(?:model\.)?layer\.(\d+)\.", r"blocks.\1."),
    (r"^(blocks\.\d+)\.attention\.([qv])_proj\.bias$", r"\1.attn.\2_bias"),
    (r"^(blocks\.\d+)\.attention\.([qkv])_proj\.", r"\1.attn.\2."),
    (r"^(blocks\.\d+)\.attention\.o_proj\.", r"\1.attn.proj."),
    (r"^(blocks\.\d+)\.layer_scale([12])\.lambda1$", r"\1.gamma_\2"),
    (r"^(blocks\.\d+)\.mlp\.gate_proj\.", r"\1.mlp.fc1_g."),
    (r"^(blocks\.\d+)\.mlp\.down_proj\.", r"\1.mlp.fc2."),
)
_TOWER_RENAMES = (
    (r"^vision_model\.", ""),
    (r"^embeddings\.class_embedding$", "cls_token"),
    (r"^embeddings\.position_embedding\.weight$", "pos_embed"),
    (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"^pre_layrnorm\.", "norm_pre."),
    (r"^post_layernorm\.", "norm."),
    (r"^encoder\.layers\.(\d+)\.", r"blocks.\1."),
    (r"^(blocks\.\d+)\.self_attn\.([qkv])_proj\.", r"\1.attn.\2."),
    (r"^(blocks\.\d+)\.self_attn\.out_proj\.", r"\1.attn.proj."),
    (r"^(blocks\.\d+)\.layer_norm([12])\.", r"\1.norm\2."),
    (r"^head\.probe$", "attn_pool.latent"),
    (r"^head\.attention\.in_proj_(weight|bias)$", r"attn_pool.qkv.\1"),
    (r"^head\.attention\.out_proj\.", "attn_pool.proj."),
    (r"^head\.layernorm\.", "attn_pool.norm."),
    (r"^head\.mlp\.", "attn_pool.mlp."),
    (r"^classifier\.", "head."),
)

_PATCHES = re.compile(
    r"(?P<tower>(?:.*\.)?embeddings\.patch_embedding\.weight)"
    r"|(?P<dinov3>(?!transformer\.|.*\.transformer\.)(?:.*\.)?embeddings\.patch_embeddings\.weight)"
    r"|(?P<vit>(?:.*\.)?embeddings\.patch_embeddings\.projection\.weight)"
)
_TEXT_HALF = re.compile(r"text_model\..*|text_projection\.(weight|bias)|logit_(scale|bias)")
_UNUSED = re.compile(
    r"((vit|deit|dinov2|dinov2_with_registers)\.)?(embeddings\.mask_token|pooler\.dense\.(weight|bias))"
    r"|(vision_model\.)?embeddings\.position_ids|visual_projection\.weight"
)
_ATTENTION_POOL = re.compile(r"(vision_model\.)?head\.(probe|attention|layernorm|mlp)\b.*")
_POST_NORM = re.compile(r"(vision_model\.)?post_layernorm\.(weight|bias)")

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class _Layout:
    """Where one layout differs from timm's.

    Attributes:
        renames: for :func:`~vitrine.models.checkpoints.base.plan_names`.
        rearrange: brings renamed tensors to timm's shapes; tensors on the meta device too.
    """

    renames: tuple[tuple[str, str], ...]
    rearrange: Callable[[Tensors], Tensors]


def transformers_layout(names: Iterable[str]) -> str | None:
    """Which of the library's layouts tensors have: vit, dinov3 or tower; None where it is none of them."""
    kinds = (match.lastgroup for name in names if (match := _PATCHES.fullmatch(name)))
    return next(kinds, None)


def convert_layout(file: StateDictFile) -> ConvertedCheckpoint:
    """Weights under transformers' names in timm's; what is not of the image tower is left out, and named.

    Raises:
        ModelError: tensors that belong together do not fit together.
    """
    kind = transformers_layout(file.shapes)
    left_out = {name: reason for name in file.shapes if (reason := _why_left_out(name, file.shapes))}
    layout = _LAYOUTS[kind or "vit"]
    plan = plan_names(file, _renames(layout, file.shapes), "|".join(map(re.escape, left_out)))
    checkpoint = convert_names("transformers", file, plan, notes=tuple(_left_out_notes(left_out)))
    resample = None
    if kind == "vit" and "blocks.0.ls1.gamma" in plan.sources and "reg_token" not in plan.sources:
        resample = _resample_as_dinov2
    if kind == "tower" and len(checkpoint.shapes.get("patch_embed.proj.weight", ())) == 2:
        resample = _resample_as_naflex
    checkpoint = replace(checkpoint, resample_positions=resample)
    return checkpoint if _is_distilled(plan) else rearrange_checkpoint(checkpoint, layout.rearrange)


def _is_distilled(plan: NamePlan) -> bool:
    """Whether there is DeiT's second token, which has a position, as the class token has."""
    return any(source.endswith("distillation_token") for sources in plan.sources.values() for source in sources)


def _renames(layout: _Layout, names: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    has_teacher = any(name.startswith("distillation_classifier.") for name in names)
    is_gated = any(name.endswith("mlp.gate_proj.weight") for name in names)
    return (
        *layout.renames,
        (r"^embeddings\.distillation_token$", "dist_token" if has_teacher else "reg_token"),
        (r"^(blocks\.\d+)\.mlp\.up_proj\.", r"\1.mlp.fc1_x." if is_gated else r"\1.mlp.fc1."),
    )


_TEXT, _NOT_USED = "text", "no classifier uses it"
_POOL, _NORM = "its classifier reads the mean of the patches", "its classifier reads the patches before that norm"


def _why_left_out(name: str, names: Mapping[str, object]) -> str:
    """Why a tensor is left out; empty of one that is not."""
    if _TEXT_HALF.fullmatch(name):
        return _TEXT
    if _UNUSED.fullmatch(name):
        return _NOT_USED
    if "classifier.weight" in names and _ATTENTION_POOL.fullmatch(name):
        return _POOL
    is_clip = any(each.endswith("pre_layrnorm.weight") for each in names)
    return _NORM if is_clip and "classifier.weight" in names and _POST_NORM.fullmatch(name) else ""


def _left_out_notes(left_out: Mapping[str, str]) -> Iterable[str]:
    """A sentence for each reason, with the names."""
    for reason in dict.fromkeys(left_out.values()):
        names = [name for name, why in left_out.items() if why == reason]
        if reason == _TEXT:
            parts = sorted({name.partition(".")[0] for name in names})
            yield f"Left out: its text half, {count_of(len(names), 'tensor')} ({', '.join(parts)})."
        else:
            yield from left_out_note(names, reason)


def _without_position_of_class(tensors: Tensors) -> Tensors:
    """Of a model with registers: the class token with its position added to it; registers have none.

    timm's models with registers have positions for patches alone.
    """
    if "reg_token" not in tensors or "pos_embed" not in tensors:
        return tensors
    positions_1ND, tokens_1ND = tensors["pos_embed"], tensors["cls_token"]
    result = {**tensors, "cls_token": tokens_1ND + positions_1ND[:, :1], "pos_embed": positions_1ND[:, 1:]}
    return _without_empty_registers(result)


def _without_empty_registers(tensors: Tensors) -> Tensors:
    """timm has no token where there are no registers; the library has one of no rows."""
    return {name: value for name, value in tensors.items() if name != "reg_token" or value.numel()}


def _as_timm_tower(tensors: Tensors) -> Tensors:
    """CLIP's and SigLIP's tensors: tokens and positions get an axis for pictures, the pool's queries leave its keys."""
    result = {}
    for name, value in tensors.items():
        if name == "cls_token":
            result[name] = value.reshape(1, 1, -1)
        elif name == "pos_embed":
            result[name] = value if value.ndim == 3 else value[None]
        elif name == "patch_embed.proj.weight" and value.ndim == 2:
            side = math.isqrt(value.shape[1] // 3)  # NaFlex: rows of a patch, its columns, colours
            result[name] = value.reshape(-1, side, side, 3).permute(0, 3, 1, 2).contiguous()
        elif name.startswith("attn_pool.qkv."):
            kind, width = name.rpartition(".")[2], value.shape[0] // 3
            result |= {f"attn_pool.q.{kind}": value[:width], f"attn_pool.kv.{kind}": value[width:]}
        else:
            result[name] = value
    return result


_LAYOUTS = {
    "vit": _Layout(_VIT_RENAMES, _without_position_of_class),
    "dinov3": _Layout(_DINOV3_RENAMES, _without_empty_registers),
    "tower": _Layout(_TOWER_RENAMES, _as_timm_tower),
}


def _resample_as_dinov2(positions_1ND: Tensor, grid: tuple[int, int]) -> Tensor:
    """Position embeddings on another grid as Dinov2Embeddings does: bicubic, without antialiasing."""
    return torch.cat([positions_1ND[:, :1], _resample(positions_1ND[:, 1:], grid, "bicubic", antialias=False)], dim=1)


def _resample_as_naflex(positions_1ND: Tensor, grid: tuple[int, int]) -> Tensor:
    """Position embeddings on another grid as Siglip2VisionEmbeddings does: bilinear, antialiased; no class token."""
    return _resample(positions_1ND, grid, "bilinear", antialias=True)


def _resample(positions_1ND: Tensor, grid: tuple[int, int], mode: str, *, antialias: bool) -> Tensor:
    side = math.isqrt(positions_1ND.shape[1])
    if (side, side) == grid or side * side != positions_1ND.shape[1]:
        return positions_1ND  # of a grid that is not square: loading them says what does not fit
    patches_1DRC = positions_1ND.reshape(1, side, side, -1).permute(0, 3, 1, 2).float()
    resized_1DRC = interpolate(patches_1DRC, size=grid, mode=mode, align_corners=False, antialias=antialias)
    return resized_1DRC.permute(0, 2, 3, 1).flatten(1, 2).to(positions_1ND.dtype)
