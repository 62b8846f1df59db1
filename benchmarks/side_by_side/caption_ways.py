"""The ways to a caption that are compared, on one set of weights and pictures."""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from side_by_side.captioners import Published
from vitrine.caption.beams import beam_search
from vitrine.caption.decoded import DecodedCaption, captions_of
from vitrine.caption.decoding import greedy
from vitrine.models.captioner import CaptionModel, Memory, catr_config, prepare_for_prediction, published_weights
from vitrine.models.captioner.prediction import round_images

PUBLISHED = "published"
NEVER = -100.0  # the end's bias: every caption has all its words


class Ways:
    """The published tool and ours, in float32 and with the image side in bf16, on the same weights and pictures."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.words, self.beams, self.batch = options.words, options.beams, options.batch
        self.published_words = options.published_words
        torch.manual_seed(0)
        model = CaptionModel(catr_config("features")).eval()
        _uneven(model)
        self.published = Published(published_weights(model.state_dict()), options.catr)
        float32 = prepare_for_prediction(model)
        self.models = {"fp32": float32, "bf16": round_images(copy.deepcopy(float32))}
        self.pictures = [_waves(options.image, seed) for seed in range(options.batch)]

    def one(self, precision: str) -> tuple[DecodedCaption, ...]:
        """One picture's caption with its maps, greedily."""
        return self.greedy(precision, self.pictures[:1])

    def many(self, precision: str) -> tuple[DecodedCaption, ...]:
        """All pictures' in one batch."""
        return self.greedy(precision, self.pictures)

    def searched(self, precision: str) -> tuple[DecodedCaption, ...]:
        """One picture's by beam search."""
        model = self.models[precision]
        with torch.inference_mode():
            memory = model.encode(self.pictures[:1])
            return captions_of(beam_search(model, memory, self.beams, max_pieces=self.words))

    def seen(self, precision: str) -> int:
        """One picture encoded, and no word."""
        with torch.inference_mode():
            self.models[precision].encode(self.pictures[:1])
        return 1

    def words_alone(self, memory: Memory) -> int:
        """Captions of pictures that are encoded, in float32 whatever the pictures are in."""
        with torch.inference_mode():
            return len(captions_of(greedy(self.models["fp32"], memory, max_pieces=self.words)))

    def as_published(self) -> float:
        """The published tool's way, for its first words: that part of a caption which they are."""
        self.published.words(self.pictures[0][None], self.published_words)
        return self.published_words / self.words

    def greedy(self, precision: str, pictures: Sequence[Tensor]) -> tuple[DecodedCaption, ...]:
        """These pictures' captions, in one batch."""
        model = self.models[precision]
        with torch.inference_mode():
            return captions_of(greedy(model, model.encode(pictures), max_pieces=self.words))

    def all(self) -> dict[str, Callable[[], float]]:
        """By name."""
        ways: dict[str, Callable[[], float]] = {PUBLISHED: self.as_published}
        for precision in self.models:
            ways |= {
                f"one picture, {precision}": lambda p=precision: len(self.one(p)),  # type: ignore[misc]
                f"{self.beams} beams, {precision}": lambda p=precision: len(self.searched(p)),  # type: ignore[misc]
                f"batch of {self.batch}, {precision}": lambda p=precision: len(self.many(p)),  # type: ignore[misc]
                f"image side alone, {precision}": lambda p=precision: self.seen(p),  # type: ignore[misc]
            }
        with torch.inference_mode():
            memory = self.models["fp32"].encode(self.pictures)
        ways["words alone, one picture"] = lambda: self.words_alone(memory.pick([0]))
        ways[f"words alone, batch of {self.batch}"] = lambda: self.words_alone(memory)
        return ways


@torch.no_grad()
def _uneven(model: CaptionModel) -> None:
    """Weights with noise everywhere, so that a misplaced one shows, and words that depend on the picture."""
    for name, weight in model.state_dict().items():
        noise = torch.randn(weight.shape)
        if name.endswith("running_var"):
            weight.copy_(1 + 0.1 * noise.abs())
        elif weight.ndim <= 1:
            damped = 0.3 if "bn3" in name or "downsample" in name else 1.0
            weight.copy_(damped * (1 + 0.1 * noise) if name.endswith("weight") else 0.1 * noise)
        elif "embeddings" in name:
            weight.copy_(noise)
        else:
            gain = 2.0 if "in_proj_weight" in name else 1.4
            weight.copy_(gain / math.sqrt(weight[0].numel()) * noise)
    model.head.layers[-1].bias[model.end] = NEVER  # type: ignore[index,union-attr]


def _waves(side: int, seed: int) -> Tensor:
    """A picture in [-1, 1]: a sum of plane waves, (3, side, side)."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.linspace(0, 1, side)[:, None], torch.linspace(0, 1, side)[None]
    picture = torch.zeros(3, side, side)
    for _ in range(12):
        fy, fx = (40 * torch.rand(2, generator=generator) - 20).tolist()
        colour, phase = torch.randn(3, 1, 1, generator=generator), 6.3 * torch.rand(3, 1, 1, generator=generator)
        picture += colour * (2 * math.pi * (fy * y + fx * x) + phase).sin()
    return picture / picture.abs().max()
