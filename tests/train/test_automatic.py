"""``vitrine train DATA`` alone: the default recipe, its rules printed and kept, and never decided twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support.models import MICRO

from vitrine.config.recipe import AUTOMATIC_FIELDS, flat_fields
from vitrine.models.load import load_model, measure_architecture
from vitrine.models.reference import resolve_reference
from vitrine.runs.folder import RunFolder
from vitrine.train.run import default_run_folder

Command = Callable[..., tuple[int, str, str]]
SETTINGS = ("--set", "image_size=32 epochs=1 workers=0 precision=fp32")


def test_train_alone_takes_the_default_recipe_and_says_what_it_chose(
    small_scenes: Path, small_run: Path, tmp_path: Path, vitrine_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, settings = str(small_scenes), ("--set", f"model={small_run}", *SETTINGS)
    monkeypatch.chdir(tmp_path)
    status, out, error = vitrine_command("train", data, *settings)
    assert status == 0, error
    run = default_run_folder(data)
    assert f"Run: {run}" in out and run.parts[0] == "runs"

    own = RunFolder(run).read_recipe()
    choices = json.loads((run / "choices.json").read_text())
    values = {name: value for choice in choices for name, value in choice["values"].items()}
    assert values.keys() == set(AUTOMATIC_FIELDS) - {"epochs"}, "what a person set is not chosen"
    assert own.automatic == () and own.epochs == 1
    for name, value in values.items():
        resolved = flat_fields(own)[name]
        assert (list(resolved) if isinstance(resolved, tuple) else resolved) == value
        assert f"{name} = " in error, "every choice is printed"
    pictures = len(json.loads((run / "data.json").read_text())["splits"]["train"])
    assert f"{own.batch_size} pictures a step for {pictures:,} training pictures" in error

    # With --resume the run's own values: whether the recipe is named or not, and whatever the rules say now.
    monkeypatch.setattr("vitrine.train.automatic.choose", lambda *_: pytest.fail("decided again"))
    assert vitrine_command("train", data, *settings)[0] == 2
    before = (run / "recipe.toml").read_bytes(), (run / "choices.json").read_bytes()
    for more in ((), ("--recipe", "finetune", *settings)):
        status, _, error = vitrine_command("train", data, "--resume", *more)
        assert status == 0, error
    (run / "metrics.json").unlink()
    status, _, error = vitrine_command("train", data, "--resume", "--recipe", "finetune", *settings)
    assert status == 0, error
    assert before == ((run / "recipe.toml").read_bytes(), (run / "choices.json").read_bytes())
    status, _, error = vitrine_command("train", data, "--resume", "--set", "batch_size=3")
    assert status == 2 and "batch_size was" in error, "a person's change of what cannot change is refused"


@pytest.mark.parametrize(
    ("data", "folder"),
    [
        ("photos/", "runs/photos"),
        ("/data/My pets (2)", "runs/My-pets-2"),
        ("scenes:base?validation=300&seed=7", "runs/scenes-base"),
        ("hf:owner/name", "runs/name"),
        ("../..", "runs/run"),
        ("table.csv", "runs/table.csv"),
        ("x" * 300, "runs/" + "x" * 80),
        ("фото", "runs/фото"),
    ],
)
def test_a_run_without_a_name_is_called_as_its_data(data: str, folder: str) -> None:
    assert default_run_folder(data) == Path(folder)


def test_the_size_of_a_model_is_known_without_its_weights(small_run: Path) -> None:
    models = (("vit_tiny_patch16_224", dict(MICRO), 0), (str(small_run), {}, 48), ("deit3_small_patch16_224", {}, 0))
    for name, args, size in models:
        sizes = measure_architecture(resolve_reference(name), args, size)
        module = load_model(name, pretrained=False, model_args=args, image_size=size).module
        tokens = module.patch_embed.num_patches + module.num_prefix_tokens  # type: ignore[union-attr, operator]
        expected = (module.num_features, len(module.blocks), tokens)  # type: ignore[arg-type]
        assert (sizes.width, sizes.depth, sizes.tokens) == expected
        assert sizes.parameters == sum(each.numel() for each in module.parameters())


@pytest.mark.parametrize(
    ("model", "args", "is_said"),
    [
        ("vit_tiny_patch16_224.augreg_in21k", {"img_size": 32}, True),
        ("vitrine/scenes-tiny", {}, True),
        ("vitrine/scenes-tiny", {"embed_dim": 128, "depth": 6, "num_heads": 4, "weight_init": "jax"}, True),
        ("vitrine/scenes-tiny", {"depth": 2}, False),
        ("vit_tiny_patch16_224", dict(MICRO), False),
    ],
)
def test_weights_that_are_left_out_are_said(model: str, args: dict[str, object], is_said: bool) -> None:
    notes = load_model(model, pretrained=False, model_args=args, num_classes=3).notes
    sentence = (
        f"{model} has weights, and pretrained = false leaves them out: to start from them, --set pretrained=true."
    )
    assert (sentence in notes) == is_said
