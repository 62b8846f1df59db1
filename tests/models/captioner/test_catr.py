"""The published captioner: its own outputs on seeded weights, a slow version of it, its files, its pictures.

``reference/catr_seed1.npz`` holds what the published code gave in float32 on a CPU; ``reference/catr_keys.csv`` the
names and shapes of its weights. Its arrays ``greedy_*`` are not used: they repeat ``ids_*`` and end in padding, and
their second word is not ``argmax_*``'s first, so they are no greedy captions. Greedy words are compared with a slow
version instead, which is itself compared with the published logits.
"""

from __future__ import annotations

import csv
import math
import pickle
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from support.paths import TESTS
from support.stand_in_hub import HTML, Fault, StandInHub
from torch import Tensor, nn
from torch.nn import functional

from vitrine.attribution.placement import Placement
from vitrine.config.preprocessing import CaptionInput
from vitrine.data.captions.transforms import CaptionTransform
from vitrine.errors import ModelError, WeightsUnavailableError
from vitrine.io import network
from vitrine.models.captioner import (
    RELEASES,
    CaptionModel,
    catr,
    fetch_release,
    load_catr,
    published_weights,
    release_path,
)

REFERENCE = TESTS / "reference"
LONGEST = 128


def published_shapes() -> dict[str, tuple[int, ...]]:
    with (REFERENCE / "catr_keys.csv").open(newline="") as file:
        return {row["name"]: tuple(int(n) for n in row["shape"].split("x")) for row in csv.DictReader(file)}


def random_weights(name: str, shape: tuple[int, ...]) -> Tensor:
    """The reference's weights: scaled so that activations stay finite and attention is uneven."""
    rng = np.random.default_rng(zlib.crc32(f"1:{name}".encode()))
    if name.endswith("running_var"):
        values = rng.uniform(0.5, 1.5, shape)
    elif len(shape) == 1 and name.endswith("weight"):
        values = 1 + 0.1 * rng.standard_normal(shape)
        if "bn3" in name or "downsample" in name:
            values *= 0.3
    elif len(shape) <= 1:
        values = 0.1 * rng.standard_normal(shape)
    elif "embedding" in name:
        values = rng.standard_normal(shape)
    else:
        gain = 2.0 if "in_proj_weight" in name else 1.4
        values = gain / np.sqrt(int(np.prod(shape[1:]))) * rng.standard_normal(shape)
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def seeded_picture(height: int, width: int, seed: int) -> Tensor:
    """The reference's pictures: sums of plane waves, in [-1, 1]."""
    rng = np.random.default_rng(seed)
    y, x = np.linspace(0, 1, height)[:, None], np.linspace(0, 1, width)[None, :]
    picture = np.zeros((3, height, width))
    for _ in range(24):
        fy, fx = rng.uniform(-20, 20, 2)
        phase = rng.uniform(0, 2 * np.pi, 3)[:, None, None]
        picture += rng.standard_normal((3, 1, 1)) * np.sin(2 * np.pi * (fy * y + fx * x)[None] + phase)
    return torch.from_numpy((picture / np.abs(picture).max()).astype(np.float32))


PICTURES = (seeded_picture(224, 299, 10), seeded_picture(299, 200, 11))


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return {name: random_weights(name, shape) for name, shape in published_shapes().items()}


@pytest.fixture(scope="module")
def model(weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> CaptionModel:
    """Through a file as it is released: a dictionary with the weights under ``model`` and other things beside them."""
    path = tmp_path_factory.mktemp("catr") / "catr.pth"
    torch.save({"model": weights, "optimizer": {"param_groups": [{"lr": 1e-5}]}, "epoch": 29}, path)
    model_from_file = load_catr(path)
    path.unlink()  # 340 MB that nobody should keep
    return model_from_file


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    with np.load(REFERENCE / "catr_seed1.npz") as arrays:
        return dict(arrays)


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def greedy(model: CaptionModel, pictures: Sequence[Tensor]) -> list[list[int]]:
    """101 and the 24 words that follow, of each picture."""
    encoder_output, state, ids_BT = model.encode(pictures), None, torch.full((len(pictures), 1), 101)
    for _ in range(24):
        step = model.step(ids_BT[:, -1], encoder_output, state)
        state = step.state
        ids_BT = torch.cat((ids_BT, step.logits_BV.argmax(-1, keepdim=True)), 1)
    return ids_BT.tolist()


@pytest.fixture(scope="module")
def captions(model: CaptionModel) -> list[list[int]]:
    """Greedy words of each picture by itself."""
    with torch.inference_mode():
        return [greedy(model, [picture])[0] for picture in PICTURES]


def compare(found: Tensor, expected: np.ndarray, within: float) -> None:
    assert found.shape == expected.shape
    assert np.abs(found.numpy() - expected).max() < within


@pytest.mark.parametrize("i", [0, 1])
def test_one_picture_gives_the_published_logits_words_and_maps(
    model: CaptionModel, reference: dict[str, np.ndarray], i: int
) -> None:
    encoder_output = model.encode(PICTURES[i : i + 1])
    assert encoder_output.grids == (tuple(reference[f"grid_{i}"]),) == (encoder_output.padded_grid,)
    logits_1TV, cross_L1HTK = model(encoder_output, torch.from_numpy(reference[f"ids_{i}"])[None])
    compare(logits_1TV[0][:, reference["vocabulary_ids"]], reference[f"logits_{i}"], 1e-3)
    compare(cross_L1HTK[:, 0].mean(1), reference[f"cross_{i}"], 1e-5)
    assert (logits_1TV[0].argmax(-1).numpy() == reference[f"argmax_{i}"]).all()


def test_cached_steps_give_the_published_logits_words_and_maps(
    model: CaptionModel, reference: dict[str, np.ndarray]
) -> None:
    encoder_output, state = model.encode(PICTURES[:1]), None
    for t, word in enumerate(reference["ids_0"]):
        step = model.step(torch.tensor([word]), encoder_output, state)
        state = step.state
        compare(step.logits_BV[0][reference["vocabulary_ids"]], reference["logits_0"][t], 1e-3)
        compare(step.cross_LBHK[:, 0].mean(1), reference["cross_0"][:, t], 1e-5)
        assert int(step.logits_BV.argmax()) == reference["argmax_0"][t]


def test_a_padded_batch_gives_the_published_logits_and_maps(
    model: CaptionModel, reference: dict[str, np.ndarray]
) -> None:
    encoder_output = model.encode(PICTURES)
    assert encoder_output.padded_grid == (19, 19)
    logits_BTV, cross_LBHTK = model(
        encoder_output, torch.from_numpy(np.stack([reference["ids_0"], reference["ids_1"]]))
    )
    compare(logits_BTV[..., reference["vocabulary_ids"]], reference["batch_logits"], 1e-3)
    compare(cross_LBHTK[-1].mean(1), reference["batch_cross_last"], 1e-5)
    # The reference tells padding from no padding, so agreeing with it says something.
    assert np.abs(reference["batch_logits"][0] - reference["logits_0"]).max() > 1e-2


def test_features_padded_instead_give_the_logits_and_words_of_single_pictures(
    captions: list[list[int]], weights: dict[str, Tensor], reference: dict[str, np.ndarray], tmp_path: Path
) -> None:
    path = tmp_path / "catr.safetensors"
    save_file(weights, path)
    ready = load_catr(path, padding="features", ready=True)
    path.unlink()
    encoder_output = ready.encode(PICTURES)
    assert encoder_output.grids == ((14, 19), (19, 13))
    logits_BTV, cross_LBHTK = ready(
        encoder_output, torch.from_numpy(np.stack([reference["ids_0"], reference["ids_1"]]))
    )
    for i, (rows, columns) in enumerate(encoder_output.grids):
        compare(logits_BTV[i][:, reference["vocabulary_ids"]], reference[f"logits_{i}"], 1e-3)
        own = cross_LBHTK[:, i].mean(1).unflatten(-1, encoder_output.padded_grid)[..., :rows, :columns]
        compare(own.flatten(-2), reference[f"cross_{i}"], 1e-5)
    assert greedy(ready, PICTURES) == captions


class Slow:
    """The published captioner, plainly: torchvision's ResNet, torch's MultiheadAttention, every position anew for each
    word."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        self.weights = weights
        dilate = [False, False, True]
        with torch.device("meta"):
            body = torchvision.models.resnet101(
                replace_stride_with_dilation=dilate, norm_layer=torchvision.ops.FrozenBatchNorm2d
            )
        body.fc = nn.Identity()
        prefix = "backbone.0.body."
        own = {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}
        body.load_state_dict(own, assign=True)
        self.body = body.eval()
        self.attentions: dict[str, nn.Module] = {}

    def linear(self, name: str, x: Tensor) -> Tensor:
        return functional.linear(x, self.weights[f"{name}.weight"].flatten(1), self.weights[f"{name}.bias"])

    def norm(self, name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], eps)

    def attend(self, name: str, query: Tensor, key: Tensor, value: Tensor, **masks: Tensor) -> Tensor:
        if name not in self.attentions:
            made = nn.MultiheadAttention(256, 8, batch_first=True).eval()
            made.load_state_dict({k: self.weights[f"{name}.{k}"] for k in made.state_dict()})
            self.attentions[name] = made
        return self.attentions[name](query[None], key[None], value[None], need_weights=False, **masks)[0][0]

    def expand(self, name: str, x: Tensor) -> Tensor:
        return self.linear(f"{name}.linear2", self.linear(f"{name}.linear1", x).relu())

    def encode(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        x = picture[None]
        for part in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"):
            x = getattr(self.body, part)(x)
        rows, columns = x.shape[-2:]
        place = torch.zeros(rows, columns, 256)
        for k in range(64):
            speed = 10000 ** (2 * k / 128)
            for first, count, total in (
                (0, torch.arange(1, rows + 1)[:, None], rows),
                (128, torch.arange(1, columns + 1)[None], columns),
            ):
                angle = count / (total + 1e-6) * 2 * math.pi / speed
                place[..., first + 2 * k], place[..., first + 2 * k + 1] = angle.sin(), angle.cos()
        place = place.flatten(0, 1)
        x = self.linear("input_proj", x[0].flatten(1).T)
        for i in range(6):
            name = f"transformer.encoder.layers.{i}"
            y = self.norm(f"{name}.norm1", x)
            x = x + self.attend(f"{name}.self_attn", y + place, y + place, y)
            x = x + self.expand(name, self.norm(f"{name}.norm2", x))
        return self.norm("transformer.encoder.norm", x), place

    def logits(self, encoder_output: Tensor, place: Tensor, ids: list[int], max_length: int = LONGEST) -> Tensor:
        """Of every word after the given ones, (len(ids), V)."""
        padded_ids = torch.tensor(ids + [0] * (max_length - len(ids)))
        is_padding = torch.arange(max_length)[None] >= len(ids)
        later = torch.ones(max_length, max_length, dtype=torch.bool).triu(1)
        words = "transformer.embeddings."
        position = self.weights[f"{words}position_embeddings.weight"][:max_length]
        x = self.norm(f"{words}LayerNorm", self.weights[f"{words}word_embeddings.weight"][padded_ids] + position, 1e-12)
        for i in range(6):
            name = f"transformer.decoder.layers.{i}"
            y = self.norm(f"{name}.norm1", x)
            masks = {"attn_mask": later, "key_padding_mask": is_padding}
            x = x + self.attend(f"{name}.self_attn", y + position, y + position, y, **masks)
            y = self.norm(f"{name}.norm2", x)
            x = x + self.attend(f"{name}.multihead_attn", y + position, encoder_output + place, encoder_output)
            x = x + self.expand(name, self.norm(f"{name}.norm3", x))
        x = self.norm("transformer.decoder.norm", x)[: len(ids)]
        for i in range(2):
            x = self.linear(f"mlp.layers.{i}", x).relu()
        return self.linear("mlp.layers.2", x)


@pytest.mark.parametrize("i", [0, 1])
def test_greedy_words_equal_a_slow_version_that_has_the_published_logits(
    captions: list[list[int]], weights: dict[str, Tensor], reference: dict[str, np.ndarray], i: int
) -> None:
    slow = Slow(weights)
    encoder_states = slow.encode(PICTURES[i])
    slow_logits = slow.logits(*encoder_states, reference[f"ids_{i}"].tolist())
    compare(slow_logits[:, reference["vocabulary_ids"]], reference[f"logits_{i}"], 1e-4)
    assert (slow_logits.argmax(-1).numpy() == reference[f"argmax_{i}"]).all()
    ids = captions[i]  # no word sees a later one: one pass says what follows each, and needs no padding up to 128
    assert ids[1:] == slow.logits(*encoder_states, ids[:-1], max_length=len(ids) - 1).argmax(-1).tolist()
    assert ids[1] == reference[f"argmax_{i}"][0]
    assert len(set(ids)) > 3


def test_names_and_shapes_are_the_published_ones(model: CaptionModel, weights: dict[str, Tensor]) -> None:
    names = published_weights(model.state_dict())
    assert {name: tuple(value.shape) for name, value in names.items()} == published_shapes()
    assert len(names) == 716
    assert all(torch.equal(value, weights[name]) for name, value in names.items())
    assert not model.training
    assert {value.dtype for value in names.values()} == {torch.float32}
    assert all(parameter.requires_grad for parameter in model.parameters())


def light_weights(**changes: tuple[int, ...]) -> dict[str, Tensor]:
    """All names and shapes with one number in each, which makes a small file."""
    return {name: torch.zeros(1).expand(shape) for name, shape in (published_shapes() | changes).items()}


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("writer", ["torch", "old torch", "pickle"])
def test_a_pickle_that_carries_code_is_refused_and_runs_nothing(tmp_path: Path, writer: str) -> None:
    path, sprung = tmp_path / "catr.pth", tmp_path / "sprung"
    content = {"model": {"a": torch.zeros(2)}, "args": Trap(sprung)}
    if writer == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=writer == "torch")
    with pytest.raises(ModelError, match=r"carries Python objects .* none was run"):
        load_catr(path)
    assert not sprung.exists()


@pytest.mark.parametrize("suffix", [".pth", ".old.pth", ".safetensors"])
def test_a_truncated_file_is_called_damaged(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"catr{suffix}"
    if suffix == ".safetensors":
        save_file({"input_proj.bias": torch.arange(300.0)}, path)
        with pytest.raises(ModelError, match="does not fit"):
            load_catr(path)  # whole
    else:
        torch.save({"model": light_weights()}, path, _use_new_zipfile_serialization=suffix == ".pth")
        load_catr(path)
    whole = path.read_bytes()
    for kept in (0, 0.001, 0.02, 0.5, 0.99):
        path.write_bytes(whole[: int(kept * len(whole))])
        with pytest.raises(ModelError, match=r"is damaged or is not a weights file.*\n.*Download it again"):
            load_catr(path)


@pytest.mark.parametrize("old", [False, True])
def test_other_shapes_and_names_are_listed(tmp_path: Path, old: bool) -> None:
    path = tmp_path / "catr.pth"
    shapes = {f"mlp.layers.{i}.bias": (7,) for i in range(3)}
    changed = light_weights(**shapes, **{"input_proj.weight": (128, 2048, 1, 1)})
    del changed["input_proj.bias"]
    changed |= {"head.weight": torch.zeros(2), "backbone.0.body.bn1.num_batches_tracked": torch.tensor(3)}
    torch.save({"model": changed}, path, _use_new_zipfile_serialization=not old)
    with pytest.raises(ModelError) as error_info:
        load_catr(path)
    told = str(error_info.value)
    assert "716 weights" in told
    assert "1 missing: input_proj.bias; 1 unknown: head.weight; 4 of another shape:" in told
    assert "input_proj.weight (128 x 2048 x 1 x 1 in place of 256 x 2048 x 1 x 1)" in told
    assert "and 1 more" in told
    assert "num_batches_tracked" not in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"epoch": 3, "lr": 0.1}, "a dictionary with epoch, lr, not the weights"),
        ([1, 2], "holds list, not the weights"),
        ({"a": torch.zeros(1)}, "716 missing: backbone"),
    ],
)
def test_other_content_is_refused(tmp_path: Path, content: object, told: str) -> None:
    path = tmp_path / "catr.pth"
    torch.save(content, path)
    with pytest.raises(ModelError, match=told):
        load_catr(path)


@pytest.mark.parametrize("content", ["<html>404: not found</html>", "", "PK"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        load_catr(tmp_path / "catr.pth")
    (tmp_path / "catr.pth").write_text(content)
    with pytest.raises(ModelError, match="damaged or is not a weights file"):
        load_catr(tmp_path / "catr.pth")


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that ``catr/v3`` is downloaded from, not there yet; and a cache folder of the test's own."""
    source = tmp_path / "server" / "weight493084032.pth"
    source.parent.mkdir()
    monkeypatch.setenv("VITRINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(RELEASES, "catr/v3", source.as_uri())
    return source


def test_a_release_is_downloaded_once_into_the_cache_folder(release: Path, tmp_path: Path) -> None:
    torch.save({"model": light_weights()}, release)
    told: list[tuple[int, int]] = []
    path = fetch_release("catr/v3", lambda done, total: told.append((done, total)))
    assert path == release_path("catr/v3") == tmp_path / "cache" / "catr" / "weight493084032.pth"
    assert path.read_bytes() == release.read_bytes()
    assert told[-1] == (release.stat().st_size,) * 2
    release.unlink()
    assert fetch_release("catr/v3") == path


def test_a_release_that_cannot_be_had_says_how_to_provide_it(release: Path) -> None:
    with pytest.raises(WeightsUnavailableError) as error_info:
        fetch_release("catr/v3")
    told = str(error_info.value)
    assert RELEASES["catr/v3"] in told
    assert f"save it as {release_path('catr/v3')}" in told
    with pytest.raises(ModelError, match=r"no captioner 'catr/v4'. Expected catr/v1, catr/v2, catr/v3"):
        fetch_release("catr/v4")


def test_an_answer_that_is_not_the_release_is_not_kept(release: Path) -> None:
    release.write_text("<html>sign in first</html>")
    with pytest.raises(ModelError, match="is not a weights file"):
        fetch_release("catr/v3")
    assert not list(release_path("catr/v3").parent.iterdir())


FAULTS = {
    "cut off": (Fault(sent=0.5), r"ended after [\d,]+ of [\d,]+ bytes"),
    "short": (Fault(sent=0.5, is_short=True), "damaged"),
    "other bytes": (Fault(), "CRC-32"),
    "a page": (Fault(body=HTML, headers={"Content-Type": "text/html"}), "a web page came in place of the file"),
    "a page that does not say so": (Fault(body=HTML, headers={"Content-Type": ""}), "is not a weights file"),
    "refused": (Fault(403), r"answers 403 \(Forbidden\)"),
    "busy": (Fault(429, {"Retry-After": "3"}), r"answers 429 \(Too Many Requests\) and asks to wait 3 s"),
    "busy for a day": (Fault(429, {"Retry-After": "86400"}), "asks to wait 86,400 s"),
    "out of order": (Fault(503), r"answers 503 \(Service Unavailable\)"),
    "silent": (Fault(silent=0.5), "fell silent"),
}
PASSING = ("cut off", "busy", "out of order", "silent")


@pytest.mark.parametrize("case", FAULTS)
def test_what_a_bad_network_brings_is_not_kept_and_the_next_call_ends_right(
    case: str, release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault, expected = FAULTS[case]
    waits: list[float] = []
    monkeypatch.setattr(network, "pause", waits.append)
    monkeypatch.setattr(network, "MAX_SILENT_SECONDS", 0.2)
    monkeypatch.setattr(catr, "load_catr", catr._read_tensors)  # no model is built, which takes seconds
    torch.save({"model": {"mlp.layers.0.bias": torch.full((5000,), 1234.5)}}, release)
    if case == "other bytes":  # of a weight: nothing but the sum of the file's member tells
        fault = Fault(flip_at=release.read_bytes().index(struct.pack("<f", 1234.5)))
    with StandInHub({"a/b": release.parent}).running() as server:
        monkeypatch.setitem(RELEASES, "catr/v3", server.file_address("a/b", release.name))
        server.faults[release.name] = fault
        with pytest.raises(ModelError, match=expected) as error:
            fetch_release("catr/v3")
        assert len(str(error.value).splitlines()) == 2
        assert not list(release_path("catr/v3").parent.iterdir())
        assert len(waits) == (network.DOWNLOAD_ATTEMPTS - 1 if case in PASSING else 0)
        server.faults[release.name] = replace(fault, times=2 if case in PASSING else 0)
        assert fetch_release("catr/v3").read_bytes() == release.read_bytes()
        assert len(server.ranges) == (5 if case == "cut off" else 0), "it went on where it had broken"


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (500, 375), (100, 80), (299, 299), (333, 500), (1023, 767)])
def test_pictures_are_prepared_as_published(size: tuple[int, int]) -> None:
    image = Image.effect_noise(size, 80).convert("RGB")
    shape = np.array(image.size, dtype=float)
    resized_image = image.resize(tuple((shape * (299 / max(shape))).astype(int)))
    to_model = torchvision.transforms.Compose(
        [torchvision.transforms.ToTensor(), torchvision.transforms.Normalize((0.5,) * 3, (0.5,) * 3)]
    )
    found = CaptionTransform(CaptionInput())(image)
    assert found.dtype == torch.float32
    assert torch.equal(found, to_model(resized_image))


def test_some_long_sides_lose_a_pixel_and_no_side_vanishes() -> None:
    transform = CaptionTransform(CaptionInput())
    longest = {transform.geometry(n, 10).resized_width for n in range(20, 2000)}
    assert longest == {298, 299}
    assert transform(Image.new("RGB", (1000, 1))).shape[1:] == (1, 299)


def test_a_map_is_placed_on_the_whole_photograph() -> None:
    geometry = CaptionTransform(CaptionInput()).geometry(500, 375)
    assert (geometry.resized_width, geometry.resized_height) == (299, 224)
    assert geometry.scale == (299 / 500, 224 / 375)
    map_placement = Placement(geometry, 14, 19)
    assert map_placement.visible_share == 1
    scores = np.arange(14 * 19, dtype=np.float32).reshape(14, 19)
    spread = map_placement.to_image(scores, smooth=False)
    assert spread.shape == (375, 500)
    for y, x in ((0, 0), (374, 499), (100, 300)):
        assert spread[y, x] == scores[int((y + 0.5) / 375 * 14), int((x + 0.5) / 500 * 19)]
