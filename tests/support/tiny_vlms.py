"""Vision-language models of transformers, tiny, with random weights from a seed, saved by the library itself.

Letters: B rows, T words, L layers, H heads, N image tokens, P positions, V vocabulary.
"""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers.utils import logging

SIDE, PATCH = 32, 8
BOS, END, PAD, OTHER_END, IMAGE = range(5)
SIGNS = ["<s>", "</s>", "<pad>", "<stop>", "<image>"]
_TEXTS = ["a red circle above a small green square, and the dog's ball.", "What is in the picture? USER: ASSISTANT:"]
CONTEXT = 640

_VISION = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
           "image_size": SIDE, "patch_size": PATCH}  # fmt: skip
_TEXT = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": CONTEXT, "head_dim": 8,
         "eos_token_id": END, "bos_token_id": BOS, "pad_token_id": PAD, "initializer_range": 0.2}  # fmt: skip
SQUARE = {"height": SIDE, "width": SIDE}


@cache
def _learnt_pieces(*signs: str) -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=[*signs], initial_alphabet=letters, show_progress=False
    )
    tokenizer.train_from_iterator(_TEXTS * 3, trainer)
    return str(tokenizer.to_str())


def tokenizer(*more: str, **named: str) -> Any:
    """Byte-level word pieces learnt from a few words; ``named`` signs become attributes, as ``image_token``."""
    signs = [*SIGNS, *more, *(sign for sign in named.values() if sign not in SIGNS)]
    pieces = Tokenizer.from_str(_learnt_pieces(*signs))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=pieces, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>", **named},
    )  # fmt: skip


def _llava(strategy: str = "default", encoder: str = "clip_vision_model", side: int = SIDE) -> tuple[Any, Any]:
    words = tokenizer()
    config = transformers.LlavaConfig(
        vision_config={"model_type": encoder, **_VISION, "image_size": side}, image_token_id=IMAGE,
        text_config={"model_type": "llama", **_TEXT, "vocab_size": len(words)},
        vision_feature_layer=-2, vision_feature_select_strategy=strategy,
    )  # fmt: skip
    if encoder == "clip_vision_model":
        images = transformers.CLIPImageProcessor(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}
        )
    else:
        images = transformers.SiglipImageProcessor(size={"height": side, "width": side})
    processor = transformers.LlavaProcessor(
        images, words, patch_size=PATCH, vision_feature_select_strategy=strategy,
        num_additional_image_tokens=int(encoder == "clip_vision_model"),
    )  # fmt: skip
    return transformers.LlavaForConditionalGeneration(config), processor


def _paligemma(kind: str) -> tuple[Any, Any]:
    words = tokenizer()
    images = transformers.SiglipImageProcessor(size=SQUARE)
    images.image_seq_length = (SIDE // PATCH) ** 2
    processor = transformers.PaliGemmaProcessor(images, words)
    text = {"model_type": kind, **_TEXT, "vocab_size": len(words), "tie_word_embeddings": False}
    if kind == "gemma2":  # a soft cap that matters, and a window shorter than the prompt
        text |= {"attn_logit_softcapping": 0.5, "sliding_window": 12, "query_pre_attn_scalar": 8}
    config = transformers.PaliGemmaConfig(
        vision_config={"model_type": "siglip_vision_model", **_VISION}, text_config=text, image_token_id=IMAGE,
        projection_dim=32, tie_word_embeddings=False,
    )  # fmt: skip
    return transformers.PaliGemmaForConditionalGeneration(config), processor


def _gemma3() -> tuple[Any, Any]:
    words = tokenizer(boi_token="<boi>", eoi_token="<eoi>")
    words.image_token_id, words.boi_token_id, words.eoi_token_id = (
        words.convert_tokens_to_ids(sign) for sign in ("<image>", "<boi>", "<eoi>")
    )
    images = transformers.Gemma3ImageProcessor(size=SQUARE)
    processor = transformers.Gemma3Processor(images, words, image_seq_length=4)
    text = {"model_type": "gemma3_text", **_TEXT, "vocab_size": len(words), "sliding_window": 12,
            "layer_types": ["sliding_attention", "full_attention"], "query_pre_attn_scalar": 8}  # fmt: skip
    config = transformers.Gemma3Config(
        text_config=text, vision_config={"model_type": "siglip_vision_model", **_VISION}, mm_tokens_per_image=4,
        image_token_id=IMAGE, boi_token_index=words.boi_token_id, eoi_token_index=words.eoi_token_id,
    )  # fmt: skip
    return transformers.Gemma3ForConditionalGeneration(config), processor


def _llava_next() -> tuple[Any, Any]:
    words = tokenizer()
    pinpoints = [[32, 64], [64, 32], [64, 64], [96, 32], [32, 96]]
    config = transformers.LlavaNextConfig(
        vision_config={"model_type": "clip_vision_model", **_VISION}, image_grid_pinpoints=pinpoints,
        text_config={"model_type": "llama", **_TEXT, "vocab_size": len(words)}, image_token_id=IMAGE,
        vision_feature_layer=-2,
    )  # fmt: skip
    images = transformers.LlavaNextImageProcessor(
        size={"shortest_edge": SIDE}, crop_size=SQUARE, image_grid_pinpoints=pinpoints
    )
    processor = transformers.LlavaNextProcessor(
        images, words, patch_size=PATCH, num_additional_image_tokens=1, vision_feature_select_strategy="default"
    )
    return transformers.LlavaNextForConditionalGeneration(config), processor


def _llava_onevision() -> tuple[Any, Any]:
    words = tokenizer(video_token="<video>")
    pinpoints = [[SIDE * rows, SIDE * columns] for rows in range(1, 4) for columns in range(1, 4)]
    config = transformers.LlavaOnevisionConfig(
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **_VISION},
        text_config={"model_type": "qwen2", **_TEXT, "vocab_size": len(words), "tie_word_embeddings": False},
        image_token_id=IMAGE, video_token_id=words.convert_tokens_to_ids("<video>"), image_grid_pinpoints=pinpoints,
        vision_aspect_ratio="anyres_max_2",
    )  # fmt: skip
    images = transformers.LlavaOnevisionImageProcessor(size=SQUARE, image_grid_pinpoints=pinpoints)
    films = transformers.LlavaOnevisionVideoProcessor(size=SQUARE)
    processor = transformers.LlavaOnevisionProcessor(
        images, words, films, num_image_tokens=16, vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_2",
    )  # fmt: skip
    return transformers.LlavaOnevisionForConditionalGeneration(config), processor


def _idefics3() -> tuple[Any, Any]:
    rows = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    words = tokenizer("<fake_token_around_image>", "<end_of_utterance>", "<global-img>", *rows)
    words.chat_template = CHAT
    images = transformers.Idefics3ImageProcessor(size={"longest_edge": 3 * SIDE}, max_image_size={"longest_edge": SIDE})
    processor = transformers.Idefics3Processor(images, words, image_seq_len=4, chat_template=CHAT)
    config = transformers.Idefics3Config(
        vision_config=_VISION, scale_factor=2, image_token_id=IMAGE, pad_token_id=PAD,
        text_config={"model_type": "llama", **_TEXT, "vocab_size": len(words)},
    )  # fmt: skip
    return transformers.Idefics3ForConditionalGeneration(config), processor


def _internvl() -> tuple[Any, Any]:
    words = tokenizer(
        context_image_token="<image>", start_image_token="<img>", end_image_token="</img>", video_token="<video>"
    )
    images = transformers.GotOcr2ImageProcessor(size=SQUARE, crop_to_patches=True, min_patches=1, max_patches=6)
    films = transformers.InternVLVideoProcessor(size=SQUARE)
    processor = transformers.InternVLProcessor(images, words, films, image_seq_length=4)
    vision = {**_VISION, "image_size": [SIDE, SIDE], "patch_size": [PATCH, PATCH]}
    config = transformers.InternVLConfig(
        vision_config={"model_type": "internvl_vision", **vision}, image_token_id=IMAGE, image_seq_length=4,
        text_config={"model_type": "qwen2", **_TEXT, "vocab_size": len(words), "tie_word_embeddings": False},
    )  # fmt: skip
    return transformers.InternVLForConditionalGeneration(config), processor


def _qwen(kind: str) -> tuple[Any, Any]:
    words = tokenizer("<|vision_start|>", "<|vision_end|>", video_token="<video>")
    start, film = (words.convert_tokens_to_ids(sign) for sign in ("<|vision_start|>", "<video>"))
    sizes = {"patch_size": PATCH, "merge_size": 2, "temporal_patch_size": 2}
    pixels = {"shortest_edge": 16 * 16, "longest_edge": 64 * 64}
    images = transformers.Qwen2VLImageProcessor(size=pixels, **sizes)
    films = transformers.Qwen2VLVideoProcessor(size=pixels, **sizes)
    name, prefix = {"qwen2_vl": ("Qwen2VL", "Qwen2VL"), "qwen2_5_vl": ("Qwen2_5_VL", "Qwen2_5_VL"),
                    "qwen3_vl": ("Qwen3VL", "Qwen3VL")}[kind]  # fmt: skip
    if kind == "qwen3_vl":
        films = transformers.Qwen3VLVideoProcessor(size=pixels, **sizes)
    processor = getattr(transformers, f"{name}Processor")(images, words, films)
    vision = {"depth": 2, "num_heads": 2, "patch_size": PATCH, "spatial_merge_size": 2, "temporal_patch_size": 2}
    vision |= {
        "qwen2_vl": {"embed_dim": 32, "hidden_size": 32, "mlp_ratio": 1},
        "qwen2_5_vl": {"hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 32, "window_size": 32,
                       "fullatt_block_indexes": [1]},
        "qwen3_vl": {"hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 32, "num_position_embeddings": 16,
                     "deepstack_visual_indexes": [0]},
    }[kind]  # fmt: skip
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    text = {**_TEXT, "vocab_size": len(words), "rope_parameters": rope}
    config = getattr(transformers, f"{prefix}Config")(
        vision_config=vision, text_config=text, image_token_id=IMAGE, video_token_id=film, vision_start_token_id=start
    )
    return getattr(transformers, f"{prefix}ForConditionalGeneration")(config), processor


CHAT = (
    "{% for message in messages %}<s>User:{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %} Assistant:{% endif %}"
)


def tiny_vlm(kind: str) -> tuple[Any, Any]:
    """The library's model in eval mode, and its processor."""
    torch.manual_seed(3)
    build = {
        "llava": _llava,
        "llava-full": lambda: _llava("full"),
        "llava-siglip": lambda: _llava("full", "siglip_vision_model", SIDE + 5),  # pixels that no patch takes
        "paligemma": lambda: _paligemma("gemma"),
        "paligemma2": lambda: _paligemma("gemma2"),
        "gemma3": _gemma3,
        "llava_next": _llava_next,
        "llava_onevision": _llava_onevision,
        "idefics3": _idefics3,
        "internvl": _internvl,
        **{each: partial(_qwen, each) for each in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")},
    }
    model, processor = build[kind]()
    with (
        torch.no_grad()
    ):  # what the library starts at zero or one is not so in a trained model, and a mistake would hide
        for name, value in model.named_parameters():
            if value.numel() > 1 and value.std() < 1e-6:
                value.add_(0.2 * torch.randn_like(value))
            elif value.ndim > 1 and "language_model" not in name and "text_model" not in name:
                value.mul_(3)  # maps and words that differ from one place and picture to the next
    return model.eval(), processor


def save_tiny_vlm(kind: str, folder: Path) -> Any:
    """Write all that a repository has; the model."""
    model, processor = tiny_vlm(kind)
    model.generation_config.eos_token_id = [END, OTHER_END]
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    logging.set_verbosity(before)
    return model


def reload_vlm(folder: Path) -> tuple[Any, Any]:
    """The saved model and its processor, as the library itself opens them."""
    logging.disable_progress_bar()
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="eager")
    return model.eval(), transformers.AutoProcessor.from_pretrained(folder)


def photographs(*sizes: tuple[int, int], seed: int = 0) -> list[Image.Image]:
    """Photographs of noise in blocks, (width, height) each."""
    rng = np.random.default_rng(seed)
    return [
        Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize(size, Image.Resampling.NEAREST)
        for size in sizes
    ]
