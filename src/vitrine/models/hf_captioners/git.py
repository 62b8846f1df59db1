"""GIT (Wang et al. 2022): one transformer over the image's tokens and the words after them, without cross-attention.

Letters: B pictures or beams, T words, S words so far, N image tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vitrine.errors import ModelError
from vitrine.models.captioner.model import KVCache
from vitrine.models.hf_captioners.base import CaptionerSpec, HFCaptioner, Layers, as_pair, patch_grid


class GitCaptioner(HFCaptioner):
    """``GitForCausalLM``. Maps are of the self-attention from a word to the image's tokens; what it gives to the class
    token and to the words so far is left out."""

    attention = "self-attention to the image"
    takes_prompt = True

    def encode_image(self, pixels_B3HW: Tensor) -> Layers:
        """Keys and values of the image's tokens in every layer. Image tokens attend to one another and to no word, so
        the one word that the library needs beside them changes nothing, and its keys and values are cut off."""
        start_B1 = torch.full((len(pixels_B3HW), 1), self.start, device=pixels_B3HW.device)
        cache = self.cache(())
        self.model.git(input_ids=start_B1, pixel_values=pixels_B3HW, past_key_values=cache, use_cache=True)
        return tuple(
            (layer.keys[:, :, :-1].contiguous(), layer.values[:, :, :-1].contiguous()) for layer in cache.layers
        )

    def decode(
        self, ids_BT: Tensor, features: Layers, past: KVCache | None
    ) -> tuple[Tensor, Sequence[Tensor], KVCache]:
        """See :class:`HFCaptioner`. Positions are given, as the library would count the image's tokens too."""
        used, images = (past.length if past else 0), features[0][0].shape[2]
        if past:
            features = tuple(
                (torch.cat((k, k_S), 2), torch.cat((v, v_S), 2))
                for (k, v), (k_S, v_S) in zip(features, past.layers, strict=True)
            )
        cache = self.cache(features)
        position_1T = torch.arange(used, used + ids_BT.shape[1], device=ids_BT.device)[None]
        output = self.model(
            input_ids=ids_BT, position_ids=position_1T, past_key_values=cache, use_cache=True, output_attentions=True
        )
        # Copied, so that the state does not hold the image's keys as well.
        words = tuple(
            (layer.keys[:, :, images:].contiguous(), layer.values[:, :, images:].contiguous()) for layer in cache.layers
        )
        return output.logits, [layer_BHTK[..., :images] for layer_BHTK in output.attentions], KVCache(words)


def git_captioner(library: Any, model: Any, generation: Mapping[str, int | None]) -> GitCaptioner:
    """Wrap the library's model.

    Args:
        library: transformers.
        model: its ``GitForCausalLM``.
        generation: token ids by role, as config.json or generation_config.json has them.

    Raises:
        ModelError: it captions films, or its config.json does not say what starts and ends a caption.
    """
    config = model.config
    if config.num_image_with_embedding is not None:
        raise ModelError(
            f"This GIT captions films of {config.num_image_with_embedding} frames, not pictures.\n"
            "Give one that captions pictures, such as hf-hub:microsoft/git-base-coco."
        )
    start, end, pad = (generation.get(f"{role}_token_id") for role in ("bos", "eos", "pad"))
    if start is None or end is None:
        raise ModelError(
            "Neither config.json nor generation_config.json says which word piece starts and which ends a caption.\n"
            "Expected bos_token_id and eos_token_id."
        )
    size = as_pair(config.vision_config.image_size)
    spec = CaptionerSpec(
        start=start,
        end=end,
        pad=end if pad is None else pad,
        max_length=config.max_position_embeddings,
        vocabulary_size=config.vocab_size,
        image_size=size,
        grid=patch_grid(size, as_pair(config.vision_config.patch_size)),
        prefix_tokens=1,
    )
    return GitCaptioner(library, model, spec)
