"""How long does the figure of position similarities take, beside one subplot a patch?

    python benchmarks/positions.py                a grid of 24 x 24, as of ViT-B/16 at 384 px
    python benchmarks/positions.py --grid 6 --rounds 1

What is measured, and how, is in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from harness.rounds import Spread, alternate, ratios
from matplotlib import pyplot as plt
from side_by_side.machine import about
from torch.nn import functional

from vitrine.attribution.position_metrics import assess_positions
from vitrine.explain.figures.positions import save_position_figure

SUBPLOTS, OURS = "one subplot a patch", "vitrine positions"
LARGEST_DIFFERENCE = 1e-5  # between cosines


class Figures:
    """Both ways to the figure, of one table of embeddings."""

    def __init__(self, grid: int, channels: int, folder: Path) -> None:
        self.grid, self.folder = grid, folder
        rng = np.random.default_rng(0)
        steps = np.cumsum(rng.standard_normal((grid, grid, channels)), axis=0)  # near rows are alike
        self.embeddings_RCD = steps.astype(np.float32)

    def ours(self) -> int:
        """One product, one image; numbers and controls included, as the verb writes them."""
        findings = assess_positions(self.embeddings_RCD)
        save_position_figure(findings, self.folder / "ours.png", {}, title="Position embeddings")
        return 1

    def similarity_of(self, row: int, column: int) -> np.ndarray:
        """One patch with all, as tutorials compute it."""
        flat_ND = torch.from_numpy(self.embeddings_RCD).flatten(0, 1)
        one_1D = flat_ND[row * self.grid + column][None]
        return functional.cosine_similarity(one_1D, flat_ND).view(self.grid, self.grid).numpy()

    def subplots(self) -> int:
        """A subplot for every patch."""
        figure, axes = plt.subplots(self.grid, self.grid, figsize=(12, 12))
        for row in range(self.grid):
            for column in range(self.grid):
                axes[row, column].imshow(self.similarity_of(row, column), vmin=-1, vmax=1)
                axes[row, column].axis("off")
        figure.savefig(self.folder / "theirs.png")
        plt.close(figure)
        return 1

    def all(self) -> dict[str, Callable[[], float]]:
        """By name."""
        return {SUBPLOTS: self.subplots, OURS: self.ours}

    def check(self) -> str:
        """Stop unless every patch has the same map both ways."""
        mine_RCRC = assess_positions(self.embeddings_RCD).similarity_RCRC
        cells = [(row, column) for row in range(self.grid) for column in range(self.grid)]
        far = max(float(np.abs(mine_RCRC[cell] - self.similarity_of(*cell)).max()) for cell in cells)
        if not far <= LARGEST_DIFFERENCE:
            sys.exit(f"The similarities differ by {far:.3g}. Nothing was timed.")
        return f"similarities of all {len(cells)} patches with cosine_similarity by torch within {far:.1g}."


def main() -> None:
    """Parse, compare, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", type=int, default=24, help="patches of a side (default 24)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds that count, after one that does not (default 3)")
    options = parser.parse_args()
    mpl.use("Agg")
    with tempfile.TemporaryDirectory() as folder:
        figures = Figures(options.grid, 768, Path(folder))
        print(", ".join(f"{name} {value}" for name, value in about().items()))
        print(figures.check())
        speeds = alternate(figures.all(), rounds=options.rounds)
    for name, own in speeds.items():
        seconds = Spread.of([1 / rate for rate in own])
        print(f"{name:24} {seconds!s:>24} s  times {SUBPLOTS} {ratios(own, speeds[SUBPLOTS])}")


if __name__ == "__main__":
    main()
