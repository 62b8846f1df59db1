"""What is done to a training picture and to an evaluation picture, as data."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib import resources

from vitrine.errors import RecipeError
from vitrine.recipes.checks import refuse, require_number, require_range


@dataclass(frozen=True)
class TransformSpec:
    """The random changes of a training picture, in the order in which they are applied, and the evaluation crop.

    Attributes:
        name: what the figures and tables call it.
        rotation: the angle is uniform in [-rotation, rotation]; degrees. Corners that come from outside are black.
        crop_scale: share of the picture's area that a random resized crop keeps, uniform; 0 to 1.
        crop_ratio: width over height of that crop, log-uniform.
        flip: probability of a left-right mirror.
        brightness, contrast, saturation: each factor is uniform in [max(0, 1 - x), 1 + x]; 0 is off.
        erase: probability that one random rectangle is replaced by noise.
        mean, std: normalisation per channel on a 0-to-1 scale; None asks the model.
        eval_crop: evaluation resizes the short side to image_size / eval_crop, then crops the centre.
    """

    name: str = "none"
    rotation: float = 0.0
    crop_scale: tuple[float, float] = (1.0, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    erase: float = 0.0
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    eval_crop: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise refuse("transforms.name", self.name, "text")
        require_number("transforms.rotation", self.rotation, 0, 180)
        require_range("transforms.crop_scale", self.crop_scale, 0.01, 1)
        require_range("transforms.crop_ratio", self.crop_ratio, 0.1, 10)
        for field in ("flip", "erase"):
            require_number(f"transforms.{field}", getattr(self, field), 0, 1)
        for field in ("brightness", "contrast", "saturation"):
            require_number(f"transforms.{field}", getattr(self, field), 0)
        for field in ("mean", "std"):
            values = getattr(self, field)
            if values is None:
                continue
            if not isinstance(values, tuple) or len(values) != 3:
                raise refuse(f"transforms.{field}", values, "three numbers, one a channel")
            for value in values:
                require_number(f"transforms.{field}", value, 0, open_low=field == "std")
        require_number("transforms.eval_crop", self.eval_crop, 0, 1, open_low=True)

    @property
    def random(self) -> bool:
        """Whether two versions of one picture may differ by more than the rounding of a crop."""
        changes = (self.rotation, self.flip, self.brightness, self.contrast, self.saturation, self.erase)
        return any(changes) or self.crop_scale != (1.0, 1.0)


def available_transforms() -> dict[str, TransformSpec]:
    """Every named set of transforms that the package carries."""
    text = resources.files("vitrine.recipes").joinpath("transforms.toml").read_text("utf-8")
    return {name: transforms_from_table({"name": name, **table}) for name, table in tomllib.loads(text).items()}


def named_transforms(name: str) -> TransformSpec:
    """The set of transforms called ``name``.

    Raises:
        RecipeError: there is none of that name.
    """
    known = available_transforms()
    if name not in known:
        raise RecipeError(f"transforms = {name!r} is not known: expected one of {', '.join(sorted(known))}.")
    return known[name]


def transforms_from_table(table: dict[str, object]) -> TransformSpec:
    """A specification from a TOML table whose field names were checked: lists become tuples."""
    return TransformSpec(**{k: tuple(v) if isinstance(v, list) else v for k, v in table.items()})  # type: ignore[arg-type]
