"""Rules for automatic fields: numbers worked out by hand, what a person sets stays, nothing is decided twice."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt
from typing import Any

import pytest

from vitrine.config import Recipe, load_recipe, override, recipe_from_toml, recipe_to_toml
from vitrine.config.recipe import AUTOMATIC_FIELDS, changed_settings, flat_fields
from vitrine.config.recipe_rules import DEFAULT_RECIPE, TrainingFacts, adopt, choose
from vitrine.errors import RecipeError

FINETUNE = load_recipe(DEFAULT_RECIPE)
SMALL = TrainingFacts(
    pictures=3_000,
    classes=10,
    width=384,
    depth=12,
    tokens=197,
    is_pretrained=True,
    is_multi_label=False,
    memory_bytes=16 * 10**9,
)


def resolved(*settings: str, **facts: Any) -> dict[str, object]:
    recipe, _ = choose(override(FINETUNE, settings), replace(SMALL, **facts))
    return flat_fields(recipe)


def test_the_default_recipe_leaves_every_ruled_field_to_the_rules() -> None:
    assert set(FINETUNE.automatic) == set(AUTOMATIC_FIELDS)
    recipe, choices = choose(FINETUNE, SMALL)
    assert recipe.automatic == ()
    names = [name for choice in choices for name in choice.values]
    assert sorted(names) == sorted(AUTOMATIC_FIELDS), "each field is chosen once, by one rule"
    assert changed_settings(FINETUNE, recipe).keys() <= {*AUTOMATIC_FIELDS, "automatic"}
    for choice in choices:
        for name, value in choice.values.items():
            assert flat_fields(recipe)[name] == value
            assert f"{name} = " in choice.sentence() and choice.reason


@pytest.mark.parametrize(
    ("facts", "batch_size", "epochs"),
    [
        ({"pictures": 12}, 16, 30),
        ({"pictures": 999}, 16, 30),
        ({"pictures": 1_000}, 32, 30),
        ({"pictures": 3_000}, 32, 10),
        ({"pictures": 9_999}, 32, 3),
        ({"pictures": 60_000}, 64, 3),
        ({"pictures": 1_200_000}, 128, 3),
        ({"pictures": 3_000, "is_pretrained": False}, 32, 45),
        ({"pictures": 100, "is_pretrained": False}, 16, 100),
        ({"pictures": 10**6, "is_pretrained": False}, 128, 10),
        ({"pictures": 12, "processes": 24}, 24, 30),
    ],
)
def test_batch_and_epochs_follow_the_number_of_pictures(facts: dict[str, Any], batch_size: int, epochs: int) -> None:
    values = resolved(**facts)
    assert (values["batch_size"], values["accumulate"], values["epochs"]) == (batch_size, 1, epochs)
    assert values["warmup_epochs"] == pytest.approx(epochs / 10)


@pytest.mark.parametrize(
    ("memory_gb", "batch_size", "accumulate"),
    # ViT-L/16 at 384 px: 577 tokens x 1,024 x 24 x 68 bytes = 0.964 GB a picture; half of the memory is taken.
    [(80, 32, 1), (40, 16, 2), (8, 4, 8), (1, 1, 32)],
)
def test_a_step_that_is_too_large_for_memory_is_taken_in_parts(
    memory_gb: int, batch_size: int, accumulate: int
) -> None:
    values = resolved(width=1_024, depth=24, tokens=577, memory_bytes=memory_gb * 10**9)
    assert (values["batch_size"], values["accumulate"]) == (batch_size, accumulate)


@pytest.mark.parametrize(
    ("settings", "facts", "rate"),
    [
        ((), {}, 4e-4),
        ((), {"width": 768}, 2e-4),
        ((), {"width": 1_024}, 1.5e-4),
        ((), {"pictures": 500}, 4e-4 / sqrt(2)),
        (("batch_size=128",), {}, 8e-4),
        (("batch_size=8", "accumulate=4"), {}, 4e-4),
        (("tune=head",), {}, 4e-3),
        (("tune=lora:4",), {}, 4e-3),
        (("tune=last:2",), {}, 4e-4),
        (("learning_rate=0.5",), {}, 0.5),
        ((), {"is_pretrained": False, "width": 128}, 2e-3),
    ],
)
def test_the_learning_rate_follows_width_and_step(
    settings: tuple[str, ...], facts: dict[str, Any], rate: float
) -> None:
    assert resolved(*settings, **facts)["learning_rate"] == pytest.approx(rate, rel=5e-3)


@pytest.mark.parametrize("depth", [6, 12, 24])
def test_the_first_layer_gets_the_same_share_of_the_rate_at_every_depth(depth: int) -> None:
    decay = resolved(depth=depth)["layer_decay"]
    assert isinstance(decay, float)
    assert decay ** (depth + 1) == pytest.approx(0.1, rel=0.03)
    assert resolved("tune=head", depth=depth)["layer_decay"] == 1
    assert resolved(depth=depth, is_pretrained=False)["layer_decay"] == 1


def test_several_labels_are_not_smoothed_and_wide_models_drop_paths() -> None:
    assert resolved()["label_smoothing"] == 0.1 and resolved(is_multi_label=True)["label_smoothing"] == 0
    assert resolved()["drop_path"] == 0 and resolved(width=768)["drop_path"] == 0.1
    assert (resolved()["optimizer"], resolved(is_pretrained=False)["optimizer"]) == ("adamw", "muon")


PERSONS = {
    "batch_size": 7,
    "epochs": 2,
    "learning_rate": 0.125,
    "layer_decay": 0.5,
    "optimizer": "muon",
    "transforms.flip": 0.25,
    "transforms.crop_scale": (0.9, 1.0),
}


@pytest.mark.parametrize("name", PERSONS)
def test_what_a_person_sets_is_theirs(name: str) -> None:
    value = PERSONS[name]
    text = list(value) if isinstance(value, tuple) else value
    recipe, choices = choose(override(FINETUNE, [f"{name}={text}"]), SMALL)
    assert flat_fields(recipe)[name] == value
    assert all(name not in choice.values for choice in choices)
    assert len([field for choice in choices for field in choice.values]) == len(AUTOMATIC_FIELDS) - 1


def test_a_named_set_of_transforms_is_taken_whole() -> None:
    recipe, _ = choose(override(FINETUNE, ["transforms=tfm1"]), SMALL)
    assert recipe.transforms == load_recipe("pets-b16-224-bs16").transforms


def test_nothing_is_decided_twice() -> None:
    earlier, _ = choose(FINETUNE, SMALL)
    again = adopt(override(FINETUNE, ["learning_rate=0.125"]), earlier)
    assert changed_settings(earlier, again) == {"learning_rate": (earlier.learning_rate, 0.125)}
    assert adopt(earlier, again) == earlier, "a resolved recipe has nothing to adopt"


def test_automatic_fields_have_no_line_in_toml_and_come_back() -> None:
    text = recipe_to_toml(FINETUNE)
    keys = {line.partition(" =")[0] for line in text.splitlines()}
    assert "seed" in keys and not keys & {name.rpartition(".")[2] for name in AUTOMATIC_FIELDS}
    assert recipe_from_toml(text, "x") == FINETUNE
    own, _ = choose(FINETUNE, SMALL)
    assert recipe_from_toml(recipe_to_toml(own), "x") == own and "epochs = 10" in recipe_to_toml(own)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('epochs = 3\nautomatic = ["epochs"]', "epochs has a value and stands in automatic"),
        ('transforms = "tfm1"\nautomatic = ["transforms.flip"]', r"transforms\.flip has a value and stands in"),
        ('automatic = ["transforms.flip"]\n[transforms]\nflip = 0.1', r"transforms\.flip has a value and stands in"),
        ('automatic = ["seed"]', "automatic = .* cannot be used: expected a list of names among batch_size"),
        ('automatic = ["epochs"]\n[caption]\nwidth = 64', r"automatic = .* it does not apply to captioners"),
    ],
)
def test_a_field_has_one_source(lines: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe_from_toml(f'model = "m"\n{lines}\n', "mine")


def test_a_recipe_of_ones_own_may_leave_single_fields_to_the_rules() -> None:
    recipe = Recipe(name="mine", model="m", epochs=4, automatic=("learning_rate",))
    own, choices = choose(recipe, SMALL)
    assert (own.epochs, own.learning_rate, len(choices)) == (4, pytest.approx(4e-4), 1)
