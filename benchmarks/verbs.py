"""What people wait for: every verb's time and memory on small real work, and what takes them.

    python benchmarks/verbs.py                    all verbs, about five minutes on two idle cores
    python benchmarks/verbs.py --only compare     some verbs; may be repeated
    python benchmarks/verbs.py --against DIR      beside another checkout's src/, by turns
    python benchmarks/verbs.py --write            its rows into the table of docs/speed.md
    python benchmarks/verbs.py --json

What is measured, and how, is in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vitrine.io.resumable_csv import csv_row

HERE = Path(__file__).parent
SOURCE = HERE.parent / "src"
PAGE = HERE.parent / "docs" / "speed.md"
_START, _END = "<!-- verbs, written by `python benchmarks/verbs.py --write` -->\n", "<!-- end of verbs -->"
PARTS = ("imports", "opening", "reading", "computing", "drawing", "writing")
MANY = 500
_SWEEP = """data = "{data}"
recipe = "scenes-tiny"
seeds = [0]

[set]
epochs = 1

[grid]
learning_rate = [1e-3, 2e-3]
"""


@dataclass(frozen=True)
class Waiting:
    """One verb's process, seconds.

    Attributes:
        wall: by the clock, from its start to its end; of ``serve``, to its first answer.
        processor: of all its processes and threads.
        parts: of the clock, by :data:`PARTS`; what is left of ``wall`` is the interpreter's start and end.
        places: shares of the processor's time, the largest three first: functions, and packages that are imported.
        peak_mib: its largest resident set.
    """

    wall: float
    processor: float
    parts: Mapping[str, float]
    places: Mapping[str, float]
    peak_mib: float


@dataclass(frozen=True)
class Inputs:
    """What the verbs work on, made once: pictures, a run on them, and a folder of many runs."""

    folder: Path
    pictures: Path
    run: Path
    many: Path


def make_inputs(folder: Path, many: int, source: Path = SOURCE) -> Inputs:
    """Scenes in class folders, a run of one epoch by ``source``, and copies with other recipes and predictions."""
    from vitrine.data.scenes import write_scenes

    pictures = write_scenes(folder / "pictures", "new", {"train": 240, "validation": 120, "test": 60})
    run = folder / "runs" / "run0"
    train = ["train", pictures, "-o", run, "--recipe", "scenes-tiny", "--set", "epochs=1"]
    subprocess.run(command_of(train), check=True, capture_output=True, env=environment(source))
    for seed in (1, 2):
        copy_run(run, folder / "runs" / f"run{seed}", seed)
    for seed in range(many):
        copy_run(run, folder / "many" / f"run{seed:03}", seed, weights=False)
    (folder / "sweep.toml").write_text(_SWEEP.format(data=pictures))
    return Inputs(folder, pictures, run, folder / "many")


def copy_run(run: Path, copy: Path, seed: int, *, weights: bool = True) -> None:
    """A run as another training of the recipe would have left it: seed, learning rate, and some other labels."""
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("*.png", *([] if weights else ["*.safetensors"])))
    if not weights:
        (copy / "model.safetensors").hardlink_to(run / "model.safetensors")
    recipe = tomllib.loads((copy / "recipe.toml").read_text())
    lines = (copy / "recipe.toml").read_text().splitlines()
    changed = {"seed": f"{seed % 5}", "learning_rate": f"{recipe['learning_rate'] * (1 + seed // 5) / 10}"}
    kept = [line for line in lines if line.partition(" =")[0] not in changed]
    (copy / "recipe.toml").write_text("\n".join([*(f"{k} = {v}" for k, v in changed.items()), *kept]) + "\n")
    _change_predictions(copy, random.Random(seed))


def _change_predictions(copy: Path, chance: random.Random) -> None:
    """One label in ten is another; metrics.json says so."""
    data = json.loads((copy / "data.json").read_text())
    labels = data["labels"]
    true = {row["name"]: labels[row["label"]] for row in data["splits"]["validation"]}
    header, *rows = (line.split(",") for line in (copy / "predictions.csv").read_text().splitlines())
    place = header.index("label")
    for row in rows:
        row[place] = chance.choice(labels) if chance.random() < 0.1 else row[place]
    table = [header, *rows]
    (copy / "predictions.csv").write_bytes(b"".join(csv_row(row) for row in table))
    metrics = json.loads((copy / "metrics.json").read_text())
    metrics["accuracy"] = round(statistics.mean(row[place] == true[row[0]] for row in rows), 6)
    (copy / "metrics.json").write_text(json.dumps(metrics))


def verbs(inputs: Inputs, out: Path) -> dict[str, list[object]]:
    """Every verb's words, by the name of its row."""
    run, pictures = inputs.run, inputs.pictures
    one = min((pictures / "test").rglob("*.png"))
    return {
        "check": ["check", pictures],
        "predict": ["predict", run, pictures / "test", "-o", out / "predictions.csv"],
        "evaluate": ["evaluate", run, pictures, "-o", out / "evaluated"],
        "knn": ["knn", run, pictures],
        "verify": ["verify", run],
        "explain, 12 pictures": ["explain", run, pictures / "test", "-o", out / "maps", "--limit", "12"],
        "explain --score": ["explain", run, "--score", pictures, "-o", out / "scores", "--limit", "16"],
        "positions": ["positions", run, "-o", out / "positions.png"],
        "features": ["features", run, pictures / "test", "-o", out / "features", "--limit", "12"],
        "compare, 3 runs": ["compare", inputs.folder / "runs", "-o", out / "compared"],
        f"compare, {len(list(inputs.many.iterdir()))} runs": ["compare", inputs.many, "-o", out / "many"],
        "the same again": ["compare", inputs.many, "-o", out / "many"],
        "report": ["report", inputs.folder / "runs", "-o", out / "report.html"],
        "export --to hf": ["export", run, "--to", "hf", "-o", out / "hf"],
        "export --to onnx": ["export", run, "--to", "onnx", "-o", out / "onnx"],
        "cache": ["cache"],
        "inspect": ["inspect", out / "positions.png"],
        "sweep, 2 runs": ["sweep", inputs.folder / "sweep.toml", "-o", out / "sweep"],
        "train": ["train", pictures, "-o", out / "trained", "--recipe", "scenes-tiny", "--set", "epochs=1"],
        "serve": ["serve", run, "--port", "0", "--picture", one],
    }


def command_of(words: Sequence[object]) -> list[str]:
    """A command of vitrine's in this interpreter."""
    return [sys.executable, "-m", "vitrine", *map(str, words)]


def environment(source: Path) -> dict[str, str]:
    """This process's, with vitrine from ``source``."""
    return os.environ | {"PYTHONPATH": str(source), "MPLBACKEND": "Agg", "VITRINE_OFFLINE": "1"}


def measure(words: Sequence[object], source: Path, folder: Path) -> Waiting:
    """One verb's process.

    Raises:
        SystemExit: the verb did not do its work: there is nothing to time.
    """
    result = folder / "seen.json"
    picture = words[-1] if words[0] == "serve" else None
    given = words[:-2] if picture else words
    command = [sys.executable, "-m", "harness.verb_process", str(result), *map(str, given)]
    log = (folder / "log.txt").open("w+")
    began = time.perf_counter()
    process = subprocess.Popen(command, env=environment(source), cwd=HERE, stdout=log, stderr=log)
    answered = None
    if picture:
        _first_answer(Path(log.name), Path(str(picture)), process)
        answered = time.perf_counter() - began
        process.send_signal(signal.SIGTERM)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)  # else Popen waits for it again
    if process.returncode not in (0, 1 if words[0] == "check" else 0):
        sys.exit(f"{' '.join(map(str, words))} ends with {process.returncode}: {Path(log.name).read_text()[-600:]}")
    return _waiting(json.loads(result.read_text()), answered or wall, usage.ru_utime + usage.ru_stime)


def _waiting(seen: Mapping[str, Any], wall: float, processor: float) -> Waiting:
    places = sorted(seen["places"].items(), key=lambda item: -item[1])[:3]
    parts = {part: seen["clock"].get(part, 0.0) for part in PARTS}
    return Waiting(wall, processor, parts, {name: value / processor for name, value in places}, seen["peak_mib"])


def _first_answer(log: Path, picture: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until the server has predicted a picture."""
    while "http://" not in (said := log.read_text()):
        if process.poll() is not None:
            sys.exit(f"serve ended: {said[-600:]}")
        time.sleep(0.02)
    address = said[said.index("http://") :].split()[0].rstrip("/")
    headers = {"Content-Type": "image/png", "Origin": address}
    request = urllib.request.Request(f"{address}/api/predict", picture.read_bytes(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        if not json.load(answer):
            sys.exit("serve answered with nothing: there is nothing to time.")


def table(rows: Mapping[str, Waiting], empty: float) -> str:
    """Markdown: clock and processor beside an interpreter that does nothing, parts in shares of the clock."""
    header = ["verb", "clock", "processor", "start and end", *PARTS, "peak MiB", "most of the processor's time"]
    lines = [header, ["---"] * len(header)]
    for name, row in rows.items():
        rest = max(0.0, row.wall - sum(row.parts.values()))
        shares = [f"{100 * each / row.wall:.0f} %" for each in (rest, *row.parts.values())]
        places = ", ".join(f"{place} {100 * share:.0f} %" for place, share in row.places.items())
        times = (f"{row.wall / empty:.0f}", f"{row.processor / empty:.0f}")
        lines.append([name, *times, *shares, f"{row.peak_mib:,.0f}", places])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def with_summary(page: str, rows: Mapping[str, Waiting], empty: float, load: float) -> str:
    """A page whose table of verbs has these rows; of other verbs the rows that it had stay.

    Args:
        page: Markdown with the table's two marks.
        rows: by the verb's name.
        empty: seconds of an interpreter that does nothing.
        load: the machine's load average before the measurement.

    Raises:
        ValueError: the page has no such marks.
    """
    before, start, rest = page.partition(_START)
    old, end, after = rest.partition(_END)
    if not start or not end:
        raise ValueError(f"The page has no table of verbs: expected {_START.strip()} and {_END}.")
    lines = {cells[1].strip(): line for line in old.splitlines() if len(cells := line.split("|")) == 7}
    lines |= {name: _summary_line(name, row) for name, row in rows.items()}
    header = ["verb", "seconds", "of processors", "peak MiB", "most of the processors' time"]
    top = [_cells(header), _cells(["---"] * len(header))]
    body = [line for name, line in lines.items() if name not in (header[0], "---")]
    machine = (
        f"{os.cpu_count()} cores, at a load of {load:.1f} from other work when it began; `python -c pass` took "
        f"{1000 * empty:.0f} ms."
    )
    return "\n".join([before + start.rstrip("\n"), *top, *body, "", machine, end + after])


def _summary_line(name: str, row: Waiting) -> str:
    places = ", ".join(f"{place} {100 * share:.0f} %" for place, share in row.places.items())
    return _cells([name, f"{row.wall:.1f}", f"{row.processor:.1f}", f"{row.peak_mib:,.0f}", places])


def _cells(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Make inputs, measure, print."""
    options = _parser().parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        older = SOURCE if options.against is None else options.against / "src"  # newer code opens older runs
        inputs = make_inputs(folder / "inputs", options.many, older)
        print("Inputs are made.", file=sys.stderr)
        measured = measure_all(inputs, folder, options.only, options.against)
    empty = _empty_seconds()
    if options.write:
        PAGE.write_text(with_summary(PAGE.read_text("utf-8"), measured["here"], empty, load), "utf-8")
    if options.json:
        found = {side: {name: asdict(row) for name, row in rows.items()} for side, rows in measured.items()}
        print(json.dumps(found, indent=2))
        return
    print(f"In units of `python -c pass`, {1000 * empty:.0f} ms here.\n")
    for side, rows in measured.items():
        print(f"{side}:\n\n{table(rows, empty)}")
    if options.against:
        print(ratios(measured["there"], measured["here"]))


def measure_all(
    inputs: Inputs, folder: Path, only: Sequence[str], against: Path | None
) -> dict[str, dict[str, Waiting]]:
    """All rows by side: here, and there where another checkout is given; the two by turns."""
    sides = {"here": SOURCE} | ({"there": against / "src"} if against else {})
    measured: dict[str, dict[str, Waiting]] = {side: {} for side in sides}
    for side in sides:
        (folder / side).mkdir()
    for name in verbs(inputs, folder):
        if only and not any(name.startswith(each) for each in only):
            continue
        for side, source in sides.items():
            if name.startswith("compare"):
                (inputs.many / ".vitrine-index.json").unlink(missing_ok=True)
            words = verbs(inputs, folder / side)[name]
            measured[side][name] = row = measure(words, source, folder)
            print(f"{side}: {name}: {row.wall:.2f} s, processor {row.processor:.2f} s", file=sys.stderr)
    return measured


def ratios(before: Mapping[str, Waiting], now: Mapping[str, Waiting]) -> str:
    """How many times as much processor time and memory the other checkout takes."""
    lines = [f"{name}: {before[name].processor / now[name].processor:.2f} times the processor time, "
             f"{before[name].peak_mib / now[name].peak_mib:.2f} times the peak" for name in now]  # fmt: skip
    return "There, of what it takes here:\n" + "\n".join(lines)


def _empty_seconds() -> float:
    """Of an interpreter that does nothing, the median of five."""

    def once() -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        return time.perf_counter() - began

    return statistics.median(once() for _ in range(5))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], metavar="VERB", help="rows whose name begins so")
    parser.add_argument("--against", type=Path, metavar="DIR", help="another checkout, measured by turns")
    parser.add_argument("--many", type=int, default=MANY, help=f"runs of the large comparison (default {MANY})")
    parser.add_argument("--write", action="store_true", help="replace the rows of these verbs in docs/speed.md, too")
    parser.add_argument("--json", action="store_true", help="seconds, for programs")
    return parser


if __name__ == "__main__":
    main()
