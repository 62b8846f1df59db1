"""The table of predictions: what is in it, and that a kill at any moment leaves it to be finished the same."""

from __future__ import annotations

import csv
import io
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrine.classify.predictions_csv import PredictionTable, PredictionWriter, predictions_csv
from vitrine.errors import DataError, ModelError, RunError
from vitrine.io.resumable_csv import ResumableTable, complete_records, csv_row
from vitrine.metrics.classification import LabelledLogits

LABELS = ("cat", 'a "dog", large', "zebra\nfish")
# Everything a Linux file name may hold that a CSV could trip over; the last one is not UTF-8.
NAMES = ["a.jpg", 'b "2".jpg', "c, d.jpg", "e\nf.jpg", "g\rh.jpg", "ü/日本.png", "z caf\udce9.jpg"]
FAILS = {"c, d.jpg": 'cut off, "half" there', "z caf\udce9.jpg": "no\npicture"}


def logits_of(names: Sequence[str]) -> np.ndarray:
    """Logits that a name alone decides, so that batches do not matter."""
    rows = [np.random.default_rng(list(name.encode("utf-8", "surrogateescape"))).normal(size=3) for name in names]
    return np.array(rows, dtype=np.float32).reshape(-1, 3)


def run(
    out: Path,
    names: Sequence[str] = NAMES,
    *,
    fails: dict[str, str] | None = None,
    batch_size: int = 2,
    stop_after: int | None = None,
    **options: object,
) -> PredictionTable | None:
    """What ``vitrine predict`` does, killed after some batches where asked."""
    fails = FAILS if fails is None else fails
    with PredictionWriter(out, LABELS, **options) as writer:  # type: ignore[arg-type]
        start = writer.resume_after(names, batch_size)
        for number, first in enumerate(range(start, len(names), batch_size)):
            if number == stop_after:
                return None
            batch = names[first : first + batch_size]
            good = [name for name in batch if name not in fails]
            writer.write(good, logits_of(good), [(name, fails[name]) for name in batch if name in fails])
        return writer.finish()


def read(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
        return list(csv.reader(stream))


# --- what is in the table


def test_the_table_has_a_row_a_readable_picture_in_order(tmp_path: Path) -> None:
    table = run(tmp_path / "predictions.csv")
    rows = read(tmp_path / "predictions.csv")
    good = [name for name in NAMES if name not in FAILS]
    assert rows[0] == ["filename", "label"]
    assert [row[0] for row in rows[1:]] == good
    assert [row[1] for row in rows[1:]] == [LABELS[i] for i in logits_of(good).argmax(1)]
    unreadable_path = tmp_path / "predictions.unreadable.csv"
    assert read(unreadable_path) == [["filename", "reason"], *map(list, FAILS.items())]
    assert table == PredictionTable(tmp_path / "predictions.csv", len(good), tuple(FAILS.items()), unreadable_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["predictions.csv", "predictions.unreadable.csv"]


def test_the_first_line_is_exact(tmp_path: Path) -> None:
    run(tmp_path / "p.csv")
    assert (tmp_path / "p.csv").read_bytes().startswith(b"filename,label\na.jpg,")


def test_names_are_written_with_the_bytes_they_have(tmp_path: Path) -> None:
    run(tmp_path / "p.csv", ["caf\udce9.jpg"], fails={})
    assert b"\ncaf\xe9.jpg," in (tmp_path / "p.csv").read_bytes()


def test_no_list_of_unreadable_pictures_where_there_are_none(tmp_path: Path) -> None:
    (tmp_path / "p.unreadable.csv").write_text("an earlier table's\n")
    table = run(tmp_path / "p.csv", fails={})
    assert table is not None
    assert table.unreadable_path is None
    assert [path.name for path in tmp_path.iterdir()] == ["p.csv"]


def test_tables_of_one_folder_have_lists_of_their_own(tmp_path: Path) -> None:
    lists = {
        name: ResumableTable(tmp_path / name, ("a",), (), None).unreadable_out.name
        for name in ("x.csv", "x.tsv", "x.CSV", "x")
    }
    assert lists["x.csv"] == "x.unreadable.csv"
    assert len(set(lists.values())) == 4


def test_probabilities_and_top_columns(tmp_path: Path) -> None:
    run(tmp_path / "p.csv", fails={}, probabilities=True, top=2)
    header, *rows = read(tmp_path / "p.csv")
    assert header == [
        "filename", "label", "probability", "top1_label", "top1_probability", "top2_label", "top2_probability"
    ]  # fmt: skip
    for row, logits in zip(rows, logits_of(NAMES).astype(float), strict=True):
        shares = np.exp(logits) / np.exp(logits).sum()
        first, second = np.argsort(-shares)[:2]
        assert row[1] == row[3] == LABELS[first]
        assert row[5] == LABELS[second]
        assert [float(row[i]) for i in (2, 4, 6)] == pytest.approx(
            [shares[first], shares[first], shares[second]], abs=1e-6
        )


def test_of_equal_classes_the_first_leads() -> None:
    outputs = LabelledLogits(("a",), np.zeros((1, 3), dtype=np.float32), np.array([-1]))
    assert predictions_csv(outputs, ("x", "y", "z"), top=2) == (
        b"filename,label,top1_label,top1_probability,top2_label,top2_probability\na,x,x,0.333333,y,0.333333\n"
    )


def test_the_table_of_an_evaluation_is_that_of_the_stream(tmp_path: Path) -> None:
    run(tmp_path / "p.csv", fails={}, probabilities=True)
    outputs = LabelledLogits(tuple(NAMES), logits_of(NAMES), np.full(len(NAMES), -1))
    assert predictions_csv(outputs, LABELS, probabilities=True) == (tmp_path / "p.csv").read_bytes()


undecodable = st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF, categories=["Cs"])  # bytes that are not UTF-8
letters = st.characters(exclude_categories=["Cs"], exclude_characters="\x00") | undecodable


@given(st.lists(st.text(letters, min_size=1), min_size=1))
def test_any_record_is_read_back_by_the_csv_module_and_by_ours(fields: list[str]) -> None:
    line = csv_row(fields)
    text = line.decode("utf-8", "surrogateescape")
    decoded_fields = [field.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape") for field in fields]
    assert list(csv.reader(io.StringIO(text, newline=""))) == [decoded_fields]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "t.csv"
        path.write_bytes(line + line + line[:-1])
        assert list(complete_records(path)) == [(len(line), decoded_fields), (2 * len(line), decoded_fields)]


# --- interruptions


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_table_may_be_cut_at_any_byte(tmp_path: Path, batch_size: int) -> None:
    """Killed before the last batch, and the rows cut anywhere: the same files in the end."""
    options = {"batch_size": batch_size, "probabilities": True}
    run(tmp_path / "whole" / "p.csv", **options)
    expected = files_of(tmp_path / "whole")
    batches = -(-len(NAMES) // batch_size)
    run(tmp_path / "begun" / "p.csv", stop_after=batches - 1, **options)
    partial = files_of(tmp_path / "begun")
    rows = partial["p.csv.partial"]
    assert set(partial) == {"p.csv.partial", "p.unreadable.csv.partial"}
    for size in range(len(rows) + 1):
        folder = tmp_path / f"cut{size}"
        folder.mkdir()
        for name, content in partial.items():
            (folder / name).write_bytes(content[:size] if content is rows else content)
        run(folder / "p.csv", resume=True, **options)
        assert files_of(folder) == expected, size


def test_a_list_of_unreadable_pictures_may_be_cut_at_any_byte(tmp_path: Path) -> None:
    """A kill while the last batch's failures are written: its rows are not there yet."""
    run(tmp_path / "whole" / "p.csv")
    expected = files_of(tmp_path / "whole")
    last = len(NAMES) // 2
    run(tmp_path / "begun" / "p.csv", stop_after=last)
    partial = files_of(tmp_path / "begun")
    more = csv_row(list(FAILS.items())[-1])
    for size in range(len(more) + 1):
        folder = tmp_path / f"cut{size}"
        folder.mkdir()
        (folder / "p.csv.partial").write_bytes(partial["p.csv.partial"])
        (folder / "p.unreadable.csv.partial").write_bytes(partial["p.unreadable.csv.partial"] + more[:size])
        run(folder / "p.csv", resume=True)
        assert files_of(folder) == expected, size


@given(
    st.lists(st.sampled_from("abcdefghij"), min_size=1, unique=True).map(sorted),
    st.sets(st.sampled_from("abcdefghij")),
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 40)), max_size=4),
)
@settings(max_examples=60)
def test_any_history_of_kills_ends_in_the_same_table(
    names: list[str], bad: set[str], batch_size: int, kills: list[tuple[int, int]]
) -> None:
    fails = {name: f"reason of {name}" for name in sorted(bad & set(names))}
    with TemporaryDirectory() as first, TemporaryDirectory() as second:
        run(Path(first) / "p.csv", names, fails=fails, batch_size=batch_size, resume=True)
        out = Path(second) / "p.csv"
        for batches, cut in kills:
            if run(out, names, fails=fails, batch_size=batch_size, stop_after=batches, resume=True) is None:
                rows = out.with_name("p.csv.partial").read_bytes()
                out.with_name("p.csv.partial").write_bytes(rows[: max(0, len(rows) - cut)])
        run(out, names, fails=fails, batch_size=batch_size, resume=True)
        assert files_of(Path(first)) == files_of(Path(second))


class Killed(BaseException):
    """What stops a process between two calls of the file system."""


@pytest.mark.parametrize("fails", [FAILS, {}])
def test_a_kill_between_any_two_changes_of_the_file_system(
    tmp_path: Path, fails: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "whole" / "p.csv", fails=fails)
    expected = files_of(tmp_path / "whole")
    origin = {"model": "1234"}
    calls = {"left": 0}

    def limited_calls(original):  # type: ignore[no-untyped-def]
        def wrapper(*args: object, **kwargs: object) -> object:
            if calls["left"] == 0:
                raise Killed
            calls["left"] -= 1
            return original(*args, **kwargs)

        return wrapper

    for limit in range(200):
        folder = tmp_path / f"kill{limit}"
        folder.mkdir()
        (folder / "p.unreadable.csv").write_text("filename,reason\nearlier.jpg,an earlier table's\n")
        calls["left"] = limit
        with monkeypatch.context() as patch:
            for name in ("replace", "unlink", "write_bytes"):
                patch.setattr(Path, name, limited_calls(getattr(Path, name)))
            try:
                run(folder / "p.csv", fails=fails, made_with=origin)
                is_finished = True
            except Killed:
                is_finished = False
        if not is_finished:
            run(folder / "p.csv", fails=fails, resume=True, made_with=origin)
        left = files_of(folder)
        for name in [name for name in left if name.endswith(".new")]:
            del left[name]
        assert left.pop("p.csv.partial.json", None) is None or limit > 0
        assert left == expected, limit
        if is_finished:
            return
    raise AssertionError("the table was never finished")


def test_finished_pictures_are_not_asked_for_again(tmp_path: Path) -> None:
    run(tmp_path / "p.csv", stop_after=2)
    with PredictionWriter(tmp_path / "p.csv", LABELS, resume=True) as writer:
        assert writer.resume_after(NAMES) == 4  # three rows and one unreadable picture


def test_the_rest_comes_in_the_batches_it_would_have_come_in(tmp_path: Path) -> None:
    run(tmp_path / "p.csv", fails={}, batch_size=1, stop_after=5)
    with PredictionWriter(tmp_path / "p.csv", LABELS, resume=True) as writer:
        assert writer.resume_after(NAMES, batch_size=3) == 3
    assert len(read(tmp_path / "p.csv.partial")) == 4


def test_resuming_without_a_table_begins_one(tmp_path: Path) -> None:
    assert run(tmp_path / "new" / "p.csv", resume=True) is not None


def test_an_error_leaves_the_rows_to_continue_from(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), PredictionWriter(tmp_path / "p.csv", LABELS) as writer:
        writer.resume_after(NAMES)
        writer.write(NAMES[:2], logits_of(NAMES[:2]))
        raise KeyboardInterrupt
    with PredictionWriter(tmp_path / "p.csv", LABELS, resume=True) as writer:
        assert writer.resume_after(NAMES) == 2


# --- refusals


def test_an_unfinished_table_is_not_written_over(tmp_path: Path) -> None:
    run(tmp_path / "p.csv", stop_after=1)
    with pytest.raises(RunError, match=r"holds 2 rows .* --resume"):
        run(tmp_path / "p.csv")


def test_an_unfinished_table_without_rows_is(tmp_path: Path) -> None:
    run(tmp_path / "p.csv", stop_after=0)
    assert run(tmp_path / "p.csv") is not None


@pytest.mark.parametrize("names", [NAMES[1:], ["_.jpg", *NAMES], ["a.jpg", "az.jpg", *NAMES[1:]], NAMES[:1]])
def test_other_pictures_are_refused(tmp_path: Path, names: list[str]) -> None:
    run(tmp_path / "p.csv", stop_after=2)
    with pytest.raises(DataError, match="other pictures"):
        run(tmp_path / "p.csv", names, resume=True)


def test_other_columns_are_refused(tmp_path: Path) -> None:
    run(tmp_path / "p.csv", stop_after=2)
    with pytest.raises(RunError, match="other columns"):
        run(tmp_path / "p.csv", resume=True, probabilities=True)


def test_other_labels_are_refused(tmp_path: Path) -> None:
    run(tmp_path / "p.csv", stop_after=2)
    with (
        pytest.raises(DataError, match="cannot have written"),
        PredictionWriter(tmp_path / "p.csv", ("x", "y", "z"), resume=True) as writer,
    ):
        writer.resume_after(NAMES)


def test_another_model_is_refused(tmp_path: Path) -> None:
    run(tmp_path / "p.csv", stop_after=2, made_with={"model": "aaaa", "precision": "fp32"})
    with pytest.raises(RunError, match="model was aaaa, now bbbb"):
        run(tmp_path / "p.csv", resume=True, made_with={"model": "bbbb", "precision": "fp32"})
    assert run(tmp_path / "p.csv", resume=True, made_with={"model": "aaaa", "precision": "fp32"}) is not None
    assert not (tmp_path / "p.csv.partial.json").exists()


def test_a_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.csv.partial").write_bytes(b'filename,label\na.jpg,"cat"s\n')
    with pytest.raises(DataError, match="is not CSV"):
        run(tmp_path / "p.csv", resume=True)


def test_a_folder_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder"):
        PredictionWriter(tmp_path, LABELS)


def test_a_label_is_never_guessed(tmp_path: Path) -> None:
    with PredictionWriter(tmp_path / "p.csv", LABELS) as writer:
        writer.resume_after(["a.jpg"])
        with pytest.raises(ModelError, match=r"a\.jpg is not finite"):
            writer.write(["a.jpg"], np.array([[0, np.nan, 0]], dtype=np.float32))
        with pytest.raises(ValueError, match="not complete: 0 of 1"):
            writer.finish()


def test_pictures_have_to_come_in_order(tmp_path: Path) -> None:
    with PredictionWriter(tmp_path / "p.csv", LABELS) as writer:
        with pytest.raises(ValueError, match="resume_after"):
            writer.write(["a"], logits_of(["a"]))
        writer.resume_after(["a", "b", "c"])
        for names, unreadable in [(["b"], []), (["a", "c"], []), (["a"], [("c", "torn")]), (["a", "b", "c", "d"], [])]:
            with pytest.raises(ValueError, match="in order"):
                writer.write(names, logits_of(names), unreadable)
        writer.write(["b"], logits_of(["b"]), [("a", "torn")])


def test_the_number_of_top_columns_is_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="top must be 0 to 3"):
        PredictionWriter(tmp_path / "p.csv", LABELS, top=4)


# --- size


def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path: Path) -> None:
    """Writing and recovering 20,000 rows takes a fraction of their size."""
    names = [f"some/rather/long/folder/name/{i:06}.jpg" for i in range(20_000)]
    logits_BC = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
    with PredictionWriter(tmp_path / "p.csv", LABELS) as writer:
        writer.resume_after(names)
        writer.write(names[:100], logits_BC)  # imports and caches
        tracemalloc.start()
        for start in range(100, 19_900, 100):
            writer.write(names[start : start + 100], logits_BC)
        write_peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    with PredictionWriter(tmp_path / "p.csv", LABELS, resume=True) as writer:
        tracemalloc.start()
        assert writer.resume_after(names) == 19_900
        read_peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        writer.write(names[19_900:], logits_BC)
        assert writer.finish().rows == 20_000
    assert (tmp_path / "p.csv").stat().st_size > 800_000
    assert max(write_peak, read_peak) < 200_000
