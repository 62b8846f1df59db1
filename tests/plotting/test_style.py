"""Figures and tables: nothing clipped or overlapping, the right numbers in them, the same bytes twice."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text
from PIL import Image
from support.figures import lightness, require_tidy

from vitrine.compare.figures import save_settings_figure, settings_figure
from vitrine.metrics.classification import LabelledLogits, classification_metrics
from vitrine.metrics.intervals import wilson
from vitrine.plotting.confusion import confusion_csv, confusion_figure, save_confusion_figure
from vitrine.plotting.curves import learning_curves, save_learning_curves, space_apart
from vitrine.plotting.style import (
    SERIES,
    SHARES,
    _origin_below,
    add_text,
    contrast_colour,
    figure_style,
    new_figure,
    save,
    shorten,
)
from vitrine.plotting.tables import Setting, Table, metrics_table, settings_table
from vitrine.results import ClassificationMetrics, Interval, percent


def make_metrics(labels: tuple[str, ...], n: int = 300, *, without: int | None = None) -> ClassificationMetrics:
    rng = np.random.default_rng(len(labels))
    true_N = rng.integers(0, len(labels), n)
    if without is not None:
        true_N[true_N == without] = 0
    logits_NC = rng.normal(size=(n, len(labels))).astype(np.float32)
    logits_NC[np.arange(n), true_N] += 2.5
    names = tuple(f"{i}.jpg" for i in range(n))
    return classification_metrics(LabelledLogits(names, logits_NC, true_N), labels, precision="fp32")


def make_history(epochs: int, height: float, seed: int = 0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    rows, best = [], -1.0
    for epoch in range(1, epochs + 1):
        accuracy = float(height * (1 - 0.7 * np.exp(-epoch / 4)) + 0.01 * rng.normal())
        losses = {"train_loss": float(2 * np.exp(-epoch / 5)), "validation_loss": float(2 * np.exp(-epoch / 5) + 0.2)}
        rows.append({"epoch": epoch, **losses, "validation_accuracy": accuracy, "best": accuracy > best})
        best = max(best, accuracy)
    return rows


def make_settings(counts: tuple[int, ...] = (950, 930, 400), final: int | None = 0) -> list[Setting]:
    return [
        Setting({"start": f"start {i}", "learning rate": 10**-i}, k / 1000, wilson(k, 1000), 1000, final=i == final)
        for i, k in enumerate(counts)
    ]


BREEDS = tuple(f"{'american_staffordshire_terrier'[: 6 + 5 * (i % 6)]}_{i}" for i in range(37))
LABELLINGS: dict[str, tuple[str, ...]] = {
    "one": ("only",),
    "two": ("cat", "dog"),
    "ten": ("Dress", "Hat", "Longsleeve", "Outwear", "Pants", "Shirt", "Shoes", "Shorts", "Skirt", "T-Shirt"),
    "fifteen, long and odd": tuple(f"a $_{i}$ class\nwith a long name, number {i}" for i in range(15)),
    "thirty-seven": BREEDS,
    "thirty-seven numbers": tuple(map(str, range(37))),
    "eighty": tuple(f"class {i}" for i in range(80)),
    "two hundred": tuple(f"bird {i}" for i in range(200)),
    "thousands": tuple(f"plant {i}" for i in range(2100)),
}


# --- the confusion matrix


@pytest.mark.parametrize("labels", LABELLINGS.values(), ids=LABELLINGS.keys())
def test_a_confusion_figure_is_tidy_at_any_number_of_classes(labels: tuple[str, ...]) -> None:
    figure = confusion_figure(make_metrics(labels))
    require_tidy(figure)
    assert figure.get_size_inches()[0] <= 9.6  # a README's column, at 100 pixels an inch


def test_a_confusion_figure_says_what_it_shows() -> None:
    metrics = make_metrics(LABELLINGS["ten"], without=3)
    figure = confusion_figure(metrics)
    words = [text.get_text() for text in figure.findobj(Text)]
    low, high = 100 * metrics.accuracy_interval.low, 100 * metrics.accuracy_interval.high
    assert f"Accuracy {100 * metrics.accuracy:.1f} %" in words
    assert f"95 % interval over pictures {low:.1f} % to {high:.1f} %   n = 300   fp32" in words
    for label in metrics.labels:
        assert words.count(label) == 2
    counts = sorted(int(word) for word in words if word.isdigit())
    assert counts == sorted(cell.pictures for cell in metrics.confusion)


def test_rows_are_true_and_columns_predicted_in_class_order() -> None:
    logits_NC = np.eye(3, dtype=np.float32)[[0, 1, 1, 1]]
    outputs = LabelledLogits(("a", "b", "c", "d"), logits_NC, np.array([0, 0, 0, 1]))
    figure = confusion_figure(classification_metrics(outputs, ("x", "y", "z"), precision="fp32"))
    axes = figure.axes[0]
    mesh = axes.collections[0]
    shares = mesh.get_array()
    assert shares is not None
    assert np.asarray(shares[0]) == pytest.approx([1 / 3, 2 / 3, 0])
    assert np.asarray(shares[1]) == pytest.approx([0, 1, 0])
    assert np.ma.getmaskarray(shares)[2].all()  # no picture: grey, not 0 %
    assert mesh.get_clim() == (0, 1)
    (top, bottom) = sorted(axes.get_ylim())
    assert axes.get_ylim() == (bottom, top)  # the first class is the first row
    counts = {
        (t.get_position()[0] // 1, t.get_position()[1] // 1): t.get_text() for t in axes.texts if t.get_text() in "123"
    }
    assert counts == {(0, 0): "1", (1, 0): "2", (1, 1): "1"}


def test_only_mistakes_are_counted_with_many_classes() -> None:
    metrics = make_metrics(BREEDS)
    counts = [t.get_text() for t in confusion_figure(metrics).axes[0].texts if t.get_text().isdigit()]
    wrong = [cell.pictures for cell in metrics.confusion if cell.true != cell.predicted]
    assert sorted(map(int, counts)) == sorted(wrong)


def test_the_confusion_csv() -> None:
    labels = ("cat", "dog, large", 'a "third"')
    metrics = make_metrics(labels)
    header, *rows = csv.reader(io.StringIO(confusion_csv(metrics).decode(), newline=""))
    assert header == [r"true\predicted", *labels]
    assert [row[0] for row in rows] == list(labels)
    counts = {(i, j): int(n) for i, row in enumerate(rows) for j, n in enumerate(row[1:]) if n != "0"}
    assert counts == {(cell.true, cell.predicted): cell.pictures for cell in metrics.confusion}


def test_beyond_a_thousand_classes_a_cell_stands_for_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitrine.plotting.confusion.WHOLE", 100)
    metrics = make_metrics(tuple(f"bird {i}" for i in range(250)), n=2000)
    figure = confusion_figure(metrics)
    assert any("3 to a row and column" in text.get_text() for text in figure.findobj(Text))
    shares = figure.axes[0].collections[0].get_array()
    assert shares is not None and shares.shape == (84, 84)  # the last row and column are of one class
    for row in range(84):
        cells = [cell for cell in metrics.confusion if 3 * row <= cell.true < 3 * row + 3]
        support = sum(cell.pictures for cell in cells)
        for column in range(84):
            count = sum(cell.pictures for cell in cells if 3 * column <= cell.predicted < 3 * column + 3)
            assert shares[row, column] == pytest.approx(count / support)
    rows = list(csv.reader(io.StringIO(confusion_csv(metrics).decode(), newline="")))
    assert rows[0] == ["true", "predicted", "pictures"]
    names = metrics.labels
    assert rows[1:] == [[names[c.true], names[c.predicted], str(c.pictures)] for c in metrics.confusion]


def test_a_matrix_of_many_classes_is_pixels_in_an_svg(tmp_path: Path) -> None:
    save_confusion_figure(make_metrics(LABELLINGS["thousands"]), tmp_path / "c.svg", {})
    assert (tmp_path / "c.svg").stat().st_size < 1_000_000


# --- learning curves


RUNS: dict[str, dict[str, list[dict[str, Any]]]] = {
    "one": {"pets": make_history(20, 0.94)},
    "one epoch": {"pets": make_history(1, 0.94)},
    "two epochs": {"pets": make_history(2, 0.5)},
    "four that meet": {f"a rather long name of run {i}": make_history(12 + i, 0.9, i) for i in range(4)},
    "seven": {f"run {i}": make_history(30, 0.3 + i / 10, i) for i in range(7)},
}


@pytest.mark.parametrize("runs", RUNS.values(), ids=RUNS.keys())
def test_learning_curves_are_tidy(runs: dict[str, list[dict[str, Any]]]) -> None:
    require_tidy(learning_curves(runs))


def test_learning_curves_draw_the_history_and_mark_the_best_epoch() -> None:
    rows = make_history(15, 0.8, seed=4)
    loss, accuracy = learning_curves({"run": rows}).axes
    training, validation = (list(map(float, line.get_ydata())) for line in loss.lines)  # type: ignore[arg-type]
    assert training == [row["train_loss"] for row in rows]
    assert validation == [row["validation_loss"] for row in rows]
    line, ring = accuracy.lines
    assert list(map(float, line.get_ydata())) == [row["validation_accuracy"] for row in rows]  # type: ignore[arg-type]
    best = max(rows, key=lambda row: row["validation_accuracy"])
    assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (best["epoch"], best["validation_accuracy"])  # type: ignore[index]


def test_learning_curves_need_runs_that_can_be_told_apart() -> None:
    for runs in ({}, {"empty": []}, {str(i): make_history(2, 0.5) for i in range(len(SERIES) + 1)}):
        with pytest.raises(ValueError, match="1 to 7 runs"):
            learning_curves(runs)


@given(st.lists(st.floats(0, 10), max_size=8).map(sorted), st.floats(0.1, 2))
def test_labels_are_spread_without_touching_and_stay_near(targets: list[float], gap: float) -> None:
    places = space_apart(targets, gap)
    assert len(places) == len(targets)
    assert all(b - a >= gap - 1e-9 for a, b in pairwise(places))
    assert sum(places) == pytest.approx(sum(targets), abs=1e-6)  # moved apart, not away
    if all(b - a >= gap for a, b in pairwise(targets)):
        assert places == pytest.approx(targets)


# --- settings


def test_a_figure_of_settings_is_tidy() -> None:
    require_tidy(settings_figure(make_settings()))
    require_tidy(settings_figure(make_settings((1000,), final=None), "A title"))
    require_tidy(settings_figure(make_settings((950, 951, 952, 953, 949, 0))))


def test_settings_are_a_table() -> None:
    table = settings_table(make_settings())
    assert table.columns == ("start", "learning rate", "accuracy", "95 % interval over pictures", "n")
    assert table.final == 0
    assert table.rows[1][2:] == ("0.9300", "0.9125 to 0.9442", 1000)
    with pytest.raises(ValueError, match="in this order"):
        settings_table([*make_settings(), Setting({"other": 1}, 0.5, Interval(0.4, 0.6), 10)])
    with pytest.raises(ValueError, match="2 are"):
        settings_table(make_settings(final=0) + make_settings(final=0))


TABLE = Table(("name", "count", "share"), (("a|b", 12345, 0.5), ("longer", None, 0.25)), final=1)


def test_a_table_as_text() -> None:
    assert TABLE.text() == (
        "  name     count  share\n"
        "  ──────  ──────  ─────\n"
        "  a|b     12,345    0.5\n"
        "* longer       –   0.25"
    )  # fmt: skip


def test_a_table_as_markdown_and_csv() -> None:
    assert TABLE.markdown() == (
        "| name | count | share |\n| --- | ---: | ---: |\n| a\\|b | 12,345 | 0.5 |\n| **longer** | **–** | **0.25** |"
    )
    assert TABLE.csv() == b"name,count,share,final\na|b,12345,0.5,no\nlonger,,0.25,yes\n"


def test_a_table_has_to_fit() -> None:
    with pytest.raises(ValueError, match="Expected 2 cells"):
        Table(("a", "b"), (("1",),))
    with pytest.raises(ValueError, match="final row"):
        Table(("a",), (("1",),), final=1)


def test_the_table_of_an_evaluation_says_everything() -> None:
    metrics = make_metrics(LABELLINGS["ten"], without=3)
    text = metrics_table(metrics)
    for figure in (metrics.accuracy, metrics.accuracy_interval.low, metrics.top5, metrics.negative_log_likelihood):
        assert f"{figure:.4f}" in text
    for label in metrics.labels:
        assert label in text
    assert metrics.hardest[0].name in text
    assert "fp32" in text
    assert "nan" not in text.lower().replace("outwear", "")
    assert next(line for line in text.splitlines() if line.startswith("Outwear")).split()[2:] == ["–", "0"]


# --- files and style


WRITERS = {
    "confusion": lambda path, metadata: save_confusion_figure(make_metrics(("cat", "dog")), path, metadata),
    "curves": lambda path, metadata: save_learning_curves(RUNS["one"], path, metadata),
    "settings": lambda path, metadata: save_settings_figure(make_settings(), path, metadata),
}
ORIGIN = {"model": "runs/pets", "command": "vitrine evaluate runs/pets bilder/für"}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_figure_says_where_it_came_from_and_is_the_same_twice(kind: str, tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "a.svg", "b.svg"):
        WRITERS[kind](tmp_path / "new" / name, ORIGIN)
    folder = tmp_path / "new"
    assert sorted(path.name for path in folder.iterdir()) == ["a.png", "a.svg", "b.png", "b.svg"]
    assert (folder / "a.png").read_bytes() == (folder / "b.png").read_bytes()
    assert (folder / "a.svg").read_bytes() == (folder / "b.svg").read_bytes()
    with Image.open(folder / "a.png") as picture:
        text = dict(picture.text)  # type: ignore[attr-defined]
        assert {key: text[key] for key in ORIGIN} == ORIGIN
        assert text["Software"].startswith("vitrine ")
        assert picture.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    svg = (folder / "a.svg").read_text("utf-8")
    import html

    assert json.dumps(ORIGIN, ensure_ascii=False) in html.unescape(svg)
    assert "<dc:date>" not in svg


def test_another_kind_of_file_is_refused_and_nothing_is_left_of_a_failure(tmp_path: Path) -> None:
    with figure_style():
        figure = new_figure(1, 1)
    with pytest.raises(ValueError, match=r"\.png or \.svg"):
        save(figure, tmp_path / "a.jpg", {})
    (tmp_path / "a.png").mkdir()
    with pytest.raises(OSError):
        save(figure, tmp_path / "a.png", {})
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_the_callers_settings_neither_change_nor_count(tmp_path: Path) -> None:
    WRITERS["curves"](tmp_path / "a.png", {})
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "red", "savefig.dpi": 10, "lines.linewidth": 9}):
        before = dict(mpl.rcParams)
        WRITERS["curves"](tmp_path / "b.png", {})
        assert dict(mpl.rcParams) == before
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_no_window_system_is_touched() -> None:
    program = (
        "import sys, vitrine.plotting.curves, vitrine.plotting.confusion\n"
        "from vitrine.plotting.style import figure_style, new_figure, save\n"
        "from pathlib import Path\n"
        "import tempfile\n"
        "with figure_style(): figure = new_figure(1, 1)\n"
        "save(figure, Path(tempfile.mkdtemp()) / 'a.png', {})\n"
        "print('matplotlib.pyplot' in sys.modules, 'torch' in sys.modules)"
    )
    environment = {key: value for key, value in os.environ.items() if key != "DISPLAY"} | {"MPLBACKEND": "TkAgg"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_shares_darken_evenly() -> None:
    steps = -np.diff([lightness(SHARES(share)) for share in np.linspace(0, 1, 21)])
    assert steps.min() > 0.5 * steps.mean()
    assert steps.max() < 1.5 * steps.mean()


def test_counts_can_be_read_on_every_colour() -> None:
    """At least 4.5 to 1, what WCAG asks of text."""
    from matplotlib.colors import to_rgb

    def luminance(colour: tuple[float, ...]) -> float:
        return ((lightness(colour) + 16) / 116) ** 3 if lightness(colour) > 8 else lightness(colour) / 903.3

    for share in np.linspace(0, 1, 101):
        below = luminance(SHARES(share))
        above = luminance(to_rgb(contrast_colour(SHARES(share))))
        assert (max(above, below) + 0.05) / (min(above, below) + 0.05) > 4.5, share


@given(st.text(min_size=1))
def test_shortened_labels_fit(label: str) -> None:
    text = shorten(label)
    assert len(text) <= 28
    assert "\n" not in text
    if len(" ".join(label.split())) <= 28:
        assert text == " ".join(label.split())


def test_marks_of_one_epoch_and_of_the_best_are_not_cut_by_the_axes() -> None:
    for epochs in (1, 12):
        figure = learning_curves({"run": make_history(epochs, 1.0)})
        marks = [line for axes in figure.axes for line in axes.lines if line.get_marker() == "o"]
        assert marks and not any(line.get_clip_on() for line in marks)


def test_a_line_ends_with_its_own_value_and_the_ring_is_named_apart() -> None:
    rows = make_history(15, 0.8, seed=4)
    best = max(rows, key=lambda row: row["validation_accuracy"])
    assert best["epoch"] < 15
    texts = [text.get_text() for text in learning_curves({"run": rows}).texts]
    assert f"ring: best epoch, {best['epoch']}, with {percent(best['validation_accuracy'])}" in texts
    assert percent(rows[-1]["validation_accuracy"]) in texts
    several = [text.get_text() for text in learning_curves({"run": rows, "other": rows}).texts]
    assert f"run  best {percent(best['validation_accuracy'])}" in several and "ring: best epoch" in several


def test_the_foot_names_model_data_and_split_where_nothing_else_does() -> None:
    options = {"vitrine:options": '{"data": "photos/"}'}
    for title, metadata, foot in (
        ("Accuracy 93 %", {"model": "runs/pets", "data": "photos/"}, ["model runs/pets · data photos/"]),
        ("93 %", {"model": "runs/1", "data": "p/", "split": "test"}, ["model runs/1 · data p/ · split test"]),
        ("Methods", {"vitrine:model": "runs/pets", **options}, ["model runs/pets · data photos/"]),
        ("Position embeddings of runs/pets", {"vitrine:model": "runs/pets"}, []),
        ("93 %", {"vitrine:options": '{"data": "p/", "split": "test"}'}, ["data p/ · split test"]),
        ("Methods", {"vitrine:options": "{no JSON"}, []),
        ("Methods", {"vitrine:options": "[1]"}, []),
    ):
        with figure_style():
            figure = new_figure(4, 2)
            add_text(figure, 0.2, 1.6, title)
        with _origin_below(figure, metadata):
            assert [text.get_text() for text in figure.texts] == [title, *foot]
        assert [text.get_text() for text in figure.texts] == [title]
