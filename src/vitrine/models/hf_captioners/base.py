"""The base of captioners whose modules are those of Hugging Face transformers: an adapter to vitrine's decoders.

Letters: B pictures or beams, T words, L decoder layers, H heads, N image tokens (prefix tokens first), K cells of the
image's grid, row by row, S words so far, E channels of one head, V vocabulary.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Self

import torch
from packaging.version import Version
from torch import Tensor, nn

from vitrine.errors import ModelError
from vitrine.models.captioner.model import DecoderOutput, EncoderOutput, KVCache
from vitrine.results import count_of

Layers = tuple[tuple[Tensor, Tensor], ...]
"""Keys and values of each decoder layer, (B, H, tokens, E) both; of one with a sliding window, the newest ones."""


@dataclass(frozen=True)
class CaptionerSpec:
    """Special tokens and sizes of a captioner.

    Attributes:
        start, end, pad: token ids.
        max_length: positions at most, the start included.
        vocabulary_size: number of token ids.
        image_size: (rows, columns) of a picture, pixels.
        grid: (rows, columns) of cells.
        prefix_tokens: image tokens before the cells, such as the class token.
    """

    start: int
    end: int
    pad: int
    max_length: int
    vocabulary_size: int
    image_size: tuple[int, int]
    grid: tuple[int, int]
    prefix_tokens: int


class HFCaptioner(nn.Module, ABC):
    """A captioner that runs the modules of transformers.

    It implements :class:`vitrine.caption.decoding.CaptionerModule`. Each picture is encoded once; each step
    computes the newest position from cached keys and values. The attention of a query is that to the image's cells:
    prefix tokens are left out and each row is divided by its sum, so that it sums to 1 over the cells.

    Attributes:
        model: the library's model.
        start, end, pad, max_length: as in :class:`CaptionerSpec`.
        spec: its special tokens and sizes.
        vocabulary: of its token ids; None until it is assigned.
        attention: what the maps are of, in words for a figure.
        takes_prompt: whether its captions can go on from words that are given.
        prompt: ids of these words, without the start; empty where captions begin by themselves.
    """

    attention = "cross-attention"
    takes_prompt = False

    def __init__(self, library: Any, model: nn.Module, spec: CaptionerSpec) -> None:
        super().__init__()
        self.model: Any = model
        self.spec = spec
        self.start, self.end, self.pad, self.max_length = spec.start, spec.end, spec.pad, spec.max_length
        self.vocabulary: Any = None
        self.prompt: tuple[int, ...] = ()
        self._library = library

    def with_prompt(self, ids: Sequence[int]) -> Self:
        """The same captioner, whose captions go on from words: they stand between the start and what it says.

        Args:
            ids: of the words, without the start; fewer than the positions that it has, less two.
        """
        captioner = copy.copy(self)  # which has the same modules
        captioner.prompt, captioner.max_length = tuple(ids), self.spec.max_length - len(ids)
        return captioner

    @abstractmethod
    def encode_image(self, pixels_B3HW: Tensor) -> Any:
        """What decoding needs of pictures: tensors whose first axis is the picture, in tuples."""

    @abstractmethod
    def decode(self, ids_BT: Tensor, features: Any, past: KVCache | None) -> tuple[Tensor, Sequence[Tensor], KVCache]:
        """New words after those of ``past``: logits (B, T, V), attention to all image tokens (B, H, T, N) for each
        layer, and the state after them. No argument is changed."""

    def encode(self, pixels: Sequence[Tensor]) -> EncoderOutput:
        """Encode pictures: all that does not depend on words.

        Args:
            pixels: normalised float32 pictures, (3, h, w) each, of the model's image size.

        Raises:
            ValueError: there is no picture.
            ModelError: a picture has another size.
        """
        if not pixels:
            raise ValueError("Expected pictures; there is none.")
        rows, columns = self.spec.image_size
        for picture in pixels:
            if tuple(picture.shape) != (3, rows, columns):
                raise ModelError(
                    f"This captioner takes pictures of {rows} x {columns} pixels in 3 channels; "
                    f"got {' x '.join(map(str, picture.shape))}."
                )
        like = next(self.model.parameters())
        features = self.encode_image(torch.stack([picture.to(like.device, like.dtype) for picture in pixels]))
        return EncoderOutput(features, (self.spec.grid,) * len(pixels), self.spec.grid)

    def step(self, ids_B: Tensor, encoder_output: EncoderOutput, state: KVCache | None) -> DecoderOutput:
        """Decode one position.

        Args:
            ids_B: int64, the newest word of each row; ``start`` at first.
            encoder_output: of as many rows.
            state: of the step before; None at the start.

        Raises:
            ValueError: another number of rows, or ``max_length`` positions are used up.
        """
        logits_BTV, cross_LBHTK, state = self._decode(ids_B[:, None], encoder_output, state)
        return DecoderOutput(logits_BTV[:, 0], cross_LBHTK[..., 0, :], state)

    def reorder(self, state: KVCache | None, order_B: Tensor) -> KVCache | None:
        """The state with its rows repeated or in another order."""
        return None if state is None else state.select_rows(order_B)

    def forward(self, encoder_output: EncoderOutput, ids_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Teacher forcing: all positions of given captions at once.

        Args:
            encoder_output: of B pictures.
            ids_BT: int64, ``start`` and the words; filled up at the end with anything, since no word looks ahead.

        Returns:
            float32 logits (B, T, V), row t for word t + 1; float32 attention (L, B, H, T, K), row t of the query that
            predicts word t + 1.

        Raises:
            ValueError: as :meth:`step`.
        """
        logits_BTV, cross_LBHTK, _ = self._decode(ids_BT, encoder_output, None)
        return logits_BTV, cross_LBHTK

    def _decode(
        self, ids_BT: Tensor, encoder_output: EncoderOutput, past: KVCache | None
    ) -> tuple[Tensor, Tensor, KVCache]:
        batch, words = ids_BT.shape
        if batch != len(encoder_output.grids) or (past is not None and batch != past.rows):
            rows = f"an encoder output of {len(encoder_output.grids)}" + (
                "" if past is None else f" and a state of {past.rows}"
            )
            raise ValueError(f"Words of {count_of(batch, 'row')} do not go with {rows}.")
        used, prompt = (0, self.prompt) if past is None else (past.length, ())
        if used + len(prompt) + words > self.spec.max_length:
            raise ValueError(
                f"This captioner has {self.spec.max_length} positions; {used + len(prompt) + words} are asked for."
            )
        if prompt:
            prompt_BQ = torch.tensor(prompt, device=ids_BT.device).expand(batch, -1)
            ids_BT = torch.cat([ids_BT[:, :1], prompt_BQ, ids_BT[:, 1:]], 1)
        device = next(self.model.parameters()).device
        logits_BTV, attention, past = self.decode(ids_BT.to(device), encoder_output.features, past)
        first = self.spec.prefix_tokens
        cells_LBHTK = torch.stack([layer_BHTN[..., len(prompt) :, first:] for layer_BHTN in attention]).float()
        total_LBHT1 = cells_LBHTK.sum(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        return logits_BTV[:, len(prompt) :].float(), cells_LBHTK / total_LBHT1, past

    def cache(self, layers: Layers) -> Any:
        """The library's cache with these keys and values; see :func:`cache_of`."""
        return cache_of(self._library, layers)


def cache_of(library: Any, layers: Layers) -> Any:
    """The library's cache with these keys and values, without copying them; for one call.

    The library's own constructor would copy them. A cache that grows makes new tensors, so these do not change.

    Args:
        library: the module ``transformers``.
        layers: keys and values, a pair a layer.
    """
    cache = library.DynamicCache()
    for keys, values in layers:
        layer = library.cache_utils.DynamicLayer()
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        cache.layers.append(layer)
    return cache


def patch_grid(size: tuple[int, int], stride: tuple[int, int]) -> tuple[int, int]:
    """(rows, columns) of patches in a picture of this size with this stride, pixels."""
    return size[0] // stride[0], size[1] // stride[1]


def as_pair(value: int | Sequence[int]) -> tuple[int, int]:
    """(rows, columns) of a setting that is one number for both, or two."""
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


MIN_VERSION = "5.23"
"""Oldest version that works; earlier ones have other caches and image processors."""

_INSTALL = "Install it: pip install 'vitrine[hf]'"


def transformers_library() -> Any:
    """The module ``transformers``.

    Raises:
        ModelError: it is not installed, or is older than :data:`MIN_VERSION`.
    """
    try:
        library = import_module("transformers")
    except ImportError as error:
        raise ModelError(
            f"Captioners of transformers need that library, which is not here ({error}).\n{_INSTALL}"
        ) from None
    if Version(library.__version__) < Version(MIN_VERSION):
        raise ModelError(
            f"Captioners of transformers need its version {MIN_VERSION} or newer; this is {library.__version__}.\n"
            f"{_INSTALL}"
        )
    return library


@contextmanager
def quiet(library: Any) -> Iterator[None]:
    """Within the block, the library prints neither progress bars nor warnings; what matters of them is raised here."""
    logs = library.utils.logging
    before, bars = logs.get_verbosity(), logs.is_progress_bar_enabled()
    logs.set_verbosity_error()
    logs.disable_progress_bar()
    try:
        yield
    finally:
        logs.set_verbosity(before)
        if bars:
            logs.enable_progress_bar()
