"""What ``torch.save`` wrote, read as plain data: looked through first, and loaded without running code."""

from __future__ import annotations

import argparse
import io
import mmap
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor
from torch._weights_only_unpickler import Unpickler

# Names that a pickle of weights may mention. torch's own list is longer: some of it makes memory of any size.
_PLAIN = re.compile(
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
_SHOWN = 3


class CarriesObjectsError(Exception):
    """A file needs Python classes or functions beside plain data; the message names them."""


def scan_pickled(path: Path) -> Any:
    """The saved content with every tensor on the meta device: shapes without memory.

    Raises:
        CarriesObjectsError: it mentions more than tensors, containers and numbers.
        Exception: whatever torch's reader raises where the file is damaged, or ValueError where it declares more than
            it holds.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pickle protocols, storage classes and escapes, in bytes of anyone's
        strange, damage = _strange(path)
        if strange:
            more = f" and {len(strange) - _SHOWN} more" if len(strange) > _SHOWN else ""
            raise CarriesObjectsError(", ".join(strange[:_SHOWN]) + more)
        if damage is not None:
            raise damage
        content = _load(path, "meta") if zipfile.is_zipfile(path) else _legacy_on_meta(path)
    _check_sizes(content, path.stat().st_size)
    return content


def _strange(path: Path) -> tuple[list[str], Exception | None]:
    """What a file mentions beside plain data, and where looking for it came to a premature end the reason."""
    strange: list[str] = []
    try:
        with path.open("rb") as stream:
            for name in _mentioned(stream):
                if not _PLAIN.fullmatch(name) and name not in strange:
                    if not _NAME.fullmatch(name):
                        raise ValueError("it mentions a name that is none")
                    strange.append(name)
    except Exception as error:  # anything, in bytes that are no pickle
        return [name.replace(" ", ".") for name in strange], error
    return [name.replace(" ", ".") for name in strange], None


def load_pickled(path: Path) -> Any:
    """The saved content on the CPU; only after :func:`scan_pickled`."""
    return _load(path, "cpu")


def _load(path: Path, device: str) -> Any:
    zipped = zipfile.is_zipfile(path)
    with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
        warnings.simplefilter("ignore", UserWarning)
        return torch.load(path, map_location=device, weights_only=True, mmap=True if zipped else None)


def _legacy_on_meta(path: Path) -> Any:
    """The content of a file in torch's format of before 2020, for which ``torch.load`` allocates what is claimed."""
    storages: dict[str, torch.UntypedStorage] = {}

    def storage_of(saved: Any) -> torch.storage.TypedStorage:
        _, kind, key, _, count, view = saved
        if view is not None:
            raise ValueError("it has views of storages, as torch wrote them before 2017")
        size = count * kind.dtype.itemsize
        if key not in storages:
            storages[key] = torch.UntypedStorage(size, device="meta")
        return torch.storage.TypedStorage(wrap_storage=storages[key], dtype=kind.dtype, _internal=True)

    with path.open("rb") as stream, torch.serialization.safe_globals([argparse.Namespace]):
        for _ in range(_BEFORE_CONTENT):
            Unpickler(stream, encoding="utf-8").load()
        unpickler = Unpickler(stream, encoding="utf-8")
        unpickler.persistent_load = storage_of  # type: ignore[method-assign]
        return unpickler.load()


def _mentioned(stream: IO[bytes]) -> Iterator[str]:
    """Every module and name that the pickles of a file ask for, as ``module name``."""
    if stream.read(2) == b"PK":
        yield from _names(io.BytesIO(_content_of_zip(stream)))
        return
    if stream.seek(0, 2) == 0:
        raise EOFError("it is empty")
    with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:  # bounds every length that is declared
        for _ in range(_LEGACY_PICKLES):
            yield from _names(content)  # type: ignore[arg-type]


def _content_of_zip(stream: IO[bytes]) -> bytes:
    size = stream.seek(0, 2)
    with zipfile.ZipFile(stream) as archive:
        entries = archive.infolist()
        if any(entry.filename.endswith("/constants.pkl") for entry in entries):
            raise ValueError("it is a TorchScript archive")
        packed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
        if packed:
            raise ValueError(f"{packed[0]} is compressed, which torch.save never does")
        if sum(entry.file_size for entry in entries) > size:
            raise ValueError("it declares more bytes than it has")
        pickles = [entry for entry in entries if entry.filename.endswith("data.pkl")]
        if len(pickles) != 1:
            raise ValueError(f"there are {len(pickles)} data.pkl in it")
        return archive.read(pickles[0])


def _names(stream: IO[bytes]) -> Iterator[str]:
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name in ("GLOBAL", "INST"):
            yield str(argument)
        elif opcode.name in ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
            yield f"pickle {opcode.name}"  # torch.save writes none of them, and their names are not in the opcode


def _check_sizes(content: Any, size: int) -> None:
    """Refuse tensors or storages that need more bytes than the file has."""
    storages: dict[int, int] = {}
    for tensor in _tensors(content):
        if tensor.layout != torch.strided or tensor.numel() * tensor.element_size() > size:
            raise ValueError(f"a tensor of {tuple(tensor.shape)} is declared, which {size} bytes cannot hold")
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage.nbytes()
    if sum(storages.values()) > size:
        raise ValueError(f"{sum(storages.values())} bytes of tensors are declared, the file has {size}")


def _tensors(content: Any) -> Iterator[Tensor]:
    """Every tensor inside nested containers, each container once."""
    seen: set[int] = set()
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (dict, list, tuple, argparse.Namespace)) and id(value) not in seen:
            seen.add(id(value))
            if isinstance(value, argparse.Namespace):
                value = vars(value)
            waiting.extend(value.values() if isinstance(value, dict) else value)
