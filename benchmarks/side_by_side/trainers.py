"""A training in a process of its own, by one of three tools: ``python -m side_by_side.trainers JOB``.

vitrine trains as ``vitrine train`` does. The others are the loops that their own pages teach: timm's transforms with a
loop of one's own, and the Trainer of transformers. All start from the same weights and read the same folders of
pictures, and their clock is the processor time of the process and its workers, which other work hardly moves.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from side_by_side.peers import HuggingFace, Timm
from side_by_side.task import Task
from vitrine.config import Recipe, load_recipe, override
from vitrine.models.load import load_model
from vitrine.train.run import train

TOOLS = ("vitrine", "timm", "transformers")
USUAL, OURS = "usual", "ours"


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        tool: of TOOLS.
        recipe: "usual" is what the tool's own pages teach, "ours" takes rates, decay and smoothing of vitrine's recipe.
        ours: vitrine's recipe by name, and the fields that are set beside it.
        data: folder with train, validation and test, a folder a class in each.
        epochs: of the training; its schedule ends with them.
        head_only: whether the backbone stays as it is.
        seed: of weights, order and random changes.
    """

    tool: str
    recipe: str
    ours: tuple[str, tuple[str, ...]]
    data: str
    epochs: int
    head_only: bool
    seed: int

    def our_recipe(self) -> Recipe:
        """vitrine's recipe with this seed and so many epochs; its warm-up is a quarter of them at most."""
        name, fields = self.ours
        recipe = override(load_recipe(name), [*fields, f"seed={self.seed}", f"epochs={self.epochs}"])
        return override(recipe, [f"warmup_epochs={min(recipe.warmup_epochs, self.epochs / 4)}"])


def processor_seconds() -> float:
    """Of this process and of its children that have ended, since it began."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def read_split(data: Path, split: str) -> list[tuple[Path, int]]:
    """Pictures with the index of their class, in order."""
    classes = sorted(each.name for each in (data / "train").iterdir() if each.is_dir())
    return [(file, number) for number, name in enumerate(classes) for file in sorted((data / split / name).iterdir())]


class Pictures(torch.utils.data.Dataset[Any]):
    """A split as both peers' loaders want it: tensors with labels, or the Trainer's mappings."""

    def __init__(self, rows: list[tuple[Path, int]], transform: Any, *, mappings: bool) -> None:
        self.rows, self.transform, self.mappings = rows, transform, mappings

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        file, label = self.rows[index]
        with Image.open(file) as image:
            pixels = self.transform(image.convert("RGB"))
        return {"pixel_values": pixels, "labels": label} if self.mappings else (pixels, label)


class Trainer(ABC):
    """A tool's training of one job.

    Attributes:
        libraries: what a process imports once, before the clock runs.
    """

    libraries: ClassVar[tuple[str, ...]] = ("vitrine.train.run",)

    def __init__(self, job: Job) -> None:
        self.job, self.data = job, Path(job.data)
        self.classes = len({label for _, label in read_split(self.data, "train")})
        recipe = job.our_recipe()
        torch.manual_seed(job.seed)
        built = load_model(
            recipe.model,
            pretrained=recipe.pretrained,
            num_classes=self.classes,
            image_size=recipe.image_size,
            model_args=recipe.model_args,
        )
        self.started_from, self.input, self.ours = built.module, built.input, recipe
        for library in self.libraries:
            import_module(library)

    @abstractmethod
    def train(self) -> nn.Module:
        """From the starting weights, the job's epochs; the module takes normalised pixels to logits or their holder."""

    def transform(self, *, training: bool) -> Any:
        """By timm's own factory, which both peers' users know: its defaults, or vitrine's smallest crop."""
        from timm.data import create_transform

        crop = self.ours.transforms.crop_scale[0] if self.job.recipe == OURS else 0.08
        fixed = {"mean": self.input.mean, "std": self.input.std, "input_size": (3, *self.input.size)}
        if not training:
            return create_transform(**fixed, is_training=False, crop_pct=1.0)
        return create_transform(**fixed, is_training=True, scale=(crop, 1.0))

    def module_of(self, kind: type[Timm] | type[HuggingFace]) -> nn.Module:
        """The tool's own module with the starting weights; with ``head_only`` all but the head is frozen."""
        vit: Any = self.started_from
        task = Task(
            model=self.ours.model,
            image=self.input.size[0],
            patch=vit.patch_embed.patch_size[0],
            width=vit.embed_dim,
            depth=len(vit.blocks),
            heads=vit.blocks[0].attn.num_heads,
            mlp=vit.blocks[0].mlp.fc1.out_features,
            classes=self.classes,
            batch=1,
            batches=1,
            rounds=1,
            folder="",
        )
        if kind is Timm:
            module: nn.Module = self.started_from
        else:
            peer = kind(task)
            peer.load(self.started_from.state_dict())
            module = peer.module
        if self.job.head_only:
            for name, parameter in module.named_parameters():
                parameter.requires_grad_(name.startswith(("head.", "classifier.")))
        return module

    def accuracy(self, module: nn.Module) -> float:
        """On the test pictures: whole pictures at the model's size."""
        rows, right = Pictures(read_split(self.data, "test"), self.transform(training=False), mappings=False), 0
        module.eval()
        with torch.inference_mode():
            for pixels_BCHW, labels_B in torch.utils.data.DataLoader(rows, 64):
                right += int((_logits(module(pixels_BCHW)).argmax(1) == labels_B).sum())
        return right / len(rows)


def _logits(out: Any) -> Tensor:
    logits_BC: Tensor = out if isinstance(out, Tensor) else out.logits
    return logits_BC


class Vitrine(Trainer):
    """``vitrine train``, and the weights that it kept: the best on validation pictures."""

    def train(self) -> nn.Module:
        with tempfile.TemporaryDirectory() as folder:
            fields = ["tune=head"] if self.job.head_only else []
            train(self.job.data, override(self.ours, fields), Path(folder, "run"))
            return load_model(str(Path(folder, "run")), pretrained=True).module


class TimmLoop(Trainer):
    """timm's model and transforms in a loop of one's own: AdamW, cosine after a warm-up."""

    libraries = ("timm.data", "timm.optim", "timm.scheduler")

    def train(self) -> nn.Module:
        from timm.optim import create_optimizer_v2
        from timm.scheduler import CosineLRScheduler

        ours, usual = self.ours, self.job.recipe == USUAL
        scratch = not ours.pretrained
        rate = (5e-4 if scratch else 1e-4) if usual else min(ours.learning_rate, 1e-3)
        if self.job.head_only:
            rate = 1e-3 if usual else ours.learning_rate
        module = self.module_of(Timm)
        optimizer = create_optimizer_v2(
            module,
            opt="adamw",
            lr=rate,
            weight_decay=0.05,
            layer_decay=None if usual or ours.layer_decay == 1.0 else ours.layer_decay,
        )
        rows = Pictures(read_split(self.data, "train"), self.transform(training=True), mappings=False)
        loader = torch.utils.data.DataLoader(rows, ours.batch_size, shuffle=True, drop_last=True)
        steps = self.job.epochs * len(loader)
        schedule = CosineLRScheduler(optimizer, t_initial=steps, warmup_t=max(1, steps // 10), t_in_epochs=False)
        smoothing = 0.1 if usual else ours.label_smoothing
        module.train()
        for step, (pixels_BCHW, labels_B) in enumerate(_repeated(loader, self.job.epochs)):
            schedule.step_update(step)
            optimizer.zero_grad()
            functional.cross_entropy(module(pixels_BCHW), labels_B, label_smoothing=smoothing).backward()
            optimizer.step()
        return module


class TransformersTrainer(Trainer):
    """The Trainer as the library's page on image classification sets it: AdamW at 5e-5, linear after a warm-up."""

    libraries = ("timm.data", "transformers.trainer")

    def train(self) -> nn.Module:
        import transformers

        ours, usual = self.ours, self.job.recipe == USUAL
        rows = Pictures(read_split(self.data, "train"), self.transform(training=True), mappings=True)
        module = self.module_of(HuggingFace)
        with tempfile.TemporaryDirectory() as folder:
            arguments = transformers.TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=16 if usual else ours.batch_size,
                gradient_accumulation_steps=4 if usual else 1,
                learning_rate=5e-5 if usual else min(ours.learning_rate, 1e-3),
                weight_decay=0.0 if usual else 0.05,
                label_smoothing_factor=0.0 if usual else ours.label_smoothing,
                num_train_epochs=self.job.epochs,
                warmup_steps=0.1,
                lr_scheduler_type="linear" if usual else "cosine",
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                use_cpu=True,
                seed=self.job.seed,
            )
            transformers.Trainer(model=module, args=arguments, train_dataset=rows).train()
        return module


def _repeated(loader: Any, epochs: int) -> Iterator[tuple[Tensor, Tensor]]:
    for _ in range(epochs):
        yield from loader


KINDS: dict[str, type[Trainer]] = {"vitrine": Vitrine, "timm": TimmLoop, "transformers": TransformersTrainer}


def run(job: Job) -> dict[str, Any]:
    """The training, its processor time from the starting weights to the trained ones, and its accuracy afterwards."""
    trainer = KINDS[job.tool](job)
    began = processor_seconds()
    module = trainer.train()
    spent = processor_seconds() - began
    return {"job": asdict(job), "epochs": job.epochs, "seconds": spent, "accuracy": trainer.accuracy(module)}


def main() -> None:
    """The child process."""
    torch.set_num_threads(1)
    content = json.loads(sys.argv[1])
    name, fields = content["ours"]
    print(json.dumps(run(replace(Job(**content), ours=(name, tuple(fields))))))


if __name__ == "__main__":
    main()
