"""The work that every tool is given, as data; and the pictures it is done on. Imports no tool and no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 500, 375  # pixels of a picture: usual for photographs in data sets


@dataclass(frozen=True)
class Task:
    """One model, and how much a round does.

    Attributes:
        model: timm name of a plain class-token vision transformer.
        image, patch: sides in pixels.
        width, depth, heads, mlp: of the transformer; ``mlp`` is the hidden width of the feed-forward layers.
        classes: of the head.
        batch: pictures of a batch.
        batches: batches of a round.
        rounds: that will be run at most, warm-up included.
        folder: of the JPEG files, ``batch * batches`` of them.
        dropout: whether PyTorch-Pretrained-ViT keeps its default dropout of 0.1 while training.
        peers_load: whether the other tools read the JPEG files too, instead of tensors that are ready.
        device: of every tool, as torch names it.
    """

    model: str
    image: int
    patch: int
    width: int
    depth: int
    heads: int
    mlp: int
    classes: int
    batch: int
    batches: int
    rounds: int
    folder: str
    dropout: bool = True
    peers_load: bool = False
    device: str = "cpu"

    @property
    def files(self) -> list[Path]:
        """The pictures, in order."""
        return sorted(Path(self.folder).glob("*.jpg"))


class Tool(Protocol):
    """Something that runs a vision transformer. ``task`` is given to its constructor."""

    name: str

    def load(self, weights: Mapping[str, Any]) -> None:
        """Take float32 weights under timm's names."""
        ...

    def logits(self, pixels_BCHW: Any) -> Any:
        """Float32 logits of uint8 pixels, in eval mode, computed in float32."""
        ...

    def infer(self) -> int:
        """One round of inference; the number of pictures."""
        ...

    def train(self) -> int:
        """One round of training; the number of pictures."""
        ...

    def close(self) -> None:
        """Stop background workers."""
        ...


def write_pictures(folder: Path, count: int) -> None:
    """``count`` seeded JPEG files of 500 × 375: a gradient with noise, as large in bytes as photographs are."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    for number in range(count):
        rng = np.random.default_rng(number)
        slopes = rng.uniform(-0.3, 0.3, (2, 3)).astype(np.float32)
        smooth = 128 + rows[..., None] * slopes[0] + columns[..., None] * slopes[1] - 100 * slopes.sum(0)
        noisy = smooth + rng.normal(0, 14, (HEIGHT, WIDTH, 1))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{number:04d}.jpg", quality=90)
