"""Results show themselves: in a line, in a notebook's cell with figure and sentence, as rows, on one's own axes."""

from __future__ import annotations

import base64
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from support.tiny_captioners import save_tiny

import vitrine
from vitrine.display import csv_rows, notebook_html
from vitrine.errors import EnvironmentMismatchError, UsageError


@pytest.fixture(scope="module")
def results(small_scenes: Path, small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One of each, on little."""
    folder = tmp_path_factory.mktemp("results")
    pictures = sorted(small_scenes.glob("test/*/*.png"))[:3]
    save_tiny("vit-bert", folder / "captioner")
    quiet: Any = {"quiet": True}
    return {
        "check": vitrine.check(small_scenes, **quiet),
        "predict": vitrine.predict(small_run, pictures, **quiet),
        "predict, table": vitrine.predict(small_run, small_scenes / "validation", folder / "p.csv", top=2, **quiet),
        "explain": vitrine.explain(small_run, pictures, **quiet),
        "explain, figures": vitrine.explain(small_run, pictures[:1], folder / "maps", **quiet),
        "positions": vitrine.positions(small_run, **quiet),
        "evaluate": vitrine.evaluate(small_run, small_scenes, split="validation", **quiet),
        "compare": vitrine.compare(small_run, **quiet),
        "caption": vitrine.caption(folder / "captioner", pictures[:1], **quiet),
        "score": vitrine.score(small_run, small_scenes, method=["attention", "rollout"], limit=2, curves=1, **quiet),
    }


ROWS = {
    "check": ("split", "label", "pictures"),
    "predict": ("filename", "label", "probability"),
    "predict, table": ("filename", "label", "top1_label", "top1_probability", "top2_label", "top2_probability"),
    "explain": ("filename", "label", "verdict"),
    "explain, figures": ("filename", "figure"),
    "positions": ("number", "numbers", "untrained", "fixed_sine"),
    "evaluate": ("label", "precision", "recall", "support"),
    "compare": ("run", "accuracy"),
    "caption": ("filename", "caption", "log_probability"),
    "score": ("method", "control"),
}
FIGURES = ("explain", "explain, figures", "positions", "caption", "score")


@pytest.mark.parametrize("name", ROWS)
def test_a_result_is_a_line_a_cell_a_dictionary_and_a_table(name: str, results: dict[str, Any]) -> None:
    result = results[name]
    line, cell = repr(result), result._repr_html_()
    assert line.startswith(f"<{type(result).__name__}: ") and line.endswith(">")
    assert "\n" not in line and len(line) < 240, line
    assert cell.startswith("<div") and "<script" not in cell
    pictures = re.findall(r"src='data:image/png;base64,([^']+)'", cell)
    assert len(pictures) == (name in FIGURES)
    for data in pictures:
        Image.open(io.BytesIO(base64.b64decode(data))).verify()
    json.dumps(result.to_dict())
    rows = result.table_rows()
    assert rows and set(ROWS[name]) <= set(rows[0]), rows[0]


def test_rows_become_a_data_frame(results: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    pandas = pytest.importorskip("pandas")
    frame = results["predict, table"].to_pandas()
    assert len(frame) == 24 and frame["top1_probability"].dtype == np.float64
    assert (frame["label"] == frame["top1_label"]).all()
    assert isinstance(results["evaluate"].to_pandas(), pandas.DataFrame)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(EnvironmentMismatchError, match="pip install pandas"):
        results["predict"].to_pandas()


def test_maps_of_a_result_share_one_scale_and_one_bar(results: dict[str, Any]) -> None:
    figure = results["explain"].plot()
    maps, bar = figure.axes[:3], figure.axes[3:]
    assert len(bar) == 1 and bar[0].get_ylabel() == "multiple of uniform"
    assert all(re.fullmatch(r".+ \d+\.\d %", axes.get_title(loc="left")) for axes in maps)
    with pytest.raises(UsageError, match="figures were written"):
        results["explain, figures"].plot()


def test_a_map_on_ones_own_axes_has_title_unit_and_a_scale_that_can_be_shared(results: dict[str, Any]) -> None:
    first, second, _ = results["explain"].pictures
    figure = Figure()
    one, other = figure.subplots(1, 2)
    scale = first.scale_with([first, second])
    assert first.plot(one, scale=scale) is one
    second.plot(other, scale=scale)
    bars = figure.axes[2:]
    assert [bar.get_ylabel() for bar in bars] == ["multiple of uniform"] * 2
    assert bars[0].get_ylim() == bars[1].get_ylim() == (0, scale.high)
    assert one.get_title(loc="left").startswith(first.predicted)
    caption = results["caption"].captions[0]
    axes = Figure().subplots()
    caption.plot(0, axes)
    assert caption.words[0].text in axes.get_title(loc="left")


def test_a_verdict_shows_its_sentence_and_stands_in_what_is_shown_later(results: dict[str, Any]) -> None:
    seen = results["explain"].pictures[0]
    assert "Ask .verdict" in seen._repr_html_() and seen.to_dict()["verdict"] is None
    verdict = seen.verdict
    assert verdict.sentence in str(verdict) and verdict.sentence in repr(verdict)
    assert verdict.sentence in seen._repr_html_().replace("&#x27;", "'") and seen.picture.verdict == verdict.sentence
    assert results["explain"].table_rows()[0]["reason"] == verdict.sentence
    assert all(each.sentence == str(each) for each in results["score"].verdicts.values())


def test_figures_can_be_saved(results: dict[str, Any], tmp_path: Path) -> None:
    for name, owner in (
        ("map.png", results["explain"].pictures[1]),
        ("caption.png", results["caption"].captions[0]),
        ("positions.png", results["positions"]),
        ("methods.png", results["score"]),
    ):
        assert owner.save(tmp_path / name) == tmp_path / name
        assert Image.open(tmp_path / name).info["Software"].startswith("vitrine ")


def test_names_of_files_cannot_act_in_a_notebook() -> None:
    page = notebook_html("<b>a' onerror='x", "<script>", b"png", "<i>'")
    assert "<script>" not in page and "<b>a" not in page and "<i>" not in page
    assert "alt='&lt;b&gt;a&#x27; onerror=&#x27;x &lt;i&gt;&#x27;'" in page


def test_cells_of_a_table_are_numbers_where_they_are() -> None:
    assert csv_rows(b"a,b,c,d\n1,0.5,,x 1\n") == [{"a": 1, "b": 0.5, "c": None, "d": "x 1"}]
