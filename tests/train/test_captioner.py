"""Training and evaluating captioners: teacher forcing, kept features, runs that repeat and resume to the byte."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from support.paths import SHARED
from support.training import TrainOnce
from torch.nn import functional

from vitrine.caption.evaluate import evaluate_captioner
from vitrine.caption.model import open_captioner
from vitrine.caption.tokenizer import Vocabulary, train_vocabulary
from vitrine.config import CaptionSpec, Recipe, TransformSpec, load_recipe, override, recipe_from_toml, recipe_to_toml
from vitrine.config.load import available_recipes
from vitrine.config.preprocessing import CaptionInput
from vitrine.data.captions.transforms import CaptionTrainTransform, CaptionTransform
from vitrine.data.decode import FilePicture
from vitrine.data.loader import load_batch
from vitrine.data.samples import Sample
from vitrine.data.scenes import write_scenes
from vitrine.errors import ModelError, RecipeError
from vitrine.models.captioner.build import build_captioner
from vitrine.models.captioner.checkpoint import load_captioner_checkpoint
from vitrine.models.captioner.config import CaptionModelConfig
from vitrine.models.captioner.model import CaptionModel, Features
from vitrine.models.captioner_folder import is_captioner_folder
from vitrine.models.finetune import captioner_parameter_groups
from vitrine.report.document import CaptionView, Gallery
from vitrine.report.sections.captions import build_captioner_section
from vitrine.runs.folder import RunFolder
from vitrine.runs.record import read_record
from vitrine.train.losses import CaptionBatch, Captioning, TeacherForcing, pad_captions
from vitrine.train.optimizer import make_optimizer, make_schedule
from vitrine.train.run import train
from vitrine.train.settings import DataSettings, OptimizerSettings, ScheduleSettings, TaskSettings

COCO = SHARED / "coco"
Command = Callable[..., tuple[int, str, str]]
SPEC = CaptionSpec(
    vocabulary_size=120, width=32, heads=2, encoder_layers=1, decoder_layers=1, feed_forward=64, dropout=0.1, longest=30
)
REPEATABLE = ("history.jsonl", "metrics.json", "captions.csv", "model.safetensors", "data.json", "config.json")
REPEATABLE = (*REPEATABLE, "tokenizer.json")


def recipe(**changes: Any) -> Recipe:
    settings: dict[str, Any] = {
        "name": "micro",
        "model": "vit_tiny_patch16_224",
        "model_args": {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2},
        "pretrained": False,
        "image_size": 32,
        "caption": SPEC,
        "batch_size": 16,
        "epochs": 2,
        "learning_rate": 2e-3,
        "clip_norm": 0.1,
        "workers": 0,
        "precision": "fp32",
    }
    return Recipe(**{**settings, **changes})


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(
        tmp_path_factory.mktemp("data") / "scenes", "base", {"train": 40, "validation": 12, "test": 10}, size=32
    )


@pytest.fixture(scope="module")
def captioner_run(scenes: Path, train_once: TrainOnce) -> Path:
    return train_once(scenes, recipe())


def same_files(one: Path, other: Path) -> None:
    for name in REPEATABLE:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def tiny_model(dropout: float = 0.0, pad: int = 0) -> CaptionModel:
    torch.manual_seed(3)
    config = CaptionModelConfig(
        image_model="vit_tiny_patch16_224",
        image_args={"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2},
        vocabulary_size=20,
        width=16,
        heads=2,
        encoder_layers=1,
        decoder_layers=2,
        feed_forward=32,
        dropout=dropout,
        head_widths=(),
        max_length=12,
        start=1,
        end=2,
        pad=pad,
    )
    return CaptionModel(config)


def batch_of(captions: list[list[int]], counts: tuple[int, ...]) -> CaptionBatch:
    torch.manual_seed(1)
    images = tuple(torch.randint(0, 256, (16, 16, 3), dtype=torch.uint8) for _ in counts)
    ids_BT, length_B = pad_captions([[1, *ids, 2] for ids in captions], 0)
    return CaptionBatch(images, ids_BT, length_B, counts, torch.arange(len(counts)))


CAPTIONS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 4]]


def slow_losses(model: CaptionModel, batch: CaptionBatch, transform: CaptionTransform) -> torch.Tensor:
    """Every caption by itself, one step at a time through the decoder's cache: no padding anywhere."""
    losses, row = [], 0
    for picture, count in zip(batch.images, batch.captions_P, strict=True):
        for _ in range(count):
            ids = batch.ids_BT[row, : batch.length_B[row]].tolist()
            encoder_output, state = model.encode([transform.normalise(picture)]), None
            for token, target in pairwise(ids):
                step = model.step(torch.tensor([token]), encoder_output, state)
                state = step.state
                losses.append(-step.logits_BV[0].log_softmax(-1)[target])
            row += 1
    return torch.stack(losses)


@pytest.mark.parametrize("counts", [(1, 1, 1), (2, 1), (1, 2), (3,)])
def test_the_loss_is_the_mean_over_real_tokens_only(counts: tuple[int, ...]) -> None:
    transform, batch = CaptionTransform(CaptionInput(16)), batch_of(CAPTIONS, counts)
    module = TeacherForcing(tiny_model(), frozen=False).eval()
    loss = Captioning(transform, 0.0, 0.0, 0, torch.device("cpu"))(module, batch, mix=False)
    with torch.no_grad():
        slow = slow_losses(module.captioner, batch, transform)
    assert loss.count == len(slow) == 3 + 1 + 6 + 3, "every piece and every end"
    assert loss.mean.item() == pytest.approx(slow.mean().item(), abs=1e-5)


def test_padding_has_no_gradient_and_changes_nothing() -> None:
    transform, objective = (
        CaptionTransform(CaptionInput(16)),
        Captioning(CaptionTransform(CaptionInput(16)), 0.1, 0.0, 0, torch.device("cpu")),
    )
    module = TeacherForcing(tiny_model(), frozen=False).eval()
    plain = objective(module, batch_of(CAPTIONS, (1, 1, 1)), mix=False)
    batch = batch_of(CAPTIONS, (1, 1, 1))
    wider = CaptionBatch(
        batch.images, functional.pad(batch.ids_BT, (0, 3)), batch.length_B, batch.captions_P, batch.indices_P
    )
    assert objective(module, wider, mix=False).mean.item() == pytest.approx(plain.mean.item(), abs=1e-6)
    plain.mean.backward()
    words = module.captioner.embeddings.words.weight.grad
    assert words is not None and not words[0].any() and words[5].any()
    assert transform.spec.long_side == 16


def test_label_smoothing_is_that_of_the_formula() -> None:
    transform, batch = CaptionTransform(CaptionInput(16)), batch_of([[5, 6]], (1,))
    module = TeacherForcing(tiny_model(), frozen=False).eval()
    with torch.no_grad():
        logits, _ = module.captioner(
            module.captioner.encode([transform.normalise(batch.images[0])]), torch.tensor([[1, 5, 6]])
        )
        loss = Captioning(transform, 0.2, 0.0, 0, torch.device("cpu"))(module, batch, mix=False)
    log_p = logits[0].log_softmax(-1)
    expected = [0.8 * -log_p[i, target] + 0.2 * -log_p[i].mean() for i, target in enumerate((5, 6, 2))]
    assert loss.mean.item() == pytest.approx(torch.stack(expected).mean().item(), abs=1e-5)


def test_word_dropout_hides_words_before_but_never_the_start() -> None:
    inputs: list[torch.Tensor] = []

    class Spy(TeacherForcing):
        def forward(
            self, images: Any, ids_BT: torch.Tensor, positions_N: torch.Tensor, captions_P: Any
        ) -> torch.Tensor:
            inputs.append(ids_BT)
            return super().forward(images, ids_BT, positions_N, captions_P)

    module, batch = Spy(tiny_model(), frozen=False), batch_of([[5] * 10] * 40, (40,))
    objective = Captioning(CaptionTransform(CaptionInput(16)), 0.0, 0.3, 0, torch.device("cpu"))
    torch.manual_seed(0)
    objective(module.train(), batch, mix=False)
    objective(module.eval(), batch, mix=False)
    assert (inputs[0][:, 0] == 1).all()
    assert float((inputs[0][:, 1:] == 0).float().mean()) == pytest.approx(0.3, abs=0.08)
    assert not (inputs[1] == 0).any(), "only in training"


def test_the_image_encoder_has_its_own_learning_rate() -> None:
    module = TeacherForcing(tiny_model(), frozen=False)
    settings = recipe(learning_rate=1e-4, weight_decay=0.1, warmup_epochs=0)
    groups = captioner_parameter_groups(module, weight_decay=0.1, backbone_lr_scale=0.1)
    optimizer = make_optimizer(module, OptimizerSettings.from_recipe(settings), groups)
    make_schedule(optimizer, ScheduleSettings.from_recipe(settings), 10).step_update(1)
    rates = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    assert len(rates) == len(list(module.parameters()))
    for name, parameter in module.captioner.named_parameters():
        rate, decay = rates[id(parameter)]
        assert rate == pytest.approx(1e-5 if name.startswith("backbone.") else 1e-4, rel=0.1), name
        vector = parameter.ndim < 2 or name.startswith("embeddings.") or name.endswith(("pos_embed", "cls_token"))
        assert decay == (0.0 if vector else 0.1), name


def test_a_frozen_image_encoder_stays_as_it_is_and_in_eval_mode() -> None:
    module = TeacherForcing(tiny_model(), frozen=True).train()
    before = {name: value.clone() for name, value in module.captioner.backbone.state_dict().items()}
    assert not module.captioner.backbone.training and module.captioner.decoder.training
    groups = captioner_parameter_groups(module, weight_decay=0.05, backbone_lr_scale=0.005)
    optimizer = make_optimizer(module, OptimizerSettings.from_recipe(recipe()), groups)
    loss = Captioning(CaptionTransform(CaptionInput(16)), 0.0, 0.0, 0, torch.device("cpu"))(
        module, batch_of(CAPTIONS, (1, 2)), mix=False
    )
    loss.mean.backward()
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in module.captioner.backbone.state_dict().items())


def test_cached_features_give_the_loss_of_the_pictures_themselves() -> None:
    transform, objective = (
        CaptionTransform(CaptionInput(16)),
        Captioning(CaptionTransform(CaptionInput(16)), 0.0, 0.0, 0, torch.device("cpu")),
    )
    module, batch = TeacherForcing(tiny_model(), frozen=True).eval(), batch_of(CAPTIONS, (1, 2))
    with torch.no_grad():
        features = [module.captioner.encode_image([transform.normalise(each)]).values_BDRC[0] for each in batch.images]
        cached_batch = CaptionBatch(
            Features.join(features), batch.ids_BT, batch.length_B, batch.captions_P, batch.indices_P
        )
        assert objective(module, cached_batch, mix=False).mean.item() == pytest.approx(
            objective(module, batch, mix=False).mean.item(), abs=1e-6
        )


def photograph(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(width)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [(50, 30), (30, 50), (40, 40), (200, 20)])
@pytest.mark.parametrize("multiple", [1, 8])
def test_without_changes_training_sees_what_prediction_sees(size: tuple[int, int], multiple: int) -> None:
    transform, image = CaptionTransform(CaptionInput(40, multiple)), photograph(*size)
    plain = CaptionTrainTransform(TransformSpec(), transform)
    assert not plain.spec.is_random
    pixels = plain(image, np.random.default_rng(0))
    assert torch.equal(transform.normalise(pixels), transform(image))
    assert pixels.shape[0] % multiple == pixels.shape[1] % multiple == 0


def test_random_changes_keep_the_long_side_and_are_repeatable() -> None:
    spec = TransformSpec(rotation=20, crop_scale=(0.5, 1.0), flip=0.5, brightness=0.3)
    changes, image = CaptionTrainTransform(spec, CaptionTransform(CaptionInput(40))), photograph(60, 45)
    assert changes.spec.is_random
    versions = [changes(image, np.random.default_rng(seed)) for seed in range(20)]
    assert all(max(each.shape[:2]) in (39, 40) for each in versions)
    assert len({each.tobytes() for each in versions}) == 20
    assert all(np.array_equal(each, changes(image, np.random.default_rng(i))) for i, each in enumerate(versions))


def test_patches_are_filled_to_the_nearest_one() -> None:
    at = CaptionTransform(CaptionInput(64, 16)).geometry(500, 375)
    assert (at.resized_width, at.resized_height) == (64, 48)
    assert CaptionTransform(CaptionInput(64, 16)).geometry(1000, 10).resized_height == 16
    across, down = CaptionTransform(CaptionInput(64, 16)).geometry(500, 300).scale
    assert across == pytest.approx(64 / 500) and down == pytest.approx(32 / 300)


def test_an_unreadable_picture_is_named_and_the_others_are_there(tmp_path: Path) -> None:
    photograph(20, 10).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    samples = [Sample(name, FilePicture(tmp_path / name)) for name in ("good.png", "bad.png")]
    changes = CaptionTrainTransform(TransformSpec(), CaptionTransform(CaptionInput(16)))
    batch = load_batch(samples, [4, 9], changes, seed=0, epoch=0)
    assert len(batch) == 1 and batch.indices_B.tolist() == [4]
    assert [index for index, _ in batch.unreadable] == [9]


def test_a_run_holds_what_opens_it_again(captioner_run: Path, scenes: Path) -> None:
    names = {path.name for path in captioner_run.iterdir()}
    assert names >= {*REPEATABLE, "recipe.toml", "environment.json", "timings.jsonl"} and "state" not in names
    assert is_captioner_folder(captioner_run) and not is_captioner_folder(scenes)
    checkpoint = load_captioner_checkpoint(captioner_run)
    assert checkpoint.input.multiple == 8 and checkpoint.input.long_side == 32
    metrics = json.loads((captioner_run / "metrics.json").read_text())
    rows = [json.loads(line) for line in (captioner_run / "history.jsonl").read_text().splitlines()]
    assert metrics["n"] == 12 and len(rows) == 2
    best = [row for row in rows if row["best"]][-1]
    assert metrics["piece_accuracy"] == pytest.approx(best["validation_accuracy"], abs=1e-6)
    assert metrics["negative_log_likelihood"] == pytest.approx(best["validation_loss"], abs=1e-4)
    lines = (captioner_run / "captions.csv").read_text().splitlines()
    assert lines[0] == "filename,caption,log_probability" and len(lines) == 13
    assert "labels.txt" not in names


def test_the_same_command_writes_the_same_bytes(captioner_run: Path, scenes: Path, tmp_path: Path) -> None:
    train(str(scenes), recipe(), tmp_path / "again")
    same_files(captioner_run, tmp_path / "again")


@pytest.mark.parametrize("tune", ["all", "head"])
def test_a_stopped_training_ends_as_if_it_had_not_been(
    scenes: Path, tmp_path: Path, tune: str, train_once: TrainOnce, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vitrine.train import trainer

    whole_run, settings = train_once(scenes, recipe(tune=tune)), recipe(tune=tune, checkpoint_minutes=1e-9)
    original, saves = trainer.Trainer._save_checkpoint, iter(range(100))

    def save_and_stop(session: trainer.Trainer) -> None:
        original(session)
        if next(saves) == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "_save_checkpoint", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            train(str(scenes), settings, tmp_path / "stopped")
    assert not (tmp_path / "stopped" / "metrics.json").exists()
    train(str(scenes), settings, tmp_path / "stopped", resume=True)
    same_files(whole_run, tmp_path / "stopped")


def test_features_are_kept_only_where_that_changes_nothing(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vitrine.models.captioner.model import CaptionModel
    from vitrine.train import feature_cache

    count = 0
    original = CaptionModel.encode_image

    def encode_and_count(self: CaptionModel, pixels: Any) -> Features:
        nonlocal count
        count += len(pixels)
        return original(self, pixels)

    monkeypatch.setattr(CaptionModel, "encode_image", encode_and_count)
    train(str(scenes), recipe(tune="head", epochs=3), tmp_path / "kept")
    cached_count, count = count, 0
    monkeypatch.setattr(feature_cache, "MAX_CACHE_BYTES", 0)
    train(str(scenes), recipe(tune="head", epochs=3), tmp_path / "not")
    assert cached_count < 40 + 12 + 3 * 12 < count, "pictures were encoded once, and for what is written at the end"
    one, other = (load_captioner_checkpoint(tmp_path / name).model.state_dict() for name in ("kept", "not"))
    assert all(torch.allclose(value, other[name], atol=1e-4) for name, value in one.items())


def test_features_of_several_versions_are_kept(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vitrine.train import feature_cache

    changes = TransformSpec(name="some", rotation=20, crop_scale=(0.5, 1.0), brightness=0.4)
    settings = recipe(tune="head", epochs=3, transforms=changes, views=2)
    train(str(scenes), settings, tmp_path / "kept")
    monkeypatch.setattr(feature_cache, "MAX_CACHE_BYTES", 0)
    train(str(scenes), settings, tmp_path / "not")
    cached_losses, losses = (
        [json.loads(row)["train_loss"] for row in (tmp_path / name / "history.jsonl").read_text().splitlines()]
        for name in ("kept", "not")
    )
    assert cached_losses == pytest.approx(losses, rel=1e-4)


def test_captions_are_drawn_anew_where_there_are_too_many(scenes: Path) -> None:
    from vitrine.train.captioner import CaptionerTask
    from vitrine.train.data import prepare_captions

    few = recipe(caption=CaptionSpec(**{**vars(SPEC), "captions_a_picture": 2}))
    data = prepare_captions(str(scenes), DataSettings.from_recipe(few))
    assert few.caption is not None
    task = CaptionerTask(TaskSettings.from_recipe(few), few.caption, data)
    captions = ("a", "b", "c", "d", "e")
    samples = [task._sampler.sample(captions, 3, epoch) for epoch in range(60)]
    assert all(len(set(each)) == 2 for each in samples)
    counts = [sum(text in each for each in samples) for text in captions]
    assert min(counts) > 10, "each of them comes now and then"
    assert task._sampler.sample(captions, 3, 7) == task._sampler.sample(captions, 3, 7)
    assert task._sampler.sample(("a", "b"), 3, 0) == ("a", "b") and task._sampler.sample(captions, 3, None) == captions


def test_a_captioner_is_trained_on_with_its_own_words(captioner_run: Path, scenes: Path, tmp_path: Path) -> None:
    result = train(str(scenes), recipe(model=str(captioner_run), epochs=1), tmp_path / "more")
    one, other = load_captioner_checkpoint(captioner_run), load_captioner_checkpoint(result.run)
    assert one.model.config == other.model.config
    assert one.vocabulary.read_bytes() == other.vocabulary.read_bytes()
    before = json.loads((captioner_run / "metrics.json").read_text())["negative_log_likelihood"]
    assert json.loads((result.run / "metrics.json").read_text())["negative_log_likelihood"] < before


def test_a_vocabulary_of_ones_own(scenes: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (scenes / "captions.jsonl").read_text().splitlines()]
    words = train_vocabulary((caption["text"] for line in lines for caption in line["captions"]), 90)
    words.save(tmp_path / "vocab.txt")
    spec = CaptionSpec(**{**vars(SPEC), "vocabulary": str(tmp_path / "vocab.txt")})
    run = train(str(scenes), recipe(epochs=1, caption=spec), tmp_path / "run").run
    assert open_captioner(str(run)).vocabulary.size == words.size


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / "tokenizer.json").unlink(), "it has no tokenizer.json"),
        (lambda run: (run / "model.safetensors").write_bytes(b"no"), "is damaged or is not a safetensors file"),
        (lambda run: (run / "config.json").write_text('{"architecture": "vitrine-captioner"}'), "does not describe"),
        (
            lambda run: (run / "config.json").write_text(
                (run / "config.json").read_text().replace('"width": 32', '"width": 64')
            ),
            "does not fit",
        ),
    ],
)
def test_a_damaged_run_is_named(
    captioner_run: Path, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    shutil.copytree(captioner_run, tmp_path / "run")
    damage(tmp_path / "run")
    with pytest.raises(ModelError, match=message):
        open_captioner(str(tmp_path / "run"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixup": 0.2}, "mixup = 0.2 cannot be used: expected 0"),
        ({"decoded_cache": 2}, "decoded_cache = 2 cannot be used: expected 0"),
        ({"tune": "lora"}, "tune = 'lora' cannot be used: expected all or head"),
        ({"layer_decay": 0.7}, "layer_decay = 0.7 cannot be used: expected 1"),
        ({"transforms": TransformSpec(erase=0.1)}, "transforms.erase = 0.1 cannot be used"),
        ({"transforms": TransformSpec(turn=0.1)}, "transforms.turn = 0.1 cannot be used"),
        ({"caption": 3}, "caption = 3 cannot be used"),
    ],
)
def test_what_does_not_apply_to_captioners_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe(**changes)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vocabulary", ""),
        ("vocabulary_size", 0),
        ("stage", 0.5),
        ("width", 30),
        ("heads", 5),
        ("encoder_layers", -1),
        ("decoder_layers", 0),
        ("feed_forward", 0),
        ("head_width", -1),
        ("dropout", 1.0),
        ("longest", 2),
        ("captions_a_picture", 0),
        ("word_dropout", -0.1),
        ("backbone_learning_rate", -1e-5),
    ],
)
def test_a_wrong_caption_field_is_refused(field: str, value: object) -> None:
    with pytest.raises(RecipeError, match="cannot be used: expected"):
        CaptionSpec(**{field: value})  # type: ignore[arg-type]


def test_caption_settings_survive_toml_and_settings() -> None:
    other = override(recipe(), ["caption.width=64 caption.word_dropout=0.25"])
    assert other.caption is not None and (other.caption.width, other.caption.word_dropout) == (64, 0.25)
    assert recipe_from_toml(recipe_to_toml(other), "x") == other
    with pytest.raises(RecipeError, match=r"no recipe field caption\.widht; the nearest name is caption\.width"):
        override(recipe(), ["caption.widht=3"])
    captioners = [name for name in available_recipes() if load_recipe(name).caption is not None]
    assert len(captioners) >= 3


def test_an_evaluation_says_what_words_look_at(captioner_run: Path, scenes: Path, tmp_path: Path) -> None:
    evaluation = evaluate_captioner(str(captioner_run), str(scenes), out=tmp_path / "out")
    assert evaluation.split == "test" and len(evaluation.captions) == 10
    assert evaluation.human_grounding is not None and evaluation.human_grounding.nouns > 10
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"metrics.json", "captions.csv", "grounding.png"}
    content = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert content["captions"]["predicted"]["pictures"] == 10
    text = evaluation.table()
    assert "CIDEr" in text and "Do words look at what they name?" in text
    again = evaluate_captioner(str(captioner_run), str(scenes), batch_size=3)
    assert [each.caption for each in again.captions] == [each.caption for each in evaluation.captions]
    assert again.negative_log_likelihood == pytest.approx(evaluation.negative_log_likelihood, abs=1e-4)


def test_the_likelihood_of_human_captions_is_that_of_the_validation(captioner_run: Path, tmp_path: Path) -> None:
    """One caption a picture, so that an evaluation's first caption is all that the training's validation sees."""
    folder = tmp_path / "one"
    folder.mkdir()
    rows = ["file,caption,split"]
    for i in range(6):
        photograph(32, 32 - 4 * (i % 2)).save(folder / f"{i}.png")
        rows.append(f"{i}.png,a large red star,{'train' if i < 3 else 'validation'}")
    (folder / "captions.csv").write_text("\n".join(rows) + "\n")
    run = train(str(folder), recipe(model=str(captioner_run), epochs=1), tmp_path / "run").run
    metrics = json.loads((run / "metrics.json").read_text())
    evaluation = evaluate_captioner(str(run), str(folder), split="validation")
    assert evaluation.tokens == metrics["pieces"]
    assert evaluation.negative_log_likelihood == pytest.approx(metrics["negative_log_likelihood"], abs=1e-4)
    assert evaluation.predicted_grounding is None and "do not say where things are" in evaluation.table()


def test_a_report_shows_only_pictures_that_are_as_they_were(captioner_run: Path, scenes: Path, tmp_path: Path) -> None:
    shutil.copytree(scenes, tmp_path / "scenes")
    record = read_record("run", RunFolder(captioner_run))
    record = replace(record, data={**record.data, "reference": str(tmp_path / "scenes")})

    def picture_names() -> list[str]:
        (gallery,) = (each for each in build_captioner_section(record, 1).blocks if isinstance(each, Gallery))
        return [view.picture.name for view in gallery.views if isinstance(view, CaptionView)]

    before = picture_names()
    assert len(before) == 4 and set(before) <= record.predictions.keys()
    shutil.copy(tmp_path / "scenes" / before[1], tmp_path / "scenes" / before[0])
    assert picture_names() == before[1:]


def test_options_of_the_other_kind_are_refused(
    captioner_run: Path, small_run: Path, scenes: Path, vitrine_command: Command
) -> None:
    status, _, err = vitrine_command("evaluate", captioner_run, scenes, "--expect", "0.9")
    assert status == 2 and "--expect is for classifiers; this is a captioner" in err
    status, _, err = vitrine_command("evaluate", small_run, scenes, "--beams", "3")
    assert status == 2 and "--beams is for captioners; this is a classifier" in err


def test_the_command_line_trains_captions_and_evaluates(scenes: Path, tmp_path: Path, vitrine_command: Command) -> None:
    (tmp_path / "micro.toml").write_text(recipe_to_toml(recipe(epochs=1)))
    status, out, err = vitrine_command("train", scenes, "--recipe", tmp_path / "micro.toml", "-o", tmp_path / "run")
    assert status == 0 and "word pieces are the likeliest" in out and "0 classes" not in err
    (tmp_path / "pictures").mkdir()
    for picture in sorted((scenes / "test").rglob("*.png"))[:2]:
        shutil.copy(picture, tmp_path / "pictures" / picture.name)
    status, out, _ = vitrine_command("caption", tmp_path / "run", tmp_path / "pictures", "-o", tmp_path / "figures")
    assert status == 0 and len(list((tmp_path / "figures").rglob("*.png"))) == 2
    status, out, _ = vitrine_command("evaluate", tmp_path / "run", scenes, "--json")
    assert status == 0 and json.loads(out)["split"] == "test"


@pytest.fixture(scope="module")
def coco() -> Iterator[Path]:
    if not COCO.is_dir():
        pytest.skip("the COCO photographs are not beside the project")
    yield COCO


def test_coco_trains_from_its_layout_and_is_scored(coco: Path, tmp_path: Path) -> None:
    run = train(str(coco), recipe(epochs=1), tmp_path / "run").run
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["n"] == 112 and metrics["captions"]["predicted"]["pictures"] == 112
    evaluation = evaluate_captioner(str(run), str(coco))
    assert evaluation.human_grounding is not None and evaluation.human_grounding.nouns > 50


def test_in_python_a_caption_has_words_with_maps(
    captioner_run: Path, small_run: Path, scenes: Path, tmp_path: Path
) -> None:
    import vitrine

    picture = next((scenes / "test").rglob("*.png"))
    model = vitrine.load(captioner_run)
    caption = model.caption(picture, max_pieces=9)
    captioner = open_captioner(str(captioner_run))
    assert str(caption) == caption.text and captioner.vocabulary.encode(caption.text)
    assert 0 < len(caption.words) <= 9
    for word in caption.words:
        assert word.map.shape == (4, 4) and word.map.mean() == pytest.approx(1, abs=1e-4)
        assert 0 < word.probability <= 1
    assert caption.save(tmp_path / "one.png").is_file()
    assert caption.overlay().width > 100
    assert "captioner" in repr(model) and caption.text in repr(caption)
    with pytest.raises(ModelError, match="is a captioner"):
        model.predict(picture)
    with pytest.raises(ModelError, match="is a captioner"):
        model.explain(picture)
    with pytest.raises(ModelError, match="is a classifier"):
        vitrine.load(small_run).caption(picture)


def test_a_convolutional_encoder_keeps_its_weights_and_its_norms(scenes: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    peer = timm.create_model("resnet18").eval()
    for name, value in peer.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            value.add_(0.3 * torch.rand_like(value))
    torch.save(peer.state_dict(), tmp_path / "resnet.pth")
    settings = {"model": "resnet18", "model_args": {}, "pretrained": str(tmp_path / "resnet.pth")}
    run = train(str(scenes), recipe(**settings, epochs=1), tmp_path / "run").run
    environment = json.loads((run / "environment.json").read_text())
    assert environment["starting_weights"]["path"].endswith("resnet.pth")
    task = build_captioner(
        "resnet18", SPEC, tiny_words(), pretrained=settings["pretrained"], model_args=settings["model_args"]
    )
    pixels = torch.rand(2, 3, 64, 48)
    with torch.no_grad():
        our_features, their_features = (
            task.model.train().encode_image(list(pixels)).values_BDRC,
            peer.forward_features(pixels),
        )
    assert torch.allclose(our_features, their_features, atol=1e-4), "also in training mode: statistics are fixed"
    weights = load_captioner_checkpoint(run).model.state_dict()
    assert not torch.equal(weights["backbone.body.layer4.1.conv2.weight"], peer.state_dict()["layer4.1.conv2.weight"])
    assert torch.equal(weights["backbone.body.bn1.running_mean"], peer.state_dict()["bn1.running_mean"])
    torch.save({**peer.state_dict(), "layer9.weight": torch.zeros(1)}, tmp_path / "more.pth")
    with pytest.raises(ModelError, match=r"does not fit resnet18: layer9\.weight"):
        build_captioner("resnet18", SPEC, tiny_words(), pretrained=str(tmp_path / "more.pth"), model_args={})


def tiny_words() -> Vocabulary:
    return train_vocabulary(["a red star", "two blue rings"] * 3, 60)
