"""The reader of one shard, whoever made it: nothing is unpacked to disk, run or unpickled.

A shard is a plain tar file in webdataset's layout: members that follow one another and have the same name up to the
first dot are one sample. Of these, pictures, ``.cls`` (the class, a whole number), ``.txt`` (a caption on each line)
and ``.json`` (``name``; the picture's hashes; ``captions`` where there is no ``.txt``) are read; links, devices and
every other member are passed over. Sizes are bounded before anything is read.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from vitrine.data.decode import EXTENSIONS, BytesPicture, EncodedPicture, UnreadablePicture
from vitrine.data.ignored_files import is_ignored_path
from vitrine.data.samples import Sample, clean_caption
from vitrine.data.shards.index import CONNECTION_ERRORS, INDEX, ReceivedFile, Shard, open_location
from vitrine.data.training_copies import PERCEPTUAL_HASH, signature_from_text
from vitrine.errors import DataError, PictureError
from vitrine.io.limits import limit
from vitrine.io.network import DOWNLOAD_ATTEMPTS, CutOffError, diagnose, retry_stream
from vitrine.io.untrusted_files import open_regular_file, parse_json


@dataclass(frozen=True)
class ShardPicture(EncodedPicture):
    """A picture in a shard on this machine: ``size`` bytes of the tar file from ``offset`` on, read at every call."""

    path: Path
    offset: int
    size: int

    def read_bytes(self) -> bytes:
        """The picture's bytes.

        Raises:
            PictureError: the shard cannot be read, or ends before the picture does.
        """
        try:
            with open_regular_file(self.path) as shard:
                if self.size > MAX_SHARD_PICTURE_BYTES:
                    raise PictureError(
                        f"it has {self.size:,} bytes; {MAX_SHARD_PICTURE_BYTES:,} is the limit in a shard"
                    )
                shard.seek(self.offset)
                data = shard.read(self.size)
        except OSError as error:
            raise PictureError(f"{self.path.name} cannot be read: {error.strerror}") from error
        if len(data) < self.size:
            raise PictureError(f"truncated: {self.path.name} ends before its picture does")
        return data


MAX_SHARD_PICTURE_BYTES = limit("MAX_SHARD_PICTURE_BYTES", 64 << 20)
"""Bytes of a picture in a shard; a larger one is left out unread."""

MAX_CLASSES = limit("MAX_CLASSES", 1_000_000)
"""Number that a class in a shard stays below, since as many classes are made of it."""

MAX_SHARD_TEXT_BYTES = limit("MAX_SHARD_TEXT_BYTES", 1 << 20)
"""Bytes of a class, of captions, of a json or of a header's long name in a shard."""

_TEXTS = ("cls", "txt", "json")
_READS_AT_END = 3  # one finds it, and tarfile may look again
_KEY = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")  # webdataset's: the name up to its first dot, and the rest
_LONG_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


class BoundedHeader(tarfile.TarInfo):
    """A tar header that refuses long names: tarfile would read them into memory, whatever length they claim."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _LONG_HEADERS and self.size > MAX_SHARD_TEXT_BYTES:
            raise tarfile.ReadError(f"a header of {self.size:,} bytes")
        return super()._proc_member(archive)  # type: ignore[misc, no-any-return]


class _BoundedEnd:
    """A stream that raises when its end is read again and again, as tarfile does to skip what is not there."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._at_end = stream, 0

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._at_end = 0 if data else self._at_end + 1
        if self._at_end > _READS_AT_END:
            raise tarfile.ReadError("unexpected end of data")
        return data


@dataclass
class Member:
    """One sample of a shard.

    Attributes:
        key: its members' name up to the first dot.
        file: name of the picture's member; empty where it has none.
        offset, size: of the picture's bytes in the shard.
        data: the picture's bytes; None where they were not wanted or cannot be had.
        label: the class; None where there is none.
        name: what the picture was called before; empty where nobody says.
        picture_problem: why there is no picture; empty where there is one.
        label_problem: why there is no class, where there is none.
        name_problem: why nothing is known of its name, where its .json is damaged.
        captions: each on one line.
        caption_problem: why there are no captions, where there are none.
        sha256: of the picture's bytes, as its .json says; empty where it says nothing.
        signature: its perceptual hashes, likewise; None where it says nothing.
    """

    key: str
    file: str = ""
    offset: int = 0
    size: int = 0
    data: bytes | None = field(default=None, repr=False)
    label: int | None = None
    name: str = ""
    picture_problem: str = ""
    label_problem: str = "it has no class (.cls)"
    name_problem: str = ""
    captions: tuple[str, ...] = ()
    caption_problem: str = "it has no caption (.txt, or captions in .json)"
    sha256: str = ""
    signature: bytes | None = None

    def is_complete(self, with_bytes: bool) -> bool:
        """Whether nothing that a training needs is still to come."""
        has_annotation = self.label is not None or bool(self.captions)
        return bool(self.file) and has_annotation and (self.data is not None or not with_bytes)

    def sample_name(self, shard: Shard) -> str:
        """What the picture was called before, or its file's name after that of its shard."""
        return _plain(self.name) or f"{shard.name.removesuffix('.tar')}/{_plain(self.file or self.key)}"

    def sample(self, shard: Shard, classes: int | None, path: str | None = None) -> Sample:
        """The member as a sample with its label or its captions; one that cannot be used raises when it is decoded.

        Args:
            shard: where it is from.
            classes: how many there are; None asks for captions.
            path: the shard's file where the picture is to be read from there later.
        """
        name = self.sample_name(shard)
        problem = self.picture_problem or ("" if self.file else "there is no picture of a known format")
        problem = problem or self._missing_part(classes)
        if problem or (path is None and self.data is None):
            return Sample(name, UnreadablePicture(problem or "its bytes are missing"))
        picture = BytesPicture(self.data or b"") if path is None else ShardPicture(Path(path), self.offset, self.size)
        return Sample(name, picture, captions=self.captions) if classes is None else Sample(name, picture, self.label)

    def _missing_part(self, classes: int | None) -> str:
        if classes is None:
            return "" if self.captions else self.caption_problem
        if self.label is None or self.name_problem:
            return self.name_problem or self.label_problem
        return "" if 0 <= self.label < classes else f"its class is {self.label}, and there are {classes} from 0 on"


def _plain(name: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in name.encode("utf-8", "backslashreplace").decode())


def read_members(stream: IO[bytes], is_wanted: Callable[[int], bool] = lambda _: True) -> Iterator[Member]:
    """The samples of an open shard in order; ``is_wanted`` says by number whose pictures are read into memory.

    Raises:
        tarfile.TarError: this is no plain tar file, or it is damaged from here on.
        OSError: reading failed.
    """
    member, number = None, -1
    source: Any = _BoundedEnd(stream)  # all that tarfile calls is read
    with tarfile.open(fileobj=source, mode="r|", tarinfo=BoundedHeader) as archive:
        for info in _until_damage(archive):
            if isinstance(info, Exception):
                if member is not None and member.is_complete(is_wanted(number)):
                    yield member
                raise info
            vars(archive)["members"] = []  # it would remember every member
            key, extension = _key_and_extension(info)
            if not key:
                continue
            if member is None or member.key != key:
                if member is not None:
                    yield member
                member, number = Member(key), number + 1
            try:
                _read_member(member, archive, info, extension, is_wanted(number))
            except tarfile.TarError:
                if member.is_complete(is_wanted(number)):
                    yield member
                raise
    if member is not None:
        yield member


def _key_and_extension(info: tarfile.TarInfo) -> tuple[str, str]:
    """The sample that a file of a shard belongs to, and the file's kind in small letters; empty for what is neither."""
    match = _KEY.match(info.name) if info.isreg() else None
    if match is None or PurePosixPath(info.name).name.startswith("__") or is_ignored_path(info.name):
        return "", ""
    key, extension = match[1], match[2].lower()
    return (key, extension) if extension in _TEXTS or f".{extension}" in EXTENSIONS else ("", "")


def _until_damage(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo | tarfile.TarError]:
    """The members, and the error that ends them, if one does."""
    try:
        yield from archive
    except tarfile.TarError as error:
        yield error


def _read_member(
    member: Member, archive: tarfile.TarFile, info: tarfile.TarInfo, extension: str, with_bytes: bool
) -> None:
    text = extension in _TEXTS
    most = MAX_SHARD_TEXT_BYTES if text else MAX_SHARD_PICTURE_BYTES
    if not text:
        member.file, member.offset, member.size = PurePosixPath(info.name).name, info.offset_data, info.size
    if info.size > most:
        _record_problem(member, extension, f".{extension} has {info.size:,} bytes; {most:,} is the limit")
        return
    if not (text or with_bytes):
        return
    reader = archive.extractfile(info)
    data = reader.read() if reader is not None else b""
    if not text:
        member.data = data
        return
    try:
        if extension == "cls":
            member.label = int(data)
            if abs(member.label) >= MAX_CLASSES:
                member.label = None
                _record_problem(member, extension, f".cls is not below {MAX_CLASSES:,}: {data[:40]!r}")
        elif extension == "txt":
            member.captions = _captions(data.decode("utf-8").split("\n")) or member.captions
        else:
            facts = parse_json(data)
            member.name = str(facts.get("name", ""))
            member.sha256 = str(facts.get("sha256") or "")
            member.signature = signature_from_text(facts.get(PERCEPTUAL_HASH))
            member.captions = member.captions or _captions(facts.get("captions", facts.get("caption")))
    except (ValueError, AttributeError):
        _record_problem(member, extension, f".{extension} cannot be understood: {data[:40]!r}")


def _record_problem(member: Member, extension: str, problem: str) -> None:
    """Note what is wrong with a part of a sample; it matters only where that part is asked for."""
    if extension == "cls":
        member.label_problem = problem
    elif extension in _TEXTS:
        member.caption_problem = problem
        member.name_problem = problem if extension == "json" else member.name_problem
    else:
        member.picture_problem = problem


def _captions(value: object) -> tuple[str, ...]:
    """One caption or several; what is no text is left out."""
    texts = value if isinstance(value, list) else [value]
    return tuple(line for text in texts if isinstance(text, str) and (line := clean_caption(text)))


def read_shard(shard: Shard, is_wanted: Callable[[int], bool] = lambda _: True) -> Iterator[Member]:
    """As many members as the index promises; a damaged or missing one says what its problem is.

    A connection that breaks is taken up anew, with growing waits. What comes over http has to have the length that the
    server announces, and the sha256 of the index where that states one.

    Raises:
        DataError: the shard is not there, its bytes are others than the index states, or connections broke too often.
    """
    whole = _ShardPass(shard, is_wanted)
    try:
        yield from retry_stream(whole.go_on)
    except CONNECTION_ERRORS as error:
        raise DataError(
            f"{shard.place} cannot be read: {diagnose(error).reason}, {DOWNLOAD_ATTEMPTS} times.\n"
            "Try again later (a training goes on with --resume), or copy the shards to this machine."
        ) from error
    except OSError as error:
        whole.problem = f"the shard is damaged before it ({error})"
    for number in range(whole.done, shard.pictures):
        yield Member(f"#{number}", picture_problem=whole.problem)


@dataclass
class _ShardPass:
    """One shard from its first member to its last, over as many connections as that takes.

    Attributes:
        done: members that were read.
        problem: why there are no more of them, at the end.
    """

    shard: Shard
    is_wanted: Callable[[int], bool]
    done: int = 0
    problem: str = "the shard ends before it"

    def go_on(self) -> Iterator[Member]:
        """The members that were not read yet."""
        with open_location(self.shard.place) as stream:
            try:
                for number, member in enumerate(read_members(stream, self.is_wanted)):
                    if self.done <= number < self.shard.pictures:
                        self.done += 1
                        yield member
            except (tarfile.TarError, EOFError) as error:
                self.problem = f"the shard is damaged before it ({error})"
            if isinstance(stream, ReceivedFile):
                self._check_whole(stream)

    def _check_whole(self, stream: ReceivedFile) -> None:
        sha256 = stream.sha256()
        if self.shard.sha256:
            _require_sha256(self.shard, sha256)
        elif not stream.is_announced and self.done < self.shard.pictures:
            raise CutOffError("the connection ended before the shard did")  # a short file would look the same


def _require_sha256(shard: Shard, sha256: str) -> None:
    if sha256 != shard.sha256:
        raise DataError(
            f"{shard.place} has other bytes than its {INDEX} states: expected the sha256 {shard.sha256[:12]}..., and "
            f"{sha256[:12]}... came.\nMake sure that both are of one call of vitrine shards, and copy them there anew."
        )
