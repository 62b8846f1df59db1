"""Scenes as samples: pictures that are generated when they are looked at, streams and finite splits of them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import cast, get_args, overload

import numpy as np
import numpy.typing as npt
from PIL import Image

from vitrine.data.samples import Dataset, Sample, Split
from vitrine.data.scenes.scene import (
    Layout,
    PaintedScene,
    Placement,
    Scene,
    build_scene,
    draw_label,
    draw_layout,
    paint,
    scene_generator,
)
from vitrine.data.scenes.shapes import FAMILIES
from vitrine.errors import DataError


@dataclass(frozen=True, slots=True)
class ScenePicture:
    """The picture of one scene. It holds only what the scene is drawn from, so it is tiny and can be pickled.

    Attributes:
        family: "base" or "new".
        seed: the stream's seed, 0 or more.
        split: "train", "validation" or "test".
        index: the scene's place in its stream, from 0.
        size: pixels a side.
        placement: where the main object lies: "inside" or "anywhere".
    """

    family: str
    seed: int
    split: str
    index: int
    size: int = 64
    placement: Placement = "inside"

    @property
    def label(self) -> int:
        """Index of the main object's shape in the family, found without painting."""
        family = FAMILIES[self.family]
        return draw_label(scene_generator(family, self.seed, self.split, self.index), family)

    @property
    def scene(self) -> Scene:
        """The whole scene: pixels, objects with masks, captions; arrays of the caller's own at every call."""
        layout, image = _paint_picture(self)
        return build_scene(layout, replace(image, pixels_HWC=image.pixels_HWC.copy()))

    def pixels(self) -> npt.NDArray[np.uint8]:
        """uint8 (size, size, 3), RGB; the caller's own."""
        return _paint_picture(self)[1].pixels_HWC.copy()

    def decode(self) -> Image.Image:
        """The picture as 8-bit RGB."""
        return Image.fromarray(self.pixels())

    def read_bytes(self) -> bytes:
        """The picture as a PNG file's bytes, the same at every call."""
        buffer = io.BytesIO()
        self.decode().save(buffer, format="PNG")
        return buffer.getvalue()


@lru_cache(maxsize=64)  # a batch: whoever learns captions asks for its pictures, and then for what is said of them
def _paint_picture(picture: ScenePicture) -> tuple[Layout, PaintedScene]:
    rng = scene_generator(FAMILIES[picture.family], picture.seed, picture.split, picture.index)
    layout = draw_layout(rng, FAMILIES[picture.family], picture.size, picture.placement)
    return layout, paint(rng, layout, picture.size)


@dataclass(frozen=True)
class SceneCaptions(Sequence[str]):
    """The captions of a scene, written when they are looked at first: that paints the scene, a millisecond at 64 px."""

    picture: ScenePicture

    @cached_property
    def _texts(self) -> tuple[str, ...]:
        return tuple(caption.text for caption in self.picture.scene.captions)

    def __len__(self) -> int:
        return len(self._texts)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        return self._texts[index]


@dataclass(frozen=True, slots=True)
class SceneSource:
    """The stream that scenes come from.

    Attributes:
        family, seed, split, size, placement: as in :class:`ScenePicture`.
        captions: samples have captions and no label; else they have a label.
    """

    family: str
    seed: int
    split: str
    size: int = 64
    captions: bool = False
    placement: Placement = "inside"

    def sample(self, index: int) -> Sample:
        """Scene ``index`` of the stream; its picture is not painted yet."""
        picture = ScenePicture(self.family, self.seed, self.split, index, self.size, self.placement)
        name = f"{self.family}/{self.split}/{index:06d}.png"
        if self.captions:
            return Sample(name, picture, captions=SceneCaptions(picture))
        return Sample(name, picture, picture.label)


class SceneWindow(Split):
    """The scenes ``start`` to ``start + length - 1`` of a stream, made when they are asked for."""

    def __init__(self, source: SceneSource, length: int, start: int = 0) -> None:
        self._source = source
        self._range = range(start, start + length)

    def __len__(self) -> int:
        return len(self._range)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Sample, ...]: ...
    def __getitem__(self, index: int | slice) -> Sample | tuple[Sample, ...]:
        if isinstance(index, slice):
            return tuple(self._source.sample(place) for place in self._range[index])
        return self._source.sample(self._range[index])

    def for_epoch(self, epoch: int, epoch_size: int) -> Sequence[Sample]:  # noqa: ARG002
        """Itself: a finite split is the same in every epoch."""
        return self

    @property
    def endless(self) -> bool:
        """False."""
        return False


class SceneStream(Split):
    """All scenes of a stream. It has no length; ``for_epoch`` cuts a finite window out of it."""

    def __init__(self, source: SceneSource) -> None:
        self._source = source

    def __len__(self) -> int:
        raise TypeError("an endless stream of scenes has no length; take a window of it with for_epoch")

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Sample, ...]: ...
    def __getitem__(self, index: int | slice) -> Sample | tuple[Sample, ...]:
        if isinstance(index, slice):
            if index.stop is None or index.stop < 0 or (index.start or 0) < 0:
                raise IndexError("a slice of an endless stream needs a start and a stop of 0 or more")
            places = range(index.start or 0, index.stop, index.step or 1)
            return tuple(self._source.sample(place) for place in places)
        if index < 0:
            raise IndexError("an endless stream of scenes has no last scene to count back from")
        return self._source.sample(index)

    def for_epoch(self, epoch: int, epoch_size: int) -> Sequence[Sample]:
        """The scenes ``epoch * epoch_size`` to ``(epoch + 1) * epoch_size - 1``: no scene comes twice."""
        if epoch_size < 1:
            raise ValueError(f"epoch_size must be 1 or more, not {epoch_size}")
        return SceneWindow(self._source, epoch_size, start=epoch * epoch_size)

    @property
    def endless(self) -> bool:
        """True."""
        return True


PREFIX = "scenes:"
SIZES = (32, 512)  # smallest and largest side in pixels
_LIMITS = {
    "train": (1, 10_000_000),
    "validation": (1, 1_000_000),
    "test": (1, 1_000_000),
    "size": SIZES,
    "seed": (0, 2**32 - 1),
}
_EXAMPLE = "scenes:new?train=3000&validation=1000&test=1000&size=64&seed=3"


def open_scenes(reference: str, *, seed: int = 0, captions: bool = False) -> Dataset:
    """Opens generated pictures: ``scenes:base`` or ``scenes:new``, with options such as ``?train=3000&size=64``.

    Options: ``train``, ``validation`` and ``test`` are numbers of pictures (without ``train`` the train split is
    an endless stream; validation and test have 2,000 each); ``size`` is pixels a side (64); ``seed`` picks other
    pictures (0); ``placement=anywhere`` lets the main object lie anywhere, up to a fifth of it cut off by the border,
    in place of wholly ``inside`` and so near the middle. Splits of a given length are a fixed data set: they depend on
    the reference alone. The endless stream is drawn by the option ``seed`` where it is given, else by the argument.

    Args:
        reference: what the person wrote, with the prefix ``scenes:``.
        seed: of the endless stream, 0 or more.
        captions: samples have captions, and there are no labels; else they have labels.

    Raises:
        DataError: an unknown family or option, or a value that is no whole number within its limits.
    """
    family, options, placement = _parse(reference)
    size, fixed_seed = options.get("size", 64), options.get("seed", 0)
    stream_seed = options.get("seed", seed)

    def finite(split: str, count: int) -> SceneWindow:
        return SceneWindow(SceneSource(family, fixed_seed, split, size, captions, placement), count)

    splits: dict[str, Split] = {}
    if "train" in options:
        splits["train"] = finite("train", options["train"])
        note = f"train: {options['train']:,} generated scenes of seed {fixed_seed}."
    else:
        splits["train"] = SceneStream(SceneSource(family, stream_seed, "train", size, captions, placement))
        note = f"train: an endless stream of generated scenes of seed {stream_seed}."
    for split in ("validation", "test"):
        splits[split] = finite(split, options.get(split, 2000))
    return Dataset(
        reference=reference,
        layout=f"generated scenes, family {family}, {size} x {size} px{_PLACEMENT_WORDS[placement]}",
        labels=() if captions else FAMILIES[family].labels,
        splits=splits,
        notes=(note, f"validation and test: fixed scenes of seed {fixed_seed}."),
    )


_PLACEMENT_WORDS = {"inside": "", "anywhere": ", main objects anywhere"}


def _parse(reference: str) -> tuple[str, dict[str, int], Placement]:
    """The family, the options that are numbers, and where main objects lie."""
    family, _, query = reference.removeprefix(PREFIX).partition("?")
    if not reference.startswith(PREFIX) or family not in FAMILIES:
        raise DataError(
            f"generated scenes are scenes:{' or scenes:'.join(FAMILIES)}, not {reference!r}.\n"
            f"With options, for example: {_EXAMPLE}"
        )
    options: dict[str, str] = {}
    for part in query.split("&") if query else []:
        name, _, value = part.partition("=")
        if name not in (*_LIMITS, "placement"):
            known_names = ", ".join((*_LIMITS, "placement"))
            raise DataError(
                f"{reference!r}: unknown option {name!r}; there are {known_names}.\nFor example: {_EXAMPLE}"
            )
        if name in options:
            raise DataError(f"{reference!r}: option {name!r} is given twice; give it once.")
        options[name] = value
    placement = _parse_placement(reference, options.pop("placement", "inside"))
    return family, {name: _parse_number(reference, name, value) for name, value in options.items()}, placement


def _parse_placement(reference: str, value: str) -> Placement:
    for placement in get_args(Placement):
        if value == placement:
            return cast(Placement, placement)
    raise DataError(
        f"{reference!r}: placement must be {' or '.join(get_args(Placement))}, not {value!r}.\n"
        "For example: scenes:new?placement=anywhere"
    )


def _parse_number(reference: str, name: str, value: str) -> int:
    low, high = _LIMITS[name]
    if not (value.isascii() and value.isdigit() and low <= int(value) <= high):
        raise DataError(
            f"{reference!r}: {name} must be a whole number from {low} to {high}, not {value!r}.\n"
            f"For example: {_EXAMPLE}"
        )
    return int(value)
