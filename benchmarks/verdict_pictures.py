"""What the test of one picture says of maps whose truth is known: the section ``pictures`` of verdicts.py.

Axes: B pictures, C channels, H, W pixels, R grid rows, C (after R) grid columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
import numpy.typing as npt
import torch
from harness.error_rates import Aim, RateTable
from verdict_models import Workplace

from vitrine.attribution.baselines import random_map
from vitrine.attribution.methods import Method
from vitrine.attribution.patch_hiding import SIGNIFICANT, Flag, HidingTest
from vitrine.attribution.registry import METHODS
from vitrine.attribution.weight_randomization import randomised_copies
from vitrine.data.scenes.dataset import ScenePicture
from vitrine.explain.explainer import Explainer

Floats = npt.NDArray[np.float32]

SCENES_SEED = 1  # seed 0 has the scenes that the model is trained and the test is set up on
RANDOM_MAPS = 2  # a picture
OTHERS = ("attention", "relevance", "occlusion")  # methods whose maps of another picture are tested
FLAGS: tuple[str, ...] = get_args(Flag)
MASK, RANDOM, OTHER = "the object's mask", "random", "of another picture"


@dataclass(frozen=True)
class TestedMap:
    """One map with its test, and whether it covers the object.

    Attributes:
        kind: who made it.
        test: of the model's answer.
        covers: whether of as many strongest patches as the object has at least half lie on it (R-precision).
        told_covers: the same of the middle one of the numbers of patches that were hidden.
    """

    kind: str
    test: HidingTest
    covers: bool
    told_covers: bool


def measure(workplace: Workplace) -> Iterable[RateTable]:
    """The section's tables."""
    maps = _Maps(workplace)
    tested = [each for b in range(len(maps.scenes)) for each in maps.test(b)]
    yield _table_of_kinds(tested)
    yield _table_of_objects(tested)
    yield _table_of_broken(workplace)


@dataclass(frozen=True, eq=False)
class MaskedScene:
    """A scene as a model sees it. ``coverage_RC`` is the object's share of each patch, ``hit_RC`` its centre's."""

    pixels_CHW: torch.Tensor
    coverage_RC: Floats
    hit_RC: npt.NDArray[np.bool_]


def masked_scenes(workplace: Workplace, count: int, seed: int = SCENES_SEED) -> list[MaskedScene]:
    """Test scenes of the classifier's family, from a seed."""
    explainer = Explainer(workplace.classifier, Method())
    rows, columns = explainer.layout.rows, explainer.layout.columns
    scenes = []
    for index in range(count):
        picture = ScenePicture(workplace.family, seed, "test", index)
        mask_HW = picture.scene.objects[0].mask
        down, across = mask_HW.shape[0] // rows, mask_HW.shape[1] // columns
        pixels_BCHW = explainer.pixels(torch.from_numpy(picture.pixels()).permute(2, 0, 1)[None])
        coverage_RC = mask_HW.reshape(rows, down, columns, across).mean(axis=(1, 3)).astype(np.float32)
        hit_RC = mask_HW[down // 2 :: down, across // 2 :: across]
        scenes.append(MaskedScene(pixels_BCHW[0], coverage_RC, hit_RC))
    return scenes


class _Maps:
    """Maps of all kinds of the same pictures, and their tests, picture by picture."""

    def __init__(self, workplace: Workplace) -> None:
        self.scenes = masked_scenes(workplace, workplace.sizes.pictures)
        pixels_BCHW = torch.stack([scene.pixels_CHW for scene in self.scenes])
        self.explainer = Explainer(workplace.classifier, Method())
        self.classes_B = self.explainer.probability(pixels_BCHW).argmax(dim=1).cpu()
        coverage_BRC = np.stack([scene.coverage_RC for scene in self.scenes])
        self.kinds = {MASK: coverage_BRC}
        for name in METHODS:
            self.kinds[name] = _maps(workplace.classifier.module, Method(name), pixels_BCHW, self.classes_B)
        self.kinds |= {f"{name} {OTHER}": np.roll(self.kinds[name], 1, axis=0) for name in (MASK, *OTHERS)}
        for number in range(RANDOM_MAPS):
            maps = [random_map(*coverage_BRC.shape[1:], 10 * b + number) for b in range(len(self.scenes))]
            self.kinds[f"{RANDOM} {number}"] = np.stack(maps)

    def test(self, b: int) -> Iterator[TestedMap]:
        """The tests of all maps of one picture."""
        scene = self.scenes[b]
        hiding = self.explainer.patch_hiding(scene.pixels_CHW, int(self.classes_B[b]))
        for kind, maps_BRC in self.kinds.items():
            test = hiding.test(maps_BRC[b])
            yield TestedMap(kind.rstrip(" 0123456789"), test, *_covers(maps_BRC[b], scene.hit_RC, test))


def _maps(module: torch.nn.Module, method: Method, pixels_BCHW: torch.Tensor, classes_B: torch.Tensor) -> Floats:
    parts = zip(pixels_BCHW.split(16), classes_B.split(16), strict=True)
    return np.concatenate([method.maps(module, *part).scores_BRC.numpy() for part in parts])


def _covers(scores_RC: Floats, hit_RC: npt.NDArray[np.bool_], test: HidingTest) -> tuple[bool, bool]:
    order_N, hit_N = np.argsort(-scores_RC.ravel(), kind="stable"), hit_RC.ravel()
    as_many = order_N[: max(1, int(hit_N.sum()))], order_N[: test.sets[len(test.sets) // 2].patches]
    covers, told_covers = (bool(hit_N[part].mean() >= 0.5) for part in as_many)
    return covers, told_covers


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
            *(f"{_rate(tests, flag):.2f}" for flag in FLAGS),
            f"{sum(each.test.p <= SIGNIFICANT for each in tests) / len(tests):.2f}",
            f"{np.median([each.test.effect for each in tests]):.2f}",
        )
        for kind, tests in kinds.items()
    )
    aims = [
        Aim(f"{MASK}, depends", _rate(kinds[MASK], "depends"), "at least", 0.8),
        Aim("random maps, depends", _rate(kinds[RANDOM], "depends"), "at most", 0.05),
    ]
    for name in (MASK, *OTHERS):
        ratio = _rate(kinds[f"{name} {OTHER}"], "depends") / max(1e-9, _rate(kinds[name], "depends"))
        aims.append(Aim(f"{name} {OTHER}, its rate by that of the picture's own", ratio, "at most", 0.5))
    curves = []
    for name in ("covers", "told_covers"):
        sides = [[each.test.effect for each in tested if getattr(each, name) is side] for side in (True, False)]
        curves.append(area_under_curve(*sides))
    aims.append(Aim("area under the curve of the effect, maps that cover the object", curves[0], "at least", 0.8))
    return RateTable(
        "pictures",
        "What the test of one picture says of each kind of map",
        ("map", "maps", *FLAGS, f"p at most {SIGNIFICANT:g}", "median effect"),
        rows,
        aims=tuple(aims),
        notes=(
            "A map covers the object where of as many strongest patches as the object has at least half lie on it; by "
            f"the middle one of the numbers that were hidden instead, the area is {curves[1]:.3g}.",
        ),
    )


def _table_of_objects(tested: Sequence[TestedMap]) -> RateTable:
    """Within one method: does the test tell maps that cover the object from those that do not? It need not."""
    rows = []
    for name in METHODS:
        tests = [each for each in tested if each.kind == name]
        counts = []
        for flag in FLAGS:
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
            "Within one method the test hardly tells maps that cover the object from the others: it says nothing of "
            "the object.",
        ),
    )


def _table_of_broken(workplace: Workplace) -> RateTable:
    """Copies of the model with shuffled weights: is occlusion still judged by what it was made of?"""
    count = min(workplace.sizes.pictures, 50)
    pixels_BCHW = torch.stack([scene.pixels_CHW for scene in masked_scenes(workplace, count)])
    *_, (_, module) = randomised_copies(workplace.classifier.module, seed=0)
    explainer = Explainer(replace(workplace.classifier, module=module), Method())
    classes_B = explainer.probability(pixels_BCHW).argmax(dim=1).cpu()
    maps = {name: _maps(module, Method(name), pixels_BCHW, classes_B) for name in METHODS}
    maps[RANDOM] = np.stack([random_map(*maps[METHODS[0]].shape[1:], b) for b in range(count)])
    tests: dict[str, list[HidingTest]] = {name: [] for name in maps}
    for b, pixels_CHW in enumerate(pixels_BCHW):
        hiding = explainer.patch_hiding(pixels_CHW, int(classes_B[b]))
        for name, maps_BRC in maps.items():
            tests[name].append(hiding.test(maps_BRC[b]))
    rows = tuple(
        (name, f"{len(each)}", *(f"{sum(test.flag == flag for test in each)}" for flag in FLAGS))
        for name, each in tests.items()
    )
    lost = np.median([test.answer - test.all_hidden for test in tests[METHODS[0]]])
    return RateTable(
        "pictures",
        "The same on a copy of the model whose weights are all shuffled",
        ("map", "maps", *FLAGS),
        rows,
        notes=(
            "The answers of such a model mean nothing, but they are computed from its patches all the same, and what a "
            f"map says of them can be right. With all patches hidden they lose {lost:.2f} (median).",
        ),
    )
