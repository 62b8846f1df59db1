"""How often each method's strongest patch lies on the object, for every method of the table, on generated scenes.

    python benchmarks/methods.py [PICTURES]

The model is ``vitrine/scenes-tiny``, the pictures are scenes of the family that it was trained on and has not seen, and
the class is the one that it predicts. Prints the table of docs/which-method.md: means with 95 % intervals, and which
methods cannot be told from the best by paired tests that are corrected for every pair.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from vitrine.attribution.baselines import centre_blob, edges, random_map
from vitrine.attribution.methods import Method
from vitrine.attribution.placement import Placement
from vitrine.attribution.pointing import centres_inside, score_against_mask
from vitrine.attribution.ranking import ScoredMethod, metric, rank_methods
from vitrine.attribution.registry import METHODS
from vitrine.classify.model import open_classifier
from vitrine.data.loader import batches
from vitrine.data.masks import find_masks
from vitrine.data.scenes import write_scenes
from vitrine.explain.explainer import Explainer
from vitrine.explain.figures.ranking import methods_table
from vitrine.explain.score import open_samples

PICTURES, SEED, BATCH = 60, 11, 20
KEYS = ("pointing", "average_precision", "inside")


def score_all(pictures: int) -> str:
    """The table in Markdown."""
    with tempfile.TemporaryDirectory() as folder:
        data = write_scenes(Path(folder) / "scenes", "base", {"train": 12, "test": pictures}, seed=SEED)
        classifier = open_classifier("vitrine/scenes-tiny")
        explainer = Explainer(classifier, Method())
        samples = open_samples(str(data), "test", pictures, 0).samples
        masks = find_masks(samples, data=data, source=None, category=None)
        assert masks is not None
        (batch,) = batches(samples, explainer.transform, batch_size=pictures)
        pixels_PCHW = explainer.pixels(batch.pixels_BCHW)
        targets_P = explainer.probability(pixels_PCHW).argmax(1).cpu()
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
    return methods_table(ranking, [metric(key) for key in KEYS]).markdown()


if __name__ == "__main__":
    print(score_all(int(sys.argv[1]) if len(sys.argv) > 1 else PICTURES))
