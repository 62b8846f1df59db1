"""From which token width on does bf16 pay? vitrine's own training step in both precisions, over tensors in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat

import torch
from accelerate import Accelerator
from harness.rounds import Spread, alternate, ratios

from vitrine.config import Recipe
from vitrine.data.loader import Batch
from vitrine.models.load import load_model
from vitrine.train.loop import EpochDone, StepDone, TrainingState, fit
from vitrine.train.losses import Classification
from vitrine.train.optimizer import make_optimizer, make_schedule
from vitrine.train.settings import LoopSettings, LossSettings, OptimizerSettings, ScheduleSettings

WIDTHS = (128, 192, 256, 384, 512, 768)
DEPTH, HEAD, CLASSES = 6, 64, 37


@dataclass(frozen=True)
class Shape:
    """What is trained on: side of picture and patch in pixels, pictures of a batch."""

    image: int
    patch: int
    batch: int

    @property
    def tokens(self) -> int:
        """Patch tokens of a picture."""
        return (self.image // self.patch) ** 2


SHAPES = (Shape(64, 8, 64), Shape(224, 16, 8))


@dataclass(frozen=True)
class WidthRow:
    """Pictures/s of both precisions at one width, and bf16 as a multiple of fp32."""

    width: int
    tokens: int
    batch: int
    fp32: Spread
    bf16: Spread
    gain: Spread


def measure_widths(*, rounds: int, steps: int) -> Iterator[WidthRow]:
    """One row for each shape and width."""
    for shape in SHAPES:
        for width in WIDTHS:
            steppers = {name: _Stepper(shape, width, name, steps, rounds + 1) for name in ("fp32", "bf16")}
            speeds = alternate({name: stepper.round for name, stepper in steppers.items()}, rounds=rounds)
            yield WidthRow(
                width,
                shape.tokens,
                shape.batch,
                Spread.of(speeds["fp32"]),
                Spread.of(speeds["bf16"]),
                ratios(speeds["bf16"], speeds["fp32"]),
            )


class _Stepper:
    def __init__(self, shape: Shape, width: int, precision: str, steps: int, epochs: int) -> None:
        recipe = Recipe(name="benchmark", model="vit_tiny_patch16_224", pretrained=False, epochs=epochs)
        arguments = {"embed_dim": width, "depth": DEPTH, "num_heads": max(2, width // HEAD), "patch_size": shape.patch}
        torch.manual_seed(0)
        built = load_model(
            recipe.model, pretrained=False, num_classes=CLASSES, image_size=shape.image, model_args=arguments
        )
        accelerator = Accelerator(cpu=True)
        module, optimizer = accelerator.prepare(
            built.module, make_optimizer(built.module, OptimizerSettings.from_recipe(recipe))
        )
        training = TrainingState(
            module,
            optimizer,
            make_schedule(optimizer, ScheduleSettings.from_recipe(recipe), steps),
            None,
            accelerator,
            precision,
        )
        pixels_BCHW = torch.randint(256, (shape.batch, 3, shape.image, shape.image), dtype=torch.uint8)
        batch = Batch(pixels_BCHW, torch.randint(CLASSES, (shape.batch,)), torch.arange(shape.batch))
        objective = Classification(
            LossSettings.from_recipe(recipe), CLASSES, built.input.mean, built.input.std, accelerator.device
        )
        self._events: Iterator[StepDone | EpochDone] = fit(
            training,
            objective,
            LoopSettings.from_recipe(recipe),
            lambda *_: repeat(batch, steps),
            lambda *_: ["random pixels"],
        )

    def round(self) -> int:
        pictures = 0
        for event in self._events:
            if isinstance(event, EpochDone):
                break
            pictures += event.pictures
        return pictures
