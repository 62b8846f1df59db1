"""How often verdicts are right: writes benchmarks/VERDICTS.md, benchmarks/verdicts.json and the tables of docs/maps.md.

    python benchmarks/verdicts.py                    what `make verdicts` runs
    python benchmarks/verdicts.py --check            what `make verdicts-check` runs: fails where a rate got worse
    python benchmarks/verdicts.py --quick -o DIR     tiny sizes, to see that it runs; its figures say nothing
    python benchmarks/verdicts.py --only pictures    some sections, which replace their tables in the results

Maps whose truth is known (the object's own mask, random maps, maps of other pictures, models with shuffled weights) are
given to the verdicts, on generated scenes with masks, and what the verdicts say of them is counted.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import matplotlib as mpl
from harness.error_rates import RateResults, RateTable, worse_aims
from side_by_side.machine import about
from verdict_models import FULL, QUICK, VerdictSizes, Workplace

SECTIONS = {
    "pictures": "verdict_pictures",
    "sets": "verdict_sets",
    "intervals": "verdict_intervals",
    "words": "verdict_words",
}
"""The module of every section. It has a function ``measure(workplace: Workplace) -> Iterable[RateTable]``."""

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "maps.md"
HOW = """Written by `make verdicts`. Everything is measured on generated scenes, on models that are trained for it and
on copies of them whose weights are shuffled. An aim that is missed is written as missed."""


def main() -> None:
    """Parse, measure, write or compare."""
    options = _parser().parse_args()
    mpl.use("Agg")
    sizes, folder = (QUICK if options.quick else FULL), options.out or HERE
    results = folder / "verdicts.json"
    if options.check:
        sys.exit(_check(results, sizes, options.only or list(SECTIONS), options.models))
    made = run(sizes, options.only or list(SECTIONS), options.models)
    if options.only and results.is_file():
        made = _replace_sections(_read(results), made, options.only)
    folder.mkdir(parents=True, exist_ok=True)
    results.write_text(json.dumps(made.to_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "VERDICTS.md").write_text(_page(made), encoding="utf-8")
    if folder == HERE:
        PAGE.write_text(with_tables(PAGE.read_text("utf-8"), made), encoding="utf-8")
    print(_page(made))


def run(sizes: VerdictSizes, chosen: Iterable[str], models: Path | None) -> RateResults:
    """Measure some sections, one after the other."""
    began, tables = time.perf_counter(), list[RateTable]()
    with tempfile.TemporaryDirectory() as temporary:
        workplace = Workplace(sizes, models or Path(temporary))
        for name in chosen:
            minutes = (time.perf_counter() - began) / 60
            print(f"[{minutes:4.1f} min] {name} ...", file=sys.stderr, flush=True)
            tables += importlib.import_module(SECTIONS[name]).measure(workplace)
    return RateResults(about(), asdict(sizes), tables, (time.perf_counter() - began) / 60)


def with_tables(page: str, results: RateResults) -> str:
    """A page with the tables of every section between its marks, where it has such marks."""
    for name in SECTIONS:
        before, start, rest = page.partition(f"<!-- table {name}, written by `make verdicts` -->\n")
        _, end, after = rest.partition("<!-- end of table -->")
        if start and end:
            page = f"{before}{start}{results.section(name)}{end}{after}"
    return page


def _check(results: Path, sizes: VerdictSizes, chosen: Sequence[str], models: Path | None) -> int:
    if not results.is_file():
        print(f"There is no {results}: make it with 'make verdicts' and commit it.", file=sys.stderr)
        return 2
    before = _read(results)
    if before.settings != asdict(sizes):
        print(f"{results} was measured with other sizes: make it anew with 'make verdicts'.", file=sys.stderr)
        return 2
    now = run(sizes, chosen, models)
    worse = worse_aims(before.tables, now.tables)
    for sentence in worse:
        print(f"WORSE {sentence}")
    print(f"{sum(len(table.aims) for table in now.tables)} rates compared, {len(worse)} of them are worse.")
    return 1 if worse else 0


def _replace_sections(before: RateResults, made: RateResults, chosen: Sequence[str]) -> RateResults:
    """Earlier results with the tables of some sections measured anew, in the order of the sections."""
    if before.settings != made.settings:
        sys.exit("The results there were measured with other sizes: measure all sections anew, or give -o DIR.")
    tables = [*(table for table in before.tables if table.section not in chosen), *made.tables]
    order = list(SECTIONS)
    tables.sort(key=lambda table: order.index(table.section))
    return RateResults(made.machine, made.settings, tables, before.minutes)


def _page(results: RateResults) -> str:
    facts = ", ".join(f"{key} {value}" for key, value in (*results.machine.items(), *results.settings.items()))
    parts = [f"# How often verdicts are right\n\n{HOW}\n\n{facts}.\n"]
    parts += [f"## {name}\n\n{results.section(name)}" for name in SECTIONS if results.section(name)]
    return "\n".join(parts)


def _read(results: Path) -> RateResults:
    return RateResults.from_dict(json.loads(results.read_text("utf-8")))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare rates with the results that are there")
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--only", choices=tuple(SECTIONS), action="append", help="one section; may be repeated")
    parser.add_argument("--models", type=Path, metavar="DIR", help="keep the trained models here, and use those there")
    parser.add_argument("-o", "--out", type=Path, metavar="DIR", help="where the results are (default: benchmarks)")
    return parser


if __name__ == "__main__":
    main()
