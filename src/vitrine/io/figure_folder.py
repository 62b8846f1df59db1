"""A folder of figures belongs to one call: what it wrote is listed in ``.vitrine-figures.json``, so that nothing of
another call stays beside it unsaid."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TypedDict

from vitrine.errors import RunError
from vitrine.io.files import to_json, write_atomically
from vitrine.io.untrusted_files import MAX_TEXT_BYTES, read_file, read_json
from vitrine.results import count_of

MANIFEST = ".vitrine-figures.json"

TAIL = ".vitrine-figures.partial"
"""Beside it while figures come one by one: a line a file, as a JSON string."""

_ENDINGS = (".png", ".svg", ".csv")


@dataclass(frozen=True)
class FigureCall:
    """What is drawn, as far as figures of one folder have to agree in it.

    Attributes:
        verb: such as "explain".
        options: the model and every option that makes a figure look as it does.
        pictures: the folder and which of its pictures; None of a single picture, which may be drawn anew, or added,
            beside the others of its call.
    """

    verb: str
    options: tuple[str, ...]
    pictures: tuple[str, ...] | None = None

    def text(self) -> str:
        """The call in short, as a command line has it."""
        model, *flags = self.options or ("",)
        return shlex.join(["vitrine", self.verb, model, *(self.pictures or ()), *flags])


class _Content(TypedDict):
    """The shape of ``.vitrine-figures.json``."""

    verb: str
    options: list[str]
    pictures: list[str] | None
    files: list[str]


@dataclass(frozen=True)
class _Manifest:
    """The content of ``.vitrine-figures.json``; ``files`` from its folder on."""

    verb: str
    options: list[str]
    pictures: list[str] | None
    files: list[str]

    @classmethod
    def of(cls, call: FigureCall, files: Sequence[str]) -> _Manifest:
        return cls(call.verb, list(call.options), None if call.pictures is None else list(call.pictures), list(files))

    def call(self) -> FigureCall:
        return FigureCall(self.verb, tuple(self.options), None if self.pictures is None else tuple(self.pictures))


@dataclass
class _Stream:
    """Files that come one by one: those listed so far, and those that the same call wrote before."""

    call: FigureCall
    files: list[str]
    before: frozenset[str]


@dataclass
class FolderClaim:
    """A folder that a call is about to write to; see :func:`claim_folder`.

    What is written is known beforehand, or comes one by one: then :meth:`add` lists it, and :meth:`finish` removes what
    the same call wrote before and no longer has.

    Attributes:
        folder: it.
        redraws: whether all that is written is listed by a call before, of this folder or of one that it lies in: its
            table has these pictures already.
        adds: whether pictures are added to those of the call before, so that its table has to be kept.
    """

    folder: Path
    redraws: bool = False
    adds: bool = False
    _new: _Manifest | None = None
    _stale: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    _stream: _Stream | None = None

    @property
    def is_stream(self) -> bool:
        """Whether what is written comes one by one."""
        return self._stream is not None

    def take(self) -> None:
        """Remove what belongs to no call any more, and list what this one writes; once, before the first figure."""
        if self._new is None:
            return
        self._remove_all(self._stale)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / MANIFEST, to_json(vars(self._new)))
        (self.folder / TAIL).unlink(missing_ok=True)
        self._new = None

    def add(self, files: Sequence[str]) -> None:
        """List files that are about to be written, where they come one by one; else they are listed already."""
        if self._stream is None:
            return
        self._stream.files += files
        with (self.folder / TAIL).open("a", encoding="utf-8") as lines:
            lines.writelines(f"{json.dumps(name)}\n" for name in files)

    def finish(self) -> None:
        """Remove what the same call wrote before and did not write now, where files came one by one."""
        if self._stream is None:
            return
        before, call, files = self._stream.before, self._stream.call, list(dict.fromkeys(self._stream.files))
        self._remove_all(before - set(files))
        write_atomically(self.folder / MANIFEST, to_json(vars(_Manifest.of(call, files))))
        (self.folder / TAIL).unlink(missing_ok=True)

    def _remove_all(self, names: Iterable[str]) -> None:
        count = sum(_remove(self.folder, name) for name in names)
        if count:
            self.notes.append(f"{count_of(count, 'file')} of the call before this one were removed from {self.folder}.")


def claim_folder(
    out: Path, call: FigureCall, files: Sequence[str], *, replace: bool = False, is_stream: bool = False
) -> FolderClaim:
    """Look at a folder of figures before a call writes to it.

    The same call finds its own files and writes them anew; those of pictures that it has no longer are removed. A
    single picture is drawn beside the others of its call.

    Args:
        out: the folder.
        call: what is drawn.
        files: what it writes, from ``out`` on.
        replace: remove the files of another call instead of refusing.
        is_stream: more files come, which nobody knows yet; see :meth:`FolderClaim.add`.

    Raises:
        RunError: the folder has figures of another call.
    """
    old = _read(out)
    if call.pictures is None and old is None and _lies_in_folder_of(call, out, files):
        return FolderClaim(out, redraws=True)
    new = _Manifest.of(call, files)
    if is_stream:
        return _claim_for_stream(out, call, files, old, replace)
    if old is None:
        return FolderClaim(out, _new=new)
    is_same = (old.verb, old.options) == (new.verb, new.options)
    if is_same and call.pictures is None:
        new = _Manifest(old.verb, old.options, old.pictures, list(dict.fromkeys([*old.files, *files])))
        redraws = new.files == old.files
        return FolderClaim(out, redraws, not redraws, None if redraws else new)
    if not replace and not (is_same and old.pictures == new.pictures):
        raise _of_another_call(out, old)
    new_names = set(files)
    return FolderClaim(out, _new=new, _stale=tuple(name for name in old.files if name not in new_names))


def _claim_for_stream(
    out: Path, call: FigureCall, files: Sequence[str], old: _Manifest | None, replace: bool
) -> FolderClaim:
    """What the same call wrote before stays listed until it ends; what another one wrote goes before it begins."""
    is_same = old is not None and old.call() == call
    if old is not None and not is_same and not replace:
        raise _of_another_call(out, old)
    before = tuple(old.files) if old is not None else ()
    own_files = before if is_same else ()
    new = _Manifest.of(call, tuple(dict.fromkeys([*own_files, *files])))
    return FolderClaim(
        out, _new=new, _stale=() if is_same else before, _stream=_Stream(call, list(files), frozenset(own_files))
    )


def _of_another_call(out: Path, old: _Manifest) -> RunError:
    return RunError(
        f"{out} has {count_of(len(old.files), 'file')} of another call: {old.call().text()}\n"
        "Give another -o, or --replace to remove them first."
    )


def _lies_in_folder_of(call: FigureCall, out: Path, files: Sequence[str]) -> bool:
    """Whether a folder above has these files of this call: one of its figures is drawn anew where it was.

    Raises:
        RunError: they are listed there by another call.
    """
    for parent in out.absolute().parents:
        manifest = _read(parent)
        if manifest is None:
            continue
        inside = out.absolute().relative_to(parent)
        common = {(inside / name).as_posix() for name in files} & set(manifest.files)
        if not common:
            return False
        if (manifest.verb, manifest.options) != (call.verb, list(call.options)):
            raise RunError(
                f"{out} has figures of another call: {manifest.call().text()}\nGive another -o, outside of {parent}."
            )
        return True
    return False


def figures_in(folder: Path, verb: str) -> tuple[Path, ...] | None:
    """The figures that a call wrote to a folder, in its order and where they still are; None without such a call."""
    manifest = _read(folder)
    if manifest is None or manifest.verb != verb:
        return None
    paths = [PurePosixPath(name) for name in manifest.files]
    inside = [path for path in paths if not path.is_absolute() and ".." not in path.parts]
    return tuple(folder / path for path in inside if path.suffix in (".png", ".svg") and (folder / path).is_file())


def _read(folder: Path) -> _Manifest | None:
    """The manifest of a folder; None without one that can be read."""
    with suppress(OSError, ValueError):
        content = read_json(folder / MANIFEST, _Content)
        files = list(dict.fromkeys([*content["files"], *_read_tail(folder)]))
        return _Manifest(content["verb"], content["options"], content["pictures"], files)
    return None


def _read_tail(folder: Path) -> Iterator[str]:
    """What a call that was interrupted listed since it began; a line that was not finished lists nothing."""
    tail = folder / TAIL
    lines = read_file(tail, MAX_TEXT_BYTES).splitlines() if tail.is_file() else []
    for line in lines:
        with suppress(ValueError):
            name = json.loads(line)
            if isinstance(name, str):
                yield name


def _remove(folder: Path, name: str) -> bool:
    """Remove a file that a manifest lists, if it lies in the folder and is of a kind that figures are written as."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or path.suffix not in _ENDINGS:
        return False
    file = folder / path
    if not file.parent.resolve().is_relative_to(folder.resolve()) or not file.is_file():
        return False
    with suppress(OSError):
        file.unlink()
        _remove_empty(file.parent, folder)
        return True
    return False


def _remove_empty(folder: Path, top: Path) -> None:
    with suppress(OSError):
        while folder != top:
            folder.rmdir()
            folder = folder.parent


def picture_choice(images: Path | None, limit: int | None, seed: int) -> tuple[str, ...] | None:
    """The pictures of a call as :class:`FigureCall` has them: ``photos`` and ``./photos/`` are one folder.

    Args:
        images: a folder, shards or a table; or one picture; None is pictures in memory.
        limit: pictures at most; None is all.
        seed: with which they are drawn.
    """
    if images is None:
        return ("pictures in memory",)
    if not images.is_dir() and images.suffix.lower() not in (".tar", ".parquet"):
        return None
    choice = () if limit is None else ("--limit", str(limit), *(("--seed", str(seed)) if seed else ()))
    return (os.path.normpath(images), *choice)
