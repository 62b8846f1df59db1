"""The tensors of a weights file: names and shapes before memory is taken, values when they are asked for.

No code that a file carries is ever run: safetensors, numpy arrays, and torch's reader for plain data.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from safetensors import safe_open
from torch import Tensor

from vitrine.errors import ModelError
from vitrine.io.limits import limit
from vitrine.models.checkpoints.foreign_formats import refuse_foreign_format
from vitrine.models.checkpoints.pickle_file import UnsafePickleError, load_pickle, scan_pickle
from vitrine.models.checkpoints.weights_index import is_index, part_paths, read_index
from vitrine.results import and_n_more, count_of

Shape = tuple[int, ...]

# Of several state dicts that are as good as one another, an average of the weights is taken before all others, as timm
# does; then one that is neither teacher nor student; a teacher, the average that DINO keeps, before its student.
_PREFERENCE = (r"(^|_)ema(_|$)", r"^state_dict$", r"^model$", r"^(?!.*(teacher|student|momentum|optim))", r"teacher")
_PATCHES = re.compile(
    r"(^|\.)(patch_embed\.proj|patch_embeddings\.(projection\.)?weight|patch_embedding\.|conv_proj\.)"
)
_BLOCKS = re.compile(r"(^|[._])(blocks|layers?|resblocks|encoder_layer|encoderblock)[._]\d+\.")
MAX_WRAPPERS = limit("MAX_WRAPPERS", 8)
"""Dictionaries inside of one another, around the weights of a file."""
_ADDED_BY_TORCH = ("_orig_mod.", "module.", "_orig_mod.")  # torch.compile, DistributedDataParallel, in either order
_ATTRIBUTES = ("model.", "net.", "network.", "backbone.")  # of the object that was saved with the model inside it
_Rename = Callable[[Mapping[str, Any]], dict[str, str]]
"""From names of tensors in a file to those that they are given."""
_UNPACKING = 50  # an archive that unpacks to more times its size holds no weights
_NPZ_HEADER_BYTES = 10_000
_MAPPED_BYTES = 16 << 20  # of a file of tensors that are mapped at a time; a map costs the parsing of its header


@dataclass(frozen=True)
class StateDictFile:
    """An opened weights file: names and shapes of its tensors, whose values are read when they are asked for.

    Attributes:
        path: where it lies.
        shapes: shape of each tensor, by name, without what wrappers put in front of the names.
        wrapper: the keys under which the tensors lay, outermost first.
        read: reads the tensors, under the same names.
        notes: sentences on what else the file holds.
        architecture: what a file of training calls its model, under ``arch``; empty where it does not.
    """

    path: Path
    shapes: Mapping[str, Shape]
    wrapper: tuple[str, ...] = ()
    read: Callable[[], dict[str, Tensor]] = field(default=dict, repr=False)
    notes: tuple[str, ...] = ()
    architecture: str = ""

    def tensors(self) -> dict[str, Tensor]:
        """Read the tensors, on the CPU.

        Raises:
            ModelError: the file is damaged.
        """
        with _model_errors(self.path):
            return self.read()


def open_weights(path: Path, selection: str = "", *, as_named: bool = False) -> StateDictFile:
    """Open a weights file for its names and shapes: .safetensors, .npz, an index of
    several files, or any other name for ``torch.save``.

    What the file declares is checked against its size, so that nothing larger than the file is ever made from it.

    Args:
        path: of the file.
        selection: of several state dicts in it, the one under these keys, with dots between them; empty chooses.
        as_named: leave names as the file has them, for the library that wrote it.

    Raises:
        ModelError: it is not a weights file, is damaged, or carries Python objects.
    """
    rename = _own_names if as_named else strip_wrapper_prefixes
    if is_index(path):
        return _open_parts(path, rename)
    with _model_errors(path):
        if path.suffix == ".safetensors":
            return _open_safetensors(path, rename)
        return _open_npz(path) if path.suffix == ".npz" else _open_pickle(path, selection, rename)


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


def _open_safetensors(path: Path, rename: _Rename) -> StateDictFile:
    with safe_open(path, framework="pt") as tensors:  # reads the header, and holds its offsets against the file's size
        shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    names = rename(shapes)
    return StateDictFile(
        path,
        {names[name]: shape for name, shape in shapes.items()},
        read=lambda: {names[name]: value for name, value in read_safetensors(path).items()},
    )


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file in memory of their own, each by itself.

    The library's own reader maps the file: a model would go on reading a file that may be replaced, and a copy of it
    would stand in memory beside the file's pages until the last tensor is copied. Here a part at a time is mapped.
    """
    tensors: dict[str, Tensor] = {}
    with safe_open(path, framework="pt") as header:
        names = list(header.offset_keys())
    while len(tensors) < len(names):
        size = 0
        with safe_open(path, framework="pt") as part:
            for name in names[len(tensors) :]:
                tensors[name] = part.get_tensor(name).clone()
                size += tensors[name].nbytes
                if size >= _MAPPED_BYTES:
                    break
    return tensors


def _open_parts(path: Path, rename: _Rename) -> StateDictFile:
    """The tensors of several files, by their index: each from the file that it names.

    What all names have in front is seen on the names of all files together: one file alone may lack those without.
    """
    part_by_name = read_index(path)
    files = {part.name: open_weights(part, as_named=True) for part in part_paths(path)}
    names = rename(part_by_name)
    shapes = {names[name]: files[part].shapes.get(name) for name, part in part_by_name.items()}
    missing = [name for name, shape in shapes.items() if shape is None]
    if missing:
        raise ModelError(
            f"{path} names {count_of(len(missing), 'tensor')} that its files lack: {and_n_more(missing, 3)}."
        )

    def read() -> dict[str, Tensor]:
        tensors = {part: file.tensors() for part, file in files.items()}
        return {names[name]: tensors[part][name] for name, part in part_by_name.items()}

    return StateDictFile(path, {name: shape for name, shape in shapes.items() if shape is not None}, read=read)


def _open_pickle(path: Path, selection: str, rename: _Rename) -> StateDictFile:
    refuse_foreign_format(path)
    content = scan_pickle(path)
    candidates = _state_dicts(content)
    keys, notes = _choose(candidates, selection)
    names = rename(candidates[keys])

    def read() -> dict[str, Tensor]:
        return {names[name]: value for name, value in _state_dicts(load_pickle(path))[keys].items()}

    shapes = {names[name]: tuple(value.shape) for name, value in candidates[keys].items()}
    architecture = content.get("arch")
    return StateDictFile(path, shapes, keys, read, notes, architecture if isinstance(architecture, str) else "")


def _state_dicts(content: Any) -> dict[tuple[str, ...], dict[str, Tensor]]:
    """Every mapping of names to tensors inside what was saved, by the keys that lead to it; outer ones first."""
    if not isinstance(content, Mapping):
        raise ValueError(f"it holds a {type(content).__name__} in place of a state dict")
    state_dicts: dict[tuple[str, ...], dict[str, Tensor]] = {}
    visited_ids: set[int] = set()
    waiting: list[tuple[tuple[str, ...], Mapping[Any, Any]]] = [((), content)]
    for keys, mapping in waiting:  # which grows on the way
        if id(mapping) in visited_ids or len(keys) > MAX_WRAPPERS:
            continue
        visited_ids.add(id(mapping))
        items_by_name = {name: value for name, value in mapping.items() if isinstance(name, str)}
        tensors = {name: value for name, value in items_by_name.items() if isinstance(value, Tensor)}
        if tensors:
            state_dicts[keys] = tensors
        waiting += [((*keys, name), value) for name, value in items_by_name.items() if isinstance(value, Mapping)]
    if not state_dicts:
        raise ValueError(f"it holds no tensors, but {', '.join(map(repr, list(content)[:4])) or 'nothing'}")
    return state_dicts


def _choose(
    candidates: Mapping[tuple[str, ...], Mapping[str, Tensor]], selection: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The keys of the state dict to take, and a sentence where another one is as good.

    The one with the most names of a vision transformer is taken; without any such names, the one with the most tensors.

    Raises:
        ValueError: there is no such selection.
    """

    def score(keys: tuple[str, ...]) -> tuple[int, int, int]:
        names = candidates[keys]
        blocks = sum(_BLOCKS.search(name) is not None for name in names)
        has_patches = any(_PATCHES.search(name) for name in names)
        return has_patches, blocks, 0 if has_patches or blocks else len(names)

    first_keys = tuple(selection.split(".")) if selection else ()
    eligible = [keys for keys in candidates if keys[: len(first_keys)] == first_keys] or list(candidates)
    best = max(map(score, eligible))
    equals = sorted((keys for keys in eligible if score(keys) == best), key=preference)
    if len(equals) == 1 or not all(equals):
        return equals[0], ()
    others = and_n_more([".".join(keys) for keys in equals[1:]], 3)
    return equals[0], (
        f"The file holds several state dicts that fit: {'.'.join(equals[0])} was taken, not {others}; "
        f"FILE#{'.'.join(equals[1])} takes another.",
    )


def preference(keys: tuple[str, ...]) -> tuple[int, int]:
    """Where weights under these keys stand among others that are as good: the lower, the sooner they are taken.

    An average of the weights comes before the weights themselves, and a teacher before its student.
    """
    for rank, pattern in enumerate(_PREFERENCE):
        if any(re.search(pattern, key) for key in keys[-1:]):
            return rank, len(keys)
    return len(_PREFERENCE), len(keys)


def _own_names(names: Mapping[str, Any]) -> dict[str, str]:
    """Names as they are.

    Raises:
        ValueError: one cannot be shown.
    """
    if not all(name.isprintable() for name in names):
        raise ValueError("a tensor has a name that cannot be shown")
    return {name: name for name in names}


def strip_wrapper_prefixes(names: Mapping[str, Any]) -> dict[str, str]:
    """Names as the model itself has them, for names with ``module.``, ``_orig_mod.`` or ``model.`` in front.

    Raises:
        ValueError: two tensors would have one name, or one has a name that cannot be shown.
    """
    plain = {}
    for name in _own_names(names):
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
