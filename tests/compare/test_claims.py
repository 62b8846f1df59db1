"""From a sweep to what is said of it: its statements agree with scipy, its runs are verified or the reason is named."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy.stats import binomtest
from support.made_runs import run_verb

from vitrine.config import Recipe, named_transforms, recipe_to_toml
from vitrine.config.sweep import SweepRun
from vitrine.data.scenes import write_scenes
from vitrine.results import agree
from vitrine.sweep.run import SweepResult, sweep
from vitrine.sweep.worker import Failure
from vitrine.train.run import train

RATES, SEEDS = (1e-6, 1e-2, 5e-2), (0, 1)
RECIPE = Recipe(
    name="head",
    model="vitrine/scenes-tiny",
    tune="head",
    transforms=named_transforms("scenes"),
    batch_size=4,
    epochs=1,
    warmup_epochs=0.0,
    workers=0,
    precision="fp32",
)


class HereAndNow:
    """A training in this process, in place of :class:`vitrine.sweep.worker.RunProcess`."""

    failure: Failure | None = None

    def __init__(
        self, run: SweepRun, data: str, folder: Path, environment: Mapping[str, str], output: Path | None = None
    ) -> None:
        self.run, self.data, self.folder = run, data, folder

    def events(self) -> Iterator[Any]:
        train(self.data, self.run.recipe, self.folder, resume=True)
        yield from ()

    def stop(self) -> None: ...


@dataclass(frozen=True)
class Swept:
    data: Path
    out: Path
    result: SweepResult


@pytest.fixture(scope="module")
def sweep_run(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """Three learning rates with two seeds each, on few pictures."""
    folder = tmp_path_factory.mktemp("sweep")
    data = write_scenes(folder / "data", "base", {"train": 96, "validation": 60}, size=64)
    for split in ("train", "validation"):  # the head knows every class by its neighbour's name, and has to learn anew
        labels = sorted(each.name for each in (data / split).iterdir())
        for label in labels:
            (data / split / label).rename(data / split / f"{label}.old")
        for label, other in zip(labels, labels[1:] + labels[:1], strict=True):
            (data / split / f"{label}.old").rename(data / split / other)
    (folder / "base.toml").write_text(recipe_to_toml(RECIPE))
    (folder / "sweep.toml").write_text(
        f'data = "{data}"\nrecipe = "base.toml"\nseeds = {list(SEEDS)}\n[grid]\nlearning_rate = {list(RATES)}\n'
    )
    return Swept(data, folder / "out", sweep(folder / "sweep.toml", folder / "out", start=HereAndNow))


def rights(run: Path) -> dict[str, bool]:
    """Who is right, from the files alone."""
    data = json.loads((run / "data.json").read_text())
    true = {row["name"]: data["labels"][row["label"]] for row in data["splits"]["validation"]}
    with (run / "predictions.csv").open(newline="") as stream:
        return {row["filename"]: row["label"] == true[row["filename"]] for row in csv.DictReader(stream)}


def rejected_by_closed_testing(p_values: Sequence[float], level: float = 0.05) -> set[int]:
    """Holm's procedure as closed testing with Bonferroni: a hypothesis falls where every set that has it does."""
    count = len(p_values)
    rejections = set()
    for one in range(count):
        others = [i for i in range(count) if i != one]
        sets = ([one, *more] for size in range(count) for more in combinations(others, size))
        if all(min(p_values[i] for i in each) <= level / len(each) for each in sets):
            rejections.add(one)
    return rejections


def test_the_statements_are_those_of_scipy(sweep_run: Swept) -> None:
    comparison = sweep_run.result.comparison
    assert comparison is not None and not sweep_run.result.failures and len(comparison.rows) == len(RATES) * len(SEEDS)
    rights_by_run = {row.name: rights(sweep_run.out / row.name) for row in comparison.rows}
    for row in comparison.rows:
        assert row.accuracy == pytest.approx(np.mean(list(rights_by_run[row.name].values())), abs=1e-6)
    pairs = list(combinations(sorted(rights_by_run), 2))
    only = [
        tuple(
            sum(rights_by_run[a][name] and not rights_by_run[b][name] for name in rights_by_run[a])
            for a, b in (pair, pair[::-1])
        )
        for pair in pairs
    ]
    p_values = [binomtest(b, b + c).pvalue if b + c else 1.0 for b, c in only]
    settings = [{name.partition(",seed=")[0] for name in pair} for pair in pairs]
    rejections, corrected = set(), {}
    for is_of_seeds in (False, True):  # pairs that differ in nothing but their seed are a family of their own
        family = [i for i, names in enumerate(settings) if (len(names) == 1) == is_of_seeds]
        own_p = [p_values[i] for i in family]
        rejections |= {family[k] for k in rejected_by_closed_testing(own_p)}
        order = sorted(range(len(family)), key=own_p.__getitem__)
        steps = np.maximum.accumulate([(len(family) - rank) * own_p[k] for rank, k in enumerate(order)])
        corrected |= {family[k]: step for k, step in zip(order, steps, strict=True)}
    expected = {}
    for i, ((one, other), (b, c)) in enumerate(zip(pairs, only, strict=True)):
        expected[one, other] = expected[other, one] = (b, c, p_values[i], corrected[i], i in rejections)
    assert len(comparison.claims) == len(pairs) == 15
    for claim in comparison.claims:
        b, c, p, corrected_p, is_rejected = expected[claim.first, claim.second]
        b, c = (b, c) if (claim.first, claim.second) in pairs else (c, b)
        assert (claim.counts.first, claim.counts.second) == (b, c)
        assert claim.counts.p == pytest.approx(p, rel=1e-9)
        assert claim.corrected_p == pytest.approx(min(1.0, corrected_p), rel=1e-9)
        assert claim.verdict == ("undecided" if not is_rejected else "supported" if b > c else "not supported")
        if b + c:
            pictures = f"{b + c} of {len(rights_by_run[claim.first])} pictures {agree(b + c, 'decides', 'decide')}"
            assert (
                f"{pictures}: {b} only the first got right, {c} only the" in claim.sentence
                and f": {claim.verdict}" in claim.sentence
            )
    assert rejections, "a head that learnt and one that did not are told apart"


def test_what_seeds_say_together_is_what_each_says(sweep_run: Swept) -> None:
    comparison = sweep_run.result.comparison
    assert comparison is not None
    settings = {row.name: (row.settings["learning rate"], row.settings["seed"]) for row in comparison.rows}
    assert len(comparison.over_seeds) == 3
    for together in comparison.over_seeds:
        one, other = (float(part.split()[-1]) for part in together.setting.split(" is better than "))
        assert one < other, "the smaller number is said to be better, whatever came out"
        for seed in SEEDS:
            (claim,) = [
                c for c in comparison.claims if (settings[c.first], settings[c.second]) == ((one, seed), (other, seed))
            ]
            assert together.verdicts[seed] == claim.verdict
        verdicts = set(together.verdicts.values())
        assert together.verdict == (verdicts.pop() if len(verdicts) == 1 else "undecided")


@pytest.fixture
def run(sweep_run: Swept, tmp_path: Path) -> Path:
    """A copy of a run, on a copy of its pictures."""
    shutil.copytree(sweep_run.data, tmp_path / "data")
    run = Path(shutil.copytree(sweep_run.out / "learning_rate=0.05,seed=1", tmp_path / "run"))
    content = json.loads((run / "data.json").read_text())
    (run / "data.json").write_text(json.dumps(content | {"reference": str(tmp_path / "data")}))
    return run


def verify_as_json(run: Path, *options: object) -> tuple[int, list[str]]:
    """Exit status, and what differs."""
    from vitrine.cli.compare import verify as verb

    status, out = run_verb(verb, run, "--json", *options)
    content = json.loads(out)
    assert content["verified"] is (status == 0)
    return status, content["differs"]


def test_an_untouched_run_is_verified_and_each_change_is_named(run: Path, tmp_path: Path) -> None:
    assert verify_as_json(run) == (0, [])
    picture = sorted((tmp_path / "data" / "validation").rglob("*.*"))[7]
    before = picture.read_bytes()
    Image.open(picture).convert("RGB").rotate(180).save(picture)
    status, differs = verify_as_json(run)
    assert status == 1 and differs[0] == "validation pictures"
    assert set(differs[1:]) <= {"predictions"}, "what is said of the other picture may be another label"
    picture.write_bytes(before)

    weights = run / "model.safetensors"
    before, tensors = weights.read_bytes(), load_file(weights)
    tensors["blocks.0.attn.qkv.weight"][0, 0] += 1e-4
    save_file(tensors, weights, metadata={"format": "pt"})
    assert verify_as_json(run) == (1, ["weights"])
    weights.write_bytes(before)

    label = (run / "labels.txt").read_text().split("\n")[0]
    for split in ("train", "validation"):
        (tmp_path / "data" / split / label).rename(tmp_path / "data" / split / "renamed")
    assert verify_as_json(run) == (1, ["class names", "validation pictures", "training pictures"])
    for split in ("train", "validation"):
        (tmp_path / "data" / split / "renamed").rename(tmp_path / "data" / split / label)
    assert verify_as_json(run) == (0, []), "all is as it was"


def test_pairs_of_seeds_do_not_make_tests_of_settings_stricter() -> None:
    from types import SimpleNamespace

    from vitrine.compare.claims import compare_pairs

    rng = np.random.default_rng(0)

    def run(rate: float, seed: int) -> Any:
        outcomes = {"right": tuple(rng.random(80) < 0.4 + 100 * rate)}
        settings = {"learning_rate": rate, "seed": seed}
        return SimpleNamespace(
            name=f"{rate:g}-{seed}", kind="classifier", validation="v", settings=settings, outcomes=outcomes
        )

    claims = compare_pairs([run(rate, seed) for rate in (1e-3, 5e-3) for seed in (0, 1, 2)])
    families = {
        only_seeds: [c for c in claims if ([n for n, *_ in c.differs] == ["seed"]) == only_seeds]
        for only_seeds in (True, False)
    }
    for only_seeds, size in ((True, 6), (False, 9)):
        family = families[only_seeds]
        assert len(family) == size and {claim.tests for claim in family} == {size}
        by_rank = sorted(claim.counts.p for claim in family)
        bounds = [(size - rank) * p for rank, p in enumerate(by_rank)]
        for claim in family:  # the definition: the largest bound up to a value's own rank
            expected = min(1.0, max(bounds[: sum(p <= claim.counts.p for p in by_rank)]))
            assert claim.corrected_p == pytest.approx(expected)
