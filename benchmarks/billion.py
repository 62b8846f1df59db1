"""What do a billion pictures cost, on which hardware? On paper, from measured rates.

    python benchmarks/suite.py --only shares -o here    measures this machine
    python benchmarks/billion.py here/results.json               and this multiplies it out

The formulas are in docs/bulk.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BILLION = 1_000_000_000
DECODE = 450.0  # 500 x 375 JPEG files a second and core: benchmarks/loader.py


@dataclass(frozen=True)
class Machine:
    """Some hardware.

    Attributes:
        name: what it is.
        rate: pictures/s that its model can do, decoding left out.
        cores: that decode; on a machine without GPU they also compute.
        gpus: 0, or how many the rate is of.
    """

    name: str
    rate: float
    cores: int
    gpus: int = 0


@dataclass(frozen=True)
class Cost:
    """What so many pictures come to: pictures/s of the machine, and its hours."""

    rate: float
    hours: float


def cost(machine: Machine, pictures: float = BILLION, decode: float = DECODE) -> Cost:
    """Pictures/s and machine-hours.

    Without a GPU cores do one after the other: a picture takes 1/rate + 1/(cores x decode) seconds. With GPUs decoding
    goes on beside them: the slower of the two decides, min(rate, cores x decode).
    """
    decoding = machine.cores * decode
    rate = min(machine.rate, decoding) if machine.gpus else 1 / (1 / machine.rate + 1 / decoding)
    return Cost(rate, pictures / rate / 3600)


def on_paper(share: float, peak: float, operations: float) -> float:
    """Pictures/s: the share of a processor's matrix rate that is reached, its published rate, operations a picture."""
    return share * peak / operations


def measured(results: dict[str, Any]) -> tuple[str, float, int]:
    """vitrine's fastest predictions of pictures in memory: what, pictures/s, and threads."""
    rows = [row for row in results["rows"] if row["section"].endswith("inference") and row["share"] is not None]
    best = max(rows, key=lambda row: row["value"]["median"])
    return best["name"], best["value"]["median"], results["machine"]["threads"]


def table(machines: Sequence[Machine], pictures: float = BILLION) -> str:
    """As Markdown."""
    lines = ["| hardware | pictures/s | machine-hours | on 100 such machines |", "| --- | --- | --- | --- |"]
    for machine in machines:
        found = cost(machine, pictures)
        lines.append(f"| {machine.name} | {found.rate:,.0f} | {found.hours:,.0f} | {found.hours / 100:,.1f} hours |")
    return "\n".join(lines)


def main() -> None:
    """Parse, multiply out, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="results.json of the suite")
    parser.add_argument("--pictures", type=float, default=BILLION)
    parser.add_argument("--share", type=float, default=0.4, help="of a GPU's matrix rate that is reached (default 0.4)")
    parser.add_argument("--peak", type=float, default=989e12, help="its published rate: H100 SXM, bf16, dense")
    parser.add_argument("--operations", type=float, default=35.1e9, help="of a picture: ViT-B/16 at 224 px")
    options = parser.parse_args()
    name, rate, threads = measured(json.loads(options.results.read_text("utf-8")))
    gpu = on_paper(options.share, options.peak, options.operations)
    machines = [Machine(f"measured here, {threads} cores: {name}", rate, threads)]
    what = f"one H100 at {100 * options.share:.0f} % of {options.peak / 1e12:.0f} Tflop/s"
    machines += [Machine(f"{what}, {cores} cores", gpu, cores, 1) for cores in (8, 16, 32)]
    print(table(machines, options.pictures))


if __name__ == "__main__":
    main()
