"""How often each method's strongest patch lies on the object, for every method of the table, on generated scenes.

    python benchmarks/methods.py [PICTURES] [--model MODEL] [--data scenes:...] [--also attention:layer=2] [--maps FILE]

By default the model is ``vitrine/scenes-tiny`` and the pictures are scenes of the family that it was trained on and has
not seen; the class is the one that it predicts. Prints the tables of docs/which-method.md: means with 95 % intervals,
those of the pointing hit corrected for the number of rows, and which methods cannot be told from the best by paired
tests that are corrected for every pair; and where the strongest patch lies: on the object, on its outline, elsewhere.
With ``--maps`` what was computed stays in a file, from which an interrupted call goes on.

With ``--faithfulness DIR`` the data need no masks: into the folder goes what ``vitrine explain --score`` writes, and
the table has intervals of insertion less deletion that are corrected for the number of rows.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from scipy.stats import t as student

from vitrine.attribution.baselines import centre_blob, edges, random_map
from vitrine.attribution.methods import Method, method_with
from vitrine.attribution.placement import Placement
from vitrine.attribution.pointing import centres_inside, score_against_mask
from vitrine.attribution.ranking import Estimate, Ranking, ScoredMethod, metric, rank_methods
from vitrine.attribution.registry import METHODS
from vitrine.classify.model import Classifier, open_classifier
from vitrine.data.loader import batches
from vitrine.data.masks import find_masks
from vitrine.data.samples import Sample
from vitrine.data.scenes.dataset import ScenePicture
from vitrine.explain.explainer import Explainer
from vitrine.explain.figures.ranking import methods_table
from vitrine.explain.score import ScoreSettings, open_samples, score_methods, write_scores
from vitrine.metrics.intervals import wilson

PICTURES, BATCH = 60, 20
MODEL, DATA = "vitrine/scenes-tiny", "scenes:base?test={pictures}&seed=11"
KEYS = ("pointing", "average_precision", "inside")
FAITHFULNESS = ("gap", "deletion", "deletion_blur", "deletion_others")
PLACES = ("on the object", "on its outline", "on another object", "on the background")
SLOW = ("occlusion", "rise")


def score_all(pictures: int, model: str, data: str, split: str, more: list[str], kept: Path | None) -> str:
    """The two tables in Markdown."""
    classifier = open_classifier(model)
    explainer = Explainer(classifier, Method())
    samples = open_samples(data, split, pictures, 0).samples
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
    methods = {name: Method(name) for name in METHODS} | {text: _with_options(text) for text in more}
    maps |= _maps(
        classifier,
        methods,
        pixels_PCHW,
        targets_P,
        kept,
        f"{classifier.weights and classifier.weights.sha256} {data} {split} {pictures}",
    )
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
    ends = ["pointing hit, corrected", "---"]
    ends += [_corrected(row.estimates["pointing"], len(ranking.rows)) for row in ranking.rows]
    table = [f"{line} {end} |" for line, end in zip(lines, ends, strict=True)]
    places_PRC = np.stack([_places(sample, *truth) for sample, truth in zip(samples, truths, strict=True)])
    inside = float((places_PRC == 0).sum() / (places_PRC <= 1).sum())
    print(f"of the patches that an object touches, {inside:.3f} have their centre on it", file=sys.stderr)
    rows = [f"| {' | '.join([row.name, *_shares(maps[row.name], places_PRC)])} |" for row in ranking.rows]
    return "\n".join([*table, "", f"| strongest patch | {' | '.join(PLACES)} |", "| --- " * 5 + "|", *rows])


def _places(sample: Sample, coverage_RC: np.ndarray, hit_RC: np.ndarray) -> np.ndarray:
    """Which of PLACES each patch is: by its centre on the object, else by what lies within it."""
    picture = sample.picture
    assert isinstance(picture, ScenePicture)
    labels_HW = picture.scene.label_map
    rows, columns = hit_RC.shape
    cells = labels_HW.reshape(rows, labels_HW.shape[0] // rows, columns, -1)
    return np.select([hit_RC, coverage_RC > 0, (cells > 1).any((1, 3))], [0, 1, 2], 3)


def _shares(maps_PRC: np.ndarray, places_PRC: np.ndarray) -> list[str]:
    """How often the strongest patch is in each place; patches that tie share a picture."""
    shares_PK = [
        [(places_RC[scores_RC == scores_RC.max()] == place).mean() for place in range(len(PLACES))]
        for scores_RC, places_RC in zip(maps_PRC, places_PRC, strict=True)
    ]
    return [f"{share:.3f}" for share in np.mean(shares_PK, axis=0)]


def _with_options(text: str) -> Method:
    """A method and its options as ``--also`` has them: ``attention:layer=2,heads=max``."""
    name, _, rest = text.partition(":")
    options = dict(each.split("=") for each in rest.split(",") if each)
    return method_with(
        name, {key: int(value) if value.lstrip("-").isdigit() else value for key, value in options.items()}
    )


def _maps(
    classifier: Classifier,
    methods: dict[str, Method],
    pixels_PCHW: torch.Tensor,
    targets_P: torch.Tensor,
    kept: Path | None,
    key: str,
) -> dict[str, np.ndarray]:
    """The maps of all pictures by every method, the quick ones first; those that a file has are taken from it."""
    parts: dict[str, np.ndarray] = {}
    if kept is not None and kept.is_file():
        with np.load(kept) as archive:
            parts = dict(archive) if str(archive["key"]) == key else {}
    firsts = range(0, len(targets_P), BATCH)
    for name in sorted(methods, key=lambda name: name in SLOW):
        one = Explainer(classifier, methods[name])
        for first in firsts:
            part, batch = f"{name}/{first}", slice(first, first + BATCH)
            if part not in parts:
                parts[part] = one.maps(pixels_PCHW[batch], targets_P[batch]).scores_BRC.numpy()
                if kept is not None:
                    np.savez(unfinished := kept.with_suffix(".part.npz"), **parts | {"key": np.array(key)})
                    unfinished.replace(kept)
        print(name, file=sys.stderr, flush=True)
    return {name: np.concatenate([parts[f"{name}/{first}"] for first in firsts]) for name in methods}


def _corrected(hit: Estimate, rows: int) -> str:
    """The hit's interval at 1 - 0.05 / rows (Bonferroni), by Wilson's formula: all of them hold together in 95 %.

    Shares of patches that tie, which only controls have, are counted as so many hits, rounded.
    """
    interval = wilson(round(hit.mean * hit.n), hit.n, 1 - 0.05 / rows)
    return f"{interval.low:.2f} to {interval.high:.2f}"


def score_without_masks(pictures: int, model: str, data: str, split: str, out: Path) -> str:
    """The table in Markdown; into ``out`` goes what ``vitrine explain --score`` writes."""
    rankings: list[Sequence[ScoredMethod]] = []

    def recorder(methods: Sequence[ScoredMethod], *, by: str | None = None) -> Ranking:
        """Rank, and remember the values of every picture, which no result has."""
        rankings.append(methods)
        return rank_methods(methods, by=by)

    settings = ScoreSettings(split=split, limit=pictures, curves=pictures)
    with mock.patch("vitrine.explain.score.rank_methods", recorder):
        result = score_methods(open_classifier(model), model, data, settings, _say_method)
    write_scores(result, out)
    print(result.text(), file=sys.stderr)
    gaps = {method.name: method.values["gap"] for method in rankings[-1]}
    ranking = rank_methods(rankings[-1], by="gap")
    lines = methods_table(ranking, [metric(key) for key in FAITHFULNESS]).markdown().splitlines()
    rows = [corrected_mean(gaps[row.name], len(gaps)) for row in ranking.rows]
    ends = ["insertion − deletion, corrected", "---", *rows]
    return "\n".join(f"{line} {end} |" for line, end in zip(lines, ends, strict=True))


def corrected_mean(values_P: np.ndarray, rows: int) -> str:
    """Student's t interval of a mean at 1 - 0.05 / rows (Bonferroni): all of them hold together in about 95 %."""
    values_P = values_P[~np.isnan(values_P)]
    half = student.ppf(1 - 0.025 / rows, len(values_P) - 1) * values_P.std(ddof=1) / np.sqrt(len(values_P))
    return f"{values_P.mean() - half:.2f} to {values_P.mean() + half:.2f}".replace("-", "−")


def _say_method(done: int, total: int, name: str) -> None:
    print(f"\r{done:,} of {total:,}: {name:<40}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Every method of the table, by hits of the object on scenes.")
    parser.add_argument("pictures", type=int, nargs="?", default=PICTURES)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--data", default=DATA, help="scenes, with masks")
    parser.add_argument("--split", default="test", help="of the data: settings are chosen on validation scenes")
    parser.add_argument("--also", action="append", default=[], help="a method with options: attention:layer=2")
    parser.add_argument("--maps", type=Path, help="a file (.npz) in which maps are kept")
    parser.add_argument("--faithfulness", type=Path, metavar="DIR", help="insertion and deletion, without masks")
    arguments = parser.parse_args()
    data = arguments.data.format(pictures=arguments.pictures)
    if arguments.faithfulness is not None:
        if arguments.also or arguments.maps:
            parser.error("--also and --maps are not for --faithfulness.")
        print(score_without_masks(arguments.pictures, arguments.model, data, arguments.split, arguments.faithfulness))
    else:
        print(score_all(arguments.pictures, arguments.model, data, arguments.split, arguments.also, arguments.maps))
