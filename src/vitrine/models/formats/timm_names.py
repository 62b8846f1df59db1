"""Weights under timm's own names, without a configuration: which of timm's models has exactly these tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from vitrine.errors import ModelError
from vitrine.models.formats.carried import Carried, Described
from vitrine.models.formats.sizes import depth_of, size_word, size_words
from vitrine.models.formats.stored import Shape, StoredWeights
from vitrine.torchpair import require_torchvision

require_torchvision()

import timm  # noqa: E402
from timm.models import get_pretrained_cfg  # noqa: E402

_FAMILIES = ["vit_*", "deit*", "beit*", "eva*"]
_SHOWN = 5
_LATER = "Or keep timm's config.json beside it."


def carry_timm(stored: StoredWeights) -> Carried:
    """Weights as they are: timm's own loader knows what becomes of names that are not quite its own."""
    shapes = dict(stored.shapes)
    npz = stored.path.suffix == ".npz"
    if npz:  # of another release of Google's code: timm's reader decides
        heads = [shape for name, shape in shapes.items() if name.endswith("head/bias") and shape]
        shapes |= {"head.weight": heads[0]} if heads else {}
    return Carried("timm", stored.path, shapes, stored.tensors, npz=npz)


def describe_timm(carried: Carried, given: Mapping[str, Any] | None = None) -> Described:  # noqa: ARG001
    """The one model of timm's that has these tensors.

    Raises:
        ModelError: none has them, or several have, which may differ in what they compute and in the normalisation of
            their pictures; the message lists them.
    """
    shapes = carried.shapes
    kernel = shapes.get("patch_embed.proj.weight", ())
    if len(kernel) != 4 or not depth_of(shapes):
        names = ", ".join(list(shapes)[:3])
        raise ModelError(
            f"{carried.path} is a file, and its names ({names} ...) do not say which model it is of.\n"
            "Name it: --arch NAME, or in training: --set model=NAME --set pretrained=FILE."
        )
    fitting = [name for name in _near(shapes) if _has_exactly(name, shapes)]
    choices = [choice for name in fitting for choice in _normalisations(name)]
    if len(choices) == 1:
        name = choices[0][0].partition(".")[0]
        cfg = {k: v for k, v in get_pretrained_cfg(name).to_dict().items() if v is not None}
        return Described(name, {}, cfg | {"num_classes": carried.classes()})
    if not choices:
        raise ModelError(
            f"{carried.path} is a file of a model {kernel[0]} wide with {depth_of(shapes)} blocks and patches of "
            f"{kernel[-1]} px, and no model that timm names has exactly these tensors.\n"
            f"Name the nearest: --arch NAME, or in training: --set model=NAME --set pretrained=FILE. {_LATER}"
        )
    shown = ", ".join(f"{name} (pictures normalised with mean {mean[0]:g})" for name, mean in choices[:_SHOWN])
    more = f" and {len(choices) - _SHOWN} more" if len(choices) > _SHOWN else ""
    raise ModelError(
        f"{carried.path} is a file, which fits {len(choices)} models: {shown}{more}.\n"
        f"Name the one it is of: --arch NAME, or in training: --set model=NAME --set pretrained=FILE. {_LATER}"
    )


def _near(shapes: Mapping[str, Shape]) -> Iterator[str]:
    """Names that may be of this size: they say the patch, no other size than this one, and as many patches."""
    kernel, positions = shapes["patch_embed.proj.weight"], shapes.get("pos_embed", ())
    word = size_word(kernel[0], depth_of(shapes))
    # There are far fewer prefix tokens than would make another row of patches.
    side = kernel[-1] * math.isqrt(positions[1]) if len(positions) == 3 else None
    for name in timm.list_models(_FAMILIES):
        says = set(name.split("_"))
        cfg = get_pretrained_cfg(name)
        if f"patch{kernel[-1]}" not in says or (word not in says if word else says & size_words()):
            continue
        if side is None or cfg is None or cfg.input_size[-1] == side:
            yield name


def _has_exactly(name: str, shapes: Mapping[str, Shape]) -> bool:
    """Whether a model has these tensors and no others, the head aside."""
    with torch.device("meta"):
        try:
            module = timm.create_model(name)
        except Exception:  # a model that cannot be made without its data is none of these
            return False
    classifier = module.pretrained_cfg.get("classifier") or "head"
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)

    def body(names: Mapping[str, Any]) -> dict[str, Shape]:
        return {n: tuple(getattr(v, "shape", v)) for n, v in names.items() if n.rpartition(".")[0] not in heads}

    return body(module.state_dict()) == body(shapes)


def _normalisations(name: str) -> list[tuple[str, tuple[float, ...]]]:
    """A tag and its mean for every normalisation among timm's weights of this model."""
    tagged = timm.list_models(f"{name}.*", pretrained=True) or [name]
    found: dict[tuple[tuple[float, ...], tuple[float, ...]], str] = {}
    for one in tagged:
        cfg = get_pretrained_cfg(one)
        if cfg is not None:
            found.setdefault((tuple(cfg.mean), tuple(cfg.std)), one)
    return [(one, mean) for (mean, _), one in found.items()]
