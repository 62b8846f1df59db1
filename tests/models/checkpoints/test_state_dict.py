"""Weights files from anywhere: no code is run, no memory is taken for what a header claims, and nothing crashes."""

from __future__ import annotations

import argparse
import io
import json
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from support.models import MICRO

from vitrine.errors import ModelError
from vitrine.models.checkpoints import state_dict
from vitrine.models.checkpoints.registry import convert, describe
from vitrine.models.checkpoints.state_dict import open_weights, read_safetensors
from vitrine.models.load import load_model

HUGE = 1 << 40


def expect_error(path: Path, match: str = "") -> str:
    """The message with which a file is refused: two lines."""
    with pytest.raises(ModelError, match=match) as error:
        open_weights(path).tensors()
    message = str(error.value)
    assert str(path) in message and len(message.splitlines()) == 2 and len(message) < 900
    return message


def test_safetensors_are_read_part_by_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = torch.Generator().manual_seed(0)
    saved = {
        f"t{i}": torch.randn(i, 3, generator=rng).to(kind) for i, kind in enumerate([torch.float32, torch.bfloat16] * 4)
    }
    save_file(saved | {"scalar": torch.tensor(7)}, tmp_path / "w.safetensors")
    for size in (1, 40, 1 << 20):
        monkeypatch.setattr(state_dict, "_MAPPED_BYTES", size)
        tensors = read_safetensors(tmp_path / "w.safetensors")
        theirs = load_file(tmp_path / "w.safetensors")
        assert tensors.keys() == theirs.keys() == {*saved, "scalar"}
        assert all(value.dtype == theirs[name].dtype for name, value in tensors.items())
        assert all(torch.equal(value, theirs[name]) for name, value in tensors.items())
        assert all(value.untyped_storage().nbytes() == value.nbytes for value in tensors.values())
    save_file({}, tmp_path / "empty.safetensors")
    assert read_safetensors(tmp_path / "empty.safetensors") == {}


def legacy(path: Path, content: object) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=False)
    return path


def replace_in_pickle(path: Path, old: bytes, new: bytes) -> Path:
    """The zip at ``path`` with other bytes in its data.pkl, stored as torch stores it."""
    with zipfile.ZipFile(path) as archive:
        parts = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    name = next(name for name in parts if name.endswith("data.pkl"))
    assert old in parts[name]
    parts[name] = parts[name].replace(old, new)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for part, content in parts.items():
            archive.writestr(part, content)
    return path


# --- what is read


@pytest.mark.parametrize("save", [torch.save, legacy])
def test_plain_data_beside_the_weights_is_no_obstacle(save: Callable[..., object], tmp_path: Path) -> None:
    """What training scripts put into a checkpoint, in both of torch's formats."""
    weights = OrderedDict(a=torch.arange(6.0).reshape(2, 3), b=torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16)))
    content = {
        "state_dict": weights,
        "args": argparse.Namespace(lr=0.1, name="x", size=torch.Size([3])),
        "epoch": 7,
        "ids": {1, 2},
        "optimizer": {
            "state": {0: {"exp_avg": torch.zeros(6)}},
            "param_groups": [{"params": [0], "betas": (0.9, 0.99)}],
        },
    }
    paths = [tmp_path / "c.pth"]
    save(*((content, paths[0]) if save is torch.save else (paths[0], content)))
    file = open_weights(paths[0])
    assert file.shapes == {"a": (2, 3), "b": (2,)} and file.wrapper == ("state_dict",)
    assert all(torch.equal(value, weights[name]) for name, value in file.tensors().items())


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["module.a", "module.b"], ["a", "b"]),
        (["_orig_mod.module.a", "module._orig_mod.b"], ["a", "b"]),
        (["model.module.a", "model.b"], ["module.a", "b"]),
        (["model.a", "head.b"], ["model.a", "head.b"]),
        (["backbone.a", "backbone.b"], ["a", "b"]),
    ],
)
def test_what_wrappers_put_in_front_of_names_is_taken_off(
    names: list[str], expected: list[str], tmp_path: Path
) -> None:
    torch.save({name: torch.tensor([float(i)]) for i, name in enumerate(names)}, tmp_path / "w.pth")
    tensors = open_weights(tmp_path / "w.pth").tensors()
    assert {name: int(value) for name, value in tensors.items()} == {name: i for i, name in enumerate(expected)}


@pytest.mark.parametrize(
    ("parts", "names"),
    [
        ([["model.a", "model.b"], ["lm_head.w"]], {"model.a", "model.b", "lm_head.w"}),
        ([["model.a"], ["model.b", "lm_head.w"]], {"model.a", "model.b", "lm_head.w"}),
        ([["model.a", "model.b"], ["model.c"]], {"a", "b", "c"}),
        ([["module.model.a"], ["module.b"]], {"model.a", "b"}),
    ],
)
def test_what_is_in_front_of_all_names_is_seen_on_all_files_together(
    parts: list[list[str]], names: set[str], tmp_path: Path
) -> None:
    """One file of several may hold only names with a prefix that the model's own others lack."""
    weight_map, values = {}, {}
    for number, part in enumerate(parts):
        tensors = {name: torch.full((2,), float(10 * number + place)) for place, name in enumerate(part)}
        save_file(tensors, tmp_path / f"{number}.safetensors")
        weight_map |= dict.fromkeys(part, f"{number}.safetensors")
        values |= tensors
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    opened = open_weights(index)
    assert set(opened.shapes) == set(opened.tensors()) == names
    as_named = open_weights(index, as_named=True).tensors()
    assert set(as_named) == set(values)
    assert all(torch.equal(as_named[name], value) for name, value in values.items())
    ends = {name: next(value for full, value in values.items() if full.endswith(name)) for name in names}
    assert all(torch.equal(opened.tensors()[name], value) for name, value in ends.items())


def test_two_tensors_of_one_name_are_expect_error(tmp_path: Path) -> None:
    torch.save({"module.a": torch.ones(1), "a": torch.zeros(1)}, tmp_path / "w.pth")
    expect_error(tmp_path / "w.pth", "same name")


def test_what_is_no_state_dict_is_named(tmp_path: Path) -> None:
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    expect_error(tmp_path / "list.pth", "a list in place of a state dict")
    torch.save({"epoch": 3, "best": 0.5}, tmp_path / "numbers.pth")
    expect_error(tmp_path / "numbers.pth", "no tensors, but 'epoch', 'best'")
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "script.pt")
    expect_error(tmp_path / "script.pt", "TorchScript")


# --- objects


class Payload:
    """Unpickling it writes a file."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.proof,))


@pytest.mark.parametrize(
    ("content", "foreign_name"),
    [
        (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        ({"model": {"a": torch.ones(1)}, "best": np.float64(0.5)}, "numpy"),
        ({"model": {"a": torch.ones(1)}, "from": Path("x")}, "pathlib"),
        ({"a": bytearray(4)}, "bytearray"),
    ],
)
@pytest.mark.parametrize("save", [torch.save, legacy])
def test_a_file_that_needs_more_than_plain_data_is_refused_by_name(
    content: object, foreign_name: str, save: Callable[..., object], tmp_path: Path
) -> None:
    path = tmp_path / "c.pth"
    save(*((content, path) if save is torch.save else (path, content)))
    message = expect_error(path, "carries Python objects")
    assert foreign_name in message and "safetensors.torch.save_file" in message


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_nothing_that_a_pickle_asks_for_is_called(protocol: int, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    (tmp_path / "bare.pth").write_bytes(pickle.dumps({"a": Payload(proof)}, protocol=protocol))
    torch.save({"a": Payload(proof)}, tmp_path / "zip.pth", pickle_protocol=protocol)
    torch.save(
        {"a": Payload(proof)}, tmp_path / "old.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=False
    )
    for name in ("bare", "zip", "old"):
        expect_error(tmp_path / f"{name}.pth", "carries Python objects")
    assert not proof.exists()


def test_what_a_file_says_cannot_reach_a_terminal(tmp_path: Path) -> None:
    """Names with escape sequences or line breaks are no names."""
    for name in ("a\x1b[2J", "a\nb", "a\u202e"):
        save_file({name: torch.ones(1)}, tmp_path / "w.safetensors")
        expect_error(tmp_path / "w.safetensors", "a name that cannot be shown")
    torch.save({"a": Payload(tmp_path)}, tmp_path / "w.pth")
    replace_in_pickle(tmp_path / "w.pth", b"pathlib\n", b"path\x1b[2\n")
    assert "\x1b" not in expect_error(tmp_path / "w.pth")


# --- sizes


def test_a_tensor_that_is_declared_larger_than_the_file_is_expect_error(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1).expand(HUGE)}, tmp_path / "view.pth")  # one number, seen a million million times
    expect_error(tmp_path / "view.pth", "cannot hold")
    legacy(tmp_path / "old.pth", {"a": torch.zeros(1).expand(HUGE)})
    expect_error(tmp_path / "old.pth", "cannot hold")


def test_a_storage_that_is_declared_larger_than_the_file_is_expect_error(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(77)}, tmp_path / "w.pth")  # 77 is b"K\x4d", the size of storage and of tensor
    replace_in_pickle(tmp_path / "w.pth", b"K\x4d", b"\x8a\x06" + HUGE.to_bytes(6, "little"))
    expect_error(tmp_path / "w.pth", "declared")
    content = legacy(tmp_path / "old.pth", {"a": torch.zeros(77)}).read_bytes()
    (tmp_path / "old.pth").write_bytes(content.replace(b"K\x4d", b"\x8a\x06" + HUGE.to_bytes(6, "little")))
    expect_error(tmp_path / "old.pth", "declared")


def test_a_compressed_checkpoint_is_expect_error(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * (1 << 26))
    assert (tmp_path / "bomb.pth").stat().st_size < 1 << 17
    expect_error(tmp_path / "bomb.pth", "is compressed, which torch.save never does")


def test_an_array_that_claims_more_than_it_has_is_expect_error(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (HUGE,)})
    with zipfile.ZipFile(tmp_path / "claim.npz", "w") as archive:
        archive.writestr("a.npy", header.getvalue() + bytes(4))
    refused_shapes(tmp_path / "claim.npz", "declares 4398046511104 bytes and has 4")
    np.savez_compressed(tmp_path / "bomb.npz", a=np.zeros(1 << 24, np.float32))
    refused_shapes(tmp_path / "bomb.npz", "hold them")
    np.savez_compressed(tmp_path / "fine.npz", a=np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32))
    assert open_weights(tmp_path / "fine.npz").shapes == {"a": (3, 4)}


def refused_shapes(path: Path, match: str) -> None:
    with pytest.raises(ModelError, match=match):
        open_weights(path)


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [HUGE], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, HUGE]}},
        {"a": {"dtype": "F32", "shape": [1 << 62, 1 << 62], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [HUGE], "data_offsets": [0, 4 * HUGE]}},
        {name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for name in ("a", "b")},  # they overlap
        {"a": {"dtype": "X", "shape": [1], "data_offsets": [0, 4]}},
        {"a": 5},
        [],
    ],
)  # fmt: skip
def test_a_safetensors_header_that_does_not_fit_the_file_is_expect_error(header: object, tmp_path: Path) -> None:
    text = json.dumps(header).encode()
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    expect_error(tmp_path / "w.safetensors", "can be read safely")


@pytest.mark.parametrize("changes", [{"embed_dim": 1 << 19}, {"depth": 1 << 19}, {"img_size": 1 << 19}])
def test_a_configuration_far_above_its_weights_is_refused_before_it_is_built(
    changes: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = timm.create_model("vit_tiny_patch16_224", **MICRO)
    timm.models.save_for_hf(module, str(tmp_path), model_config={"model_args": MICRO}, safe_serialization=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config["model_args"] |= changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(timm, "create_model", None)
    with pytest.raises(ModelError, match=r"size mismatch: the .* in the file and 524,288|65,536 in the model"):
        load_model(str(tmp_path), pretrained=True)


def test_blocks_that_are_only_numbered_are_not_built(tmp_path: Path) -> None:
    shapes = {"conv_proj.weight": (64, 3, 8, 8), "encoder.pos_embedding": (1, 17, 64), "class_token": (1, 1, 64)}
    blocks = {f"encoder.layers.encoder_layer_{i}.mlp.0.weight": (256, 64) for i in (0, 9999)}
    save_file({name: torch.zeros(shape) for name, shape in (shapes | blocks).items()}, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="numbers its blocks up to 9999 and does not have all of them"):
        describe(convert(open_weights(tmp_path / "w.safetensors")))


# --- fuzzed


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A whole file of each kind, small."""
    folder = tmp_path_factory.mktemp("valid")
    state = timm.create_model(
        "vit_tiny_patch16_224", **{**MICRO, "embed_dim": 8, "depth": 1}, num_classes=3
    ).state_dict()
    save_file(state, folder / "w.safetensors")
    torch.save(state, folder / "w.pth")
    legacy(folder / "w.bin", state)
    np.savez(folder / "w.npz", **{name.replace(".", "/"): value.numpy() for name, value in state.items()})
    return {path.suffix: path.read_bytes() for path in folder.iterdir()}


def read_or_refuse(path: Path) -> bool:
    """Everything that opening does with a file of anyone's; only errors of ours may leave it."""
    try:
        checkpoint = convert(open_weights(path))
        checkpoint.load()
        describe(checkpoint)
    except ModelError as error:
        assert 1 <= len(str(error).splitlines()) <= 2
        return False
    return True


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin", ".npz"])
@given(data=st.data())
@settings(max_examples=120)
def test_damaged_files_are_errors_not_crashes(
    suffix: str, valid: dict[str, bytes], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(valid[suffix])
    # Where headers are: at the beginning, and in a zip at the end.
    places = st.one_of(st.integers(0, 3000), st.integers(max(0, len(content) - 3000), len(content) - 1))
    for _ in range(data.draw(st.integers(1, 4))):
        at = min(data.draw(places), len(content) - 1)
        content[at : at + 1] = data.draw(st.binary(max_size=4))
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    path = tmp_path_factory.getbasetemp() / f"damaged{suffix}"
    path.write_bytes(content)
    read_or_refuse(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".npz"])
@given(
    content=st.binary(max_size=300), start=st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"\x20\0\0\0\0\0\0\0{"])
)
@settings(max_examples=120)
def test_arbitrary_bytes_are_errors_not_crashes(
    suffix: str, content: bytes, start: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / f"arbitrary{suffix}"
    path.write_bytes(start + content)
    assert not read_or_refuse(path)


TENSOR = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "BF16", "I64", "BOOL", "F8_E4M3", "?"]),
        "shape": st.lists(st.one_of(st.integers(-2, 9), st.integers(0, 1 << 70)), max_size=5),
        "data_offsets": st.lists(st.one_of(st.integers(-2, 64), st.integers(0, 1 << 70)), max_size=3),
    }
)
NAMES = st.sampled_from(
    ["cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.mlp.fc1.weight", "blocks.9999.x",
     "conv_proj.weight",
     "encoder.pos_embedding", "positional_embedding.pos_embedding", "patch_embedding.weight", "class_token",
     "embeddings.patch_embeddings.projection.weight", "transformer.blocks.0.attn.proj_q.weight", "head.weight"]
)  # fmt: skip


@given(header=st.dictionaries(NAMES, TENSOR, max_size=6), body=st.binary(max_size=64))
@settings(max_examples=200)
def test_made_up_safetensors_headers(
    header: dict[str, object], body: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = json.dumps(header).encode()
    path = tmp_path_factory.getbasetemp() / "made-up.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    assert not read_or_refuse(path)


TOWER_NAMES = st.sampled_from(
    ["embeddings.patch_embedding.weight", "embeddings.position_embedding.weight", "embeddings.class_embedding",
     "vision_model.head.attention.in_proj_weight", "pre_layrnorm.weight", "classifier.weight", "text_model.x",
     "embeddings.patch_embeddings.weight", "embeddings.register_tokens", "embeddings.position_embeddings",
     "embeddings.cls_token", "layer.0.mlp.gate_proj.weight", "storage_tokens", "blocks.0.attn.qkv.weight",
     "blocks.0.attn.qkv.bias", "blocks.0.mlp.w1.weight", "rope_embed.periods", "visual.class_embedding",
     "visual.positional_embedding", "visual.conv1.weight", "visual.ln_pre.weight", "linear_head.weight",
     "backbone.cls_token", "backbone.patch_embed.proj.weight", "backbone.blocks.0.ls1.gamma", "linear_head.bias"]
)  # fmt: skip
SHAPES = st.one_of(
    st.lists(st.integers(0, 5), max_size=5),
    st.sampled_from([(4, 3, 2, 2), (0, 3, 2, 2), (4, 3, 0, 0), (1, 5, 4), (1, 1, 4)]),
)


@given(shapes=st.one_of(st.dictionaries(NAMES, SHAPES, max_size=8), st.dictionaries(TOWER_NAMES, SHAPES, max_size=20)))
@settings(max_examples=300)
def test_files_of_known_names_and_strange_shapes(
    shapes: dict[str, list[int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whole files, whose names say a format and whose shapes do not make a model."""
    path = tmp_path_factory.getbasetemp() / "strange.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, path)
    read_or_refuse(path)
