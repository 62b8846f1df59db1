"""Pickles that would hang or exhaust whoever loads them, looked through without harm."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch

from vitrine.errors import ModelError
from vitrine.models.checkpoints.foreign_formats import refuse_foreign_format
from vitrine.models.checkpoints.state_dict import open_weights


def archive(path: Path, program: bytes) -> Path:
    """A file as ``torch.save`` writes it, with this pickle in it."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("w/data.pkl", program)
        file.writestr("w/version", "3\n")
    return path


def doubling(levels: int, *, as_key: bool) -> bytes:
    """A tuple of two references to the tuple before it, so often that its hash never ends: a key, or in a set."""
    body = b"\x80\x02K\x01\x85q\x000"  # (1,) is remembered as 0
    for i in range(levels):
        body += b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) + b"0"
    last = b"h" + bytes([levels])
    in_set = b"c__builtin__\nset\n(](" + last + b"etR"
    return body + (b"}" + last + b"K\x01s." if as_key else b"}K\x01" + in_set + b"s.")


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (doubling(60, as_key=True), "a tuple of more than 20,000 values"),
        (doubling(60, as_key=False), "a tuple of more than 20,000 values"),
        (doubling(3, as_key=True), "a key in it is a"),  # small, and still no key of weights
        (b"\x80\x02}]K\x01s.", "a key in it is a list"),
        (b"\x80\x02}(K\x01]}K\x02u.", "a key in it is a dict"),
        (b"\x80\x02}h\x63.", "KeyError"),  # what was never remembered
        (b"\x80\x02s.", "IndexError"),
        (b"\x80\x02.", "IndexError"),
        (b"(((((((.", "not a weights file"),
    ],
)
def test_keys_and_tuples_that_no_weights_have_are_refused(program: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=reason):
        open_weights(archive(tmp_path / "w.pth", program))


def test_a_dictionary_inside_of_itself_ends(tmp_path: Path) -> None:
    content: dict[str, object] = {"model": None}
    content["model"] = content
    torch.save(content, tmp_path / "alone.pth")
    with pytest.raises(ModelError, match="holds no tensors"):
        open_weights(tmp_path / "alone.pth")
    content["net"] = {"weight": torch.ones(2)}
    torch.save(content, tmp_path / "with.pth")
    assert open_weights(tmp_path / "with.pth").shapes == {"weight": (2,)}


def test_a_storage_is_no_larger_than_its_own_entry(tmp_path: Path) -> None:
    """The sum of all bytes in the archive would hide it."""
    torch.save({"a": torch.ones(10), "b": torch.ones(1000)}, tmp_path / "w.pth")
    with zipfile.ZipFile(tmp_path / "w.pth") as file:
        entries = {name: file.read(name) for name in file.namelist()}
    name = next(name for name in entries if name.endswith("data.pkl"))
    for claim in (b"K\x0a", b"M" + struct.pack("<H", 500)):
        assert entries[name].count(b"K\x0a") >= 1
        entries[name] = entries[name].replace(b"K\x0a", claim)
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as file:
        for key, value in entries.items():
            file.writestr(key, value)
    with pytest.raises(ModelError, match="2000 bytes is declared, the file has 40"):
        open_weights(tmp_path / "w.pth")


def zipped(**members: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "title"),
    [
        ("m.h5", b"\x89HDF\r\n\x1a\n", "HDF5"),
        ("m.bin", b"\x89HDF\r\n\x1a\n and more", "HDF5"),
        ("m.tflite", b"\x1c\x00\x00\x00TFL3", "TensorFlow Lite"),
        ("m.keras", zipped(**{"metadata.json": "{}", "model.weights.h5": ""}), "model of Keras"),
        ("m.pt2", zipped(**{"w/archive_format": "pt2"}), "torch.export"),
        ("m.pt", zipped(**{"w/constants.pkl": "", "w/data.pkl": ""}), "TorchScript"),
        ("m.onnx", b"\x08\x07", "ONNX"),
        ("m.gguf", b"GGUF\x03", "GGUF"),
        ("m.msgpack", b"\x81", "Flax"),
        ("model.ckpt.data-00000-of-00001", b"\x00", "TensorFlow checkpoint"),
        ("M.ENGINE", b"ftrt", "TensorRT"),
    ],
)
def test_other_formats_are_refused_by_their_true_name(name: str, content: bytes, title: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=title) as error:
        open_weights(tmp_path / name)
    assert "Expected safetensors" in str(error.value) and len(str(error.value).splitlines()) <= 2


def test_a_whole_model_is_refused_with_the_line_that_saves_its_weights(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pth")
    refuse_foreign_format(tmp_path / "model.pth")
    with pytest.raises(ModelError, match=r"torch\.nn\.modules\.linear\.Linear.*\n.*model\.state_dict\(\)"):
        open_weights(tmp_path / "model.pth")
    with (tmp_path / "plain.pkl").open("wb") as stream:
        pickle.dump(torch.nn.Linear(2, 2), stream)
    with pytest.raises(ModelError, match="Python objects"):
        open_weights(tmp_path / "plain.pkl")
