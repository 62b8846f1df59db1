"""Captioners with cross-attention: ``VisionEncoderDecoderModel``, and what BLIP shares with it.

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
from vitrine.models.hf_captioners.base import Frame, Layers, LibraryCaptioner, grid_of, pair

PREFIX_TOKENS = {"beit": 1, "deit": 2, "swin": 0, "vit": 1}
"""Encoders, and how many of their tokens come before the patches."""

DECODERS = ("bert", "gpt2")


class CrossAttentionCaptioner(LibraryCaptioner):
    """A captioner whose words look at the image by cross-attention, which is what its maps are of."""

    @property
    @abstractmethod
    def decoder(self) -> Any:
        """The library's text decoder with its head."""

    @abstractmethod
    def image_tokens(self, pixels_B3HW: Tensor) -> Tensor:
        """(B, N, D) as the decoder's cross-attention takes them."""

    def encode_image(self, pixels_B3HW: Tensor) -> tuple[Tensor, Layers]:
        """Image tokens, and their keys and values in every decoder layer.

        The library makes the latter when the first word is decoded, so one is, and is thrown away: that is the same
        for all decoders, whatever their projections are called.
        """
        tokens_BND = self.image_tokens(pixels_B3HW)
        cache = self._library.EncoderDecoderCache(self.cache(()), self.cache(()))
        start_B1 = torch.full((len(tokens_BND), 1), self.start, device=tokens_BND.device)
        self.decoder(input_ids=start_B1, encoder_hidden_states=tokens_BND, past_key_values=cache, use_cache=True)
        return tokens_BND, tuple((layer.keys, layer.values) for layer in cache.cross_attention_cache.layers)

    def decode(
        self, ids_BT: Tensor, features: tuple[Tensor, Layers], past: KVCache | None
    ) -> tuple[Tensor, Sequence[Tensor], KVCache]:
        """See :class:`LibraryCaptioner`."""
        tokens_BND, cross = features
        own = self.cache(past.layers if past else ())
        found = self.decoder(
            input_ids=ids_BT,
            encoder_hidden_states=tokens_BND,
            past_key_values=self._library.EncoderDecoderCache(own, self.cache(cross)),
            use_cache=True,
            output_attentions=True,
        )
        return found.logits, found.cross_attentions, KVCache(tuple((layer.keys, layer.values) for layer in own.layers))


class EncoderDecoderCaptioner(CrossAttentionCaptioner):
    """``VisionEncoderDecoderModel``: ViT with GPT-2, for example."""

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
    """Refuse parts that are not known here.

    Raises:
        ModelError: they are named, with those that are known.
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
    """The captioner of a model; its start is the decoder's own, else the one of texts."""
    encoder, decoder = model.config.encoder, model.config.decoder
    size, stride = pair(encoder.image_size), pair(encoder.patch_size)
    if encoder.model_type == "swin":  # each stage but the first merges 2 x 2 patches
        merged = 2 ** (len(encoder.depths) - 1)
        stride = (stride[0] * merged, stride[1] * merged)
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
    # Without a padding piece there is nothing to warn of: rows are never padded here.
    decoder.pad_token_id = None
    frame = Frame(
        start=start,
        end=end,
        pad=end if pad is None else pad,
        max_length=decoder.max_position_embeddings,
        words=decoder.vocab_size,
        size=size,
        grid=grid_of(size, stride),
        prefix=PREFIX_TOKENS[encoder.model_type],
    )
    return EncoderDecoderCaptioner(library, model, frame)


class BlipCaptioner(CrossAttentionCaptioner):
    """``BlipForConditionalGeneration``. Maps are of the text decoder's cross-attention; the class token is left out."""

    @property
    def decoder(self) -> Any:
        """The text decoder."""
        return self.model.text_decoder

    def image_tokens(self, pixels_B3HW: Tensor) -> Tensor:
        """(B, 1 + cells, D)."""
        tokens_BND: Tensor = self.model.vision_model(pixel_values=pixels_B3HW).last_hidden_state
        return tokens_BND


def blip_captioner(library: Any, model: Any) -> BlipCaptioner:
    """The captioner of a model. A caption starts with ``[DEC]`` and ends with ``[SEP]``, whatever ``eos_token_id``
    says: so does the library's ``generate``."""
    text, vision = model.config.text_config, model.config.vision_config
    size = pair(vision.image_size)
    frame = Frame(
        start=text.bos_token_id,
        end=text.sep_token_id,
        pad=text.pad_token_id,
        max_length=text.max_position_embeddings,
        words=text.vocab_size,
        size=size,
        grid=grid_of(size, pair(vision.patch_size)),
        prefix=1,
    )
    return BlipCaptioner(library, model, frame)
