"""What served classifiers and captioners have in common: a model that is loaded once, and pictures that it encoded.

Axes: C channels, H, W pixels of the model's input.
"""

from __future__ import annotations

import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Generic, Literal, TypeVar

import torch
from PIL import Image

from vitrine.attribution.placement import Placement
from vitrine.serve.galleries import NO_PICTURES, Gallery
from vitrine.serve.worker import Job

_LONGEST_FOLDER = 80  # characters of a folder's name


def output_folder(stem: str, reference: str, flags: Sequence[str] = ()) -> str:
    """Where a command writes that the explorer offers: views that differ have folders that differ.

    Args:
        stem: of the name, such as "maps".
        reference: the model's.
        flags: the options of the command; precision, which a server has one of, is left out of the name.
    """
    words = [flag.lstrip("-") for flag in flags]
    if "precision" in words:
        place = words.index("precision")
        del words[place : place + 2]
    name = "-".join([stem, PurePosixPath(reference).name, *words])
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")
    is_told_apart = re.sub(r"[ ,_/-]+", "-", name) == plain and len(plain) <= _LONGEST_FOLDER
    return plain if is_told_apart else f"{plain[:_LONGEST_FOLDER].rstrip('-.')}-{zlib.crc32(name.encode()):08x}"


@dataclass(frozen=True, eq=False)
class Encoding(ABC):
    """One picture as one model saw it, from which every further view is made.

    Attributes:
        sha256: of the picture's file.
        placement: of the grid of patches on the photograph.
    """

    sha256: str
    placement: Placement

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Memory that the encoding takes, in bytes, about."""

    @property
    def size(self) -> list[int]:
        """Width and height of the photograph."""
        return [self.placement.geometry.width, self.placement.geometry.height]

    @property
    def box(self) -> list[float]:
        """Left, top, width and height of the grid on the photograph, in its pixels."""
        left, top, right, bottom = self.placement.geometry.box
        return [left, top, right - left, bottom - top]


E = TypeVar("E", bound=Encoding)


class ServedModel(ABC, Generic[E]):
    """A model that answers requests. :meth:`encode` runs it: call it in the worker's thread only.

    Attributes:
        kind: classifier or captioner.
        id: the model's id in addresses.
        reference: model reference as it was given.
        precision: in which the model runs.
        gallery: pictures that come with the model.
        notes: sentences on how the model was loaded.
        is_slow: whether one answer may take minutes; then it lets others go first, and has the time of a check.
    """

    kind: Literal["classifier", "captioner"]
    is_slow: bool = False

    def __init__(self, model_id: str, reference: str, precision: str, gallery: Gallery = NO_PICTURES) -> None:
        self.id, self.reference, self.precision, self.gallery = model_id, reference, precision, gallery
        self.notes: list[str] = []

    @property
    def encoding_key(self) -> Hashable:
        """What an encoding depends on beside the picture: by it encodings are kept."""
        return self.id

    @property
    @abstractmethod
    def module(self) -> torch.nn.Module:
        """The model itself."""

    @contextmanager
    def stop_when_cancelled(self, job: Job) -> Iterator[None]:
        """Within the ``with`` block, every forward pass of the model, of a copy of it, or of one of its blocks first
        checks the job.

        Raises:
            JobCancelled: the job was cancelled.
        """

        def check(*_: Any) -> None:
            job.raise_if_cancelled()

        with ExitStack() as handles:
            for module in (self.module, *_blocks(self.module)):
                handles.callback(module.register_forward_pre_hook(check).remove)
            yield

    @property
    @abstractmethod
    def weights_sha256(self) -> str | None:
        """sha256 of the weights file; None for random weights."""

    @abstractmethod
    def prepare(self, photo: Image.Image) -> Any:
        """A photograph as the model's input: a tensor (C, H, W), or with a prompt. May run in any thread."""

    @abstractmethod
    def encode(self, sha256: str, size: tuple[int, int], model_input: Any) -> E:
        """Run the model on one picture and keep everything that its views are made of.

        Args:
            sha256: of the picture's file.
            size: width and height of the photograph.
            model_input: of the photograph, from :meth:`prepare`.
        """


def _blocks(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """The members of every list of modules: a transformer's blocks, between which a long pass can be stopped."""
    for part in module.modules():
        if isinstance(part, torch.nn.ModuleList):
            yield from part
