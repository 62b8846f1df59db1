"""The vision transformer inside the state dict of something larger: its prefix is taken off, the rest is set aside.

Training code saves what it trains: a model under ``encoder.`` beside a decoder, two copies under ``base_encoder.`` and
``momentum_encoder.``, a loss with weights of its own. The patch embedding tells where the transformer begins.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from vitrine.models.checkpoints.base import count_names
from vitrine.models.checkpoints.state_dict import Shape, StateDictFile, preference
from vitrine.results import and_n_more

# The patch embedding of every known format: what stands before it is the prefix. The name of transformers' own base
# model belongs to its format.
_PATCH_EMBEDDINGS = tuple(
    re.compile(rf"(?P<prefix>(?:.*?\.)??){name}")
    for name in (
        r"patch_embed\.proj\.weight",
        r"(?:(?:vit|deit|dinov2|dinov2_with_registers)\.)?embeddings\.patch_embeddings\.projection\.weight",
        r"transformer\.embeddings\.patch_embeddings\.weight",
        r"embeddings\.patch_embeddings\.weight",
        r"(?:vision_model\.)?embeddings\.patch_embedding\.weight",
        r"conv_proj\.weight",
        r"patch_embedding\.weight",
        r"ln_pre\.weight",  # OpenAI's CLIP, whose patch embedding is called conv1, as that of many others is
    )
)
_DINO_HEADS = re.compile(r"(dino_|ibot_)?head\..*")
_MAE_ONLY = re.compile(r"decoder_.*|mask_token")
_CHUNKED_BLOCK = re.compile(r"^blocks\.\d+\.(\d+)\.")
_LINEAR_HEAD = re.compile(r"linear_head\.(weight|bias)")
_HEAD_LAYER = re.compile(r"head\.(\d+)\.(weight|bias)")


def isolate_backbone(file: StateDictFile, selection: str = "") -> StateDictFile:
    """The same file with the names of the vision transformer alone, as its own library has them.

    Args:
        file: an opened weights file.
        selection: the prefix to take where there are several; empty chooses, and says so.

    Returns:
        The file itself where nothing stands before the transformer's names or beside them.
    """
    prefix, others = _choose_prefix(file.shapes, selection)
    if prefix is None:
        return file
    beside = [name for name in file.shapes if not name.startswith(prefix)]
    if prefix == "backbone." and _is_dino(file, beside):
        return file  # whose reader says what its heads are
    names = {name: name.removeprefix(prefix) for name in file.shapes if name.startswith(prefix)}
    linear_head = _dinov2_linear_head(file.shapes, names, beside)
    names |= linear_head
    beside = [name for name in beside if name not in linear_head]
    notes = [*file.notes, *_beside_note(prefix, beside, others)]
    names, left_out = _without_training_parts(names, file.shapes)
    if left_out:
        notes.append(f"Left out, as only its own training used it: {count_names(left_out, 'not of the classifier')}.")
    names = {name: _CHUNKED_BLOCK.sub(r"blocks.\1.", new) for name, new in names.items()}
    if len(set(names.values())) < len(names) or (all(name == new for name, new in names.items()) and not notes):
        return file

    def read() -> dict[str, object]:
        tensors = file.read()
        return {new: tensors[name] for name, new in names.items()}

    shapes = {new: file.shapes[name] for name, new in names.items()}
    return replace(file, shapes=shapes, read=read, notes=tuple(notes))  # type: ignore[arg-type]


def _choose_prefix(names: Iterable[str], selection: str) -> tuple[str | None, tuple[str, ...]]:
    """What stands before the transformer's names, and before those of others that are as good; None without any."""
    matches = [_match_patch_embedding(name) for name in names]
    prefixes = list(dict.fromkeys(match["prefix"] for match in matches if match))
    if not prefixes:
        return None, ()
    prefixes.sort(key=lambda prefix: preference(tuple(prefix.split(".")[:1])))
    selected_prefixes = [prefix for prefix in prefixes if selection and prefix.startswith(f"{selection.rstrip('.')}.")]
    first = (selected_prefixes or prefixes)[0]
    return first, tuple(prefix for prefix in prefixes if prefix != first)


def _dinov2_linear_head(shapes: Mapping[str, Shape], names: Mapping[str, str], beside: Iterable[str]) -> dict[str, str]:
    """DINOv2's classifier on the class token beside the mean of the patches; the one on four blocks fits no model."""
    head = {name: name.replace("linear_head.", "head.") for name in beside if _LINEAR_HEAD.fullmatch(name)}
    widths = [shapes[name][-1] for name, new in names.items() if new == "cls_token" and shapes[name]]
    weight = shapes.get("linear_head.weight", ())
    return head if len(head) == 2 and len(weight) == 2 and weight[1:] == tuple(2 * width for width in widths) else {}


def _match_patch_embedding(name: str) -> re.Match[str] | None:
    """A tensor's name as that of a patch embedding, of the first format that it is of."""
    matches = (each.fullmatch(name) for each in _PATCH_EMBEDDINGS)
    return next((match for match in matches if match), None)


def _is_dino(file: StateDictFile, beside: Iterable[str]) -> bool:
    has_layer_scale = any(name.endswith(".ls1.gamma") for name in file.shapes)
    return not has_layer_scale and all(_DINO_HEADS.fullmatch(name) for name in beside)


def _beside_note(prefix: str, beside: list[str], others: tuple[str, ...]) -> tuple[str, ...]:
    """Sentences on what stands beside the transformer in the same state dict."""
    notes = []
    if others:
        other_names = and_n_more([other.rstrip(".") or "no prefix" for other in others], 3)
        notes.append(
            f"The file holds several vision transformers: {prefix.rstrip('.') or 'the one without a prefix'} was "
            f"taken, not {other_names}; FILE#{others[0].rstrip('.')} takes another."
        )
    rest = [name for name in beside if not any(other and name.startswith(other) for other in others)]
    if rest:
        notes.append(f"Left out, as beside {prefix.rstrip('.')}: {count_names(rest, 'not of the vision transformer')}.")
    return tuple(notes)


def _without_training_parts(names: Mapping[str, str], shapes: Mapping[str, Shape]) -> tuple[dict[str, str], list[str]]:
    """New names by old ones, without a decoder of masked pictures or a projection head; and what was left out."""
    left_out: set[str] = set()
    if any(new.startswith("decoder_") for new in names.values()):
        left_out |= {name for name, new in names.items() if _MAE_ONLY.fullmatch(new)}
    layers = {name: match for name, new in names.items() if (match := _HEAD_LAYER.fullmatch(new))}
    matrices = [match[1] for name, match in layers.items() if match[2] == "weight" and len(shapes[name]) == 2]
    result = {name: new for name, new in names.items() if name not in left_out}
    if len(matrices) == 1:  # a classifier behind a dropout, say
        result |= {name: f"head.{match[2]}" for name, match in layers.items() if match[1] == matrices[0]}
    elif matrices:
        left_out |= set(layers)
    return {name: new for name, new in result.items() if name not in left_out}, sorted(left_out)
