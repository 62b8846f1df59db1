"""The tensors of a weights file: names and shapes before memory is taken, values when they are asked for.

No code that a file carries is ever run: safetensors, numpy arrays, and torch's reader for plain data.
"""

from __future__ import annotations

import argparse
import io
import mmap
import pickletools
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch._weights_only_unpickler import Unpickler

from vitrine.errors import ModelError
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


class UnsafePickleError(Exception):
    """A file needs Python classes or functions beside plain data; the message names them."""


def scan_pickle(path: Path) -> Any:
    """Look through a file of ``torch.save`` before it is loaded: its content, every tensor on the meta device.

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
        content = _load(path, "meta") if zipfile.is_zipfile(path) else _legacy_on_meta(path)
    _check_sizes(content, path.stat().st_size)
    return content


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


def load_pickle(path: Path) -> Any:
    """Load a file of ``torch.save`` to the CPU; only after :func:`scan_pickle` has looked through it."""
    return _load(path, "cpu")


def _load(path: Path, device: str) -> Any:
    is_zip = zipfile.is_zipfile(path)
    with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
        warnings.simplefilter("ignore", UserWarning)
        return torch.load(path, map_location=device, weights_only=True, mmap=True if is_zip else None)


def _legacy_on_meta(path: Path) -> Any:
    """The content of a file in torch's format of before 2020, for which ``torch.load`` allocates what is claimed."""
    storages: dict[str, torch.UntypedStorage] = {}

    def storage_of(persistent_id: Any) -> torch.storage.TypedStorage:
        _, kind, key, _, count, view = persistent_id
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


Shape = tuple[int, ...]

# In the order in which they are looked for; the first four as timm does. A teacher is the average that DINO keeps.
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "teacher", "student")
_ADDED_BY_TORCH = ("_orig_mod.", "module.", "_orig_mod.")  # torch.compile, DistributedDataParallel, in either order
_ATTRIBUTES = ("model.", "net.", "network.", "backbone.")  # of the object that was saved with the model inside it
_UNPACKING = 50  # an archive that unpacks to more times its size holds no weights
_NPZ_HEADER_BYTES = 10_000


@dataclass(frozen=True)
class StateDictFile:
    """An opened weights file: names and shapes of its tensors, whose values are read when they are asked for.

    Attributes:
        path: where it lies.
        shapes: shape of each tensor, by name, without what wrappers put in front of the names.
        wrapper: the keys under which the tensors lay, outermost first.
        read: reads the tensors, under the same names.
    """

    path: Path
    shapes: Mapping[str, Shape]
    wrapper: tuple[str, ...] = ()
    read: Callable[[], dict[str, Tensor]] = field(default=dict, repr=False)

    def tensors(self) -> dict[str, Tensor]:
        """Read the tensors, on the CPU.

        Raises:
            ModelError: the file is damaged.
        """
        with _model_errors(self.path):
            return self.read()


def open_weights(path: Path) -> StateDictFile:
    """Open a weights file for its names and shapes: .safetensors, .npz, or any other name for ``torch.save``.

    What the file declares is checked against its size, so that nothing larger than the file is ever made from it.

    Raises:
        ModelError: it is not a weights file, is damaged, or carries Python objects.
    """
    with _model_errors(path):
        if path.suffix == ".safetensors":
            return _open_safetensors(path)
        return _open_npz(path) if path.suffix == ".npz" else _open_pickle(path)


@contextmanager
def _model_errors(path: Path) -> Iterator[None]:
    """Whatever a reader raises on a damaged file, as a ModelError."""
    try:
        yield
    except ModelError:
        raise
    except UnsafePickleError as error:
        raise ModelError(
            f"{path} is not a weights file that can be read safely: it carries Python objects, which could run code "
            f"({error}). None was run.\nIf you trust it, take the weights out where it was made: "
            "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')."
        ) from error
    except Exception as error:  # a damaged file makes its parser raise anything from EOFError to SafetensorError
        reason = " ".join(str(error).split("Check the documentation")[0].split())[:200]
        raise ModelError(
            f"{path} is not a weights file that can be read safely ({type(error).__name__}: {reason}).\n"
            "Expected safetensors, a state dict saved by torch.save, or the .npz of a published ViT."
        ) from error


def _open_safetensors(path: Path) -> StateDictFile:
    with safe_open(path, framework="pt") as tensors:  # reads the header, and holds its offsets against the file's size
        shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    names = strip_wrapper_prefixes(shapes)
    return StateDictFile(
        path,
        {names[name]: shape for name, shape in shapes.items()},
        read=lambda: {names[name]: value for name, value in load_file(path).items()},
    )


def _open_pickle(path: Path) -> StateDictFile:
    on_meta, wrapper = _unwrap(scan_pickle(path))
    names = strip_wrapper_prefixes(on_meta)

    def read() -> dict[str, Tensor]:
        content, _ = _unwrap(load_pickle(path))
        return {names[name]: value for name, value in content.items()}

    return StateDictFile(path, {names[name]: tuple(value.shape) for name, value in on_meta.items()}, wrapper, read)


def _unwrap(content: Any) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The state dict inside what was saved, and the keys that led to it."""
    wrapper: tuple[str, ...] = ()
    while isinstance(content, Mapping):
        inner = next((key for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content, wrapper = content[inner], (*wrapper, inner)
    if not isinstance(content, Mapping):
        raise ValueError(f"it holds a {type(content).__name__} in place of a state dict")
    tensors = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"it holds no tensors, but {', '.join(map(repr, list(content)[:4])) or 'nothing'}")
    return tensors, wrapper


def strip_wrapper_prefixes(names: Mapping[str, Any]) -> dict[str, str]:
    """Names as the model itself has them, for names with ``module.``, ``_orig_mod.`` or ``model.`` in front.

    Raises:
        ValueError: two tensors would have one name, or one has a name that cannot be shown.
    """
    if not all(name.isprintable() for name in names):
        raise ValueError("a tensor has a name that cannot be shown")
    plain = {}
    for name in names:
        short = name
        for prefix in _ADDED_BY_TORCH:
            short = short.removeprefix(prefix)
        plain[name] = short
    for attribute in _ATTRIBUTES:
        if plain and all(short.startswith(attribute) for short in plain.values()):
            plain = {name: short.removeprefix(attribute) for name, short in plain.items()}
    if len(set(plain.values())) < len(plain):
        raise ValueError("two of its tensors have the same name but for a module. in front")
    return plain


def _open_npz(path: Path) -> StateDictFile:
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        arrays = {entry.filename.removesuffix(".npy"): _array_size(archive, entry) for entry in archive.infolist()}
    total = sum(byte_count for _, byte_count in arrays.values())
    if total > _UNPACKING * size:
        raise ValueError(f"it declares {total} bytes of arrays, {size} bytes hold them")
    return StateDictFile(path, {name: arrays[name][0] for name in strip_wrapper_prefixes(arrays)})


def _array_size(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> tuple[Shape, int]:
    """Shape and bytes of one array, from its header alone."""
    with archive.open(entry) as stream:
        shape, dtype = _npy_header(stream)
        content_bytes = entry.file_size - stream.tell()
    if dtype.hasobject:
        raise UnsafePickleError(f"the array {entry.filename} is of objects")
    byte_count = dtype.itemsize
    for side in shape:
        byte_count *= side
    if byte_count != content_bytes:
        raise ValueError(f"the array {entry.filename} declares {byte_count} bytes and has {content_bytes}")
    return shape, byte_count


def _npy_header(stream: IO[bytes]) -> tuple[Shape, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"arrays of format {version[0]}.{version[1]} are not read")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream, max_header_size=_NPZ_HEADER_BYTES)
    return tuple(int(side) for side in shape), dtype
