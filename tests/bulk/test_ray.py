"""``--engine ray``: the same result as a single process, whatever is killed or interrupted. Ray starts once."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from support.stopped_verbs import VerbCase, VerbRunner
from support.warm_python import process_of

from vitrine.bulk.jobs import PredictJob
from vitrine.bulk.ray import ray_session
from vitrine.bulk.run import BulkSettings, predict_in_bulk
from vitrine.classify.predict import predict
from vitrine.data.samples import Sample
from vitrine.errors import RunError

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="Ray comes with the extra [ray]")
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def ray(warm_python: str) -> Iterator[Any]:
    """Ray, running on this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", warm_python)  # of Ray's own processes, and of its workers
        with ray_session() as library:
            yield library


@pytest.fixture(scope="module")
def pictures(small_scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pictures in two folders; two of them cannot be read."""
    folder = tmp_path_factory.mktemp("bulk") / "pictures"
    (folder / "more").mkdir(parents=True)
    for number, path in enumerate(sorted((small_scenes / "test").rglob("*.png"))[:40]):
        shutil.copyfile(path, folder / ("more" if number % 4 == 0 else ".") / f"{97 * number % 100:02}.png")
    (folder / "31 broken.png").write_bytes(b"no picture")
    (folder / "zz broken.jpg").write_bytes(b"")
    return folder


def rows(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.reader(stream))


def job_of(run: Path) -> PredictJob:
    return PredictJob(str(run), None, "fp32", batch_size=4, probabilities=True, top=2)


@pytest.fixture(scope="module")
def single(small_run: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table of a single process."""
    out = tmp_path_factory.mktemp("single") / "single.csv"
    predict(str(small_run), pictures, out, batch_size=4, probabilities=True, top=2, precision="fp32")
    return out


def assert_same(out: Path, single: Path) -> None:
    """The same names and labels in the same order, probabilities within a rounding; the same unreadable pictures."""
    mine, theirs = rows(out), rows(single)
    assert [row[:2] for row in mine] == [row[:2] for row in theirs]
    for row, other in zip(mine[1:], theirs[1:], strict=True):
        assert [len(cell) for cell in row] == [len(cell) for cell in other], "one format"
        assert [row[3], row[5]] == [other[3], other[5]]
        assert [float(row[i]) for i in (2, 4, 6)] == pytest.approx([float(other[i]) for i in (2, 4, 6)], abs=2e-6)
    unreadable = [path.with_name(f"{path.stem}.unreadable.csv") for path in (out, single)]
    assert unreadable[0].read_bytes() == unreadable[1].read_bytes()


def test_predictions_are_those_of_a_single_process(
    ray: Any, small_run: Path, pictures: Path, single: Path, tmp_path: Path, vitrine_command: Command
) -> None:
    status, out, error = vitrine_command(
        "predict", small_run, pictures, "-o", tmp_path / "bulk.csv", "--probabilities", "--top", 2, "--batch-size", 4,
        "--precision", "fp32", "--engine", "ray", "--workers", 1, "--part-size", 8,
    )  # fmt: skip
    assert (status, out) == (0, "")
    assert_same(tmp_path / "bulk.csv", single)
    lines = error.splitlines()
    assert "40 predictions in" in lines[1] and "6 parts" in lines[1] and len(lines) == 5
    assert [line.split(":")[0] for line in lines[2:4]] == ["not readable"] * 2
    assert sorted(path.name for path in tmp_path.glob("bulk*")) == ["bulk.csv", "bulk.unreadable.csv"]


def test_ray_is_on_loopback_and_reports_to_nobody(ray: Any) -> None:
    assert ray.util.get_node_ip_address() == "127.0.0.1"
    (node,) = ray.nodes()
    assert node["NodeManagerAddress"] == "127.0.0.1"
    assert node["Resources"]["object_store_memory"] <= 256 << 20
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert not ray._private.worker.global_worker.node.address_info.get("webui_url")


@dataclass(frozen=True)
class SelfKillingJob(PredictJob):
    """Prediction whose worker is killed in the middle of a part: once, after two, with rows half written."""

    marker: str = ""

    def process(
        self, runner: Any, samples: Sequence[Sample], figures: Mapping[str, str] | None, rows: Path, loaders: int
    ) -> Sequence[tuple[str, str]]:
        if len([path for path in rows.parents[1].iterdir() if path.name.startswith("part-")]) >= 2:
            with contextlib.suppress(FileExistsError):
                Path(self.marker).touch(exist_ok=False)
                rows.write_bytes(b"filename,label,probab\nfirst.png,cro")
                os.kill(os.getpid(), signal.SIGKILL)
        return super().process(runner, samples, figures, rows, loaders)


@pytest.fixture
def by_value() -> Iterator[None]:
    """Classes of this file travel to workers, which cannot import it."""
    from ray import cloudpickle

    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    yield
    cloudpickle.unregister_pickle_by_value(module)


def test_a_worker_killed_in_the_middle_loses_and_doubles_no_row(
    ray: Any,
    by_value: None,
    small_run: Path,
    pictures: Path,
    single: Path,
    tmp_path: Path,
) -> None:
    job = SelfKillingJob(**vars(job_of(small_run)), marker=str(tmp_path / "killed"))
    result = predict_in_bulk(job, pictures, tmp_path / "bulk.csv", BulkSettings(part_size=4, workers=2))
    assert (tmp_path / "killed").exists(), "a worker was killed"
    assert (result.rows, result.unreadable_count, result.parts) == (40, 2, 11)
    assert_same(tmp_path / "bulk.csv", single)


def test_ctrl_c_leaves_finished_parts_and_nothing_of_ray(
    ray: Any, small_run: Path, pictures: Path, warm_python: str, tmp_path: Path
) -> None:
    """A command of its own, which starts Ray, is interrupted, says one line, and is continued."""
    (tmp_path / "many").mkdir()
    for number in range(320):
        (tmp_path / "many" / f"{number:04}.png").hardlink_to(pictures / "97.png")
    out, parts = tmp_path / "cut.csv", tmp_path / "cut.csv.parts"
    options = ["--batch-size", "8", "--precision", "fp32", "--engine", "ray", "--workers", "1", "--part-size", "16"]
    command = [warm_python, "-m", "vitrine", "predict", str(small_run), str(tmp_path / "many"), "-o", str(out)]
    environment = os.environ | {"TMPDIR": tempfile.mkdtemp(prefix="r-")}  # short: Ray's sockets lie below it
    process = subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    while process.poll() is None and len(manifest_lines(parts)) < 3:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, error = process.communicate()
    assert (process.returncode, output) == (130, ""), error
    hint, said = error.splitlines()  # and not a word of Ray's
    assert hint == f"Continue with: {shlex.join(['vitrine', *command[3:], *options, '--resume'])}"
    assert said == "vitrine: interrupted. What was finished is kept."
    Path(environment["TMPDIR"]).rmdir()  # empty: no folder of Ray's is left, and none of its workers'
    assert not out.exists()
    before = manifest_lines(parts)
    assert 3 <= len(before) < 20
    job = PredictJob(str(small_run), None, "fp32", batch_size=8, probabilities=False, top=0)
    settings = BulkSettings(part_size=16, workers=1)
    with pytest.raises(RunError, match="--resume"):
        predict_in_bulk(job, tmp_path / "many", out, settings)
    with pytest.raises(RunError, match=r"pictures.*differ"):
        predict_in_bulk(job, tmp_path / "many", out, replace(settings, part_size=8, resume=True))
    left: list[int] = []
    settings = replace(settings, resume=True)
    result = predict_in_bulk(job, tmp_path / "many", out, settings, lambda count, total: left.append(total - count))
    assert (result.rows, result.resumed_parts) == (320, len(before))
    assert len(left) == 20 - len(before) and left[-1] == 0, "what was done is not done again"
    predict(str(small_run), tmp_path / "many", tmp_path / "single.csv", batch_size=8, precision="fp32")
    assert out.read_bytes() == (tmp_path / "single.csv").read_bytes()


def test_a_killed_driver_is_continued_and_while_it_works_nobody_else_may(
    ray: Any, small_run: Path, pictures: Path, single: Path, warm_python: str, tmp_path: Path
) -> None:
    """It is held when it records a part: another command, by whichever engine, is refused. Then it is killed."""
    out = tmp_path / "work" / "out" / "bulk.csv"
    columns = ("predict", str(small_run), str(pictures), "--probabilities", "--top", "2", "--batch-size", "4")
    options = ("--precision", "fp32", "-o", "out/bulk.csv")
    by_ray = ("--engine", "ray", "--workers", "1", "--part-size", "4")
    by_ray = (*by_ray, "--ray-address", ray.get_runtime_context().gcs_address)
    case = VerbCase("ray", (*columns, *options, *by_ray), environment={"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"})
    runner = VerbRunner(warm_python, case)
    with runner.held(tmp_path / "work", change=7) as driver:
        for engine in ((), by_ray):
            status, error = runner.run(tmp_path / "work", "--resume", arguments=(*columns, *options, *engine))
            assert status == 2 and f"Another vitrine predict (process {process_of(driver.pid)} on " in error, error
        os.kill(process_of(driver.pid), signal.SIGKILL)
    assert driver.returncode == -9 and not out.exists()
    finished = manifest_lines(out.with_name("bulk.csv.parts"))
    assert 1 <= len(finished) < 11
    result = predict_in_bulk(job_of(small_run), pictures, out, BulkSettings(part_size=4, workers=1, resume=True))
    assert (result.rows, result.resumed_parts) == (40, len(finished))
    assert_same(out, single)
    assert sorted(path.name for path in out.parent.iterdir()) == ["bulk.csv", "bulk.unreadable.csv"]


def manifest_lines(parts: Path) -> list[str]:
    """The lines of finished parts in a manifest."""
    manifest = parts / "_manifest.jsonl"
    return manifest.read_text().splitlines()[1:] if manifest.exists() else []


def test_shards_into_parquet(
    ray: Any, small_run: Path, pictures: Path, single: Path, tmp_path: Path, vitrine_command: Command
) -> None:
    import pyarrow.dataset

    files = sorted(pictures.rglob("*.*"))
    (tmp_path / "shards").mkdir()
    for number in range(2):
        with tarfile.open(tmp_path / "shards" / f"s-{number}.tar", "w") as tar:
            for path in files[number::2]:
                tar.add(path, path.relative_to(pictures).as_posix().replace("/", "-"))
    status, out, error = vitrine_command(
        "predict", small_run, tmp_path / "shards", "-o", tmp_path / "p.parquet", "--batch-size", 4, "--precision",
        "fp32", "--engine", "ray", "--workers", 1, "--json",
    )  # fmt: skip
    assert status == 0, error
    result = json.loads(out)
    assert (result["rows"], result["unreadable_count"], result["parts"]) == (40, 2, 2)
    table = pyarrow.dataset.dataset(tmp_path / "p.parquet", format="parquet").to_table().to_pydict()
    labels = dict(zip(table["filename"], table["label"], strict=True))
    assert list(labels) == sorted(labels)
    expected = {row[0].replace("/", "-"): row[1] for row in rows(single)[1:]}
    assert {name.partition("/")[2]: label for name, label in labels.items()} == expected
    assert [row[0] for row in rows(tmp_path / "p.parquet" / "_unreadable.csv")[1:]] == sorted(
        row["name"] for row in result["unreadable"]
    )


def test_an_error_of_a_worker_is_one_line_of_the_person_s(
    ray: Any, small_run: Path, pictures: Path, tmp_path: Path, vitrine_command: Command
) -> None:
    for model, why in (("no/such", "no/such"), (small_run, "--workers 999")):
        status, out, error = vitrine_command(
            "predict", model, pictures, "-o", tmp_path / "p.csv", "--engine", "ray", "--workers", 999
        )
        assert (status, out) == (2, "") and why in error and len(error.splitlines()) <= 2, error
