"""Nothing reaches out: every verb does its work with a network that refuses every connection and every look-up."""

from __future__ import annotations

import inspect
import json
import shutil
import socket
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from support.refused_network import refuse_the_network
from support.serving import app_state_of, run_in_thread
from support.sweeps import TrainingHere
from support.tiny_captioners import save_tiny
from support.tiny_vlms import save_tiny_vlm
from typer.main import get_command
from typer.testing import CliRunner

from vitrine.cli.app import app
from vitrine.sweep.run import sweep

VERBS = {
    "check": "check {data}",
    "train": "train {data} --recipe {run}/recipe.toml -o {out}/run --set epochs=1",
    "evaluate": "evaluate {run} {data} --split test -o {out}/test",
    "predict": "predict {run} {pictures} -o {out}/p.csv",
    "explain": "explain {run} {pictures} -o {out}/maps --check",
    "score": "explain {run} --score {data} --limit 4 --curves 1 --method attention -o {out}/scores",
    "positions": "positions {run} -o {out}/positions.png",
    "features": "features {run} {pictures} -o {out}/features --regions 2",
    "ask": "ask {vlm} {pictures}/0.png what? --max-pieces 3 -o {out}/answer.png",
    "caption": "caption {captioner} {pictures} -o {out}/words",
    "inspect": "inspect {figure}",
    "sweep": "sweep {sweep} -o {out}/sweep",
    "compare": "compare {run} -o {out}/table",
    "verify": "verify {run}",
    "report": "report {run} -o {out}/report.html",
    "export": "export {run} --to timm -o {out}/export",
    "knn": "knn {run} {data}",
    "shards": "shards {data} -o {out}/shards",
    "cache": "cache",
}
"""A command for each; serve has a test of its own below, and tests/test_demo.py refuses the network too."""


@pytest.fixture(scope="module")
def inputs(small_scenes: Path, small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("offline")
    (folder / "pictures").mkdir()
    for number, path in enumerate(sorted((small_scenes / "test").rglob("*.png"))[:2]):
        shutil.copyfile(path, folder / "pictures" / f"{number}.png")
    save_tiny("git", folder / "captioner")
    save_tiny_vlm("llava", folder / "vlm")
    shutil.copyfile(small_run / "recipe.toml", folder / "micro.toml")
    (folder / "sweep.toml").write_text(
        f'data = "{small_scenes}"\nrecipe = "micro.toml"\n[[list]]\nname = "one"\nepochs = 1\n'
    )
    CliRunner().invoke(app, ["positions", str(small_run), "-o", str(folder / "figure.png")])
    names = {"data": small_scenes, "run": small_run, "figure": folder / "figure.png"}
    return names | {each: folder / each for each in ("pictures", "captioner", "vlm")} | {"sweep": folder / "sweep.toml"}


def test_every_verb_is_tried() -> None:
    verbs = set(get_command(app).commands)  # type: ignore[attr-defined]
    assert verbs == (VERBS.keys() - {"score"}) | {"serve", "demo"}


@pytest.mark.parametrize(("verb", "offline"), [*((verb, False) for verb in VERBS), ("train", True), ("predict", True)])
def test_no_verb_reaches_out(
    verb: str,
    offline: bool,
    inputs: dict[str, Path],
    tmp_path: Path,
    vitrine_command: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attempts = refuse_the_network(monkeypatch)
    defaults = inspect.unwrap(sweep).__kwdefaults__
    monkeypatch.setitem(defaults, "start", TrainingHere)
    words = [word.format(out=tmp_path, **inputs) for word in VERBS[verb].split()]
    status, _, error = vitrine_command(*(["--offline"] if offline else []), *words)
    assert status == 0, error
    assert attempts == []


@pytest.mark.parametrize("model", ["run", "captioner"])
def test_the_explorer_answers_and_does_not_reach_out(
    model: str, inputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = refuse_the_network(monkeypatch)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    picture = next(inputs["pictures"].iterdir()).read_bytes()
    views = ("predict", "explain") if model == "run" else ("caption",)
    with run_in_thread(app_state_of(inputs[model])) as address:
        for path in ("", "healthz", "api", "api/models"):
            with urllib.request.urlopen(f"{address}/{path}") as answer:
                assert answer.status == 200
        for view in views:
            with urllib.request.urlopen(f"{address}/api/{view}", picture) as answer:
                assert answer.status == 200 and "error" not in json.load(answer)
    assert attempts == []


def test_the_block_itself_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = refuse_the_network(monkeypatch)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    with pytest.raises(OSError, match="refused"):
        socket.getaddrinfo("example.org", 443)
    assert len(attempts) == 2
