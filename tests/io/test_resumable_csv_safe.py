"""--csv-safe: no cell of a table is a formula, and every cell can be had back."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitrine.io.resumable_csv import CSV_SAFE, ResumableTable, complete_records, csv_row

FORMULAS = ["=1+1", "+1-1", "-a", "@SUM(A1)", "\tx", "\r=x", "=cmd|' /C calc'!A0", "'=x", "'", "-", "=", "+1e", "-1-1"]
PLAIN = ["cat.jpg", "", "-3.25", "+1", "-1e-05", "0", "a=b", ".5", "-.5"]


@pytest.fixture
def safe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CSV_SAFE, "1")


def cells_of(row: bytes) -> list[str]:
    return next(csv.reader(io.StringIO(row.decode(), newline="")))


@pytest.mark.parametrize("cell", FORMULAS)
def test_a_formula_is_text(cell: str, safe: None) -> None:
    assert cells_of(csv_row([cell, "x"])) == [f"'{cell}", "x"]


@pytest.mark.parametrize("cell", PLAIN)
def test_numbers_and_plain_texts_stay(cell: str, safe: None) -> None:
    assert cells_of(csv_row([cell, "x"])) == [cell, "x"]


def test_without_the_option_nothing_changes() -> None:
    assert cells_of(csv_row(FORMULAS)) == FORMULAS


@given(cells=st.lists(st.sampled_from([*FORMULAS, *PLAIN]) | st.text(max_size=5), min_size=1, max_size=4))
def test_what_was_written_is_read_back(cells: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    cells = [cell.encode("utf-8", "ignore").decode() for cell in cells]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CSV_SAFE, "1")
        path = tmp_path_factory.getbasetemp() / "safe.csv"
        path.write_bytes(csv_row(cells))
        assert [fields for _, fields in complete_records(path)] == [cells]


def test_predict_writes_and_continues_such_a_table(
    small_run: Path,
    small_scenes: Path,
    tmp_path: Path,
    vitrine_command: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "in").mkdir()
    picture = next((small_scenes / "test").rglob("*.png")).read_bytes()
    for name in ("=1+1.png", "plain.png", "@x.png"):
        (tmp_path / "in" / name).write_bytes(picture)
    table, partial = tmp_path / "p.csv", tmp_path / "p.csv.partial"
    words = ("predict", small_run, tmp_path / "in", "--csv-safe", "--batch-size", 1, "-o", table)

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ResumableTable, "finish", interrupt)
        assert vitrine_command(*words)[0] == 130
    whole = partial.read_bytes()
    names = [row[0] for row in csv.reader(io.StringIO(whole.decode()))]
    assert names == ["filename", "'=1+1.png", "'@x.png", "plain.png"]
    partial.write_bytes(b"".join(whole.splitlines(keepends=True)[:2]))
    assert vitrine_command(*words, "--resume")[0] == 0
    assert table.read_bytes() == whole
    assert vitrine_command("predict", small_run, tmp_path / "in", "-o", table)[0] == 0
    assert b"'" not in table.read_bytes()
