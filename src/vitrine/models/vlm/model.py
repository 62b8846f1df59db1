"""A vision-language model of transformers as a captioner: a prompt with a picture is read once, then words follow.

Letters: B rows of a batch, T words, L layers, H heads, N image tokens, K cells of the map's grid, S positions so far, E
channels of one head, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vitrine.errors import ModelError, error_summary
from vitrine.models.captioner.model import DecoderOutput, EncoderOutput
from vitrine.models.hf_captioners.base import Layers
from vitrine.models.vlm.attention_rows import RowRecorder, recording
from vitrine.models.vlm.families import Family, context_length
from vitrine.models.vlm.gradient_rows import gradient_attention
from vitrine.models.vlm.layout import TokenLayout, TokenSpread
from vitrine.models.vlm.query_tokens import QueryLayers, QuerySpread, query_spread
from vitrine.results import count_of

DEFAULT_PIECES = 256
"""Word pieces of an answer at most, where no other number is asked for."""


@dataclass(frozen=True, eq=False)
class PromptInput:
    """A picture with its prompt, as the model's own processor prepares them.

    Attributes:
        tensors: the model's arguments, for a batch of one.
        places_N: int64, the positions of the image tokens.
        layout: where they lie on the photograph; of query tokens, where that lies which they read from.
        query_layers: of query tokens, the layers in which they read that are looked at.
        neutral: the same picture with a neutral prompt; None where maps are not divided by its map.
        question_Q: int64, the positions of the question's own pieces; None where they have no maps.
    """

    tensors: Mapping[str, Tensor]
    places_N: Tensor
    layout: TokenLayout
    neutral: PromptInput | None = None
    query_layers: QueryLayers = "mean"
    question_Q: Tensor | None = None

    @property
    def length(self) -> int:
        """Positions that the prompt takes."""
        return int(self.tensors["input_ids"].shape[1])

    def tensors_of(self, model: Any) -> dict[str, Tensor]:
        """The arguments, with pixels in the model's own precision."""
        return {
            name: value.to(model.dtype) if value.is_floating_point() else value for name, value in self.tensors.items()
        }

    def to(self, device: torch.device) -> PromptInput:
        """The same on another device."""
        tensors = {name: value.to(device) for name, value in self.tensors.items()}
        neutral = None if self.neutral is None else self.neutral.to(device)
        question_Q = None if self.question_Q is None else self.question_Q.to(device)
        places_N = self.places_N.to(device)
        return replace(self, tensors=tensors, places_N=places_N, neutral=neutral, question_Q=question_Q)


@dataclass(frozen=True, eq=False)
class Prefill:
    """A prompt that was read.

    Attributes:
        layers: its keys and values, for a batch of one.
        logits_V: float32, of the first word.
        attention_LHN: float32, the attention of the prompt's last position to the image tokens.
        places_N, spread, grid: of the image tokens.
        length: its positions.
        next_position: what the model counts the first word's position as.
        prompt: what was read.
        neutral: the same picture after a neutral prompt, without keys and values; None where there was none.
        question_QLHN: float32, the attention of the question's own positions; None where they have no maps.
    """

    layers: Layers
    logits_V: Tensor
    attention_LHN: Tensor
    places_N: Tensor
    spread: TokenSpread | QuerySpread
    grid: tuple[int, int]
    length: int
    next_position: int
    prompt: PromptInput
    neutral: Prefill | None = None
    question_QLHN: Tensor | None = None

    def over_cells(self, attention_N: Tensor, padded_grid: tuple[int, int]) -> Tensor:
        """Attention to the image tokens (..., N) over the cells of a grid that this picture's lies at the upper left
        of: (..., K). A row without any, as behind a sliding window, is even, at the smallest number there is."""
        (rows, columns), (padded_rows, padded_columns) = self.grid, padded_grid
        cells_K = self.spread.over_cells(attention_N)
        cells_K = cells_K.where(cells_K.sum(-1, keepdim=True) > 0, torch.finfo(torch.float32).tiny)
        cells_RC = cells_K.unflatten(-1, (rows, columns))
        return nn.functional.pad(cells_RC, (0, padded_columns - columns, 0, padded_rows - rows)).flatten(-2)


@dataclass(frozen=True, eq=False)
class Prefills:
    """The prompts of a batch, read one by one."""

    rows: tuple[Prefill, ...]

    def select_rows(self, order_B: Tensor) -> Prefills:
        """Some of them, repeated or in another order."""
        return Prefills(tuple(self.rows[int(row)] for row in order_B))


@dataclass(frozen=True, eq=False)
class AnswerState:
    """What decoding keeps from one word to the next. Shorter prompts are padded at their beginning.

    Attributes:
        layers: keys and values, each on its layer's device.
        positions: of all rows, padding and words so far included.
        padding_B: int64, positions of padding before each row's prompt.
        next_position_B: int64, what the model counts the next word's position as.
    """

    layers: Layers
    positions: int
    padding_B: Tensor
    next_position_B: Tensor

    @classmethod
    def after(cls, prefills: Sequence[Prefill]) -> AnswerState:
        """The state after the prompts."""
        positions = max(prefill.length for prefill in prefills)
        layers = []
        for layer in zip(*(prefill.layers for prefill in prefills), strict=True):
            longest = max(keys.shape[2] for keys, _ in layer)
            keys, values = (
                torch.cat([_pad_before(tensor, longest) for tensor in tensors]) for tensors in zip(*layer, strict=True)
            )
            layers.append((keys, values))
        device = prefills[0].places_N.device
        padding_B = torch.tensor([positions - prefill.length for prefill in prefills], device=device)
        next_B = torch.tensor([prefill.next_position for prefill in prefills], device=device)
        return cls(tuple(layers), positions, padding_B, next_B)

    def select_rows(self, order_B: Tensor) -> AnswerState:
        """The state with its rows repeated or in another order."""
        order_B = order_B.to(self.padding_B.device)
        layers = select_layer_rows(self.layers, order_B)
        return AnswerState(layers, self.positions, self.padding_B[order_B], self.next_position_B[order_B])

    @property
    def mask_BS(self) -> Tensor | None:  # noqa: N802
        """int64, 1 at positions that are no padding, the next word's included; None where nothing is padded."""
        if not bool(self.padding_B.any()):
            return None
        position_S = torch.arange(self.positions + 1, device=self.padding_B.device)
        return (position_S >= self.padding_B[:, None]).long()


def select_layer_rows(layers: Layers, order_B: Tensor) -> Layers:
    """Keys and values with their rows repeated or in another order, each where it is."""
    return tuple(
        (keys.index_select(0, order_B.to(keys.device)), values.index_select(0, order_B.to(keys.device)))
        for keys, values in layers
    )


def _pad_before(tensor_BHSE: Tensor, length: int) -> Tensor:
    return nn.functional.pad(tensor_BHSE, (0, 0, length - tensor_BHSE.shape[2], 0))


class VisionLanguageModel(nn.Module):
    """A vision-language model that answers a prompt about a picture.

    It implements :class:`vitrine.caption.decoding.CaptionerModule`; what it encodes are :class:`PromptInput`. A prompt
    is read once, each by itself, with fused attention and the model's own cache; then one position a word is computed.
    The attention of a word is that of the position that predicted it to the image tokens, shared out over the cells of
    the picture's grid: its sum is the share of its attention that the picture has, less that of tokens of no place.

    Attributes:
        model: the library's model.
        family: what is known of it.
        start, end, pad: token ids; nothing but the prompt starts an answer, so the start is the end's.
        ends: all ids that end an answer.
        context: positions at most, of prompt and answer together.
        vocabulary: of its token ids; None until it is assigned.
        has_gradients: whether it has :meth:`gradient_attention`.
        has_prompt_maps: whether it has :meth:`prompt_attention`.
    """

    attention = "self-attention to the image"
    has_gradients = True
    has_prompt_maps = True

    def __init__(self, library: Any, model: Any, family: Family, ends: Sequence[int]) -> None:
        super().__init__()
        self.model, self.family = model.requires_grad_(False), family
        self.end, self.ends = ends[0], frozenset(ends)
        self.start = self.pad = self.end
        self.context = context_length(model.config)
        self.max_length = self.context + 1  # an answer's own limit is that of answer_limit
        self.vocabulary: Any = None
        self._library = library
        self._row_layers: Sequence[nn.Module] | None = None  # of all layers of the language model
        self._query_readers = () if family.query_readers is None else tuple(family.query_readers(model))
        if self._query_readers:
            self.attention = self.attention.replace("the image", "query tokens, times what these read (a product),")

    def answer_limit(self, encoder_output: EncoderOutput, max_pieces: int | None) -> int:
        """Word pieces at most of these pictures' answers, the end included: as many as asked for, else
        :data:`DEFAULT_PIECES` or as many as the context has room for.

        Raises:
            ModelError: the context has no room for so many.
        """
        longest = max(prefill.length for prefill in encoder_output.features.rows)
        room = self.context - longest
        if max_pieces is not None and max_pieces > room:
            raise ModelError(
                f"A picture and its prompt take {longest:,} of this model's {self.context:,} positions: an answer of "
                f"{count_of(max_pieces, 'word piece')} does not fit.\nAsk for fewer: --max-pieces {room}"
            )
        return min(DEFAULT_PIECES, room) if max_pieces is None else max_pieces

    def encode(self, pixels: Sequence[PromptInput]) -> EncoderOutput:
        """Read the prompts with their pictures.

        Args:
            pixels: pictures with their prompts.

        Raises:
            ValueError: there is none.
            ModelError: the model fails on one.
        """
        if not pixels:
            raise ValueError("Expected pictures; there is none.")
        prefills = tuple(self._read_both(prompt) for prompt in pixels)
        grids = tuple(prefill.grid for prefill in prefills)
        padded_grid = max(rows for rows, _ in grids), max(columns for _, columns in grids)
        return EncoderOutput(Prefills(prefills), grids, padded_grid)

    def neutral_attention(self, encoder_output: EncoderOutput) -> Tensor:
        """The attention after the neutral prompts of these pictures over their cells: (L, P, H, K).

        Raises:
            ValueError: they were encoded without.
        """
        neutrals = [prefill.neutral for prefill in encoder_output.features.rows if prefill.neutral is not None]
        if len(neutrals) < len(encoder_output.grids):
            raise ValueError("These pictures were encoded without a neutral prompt.")
        padded_grid = encoder_output.padded_grid
        return torch.stack([each.over_cells(each.attention_LHN, padded_grid) for each in neutrals], 1)

    def gradient_attention(self, encoder_output: EncoderOutput, answers: Sequence[Sequence[int]]) -> tuple[Tensor, ...]:
        """The gradient-weighted attention of each word of some answers over the cells: (T, L, H, K) of each picture.

        See :func:`vitrine.models.vlm.gradient_rows.gradient_attention`.

        Args:
            encoder_output: of the pictures.
            answers: ids, one answer a picture; one without words has no rows.
        """
        maps = []
        for prefill, ids in zip(encoder_output.features.rows, answers, strict=True):
            layers, heads, tokens = prefill.attention_LHN.shape
            rows_TLHN = (
                gradient_attention(
                    self._library, self.model, self.family, prefill.prompt.tensors_of(self.model), prefill.places_N, ids
                )
                if ids
                else prefill.attention_LHN.new_zeros(0, layers, heads, tokens)
            )
            maps.append(prefill.over_cells(rows_TLHN, encoder_output.padded_grid))
        return tuple(maps)

    def query_maps(self, encoder_output: EncoderOutput) -> tuple[npt.NDArray[np.float32] | None, ...]:
        """What each query token read of each cell, (N, R, C) for each picture; None of a model without query tokens.

        A token's sum is less than 1 where it read tokens of no place as well.
        """
        return tuple(
            prefill.spread.shares_NK.unflatten(1, prefill.grid).float().cpu().numpy()
            if isinstance(prefill.spread, QuerySpread)
            else None
            for prefill in encoder_output.features.rows
        )

    def _queries(self, attention: Sequence[Tensor]) -> Tensor | None:
        """The attention of every row to query tokens, (L, B, H, N); None where image tokens are none."""
        return torch.stack(list(attention), 1) if self._query_readers else None

    def prompt_attention(self, encoder_output: EncoderOutput) -> tuple[Tensor, ...]:
        """What each of the question's own positions looked at while the prompt was read: (Q, L, H, K) of each picture.

        Raises:
            ValueError: they were encoded without.
        """
        rows = [each for each in encoder_output.features.rows if each.question_QLHN is not None]
        if len(rows) < len(encoder_output.grids):
            raise ValueError("These pictures were encoded without maps of their prompts' words.")
        return tuple(each.over_cells(each.question_QLHN, encoder_output.padded_grid) for each in rows)

    def _read_both(self, prompt: PromptInput) -> Prefill:
        """Read a prompt, and the neutral one before it where there is one."""
        neutral = None if prompt.neutral is None else replace(self._read(prompt.neutral), layers=())
        return replace(self._read(prompt), neutral=neutral)

    def _read(self, prompt: PromptInput) -> Prefill:
        cache = self._library.DynamicCache(config=self.model.config)
        output, recorder = self._call(prompt, past_key_values=cache, logits_to_keep=1)
        attention_LBHQN = recorder.attention_to(prompt.places_N[None], prompt.length)
        layout = prompt.layout
        return Prefill(
            tuple((layer.keys, layer.values) for layer in cache.layers),
            output.logits[0, -1].float().to(prompt.places_N.device),
            attention_LBHQN[:, 0, :, -1],
            prompt.places_N,
            self._spread(prompt, recorder),
            (layout.rows, layout.columns),
            prompt.length,
            self.family.next_position(self.model, prompt.length),
            prompt,
            question_QLHN=None if prompt.question_Q is None else attention_LBHQN[:, 0, :, :-1].permute(2, 0, 1, 3),
        )

    def _call(self, prompt: PromptInput, **options: Any) -> tuple[Any, RowRecorder]:
        """The library's model on a prompt, and what was recorded of its attention."""
        queries_Q = prompt.question_Q
        if queries_Q is not None:  # and the last position, which predicts the first word
            queries_Q = torch.cat([queries_Q, queries_Q.new_tensor([prompt.length - 1])])
        recorder = RowRecorder(queries_Q, layers=self._row_layers, readers=self._query_readers)
        try:
            with recording(recorder):
                output = self.model(**prompt.tensors_of(self.model), use_cache=True, **options)
        except (ValueError, RuntimeError) as error:  # inputs that do not fit, or no memory for them
            raise ModelError(
                f"This {self.family.name} cannot read what its processor made of a picture: {error_summary(error)}.\n"
                "Check that its processor's settings and config.json belong together, and that memory is enough."
            ) from error
        return output, recorder

    def _spread(self, prompt: PromptInput, recorder: RowRecorder) -> TokenSpread | QuerySpread:
        """Where image tokens lie; of query tokens, what they read."""
        spread = prompt.layout.spread.to(prompt.places_N.device)
        if not self._query_readers:
            return spread
        return query_spread(spread, recorder.matrices_by_reader, prompt.query_layers)

    def step(self, ids_B: Tensor, encoder_output: EncoderOutput, state: AnswerState | None) -> DecoderOutput:
        """Decode one position.

        Args:
            ids_B: int64, the newest word of each row; whatever it is at first, since the prompt says it.
            encoder_output: of as many rows.
            state: of the step before; None at the start.

        Raises:
            ValueError: another number of rows.
        """
        prefills = encoder_output.features.rows
        require_rows(len(ids_B), len(prefills), None if state is None else len(state.padding_B))
        if state is None:
            logits_BV = torch.stack([prefill.logits_V for prefill in prefills])
            attention = [prefill.attention_LHN for prefill in prefills]
            cells_LBHK, queries_LBHN = self._cells(encoder_output, attention), self._queries(attention)
            return DecoderOutput(logits_BV, cells_LBHK, AnswerState.after(prefills), queries_LBHN)
        cache = self._cache(state)
        with recording(RowRecorder(layers=self._row_layers)) as recorder:
            output = self.family.language_model(self.model)(
                input_ids=ids_B.to(state.padding_B.device)[:, None],
                attention_mask=state.mask_BS,
                position_ids=self.family.position_ids(state.next_position_B),
                past_key_values=cache,
                use_cache=True,
            )
        places_BN = stack_places(prefills, state.padding_B)
        attention_LBHN = recorder.attention_to(places_BN, state.positions + 1)[:, :, :, -1]
        attention = [attention_LBHN[:, row, :, : len(prefill.places_N)] for row, prefill in enumerate(prefills)]
        layers = tuple((layer.keys, layer.values) for layer in cache.layers)
        state = AnswerState(layers, state.positions + 1, state.padding_B, state.next_position_B + 1)
        cells_LBHK, queries_LBHN = self._cells(encoder_output, attention), self._queries(attention)
        logits_BV = output.logits[:, -1].float().to(state.padding_B.device)
        return DecoderOutput(logits_BV, cells_LBHK, state, queries_LBHN)

    def reorder(self, state: AnswerState | None, order_B: Tensor) -> AnswerState | None:
        """The state with its rows repeated or in another order."""
        return None if state is None else state.select_rows(order_B)

    def _cells(self, encoder_output: EncoderOutput, attention: Sequence[Any]) -> Tensor:
        """The attention of every row over the cells: (L, B, H, K)."""
        rows = [
            prefill.over_cells(attention_LHN, encoder_output.padded_grid)
            for prefill, attention_LHN in zip(encoder_output.features.rows, attention, strict=True)
        ]
        return torch.stack(rows, 1)

    def _cache(self, state: AnswerState) -> Any:
        """The library's cache with these keys and values, without copying them; for one call, which makes new ones."""
        cache = self._library.DynamicCache(config=self.model.config)
        for layer, (keys, values) in zip(cache.layers, state.layers, strict=True):
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = keys, values
            if layer.is_sliding:
                layer.cumulative_length = state.positions
        return cache


def require_rows(words: int, prompts: int, states: int | None) -> None:
    """Refuse words of another number of rows than there are.

    Raises:
        ValueError: it is.
    """
    if words != prompts or states not in (None, words):
        raise ValueError(f"Words of {count_of(words, 'row')} do not go with an encoder output of {prompts}.")


def stack_places(prefills: Sequence[Prefill], padding_B: Tensor) -> Tensor:
    """The positions of all rows' image tokens in the padded batch: (B, N), below 0 where a row has fewer."""
    most = max(len(prefill.places_N) for prefill in prefills)
    places_BN = torch.full((len(prefills), most), -1, device=padding_B.device)
    for row, prefill in enumerate(prefills):
        places_BN[row, : len(prefill.places_N)] = prefill.places_N + padding_B[row]
    return places_BN
