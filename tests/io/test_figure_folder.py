"""Folders of figures: one call's at a time, and nothing is removed that its list does not name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vitrine.errors import RunError
from vitrine.io.figure_folder import MANIFEST, FigureCall, claim_folder, picture_choice

PHOTOS = ("photos",)


def write(out: Path, files: list[str], *options: str, pictures: tuple[str, ...] | None = PHOTOS, replace: bool = False):
    """A call that writes files; its claim."""
    claim = claim_folder(out, FigureCall("explain", ("RUN", *options), pictures), files, replace=replace)
    claim.take()
    for name in files:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(" ".join(options))
    return claim


def names(out: Path) -> set[str]:
    return {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} - {MANIFEST}


def test_another_call_is_refused_and_nothing_is_touched(tmp_path: Path) -> None:
    write(tmp_path, ["a.png", "cat/b.png", "maps.csv"])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match=r"has 3 files of another call: vitrine explain RUN photos\n.*--replace"):
        write(tmp_path, ["a.png", "maps.csv"], "--method", "rollout")
    with pytest.raises(RunError, match="another call"):
        write(tmp_path, ["a.png", "maps.csv"], pictures=("others",))
    with pytest.raises(RunError, match="another call"):
        write(tmp_path, ["a.png"], "--method", "rollout", pictures=None)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_replacing_removes_what_is_listed_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path, ["a.png", "cat/b.png", "a-heads.png", "maps.csv"])
    (tmp_path / "mine.png").write_text("mine")
    claim = write(tmp_path, ["a.png", "maps.csv"], "--method", "rollout", replace=True)
    assert names(tmp_path) == {"a.png", "maps.csv", "mine.png"}
    assert not (tmp_path / "cat").exists()
    assert claim.notes == [f"2 files of the call before this one were removed from {tmp_path}."]
    assert (tmp_path / "a.png").read_text() == "--method rollout"


def test_the_same_call_writes_its_own_anew_and_drops_pictures_that_are_gone(tmp_path: Path) -> None:
    write(tmp_path, ["a.png", "b.png", "maps.csv"])
    assert write(tmp_path, ["a.png", "b.png", "maps.csv"]).notes == []
    assert len(write(tmp_path, ["a.png", "maps.csv"]).notes) == 1
    assert names(tmp_path) == {"a.png", "maps.csv"}


def test_a_single_picture_stands_beside_the_others_of_its_call(tmp_path: Path) -> None:
    write(tmp_path, ["a.png", "cat/b.png", "maps.csv"])
    again = write(tmp_path, ["a.png", "maps.csv"], pictures=None)
    assert again.redraws and not again.adds
    more = write(tmp_path, ["c.png", "maps.csv"], pictures=None)
    assert more.adds and not more.redraws
    assert names(tmp_path) == {"a.png", "c.png", "cat/b.png", "maps.csv"}
    assert json.loads((tmp_path / MANIFEST).read_text())["files"] == ["a.png", "cat/b.png", "maps.csv", "c.png"]


def test_a_figure_below_is_drawn_anew_in_its_place(tmp_path: Path) -> None:
    write(tmp_path, ["a.png", "cat/b.png", "maps.csv"])
    call = FigureCall("explain", ("RUN",), None)
    assert claim_folder(tmp_path / "cat", call, ["b.png", "maps.csv"]).redraws
    with pytest.raises(RunError, match="outside of"):
        claim_folder(tmp_path / "cat", FigureCall("explain", ("RUN", "--method", "rollout"), None), ["b.png"])
    assert not claim_folder(tmp_path / "dog", call, ["b.png"]).redraws  # nobody's


@pytest.mark.parametrize(
    "name", ["../outside.png", "/etc/outside.png", "notes.txt", "link/outside.png", "a.png/../../outside.png"]
)
def test_a_list_cannot_name_files_elsewhere(name: str, tmp_path: Path) -> None:
    out, outside = tmp_path / "out", tmp_path / "outside.png"
    outside.write_text("not ours")
    out.mkdir()
    (out / "link").symlink_to(tmp_path)
    (out / "notes.txt").write_text("not ours")
    content = {"verb": "explain", "options": ["RUN"], "pictures": ["photos"], "files": [name]}
    (out / MANIFEST).write_text(json.dumps(content))
    write(out, ["a.png"], "--method", "rollout", replace=True)
    assert outside.exists() and (out / "notes.txt").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"files": 3}', '{"verb": 1, "options": [], "files": []}'])
def test_a_list_that_cannot_be_read_is_none(content: str, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(content)
    write(tmp_path, ["a.png"])
    assert json.loads((tmp_path / MANIFEST).read_text())["files"] == ["a.png"]


def test_which_pictures(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    assert picture_choice(tmp_path / "a.png", None, 0) is None
    assert picture_choice(tmp_path, None, 3) == picture_choice(tmp_path / "." / "", None, 0) == (str(tmp_path),)
    assert picture_choice(tmp_path, 5, 3) == (str(tmp_path), "--limit", "5", "--seed", "3")
    assert picture_choice(Path("s.tar"), None, 0) == ("s.tar",)
