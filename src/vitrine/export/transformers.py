"""A model exported as a folder of the library transformers: written without the library, read back with it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from timm.layers import Attention, LayerNorm, Mlp, PatchEmbed
from timm.layers.activations import GELU, GELUTanh, QuickGELU
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from vitrine.config.preprocessing import RESIZE_FILTERS, InputSpec
from vitrine.errors import ModelError
from vitrine.export.compare import DTYPES, LoadedExport, import_library
from vitrine.io.files import atomic_path, to_json, write_atomically
from vitrine.models.checkpoints.image_processor import PROCESSOR_FILE, TIMM_PROCESSOR
from vitrine.models.hf_captioners.base import quiet
from vitrine.results import count_of

_RENAMES = (
    (r"^(cls_token)$", r"embeddings.\1"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^(?:dist|reg)_token$", "embeddings.distillation_token"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^blocks\.(\d+)\.norm1\.", r"encoder.layer.\1.layernorm_before."),
    (r"^blocks\.(\d+)\.norm2\.", r"encoder.layer.\1.layernorm_after."),
    (r"^blocks\.(\d+)\.attn\.(query|key|value)\.", r"encoder.layer.\1.attention.attention.\2."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"encoder.layer.\1.attention.output.dense."),
    (r"^blocks\.(\d+)\.mlp\.fc1\.", r"encoder.layer.\1.intermediate.dense."),
    (r"^blocks\.(\d+)\.mlp\.fc2\.", r"encoder.layer.\1.output.dense."),
    (r"^norm\.", "layernorm."),
)
_ACTIVATIONS: dict[type[nn.Module], str] = {
    nn.GELU: "gelu",
    GELU: "gelu",
    GELUTanh: "gelu_pytorch_tanh",
    QuickGELU: "quick_gelu",
    nn.ReLU: "relu",
    nn.SiLU: "silu",
}
_READS = {"avg": "the mean of the patches", "max": "the largest values of the patches", "map": "an attention pooling"}


@dataclass(frozen=True)
class TransformersClassifier:
    """A classifier in transformers' terms.

    Attributes:
        config: content of config.json.
        tensors: by the names of the library's files.
    """

    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def as_transformers(module: nn.Module, labels: Sequence[str]) -> TransformersClassifier:
    """Convert a timm model to transformers' terms, where transformers has a model that computes exactly the same.

    A plain ViT becomes a ``ViTForImageClassification``; one with a single token beside the class token, which the head
    does not read, a ``DeiTForImageClassification``; timm's distilled DeiT, whose two heads are averaged, a
    ``DeiTForImageClassificationWithTeacher``.

    Args:
        module: the model, with a head.
        labels: class names in the order of its outputs.

    Raises:
        ModelError: it has parts that transformers' modules do not have; the message names them.
    """
    different = tuple(dict.fromkeys(_differences(module)))
    if different:
        raise ModelError(
            f"transformers' ViT and DeiT cannot hold this model: {'; '.join(different)}.\n"
            "Export it with --to timm, onnx or pt2."
        )
    tensors = dict(_split(module.state_dict()))
    kind = "vit" if "embeddings.distillation_token" not in tensors else "deit"
    has_teacher = "head_dist.weight" in tensors
    heads = {"head": "cls_classifier" if has_teacher else "classifier", "head_dist": "distillation_classifier"}
    renamed_tensors = {}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        renamed_tensors[f"{heads[part]}.{rest}" if part in heads else f"{kind}.{name}"] = tensor
    pattern = re.compile(rf"({'|'.join(heads.values())}|{kind}\.(embeddings|encoder|layernorm))\b.*")
    other_names = [name for name in renamed_tensors if not pattern.fullmatch(name)]
    if other_names:
        raise ModelError(
            f"transformers' ViT has no place for {', '.join(other_names[:3])} ({count_of(len(other_names), 'tensor')})."
        )
    return TransformersClassifier(_config(module, kind, has_teacher, labels), renamed_tensors)


def _split(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Renamed tensors without the model's prefix; packed queries, keys and values one by one."""
    for name, tensor in state.items():
        parts = {name: tensor}
        if ".attn.qkv." in name:
            names = [name.replace(".qkv.", f".{part}.") for part in ("query", "key", "value")]
            parts = dict(zip(names, tensor.chunk(3), strict=True))
        for one, value in parts.items():
            new = one
            for pattern, replacement in _RENAMES:
                new = re.sub(pattern, replacement, new)
            yield new, value


def _config(module: Any, kind: str, has_teacher: bool, labels: Sequence[str]) -> dict[str, Any]:
    block, patch = module.blocks[0], module.patch_embed.proj.kernel_size
    name = f"{'ViT' if kind == 'vit' else 'DeiT'}ForImageClassification{'WithTeacher' if has_teacher else ''}"
    return {
        "architectures": [name],
        "model_type": kind,
        "hidden_size": module.embed_dim,
        "num_hidden_layers": len(module.blocks),
        "num_attention_heads": block.attn.num_heads,
        "intermediate_size": block.mlp.fc1.out_features,
        "hidden_act": _activation(block.mlp.act),
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": module.norm.eps,
        "image_size": module.patch_embed.img_size[0],
        "patch_size": patch[0],
        "num_channels": module.patch_embed.proj.in_channels,
        "qkv_bias": block.attn.qkv.bias is not None,
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
    }


def _activation(module: nn.Module) -> str | None:
    if type(module) is nn.GELU and module.approximate == "tanh":
        return "gelu_pytorch_tanh"
    return _ACTIVATIONS.get(type(module))


def _differences(module: Any) -> Iterator[str]:
    """The parts of a model that transformers' modules do not have, in words."""
    if type(module) not in (VisionTransformer, VisionTransformerDistilled):
        yield f"it is timm's {type(module).__name__}, not its plain VisionTransformer"
        return
    yield from _before_blocks(module)
    for block in module.blocks:
        yield from _in_block(block)
    yield from _after_blocks(module)
    usual = [block for block in module.blocks if _usual(block)]
    norms = [*(norm for block in usual for norm in (block.norm1, block.norm2)), module.norm]
    if len({norm.eps for norm in norms if isinstance(norm, nn.LayerNorm)}) > 1:
        yield "its norms have several epsilons"
    if len({(block.attn.num_heads, block.mlp.fc1.out_features, type(block.mlp.act)) for block in usual}) > 1:
        yield "its blocks differ in heads, width or activation"


def _usual(block: Any) -> bool:
    return type(block) is Block and type(block.attn) is Attention and type(block.mlp) is Mlp


def _before_blocks(module: Any) -> Iterator[str]:
    embed = module.patch_embed
    if type(embed) is not PatchEmbed:
        yield f"its patch embedding is a {type(embed).__name__}"
    else:
        proj = embed.proj
        if proj.bias is None or proj.stride != proj.kernel_size or not isinstance(embed.norm, nn.Identity):
            yield "its patch embedding has no bias, overlaps, or is normalised"
        if len(set(proj.kernel_size)) > 1 or len(set(embed.img_size)) > 1:
            yield "its patches or its pictures are not square"
    if module.cls_token is None:
        yield "it has no class token"
    tokens = 0 if module.reg_token is None else module.reg_token.shape[1]
    if tokens > 1 or (tokens and type(module) is VisionTransformerDistilled):
        yield f"it has {count_of(tokens, 'register token')}"
    if module.pos_embed is None:
        yield "it has no position embeddings"
    elif module.no_embed_class:
        yield "its class token has no position embedding"
    if not isinstance(module.norm_pre, nn.Identity):
        yield "it has a norm before its blocks"


def _in_block(block: Any) -> Iterator[str]:
    if type(block) is not Block:
        yield f"its blocks are {type(block).__name__}"
        return
    yield from (f"its norms are {type(n).__name__}" for n in (block.norm1, block.norm2) if not _is_layer_norm(n))
    if not isinstance(block.ls1, nn.Identity) or not isinstance(block.ls2, nn.Identity):
        yield "its blocks have layer scale"
    yield from _in_attention(block.attn)
    if type(block.mlp) is not Mlp:
        yield f"its MLP is a {type(block.mlp).__name__}"
        return
    if _activation(block.mlp.act) is None:
        yield f"its activation is {type(block.mlp.act).__name__}"
    if not isinstance(block.mlp.norm, nn.Identity):
        yield "its MLP is normalised inside"
    if block.mlp.fc1.bias is None or block.mlp.fc2.bias is None:
        yield "its MLP has no biases"


def _in_attention(attention: Any) -> Iterator[str]:
    if type(attention) is not Attention:
        yield f"its attention is a {type(attention).__name__}"
        return
    if not isinstance(attention.q_norm, nn.Identity) or not isinstance(attention.k_norm, nn.Identity):
        yield "its queries and keys are normalised (qk_norm)"
    if not isinstance(attention.norm, nn.Identity):
        yield "its attention is normalised before the projection"
    if attention.gate is not None:
        yield "its attention is gated"
    if attention.attn_dim != attention.qkv.in_features:
        yield "its heads together are of another width than its tokens"
    if attention.proj.bias is None:
        yield "its attention's projection has no bias"


def _after_blocks(module: Any) -> Iterator[str]:
    if module.attn_pool is not None or module.global_pool != "token":
        pool = module.global_pool or "nothing but tokens"
        yield f"its head reads {_READS.get(pool, pool)} (global_pool), not the class token"
    if not _is_layer_norm(module.norm):
        yield "it has no layer norm between its blocks and the class token's output"
    if not isinstance(module.fc_norm, nn.Identity):
        yield "it has layers of its own before its head"
    heads = [module.head, *([module.head_dist] if type(module) is VisionTransformerDistilled else [])]
    if not all(type(head) is nn.Linear and head.bias is not None for head in heads):
        yield "its head is not one linear layer with a bias"


def _is_layer_norm(norm: nn.Module) -> bool:
    return type(norm) in (nn.LayerNorm, LayerNorm) and norm.weight is not None and norm.bias is not None


def write_transformers(
    folder: Path,
    module: nn.Module,
    labels: Sequence[str],
    spec: InputSpec,
    precision: str,
    problem_type: str | None = None,
) -> None:
    """Write config.json, preprocessor_config.json and model.safetensors.

    Pictures are prepared by transformers' ``TimmWrapperImageProcessor``, whose settings stand in config.json: it lets
    timm prepare them, which gives the run's pixels to the bit. Processors of transformers' own cut one pixel further
    left or up where half a pixel is left over, and their resize rounds otherwise; one that comes near stands in
    preprocessor_config.json, for programs without timm, unless pictures get a border, which they cannot do.

    Args:
        folder: exists.
        module: a timm model.
        labels: class names in the order of its outputs.
        spec: its input.
        precision: fp32 or bf16: of the stored weights.
        problem_type: what its outputs are, in transformers' words; None is a choice of one class.

    Raises:
        ModelError: transformers cannot hold the model exactly.
    """
    classifier = as_transformers(module, labels)
    dtype = DTYPES[precision]
    processor = {"image_processor_type": TIMM_PROCESSOR, "pretrained_cfg": spec.to_timm()}
    config = {**classifier.config, "dtype": str(dtype).removeprefix("torch."), **processor}
    if problem_type is not None:
        config["problem_type"] = problem_type
    write_atomically(folder / "config.json", to_json(config))
    if spec.crop_mode != "border":
        write_atomically(folder / PROCESSOR_FILE, to_json(_native_processor(spec)))
    tensors = {name: value.detach().to(dtype).contiguous().clone() for name, value in classifier.tensors.items()}
    with atomic_path(folder / "model.safetensors") as file:
        save_file(tensors, file, metadata={"format": "pt"})


def _native_processor(spec: InputSpec) -> dict[str, Any]:
    """What comes nearest among transformers' own processors: the same but for rounding."""
    height, width = (math.floor(side / spec.crop) for side in spec.size)
    size = {"height": height, "width": width} if spec.crop_mode == "squash" else {"shortest_edge": min(height, width)}
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": size,
        "resample": RESIZE_FILTERS[spec.interpolation],
        "do_center_crop": True,
        "crop_size": dict(zip(("height", "width"), spec.size, strict=True)),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(spec.mean),
        "image_std": list(spec.std),
    }


def require_transformers() -> Any:
    """Import transformers.

    Raises:
        ModelError: it is not installed.
    """
    return import_library("transformers", "hf")


def read_transformers(folder: Path, precision: str) -> LoadedExport:
    """Open a folder as transformers' own Auto classes do, with every tensor from the file.

    Args:
        folder: what :func:`write_transformers` wrote.
        precision: fp32 or bf16: what the model computes in.

    Raises:
        ModelError: the library is missing, or tensors are missing, left over or of another shape.
    """
    transformers = require_transformers()
    with quiet(transformers):
        model, loading = transformers.AutoModelForImageClassification.from_pretrained(
            folder, dtype=DTYPES[precision], local_files_only=True, output_loading_info=True
        )
        processor = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    faults = {name: value for name, value in loading.items() if value}
    if faults:
        raise ModelError(f"transformers did not take the export as it is: {str(faults)[:300]}.")
    model.eval()

    def logits(pixels_BCHW: torch.Tensor) -> torch.Tensor:
        logits_BC: torch.Tensor = model(pixels_BCHW.to(DTYPES[precision])).logits
        return logits_BC.float()

    def prepare(image: Image.Image) -> torch.Tensor:
        picture = transformers.image_utils.load_image(image)  # as its pipelines do: upright, converted to RGB
        pixels: torch.Tensor = processor(picture, return_tensors="pt")["pixel_values"][0]
        return pixels

    labels = tuple(model.config.id2label[i] for i in range(model.config.num_labels))
    return LoadedExport(logits, labels, prepare, opens_files=True, problem_type=model.config.problem_type)
