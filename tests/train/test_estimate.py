"""The plan of a training: rates from a clock that is told, bytes that the run really has, and nothing written."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.training import recipe

from vitrine.errors import RunError
from vitrine.train.estimate import Estimate, StepMeter
from vitrine.train.events import Event
from vitrine.train.loop import StepDone
from vitrine.train.run import plan_training, train


def measure(times: list[float], epochs: list[int], pictures: int = 10) -> StepMeter:
    """A meter that saw a step of ``pictures`` at each time, made at 0."""
    clock = iter([0.0, *times])
    meter = StepMeter(lambda: next(clock))
    for step, epoch in enumerate(epochs):
        meter.add(StepDone(epoch, step + 1, 0.5, pictures, 1e-3))
    return meter


@pytest.mark.parametrize(
    ("times", "epochs", "rate", "steps", "is_done"),
    [
        ([9, 12, 13, 14, 15], [0] * 5, 10, 3, False),  # two slow steps warm up; then one a second
        ([9, 12, *range(13, 22)], [0] * 11, 10, 9, True),
        ([9, 12, 17, 22], [0] * 4, 2, 2, True),  # slow steps: two are enough
        ([1, 2, 3, 60, 61], [0, 0, 0, 1, 1], 10, 2, False),  # between the epochs lies an evaluation
        ([4], [0], 2.5, 0, False),  # all there is
        ([1, 3], [0, 0], 5, 0, False),
    ],
)
def test_steps_are_timed_without_warm_up_and_evaluation(
    times: list[float], epochs: list[int], rate: float, steps: int, is_done: bool
) -> None:
    meter = measure(times, epochs)
    assert meter.pictures_per_second == pytest.approx(rate)
    assert (meter.steps, meter.is_done) == (steps, is_done)


def test_a_plan_writes_nothing_and_knows_what_the_run_will_have(small_scenes: Path, tmp_path: Path) -> None:
    settings, events = recipe(ema=0.9, epochs=3, batch_size=4), list[Event]()
    before = sorted(tmp_path.iterdir())
    planned = plan_training(str(small_scenes), settings, tmp_path / "run", report=events.append)
    estimate = planned.estimate
    assert sorted(tmp_path.iterdir()) == before
    assert any(isinstance(each, StepDone) for each in events) and estimate.measured_steps == 8
    assert json.loads(json.dumps(planned.to_dict()))["recipe"]["batch_size"] == 4
    # 48 pictures in 3 epochs less the 10 steps of 4, and 24 evaluated pictures in each epoch at a third of the time.
    assert estimate.seconds * estimate.pictures_per_second == pytest.approx(3 * 48 - 40 + 3 * 24 / 3)

    checkpoints, reported = list[int](), list[Estimate]()

    def watch(event: Event) -> None:
        checkpoints.extend(path.stat().st_size for path in (tmp_path / "run" / "state").glob("*"))
        if isinstance(event, Estimate):
            reported.append(event)

    train(str(small_scenes), settings, tmp_path / "run", report=watch)
    weights = (tmp_path / "run" / "model.safetensors").stat().st_size
    assert estimate.weights_bytes == pytest.approx(weights, rel=0.1)
    assert estimate.disk_bytes == pytest.approx(weights + 2 * max(checkpoints), rel=0.2)
    assert [each.measured_steps for each in reported] == [8], "a training says it too, once"
    assert (reported[0].disk_bytes, reported[0].weights_bytes) == (estimate.disk_bytes, estimate.weights_bytes)
    with pytest.raises(RunError, match="holds a run already"):
        plan_training(str(small_scenes), settings, tmp_path / "run")


def test_what_a_person_reads_says_where_there_is_no_room() -> None:
    estimate = Estimate(81.7, 8, 400.0, 963 * 10**6, 25 * 10**9, 34_400_000, 4_910_000, 74 * 10**9)
    assert estimate.sentences() == (
        "Plan: 81.7 pictures a second (8 steps measured), about 7 min to the end.",
        "Memory: 963 MB of 25 GB so far. Disk: up to 34.4 MB while it trains, 4.91 MB of weights at the end; "
        "74 GB are free.",
    )
    assert "not enough room" in replace(estimate, disk_free_bytes=1).sentences()[-1]


def test_dry_run_prints_the_plan_for_people_and_programs(
    small_scenes: Path,
    small_run: Path,
    tmp_path: Path,
    vitrine_command: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ("train", small_scenes, "--set", f"model={small_run} image_size=32 epochs=2 workers=0", "--dry-run")
    status, out, error = vitrine_command(*command, "--json")
    assert status == 0, error
    content = json.loads(out)
    assert content["plan"]["train_pictures"] == 48 and content["recipe"]["automatic"] == []
    assert content["estimate"]["pictures_per_second"] > 0 and content["run"] == "runs/scenes"
    assert "By rule" not in out and "batch_size = 16" in error
    assert not list(tmp_path.iterdir())
    status, _, error = vitrine_command(*command, "--resume")
    assert status == 2 and "--dry-run is of a new training" in error
