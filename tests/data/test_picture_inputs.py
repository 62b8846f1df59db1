"""The same picture through every door: same pixels, same logits, same map; and a sentence for what is no picture."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, TensorDataset

import vitrine
from vitrine.api.model import Model
from vitrine.data.picture_inputs import picture_input
from vitrine.errors import DataError, PictureError

TURNED = 6  # EXIF: what stands on its left side


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """uint8 (H, W, 3), of a photograph's kind: smooth, with some noise."""
    rng = np.random.default_rng(3)
    rows, columns = np.mgrid[0:75, 0:100]
    waves = np.stack([np.sin(rows / 9), np.cos(columns / 7), np.sin((rows + columns) / 11)], axis=-1)
    return (127 + 100 * waves + rng.normal(0, 8, (75, 100, 3))).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def model() -> Model:
    opened_model = vitrine.load("vitrine/scenes-tiny", precision="fp32")
    assert isinstance(opened_model, Model)
    return opened_model


@pytest.fixture(scope="module")
def file(pixels: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("one") / "cat.png"
    Image.fromarray(pixels).save(path)
    return path


class Pairs(Dataset):  # type: ignore[type-arg]
    """torch's way: pictures with labels, by number."""

    def __init__(self, picture: Image.Image) -> None:
        self.picture = picture

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        if index >= len(self):
            raise IndexError
        return self.picture, 1


def _bytes(image: Image.Image, kind: str = "PNG", **how: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **how)
    return stream.getvalue()


def _turned(pixels: np.ndarray) -> Image.Image:
    """The picture on its side, with the tag that says so."""
    exif = Image.Exif()
    exif[0x0112] = TURNED
    return Image.open(io.BytesIO(_bytes(Image.fromarray(np.rot90(pixels)), exif=exif)))


ONE: dict[str, Callable[[Path, np.ndarray], Any]] = {
    "path": lambda file, _: file,
    "text": lambda file, _: str(file),
    "bytes": lambda file, _: file.read_bytes(),
    "memoryview": lambda file, _: memoryview(file.read_bytes()),
    "PIL": lambda _, pixels: Image.fromarray(pixels),
    "PIL, opened": lambda file, _: Image.open(file),
    "PIL, on its side": lambda _, pixels: _turned(pixels),
    "PIL, with alpha": lambda _, pixels: Image.fromarray(pixels).convert("RGBA"),
    "array": lambda _, pixels: pixels,
    "array, Fortran's order": lambda _, pixels: np.asfortranarray(pixels),
    "array of float32": lambda _, pixels: pixels.astype(np.float32) / 255,
    "array of float64": lambda _, pixels: pixels / 255,
    "tensor": lambda _, pixels: torch.from_numpy(pixels).permute(2, 0, 1),
    "tensor of float32": lambda _, pixels: torch.from_numpy(pixels).permute(2, 0, 1) / 255,
    "tensor with a gradient": lambda _, pixels: (torch.from_numpy(pixels).permute(2, 0, 1) / 255).requires_grad_(),
}
SEVERAL: dict[str, Callable[[Path, np.ndarray], Any]] = {
    "list of kinds": lambda file, pixels: [file, pixels],
    "tuple": lambda file, pixels: (Image.fromarray(pixels), file.read_bytes()),
    "generator": lambda file, pixels: (each for each in (file, pixels)),
    "batch of arrays": lambda _, pixels: np.stack([pixels, pixels]),
    "batch of tensors": lambda _, pixels: torch.from_numpy(np.stack([pixels, pixels])).permute(0, 3, 1, 2) / 255,
    "rows": lambda _, pixels: [{"image": Image.fromarray(pixels), "label": 3}, {"image": pixels, "label": 1}],
    "pairs with labels": lambda _, pixels: Pairs(Image.fromarray(pixels)),
    "datasets split": lambda _, pixels: datasets.Dataset.from_dict(
        {"image": [_bytes(Image.fromarray(pixels))] * 2, "label": [0, 1]},
        features=datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")}),
    ),
    "DataLoader": lambda _, pixels: DataLoader(
        TensorDataset(torch.from_numpy(np.stack([pixels] * 2)).permute(0, 3, 1, 2), torch.zeros(2)), batch_size=2
    ),
}


@pytest.fixture(scope="module")
def expected(model: Model, file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Logits and map of the file."""
    seen, answer = model.explain(file), model.predict(file)
    assert answer.logits is not None
    return answer.logits, seen.map


@pytest.mark.parametrize("door", ONE)
def test_one_picture(door: str, model: Model, file: Path, pixels: np.ndarray, expected: Any) -> None:
    answer = model.predict(ONE[door](file, pixels))
    np.testing.assert_array_equal(answer.logits, expected[0])
    seen = model.explain(ONE[door](file, pixels))
    np.testing.assert_array_equal(seen.map, expected[1])
    np.testing.assert_array_equal(seen.picture.photo_HWC, pixels)
    assert seen.name == ("cat.png" if door in ("path", "text") else "picture-0")


@pytest.mark.parametrize("door", SEVERAL)
def test_several(door: str, model: Model, file: Path, pixels: np.ndarray, expected: Any) -> None:
    """Two of them, which go through the model together: rounding of its products may differ in the last bits."""
    answers = list(model.predict(SEVERAL[door](file, pixels)))
    assert len(answers) == 2 and len({each.name for each in answers}) == 2
    for answer in answers:
        np.testing.assert_allclose(answer.logits, expected[0], atol=1e-5)
    for seen in vitrine.explain(model, SEVERAL[door](file, pixels), quiet=True).pictures:
        np.testing.assert_allclose(seen.map, expected[1], atol=1e-6)


def test_a_folder_and_bytes_of_a_jpeg(model: Model, pixels: np.ndarray, tmp_path: Path) -> None:
    """A JPEG is other pixels than what it was made of, and the same through the file and its bytes."""
    data = _bytes(Image.fromarray(pixels), "JPEG", quality=70)
    (tmp_path / "a.jpg").write_bytes(data)
    Image.fromarray(pixels).save(tmp_path / "b.png")
    results = vitrine.predict(model, tmp_path, quiet=True).predictions
    assert [each.name for each in results] == ["a.jpg", "b.png"]
    np.testing.assert_allclose(results[0].logits, model.predict(data).logits, atol=1e-5)
    assert np.abs(results[0].logits - results[1].logits).max() > 1e-3
    with pytest.raises(DataError, match=r"is a folder: give one picture, or use vitrine.predict\(model, folder\)"):
        model.predict(tmp_path)


def test_tensors_that_are_normalised_already(model: Model, pixels: np.ndarray, expected: Any) -> None:
    """What timm's own transform gives goes in as it is, and figures show the picture as the model saw it."""
    import timm

    config = timm.data.resolve_model_data_config(model.classifier.module)
    tensor_CHW = timm.data.create_transform(**config)(Image.fromarray(pixels))
    answer = model.predict(tensor_CHW, normalised=True)
    np.testing.assert_allclose(answer.logits, expected[0], atol=1e-4)
    loader = DataLoader(TensorDataset(tensor_CHW.repeat(3, 1, 1, 1), torch.arange(3)), batch_size=2)
    stream = model.explain(loader, normalised=True, batch_size=2)
    assert isinstance(stream, Iterator)
    maps = list(stream)
    assert len(maps) == 3
    np.testing.assert_allclose(maps[2].map, expected[1], atol=1e-5)
    side = model.classifier.spec.size[0]
    assert maps[0].picture.photo_HWC.shape == (side, side, 3)
    assert np.isfinite(maps[0].to_image()).all(), "the map lies on all of it"
    result = vitrine.predict(model, loader, normalised=True, quiet=True)
    np.testing.assert_allclose(result.predictions[1].logits, answer.logits, atol=1e-5)
    for wrong, words in (
        (tensor_CHW[:, :10], r"expected \(3, "),
        (pixels, "expected a float tensor"),
        (tensor_CHW * torch.nan, "not finite"),
    ):
        with pytest.raises(DataError, match=words):
            model.predict(wrong, normalised=True)
    with pytest.raises(DataError, match="only tensors can be normalised"):
        model.predict("cat.png", normalised=True)


def test_a_stream_holds_no_more_than_a_batch(model: Model, pixels: np.ndarray, tmp_path: Path) -> None:
    made: list[int] = []

    def pictures(count: int) -> Iterator[np.ndarray]:
        for number in range(count):
            made.append(number)
            yield pixels

    stream = model.predict(pictures(100), batch_size=4)
    for number in range(6):
        next(stream)
        assert len(made) <= 4 * (1 + number // 4)
    made.clear()
    result = vitrine.predict(model, pictures(9), tmp_path / "p.csv", batch_size=4, quiet=True)
    assert result.table is not None and result.table.rows == 9 and not result.predictions
    assert (tmp_path / "p.csv").read_text().splitlines()[9].startswith("picture-8,")
    assert not list(tmp_path.glob("*.partial*"))


WRONG: dict[str, tuple[Any, str]] = {
    "an address": ("https://example.org/cat.jpg", "is an address, and vitrine fetches no pictures"),
    "an address in a list": (["s3://bucket/cat.jpg"], "is an address"),
    "nothing": (None, "None is no picture: expected a path, bytes"),
    "a number": (7, "of the type int is no picture"),
    "a list of numbers": ([1, 2], "of the type int is no picture"),
    "a dictionary": ({"a": 1}, "dictionary of 1 entry is no picture"),
    "a row without a picture": ([{"text": "a"}], "A row has the columns 'text'"),
    "a missing file": ("no/such.png", "There is no file or folder no/such.png"),
    "a missing file in a list": (["no/such.png"], "There is no file no/such.png"),
    "channels first": (np.zeros((3, 8, 9), np.uint8), r"It looks like \(C, H, W\): array.transpose\(1, 2, 0\)"),
    "channels last": (torch.zeros(8, 9, 3), r"It looks like \(H, W, C\): tensor.permute\(2, 0, 1\)"),
    "a vector": (np.zeros(5), r"An array of the shape \(5,\)"),
    "no pixels": (np.zeros((0, 4, 3), np.uint8), "is no picture"),
    "floats up to 255": (np.full((4, 4, 3), 200.0), r"run from 200 to 200: (.|\n)*divide them by 255"),
    "normalised without a word": (torch.randn(3, 8, 8), "normalised=True"),
    "not a number": (np.full((4, 4, 3), np.nan), "not all finite"),
    "whole numbers": (np.zeros((4, 4, 3), np.int64), "numbers are int64"),
    "truths": (torch.zeros(3, 4, 4, dtype=torch.bool), "numbers are torch.bool"),
    "lists of lists": ([[np.zeros((4, 4, 3)), np.zeros((4, 4, 3))]], "one list of pictures"),
    "an open file": (io.BytesIO(b"a picture"), r"give its path, or its bytes: file.read\(\)"),
    "an empty list": ([], "There are no pictures"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_picture_gets_a_sentence(name: str, model: Model) -> None:
    value, words = WRONG[name]
    with pytest.raises(DataError, match=words) as caught:
        vitrine.predict(model, value, quiet=True)
    assert len(str(caught.value).splitlines()) <= 2


def test_a_damaged_picture_is_named(model: Model, pixels: np.ndarray) -> None:
    broken = _bytes(Image.fromarray(pixels))[:200]
    with pytest.raises(PictureError, match="The picture cannot be used: truncated"):
        model.predict(broken)
    with pytest.raises(PictureError, match="The picture picture-1 cannot be used"):
        model.predict([pixels, broken])
    result = vitrine.predict(model, [pixels, broken], quiet=True)
    assert [each.name for each in result.predictions] == ["picture-0"]
    assert result.unreadable[0][0] == "picture-1"


def test_names_of_files_in_a_list_are_their_own(tmp_path: Path, pixels: np.ndarray) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.fromarray(pixels).save(tmp_path / folder / "cat.png")
    samples = picture_input([tmp_path / "a" / "cat.png", tmp_path / "b" / "cat.png", pixels]).samples
    assert [each.name for each in samples] == ["cat.png", "cat-1.png", "picture-2"]
