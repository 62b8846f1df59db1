"""The training loop where it runs one step ahead of the losses that it has read, as on CUDA: the same results."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from support.trained_together import PLAIN, WORDS
from support.training import FULL, TrainOnce, recipe, same_files
from torch.utils._python_dispatch import TorchDispatchMode

from vitrine.config import Recipe, named_transforms
from vitrine.data.loader import Batch, normalise, to_device
from vitrine.data.scenes import write_scenes
from vitrine.errors import TrainingError
from vitrine.runs.checkpoint import load_checkpoint
from vitrine.shards import write_shards
from vitrine.train import loop
from vitrine.train.loop import AsyncScalars, StepDone
from vitrine.train.losses import Classification, Loss
from vitrine.train.run import train

LATE = mock.patch.object(loop, "pipeline_depth", lambda device: 1)

RECIPES: dict[str, Recipe] = {
    "plain": recipe(),
    "full": recipe(**FULL, epochs=3, checkpoint_minutes=1e-9),
    "head": recipe(tune="head", views=2, ema=0.9),
    "shards": recipe(accumulate=2, workers=1),
    "captions": replace(PLAIN, caption=WORDS, epochs=1, learning_rate=1e-3, transforms=named_transforms("none")),
}


class StoppedError(Exception):
    pass


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_scenes(folder / "scenes", "new", {"train": 56, "validation": 24}, size=32)
    write_shards(str(folder / "scenes"), folder / "shards", megabytes=0.03)
    return folder


def run(data: Path, name: str, out: Path, report: Callable[[Any], None] = lambda _: None, **settings: object) -> None:
    folder = data / ("shards" if name == "shards" else "scenes")
    train(str(folder), replace(RECIPES[name], **settings), out, report=report)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", RECIPES)
def test_running_ahead_changes_no_byte(name: str, data: Path, tmp_path: Path) -> None:
    events: dict[str, list[dict[str, Any]]] = {"at once": [], "late": []}
    for when, steps in events.items():
        with LATE if when == "late" else mock.patch.object(loop, "pipeline_depth", loop.pipeline_depth):
            run(
                data, name, tmp_path / when, lambda e, s=steps: s.append(asdict(e)) if isinstance(e, StepDone) else None
            )
    assert events["late"] == events["at once"] and len(events["late"]) > 2
    names = ("history.jsonl", "metrics.json", "model.safetensors")
    for each in names:
        assert (tmp_path / "late" / each).read_bytes() == (tmp_path / "at once" / each).read_bytes(), each


def test_a_step_is_read_once_the_next_one_is_queued(data: Path, tmp_path: Path) -> None:
    calls: list[str] = []
    train_step, read = loop._train_step, AsyncScalars.read

    def record_step(*args: Any, **kwargs: Any) -> Any:
        calls.append("queued")
        return train_step(*args, **kwargs)

    def record_read(self: AsyncScalars) -> list[float]:
        calls.append("read")
        return read(self)

    with mock.patch.object(loop, "_train_step", record_step), mock.patch.object(AsyncScalars, "read", record_read):
        run(data, "plain", tmp_path / "at once")
        assert calls == ["queued", "read"] * 8
        calls.clear()
        with LATE:
            run(data, "plain", tmp_path / "late")
    epoch = ["queued", *["queued", "read"] * 3, "read"]
    assert calls == epoch * 2, "the last step of an epoch before the epoch ends"


@pytest.mark.parametrize("stop_at", [1, 3, 4, 5])
def test_resuming_gives_the_uninterrupted_result(
    stop_at: int, data: Path, train_once: TrainOnce, tmp_path: Path
) -> None:
    def stop(event: object) -> None:
        if isinstance(event, StepDone) and event.step == stop_at:
            raise StoppedError

    whole_run = train_once(data / "scenes", RECIPES["full"])
    with LATE:
        with pytest.raises(StoppedError):
            run(data, "full", tmp_path / "cut", stop)
        train(str(data / "scenes"), RECIPES["full"], tmp_path / "cut", resume=True)
    same_files(whole_run, tmp_path / "cut")


def spoilt(after: int, batches: list[list[int]]) -> Callable[..., Loss]:
    """The objective, whose loss is not finite in a micro-batch; it keeps the positions of every batch's pictures."""
    plain = Classification.__call__

    def call(self: Classification, module: Any, batch: Batch, *, mix: bool) -> Loss:
        loss = plain(self, module, batch, mix=mix)
        batches.append(batch.indices_B.tolist())
        return replace(loss, mean=loss.mean * math.nan) if len(batches) == after else loss

    return call


# Of four batches an epoch: in the middle, and the last before an epoch's end; of shards, two are a step.
@pytest.mark.parametrize(("name", "bad"), [("plain", 2), ("plain", 3), ("plain", 8), ("shards", 2)])
def test_a_loss_that_is_not_finite_names_its_own_batch_and_leaves_good_weights(
    name: str, bad: int, data: Path, tmp_path: Path
) -> None:
    step = -(-bad // RECIPES[name].accumulate)
    messages = []
    for when in ("at once", "late"):
        batches: list[list[int]] = []
        behind = {"at once": 0, "late": 1}[when]
        with (
            mock.patch.object(loop, "pipeline_depth", lambda _, steps=behind: steps),
            mock.patch.object(Classification, "__call__", spoilt(bad, batches)),
            pytest.raises(TrainingError) as error,
        ):
            run(data, name, tmp_path / when, checkpoint_minutes=1e-9)
        messages.append(str(error.value))
        state = load_checkpoint(tmp_path / when)
        if state is not None:
            assert state["progress"]["step"] < step
            assert all(tensor.isfinite().all() for tensor in state["module"].values())
        history = (tmp_path / when / "history.jsonl").read_text().splitlines()
        assert len(history) == (bad - 1) // 4
        assert (tmp_path / when / "model.safetensors").exists() == bool(history)
    assert messages[0] == messages[1]
    assert f"nan in epoch {1 + (bad - 1) // 4}, step {step}." in messages[0]
    assert messages[0].count(".png") == 8 and "?" not in messages[0]


class _SynchronisationRecorder(TorchDispatchMode):
    """Records every operator whose result the CPU has to see before it can go on."""

    WAITING = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "unique")

    def __init__(self) -> None:
        super().__init__()
        self.operators: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if name.startswith(self.WAITING):
            self.operators.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("late", [0, 1])
def test_queueing_a_step_asks_for_no_number(late: int, data: Path, tmp_path: Path) -> None:
    """Forward and backward pass, clipping, the optimizer and the moving average, mixed pictures or not."""
    recorder, train_step = _SynchronisationRecorder(), loop._train_step

    def record(*args: Any, **kwargs: Any) -> Any:
        with recorder:
            return train_step(*args, **kwargs)

    with mock.patch.object(loop, "_train_step", record), mock.patch.object(loop, "pipeline_depth", lambda _: late):
        run(data, "full", tmp_path / "run", clip_norm=1.0)
    assert set(recorder.operators) == (set() if late else {"_local_scalar_dense"})


def test_queueing_a_step_of_a_captioner_asks_for_no_number(data: Path, tmp_path: Path) -> None:
    """What of captions is picked is found in memory, before it is moved."""
    recorder, train_step = _SynchronisationRecorder(), loop._train_step

    def record(*args: Any, **kwargs: Any) -> Any:
        with recorder:
            return train_step(*args, **kwargs)

    with mock.patch.object(loop, "_train_step", record), LATE:
        run(data, "captions", tmp_path / "run", caption=replace(WORDS, captions_a_picture=1))
    assert set(recorder.operators) == {"nonzero"}


def test_only_cuda_runs_ahead() -> None:
    assert [loop.pipeline_depth(torch.device(each)) for each in ("cpu", "mps", "cuda", "cuda:1")] == [0, 0, 1, 1]


def test_batches_are_pinned_and_moved_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned_tensors: list[torch.Tensor] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned_tensors.append(tensor)
        return tensor.clone()

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    batch = Batch(torch.ones(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([1, 0]), torch.tensor([5, 7]), is_dummy=True)
    copy = torch.utils.data._utils.pin_memory.pin_memory(batch)
    assert [id(each) for each in pinned_tensors] == [id(batch.pixels_BCHW), id(batch.labels_B)]
    assert isinstance(copy, Batch) and copy.is_dummy and torch.equal(copy.pixels_BCHW, batch.pixels_BCHW)
    assert torch.equal(copy.labels_B, batch.labels_B) and torch.equal(copy.indices_B, batch.indices_B)
    pictures = Batch((torch.zeros(3, 2, 3), torch.ones(1, 2, 3)), torch.tensor([-1, -1]), torch.tensor([0, 1]))
    again = torch.utils.data._utils.pin_memory.pin_memory(pictures)
    assert len(pinned_tensors) == 4 and all(
        torch.equal(a, b) for a, b in zip(again.pixels, pictures.pixels, strict=True)
    )
    pinned_tensors.clear()
    normalise(to_device(batch.pixels_BCHW, torch.device("cpu")), (0.5,) * 3, (0.5,) * 3)
    assert not pinned_tensors, "to the processor nothing is copied"
