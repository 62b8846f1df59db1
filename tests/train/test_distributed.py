"""Several processes that train one model: the same weights as one process, one voice, and a way on after a kill.

They are started with torchrun and talk over the loopback interface.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from support import trained_together
from support.paths import TESTS
from support.trained_together import ADAMW, CASES, FSDP_CASES, LAGGING_CASES, PLAIN, train_case
from support.warm_python import process_of

from vitrine.config import recipe_to_toml
from vitrine.data.batch_plan import BatchShard
from vitrine.data.scenes import write_scenes
from vitrine.errors import RecipeError, UsageError
from vitrine.shards import write_shards
from vitrine.train.distributed import ProcessGroup
from vitrine.train.run import train

# float32 sums in another order: over two epochs of steps they part by a few units in the seventh digit.
TOLERANCE = 2e-5

TOGETHER = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2"]


def environment() -> dict[str, str]:
    loopback = {"darwin": "lo0"}.get(sys.platform, "lo")
    paths = [str(TESTS), os.environ.get("PYTHONPATH", "")]
    variables = {"GLOO_SOCKET_IFNAME": loopback, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return {**os.environ, **variables, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_scenes(folder / "scenes", "new", {"train": 45, "validation": 13}, size=32)
    write_shards(str(folder / "scenes"), folder / "shards", megabytes=0.03)
    write_shards(str(folder / "scenes"), folder / "caption shards", megabytes=0.03, captions=True)
    return folder


@pytest.fixture(scope="module")
def by_two(data: Path, warm_python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that two processes trained, in one launch."""
    out = tmp_path_factory.mktemp("two")
    for name in ("begun by one", "begun by one, sharded"):
        train_case(data, "plain", out / name, stop=True)
    command = [warm_python, *TOGETHER, trained_together.__file__, str(data), str(out)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def by_one(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("one")
    for case in CASES:
        (out / f"{case}.json").write_text(json.dumps(train_case(data, case, out / case)))
    return out


def distance(one: Path, other: Path) -> float:
    """The largest difference between two runs' weights, relative to the largest weight of its tensor."""
    first, second = (load_file(run / "model.safetensors") for run in (one, other))
    assert first.keys() == second.keys()
    return max(
        float((first[name] - second[name]).abs().max() / first[name].abs().max().clamp(min=1e-3)) for name in first
    )


@pytest.mark.parametrize("case", CASES)
def test_two_processes_reach_the_weights_of_one(case: str, by_one: Path, by_two: Path) -> None:
    assert distance(by_one / case, by_two / case) < TOLERANCE
    rows = [
        [json.loads(line) for line in (folder / case / "history.jsonl").read_text().splitlines()]
        for folder in (by_one, by_two)
    ]
    for one, two in zip(*rows, strict=True):
        assert one["step"] == two["step"] and one["best"] == two["best"]
        assert (one["train_accuracy"] is None) == (two["train_accuracy"] is None) == (case == "mixed")
        for name in ("train_loss", "validation_loss", "validation_accuracy"):
            assert two[name] == pytest.approx(one[name], rel=1e-5), name  # no picture is counted twice


@pytest.mark.parametrize("case", LAGGING_CASES)
def test_processes_that_read_losses_late_reach_the_same_bytes(case: str, by_two: Path) -> None:
    for name in ("history.jsonl", "model.safetensors", "predictions.csv"):
        assert (by_two / case / name).read_bytes() == (by_two / f"{case}, losses read late" / name).read_bytes(), name


def test_a_wrong_average_is_noticed(by_one: Path, by_two: Path) -> None:
    """Parts of 5 and 6 pictures weighed alike: the tolerance above would not let it through."""
    assert distance(by_one / "plain", by_two / "wrong") > 100 * TOLERANCE


def test_a_training_moves_weights_far_beyond_the_tolerance(data: Path, by_one: Path, tmp_path: Path) -> None:
    assert distance(by_one / "plain", by_one / "mixed") > 1000 * TOLERANCE


def numbers(value: Any) -> list[float]:
    """All of a JSON value's numbers, in order."""
    if isinstance(value, dict):
        return [number for key in sorted(value) for number in numbers(value[key])]
    if isinstance(value, list):
        return [number for each in value for number in numbers(each)]
    return [value] if isinstance(value, int | float) else []


@pytest.mark.parametrize("case", CASES)
def test_every_process_returns_what_one_would(case: str, by_one: Path, by_two: Path) -> None:
    one = json.loads((by_one / f"{case}.json").read_text())
    two = [json.loads((by_two / f"{case}.{rank}.json").read_text()) for rank in (0, 1)]
    assert two[0] == two[1]
    assert two[0]["n"] == one["n"] == 13
    assert numbers(two[0]) == pytest.approx(numbers(one), rel=1e-4)


def test_data_are_recorded_once_and_the_processes_counted(by_one: Path, by_two: Path) -> None:
    assert (by_one / "plain" / "data.json").read_bytes() == (by_two / "plain" / "data.json").read_bytes()
    environments = [json.loads((run / "plain" / "environment.json").read_text()) for run in (by_one, by_two)]
    assert [each["processes"] for each in environments] == [1, 2]
    assert {path.name for path in (by_one / "plain").iterdir()} == {path.name for path in (by_two / "plain").iterdir()}


def test_a_training_goes_on_with_another_number_of_processes(data: Path, by_one: Path, by_two: Path) -> None:
    for name in ("begun by two", "begun sharded"):
        assert (by_two / f"{name}.left").exists(), "the second process did not learn that the first one failed"
    assert distance(by_one / "plain", by_two / "begun by one") < TOLERANCE
    assert (by_two / "begun by two" / "state" / "training.pt").exists()
    train_case(data, "plain", by_two / "begun by two", resume=True)
    assert distance(by_one / "plain", by_two / "begun by two") < TOLERANCE


@pytest.mark.parametrize("case", FSDP_CASES)
def test_a_sharded_model_reaches_the_weights_of_one_that_is_not(case: str, by_one: Path, by_two: Path) -> None:
    assert distance(by_one / case, by_two / f"sharded {case}") < TOLERANCE
    assert (by_one / case / "predictions.csv").read_text().count("\n") == 14
    one = json.loads((by_one / f"{case}.json").read_text())
    two = [json.loads((by_two / f"sharded {case}.{rank}.json").read_text()) for rank in (0, 1)]
    assert two[0] == two[1] and numbers(two[0]) == pytest.approx(numbers(one), rel=1e-4)


def test_a_training_goes_on_with_or_without_sharding(data: Path, by_one: Path, by_two: Path) -> None:
    assert distance(by_one / "plain", by_two / "begun by one, sharded") < TOLERANCE
    assert (by_two / "begun sharded" / "state" / "training.pt").exists()
    train_case(data, "plain", by_two / "begun sharded", resume=True)
    assert distance(by_one / "plain", by_two / "begun sharded") < TOLERANCE


def test_adamw_over_a_sharded_model(data: Path, by_two: Path, tmp_path: Path) -> None:
    """AdamW follows gradients that are rounding errors, so losses are compared, and not weights."""
    train(str(data / "scenes"), ADAMW, tmp_path / "run")
    one, two = (
        [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
        for run in (tmp_path / "run", by_two / "sharded adamw")
    )
    for name in ("train_loss", "validation_loss"):
        assert [row[name] for row in two] == pytest.approx([row[name] for row in one], rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"ema": 0.9}, "ema"),
        ({"tune": "lora"}, "tune"),
        ({"tune": "head"}, "tune"),
        ({"optimizer": "muon", "compile": True}, "compile, optimizer"),
    ],
)
def test_what_fsdp_cannot_shard_is_refused(changes: dict[str, Any], fields: str) -> None:
    from vitrine.train.run import _check_fsdp

    _check_fsdp(PLAIN)
    with pytest.raises(RecipeError, match=f"^{fields}: not possible where FSDP shards"):
        _check_fsdp(trained_together.replace(PLAIN, **changes))


@pytest.fixture
def training_process(data: Path, warm_python: str, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A long training by two processes that has come to its first checkpoint."""
    recipe = tmp_path / "micro.toml"
    recipe.write_text(recipe_to_toml(PLAIN).replace("epochs = 2", "epochs = 500"))
    command = [warm_python, *TOGETHER, "-m", "vitrine", "train", str(data / "scenes")]
    process = subprocess.Popen(
        [*command, "--recipe", str(recipe), "-o", str(tmp_path / "run")],
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "run" / "state" / "training.pt").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait()


def arguments(process: psutil.Process) -> set[str]:
    with contextlib.suppress(psutil.Error):
        return set(process.cmdline())
    return set()


def test_a_killed_process_ends_them_all_and_one_goes_on(
    data: Path, training_process: subprocess.Popen[str], tmp_path: Path
) -> None:
    trainers = [
        process for process in psutil.process_iter() if {"vitrine", str(tmp_path / "run")} <= arguments(process)
    ]
    trainers = [process for process in trainers if "RANK" in process.environ()]
    second = next(process for process in trainers if process.environ()["RANK"] == "1")
    os.kill(process_of(second.pid), signal.SIGKILL)
    out, err = training_process.communicate(timeout=60)
    assert training_process.returncode != 0 and not out
    lines = [line for line in err.splitlines() if line.startswith("vitrine: ")]
    # torchrun ends the first process too, on a busy machine before that has noticed: then nobody says it.
    assert len(lines) <= 1 and all("Another process of this training ended" in line for line in lines), err
    assert "[rank0]: Traceback" not in err
    assert not any(p.is_running() for p in trainers)
    state = torch.load(tmp_path / "run" / "state" / "training.pt", weights_only=True)

    from vitrine.train.events import Plan

    plans: list[Plan] = []

    def one_epoch(event: object) -> None:
        if isinstance(event, Plan):
            plans.append(event)
        elif plans and type(event).__name__ == "EpochRow":
            raise trained_together.StoppedError

    recipe = trained_together.replace(PLAIN, epochs=500)
    with pytest.raises(trained_together.StoppedError):
        train(str(data / "scenes"), recipe, tmp_path / "run", resume=True, report=one_epoch)
    assert plans[0].first_step == state["progress"]["step"] > 0


def test_a_mistake_is_told_once(by_two: Path) -> None:
    """Whether all processes meet it or only the second one: the first one says it, in one sentence."""
    for name, sentence in (("nothing", "There is no file or folder"), ("second", "The second one's disk is full")):
        outputs = [json.loads((by_two / f"{name}.{rank}.json").read_text()) for rank in (0, 1)]
        assert [each["status"] for each in outputs] == [2, 2]
        lines = [line for line in outputs[0]["stderr"].splitlines() if "vitrine: " in line]
        assert len(lines) == 1 and lines[0].startswith(f"vitrine: {sentence}")
        assert outputs[1]["stderr"] == ""


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "2", "ACCELERATE_USE_DEEPSPEED": "true"}, "DEEPSPEED was asked for, and is not supported"),
        ({"WORLD_SIZE": "2", "ACCELERATE_USE_FSDP": "true"}, "FSDP version 1 was asked for: expected version 2"),
        ({"ACCELERATE_USE_FSDP": "1", "FSDP_VERSION": "2"}, "there is nothing to divide"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "WORLD_SIZE is 2, and LOCAL_RANK, MASTER_ADDR, MASTER_PORT not set"),
    ],
)
def test_engines_that_are_not_supported(
    environment: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=message):
        ProcessGroup.from_launcher()


def test_other_verbs_run_in_one_process(vitrine_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    status, _, err = vitrine_command("sweep", "a.toml", "-o", "out")
    assert status == 2 and err == (
        "vitrine: 2 processes were launched, and only vitrine train divides its work. Run this by itself.\n"
    )


def test_a_batch_too_small_to_be_shared_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from vitrine.train.run import _check_processes

    several = ProcessGroup()
    several.count = 8
    _check_processes(trained_together.replace(PLAIN, batch_size=8), several)
    with pytest.raises(RecipeError, match=r"batch_size = 8 is too small for 8 processes.* 16 or more"):
        _check_processes(trained_together.replace(PLAIN, batch_size=8, mixup=0.1), several)


@given(count=st.integers(1, 70), processes=st.integers(1, 9), pair_for_mixup=st.booleans())
def test_shares_cover_a_batch_once(count: int, processes: int, pair_for_mixup: bool) -> None:
    shares = [BatchShard(process, processes, pair_for_mixup).positions(count) for process in range(processes)]
    assert sorted(position for share in shares for position in share) == list(range(count))
    sizes = list(map(len, shares))
    assert max(sizes) - min(sizes) <= (3 if pair_for_mixup else 1)


@given(count=st.integers(2, 70), processes=st.integers(1, 9))
def test_mirrored_shares_mix_the_pictures_that_one_process_would(count: int, processes: int) -> None:
    """timm mixes the even part of a batch with its reverse."""
    even = count // 2 * 2
    partner = dict(zip(range(even), np.arange(even)[::-1].tolist(), strict=True))
    for process in range(processes):
        share = BatchShard(process, processes, pair_for_mixup=True).positions(count)
        own = share[: len(share) // 2 * 2]
        assert [partner[position] for position in own] == own[::-1]
        assert share[len(own) :] in ([], [count - 1])
