"""Weights under timm's own names, without a configuration: which of timm's models has exactly these tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import get_pretrained_cfg

from vitrine.errors import ModelError
from vitrine.models.checkpoints.base import ConvertedCheckpoint, ModelDescription, Readout
from vitrine.models.checkpoints.state_dict import Shape, StateDictFile
from vitrine.models.timm_model import create_timm_model
from vitrine.results import and_n_more, count_of

# (width, depth): word in timm's names, heads, width of the MLP. Dosovitskiy et al. 2020 (B, L, H); Touvron et al. 2020
# (Ti, S); Zhai et al. 2021 (g, G). Heads cannot be read from shapes.
_PUBLISHED = {
    (192, 12): ("tiny", 3, 768),
    (384, 12): ("small", 6, 1536),
    (768, 12): ("base", 12, 3072),
    (1024, 24): ("large", 16, 4096),
    (1280, 32): ("huge", 16, 5120),
    (1408, 40): ("giant", 16, 6144),
    (1664, 48): ("gigantic", 16, 8192),
}
_USUAL_HEAD = 64  # channels of one head in every published size up to large


@dataclass(frozen=True)
class Dimensions:
    """Sizes of a plain vision transformer.

    Attributes:
        width: of the tokens.
        depth: number of blocks.
        mlp: width of the first layer of the MLP.
        patch: side of a patch in pixels.
        grid: patches along one side.
        prefix: tokens before the patches that have a position embedding.
    """

    width: int
    depth: int
    mlp: int
    patch: int
    grid: int
    prefix: int

    @property
    def image(self) -> int:
        """Side of the picture in pixels."""
        return self.patch * self.grid


def read_dimensions(shapes: Mapping[str, Shape], path: Path) -> Dimensions:
    """Sizes of a plain vision transformer, from the shapes of its tensors in timm's names.

    Raises:
        ModelError: it is no vision transformer for square pictures with learned positions.
    """
    try:
        width, channels, patch, other = shapes["patch_embed.proj.weight"]
        _, tokens, _ = shapes["pos_embed"]
        mlp = shapes["blocks.0.mlp.fc1.weight"][0]
    except (KeyError, ValueError, IndexError) as error:
        raise ModelError(
            f"{path} has no patch embedding, position embeddings and blocks of a plain vision transformer ({error}).\n"
            "If it is one of another kind, name it: --arch NAME."
        ) from error
    depth = count_blocks(shapes)
    if depth > sum(name.endswith(".mlp.fc1.weight") for name in shapes):
        raise ModelError(f"{path} numbers its blocks up to {depth - 1} and does not have all of them.")
    prefix = sum(shapes[name][-2] for name in ("cls_token", "dist_token", "reg_token") if len(shapes.get(name, ())) > 1)
    grid = round(max(0, tokens - prefix) ** 0.5)
    if not min(width, patch, mlp) or patch != other or channels != 3 or grid < 1 or grid * grid + prefix != tokens:
        raise ModelError(
            f"{path} is of a model for {channels} channels, patches of {patch} x {other} pixels and "
            f"{tokens - prefix} of them.\nExpected three channels and a square of square patches."
        )
    return Dimensions(width, depth, mlp, patch, grid, prefix)


def size_word(width: int, depth: int) -> str:
    """timm's word for a published size; empty for others."""
    return _PUBLISHED.get((width, depth), ("", 0, 0))[0]


def size_words() -> set[str]:
    """timm's words for all published sizes."""
    return {word for word, _, _ in _PUBLISHED.values()}


def count_blocks(shapes: Mapping[str, Shape]) -> int:
    """Number of transformer blocks, by the highest number in a tensor's name."""
    numbers = [int(match[1]) for name in shapes if (match := re.match(r"blocks\.(\d{1,4})\.", name))]
    return max(numbers, default=-1) + 1


def plain_vit(
    size: Dimensions, path: Path, heads: int | None = None, model_args: Mapping[str, Any] | None = None
) -> tuple[str, dict[str, Any], tuple[str, ...]]:
    """timm's name and constructor arguments of a plain vision transformer.

    Args:
        size: its dimensions.
        path: of the weights, for messages.
        heads: number of attention heads, where it is known; else the published one for this size, else one for every
            64 channels, which is said.
        model_args: arguments that a person gives; ``num_heads`` among them settles the heads.

    Returns:
        The name, arguments where they differ from it, and sentences on what was assumed.

    Raises:
        ModelError: the number of heads is not known.
    """
    heads = heads or (model_args or {}).get("num_heads")
    word, published_heads, published_mlp = _PUBLISHED.get((size.width, size.depth), ("", 0, 0))
    notes: tuple[str, ...] = ()
    if heads is None and word and size.mlp == published_mlp:
        heads = published_heads
    elif heads is None:
        if size.width % _USUAL_HEAD:
            raise ModelError(
                f"{path} is of a vision transformer with width {size.width} and "
                f"{count_of(size.depth, 'block')}, whose number of "
                "attention heads is not in the file.\nGive a folder with config.json and model.safetensors as timm "
                "writes them, or in training --set model_args.num_heads=N."
            )
        heads = size.width // _USUAL_HEAD
        notes = (
            f"The file does not say how many attention heads there are: {heads} were taken, of {_USUAL_HEAD} channels "
            "each. With another number its answers would be wrong.",
        )
    is_published = word and heads == published_heads and size.mlp == published_mlp
    name = f"vit_{word}_patch{size.patch}_{size.image}" if is_published else ""
    if name and timm.is_model(name):
        return name, {}, notes
    at_224 = f"vit_{word}_patch{size.patch}_224" if is_published else ""
    if at_224 and timm.is_model(at_224):
        return at_224, {"img_size": size.image}, notes
    return "vit_base_patch16_224", size_args(size, heads), notes


def size_args(size: Dimensions, heads: int) -> dict[str, Any]:
    """timm's constructor arguments for a model of these dimensions, whatever size its name says."""
    return {
        "img_size": size.image,
        "patch_size": size.patch,
        "embed_dim": size.width,
        "depth": size.depth,
        "num_heads": heads,
        "mlp_ratio": _mlp_ratio(size.mlp, size.width),
    }


def _mlp_ratio(mlp: int, width: int) -> float:
    """The factor with which timm, which truncates, comes to this width of the MLP."""
    ratio = mlp / width
    return ratio if int(width * ratio) == mlp else math.nextafter(ratio, math.inf)


def input_cfg(size: Dimensions, classes: int, **more: Any) -> dict[str, Any]:
    """timm's description of an input of this size, to which ``more`` adds the normalisation."""
    return {
        "input_size": (3, size.image, size.image),
        "fixed_input_size": True,
        "interpolation": "bicubic",
        "num_classes": classes,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
        **more,
    }


_FAMILIES = ["vit_*", "deit*", "beit*", "eva*"]
_OR_CONFIG = "Or keep timm's config.json beside it."


def convert_timm(file: StateDictFile) -> ConvertedCheckpoint:
    """Weights as they are: timm's own loader knows what becomes of names that are not quite its own."""
    shapes = dict(file.shapes)
    is_npz = file.path.suffix == ".npz"
    if is_npz:  # of another release of Google's code: timm's reader decides
        heads = [shape for name, shape in shapes.items() if name.endswith("head/bias") and shape]
        shapes |= {"head.weight": heads[0]} if heads else {}
    head, token = shapes.get("head.weight", ()), shapes.get("cls_token", ())
    is_dinov2 = "blocks.0.ls1.gamma" in shapes and len(head) == 2 and len(token) == 3
    reads_both = is_dinov2 and head[1] == 2 * token[2]  # its linear classifier
    readout: Readout | None = "class and mean" if reads_both else None
    return ConvertedCheckpoint("timm", file, shapes, file.tensors, readout=readout, is_npz=is_npz)


def describe_timm(
    checkpoint: ConvertedCheckpoint,
    model_args: Mapping[str, Any] | None = None,  # noqa: ARG001
) -> ModelDescription:
    """The one model of timm's that has these tensors.

    Raises:
        ModelError: none has them, or several have, which may differ in what they compute and in the normalisation of
            their pictures; the message lists them.
    """
    shapes = checkpoint.shapes
    kernel = shapes.get("patch_embed.proj.weight", ())
    if len(kernel) != 4 or not count_blocks(shapes):
        names = ", ".join(list(shapes)[:3])
        raise ModelError(
            f"{checkpoint.path} is a file, and its names ({names} ...) do not say which model it is of.\n"
            "Name it: --arch NAME, or in training: --set model=NAME --set pretrained=FILE."
        )
    pooling = {"global_pool": "avg"} if "fc_norm.weight" in shapes and "norm.weight" not in shapes else {}
    models = [name for name in _models_of_size(shapes) if _has_exactly(name, shapes, pooling)]
    from_file = checkpoint.file.architecture.removeprefix("timm/").partition(".")[0]
    notes: tuple[str, ...] = ()
    if len(models) > 1 and from_file in models:  # as timm's own training script saves it
        models, notes = [from_file], (f"Of several models that fit, the file names {from_file} (arch).",)
    choices = [choice for name in models for choice in _normalisations(name)]
    if len(choices) == 1:
        name = choices[0][0].partition(".")[0]
        cfg = {k: v for k, v in get_pretrained_cfg(name).to_dict().items() if v is not None}
        return ModelDescription(name, pooling, cfg | {"num_classes": checkpoint.classes()}, notes)
    if not choices:
        raise ModelError(
            f"{checkpoint.path} is a file of a model {kernel[0]} wide with {count_blocks(shapes)} blocks and patches "
            f"of {kernel[-1]} px, and no model that timm names has exactly these tensors.\n"
            f"Name the nearest: --arch NAME, or in training: --set model=NAME --set pretrained=FILE. {_OR_CONFIG}"
        )
    names_with_means = [f"{name} (pictures normalised with mean {mean[0]:g})" for name, mean in choices]
    raise ModelError(
        f"{checkpoint.path} is a file, which fits {count_of(len(choices), 'model')}: {and_n_more(names_with_means)}.\n"
        f"Name the one it is of: --arch NAME, or in training: --set model=NAME --set pretrained=FILE. {_OR_CONFIG}"
    )


def _models_of_size(shapes: Mapping[str, Shape]) -> Iterator[str]:
    """timm's models whose names have this patch size and no other width than this one, with as many patches."""
    kernel, positions = shapes["patch_embed.proj.weight"], shapes.get("pos_embed", ())
    word = size_word(kernel[0], count_blocks(shapes))
    # There are far fewer prefix tokens than would make another row of patches.
    side = kernel[-1] * math.isqrt(positions[1]) if len(positions) == 3 else None
    for name in timm.list_models(_FAMILIES):
        words = set(name.split("_"))
        cfg = get_pretrained_cfg(name)
        if f"patch{kernel[-1]}" not in words or (word not in words if word else words & size_words()):
            continue
        if side is None or cfg is None or cfg.input_size[-1] == side:
            yield name


def _has_exactly(name: str, shapes: Mapping[str, Shape], model_args: Mapping[str, Any]) -> bool:
    """Whether a model, made with these arguments, has these tensors and no others, the head aside."""
    with torch.device("meta"):
        try:
            module: Any = create_timm_model(name, **model_args)
        except Exception:  # a model that cannot be made without its data is none of these
            return False
    classifier = module.pretrained_cfg.get("classifier") or "head"
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)

    def body(names: Mapping[str, Any]) -> dict[str, Shape]:
        return {n: tuple(getattr(v, "shape", v)) for n, v in names.items() if n.rpartition(".")[0] not in heads}

    return body(module.state_dict()) == body(_dinov2_shapes(shapes))


def _dinov2_shapes(shapes: Mapping[str, Shape]) -> Mapping[str, Shape]:
    """Shapes of DINOv2's own files as timm's loader converts them; those of others as they are."""
    if "mask_token" not in shapes or not any(name.endswith(".ls1.gamma") for name in shapes):
        return shapes
    result = {name: shape for name, shape in shapes.items() if name not in ("mask_token", "register_tokens")}
    if "register_tokens" in shapes:  # whose class token has its position added, and none of its own
        batch, tokens, width = shapes["pos_embed"]
        result |= {"reg_token": shapes["register_tokens"], "pos_embed": (batch, tokens - 1, width)}
    return result


def _normalisations(name: str) -> list[tuple[str, tuple[float, ...]]]:
    """A tag and its mean for every normalisation among timm's weights of this model."""
    names = timm.list_models(f"{name}.*", pretrained=True) or [name]
    by_values: dict[tuple[tuple[float, ...], tuple[float, ...]], str] = {}
    for one in names:
        cfg = get_pretrained_cfg(one)
        if cfg is not None:
            by_values.setdefault((tuple(cfg.mean), tuple(cfg.std)), one)
    return [(one, mean) for (mean, _), one in by_values.items()]
