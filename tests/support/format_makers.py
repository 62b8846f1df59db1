"""Models in every format that they are passed on in, written by the library that each format is of."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import VisionTransformer as TorchvisionTransformer

from support.models import MICRO
from vitrine.models.hf_captioners.base import quiet

HALF, IMAGENET = (0.5, 0.5, 0.5), (0.485, 0.456, 0.406)
CLIP = (0.48145466, 0.4578275, 0.40821073)
SIZES = {"width": 128, "heads": 2, "depth": 2, "patch": 8, "side": 32}  # 64 channels a head, as every published size
PETS = tuple(f"pet {i}" for i in range(37))
NUMBERS = tuple(map(str, range(37)))


@dataclass
class Case:
    """What a maker wrote, and what opening it must give."""

    reference: Path
    logits: Callable[[torch.Tensor], torch.Tensor]
    labels: tuple[str, ...] = NUMBERS
    size: int = 32
    mean: tuple[float, ...] = HALF
    crop: float = 1.0
    notes: tuple[str, ...] = ()
    architecture: str = "vit_base_patch16_224"
    model_args: Mapping[str, Any] = field(default_factory=dict)


def seeded(module: nn.Module, seed: int = 5) -> nn.Module:
    """The module in eval mode with weights that leave no tensor without effect: no zeros, no ones."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.named_parameters():
            drawn = torch.randn(value.shape, generator=generator)
            if value.ndim <= 1:
                value.copy_(0.2 * drawn + (1.0 if "norm" in name.lower() or ".ln" in name else 0.1))
            elif value.ndim == 3:  # tokens and positions
                value.copy_(drawn)
            else:
                value.copy_(drawn * 1.4 / value[0].numel() ** 0.5)
    return module.eval()


# --- makers, one a format


def pretrained_vit(classes: int = 37, represented: int | None = None, **sizes: Any) -> nn.Module:
    """A model of the package itself, small unless sizes are given."""
    ppv = pytest.importorskip("pytorch_pretrained_vit", reason="pytorch_pretrained_vit is not installed")
    at = SIZES | sizes
    ppv.configs.PRETRAINED_MODELS["small"] = {
        "config": {
            "patches": (at["patch"], at["patch"]), "dim": at["width"], "ff_dim": 4 * at["width"],
            "num_heads": at["heads"], "num_layers": at["depth"], "attention_dropout_rate": 0.0, "dropout_rate": 0.1,
            "representation_size": represented, "classifier": "token",
        },
        "image_size": (at["side"], at["side"]),
        "num_classes": classes,
    }  # fmt: skip
    return seeded(ppv.ViT("small", pretrained=False, load_repr_layer=represented is not None))


def pretrained_vit_file(folder: Path) -> Case:
    theirs = pretrained_vit()
    torch.save(theirs.state_dict(), folder / "pets.pth")
    return Case(folder / "pets.pth", theirs, notes=("PyTorch-Pretrained-ViT: .*37 classes", "2 were taken, of 64"))


def ppv_wrapped(key: str) -> Callable[[Path], Case]:
    def make(folder: Path) -> Case:
        theirs = pretrained_vit()
        state = {f"module.{name}": value for name, value in theirs.state_dict().items()}
        torch.save({key: state, "epoch": 7, "optimizer": {"state": {0: {"step": torch.tensor(3)}}}}, folder / "c.pth")
        return Case(folder / "c.pth", theirs)

    return make


def ppv_represented(folder: Path) -> Case:
    theirs = pretrained_vit(represented=96)
    torch.save(theirs.state_dict(), folder / "pets.pth")
    return Case(folder / "pets.pth", theirs, notes=("a representation layer before the last norm",))


def ppv_safetensors(folder: Path) -> Case:
    theirs = pretrained_vit()
    save_file({f"_orig_mod.{name}": value for name, value in theirs.state_dict().items()}, folder / "pets.safetensors")
    return Case(folder / "pets.safetensors", theirs)


def ppv_published(folder: Path) -> Case:
    """Of a published size, ViT-Ti/16, whose heads and crop are known."""
    theirs = pretrained_vit(side=224, patch=16, width=192, depth=12, heads=3)
    torch.save(theirs.state_dict(), folder / "Ti_16.pth")
    name = "vit_tiny_patch16_224"
    return Case(folder / "Ti_16.pth", theirs, size=224, crop=0.9, architecture=name, notes=(name,))


def vit_pytorch_file(folder: Path) -> Case:
    """A model as ViT-pytorch saves it: the names of its modeling.py; the same weights in timm answer for it."""
    names = {
        "cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj.weight": "embeddings.patch_embeddings.weight",
        "patch_embed.proj.bias": "embeddings.patch_embeddings.bias",
        "norm.weight": "encoder.encoder_norm.weight", "norm.bias": "encoder.encoder_norm.bias",
    }  # fmt: skip
    parts = {"norm1": "attention_norm", "norm2": "ffn_norm", "mlp": "ffn", "attn.proj": "attn.out"}
    args = {"img_size": 32, "patch_size": 8, "embed_dim": 128, "num_heads": 2, "depth": 2, "num_classes": 37}
    module = seeded(timm.create_model("vit_base_patch16_224", **args))
    state: dict[str, torch.Tensor] = {}
    for name, value in module.state_dict().items():
        layer = name.replace("blocks", "transformer.encoder.layer")
        if ".attn.qkv." in name:
            thirds = zip(("query", "key", "value"), value.chunk(3), strict=True)
            state |= {layer.replace("qkv", part): third for part, third in thirds}
        elif name.startswith("blocks."):
            state[next(layer.replace(f".{a}.", f".{b}.") for a, b in parts.items() if f".{a}." in layer)] = value
        else:
            state[f"transformer.{names[name]}" if name in names else name] = value
    torch.save(state, folder / "pets_checkpoint.bin")
    return Case(folder / "pets_checkpoint.bin", module, notes=("ViT-pytorch: .*37 classes",))


def google_arrays(state: Mapping[str, np.ndarray], heads: int) -> dict[str, np.ndarray]:
    """Weights in timm's names as the ViT paper's code writes them: kernels are transposed, heads are an axis."""
    width, depth = (
        state["cls_token"].shape[-1],
        len({name.split(".")[1] for name in state if name.startswith("blocks")}),
    )
    arrays = {
        "cls": state["cls_token"],
        "embedding/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
        "head/kernel": state["head.weight"].T,
        "head/bias": state["head.bias"],
    }
    for i in range(depth):
        there, here = f"Transformer/encoderblock_{i}/", f"blocks.{i}."
        attention = there + "MultiHeadDotProductAttention_1/"
        for n, part in enumerate(("query", "key", "value")):
            rows = slice(n * width, (n + 1) * width)
            arrays[f"{attention}{part}/kernel"] = state[here + "attn.qkv.weight"][rows].T.reshape(width, heads, -1)
            arrays[f"{attention}{part}/bias"] = state[here + "attn.qkv.bias"][rows].reshape(heads, -1)
        arrays[f"{attention}out/kernel"] = state[here + "attn.proj.weight"].T.reshape(heads, -1, width)
        arrays[f"{attention}out/bias"] = state[here + "attn.proj.bias"]
        for n, norm in ((0, "norm1"), (2, "norm2")):
            arrays[f"{there}LayerNorm_{n}/scale"] = state[f"{here}{norm}.weight"]
            arrays[f"{there}LayerNorm_{n}/bias"] = state[f"{here}{norm}.bias"]
        for n in (0, 1):
            arrays[f"{there}MlpBlock_3/Dense_{n}/kernel"] = state[f"{here}mlp.fc{n + 1}.weight"].T
            arrays[f"{there}MlpBlock_3/Dense_{n}/bias"] = state[f"{here}mlp.fc{n + 1}.bias"]
    return arrays


def google(folder: Path, represented: bool = False, prefix: str = "") -> Case:
    """timm's model as the ViT paper's code would have written it."""
    width, heads = 48, 3
    sizes = {**MICRO, "embed_dim": width, "num_heads": heads}
    ours = seeded(timm.create_model("vit_tiny_patch16_224", **sizes, num_classes=37))
    arrays = google_arrays({name: value.numpy() for name, value in ours.state_dict().items()}, heads)
    logits: Callable[[torch.Tensor], torch.Tensor] = ours
    notes: tuple[str, ...] = ("Google's .npz: .*37 classes",)
    if represented:
        layer, last = seeded(nn.Linear(width, 40)), seeded(nn.Linear(40, 37))
        arrays |= {"pre_logits/kernel": layer.weight.detach().numpy().T, "pre_logits/bias": layer.bias.detach().numpy()}
        arrays |= {"head/kernel": last.weight.detach().numpy().T, "head/bias": last.bias.detach().numpy()}
        notes = ("a representation layer after the last norm",)

        def logits(pixels: torch.Tensor) -> torch.Tensor:
            return last(torch.tanh(layer(ours.forward_features(pixels)[:, 0])))

    np.savez(folder / "vit.npz", **{prefix + name: value for name, value in arrays.items()})
    return Case(folder / "vit.npz", logits, notes=notes)


def google_represented(folder: Path) -> Case:
    return google(folder, represented=True)


def google_with_optimizer(folder: Path) -> Case:
    return google(folder, prefix="opt/target/")


def torchvision_vit(represented: int | None = None) -> Callable[[Path], Case]:
    def make(folder: Path) -> Case:
        theirs = seeded(TorchvisionTransformer(32, 8, 2, 2, 128, 256, num_classes=37, representation_size=represented))
        torch.save(theirs.state_dict(), folder / "vit.pth")
        notes = ("representation layer after",) if represented else ("torchvision: ",)
        return Case(folder / "vit.pth", theirs, mean=IMAGENET, notes=notes)

    return make


def torchvision_at_224(folder: Path) -> Case:
    theirs = seeded(TorchvisionTransformer(224, 32, 2, 2, 128, 256, num_classes=37))
    torch.save(theirs.state_dict(), folder / "vit.pth")
    return Case(folder / "vit.pth", theirs, size=224, mean=IMAGENET, crop=224 / 256)


def transformers_model(kind: str, **config: Any) -> nn.Module:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed (vitrine[hf])")
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 32, "patch_size": 8}
    sizes |= {} if kind.startswith("Dinov2") else {"intermediate_size": 96}
    if kind.startswith("Siglip2"):
        del sizes["image_size"]
        sizes["num_patches"] = 16
    labels = {"id2label": dict(enumerate(PETS)), "label2id": {label: i for i, label in enumerate(PETS)}}
    name = re.sub(r"Model(WithProjection)?$|Backbone$|For.*", "", kind)
    if name in ("CLIP", "Siglip", "Siglip2"):  # one configuration of two halves
        settings = {"vision_config": sizes | config, "text_config": TEXT_HALF} | labels
    else:
        settings = sizes | labels | config
    with quiet(transformers):
        made = getattr(transformers, f"{name}Config")(**settings)
    return seeded(getattr(transformers, kind)(made))


TEXT_HALF = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 50,
    "max_position_embeddings": 8,
}  # fmt: skip


def as_naflex(pixels_BCHW: torch.Tensor, patch: int = 8) -> dict[str, torch.Tensor]:
    """Square pictures as Siglip2ImageProcessor gives them: patches in rows, the colours of each pixel together."""
    batch, colours, rows, columns = pixels_BCHW.shape
    grid = (rows // patch, columns // patch)
    patches = pixels_BCHW.reshape(batch, colours, grid[0], patch, grid[1], patch).permute(0, 2, 4, 3, 5, 1)
    return {
        "pixel_values": patches.reshape(batch, grid[0] * grid[1], -1),
        "pixel_attention_mask": torch.ones(batch, grid[0] * grid[1]),
        "spatial_shapes": torch.tensor([grid] * batch),
    }


PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "ViT": ("ViTImageProcessor", {"size": {"height": 32, "width": 32}, "resample": 3}),
    "DeiT": (
        "DeiTImageProcessor",
        {"size": {"height": 40, "width": 40}, "crop_size": {"height": 32, "width": 32}, "image_mean": IMAGENET},
    ),
    "Dinov2": (
        "BitImageProcessor",
        {"size": {"shortest_edge": 64}, "crop_size": {"height": 48, "width": 48}, "image_mean": IMAGENET},
    ),
    "CLIP": ("CLIPImageProcessor", {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}}),
    "Siglip": ("SiglipImageProcessor", {"size": {"height": 32, "width": 32}}),
    "Siglip2": ("Siglip2ImageProcessor", {"patch_size": 8, "max_num_patches": 16}),
}
PROCESSORS["Dinov2WithRegisters"] = PROCESSORS["Dinov2"]


def transformers_folder(
    kind: str,
    *,
    binary: bool = False,
    size: int = 32,
    crop: float = 1.0,
    mean: tuple[float, ...] = HALF,
    note: str = "",
    **config: Any,
) -> Callable[[Path], Case]:
    def make(folder: Path) -> Case:
        theirs = transformers_model(kind, **config)
        theirs.save_pretrained(folder)
        if binary:
            (folder / "model.safetensors").unlink()
            torch.save(theirs.state_dict(), folder / "pytorch_model.bin")  # names of its modules, not of its files
        name, options = PROCESSORS[kind.partition("For")[0]]
        getattr(importlib.import_module("transformers"), name)(**options).save_pretrained(folder)
        inputs = as_naflex if kind.startswith("Siglip2") else lambda pixels: {"pixel_values": pixels}
        return Case(
            folder, lambda pixels: theirs(**inputs(pixels)).logits, PETS, size, mean, crop, (note,) if note else (),
            architecture="",
        )  # fmt: skip

    return make


def timm_folder(folder: Path) -> Case:
    ours = seeded(timm.create_model("deit_tiny_patch16_224", **MICRO, num_classes=37))
    config = {"model_args": {**MICRO, "num_classes": 37}, "label_names": list(PETS)}
    data = {"mean": IMAGENET, "std": (0.229, 0.224, 0.225), "crop_pct": 0.8, "input_size": (3, 32, 32)}
    timm.models.save_for_hf(ours, str(folder), model_config=config, data_config=data, safe_serialization=True)
    return Case(folder, ours, PETS, mean=IMAGENET, crop=0.8, architecture="deit_tiny_patch16_224")


def timm_file_beside_its_config(folder: Path) -> Case:
    case = timm_folder(folder)
    case.reference, case.notes = folder / "model.safetensors", (r"config\.json says what it is",)
    return case


def timm_file_that_one_model_fits(folder: Path) -> Case:
    ours = seeded(timm.create_model("deit_tiny_distilled_patch16_224", num_classes=37))
    save_file(ours.state_dict(), folder / "w.safetensors")
    name = "deit_tiny_distilled_patch16_224"
    return Case(
        folder / "w.safetensors", ours, size=224, mean=IMAGENET, crop=0.9, notes=(f"in timm's names: {name}",),
        architecture=name,
    )  # fmt: skip


CASES: dict[str, Callable[[Path], Case]] = {
    "timm folder": timm_folder,
    "timm file beside config.json": timm_file_beside_its_config,
    "timm file": timm_file_that_one_model_fits,
    "transformers ViT": transformers_folder("ViTForImageClassification"),
    "transformers ViT, no biases, other activation": transformers_folder(
        "ViTForImageClassification", qkv_bias=False, hidden_act="gelu_new", layer_norm_eps=0.01
    ),
    "transformers ViT, as pytorch_model.bin": transformers_folder("ViTForImageClassification", binary=True),
    "transformers DeiT": transformers_folder("DeiTForImageClassification", crop=0.8, mean=IMAGENET),
    "transformers DeiT with teacher": transformers_folder(
        "DeiTForImageClassificationWithTeacher", crop=0.8, mean=IMAGENET
    ),
    "transformers Dinov2": transformers_folder(
        "Dinov2ForImageClassification", mlp_ratio=2, image_size=48, size=48, crop=0.75, mean=IMAGENET,
        note="reads the class token and the mean of the patches",
    ),
    "transformers Dinov2, gated, on another grid": transformers_folder(
        "Dinov2ForImageClassification", use_swiglu_ffn=True, image_size=72, size=48, crop=0.75, mean=IMAGENET,
        note=r"Position embeddings were resampled from 9 x 9 to 6 x 6",
    ),
    "transformers Dinov2, gated, as pytorch_model.bin": transformers_folder(
        "Dinov2ForImageClassification", use_swiglu_ffn=True, image_size=48, size=48, crop=0.75, mean=IMAGENET,
        binary=True,
    ),
    "transformers Dinov2 with registers": transformers_folder(
        "Dinov2WithRegistersForImageClassification", mlp_ratio=2, image_size=48, size=48, crop=0.75, mean=IMAGENET,
        note="reads the class token and the mean of the patches",
    ),
    "transformers Dinov2 with registers, gated, on another grid, as pytorch_model.bin": transformers_folder(
        "Dinov2WithRegistersForImageClassification", use_swiglu_ffn=True, image_size=72, num_register_tokens=2, size=48,
        crop=0.75, mean=IMAGENET, binary=True, note=r"Position embeddings were resampled from 9 x 9 to 6 x 6",
    ),
    "transformers CLIP": transformers_folder(
        "CLIPForImageClassification", crop=0.8, mean=CLIP, note="as its classifier reads the patches before that norm",
    ),
    "transformers CLIP, other activation": transformers_folder(
        "CLIPForImageClassification", hidden_act="gelu", layer_norm_eps=0.01, crop=0.8, mean=CLIP,
    ),
    "transformers SigLIP": transformers_folder(
        "SiglipForImageClassification", note="its classifier reads the mean of the patches",
    ),
    "transformers SigLIP, no pool, other activation": transformers_folder(
        "SiglipForImageClassification", vision_use_head=False, hidden_act="gelu",
    ),
    "transformers SigLIP 2": transformers_folder("Siglip2ForImageClassification", note="square pictures only"),
    "transformers SigLIP 2, on another grid": transformers_folder(
        "Siglip2ForImageClassification", num_patches=36, note=r"resampled from 6 x 6 to 4 x 4",
    ),
    "PyTorch-Pretrained-ViT": pretrained_vit_file,
    "ViT-pytorch": vit_pytorch_file,
    "PyTorch-Pretrained-ViT under model": ppv_wrapped("model"),
    "PyTorch-Pretrained-ViT under state_dict": ppv_wrapped("state_dict"),
    "PyTorch-Pretrained-ViT with representation": ppv_represented,
    "PyTorch-Pretrained-ViT as safetensors": ppv_safetensors,
    "PyTorch-Pretrained-ViT Ti_16 at 224": ppv_published,
    "Google's .npz": google,
    "Google's .npz with representation": google_represented,
    "Google's .npz with optimizer": google_with_optimizer,
    "torchvision": torchvision_vit(),
    "torchvision with representation": torchvision_vit(40),
    "torchvision at 224": torchvision_at_224,
}  # fmt: skip
