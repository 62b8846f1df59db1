"""The ways to a caption that are compared, on one set of weights and pictures."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from harness.arithmetic import finish
from harness.captioner import CaptionerWork

from side_by_side.captioners import Published
from vitrine.models.captioner import CaptionModel, published_weights

PUBLISHED = "published"


class Ways(CaptionerWork):
    """The published tool beside ours, on the same weights and pictures."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.published_words, self._checkout = options.published_words, options.catr
        device = torch.device(options.device)
        super().__init__(options.image, options.words, options.beams, options.batch, device)

    def made(self) -> CaptionModel:
        model = super().made()
        self.published = Published(published_weights(model.state_dict()), self._checkout, self.device)
        return model

    def as_published(self) -> float:
        """The published tool's way, for its first words: that part of a caption which they are."""
        self.published.words(self.pictures[0][None], self.published_words)
        return self.published_words / self.words

    def _seen(self, precision: str) -> int:
        pictures = self.seen(precision)
        finish(self.device)  # captions end in numbers that were waited for, features do not
        return pictures

    def all(self) -> dict[str, Callable[[], float]]:
        """By name."""
        ways: dict[str, Callable[[], float]] = {PUBLISHED: self.as_published}
        for precision in self.models:
            ways |= {
                f"one picture, {precision}": lambda p=precision: len(self.one(p)),  # type: ignore[misc]
                f"{self.beams} beams, {precision}": lambda p=precision: len(self.searched(p)),  # type: ignore[misc]
                f"batch of {self.batch}, {precision}": lambda p=precision: len(self.many(p)),  # type: ignore[misc]
                f"image side alone, {precision}": lambda p=precision: self._seen(p),  # type: ignore[misc]
            }
        with torch.inference_mode():
            encoder_output = self.models["fp32"].encode(self.pictures)
        one = encoder_output.select_rows([0])
        ways["words alone, one picture"] = lambda: self.words_alone(one)
        ways["words alone, one picture, none guessed"] = lambda: self.words_alone(one, guessed_ahead=False)
        ways[f"words alone, batch of {self.batch}"] = lambda: self.words_alone(encoder_output)
        return ways
