"""The captioner: an image encoder, an encoder-decoder transformer, word embeddings, and a head.

Letters: B pictures or beams, P pictures of the memory, T words, L decoder layers, H heads, K keys (cells of the feature
grid, row by row), V vocabulary, D channels, E channels of one head, R, C rows and columns of the feature grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from vitrine.errors import ModelError
from vitrine.models.captioner.backbone import ImageEncoder, build_image_model
from vitrine.models.captioner.config import CaptionModelConfig
from vitrine.models.captioner.features import Features, features_of
from vitrine.models.captioner.interface import Memory, Step
from vitrine.models.captioner.memory import Cells, Past
from vitrine.models.captioner.positions import sine_positions
from vitrine.models.captioner.transformer import DecoderLayer, EncoderLayer


class Stack(nn.Module):
    """Layers and the LayerNorm after them."""

    def __init__(self, layers: Sequence[nn.Module], width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(width)


class WordEmbeddings(nn.Module):
    """Word plus learned position, normalised. The positions are also added in every decoder layer."""

    def __init__(self, config: CaptionModelConfig) -> None:
        super().__init__()
        self.words = nn.Embedding(config.vocabulary_size, config.width, padding_idx=config.pad)
        self.positions = nn.Embedding(config.longest, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.embedding_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, ids_BT: Tensor, position_TD: Tensor) -> Tensor:
        """(B, T, D) of words at the given positions."""
        embedded: Tensor = self.dropout(self.norm(self.words(ids_BT) + position_TD))
        return embedded


class Head(nn.Module):
    """Linear layers with ReLU between, from a token to the logits of the vocabulary."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, V)."""
        for layer in self.layers[:-1]:
            x_BTD = layer(x_BTD).relu()
        logits_BTV: Tensor = self.layers[-1](x_BTD)
        return logits_BTV


class CaptionModel(nn.Module):
    """A captioner that encodes a picture once and computes the newest word only.

    It keeps the promise of :class:`vitrine.caption.captioner.Captioner`. Whoever predicts puts it into eval mode and
    calls it under ``torch.inference_mode()``. ``model.to(torch.bfloat16)`` computes in bf16, logits and maps returned
    in float32 all the same. ``backbone``, ``projection`` with ``encoder``, and the rest may differ in dtype: with the
    first two alone in bf16, pictures cost less and words are rounded less.

    Attributes:
        config: its settings.
        start, end, pad, longest: as in the settings.
        vocabulary: the word pieces; None until someone gives it one.
    """

    def __init__(
        self, config: CaptionModelConfig, image_model: nn.Module | None = None, vocabulary: Any = None
    ) -> None:
        """Assemble the parts, with random weights from torch's global seed.

        Args:
            config: the settings.
            image_model: a timm model with weights, to be used and cut down in place of a new one of
                ``config.image_model``.
            vocabulary: see the attribute.

        Raises:
            ModelError: timm cannot build the image encoder, it has no such stage, or its pixels cannot be padded.
        """
        super().__init__()
        shape = (config.width, config.heads, config.feed_forward, config.dropout)
        if image_model is None:
            image_model = build_image_model(config.image_model, config.image_args, config.frozen_norm)
        self.backbone = ImageEncoder(image_model, config.stage)
        self.projection = nn.Conv2d(self.backbone.channels, config.width, 1)
        self.encoder = Stack([EncoderLayer(*shape) for _ in range(config.encoder_layers)], config.width)
        self.embeddings = WordEmbeddings(config)
        self.decoder = Stack([DecoderLayer(*shape) for _ in range(config.decoder_layers)], config.width)
        self.head = Head((config.width, *config.head_widths, config.vocabulary_size))
        if config.padding == "pixels" and self.backbone.wholes:
            raise ModelError(
                f"padding = 'pixels' is for convolutions: in {config.image_model} every token looks at the padding.\n"
                "Use padding = 'features'."
            )
        self.config, self.vocabulary = config, vocabulary
        self.start, self.end, self.pad, self.longest = config.start, config.end, config.pad, config.longest
        for part in (self.encoder, self.embeddings, self.decoder):  # DETR's and CATR's initialisation
            for weight in part.parameters():
                if weight.ndim > 1:
                    nn.init.xavier_uniform_(weight)

    def see(self, pixels: Sequence[Tensor]) -> Features:
        """Run the image encoder alone, whose features may be kept where it is not trained.

        Args:
            pixels: normalised float32 pictures, (3, h, w) each, of any sizes.

        Raises:
            ValueError: there is no picture, or one of another shape.
            ModelError: the image encoder takes pictures of one size only, and one has another.
        """
        like = next(self.backbone.parameters())
        return features_of(self.backbone, [p.to(like.device, like.dtype) for p in pixels], self.config.padding)

    def remember(self, features: Features) -> Memory:
        """Run the transformer's encoder, and project keys and values for every decoder layer."""
        values_BDRC = features.values_BDRC.to(self.projection.weight.dtype)
        rows, columns = values_BDRC.shape[-2:]
        padded_BRC = features.padded_BRC
        real_BK = None if padded_BRC is None else ~padded_BRC.flatten(1)
        if padded_BRC is None:  # one grid serves all
            padded_BRC = torch.zeros(1, rows, columns, dtype=torch.bool, device=values_BDRC.device)
        position_BKD = sine_positions(padded_BRC, self.config.width).flatten(1, 2)
        own_position_BKD = position_BKD.to(values_BDRC.dtype)
        x_BKD = self.projection(values_BDRC).flatten(2).transpose(1, 2)
        for layer in self.encoder.layers:
            x_BKD = layer(x_BKD, own_position_BKD, real_BK)
        x_BKD = self.encoder.norm(x_BKD).to(self.embeddings.words.weight.dtype)
        placed_BKD = x_BKD + position_BKD.to(x_BKD.dtype)
        looks: list[Any] = [layer.multihead_attn for layer in self.decoder.layers]
        cells = Cells(
            # Laid out as each word's products read them, so that no word copies them.
            keys=tuple(look.split(placed_BKD, 1)[0].transpose(-1, -2).contiguous() for look in looks),
            values=tuple(look.split(x_BKD, 2)[0].contiguous() for look in looks),
            padded_PK=None if real_BK is None else ~real_BK,
        )
        return Memory(cells, features.grids, (rows, columns))

    def encode(self, pixels: Sequence[Tensor]) -> Memory:
        """Everything about pictures that does not depend on words; see :meth:`see` for the arguments and errors."""
        return self.remember(self.see(pixels))

    def step(self, ids_B: Tensor, memory: Memory, state: Past | None) -> Step:
        """Decode one position.

        Args:
            ids_B: int64, the newest word of each picture or beam; ``start`` at first.
            memory: of as many pictures or beams.
            state: of the step before; None at the start.

        Raises:
            ValueError: the memory is of another number of pictures, or ``longest`` positions are used up.
        """
        x_BTD, crosses, state = self._decode(ids_B[:, None], memory, state, maps=True)
        cross_LBHK = torch.stack([cross_BHTK[:, :, 0] for cross_BHTK in crosses])
        return Step(self.head(x_BTD[:, 0]).float(), cross_LBHK, state)

    def reorder(self, state: Past | None, order_B: Tensor) -> Past | None:
        """The state of other rows, repeated or in another order. Beams of one picture need no other memory."""
        return None if state is None else state.pick(order_B)

    def forward(self, memory: Memory, ids_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Teacher forcing: all positions of given captions at once.

        Args:
            memory: of B pictures.
            ids_BT: int64, ``start`` and the words; filled up at the end with anything, since no word looks ahead.

        Returns:
            float32 logits (B, T, V), row t for word t + 1; float32 cross-attention (L, B, H, T, K), row t of the query
            that predicts word t + 1.

        Raises:
            ValueError: as :meth:`step`.
        """
        x_BTD, crosses, _ = self._decode(ids_BT, memory, None, maps=True)
        return self.head(x_BTD).float(), torch.stack(crosses)

    def logits(self, memory: Memory, ids_BT: Tensor, picked_N: Tensor | None = None) -> Tensor:
        """The logits of :meth:`forward` by fused attention, which forms no maps: for training.

        Args:
            memory: of B pictures.
            ids_BT: as :meth:`forward` has them.
            picked_N: int64, of the B · T positions, row by row, those whose logits are wanted; with a large vocabulary
                they are most of the work.

        Returns:
            float32 (B, T, V); with ``picked_N``, (N, V).
        """
        x_BTD = self._decode(ids_BT, memory, None, maps=False)[0]
        logits: Tensor = self.head(x_BTD if picked_N is None else x_BTD.flatten(0, 1)[picked_N]).float()
        return logits

    def _decode(
        self, ids_BT: Tensor, memory: Memory, past: Past | None, *, maps: bool
    ) -> tuple[Tensor, list[Tensor], Past]:
        """Normalised tokens of new words (B, T, D), cross-attention of each layer, and the state after them."""
        cells: Cells = memory.features
        used = 0 if past is None else past.length
        batch, words = ids_BT.shape
        if batch != cells.rows or (past is not None and batch != past.rows):
            rows = f"a memory of {cells.rows}" + ("" if past is None else f" and a state of {past.rows}")
            raise ValueError(f"Words of {batch} rows do not go with {rows}.")
        if used + words > self.longest:
            raise ValueError(f"This captioner has {self.longest} positions; {used + words} are asked for.")
        position_TD = self.embeddings.positions.weight[used : used + words]
        x_BTD = self.embeddings(ids_BT.to(position_TD.device), position_TD)
        crosses, layers = [], []
        for i, layer in enumerate(self.decoder.layers):
            earlier = None if past is None else past.layers[i]
            own = (cells.keys[i], cells.values[i])
            x_BTD, now, cross_BHTK = layer(x_BTD, position_TD, earlier, own, cells.padded_PK, maps)
            layers.append(now)
            crosses.append(cross_BHTK)
        return self.decoder.norm(x_BTD), crosses, Past(tuple(layers))
