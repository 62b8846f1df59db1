"""The recipe: every setting of a training, frozen and checked once."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from importlib import resources
from typing import Any

from vitrine.config.preprocessing import CROP_MODES, RESIZE_FILTERS
from vitrine.errors import RecipeError
from vitrine.io.limits import limit


def invalid_value(field: str, value: object, expected: str) -> RecipeError:
    """The error for a field's value: the field's name, the value, and what is expected."""
    return RecipeError(f"{field} = {value!r} cannot be used: expected {expected}.")


MAX_WHOLE_NUMBER = 2**63 - 1
"""Upper limit of every whole number: what other libraries take as a seed or a size."""

MAX_WORKERS = limit("MAX_WORKERS", 1_024)
"""Processes that load pictures."""


MAX_IMAGE_SIZE = limit("MAX_IMAGE_SIZE", 16_384)
"""Pixels a side of a model's input, as a recipe sets it."""

MAX_CAPTIONER_SIZE = limit("MAX_CAPTIONER_SIZE", 1_000_000)
"""Every width, and the heads, word pieces and tokens of a captioner, as a recipe sets them."""

MAX_CAPTIONER_LAYERS = limit("MAX_CAPTIONER_LAYERS", 1_000)
"""Layers of a captioner's encoder, and of its decoder."""


def require_number(
    field: str, value: Any, low: float, high: float = float("inf"), *, whole: bool = False, open_low: bool = False
) -> None:
    """Raise unless ``value`` is a finite number (a whole one on request) in [low, high], or (low, high]."""
    above = f"above {low:g}" if open_low else f"at least {low:g}"
    upto = "" if high == float("inf") else f" and at most {high:g}"
    expected = f"{'a whole number' if whole else 'a number'} {above}{upto}"
    if isinstance(value, bool) or not isinstance(value, int | float) or (whole and not isinstance(value, int)):
        raise invalid_value(field, value, expected)
    inside = (low < value if open_low else low <= value) and value <= high and value != float("inf")
    if whole and inside and value > MAX_WHOLE_NUMBER:
        raise invalid_value(field, value, f"{expected}, and not above {MAX_WHOLE_NUMBER:,}")
    if not inside:
        raise invalid_value(field, value, expected)


def require_range(field: str, value: Any, low: float, high: float) -> None:
    """Raise unless ``value`` is a pair of numbers with low <= first <= second <= high."""
    expected = f"two numbers between {low:g} and {high:g}, the smaller one first"
    if not isinstance(value, tuple) or len(value) != 2:
        raise invalid_value(field, value, expected)
    if any(isinstance(end, bool) or not isinstance(end, int | float) for end in value):
        raise invalid_value(field, value, expected)
    if not low <= value[0] <= value[1] <= high:
        raise invalid_value(field, value, expected)


def require_choice(field: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise invalid_value(field, value, "one of " + ", ".join(choices))


def require_switch(field: str, value: Any) -> None:
    """Raise unless ``value`` is true or false."""
    if not isinstance(value, bool):
        raise invalid_value(field, value, "true or false")


FROM_CAPTIONS = "captions"
"""The value of ``caption.vocabulary`` that learns a vocabulary from the training captions."""


@dataclass(frozen=True)
class CaptionSpec:
    """A captioner round the recipe's ``model``, which becomes its image encoder.

    Where ``model`` is a captioner itself, it keeps its own architecture and vocabulary, and those fields are not read.

    Attributes:
        vocabulary: ``captions`` learns word pieces from the training captions; or the path of a ``vocab.txt`` or
            ``tokenizer.json``.
        vocabulary_size: tokens that a learnt vocabulary has at most.
        stage: the block or stage of the image model whose features are used, from 0, or from the end with -1. Earlier
            ones say less of what is there, and more of where.
        width: of the transformer's tokens; a multiple of 4 and of ``heads``.
        heads, encoder_layers, decoder_layers, feed_forward: of the transformer.
        head_width: of the two hidden layers between a token and the vocabulary; 0 leaves them out.
        dropout: on embeddings, attention and every residual branch.
        longest: tokens of a caption at most, its start and end included; longer captions lose their last words.
        captions_a_picture: how many captions of a picture are learnt in an epoch at most; where it has more, they are
            drawn anew for every epoch.
        word_dropout: share of the preceding tokens that are hidden from the model while it learns the next one.
        backbone_learning_rate: peak of the schedule for the pretrained image encoder; everything else has
            ``learning_rate``.
    """

    vocabulary: str = FROM_CAPTIONS
    vocabulary_size: int = 8_000
    stage: int = -1
    width: int = 256
    heads: int = 8
    encoder_layers: int = 3
    decoder_layers: int = 3
    feed_forward: int = 1_024
    head_width: int = 0
    dropout: float = 0.1
    longest: int = 64
    captions_a_picture: int = 5
    word_dropout: float = 0.0
    backbone_learning_rate: float = 1e-5

    def __post_init__(self) -> None:
        if not self.vocabulary or not isinstance(self.vocabulary, str):
            raise invalid_value("caption.vocabulary", self.vocabulary, f"{FROM_CAPTIONS!r} or the path of a vocabulary")
        for name in ("vocabulary_size", "width", "heads", "feed_forward", "captions_a_picture"):
            require_number(f"caption.{name}", getattr(self, name), 1, MAX_CAPTIONER_SIZE, whole=True)
        require_number("caption.decoder_layers", self.decoder_layers, 1, MAX_CAPTIONER_LAYERS, whole=True)
        require_number("caption.encoder_layers", self.encoder_layers, 0, MAX_CAPTIONER_LAYERS, whole=True)
        require_number("caption.head_width", self.head_width, 0, MAX_CAPTIONER_SIZE, whole=True)
        require_number("caption.stage", self.stage, -1_000, 1_000, whole=True)
        require_number("caption.longest", self.longest, 3, MAX_CAPTIONER_SIZE, whole=True)
        for name in ("dropout", "word_dropout"):
            require_number(f"caption.{name}", getattr(self, name), 0, 0.99)
        require_number("caption.backbone_learning_rate", self.backbone_learning_rate, 0)
        if self.width % 4 or self.width % self.heads:
            raise invalid_value("caption.width", self.width, f"a multiple of 4 and of caption.heads = {self.heads}")


@dataclass(frozen=True)
class TransformSpec:
    """The random changes of a training picture, in the order in which they are applied, and the evaluation crop.

    Attributes:
        name: what the figures and tables call it.
        rotation: the angle is uniform in [-rotation, rotation]; degrees. Corners that come from outside are black.
        crop_scale: share of the picture's area that a random resized crop keeps, uniform; 0 to 1.
        crop_ratio: width over height of that crop, log-uniform.
        flip: probability of a left-right mirror.
        turn: probability of a turn by 90, 180 or 270 degrees, each as often as the others (by 180 alone where the input
            is not square); for pictures that have no up, as those from the air or through a microscope.
        brightness, contrast, saturation: each factor is uniform in [max(0, 1 - x), 1 + x]; 0 is off.
        erase: probability that one random rectangle is replaced by noise.
        reduced_decoding: whether the decoder may leave out frequencies of large JPEGs that no crop shows, where a
            classifier is trained: a picture comes at a half, a quarter or an eighth of its size where the smallest crop
            still has as many pixels as the model's input.
        mean, std: normalisation per channel on a 0-to-1 scale; None takes the model's own.
        eval_crop: share of the resized picture that evaluation keeps, cut out of its centre.
        crop_mode: how evaluation resizes a picture to image_size / eval_crop: ``center`` by its short side, ``squash``
            to a square whatever its shape, ``border`` by its long side with a border around it; None takes the model's
            own.
        interpolation: filter of that resize: nearest, bilinear, bicubic, lanczos, box or hamming; None takes the
            model's own.
    """

    name: str = "none"
    rotation: float = 0.0
    crop_scale: tuple[float, float] = (1.0, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.0
    turn: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    erase: float = 0.0
    reduced_decoding: bool = True
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    eval_crop: float = 1.0
    crop_mode: str | None = None
    interpolation: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise invalid_value("transforms.name", self.name, "text")
        require_number("transforms.rotation", self.rotation, 0, 180)
        require_range("transforms.crop_scale", self.crop_scale, 0.01, 1)
        require_range("transforms.crop_ratio", self.crop_ratio, 0.1, 10)
        for name in ("flip", "turn", "erase"):
            require_number(f"transforms.{name}", getattr(self, name), 0, 1)
        if not isinstance(self.reduced_decoding, bool):
            raise invalid_value("transforms.reduced_decoding", self.reduced_decoding, "true or false")
        for name in ("brightness", "contrast", "saturation"):
            require_number(f"transforms.{name}", getattr(self, name), 0)
        self._check_normalisation()
        require_number("transforms.eval_crop", self.eval_crop, 0, 1, open_low=True)
        for name, choices in (("crop_mode", CROP_MODES), ("interpolation", tuple(RESIZE_FILTERS))):
            if getattr(self, name) is not None:
                require_choice(f"transforms.{name}", getattr(self, name), choices)

    def _check_normalisation(self) -> None:
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is None:
                continue
            if not isinstance(values, tuple) or len(values) != 3:
                raise invalid_value(f"transforms.{name}", values, "three numbers, one a channel")
            for value in values:
                require_number(f"transforms.{name}", value, 0, open_low=name == "std")

    @property
    def is_random(self) -> bool:
        """Whether two versions of one picture may differ by more than the rounding of a crop."""
        changes = (self.rotation, self.flip, self.turn, self.brightness, self.contrast, self.saturation, self.erase)
        return any(changes) or self.crop_scale != (1.0, 1.0)


def available_transforms() -> dict[str, TransformSpec]:
    """Every named set of transforms that the package carries."""
    text = resources.files("vitrine.config").joinpath("transforms.toml").read_text("utf-8")
    return {name: transforms_from_table({"name": name, **table}) for name, table in tomllib.loads(text).items()}


def named_transforms(name: str) -> TransformSpec:
    """The set of transforms called ``name``.

    Raises:
        RecipeError: there is none of that name.
    """
    sets = available_transforms()
    if name not in sets:
        raise RecipeError(f"transforms = {name!r} is not known: expected one of {', '.join(sorted(sets))}.")
    return sets[name]


def transforms_from_table(table: dict[str, object]) -> TransformSpec:
    """The transforms of a TOML table with known field names; its lists become tuples."""
    return TransformSpec(**{k: tuple(v) if isinstance(v, list) else v for k, v in table.items()})  # type: ignore[arg-type]


AUTOMATIC_FIELDS = (
    *("batch_size", "accumulate", "epochs", "optimizer", "learning_rate", "beta2", "warmup_epochs", "layer_decay"),
    *("label_smoothing", "drop_path", "patch_drop", "transforms.crop_scale", "transforms.flip"),
    *("transforms.brightness", "transforms.contrast", "transforms.saturation"),
)
"""Recipe fields that rules can choose; see :mod:`vitrine.config.recipe_rules`."""

PRECISIONS = ("auto", "bf16", "fp32")
LOSSES = ("auto", "cross_entropy", "binary_cross_entropy")
NOT_A_PATH = ("", "False", "True", "no", "yes")
"""What people write for false and true where TOML wants those: refused as paths of weights."""


class FrozenTable(Mapping[str, object]):
    """A mapping that cannot be changed and, unlike ``MappingProxyType``, can be copied and sent to a process."""

    def __init__(self, items: Mapping[str, object]) -> None:
        self._items = dict(items)

    def __getitem__(self, key: str) -> object:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return repr(self._items)


@dataclass(frozen=True)
class Recipe:
    """Settings of one training run. Field names are the keys of ``--set`` and of ``recipe.toml``.

    Attributes:
        name: the recipe's own name.
        description: one or two sentences: source, what was chosen where the source is silent, expected score.
        model: a timm name with or without tag, ``hf-hub:owner/name``, ``vitrine/scenes-tiny`` or a run folder.
        model_args: arguments of the timm model's constructor (``depth``, ``embed_dim``, ``patch_size`` ...).
        pretrained: start from the weights that belong to ``model`` (true), from nothing (false), or from a local
            weights file (its path).
        image_size: side of the square input in pixels; 0 takes the model's own.
        transforms: what is done to pictures.
        caption: settings of a captioner; without them a classifier is trained.
        automatic: names of the fields that written rules choose when the data and the model are known
            (``vitrine.config.recipe_rules``); ``--set`` takes a field out of it. A run's own recipe has none left.
        batch_size: pictures of a step, or of a micro-step where ``accumulate`` is above 1; over all processes that
            train together.
        accumulate: micro-steps whose gradients are added up for one step of the optimizer.
        epochs: passes over the training pictures.
        epoch_size: pictures that count as one pass over an endless stream; ignored for finite data.
        optimizer: ``adamw``, or ``muon``, which learns faster from nothing.
        learning_rate: peak of the schedule.
        weight_decay: decoupled; not applied to biases, norms, position embeddings and tokens.
        beta2: AdamW's second moment decay.
        warmup_epochs: epochs of a linear warm-up from zero; a cosine follows.
        final_lr_ratio: share of the peak at which the cosine ends; 0 to 1.
        layer_decay: the learning rate is multiplied by this for every block below the head; 1 is off.
        clip_norm: gradients are scaled down to this global norm; 0 is off.
        loss: ``cross_entropy``, of pictures with one class each; ``binary_cross_entropy``, of every label by itself,
            which makes a multi-label model; ``auto`` takes the one that the data ask for.
        class_weights: ``balanced`` weighs a class in the loss by pictures / (classes x its pictures), as scikit-learn
            does, and a label of multi-label data, where it is there, by pictures without it / pictures with it;
            ``none``.
        sampling: ``shuffle`` takes every picture once in an epoch; ``balanced`` draws as many with replacement, each
            class as often as every other.
        label_smoothing: 0 to 1; 0 is off.
        mixup, cutmix: alpha of the Beta distribution (timm's); 0 is off.
        mix_off_epochs: the last epochs of the schedule that run without mixup and cutmix.
        ema: decay of the exponential moving average of the weights that is evaluated and saved; 0 is off.
        drop_path: stochastic depth of the last block; 0 to 1.
        patch_drop: share of the patch tokens left out in a training step; 0 to 1.
        tune: what is trained: ``all``, ``head``, ``last:N`` (head and the last N blocks), ``lora`` or ``lora:RANK``; of
            a captioner, ``all``, or ``head``: everything but the image encoder.
        views: number of randomly changed versions of each training picture, which the epochs take in turn; 0 draws a
            new version in every epoch. With ``tune = "head"`` the features of each version are computed once, which
            without random changes is one version.
        precision: ``auto`` (bf16 where the hardware has it and the model's width pays for it), ``bf16`` or ``fp32``.
        compile: use ``torch.compile``.
        early_stopping: stop after this many epochs without a better validation accuracy; 0 is off.
        val_fraction: share of the pictures that a seeded, stratified split holds out where the data have none.
        max_unreadable: share of unreadable pictures above which training does not start.
        checkpoint_minutes: state for ``--resume`` is written after every epoch, and this often inside one.
        shuffle_buffer: pictures that wait in memory to be drawn at random, where the data are shards.
        workers: processes that load pictures; 0 loads in the training process; -1 chooses (half of the cores).
        decoded_cache: gigabytes of the cache folder in which decoded training pictures, large ones reduced, may be kept
            from epoch to epoch; 0 is off. Where they would take more, every epoch decodes them. Not for captioners.
        trackers: ``tensorboard`` or any other tracker that accelerate knows; several separated by commas.
        seed: of the split, the weights, the order and every random change.
    """

    name: str
    model: str
    description: str = ""
    model_args: Mapping[str, object] = field(default_factory=dict, hash=False)
    pretrained: bool | str = True
    image_size: int = 0
    transforms: TransformSpec = TransformSpec()
    caption: CaptionSpec | None = None
    automatic: tuple[str, ...] = ()
    batch_size: int = 32
    accumulate: int = 1
    epochs: int = 10
    epoch_size: int = 10_000
    optimizer: str = "adamw"
    learning_rate: float = 1e-4
    weight_decay: float = 0.05
    beta2: float = 0.999
    warmup_epochs: float = 1.0
    final_lr_ratio: float = 0.01
    layer_decay: float = 1.0
    clip_norm: float = 1.0
    loss: str = "auto"
    class_weights: str = "none"
    sampling: str = "shuffle"
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_off_epochs: int = 0
    ema: float = 0.0
    drop_path: float = 0.0
    patch_drop: float = 0.0
    tune: str = "all"
    views: int = 0
    precision: str = "auto"
    compile: bool = False
    early_stopping: int = 0
    val_fraction: float = 0.2
    max_unreadable: float = 0.01
    checkpoint_minutes: float = 10.0
    shuffle_buffer: int = 1000
    workers: int = -1
    decoded_cache: float = 0.0
    trackers: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.model_args, Mapping):
            raise invalid_value("model_args", self.model_args, "a table, or single values such as model_args.depth=6")
        object.__setattr__(self, "model_args", FrozenTable(self.model_args))
        self._check_model()
        self._check_numbers()
        require_choice("optimizer", self.optimizer, ("adamw", "muon"))
        require_choice("precision", self.precision, PRECISIONS)
        require_choice("loss", self.loss, LOSSES)
        require_choice("class_weights", self.class_weights, ("none", "balanced"))
        require_choice("sampling", self.sampling, ("shuffle", "balanced"))
        require_switch("compile", self.compile)
        if not re.fullmatch(r"all|head|last:[1-9]\d*|lora(:[1-9]\d*)?", str(self.tune)):
            raise invalid_value("tune", self.tune, "all, head, last:N (N blocks), lora or lora:RANK")
        self._check_automatic()
        if self.caption is not None:
            self._check_captioner()

    def _check_automatic(self) -> None:
        names = self.automatic
        if not isinstance(names, list | tuple) or any(name not in AUTOMATIC_FIELDS for name in names):
            raise invalid_value("automatic", names, "a list of names among " + ", ".join(AUTOMATIC_FIELDS))
        object.__setattr__(self, "automatic", tuple(names))

    def _check_model(self) -> None:
        if not isinstance(self.transforms, TransformSpec):
            raise invalid_value("transforms", self.transforms, "a name or a table of fields")
        for name in ("name", "description", "trackers"):
            if not isinstance(getattr(self, name), str):
                raise invalid_value(name, getattr(self, name), "text")
        if not self.model or not isinstance(self.model, str):
            raise invalid_value("model", self.model, "a model reference such as vit_base_patch16_224.orig_in21k")
        if not isinstance(self.pretrained, bool | str) or self.pretrained in NOT_A_PATH:
            raise invalid_value("pretrained", self.pretrained, "true, false or the path of a weights file")

    def _check_numbers(self) -> None:
        for name in ("batch_size", "accumulate", "epochs", "epoch_size", "shuffle_buffer"):
            require_number(name, getattr(self, name), 1, whole=True)
        for name in ("mix_off_epochs", "views", "early_stopping", "seed"):
            require_number(name, getattr(self, name), 0, whole=True)
        require_number("image_size", self.image_size, 0, MAX_IMAGE_SIZE, whole=True)
        require_number("workers", self.workers, -1, MAX_WORKERS, whole=True)
        for name in ("learning_rate", "checkpoint_minutes"):
            require_number(name, getattr(self, name), 0, open_low=True)
        for name in ("weight_decay", "warmup_epochs", "clip_norm", "mixup", "cutmix", "decoded_cache"):
            require_number(name, getattr(self, name), 0)
        for name in ("beta2", "final_lr_ratio", "label_smoothing", "ema", "drop_path", "patch_drop", "max_unreadable"):
            require_number(name, getattr(self, name), 0, 1)
        require_number("layer_decay", self.layer_decay, 0, 1, open_low=True)
        require_number("val_fraction", self.val_fraction, 0, 0.9, open_low=True)

    def _check_captioner(self) -> None:
        if not isinstance(self.caption, CaptionSpec):
            raise invalid_value(
                "caption", self.caption, "a table of fields, or single values such as caption.width=256"
            )
        if self.tune not in ("all", "head"):
            raise invalid_value("tune", self.tune, "all or head, where a captioner is trained")
        zero = ("mixup", "cutmix", "drop_path", "patch_drop", "decoded_cache")
        words = (("loss", "auto"), ("class_weights", "none"), ("sampling", "shuffle"), ("automatic", ()))
        for name, off in (*((name, 0) for name in zero), ("layer_decay", 1), *words):
            if getattr(self, name) != off:
                raise invalid_value(name, getattr(self, name), f"{off}: it does not apply to captioners")
        for name in ("erase", "turn"):
            if value := getattr(self.transforms, name):
                raise invalid_value(f"transforms.{name}", value, "0: it does not apply to captioners")


RESUME_REASONS: Mapping[str, str] = {
    "learning_rate": "steps that were taken keep the rate that they had; the schedule gives those to come",
    "caption.backbone_learning_rate": "likewise, of the image encoder",
    "final_lr_ratio": "it is where the schedule ends, which is still to come",
    "weight_decay": "each step applies it by itself",
    "clip_norm": "each step clips its own gradients",
    "precision": "the weights and the optimizer's state are float32 in both",
    "compile": "it is how a step is computed, not what",
    "early_stopping": "it decides on epochs to come, with the count of those without gain so far",
    "checkpoint_minutes": "it is when the state is saved",
    "workers": "pictures and their random changes do not depend on who loads them",
    "decoded_cache": "pictures are the same from the cache and from their files",
    "trackers": "they are told of the training and do not change it",
    "description": "it is about the recipe, for people",
}
"""Recipe fields that a resumed training may have otherwise, with reasons: none changes what was computed before.

All others would: they decide the split, the order of the pictures, the model, what the checkpoint's state means, or, as
``epochs`` and ``warmup_epochs`` do, the rates that the steps so far would have had.
"""


def changed_settings(before: Recipe, now: Recipe) -> dict[str, tuple[object, object]]:
    """Names of the fields that differ, inner ones as ``transforms.flip``, each with its value before and now."""
    values_before, values_now = flat_fields(before), flat_fields(now)
    names = dict.fromkeys((*values_before, *values_now))
    pairs = {name: (values_before.get(name), values_now.get(name)) for name in names}
    return {name: (old, new) for name, (old, new) in pairs.items() if old != new}


def flat_fields(recipe: Recipe) -> dict[str, object]:
    """A recipe's values by name, those of its tables as ``transforms.flip`` and ``model_args.depth``."""
    flat: dict[str, object] = {}
    for each in fields(Recipe):
        value = getattr(recipe, each.name)
        if isinstance(value, CaptionSpec | TransformSpec):
            flat |= {f"{each.name}.{inner.name}": getattr(value, inner.name) for inner in fields(value)}
        elif isinstance(value, Mapping):
            flat |= {f"{each.name}.{key}": inner for key, inner in value.items()}
        else:
            flat[each.name] = value
    return flat
