"""``explain`` and ``caption`` in parts against a single process; the engine's place is taken by a loop in this process.

What travels to workers is pickled on the way, and parts come back in another order than they were asked for.
"""

from __future__ import annotations

import csv
import io
import json
import pickle
import shutil
import tarfile
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.tiny_captioners import save_tiny

from vitrine.bulk import run as bulk_run
from vitrine.bulk.jobs import CaptionJob
from vitrine.bulk.ledger import FinishedPart
from vitrine.bulk.worker import Job, Part, PartWorker
from vitrine.caption.run import CaptionSettings
from vitrine.plotting.provenance import read_provenance

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No Ray: one worker in this process, last part first."""

    def process(
        _ray: Any, _pool: Any, job: Job, parts: Sequence[Part], folder: Path, ending: str
    ) -> Iterator[FinishedPart]:
        worker = PartWorker(pickle.loads(pickle.dumps(job)), folder, ending, Path.cwd(), cores=1)
        for part in reversed(parts):
            yield worker(pickle.loads(pickle.dumps(part)))

    @contextmanager
    def session(_address: str | None) -> Iterator[Any]:
        yield types.SimpleNamespace(cluster_resources=lambda: {"CPU": 2})

    monkeypatch.setattr(bulk_run, "process_parts", process)
    monkeypatch.setattr(bulk_run, "ray_session", session)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def pictures(small_scenes: Path, tmp_path: Path) -> Path:
    """Ten pictures in two folders; two of them cannot be read."""
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    for number, path in enumerate(sorted((small_scenes / "test").rglob("*.png"))[:10]):
        shutil.copyfile(path, folder / ("more" if number % 4 == 0 else ".") / f"{97 * number % 100:02}.png")
    (folder / "31 broken.png").write_bytes(b"no picture")
    (folder / "zz broken.jpg").write_bytes(b"")
    return folder


def rows(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.reader(stream))


def figures(folder: Path) -> dict[str, bytes]:
    """The pixels of every figure below a folder, by path."""
    return {
        path.relative_to(folder).as_posix(): Image.open(io.BytesIO(path.read_bytes())).tobytes()
        for path in folder.rglob("*.png")
    }


def test_maps_are_those_of_a_single_process(
    small_run: Path, pictures: Path, tmp_path: Path, vitrine_command: Command
) -> None:
    options = ("--batch-size", 2, "--precision", "fp32", "--limit", 6, "--seed", 2)
    figures_by_engine: dict[str, dict[str, bytes]] = {}
    for name, engine in (("one", ()), ("ray", ("--engine", "ray", "--workers", 1, "--part-size", 2))):
        status, _, error = vitrine_command("explain", small_run, pictures, "-o", tmp_path / name, *options, *engine)
        assert status == 0, error
        figures_by_engine[name] = figures(tmp_path / name)
    figures_by_engine["one"].pop("contact-sheet.png")  # bulk work draws none
    assert figures_by_engine["ray"].keys() == figures_by_engine["one"].keys() and len(figures_by_engine["ray"]) >= 4
    assert figures_by_engine["ray"] == figures_by_engine["one"], "one scale, one map, one title"
    assert (tmp_path / "ray" / "maps.csv").read_bytes() == (tmp_path / "one" / "maps.csv").read_bytes()
    name = next(iter(figures_by_engine["ray"]))
    mine, theirs = (read_provenance(tmp_path / folder / name) for folder in ("ray", "one"))
    assert json.loads(json.dumps(mine).replace(str(tmp_path / "ray"), str(tmp_path / "one"))) == theirs
    assert sorted(path.name for path in (tmp_path / "ray").glob("maps*")) == [
        "maps.csv",
        *_unreadable(tmp_path / "ray"),
    ]


def _unreadable(folder: Path) -> list[str]:
    return [path.name for path in folder.glob("*.unreadable.csv")]


def test_captions_are_those_of_a_single_process(pictures: Path, tmp_path: Path, vitrine_command: Command) -> None:
    save_tiny("blip", tmp_path / "blip")
    (tmp_path / "in").mkdir()
    for path in [*sorted(pictures.glob("*.png"))[:5], pictures / "31 broken.png"]:
        shutil.copy(path, tmp_path / "in")
    results: dict[str, Any] = {}
    for name, engine in (("one", ()), ("ray", ("--engine", "ray", "--workers", 1, "--part-size", 2))):
        status, _, error = vitrine_command(
            "caption", tmp_path / "blip", tmp_path / "in", "-o", tmp_path / name, "--batch-size", 2, "--max-pieces", 4,
            *engine,
        )  # fmt: skip
        assert status == 0, error
        assert "not readable: 31 broken.png" in error
        results[name] = (figures(tmp_path / name), rows(tmp_path / name / "captions.csv"))
    assert results["ray"][0].keys() == results["one"][0].keys() and len(results["ray"][0]) >= 4
    for row, other in zip(results["ray"][1][1:], results["one"][1][1:], strict=True):
        assert [row[0], row[1], *row[3:]] == [other[0], other[1], *other[3:]]
        assert float(row[2]) == pytest.approx(float(other[2]), abs=1e-5)


def test_another_vocabulary_is_another_job() -> None:
    """What the options of two jobs are compared by before one continues the other."""
    job = CaptionJob("catr.pth", "catr", None, 2, Path("in"), True, Path("out"), CaptionSettings())
    given = [bulk_run._figure_options(replace(job, vocabulary=path)) for path in (None, Path("a.txt"), Path("b.txt"))]
    assert [options["vocabulary"] for options in given] == ["", "a.txt", "b.txt"]
    assert json.loads(json.dumps(given)) == given


def test_shards_have_their_figures_in_folders_of_their_own(
    small_run: Path, pictures: Path, tmp_path: Path, vitrine_command: Command
) -> None:
    (tmp_path / "shards").mkdir()
    for name in ("a", "b"):
        with tarfile.open(tmp_path / "shards" / f"{name}.tar", "w") as tar:
            for path in sorted(pictures.glob("*.*"))[:3]:
                tar.add(path, path.name)
    options = ("-o", "maps", "--engine", "ray", "--precision", "fp32", "--batch-size", 2)
    status, _, error = vitrine_command("explain", small_run, "shards", *options)
    assert status == 0, error
    names = [row[0] for row in rows(tmp_path / "maps" / "maps.csv")[1:]]
    assert names == sorted(names) and {name.partition("/")[0] for name in names} == {"a", "b"}
    assert set(figures(tmp_path / "maps")) == set(names)
    assert [row[0] for row in rows(tmp_path / "maps" / "maps.unreadable.csv")[1:]] == [
        "a/31 broken.png",
        "b/31 broken.png",
    ]
    status, _, error = vitrine_command("explain", small_run, "shards", *options, "--limit", 2)
    assert status == 2 and "--limit draws from a folder of pictures" in error


def test_pictures_of_one_name_are_refused(small_run: Path, pictures: Path, vitrine_command: Command) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = sorted(pictures.glob("*.png"))[0]
    pq.write_table(pa.table({"name": ["x.png", "x.png"], "image": [path.read_bytes()] * 2}), "two.parquet")
    status, _, error = vitrine_command("explain", small_run, "two.parquet", "-o", "maps", "--engine", "ray")
    assert status == 2 and "x.png: each picture needs its own" in error


def test_nothing_but_unreadable_pictures(small_run: Path, tmp_path: Path, vitrine_command: Command) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"")
    save_tiny("blip", tmp_path / "blip")
    for verb, model in (("explain", small_run), ("caption", tmp_path / "blip")):
        status, _, error = vitrine_command(verb, model, "bad", "-o", "out", "--engine", "ray")
        assert status == 2 and "None of the 1 picture can be read, for example a.png" in error, error
