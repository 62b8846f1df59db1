"""What is in which shard: the file ``index.json`` beside shards, checked when it is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vitrine.errors import DataError

INDEX = "index.json"
FORMAT = "vitrine shards 1"
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Shard:
    """One tar file.

    Attributes:
        place: a path or an http address.
        pictures: how many are in it, readable or not.
        sha256: of the file; empty where nobody has computed it.
    """

    place: str
    pictures: int
    sha256: str = ""

    @property
    def name(self) -> str:
        """The last part of its place."""
        return self.place.rstrip("/").rpartition("/")[2]


@dataclass(frozen=True)
class ShardIndex:
    """All shards of some data.

    Attributes:
        labels: class names; a picture's label is an index into it. None where pictures have no classes.
        splits: shards in order, of "train", "validation" and "test" where there are such.
        notes: sentences on decisions.
        captions: whether pictures have captions.
    """

    labels: tuple[str, ...]
    splits: Mapping[str, tuple[Shard, ...]]
    notes: tuple[str, ...] = ()
    captions: bool = False


def parse_index(text: str, folder: str) -> ShardIndex:
    """Read the content of an index.json whose shards lie in ``folder`` (a path or an address).

    Raises:
        DataError: it is no index of shards, or names files outside of its folder.
    """
    try:
        content = json.loads(text)
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}, expected {FORMAT!r}")
        labels = tuple(str(label) for label in content["labels"])
        splits = {name: _shards(content["splits"][name], folder) for name in SPLITS if content["splits"].get(name)}
        notes = tuple(str(note) for note in content.get("notes", ()))
        captions = content.get("captions", False) is True
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{folder}/{INDEX} is no index of shards ({type(error).__name__}: {error}).\n"
            "Make the shards anew with: vitrine shards DATA -o DIR"
        ) from error
    return ShardIndex(labels, splits, notes, captions)


def _shards(rows: list[dict[str, Any]], folder: str) -> tuple[Shard, ...]:
    shards = []
    for row in rows:
        file, pictures = row["file"], row["pictures"]
        if not isinstance(file, str) or file in ("", ".", "..") or "/" in file or "\\" in file:
            raise ValueError(f"{file!r} is no file of this folder")
        if not isinstance(pictures, int) or pictures < 1:
            raise ValueError(f"{file} with {pictures!r} pictures")
        shards.append(Shard(f"{folder}/{file}", pictures, str(row.get("sha256", ""))))
    return tuple(shards)
