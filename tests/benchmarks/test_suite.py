"""The benchmark suite's judgement: what is a regression, what grows how fast, what a billion pictures cost."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch
from harness.arithmetic import forward_operations
from harness.rounds import Spread, alternate
from harness.rows import Results, Row
from support.paths import CHECKOUT

from vitrine.models.load import load_model

BENCHMARKS = CHECKOUT / "benchmarks"
PACKAGES = ("transformers", "pytorch_pretrained_vit")


@pytest.fixture(scope="module")
def scripts() -> Iterator[None]:
    """The scripts can be imported, as where one of them runs."""
    for package in PACKAGES:
        pytest.importorskip(package, reason=f"the benchmarks compare with {package}, of the extra [bench]")
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture
def suite(scripts: None) -> ModuleType:
    import suite

    return suite


def results(sizes: object, **beside: float) -> Results:
    import suite

    ratios = {peer: Spread(value, value, value) for peer, value in beside.items()}
    row = Row("maps", "a map", "pictures/s", Spread(1.0, 1.0, 1.0), "equal", ratios)
    return Results(suite.about(), asdict(sizes), (row,), 1.0)  # type: ignore[call-overload]


def check(suite: ModuleType, folder: Path, before: float, now: list[float], monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit status where a ratio was ``before`` and is what ``now`` says, one measurement after the other."""
    file = folder / "results.json"
    file.write_text(json.dumps(results(suite.FULL, peer=before).to_dict()))
    again = iter(now)
    monkeypatch.setattr(suite, "run", lambda sizes, chosen: results(sizes, peer=next(again)))
    status: int = suite._check(file, suite.FULL, ("maps",))
    return status


def test_a_ratio_that_fell_fails_unless_a_second_look_says_otherwise(
    suite: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(suite, tmp_path, 4.0, [3.5], monkeypatch) == 0
    assert check(suite, tmp_path, 4.0, [3.3, 3.9], monkeypatch) == 0
    assert "1 ratios compared, 0 of them fell" in capsys.readouterr().out
    assert check(suite, tmp_path, 4.0, [3.3, 3.2], monkeypatch) == 1
    assert "REGRESSION maps: a map, times peer: 4.00 before, 3.30 now" in capsys.readouterr().out


def test_another_kind_of_processor_is_told_and_is_no_regression(
    suite: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def of(gain: float) -> Results:
        made = results(suite.FULL, peer=2.0)
        ratios = {"matrix product, fp32": Spread(gain, gain, gain)}
        product = Row("arithmetic: matrix rate", "product, bf16", "Gop/s", Spread(1.0, 1.0, 1.0), "equal", ratios)
        return Results(made.machine, made.settings, (*made.rows, product), 1.0)

    file = tmp_path / "results.json"
    file.write_text(json.dumps(of(4.0).to_dict()))
    for gain, told in ((2.0, True), (3.9, False)):
        monkeypatch.setattr(suite, "run", lambda sizes, chosen, gain=gain: of(gain))
        assert suite._check(file, suite.FULL, ("maps",)) == 0
        assert ("was 4 times as fast" in capsys.readouterr().err) == told


def test_only_results_of_the_same_sizes_are_compared(
    suite: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert suite._check(tmp_path / "results.json", suite.FULL, ("maps",)) == 2
    (tmp_path / "results.json").write_text(json.dumps(results(suite.QUICK, peer=1.0).to_dict()))
    assert suite._check(tmp_path / "results.json", suite.FULL, ("maps",)) == 2
    assert capsys.readouterr().err.count("make bench") == 2


def test_sections_measured_anew_replace_their_rows(suite: ModuleType) -> None:
    before = results(suite.FULL, peer=1.0)
    other = Row("captions", "a caption", "captions/s", Spread(1.0, 1.0, 1.0), "equal")
    both = Results(before.machine, before.settings, (*before.rows, other), 9.0)
    made = suite._replaced(both, results(suite.FULL, peer=2.0), suite.FULL)
    assert [(row.section, *[s.median for s in row.ratios.values()]) for row in made.rows] == [
        ("captions",),
        ("maps", 2.0),
    ]


def test_rows_of_a_gpu_stand_beside_those_of_the_processor(suite: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    from side_by_side import sections

    assert suite.chosen_sections(["maps", "loader"], None) == ["maps", "loader"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert suite.chosen_sections(["maps", "loader"], None) == ["maps", "maps, cuda", "loader"]
    assert suite.chosen_sections(["maps", "loader"], "cuda") == ["maps, cuda"]
    asked: list[str] = []

    def section(sizes: object, device: str) -> Iterator[Row]:
        asked.append(device)
        yield Row("attention maps", "a map", "pictures/s", Spread(1.0, 1.0, 1.0), "equal")

    keys = [row.key for row in sections.on_cuda(section)(suite.QUICK)]
    assert (asked, keys) == (["cuda"], ["attention maps, CUDA: a map"])
    monkeypatch.undo()
    processor = Results({}, {}, tuple(section(suite.QUICK, "cpu")), 1.0)
    other = replace(processor, rows=tuple(sections.on_cuda(section)(suite.QUICK)))
    kept = suite._replaced(replace(processor, settings=asdict(suite.FULL)), other, suite.FULL)
    assert [row.section for row in kept.rows] == ["attention maps", "attention maps, CUDA"]


@pytest.mark.parametrize("name", ["rivals", "epochs", "maps", "captions"])
def test_a_section_runs_on_the_device_that_it_is_given(
    suite: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the code that a GPU takes; names and sections of the processor's rows are those that are committed."""
    import attention
    from side_by_side import sections

    monkeypatch.setattr(attention, "peak_of", lambda *_: 1)  # processes of their own
    monkeypatch.setattr(sections, "peak_mib", lambda *_: 1)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda *_, **__: None)  # tens of seconds, of torch's own code
    monkeypatch.setattr(sections, "alternate", partial(alternate, warm_up=0))  # nobody reads how fast it was
    committed = json.loads((BENCHMARKS / "results.json").read_text())["rows"]
    sizes = replace(suite.QUICK, caption_image=64, words=2, beams=suite.FULL.beams)
    rows = list(sections.SECTIONS[name](sizes, "cpu"))  # type: ignore[call-arg]
    assert {row.section for row in rows} <= {row["section"] for row in committed}
    known = {(row["section"], row["name"].split(",")[0]) for row in committed}
    assert {(row.section, row.name.split(",")[0]) for row in rows if "batch of" not in row.name} <= known
    assert all(row.check for row in rows) and any(row.ratios for row in rows)


def test_exponents_are_those_of_a_power_law(scripts: None) -> None:
    import growth

    sizes = (10, 100, 1000)
    assert growth.exponent(sizes, [3 * n**1.5 for n in sizes]) == pytest.approx(1.5)
    found = growth.Growth(growth.AXES["size"], sizes, tuple(2.0 * n for n in sizes), (5.0, 5.0, 5.0), ("equal",))
    assert (found.time_exponent, found.memory_exponent) == pytest.approx((1.0, 0.0))
    assert "exponent 1.00 (its work: at most 4)" in found.told()


@pytest.mark.parametrize("name", ["pictures", "classes"])
def test_every_point_checks_what_it_times(scripts: None, name: str, tmp_path: Path) -> None:
    import growth

    steps = growth.POINTS[name](12, tmp_path)
    assert next(steps) == ""
    assert next(steps).endswith(".")


def test_both_position_figures_are_of_the_same_numbers(
    scripts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import positions

    figures = positions.Figures(4, 16, tmp_path)
    assert "all 16 patches" in figures.check()
    assert (figures.ours(), figures.subplots()) == (1, 1)
    monkeypatch.setattr(positions.Figures, "similarity_of", lambda self, row, column: torch.zeros(4, 4).numpy())
    with pytest.raises(SystemExit, match="Nothing was timed"):
        figures.check()


def test_every_verb_s_start_is_timed(scripts: None, tmp_path: Path) -> None:
    import startup

    names = startup.Starts(tmp_path).commands
    assert {f"{verb} --help" for verb in ("train", "predict", "caption", "verify")} <= set(names)


def test_what_a_billion_pictures_cost(scripts: None) -> None:
    """Worked out by hand: 100 a second computed and 2 x 100 decoded is 66.7 in turn, 100 side by side."""
    import billion

    alone = billion.cost(billion.Machine("cpu", 100.0, 2), pictures=360_000, decode=100.0)
    assert alone.rate == pytest.approx(200 / 3) and alone.hours == pytest.approx(1.5)
    beside = billion.cost(billion.Machine("gpu", 100.0, 2, gpus=1), pictures=360_000, decode=100.0)
    assert (beside.rate, beside.hours) == (100.0, 1.0)
    starved = billion.cost(billion.Machine("gpu", 900.0, 2, gpus=1), pictures=360_000, decode=100.0)
    assert starved.rate == 200.0
    assert billion.on_paper(0.5, 100.0, 5.0) == 10.0


def test_the_operations_of_a_picture_that_costs_are_computed_with(scripts: None) -> None:
    with torch.device("meta"):
        module = load_model("vit_base_patch16_224", pretrained=False).module
    assert forward_operations(module, 224, 224) == pytest.approx(35.1e9, rel=0.01)
