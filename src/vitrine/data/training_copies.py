"""Copies of training pictures among those that a model is measured on: the same file, or what looks like a copy."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vitrine.data.perceptual_hash import BITS, SHORT_SIGNATURE_BYTES, find_near, lengthen

PERCEPTUAL_HASH = "perceptual_hash"
"""Key of a training picture's signature, as base64, in data.json and in the json of a shard's member."""


@dataclass(frozen=True)
class TrainingCopy:
    """A picture that also stands in training.

    Attributes:
        name: of the picture.
        original: of the training picture.
        distance: None for the same bytes, which is a fact; else the bits in which perceptual hashes differ, which is a
            suspicion.
        is_mirrored: whether one is nearer to the other's mirror image.
    """

    name: str
    original: str
    distance: int | None = None
    is_mirrored: bool = False

    @property
    def is_exact(self) -> bool:
        """Whether the two files have the same bytes."""
        return self.distance is None

    @property
    def description(self) -> str:
        """What it is a copy of, or looks like one of, in a few words."""
        if self.is_exact:
            return f"the same file as {self.original}"
        addition = ", mirrored" if self.is_mirrored else ""
        return f"near copy of {self.original} (distance {self.distance} of {BITS}{addition})"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "name": self.name,
            "training_picture": self.original,
            "distance": self.distance,
            "mirrored": self.is_mirrored,
        }

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> TrainingCopy:
        """What :meth:`to_dict` wrote.

        Raises:
            KeyError: an entry is missing.
        """
        return cls(row["name"], row["training_picture"], row["distance"], row["mirrored"])


@dataclass(frozen=True)
class HashedPicture:
    """A picture as far as its copies can be told: its name, its file's SHA-256, and its perceptual hashes or None."""

    name: str
    sha256: str
    signature: bytes | None

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> HashedPicture:
        """A picture as data.json or a shard has it.

        Raises:
            KeyError: it has no name or no sha256.
        """
        return cls(str(row["name"]), str(row["sha256"]), signature_from_text(row.get(PERCEPTUAL_HASH)))


def signature_to_text(signature: bytes | None) -> str | None:
    """A signature as files store it: without the hashes of strips and corners."""
    return None if signature is None else base64.b64encode(signature[:SHORT_SIGNATURE_BYTES]).decode("ascii")


def signature_from_text(text: object) -> bytes | None:
    """What :func:`signature_to_text` made, as far as files store it; None for anything else."""
    try:
        signature = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except binascii.Error:
        return None
    return lengthen(signature) if len(signature) == SHORT_SIGNATURE_BYTES else None


def find_training_copies(
    pictures: Iterable[HashedPicture], training: Iterable[HashedPicture]
) -> tuple[TrainingCopy, ...]:
    """Those of some pictures that also stand in training, in their order: each with the first training picture of the
    same bytes, else with the one that is nearest by its perceptual hash and within the threshold.
    """
    by_hash: dict[str, str] = {}
    training_signatures: list[tuple[str, bytes]] = []
    for each in training:
        by_hash.setdefault(each.sha256, each.name)
        if each.signature is not None:
            training_signatures.append((each.name, each.signature))
    names, rest, copies = [], list[tuple[str, bytes]](), dict[str, TrainingCopy]()
    for each in pictures:
        names.append(each.name)
        if each.sha256 in by_hash:
            copies[each.name] = TrainingCopy(each.name, by_hash[each.sha256])
        elif each.signature is not None:
            rest.append((each.name, each.signature))
    for near in find_near(_signatures(rest), _signatures(training_signatures)):
        name = rest[near.query][0]
        copies[name] = TrainingCopy(name, training_signatures[near.reference][0], near.distance, near.is_mirrored)
    return tuple(copies[name] for name in names if name in copies)


def _signatures(rows: Sequence[tuple[str, bytes]]) -> list[bytes]:
    return [signature for _, signature in rows]
