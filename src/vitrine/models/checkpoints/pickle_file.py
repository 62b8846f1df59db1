"""Files of ``torch.save``, looked through before they are loaded: none of their code is run.

A pickle is a small program. Its instructions are followed here without being carried out: names that are no plain data
are refused, and so are keys whose hash alone would take longer than anybody waits. Then the content is built with every
tensor on the meta device, and what it declares is held against what the file has.
"""

from __future__ import annotations

import argparse
import io
import mmap
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor
from torch._weights_only_unpickler import Unpickler

from vitrine.io.limits import limit
from vitrine.results import and_n_more

# Names that a pickle of weights may mention. torch's own list is longer: some of it makes memory of any size.
_ALLOWED = re.compile(
    r"""collections\ (OrderedDict|Counter)
    | torch\._utils\ _rebuild_(tensor|tensor_v2|parameter|parameter_with_state)
    | torch(\.cuda|\.storage)?\ \w*Storage
    | torch\ (Size|device|dtype|bool|u?int\d+|float\w*|bfloat16|half|double|long|complex\w*)
    | torch\.serialization\ _get_layout
    | torch\.nn\.parameter\ Parameter
    | _codecs\ encode
    | (__builtin__|builtins)\ set
    | argparse\ Namespace""",
    re.VERBOSE,
)
_NAME = re.compile(r"[\w.]{1,99} [\w.]{1,99}", re.ASCII)
_BEFORE_CONTENT = 3  # pickles of a legacy file: magic number, protocol, system
_LEGACY_PICKLES = 5  # and then the content and the keys of the storages, whose bytes follow
MAX_TUPLE_VALUES = limit("MAX_TUPLE_VALUES", 20_000)
"""Values of a tuple in a pickle, with all tuples inside of it: what its hash has to look at."""
_WRITERS = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
_READERS = ("GET", "BINGET", "LONG_BINGET")


class UnsafePickleError(Exception):
    """A file needs Python classes or functions beside plain data; the message names them."""


def scan_pickle(path: Path, *, may_repeat: bool = False) -> Any:
    """Look through a file of ``torch.save`` before it is loaded: its content, every tensor on the meta device.

    Args:
        path: of the file.
        may_repeat: whether a tensor may show its storage again and again, and so be larger than the file: only for a
            caller that holds shapes against those of a model before it copies anything.

    Raises:
        UnsafePickleError: it mentions more than tensors, containers and numbers.
        Exception: whatever torch's reader raises where the file is damaged, or ValueError where it declares more than
            it holds.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pickle protocols, storage classes and escapes, in bytes of anyone's
        foreign_names, damage = _foreign_names(path)
        if foreign_names:
            raise UnsafePickleError(and_n_more(foreign_names, 3))
        if damage is not None:
            raise damage
        content = _zip_on_meta(path) if zipfile.is_zipfile(path) else _legacy_on_meta(path)
    if not may_repeat:
        _check_sizes(content, path.stat().st_size)
    return content


def load_pickle(path: Path) -> Any:
    """Load a file of ``torch.save`` to the CPU; only after :func:`scan_pickle` has looked through it."""
    is_zip = zipfile.is_zipfile(path)
    with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
        warnings.simplefilter("ignore", UserWarning)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True if is_zip else None)


def _foreign_names(path: Path) -> tuple[list[str], Exception | None]:
    """What a file mentions beside plain data, and where looking for it came to a premature end the reason."""
    names: list[str] = []
    try:
        with path.open("rb") as stream:
            for name in _referenced_names(stream):
                if not _ALLOWED.fullmatch(name) and name not in names:
                    if not _NAME.fullmatch(name):
                        raise ValueError("it mentions a name that is none")
                    names.append(name)
    except Exception as error:  # anything, in bytes that are no pickle
        return [name.replace(" ", ".") for name in names], error
    return [name.replace(" ", ".") for name in names], None


def _referenced_names(stream: IO[bytes]) -> Iterator[str]:
    """Every module and name that the pickles of a file ask for, as ``module name``."""
    if stream.read(2) == b"PK":
        yield from _names(io.BytesIO(_pickle_of_zip(stream)))
        return
    if stream.seek(0, 2) == 0:
        raise EOFError("it is empty")
    with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:  # bounds every length that is declared
        for _ in range(_LEGACY_PICKLES):
            yield from _names(content)  # type: ignore[arg-type]


def _pickle_of_zip(stream: IO[bytes]) -> bytes:
    size = stream.seek(0, 2)
    with zipfile.ZipFile(stream) as archive:
        entries = archive.infolist()
        if any(entry.filename.endswith("/constants.pkl") for entry in entries):
            raise ValueError("it is a TorchScript archive")
        compressed_files = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
        if compressed_files:
            raise ValueError(f"{compressed_files[0]} is compressed, which torch.save never does")
        if sum(entry.file_size for entry in entries) > size:
            raise ValueError("it declares more bytes than it has")
        pickles = [entry for entry in entries if entry.filename.endswith("data.pkl")]
        if len(pickles) != 1:
            raise ValueError(f"there are {len(pickles)} data.pkl in it")
        return archive.read(pickles[0])


def _names(stream: IO[bytes]) -> Iterator[str]:
    """Every name that one pickle asks for; its instructions are followed on a stack of what they would leave there."""
    stack = _Stack()
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name in ("GLOBAL", "INST"):
            yield str(argument)
        elif opcode.name in ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
            yield f"pickle {opcode.name}"  # torch.save writes none of them, and their names are not in the opcode
        stack.follow(opcode, argument)


@dataclass(frozen=True)
class _Value:
    """What is known of a value on a pickle's stack.

    Attributes:
        kind: the pickletools name of its type; "mark" for the mark that some instructions reach down to.
        values: how many values a tuple has with all tuples inside it; 1 for everything else.
    """

    kind: str
    values: int = 1


_MARK = _Value("mark")
_KEYS = frozenset(
    kind.name
    for kind in (
        pickletools.pyunicode, pickletools.pystring, pickletools.pybytes_or_str, pickletools.pyint,
        pickletools.pyinteger_or_bool, pickletools.pylong, pickletools.pybool, pickletools.pyfloat, pickletools.pynone,
    )
)  # fmt: skip


class _Stack:
    """The stack of a pickle, with kinds in place of values."""

    def __init__(self) -> None:
        self._values: list[_Value] = []
        self._memo: dict[Any, _Value] = {}

    def follow(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        """Do to the kinds what an instruction does to the values.

        Raises:
            ValueError: a key is neither text nor a number, or a tuple is of a size that no weights have.
            IndexError: the instruction takes what is not there.
        """
        name = opcode.name
        if name in _WRITERS:
            self._memo[len(self._memo) if name == "MEMOIZE" else argument] = self._values[-1]
            return
        if name in _READERS:
            self._values.append(self._memo[argument])
            return
        if name == "DUP":
            self._values.append(self._values[-1])
            return
        operands = self._take(opcode)
        if name in ("SETITEM", "SETITEMS", "DICT"):
            _require_plain_keys(operands[::2])
        values = 1
        if name.startswith("TUPLE"):
            values = 1 + sum(operand.values for operand in operands)
            if values > MAX_TUPLE_VALUES:
                raise ValueError(f"a tuple of more than {MAX_TUPLE_VALUES:,} values is in it")
        self._values += [_MARK if kind.name == "mark" else _Value(kind.name, values) for kind in opcode.stack_after]

    def _take(self, opcode: pickletools.OpcodeInfo) -> list[_Value]:
        """Remove what an instruction takes: all that it takes but what lies below a mark, or the container it fills."""
        before: Sequence[Any] = opcode.stack_before
        fills = opcode.name in ("SETITEM", "SETITEMS", "APPEND", "APPENDS", "ADDITEMS")
        if pickletools.markobject in before or (opcode.name == "POP" and self._values[-1] is _MARK):
            operands = []
            while self._values[-1] is not _MARK:
                operands.append(self._values.pop())
            self._values.pop()
            operands.reverse()
            count = before.index(pickletools.markobject) if pickletools.markobject in before else 0
        else:
            count, operands = len(before), []
        below = self._values[len(self._values) - count :]
        if len(below) < count:
            raise IndexError("an instruction takes what is not there")
        del self._values[len(self._values) - count :]
        return operands or (below[1:] if fills else below)


def _require_plain_keys(keys: Sequence[_Value]) -> None:
    for key in keys:
        if key.kind not in _KEYS:
            raise ValueError(f"a key in it is a {key.kind}; expected text or a number")


def _zip_on_meta(path: Path) -> Any:
    """The content of a zip file of ``torch.save``; a storage that tensors share is counted once, by its key."""
    with path.open("rb") as stream, zipfile.ZipFile(path) as archive:
        sizes = {entry.filename.partition("/data/")[2]: entry.file_size for entry in archive.infolist()}
        pickle = _MetaUnpickler(io.BytesIO(_pickle_of_zip(stream)))
        content = pickle.load()
    for key, size in pickle.storage_bytes.items():
        if size > sizes.get(key, 0):
            raise ValueError(f"a storage of {size} bytes is declared, the file has {sizes.get(key, 0)} of it")
    return content


def _legacy_on_meta(path: Path) -> Any:
    """The content of a file in torch's format of before 2020, for which ``torch.load`` allocates what is claimed."""
    with path.open("rb") as stream:
        for _ in range(_BEFORE_CONTENT):
            _MetaUnpickler(stream).load()
        pickle = _MetaUnpickler(stream)
        content = pickle.load()
    total, size = sum(pickle.storage_bytes.values()), path.stat().st_size
    if total > size:
        raise ValueError(f"{total} bytes of tensors are declared, the file has {size}")
    return content


class _MetaUnpickler:
    """torch's reader of plain data, with storages that take no memory.

    Attributes:
        storage_bytes: how many bytes each storage is declared to have, by its key.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self.storage_bytes: dict[str, int] = {}
        self._storages: dict[str, torch.UntypedStorage] = {}
        self._unpickler = Unpickler(stream, encoding="utf-8")
        self._unpickler.persistent_load = self._storage  # type: ignore[method-assign]

    def load(self) -> Any:
        """The content."""
        with torch.serialization.safe_globals([argparse.Namespace]):
            return self._unpickler.load()

    def _storage(self, persistent_id: Any) -> torch.storage.TypedStorage:
        _, kind, key, _, count, *view = persistent_id
        if any(part is not None for part in view):
            raise ValueError("it has views of storages, as torch wrote them before 2017")
        dtype = torch.uint8 if kind is torch.UntypedStorage else kind.dtype
        size = count * dtype.itemsize
        if self.storage_bytes.setdefault(key, size) != size:
            raise ValueError("a storage is declared twice, with two sizes")
        if key not in self._storages:
            self._storages[key] = torch.UntypedStorage(size, device="meta")
        return torch.storage.TypedStorage(wrap_storage=self._storages[key], dtype=dtype, _internal=True)


def _check_sizes(content: Any, size: int) -> None:
    """Refuse a tensor that would need more bytes than the file has, were it written out."""
    for tensor in _tensors(content):
        if tensor.layout != torch.strided or tensor.numel() * tensor.element_size() > size:
            raise ValueError(f"a tensor of {tuple(tensor.shape)} is declared, which {size} bytes cannot hold")


def _tensors(content: Any) -> Iterator[Tensor]:
    """Every tensor inside nested containers, each container once."""
    visited_ids: set[int] = set()
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (dict, list, tuple, argparse.Namespace)) and id(value) not in visited_ids:
            visited_ids.add(id(value))
            if isinstance(value, argparse.Namespace):
                value = vars(value)
            waiting.extend(value.values() if isinstance(value, dict) else value)
