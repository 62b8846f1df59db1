"""Every command that is offered runs: those of README, docs and the explorer's answers, and every "Next:" line.

They run through the whole command line, its checks of options included, up to the function that does the work, which
is replaced: what a verb then does with real data is the matter of its own tests.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from html import unescape
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Any

import pytest
import typer
from starlette.testclient import TestClient
from support.paths import CHECKOUT
from support.serving import app_state_of, client_of, picture
from typer.main import get_command

import vitrine
from vitrine.cli.app import app
from vitrine.cli.show import training_summary
from vitrine.serve.server import open_app_state
from vitrine.serve.settings import ServeSettings
from vitrine.shards import WrittenShards
from vitrine.train.events import TrainResult

ROOT = get_command(app)
WORK = {
    "demo": ["vitrine.demo.run_demo"],
    "check": ["vitrine.check.check"],
    "train": ["vitrine.train.run.train"],
    "evaluate": ["vitrine.models.kind.is_captioner"],
    "predict": ["vitrine.api.load.classifier_and_pictures", "vitrine.bulk.run.predict_in_bulk"],
    "explain": [
        "vitrine.api.load.classifier_and_pictures", "vitrine.classify.model.open_classifier",
        "vitrine.bulk.run.explain_in_bulk",
    ],
    "features": ["vitrine.data.picture_inputs.picture_input", "vitrine.features.run.features"],
    "positions": ["vitrine.explain.positions.positions"],
    "inspect": ["vitrine.explain.inspect.inspect_figure"],
    "caption": ["vitrine.caption.layer_grounding.map_options", "vitrine.api.caption._caption_here"],
    "ask": ["vitrine.api.load.load"],
    "sweep": ["vitrine.sweep.run.sweep", "vitrine.sweep.run.plan"],
    "compare": ["vitrine.compare.run.compare"],
    "verify": ["vitrine.verify.run.verify"],
    "report": ["vitrine.report.run.write_report"],
    "serve": ["vitrine.serve.server.open_app_state"],
    "export": ["vitrine.export.run.export"],
    "knn": ["vitrine.classify.knn.knn"],
    "shards": ["vitrine.shards.write_shards"],
    "cache": ["vitrine.cache.cache_contents"],
}  # fmt: skip
"""The functions that do the work of each verb."""


class WorkReachedError(Exception):
    """The command line has nothing against the command: its work would begin."""


@pytest.fixture
def reach(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Run a command up to its work."""

    def stop(*_: object, **__: object) -> None:
        raise WorkReachedError

    monkeypatch.chdir(tmp_path)
    Path("augmix.toml").write_text("")
    for module in walk_packages(vitrine.__path__, "vitrine."):  # first imported later it would keep what is replaced
        if module.name != "vitrine.__main__":
            import_module(module.name)
    for path in (each for functions in WORK.values() for each in functions):
        place, _, name = path.rpartition(".")
        monkeypatch.setattr(import_module(place), name, stop)  # a verb's name may be a function of the package, too

    def run(line: str) -> None:
        program, verb, *arguments = shlex.split(line, comments=True)
        assert program == "vitrine"
        command = ROOT.commands[verb]  # type: ignore[attr-defined]
        try:
            with command.make_context(verb, arguments, parent=typer.Context(ROOT, info_name="vitrine")) as context:
                command.invoke(context)
        except WorkReachedError:
            return
        except typer.Exit:
            assert {"--help", "--show-recipe"} & set(arguments)
            return
        raise AssertionError("no work was begun")

    return run


def test_every_verb_is_known() -> None:
    assert set(WORK) == set(ROOT.commands)  # type: ignore[attr-defined]


PAGES = [CHECKOUT / "README.md", CHECKOUT / "CONTRIBUTING.md", *sorted((CHECKOUT / "docs").rglob("*.md"))]


def written_commands() -> Iterator[tuple[str, str]]:
    """(page, command) of every command line in a block of its own, continued lines joined."""
    for page in PAGES:
        if page.parent.name == "verbs":
            continue  # generated: usage lines, in which options are named but not given
        for block in re.findall(r"^```(?:\w*)\n(.*?)^```", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                if re.match(r"\s*vitrine [a-z]", line):
                    yield page.name, line.strip().rstrip("&").strip()


@pytest.mark.parametrize(("page", "line"), list(written_commands()))
def test_commands_of_the_pages_run(page: str, line: str, reach: Callable[[str], None]) -> None:
    reach(line)


def next_lines(text: str) -> list[str]:
    """The commands of a "Next:" line."""
    (line,) = re.findall(r"^Next: (.*)$", text, flags=re.MULTILINE)
    return [command.strip() for command in line.split(";")]


def test_next_lines_run(reach: Callable[[str], None], small_run: Path, small_scenes: Path, tmp_path: Path) -> None:
    from vitrine.runs.folder import RunFolder
    from vitrine.runs.record import read_record

    metrics = read_record("run", RunFolder(small_run)).classification_metrics
    text = training_summary(TrainResult(small_run, 1, 2, metrics), str(small_scenes))
    evaluation, prediction = next_lines(text)
    assert evaluation == f"vitrine evaluate {small_run} {small_scenes}"
    assert prediction == f"vitrine predict {small_run} {small_scenes} -o predictions.csv"
    generated = next_lines(training_summary(TrainResult(small_run, 1, 2, metrics), "scenes:base"))
    folder = tmp_path / "my shards"
    shards = [
        *next_lines(WrittenShards(folder, (), (), ()).text()),
        *next_lines(WrittenShards(folder, (), (), (), captions=True).text()),
    ]
    assert shards[0] == f"vitrine train '{folder}' -o '{folder}-run'"
    for line in (evaluation, prediction, *generated, *shards):
        reach(line)


SENT = picture(3, kind="JPEG")


@pytest.fixture(scope="module")
def client(small_run: Path) -> Iterator[TestClient]:
    with client_of(app_state_of(small_run, "vitrine/scenes-tiny"), "http://localhost:9123") as client:
        yield client


def test_commands_of_the_explorer_run(client: TestClient, vitrine_command: Any, reach: Callable[[str], None]) -> None:
    first = client.get("/api/models").json()["models"][0]
    sample = first["samples"][0]["id"]
    views = [{}, {"layer": "0"}, {"query": "1,2"}, {"method": "gradcam"}, {"method": "gradcam", "target": "pie"}]
    answers = [client.post("/api/explain", params={"sample": sample, **view}).json() for view in views]
    commands = [answer["command"] for answer in answers]
    commands += [
        client.post("/api/verdict", params={"sample": sample}).json()["command"],
        client.get("/api/validation").json()["command"],
        client.get("/api/positions").json()["command"],
    ]
    outputs = [shlex.split(command)[shlex.split(command).index("-o") + 1] for command in commands]
    assert len(set(outputs)) == len(outputs)  # nothing is written over another view
    for command in commands:
        reach(command)
    assert Path(shlex.split(commands[0])[3]).is_file()  # wherever the command is started


def test_a_picture_without_a_file_has_no_command(client: TestClient) -> None:
    sample = client.get("/api/models").json()["models"][1]["samples"][0]["id"]
    params = {"model": "1", "sample": sample}
    assert client.post("/api/explain", params=params).json()["command"] is None
    assert client.post("/api/figure", params=params).status_code == 200
    assert (
        client.post("/api/explain", params={"name": "cat.jpg"}, content=SENT).json()["command"].split()[3] == "cat.jpg"
    )


def test_examples_of_the_api_run(client: TestClient) -> None:
    page = unescape(client.get("/api").text)
    examples = re.findall(r"<pre>(curl .*?)</pre>", page)
    assert len(examples) == len(re.findall(r"<section>", page)) - page.count("No model of this server")
    assert page.count("No model of this server") == 1  # captions
    for example in examples:
        *words, address = shlex.split(example)[1:]
        assert address.startswith("http://localhost:9123/")
        content = SENT if "--data-binary" in words else None
        method = "POST" if content or "POST" in words else "GET"
        headers = {"Content-Type": "image/jpeg"} if content else {}
        response = client.request(method, address, content=content, headers=headers)
        assert response.status_code == 200, (example, response.text)


def test_examples_of_a_server_with_a_token_carry_one(small_run: Path) -> None:
    state = open_app_state([str(small_run)], ServeSettings(token="secret"), precision="fp32")
    with client_of(state) as client:
        page = unescape(client.get("/api", headers={"Authorization": "Bearer secret"}).text)
    assert "curl -H 'Authorization: Bearer TOKEN' http://127.0.0.1:8000/api/models" in page
    assert "secret" not in page


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        (["--set", "a=1", "b=2"], ["a=1", "b=2"]),
        (["--set", "a=1", "b=2", "--set", "c=3"], ["a=1", "b=2", "c=3"]),
        (["--set", "a=1", "--resume", "b=2"], None),
        (["--set", "a=x=y", "photos?label=x"], None),
        (["--set=a=1", "b=2"], None),
    ],
)
def test_one_set_takes_several(words: list[str], settings: list[str] | None) -> None:
    command = ROOT.commands["train"]  # type: ignore[attr-defined]
    arguments = ["data", "-o", "run", *words]
    if settings is None:
        with pytest.raises(Exception, match="unexpected extra argument"):
            command.make_context("train", arguments)
    else:
        assert command.make_context("train", arguments).params["settings"] == settings


def test_a_folder_that_looks_like_a_setting_is_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a=b").mkdir()
    command = ROOT.commands["train"]  # type: ignore[attr-defined]
    assert command.make_context("train", ["--set", "epochs=1", "a=b", "-o", "run"]).params["data"] == "a=b"
