"""The families of vision-language models that open: what each image token of theirs sees of the photograph.

A family is a description: the library's classes, how a question is put to it, and a function from a photograph's size
to the boxes of its image tokens. To add one is to add a description here, and a row to the tests that paint a
photograph patch by patch.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, isqrt, sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vitrine.errors import ModelError
from vitrine.models.hf_captioners.base import as_pair
from vitrine.models.vlm.layout import Box, Boxes, TokenLayout, grid_boxes, no_place, one_grid, tile_layout

DEFAULT_PROMPT = "Describe the picture."
"""The prompt of models that have none of their own for captions."""

Describe = Callable[[Any, Any, tuple[int, int]], TokenLayout]
"""From the library's processor, the model's configuration, and (width, height) of a photograph to its layout."""


def _text_positions(position_B: Tensor) -> Tensor:
    """Positions that count words one by one: (B, 1)."""
    return position_B[:, None]


def _length(_model: Any, length: int) -> int:
    return length


def _itself(model: Any) -> Any:
    return model


@dataclass(frozen=True)
class Family:
    """What is known of the models of one type.

    Attributes:
        name: for a person.
        model_class, processor_class: the library's.
        describe: where image tokens lie on a photograph.
        caption_prompt: what asks for a caption.
        template: a question as the model was trained on it, where the processor has no chat template: ``{image}``
            stands for the image's sign and ``{prompt}`` for the question.
        question_template: the same for a prompt that ends with a question mark, of models that continue any other one;
            None where all prompts are put alike.
        has_chat_template: whether a chat template of the processor is used, where it has one.
        next_position: the position of the first word, from the model and the length of the prompt that it has read.
        position_ids: the library's argument, from the positions of the newest words.
        language_model: the part of the library's model that is called for the words of an answer.
        image_places: positions of image tokens in a prompt, from the model's arguments; None where each is the image
            token.
        query_tokens: of a model whose image tokens are queries that read the patches (see
            :mod:`vitrine.models.vlm.query_tokens`), how many there are, from the processor and the configuration;
            ``describe`` then says where that lies which they read from. None of others.
        query_readers: the attention modules in which they read, in order, of the library's model.
        image_sign: the processor's name of what stands for a picture in a prompt's text.
        more_files: of a repository, that its processor may need beside those that all have.
    """

    name: str
    model_class: str
    processor_class: str
    describe: Describe
    caption_prompt: str = DEFAULT_PROMPT
    template: str = "{image}\n{prompt}"
    question_template: str | None = None
    has_chat_template: bool = True
    next_position: Callable[[Any, int], int] = _length
    position_ids: Callable[[Tensor], Tensor] = _text_positions
    language_model: Callable[[Any], Any] = _itself
    image_places: Callable[[Mapping[str, Tensor]], Tensor] | None = None
    query_tokens: Callable[[Any, Any], int] | None = None
    query_readers: Callable[[Any], Sequence[nn.Module]] | None = None
    image_sign: str = "image_token"
    more_files: tuple[str, ...] = ()

    def places(self, config: Any, tensors: Mapping[str, Tensor]) -> Tensor:
        """Positions of the image tokens in a prompt: int64 (N,).

        Args:
            config: the model's.
            tensors: the model's arguments, for a batch of one.
        """
        if self.image_places is not None:
            return self.image_places(tensors)
        return token_places(config, tensors["input_ids"])


def resized_box(image_processor: Any, size: tuple[int, int]) -> tuple[Box, tuple[int, int]]:
    """Where an input of one size lies on a photograph that is resized, padded or cropped, and that size.

    Args:
        image_processor: of the library; it resizes to a size or to a short side, and may pad to a square before that,
            or crop the centre after it.
        size: (width, height) of the photograph.

    Returns:
        the box on the photograph, and (rows, columns) of the input in pixels.

    Raises:
        ModelError: it prepares pictures in another way.
    """
    (width, height), target = size, image_processor.size
    left = top = 0.0
    if getattr(image_processor, "do_pad", None):
        side = max(size)
        left, top = -float((side - width) // 2), -float((side - height) // 2)
        width = height = side
    if not image_processor.do_resize:
        raise ModelError(f"{type(image_processor).__name__} does not resize pictures, so that no input has one size.")
    if target.shortest_edge and not target.longest_edge:
        short = target.shortest_edge
        rows, columns = (
            (int(short * height / width), short) if width <= height else (short, int(short * width / height))
        )
    elif target.height and target.width:
        rows, columns = target.height, target.width
    else:
        raise ModelError(f"{type(image_processor).__name__} resizes pictures to {target}, which is not known here.")
    crop_rows, crop_columns = rows, columns
    if getattr(image_processor, "do_center_crop", None):
        crop_rows, crop_columns = image_processor.crop_size.height, image_processor.crop_size.width
    down, across = height / rows, width / columns  # photograph's pixels in one of the input's
    # Half of what is left over, as whole pixels towards zero.
    first_row, first_column = int((rows - crop_rows) / 2), int((columns - crop_columns) / 2)
    box = (
        left + across * first_column,
        top + down * first_row,
        left + across * (first_column + crop_columns),
        top + down * (first_row + crop_rows),
    )
    return box, (crop_rows, crop_columns)


def _llava(processor: Any, config: Any, size: tuple[int, int]) -> TokenLayout:
    """LLaVA 1.5 (Liu et al. 2023): one token a patch; a class token first where the features are taken whole."""
    vision = config.vision_config
    if vision.model_type not in ("clip_vision_model", "siglip_vision_model"):
        raise ModelError(f"This LLaVA has the vision encoder {vision.model_type}: expected CLIP's or SigLIP's.")
    has_class_token = vision.model_type == "clip_vision_model" and config.vision_feature_select_strategy != "default"
    return one_grid(size, *_whole_patches(processor, vision, size), prefix=int(has_class_token))


def _whole_patches(processor: Any, vision: Any, size: tuple[int, int]) -> tuple[Box, tuple[int, int]]:
    """The box of an input's whole patches on a photograph, and (rows, columns) of them; what is left over at the right
    and at the bottom of the input, the vision encoder does not see."""
    (left, top, right, bottom), input_size = resized_box(processor.image_processor, size)
    patch = as_pair(vision.patch_size)
    grid = input_size[0] // patch[0], input_size[1] // patch[1]
    down, across = (grid[axis] * patch[axis] / input_size[axis] for axis in (0, 1))
    return (left, top, left + across * (right - left), top + down * (bottom - top)), grid


def _vipllava(processor: Any, config: Any, size: tuple[int, int]) -> TokenLayout:
    """ViP-LLaVA (Cai et al. 2024): as LLaVA 1.5, of several layers at once, always without the class token."""
    vision = config.vision_config
    if vision.model_type != "clip_vision_model":
        raise ModelError(f"This ViP-LLaVA has the vision encoder {vision.model_type}: expected CLIP's.")
    return one_grid(size, *_whole_patches(processor, vision, size))


def _paligemma(processor: Any, config: Any, size: tuple[int, int]) -> TokenLayout:
    """PaliGemma (Beyer et al. 2024): one token a patch of a square that the picture is stretched to."""
    return one_grid(size, *_whole_patches(processor, config.vision_config, size))


def _gemma3(processor: Any, config: Any, size: tuple[int, int]) -> TokenLayout:
    """Gemma 3 (2025): patches of a square, averaged in square blocks, so many that a fixed number of tokens is left."""
    if getattr(processor.image_processor, "do_pan_and_scan", None):
        raise ModelError("This Gemma 3 cuts pictures into crops (do_pan_and_scan), which is not known here.")
    box, _ = resized_box(processor.image_processor, size)
    side = isqrt(config.mm_tokens_per_image)
    return one_grid(size, box, (side, side))


def _q_former(processor: Any, config: Any, size: tuple[int, int]) -> TokenLayout:
    """BLIP-2 (Li et al. 2023) and InstructBLIP (Dai et al. 2023): the Q-Former reads a class token, then one token a
    patch of a square that the picture is stretched to."""
    return one_grid(size, *_whole_patches(processor, config.vision_config, size), prefix=1)


def _language_model(model: Any) -> Any:
    return model.language_model


def _q_former_queries(_processor: Any, config: Any) -> int:
    return int(config.num_query_tokens)


def _q_former_readers(model: Any) -> Sequence[nn.Module]:
    """The attention modules of the layers that have cross-attention."""
    return [layer.crossattention.attention for layer in model.qformer.encoder.layer if layer.has_cross_attention]


def _text_model(model: Any) -> Any:
    return model.text_model


def _kosmos2_places(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.nonzero(tensors["image_embeds_position_mask"][0])[:, 0]


def _kosmos2_queries(_processor: Any, config: Any) -> int:
    return int(config.latent_query_num)


def _kosmos2_readers(model: Any) -> Sequence[nn.Module]:
    return [model.image_to_text_projection.x_attn]


def _kosmos2(processor: Any, config: Any, size: tuple[int, int]) -> TokenLayout:
    """Kosmos-2 (Peng et al. 2023): the resampler reads a class token, one token a patch of a square, and its own
    queries."""
    layout = one_grid(size, *_whole_patches(processor, config.vision_config, size), prefix=1)
    return replace(layout, boxes_N4=np.concatenate([layout.boxes_N4, no_place(config.latent_query_num)]))


def _idefics2(processor: Any, config: Any, size: tuple[int, int]) -> TokenLayout:
    """Idefics 2 (Laurençon et al. 2024): whole patches of the picture at nearly its own size, or of its four quarters
    and then of itself. A resampler reads those of each, and its own queries."""
    images, patch, (width, height) = processor.image_processor, config.vision_config.patch_size, size
    if not (images.do_resize and images.size.shortest_edge and images.size.longest_edge):
        raise ModelError("This Idefics 2 does not resize pictures by their shortest and longest side: not known here.")
    across, down = width // 2, height // 2
    quarters = [(0, 0, across, down), (across, 0, width, down), (0, down, across, height), (across, down, *size)]
    parts = [*(quarters if images.do_image_splitting else ()), (0, 0, *size)]
    resize = _library_function(images, "get_resize_output_image_size")
    inputs = [resize(_Shape(bottom - top, right - left), images.size) for left, top, right, bottom in parts]
    most = [max(side) // patch for side in zip(*inputs, strict=True)]
    boxes = []
    for (left, top, right, bottom), (rows, columns) in zip(parts, inputs, strict=True):
        grid = rows // patch, columns // patch
        extent = (right - left) * patch * grid[1] / columns, (bottom - top) * patch * grid[0] / rows
        box = float(left), float(top), left + extent[0], top + extent[1]
        padded_RC4 = no_place(most[0] * most[1]).reshape(*most, 4)
        padded_RC4[: grid[0], : grid[1]] = grid_boxes(box, *grid).reshape(*grid, 4)
        boxes += [padded_RC4.reshape(-1, 4), no_place(config.perceiver_config.resampler_n_latents)]
    if images.do_image_splitting:
        box, grid = (0.0, 0.0, float(width), float(height)), (2 * (inputs[0][0] // patch), 2 * (inputs[0][1] // patch))
    return TokenLayout(*size, box, *grid, np.concatenate(boxes))


def _idefics2_readers(model: Any) -> Sequence[nn.Module]:
    return [layer.self_attn for layer in model.model.connector.perceiver_resampler.layers]


def _idefics2_queries(processor: Any, config: Any) -> int:
    """All queries: each of the four quarters and the picture has its own."""
    return int(config.perceiver_config.resampler_n_latents) * (5 if processor.image_processor.do_image_splitting else 1)


def _florence2(processor: Any, config: Any, size: tuple[int, int]) -> TokenLayout:
    """Florence-2 (Xiao et al. 2024): the mean of all cells first, which sees the whole picture; then one token a cell
    of a convolutional encoder, each as wide as the product of its strides.

    A cell is drawn around the middle of what it sees, by the convolutions' strides and padding: in the published models
    that is half a cell further left and up than if the picture were divided evenly.
    """
    box, grid = resized_box(processor.image_processor, size)
    vision, stride, middle = config.vision_config, 1, 0.5  # of the first cell, pixels of the input
    cells = np.array(grid)
    for kernel, step, padding in zip(vision.patch_size, vision.patch_stride, vision.patch_padding, strict=True):
        middle += stride * ((kernel - 1) / 2 - padding)
        cells = (cells + 2 * padding - kernel) // step + 1
        stride *= step
    (left, top, right, bottom), (rows, columns) = box, map(int, cells)
    across, down = (right - left) / grid[1], (bottom - top) / grid[0]
    first = middle - stride / 2
    edges = (left + across * first, top + down * first)
    shape = (across * stride * columns, down * stride * rows)
    layout = one_grid(size, (*edges, edges[0] + shape[0], edges[1] + shape[1]), (rows, columns))
    return replace(layout, boxes_N4=np.concatenate([np.array([box]), layout.boxes_N4]))


def _qwen(processor: Any, _config: Any, size: tuple[int, int]) -> TokenLayout:
    """Qwen2-VL (Wang et al. 2024) and its successors: the picture at nearly its own size, one token for each square of
    patches that are merged."""
    images = processor.image_processor
    factor = images.patch_size * images.merge_size
    rows, columns = _library_function(images, "smart_resize")(
        size[1], size[0], factor=factor, min_pixels=images.size.shortest_edge, max_pixels=images.size.longest_edge
    )
    return one_grid(size, (0.0, 0.0, float(size[0]), float(size[1])), (rows // factor, columns // factor))


def _idefics3(processor: Any, config: Any, size: tuple[int, int]) -> TokenLayout:
    """Idefics 3 (Laurençon et al. 2024) and SmolVLM: the picture stretched to whole tiles, each a square of tokens that
    stand for squares of patches, then the whole picture as one more."""
    images = processor.image_processor
    side = config.vision_config.image_size // config.vision_config.patch_size // config.scale_factor
    if not images.do_image_splitting:
        return tile_layout(size, (1, 1), (side, side), thumbnail=False)
    tile, (width, height) = images.max_image_size["longest_edge"], size
    if images.do_resize:
        height, width = _library_function(images, "get_resize_output_image_size")(
            _Shape(height, width), images.size.longest_edge
        )
    # The long side becomes whole tiles first, and the short side what its shape asks for, in whole tiles.
    aspect = width / height
    if width >= height:
        width = ceil(width / tile) * tile
        height = ceil(int(width / aspect) / tile) * tile
    else:
        height = ceil(height / tile) * tile
        width = ceil(int(height * aspect) / tile) * tile
    tiles = height // tile, width // tile
    return tile_layout(size, tiles, (side, side), thumbnail=tiles != (1, 1))


def _internvl(processor: Any, config: Any, size: tuple[int, int]) -> TokenLayout:
    """InternVL (Chen et al. 2024): the picture stretched to the tiles whose shape is nearest to its own, each a square
    of tokens that stand for squares of patches, then the whole picture as one more."""
    return _tiles_and_thumbnail(processor, size, int(_patches_of_side(config.vision_config) * config.downsample_ratio))


def _aya_vision(processor: Any, config: Any, size: tuple[int, int]) -> TokenLayout:
    """Aya Vision (Dash et al. 2025): tiles and thumbnail as InternVL has them."""
    if config.vision_feature_select_strategy != "full" or config.vision_config.model_type != "siglip_vision_model":
        raise ModelError("This Aya Vision has no SigLIP's vision encoder, or cuts tokens off: not known here.")
    return _tiles_and_thumbnail(processor, size, _patches_of_side(config.vision_config) // config.downsample_factor)


def _cohere2_vision(processor: Any, config: Any, size: tuple[int, int]) -> TokenLayout:
    """Command A Vision (Cohere 2025): as Aya Vision; each tile's tokens are followed by a word piece that is none."""
    if config.vision_config.model_type != "siglip_vision_model":
        raise ModelError("This Command A Vision has no SigLIP's vision encoder, which is not known here.")
    return _tiles_and_thumbnail(processor, size, _patches_of_side(config.vision_config) // config.downsample_factor)


def _patches_of_side(vision: Any) -> int:
    return as_pair(vision.image_size)[0] // as_pair(vision.patch_size)[0]


def _tiles_and_thumbnail(processor: Any, size: tuple[int, int], side: int) -> TokenLayout:
    """Tiles of ``side`` x ``side`` tokens, then a thumbnail where there is more than one tile."""
    images = processor.image_processor
    options = processor._merge_kwargs()["images_kwargs"]
    if not options.get("crop_to_patches", images.crop_to_patches):
        return tile_layout(size, (1, 1), (side, side), thumbnail=False)
    columns, rows = _library_function(images, "get_optimal_tiled_canvas")(
        (size[1], size[0]), (images.size.height, images.size.width), images.min_patches, images.max_patches
    )
    return tile_layout(size, (rows, columns), (side, side), thumbnail=rows * columns > 1)


def _llava_next(processor: Any, config: Any, size: tuple[int, int]) -> TokenLayout:
    """LLaVA-NeXT (Liu et al. 2024): see :func:`_on_canvas`."""
    if config.vision_feature_select_strategy != "default" or config.vision_config.model_type != "clip_vision_model":
        raise ModelError("This LLaVA-NeXT keeps class tokens or has no CLIP's vision encoder, which is not known here.")
    return _on_canvas(processor.image_processor, config, size)


def _llava_onevision(processor: Any, config: Any, size: tuple[int, int]) -> TokenLayout:
    """LLaVA-OneVision (Li et al. 2024): as LLaVA-NeXT, but that a canvas of many tiles is brought to fewer tokens."""
    vision = config.vision_config
    if config.vision_feature_select_strategy != "full" or vision.model_type != "siglip_vision_model":
        raise ModelError("This LLaVA-OneVision has no SigLIP's vision encoder, or cuts tokens off: not known here.")
    match = re.fullmatch(r"anyres_max_(\d+)", str(config.vision_aspect_ratio))
    if match is None:
        raise ModelError(
            f"This LLaVA-OneVision has vision_aspect_ratio {config.vision_aspect_ratio!r}: not known here."
        )
    most_tokens = int(match[1]) * (vision.image_size // vision.patch_size) ** 2
    return _on_canvas(processor.image_processor, config, size, most_tokens)


def _on_canvas(images: Any, config: Any, size: tuple[int, int], most_tokens: int | None = None) -> TokenLayout:
    """A thumbnail of the whole picture first; then the picture in the middle of a canvas of tiles, all of its tokens
    row by row without the canvas's border, each row with a token that ends it.

    Args:
        images: the image processor.
        config: the model's.
        size: (width, height) of the photograph.
        most_tokens: a canvas of clearly more is interpolated to about so many; None keeps all.
    """
    (width, height), patch, tile = size, config.vision_config.patch_size, config.vision_config.image_size
    canvas = _library_function(images, "select_best_resolution")((height, width), config.image_grid_pinpoints)
    picture = _library_function(images, "get_patch_output_size")(
        np.empty((3, height, width), np.bool_), canvas, "channels_first"
    )
    grid = [side // tile * (tile // patch) for side in canvas]
    cut = _cut_patches(size, grid)
    rows, columns = (grid[axis] - 2 * cut[axis] for axis in (0, 1))
    # Where patches begin and end, from the canvas's pixels to the photograph's. What patches do not fill of a tile, the
    # vision encoder does not see.
    down_R2, across_C2 = (
        (_patch_spans(canvas[axis], tile, patch)[cut[axis] :][:count] - (canvas[axis] - picture[axis]) // 2)
        * (side / picture[axis])
        for axis, count, side in ((0, rows, height), (1, columns, width))
    )
    box = float(across_C2[0, 0]), float(down_R2[0, 0]), float(across_C2[-1, 1]), float(down_R2[-1, 1])
    boxes_RC4 = np.array([[(left, top, right, bottom) for left, right in across_C2] for top, bottom in down_R2])
    ratio = sqrt(rows * columns / most_tokens) if most_tokens else 1.0
    if ratio > 1.1:
        rows, columns = int(rows // ratio), int(columns // ratio)
        boxes_RC4 = grid_boxes(box, rows, columns).reshape(rows, columns, 4)
    lines_N4 = np.concatenate([boxes_RC4, no_place(rows)[:, None]], 1).reshape(-1, 4)
    share = tile // patch * patch / tile
    thumbnail_N4 = grid_boxes((0.0, 0.0, width * share, height * share), tile // patch, tile // patch)
    return TokenLayout(*size, box, rows, columns, np.concatenate([thumbnail_N4, lines_N4]))


def _cut_patches(size: tuple[int, int], grid: Sequence[int]) -> tuple[int, int]:
    """How many rows and columns of patches at either end of a canvas are border, as the models' own arithmetic has it,
    which looks at shapes alone."""
    width, height = size
    if width / height > grid[1] / grid[0]:
        return (grid[0] - int(round(height * (grid[1] / width), 7))) // 2, 0
    return 0, (grid[1] - int(round(width * (grid[0] / height), 7))) // 2


def _patch_spans(side: int, tile: int, patch: int) -> Boxes:
    """The first and the last pixel's outer edges of each patch along a side that is cut into tiles: (patches, 2)."""
    starts = np.concatenate([first + patch * np.arange(tile // patch) for first in range(0, side, tile)])
    return np.stack([starts, starts + patch], 1).astype(np.float64)


class _Shape:
    """The shape of a picture, where a function of the library looks at nothing else."""

    def __init__(self, height: int, width: int) -> None:
        self.shape = (3, height, width)


def _library_function(image_processor: Any, name: str) -> Any:
    """A function of the module that an image processor of the library is in: its own arithmetic, not a copy of it."""
    for kind in type(image_processor).__mro__:
        module = sys.modules[kind.__module__]
        if hasattr(module, name):
            return getattr(module, name)
    raise ModelError(f"{type(image_processor).__name__} has no {name}: it prepares pictures in a way not known here.")


def _after_deltas(model: Any, length: int) -> int:
    """Qwen's positions count an image by its longer side; the model keeps how far that is from its tokens' number."""
    return length + int(model.model.rope_deltas)


def _three_positions(position_B: Tensor) -> Tensor:
    """The same position in time, height and width: (3, B, 1)."""
    return position_B[None, :, None].expand(3, -1, -1)


def _qwen_family(name: str, prefix: str, processor: str) -> Family:
    return Family(
        name,
        f"{prefix}ForConditionalGeneration",
        processor,
        _qwen,
        template="<|vision_start|>{image}<|vision_end|>{prompt}",
        next_position=_after_deltas,
        position_ids=_three_positions,
    )


def _after_first(_model: Any, length: int) -> int:
    return length + 1  # PaliGemma counts positions from 1


def _after_padding(model: Any, length: int) -> int:
    return length + 1 + int(model.config.text_config.pad_token_id)  # Kosmos-2 counts from there


def _q_former_family(name: str, prefix: str, caption_prompt: str, question_template: str | None) -> Family:
    return Family(
        name,
        f"{prefix}ForConditionalGeneration",
        f"{prefix}Processor",
        _q_former,
        caption_prompt=caption_prompt,
        template="{prompt}",
        question_template=question_template,
        has_chat_template=False,
        language_model=_language_model,
        query_tokens=_q_former_queries,
        query_readers=_q_former_readers,
        more_files=tuple(f"qformer_tokenizer/{name}" for name in ("tokenizer.json", "tokenizer_config.json"))
        if prefix == "InstructBlip"
        else (),
    )


FAMILIES: Mapping[str, Family] = {
    "llava": Family(
        "LLaVA 1.5",
        "LlavaForConditionalGeneration",
        "LlavaProcessor",
        _llava,
        template="USER: {image}\n{prompt} ASSISTANT:",
    ),
    "vipllava": Family(
        "ViP-LLaVA",
        "VipLlavaForConditionalGeneration",
        "LlavaProcessor",
        _vipllava,
        template="###Human: {image}\n{prompt}###Assistant:",
    ),
    "paligemma": Family(
        "PaliGemma",
        "PaliGemmaForConditionalGeneration",
        "PaliGemmaProcessor",
        _paligemma,
        caption_prompt="caption en",
        template="{image}{prompt}",
        has_chat_template=False,
        next_position=_after_first,
    ),
    "llava_next": Family(
        "LLaVA-NeXT",
        "LlavaNextForConditionalGeneration",
        "LlavaNextProcessor",
        _llava_next,
        template="[INST] {image}\n{prompt} [/INST]",
    ),
    "llava_onevision": Family(
        "LLaVA-OneVision",
        "LlavaOnevisionForConditionalGeneration",
        "LlavaOnevisionProcessor",
        _llava_onevision,
        template="<|im_start|>user {image}\n{prompt}<|im_end|><|im_start|>assistant\n",
    ),
    "idefics2": Family(
        "Idefics 2",
        "Idefics2ForConditionalGeneration",
        "Idefics2Processor",
        _idefics2,
        template="User:{image}{prompt}<end_of_utterance>\nAssistant:",
        query_tokens=_idefics2_queries,
        query_readers=_idefics2_readers,
    ),
    "idefics3": Family("Idefics 3", "Idefics3ForConditionalGeneration", "Idefics3Processor", _idefics3),
    "smolvlm": Family("SmolVLM", "SmolVLMForConditionalGeneration", "SmolVLMProcessor", _idefics3),
    "internvl": Family("InternVL", "InternVLForConditionalGeneration", "InternVLProcessor", _internvl),
    "aya_vision": Family("Aya Vision", "AyaVisionForConditionalGeneration", "AyaVisionProcessor", _aya_vision),
    "cohere2_vision": Family(
        "Command A Vision", "Cohere2VisionForConditionalGeneration", "Cohere2VisionProcessor", _cohere2_vision
    ),
    "qwen2_vl": _qwen_family("Qwen2-VL", "Qwen2VL", "Qwen2VLProcessor"),
    "qwen2_5_vl": _qwen_family("Qwen2.5-VL", "Qwen2_5_VL", "Qwen2_5_VLProcessor"),
    "qwen3_vl": _qwen_family("Qwen3-VL", "Qwen3VL", "Qwen3VLProcessor"),
    "gemma3": Family("Gemma 3", "Gemma3ForConditionalGeneration", "Gemma3Processor", _gemma3, image_sign="boi_token"),
    "blip-2": _q_former_family("BLIP-2", "Blip2", "a photo of", "Question: {prompt} Answer:"),
    "kosmos-2": Family(
        "Kosmos-2",
        "Kosmos2ForConditionalGeneration",
        "Kosmos2Processor",
        _kosmos2,
        caption_prompt="An image of",
        template="{prompt}",
        question_template="Question: {prompt} Answer:",
        has_chat_template=False,
        next_position=_after_padding,
        language_model=_text_model,
        image_places=_kosmos2_places,
        image_sign="boi_token",
        query_tokens=_kosmos2_queries,
        query_readers=_kosmos2_readers,
    ),
    "florence2": Family(
        "Florence-2",
        "Florence2ForConditionalGeneration",
        "Florence2Processor",
        _florence2,
        caption_prompt="<CAPTION>",
        template="{prompt}",
        has_chat_template=False,
    ),
    "instructblip": _q_former_family("InstructBLIP", "InstructBlip", "A short image description:", None),
}
"""Families by ``model_type`` in config.json."""


def image_token_id(config: Any) -> int | None:
    """The id that stands for an image token in a prompt; None where the model has none."""
    numbers = (getattr(config, name, None) for name in ("image_token_id", "image_token_index"))
    return next((int(number) for number in numbers if number is not None), None)


UNBOUNDED = 2**31
"""The context of a language model whose positions are distances (T5)."""


def context_length(config: Any) -> int:
    """Positions at most of a model's prompt, or, of an encoder and a decoder, of the text that either takes."""
    return int(getattr(config.get_text_config(), "max_position_embeddings", None) or UNBOUNDED)


def token_places(config: Any, ids_1T: Tensor) -> Tensor:
    """Positions of the image tokens in a prompt: int64 (N,)."""
    return torch.nonzero(ids_1T[0].eq(int(image_token_id(config) or 0)))[:, 0]
