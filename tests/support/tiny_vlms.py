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
QUERIES = 5
"""Query tokens of models that have them."""


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
    return _tokenizer_of(signs, {"image_token": "<image>", **named})


def _tokenizer_of(signs: list[str], named: dict[str, str]) -> Any:
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_learnt_pieces(*signs)), bos_token="<s>", eos_token="</s>",
        pad_token="<pad>", extra_special_tokens=named,
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


def _vipllava() -> tuple[Any, Any]:
    words = tokenizer()
    config = transformers.VipLlavaConfig(
        vision_config={"model_type": "clip_vision_model", **_VISION}, image_token_index=IMAGE,
        text_config={"model_type": "llama", **_TEXT, "vocab_size": len(words)}, vision_feature_layer=[-2, -1],
    )  # fmt: skip
    images = transformers.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SQUARE)
    processor = transformers.LlavaProcessor(
        images, words, patch_size=PATCH, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    return transformers.VipLlavaForConditionalGeneration(config), processor


def _aya_vision() -> tuple[Any, Any]:
    signs = [f"TILE_{number}" for number in range(1, 7)]
    words = tokenizer("<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "TILE", "TILE_GLOBAL", *signs)
    images = transformers.GotOcr2ImageProcessor(size=SQUARE, crop_to_patches=True, min_patches=1, max_patches=6)
    processor = transformers.AyaVisionProcessor(
        images, words, patch_size=PATCH, img_size=SIDE, downsample_factor=2, chat_template=CHAT
    )
    text = {"model_type": "cohere2", **_TEXT, "vocab_size": len(words), "sliding_window": 12,
            "layer_types": ["sliding_attention", "full_attention"], "logit_scale": 1.0}  # fmt: skip
    config = transformers.AyaVisionConfig(
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **_VISION}, text_config=text,
        image_token_index=words.convert_tokens_to_ids("<|IMG_PATCH|>"), downsample_factor=2,
    )  # fmt: skip
    return transformers.AyaVisionForConditionalGeneration(config), processor


def _cohere2_vision() -> tuple[Any, Any]:
    words = tokenizer(boi_token="<boi>", eoi_token="<eoi>", img_line_break_token="<line>")
    words.image_token_id = IMAGE
    images = transformers.Cohere2VisionImageProcessor(size=SQUARE, max_patches=6, patch_size=2)
    text = {"model_type": "cohere2", **_TEXT, "vocab_size": len(words), "sliding_window": 12,
            "layer_types": ["sliding_attention", "full_attention"], "logit_scale": 1.0}  # fmt: skip
    config = transformers.Cohere2VisionConfig(
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **_VISION}, text_config=text,
        image_token_id=IMAGE, downsample_factor=2, alignment_intermediate_size=32,
    )  # fmt: skip
    processor = transformers.Cohere2VisionProcessor(images, words, chat_template=CHAT)
    return transformers.Cohere2VisionForConditionalGeneration(config), processor


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


def _idefics2(splits: bool) -> tuple[Any, Any]:
    signs = {"image_boundary_token": "<fake_token_around_image>"}
    words = tokenizer("<end_of_utterance>", **signs)
    images = transformers.Idefics2ImageProcessor(
        size={"shortest_edge": 24, "longest_edge": 42}, do_image_splitting=splits
    )
    processor = transformers.Idefics2Processor(images, words, image_seq_len=QUERIES, chat_template=CHAT)
    perceiver = {"hidden_size": 32, "resampler_n_latents": QUERIES, "resampler_depth": 2, "resampler_n_heads": 4,
                 "resampler_head_dim": 8, "num_key_value_heads": 2, "initializer_range": 0.2}  # fmt: skip
    config = transformers.Idefics2Config(
        vision_config=_VISION, perceiver_config=perceiver, image_token_id=IMAGE,
        text_config={"model_type": "mistral", **_TEXT, "vocab_size": len(words)},
    )  # fmt: skip
    return transformers.Idefics2ForConditionalGeneration(config), processor


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


def _blip2(kind: str, language: str) -> tuple[Any, Any]:
    words = _tokenizer_of(SIGNS, {})  # its processor knows the image token by itself
    queries = {"num_query_tokens": QUERIES}
    images = transformers.BlipImageProcessor(size=SQUARE)
    q_former = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2,
                "initializer_range": 0.2, "pad_token_id": PAD}  # fmt: skip
    vision = {**_VISION, "initializer_range": 0.1}
    text = {
        "opt": {"model_type": "opt", **_TEXT, "ffn_dim": 32, "word_embed_proj_dim": 32, "init_std": 0.2},
        "llama": {"model_type": "llama", **_TEXT},
        "t5": {"model_type": "t5", "d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 3, "num_decoder_layers": 2,
               "num_heads": 4, "eos_token_id": END, "pad_token_id": PAD, "decoder_start_token_id": PAD,
               "relative_attention_num_buckets": 8, "initializer_factor": 1.0},
    }[language] | {"vocab_size": len(words)}  # fmt: skip
    if kind == "Blip2":
        processor = transformers.Blip2Processor(images, words, **queries)
    else:
        q_former["vocab_size"] = len(words)
        processor = transformers.InstructBlipProcessor(images, words, _tokenizer_of(SIGNS, {}), **queries)
    config = getattr(transformers, f"{kind}Config")(
        vision_config=vision, qformer_config=q_former, text_config=text, image_token_index=IMAGE, **queries
    )
    return getattr(transformers, f"{kind}ForConditionalGeneration")(config), processor


def _kosmos2() -> tuple[Any, Any]:
    signs = [*SIGNS[:IMAGE], "<unk>"]
    words = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_learnt_pieces(*signs)), bos_token="<s>", eos_token="</s>",
        pad_token="<pad>", unk_token="<unk>",
    )  # fmt: skip
    images = transformers.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SQUARE)
    processor = transformers.Kosmos2Processor(images, words, num_patch_index_tokens=4)
    text = {
        "embed_dim": 32,
        "layers": 2,
        "ffn_dim": 32,
        "attention_heads": 4,
        "max_position_embeddings": CONTEXT,
        "vocab_size": len(words),
        "init_std": 0.1,
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": END,
    }
    config = transformers.Kosmos2Config(vision_config={**_VISION, "initializer_factor": 3.0}, text_config=text)
    return transformers.Kosmos2ForConditionalGeneration(config), processor


def _florence2() -> tuple[Any, Any]:
    words = tokenizer()
    images = transformers.CLIPImageProcessor(size=SQUARE, do_center_crop=False)
    images.image_seq_length = 17
    processor = transformers.Florence2Processor(images, words)
    stages = {
        "depths": [1, 1],
        "patch_size": [7, 3],
        "patch_stride": [4, 2],
        "patch_padding": [3, 1],
        "patch_prenorm": [False, True],
        "embed_dim": [16, 32],
        "num_heads": [2, 2],
        "num_groups": [2, 2],
    }
    text = {"model_type": "bart", "d_model": 32, "encoder_layers": 3, "decoder_layers": 2, "encoder_attention_heads": 4,
            "decoder_attention_heads": 4, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "init_std": 0.2,
            "max_position_embeddings": CONTEXT, "vocab_size": len(words), "decoder_start_token_id": END,
            "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": END}  # fmt: skip
    config = transformers.Florence2Config(
        vision_config={**stages, "window_size": 4, "projection_dim": 32, "initializer_range": 0.1}, text_config=text,
        image_token_id=IMAGE,
    )  # fmt: skip
    model = transformers.Florence2ForConditionalGeneration(config)
    model.generation_config.decoder_start_token_id = END
    model.generation_config.forced_bos_token_id = BOS  # as the published ones have it
    model.generation_config.forced_eos_token_id = None
    return model, processor


def _smolvlm() -> tuple[Any, Any]:
    rows = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    words = tokenizer("<fake_token_around_image>", "<end_of_utterance>", "<global-img>", "<video>", *rows)
    sizes = {"size": {"longest_edge": 3 * SIDE}, "max_image_size": {"longest_edge": SIDE}}
    processor = transformers.SmolVLMProcessor(
        transformers.SmolVLMImageProcessor(**sizes), words, transformers.SmolVLMVideoProcessor(**sizes),
        image_seq_len=4, chat_template=CHAT,
    )  # fmt: skip
    config = transformers.SmolVLMConfig(
        vision_config=_VISION, scale_factor=2, image_token_id=IMAGE, pad_token_id=PAD,
        text_config={"model_type": "llama", **_TEXT, "vocab_size": len(words)},
    )  # fmt: skip
    return transformers.SmolVLMForConditionalGeneration(config), processor


CHAT = (
    "{% for message in messages %}<s>User:{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %} Assistant:{% endif %}"
)


_SEEDS = {"blip2-t5": 6, "instructblip": 4, "instructblip-t5": 19}
"""Of models in which two questions have the same answer, or a beam ends early, by another seed."""


def tiny_vlm(kind: str) -> tuple[Any, Any]:
    """The library's model in eval mode, and its processor."""
    torch.manual_seed(_SEEDS.get(kind, 3))
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
        "idefics2": lambda: _idefics2(True),
        "idefics2-whole": lambda: _idefics2(False),
        "vipllava": _vipllava,
        "cohere2_vision": _cohere2_vision,
        "aya_vision": _aya_vision,
        "kosmos2": _kosmos2,
        "florence2": _florence2,
        "smolvlm": _smolvlm,
        "blip2": lambda: _blip2("Blip2", "opt"),
        "blip2-t5": lambda: _blip2("Blip2", "t5"),
        "instructblip": lambda: _blip2("InstructBlip", "llama"),
        "instructblip-t5": lambda: _blip2("InstructBlip", "t5"),
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
    for part in (model, getattr(model, "language_model", None), getattr(model, "text_model", None)):
        if hasattr(part, "generation_config"):  # some ask their language model, which has its own
            part.generation_config.eos_token_id = [END, OTHER_END]
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
