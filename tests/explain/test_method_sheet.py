"""Sheets of several methods: maps are each method's own, all sheets share one scale, options act or are refused."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vitrine
from vitrine.attribution.registry import METHODS
from vitrine.errors import UsageError
from vitrine.explain.figures import method_sheet as figures
from vitrine.explain.method_sheet import MethodSheets, SheetMap
from vitrine.plotting.provenance import read_provenance

CHEAP = ["attention", "relevance", "value-output"]


@pytest.fixture(scope="module")
def pictures(small_scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes in their class folder, a wide one, and a file that is no picture."""
    folder = tmp_path_factory.mktemp("sheet") / "photos" / "clover"
    folder.mkdir(parents=True)
    for path in sorted((small_scenes / "test" / "clover").glob("*.png"))[:2]:
        shutil.copy(path, folder)
    Image.effect_noise((64, 32), 60).convert("RGB").save(folder / "wide.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder.parent


@pytest.fixture(scope="module")
def model(small_run: Path) -> Any:
    return vitrine.load(small_run)


def brightness(_module: Any, pixels_BCHW: torch.Tensor, targets_B: torch.Tensor) -> torch.Tensor:
    """Signed scores that depend on the picture and the class."""
    return torch.nn.functional.avg_pool2d(pixels_BCHW.mean(1), 8) + targets_B[:, None, None]


@pytest.fixture(scope="module")
def sheets(model: Any, pictures: Path) -> MethodSheets:
    return vitrine.explain(model, pictures, method=[*CHEAP, brightness], target="drop", against="pie", quiet=True)


def test_maps_are_those_of_each_method_by_itself(sheets: MethodSheets, model: Any, pictures: Path) -> None:
    assert [each.name for each in sheets] == sorted(each.name for each in sheets) and len(sheets) == 3
    assert [name for name, _ in sheets.unreadable] == ["clover/broken.png"]
    for column, method in enumerate([*CHEAP, brightness]):
        target = {} if method == "attention" else {"target": "drop"}
        contrast = {"against": "pie"} if method in ("relevance", "value-output") else {}
        alone = vitrine.explain(model, pictures, method=method, batch_size=1, quiet=True, **target, **contrast)
        for picture, single in zip(sheets, alone, strict=True):
            assert picture.name == single.name and picture.true == single.true == "clover"
            assert picture.maps[column].target == single.target
            np.testing.assert_allclose(picture.maps[column].scores_RC, single.map, rtol=1e-3, atol=1e-6)


def test_the_table_says_how_large_a_map_is_and_where_it_is_strongest(sheets: MethodSheets) -> None:
    rows = sheets.table_rows()
    assert len(rows) == 3 * 4 and sheets.methods[-1].endswith(":brightness")
    for picture, start in zip(sheets, range(0, 12, 4), strict=True):
        for each, row in zip(picture.maps, rows[start : start + 4], strict=True):
            assert each.scores_RC[row["row"], row["column"]] == each.scores_RC.max()
            least = 0.01 if each.unit == "logit" else 0
            assert row["mean_size"] == pytest.approx(
                max(np.mean([abs(s) for s in each.scores_RC.flat]), least), rel=1e-5
            )
    assert {row["unit"] for row in rows} == {"mass", "logit", "score"}


def test_a_folder_has_sheets_on_one_scale_and_a_command_that_draws_them(
    pictures: Path, small_run: Path, tmp_path: Path, vitrine_command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[float] = []
    draw = figures.method_sheet

    def note(rows: Any, columns: Any, high: float, **words: Any) -> Any:
        ends.append(high)
        return draw(rows, columns, high, **words)

    monkeypatch.setattr("vitrine.explain.method_sheet.method_sheet", note)
    monkeypatch.setattr("vitrine.explain.method_sheet.PICTURES_A_SHEET", 2)
    out = tmp_path / "maps"
    words = ["explain", small_run, pictures, "--method", "attention", "--method", "value-output", "-o", out]
    status, shown, errors = vitrine_command(*words)
    assert status == 0, errors
    assert "3 pictures by 2 methods" in shown and "broken.png" in errors
    files = {path.name for path in out.iterdir() if not path.name.startswith(".")}
    assert files == {"method-sheet.png", "method-sheet-2.png", "maps.csv"}
    assert len(ends) == 2 and ends[0] == ends[1], "both sheets have one scale"
    with Image.open(out / "method-sheet.png") as sheet:
        content = sheet.tobytes()
    origin = read_provenance(out / "method-sheet.png")
    assert origin["vitrine:method"] == "attention, value-output"
    status, _, errors = vitrine_command(*shlex.split(origin["vitrine:command"])[1:])
    with Image.open(out / "method-sheet.png") as sheet:
        assert status == 0 and sheet.tobytes() == content, errors
    status, _, errors = vitrine_command(*words[:3], "--method", "rollout", "-o", out)
    assert status == 2 and "files of another call" in errors


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--method", "attention", "--method", "attention"], "is there twice"),
        (["--method", "attention", "--method", "rollout", "--layer", "0"], "where one method is drawn by itself"),
        (["--method", "all", "--check"], "where one method is drawn by itself"),
        (["--method", "all", "--engine", "ray"], "where one method is drawn by itself"),
        (["--method", "attention", "--method", "rollout", "--target", "pie"], "None of these methods has"),
        (["--method", "attention", "--method", "occlusion", "--against", "pie"], "None of these methods has"),
        (["--method", "attention", "--method", "rollout", "--seed", "1"], "does something only"),
        (["--method", "attention", "--method", "rollup"], "Did you mean rollout?"),
        (["--method", "relevance", "--method", "gradcam", "--target", "pie", "--against", "pie"], "against itself"),
    ],
    ids=["twice", "layer", "check", "ray", "no target", "no contrast", "no seed", "no such", "itself"],
)
def test_what_a_sheet_cannot_do_is_refused(
    words: list[str], expected: str, pictures: Path, small_run: Path, tmp_path: Path, vitrine_command: Any
) -> None:
    status, _, errors = vitrine_command("explain", small_run, pictures, "-o", tmp_path / "out", *words)
    assert status == 2 and expected in errors and len(errors.strip().splitlines()) <= 4
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("methods", [[], ["attention"]], ids=["none", "one"])
def test_a_list_of_less_than_two_is_refused(methods: list[str], model: Any, pictures: Path) -> None:
    with pytest.raises(UsageError, match="two or more, or all"):
        vitrine.explain(model, pictures, method=methods, quiet=True)


def test_all_is_every_method_of_the_table(model: Any, pictures: Path) -> None:
    result = vitrine.explain(model, sorted(pictures.rglob("wide.png")), method="all", quiet=True)
    assert result.methods == METHODS and [each.method for each in result[0].maps] == list(METHODS)
    assert result.out is None and result.sheets == () and "13 methods" in repr(result)


@pytest.mark.parametrize(
    ("unit", "scores", "words", "painted"),
    [
        ("mass", [[1.0, 3.0]], "", [[0.5, 1.5]]),
        ("mass", [[0.0, 0.0]], "all zero", [[np.nan, np.nan]]),
        ("logit", [[-1.0, 3.0]], "2 logit", [[-0.5, 1.5]]),
        ("drop", [[-0.002, 0.002]], "0.01 p", [[-0.2, 0.2]]),
        ("gain", [[0.0, 0.0]], "all zero", [[np.nan, np.nan]]),
        ("score", [[-1e-6, 3e-6]], "2e\N{MINUS SIGN}06", [[-0.5, 1.5]]),
    ],
)
def test_a_map_says_what_its_paint_means(unit: Any, scores: list[Any], words: str, painted: list[Any]) -> None:
    each = SheetMap("mine", None, np.array(scores, np.float32), unit)
    assert each.words == words
    np.testing.assert_allclose(each.multiples_RC, painted, rtol=1e-6)
