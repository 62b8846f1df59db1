"""What the test of one picture says of maps whose truth is known: the section ``pictures`` of verdicts.py.

Axes: B pictures, C channels, H, W pixels, R grid rows, C (after R) grid columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from harness.error_rates import Aim, RateTable
from verdict_models import Workplace

from vitrine.attribution.baselines import random_map
from vitrine.attribution.methods import METHODS, Method
from vitrine.attribution.patch_hiding import FILLINGS, SIGNIFICANT, HidingTest, hiding_tests, marked_counts
from vitrine.attribution.weight_randomization import randomised_copies
from vitrine.data.scenes.dataset import ScenePicture
from vitrine.explain.explainer import Explainer

Floats = npt.NDArray[np.float32]

RANDOM_MAPS = 2  # a picture
OTHERS = ("attention", "relevance")  # methods whose maps of another picture are tested
_BATCH = 256
_OTHER = "of another picture"


@dataclass(frozen=True)
class TestedMap:
    """One map with its test, and whether it covers the object.

    Attributes:
        kind: who made it.
        test: of the model's answer.
        covers: whether at least half of the patches that the sentence tells of have their centre on the object.
    """

    kind: str
    test: HidingTest
    covers: bool


def measure(workplace: Workplace) -> Iterable[RateTable]:
    """The section's tables."""
    tested = list(_test_pictures(workplace))
    yield _table_of_kinds(tested)
    yield _table_of_objects(tested)
    yield _table_of_broken(workplace)


@dataclass(frozen=True, eq=False)
class MaskedScene:
    """A scene as a model sees it. ``coverage_RC`` is the object's share of each patch, ``hit_RC`` its centre's."""

    pixels_CHW: torch.Tensor
    coverage_RC: Floats
    hit_RC: npt.NDArray[np.bool_]


def masked_scenes(workplace: Workplace, count: int) -> list[MaskedScene]:
    """Test scenes of the classifier's family."""
    explainer = Explainer(workplace.classifier, Method())
    rows, columns = explainer.layout.rows, explainer.layout.columns
    scenes = []
    for index in range(count):
        picture = ScenePicture(workplace.family, 0, "test", index)
        mask_HW = picture.scene.objects[0].mask
        down, across = mask_HW.shape[0] // rows, mask_HW.shape[1] // columns
        pixels_BCHW = explainer.pixels(torch.from_numpy(picture.pixels()).permute(2, 0, 1)[None])
        coverage_RC = mask_HW.reshape(rows, down, columns, across).mean(axis=(1, 3)).astype(np.float32)
        hit_RC = mask_HW[down // 2 :: down, across // 2 :: across]
        scenes.append(MaskedScene(pixels_BCHW[0], coverage_RC, hit_RC))
    return scenes


def _test_pictures(workplace: Workplace) -> Iterator[TestedMap]:
    scenes = masked_scenes(workplace, workplace.sizes.pictures)
    pixels_BCHW = torch.stack([scene.pixels_CHW for scene in scenes])
    explainer = Explainer(workplace.classifier, Method())
    classes_B = explainer.probability(pixels_BCHW).argmax(dim=1).cpu()
    coverage_BRC, grid = np.stack([scene.coverage_RC for scene in scenes]), scenes[0].coverage_RC.shape
    maps = {"the object's mask": coverage_BRC}
    for name in METHODS:
        maps[name] = _maps(workplace, Method(name), pixels_BCHW, classes_B)
    for name in OTHERS:
        maps[f"{name} {_OTHER}"] = np.roll(maps[name], 1, axis=0)
    maps[f"the object's mask {_OTHER}"] = np.roll(coverage_BRC, 1, axis=0)
    for number in range(RANDOM_MAPS):
        maps[f"random {number}"] = np.stack([random_map(*grid, 10 * b + number) for b in range(len(scenes))])
    for kind, maps_BRC in maps.items():
        tests = hiding_tests(
            explainer.probability,
            pixels_BCHW,
            maps_BRC,
            classes_B.tolist(),
            workplace.classifier.labels,
            fillings=_fillings(kind),
            batch_size=_BATCH,
            seed=zlib_seed(kind),
        )
        for scene, scores_RC, test in zip(scenes, maps_BRC, tests, strict=True):
            yield TestedMap(kind.rstrip(" 0123456789"), test, _covers(scores_RC, scene.hit_RC))


def zlib_seed(kind: str) -> int:
    """A seed of its own for each kind of map, so that kinds do not share their random sets."""
    return sum(kind.encode())


def _fillings(kind: str) -> tuple[str, ...]:
    return tuple(name for name in FILLINGS if kind not in METHODS or name != Method(kind).filling)


def _maps(workplace: Workplace, method: Method, pixels_BCHW: torch.Tensor, classes_B: torch.Tensor) -> Floats:
    explainer = Explainer(workplace.classifier, method)
    parts = zip(pixels_BCHW.split(16), classes_B.split(16), strict=True)
    return np.concatenate([explainer.maps(*part).scores_BRC.numpy() for part in parts])


def _covers(scores_RC: Floats, hit_RC: npt.NDArray[np.bool_]) -> bool:
    counts = marked_counts(scores_RC)
    strongest_N = np.argsort(-scores_RC.ravel(), kind="stable")[: counts[len(counts) // 2]]
    return bool(hit_RC.ravel()[strongest_N].mean() >= 0.5)


def area_under_curve(positive: Sequence[float], negative: Sequence[float]) -> float:
    """Share of pairs in which the positive one is larger, ties counting half; NaN without pairs."""
    if not positive or not negative:
        return float("nan")
    difference = np.subtract.outer(np.array(positive), np.array(negative))
    return float((difference > 0).mean() + (difference == 0).mean() / 2)


def _rate(tests: Sequence[TestedMap], flag: str) -> float:
    return sum(each.test.flag == flag for each in tests) / max(1, len(tests))


def _by_kind(tested: Sequence[TestedMap]) -> dict[str, list[TestedMap]]:
    kinds: dict[str, list[TestedMap]] = {}
    for each in tested:
        kinds.setdefault(each.kind, []).append(each)
    return kinds


def _table_of_kinds(tested: Sequence[TestedMap]) -> RateTable:
    kinds = _by_kind(tested)
    rows = tuple(
        (
            kind,
            f"{len(tests)}",
            *(f"{_rate(tests, flag):.2f}" for flag in ("depends", "not shown", "cannot tell")),
            f"{sum(each.test.p <= SIGNIFICANT for each in tests) / len(tests):.2f}",
            f"{np.median([each.test.effect for each in tests]):.2f}",
        )
        for kind, tests in kinds.items()
    )
    ratios = [
        _rate(kinds[f"{name} {_OTHER}"], "depends") / max(1e-9, _rate(kinds[name], "depends"))
        for name in (*OTHERS, "the object's mask")
    ]
    effects = {covers: [each.test.effect for each in tested if each.covers is covers] for covers in (True, False)}
    return RateTable(
        "pictures",
        "What the test of one picture says of each kind of map",
        ("map", "maps", "depends", "not shown", "cannot tell", f"p at most {SIGNIFICANT:g}", "median effect"),
        rows,
        aims=(
            Aim("the object's mask, depends", _rate(kinds["the object's mask"], "depends"), "at least", 0.8),
            Aim("random maps, depends", _rate(kinds["random"], "depends"), "at most", 0.05),
            *(
                Aim(f"{name} of another picture, its rate by that of the picture's own", ratio, "at most", 0.5)
                for name, ratio in zip((*OTHERS, "the object's mask"), ratios, strict=True)
            ),
            Aim(
                "area under the curve of the effect, maps that cover the object against those that do not",
                area_under_curve(effects[True], effects[False]),
                "at least",
                0.8,
            ),
        ),
    )


def _table_of_objects(tested: Sequence[TestedMap]) -> RateTable:
    """Within one method: does the test tell maps that cover the object from those that do not? It need not."""
    rows = []
    for name in METHODS:
        tests = [each for each in tested if each.kind == name]
        counts = []
        for flag in ("depends", "not shown", "cannot tell"):
            flagged = [each for each in tests if each.test.flag == flag]
            counts.append(f"{sum(each.covers for each in flagged)} of {len(flagged)}")
        effects = [[each.test.effect for each in tests if each.covers is covers] for covers in (True, False)]
        rows.append((name, *counts, f"{area_under_curve(*effects):.2f}"))
    return RateTable(
        "pictures",
        "Maps that cover the object, by what the test says of them",
        ("method", "depends: cover it", "not shown: cover it", "cannot tell: cover it", "area under the curve"),
        tuple(rows),
        notes=(
            "A map covers the object where at least half of the patches that the sentence tells of have their centre "
            "on it. Within one method the test does not say whether it does.",
        ),
    )


def _table_of_broken(workplace: Workplace) -> RateTable:
    """Copies of the model with shuffled weights: is occlusion still judged by what it was made of?"""
    count = min(workplace.sizes.pictures, 50)
    pixels_BCHW = torch.stack([scene.pixels_CHW for scene in masked_scenes(workplace, count)])
    *_, (_, module) = randomised_copies(workplace.classifier.module, seed=0)
    rows = []
    with torch.no_grad():
        classes_B = module(pixels_BCHW).argmax(dim=1)

    def probability(some_BCHW: torch.Tensor) -> torch.Tensor:
        shares_BC: torch.Tensor = module(some_BCHW).softmax(dim=1)
        return shares_BC

    for name in METHODS:
        maps_BRC = Method(name).maps(module, pixels_BCHW, classes_B).scores_BRC.numpy()
        labels = workplace.classifier.labels
        tests = hiding_tests(
            probability, pixels_BCHW, maps_BRC, classes_B.tolist(), labels, fillings=_fillings(name), batch_size=_BATCH
        )
        cells = [f"{sum(test.flag == flag for test in tests)}" for flag in ("depends", "not shown", "cannot tell")]
        rows.append((name, f"{len(tests)}", *cells, ", ".join(tests[0].fillings)))
    return RateTable(
        "pictures",
        "The same on a copy of the model whose weights are all shuffled",
        ("map", "maps", "depends", "not shown", "cannot tell", "hidden behind"),
        tuple(rows),
        notes=("The answers of such a model mean nothing, but they are computed from its patches all the same.",),
    )
