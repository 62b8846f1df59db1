"""Files of models that are no weights of PyTorch, refused by their true name, with the line that converts them."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

from vitrine.errors import ModelError


@dataclass(frozen=True)
class ForeignFormat:
    """A format of models that is not opened.

    Attributes:
        title: what people call it, with an article.
        suffixes: of file names, by which it is known where its content has no sign.
        magic: bytes near the beginning, with their offset, by which it is known whatever it is called.
        remedy: what to do, in a sentence; empty where nothing simple helps.
    """

    title: str
    suffixes: tuple[str, ...] = ()
    magic: tuple[int, bytes] | None = None
    remedy: str = ""


_RESAVE = "Where it was made, save its weights: safetensors.torch.save_file({}, 'weights.safetensors')."
_FROM_KERAS = "Only weights of PyTorch are read; of Keras models, KerasHub and transformers export such."

FORMATS = (
    ForeignFormat("an HDF5 file, as Keras saves models", magic=(0, b"\x89HDF\r\n\x1a\n"), remedy=_FROM_KERAS),
    ForeignFormat("a TensorFlow Lite model", magic=(4, b"TFL3"), remedy=_FROM_KERAS),
    ForeignFormat("a GGUF file of llama.cpp", magic=(0, b"GGUF")),
    ForeignFormat(
        "an ONNX graph",
        (".onnx",),
        remedy="A graph has no names of weights: give the checkpoint that it was made from.",
    ),
    ForeignFormat("a frozen TensorFlow graph", (".pb",), remedy=_FROM_KERAS),
    ForeignFormat("a part of a TensorFlow checkpoint", (".index", ".meta", ".data-00000-of-00001"), remedy=_FROM_KERAS),
    ForeignFormat(
        "weights of Flax",
        (".msgpack",),
        remedy="transformers loads them with from_flax=True and saves them for PyTorch.",
    ),
    ForeignFormat("a TensorRT engine", (".engine", ".plan"), remedy="Give the checkpoint that it was made from."),
    ForeignFormat("a Core ML model", (".mlmodel", ".mlpackage"), remedy="Give the checkpoint that it was made from."),
)
_IN_ZIP = (
    # The name of a member by which the archive is recognised.
    ("constants.pkl", "a TorchScript archive", _RESAVE.format("torch.jit.load(FILE).state_dict()")),
    ("model.weights.h5", "a model of Keras", _FROM_KERAS),
    ("archive_format", "a program of torch.export", _RESAVE.format("dict(torch.export.load(FILE).state_dict)")),
)


def refuse_foreign_format(path: Path) -> None:
    """Refuse a file that is of another format, by its first bytes, its name, or what an archive holds.

    Raises:
        ModelError: it is; the message has the format's name and what to do.
    """
    with path.open("rb") as stream:
        head = stream.read(64)
    for each in FORMATS:
        has_magic = each.magic is not None and head[each.magic[0] :].startswith(each.magic[1])
        if has_magic or path.name.lower().endswith(each.suffixes):
            raise _error(path, each.title, each.remedy)
    if head.startswith(b"PK") and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members = {name.rpartition("/")[2] for name in archive.namelist()}
        for member, title, remedy in _IN_ZIP:
            if member in members:
                raise _error(path, title, remedy)


def _error(path: Path, title: str, remedy: str) -> ModelError:
    lines = [f"{path} is {title}. Expected safetensors, a state dict saved by torch.save, or Google's .npz.", remedy]
    return ModelError("\n".join(line for line in lines if line))
