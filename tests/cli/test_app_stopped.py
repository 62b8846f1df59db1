"""Verbs that write, killed at any of their changes and called again; and called beside another process that is at it.

Prediction is killed at two moments, training at three, each other verb at one; ``VITRINE_KILLS=10`` kills each at ten.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import PIL.Image
import pytest
import timm
import torch
from support.models import MICRO
from support.stand_in_hub import StandInHub
from support.stopped_verbs import OUT, VerbCase, VerbRunner, moments
from support.tiny_captioners import save_tiny
from support.warm_python import process_of

# What the verbs import when they run, for the warm Python.
_WARM = (
    "imagehash", "matplotlib.axes", "pycocoevalcap.cider.cider", "scipy.fftpack",
    "transformers.models.git.modeling_git",
    "transformers.models.vit.modeling_vit", "webdataset", "vitrine.caption.run", "vitrine.classify.evaluate",
    "vitrine.classify.predict", "vitrine.cli.app", "vitrine.compare.run", "vitrine.explain.run", "vitrine.export.run",
    "vitrine.models.hf_captioners.load", "vitrine.shards", "vitrine.sweep.run", "vitrine.sweep.worker",
    "vitrine.train.run",
)  # fmt: skip
for _module in _WARM:
    with suppress(ImportError):  # of an extra
        importlib.import_module(_module)
PIL.Image.init()

KILLS = int(os.environ.get("VITRINE_KILLS", "0"))


@pytest.fixture(scope="module")
def inputs(small_scenes: Path, small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the commands read: pictures, data, a run, a captioner, a recipe and a sweep."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "pictures" / "more").mkdir(parents=True)
    for number, path in enumerate(sorted((small_scenes / "test").rglob("*.png"))[:5]):
        shutil.copyfile(path, folder / "pictures" / ("more" if number == 4 else ".") / f"{number}.png")
    (folder / "pictures" / "2 broken.png").write_bytes(b"no picture")
    for path in sorted((small_scenes / "train").rglob("*.png")) + sorted((small_scenes / "validation").rglob("*.png")):
        target = folder / "data" / path.relative_to(small_scenes)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    shutil.copytree(small_run, folder / "run")
    save_tiny("git", folder / "captioner")
    shutil.copyfile(small_run / "recipe.toml", folder / "micro.toml")
    (folder / "sweep.toml").write_text(
        f'data = "{folder / "data"}"\nrecipe = "micro.toml"\n[[list]]\nname = "one"\nepochs = 1\n'
        '[[list]]\nname = "two"\nepochs = 1\nbatch_size = 8\n'
    )
    return folder


def cases(inputs: Path, hub: str) -> dict[str, VerbCase]:
    """The verbs by name."""
    i, run, pictures = inputs, str(inputs / "run"), str(inputs / "pictures")
    train = ("train", str(i / "data"), "--recipe", str(i / "micro.toml"))
    best = ("model.safetensors", "config.json", "history.jsonl")  # of the best epoch so far
    times = {"varying": ("timings.jsonl",)}
    tables = ("timings.jsonl", ".vitrine-index.json", *(f"comparison.{kind}" for kind in ("csv", "md", "tex", "json")))
    one = ("--batch-size", "2", "--precision", "fp32")
    hub_constants = {
        "huggingface_hub.constants.ENDPOINT": hub,
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE": hub + "/{repo_id}/resolve/{revision}/{filename}",
    }
    cases = (
        VerbCase("train", (*train, "-o", f"{OUT}/run", "--set", "decoded_cache=1"), ("--resume",), best, **times),
        VerbCase("predict", ("predict", run, pictures, "-o", f"{OUT}/p.csv", *one), ("--resume",)),
        VerbCase("explain", ("explain", run, pictures, "-o", f"{OUT}/maps", "--limit", "2", *one)),
        VerbCase("caption", ("caption", str(i / "captioner"), pictures, "-o", f"{OUT}/words", "--limit", "2")),
        VerbCase("sweep", ("sweep", str(i / "sweep.toml"), "-o", f"{OUT}/sweep"), (), best, tables),
        VerbCase("shards", ("shards", str(i / "data"), "-o", f"{OUT}/shards", "--size", "0.05")),
        VerbCase("export", ("export", run, "--to", "hf", "-o", f"{OUT}/export")),
        VerbCase("evaluate", ("evaluate", run, str(i / "data"), "-o", f"{OUT}/scores")),
        VerbCase("report", ("report", run, "-o", f"{OUT}/report.html", "--markdown")),
        VerbCase("compare", ("compare", run, "-o", f"{OUT}/table")),
        VerbCase(
            "download",
            ("predict", "hf-hub:owner/tiny", pictures, "-o", f"{OUT}/p.csv", *one),
            ("--resume",),
            attributes=hub_constants,
            environment={"NO_PROXY": "127.0.0.1"},
        ),
    )
    return {case.name: case for case in cases}


KILLED = ("train", "predict", "explain", "caption", "sweep", "shards", "export", "download")
LOCKED = ("train", "predict", "explain", "caption", "sweep", "shards", "export", "evaluate", "compare", "report")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("hub")
    torch.manual_seed(7)
    model_args = {**MICRO, "num_classes": 5}
    module = timm.create_model("vit_tiny_patch16_224", **model_args)
    timm.models.save_for_hf(module, str(folder), model_config={"model_args": model_args}, safe_serialization=True)
    with StandInHub({"owner/tiny": folder}).running() as running:
        yield running.address


Undisturbed = Callable[[str], tuple[VerbRunner, dict[str, bytes], int]]


@pytest.fixture(scope="module")
def undisturbed(inputs: Path, hub: str, warm_python: str, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """By a verb's name: its runner, the files that it writes when nothing happens, and how many changes that takes."""
    results: dict[str, tuple[VerbRunner, dict[str, bytes], int]] = {}

    def run(name: str) -> tuple[VerbRunner, dict[str, bytes], int]:
        if name not in results:
            runner, folder = VerbRunner(warm_python, cases(inputs, hub)[name]), tmp_path_factory.mktemp("whole")
            status, error = runner.run(folder)
            assert status == 0, error
            results[name] = runner, runner.files(folder), runner.count_changes(folder)
        return results[name]

    return run


@pytest.mark.parametrize("name", KILLED)
def test_what_was_killed_ends_as_if_nothing_had_happened(name: str, undisturbed: Undisturbed, tmp_path: Path) -> None:
    runner, whole, changes = undisturbed(name)

    def kill_and_continue(change: int) -> None:
        folder = tmp_path / str(change)
        status, error = runner.run(folder, change=change)
        assert status == -9, (change, status, error)
        torn = [file for file, content in runner.files(folder).items() if whole.get(file, content) != content]
        assert [file for file in torn if Path(file).name not in runner.case.growing] == [], f"killed at {change}"
        status, error = runner.run(folder, *runner.case.again)
        assert status == 0, (change, error)
        again = runner.files(folder)
        assert sorted(again) == sorted(whole), f"killed at change {change} of {changes}"
        assert [file for file in whole if again[file] != whole[file]] == [], f"killed at {change} of {changes}"

    with ThreadPoolExecutor(2) as pool:
        kills = (KILLS or (2 if name in ("train", "predict") else 1)) + (
            name == "train"
        )  # which keeps decoded pictures
        list(pool.map(kill_and_continue, moments(changes, kills, name)))


@pytest.mark.parametrize("name", LOCKED)
def test_the_second_of_two_processes_is_refused_and_changes_nothing(
    name: str, undisturbed: Undisturbed, inputs: Path, hub: str, warm_python: str, tmp_path: Path
) -> None:
    """The first one is held in the middle of its work; afterwards it ends as if it had been alone."""
    case = cases(inputs, hub)[name]
    runner, whole, changes = undisturbed(name) if name in KILLED else (VerbRunner(warm_python, case), None, 10)
    with runner.held(tmp_path / "work", change=changes // 2) as first:
        before = _facts(tmp_path / "work" / OUT)
        for more in ((), case.again) if case.again else ((),):
            status, error = runner.run(tmp_path / "work", *more)
            who = re.fullmatch(r"vitrine: Another vitrine (\w+) \(process (\d+) on (\S+), since \d\d:\d\d\) is writing "
                               r"(\S+): wait for it, or choose another -o\.\n", error)  # fmt: skip
            assert status == 2 and who is not None, (status, error)
            assert who.groups() == (name, str(process_of(first.pid)), socket.gethostname(), _output(case)), error
            assert _facts(tmp_path / "work" / OUT) == before
        if whole is None:
            os.kill(process_of(first.pid), signal.SIGKILL)
    assert first.returncode == (0 if whole else -9)
    if whole is not None:
        assert runner.files(tmp_path / "work") == whole


def test_two_outputs_in_one_folder_do_not_disturb_one_another(undisturbed: Undisturbed, tmp_path: Path) -> None:
    runner, whole, changes = undisturbed("predict")
    other = [argument.replace("p.csv", "q.csv") for argument in runner.case.arguments]
    with runner.held(tmp_path / "work", change=changes // 2) as first:
        status, error = runner.run(tmp_path / "work", arguments=other)
        assert status == 0, error
    assert first.returncode == 0
    files = runner.files(tmp_path / "work")
    assert {file: files[file] for file in whole} == whole
    assert files["q.csv"] == whole["p.csv"] and files["q.unreadable.csv"] == whole["p.unreadable.csv"]
    assert len(files) == len(whole) + 2


def _output(case: VerbCase) -> str:
    return case.arguments[case.arguments.index("-o") + 1]


def _facts(folder: Path) -> dict[Path, tuple[int, int, int]]:
    """What changes where something is written: inode, size and time of every file and folder."""
    each = ((path, path.stat()) for path in (folder, *folder.rglob("*")))
    return {path: (facts.st_ino, facts.st_size, facts.st_mtime_ns) for path, facts in each}


def test_the_same_command_after_shards_were_finished_says_so(undisturbed: Undisturbed, tmp_path: Path) -> None:
    """As after a kill at the very end: nothing is done, exit 0; other data or settings are refused."""
    runner, whole, _ = undisturbed("shards")
    assert runner.run(tmp_path / "work")[0] == 0
    (tmp_path / "work" / OUT / "shards" / "unfinished.json").write_text("{}")
    process = runner.start(tmp_path / "work")
    output, error = process.communicate()
    assert process.returncode == 0 and "is finished: an earlier call wrote these shards" in output, error
    assert runner.files(tmp_path / "work") == whole
    status, error = runner.run(tmp_path / "work", "--seed", "1")
    assert status == 2 and "holds shards already, of other data or settings" in error
    assert runner.files(tmp_path / "work") == whole


def test_resuming_a_finished_run_completes_what_it_lacks(undisturbed: Undisturbed, tmp_path: Path) -> None:
    """As a kill between metrics.json and the card left it, in versions that wrote the card last."""
    runner, whole, _ = undisturbed("train")
    folder = tmp_path / "work"
    assert runner.run(folder)[0] == 0
    (folder / OUT / "run" / "README.md").unlink()
    shutil.rmtree(folder / OUT / "run" / "figures")
    (folder / OUT / "run" / "state").mkdir()
    assert runner.run(folder, "--resume")[0] == 0
    assert runner.files(folder) == whole
