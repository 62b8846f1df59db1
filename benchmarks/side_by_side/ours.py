"""vitrine, as its own verbs run it: the real loader, the real step, the real logging."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from harness.arithmetic import finish
from torch import Tensor

from side_by_side.task import Task
from vitrine.classify.inference import eval_transform, predict_batches
from vitrine.config import Recipe, named_transforms
from vitrine.data.decode import BytesPicture, FilePicture
from vitrine.data.loader import Batch, PictureLoader
from vitrine.data.samples import Sample
from vitrine.data.transforms import TrainTransform
from vitrine.models.load import load_model, width_of
from vitrine.models.precision import resolve_precision
from vitrine.train.loop import EpochDone, StepDone, TrainingState, fit
from vitrine.train.losses import Classification
from vitrine.train.optimizer import make_optimizer, make_schedule
from vitrine.train.settings import LoopSettings, LossSettings, OptimizerSettings, ScheduleSettings


def in_memory(count: int) -> list[Sample]:
    """Names for pictures that are in memory already, which have no file."""
    return [Sample("in memory", BytesPicture(b""))] * count


class Ours:
    """A round of training is one epoch of ``vitrine.train.loop``; of inference, one pass of ``predict_batches``.

    Both start with idle workers, so that nothing is loaded before the clock runs or while another tool is timed.
    """

    name = "vitrine"

    def __init__(self, task: Task) -> None:
        self.task = task
        self.device = torch.device(task.device)
        built = load_model(task.model, pretrained=False, num_classes=task.classes, image_size=task.image)
        self.module, self.spec = built.module.to(self.device), built.input
        self.precision = resolve_precision("auto", self.device, width_of(self.module))
        self.samples = [
            Sample(path.name, FilePicture(path), number % task.classes) for number, path in enumerate(task.files)
        ]
        self.recipe = Recipe(
            name="benchmark",
            model=task.model,
            pretrained=False,
            image_size=task.image,
            transforms=named_transforms("tfm1"),
            batch_size=task.batch,
            epochs=task.rounds,
            learning_rate=1e-5,
            weight_decay=1e-4,
            compile=self.device.type == "cuda",
        )
        self._loaders: list[PictureLoader] = []
        self._eval_loader: PictureLoader | None = None
        self._events: Iterator[StepDone | EpochDone] | None = None

    def load(self, weights: Mapping[str, Tensor]) -> None:
        self.module.load_state_dict(weights)

    def logits(self, pixels_BCHW: Tensor) -> Tensor:
        return self._logits(pixels_BCHW, "fp32")

    def logits_as_run(self, pixels_BCHW: Tensor) -> Tensor:
        """The same in the precision that is timed."""
        return self._logits(pixels_BCHW, self.precision)

    def _logits(self, pixels_BCHW: Tensor, precision: str) -> Tensor:
        unknown_B = torch.full((len(pixels_BCHW),), -1)
        batch = Batch(pixels_BCHW, unknown_B, torch.arange(len(pixels_BCHW)))
        (part,) = predict_batches(
            self.module, in_memory(len(batch)), [batch], self.spec, device=self.device, precision=precision
        )
        return torch.from_numpy(part.logits_BC)

    def infer(self) -> int:
        source, device = self.eval_batches(), self.device
        samples = self.samples or in_memory(self.task.batch * self.task.batches)
        parts = predict_batches(self.module, samples, source, self.spec, device=device, precision=self.precision)
        return sum(len(part.samples) for part in parts)

    def train(self) -> int:
        if self._events is None:
            self._events = self._begin_training()
        pictures = 0
        with Path(self.task.folder, "log.jsonl").open("a") as log:
            for event in self._events:
                log.write(json.dumps(asdict(event)) + "\n")
                log.flush()
                if isinstance(event, EpochDone):
                    break
                pictures += event.pictures
        finish(self.device)
        return pictures

    def _begin_training(self) -> Iterator[StepDone | EpochDone]:
        recipe, spec = self.recipe, self.recipe.transforms
        AcceleratorState._reset_state(reset_partial_state=True)  # another task may have been on another device
        accelerator = Accelerator(cpu=self.device.type == "cpu")
        if recipe.compile:
            self.module.compile()
        module, optimizer = accelerator.prepare(
            self.module, make_optimizer(self.module, OptimizerSettings.from_recipe(recipe))
        )
        schedule = make_schedule(optimizer, ScheduleSettings.from_recipe(recipe), self.task.batches)
        training = TrainingState(module, optimizer, schedule, None, accelerator, self.precision)
        objective = Classification(
            LossSettings.from_recipe(recipe),
            self.task.classes,
            spec.mean or self.spec.mean,
            spec.std or self.spec.std,
            self.device,
        )
        return fit(
            training,
            objective,
            LoopSettings.from_recipe(recipe),
            self.train_batches(),
            lambda _, batch: [self.samples[i].name for i in batch.indices_B.tolist()],
        )

    def eval_batches(self) -> Iterable[Batch]:
        """The pictures as they come from the loader."""
        if self._eval_loader is None:
            self._eval_loader = self._opened(PictureLoader(eval_transform(self.spec), self.task.batch))
        return self._eval_loader.epoch(self.samples)

    def train_batches(self) -> Callable[[int, int], Iterator[Batch]]:
        """An epoch's pictures as they come from the loader."""
        transform = TrainTransform(self.recipe.transforms, self.spec.size)
        loader = self._opened(PictureLoader(transform, self.task.batch))
        return lambda epoch, start: loader.epoch(self.samples, epoch=epoch, shuffle=True, start_batch=start)

    def _opened(self, loader: PictureLoader) -> PictureLoader:
        self._loaders.append(loader)
        return loader

    def close(self) -> None:
        for loader in self._loaders:
            loader.close()


class OursReady(Ours):
    """The same with pictures that are decoded and in memory, as those of the other tools are: the step alone."""

    def eval_batches(self) -> Iterable[Batch]:
        return self._ready()

    def train_batches(self) -> Callable[[int, int], Iterator[Batch]]:
        return lambda *_: iter(self._ready())

    def _ready(self) -> list[Batch]:
        batch, side = self.task.batch, self.task.image
        generator = torch.Generator().manual_seed(0)
        pixels_BCHW = torch.randint(256, (batch, 3, side, side), dtype=torch.uint8, generator=generator)
        labels_B = torch.randint(self.task.classes, (batch,), generator=generator)
        return [Batch(pixels_BCHW, labels_B, torch.arange(batch))] * self.task.batches
