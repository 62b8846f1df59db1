"""How often the 95 % intervals of multi-label measures cover the truth, by pictures and the rarest label's share.

    python benchmarks/label_intervals.py [--draws 600]

Ten labels, whose shares of the pictures grow geometrically from the rarest one's to 40 %; scores are normal, and the
pictures of a label score higher by 0.5 to 3 standard deviations. The truth is measured on 200,000 pictures. Prints the
table of docs/multilabel.md.

Axes: P pictures, L labels.
"""

from __future__ import annotations

import argparse

import numpy as np

from vitrine.metrics.multi_label import MultiLabelLogits, multi_label_metrics
from vitrine.results import MultiLabelMetrics

LABELS = tuple("abcdefghij")
MEASURES = {"mean_average_precision": "mean average precision", "micro_f1": "micro F1", "macro_f1": "macro F1"}
SIZES, RAREST = (100, 300, 1_000, 3_000), (0.02, 0.1)
POPULATION = 200_000


def draw(rng: np.random.Generator, pictures: int, rarest: float) -> MultiLabelMetrics:
    """The measures of one set of pictures."""
    share_L = np.geomspace(rarest, 0.4, len(LABELS))
    lead_L = np.linspace(0.5, 3, len(LABELS))
    labels_PL = rng.random((pictures, len(LABELS))) < share_L
    logits_PL = (rng.normal(size=labels_PL.shape) + lead_L * labels_PL - 1.5).astype(np.float32)
    logits = MultiLabelLogits(tuple(map(str, range(pictures))), logits_PL, labels_PL)
    return multi_label_metrics(logits, LABELS, precision="fp32", threshold=0.5)


def coverage(rng: np.random.Generator, truth: MultiLabelMetrics, pictures: int, rarest: float, draws: int) -> list[str]:
    """For each measure, the share of its intervals that hold the truth; a dash where most sets have no interval."""
    sets = [draw(rng, pictures, rarest) for _ in range(draws)]
    cells = []
    for name in MEASURES:
        intervals = [each for each in (getattr(one, f"{name}_interval") for one in sets) if each is not None]
        inside = [each.low <= getattr(truth, name) <= each.high for each in intervals]
        cells.append(f"{np.mean(inside):.3f}" if len(intervals) > draws / 2 else "–")
    return cells


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=600, help="sets of pictures a row; default 600")
    draws = parser.parse_args().draws
    print(f"| rarest label | pictures | {' | '.join(MEASURES.values())} |")
    print("| --- " * (2 + len(MEASURES)) + "|")
    for rarest in RAREST:
        rng = np.random.default_rng(1)
        truth = draw(rng, POPULATION, rarest)
        for pictures in SIZES:
            cells = coverage(rng, truth, pictures, rarest, draws)
            print(f"| {rarest:.0%} | {pictures:,} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
