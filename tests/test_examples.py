"""The notebooks of examples/ run from top to bottom, at small sizes, and keep what they showed at their own."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
from support.paths import CHECKOUT

import vitrine
from vitrine.attribution.patch_hiding import PatchHiding

SMALL = {
    "captions": "TRAIN, TEST, EPOCHS = 48, 8, 1",
    "classify-and-look-inside": "TRAIN, TEST, EPOCHS, SCORED = 28, 14, 1, 2",
    "compare-and-verify": "TRAIN, VALIDATION, EPOCHS = 28, 14, 1",
    "your-own-model": "STEPS, SCORED = 1, 4",
}
NOTEBOOKS = sorted((CHECKOUT / "examples").glob("*.ipynb"))


def cells(notebook: Path) -> list[dict[str, Any]]:
    content = json.loads(notebook.read_text("utf-8"))
    return [cell for cell in content["cells"] if cell["cell_type"] == "code"]


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def test_every_notebook_is_run() -> None:
    assert {notebook.stem for notebook in NOTEBOOKS} == set(SMALL)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(
    notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PatchHiding.__init__.__kwdefaults__, "draws", 5)
    names: dict[str, Any] = {}
    try:
        for cell in cells(notebook):
            is_parameters = "parameters" in cell["metadata"].get("tags", ())
            program = ast.parse(SMALL[notebook.stem] if is_parameters else source(cell))
            last = program.body.pop() if isinstance(program.body[-1], ast.Expr) else None
            exec(compile(program, notebook.name, "exec"), names)
            if last is not None:  # what a notebook shows
                value = eval(compile(ast.Expression(last.value), notebook.name, "eval"), names)
                if value is not None and hasattr(value, "_repr_png_"):
                    assert value._repr_png_().startswith(b"\x89PNG")
    finally:
        vitrine.set_verbosity("info")
    assert capsys.readouterr().out


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_it_showed_is_kept(notebook: Path) -> None:
    for cell in cells(notebook):
        last = ast.parse(source(cell)).body[-1]
        if isinstance(last, ast.Expr):
            assert cell["outputs"], f"make notebooks: nothing is kept of {source(cell)!r}"
        for output in cell["outputs"]:
            assert output["output_type"] != "error"
            assert output.get("name") != "stderr", "make notebooks: warnings are of the machine that ran it"
            assert not re.search(r"/(tmp|home|root|work|usr)/", "".join(output.get("text", ""))), "a path of it"
