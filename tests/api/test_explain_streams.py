"""Pictures that come one by one are drawn as they come: a batch is held, not all of them."""

from __future__ import annotations

import csv
import gc
import json
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image
from support.tiny_captioners import save_tiny
from torch.utils.data import Dataset

import vitrine
from vitrine.data.picture_inputs import picture_input
from vitrine.explain import run as explain_run
from vitrine.io.figure_folder import MANIFEST, TAIL

BATCH = 2


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captioner")
    save_tiny("blip", folder)
    return folder


class Stream:
    """Pictures made one by one, and the most of them that were alive at a time."""

    def __init__(self, count: int, stop_at: int | None = None) -> None:
        self.count, self.stop_at, self.most = count, stop_at, 0
        self._alive: list[weakref.ref[Image.Image]] = []

    def __iter__(self) -> Iterator[Image.Image]:
        for number in range(self.count):
            if number == self.stop_at:
                raise KeyboardInterrupt
            picture = Image.fromarray(np.full((40, 50, 3), 20 * number, np.uint8))
            self._alive.append(weakref.ref(picture))
            yield picture
            del picture
            gc.collect(0)
            self.most = max(self.most, sum(each() is not None for each in self._alive))


def names(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir() if each.suffix in (".png", ".csv")}


def test_explain_draws_a_stream_as_it_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of five pictures two batches are alive at most; figures, table, sheets and the folder's list are all there."""
    monkeypatch.setattr(explain_run, "A_SHEET", 2)
    stream = Stream(5)
    result = vitrine.explain("vitrine/scenes-tiny", iter(stream), tmp_path, batch_size=BATCH, quiet=True)
    assert stream.most <= 2 * BATCH
    figures = {f"picture-{number}.png" for number in range(5)}
    sheets = ["contact-sheet.png", "contact-sheet-2.png", "contact-sheet-3.png"]
    assert names(tmp_path) == {*figures, *sheets, "maps.csv"}
    assert [path.name for path in result.sheets] == sheets
    rows = list(csv.DictReader((tmp_path / "maps.csv").open(newline="")))
    assert [row["filename"] for row in rows] == [f"picture-{number}" for number in range(5)]
    assert set(json.loads((tmp_path / MANIFEST).read_text())["files"]) == names(tmp_path)
    at_hand = vitrine.explain("vitrine/scenes-tiny", list(Stream(5)), batch_size=BATCH, quiet=True)
    for one, other in zip(result.pictures, at_hand.pictures, strict=True):
        np.testing.assert_array_equal(one.scores_RC, other.scores_RC)

    with pytest.raises(KeyboardInterrupt):  # a stream that breaks off keeps what is listed
        vitrine.explain("vitrine/scenes-tiny", iter(Stream(5, 3)), tmp_path, batch_size=BATCH, quiet=True)
    assert (tmp_path / TAIL).is_file() and figures < names(tmp_path)
    fewer = vitrine.explain("vitrine/scenes-tiny", iter(Stream(1)), tmp_path, batch_size=BATCH, quiet=True)
    assert names(tmp_path) == {"picture-0.png", "maps.csv"}, "of one picture there is no sheet"
    assert not (tmp_path / TAIL).exists()
    assert any(f"7 files of the call before this one were removed from {tmp_path}" in note for note in fewer.notes)


def test_caption_draws_a_stream_as_it_comes(captioner: Path, tmp_path: Path) -> None:
    stream = Stream(5)
    result = vitrine.caption(captioner, iter(stream), tmp_path, batch_size=BATCH, max_pieces=2, quiet=True)
    assert stream.most <= 2 * BATCH
    assert names(tmp_path) == {*(f"picture-{number}.png" for number in range(5)), "captions.csv"}
    assert set(json.loads((tmp_path / MANIFEST).read_text())["files"]) == names(tmp_path)
    assert [each.name for each in result.captions] == [f"picture-{number}" for number in range(5)]
    assert [row["caption"] for row in result.table_rows()] == [each.caption for each in result.captions]


class Rows(Dataset):  # type: ignore[type-arg]
    """Counts what is read."""

    def __init__(self) -> None:
        self.read: list[int] = []

    def __len__(self) -> int:
        return 30

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        self.read.append(index)
        return np.full((8, 8, 3), index, np.uint8), index


def _split(_: Rows) -> Any:
    return datasets.Dataset.from_dict({"image": [Image.new("RGB", (8, 8), (n, 0, 0)) for n in range(30)]})


def _endless(_: Rows) -> Iterator[np.ndarray]:
    while True:
        yield np.zeros((8, 8, 3), np.uint8)


LIMITED: dict[str, tuple[Callable[[Rows], Any], bool]] = {
    "list": (lambda rows: [rows[index][0] for index in range(30)], True),
    "torch": (lambda rows: rows, True),
    "datasets": (_split, True),
    "generator": (lambda rows: (rows[index][0] for index in range(30)), False),
    "endless": (_endless, False),
}


@pytest.mark.parametrize("kind", LIMITED)
def test_a_limit_draws_where_the_number_is_known_and_takes_the_first_elsewhere(kind: str) -> None:
    """The draw is that of a list, and of rows that have a number no others are read."""
    make, is_drawn = LIMITED[kind]
    rows, drawn = Rows(), [sample.name for sample in picture_input(LIMITED["list"][0](Rows())).choose(4, 1)]
    chosen = [sample.name for sample in picture_input(make(rows)).choose(4, 1)]
    assert chosen == (drawn if is_drawn else [f"picture-{number}" for number in range(4)])
    assert drawn != [f"picture-{number}" for number in range(4)]
    if kind in ("torch", "generator"):
        assert rows.read == [int(name.removeprefix("picture-")) for name in chosen]
