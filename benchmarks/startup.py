"""How long does each verb take to start?

    python benchmarks/startup.py                  every verb's --help, and short work by those that have some
    python benchmarks/startup.py --rounds 1

What is measured, and how, is in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.rounds import Spread, alternate, ratios
from PIL import Image
from side_by_side.machine import about
from typer.main import get_command

from vitrine.cli.app import app

TORCH = "python -c 'import torch'"
MODEL = "vitrine/scenes-tiny"


def verbs() -> list[str]:
    """All that the command line has."""
    return sorted(get_command(app).commands)  # type: ignore[attr-defined]


class Starts:
    """Commands that begin, do next to nothing, and end.

    Args:
        folder: for what they write.
        helped: verbs whose help is timed; None takes all.
    """

    def __init__(self, folder: Path, helped: Sequence[str] | None = None) -> None:
        picture = folder / "one.png"
        Image.new("RGB", (64, 64), "red").save(picture)
        run = [sys.executable, "-m", "vitrine"]
        short = {
            "predict, one picture": ["predict", MODEL, picture, "-o", folder / "p.csv"],
            "explain, one picture": ["explain", MODEL, picture, "-o", folder / "maps"],
            "positions": ["positions", MODEL, "-o", folder / "positions.png"],
            "check, one picture": ["check", folder],
        }
        self.commands: dict[str, list[str]] = {TORCH: [sys.executable, "-c", "import torch"]}
        self.commands |= {f"{verb} --help": [*run, verb, "--help"] for verb in helped or verbs()}
        self.commands |= {name: [*run, *map(str, words)] for name, words in short.items()}

    def check(self) -> str:
        """Stop unless each command does what it should: help is about its verb, and short work is done."""
        for name, command in self.commands.items():
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            allowed = (0, 1) if name.startswith("check") else (0,)  # one picture without a label is not in order
            said = name.split()[0] in done.stdout if name.endswith("--help") else True
            if done.returncode not in allowed or not said:
                sys.exit(f"{name} ends with {done.returncode}: {done.stderr[-500:]}. Nothing was timed.")
        return f"{len(self.commands)} commands end as they should, and help is about its verb."

    def all(self) -> dict[str, Callable[[], float]]:
        """By name."""

        def once(command: list[str]) -> int:
            subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
            return 1

        return {name: lambda c=command: once(c) for name, command in self.commands.items()}  # type: ignore[misc]


def main() -> None:
    """Parse, check, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="rounds that count (default 3)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        starts = Starts(Path(folder))
        print(", ".join(f"{name} {value}" for name, value in about().items()))
        print(starts.check())
        speeds = alternate(starts.all(), rounds=options.rounds, warm_up=0)
    for name, own in speeds.items():
        seconds = Spread.of([1 / rate for rate in own])
        print(f"{name:28} {seconds!s:>24} s  times {TORCH} {ratios(own, speeds[TORCH])}")


if __name__ == "__main__":
    main()
