"""BLIP (Li et al. 2022): a vision transformer, and a text decoder with cross-attention to its tokens."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vitrine.models.transformers_captioners.encoder_decoder import CrossAttentionCaptioner
from vitrine.models.transformers_captioners.face import Frame, grid_of, pair


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
        longest=text.max_position_embeddings,
        words=text.vocab_size,
        size=size,
        grid=grid_of(size, pair(vision.patch_size)),
        prefix=1,
    )
    return BlipCaptioner(library, model, frame)
