"""What systems and tools leave among pictures is data for no verb, and is named."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from vitrine.data.bulk_slices import slice_pictures
from vitrine.data.ignored_files import FilesAside, is_ignored, is_ignored_path
from vitrine.data.image_folder import read_pictures
from vitrine.data.shards.dataset import find_shards, is_shards
from vitrine.data.sources import open_data

# A path below a class folder's parent, as these leave it, and what the sentence calls it.
LEFTOVERS = {
    "Windows, bin of a drive": ("$RECYCLE.BIN/S-1-5-21/1.png", "$RECYCLE.BIN 1"),
    "Windows XP, bin": ("RECYCLER/1.png", "RECYCLER 1"),
    "Windows, restore points": ("System Volume Information/1.png", "System Volume Information 1"),
    "Windows, thumbnails": ("cat/Thumbs.db", "Thumbs.db 1"),
    "Windows, folder's look": ("cat/desktop.ini", "desktop.ini 1"),
    "Windows, lost clusters": ("FOUND.000/1.png", "FOUND.000 1"),
    "ext4": ("lost+found/1.png", "lost+found 1"),
    "Android": ("LOST.DIR/1.png", "LOST.DIR 1"),
    "Synology": ("cat/@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg", "@eaDir 1"),
    "Synology, bin": ("#recycle/1.png", "#recycle 1"),
    "QNAP, bin": ("@Recycle/1.png", "@Recycle 1"),
    "QNAP, thumbnails": ("cat/.@__thumb/1.png", ".@__thumb 1"),
    "macOS, AppleDouble": ("cat/._1.png", "._* 1"),
    "macOS, zip": ("__MACOSX/cat/._1.png", "__MACOSX 1"),
    "macOS, Finder": ("cat/.DS_Store", ".DS_Store 1"),
    "macOS, bin": (".Trashes/501/1.png", ".Trashes 1"),
    "Linux, bin": (".Trash-1000/files/1.png", ".Trash-1000 1"),
    "Jupyter": ("cat/.ipynb_checkpoints/1-checkpoint.png", ".ipynb_checkpoints 1"),
    "git": (".git/1.png", ".git 1"),
    "Python": ("__pycache__/1.png", "__pycache__ 1"),
}


def png(mode: str = "RGB", value: int = 0) -> bytes:
    data = io.BytesIO()
    Image.new(mode, (4, 3), (value, 20, 30) if mode == "RGB" else value).save(data, "PNG")
    return data.getvalue()


def fill(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(value=number))
    return root


CLASSES = [f"{label}/{number}.png" for label in ("cat", "dog") for number in range(3)]


@pytest.mark.parametrize("kind", LEFTOVERS)
def test_leftovers_are_no_data_and_are_named(kind: str, tmp_path: Path) -> None:
    path, name = LEFTOVERS[kind]
    fill(tmp_path, *CLASSES, path)
    data = open_data(str(tmp_path))
    assert data.labels == ("cat", "dog")
    assert sorted(sample.name for split in data.splits.values() for sample in split) == CLASSES
    pictures = read_pictures(tmp_path)
    assert [sample.name for sample in pictures.samples] == CLASSES
    bulk = slice_pictures(tmp_path, 100)
    assert [name for each in bulk.slices for name in each.names()] == CLASSES
    for notes in (data.notes, pictures.notes, bulk.notes):
        assert sum(f"1 file was left aside, no data by name: {name}." == note for note in notes) == 1


def test_in_split_folders_too_and_all_of_it_in_one_line(tmp_path: Path) -> None:
    fill(tmp_path, *(f"{split}/{name}" for split in ("train", "val") for name in CLASSES))
    fill(tmp_path, "$RECYCLE.BIN/1.png", "train/@eaDir/1.png", "train/cat/@eaDir/1.png", "val/dog/._2.png")
    data = open_data(str(tmp_path))
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 6, "validation": 6}
    assert "4 files were left aside, no data by name: @eaDir 2, $RECYCLE.BIN 1, ._* 1." in data.notes


def test_a_folder_that_is_given_itself_is_read(tmp_path: Path) -> None:
    fill(tmp_path, "$RECYCLE.BIN/1.png", ".hidden/2.png")
    assert [sample.name for sample in read_pictures(tmp_path / "$RECYCLE.BIN").samples] == ["1.png"]
    assert [sample.name for sample in read_pictures(tmp_path / ".hidden").samples] == ["2.png"]


def test_names_that_only_resemble_are_data() -> None:
    assert not any(map(is_ignored, ("recycle", "found", "lost and found", "Thumbs.jpg", "masks", "git", "_1.jpg", "@")))
    assert is_ignored_path("train/__MACOSX/1.jpg") and is_ignored_path("a/._1.jpg")
    assert not is_ignored_path("./a/1.jpg") and not is_ignored_path("../a/1.jpg")


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def test_shards_that_were_packed_on_macos(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "train-0000.tar", "w") as tar:
        for number in range(3):
            for ending, data in (("png", png(value=number)), ("cls", b"1")):
                add(tar, f"s/._{number}.{ending}", b"\0\5\26\7")
                add(tar, f"s/{number}.{ending}", data)
        add(tar, "s/@eaDir/0.png", png())
    (tmp_path / "._train-0000.tar").write_bytes(b"\0\5\26\7")
    assert is_shards(str(tmp_path))
    assert [shard.pictures for shard in find_shards(str(tmp_path)).splits["train"]] == [3]
    (shard,) = slice_pictures(tmp_path, 10).slices
    assert shard.names() == tuple(f"train-0000/s/{number}.png" for number in range(3))


def test_the_sentence_counts_and_shortens() -> None:
    aside = FilesAside()
    assert aside.notes() == ()
    for number in range(8):
        aside.ignore(f".hidden{number}")
    aside.ignore("._a")
    aside.ignore("._b")
    (note,) = aside.notes()
    assert note.startswith("10 files were left aside, no data by name: ._* 2, .hidden0 1,") and "and 3 more" in note
    assert json.dumps(note)
