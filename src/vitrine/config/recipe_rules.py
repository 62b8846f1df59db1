"""The rules of automatic recipe fields: what is known of data and model, and the values that follow from it.

Every rule is one function here, in the order in which they are applied; a later one reads what an earlier one, or a
person, set. docs/finetuning.md has the same rules as a table, with what they were measured against.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from math import sqrt
from typing import Any

from vitrine.config.recipe import Recipe, flat_fields
from vitrine.results import count_of

DEFAULT_RECIPE = "finetune"
"""The recipe of ``vitrine train`` where none is named."""


@dataclass(frozen=True)
class TrainingFacts:
    """What the rules read.

    Attributes:
        pictures: training pictures in one epoch.
        classes: labels that the model tells apart.
        width, depth, tokens: of the vision transformer: features of a token, blocks, and tokens of a picture.
        is_pretrained: whether it starts from weights.
        is_multi_label: whether a picture may have several labels.
        memory_bytes: of the device that trains; of each one, where there are several.
        processes: that train together and share a batch.
    """

    pictures: int
    classes: int
    width: int
    depth: int
    tokens: int
    is_pretrained: bool
    is_multi_label: bool
    memory_bytes: int
    processes: int = 1


@dataclass(frozen=True)
class Choice:
    """What one rule chose.

    Attributes:
        values: by recipe field.
        reason: the rule with the numbers that it was given.
    """

    values: Mapping[str, Any]
    reason: str

    def sentence(self) -> str:
        """For a person: ``epochs = 10: 30,000 pictures are seen, 3,068 of them in an epoch.``"""
        values = ", ".join(f"{name} = {_value_text(value)}" for name, value in self.values.items())
        return f"{values}: {self.reason}."

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def choose(recipe: Recipe, facts: TrainingFacts) -> tuple[Recipe, tuple[Choice, ...]]:
    """The recipe with a value for every automatic field, and what each rule chose.

    A rule decides nothing that a person set: only fields in ``recipe.automatic`` change.
    """
    choices = []
    for rule in RULES:
        choice = rule(recipe, facts)
        values = {name: value for name, value in choice.values.items() if name in recipe.automatic}
        if values:
            recipe = with_values(recipe, values)
            choices.append(Choice(values, choice.reason))
    return replace(recipe, automatic=()), tuple(choices)


def adopt(recipe: Recipe, earlier: Recipe) -> Recipe:
    """The recipe with automatic fields as an earlier, resolved recipe has them: nothing is decided twice."""
    values = flat_fields(earlier)
    return replace(with_values(recipe, {name: values[name] for name in recipe.automatic}), automatic=())


def with_values(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """The recipe with fields set, those of the transforms as ``transforms.flip``; they are no longer automatic."""
    inner = {name.partition(".")[2]: value for name, value in values.items() if name.startswith("transforms.")}
    outer = {name: value for name, value in values.items() if "." not in name}
    rest = tuple(name for name in recipe.automatic if name not in values)
    return replace(recipe, **outer, transforms=replace(recipe.transforms, **inner), automatic=rest)


_ACTIVATION_BYTES = (
    68  # a token, feature and block: 34 in 16 bits (Korthikanti et al. 2022, eq. 2, fused attention) x 2
)


def _batch(_recipe: Recipe, facts: TrainingFacts) -> Choice:
    """Pictures of an optimizer step by the number of pictures; what does not fit into memory goes in micro-steps."""
    limits = ((1_000, 16), (10_000, 32), (100_000, 64))
    step = max(facts.processes, next((size for limit, size in limits if facts.pictures < limit), 128))
    picture_bytes = _ACTIVATION_BYTES * facts.tokens * facts.width * facts.depth
    batch = step
    while batch > facts.processes and picture_bytes * batch / facts.processes > facts.memory_bytes / 2:
        batch //= 2
    reason = f"{count_of(step, 'picture')} a step for {count_of(facts.pictures, 'training picture')}"
    if batch < step:
        reason += f", in parts that take half of {facts.memory_bytes / 1e9:.0f} GB at most"
    return Choice({"batch_size": batch, "accumulate": step // batch}, reason)


def _epochs(_recipe: Recipe, facts: TrainingFacts) -> Choice:
    """Epochs by how many pictures are to be seen in all."""
    total, least, most = (_SEEN_PRETRAINED, 3, 30) if facts.is_pretrained else (_SEEN_FROM_NOTHING, 10, 100)
    epochs = min(most, max(least, round(total / facts.pictures)))
    why = "from pretrained weights" if facts.is_pretrained else "from nothing"
    return Choice(
        {"epochs": epochs},
        f"{why} about {count_of(total, 'picture')} are seen, {facts.pictures:,} in an epoch, in {least} to "
        f"{count_of(most, 'epoch')}",
    )


_SEEN_PRETRAINED, _SEEN_FROM_NOTHING = 30_000, 135_000


def _optimizer(_recipe: Recipe, facts: TrainingFacts) -> Choice:
    if facts.is_pretrained:
        return Choice({"optimizer": "adamw"}, "AdamW, from pretrained weights")
    return Choice({"optimizer": "muon"}, "Muon learns faster from nothing")


def _beta2(recipe: Recipe, _facts: TrainingFacts) -> Choice:
    return Choice({"beta2": 0.98 if recipe.optimizer == "muon" else 0.999}, f"the optimizer is {recipe.optimizer}")


def _learning_rate(recipe: Recipe, facts: TrainingFacts) -> Choice:
    """The rate by width and by the pictures of a step; where most weights are frozen, ten times that."""
    if not facts.is_pretrained:
        return Choice({"learning_rate": 2e-3}, "from nothing 2e-3")
    step = recipe.batch_size * recipe.accumulate
    rate = _BASE_RATE * 768 / facts.width * sqrt(step / 32)
    reason = f"{_BASE_RATE:g} x 768 / {facts.width} of width x sqrt({step} / 32 pictures a step)"
    if recipe.tune == "head" or recipe.tune.startswith("lora"):
        rate, reason = 10 * rate, f"10 x {reason}, as tune = {recipe.tune!r}"
    return Choice({"learning_rate": _round(rate)}, reason)


_BASE_RATE = 2e-4


def _warmup(recipe: Recipe, _facts: TrainingFacts) -> Choice:
    return Choice({"warmup_epochs": recipe.epochs / 10}, f"a tenth of {count_of(recipe.epochs, 'epoch')}")


def _layer_decay(recipe: Recipe, facts: TrainingFacts) -> Choice:
    """The share of the rate that the first layer gets is the same for every depth."""
    if not facts.is_pretrained or recipe.tune == "head" or recipe.tune.startswith("lora"):
        return Choice({"layer_decay": 1.0}, "all layers that are trained begin anew")
    decay = _FIRST_LAYER_SHARE ** (1 / (facts.depth + 1))
    return Choice(
        {"layer_decay": _round(decay)},
        f"below {count_of(facts.depth, 'block')} the first layer learns with {_FIRST_LAYER_SHARE:g} of the head's rate",
    )


_FIRST_LAYER_SHARE = 0.1


def _regularisers(_recipe: Recipe, facts: TrainingFacts) -> Choice:
    values = {
        "label_smoothing": 0.0 if facts.is_multi_label else 0.1,
        "drop_path": 0.1 if facts.width >= 768 else 0.0,
        "patch_drop": 0.0 if facts.is_pretrained else 0.25,
    }
    labels = "several labels a picture" if facts.is_multi_label else "one label a picture"
    start = "pretrained" if facts.is_pretrained else "from nothing"
    return Choice(values, f"{labels}, width {facts.width}, {start}")


def _random_changes(recipe: Recipe, facts: TrainingFacts) -> Choice:
    """Crops and colours by how often each picture is seen: what is seen often must differ more."""
    is_strong = not facts.is_pretrained
    low, colour = (0.3, 0.3) if is_strong else (0.5, 0.2)
    values = {
        "transforms.crop_scale": (low, 1.0),
        "transforms.flip": 0.5,
        "transforms.brightness": colour,
        "transforms.contrast": colour,
        "transforms.saturation": colour,
    }
    return Choice(values, f"each picture is seen {count_of(recipe.epochs, 'time')}")


Rule = Callable[[Recipe, TrainingFacts], Choice]
RULES: tuple[Rule, ...] = (
    _batch,
    _epochs,
    _optimizer,
    _beta2,
    _learning_rate,
    _warmup,
    _layer_decay,
    _regularisers,
    _random_changes,
)
"""In the order in which they are applied."""


def _round(value: float) -> float:
    """Three significant digits: a rule's number is no measurement."""
    return float(f"{value:.3g}")


def _value_text(value: object) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(_value_text(each) for each in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)
