"""The names of the published captioner's weights, and ours."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

# Published prefix, ours. Every published name begins with exactly one of them.
_PREFIXES = (
    ("backbone.0.body.", "backbone.body."),
    ("input_proj.", "projection."),
    ("transformer.encoder.", "encoder."),
    ("transformer.decoder.", "decoder."),
    ("transformer.embeddings.word_embeddings.", "embeddings.words."),
    ("transformer.embeddings.position_embeddings.", "embeddings.positions."),
    ("transformer.embeddings.LayerNorm.", "embeddings.norm."),
    ("mlp.", "head."),
)


def our_name(published: str) -> str | None:
    """Our name of a published weight; None where there is no such weight."""
    for theirs, ours in _PREFIXES:
        if published.startswith(theirs):
            return ours + published.removeprefix(theirs)
    return None


def published_name(ours: str) -> str:
    """The published name of one of our weights.

    Raises:
        ValueError: it is not a weight of a captioner.
    """
    for theirs, own in _PREFIXES:
        if ours.startswith(own):
            return theirs + ours.removeprefix(own)
    raise ValueError(f"{ours} is not a weight of a captioner.")


def published_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A captioner's state dict under the published names, as the published code reads it (under the key ``model``)."""
    return {published_name(name): value for name, value in weights.items()}
