"""The other tools, each with the plain loop in float32 that its users write."""

from __future__ import annotations

import importlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from harness.arithmetic import finish
from harness.plain import PlainLoop
from PIL import Image
from torch import Tensor, nn

from side_by_side.task import Task

# The normalisation of the timm models compared here, and of the reference job's transforms.
_MEAN = _STD = 0.5


class Peer(ABC):
    """A module with AdamW as torch makes it. Its pictures are tensors that are ready, unless ``task.peers_load``."""

    name: str

    def __init__(self, task: Task) -> None:
        self.task, self.device = task, torch.device(task.device)
        self.module = self.build(task).to(self.device)
        self._running: PlainLoop | None = None
        generator = torch.Generator().manual_seed(0)
        shape = (task.batch, 3, task.image, task.image)
        self.ready = [
            (
                torch.randn(shape, generator=generator).to(self.device),
                torch.randint(task.classes, (task.batch,), generator=generator).to(self.device),
            )
            for _ in range(task.batches)
        ]
        self._loaders: dict[bool, Any] = {}

    @abstractmethod
    def build(self, task: Task) -> nn.Module:
        """The tool's own model."""

    @abstractmethod
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take float32 weights under timm's names."""

    def forward(self, pixels_BCHW: Tensor, module: nn.Module | None = None) -> Tensor:
        """Normalised pixels to logits, by the tool's module or by a changed copy of it."""
        logits_BC: Tensor = (module or self.module)(pixels_BCHW)
        return logits_BC

    def normalised(self, pixels_BCHW: Tensor) -> Tensor:
        """Pixels of 0 to 255 as the models take them, in float32 on the tool's device."""
        return (pixels_BCHW.to(self.device).float() / 255 - _MEAN) / _STD

    def logits(self, pixels_BCHW: Tensor) -> Tensor:
        self.module.eval()
        with torch.inference_mode():
            return self.forward(self.normalised(pixels_BCHW)).cpu()

    @property
    def _loop(self) -> PlainLoop:
        """The plain loop over the module as it is once weights are loaded."""
        if self._running is None:
            self._running = PlainLoop(self.module, self.forward)
        return self._running

    def infer(self) -> int:
        return self._done(self._loop.infer(self._batches(training=False)))

    def train(self) -> int:
        return self._done(self._loop.train(self._batches(training=True)))

    def _done(self, pictures: int) -> int:
        finish(self.device)
        return pictures

    def _batches(self, *, training: bool) -> Iterable[tuple[Tensor, Tensor]]:
        if not self.task.peers_load:
            return self.ready
        if training not in self._loaders:
            self._loaders[training] = _torchvision_loader(self.task, training)
        return ((pixels.to(self.device), labels.to(self.device)) for pixels, labels in self._loaders[training])

    def close(self) -> None:
        self._loaders.clear()


class PretrainedViT(Peer):
    """The package ``pytorch_pretrained_vit``."""

    name = "PyTorch-Pretrained-ViT"

    def build(self, task: Task) -> nn.Module:
        package = _imported("pytorch_pretrained_vit")
        # Its class needs the name of a configuration: one without a name stops with a NameError (0.0.7).
        package.configs.PRETRAINED_MODELS["benchmark"] = {
            "config": {
                "patches": (task.patch, task.patch),
                "dim": task.width,
                "ff_dim": task.mlp,
                "num_heads": task.heads,
                "num_layers": task.depth,
                "attention_dropout_rate": 0.0,
                "dropout_rate": 0.1 if task.dropout else 0.0,  # 0.1 is what its own configurations say
                "representation_size": None,
                "classifier": "token",
            },
            "image_size": (task.image, task.image),
            "num_classes": task.classes,
        }
        module: nn.Module = package.ViT("benchmark", pretrained=False)
        return module

    def load(self, weights: Mapping[str, Tensor]) -> None:
        names = (
            (r"^cls_token$", "class_token"),
            (r"^pos_embed$", "positional_embedding.pos_embedding"),
            (r"^patch_embed\.proj\.", "patch_embedding."),
            (r"^blocks\.", "transformer.blocks."),
            (r"\.attn\.(q|k|v)\.", r".attn.proj_\1."),
            (r"\.attn\.proj\.", ".proj."),
            (r"\.mlp\.", ".pwff."),
            (r"^head\.", "fc."),
        )
        self.module.load_state_dict(_renamed(weights, names))


class HuggingFace(Peer):
    """``ViTForImageClassification`` of the package ``transformers``, with the attention that it chooses (SDPA)."""

    name = "transformers"

    def build(self, task: Task) -> nn.Module:
        transformers = _transformers()
        self._config = transformers.ViTConfig(
            hidden_size=task.width,
            num_hidden_layers=task.depth,
            num_attention_heads=task.heads,
            intermediate_size=task.mlp,
            image_size=task.image,
            patch_size=task.patch,
            layer_norm_eps=1e-6,
            num_labels=task.classes,
        )
        module: nn.Module = transformers.ViTForImageClassification(self._config)
        return module

    def load(self, weights: Mapping[str, Tensor]) -> None:
        # The names of published files: from_pretrained turns them into those of the installed version.
        names = (
            (r"^cls_token$", "vit.embeddings.cls_token"),
            (r"^pos_embed$", "vit.embeddings.position_embeddings"),
            (r"^patch_embed\.proj\.", "vit.embeddings.patch_embeddings.projection."),
            (r"^blocks\.", "vit.encoder.layer."),
            (r"\.attn\.q\.", ".attention.attention.query."),
            (r"\.attn\.k\.", ".attention.attention.key."),
            (r"\.attn\.v\.", ".attention.attention.value."),
            (r"\.attn\.proj\.", ".attention.output.dense."),
            (r"\.mlp\.fc1\.", ".intermediate.dense."),
            (r"\.mlp\.fc2\.", ".output.dense."),
            (r"\.norm1\.", ".layernorm_before."),
            (r"\.norm2\.", ".layernorm_after."),
            (r"^norm\.", "vit.layernorm."),
            (r"^head\.", "classifier."),
        )
        kind = _transformers().ViTForImageClassification
        module = kind.from_pretrained(None, config=self._config, state_dict=_renamed(weights, names))
        self.module = module.to(self.device)

    def forward(self, pixels_BCHW: Tensor, module: nn.Module | None = None) -> Tensor:
        logits_BC: Tensor = (module or self.module)(pixel_values=pixels_BCHW).logits
        return logits_BC


class Timm(Peer):
    """timm's own model in a loop of one's own."""

    name = "timm"

    def build(self, task: Task) -> nn.Module:

        module: nn.Module = _imported("timm").create_model(
            task.model, pretrained=False, num_classes=task.classes, img_size=task.image
        )
        return module

    def load(self, weights: Mapping[str, Tensor]) -> None:
        self.module.load_state_dict(weights)


def _renamed(weights: Mapping[str, Tensor], names: tuple[tuple[str, str], ...]) -> dict[str, Tensor]:
    """timm's weights under other names; the packed query, key and value apart."""
    apart: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if ".attn.qkv." in name:
            for letter, part in zip("qkv", weight.chunk(3), strict=True):
                apart[name.replace("qkv", letter)] = part
        else:
            apart[name] = weight
    renamed = {}
    for name, weight in apart.items():
        for pattern, replacement in names:
            name = re.sub(pattern, replacement, name)
        renamed[name] = weight.clone()
    return renamed


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as missing:
        raise SystemExit(f"{missing.name} is not installed. Install it with: pip install 'vitrine[bench]'") from missing


def _transformers() -> Any:

    package = _imported("transformers")
    package.utils.logging.disable_progress_bar()
    return package


class _Pictures(torch.utils.data.Dataset[tuple[Tensor, int]]):
    def __init__(self, task: Task, transform: Any) -> None:
        self.files, self.classes, self.transform = task.files, task.classes, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with Image.open(self.files[index]) as image:
            return self.transform(image.convert("RGB")), index % self.classes


def _torchvision_loader(task: Task, training: bool) -> Any:
    """Pillow and torchvision's transforms, one after the other, in as many workers as vitrine's loader starts."""

    vision = _imported("torchvision.transforms")
    if training:  # the reference job's transforms at 224 px
        changes = [
            vision.RandomRotation(20),
            vision.RandomResizedCrop(task.image, scale=(0.7, 1.0)),
            vision.ColorJitter(brightness=0.3),
        ]
    else:
        changes = [vision.Resize(task.image), vision.CenterCrop(task.image)]
    transform = vision.Compose([*changes, vision.ToTensor(), vision.Normalize([_MEAN] * 3, [_STD] * 3)])
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = max(1, min(8, cores // 2))
    return torch.utils.data.DataLoader(
        _Pictures(task, transform),
        batch_size=task.batch,
        shuffle=training,
        num_workers=workers,
        persistent_workers=True,
    )
