"""Captioners of transformers with cross-attention: BLIP and ``VisionEncoderDecoderModel``.

Letters: B pictures or beams, T words, H heads, N image tokens, D channels.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vitrine.errors import ModelError
from vitrine.models.captioner.model import KVCache
from vitrine.models.hf_captioners.base import CaptionerSpec, HFCaptioner, Layers, as_pair, patch_grid

PREFIX_TOKENS = {"beit": 1, "deit": 2, "swin": 0, "vit": 1}
"""Image encoders, and how many of their tokens come before the patches."""

DECODERS = ("bert", "gpt2")


class CrossAttentionCaptioner(HFCaptioner):
    """A captioner whose maps are of its cross-attention from words to the image."""

    @property
    @abstractmethod
    def decoder(self) -> Any:
        """The library's text decoder with its head."""

    @abstractmethod
    def image_tokens(self, pixels_B3HW: Tensor) -> Tensor:
        """(B, N, D) as the decoder's cross-attention takes them."""

    def encode_image(self, pixels_B3HW: Tensor) -> tuple[Tensor, Layers]:
        """Image tokens, and their keys and values in every decoder layer.

        The library computes the keys and values when the first word is decoded, so one word is decoded and its result
        discarded: this works for all decoders, whatever their projections are called.
        """
        tokens_BND = self.image_tokens(pixels_B3HW)
        cache = self._library.EncoderDecoderCache(self.cache(()), self.cache(()))
        start_B1 = torch.full((len(tokens_BND), 1), self.start, device=tokens_BND.device)
        self.decoder(input_ids=start_B1, encoder_hidden_states=tokens_BND, past_key_values=cache, use_cache=True)
        return tokens_BND, tuple((layer.keys, layer.values) for layer in cache.cross_attention_cache.layers)

    def decode(
        self, ids_BT: Tensor, features: tuple[Tensor, Layers], past: KVCache | None
    ) -> tuple[Tensor, Sequence[Tensor], KVCache]:
        """See :class:`HFCaptioner`."""
        tokens_BND, cross = features
        self_attention = self.cache(past.layers if past else ())
        output = self.decoder(
            input_ids=ids_BT,
            encoder_hidden_states=tokens_BND,
            past_key_values=self._library.EncoderDecoderCache(self_attention, self.cache(cross)),
            use_cache=True,
            output_attentions=True,
        )
        cache = KVCache(tuple((layer.keys, layer.values) for layer in self_attention.layers))
        return output.logits, output.cross_attentions, cache


class EncoderDecoderCaptioner(CrossAttentionCaptioner):
    """``VisionEncoderDecoderModel``: an image encoder with a text decoder, such as ViT with GPT-2."""

    @property
    def decoder(self) -> Any:
        """GPT-2 or BERT."""
        return self.model.decoder

    def image_tokens(self, pixels_B3HW: Tensor) -> Tensor:
        """The encoder's last tokens, in the decoder's width."""
        tokens_BND: Tensor = self.model.encoder(pixel_values=pixels_B3HW).last_hidden_state
        if hasattr(self.model, "enc_to_dec_proj"):
            tokens_BND = self.model.enc_to_dec_proj(tokens_BND)
        return tokens_BND


def check_encoder_decoder(config: Any) -> None:
    """Check that the encoder and the decoder are of supported kinds.

    Raises:
        ModelError: one is not; it names the supported ones.
    """
    encoder, decoder = config.encoder.model_type, config.decoder.model_type
    if encoder not in PREFIX_TOKENS or decoder not in DECODERS:
        raise ModelError(
            f"This vision-encoder-decoder has the encoder {encoder} and the decoder {decoder}.\n"
            f"Expected an encoder of {', '.join(PREFIX_TOKENS)} and a decoder of {', '.join(DECODERS)}."
        )
    if not config.decoder.add_cross_attention or not getattr(config.decoder, "is_decoder", True):
        raise ModelError(
            "This vision-encoder-decoder's config.json has a decoder without cross-attention, which sees no picture.\n"
            "Expected is_decoder and add_cross_attention to be true in it."
        )


def encoder_decoder_captioner(
    library: Any, model: Any, generation: Mapping[str, int | None]
) -> EncoderDecoderCaptioner:
    """Wrap the library's model. A caption starts with ``decoder_start_token_id``, else with ``bos_token_id``.

    Args:
        library: transformers.
        model: its ``VisionEncoderDecoderModel``.
        generation: token ids by role, as config.json or generation_config.json has them.

    Raises:
        ModelError: the settings do not say which token starts and which ends a caption.
    """
    encoder, decoder = model.config.encoder, model.config.decoder
    size, stride = as_pair(encoder.image_size), as_pair(encoder.patch_size)
    if encoder.model_type == "swin":  # each stage but the first merges 2 x 2 patches
        factor = 2 ** (len(encoder.depths) - 1)
        stride = (stride[0] * factor, stride[1] * factor)
    start, end, pad = (
        generation.get("decoder_start_token_id"),
        generation.get("eos_token_id"),
        generation["pad_token_id"],
    )
    start = generation.get("bos_token_id") if start is None else start
    if start is None or end is None:
        raise ModelError(
            "Neither config.json nor generation_config.json says which word piece starts and which ends a caption.\n"
            "Expected decoder_start_token_id and eos_token_id."
        )
    # Rows are never padded here: without a padding token the library has nothing to warn of.
    decoder.pad_token_id = None
    spec = CaptionerSpec(
        start=start,
        end=end,
        pad=end if pad is None else pad,
        max_length=decoder.max_position_embeddings,
        vocabulary_size=decoder.vocab_size,
        image_size=size,
        grid=patch_grid(size, stride),
        prefix_tokens=PREFIX_TOKENS[encoder.model_type],
    )
    return EncoderDecoderCaptioner(library, model, spec)


class BlipCaptioner(CrossAttentionCaptioner):
    """``BlipForConditionalGeneration``. Maps are of the text decoder's cross-attention; the class token is left out."""

    takes_prompt = True

    @property
    def decoder(self) -> Any:
        """The text decoder."""
        return self.model.text_decoder

    def image_tokens(self, pixels_B3HW: Tensor) -> Tensor:
        """(B, 1 + cells, D)."""
        tokens_BND: Tensor = self.model.vision_model(pixel_values=pixels_B3HW).last_hidden_state
        return tokens_BND


def blip_captioner(library: Any, model: Any) -> BlipCaptioner:
    """Wrap the library's model. A caption starts with ``[DEC]`` and ends with ``[SEP]``, whatever ``eos_token_id``
    says, as in the library's ``generate``."""
    text, vision = model.config.text_config, model.config.vision_config
    size = as_pair(vision.image_size)
    spec = CaptionerSpec(
        start=text.bos_token_id,
        end=text.sep_token_id,
        pad=text.pad_token_id,
        max_length=text.max_position_embeddings,
        vocabulary_size=text.vocab_size,
        image_size=size,
        grid=patch_grid(size, as_pair(vision.patch_size)),
        prefix_tokens=1,
    )
    return BlipCaptioner(library, model, spec)
