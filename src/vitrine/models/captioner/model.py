"""The captioner: an image encoder, an encoder-decoder transformer, word embeddings, and a head.

The model comes first, then its parts in the order in which a picture passes through them: image features, the output
of the encoder, and what the decoder keeps from one word to the next.

Letters: B pictures or beams, P pictures of the encoder output, T words, S words so far, L decoder layers, H heads, K
keys (cells of the feature grid, row by row), V vocabulary, D channels, E channels of one head, R, C rows and columns
of the feature grid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vitrine.errors import ModelError
from vitrine.models.captioner.backbone import ImageEncoder, build_image_model
from vitrine.models.captioner.config import CaptionModelConfig
from vitrine.models.captioner.layers import DecoderLayer, EncoderLayer
from vitrine.models.captioner.speculative_decoding import Guesser
from vitrine.results import count_of


class CaptionModel(nn.Module):
    """A captioner that encodes a picture once and then computes the newest word only.

    It implements :class:`vitrine.caption.decoding.CaptionerModule`. For prediction it is put into eval mode and called
    under ``torch.inference_mode()``. ``model.to(torch.bfloat16)`` computes in bf16 and returns logits and maps in
    float32 all the same. ``backbone``, ``projection`` with ``encoder``, and the rest may differ in dtype: with the
    first two alone in bf16, pictures cost less and words are decoded in float32.

    Attributes:
        config: its settings.
        start, end, pad, max_length: as in the settings.
        vocabulary: of its token ids; None until it is assigned.
        guesser: guesses words ahead for :meth:`step_ahead`; None of a captioner that was not prepared for prediction.
    """

    def __init__(
        self, config: CaptionModelConfig, image_model: nn.Module | None = None, vocabulary: Any = None
    ) -> None:
        """Assemble the parts, with random weights from torch's global seed.

        Args:
            config: the settings.
            image_model: a timm model with weights, used in place of a new ``config.image_model``; what comes after the
                configured stage is removed from it.
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
        self.encoder = LayerStack([EncoderLayer(*shape) for _ in range(config.encoder_layers)], config.width)
        self.embeddings = WordEmbeddings(config)
        self.decoder = LayerStack([DecoderLayer(*shape) for _ in range(config.decoder_layers)], config.width)
        self.head = VocabularyHead((config.width, *config.head_widths, config.vocabulary_size))
        self.guesser: Guesser | None = None
        if config.padding == "pixels" and self.backbone.is_vision_transformer:
            raise ModelError(
                f"padding = 'pixels' is for convolutions: in {config.image_model} every token looks at the padding.\n"
                "Use padding = 'features'."
            )
        self.config, self.vocabulary = config, vocabulary
        self.start, self.end, self.pad, self.max_length = config.start, config.end, config.pad, config.max_length
        for part in (self.encoder, self.embeddings, self.decoder):  # DETR's and CATR's initialisation
            for weight in part.parameters():
                if weight.ndim > 1:
                    nn.init.xavier_uniform_(weight)

    def encode_image(self, pixels: Sequence[Tensor]) -> Features:
        """Run the image encoder alone; its features can be cached where it is not trained.

        Args:
            pixels: normalised float32 pictures, (3, h, w) each, of any sizes.

        Raises:
            ValueError: there is no picture, or one of another shape.
            ModelError: the image encoder takes pictures of one size only, and one has another.
        """
        like = next(self.backbone.parameters())
        return encode_pixels(self.backbone, [p.to(like.device, like.dtype) for p in pixels], self.config.padding)

    def encode_features(self, features: Features) -> EncoderOutput:
        """Run the transformer's encoder, and project keys and values for every decoder layer."""
        values_BDRC = features.values_BDRC.to(self.projection.weight.dtype)
        rows, columns = values_BDRC.shape[-2:]
        padded_BRC = features.padded_BRC
        real_BK = None if padded_BRC is None else ~padded_BRC.flatten(1)
        if padded_BRC is None:  # one grid serves all
            padded_BRC = torch.zeros(1, rows, columns, dtype=torch.bool, device=values_BDRC.device)
        position_BKD = sine_positions(padded_BRC, self.config.width).flatten(1, 2)
        encoder_position_BKD = position_BKD.to(values_BDRC.dtype)
        x_BKD = self.projection(values_BDRC).flatten(2).transpose(1, 2)
        for layer in self.encoder.layers:
            x_BKD = layer(x_BKD, encoder_position_BKD, real_BK)
        x_BKD = self.encoder.norm(x_BKD).to(self.embeddings.words.weight.dtype)
        with_position_BKD = x_BKD + position_BKD.to(x_BKD.dtype)
        attentions: list[Any] = [layer.multihead_attn for layer in self.decoder.layers]
        image = ImageKeyValues(
            # Laid out as each word's products read them, so that no word copies them.
            keys=tuple(each.project(with_position_BKD, 1)[0].transpose(-1, -2).contiguous() for each in attentions),
            values=tuple(each.project(x_BKD, 2)[0].contiguous() for each in attentions),
            padded_PK=None if real_BK is None else ~real_BK,
        )
        return EncoderOutput(image, features.grids, (rows, columns))

    def encode(self, pixels: Sequence[Tensor]) -> EncoderOutput:
        """All about pictures that does not depend on words; arguments and errors are those of :meth:`encode_image`."""
        return self.encode_features(self.encode_image(pixels))

    def step(self, ids_B: Tensor, encoder_output: EncoderOutput, state: KVCache | None) -> DecoderOutput:
        """Decode one position.

        Args:
            ids_B: int64, the newest word of each picture or beam; ``start`` at first.
            encoder_output: of as many pictures or beams.
            state: of the step before; None at the start.

        Raises:
            ValueError: the encoder output is of another number of pictures, or ``max_length`` positions are used up.
        """
        x_BTD, crosses, state = self._decode(ids_B[:, None], encoder_output, state, need_weights=True)
        cross_LBHK = torch.stack([cross_BHTK[:, :, 0] for cross_BHTK in crosses])
        return DecoderOutput(self.head(x_BTD[:, 0]).float(), cross_LBHK, state)

    def step_ahead(
        self, ids_B: Tensor, encoder_output: EncoderOutput, state: KVCache | None, count: int
    ) -> DecoderOutput:
        """:meth:`step` for a caller that takes the likeliest word from here on.

        Words that will probably follow are guessed and decoded together with this one; the outputs wait in the state
        for the steps in which those words are given. Whatever word is given, the output is that of :meth:`step` up to
        rounding.

        Args:
            ids_B: as in :meth:`step`.
            encoder_output: likewise.
            state: likewise.
            count: steps that will be taken at most, this one included.
        """
        if len(ids_B) > 1 or self.guesser is None:
            return self.step(ids_B, encoder_output, state)
        token_id, most = int(ids_B), count - 1
        if state is not None and state.ahead is not None:
            if state.ahead.ids[state.ahead_place] == token_id:
                return state.ahead.output(state.ahead_place)
            most = min(most, 2 * state.ahead_place)  # a few more than were right before this word
        guesses = self.guesser.guess(self, token_id, encoder_output.features, state, most)
        if not guesses:
            return self.step(ids_B, encoder_output, state)
        ids = (token_id, *guesses)
        x_BTD, crosses, cache = self._decode(torch.tensor([ids]), encoder_output, state, need_weights=True)
        return WordsAhead(ids, self.head(x_BTD[0]).float(), torch.stack(crosses), cache).output(0)

    def reorder(self, state: KVCache | None, order_B: Tensor) -> KVCache | None:
        """The state with its rows repeated or in another order. Beams of one picture share its encoder output."""
        return None if state is None else state.select_rows(order_B)

    def forward(self, encoder_output: EncoderOutput, ids_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Teacher forcing: all positions of given captions at once.

        Args:
            encoder_output: of B pictures.
            ids_BT: int64, ``start`` and the words; filled up at the end with anything, since no word looks ahead.

        Returns:
            float32 logits (B, T, V), row t for word t + 1; float32 cross-attention (L, B, H, T, K), row t of the query
            that predicts word t + 1.

        Raises:
            ValueError: as :meth:`step`.
        """
        x_BTD, crosses, _ = self._decode(ids_BT, encoder_output, None, need_weights=True)
        return self.head(x_BTD).float(), torch.stack(crosses)

    def logits(self, encoder_output: EncoderOutput, ids_BT: Tensor, position_N: Tensor | None = None) -> Tensor:
        """The logits of :meth:`forward` by fused attention, which forms no maps: for training.

        Args:
            encoder_output: of B pictures.
            ids_BT: as in :meth:`forward`.
            position_N: int64, which of the B · T positions, row by row, to give logits of; None gives all. With a large
                vocabulary logits are most of the work.

        Returns:
            float32 (B, T, V); with ``position_N``, (N, V).
        """
        x_BTD = self._decode(ids_BT, encoder_output, None, need_weights=False)[0]
        logits: Tensor = self.head(x_BTD if position_N is None else x_BTD.flatten(0, 1)[position_N]).float()
        return logits

    def _decode(
        self, ids_BT: Tensor, encoder_output: EncoderOutput, past: KVCache | None, *, need_weights: bool
    ) -> tuple[Tensor, list[Tensor], KVCache]:
        """Normalised tokens of new words (B, T, D), cross-attention of each layer, and the cache after them."""
        image: ImageKeyValues = encoder_output.features
        used = 0 if past is None else past.length
        batch, words = ids_BT.shape
        if batch != image.rows or (past is not None and batch != past.rows):
            rows = f"an encoder output of {image.rows}" + ("" if past is None else f" and a state of {past.rows}")
            raise ValueError(f"Words of {count_of(batch, 'row')} do not go with {rows}.")
        if used + words > self.max_length:
            raise ValueError(f"This captioner has {self.max_length} positions; {used + words} are asked for.")
        position_TD = self.embeddings.positions.weight[used : used + words]
        x_BTD = self.embeddings(ids_BT.to(position_TD.device), position_TD)
        crosses, cache_layers = [], []
        for i, layer in enumerate(self.decoder.layers):
            layer_past = None if past is None else past.layers[i]
            layer_image = (image.keys[i], image.values[i])
            x_BTD, key_values, cross_BHTK = layer(
                x_BTD, position_TD, layer_past, layer_image, image.padded_PK, need_weights
            )
            cache_layers.append(key_values)
            crosses.append(cross_BHTK)
        return self.decoder.norm(x_BTD), crosses, KVCache(tuple(cache_layers))


class LayerStack(nn.Module):
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
        self.positions = nn.Embedding(config.max_length, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.embedding_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, ids_BT: Tensor, position_TD: Tensor) -> Tensor:
        """(B, T, D) of words at the given positions."""
        embeddings_BTD: Tensor = self.dropout(self.norm(self.words(ids_BT) + position_TD))
        return embeddings_BTD


class VocabularyHead(nn.Module):
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


@dataclass(frozen=True)
class Features:
    """The image encoder's features of a batch of pictures.

    Attributes:
        values_BDRC: the features, zeros or anything at padded cells.
        padded_BRC: bool, True at padded cells, which lie at the right and at the bottom; None where there are none.
        grids: (rows, columns) of each picture's own cells.
    """

    values_BDRC: Tensor
    padded_BRC: Tensor | None
    grids: tuple[tuple[int, int], ...]

    @classmethod
    def join(cls, values: Sequence[Tensor]) -> Features:
        """A batch of pictures' own features, (D, rows, columns) each, of any sizes: padded with zeros.

        Raises:
            ValueError: there is no picture.
        """
        if not values:
            raise ValueError("Expected the features of one picture at least.")
        grids = tuple((int(v.shape[-2]), int(v.shape[-1])) for v in values)
        if len(set(grids)) == 1:
            return cls(torch.stack(list(values)), None, grids)
        rows, columns = (max(sizes) for sizes in zip(*grids, strict=True))
        padded_BRC = torch.ones(len(values), rows, columns, dtype=torch.bool, device=values[0].device)
        batch = values[0].new_zeros(len(values), values[0].shape[0], rows, columns)
        for i, (r, c) in enumerate(grids):
            batch[i, :, :r, :c] = values[i]
            padded_BRC[i, :r, :c] = False
        return cls(batch, padded_BRC, grids)


def encode_pixels(encoder: ImageEncoder, pixels: Sequence[Tensor], padding: str) -> Features:
    """Encode normalised pictures, (3, h, w) each, on the encoder's device and in its dtype.

    Args:
        encoder: the image encoder.
        pixels: the pictures, of any sizes.
        padding: "pixels" or "features", see :class:`~vitrine.models.captioner.config.CaptionModelConfig`.

    Raises:
        ValueError: there is no picture, or one is not (3, h, w).
    """
    if not pixels or any(p.ndim != 3 or p.shape[0] != 3 for p in pixels):
        raise ValueError(f"Expected pictures of shape (3, h, w), one at least; got {[tuple(p.shape) for p in pixels]}.")
    sizes = [(int(p.shape[1]), int(p.shape[2])) for p in pixels]
    if len(set(sizes)) == 1 or padding == "features":
        return _encode_by_size(encoder, pixels, sizes)
    return _encode_padded_pixels(encoder, pixels, sizes)


def _encode_by_size(encoder: ImageEncoder, pixels: Sequence[Tensor], sizes: list[tuple[int, int]]) -> Features:
    """Pictures of each size together; their features are padded."""
    if len(set(sizes)) == 1:
        values_BDRC = encoder(torch.stack(list(pixels)))
        return Features(values_BDRC, None, (tuple(values_BDRC.shape[-2:]),) * len(pixels))
    values: dict[int, Tensor] = {}
    for size in dict.fromkeys(sizes):
        members = [i for i, each in enumerate(sizes) if each == size]
        values |= zip(members, encoder(torch.stack([pixels[i] for i in members])), strict=True)
    return Features.join([values[i] for i in range(len(pixels))])


def _encode_padded_pixels(encoder: ImageEncoder, pixels: Sequence[Tensor], sizes: list[tuple[int, int]]) -> Features:
    """All pictures in one batch, zeros at the right and at the bottom; the mask is brought to the grid by nearest
    interpolation, as DETR does."""
    height, width = (max(sides) for sides in zip(*sizes, strict=True))
    batch = pixels[0].new_zeros(len(pixels), 3, height, width)
    padded_BHW = torch.ones(len(pixels), height, width, device=batch.device)
    for i, (h, w) in enumerate(sizes):
        batch[i, :, :h, :w] = pixels[i]
        padded_BHW[i, :h, :w] = 0
    values_BDRC = encoder(batch)
    padded_BRC = functional.interpolate(padded_BHW[:, None], size=values_BDRC.shape[-2:])[:, 0].bool()
    grids = tuple((int((~padded_RC[:, 0]).sum()), int((~padded_RC[0]).sum())) for padded_RC in padded_BRC)
    return Features(values_BDRC, padded_BRC, grids)


_TEMPERATURE = 10000.0
_EPS = 1e-6  # in the published order: added to the count before dividing


def sine_positions(padded_BRC: Tensor, width: int) -> Tensor:
    """Sine position embedding of DETR (Carion et al. 2020, arXiv:2005.12872, appendix A.4), normalised to 2π.

    The first half of the channels is of the row, the second of the column; each pair of channels is the sine and the
    cosine of one frequency (Vaswani et al. 2017, arXiv:1706.03762).

    Args:
        padded_BRC: bool, True where a cell is padding; rows and columns are counted over the rest, from 1.
        width: D, a multiple of 4.

    Returns:
        float32 (B, R, C, D), from -1 to 1.
    """
    real_BRC = ~padded_BRC
    half = width // 2
    pair = torch.div(torch.arange(half, device=padded_BRC.device), 2, rounding_mode="floor")
    wavelength = _TEMPERATURE ** (2 * pair.float() / half)
    parts = []
    for axis in (1, 2):
        count_BRC = real_BRC.cumsum(axis, dtype=torch.float32)
        total = count_BRC.select(axis, -1).unsqueeze(axis)
        angle = (count_BRC / (total + _EPS) * (2 * math.pi))[..., None] / wavelength
        parts.append(torch.stack((angle[..., 0::2].sin(), angle[..., 1::2].cos()), dim=-1).flatten(-2))
    return torch.cat(parts, dim=-1)


@dataclass(frozen=True)
class EncoderOutput:
    """An encoded batch of pictures: computed once, decoded from many times.

    Attributes:
        features: the captioner's own; opaque to decoders.
        grids: (rows, columns) of each picture's own features, without padding.
        padded_grid: (rows, columns) of the padded batch; K = rows * columns.
    """

    features: Any
    grids: tuple[tuple[int, int], ...]
    padded_grid: tuple[int, int]

    def select_rows(self, order: Sequence[int] | Tensor) -> EncoderOutput:
        """A batch of these pictures, repeated or in another order: one row for every beam, for example.

        ``features`` may be a tensor, or tuples, lists and mappings of tensors, whose first axis is then indexed, or
        anything with a method ``select_rows(order_B)`` of its own.

        Args:
            order: indices of the pictures, int64 where it is a tensor.

        Raises:
            IndexError: there is no such picture.
        """
        rows = [int(i) for i in order]
        if not all(0 <= i < len(self.grids) for i in rows):
            raise IndexError(f"Pictures count from 0 to {len(self.grids) - 1}; got {rows}.")
        features = _select_rows(self.features, torch.tensor(rows, dtype=torch.long))
        return EncoderOutput(features, tuple(self.grids[i] for i in rows), self.padded_grid)


def _select_rows(features: Any, order_B: Tensor) -> Any:
    if hasattr(features, "select_rows"):
        return features.select_rows(order_B)
    if isinstance(features, Tensor):
        return features.index_select(0, order_B.to(features.device))
    if isinstance(features, Mapping):
        return {name: _select_rows(value, order_B) for name, value in features.items()}
    if isinstance(features, tuple | list):
        return type(features)(_select_rows(value, order_B) for value in features)
    if features is None:
        return None
    raise TypeError(
        f"Features of type {type(features).__name__} have no batch axis; give them a method select_rows(order_B)."
    )


@dataclass(frozen=True)
class ImageKeyValues:
    """Keys and values of pictures for the cross-attention of every decoder layer.

    Beams of one picture share them: rows are P pictures, each ``repeats`` times in a row.

    Attributes:
        keys: one tensor a layer, (P, H, E, K).
        values: one tensor a layer, (P, H, K, E).
        padded_PK: bool, True at padded cells; None where there are none.
        repeats: B / P.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    padded_PK: Tensor | None
    repeats: int = 1

    @property
    def rows(self) -> int:
        """B."""
        return len(self.keys[0]) * self.repeats

    def select_rows(self, order_B: Tensor) -> ImageKeyValues:
        """Rows repeated or in another order. Neighbouring rows of one picture share its tensors where each picture's
        number of rows allows it."""
        # On the device of the order, as a rule the CPU, so that no accelerator has to be waited for.
        picture_P, length_P = torch.unique_consecutive(order_B // self.repeats, return_counts=True)
        repeats = math.gcd(*length_P.tolist())
        picture_P = picture_P.repeat_interleave(length_P // repeats)
        if torch.equal(picture_P, torch.arange(len(self.keys[0]), device=picture_P.device)):
            return ImageKeyValues(self.keys, self.values, self.padded_PK, repeats)
        picture_P = picture_P.to(self.keys[0].device)
        return ImageKeyValues(
            tuple(keys.index_select(0, picture_P) for keys in self.keys),
            tuple(values.index_select(0, picture_P) for values in self.values),
            None if self.padded_PK is None else self.padded_PK.index_select(0, picture_P),
            repeats,
        )


@dataclass(frozen=True)
class KVCache:
    """Keys and values of the words so far: of each decoder layer a pair of (B, H, S, E).

    Attributes:
        layers: the pairs.
        ahead: outputs of steps that are still to come, if certain words are given; None where there are none.
        ahead_place: of the next one among them.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    ahead: WordsAhead | None = None
    ahead_place: int = 0

    @property
    def rows(self) -> int:
        """B."""
        return int(self.layers[0][0].shape[0])

    @property
    def length(self) -> int:
        """S."""
        return int(self.layers[0][0].shape[2])

    def select_rows(self, order_B: Tensor) -> KVCache:
        """Rows repeated or in another order."""
        order_B = order_B.to(self.layers[0][0].device)
        return KVCache(tuple((k.index_select(0, order_B), v.index_select(0, order_B)) for k, v in self.layers))


@dataclass(frozen=True)
class WordsAhead:
    """Words of one picture that were decoded together: one that was given, and guesses of those after it.

    Attributes:
        ids: of the words.
        logits_TV: float32, after each of them.
        cross_LBHTK: float32 cross-attention of each of them.
        cache: keys and values of all words up to the last of them.
    """

    ids: tuple[int, ...]
    logits_TV: Tensor
    cross_LBHTK: Tensor
    cache: KVCache

    def output(self, place: int) -> DecoderOutput:
        """What :meth:`CaptionModel.step` gives for the word at this place, after those before it."""
        length = self.cache.length - len(self.ids) + place + 1
        layers = tuple((keys[:, :, :length], values[:, :, :length]) for keys, values in self.cache.layers)
        has_more = place + 1 < len(self.ids)
        state = KVCache(layers, self, place + 1) if has_more else KVCache(layers)
        return DecoderOutput(self.logits_TV[place : place + 1], self.cross_LBHTK[:, :, :, place], state)


@dataclass(frozen=True)
class DecoderOutput:
    """The outcome of decoding one position.

    Attributes:
        logits_BV: float32, for the next word.
        cross_LBHK: float32 cross-attention of the query at this position, which is the one that predicts the next
            word: each row sums to 1 and is 0 at padded cells.
        state: keys and values of the words so far, for the next step. A step never changes the state that it is given.
        queries_LBHN: of a captioner whose words look at query tokens that look at the picture, the attention to each of
            them; None of others.
    """

    logits_BV: Tensor
    cross_LBHK: Tensor
    state: Any
    queries_LBHN: Tensor | None = None
