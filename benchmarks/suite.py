"""Everything that is measured, in one run: writes benchmarks/RESULTS.md and benchmarks/results.json.

    python benchmarks/suite.py                    what `make bench` runs: about a quarter of an hour on two cores
    python benchmarks/suite.py --check            what `make bench-check` runs: ratios now beside the committed ones
    python benchmarks/suite.py --quick -o DIR     tiny sizes, to see that it runs; its figures say nothing
    python benchmarks/suite.py --only maps        some sections, which replace their rows in the results

What is measured, and how, is in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import matplotlib as mpl
import torch
from harness.classifier_rows import MATRIX_RATE
from harness.rows import Regression, Results, Row, regressions
from side_by_side.machine import DEVICES, about
from side_by_side.sections import CUDA_SECTIONS, FULL, QUICK, RATIO_SECTIONS, SECTIONS, Sizes

_ANOTHER_KIND = 0.15
HERE = Path(__file__).parent
HOW = """Written by `make bench`; [how it is measured](README.md). Medians over rounds with the lowest and the highest.
Tools alternate in one process, ratios are taken round by round, and nothing is timed before its outputs were compared.
Ratios carry over to machines of the same kind; times do not."""


def main() -> None:
    """Parse, measure, write or compare."""
    options = _parser().parse_args()
    mpl.use("Agg")
    sizes = QUICK if options.quick else FULL
    results = HERE / "results.json" if options.out is None else options.out / "results.json"
    if options.check:
        sys.exit(_check(results, sizes, chosen_sections(options.only or RATIO_SECTIONS, options.device)))
    chosen = chosen_sections(options.only or list(SECTIONS), options.device)
    made = run(sizes, chosen)
    if (options.only or options.device) and results.is_file():
        made = _replaced(_read(results), made, sizes)
    results.parent.mkdir(parents=True, exist_ok=True)
    results.write_text(json.dumps(made.to_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    page = made.page("Benchmarks", HOW)
    results.with_name("RESULTS.md").write_text(page, encoding="utf-8")
    print(page)
    print(f"Written: {results.with_name('RESULTS.md')} and {results}; {made.minutes:.1f} minutes.", file=sys.stderr)


def run(sizes: Sizes, chosen: Iterable[str]) -> Results:
    """Measure some sections, one after the other; their names with ``, cuda`` are those on a GPU."""
    began = time.perf_counter()
    rows: list[Row] = []
    for name in chosen:
        minutes = (time.perf_counter() - began) / 60
        print(f"[{minutes:4.1f} min] {name} ...", file=sys.stderr, flush=True)
        rows += (SECTIONS | CUDA_SECTIONS)[name](sizes)
    return Results(about(), asdict(sizes), tuple(rows), (time.perf_counter() - began) / 60)


def _check(results: Path, sizes: Sizes, chosen: Sequence[str]) -> int:
    """Compare ratios with the committed ones. What fell is measured once more, and the better of both counts."""
    if not results.is_file():
        print(f"There is no {results}: make it with 'make bench' and commit it.", file=sys.stderr)
        return 2
    before = _read(results)
    if _stored(before.settings) != _stored(asdict(sizes)):
        print(f"{results} was measured with other sizes: make it anew with 'make bench'.", file=sys.stderr)
        return 2
    if _stored(before.machine) != _stored(about()):
        print("The committed results are of another machine or other versions; ratios may differ.", file=sys.stderr)
    now = run(sizes, chosen)
    there, here = _bf16_gain(before), _bf16_gain(now)
    if there and here and abs(here / there - 1) > _ANOTHER_KIND:
        print(
            f"Another kind of processor: a matrix product in bf16 was {there:.2g} times as fast as in float32 there, "
            f"and is {here:.2g} times here. What runs in bf16 beside float32 moves with that.",
            file=sys.stderr,
        )
    fell = _fell(before, now)
    if fell:
        print("Measured once more: " + "; ".join(map(str, fell)), file=sys.stderr)
        fell = _both(fell, _fell(before, run(sizes, chosen)))
    for each in fell:
        print(f"REGRESSION {each}")
    compared = sum(len(row.ratios) for row in now.rows)
    print(f"{compared} ratios compared, {len(fell)} of them fell by more than 15 %.")
    return 1 if fell else 0


def _fell(before: Results, now: Results) -> list[Regression]:
    """Regressions of vitrine's own work: the matrix product is the machine's."""
    return [each for each in regressions(before, now) if MATRIX_RATE not in each.key]


def _bf16_gain(results: Results) -> float | None:
    """How many times as fast as in float32 a matrix product is in bf16."""
    found = [ratio.median for row in results.rows if MATRIX_RATE in row.section for ratio in row.ratios.values()]
    return found[0] if found else None


def chosen_sections(only: Sequence[str], device: str | None) -> list[str]:
    """Sections by name, each followed by itself on a GPU where there is one and it can be; or those of one device."""
    devices = DEVICES if torch.cuda.is_available() else ("cpu",)
    known = SECTIONS | CUDA_SECTIONS
    asked = [device] if device is not None else devices
    names = [name if each == "cpu" else f"{name}, {each}" for name in only for each in asked]
    return [name for name in names if name in known]


def _both(first: Sequence[Regression], second: Sequence[Regression]) -> list[Regression]:
    again = {(each.key, each.beside) for each in second}
    return [each for each in first if (each.key, each.beside) in again]


def _replaced(before: Results, made: Results, sizes: Sizes) -> Results:
    """Earlier results with the rows of some sections measured anew."""
    if _stored(before.settings) != _stored(asdict(sizes)):
        sys.exit("The results there were measured with other sizes: measure all sections anew, or give -o DIR.")
    fresh = {row.section for row in made.rows}
    kept = [row for row in before.rows if row.section not in fresh]
    return Results(made.machine, made.settings, (*kept, *made.rows), before.minutes)


def _stored(facts: Mapping[str, object]) -> object:
    """As JSON gives it back: tuples become lists."""
    return json.loads(json.dumps(dict(facts)))


def _read(results: Path) -> Results:
    return Results.from_dict(json.loads(results.read_text("utf-8")))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare ratios with the results that are there")
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--only", choices=tuple(SECTIONS), action="append", help="one section; may be repeated")
    parser.add_argument("--device", choices=DEVICES, help="rows of one (default: cpu, and cuda where there is one)")
    parser.add_argument("-o", "--out", type=Path, metavar="DIR", help="where the results are (default: benchmarks)")
    return parser


if __name__ == "__main__":
    main()
