"""The parts of a bulk job: kept, refused, resumed and put together; and what a worker does, without an engine."""

from __future__ import annotations

import csv
import json
import os
import shutil
import socket
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyarrow.dataset
import pytest

from vitrine.bulk.jobs import PredictJob
from vitrine.bulk.ledger import MANIFEST, FinishedPart, Ledger
from vitrine.bulk.run import BulkSettings, limit_slices, parts_with_figures
from vitrine.bulk.worker import MAX_ATTEMPTS, JobModel, Part, PartWorker
from vitrine.classify.predict import predict
from vitrine.data.bulk_slices import BulkInput, slice_pictures
from vitrine.data.samples import Sample
from vitrine.errors import DataError, RunError, UsageError
from vitrine.io.resumable_csv import csv_row

Command = Callable[..., tuple[int, str, str]]
JOB = {"verb": "predict", "weights": "abc"}


def finished_part(number: int) -> FinishedPart:
    return FinishedPart(number, rows=2, unreadable=0, precision="fp32", weights="abc")


def add(ledger: Ledger, number: int, *rows: Sequence[str]) -> None:
    lines = [csv_row(("filename", "label")), *(csv_row(row) for row in rows)]
    (ledger.folder / f"part-{number:06d}.csv").write_bytes(b"".join(lines))
    ledger.record(finished_part(number))


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(tmp_path / "out.csv.parts", ".csv", JOB)
    ledger.begin(resume=False)
    return ledger


def test_parts_become_one_table_with_one_header(ledger: Ledger, tmp_path: Path) -> None:
    add(ledger, 1, ('c\n"d', "x"))
    add(ledger, 0, ("a,1", "x"), ("b", "y"))
    add(ledger, 2)
    ledger.merge(3, tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as stream:
        assert list(csv.reader(stream)) == [["filename", "label"], ["a,1", "x"], ["b", "y"], ['c\n"d', "x"]]
    with pytest.raises(RunError, match="1 of 4 parts is missing"):
        ledger.merge(4, tmp_path / "out.csv")


def test_what_was_finished_is_known_to_a_later_call(ledger: Ledger) -> None:
    add(ledger, 0, ("a", "x"))
    add(ledger, 2, ("c", "x"))
    ledger.record(finished_part(2))  # a part that came twice is there once
    ledger.record(finished_part(5))
    with (ledger.folder / MANIFEST).open("a") as manifest:
        manifest.write('{"part": 3, "ro')  # killed while writing
    (ledger.folder / ".part-000003.xyz").mkdir()
    again = Ledger(ledger.folder, ".csv", JOB)
    with pytest.raises(RunError, match=r"3 finished parts.*--resume"):
        again.begin(resume=False)
    again.begin(resume=True)
    assert set(again.finished_parts) == {0, 2}, "5 is noted, and its file is not there"
    assert not list(ledger.folder.glob(".part-*"))
    add(again, 1, ("b", "x"))
    last = Ledger(ledger.folder, ".csv", JOB)
    last.begin(resume=True)
    assert set(last.finished_parts) == {0, 1, 2}


def test_parts_of_another_job_are_not_mixed_in(ledger: Ledger) -> None:
    add(ledger, 0, ("a", "x"))
    with pytest.raises(RunError, match=r"weights differ") as error:
        Ledger(ledger.folder, ".csv", JOB | {"weights": "other"}).begin(resume=True)
    assert len(str(error.value).splitlines()) == 2


def test_a_folder_of_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    (tmp_path / "file").write_text("")
    for name in ("mine", "file"):
        with pytest.raises(DataError):
            Ledger(tmp_path / name, ".parquet", JOB).begin(resume=False)
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


@pytest.fixture
def pictures(small_scenes: Path, tmp_path: Path) -> Path:
    """Twenty pictures and two that cannot be read."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, path in enumerate(sorted((small_scenes / "test").rglob("*.png"))[:20]):
        shutil.copyfile(path, folder / f"{number:02}.png")
    (folder / "03 broken.png").write_bytes(b"no picture")
    (folder / "zz.png").write_bytes(b"")
    return folder


@pytest.fixture(autouse=True)
def same_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Workers change their folder: put it back."""
    monkeypatch.chdir(tmp_path)


def slices_of(pictures: Path, settings: BulkSettings, batch_size: int) -> BulkInput:
    """The pictures cut as a job cuts them."""
    return slice_pictures(pictures, settings.slice_size(batch_size))


def test_a_worker_writes_what_a_single_process_writes(small_run: Path, pictures: Path, tmp_path: Path) -> None:
    """Batches are the same, so the bytes are."""
    predict(str(small_run), pictures, tmp_path / "single.csv", batch_size=4, top=2, precision="fp32")
    job = PredictJob(str(small_run), None, "fp32", batch_size=4, probabilities=False, top=2)
    slices = slices_of(pictures, BulkSettings(part_size=10), 4).slices
    assert [each.count for each in slices] == [8, 8, 6], "whole batches"
    ledger = Ledger(tmp_path / "parts", ".csv", JOB)
    ledger.begin(resume=False)
    worker = PartWorker(job, ledger.folder, ".csv", tmp_path, cores=1)
    for number in (2, 0, 1, 0):
        ledger.record(worker(Part(number, slices[number])))
    ledger.merge(3, tmp_path / "merged.csv")
    assert (tmp_path / "merged.csv").read_bytes() == (tmp_path / "single.csv").read_bytes()
    unreadable = ledger.write_unreadable(3, tmp_path / "merged.unreadable.csv")
    assert unreadable is not None and unreadable.read_bytes() == (tmp_path / "single.unreadable.csv").read_bytes()
    assert sum(part.rows for part in ledger.finished_parts.values()) == 20


def test_parquet_parts_open_as_one_table(small_run: Path, pictures: Path, tmp_path: Path) -> None:
    predict(str(small_run), pictures, tmp_path / "single.csv", batch_size=4, probabilities=True, precision="fp32")
    job = PredictJob(str(small_run), None, "fp32", batch_size=4, probabilities=True, top=0)
    ledger = Ledger(tmp_path / "p.parquet", ".parquet", JOB)
    ledger.begin(resume=False)
    worker = PartWorker(job, ledger.folder, ".parquet", tmp_path, cores=1)
    for number, each in enumerate(slices_of(pictures, BulkSettings(part_size=8), 4).slices):
        ledger.record(worker(Part(number, each)))
    table = pyarrow.dataset.dataset(ledger.folder, format="parquet").to_table()
    assert [str(kind) for kind in table.schema.types] == ["string", "string", "double"]
    with (tmp_path / "single.csv").open(newline="") as stream:
        expected = [(name, label, float(share)) for name, label, share in list(csv.reader(stream))[1:]]
    assert list(zip(*(column.to_pylist() for column in table.columns), strict=True)) == expected


class _FatalJob:
    """A job that never comes to its end, as if the process had been killed."""

    def open(self) -> JobModel:
        return JobModel(None, None)  # type: ignore[arg-type]

    def process(
        self, runner: None, samples: Sequence[Sample], figures: Mapping[str, str] | None, rows: Path, loaders: int
    ) -> list[tuple[str, str]]:
        rows.write_bytes(b"filename,label\nhalf a r")
        raise KeyboardInterrupt


def test_a_part_that_ends_its_worker_again_and_again_ends_the_job(pictures: Path, tmp_path: Path) -> None:
    """And what such an attempt has written is never a part."""
    (tmp_path / "parts").mkdir()
    worker = PartWorker(_FatalJob(), tmp_path / "parts", ".csv", tmp_path, cores=1)
    part = Part(0, slices_of(pictures, BulkSettings(), 4).slices[0])
    for _ in range(MAX_ATTEMPTS):
        with pytest.raises(KeyboardInterrupt):
            worker(part)
    assert not list((tmp_path / "parts").glob("part-*"))
    with pytest.raises(RunError, match="ended its worker 3 times"):
        worker(part)


def test_a_worker_without_the_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="workers need the same paths"):
        PartWorker(_FatalJob(), tmp_path, ".csv", tmp_path / "elsewhere", cores=1)
    assert Path.cwd() == tmp_path and os.getpid()


def test_a_limit_draws_what_a_single_process_draws(pictures: Path) -> None:
    from vitrine.data.image_folder import list_pictures
    from vitrine.data.samples import random_subset

    slices = limit_slices(slices_of(pictures, BulkSettings(part_size=4), 4), 7, seed=3, size=4).slices
    assert [each.count for each in slices] == [4, 3]
    names = [name for each in slices for name in each.names()]
    assert names == [sample.name for sample in random_subset(list_pictures(pictures), 7, 3)]


def test_figures_that_would_collide_across_parts_are_told_apart(pictures: Path) -> None:
    """As a single process names them: a.jpg and a.png do not share a figure, whichever parts they are in."""
    from vitrine.plotting.provenance import figure_names

    for number in range(6):
        shutil.copyfile(pictures / "00.png", pictures / f"{number:02}.jpg")
    parts = parts_with_figures(slices_of(pictures, BulkSettings(part_size=1), 1), "svg")
    together: dict[str, str] = {}
    for part in parts:
        together |= part.figures or {}
    names = [path.name for path in sorted(pictures.iterdir())]
    assert together == figure_names(names, "svg") and len(set(together.values())) == len(names)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--engine", "spark"), "expected local or ray"),
        (("--workers", 2), "--workers is of --engine ray"),
        (("--part-size", 2), "--part-size is of --engine ray"),
        (("--ray-address", "x:1"), "--ray-address is of --engine ray"),
        (("--engine", "ray", "-o", "p.txt"), "neither .csv"),
    ],
)
def test_options_that_do_not_fit(
    arguments: Sequence[object], message: str, pictures: Path, vitrine_command: Command
) -> None:
    status, out, error = vitrine_command("predict", "vitrine/scenes-tiny", pictures, "-o", "p.csv", *arguments)
    assert (status, out) == (2, "") and message in error and len(error.splitlines()) <= 2


@pytest.mark.parametrize(
    ("resources", "workers", "expected"),
    [
        ({"CPU": 2.0}, 0, (1, 2, 0.0, 1)),
        ({"CPU": 1.0}, 0, (1, 1, 0.0, 0)),
        ({"CPU": 8.0}, 0, (4, 2, 0.0, 1)),
        ({"CPU": 64.0}, 2, (2, 32, 0.0, 8)),
        ({"CPU": 64.0, "GPU": 2.0}, 0, (2, 32, 1.0, 31)),
        ({"CPU": 64.0, "GPU": 2.0}, 4, (4, 16, 0.5, 15)),
    ],
)
def test_how_many_workers_have_what(
    resources: Mapping[str, float], workers: int, expected: tuple[int, int, float, int]
) -> None:
    from vitrine.bulk.ray import worker_pool

    ray = types.SimpleNamespace(cluster_resources=lambda: resources)
    pool = worker_pool(ray, workers)
    assert (pool.workers, pool.cores, pool.gpus, pool.loaders) == expected
    with pytest.raises(UsageError, match="cores that there are"):
        worker_pool(ray, 65)


def test_a_cluster_that_does_not_answer(
    small_run: Path, pictures: Path, tmp_path: Path, vitrine_command: Command
) -> None:
    """Found out before Ray, which waits for minutes, is asked: a port that was just free has no listener."""
    pytest.importorskip("ray", reason="Ray comes with the extra [ray]")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    options = ("-o", tmp_path / "p.csv", "--engine", "ray", "--ray-address", address)
    status, out, error = vitrine_command("predict", small_run, pictures, *options)
    assert (status, out) == (2, "") and error.startswith(f"vitrine: No Ray cluster answers at {address}: ")
    assert len(error.splitlines()) == 1 and not (tmp_path / "p.csv").exists()


def test_resume_is_refused_where_it_would_be_ignored(pictures: Path, vitrine_command: Command) -> None:
    for verb in ("explain", "caption"):
        status, _, error = vitrine_command(verb, "vitrine/scenes-tiny", pictures, "-o", "out", "--resume")
        assert status == 2 and "--resume is of --engine ray" in error


def test_a_finished_part_is_described_in_the_manifest(ledger: Ledger) -> None:
    add(ledger, 0, ("a", "x"))
    first, second = (ledger.folder / MANIFEST).read_text().splitlines()
    assert json.loads(first) == JOB
    assert json.loads(second) == {"part": 0, "rows": 2, "unreadable": 0, "precision": "fp32", "weights": "abc"}
