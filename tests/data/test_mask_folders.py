"""A folder of masks is told from a class of that name, by every verb alike."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitrine.classify.predict import predict
from vitrine.data.bulk_slices import slice_pictures
from vitrine.data.ignored_files import FilesAside
from vitrine.data.image_folder import read_pictures
from vitrine.data.mask_folders import leave_masks_aside
from vitrine.data.sources import open_data
from vitrine.errors import DataError
from vitrine.explain.run import ExplainSettings, explain

SIZE = (24, 16)


def noise(mode: str) -> Image.Image:
    shape = (SIZE[1], SIZE[0], 3) if mode == "RGB" else (SIZE[1], SIZE[0])
    values = np.random.default_rng(len(mode)).integers(0, 256, shape, dtype=np.uint8)
    return Image.fromarray(values)


def mask(mode: str) -> Image.Image:
    image = Image.new("L", SIZE, 0)
    image.paste(255 if mode in ("L", "RGB", "1") else 1, (3, 3, 9, 9))
    if mode == "P":
        palette = Image.new("P", SIZE, 0)
        palette.putpalette([0, 0, 0, 200, 40, 40])
        palette.paste(1, (3, 3, 9, 9))
        return palette
    return image.convert("I;16") if mode == "I;16" else image.convert(mode)


def save(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


NUMBERS = range(4)


def classes(root: Path, ending: str = "jpg", mode: str = "RGB") -> None:
    for label in ("cat", "dog"):
        for number in NUMBERS:
            save(root / label / f"{label}{number}.{ending}", noise(mode))


def masks_of(root: Path, make: Callable[[], Image.Image], name: str = "masks/{label}/{label}{number}.png") -> None:
    for label in ("cat", "dog"):
        for number in NUMBERS:
            save(root / name.format(label=label, number=number), make())


# Where masks lie, in which mode and ending; all of pictures cat/cat0.jpg and so on.
MASKS = {
    "one bit": ("masks/{label}/{label}{number}.png", "1"),
    "black and white": ("masks/{label}/{label}{number}.png", "L"),
    "a palette": ("masks/{label}/{label}{number}.png", "P"),
    "16 bits": ("masks/{label}/{label}{number}.png", "I;16"),
    "black and white in three channels": ("masks/{label}/{label}{number}.png", "RGB"),
    "all in one folder": ("masks/{label}{number}.png", "1"),
    "TIFF": ("masks/{label}/{label}{number}.tif", "L"),
    "another name of the folder": ("Mask/{label}{number}.bmp", "L"),
    "VOC": ("SegmentationClass/{label}{number}.png", "P"),
    "names with an addition": ("masks/{label}{number}_mask.png", "L"),
    "in each class": ("{label}/masks/{label}{number}.png", "1"),
}


@pytest.mark.parametrize("kind", MASKS)
def test_masks_are_left_aside_by_every_reader(kind: str, tmp_path: Path) -> None:
    name, mode = MASKS[kind]
    classes(tmp_path)
    masks_of(tmp_path, lambda: mask(mode), name)
    names = [f"{label}/{label}{number}.jpg" for label in ("cat", "dog") for number in NUMBERS]
    data = open_data(str(tmp_path))
    assert data.labels == ("cat", "dog")
    assert sorted(sample.name for split in data.splits.values() for sample in split) == names
    pictures = read_pictures(tmp_path)
    assert [sample.name for sample in pictures.samples] == names
    assert [n for each in slice_pictures(tmp_path, 3).slices for n in each.names()] == names
    folders = ["cat/masks", "dog/masks"] if kind == "in each class" else [name.split("/")[0]]
    for folder in folders:
        count = 8 // len(folders)
        assert any(f"{count} masks of the pictures were left aside: {folder}/." in note for note in data.notes)
        assert any(f"{count} masks of the pictures were left aside: {folder}/." in note for note in pictures.notes)
    assert any("DATA?masks=pictures" in note for note in data.notes)
    assert any("Give that folder itself" in note for note in pictures.notes)
    read_as_pictures = open_data(f"{tmp_path}?masks=pictures")
    assert sum(map(len, read_as_pictures.splits.values())) == 16


# Classes of that name: what is in them, in which ending, and a word of the reason.
CLASSES = {
    "faces in colour, same names": (lambda: noise("RGB"), "masks/cat{number}.png", "in colour"),
    "faces, JPEG": (lambda: noise("RGB"), "masks/cat{number}.jpg", "does not keep"),
    "grey JPEG": (lambda: noise("L"), "masks/cat{number}.jpg", "does not keep"),
    "other names": (lambda: mask("L"), "masks/m{number}.png", "not called like a picture"),
    "one colour": (lambda: Image.new("RGB", SIZE, (9, 90, 200)), "mask/cat{number}.png", "in colour"),
    "WebP": (lambda: noise("RGB"), "masks/cat{number}.webp", "does not keep"),
}


@pytest.mark.parametrize("kind", CLASSES)
def test_a_class_of_that_name_is_data_and_is_said(kind: str, tmp_path: Path) -> None:
    make, name, reason = CLASSES[kind]
    classes(tmp_path)
    for number in NUMBERS:
        save(tmp_path / name.format(number=number), make())
    folder = name.split("/")[0]
    data = open_data(str(tmp_path))
    assert data.labels == ("cat", "dog", folder)
    (note,) = (note for note in data.notes if f"{folder}/ was read as pictures" in note)
    assert reason in note and "?masks=aside" in note
    assert len(read_pictures(tmp_path).samples) == 12
    assert open_data(f"{tmp_path}?masks=aside").labels == ("cat", "dog")


def test_grey_pictures_with_a_class_of_that_name(tmp_path: Path) -> None:
    """Names that repeat in every class, grey without loss: only the values tell masks from photographs."""
    for label in ("faces", "masks"):
        for number in NUMBERS:
            save(tmp_path / label / f"{number}.png", noise("L"))
    assert open_data(str(tmp_path)).labels == ("faces", "masks")
    for number in NUMBERS:
        save(tmp_path / "masks" / f"{number}.png", mask("1"))
    assert open_data(str(tmp_path)).labels == ("faces",)


def test_masks_beside_a_single_split_leave_it_a_split(tmp_path: Path) -> None:
    for part in ("train", "masks"):
        for label in ("cat", "dog"):
            for number in NUMBERS:
                image = noise("RGB") if part == "train" else mask("1")
                save(tmp_path / part / f"{label}_{number}.png", image)
    data = open_data(str(tmp_path))
    assert data.labels == ("cat", "dog")
    assert not any("folders=" in note for note in data.notes)


def test_a_word_that_is_not_known(tmp_path: Path) -> None:
    classes(tmp_path)
    with pytest.raises(DataError, match="masks=aside or masks=pictures"):
        open_data(f"{tmp_path}?masks=maybe")


def test_predict_labels_the_photographs_alone(tmp_path: Path) -> None:
    classes(tmp_path / "data")
    masks_of(tmp_path / "data", lambda: mask("1"))
    result = predict("vitrine/scenes-tiny", tmp_path / "data", tmp_path / "out.csv", batch_size=8)
    with (tmp_path / "out.csv").open(newline="") as table:
        names = [row["filename"] for row in csv.DictReader(table)]
    assert len(names) == 8 and not any("masks" in name for name in names)
    assert any("8 masks of the pictures were left aside: masks/" in note for note in result.notes)


def test_explain_draws_the_photographs_alone(tmp_path: Path) -> None:
    classes(tmp_path / "data")
    masks_of(tmp_path / "data", lambda: mask("P"))
    result = explain("vitrine/scenes-tiny", tmp_path / "data", tmp_path / "out", ExplainSettings(), batch_size=8)
    assert len(result.pictures) == 8 and not (tmp_path / "out" / "masks").exists()
    assert any("8 masks of the pictures were left aside: masks/" in note for note in result.notes)


def test_the_decision_reads_few_headers_however_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = tmp_path / "1.png"
    save(image, mask("1"))
    paths = []
    real = Image.open
    monkeypatch.setattr(Image, "open", lambda path, **how: (paths.append(path), real(path, **how))[1])
    count = 20_000
    files = [(image, f"a/{n}.png") for n in range(count)] + [(image, f"masks/a/{n}.png") for n in range(count)]
    aside = FilesAside()
    assert len(leave_masks_aside(files, aside)) == count and aside.masks["masks"] == count
    assert len(paths) <= 3 * 16  # of the masks, of the pictures beside, and of the masks' values
