"""What the verdict on many pictures says of broken and of trained models: the section ``sets`` of verdicts.py.

Axes: P pictures, C channels, H, W pixels, R grid rows, C (after R) grid columns.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from harness.error_rates import Aim, RateTable
from torch import nn
from verdict_models import Workplace
from verdict_pictures import MaskedScene, masked_scenes

from vitrine.attribution.baselines import centre_blob, edges
from vitrine.attribution.gradcam import gradcam_tokens
from vitrine.attribution.methods import Method
from vitrine.attribution.pointing import score_against_mask
from vitrine.attribution.ranking import ScoredMethod, estimate, metric, paired_difference
from vitrine.attribution.registry import METHODS
from vitrine.attribution.set_verdict import Accuracy, ControlComparison, SetEvidence, SetVerdict, judge_sets
from vitrine.attribution.weight_randomization import correlation_with_intact, randomised_copies, weight_stages
from vitrine.data.scenes.dataset import ScenePicture
from vitrine.explain.explainer import Explainer

Floats = npt.NDArray[np.float32]

BY = metric("average_precision")
PICTURES_OF_A_SET = (20, 40, 120)
LEAD = 0.1  # of the true hit rate over the best control's, from which a method should be believed
_OCCLUDED = 500  # pictures of the large set that occlusion's maps are made of: it takes 81 forward passes each
_CASCADE = 32  # pictures of the cascade
_SCENES_SEED = 0  # the test split of what the classifier was trained on
_COMPARED_COPIES = 10  # that do not know the pictures, of each kind of broken model
_BATCH = 64
_USELESS = 10  # methods of the simulation, all of them no better than the blob


@dataclass(frozen=True, eq=False)
class SceneSet:
    """Scenes with masks and labels, as a model sees them. ``truth_P`` is the class of each."""

    pixels_PCHW: torch.Tensor
    scenes: Sequence[MaskedScene]
    truth_P: npt.NDArray[np.int64]

    def first(self, count: int) -> SceneSet:
        """The first of them."""
        return SceneSet(self.pixels_PCHW[:count], self.scenes[:count], self.truth_P[:count])

    def score(self, name: str, maps_PRC: Floats, *, is_control: bool = False) -> ScoredMethod:
        """Maps against the masks."""
        scores = [
            score_against_mask(*each)
            for each in zip(
                maps_PRC, (s.coverage_RC for s in self.scenes), (s.hit_RC for s in self.scenes), strict=True
            )
        ]
        values = {
            key: np.array([np.nan if (value := getattr(score, key)) is None else value for score in scores])
            for key in ("pointing", BY.key)
        }
        return ScoredMethod(name, is_control, values)


def measure(workplace: Workplace) -> Iterable[RateTable]:
    """The section's tables."""
    sizes = workplace.sizes
    large = _scene_set(workplace, max(sizes.large_set, sizes.pictures))
    yield _table_of_trained(workplace, large)
    scenes = large.first(min(120, sizes.pictures))
    yield table_of_broken([judge_broken(workplace, scenes, kind) for kind in KINDS], len(scenes.scenes))
    yield _table_of_stages(workplace, large.first(_CASCADE))
    yield _table_of_layers(workplace, large.first(sizes.large_set))
    yield _table_of_useless(workplace)


def _scene_set(workplace: Workplace, count: int) -> SceneSet:
    scenes = masked_scenes(workplace, count, _SCENES_SEED)
    truth_P = np.array([ScenePicture(workplace.family, _SCENES_SEED, "test", index).label for index in range(count)])
    return SceneSet(torch.stack([scene.pixels_CHW for scene in scenes]), scenes, truth_P)


def _predict(module: nn.Module, scenes: SceneSet) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([module(part_BCHW).argmax(dim=1) for part_BCHW in scenes.pixels_PCHW.split(_BATCH)])


def _maps(workplace: Workplace, method: Method, module: nn.Module, scenes: SceneSet, targets_P: torch.Tensor) -> Floats:
    explainer = Explainer(workplace.classifier, method)
    parts = zip(scenes.pixels_PCHW.split(_BATCH), targets_P.split(_BATCH), strict=True)
    return np.concatenate([explainer.maps(*part, module).scores_BRC.numpy() for part in parts])


def _controls(scenes: SceneSet) -> dict[str, ScoredMethod]:
    grid, count = scenes.scenes[0].coverage_RC.shape, len(scenes.scenes)
    blobs_PRC = np.stack([centre_blob(*grid)] * count)
    return {
        "a blob in the centre": scenes.score("blob", blobs_PRC, is_control=True),
        "the picture's edges": scenes.score("edges", edges(scenes.pixels_PCHW, *grid), is_control=True),
    }


@dataclass(frozen=True, eq=False)
class MethodOnSet:
    """A method's scores on scenes, and those of its maps of the model with all weights shuffled."""

    method: Method
    own: ScoredMethod
    shuffled: ScoredMethod


def _score_methods(
    workplace: Workplace, module: nn.Module, scenes: SceneSet, names: Iterable[str], seed: int
) -> dict[str, MethodOnSet]:
    targets_P = _predict(module, scenes)
    *_, (_, shuffled_module) = randomised_copies(module, seed=seed)
    scored = {}
    for method in map(Method, names):
        own, shuffled = (
            scenes.score(method.name, _maps(workplace, method, each, scenes, targets_P))
            for each in (module, shuffled_module)
        )
        scored[method.name] = MethodOnSet(method, own, shuffled)
    return scored


def _take(scored: ScoredMethod, places: Sequence[int] | range) -> ScoredMethod:
    values = {key: values_P[np.asarray(places)] for key, values_P in scored.values.items()}
    return ScoredMethod(scored.name, scored.is_control, values)


def _judge(
    methods: Mapping[str, MethodOnSet], controls: Mapping[str, ScoredMethod], accuracy: Accuracy
) -> dict[str, SetVerdict]:
    evidence = {}
    for name, each in methods.items():
        comparisons = []
        for words, control in (*controls.items(), ("the same method with all weights shuffled", each.shuffled)):
            lead, mean = paired_difference(each.own, control, BY), estimate(control.values[BY.key], BY)
            assert lead is not None and mean is not None
            comparisons.append(ControlComparison(words, mean.mean, lead))
        own = estimate(each.own.values[BY.key], BY)
        assert own is not None
        evidence[name] = SetEvidence(
            BY.key, own, tuple(comparisons), for_a_class=each.method.for_a_class, accuracy=accuracy
        )
    return judge_sets(evidence)


def _accuracy(workplace: Workplace, right_P: npt.NDArray[np.bool_], truth_P: npt.NDArray[np.int64]) -> Accuracy:
    chance = max(np.bincount(truth_P).max() / len(truth_P), 1 / len(workplace.classifier.labels))
    return Accuracy(int(right_P.sum()), len(truth_P), float(chance))


def _table_of_trained(workplace: Workplace, scenes: SceneSet) -> RateTable:
    """How often sets drawn from many scenes are enough for each method to be believed."""
    module, controls = workplace.classifier.module, _controls(scenes)
    small = scenes.first(_OCCLUDED)
    methods = _score_methods(workplace, module, scenes, [name for name in METHODS if name != "occlusion"], seed=0)
    methods |= _score_methods(workplace, module, small, ["occlusion"], seed=0)
    right_P = _predict(module, scenes).numpy() == scenes.truth_P
    believed = _draw_sets(workplace, methods, controls, small, right_P)
    rows, shares = [], []
    for name in METHODS:
        own = _hits(methods[name].own)
        best = max(*map(_hits, controls.values()), _hits(methods[name].shuffled))
        if own >= best + LEAD and 120 in believed:
            shares.append(believed[120][name])
        cells = (f"{believed[size][name]:.2f}" if size in believed else "–" for size in PICTURES_OF_A_SET)
        precision = [float(np.nanmean(each.values[BY.key])) for each in (methods[name].own, *controls.values())]
        n = len(methods[name].own.values["pointing"])
        rows.append((name, f"{n:,}", f"{own:.2f}", f"{best:.2f}", *(f"{each:.2f}" for each in precision), *cells))
    return RateTable(
        "sets",
        "A trained model: how often each method is believed on a set of pictures",
        (
            "method", "scenes", "hit rate", "best control's", "average precision", "blob's", "edges'",
            *(f"believed on {size}" for size in PICTURES_OF_A_SET),
        ),
        tuple(rows),
        aims=(Aim(f"methods that hit {LEAD:g} more often than every control, believed on 120 pictures, least",
                  min(shares), "at least", 0.9),) if shares else (),
        notes=(
            f"Sets are drawn {workplace.sizes.draws} times from {len(small.scenes)} scenes; the model is right on "
            f"{right_P.mean():.2f} of them all.",
            "On "
            f"{int((~right_P).sum())} wrong answers attention hits {_hits_where(methods['attention'].own, ~right_P)}, "
            f"on right ones {_hits_where(methods['attention'].own, right_P)}: both count.",
        ),
    )  # fmt: skip


def _draw_sets(
    workplace: Workplace,
    methods: Mapping[str, MethodOnSet],
    controls: Mapping[str, ScoredMethod],
    scenes: SceneSet,
    right_P: npt.NDArray[np.bool_],
) -> dict[int, dict[str, float]]:
    """By size of a set and method, the share of drawn sets on which it is believed."""
    rng, shares = np.random.default_rng(0), dict[int, dict[str, float]]()
    for size in PICTURES_OF_A_SET:
        if size > len(scenes.scenes):
            continue
        counts = dict.fromkeys(methods, 0)
        for _ in range(workplace.sizes.draws):
            places = rng.choice(len(scenes.scenes), size, replace=False)
            drawn = {
                name: replace(each, own=_take(each.own, places), shuffled=_take(each.shuffled, places))
                for name, each in methods.items()
            }
            others = {name: _take(each, places) for name, each in controls.items()}
            accuracy = _accuracy(workplace, right_P[places], scenes.truth_P[places])
            for name, verdict in _judge(drawn, others, accuracy).items():
                counts[name] += verdict.flag == "believable"
        shares[size] = {name: count / workplace.sizes.draws for name, count in counts.items()}
    return shares


def _hits(scored: ScoredMethod) -> float:
    return float(np.nanmean(scored.values["pointing"]))


def _hits_where(scored: ScoredMethod, chosen_P: npt.NDArray[np.bool_]) -> str:
    return f"{np.nanmean(scored.values['pointing'][chosen_P]):.2f}" if chosen_P.any() else "nothing"


@dataclass(frozen=True)
class BrokenModels:
    """Copies of the model that were broken in one way, and the verdicts on their methods.

    Attributes:
        kind: how they were broken.
        accuracies: of every copy.
        knowing: copies that know the pictures.
        beating: methods that beat every control, of those that were compared.
        compared_methods: how many were compared.
        believed_methods: of all copies and methods.
    """

    kind: str
    accuracies: tuple[float, ...]
    knowing: int
    beating: int
    compared_methods: int
    believed_methods: int

    @property
    def judged_methods(self) -> int:
        """All methods of all copies: those of a model that does not know the pictures are never believed."""
        return len(self.accuracies) * len(METHODS)


KINDS = ("never trained", "head shuffled", "last block shuffled")


def judge_broken(workplace: Workplace, scenes: SceneSet, kind: str) -> BrokenModels:
    """Break copies of the model and judge their methods.

    Maps of all methods are made of copies that know the pictures; of the first others, those of all but occlusion, to
    see how many would pass if nobody asked what the model knows.
    """
    controls, accuracies, knowing, beating, compared, believed = _controls(scenes), [], 0, 0, 0, 0
    for seed in range(workplace.sizes.broken):
        module = _break_module(workplace.classifier.module, kind, seed)
        accuracy = _accuracy(workplace, _predict(module, scenes).numpy() == scenes.truth_P, scenes.truth_P)
        accuracies.append(accuracy.right / accuracy.pictures)
        knowing += accuracy.knows is True
        if accuracy.knows or seed < _COMPARED_COPIES:
            names = METHODS if accuracy.knows else [name for name in METHODS if name != "occlusion"]
            verdicts = _judge(_score_methods(workplace, module, scenes, names, 1000 + seed), controls, accuracy)
            beating += sum(verdict.beats_controls is True for verdict in verdicts.values())
            believed += sum(verdict.flag == "believable" for verdict in verdicts.values())
            compared += len(verdicts)
    return BrokenModels(kind, tuple(accuracies), knowing, beating, compared, believed)


def table_of_broken(models: Sequence[BrokenModels], pictures: int) -> RateTable:
    """Models that cannot know what they see: none of their maps should be believed."""
    judged, believed = sum(each.judged_methods for each in models), sum(each.believed_methods for each in models)
    return RateTable(
        "sets",
        "Broken models: how often one of their methods is believed",
        ("model", "copies", "accuracy", "know the pictures", "beat every control", "believed"),
        tuple(
            (
                each.kind,
                f"{len(each.accuracies)}",
                f"{np.mean(each.accuracies):.2f} ({min(each.accuracies):.2f} to {max(each.accuracies):.2f})",
                f"{each.knowing}",
                f"{each.beating} of {each.compared_methods}",
                f"{each.believed_methods} of {each.judged_methods}",
            )
            for each in models
        ),
        aims=(
            Aim("methods of broken models that are believed", believed / judged, "at most", 0.025),
            *(
                Aim(f"of models: {each.kind}", each.believed_methods / each.judged_methods, "at most", 0.025)
                for each in models
            ),
        ),
        notes=(
            f"{pictures} scenes. Methods are compared with controls on copies that know the pictures, and without "
            f"occlusion on the first {_COMPARED_COPIES} others, which are not believed whatever comes of it.",
        ),
    )


def _break_module(module: nn.Module, kind: str, seed: int) -> nn.Module:
    """A copy without what it learned, or with the weights of its head or its last block shuffled."""
    broken = copy.deepcopy(module)
    if kind == "never trained":
        torch.manual_seed(seed)
        broken.init_weights()  # type: ignore[operator]
        for part in broken.modules():
            if isinstance(part, nn.LayerNorm):
                part.reset_parameters()
        nn.init.normal_(broken.get_classifier().weight, std=0.02)  # type: ignore[operator]  # else all classes tie
        return broken
    stages = weight_stages(broken)
    _, parameters = stages[0 if kind == "head shuffled" else 1]
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in parameters:
            order_N = torch.from_numpy(rng.permutation(parameter.numel()))
            parameter.copy_(parameter.flatten()[order_N].reshape(parameter.shape))
    return broken


def _table_of_stages(workplace: Workplace, scenes: SceneSet) -> RateTable:
    """The cascade: what is left of a map's order while weights are shuffled."""
    targets_P = _predict(workplace.classifier.module, scenes)
    explainers = {name: Explainer(workplace.classifier, Method(name)) for name in METHODS}
    intact = {name: each.maps(scenes.pixels_PCHW, targets_P).scores_BRC for name, each in explainers.items()}
    stages, correlations = [], {name: list[str]() for name in METHODS}
    for stage, copied_module in randomised_copies(workplace.classifier.module, seed=0):
        stages.append(stage)
        for name, explainer in explainers.items():
            maps_BRC = explainer.maps(scenes.pixels_PCHW, targets_P, copied_module).scores_BRC
            correlations[name].append(f"{correlation_with_intact(intact[name], maps_BRC).mean():.2f}")
    return RateTable(
        "sets",
        "Rank correlation of maps with those of the intact model, while weights are shuffled from the head down",
        ("method", *stages),
        tuple((name, *row) for name, row in correlations.items()),
        notes=(f"Means over {len(scenes.scenes)} scenes. Below 0.5 at the head a map is called one of the class.",),
    )


def _table_of_layers(workplace: Workplace, scenes: SceneSet) -> RateTable:
    """Grad-CAM by layer."""
    module = workplace.classifier.module
    targets_P, rows = _predict(module, scenes), []
    depth = len(module.blocks)  # type: ignore[arg-type]
    for layer in range(depth - 1, -1, -1):
        maps_PRC = _maps(workplace, Method("gradcam", layer=layer), module, scenes, targets_P)
        scored = scenes.score("gradcam", maps_PRC)
        blank = int(np.count_nonzero(~maps_PRC.any(axis=(1, 2))))
        precision = float(np.nanmean(scored.values[BY.key]))
        rows.append((f"`{gradcam_tokens(module, layer)}`", f"{_hits(scored):.2f}", f"{precision:.2f}", f"{blank}"))
    return RateTable(
        "sets",
        "Grad-CAM by the tokens that it is taken at",
        ("tokens", "hit rate", "average precision", "maps that are zero"),
        tuple(rows),
        notes=(f"{len(scenes.scenes):,} scenes.",),
    )


def _table_of_useless(workplace: Workplace) -> RateTable:
    """Simulated hits: ten methods that hit as often as the blob does, and the best of them."""
    known, rows, rates = Accuracy(100, 100, 0.1), [], []
    pointing = metric("pointing")
    for size in (20, 60, 120):
        counts = {"interval": 0, "corrected": 0}
        for draw in range(5 * workplace.sizes.draws):
            rng = np.random.default_rng([size, draw])
            blob_P = (rng.random(size) < 0.6).astype(float)
            evidence = {}
            for number in range(_USELESS):
                own = ScoredMethod("own", False, {"pointing": (rng.random(size) < 0.6).astype(float)})
                lead = paired_difference(own, ScoredMethod("blob", True, {"pointing": blob_P}), pointing)
                mean = estimate(own.values["pointing"], pointing)
                assert lead is not None and mean is not None
                comparison = ControlComparison("a blob in the centre", float(blob_P.mean()), lead)
                evidence[str(number)] = SetEvidence("pointing", mean, (comparison,), accuracy=known)
            verdicts = judge_sets(evidence).values()
            leads = [verdict.evidence.controls[0].lead.difference for verdict in verdicts]
            counts["interval"] += any(lead.interval is not None and lead.interval.low > 0 for lead in leads)
            counts["corrected"] += any(verdict.flag == "believable" for verdict in verdicts)
        shares = {key: count / (5 * workplace.sizes.draws) for key, count in counts.items()}
        rates.append(shares["corrected"])
        rows.append((f"{size}", f"{shares['interval']:.3f}", f"{shares['corrected']:.3f}"))
    return RateTable(
        "sets",
        f"{_USELESS} methods that hit as often as the blob: how often one of them is believed",
        ("pictures", "by its own interval", "by the verdict"),
        tuple(rows),
        aims=(Aim("useless methods, one of ten believed, worst", max(rates), "at most", 0.025),),
        notes=(f"{5 * workplace.sizes.draws:,} simulated sets each.",),
    )
