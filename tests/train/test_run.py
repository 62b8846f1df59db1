"""Training: one loop, run folders that other tools open, repeatable and resumable to the byte."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.training import FULL, REPEATABLE, TrainOnce, recipe, same_files

from vitrine.data.scenes import write_scenes
from vitrine.errors import DataError, ModelError, RecipeError, RunError, TrainingError
from vitrine.train.events import EpochRow, Plan
from vitrine.train.loop import StepDone
from vitrine.train.run import train


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("data") / "scenes", "new", {"train": 56, "validation": 24}, size=32)


@pytest.fixture(scope="module")
def plain_run(scenes: Path, train_once: TrainOnce) -> Path:
    return train_once(scenes, recipe())


def test_run_folder_is_complete(plain_run: Path) -> None:
    names = {path.name for path in plain_run.iterdir()}
    assert names == {
        *REPEATABLE,
        "recipe.toml",
        "labels.txt",
        "timings.jsonl",
        "environment.json",
        "README.md",
        "figures",
    }
    rows = [json.loads(line) for line in (plain_run / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert [row["step"] for row in rows] == [4, 8]  # 56 pictures: 3 batches of 16 and one of 8
    environment = json.loads((plain_run / "environment.json").read_text())
    assert environment["starting_weights"] is None and environment["precision"] == "fp32"
    assert (plain_run / "model.safetensors").stat().st_mode & 0o044, "others may read the weights"


def test_timm_reproduces_the_validation_predictions(plain_run: Path, scenes: Path) -> None:
    """timm alone, from the run folder alone, with a transform written out here."""
    import timm

    module = timm.create_model(f"local-dir:{plain_run}", pretrained=True).eval()
    labels = (plain_run / "labels.txt").read_text().splitlines()
    assert list(module.pretrained_cfg["label_names"]) == labels
    cfg = module.pretrained_cfg
    mean, std = (torch.tensor(cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    rows = (plain_run / "predictions.csv").read_text().splitlines()
    assert rows[0] == "filename,label,probability"
    for row in rows[1:]:
        name, label, probability = row.rsplit(",", 2)
        pixels = torch.from_numpy(np.array(Image.open(scenes / "validation" / name.removeprefix("validation/"))))
        with torch.inference_mode():
            logits = module(((pixels.permute(2, 0, 1) / 255 - mean) / std)[None])
        assert labels[int(logits.argmax())] == label
        assert float(logits.softmax(-1).max()) == pytest.approx(float(probability), abs=1e-4)


def test_the_same_command_gives_the_same_bytes(plain_run: Path, scenes: Path, tmp_path: Path) -> None:
    train(str(scenes), recipe(), tmp_path / "again")
    same_files(plain_run, tmp_path / "again")
    train(str(scenes), recipe(seed=1, epochs=1), tmp_path / "other")
    one, other = ((run / "history.jsonl").read_text().splitlines()[0] for run in (plain_run, tmp_path / "other"))
    assert json.loads(one)["train_loss"] != json.loads(other)["train_loss"]


def test_worker_processes_change_nothing(plain_run: Path, scenes: Path, tmp_path: Path) -> None:
    train(str(scenes), recipe(workers=2), tmp_path / "run")
    same_files(plain_run, tmp_path / "run")


class StoppedError(Exception):
    pass


@pytest.mark.parametrize(("stop_at", "optimizer"), [(1, "adamw"), (2, "adamw"), (3, "muon"), (5, "adamw")])
def test_resuming_after_any_step_gives_the_uninterrupted_result(
    stop_at: int, optimizer: str, scenes: Path, train_once: TrainOnce, tmp_path: Path
) -> None:
    settings = recipe(**FULL, epochs=3, checkpoint_minutes=1e-9, optimizer=optimizer)
    whole_run = train_once(scenes, settings)

    def stop(event: object) -> None:
        if isinstance(event, StepDone) and event.step == stop_at:
            raise StoppedError

    with pytest.raises(StoppedError):
        train(str(scenes), settings, tmp_path / "cut", report=stop)
    plans: list[Plan] = []
    train(
        str(scenes),
        settings,
        tmp_path / "cut",
        resume=True,
        report=lambda e: plans.append(e) if isinstance(e, Plan) else None,
    )
    assert plans[0].first_step == max(0, stop_at - 1)  # the state is written after a step is reported
    same_files(whole_run, tmp_path / "cut")


def test_a_run_is_never_overwritten(plain_run: Path, scenes: Path, tmp_path: Path) -> None:
    before = (plain_run / "model.safetensors").read_bytes()
    with pytest.raises(RunError, match="holds a run already"):
        train(str(scenes), recipe(), plain_run)
    assert train(str(scenes), recipe(), plain_run, resume=True).epochs == 2  # finished: nothing is left to do
    with pytest.raises(RunError, match=r"learning_rate = 0\.1 has no step left to change"):
        train(str(scenes), recipe(learning_rate=0.1), plain_run, resume=True)
    assert (plain_run / "model.safetensors").read_bytes() == before


def test_resuming_on_other_data_is_refused(scenes: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(scenes, tmp_path / "data"))

    def stop(event: object) -> None:
        if isinstance(event, EpochRow):
            raise StoppedError

    with pytest.raises(StoppedError):
        train(str(data), recipe(), tmp_path / "run", report=stop)
    picture = sorted((data / "train").rglob("*.png"))[0]
    Image.new("RGB", (32, 32)).save(picture)
    with pytest.raises(RunError, match=picture.name):
        train(str(data), recipe(), tmp_path / "run", resume=True)


def test_unreadable_pictures_are_set_aside(scenes: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(scenes, tmp_path / "data"))
    picture = sorted((data / "train").rglob("*.png"))[3]
    picture.write_bytes(picture.read_bytes()[:200])
    with pytest.raises(DataError, match="1 of 80 pictures cannot be read"):
        train(str(data), recipe(), tmp_path / "refused")
    train(str(data), recipe(max_unreadable=0.05), tmp_path / "run")
    record = json.loads((tmp_path / "run" / "data.json").read_text())
    assert [row["name"].rsplit("/", 1)[-1] for row in record["quarantine"]] == [picture.name]
    assert len(record["splits"]["train"]) == 55


def test_a_loss_that_is_not_finite_names_the_batch(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"The loss became .* step .*\.png"):
        train(str(scenes), recipe(learning_rate=1e30, clip_norm=0, weight_decay=0, warmup_epochs=0), tmp_path / "run")


def test_accumulation_is_the_larger_batch(plain_run: Path, scenes: Path, tmp_path: Path) -> None:
    """Without randomness inside the model, two micro-batches of 8 step like one batch of 16."""
    train(str(scenes), recipe(batch_size=8, accumulate=2), tmp_path / "halves")
    rows = [
        json.loads((run / "history.jsonl").read_text().splitlines()[-1]) for run in (plain_run, tmp_path / "halves")
    ]
    assert rows[0]["step"] == rows[1]["step"] == 8
    assert rows[0]["validation_loss"] == pytest.approx(rows[1]["validation_loss"], rel=1e-4)


def test_schedule_is_a_warm_up_and_a_cosine(scenes: Path, tmp_path: Path) -> None:
    rates: list[float] = []
    settings = recipe(epochs=5, warmup_epochs=1, final_lr_ratio=0.1)

    def watch(event: object) -> None:
        if isinstance(event, StepDone):
            rates.append(event.learning_rate)

    train(str(scenes), settings, tmp_path / "run", report=watch)
    peak, floor, warm, total = 2e-3, 2e-4, 4, 20
    for step, rate in enumerate(rates, start=1):
        cosine = floor + (peak - floor) * (1 + math.cos(math.pi * (step - warm) / (total - warm))) / 2
        assert rate == pytest.approx(peak * step / warm if step < warm else cosine, rel=1e-6), step
    assert rates[-1] == pytest.approx(floor)


def weights(run: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(run / "model.safetensors")


@pytest.mark.parametrize(("tune", "moves"), [("head", ("head.",)), ("last:1", ("head.", "norm.", "blocks.1."))])
def test_partial_tuning_moves_only_its_part(
    tune: str, moves: tuple[str, ...], plain_run: Path, scenes: Path, tmp_path: Path
) -> None:
    settings = recipe(model=str(plain_run), model_args={}, pretrained=True, tune=tune, weight_decay=0.5)
    train(str(scenes), settings, tmp_path / "run")
    before, after = weights(plain_run), weights(tmp_path / "run")
    changed_names = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed_names and all(name.startswith(moves) for name in changed_names)
    assert {prefix for prefix in moves if any(name.startswith(prefix) for name in changed_names)} == set(moves)


def test_lora_writes_a_plain_model(plain_run: Path, scenes: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    settings = recipe(model=str(plain_run), model_args={}, pretrained=True, tune="lora:4", ema=0.5)
    plans: list[Plan] = []
    result = train(
        str(scenes), settings, tmp_path / "run", report=lambda e: plans.append(e) if isinstance(e, Plan) else None
    )
    before, after = weights(plain_run), weights(tmp_path / "run")
    assert before.keys() == after.keys()
    assert plans[0].trainable < plans[0].parameters / 2
    changed_names = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("attn.qkv.weight" in name for name in changed_names) and not any(
        "norm" in name for name in changed_names
    )
    row = [r for r in map(json.loads, (tmp_path / "run" / "history.jsonl").read_text().splitlines()) if r["best"]][-1]
    assert result.metrics.accuracy == pytest.approx(
        row["validation_accuracy"], abs=1e-6
    )  # merged weights, same predictions


def test_too_many_blocks_are_refused(plain_run: Path, scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="the model has 2 blocks"):
        train(str(scenes), recipe(model=str(plain_run), model_args={}, tune="last:9"), tmp_path / "run")


def test_early_stopping(scenes: Path, tmp_path: Path) -> None:
    result = train(str(scenes), recipe(epochs=30, early_stopping=2, learning_rate=1e-12), tmp_path / "run")
    assert result.epochs < 30
    assert result.epochs - result.best_epoch == 2


def test_another_input_size_resamples_position_embeddings(plain_run: Path, scenes: Path, tmp_path: Path) -> None:
    plans: list[Plan] = []
    settings = recipe(model=str(plain_run), model_args={}, pretrained=True, image_size=48, epochs=1)
    train(str(scenes), settings, tmp_path / "run", report=lambda e: plans.append(e) if isinstance(e, Plan) else None)
    assert "Position embeddings were resampled from 4 x 4 to 6 x 6 patches." in plans[0].notes
    assert weights(tmp_path / "run")["pos_embed"].shape == (1, 37, 32)


def test_tensorboard_on_request(scenes: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    train(str(scenes), recipe(epochs=1, trackers="tensorboard"), tmp_path / "run")
    assert list((tmp_path / "run").rglob("events.out.tfevents.*"))


def test_two_trainings_never_share_a_folder(scenes: Path, tmp_path: Path) -> None:
    import fcntl

    (tmp_path / "run").mkdir()
    with (tmp_path / "run" / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(RunError, match=r"Another process is writing .*: wait for it, or choose another -o"):
            train(str(scenes), recipe(), tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] in ([], [".lock"])


@pytest.mark.parametrize("missing", ["data", "weights"])
def test_what_cannot_be_trained_leaves_nothing_behind(missing: str, scenes: Path, tmp_path: Path) -> None:
    data = tmp_path / "nowhere" if missing == "data" else scenes
    settings = recipe() if missing == "data" else recipe(pretrained=str(tmp_path / "nowhere.safetensors"))
    for folder in (tmp_path / "runs" / "deep" / "run", tmp_path / "run"):
        with pytest.raises((DataError, ModelError), match="nowhere"):
            train(str(data), settings, folder)
    assert list(tmp_path.iterdir()) == []

    empty, notes = tmp_path / "empty", tmp_path / "kept" / "notes.txt"
    for folder in (empty, notes.parent):
        folder.mkdir()
    notes.write_text("mine")
    for folder in (empty, notes.parent, empty / "new", notes.parent / "new"):
        with pytest.raises((DataError, ModelError), match="nowhere"):
            train(str(data), settings, folder)
    assert list(empty.iterdir()) == [] and list(notes.parent.iterdir()) == [notes], "what was there is untouched"


def test_moving_pictures_are_seen_by_no_other_seed(scenes: Path) -> None:
    """Step seeds: the same step draws the same numbers, another step others."""
    from vitrine.train.loop import _seed_micro_step

    _seed_micro_step(0, 5)
    first = torch.rand(3), np.random.rand(3)  # noqa: NPY002
    _seed_micro_step(0, 6)
    other = torch.rand(3)
    _seed_micro_step(0, 5)
    assert torch.equal(torch.rand(3), first[0]) and np.array_equal(np.random.rand(3), first[1])  # noqa: NPY002
    assert not torch.equal(first[0], other)
