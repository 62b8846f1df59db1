"""The other tools at their best, and trainings of equal time: what is timed computes what it should."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.paths import CHECKOUT

BENCHMARKS = CHECKOUT / "benchmarks"


@pytest.fixture(autouse=True)
def scripts() -> Iterator[None]:
    for package in ("transformers", "pytorch_pretrained_vit"):
        pytest.importorskip(package, reason=f"the benchmarks compare with {package}, of the extra [bench]")
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


def test_others_at_their_best_compute_the_same_and_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import train
    from side_by_side import best_peers
    from side_by_side.ours import OursReady

    monkeypatch.setattr(torch.nn.Module, "compile", lambda *_, **__: None)  # tens of seconds, of torch's own code
    options = train.parser_of().parse_args(["--model", "vit_tiny_patch16_224", "--batch", "2", "--batches", "1"])
    tools = best_peers.peers_at_best(train.task_of(options, str(tmp_path)))
    del tools[2]  # not compiled, timm's model is the last one's
    ours = OursReady(tools[0].peer.task)
    differences = train.same_logits(ours.task, [*tools, ours])
    spread = differences["standard deviation of the logits"]
    for tool in tools:
        assert 0 < differences[f"{tool.name}, as timed"] < 0.25 * spread, "in bf16, and near"
        assert tool.infer() == 2
        before = tool.logits(torch.zeros(1, 3, 224, 224, dtype=torch.uint8))
        assert tool.train() == 2
        after = tool.logits(torch.zeros(1, 3, 224, 224, dtype=torch.uint8))
        assert 0 < float((after - before).abs().max()) < spread, "one step of the optimizer"
    assert [tool.name for tool in tools][-1] == "timm, compiled, at its best"


@pytest.mark.parametrize(
    ("seconds", "once", "epoch", "epochs"),
    [(100, 2, 10, 9), (100, 0, 10, 10), (5, 10, 10, 1), (30, -1, 10, 3)],
    ids=["a part paid once", "none", "less than one", "a clock that wavered"],
)
def test_epochs_fill_the_budget(seconds: float, once: float, epoch: float, epochs: int) -> None:
    from time_to_accuracy import epochs_within

    assert epochs_within(seconds, once, epoch) == epochs


def test_finished_trainings_are_read_and_others_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import time_to_accuracy
    from side_by_side.trainers import TOOLS

    for split in ("train", "validation", "test"):
        (tmp_path / split / "ring").mkdir(parents=True)
        for number in range(11):
            (tmp_path / split / "ring" / f"{number:02}.png").touch()

    def run(job: time_to_accuracy.Job) -> str:
        jobs.append((job.tool, job.recipe, Path(job.data).name, job.epochs, job.seed))
        share = {"one-in-10": 0.1, "one-in-5": 0.2}.get(Path(job.data).name, 1.0)
        seconds = 2 + share * (6 + 4 * job.epochs)
        return json.dumps({"epochs": job.epochs, "seconds": seconds, "accuracy": 0.5 + 0.1 * job.seed})

    jobs: list[tuple[str, str, str, int, int]] = []
    monkeypatch.setattr(time_to_accuracy, "run_apart", run)
    for _ in range(2):
        entries = list(time_to_accuracy.measure("probe", tmp_path, tmp_path / "out", 60.0, range(2)))
    assert len(jobs) == len(set(jobs)) == 3 * 5 + 2 * 6
    assert {tool for tool, *_ in jobs} == set(TOOLS)
    assert [each.name for each in sorted((tmp_path / "out/one-in-10/train/ring").iterdir())] == ["00.png", "10.png"]
    assert entries[0].row() == "| vitrine | ours | 0.33 | 20 | 3 | 0.550 (0.500 to 0.600) |"
    assert entries[1].epochs == 13, "2 s once, 6 s for the pictures once, and 4 an epoch, in 60"
