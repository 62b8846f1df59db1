"""Hashes, quarantine and the report: counted by hand on small data, and run on the real photographs."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.odd_pictures import make_deep_png, make_twelve_bit_tiff
from support.paths import CHECKOUT, SHARED

from vitrine.check import check, render
from vitrine.data.check import inspect
from vitrine.data.decode import BytesPicture, FilePicture
from vitrine.data.image_folder import list_pictures
from vitrine.data.sample_index import index_samples
from vitrine.data.samples import Dataset, FiniteSplit, Sample
from vitrine.errors import DataError

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the real photographs of ../shared/data are not here")
RNG = np.random.default_rng(11)


def save(path: Path, mode: str = "RGB", format_name: str = "JPEG", size: tuple[int, int] = (12, 8), **options: object):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = Image.fromarray(RNG.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    noise.convert(mode).save(path, format_name, **options)


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    for split, count in (("train", 4), ("val", 2), ("test", 2)):
        for label, times in (("cat", 1), ("dog", 6)):
            for n in range(count * times):
                save(tmp_path / split / label / f"{split}{n}.jpg")
    return tmp_path


@pytest.fixture
def faulty(clean: Path) -> Path:
    train, val, test = (clean / split for split in ("train", "val", "test"))
    shutil.copy(train / "dog" / "train0.jpg", test / "dog" / "copy.jpg")
    shutil.copy(train / "dog" / "train1.jpg", val / "cat" / "other label.jpg")
    shutil.copy(train / "dog" / "train2.jpg", train / "dog" / "again.jpg")
    shutil.copy(train / "dog" / "train3.jpg", train / "cat" / "conflict.jpg")
    save(train / "dog" / "really a png.jpg", format_name="PNG")
    for name in ("zero.jpg", "zero too.jpg"):
        (train / "dog" / name).write_bytes(b"")
    whole = (train / "dog" / "train4.jpg").read_bytes()
    (val / "dog" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    exif = Image.Exif()
    exif[0x0112] = 6
    save(train / "dog" / "turned.jpg", size=(40, 10), exif=exif)
    save(train / "cat" / "grey.jpg", "L")
    save(train / "cat" / "ink.jpg", "CMYK")
    return clean


def test_the_index_hashes_and_names_what_cannot_be_read(faulty: Path) -> None:
    samples = [*list_pictures(faulty), Sample("absent.jpg", FilePicture(faulty / "absent"))]
    calls: list[tuple[int, int, int]] = []
    index = index_samples(samples, progress=lambda done, total: calls.append((done, total, threading.get_ident())))
    assert calls == [(n + 1, len(samples), threading.get_ident()) for n in range(len(samples))]
    for sample in samples[:-1]:
        assert index.hashes[sample.name] == hashlib.sha256((faulty / sample.name).read_bytes()).hexdigest()
    assert "absent.jpg" not in index.hashes
    assert index.unreadable == (
        ("train/dog/zero too.jpg", "the file is empty"),
        ("train/dog/zero.jpg", "the file is empty"),
        ("val/dog/cut.jpg", "truncated: the file ends before its picture does"),
        ("absent.jpg", "the file does not exist"),
    )
    for workers in (0, 1, 5):
        assert index_samples(samples, workers=workers) == index
    assert index_samples([]).hashes == {}


def test_an_interrupted_index_stops(clean: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index_samples(list_pictures(clean), progress=interrupt)


def test_clean_data(clean: Path) -> None:
    report = check(str(clean))
    assert not report.serious
    assert report.pictures == 56
    assert [(s.name, s.pictures, dict(s.by_class)) for s in report.splits] == [
        ("train", 28, {"cat": 4, "dog": 24}),
        ("validation", 14, {"cat": 2, "dog": 12}),
        ("test", 14, {"cat": 2, "dog": 12}),
    ]
    assert report.imbalance == 6.0
    assert report.majority["test"] == pytest.approx(12 / 14)
    assert report.size == sum(path.stat().st_size for path in clean.rglob("*.jpg"))
    assert (report.width.smallest, report.height.largest) == (12, 8)
    text = render(report)
    assert "No problems found" in text
    assert "6.0 times" in text
    assert "  width    12 px" in text
    assert "85.7% of validation and 85.7% of test" in text


def test_faulty_data(faulty: Path) -> None:
    report = check(str(faulty))
    assert report.serious
    assert [[copy.name for copy in group.copies] for group in report.across_splits] == [
        ["train/dog/train1.jpg", "val/cat/other label.jpg"],  # two labels: the worse comes first
        ["train/dog/train0.jpg", "test/dog/copy.jpg"],
    ]
    assert [[copy.name for copy in group.copies] for group in report.within_splits] == [
        ["train/cat/conflict.jpg", "train/dog/train3.jpg"],
        ["train/dog/again.jpg", "train/dog/train2.jpg"],
    ]
    assert [name for name, _ in report.unreadable] == [
        "train/dog/zero too.jpg",
        "train/dog/zero.jpg",
        "val/dog/cut.jpg",
    ]
    assert report.mismatches == (("train/dog/really a png.jpg", "PNG"),)
    assert {kind.kind: kind.pictures for kind in report.kinds} == {"CMYK": 1, "greyscale": 1, "EXIF-rotated": 1}
    assert report.formats == {"JPEG": report.pictures - 4, "PNG": 1}
    assert report.height.largest == 40  # the turned one, upright
    lines = render(report).splitlines()
    order = [next(n for n, line in enumerate(lines) if words in line) for words in (
        "2 pictures lie in more than one split",
        "train/dog/train1.jpg (dog) = val/cat/other label.jpg (cat)",
        "3 pictures cannot be read",
        "val/dog/cut.jpg: truncated",
        "1 picture has copies with another label",
        "1 picture has copies in the same split",
        "1 file is not what the name says",
        "Class",
        "Pictures",
        "Suggestions",
    )]  # fmt: skip
    assert order == sorted(order)
    assert all(line == line.rstrip() for line in lines)


def test_the_report_as_json(faulty: Path) -> None:
    report = check(str(faulty))
    found = json.loads(json.dumps(report.to_dict()))
    assert found["serious"] is True
    assert found["unreadable"][0] == {"name": "train/dog/zero too.jpg", "reason": "the file is empty"}
    assert found["duplicates"][0]["across_splits"] is True
    assert found["duplicates"][0]["copies"][1] == {
        "name": "val/cat/other label.jpg",
        "split": "validation",
        "label": "cat",
    }
    assert found["splits"][0]["by_class"] == {"cat": 7, "dog": 29}
    assert found["width"] == {"smallest": 10, "median": 12, "largest": 12}
    assert found["kinds"][0]["treatment"]
    assert found["pictures"] == report.pictures
    assert found["suggestions"][0].startswith("Keep every picture in one split")


def test_pictures_without_labels(tmp_path: Path) -> None:
    for n in range(3):
        save(tmp_path / f"{n}.jpg")
    report = check(str(tmp_path))
    assert (report.pictures, report.labels, report.serious) == (3, (), False)
    text = render(report)
    assert "pictures without labels" in text
    assert "No labels were found" in text
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no pictures"):
        check(str(tmp_path / "empty"))


def test_many_classes_are_shown_in_part_and_even_ones_in_a_line(tmp_path: Path) -> None:
    noise = RNG.integers(0, 256, (50, 8, 8, 3), dtype=np.uint8)

    def sample(label: int, n: int) -> Sample:
        buffer = io.BytesIO()
        Image.fromarray(noise[label] ^ np.uint8(n)).save(buffer, "PNG")
        return Sample(f"{label}/{n}.png", BytesPicture(buffer.getvalue()), label)

    names = tuple(f"class{label}" for label in range(50))
    even = [sample(label, n) for label in range(50) for n in range(2)]
    text = render(inspect(Dataset("x", "class folders", names, {"train": FiniteSplit(even)})))
    assert "Every class has the same number of pictures: 2 in train." in text
    uneven = [*even, sample(3, 2), *(sample(4, n) for n in range(2, 9))]
    lines = render(inspect(Dataset("x", "class folders", names, {"train": FiniteSplit(uneven)}))).splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("Class"))
    assert lines[start + 1].split() == ["class4", "9"]
    assert lines[start + 2].split() == ["class3", "3"]
    assert lines[start + 6] == "..."


def test_nothing_is_serious_and_an_endless_split_is_left_out() -> None:
    report = inspect(Dataset("x", "nothing", (), {"train": FiniteSplit([])}))
    assert report.serious
    assert "There are no pictures." in render(report)

    class Endless(FiniteSplit):
        @property
        def endless(self) -> bool:
            return True

    report = inspect(Dataset("x", "scenes", ("a",), {"train": Endless([])}))
    assert "no end" in report.notes[-1]
    assert render(report)


@needs_shared
@pytest.mark.parametrize(("folder", "pictures"), [("pets37", 370), ("coco/val2017", 112)])
def test_the_real_photographs_are_in_order(folder: str, pictures: int) -> None:
    report = check(str(SHARED / folder))
    assert (report.pictures, report.serious, report.formats) == (pictures, False, {"JPEG": pictures})
    assert report.near_copies == ()


# --- pictures of more than 8 bits that use few of them


def deep_folder(folder: Path, pictures: dict[str, np.ndarray]) -> Path:
    for label in ("cat", "dog"):
        save(folder / label / "plain.png", format_name="PNG")
    for name, values in pictures.items():
        write_deep(folder / "cat" / name, values)
    return folder


def write_deep(file: Path, values: np.ndarray) -> None:
    """Greyscale by Pillow, colour by hand, which Pillow cannot write."""
    if values.ndim == 2:
        Image.fromarray(values.astype(np.uint16)).save(file)
    else:
        file.write_bytes(make_deep_png(values.astype(np.uint16), 2))


def test_twelve_bits_in_a_file_of_sixteen_are_named_with_a_remedy(tmp_path: Path) -> None:
    values = RNG.integers(0, 4096, (9, 14))
    values[0, 0] = 4095
    pictures = {"12.png": values, "12.tif": values, "12 colour.png": np.dstack([values] * 3)}
    pictures |= {"10.png": values >> 2, "14.png": values * 4 + 3, "16.png": values * 16 + 15, "15.png": values * 8}
    report = check(str(deep_folder(tmp_path, pictures)))
    found = {Path(each.name).name: (each.used_bits, each.bits, each.brightest) for each in report.dark}
    assert found == {
        "12.png": (12, 16, 16), "12.tif": (12, 16, 16), "12 colour.png": (12, 16, 15), "10.png": (10, 16, 4),
        "14.png": (14, 16, 64),
    }  # fmt: skip
    text = render(report)
    assert "5 pictures of more than 8 bits come out dark: few of the bits are used" in text
    assert "cat/12.png: 12 of 16 bits, nowhere brighter than 16 of 255" in text
    assert "Multiply the values of the dark pictures by 4 " in text, "so that the brightest of them does not overflow"
    assert not report.serious and report.to_dict()["dark"][0]["bits"] == 16  # type: ignore[index]
    one = check(str(deep_folder(tmp_path / "one", {"a.png": values})))
    assert "Multiply the values of the dark pictures by 16 and save them again: their largest value has 12 bits" in (
        " ".join(one.suggestions)
    )


def test_deep_pictures_that_use_their_range_are_not_named(tmp_path: Path) -> None:
    file = tmp_path / "cat" / "stated.tif"
    report = check(str(deep_folder(tmp_path, {"night.png": np.pad([[40_000]], ((0, 9), (0, 9)))})))
    assert report.dark == () and "dark" not in render(report)
    file.write_bytes(make_twelve_bit_tiff(RNG.integers(2000, 4096, (4, 6))))
    assert check(str(tmp_path)).dark == (), "a file that states its 12 bits is scaled by them"


def test_the_program_of_the_page_brightens_dark_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = RNG.integers(0, 4096, (9, 14))
    values[0, 0] = 4095
    deep_folder(tmp_path, {"scan.png": values})
    page = (CHECKOUT / "docs" / "pictures.md").read_text("utf-8")
    (program,) = (part.partition("```")[0] for part in page.split("```python\n")[1:] if "used_bits" in part)
    monkeypatch.chdir(tmp_path)
    exec(compile(program.replace('"scans"', '"cat"'), "the page", "exec"), {})
    assert check(str(tmp_path)).dark == ()
    assert np.asarray(Image.open(tmp_path / "cat" / "scan.png")).tolist() == (values * 16).tolist()
