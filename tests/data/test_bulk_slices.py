"""What bulk work is cut into: folders, shards and Parquet files, whole, damaged and odd."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vitrine.data.bulk_slices import slice_pictures
from vitrine.errors import DataError, PictureError


def png(value: int) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (4, 3), (value, value, value)).save(data, "PNG")
    return data.getvalue()


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def value_of(sample) -> int:  # type: ignore[no-untyped-def]
    return int(np.asarray(sample.picture.decode())[0, 0, 0])


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "b").mkdir(parents=True)
    for number in range(5):
        (folder / f"{number}.png").write_bytes(png(number))
        (folder / "b" / f"{number}.png").write_bytes(png(10 + number))
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_a_folder_is_cut_into_runs_in_name_order(pictures: Path) -> None:
    bulk_input = slice_pictures(pictures, 4)
    assert bulk_input.kind == "pictures"
    assert [each.count for each in bulk_input.slices] == [4, 4, 2]
    names = [name for each in bulk_input.slices for name in each.names()]
    assert names == sorted(names) and len(set(names)) == 10
    assert [value_of(s) for each in bulk_input.slices for s in each.samples()] == [*range(5), *range(10, 15)]


def test_a_folder_of_pictures_says_which_shards_it_leaves_aside(pictures: Path) -> None:
    (pictures / "x.tar").write_bytes(b"")
    bulk_input = slice_pictures(pictures, 4)
    assert bulk_input.kind == "pictures" and ".tar 1" in bulk_input.notes[0]


def test_shards_come_in_the_order_of_their_pictures_names(tmp_path: Path) -> None:
    """The same names that unpacked folders would have, sorted: "a-1/..." before "a/..."."""
    for shard, base in (("a", 0), ("a-1", 50)):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as tar:
            for number in (3, 1, 2):
                add(tar, f"{number}.png", png(base + number))
                add(tar, f"{number}.cls", b"7")
            add(tar, "1.png", png(base + 9))  # the last of one name counts
            add(tar, "../../out.png", png(base))
            folder = tarfile.TarInfo("folder.png")
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
    bulk_input = slice_pictures(tmp_path, 2)
    assert bulk_input.kind == "shards" and [each.count for each in bulk_input.slices] == [None, None]
    samples = [sample for each in bulk_input.slices for sample in each.samples()]
    names = [sample.name for sample in samples]
    assert names == sorted(names)
    assert names == [
        *(f"a-1/{n}.png" for n in (1, 2, 3)),
        "a-1/out.png",
        *(f"a/{n}.png" for n in (1, 2, 3)),
        "a/out.png",
    ]
    assert [value_of(sample) for sample in samples] == [59, 52, 53, 50, 9, 2, 3, 0]
    (alone,) = slice_pictures(tmp_path / "a.tar", 2).slices
    assert alone.names() == tuple(names[4:])


def test_a_damaged_shard_gives_what_is_before_the_damage_and_is_named(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "cut.tar", "w") as tar:
        for number in range(3):
            add(tar, f"{number}.png", png(number))
    whole = (tmp_path / "cut.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: 2 * 1024 + 700])  # a member is a header and a block; the third's is torn
    (cut,) = slice_pictures(tmp_path, 10).slices
    unreadable, *before = cut.samples()
    assert [sample.name for sample in before] == ["cut/0.png", "cut/1.png", "cut/2.png"]
    assert [value_of(sample) for sample in before] == [0, 1, 2], "the data of the third are there, its padding is not"
    assert unreadable.name == "cut.tar"
    with pytest.raises(PictureError, match="damaged after 3"):
        unreadable.picture.decode()
    (tmp_path / "cut.tar").write_bytes(whole[: 2 * 1024 + 520])
    with pytest.raises(PictureError, match="truncated"):
        cut.samples()[-1].picture.decode()
    (tmp_path / "cut.tar").write_bytes(b"this is no archive" * 100)
    (only,) = slice_pictures(tmp_path, 10).slices[0].samples()
    assert only.name == "cut.tar"
    with pytest.raises(PictureError, match="damaged after 0"):
        only.picture.read_bytes()


def test_rows_of_bytes_with_names(tmp_path: Path) -> None:
    table = pa.table(
        {"name": [f"p/{n}.png" for n in range(7)], "image": [png(n) for n in range(6)] + [None], "x": range(7)}
    )
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=4)
    bulk_input = slice_pictures(tmp_path, 3)
    assert bulk_input.kind == "rows" and [each.count for each in bulk_input.slices] == [3, 1, 3]
    samples = [sample for each in bulk_input.slices for sample in each.samples()]
    assert [sample.name for sample in samples] == [f"p/{n}.png" for n in range(7)]
    assert [sample.name for sample in samples] == [name for each in bulk_input.slices for name in each.names()]
    assert [value_of(sample) for sample in samples[:6]] == list(range(6))
    with pytest.raises(PictureError, match="no picture in this row"):
        samples[6].picture.decode()


def test_rows_as_hugging_face_writes_them(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(png(77))
    cells = [{"bytes": png(1), "path": "odd.png"}, {"bytes": None, "path": "0.png"}, None]
    pq.write_table(pa.table({"image": cells, "label": [0, 1, 2]}), tmp_path / "sub.parquet")
    (rows,) = slice_pictures(tmp_path / "sub.parquet", 8).slices
    samples = rows.samples()
    assert [sample.name for sample in samples] == ["sub/000000", "sub/000001", "sub/000002"]
    assert [value_of(sample) for sample in samples[:2]] == [1, 77]


def test_rows_of_paths(pictures: Path, tmp_path: Path) -> None:
    names = ["pictures/b/3.png", "pictures/absent.png", str(pictures / "2.png")]
    pq.write_table(pa.table({"path": names, "label": ["a", "b", "c"]}), tmp_path / "list.parquet")
    (rows,) = slice_pictures(tmp_path / "list.parquet", 8).slices
    samples = rows.samples()
    assert [value_of(samples[0]), value_of(samples[2])] == [13, 2]
    assert not any(sample.name.startswith(("/", "..")) for sample in samples), "figures are written below a folder"
    with pytest.raises(PictureError, match="does not exist"):
        samples[1].picture.decode()


def test_what_cannot_be_cut(tmp_path: Path) -> None:
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "a.tar").write_bytes(b"")
    pq.write_table(pa.table({"image": [png(1)]}), tmp_path / "both" / "a.parquet")
    for name, columns in (
        ("two", {"one": [b"x"], "other": [b"y"]}),
        ("none", {"label": ["x"]}),
        ("no_rows", {"image": pa.array([], pa.binary())}),
    ):
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("both", "one kind alone"),
        ("two.parquet", "several columns of bytes, one, other"),
        ("none.parquet", "no column of pictures"),
        ("no_rows.parquet", "no rows"),
        ("torn.parquet", "cannot be read as Parquet"),
        ("empty", "It is empty"),
        ("absent", "no file or folder"),
    ):
        with pytest.raises(DataError, match=message) as error:
            slice_pictures(tmp_path / name, 4)
        assert len(str(error.value).splitlines()) <= 2
