"""Patch tokens of pictures at a layer of a vision transformer, as often as they are asked for.

Axes: B pictures of a batch, N tokens (prefix tokens first), R grid rows, C grid columns, D channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from vitrine.attribution.attention import layer_number
from vitrine.attribution.maps import TokenLayout, token_layout
from vitrine.attribution.outlier_tokens import outlier_tokens
from vitrine.classify.inference import eval_batches
from vitrine.classify.model import Classifier
from vitrine.data.loader import normalise
from vitrine.data.samples import Sample
from vitrine.errors import ModelError
from vitrine.io.limits import limit
from vitrine.models.forward_hooks import watch_outputs
from vitrine.models.precision import autocast
from vitrine.results import Progress, Unreadable, no_progress

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

MAX_KEPT_TOKEN_BYTES = limit("MAX_KEPT_TOKEN_BYTES", 2 << 30)
"""Bytes of patch tokens that `features` keeps in memory; what is beyond is computed again each time it is needed."""


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """The patch tokens of some pictures.

    Attributes:
        samples: the pictures, in order.
        tokens_BRCD: float32.
        colours_BRC3: float32, each patch's mean colour as the model sees it, 0 to 1.
        outliers_BRC: bool, which tokens are outliers; see :mod:`vitrine.attribution.outlier_tokens`.
    """

    samples: tuple[Sample, ...]
    tokens_BRCD: Floats
    colours_BRC3: Floats
    outliers_BRC: Bools

    @property
    def size(self) -> int:
        """Bytes."""
        return self.tokens_BRCD.nbytes + self.colours_BRC3.nbytes + self.outliers_BRC.nbytes


def last_norm(module: nn.Module) -> nn.Module | None:
    """The normalisation after the last block, which every layer's tokens are read through; None without one.

    Models that average their patches carry it as ``fc_norm``, behind the mean.
    """
    for name in ("norm", "fc_norm"):
        norm = getattr(module, name, None)
        if norm is not None and not isinstance(norm, nn.Identity):
            return norm  # type: ignore[no-any-return]
    return None


@dataclass(eq=False)
class PatchTokens:
    """The patch tokens of samples, batch by batch, as often as they are iterated over.

    What fits into :data:`MAX_KEPT_TOKEN_BYTES` is computed once and kept.

    Attributes:
        classifier: opened for its features, in eval mode.
        samples: the pictures.
        layer: from 0, or from the end with -1.
        batch_size: pictures that go through the model together.
        progress: called with pictures done, of how many, when tokens are first computed.
        unreadable: (name, reason) of pictures that cannot be read; complete after the first iteration.

    Raises:
        ModelError: it is no vision transformer with one sequence of patch tokens, or has no such layer.
    """

    classifier: Classifier
    samples: Sequence[Sample]
    layer: int = -1
    batch_size: int = 16
    progress: Progress = no_progress
    unreadable: list[Unreadable] = field(default_factory=list)
    _cache: list[TokenBatch] = field(default_factory=list)
    _done: int = 0  # samples that the kept batches are of, readable or not
    _is_complete: bool = False

    def __post_init__(self) -> None:
        layout = token_layout(self.classifier.module, *self.classifier.spec.size)
        self.layer = layer_number(self.layer, layout.blocks)
        self.layout = layout

    @property
    def pictures(self) -> int:
        """How many there are, readable or not."""
        return len(self.samples)

    def __iter__(self) -> Iterator[TokenBatch]:
        yield from self._cache
        if not self._is_complete or self._done < len(self.samples):
            yield from self._compute()

    def _compute(self) -> Iterator[TokenBatch]:
        """The tokens of the samples that are not kept, of which the first ones are kept while there is room."""
        start, room = self._done, MAX_KEPT_TOKEN_BYTES - sum(batch.size for batch in self._cache)
        count, spec = start, self.classifier.spec
        for inputs in eval_batches(self.samples[start:], spec, batch_size=self.batch_size):
            count += len(inputs) + len(inputs.unreadable)
            if not self._is_complete:
                self.unreadable += [(self.samples[start + i].name, reason) for i, reason in inputs.unreadable]
                self.progress(count, len(self.samples))
            batch = compute_tokens(
                self.classifier,
                self.layer,
                inputs.pixels_BCHW,
                [self.samples[start + i] for i in inputs.indices_B.tolist()],
            )
            if not self._is_complete and batch.size <= room:
                room -= batch.size
                self._done = count
                self._cache.append(batch)
            else:
                room = 0  # later ones are not kept either: the kept are the first
            yield batch
        self._is_complete = True


@dataclass(frozen=True, eq=False)
class TokensInMemory:
    """The patch tokens of pictures that are all in memory.

    Attributes:
        batches: of the pictures.
        layer: from 0.
        layout: of the tokens.
    """

    batches: tuple[TokenBatch, ...]
    layer: int
    layout: TokenLayout

    def __iter__(self) -> Iterator[TokenBatch]:
        return iter(self.batches)

    @property
    def pictures(self) -> int:
        """How many there are."""
        return sum(len(batch.tokens_BRCD) for batch in self.batches)


def compute_tokens(
    classifier: Classifier, layer: int, bytes_BCHW: torch.Tensor, samples: Sequence[Sample] = ()
) -> TokenBatch:
    """Run a model on pictures and keep their patch tokens.

    Args:
        classifier: a vision transformer.
        layer: from 0.
        bytes_BCHW: uint8, the pictures as the model's input; none is allowed.
        samples: that they are of.
    """
    layout, spec, device = token_layout(classifier.module, *classifier.spec.size), classifier.spec, classifier.device
    shape = (len(bytes_BCHW), layout.rows, layout.columns)
    if not len(bytes_BCHW):
        width = int(classifier.module.num_features)  # type: ignore[arg-type]
        empty = np.zeros((*shape, width), np.float32)
        return TokenBatch((), empty, np.zeros((*shape, 3), np.float32), np.zeros(shape, dtype=bool))
    pixels_BCHW = normalise(bytes_BCHW.to(device, non_blocking=True), spec.mean, spec.std)
    raw_BND, tokens_BND = _run(classifier, layer, layout, pixels_BCHW)
    norms_BRC = raw_BND.float().norm(dim=-1).reshape(shape).cpu().numpy()
    patches_BCRC = nn.functional.adaptive_avg_pool2d(bytes_BCHW.float() / 255, (layout.rows, layout.columns))
    return TokenBatch(
        tuple(samples),
        tokens_BND.float().reshape(*shape, -1).cpu().numpy(),
        patches_BCRC.permute(0, 2, 3, 1).contiguous().numpy(),
        outlier_tokens(norms_BRC),
    )


def _run(
    classifier: Classifier, layer: int, layout: TokenLayout, pixels_BCHW: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The patch tokens as the block leaves them, and after the last norm: (B, R * C, D) each."""
    module: Any = classifier.module
    norm = last_norm(module)
    with (
        watch_outputs(module.blocks[layer]) as outputs,
        torch.no_grad(),
        autocast(classifier.device, classifier.precision),
    ):
        module.forward_features(pixels_BCHW)
        raw_BND = outputs[-1]
        normed_BND = raw_BND if norm is None else norm(raw_BND)
    return raw_BND[:, layout.prefix :], normed_BND[:, layout.prefix :]


def describe_tokens(module: nn.Module, layer: int, blocks: int) -> str:
    """Which tokens they are, in words: of which layer, and whether after the last norm."""
    after = "as the block leaves them" if last_norm(module) is None else "after the last norm"
    return f"layer {layer}{', the last,' if layer == blocks - 1 else f' of 0 to {blocks - 1},'} {after}"


def require_whole_patches(classifier: Classifier) -> None:
    """Refuse an input side that is no multiple of the patches: it would lose its last pixels without a word.

    Raises:
        ModelError: a side is.
    """
    patch = classifier.module.patch_embed.patch_size  # type: ignore[union-attr]
    for side, length in zip(classifier.spec.size, patch, strict=True):  # type: ignore[arg-type]
        if side % length:
            near = max(1, round(side / length)) * length
            raise ModelError(
                f"An input of {side} pixels is no whole number of patches of {length} pixels.\nFor example {near}."
            )
