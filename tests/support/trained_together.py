"""Small trainings for tests/train/test_distributed.py: by one process when called, by several under torchrun.

The optimizer is SGD with momentum, whose steps are proportional to gradients: AdamW's hardly change when a gradient is
wrong by a factor.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from support.card_figures import without_card_figures
from vitrine import cli
from vitrine.config import CaptionSpec, Recipe, named_transforms
from vitrine.errors import DataError
from vitrine.models.finetune import captioner_parameter_groups
from vitrine.train import loop
from vitrine.train.captioner import CaptionerTask
from vitrine.train.classifier import ClassifierTask
from vitrine.train.loop import StepDone
from vitrine.train.run import train

MICRO = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
WORDS = CaptionSpec(
    vocabulary_size=120, width=32, heads=2, encoder_layers=1, decoder_layers=1, feed_forward=64, dropout=0.0, longest=30
)
PLAIN = Recipe(
    name="micro",
    model="vit_tiny_patch16_224",
    model_args=MICRO,
    pretrained=False,
    image_size=32,
    transforms=named_transforms("scenes"),
    batch_size=11,  # 45 pictures: parts of 5 and 6, and a last batch of one picture, which only one process has
    epochs=2,
    learning_rate=0.05,
    clip_norm=0,
    workers=0,
    precision="fp32",
    checkpoint_minutes=1e-9,
)
RARELY_SAVED = replace(PLAIN, checkpoint_minutes=10.0)  # only "plain" is stopped and resumed
CASES = {
    "plain": PLAIN,
    "shards": replace(RARELY_SAVED, shuffle_buffer=12, workers=1),
    "accumulated": replace(RARELY_SAVED, accumulate=2, label_smoothing=0.1, clip_norm=0.5, tune="last:1"),
    "mixed": replace(RARELY_SAVED, mixup=0.4, cutmix=0.5, ema=0.9),
    "head": replace(RARELY_SAVED, tune="head", views=2, ema=0.9),  # its features are cached
    "head anew": replace(RARELY_SAVED, tune="head"),
    "captions": replace(RARELY_SAVED, caption=WORDS, model_args=MICRO),
    "caption shards": replace(RARELY_SAVED, caption=WORDS, model_args=MICRO, shuffle_buffer=12),
    "frozen": replace(RARELY_SAVED, caption=WORDS, tune="head", transforms=named_transforms("none")),
}
FOLDERS = {"shards": "shards", "caption shards": "caption shards"}
FSDP_CASES = ("plain", "accumulated")
LAGGING_CASES = ("mixed",)
ADAMW = replace(PLAIN, learning_rate=1e-3, clip_norm=1.0, accumulate=2)
STOP_AT = 4


class StoppedError(Exception):
    pass


def _stop(event: object) -> None:
    if isinstance(event, StepDone) and event.step == STOP_AT:
        raise StoppedError


@contextmanager
def plain_steps() -> Iterator[None]:
    """As described above; and no figures of model cards."""

    def sgd(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=PLAIN.learning_rate, momentum=0.5)

    def captioner(task: CaptionerTask, module: torch.nn.Module) -> torch.optim.Optimizer:
        groups = captioner_parameter_groups(module, PLAIN.weight_decay, 1.0)
        return sgd([{"params": group["params"]} for group in groups])

    with (
        without_card_figures(),
        mock.patch.object(ClassifierTask, "optimizer", lambda _, module: sgd(module.parameters())),
        mock.patch.object(CaptionerTask, "optimizer", captioner),
    ):
        yield


def train_case(data: Path, case: str, out: Path, *, stop: bool = False, resume: bool = False) -> dict[str, Any]:
    """Train one case, and return the result as JSON values; with ``stop``, only up to a step."""
    report: Callable[[Any], None] = _stop if stop else lambda _: None
    with plain_steps():
        try:
            result = train(str(data / FOLDERS.get(case, "scenes")), CASES[case], out, resume=resume, report=report)
        except StoppedError:
            return {}
    return result.metrics.to_dict()


def _average_of_means(processes: Any, loss: Any, is_dummy: bool) -> Any:
    """As :func:`vitrine.train.loop.reduce_loss`, with parts of unequal sizes weighed alike: a wrong gradient."""
    return replace(_reduce_loss(processes, loss, is_dummy), weight=1.0)


_reduce_loss = loop.reduce_loss


def train_until_stopped(data: Path, out: Path) -> str:
    """Train a part in all processes, of which the first one stops; returns how this one ended."""
    try:
        train_case(data, "plain", out, stop=True)
    except SystemExit as ended:
        out.with_suffix(".left").write_text(str(ended.code))
        return "left"
    return "stopped"


def run_command(arguments: list[str], out: Path) -> None:
    """Call the command line in every process, and write down what each says."""
    errors = io.StringIO()
    with mock.patch("sys.argv", ["vitrine", *arguments]), redirect_stderr(errors):
        try:
            cli.main()
        except SystemExit as ended:
            content = {"status": ended.code, "stderr": errors.getvalue()}
            out.with_suffix(f".{os.environ['RANK']}.json").write_text(json.dumps(content))


def _full_disk(*_: Any, **__: Any) -> None:
    if os.environ["RANK"] == "1":
        raise DataError("The second one's disk is full.")


def main(data: Path, out: Path) -> None:
    for case in CASES:
        result = train_case(data, case, out / case)
        (out / f"{case}.{os.environ['RANK']}.json").write_text(json.dumps(result))
    with mock.patch.object(loop, "reduce_loss", _average_of_means):
        train_case(data, "plain", out / "wrong")
    with mock.patch.object(loop, "pipeline_depth", lambda _: 1):
        for case in LAGGING_CASES:
            train_case(data, case, out / f"{case}, losses read late")
    train_case(data, "plain", out / "begun by one", resume=True)
    with mock.patch.dict(os.environ, {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}):
        for case in FSDP_CASES:
            result = train_case(data, case, out / f"sharded {case}")
            (out / f"sharded {case}.{os.environ['RANK']}.json").write_text(json.dumps(result))
        train_case(data, "plain", out / "begun by one, sharded", resume=True)
        outcome = train_until_stopped(data, out / "begun sharded")
        train(str(data / "scenes"), ADAMW, out / "sharded adamw")
    (out / f"begun sharded.{os.environ['RANK']}.json").write_text(json.dumps(outcome))
    run_command(["train", str(out / "none"), "--recipe", "scenes-tiny", "-o", str(out / "x")], out / "nothing")
    with mock.patch.object(loop, "_set_learning_rate", _full_disk):
        run_command(["train", str(data / "scenes"), "--recipe", "scenes-tiny", "-o", str(out / "y")], out / "second")
    train_until_stopped(data, out / "begun by two")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
