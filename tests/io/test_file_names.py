"""Names of written files fit a file system, and temporary ones never lengthen a person's."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitrine.io.file_names import MAX_BYTES, beside, fit_name, fit_path, temporary_path
from vitrine.io.files import atomic_path, write_atomically
from vitrine.io.resumable_csv import ResumableTable
from vitrine.plotting.provenance import figure_names

LONG_STEMS = ("a" * 251, "a" * 250 + "b", "文" * 83 + "ab", "😀" * 62, "é" * 125, "e\u0301" * 83, "\\udcff" * 41)


@pytest.mark.parametrize("stem", ["cat", *LONG_STEMS, "x" * 5_000, "猫" * 4_000, "\ud800" * 300])
@pytest.mark.parametrize("ending", ["", ".png", "-heads.svg", "-contact-sheet-1234.png", ".unreadable.csv.partial"])
def test_a_name_fits_and_keeps_its_ending(stem: str, ending: str) -> None:
    name = fit_name(stem, ending)
    size = len(name.encode("utf-8", "surrogatepass"))
    assert size <= MAX_BYTES and name.endswith(ending) and name == fit_name(stem, ending)
    fits = len((stem + ending).encode("utf-8", "surrogatepass")) <= MAX_BYTES
    assert (name == stem + ending) == fits
    if not fits:
        assert name[:40] == stem[:40] or len(stem) < 60, "its beginning can be read"
        assert size > MAX_BYTES - 4, "no more is cut than has to be"


@given(st.lists(st.text(st.characters(exclude_characters="/\0"), min_size=200, max_size=400), unique=True, max_size=8))
def test_different_stems_have_different_names(stems: list[str]) -> None:
    assert len({fit_name(stem, ".png") for stem in stems}) == len(stems)


def test_names_that_differ_at_their_end_alone_stay_apart() -> None:
    names = [f"{'x' * 246}{number:04d}.jpeg" for number in range(200)]
    figures = figure_names(names, "png")
    assert len(set(figures.values())) == 200 and all(len(name) <= MAX_BYTES for name in figures.values())


def test_every_part_of_a_path_fits() -> None:
    path = fit_path(f"{'文' * 100}/{'b' * 300}/cat", ".png")
    assert path.endswith("/cat.png") and all(len(part.encode()) <= MAX_BYTES for part in path.split("/"))


@pytest.mark.parametrize("stem", LONG_STEMS)
def test_any_name_that_a_folder_holds_is_written_whole(stem: str, tmp_path: Path) -> None:
    """Names of 244 bytes and more had no room for a temporary name made of them."""
    path = tmp_path / f"{stem}.png"
    write_atomically(path, b"1")
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"2")
        assert path.read_bytes() == b"1" and temporary.parent == path.parent
    assert path.read_bytes() == b"2" and [each.name for each in tmp_path.iterdir()] == [path.name]


def test_temporary_names_are_short_and_each_writers_own(tmp_path: Path) -> None:
    path, names = tmp_path / ("n" * MAX_BYTES), set()
    threads = [threading.Thread(target=lambda: names.add(temporary_path(path))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names) == 20 and all(len(name.name) <= 40 for name in names)


def test_an_interrupted_write_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / ("n" * MAX_BYTES)
    path.write_bytes(b"before")

    def interrupted() -> None:
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"before" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("stem", LONG_STEMS)
def test_a_table_with_a_long_name_can_be_continued(stem: str, tmp_path: Path) -> None:
    """``.partial``, ``.unreadable.csv.partial`` and ``.partial.json`` are names that are made of the person's."""
    out = tmp_path / f"{stem}.csv"
    for resume in (False, True):
        table = ResumableTable(out, ("filename", "label"), ("cat",), {"precision": "fp32"})
        if resume:
            assert table.recover(["a.jpg", "b.jpg", "c.jpg"], 1).position == 2
        else:
            table.begin()
            table.append(b"a.jpg,cat\n", [("b.jpg", "not a picture")])
            table.close()
    table.append(b"c.jpg,cat\n", [])
    table.finish(any_unreadable=True)
    assert out.read_bytes() == b"filename,label\na.jpg,cat\nc.jpg,cat\n"
    assert sorted(tmp_path.iterdir()) == sorted([out, table.unreadable_out])


def test_a_name_beside_another() -> None:
    assert beside(Path("d/cat.png"), "-heads.png", keep_ending=False) == Path("d/cat-heads.png")
    assert beside(Path("d/p.csv"), ".partial") == Path("d/p.csv.partial")
