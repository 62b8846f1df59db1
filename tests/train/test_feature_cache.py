"""Features that are computed once: the same training as without, bounded, resumable, and only where it is right."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from support.models import MICRO
from support.training import TrainOnce

from vitrine.config import CaptionSpec, Recipe, TransformSpec
from vitrine.data.batch_plan import BatchShard
from vitrine.data.captions.datasets import open_captions
from vitrine.data.sample_index import SampleIndex
from vitrine.data.sources import open_data
from vitrine.errors import RecipeError
from vitrine.models.finetune import LinearProbe, is_stochastic, linear_head
from vitrine.train import feature_cache
from vitrine.train.captioner import CaptionerTask
from vitrine.train.classifier import ClassifierTask
from vitrine.train.data import TrainingData
from vitrine.train.events import Plan, ProgressUpdate
from vitrine.train.feature_cache import FeatureCache, encode_once
from vitrine.train.loop import StepDone
from vitrine.train.run import train
from vitrine.train.settings import BatchSettings, TaskSettings

REPEATABLE = ("history.jsonl", "metrics.json", "predictions.csv", "model.safetensors")
NOTHING = TransformSpec()
SOME = TransformSpec(name="some", rotation=15, crop_scale=(0.6, 1.0), flip=0.5, brightness=0.3)


def recipe(start: Path, **changes: object) -> Recipe:
    settings = {
        "name": "head",
        "model": str(start),
        "tune": "head",
        "transforms": NOTHING,
        "image_size": 32,
        "batch_size": 10,
        "epochs": 4,
        "learning_rate": 2e-2,
        "workers": 0,
        "precision": "fp32",
    }
    return Recipe(**{**settings, **changes})  # type: ignore[arg-type]


class Watch:
    """The events of a training that say whether it cached features."""

    def __init__(self) -> None:
        self.plan: Plan | None = None
        self.read: list[ProgressUpdate] = []

    def __call__(self, event: object) -> None:
        if isinstance(event, Plan):
            self.plan = event
        if isinstance(event, ProgressUpdate) and "once" in event.what:
            self.read.append(event)

    @property
    def note(self) -> str:
        assert self.plan is not None
        return next(note for note in self.plan.notes if note.startswith(("Features of", "The frozen model")))


def train_and_watch(data: Path, settings: Recipe, run: Path) -> Watch:
    watch = Watch()
    train(str(data), settings, run, report=watch)
    return watch


def rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"transforms": SOME, "views": 3, "ema": 0.8},
        {"optimizer": "muon", "accumulate": 2, "label_smoothing": 0.1},
        {"precision": "bf16", "transforms": SOME, "views": 2},
    ],
    ids=["plain", "views", "muon", "bf16"],
)
def test_the_result_is_that_without_reuse(
    changes: dict[str, object], small_run: Path, small_scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = recipe(small_run, **changes)
    once = train_and_watch(small_scenes, settings, tmp_path / "once")
    assert once.note.startswith("Features of") and len({event.what for event in once.read}) == 2
    monkeypatch.setattr(feature_cache, "MAX_CACHE_BYTES", 100)
    again = train_and_watch(small_scenes, settings, tmp_path / "again")
    assert "would take" in again.note and not again.read
    loose = {"rel": 2e-2, "abs": 2e-2} if settings.precision == "bf16" else {"rel": 1e-4, "abs": 1e-5}
    for one, other in zip(rows(tmp_path / "once"), rows(tmp_path / "again"), strict=True):
        for name in ("train_loss", "validation_loss", "learning_rate"):
            assert one[name] == pytest.approx(other[name], **loose), name
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("once", "again"))
    start = load_file(small_run / "model.safetensors")
    assert one.keys() == other.keys() == start.keys()
    changed_names = {name for name in one if not torch.equal(one[name], start[name])}
    assert changed_names == {"head.weight", "head.bias"}
    for name in changed_names:
        torch.testing.assert_close(one[name], other[name], rtol=loose["rel"], atol=loose["abs"])


def test_a_head_alone_is_what_gradient_descent_on_the_features_gives(
    small_run: Path, small_scenes: Path, tmp_path: Path
) -> None:
    """Logistic regression on features that timm computes, with torch's own optimizer and this recipe's schedule."""
    settings = recipe(small_run, epochs=3, batch_size=48, warmup_epochs=0, final_lr_ratio=1, clip_norm=0)
    train(str(small_scenes), settings, tmp_path / "run")
    module = timm.create_model(f"local-dir:{small_run}", pretrained=True).eval()
    from PIL import Image

    paths = sorted((small_scenes / "train").rglob("*.png"))
    classes = sorted({path.parent.name for path in paths})
    labels = torch.tensor([classes.index(path.parent.name) for path in paths])
    pixels = torch.stack([torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) for path in paths]) / 127.5 - 1
    with torch.no_grad():
        features = module.forward_features(pixels)[:, 0]
    head = module.head.requires_grad_(True)
    groups = [{"params": [head.bias], "weight_decay": 0.0}, {"params": [head.weight], "weight_decay": 0.05}]
    optimizer = torch.optim.AdamW(groups, lr=2e-2)
    losses = []
    for _ in range(3):
        loss = torch.nn.functional.cross_entropy(head(features), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert [row["train_loss"] for row in rows(tmp_path / "run")] == pytest.approx(losses, rel=1e-4)


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("stop_at", [2, 7])
def test_resuming_is_equal_to_the_bit(
    stop_at: int, small_run: Path, small_scenes: Path, train_once: TrainOnce, tmp_path: Path
) -> None:
    settings = recipe(small_run, transforms=SOME, views=2, ema=0.9, checkpoint_minutes=1e-9)
    whole_run = train_once(small_scenes, settings)

    def stop(event: object) -> None:
        if isinstance(event, StepDone) and event.step == stop_at:
            raise StoppedError

    with pytest.raises(StoppedError):
        train(str(small_scenes), settings, tmp_path / "cut", report=stop)
    state = torch.load(tmp_path / "cut" / "state" / "training.pt", weights_only=True)
    assert set(state["module"]) == {"head.weight", "head.bias"}, "a checkpoint holds what is trained"
    train(str(small_scenes), settings, tmp_path / "cut", resume=True)
    for name in REPEATABLE:
        assert (whole_run / name).read_bytes() == (tmp_path / "cut" / name).read_bytes(), name


def test_a_training_that_kept_features_resumes_without_them(
    small_run: Path, small_scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a version that keeps less."""
    settings = recipe(small_run, checkpoint_minutes=1e-9)
    train(str(small_scenes), settings, tmp_path / "whole")

    def stop(event: object) -> None:
        if isinstance(event, StepDone) and event.step == 7:
            raise StoppedError

    with pytest.raises(StoppedError):
        train(str(small_scenes), settings, tmp_path / "cut", report=stop)
    monkeypatch.setattr(feature_cache, "MAX_CACHE_BYTES", 100)
    watch = Watch()
    train(str(small_scenes), settings, tmp_path / "cut", resume=True, report=watch)
    assert "would take" in watch.note
    one, other = (load_file(tmp_path / name / "model.safetensors")["head.weight"] for name in ("whole", "cut"))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_the_plan_counts_all_parameters_and_states_the_memory(
    small_run: Path, small_scenes: Path, tmp_path: Path
) -> None:
    watch = train_and_watch(small_scenes, recipe(small_run, epochs=1, transforms=SOME, views=3), tmp_path / "run")
    assert watch.plan is not None
    whole = sum(value.numel() for value in load_file(tmp_path / "run" / "model.safetensors").values())
    assert (watch.plan.parameters, watch.plan.trainable) == (whole, 32 * 7 + 7)
    size = (3 * 48 + 24) * 32 * 4 / 2**20
    assert f"3 versions of 48 training pictures are computed once and kept: up to {size:.1f} MiB" in watch.note
    assert [event.done for event in watch.read if "training" in event.what][-1] == 3 * 48


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"transforms": SOME}, "views = N"),
        ({"mixup": 0.2}, "mixup and cutmix"),
        ({"drop_path": 0.1}, "drops parts at random"),
        ({"patch_drop": 0.1}, "drops parts at random"),
        ({"model_args": {"drop_rate": 0.1}}, "drops parts at random"),
    ],
)
def test_features_are_not_kept_where_that_changes_the_result(
    changes: dict[str, object], why: str, small_run: Path, small_scenes: Path, tmp_path: Path
) -> None:
    watch = train_and_watch(small_scenes, recipe(small_run, epochs=1, **changes), tmp_path / "run")
    assert why in watch.note and not watch.read


def test_other_tuning_says_nothing_of_features(small_run: Path, small_scenes: Path, tmp_path: Path) -> None:
    watch = train_and_watch(small_scenes, recipe(small_run, epochs=1, tune="last:1"), tmp_path / "run")
    assert watch.plan is not None and not watch.read
    assert not any("Features of" in note or "frozen model" in note for note in watch.plan.notes)


def test_views_take_turns() -> None:
    def views(**changes: object) -> list[int]:
        settings = BatchSettings.from_recipe(recipe(Path("x"), **changes))
        return [settings.view(epoch) for epoch in range(5)]

    assert views(views=3, transforms=SOME) == [0, 1, 2, 0, 1]
    assert views(transforms=SOME) == [0, 1, 2, 3, 4]
    assert views() == [0, 0, 0, 0, 0]
    with pytest.raises(RecipeError, match="views = -1"):
        recipe(Path("x"), views=-1)


def test_a_stream_has_no_versions() -> None:
    stream = open_data("scenes:base")
    data = TrainingData(stream, stream.splits["train"], (), {}, SampleIndex({}, (), {}))
    captions = dataclasses.replace(data, train=open_captions("scenes:base").splits["train"])
    settings = TaskSettings.from_recipe(Recipe(name="x", model="vitrine/scenes-tiny", views=2))
    with pytest.raises(RecipeError, match="views = 2 cannot be used: expected 0, as these"):
        ClassifierTask(settings, data)
    with pytest.raises(RecipeError, match="views = 2 cannot be used: expected 0, as these"):
        CaptionerTask(settings, CaptionSpec(), captions)


def test_views_hold_for_every_kind_of_tuning(small_run: Path, small_scenes: Path, tmp_path: Path) -> None:
    """With a learning rate of next to nothing, the loss of an epoch depends on its pictures alone."""
    settings = recipe(small_run, tune="all", transforms=SOME, views=2, learning_rate=1e-12, weight_decay=0)
    train(str(small_scenes), settings, tmp_path / "run")
    losses = [row["train_loss"] for row in rows(tmp_path / "run")]
    assert losses[2:] == pytest.approx(losses[:2], rel=1e-6) and losses[0] != pytest.approx(losses[1], rel=1e-6)


def test_cached_features_are_by_version_and_position_whatever_their_shapes() -> None:
    cache, values = FeatureCache(3, views=2), {}
    for view in range(2):
        for index in (0, 2):
            values[view, index] = torch.randn(4, 2 + index)
            cache.add(view, index, values[view, index])
    assert cache.count == 4 and not cache.has(0, 1) and not cache.has(1, 1)
    for view in range(2):
        for value, index in zip(cache.get(view, [2, 0]), (2, 0), strict=True):
            assert torch.equal(value, values[view, index])
    settings = BatchSettings.from_recipe(recipe(Path("x"), batch_size=2, views=2))
    batches = list(cache.batches(settings, 1, 0, BatchShard()))
    assert sorted(index for batch in batches for index in batch.indices) == [0, 2]
    assert [batch.indices for batch in cache.batches(settings, 1, 1, BatchShard())] == [batches[1].indices]


def test_what_is_too_large_is_noticed_at_the_first_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    batch_numbers: list[int] = []

    def batches() -> object:
        for number in range(3):
            batch_numbers.append(number)
            yield type("B", (), {"indices_B": torch.tensor([2 * number, 2 * number + 1])})()

    def encode(batch: object) -> list[torch.Tensor]:
        return [torch.zeros(8), torch.zeros(8)]

    monkeypatch.setattr(feature_cache, "MAX_CACHE_BYTES", 6 * 32)
    cache = encode_once([batches], encode, 6, lambda *_: None)  # type: ignore[list-item]
    assert cache is not None and cache.count == 6 and len(batch_numbers) == 3
    monkeypatch.setattr(feature_cache, "MAX_CACHE_BYTES", 6 * 32 - 1)
    assert encode_once([batches], encode, 6, lambda *_: None) is None and len(batch_numbers) == 4  # type: ignore[list-item]


def test_the_model_is_asked_what_its_head_reads() -> None:
    plain = timm.create_model("vit_tiny_patch16_224", num_classes=3, **MICRO)
    assert linear_head(plain, (32, 32)) is plain.head and plain.training and not plain.head._forward_pre_hooks
    two_heads = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=3, **MICRO)
    assert linear_head(two_heads, (32, 32)) is None, "two classifiers"
    plain.fc_norm = torch.nn.LayerNorm(32)
    plain.forward_head = lambda x, pre_logits=False: x[:, 1] if pre_logits else plain.head(x[:, 0])
    assert linear_head(plain, (32, 32)) is None, "it reads something else"


def test_the_head_of_a_frozen_model_is_all_that_it_has() -> None:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3, drop_path_rate=0.2, **MICRO)
    beside = LinearProbe(model, model.head)
    assert is_stochastic(model) and not is_stochastic(timm.create_model("vit_tiny_patch16_224", **MICRO))
    assert set(beside.state_dict()) == {"head.weight", "head.bias"}
    beside.eval()
    assert not model.training
    pixels = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(beside(pixels), model(pixels))
    torch.testing.assert_close(beside(beside.features(pixels)), model(pixels))
    import copy

    average = copy.deepcopy(beside)
    assert average.model is model and average.head is not model.head
    head_weight = model.head.weight.clone()
    torch.nn.init.normal_(average.head.weight)
    with average.merged() as whole:
        assert torch.equal(whole.head.weight, average.head.weight)
    assert torch.equal(model.head.weight, head_weight)
    beside.double()
    assert model.patch_embed.proj.weight.dtype == torch.float64, "what is frozen moves with it"
