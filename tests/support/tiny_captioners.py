"""Captioners of transformers, tiny and with random weights from a seed, saved by the library's own functions.

Letters: B pictures, T words, L decoder layers, H heads, N image tokens, K cells, V vocabulary.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.utils import logging

SIDE, PATCH = 32, 8
CELLS = (SIDE // PATCH) ** 2
BERT_PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "##s", "##ing", ".", ",", "-", "(", ")",
               *(f"word{i}" for i in range(27))]  # fmt: skip
GPT_PIECES = ["<|endoftext|>", "s", "ing", ".", ",", "-", *(f"Ġw{chr(97 + i)}" for i in range(24)), *"wabcdefghi"]
LONGEST = 14

_VISION = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
           "image_size": SIDE, "patch_size": PATCH, "initializer_range": 0.15}  # fmt: skip
_TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
         "max_position_embeddings": LONGEST, "vocab_size": 40, "initializer_range": 0.2,
         "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}  # fmt: skip
_GPT = {"vocab_size": 40, "n_positions": LONGEST, "n_embd": 24, "n_layer": 3, "n_head": 4, "initializer_range": 0.2,
        "add_cross_attention": True, "is_decoder": True, "bos_token_id": 0, "eos_token_id": 0,
        "pad_token_id": 0}  # fmt: skip
KINDS = ("blip", "git", "vit-gpt2", "vit-bert")
_SEEDS = {"blip": 8, "git": 6, "vit-gpt2": 8, "vit-bert": 4}  # with which captions differ, and some but not all end


def tiny_model(kind: str, seed: int | None = None, **changes: Any) -> Any:
    """The library's model in eval mode; ``changes`` go into the settings of the decoder, or of GIT."""
    torch.manual_seed(_SEEDS.get(kind, 1) if seed is None else seed)
    ends = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    if kind == "blip":
        # eos_token_id is not what ends a caption: sep_token_id is.
        text = _TEXT | ends | {"bos_token_id": 5, "sep_token_id": 3, "eos_token_id": 4} | changes
        config = transformers.BlipConfig(vision_config=_VISION, text_config=text, initializer_range=0.2)
        return _finish(transformers.BlipForConditionalGeneration(config), "text_decoder.cls.predictions.bias", 3)
    if kind == "git":
        config = transformers.GitConfig(**(_TEXT | ends | {"vision_config": _VISION} | changes))
        return _finish(transformers.GitForCausalLM(config), "output.bias", 3)
    if kind.endswith("gpt2"):
        decoder = transformers.GPT2Config(**(_GPT | changes))
        ids = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 0, "bos_token_id": 0}
    else:
        decoder = transformers.BertConfig(**(_TEXT | {"is_decoder": True, "add_cross_attention": True} | changes))
        ids = {"decoder_start_token_id": 2, "pad_token_id": 0, "eos_token_id": 3}
    encoder = _encoder(kind.split("-")[0])
    config = transformers.VisionEncoderDecoderConfig(encoder=encoder.to_dict(), decoder=decoder.to_dict(), **ids)
    model = transformers.VisionEncoderDecoderModel(config)
    return _finish(model, "decoder.cls.predictions.bias", 3) if "bert" in kind else _finish(model, "", 0)


def _encoder(name: str) -> Any:
    if name == "swin":
        sizes = {"image_size": SIDE, "patch_size": 2, "embed_dim": 6, "window_size": 2}
        return transformers.SwinConfig(**sizes, depths=[1, 1, 1], num_heads=[1, 2, 2], initializer_range=0.3)
    settings = _VISION | ({"use_absolute_position_embeddings": True} if name == "beit" else {})
    return {"vit": transformers.ViTConfig, "deit": transformers.DeiTConfig, "beit": transformers.BeitConfig}[name](
        **settings
    )


def _finish(model: Any, head_bias: str, end: int, bonus: float = 2.0) -> Any:
    """Biases and tokens that the library starts at zero are not zero in a trained model, and a mistake would hide;
    and captions of random weights hardly ever end, so the end's logit is raised by ``bonus``."""
    with torch.no_grad():
        for value in model.parameters():
            if value.numel() > 1 and value.std() < 1e-6:
                value.add_(0.2 * torch.randn_like(value))
        if head_bias:
            model.get_parameter(head_bias)[end] += bonus
        else:  # GPT-2's head has no bias; what comes before it has
            end_D = model.decoder.lm_head.weight[end]
            model.decoder.transformer.ln_f.bias += bonus * end_D / end_D.square().sum()
    return model.eval()


def save_tiny(kind: str, folder: Path, *, model: Any = None, processor: bool | None = None) -> Any:
    """Write all that a repository has, and give the model back.

    ``processor`` writes the image settings into a processor_config.json, as version 5 does for BLIP and GIT, and not
    into a preprocessor_config.json; None does as is usual for the kind.
    """
    model = tiny_model(kind) if model is None else model
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    logging.set_verbosity(before)
    images = image_processor(kind)
    if kind.endswith("gpt2"):
        pieces = {piece: number for number, piece in enumerate(GPT_PIECES)}
        tokenizer = transformers.GPT2Tokenizer(vocab=pieces, merges=[])
    else:
        pieces = {piece: number for number, piece in enumerate(BERT_PIECES)}
        tokenizer = transformers.BertTokenizer(vocab=pieces)
    if processor is None:
        processor = kind in ("blip", "git")
    if processor:
        joint = {"blip": transformers.BlipProcessor}.get(kind, transformers.GitProcessor)
        joint(images, tokenizer).save_pretrained(folder)
    else:
        images.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return model


def image_processor(kind: str) -> Any:
    """The image processor that published captioners of the kind come with, by Pillow."""
    side = {"height": SIDE, "width": SIDE}
    if kind == "git":
        return transformers.CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=side)
    return {"blip": transformers.BlipImageProcessorPil}.get(kind, transformers.ViTImageProcessorPil)(size=side)


def reload(kind: str, folder: Path) -> Any:
    """The saved model as the library itself opens it."""
    model_class = {"blip": transformers.BlipForConditionalGeneration, "git": transformers.GitForCausalLM}.get(
        kind, transformers.VisionEncoderDecoderModel
    )
    logging.disable_progress_bar()
    return model_class.from_pretrained(folder, attn_implementation="eager").eval()


def library_pass(kind: str, model: Any, pixels_B3HW: torch.Tensor, ids_BT: torch.Tensor) -> tuple[Any, torch.Tensor]:
    """One call of the library's model without a cache: logits (B, T, V), attention to image tokens (L, B, H, T, N)."""
    options = {"use_cache": False, "output_attentions": True}
    if kind == "git":
        found = model(input_ids=ids_BT, pixel_values=pixels_B3HW, **options)
        tokens = found.attentions[0].shape[-1] - ids_BT.shape[1]
        rows = torch.stack([layer[:, :, tokens:, :tokens] for layer in found.attentions])
        return found.logits[:, -ids_BT.shape[1] :], rows
    if kind == "blip":
        seen = model.vision_model(pixel_values=pixels_B3HW).last_hidden_state
        found = model.text_decoder(input_ids=ids_BT, encoder_hidden_states=seen, **options)
    else:
        found = model(pixel_values=pixels_B3HW, decoder_input_ids=ids_BT, **options)
    return found.logits, torch.stack(found.cross_attentions)


def over_cells(rows_LBHTN: torch.Tensor) -> torch.Tensor:
    """Over the cells alone, which are the last tokens: each row sums to 1."""
    cells_LBHTK = rows_LBHTN[..., -CELLS:]
    return cells_LBHTK / cells_LBHTK.sum(-1, keepdim=True)


def edit_json(path: Path, **changes: Any) -> None:
    """Change settings of a saved file; None takes one out."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))
