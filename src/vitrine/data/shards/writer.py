"""The writer of shards: the same pictures give the same bytes, every file is whole, and a stopped run can go on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

from vitrine.data.batch_plan import epoch_order
from vitrine.data.decode import EXTENSIONS, BytesPicture
from vitrine.data.sample_index import Reading, map_in_order, read_sample
from vitrine.data.samples import Sample
from vitrine.data.shards.index import FORMAT, INDEX
from vitrine.data.shards.reader import MAX_SHARD_PICTURE_BYTES, MAX_SHARD_TEXT_BYTES
from vitrine.data.training_copies import PERCEPTUAL_HASH, signature_to_text
from vitrine.errors import DataError, EnvironmentMismatchError, PictureError
from vitrine.io.files import atomic_path
from vitrine.io.untrusted_files import read_json

UNFINISHED = "unfinished.json"
_BLOCK = 512  # of a tar file


@dataclass
class WrittenSplit:
    """How far the writing of one split has come.

    Attributes:
        shards: rows of the index, one a finished shard.
        quarantine: pictures that are in no shard, with the reason.
        position: samples of the order that are dealt with.
    """

    shards: list[dict[str, Any]]
    quarantine: list[dict[str, str]]
    position: int = 0


def require_webdataset() -> ModuleType:
    """Import webdataset, the library whose layout shards have.

    Raises:
        EnvironmentMismatchError: it is not installed.
    """
    try:
        import webdataset
    except ImportError as error:
        raise EnvironmentMismatchError(
            "Shards are written with the package webdataset. Install it with: pip install 'vitrine[shards]'"
        ) from error
    module: ModuleType = webdataset
    return module


class ShardsWriter:
    """Writes the splits of some data into a folder.

    Args:
        folder: exists.
        fingerprint: what has to be the same when it is continued: data, seed, sizes.
        most_bytes: of a shard, unless a single picture is larger.
        seed: of the order, which is drawn so that neighbours in a shard are not of one class or folder.
    """

    def __init__(self, folder: Path, fingerprint: str, most_bytes: int, seed: int) -> None:
        self._webdataset = require_webdataset()
        self.folder, self._fingerprint, self._most, self._seed = folder, fingerprint, most_bytes, seed
        self.splits: dict[str, WrittenSplit] = self._read_progress()

    def _read_progress(self) -> dict[str, WrittenSplit]:
        path = self.folder / UNFINISHED
        if not path.is_file():
            return {}
        try:
            content = read_json(path, dict[str, Any])
            same = content["fingerprint"] == self._fingerprint
            splits = {name: WrittenSplit(**each) for name, each in content["splits"].items()}
            whole = all(
                (self.folder / row["file"]).stat().st_size == row["bytes"] for s in splits.values() for row in s.shards
            )
        except (OSError, ValueError, KeyError, TypeError):
            same = whole = False
            splits = {}
        if not (same and whole):
            raise DataError(
                f"{self.folder} holds unfinished shards of other data or settings, or some of them are gone.\n"
                "Give the same command as before to finish them, or delete the folder."
            )
        return splits

    def write(
        self, split: str, samples: Sequence[Sample], labels: Sequence[str], progress: Callable[[int], None]
    ) -> None:
        """Write one split, from where an earlier run came to.

        Args:
            split: its name.
            samples: with labels; with captions where there are no classes.
            labels: class names; none where samples have captions.
            progress: called with the pictures done so far in this split.
        """
        state = self.splits.setdefault(split, WrittenSplit([], []))
        order = epoch_order(len(samples), seed=self._seed, epoch=0, shuffle=True)[state.position :].tolist()
        coming = map_in_order(_read, [samples[i] for i in order])
        waiting: list[dict[str, bytes]] = []
        size, position = 0, state.position
        for sample, (reading, data) in zip((samples[i] for i in order), coming, strict=True):
            problem = reading.problem or _exclusion_reason(sample, labels)
            members = {} if problem else _members(reading, data, sample, labels)
            sample_bytes = _size(members)
            if waiting and size + sample_bytes > self._most:
                self._finish_shard(split, waiting, position)
                waiting, size = [], 0
            position += 1
            progress(position)
            if problem:
                state.quarantine.append({"split": split, "name": sample.name, "reason": problem})
                continue
            waiting.append(members)
            size += sample_bytes
        self._finish_shard(split, waiting, position)

    def _finish_shard(self, split: str, waiting: list[dict[str, bytes]], position: int) -> None:
        state = self.splits[split]
        if waiting:
            path = self.folder / f"{split}-{len(state.shards):06}.tar"
            first = sum(row["pictures"] for row in state.shards)
            with atomic_path(path) as file:
                self._write_tar(file, split, waiting, first)
            row = {"file": path.name, "pictures": len(waiting), "bytes": path.stat().st_size, "sha256": _sha256(path)}
            state.shards.append(row)
        state.position = position
        content = {"fingerprint": self._fingerprint, "splits": {name: vars(each) for name, each in self.splits.items()}}
        self._write_json(UNFINISHED, content)

    def _write_tar(self, file: Path, split: str, waiting: list[dict[str, bytes]], first: int) -> None:
        # Owner, group and time would tell where and when the same shards were made.
        with (
            file.open("wb") as stream,
            self._webdataset.TarWriter(stream, user="", group="", mtime=0, encoder=False) as tar,
        ):
            for number, members in enumerate(waiting, start=first):
                tar.write({"__key__": f"{split}{number:09}", **members})

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Write the index, which makes the folder whole."""
        splits = {name: each.shards for name, each in self.splits.items() if each.shards}
        quarantine = [row for each in self.splits.values() for row in each.quarantine]
        content = {"format": FORMAT, **facts, "fingerprint": self._fingerprint, "splits": splits}
        self._write_json(INDEX, {**content, "quarantine": quarantine})
        (self.folder / UNFINISHED).unlink(missing_ok=True)

    def _write_json(self, name: str, content: Mapping[str, Any]) -> None:
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        with atomic_path(self.folder / name) as file:
            file.write_text(text, "utf-8")


def read_finished_index(folder: Path, fingerprint: str) -> dict[str, Any]:
    """The content of the index that :meth:`ShardsWriter.finish` wrote for the same data and settings.

    What a kill after the index left of the unfinished state is removed.

    Raises:
        OSError, ValueError, KeyError, TypeError, AttributeError: it is something else, or shards are gone.
    """
    content: dict[str, Any] = json.loads((folder / INDEX).read_text("utf-8"))
    if content["fingerprint"] != fingerprint:
        raise ValueError("it is of other data or settings")
    for row in (row for rows in content["splits"].values() for row in rows):
        if (folder / row["file"]).stat().st_size != row["bytes"]:
            raise ValueError(f"{row['file']} is not as it was written")
    (folder / UNFINISHED).unlink(missing_ok=True)
    return content


def _read(sample: Sample) -> tuple[Reading, bytes]:
    try:
        data = sample.picture.read_bytes()
    except PictureError as error:
        return Reading(sample.name, problem=str(error)), b""
    if len(data) > MAX_SHARD_PICTURE_BYTES:
        problem = f"the file is {len(data):,} bytes long; {MAX_SHARD_PICTURE_BYTES:,} is the limit in shards"
        return Reading(sample.name, problem=problem), b""
    return read_sample(Sample(sample.name, BytesPicture(data))), data


def _exclusion_reason(sample: Sample, labels: Sequence[str]) -> str:
    """Why a readable picture cannot be put into a shard; empty where it can."""
    if labels:
        return "it has no label" if sample.label is None else ""
    size = len(_caption_text(sample))
    return f"its captions have {size:,} bytes; {MAX_SHARD_TEXT_BYTES:,} is the limit in shards" * (
        size > MAX_SHARD_TEXT_BYTES
    )


def _caption_text(sample: Sample) -> bytes:
    return "\n".join(sample.captions).encode()


def _members(reading: Reading, data: bytes, sample: Sample, labels: Sequence[str]) -> dict[str, bytes]:
    """Contents by extension: the picture, its class or its captions, and what else is known of it."""
    hashes = {"sha256": reading.sha256, PERCEPTUAL_HASH: signature_to_text(reading.signature)}
    facts = {"name": sample.name, **hashes}
    if labels:
        assert sample.label is not None
        facts = {"name": sample.name, "label": labels[sample.label], **hashes}
    annotation = {"cls": str(sample.label).encode()} if labels else {"txt": _caption_text(sample)}
    return {_extension(reading, sample): data, **annotation, "json": json.dumps(facts, ensure_ascii=False).encode()}


def _size(members: Mapping[str, bytes]) -> int:
    """Bytes of a sample in a tar file: members, each with a header and filled up to whole blocks."""
    return sum(_BLOCK + -(-len(each) // _BLOCK) * _BLOCK for each in members.values())


def _extension(reading: Reading, sample: Sample) -> str:
    """What the picture is by its content, whatever its name says."""
    suffix = PurePosixPath(sample.name).suffix.lower()
    kind = reading.facts.format if reading.facts is not None else ""
    if EXTENSIONS.get(suffix) == kind:
        return suffix.removeprefix(".")
    return next((ending.removeprefix(".") for ending, format_ in EXTENSIONS.items() if format_ == kind), "jpg")


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fingerprint(splits: Mapping[str, Sequence[Sample]], labels: Sequence[str], **settings: Any) -> str:
    """A hash of names, labels, captions and settings, which is the same for the same command on the same data."""
    whole = hashlib.sha256(json.dumps([list(labels), settings], sort_keys=True).encode())
    for name, samples in sorted(splits.items()):
        for sample in samples:
            row = json.dumps([name, sample.name, sample.label, *sample.captions])
            whole.update(row.encode())
    return whole.hexdigest()
