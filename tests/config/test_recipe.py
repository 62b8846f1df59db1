"""Recipes: every field is checked and read, unknown ones are refused, and TOML gives the same recipe back."""

from __future__ import annotations

import ast
import copy
import math
import pickle
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vitrine
from vitrine.config import (
    Recipe,
    TransformSpec,
    available_recipes,
    available_transforms,
    load_recipe,
    named_transforms,
    override,
    recipe_from_toml,
    recipe_to_toml,
)
from vitrine.config.recipe import NOT_A_PATH
from vitrine.errors import RecipeError

PLAIN = Recipe(name="plain", model="vit_tiny_patch16_224")

# --- the recipes that the package carries ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "model", "image_size", "batch_size", "learning_rate", "weight_decay", "transforms", "accuracy"),
    # The reference job, as it was published.
    [
        ("pets-b16-224-bs32", "vit_base_patch16_224.orig_in21k", 224, 32, 1e-5, 1e-4, "tfm1", "0.9193"),
        ("pets-b16-224-bs16", "vit_base_patch16_224.orig_in21k", 224, 16, 1e-5, 1e-4, "tfm1", "0.93"),
        ("pets-b16-384", "vit_base_patch16_384.orig_in21k_ft_in1k", 384, 8, 1e-5, 1e-5, "tfm2", "0.95"),
    ],
)
def test_a_reference_recipe_is_the_published_one(
    name: str,
    model: str,
    image_size: int,
    batch_size: int,
    learning_rate: float,
    weight_decay: float,
    transforms: str,
    accuracy: str,
) -> None:
    recipe = load_recipe(name)
    assert recipe.model == model
    assert recipe.pretrained is True
    assert recipe.image_size == image_size
    assert (recipe.batch_size, recipe.accumulate) == (batch_size, 1)
    assert recipe.learning_rate == learning_rate
    assert recipe.weight_decay == weight_decay
    assert recipe.transforms == named_transforms(transforms)
    assert f"published accuracy {accuracy}" in recipe.description
    for ours in ("AdamW", "warm-up and\ncosine", "resize-then-centre-crop"):
        assert ours in recipe.description, "what the source is silent about has to be said"


@pytest.mark.parametrize(("name", "rotation", "low"), [("tfm1", 20, 0.7), ("tfm2", 30, 0.8)])
def test_reference_transforms_are_the_published_ones(name: str, rotation: int, low: float) -> None:
    half = (0.5, 0.5, 0.5)
    assert named_transforms(name) == TransformSpec(
        name=name, rotation=rotation, crop_scale=(low, 1.0), brightness=0.3, mean=half, std=half
    )


@pytest.mark.parametrize("name", available_recipes())
def test_a_carried_recipe_loads_and_says_what_it_is(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description.strip()


def test_the_small_recipes_are_there() -> None:
    assert {"scratch-tiny", "scenes-tiny", "scenes-pretrain"} <= set(available_recipes())


# --- fields: checked, frozen, read -------------------------------------------------------------------------------

NOT_A_NUMBER = ["fast", True, math.nan, math.inf, -math.inf]
NOT_WHOLE = [*NOT_A_NUMBER, 1.5, 2**63]

REFUSED: dict[str, list[object]] = {
    "automatic": ["epochs", 3, None, ["seed"], ("epochs", "epoch"), [1], [["epochs"]]],
    "model": ["", 3],
    "pretrained": ["", "False", "yes", 1, 0.5],
    "image_size": [*NOT_WHOLE, -1, 10**6],
    "batch_size": [*NOT_WHOLE, 0],
    "accumulate": [*NOT_WHOLE, 0],
    "epochs": [*NOT_WHOLE, 0],
    "epoch_size": [*NOT_WHOLE, 0],
    "shuffle_buffer": [*NOT_WHOLE, 0],
    "learning_rate": [*NOT_A_NUMBER, 0, -1e-4],
    "weight_decay": [*NOT_A_NUMBER, -0.1],
    "beta2": [*NOT_A_NUMBER, -0.1, 1.1],
    "warmup_epochs": [*NOT_A_NUMBER, -1],
    "final_lr_ratio": [*NOT_A_NUMBER, -0.1, 1.1],
    "layer_decay": [*NOT_A_NUMBER, 0, 1.1],
    "clip_norm": [*NOT_A_NUMBER, -1],
    "loss": ["bce", "", 1, None],
    "class_weights": ["inverse", "", True, None],
    "sampling": ["weighted", "", False, None],
    "label_smoothing": [*NOT_A_NUMBER, -0.1, 1.1],
    "mixup": [*NOT_A_NUMBER, -0.1],
    "cutmix": [*NOT_A_NUMBER, -0.1],
    "mix_off_epochs": [*NOT_WHOLE, -1],
    "ema": [*NOT_A_NUMBER, -0.1, 1.1],
    "drop_path": [*NOT_A_NUMBER, -0.1, 1.1],
    "patch_drop": [*NOT_A_NUMBER, -0.1, 1.1],
    "tune": ["none", "last", "last:0", "last:-1", "lora:0", "lora:x", "head ", 4, True],
    "views": [*NOT_WHOLE, -1],
    "precision": ["fp16", "BF16", "", 16],
    "compile": ["yes", 1, 0],
    "early_stopping": [*NOT_WHOLE, -1],
    "val_fraction": [*NOT_A_NUMBER, 0, 0.95, 1],
    "max_unreadable": [*NOT_A_NUMBER, -0.1, 1.1],
    "checkpoint_minutes": [*NOT_A_NUMBER, 0, -1],
    "workers": [*NOT_WHOLE, -2, 100_000],
    "decoded_cache": [*NOT_A_NUMBER, -0.1],
    "optimizer": ["sgd", "", 1, None],
    "seed": [*NOT_WHOLE, -1, 999_999_999_999_999_999_999_999],
}
FREE_TEXT = {"name", "description", "trackers"}
TABLES = {"caption", "model_args", "transforms"}

TRANSFORMS_REFUSED: dict[str, list[object]] = {
    "rotation": [*NOT_A_NUMBER, -1, 181],
    "crop_scale": [0.5, (0.5,), (0.0, 1.0), (0.8, 0.5), (0.5, 1.1), (0.5, math.nan), ("a", "b"), (False, True)],
    "crop_ratio": [1.0, (0.0, 1.0), (2.0, 1.0), (1.0, 11.0)],
    "flip": [*NOT_A_NUMBER, -0.1, 1.1],
    "brightness": [*NOT_A_NUMBER, -0.1],
    "contrast": [*NOT_A_NUMBER, -0.1],
    "saturation": [*NOT_A_NUMBER, -0.1],
    "erase": [*NOT_A_NUMBER, -0.1, 1.1],
    "turn": [*NOT_A_NUMBER, -0.1, 1.1],
    "reduced_decoding": ["yes", 1, None],
    "mean": [0.5, (0.5, 0.5)],
    "std": [0.5, (0.5, 0.5)],
    "eval_crop": [*NOT_A_NUMBER, 0, 1.1],
    "crop_mode": ["centre", "", 1, True, ["center"]],
    "interpolation": ["random", "BICUBIC", "", 3, ["bicubic"]],
}


def test_no_field_goes_unchecked() -> None:
    """A new field has to be entered here, with the values that it refuses."""
    assert set(REFUSED) | FREE_TEXT | TABLES == {field.name for field in fields(Recipe)}
    assert set(TRANSFORMS_REFUSED) | {"name"} == {field.name for field in fields(TransformSpec)}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in REFUSED.items() for value in values])
def test_a_wrong_value_names_field_value_and_remedy(field: str, value: object) -> None:
    with pytest.raises(RecipeError) as error:
        replace(PLAIN, **{field: value})
    message = str(error.value)
    assert message.startswith(f"{field} = {value!r} cannot be used: expected ")
    assert len(message.splitlines()) == 1
    assert isinstance(error.value, ValueError)


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in TRANSFORMS_REFUSED.items() for value in values]
)
def test_a_wrong_transform_names_field_value_and_remedy(field: str, value: object) -> None:
    with pytest.raises(RecipeError) as error:
        TransformSpec(**{field: value})
    assert str(error.value).startswith(f"transforms.{field} = {value!r} cannot be used: expected ")


@pytest.mark.parametrize("tune", ["all", "head", "last:1", "last:12", "lora", "lora:8"])
def test_every_way_to_tune_is_accepted(tune: str) -> None:
    assert replace(PLAIN, tune=tune).tune == tune


def test_a_recipe_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        PLAIN.epochs = 3  # type: ignore[misc]
    arguments = {"depth": 4}
    recipe = replace(PLAIN, model_args=arguments)
    arguments["depth"] = 5
    assert recipe.model_args == {"depth": 4}
    with pytest.raises(TypeError):
        recipe.model_args["depth"] = 6  # type: ignore[index]


@pytest.mark.parametrize("kind", [Recipe, TransformSpec])
def test_every_field_is_explained(kind: type) -> None:
    section = (kind.__doc__ or "").split("Attributes:")[1]
    for field in fields(kind):
        entries = [line.split(":")[0] for line in section.splitlines() if line.startswith(" " * 8)]
        assert any(field.name in entry.replace(",", " ").split() for entry in entries), field.name


def test_every_field_is_read_somewhere() -> None:
    source = Path(vitrine.__file__).parent
    read = set()
    for path in source.rglob("*.py"):
        if path.parent.name != "config":
            tree = ast.parse(path.read_text("utf-8"))
            read |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    unread_fields = {field.name for kind in (Recipe, TransformSpec) for field in fields(kind)} - read
    unread_fields -= {"description"}  # speaks to people only
    assert not unread_fields, "a setting that nothing reads promises what it does not do"


# --- unknown fields ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("learning_rat", "learning_rate"),
        ("epoch", "epochs"),
        ("batchsize", "batch_size"),
        ("transforms.rotate", "transforms.rotation"),
        ("transforms.crop_scales", "transforms.crop_scale"),
        ("lr", "learning_rate"),
        ("wd", "weight_decay"),
        ("img_size", "image_size"),
        ("max_grad_norm", "clip_norm"),
        ("transforms.lr", "transforms."),
        ("zzz", ""),
    ],
)
def test_an_unknown_field_is_answered_with_the_nearest_name(key: str, nearest: str) -> None:
    group, _, inner = key.rpartition(".")
    text = f'model = "m"\n[{group}]\n{inner} = 1\n' if group else f'model = "m"\n{inner} = 1\n'
    for attempt in (lambda: override(PLAIN, [f"{key}=1"]), lambda: recipe_from_toml(text, "mine")):
        with pytest.raises(RecipeError) as error:
            attempt()
        message = str(error.value)
        assert message.startswith(f"There is no recipe field {key}; the nearest name is {nearest}")
        assert message.removesuffix(".").rpartition(" ")[2].rpartition(".")[2] in {
            field.name for kind in (Recipe, TransformSpec) for field in fields(kind)
        }


# --- TOML, there and back ----------------------------------------------------------------------------------------

share = st.floats(0, 1)
positive = st.floats(0, exclude_min=True, allow_infinity=False) | st.integers(1, 10**6)
not_negative = st.floats(0, allow_infinity=False) | st.integers(0, 10**6)
text = st.text(st.characters(codec="utf-8"))
# TOML's whole numbers are 64 bits wide.
toml_value = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)
triple = st.none() | st.tuples(share, share, share)
spread = st.none() | st.tuples(*[st.floats(0.01, 10)] * 3)


def ordered_pair(low: float, high: float) -> st.SearchStrategy[tuple[float, float]]:
    return st.tuples(st.floats(low, high), st.floats(low, high)).map(lambda pair: (min(pair), max(pair)))


transform_specs = st.builds(
    TransformSpec,
    name=text,
    rotation=st.floats(0, 180),
    crop_scale=ordered_pair(0.01, 1),
    crop_ratio=ordered_pair(0.1, 10),
    flip=share,
    brightness=not_negative,
    contrast=not_negative,
    saturation=not_negative,
    erase=share,
    turn=share,
    mean=triple,
    std=spread,
    eval_crop=st.floats(0, 1, exclude_min=True),
    crop_mode=st.sampled_from([None, "center", "squash", "border"]),
    interpolation=st.sampled_from([None, "nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]),
)
recipes = st.builds(
    Recipe,
    name=text,
    model=text.filter(bool),
    description=text,
    model_args=st.dictionaries(text, toml_value, max_size=3),
    pretrained=st.booleans() | text.filter(lambda path: path not in NOT_A_PATH),
    image_size=st.integers(0, 16_384),
    transforms=transform_specs,
    batch_size=st.integers(1, 10**6),
    accumulate=st.integers(1, 10**6),
    epochs=st.integers(1, 10**6),
    epoch_size=st.integers(1, 10**6),
    learning_rate=positive,
    weight_decay=not_negative,
    beta2=share,
    warmup_epochs=not_negative,
    final_lr_ratio=share,
    layer_decay=st.floats(0, 1, exclude_min=True),
    clip_norm=not_negative,
    label_smoothing=share,
    mixup=not_negative,
    cutmix=not_negative,
    mix_off_epochs=st.integers(0, 10**6),
    ema=share,
    drop_path=share,
    patch_drop=share,
    tune=st.sampled_from(["all", "head", "last:3", "lora", "lora:8"]),
    precision=st.sampled_from(["auto", "bf16", "fp32"]),
    compile=st.booleans(),
    early_stopping=st.integers(0, 10**6),
    val_fraction=st.floats(0, 0.9, exclude_min=True),
    max_unreadable=share,
    checkpoint_minutes=positive,
    workers=st.integers(-1, 64),
    trackers=text,
    seed=st.integers(0, 2**63 - 1),
)


@settings(max_examples=40)  # each of some thirty drawn fields
@given(recipe=recipes)
def test_a_resolved_recipe_is_read_back_as_it_was(recipe: Recipe) -> None:
    assert recipe_from_toml(recipe_to_toml(recipe), "another name") == recipe


@pytest.mark.parametrize("name", available_recipes())
def test_a_carried_recipe_survives_being_resolved(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe_from_toml(recipe_to_toml(recipe), "another name") == recipe


def test_a_recipe_is_a_file_that_a_person_copies_and_edits(tmp_path: Path) -> None:
    copy = tmp_path / "mine.toml"
    copy.write_text('model = "vit_tiny_patch16_224"\nepochs = 3\n[transforms]\nflip = 0.5\n', "utf-8")
    mine = load_recipe(str(copy))
    assert mine == Recipe(name="mine", model="vit_tiny_patch16_224", epochs=3, transforms=TransformSpec(flip=0.5)), (
        "what is not written keeps its default"
    )
    copy.write_text('name = "given"\nmodel = "vit_tiny_patch16_224"\ntransforms = "tfm2"\n', "utf-8")
    assert load_recipe(str(copy)).name == "given"
    assert load_recipe(str(copy)).transforms == available_transforms()["tfm2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model = ", "it is no TOML"),
        ("epochs = 3\n", "has no model"),
        ('model = "m"\nepochs = "three"\n', "epochs = 'three' cannot be used: expected a whole number"),
        ('model = "m"\ntransforms = "tfm9"\n', "transforms = 'tfm9' is not known: expected one of .*tfm1, tfm2"),
        ('model = "m"\ntransforms = 3\n', "transforms = 3 cannot be used"),
        ('model = "m"\n[transforms]\ncrop_scale = [1, 0.5]\n', "transforms.crop_scale"),
    ],
)
def test_a_recipe_file_that_cannot_be_used_says_why(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(RecipeError, match=message):
        load_recipe(str(path))


@pytest.mark.parametrize("name", ["pets", "missing.toml", "."])
def test_a_recipe_that_is_not_there_is_answered_with_those_that_are(name: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe(name)
    assert all(each in str(error.value) for each in available_recipes())


# --- --set -------------------------------------------------------------------------------------------------------


def test_settings_are_applied_in_order_and_leave_the_recipe_alone() -> None:
    recipe = override(PLAIN, ["epochs=3", "epochs=4 pretrained=false", "learning_rate=3e-4"])
    assert recipe == replace(PLAIN, epochs=4, pretrained=False, learning_rate=3e-4)
    assert PLAIN.epochs == 10
    assert override(PLAIN, []) == PLAIN


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("pretrained=weights/best.npz", {"pretrained": "weights/best.npz"}),
        ("tune=last:4", {"tune": "last:4"}),
        ('precision="fp32"', {"precision": "fp32"}),
        ("  epochs=3  seed=1 ", {"epochs": 3, "seed": 1}),
        ("description=two words seed=5", {"description": "two words", "seed": 5}),
        ("trackers=", {"trackers": ""}),
        ("transforms=tfm2", {"transforms": named_transforms("tfm2")}),
        ("transforms.flip=0.5", {"transforms": TransformSpec(flip=0.5)}),
        ("transforms.crop_scale=[0.5, 1.0]", {"transforms": TransformSpec(crop_scale=(0.5, 1.0))}),
        ("transforms.mean=[0.5, 0.5, 0.5]", {"transforms": TransformSpec(mean=(0.5, 0.5, 0.5))}),
        ("transforms={rotation = 5}", {"transforms": TransformSpec(rotation=5)}),
        ("model_args.depth=4 model_args.num_heads=2", {"model_args": {"depth": 4, "num_heads": 2}}),
    ],
)
def test_a_setting_is_read_as_a_person_would(setting: str, expected: dict[str, object]) -> None:
    assert override(PLAIN, [setting]) == replace(PLAIN, **expected)


@pytest.mark.parametrize("setting", ["epochs", "=3", "epochs 3"])
def test_a_setting_without_a_key_or_a_value_is_refused(setting: str) -> None:
    with pytest.raises(RecipeError, match="expected key=value"):
        override(PLAIN, [setting])


@pytest.mark.parametrize("setting", ["epochs=three", "epochs=0", "compile=1", "transforms.flip=2", "transforms=tfm9"])
def test_a_setting_with_a_wrong_value_names_its_key(setting: str) -> None:
    with pytest.raises(RecipeError, match=setting.split("=")[0]):
        override(PLAIN, [setting])


@given(recipe=recipes, name=st.sampled_from(sorted(REFUSED)))
def test_any_field_of_one_recipe_can_be_set_on_another(recipe: Recipe, name: str) -> None:
    value = getattr(recipe, name)
    if not isinstance(value, str):
        toml = str(value).lower() if isinstance(value, bool) else repr(value).replace("()", "[]")
        assert getattr(override(PLAIN, [f"{name}={toml}"]), name) == value


@pytest.mark.parametrize(
    "setting",
    [
        "model_args=5",
        "model_args=[1, 2]",
        "pretrained=False",
        "trackers=5",
        "name=5",
        "transforms.name=3",
        "description=2020-01-01",
        'transforms.mean=["a", "b", "c"]',
        "transforms.std=[0, 0, 0]",
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_by_name(setting):
    with pytest.raises(RecipeError, match=setting.partition("=")[0].replace(".", r"\.")):
        override(load_recipe("scratch-tiny"), [setting])


def test_a_recipe_travels_between_processes():
    recipe = load_recipe("scratch-tiny")
    assert pickle.loads(pickle.dumps(recipe)) == copy.deepcopy(recipe) == recipe
    assert hash(recipe) == hash(copy.deepcopy(recipe))


def test_a_recipe_file_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "odd.toml").write_bytes(b"model = '\xff'")
    with pytest.raises(RecipeError, match="not UTF-8"):
        load_recipe(str(tmp_path / "odd.toml"))
