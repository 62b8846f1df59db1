"""Vision-language models with an encoder and a decoder of text: words look at the prompt by cross-attention.

Letters: B rows of a batch, T words, L decoder layers, H heads, N image tokens, S positions of the encoder, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from vitrine.errors import ModelError
from vitrine.models.captioner.model import DecoderOutput, EncoderOutput
from vitrine.models.hf_captioners.base import Layers, cache_of
from vitrine.models.vlm.attention_rows import RowRecorder, recording
from vitrine.models.vlm.families import Family
from vitrine.models.vlm.model import (
    DEFAULT_PIECES,
    Prefill,
    PromptInput,
    VisionLanguageModel,
    require_rows,
    select_layer_rows,
    stack_places,
)
from vitrine.results import count_of

_CROSS_ATTENTION = ("EncDecAttention", "encoder_attn")  # the modules' names in T5, and in BART


@dataclass(frozen=True, eq=False, kw_only=True)
class EncodedPrompt(Prefill):
    """A prompt that was read by an encoder.

    Attributes:
        layers: keys and values of the decoder's self-attention, after what every answer begins with.
        cross_layers: of its cross-attention, for a batch of one.
        states_1SD: the encoder's output.
    """

    cross_layers: Layers
    states_1SD: Tensor


@dataclass(frozen=True, eq=False)
class DecoderState:
    """What decoding keeps from one word to the next. Shorter prompts are padded at their end.

    Attributes:
        layers: keys and values of the self-attention.
        cross_layers: of the cross-attention.
        states_BSD: the encoder's output.
        lengths_B: int64, positions of each row's prompt.
    """

    layers: Layers
    cross_layers: Layers
    states_BSD: Tensor
    lengths_B: Tensor

    @classmethod
    def after(cls, prefills: Sequence[EncodedPrompt]) -> DecoderState:
        """The state after the prompts."""
        longest = max(prefill.length for prefill in prefills)
        cross_layers = [
            tuple(_stack_padded(tensors, longest) for tensors in zip(*layer, strict=True))
            for layer in zip(*(prefill.cross_layers for prefill in prefills), strict=True)
        ]
        layers = [
            tuple(torch.cat(tensors) for tensors in zip(*layer, strict=True))
            for layer in zip(*(prefill.layers for prefill in prefills), strict=True)
        ]
        states_BSD = _stack_padded([prefill.states_1SD for prefill in prefills], longest)
        lengths_B = torch.tensor([prefill.length for prefill in prefills], device=prefills[0].places_N.device)
        return cls(_pairs(layers), _pairs(cross_layers), states_BSD, lengths_B)

    @property
    def mask_BS(self) -> Tensor | None:  # noqa: N802  shapes are suffixes
        """1 at the positions of prompts, 0 at padding; None where nothing is padded."""
        position_S = torch.arange(self.states_BSD.shape[1], device=self.lengths_B.device)
        mask_BS = (position_S < self.lengths_B[:, None]).long()
        return None if bool(mask_BS.all()) else mask_BS

    def select_rows(self, order_B: Tensor) -> DecoderState:
        """The state with its rows repeated or in another order."""
        order_B = order_B.to(self.lengths_B.device)
        layers, cross_layers = (select_layer_rows(some, order_B) for some in (self.layers, self.cross_layers))
        states_BSD = self.states_BSD.index_select(0, order_B.to(self.states_BSD.device))
        return DecoderState(layers, cross_layers, states_BSD, self.lengths_B[order_B])


def _stack_padded(tensors: Sequence[Tensor], length: int) -> Tensor:
    """Tensors (1, ..., S, channels) of different S in one batch, zeros after the shorter ones."""
    return torch.cat([nn.functional.pad(tensor, (0, 0, 0, length - tensor.shape[-2])) for tensor in tensors])


def _pairs(layers: Sequence[tuple[Tensor, ...]]) -> Layers:
    return tuple((keys, values) for keys, values in layers)


class EncoderDecoderModel(VisionLanguageModel):
    """A vision-language model with an encoder, which reads the prompt and its image tokens once, and a decoder.

    The attention of a word is that of the decoder's position that predicted it, by cross-attention, to the places of
    the image tokens in the encoder's output. There they have seen one another and the prompt: what lies at a token's
    place came from there in part only.

    Attributes:
        prefix: ids that every answer begins with, before its first word.
    """

    attention = "cross-attention to the image"
    has_gradients = False
    has_prompt_maps = False

    def __init__(self, library: Any, model: Any, family: Family, ends: Sequence[int], prefix: Sequence[int]) -> None:
        super().__init__(library, model, family, ends)
        self.prefix = tuple(prefix)
        self.max_length = self.context - len(self.prefix) + 1
        self._row_layers = [module for name, module in model.named_modules() if name.endswith(_CROSS_ATTENTION)]

    def answer_limit(self, _encoder_output: EncoderOutput, max_pieces: int | None) -> int:
        """Word pieces at most of an answer, the end included; the prompt takes none of the decoder's positions.

        Raises:
            ModelError: the decoder has not so many positions.
        """
        most = self.max_length - 1
        if max_pieces is not None and max_pieces > most:
            raise ModelError(f"This model's answers have 1 to {count_of(most, 'word piece')}: ask for no more.")
        return min(DEFAULT_PIECES, most) if max_pieces is None else max_pieces

    def _read(self, prompt: PromptInput) -> Prefill:
        prefix_1T = torch.tensor([self.prefix], device=prompt.places_N.device)
        cache = self._library.EncoderDecoderCache(self._library.DynamicCache(), self._library.DynamicCache())
        output, recorder = self._call(prompt, decoder_input_ids=prefix_1T, past_key_values=cache)
        own, cross = (
            _pairs([(layer.keys, layer.values) for layer in part.layers])
            for part in (cache.self_attention_cache, cache.cross_attention_cache)
        )
        layout = prompt.layout
        return EncodedPrompt(
            own,
            output.logits[0, -1].float().to(prompt.places_N.device),
            recorder.attention_to(prompt.places_N[None], prompt.length)[:, 0, :, -1],
            prompt.places_N,
            self._spread(prompt, recorder),
            (layout.rows, layout.columns),
            prompt.length,
            len(self.prefix),
            prompt,
            cross_layers=cross,
            states_1SD=getattr(output, "language_model_outputs", output).encoder_last_hidden_state,
        )

    def step(self, ids_B: Tensor, encoder_output: EncoderOutput, state: Any) -> DecoderOutput:
        """Decode one position; as :meth:`VisionLanguageModel.step`."""
        prefills = encoder_output.features.rows
        require_rows(len(ids_B), len(prefills), None if state is None else len(state.lengths_B))
        if state is None:
            logits_BV = torch.stack([prefill.logits_V for prefill in prefills])
            attention = [prefill.attention_LHN for prefill in prefills]
            cells_LBHK, queries_LBHN = self._cells(encoder_output, attention), self._queries(attention)
            return DecoderOutput(logits_BV, cells_LBHK, DecoderState.after(prefills), queries_LBHN)
        cache = self._library.EncoderDecoderCache(
            cache_of(self._library, state.layers), cache_of(self._library, state.cross_layers)
        )
        library_output = self._library.modeling_outputs.BaseModelOutput(last_hidden_state=state.states_BSD)
        with recording(RowRecorder(layers=self._row_layers)) as recorder:
            output = self.family.language_model(self.model)(
                decoder_input_ids=ids_B.to(state.lengths_B.device)[:, None],
                encoder_outputs=library_output,
                attention_mask=state.mask_BS,
                past_key_values=cache,
                use_cache=True,
            )
        places_BN = stack_places(prefills, torch.zeros_like(state.lengths_B))
        attention_LBHN = recorder.attention_to(places_BN, state.states_BSD.shape[1])[:, :, :, -1]
        attention = [attention_LBHN[:, row, :, : len(prefill.places_N)] for row, prefill in enumerate(prefills)]
        layers = _pairs([(layer.keys, layer.values) for layer in cache.self_attention_cache.layers])
        next_state = replace(state, layers=layers)
        cells_LBHK, queries_LBHN = self._cells(encoder_output, attention), self._queries(attention)
        logits_BV = output.logits[:, -1].float().to(state.lengths_B.device)
        return DecoderOutput(logits_BV, cells_LBHK, next_state, queries_LBHN)
