"""The formats that a model can be opened from, in the order in which a file is compared with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vitrine.errors import ModelError
from vitrine.models.checkpoints.backbone import isolate_backbone
from vitrine.models.checkpoints.base import ConvertedCheckpoint, ModelDescription
from vitrine.models.checkpoints.dinov3 import convert_dinov3, describe_dinov3, is_dinov3
from vitrine.models.checkpoints.google_vit import convert_google, describe_google, is_google
from vitrine.models.checkpoints.open_clip import convert_open_clip, describe_open_clip, is_open_clip
from vitrine.models.checkpoints.state_dict import StateDictFile, open_weights
from vitrine.models.checkpoints.timm import convert_timm, describe_timm
from vitrine.models.checkpoints.torchvision_dino import (
    convert_dino,
    convert_pretrained_vit,
    convert_torchvision,
    convert_vit_pytorch,
    describe_dino,
    describe_pretrained_vit,
    describe_torchvision,
    describe_vit_pytorch,
    is_dino,
    is_pretrained_vit,
    is_torchvision,
    is_vit_pytorch,
)
from vitrine.models.checkpoints.transformers import (
    convert_transformers,
    describe_transformers,
    is_transformers,
)
from vitrine.models.checkpoints.transformers_config import is_transformers_config
from vitrine.results import count_of


@dataclass(frozen=True)
class Format:
    """A format that models are passed on in; its texts are a row of docs/formats.md.

    Attributes:
        name: what people call it.
        references: how a model of it is referred to, and the kinds of file.
        signs: by what it is recognised.
        conversion: what is carried over, and what is converted.
        limits: what is not opened, or not as it was.
        matches: whether a file is of this format; None where a folder or name says so.
        convert: the file's weights in timm's names.
        describe: the model that weights are of, with constructor arguments that a person gives.
    """

    name: str
    references: str
    signs: str
    conversion: str
    limits: str
    matches: Callable[[StateDictFile], bool] | None = None
    convert: Callable[[StateDictFile], ConvertedCheckpoint] = convert_timm
    describe: Callable[[ConvertedCheckpoint, Mapping[str, Any] | None], ModelDescription] | None = None


def _describe_beside(
    checkpoint: ConvertedCheckpoint,
    model_args: Mapping[str, Any] | None,  # noqa: ARG001
) -> ModelDescription:
    """The model of a weights file of transformers, from the config.json in its folder."""
    if is_transformers_config(checkpoint.path.parent):
        return describe_transformers(checkpoint.path.parent)
    raise ModelError(
        f"{checkpoint.path} has the names of the library transformers, without the config.json that belongs to them.\n"
        "Put config.json (and preprocessor_config.json) beside it, or name the model: --arch NAME."
    )


FORMATS = (
    Format(
        "timm",
        "`vit_base_patch16_224.augreg_in21k`, `hf-hub:owner/name`, `local-dir:FOLDER`, a folder, a run",
        "the name; in a folder `config.json` with `architecture`",
        "nothing: names, labels and input are timm's own",
        "models without a patch embedding followed by blocks",
    ),
    Format(
        "transformers",
        "a folder or `hf-hub:owner/name` with `config.json` and `model.safetensors` or `pytorch_model.bin`, or these "
        "in several files",
        "`config.json` with `model_type` vit, deit, dinov2, dinov2_with_registers, dinov3_vit, clip, siglip, siglip2 "
        "or their `_vision_model`; in a file `embeddings.patch_embeddings` or `embeddings.patch_embedding`",
        "names; queries, keys and values packed; `id2label`, `problem_type`; epsilon of the norms; size (square or "
        "not), resize, filter, crop, mean and std of the image processor; DeiT's distillation token and second head; "
        "DINOv2's layer scale, gated MLP, registers, head on class token and mean of the patches, and its own "
        "resampling of positions; DINOv3's rotary positions; of CLIP and SigLIP the image tower: CLIP's class token, "
        "SigLIP's attention pool, and the classifier of both on the mean of the patches",
        "other kinds of model, regressions; the text half and the projection of CLIP and SigLIP, which is said; "
        "SigLIP 2's NaFlex patches, whose pictures are squeezed into a square, which is said; where half a pixel is "
        "left over, the middle is cut as timm does, one pixel further right or down; the resize is Pillow's, within "
        "3 levels of 255 of torch's; DINOv2's head is made anew in training",
        is_transformers,
        convert_transformers,
        _describe_beside,
    ),
    Format(
        "PyTorch-Pretrained-ViT",
        "`.pth` (`B_16`, `B_32`, `L_16`, `L_32`, `_imagenet1k`), as a state dict or under `model` or `state_dict`",
        "`positional_embedding.pos_embedding`; the model by width, depth, patch and grid",
        "names; queries, keys and values packed; the representation head, where the file has one, as the package runs "
        "it (before the last norm); mean and std 0.5",
        "a width that is no multiple of 64, unless `num_heads` is given: the file does not say how many heads there "
        "are; the representation head is left out in training",
        is_pretrained_vit,
        convert_pretrained_vit,
        describe_pretrained_vit,
    ),
    Format(
        "ViT-pytorch",
        "`.bin` of github.com/jeonsworld/ViT-pytorch, as it saves a fine-tuned model",
        "`transformer.embeddings.patch_embeddings`; the model by width, depth, patch and grid",
        "names; queries, keys and values packed; mean and std 0.5",
        "hybrids with a ResNet stem",
        is_vit_pytorch,
        convert_vit_pytorch,
        describe_vit_pytorch,
    ),
    Format(
        "Google's .npz",
        "`.npz` of the ViT and AugReg releases",
        "`Transformer/encoderblock_0/...`; the model, with its heads, by shapes",
        "by timm's own reader; the representation layer, where the file has one; mean and std 0.5",
        "hybrids with a convolutional stem; arrays that are missing or left over; the representation layer is left out "
        "in training",
        is_google,
        convert_google,
        describe_google,
    ),
    Format(
        "torchvision",
        "`.pth` of `vit_b_16`, `vit_b_32`, `vit_l_16`, `vit_l_32`, `vit_h_14`",
        "`conv_proj` and `encoder.pos_embedding`",
        "names, also of one linear layer in place of the head; ImageNet's mean and std, the resize and crop of "
        "torchvision's own transforms",
        "heads of several layers of one's own",
        is_torchvision,
        convert_torchvision,
        describe_torchvision,
    ),
    Format(
        "OpenCLIP",
        "`.pt`, `.bin` of OpenCLIP, or a state dict of OpenAI's CLIP, with `--arch vit_..._clip_...`",
        "`class_embedding`, `conv1` and `ln_pre`, behind `visual.` or anything else",
        "names of the image tower",
        "files without `--arch`, as they do not say the activation: the message lists the models; the text half and "
        "the projection, which is said; ResNets; CoCa; OpenAI's own TorchScript archives",
        is_open_clip,
        convert_open_clip,
        describe_open_clip,
    ),
    Format(
        "DINOv3",
        "`.pth` of github.com/facebookresearch/dinov3",
        "`storage_tokens`; the model by width, depth, MLP and the periods of its rotary positions",
        "names; biases of queries and values; ImageNet's mean and std",
        "`predict`, `evaluate` and `explain`, as there is no classifier; biases of keys",
        is_dinov3,
        convert_dinov3,
        describe_dinov3,
    ),
    Format(
        "DINO",
        "`.pth` of DINO's training or of its backbone",
        "`teacher` around the weights, `backbone.` in front, or a projection head",
        "the teacher's backbone, whose names are timm's; ImageNet's mean and std",
        "`predict`, `evaluate` and `explain`, as there is no classifier; the projection head, which is said",
        is_dino,
        convert_dino,
        describe_dino,
    ),
    Format(
        "weights in timm's names",
        "`.safetensors`, `.pth`, `.bin` with `--arch NAME`, or without it",
        "without `--arch`: `config.json` beside it, or names and shapes that one model of timm's has exactly",
        "nothing; timm's own loader knows the files of DINOv2, CLIP, BEiT and EVA with `--arch`",
        "without `--arch`, files that several models fit: the message lists them",
        lambda _: True,
        convert_timm,
        describe_timm,
    ),
)


def detect_format(file: StateDictFile) -> Format:
    """The format of a weights file, by names and shapes; the last one fits all."""
    return next(one for one in FORMATS if one.matches is not None and one.matches(file))


def convert(file: StateDictFile) -> ConvertedCheckpoint:
    """Put the weights of an opened file under timm's names.

    Raises:
        ModelError: the file is of a known format and incomplete.
    """
    checkpoint = detect_format(file).convert(file)
    return replace(checkpoint, notes=(*file.notes, *checkpoint.notes))


def open_checkpoint(path: Path, selection: str = "") -> StateDictFile:
    """Open a weights file for its vision transformer, whatever it lies in.

    Args:
        path: of the file.
        selection: of several that it holds, the one under these keys or this prefix; empty chooses.

    Raises:
        ModelError: see :func:`~vitrine.models.checkpoints.state_dict.open_weights`.
    """
    return isolate_backbone(open_weights(path, selection), selection)


def describe(checkpoint: ConvertedCheckpoint, model_args: Mapping[str, Any] | None = None) -> ModelDescription:
    """The model that a weights file is of, by its names and shapes.

    Args:
        checkpoint: the file's weights.
        model_args: timm constructor arguments that a person gives.

    Raises:
        ModelError: no model or several fit.
    """
    kind = detect_format(checkpoint.file)
    assert kind.describe is not None, "formats that files are compared with describe them"
    model = kind.describe(checkpoint, model_args)
    classes = checkpoint.classes()
    heads = f"{count_of(classes, 'class', 'classes')}" if classes else "no classifier"
    return replace(model, notes=(f"Recognised as {kind.name}: {_in_words(model)}, {heads}.", *model.notes))


def _in_words(model: ModelDescription) -> str:
    """timm's name, or the numbers of a model that has none."""
    args = model.model_args
    if "embed_dim" not in args:
        return model.architecture
    sizes = f"{args['depth']} blocks of width {args['embed_dim']}, patches of {args['patch_size']} pixels"
    return f"a vision transformer of {sizes}"


def is_self_describing(file: StateDictFile) -> bool:
    """Whether a file's names are of one format alone, whatever lies beside it."""
    return detect_format(file).describe not in (describe_timm, _describe_beside)


def formats_table() -> str:
    """The formats as a table in Markdown, a row each."""
    rows = [(one.name, one.references, one.signs, one.conversion, one.limits) for one in FORMATS]
    head = ("format", "written as", "recognised by", "carried over", "refused, or not the same")
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
