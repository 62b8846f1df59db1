"""Pictures as people have them in Python become samples: files, bytes, images, arrays, tensors, and many of any kind.

Axes: N pictures, C channels, H, W pixel rows and columns.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.utils.data import Dataset

from vitrine.data.decode import BytesPicture, FilePicture, ImagePicture
from vitrine.data.image_folder import require_pictures
from vitrine.data.samples import Sample, printable, random_positions, random_subset
from vitrine.errors import DataError
from vitrine.results import count_of

KINDS = (
    "a path, bytes, a PIL image, a NumPy array (H, W, 3), a torch tensor (C, H, W), a list or generator of these, a "
    "folder, a datasets split or a DataLoader"
)
"""What a picture, or several, may be given as."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_COLUMNS = ("image", "img", "picture", "pixel_values", "jpg", "png")
_LARGEST_NORMALISED = 1e4  # a number of a normalised picture; beyond it no network's input lies


@dataclass(frozen=True, eq=False)
class NormalisedPicture:
    """A picture as a network takes it: resized, cropped and normalised already.

    Attributes:
        pixels_CHW: float32, on the CPU.
        mean, std: that it was normalised with, per channel, on a 0-to-1 scale; for showing it.
    """

    pixels_CHW: torch.Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def read_bytes(self) -> bytes:
        """A PNG of what can be shown of it."""
        file = io.BytesIO()
        self.decode().save(file, "PNG")
        return file.getvalue()

    def decode(self) -> Image.Image:
        """The picture before its normalisation, rounded to 8 bits."""
        std_C, mean_C = (torch.tensor(values).view(-1, 1, 1) for values in (self.std, self.mean))
        shares_HWC = (self.pixels_CHW * std_C + mean_C).permute(1, 2, 0).numpy()
        return Image.fromarray(np.rint(shares_HWC * 255).clip(0, 255).astype(np.uint8))


@dataclass(frozen=True)
class Normalisation:
    """What pictures that are normalised already must be: the network's input.

    Attributes:
        size: rows and columns.
        mean, std: per channel, on a 0-to-1 scale.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class PictureInput:
    """Pictures that were given, as samples.

    Attributes:
        samples: a tuple where there are so many as are known beforehand; else they come one by one, and once.
        is_one: whether one picture was given by itself.
        path: the file or folder that was given; None of pictures in memory and of lists.
        notes: sentences on what was left aside.
        at: samples of some places, ascending, of pictures that come one by one and have a number; None of others.
        length: how many of those there are; 0 of others.
    """

    samples: Sequence[Sample] | Iterator[Sample]
    is_one: bool = False
    path: Path | None = None
    notes: tuple[str, ...] = ()
    at: Callable[[Sequence[int]], Iterator[Sample]] | None = None
    length: int = 0

    @property
    def count(self) -> int:
        """How many there are; 0 where that is not known."""
        return len(self.samples) if isinstance(self.samples, Sequence) else 0

    def choose(self, limit: int | None, seed: int) -> Sequence[Sample] | Iterator[Sample]:
        """``limit`` pictures, drawn at random with ``seed`` where their number is known, else the first; None is all.

        Those that come one by one are not held: no more is read of them than is chosen.
        """
        if limit is None:
            return self.samples
        if isinstance(self.samples, Sequence):
            return random_subset(self.samples, limit, seed)
        if self.at is not None:
            return self.at(random_positions(self.length, limit, seed))
        return islice(self.samples, limit)


def picture_input(pictures: Any, normalised: Normalisation | None = None) -> PictureInput:
    """Make samples of whatever a person gives as pictures.

    Args:
        pictures: one picture or several; see :data:`KINDS`. Arrays and tensors hold 0 to 255 as uint8, or 0 to 1 as
            floats, which are rounded to 8 bits; with a fourth axis in front they are several.
        normalised: they are tensors that a network can take as they are: their size and normalisation.

    Raises:
        DataError: they are of no known kind, or a path does not exist.
    """
    if isinstance(pictures, str | os.PathLike):
        return _path_input(pictures, normalised)
    if isinstance(pictures, bytes | bytearray | memoryview | Image.Image):
        return PictureInput((_Namer(normalised).sample(pictures),), is_one=True)
    if isinstance(pictures, io.IOBase):
        raise DataError("An open file is no picture: give its path, or its bytes: file.read().")
    if isinstance(pictures, np.ndarray | torch.Tensor):
        if pictures.ndim == 4:
            return PictureInput(tuple(_Namer(normalised).samples(pictures)))
        return PictureInput((_Namer(normalised).sample(pictures),), is_one=True)
    if isinstance(pictures, list | tuple):
        return PictureInput(tuple(_Namer(normalised).samples(pictures)))
    if isinstance(pictures, Mapping) or not _is_iterable(pictures):
        raise _unknown(pictures)
    samples = _Namer(normalised).samples(_rows(pictures))
    if _has_places(pictures):
        return PictureInput(samples, at=partial(_samples_at, pictures, normalised), length=len(pictures))
    return PictureInput(samples)


def count_at_hand(samples: Iterable[Sample]) -> int | None:
    """How many there are; None where they come one by one."""
    return len(samples) if isinstance(samples, Sequence) else None


def path_in(images: Path | None, sample: Sample, is_folder: bool) -> Path | None:
    """Where a picture lies, of those that were given; None of a picture in memory."""
    if images is not None:
        return images / sample.name if is_folder else images
    return sample.picture.path if isinstance(sample.picture, FilePicture) else None


def _path_input(path: str | os.PathLike[str], normalised: Normalisation | None) -> PictureInput:
    place = _local_path(path)
    if normalised is not None:
        raise DataError(f"{place} is a path, and only tensors can be normalised already: leave normalised out.")
    read_pictures = require_pictures(place)
    return PictureInput(read_pictures.samples, place.is_file(), place, read_pictures.notes)


def _local_path(path: str | os.PathLike[str]) -> Path:
    """A path of this machine.

    Raises:
        DataError: it is an address of the web.
    """
    text = os.fspath(path)
    if _URL.match(text):
        raise DataError(
            f"{text:.200} is an address, and vitrine fetches no pictures.\n"
            "Download it, and give the file or its bytes: model.predict(response.content)."
        )
    return Path(text).expanduser()


def _is_iterable(pictures: Any) -> bool:
    return hasattr(pictures, "__iter__") or (hasattr(pictures, "__getitem__") and hasattr(pictures, "__len__"))


def _has_places(pictures: Any) -> bool:
    """Whether rows can be read by their number without reading those before: a ``datasets`` split, torch's Dataset."""
    is_datasets_split = hasattr(pictures, "column_names") and hasattr(pictures, "select")
    is_torch_dataset = isinstance(pictures, Dataset) and not hasattr(pictures, "__iter__")
    return (is_datasets_split or is_torch_dataset) and hasattr(pictures, "__len__")


def _samples_at(pictures: Any, normalised: Normalisation | None, places: Sequence[int]) -> Iterator[Sample]:
    namer = _Namer(normalised)
    for place in places:
        part = _picture_of_row(pictures[place])
        is_batch = isinstance(part, np.ndarray | torch.Tensor) and part.ndim == 4
        for picture in part if is_batch else (part,):
            yield namer.sample(picture, place)


def _rows(pictures: Any) -> Iterator[Any]:
    """The items of anything that can be iterated or indexed, such as torch's Dataset."""
    if hasattr(pictures, "__iter__"):
        yield from pictures
    else:
        for index in range(len(pictures)):
            yield pictures[index]


class _Namer:
    """Makes samples of pictures one after the other, and gives each a name of its own."""

    def __init__(self, normalised: Normalisation | None) -> None:
        self.normalised = normalised
        self._numbers = count()
        self._names: set[str] = set()

    def samples(self, pictures: Iterable[Any]) -> Iterator[Sample]:
        """Samples of an iterable whose items are pictures, rows that have one, or batches."""
        for item in pictures:
            part = _picture_of_row(item)
            is_batch = isinstance(part, np.ndarray | torch.Tensor) and part.ndim == 4
            yield from map(self.sample, part if is_batch else (part,))

    def sample(self, picture: Any, place: int | None = None) -> Sample:
        """One picture with its name: the file's, or its number from 0: ``place`` where that is known."""
        number = next(self._numbers) if place is None else place
        if isinstance(picture, str | os.PathLike):
            path = _local_path(picture)
            if path.is_dir():
                raise DataError(f"{path} is a folder in a list of pictures: give the folder by itself.")
            if not path.is_file():
                raise DataError(f"There is no file {path}. Give a picture.")
            if self.normalised is not None:
                raise DataError(f"{path} is a path, and only tensors can be normalised already: leave normalised out.")
            return Sample(self._own_name(printable(path.name), number), FilePicture(path))
        name = self._own_name(f"picture-{number}", number)
        if self.normalised is not None:
            return Sample(name, _normalised_picture(picture, self.normalised, name))
        if isinstance(picture, bytes | bytearray | memoryview):
            return Sample(name, BytesPicture(bytes(picture)))
        if isinstance(picture, Image.Image):
            return Sample(name, ImagePicture(picture))
        if isinstance(picture, torch.Tensor):
            return Sample(name, ImagePicture(_image_of_tensor(picture)))
        if isinstance(picture, np.ndarray):
            return Sample(name, ImagePicture(_image_of_array(picture)))
        raise _unknown(picture)

    def _own_name(self, name: str, number: int) -> str:
        if name in self._names:
            path = PurePath(name)
            name = f"{path.stem}-{number}{path.suffix}"
        self._names.add(name)
        return name


def _picture_of_row(item: Any) -> Any:
    """The picture in a row of a data set or a batch of a DataLoader: a column of that name, or what stands first.

    Raises:
        DataError: a dictionary without such a column.
    """
    if isinstance(item, Mapping):
        if isinstance(item.get("bytes"), bytes):  # a datasets column that is not decoded
            return item["bytes"]
        for column in _COLUMNS:
            if column in item:
                return _picture_of_row(item[column]) if isinstance(item[column], Mapping) else item[column]
        raise DataError(
            f"A row has the columns {', '.join(map(repr, list(item)[:8]))}: expected a picture in one called "
            f"{', '.join(_COLUMNS)}.\nRename the column, or give its values: (row['NAME'] for row in rows)."
        )
    if isinstance(item, list | tuple) and item:
        if any(_is_picture(other) for other in item[1:]):
            raise DataError("A list of lists of pictures was given: expected one list of pictures.")
        return item[0]
    return item


def _is_picture(value: Any) -> bool:
    """Whether it is a picture for certain; a text may be a label."""
    if isinstance(value, np.ndarray | torch.Tensor):
        return value.ndim > 2
    return isinstance(value, bytes | Image.Image)


def _normalised_picture(picture: Any, expected: Normalisation, name: str) -> NormalisedPicture:
    channels, size = len(expected.mean), expected.size
    if not isinstance(picture, torch.Tensor) or not picture.is_floating_point():
        raise DataError(f"{name} is {_kind(picture)}: expected a float tensor, as the pictures are normalised already.")
    if tuple(picture.shape) != (channels, *size):
        raise DataError(
            f"{name} has the shape {tuple(picture.shape)}: expected {(channels, *size)}, the model's own input, as the "
            "pictures are normalised already."
        )
    pixels_CHW = picture.detach().to("cpu", torch.float32)
    if not bool(torch.isfinite(pixels_CHW).all()) or float(pixels_CHW.abs().max()) > _LARGEST_NORMALISED:
        raise DataError(f"{name} holds numbers that are not finite or far from any normalised picture's.")
    return NormalisedPicture(pixels_CHW, expected.mean, expected.std)


def _image_of_tensor(pixels_CHW: torch.Tensor) -> Image.Image:
    if pixels_CHW.ndim != 3 or pixels_CHW.shape[0] not in (1, 3):
        hint = " It looks like (H, W, C): tensor.permute(2, 0, 1)." if _looks_channels_last(pixels_CHW) else ""
        raise DataError(
            f"A tensor of the shape {tuple(pixels_CHW.shape)} is no picture: expected (3, H, W), or (1, H, W).{hint}"
        )
    return _image_of_array(pixels_CHW.detach().cpu().permute(1, 2, 0).float().numpy(), of_tensor=pixels_CHW)


def _looks_channels_last(pixels: Any) -> bool:
    return pixels.ndim == 3 and pixels.shape[-1] in (1, 3)


def _image_of_array(pixels_HWC: npt.NDArray[Any], of_tensor: torch.Tensor | None = None) -> Image.Image:
    shape = pixels_HWC.shape
    if pixels_HWC.ndim not in (2, 3) or 0 in shape or (pixels_HWC.ndim == 3 and shape[-1] not in (1, 3, 4)):
        hint = " It looks like (C, H, W): array.transpose(1, 2, 0)." if len(shape) == 3 and shape[0] in (1, 3) else ""
        raise DataError(f"An array of the shape {shape} is no picture: expected (H, W, 3), or (H, W).{hint}")
    is_bytes = pixels_HWC.dtype == np.uint8 if of_tensor is None else of_tensor.dtype == torch.uint8
    is_float = pixels_HWC.dtype.kind == "f" and (of_tensor is None or of_tensor.is_floating_point())
    if not is_bytes and not is_float:
        kind = pixels_HWC.dtype if of_tensor is None else of_tensor.dtype
        raise DataError(f"A picture's numbers are {kind}: expected uint8 (0 to 255) or floats from 0 to 1.")
    bytes_HWC = pixels_HWC.astype(np.uint8) if is_bytes else _bytes_of_shares(pixels_HWC)
    return Image.fromarray(bytes_HWC[..., 0] if bytes_HWC.ndim == 3 and shape[-1] == 1 else bytes_HWC)


def _bytes_of_shares(shares_HWC: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Floats from 0 to 1 as 0 to 255, to the nearest.

    Raises:
        DataError: others.
    """
    low, high = float(shares_HWC.min()), float(shares_HWC.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise DataError("A picture's numbers are not all finite: expected floats from 0 to 1, or uint8 from 0 to 255.")
    if low < 0 or high > 1:
        raise DataError(
            f"A picture's numbers run from {low:g} to {high:g}: expected floats from 0 to 1, or uint8 from 0 to 255.\n"
            + (
                "If they are 0 to 255, divide them by 255."
                if low >= 0 and high <= 255
                else "Of tensors that are normalised already, say so: normalised=True."
            )
        )
    return np.rint(shares_HWC.astype(np.float64) * 255).astype(np.uint8)


def _unknown(picture: Any) -> DataError:
    return DataError(f"{_kind(picture)[0].upper()}{_kind(picture)[1:]} is no picture: expected {KINDS}.")


def _kind(picture: Any) -> str:
    if isinstance(picture, Mapping):
        return f"a dictionary of {count_of(len(picture), 'entry', 'entries')}"
    return "None" if picture is None else f"an object of the type {type(picture).__name__}"
