"""``vitrine sweep``: what a file asks for, and that nothing finished is lost or repeated, whatever happens."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from support.made_runs import made_run, run_verb

from vitrine.config import load_recipe, recipe_to_toml
from vitrine.config.recipe_rules import TrainingFacts, choose
from vitrine.config.sweep import SweepRun, load_sweep
from vitrine.errors import RecipeError, RunError, UsageError
from vitrine.io.files import to_json
from vitrine.runs.folder import RunFolder
from vitrine.sweep.run import RunEnded, RunStarted, plan, sweep
from vitrine.sweep.worker import Failure, environments

HEAD = 'data = "pets"\nrecipe = "scratch-tiny"\n'


def write_file(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def names(path: Path) -> list[str]:
    return [run.name for run in load_sweep(path).runs]


def test_a_grid_has_every_combination(tmp_path: Path) -> None:
    body = "seeds = [3, 1]\n[set]\nepochs = 7\ntransforms.flip = 0.25\n[grid]\nbatch_size = [16, 32]\n"
    body += 'pretrained = [false]\nmodel_args.depth = [2, 3]\ntune = ["last:2"]'
    sweep_file = load_sweep(write_file(tmp_path / "sweep.toml", HEAD + body))
    assert sweep_file.data == "pets" and len(sweep_file.runs) == 2 * 2 * 2
    assert sweep_file.runs[1].name == "batch_size=16,pretrained=no,model_args.depth=2,tune=last-2,seed=1"
    assert sweep_file.runs[-1].name == "batch_size=32,pretrained=no,model_args.depth=3,tune=last-2,seed=1"
    base = load_recipe("scratch-tiny")
    for run in sweep_file.runs:
        assert run.recipe.name == run.name and run.recipe.epochs == 7 and run.recipe.transforms.flip == 0.25
        assert (
            run.recipe.learning_rate == base.learning_rate
            and run.recipe.transforms.rotation == base.transforms.rotation
        )
    settings = {(r.recipe.batch_size, r.recipe.model_args["depth"], r.recipe.seed) for r in sweep_file.runs}
    assert settings == {(batch, depth, seed) for batch in (16, 32) for depth in (2, 3) for seed in (3, 1)}


def test_a_list_has_its_settings(tmp_path: Path) -> None:
    body = (
        '[[list]]\nname = "As it is"\n[[list]]\nbatch_size = 8\nlearning_rate = 3e-4\n[[list]]\ntransforms = "tfm1"\n'
    )
    sweep_file = load_sweep(write_file(tmp_path / "sweep.toml", HEAD + body))
    seed = load_recipe("scratch-tiny").seed
    assert [run.name for run in sweep_file.runs] == [
        f"As-it-is,seed={seed}",
        f"batch_size=8,learning_rate=0.0003,seed={seed}",
        f"transforms=tfm1,seed={seed}",
    ]
    assert sweep_file.runs[2].recipe.transforms.rotation == 20


def test_random_draws_are_those_of_their_seed(tmp_path: Path) -> None:
    body = (
        "[random]\ncount = {count}\nseed = {seed}\nbatch_size = [8, 16, 32]\nweight_decay = {{low = 0.0, high = 0.1}}\n"
        "learning_rate = {{low = 1e-5, high = 1e-1, log = true}}\nepochs = {{low = 2, high = 4, whole = true}}\n"
    )
    recipes = {}
    for count, seed in ((200, 0), (40, 0), (40, 1)):
        path = write_file(tmp_path / "sweep.toml", HEAD + body.format(count=count, seed=seed))
        recipes[count, seed] = [run.recipe for run in load_sweep(path).runs]
        assert names(path) == names(path)
    rates = [recipe.learning_rate for recipe in recipes[200, 0]]
    assert all(1e-5 <= rate <= 1e-1 and rate == float(f"{rate:.3g}") for rate in rates)
    assert 30 < sum(rate < 1e-4 for rate in rates) < 70, "a quarter of 200 in each of four decades"
    assert {recipe.epochs for recipe in recipes[200, 0]} == {2, 3, 4}
    assert {recipe.batch_size for recipe in recipes[200, 0]} == {8, 16, 32}
    assert all(0 <= recipe.weight_decay <= 0.1 for recipe in recipes[200, 0])
    assert recipes[200, 0][:40] == recipes[40, 0], "a larger count keeps the first ones"
    assert sum(a.learning_rate == b.learning_rate for a, b in zip(recipes[40, 0], recipes[40, 1], strict=True)) < 3


def test_folder_names_are_safe(tmp_path: Path) -> None:
    """No part of a path comes from a value, whatever it holds, and no two settings share a folder."""
    values = ["../../etc/passwd", "/tmp/a/w.safetensors", "/tmp/b/w.safetensors", "ü b\\c", ".hidden", "W.safetensors"]
    body = f"[grid]\npretrained = {json.dumps([*values, 'x' * 300])}\n"
    folder_names = names(write_file(tmp_path / "sweep.toml", HEAD + body))
    assert len({name.casefold() for name in folder_names}) == len(folder_names) == 7
    for name in folder_names:
        assert not set(name) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,=_+-")
        assert name[0].isalpha() and len(name) < 130 and Path(name).name == name
    assert folder_names[0] == "pretrained=passwd,seed=0"
    assert folder_names[1].startswith("pretrained=w.safetensors,") and folder_names[1] != folder_names[2]


def test_paths_are_looked_for_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "pets").mkdir()
    write_file(tmp_path / "own.toml", recipe_to_toml(load_recipe("scratch-tiny")).replace("epochs = ", "epochs = 1"))
    path = write_file(tmp_path / "sweep.toml", 'data = "pets"\nrecipe = "own.toml"\n[grid]\nbatch_size = [8]\n')
    sweep_file = load_sweep(path)
    assert sweep_file.data == str(tmp_path / "pets")
    assert sweep_file.runs[0].recipe.epochs == int(f"1{load_recipe('scratch-tiny').epochs}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[grid]\nepochs = [1]", "data is missing or no text"),
        (HEAD, r"one of \[grid\], \[\[list\]\] and \[random\], which says what varies; found none"),
        (HEAD + "[grid]\nepochs = [1]\n[random]\ncount = 3", "found grid and random"),
        (HEAD + "epochs = 3\n[grid]\nbatch_size = [1]", "there is no entry epochs; .* go under .set."),
        (HEAD + "[grid]\nepoch = [1]", "nearest name is epochs"),
        (HEAD + "[grid]\nepochs = [1, 0]", "epochs = 0 cannot be used"),
        (HEAD + "[grid]\nepochs = 3", "expected a list of values"),
        (HEAD + "[grid]\nepochs = [3, 3]", "is there twice"),
        (HEAD + "[grid]\nseed = [0, 1]", "seed cannot vary or be set: give seeds"),
        (HEAD + "seeds = [0, 0]\n[grid]\nepochs = [3]", "has one of them twice"),
        (HEAD + "seeds = [-1]\n[grid]\nepochs = [3]", "seeds = -1 cannot be used"),
        (HEAD + "[random]\nepochs = [3]", "random.count = None cannot be used"),
        (HEAD + "[random]\ncount = 2\nlearning_rate = {low = 1.0, high = 0.1}", "expected low below high"),
        (HEAD + "[random]\ncount = 2\nlearning_rate = 3", "expected a list of values, or"),
        (HEAD + "[list]\nepochs = 3", r"expected \[\[list\]\]"),
        ('data = "x"\nrecipe = "nope"\n[grid]\nepochs = [1]', "There is no recipe 'nope'"),
        ("data = ", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message) as error:
        load_sweep(write_file(tmp_path / "sweep.toml", text))
    assert len(str(error.value).splitlines()) <= 2
    with pytest.raises(RecipeError, match="cannot be read"):
        load_sweep(tmp_path / "nowhere.toml")


class FakeTraining:
    """A training that only writes the files, an epoch at a time; what it begins and finishes goes to ``log.jsonl``."""

    seconds = 0.0

    def __init__(
        self, run: SweepRun, data: str, folder: Path, environment: Mapping[str, str], output: Path | None = None
    ) -> None:
        self.run, self.data, self.run_folder = run, data, RunFolder(folder)
        self.failure: Failure | None = None
        self._log("begun")

    def _log(self, what: str) -> None:
        with (self.run_folder.path.parent / "log.jsonl").open("a") as stream:
            stream.write(json.dumps([what, self.run.name]) + "\n")

    def events(self) -> Iterator[Any]:
        folder, recipe = self.run_folder, self.run.recipe
        if recipe.batch_size == 666:
            self.failure = Failure("The loss became nan.\nTry a smaller learning rate.", "TrainingError")
            return
        if not folder.is_started:
            folder.start(recipe, ("cat", "dog"), {"reference": self.data, "splits": {}}, {})
        for epoch in range(len(folder.read_history()) + 1, recipe.epochs + 1):
            time.sleep(self.seconds)
            folder.append("history.jsonl", {"epoch": epoch, "best": True})
            folder.append("timings.jsonl", timing(epoch, 3.0, 1.0))
            yield epoch
        spare = folder.path.with_name(f"{folder.path.name}-spare")
        right = [i >= recipe.batch_size // 8 for i in range(40)]
        shutil.rmtree(spare, ignore_errors=True)  # a kill may have left a part of it
        made_run(spare, right, recipe=recipe, reference=self.data, epochs_run=recipe.epochs)
        for name in ("data.json", "config.json", "predictions.csv", "history.jsonl", "timings.jsonl"):
            folder.write(name, (spare / name).read_text())
        folder.write("metrics.json", (spare / "metrics.json").read_text())
        self._log("finished")

    def stop(self) -> None: ...


def timing(epoch: int, train: float, evaluation: float) -> dict[str, float]:
    seconds = {"train_seconds": train, "evaluation_seconds": evaluation}
    return {"epoch": epoch, **seconds, "pictures": 40, "peak_memory_mib": 100}


def log(out: Path, what: str) -> list[str]:
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [name for kind, name in rows if kind == what]


GRID = HEAD + "seeds = [0, 1]\n[set]\nepochs = 3\n[grid]\nbatch_size = {batches}\n"


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_failure_is_recorded_and_does_not_stop_the_rest(jobs: int, tmp_path: Path) -> None:
    path = write_file(tmp_path / "sweep.toml", GRID.format(batches="[8, 666, 160]"))
    out, events = tmp_path / "out", []
    result = sweep(path, out, jobs=jobs, report=events.append, start=FakeTraining)
    assert set(result.failures) == {"batch_size=666,seed=0", "batch_size=666,seed=1"} and len(result.trained_runs) == 4
    record = json.loads((out / "batch_size=666,seed=0" / "failed.json").read_text())
    assert record["error"].startswith("The loss became nan.") and record["kind"] == "TrainingError"
    assert sum(isinstance(event, RunStarted) for event in events) == 6
    assert sorted(e.name for e in events if isinstance(e, RunEnded) and e.failure) == sorted(result.failures)
    assert "Failed: batch_size=666,seed=0: The loss became nan." in result.text()
    assert result.comparison is not None
    assert [row.settings["batch"] for row in result.comparison.rows] == [8, 8, 160, 160], "by accuracy"
    assert (out / "comparison" / "accuracy.png").is_file() and (out / "sweep.toml").read_text() == path.read_text()
    claims = {claim.setting: dict(claim.verdicts) for claim in result.comparison.over_seeds}
    assert claims == {"batch 8 is better than batch 160": {0: "supported", 1: "supported"}}
    # Again: what is finished is skipped, what failed is tried once more.
    again = sweep(path, out, jobs=jobs, start=FakeTraining)
    assert again.trained_runs == () and len(again.skipped_runs) == 4 and set(again.failures) == set(result.failures)
    started_runs = log(out, "begun")
    assert {started_runs.count(name) for name in result.trained_runs} == {1} and started_runs.count(
        "batch_size=666,seed=1"
    ) == 2


def test_dry_run_lists_and_estimates(tmp_path: Path) -> None:
    path = write_file(tmp_path / "sweep.toml", GRID.format(batches="[8, 16, 32]"))
    out = tmp_path / "out"
    nothing = plan(path, out)
    assert nothing.estimate is None and not out.exists() and "not known before the first epoch" in nothing.text()
    sweep(path, out, start=FakeTraining)
    for name, files in (
        ("batch_size=16,seed=1", ("metrics.json",)),
        ("batch_size=32,seed=0", ("metrics.json", "history.jsonl")),
        ("batch_size=32,seed=1", ("metrics.json", "history.jsonl", "recipe.toml")),
    ):
        for file in files:
            (out / name / file).unlink()
    (out / "batch_size=8,seed=0" / "timings.jsonl").write_text(json.dumps(timing(1, 50.0, 10.0)) + "\n")
    schedule = plan(path, out, jobs=2)
    assert [(each.state, each.epochs) for each in schedule.runs] == [
        *[("finished", 3)] * 3,
        ("unfinished", 3),
        ("unfinished", 0),
        ("new", 0),
    ]
    assert schedule.estimate is not None
    assert (schedule.estimate.epochs, schedule.estimate.epoch_seconds, schedule.estimate.seconds) == (
        6,
        60.0,
        6 * 60 / 2,
    )
    assert (
        "About 3 min, if each of the 6 epochs" in schedule.text() and "3 of 6 runs are to be trained" in schedule.text()
    )
    with pytest.raises(UsageError, match="--jobs 0"):
        plan(path, out, jobs=0)


def test_fields_that_rules_choose_are_known_once_a_run_has_begun(tmp_path: Path) -> None:
    path = write_file(
        tmp_path / "sweep.toml", 'data = "pets"\nrecipe = "finetune"\n[grid]\nlearning_rate = [1e-3, 2e-3]\n'
    )
    unknown = plan(path, tmp_path / "out")
    assert [(each.total, each.left) for each in unknown.runs] == [(None, None)] * 2
    assert "0 of some" in unknown.text() and "is not known before" in unknown.text()

    for number, each in enumerate(unknown.runs):  # as a training begins: with the values that the rules chose then
        facts = TrainingFacts(3_000, 10, 384, 12, 197, True, False, 10**12)
        recipe, _ = choose(each.run.recipe, facts)
        assert recipe.learning_rate == (1e-3, 2e-3)[number], "what the sweep varies is no rule's"
        each.folder.mkdir(parents=True)
        folder = RunFolder(each.folder)
        folder.start(recipe, ("cat", "dog"), {"reference": unknown.data, "splits": {}}, {})
        folder.append("history.jsonl", {"epoch": 1, "best": True})
        folder.append("timings.jsonl", timing(1, 3.0, 1.0))
    begun = plan(path, tmp_path / "out")
    assert [(each.total, each.left, each.state) for each in begun.runs] == [(10, 9, "unfinished")] * 2
    assert begun.estimate is not None and begun.estimate.epochs == 18


def test_another_sweep_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    path, out = tmp_path / "sweep.toml", tmp_path / "out"
    sweep(write_file(path, GRID.format(batches="[8]")), out, start=FakeTraining)
    started_runs = log(out, "begun")
    for change, message in (("epochs = 3", "epochs was 3, now 4"), ('"pets"', "on other data: pets, now dogs")):
        text = path.read_text()
        write_file(path, text.replace(change, {"epochs = 3": "epochs = 4", '"pets"': '"dogs"'}[change]))
        with pytest.raises(RunError, match=message):
            sweep(path, out, start=FakeTraining)
        write_file(path, text)
    assert log(out, "begun") == started_runs


def test_a_run_in_use_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vitrine.sweep import run as sweeping

    monkeypatch.setattr(sweeping, "wait_until_free", lambda folder: sweep_free(folder, 0.0))
    path, out = write_file(tmp_path / "sweep.toml", GRID.format(batches="[8]")), tmp_path / "out"
    with RunFolder(out / "batch_size=8,seed=0").lock():
        result = sweep(path, out, start=FakeTraining)
    assert result.trained_runs == ("batch_size=8,seed=1",)
    assert "in use by another training" in result.failures["batch_size=8,seed=0"].error
    assert not (out / "batch_size=8,seed=0" / "failed.json").exists(), "it did not fail"
    assert sweep(path, out, start=FakeTraining).trained_runs == ("batch_size=8,seed=0",)


def sweep_free(folder: Path, patience: float) -> bool:
    from vitrine.sweep.worker import wait_until_free

    return wait_until_free(folder, patience)


class Slow(FakeTraining):
    seconds = 0.02


def slow_sweep(path: Path, out: Path, jobs: int) -> None:
    sweep(path, out, jobs=jobs, start=Slow)


@pytest.mark.skipif(sys.platform != "linux", reason="a process is forked, which is safe on Linux only")
def test_killed_five_times(tmp_path: Path) -> None:
    """At moments drawn anew each time: what was finished before a kill is never touched or begun again; at the end all
    is there. Each sweep but one gets some trainings further before its moment is drawn, so that the kills go on to meet
    another state."""
    path = write_file(tmp_path / "sweep.toml", GRID.format(batches="[8, 16, 24, 32, 40, 48, 56, 64]"))
    out, source = tmp_path / "out", random.SystemRandom()
    context = multiprocessing.get_context("fork")
    finish_times: dict[str, int] = {}
    moments, started_count = [], 0
    for kill, lines in enumerate((3, 0, 2, 3, 2)):
        lines_before = count_log_lines(out)
        process = context.Process(target=slow_sweep, args=(path, out, 1 + kill % 2))
        process.start()
        while process.is_alive() and count_log_lines(out) < lines_before + lines:
            time.sleep(0.001)
        moments.append(source.uniform(0, 0.08))
        time.sleep(moments[-1])
        process.kill()
        process.join()
        before, finish_times = finish_times, {file.parent.name: file.stat().st_mtime_ns for file in metrics_files(out)}
        assert before.items() <= finish_times.items(), f"nothing finished is lost or written again: {moments}"
        started_runs = log(out, "begun")
        assert not set(started_runs[started_count:]) & before.keys(), f"nor begun again: {moments}"
        started_count = len(started_runs)
    assert 0 < len(finish_times) < 16, f"the kills came too early or too late to test anything: {len(finish_times)}"
    result = sweep(path, out, jobs=2, start=Slow)
    assert set(result.skipped_runs) == set(finish_times) and len(result.trained_runs) == 16 - len(finish_times)
    end_times = {file.parent.name: file.stat().st_mtime_ns for file in metrics_files(out)}
    assert finish_times.items() <= end_times.items() and len(end_times) == 16
    started_runs = log(out, "begun")
    assert all(
        started_runs.count(name) == 1 for name in result.trained_runs if name not in started_runs[:started_count]
    ), "none is begun twice"
    assert all(len(RunFolder(file.parent).read_history()) == 3 for file in metrics_files(out))
    assert result.comparison is not None and len(result.comparison.rows) == 16


@pytest.mark.skipif(sys.platform != "linux", reason="a process is forked, which is safe on Linux only")
def test_a_real_sweep_killed_while_it_trains(
    small_run: Path, small_scenes: Path, warm_python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With real trainings: a finished run stays as it was, the killed one ends to the same byte as one that vitrine
    train does, and one that cannot be built is recorded without stopping the others."""
    monkeypatch.setattr(sys, "executable", warm_python)
    write_file(tmp_path / "micro.toml", (small_run / "recipe.toml").read_text())
    body = f'data = "{small_scenes}"\nrecipe = "micro.toml"\n[[list]]\nname = "short"\nepochs = 1\n'
    body += '[[list]]\nname = "micro"\n[[list]]\nname = "broken"\nmodel_args.num_heads = 3\n'
    path, out = write_file(tmp_path / "sweep.toml", body), tmp_path / "out"
    short, micro, broken = (out / f"{name},seed=0" for name in ("short", "micro", "broken"))
    process = multiprocessing.get_context("fork").Process(target=sweep, args=(path, out))
    process.start()
    while process.is_alive() and not (micro / "recipe.toml").exists():
        time.sleep(0.002)
    time.sleep(random.SystemRandom().uniform(0, 0.3))
    process.kill()
    process.join()
    assert process.exitcode == -9 and (short / "metrics.json").exists()
    before = {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in short.iterdir() if file.is_file()}
    result = sweep(path, out, jobs=2)
    assert result.skipped_runs[:1] == (short.name,) and set(result.failures) == {broken.name}
    assert {*result.skipped_runs, *result.trained_runs} == {short.name, micro.name}
    assert before == {f.name: (f.stat().st_mtime_ns, f.read_bytes()) for f in short.iterdir() if f.is_file()}
    for name in ("predictions.csv", "history.jsonl", "model.safetensors"):
        assert (micro / name).read_bytes() == (small_run / name).read_bytes(), name
    record = json.loads((broken / "failed.json").read_text())
    assert record["error"] and "heads" in record["error"] + record["traceback"]
    assert to_json(record) == (broken / "failed.json").read_text()


def count_log_lines(out: Path) -> int:
    """Trainings that were begun or finished."""
    return len((out / "log.jsonl").read_text().splitlines()) if (out / "log.jsonl").exists() else 0


def metrics_files(out: Path) -> list[Path]:
    return [file for file in out.glob("*/metrics.json") if not file.parent.name.endswith("-spare")]


def test_an_interruption_stops_the_trainings(tmp_path: Path) -> None:
    path, stopped_runs = write_file(tmp_path / "sweep.toml", GRID.format(batches="[8, 16]")), []

    class Endless(FakeTraining):
        def events(self) -> Iterator[Any]:
            while not stopped_runs:
                time.sleep(0.01)
                yield 1
            self.failure = Failure("The training was ended by SIGKILL.", "Killed")

        def stop(self) -> None:
            stopped_runs.append(self.run.name)

    def interrupt(event: object) -> None:
        if not isinstance(event, RunStarted) and (tmp_path / "out" / "log.jsonl").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(path, tmp_path / "out", report=interrupt, start=Endless)
    assert stopped_runs == ["batch_size=8,seed=0"]
    time.sleep(0.1)
    assert not list((tmp_path / "out").glob("*/failed.json")), "it was interrupted, not failed"


def test_each_job_has_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert environments(1) == [{}] and environments(3) == [{"OMP_NUM_THREADS": "2"}] * 3
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [each["CUDA_VISIBLE_DEVICES"] for each in environments(3)] == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, GPU-abc")
    assert [each["CUDA_VISIBLE_DEVICES"] for each in environments(2)] == ["5", "GPU-abc"]


def test_the_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vitrine.cli.compare import sweep as verb
    from vitrine.sweep import run as sweeping

    def fake_sweep(file: Path, out: Path, **options: Any) -> sweeping.SweepResult:
        return sweep(file, out, **options, start=FakeTraining)

    monkeypatch.setattr(sweeping, "sweep", fake_sweep)
    path, out = write_file(tmp_path / "sweep.toml", GRID.format(batches="[8, 16]")), tmp_path / "out"
    status, output = run_verb(verb, path, "-o", out, "--dry-run")
    assert status == 0 and "4 of 4 runs are to be trained" in output and not out.exists()
    status, output = run_verb(verb, path, "-o", out, "--jobs", 2)
    assert status == 0 and "4 runs trained, 0 finished before, 0 failed." in output
    assert "batch 8 is better than batch 16: undecided over 2 seeds" in output
    status, output = run_verb(verb, path, "-o", out, "--dry-run", "--json")
    assert {run["state"] for run in json.loads(output)["runs"]} == {"finished"}
    failing = write_file(tmp_path / "failing.toml", GRID.format(batches="[8, 666]"))
    status, output = run_verb(verb, failing, "-o", out, "--json")
    assert status == 1 and set(json.loads(output)["failed"]) == {"batch_size=666,seed=0", "batch_size=666,seed=1"}


def test_a_killed_training_is_a_failure_and_does_not_outlive_the_sweep(
    warm_python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vitrine.sweep.worker import RunProcess

    monkeypatch.setattr(sys, "executable", warm_python)

    run = load_sweep(write_file(tmp_path / "sweep.toml", GRID.format(batches="[8]"))).runs[0]
    process = RunProcess(run, "scenes:base", tmp_path / "run", {}, tmp_path / "log.txt")
    os.kill(process._process.pid, 9)
    assert list(process.events()) == []
    assert process.failure is not None and "ended by SIGKILL; often memory runs out" in process.failure.error
    process = RunProcess(run, "scenes:base", tmp_path / "run", {}, tmp_path / "log.txt")
    assert process._process.stdin is not None
    process._process.stdin.close()  # as at the end of the sweep
    assert process._process.wait(30) == 1
