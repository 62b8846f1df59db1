"""How often each method's strongest patch lies on the object, for every method of the table, on generated scenes.

    python benchmarks/methods.py [PICTURES] [--model MODEL] [--data scenes:...]

By default the model is ``vitrine/scenes-tiny`` and the pictures are scenes of the family that it was trained on and has
not seen; the class is the one that it predicts. Prints the tables of docs/which-method.md: means with 95 % intervals,
those of the pointing hit corrected for the number of rows, and which methods cannot be told from the best by paired
tests that are corrected for every pair.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

from vitrine.attribution.baselines import centre_blob, edges, random_map
from vitrine.attribution.methods import Method
from vitrine.attribution.placement import Placement
from vitrine.attribution.pointing import centres_inside, score_against_mask
from vitrine.attribution.ranking import Estimate, ScoredMethod, metric, rank_methods
from vitrine.attribution.registry import METHODS
from vitrine.classify.model import open_classifier
from vitrine.data.loader import batches
from vitrine.data.masks import find_masks
from vitrine.explain.explainer import Explainer
from vitrine.explain.figures.ranking import methods_table
from vitrine.explain.score import open_samples
from vitrine.metrics.intervals import wilson

PICTURES, BATCH = 60, 20
MODEL, DATA = "vitrine/scenes-tiny", "scenes:base?test={pictures}&seed=11"
KEYS = ("pointing", "average_precision", "inside")


def score_all(pictures: int, model: str, data: str) -> str:
    """The table in Markdown."""
    classifier = open_classifier(model)
    explainer = Explainer(classifier, Method())
    samples = open_samples(data, "test", pictures, 0).samples
    masks = find_masks(samples, data=None, source=None, category=None)
    assert masks is not None, "pictures without masks have no hits"
    (batch,) = batches(samples, explainer.transform, batch_size=pictures)
    pixels_PCHW = explainer.pixels(batch.pixels_BCHW)
    targets_P = explainer.probability(pixels_PCHW).argmax(1).cpu()
    right = sum(int(target) == sample.label for target, sample in zip(targets_P, samples, strict=True))
    print(f"{model} on {data}: {right} of {pictures} right", file=sys.stderr, flush=True)
    grid = (explainer.layout.rows, explainer.layout.columns)
    truths = []
    for sample in samples:
        size = sample.picture.decode().size
        mask_HW, placement = masks.mask_of(sample.name, size), Placement(explainer.transform.geometry(*size), *grid)
        assert mask_HW is not None
        truths.append((placement.coverage(mask_HW), centres_inside(mask_HW, placement)))
    maps = {
        "random": np.stack([random_map(*grid, p) for p in range(pictures)]),
        "centre blob": np.stack([centre_blob(*grid)] * pictures),
        "edges": edges(pixels_PCHW, *grid),
    }
    controls = list(maps)
    for name in METHODS:
        one = Explainer(classifier, Method(name))
        parts = [
            one.maps(pixels_PCHW[first : first + BATCH], targets_P[first : first + BATCH]).scores_BRC.numpy()
            for first in range(0, pictures, BATCH)
        ]
        maps[name] = np.concatenate(parts)
        print(name, file=sys.stderr, flush=True)
    scored = []
    for name, maps_PRC in maps.items():
        values = {key: [] for key in KEYS}
        for scores_RC, truth in zip(maps_PRC, truths, strict=True):
            scores = score_against_mask(scores_RC, *truth)
            for key in KEYS:
                value = getattr(scores, key)
                values[key].append(np.nan if value is None else value)
        scored.append(ScoredMethod(name, name in controls, {key: np.array(each) for key, each in values.items()}))
    ranking = rank_methods(scored, by="pointing")
    lines = methods_table(ranking, [metric(key) for key in KEYS]).markdown().splitlines()
    ends = [""] * 2 + [_corrected(row.estimates["pointing"], len(ranking.rows)) for row in ranking.rows]
    ends[:2] = ["pointing hit, corrected", "---"]
    return "\n".join(f"{line} {end} |" for line, end in zip(lines, ends, strict=True))


def _corrected(hit: Estimate, rows: int) -> str:
    """The hit's interval at 1 - 0.05 / rows (Bonferroni), by Wilson's formula: all of them hold together in 95 %.

    Shares of patches that tie, which only controls have, are counted as so many hits, rounded.
    """
    interval = wilson(round(hit.mean * hit.n), hit.n, 1 - 0.05 / rows)
    return f"{interval.low:.2f} to {interval.high:.2f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Every method of the table, by hits of the object on scenes.")
    parser.add_argument("pictures", type=int, nargs="?", default=PICTURES)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--data", default=DATA, help="scenes, with masks")
    arguments = parser.parse_args()
    print(score_all(arguments.pictures, arguments.model, arguments.data.format(pictures=arguments.pictures)))
