"""What README and docs show can be typed: their Python runs in a fresh interpreter. (Commands: test_commands.py.)"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.paths import CHECKOUT

PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
# What the reader is said to have already.
BEFORE = {
    "README.md": "",
    "formats.md": "",
    "maps.md": (
        "from matplotlib.figure import Figure\n"
        "import timm, torch\n"
        "ax = Figure().subplots()\n"
        "module = timm.create_model('local-dir:runs/first', pretrained=True).eval()\n"
        "pixels = torch.zeros(1, 3, 32, 32)\n"
    ),
}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(small_run: Path, small_scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with the run and the picture that the pages speak of."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(small_run, folder / "runs" / "first")
    shutil.copyfile(next((small_scenes / "test").rglob("*.png")), folder / "cat.jpg")
    return folder


@pytest.mark.parametrize("name", BEFORE)
def test_python_runs_in_a_fresh_interpreter(name: str, folder: Path, warm_python: str) -> None:
    """That of docs/formats.md in a cold one without vitrine, since it says how a run opens elsewhere."""
    page = next(page for page in PAGES if page.name == name)
    programs = blocks(page, "python")
    assert programs
    program = BEFORE[name] + "\n".join(programs)
    if name == "formats.md":  # it says how a run opens elsewhere
        program += "\nimport sys\nassert 'vitrine' not in sys.modules\nassert model.num_classes > 1\n"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    paths = [] if name == "formats.md" else [os.environ.get("PYTHONPATH", "")]
    ended = subprocess.run(
        [sys.executable if name == "formats.md" else warm_python, "-c", program],
        cwd=folder,
        env=environment | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
