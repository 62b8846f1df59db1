"""One view of an encoded picture: the map that was asked for, in the unit of its scale, and what it is in words.

Axes: R grid rows, C grid columns, N tokens (prefix tokens first), B pictures (one here).
"""

from __future__ import annotations

import shlex
import threading
import zlib
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from vitrine.attribution.baselines import centre_blob, edges, random_map
from vitrine.attribution.maps import BatchMaps
from vitrine.attribution.methods import Method
from vitrine.attribution.position_embeddings import position_embeddings
from vitrine.attribution.position_metrics import PositionFindings, assess_positions
from vitrine.attribution.verdict import Verdict
from vitrine.data.loader import Batch
from vitrine.errors import ModelError
from vitrine.explain.explainer import Checked, ExplainedBatch, Explainer, check_maps
from vitrine.explain.run import ExplainSettings, choose_scale, display_scores, explain_flags
from vitrine.plotting.colormap import Scale, shared_scale
from vitrine.serve.classifier import EncodedPicture, ServedClassifier, cache_view
from vitrine.serve.errors import ApiError
from vitrine.serve.schema import (
    Array,
    CheckInfo,
    ClassProbability,
    ControlMap,
    Explanation,
    Matrix,
    PositionNumber,
    Positions,
    ScaleInfo,
    VerdictInfo,
    ViewParams,
)
from vitrine.serve.worker import Job

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class View:
    """A map that was asked for.

    Attributes:
        method: with its settings.
        to: the map is of who attends to the query, not of what it attends to.
        target: index of the class that it is for.
    """

    method: Method
    to: bool
    target: int

    @property
    def runs_model(self) -> bool:
        """Whether the first map of its kind needs the model."""
        return self.method.for_a_class


def view_of(params: ViewParams, served: ServedClassifier, encoded: EncodedPicture) -> View:
    """What was asked for, checked against the model.

    Raises:
        ApiError: the model has no such method or class, or it goes together with nothing.
        ModelError: no such layer, head or query.
    """
    if params.method not in served.methods:
        known = ", ".join(served.methods)
        raise ApiError(422, f"{served.reference} cannot be explained by {params.method}: expected {known}.")
    if params.direction == "to" and params.method != "attention":
        raise ApiError(422, f"Who attends to a patch is a view of attention; {params.method} has one direction.")
    if params.target is not None and params.target not in served.labels:
        raise ApiError(422, f"The model has no class {params.target[:60]!r}.")
    likeliest = int(encoded.probabilities_C.argmax())
    target = likeliest if params.target is None else served.labels.index(params.target)
    heads = int(params.head) if params.head.isdecimal() else params.head
    row, comma, column = params.query.partition(",")
    query = (int(row), int(column)) if comma else params.query
    if params.method != "attention":
        return View(Method(params.method), False, target)
    return View(Method("attention", params.layer, heads, query), params.direction == "to", target)


def map_of(view: View, encoded: EncodedPicture) -> BatchMaps:
    """The map, from what is held alone.

    Raises:
        ModelError: no such layer, head or query.
        KeyError: the method runs the model, and did not yet.
    """
    method = view.method
    if method.for_a_class:
        return encoded.maps[method.name, view.target]
    assert encoded.attention is not None
    if method.name == "rollout":
        return encoded.attention.rollout
    return encoded.attention.map(method.layer, method.heads, method.query)


def attention_to(view: View, encoded: EncodedPicture) -> Floats:
    """How much every patch attends to the query, in multiples of uniform: float32 (R, C).

    Each patch's row of attention is divided by the mean that it gives to a patch, so that a number here is the one
    that the map *from* that patch has at the query.
    """
    held, method = encoded.attention, view.method
    assert held is not None
    layout = held.layout
    if isinstance(method.query, tuple):
        token = layout.token_index(*method.query)
    elif layout.has_class and method.query in ("auto", "class"):
        token = 0
    else:
        raise ModelError("Nobody attends to a pool: give a patch, as in query=3,4.")
    matrix_NN = held.matrix(method.layer, method.heads)[layout.prefix :]
    means_N = matrix_NN[:, layout.prefix :].mean(dim=1).clamp_min(1e-30)
    scores: Floats = (matrix_NN[:, token] / means_N).reshape(layout.rows, layout.columns).numpy()
    return scores


def explained(view: View, served: ServedClassifier, encoded: EncodedPicture, name: str) -> Explanation:
    """The answer to ``/api/explain``.

    Raises:
        ModelError: no such layer, head or query.
    """
    share = None
    if view.to:
        map_RC = attention_to(view, encoded)
        scale = Scale("uniform", shared_scale([map_RC], least=2.0))
    else:
        maps = map_of(view, encoded)
        map_RC = display_scores(maps.scores_BRC[0].numpy(), maps.unit)
        scale = choose_scale(maps, ExplainSettings(view.method))
        share = None if maps.prefix_share_B is None else float(maps.prefix_share_B[0])
    return Explanation(
        picture=encoded.sha256,
        size=encoded.size,
        grid=list(map_RC.shape),
        map=Array.of(map_RC),
        scale=scale_info(scale),
        box=encoded.box,
        prefix_share=share,
        predictions=predictions(encoded.probabilities_C, served.labels),
        target=served.labels[view.target] if view.method.for_a_class else None,
        described=described(view, served),
        command=command(view, served, name),
    )


def matrix(served: ServedClassifier, encoded: EncodedPicture, layer: int, head: str) -> Matrix:
    """The answer to ``/api/matrix``.

    Raises:
        ApiError: the model has no attention that can be shown.
        ModelError: no such layer or head.
    """
    if encoded.attention is None:
        raise ApiError(422, f"{served.reference} has no attention that can be shown.")
    layout = encoded.attention.layout
    matrix_NN: torch.Tensor = encoded.attention.matrix(layer, int(head) if head.isdecimal() else head)
    return Matrix(
        tokens=len(matrix_NN),
        prefix=layout.prefix,
        grid=[layout.rows, layout.columns],
        matrix=Array.of(matrix_NN.numpy(), "float16"),
    )


def predictions(probabilities_C: Floats, labels: tuple[str, ...]) -> list[ClassProbability]:
    """Every class, the likeliest first; of equals, in class order."""
    order = np.argsort(-probabilities_C, kind="stable").tolist()
    return [ClassProbability(label=labels[i], probability=float(probabilities_C[i])) for i in order]


def scale_info(scale: Scale) -> ScaleInfo:
    """As it is sent."""
    return ScaleInfo(kind="lost" if scale.kind == "lost" else "uniform", high=scale.high, label=scale.name)


def described(view: View, served: ServedClassifier) -> str:
    """What the map is, in words for a person."""
    words = view.method.describe(served.opened.module)
    if not view.to:
        return words
    looked_at, _, rest = words.removeprefix("attention of ").partition(" to the patches")
    return f"attention of the patches to {looked_at}{rest}"


def command(view: View, served: ServedClassifier, name: str) -> str | None:
    """The command line that draws the same map; None for what no command draws: who attends to a patch."""
    if view.to:
        return None
    likeliest_is_target = view.method.for_a_class
    settings = ExplainSettings(view.method, served.labels[view.target] if likeliest_is_target else None)
    flags = explain_flags(settings, served.precision, served.architecture)
    return shlex.join(["vitrine", "explain", served.reference, name, "-o", "maps", *flags])


_LABELS = {
    "sensitive_to_weights": "rank correlation with the map of a model with randomised weights",
    "better_than_centre": "insertion less deletion, above that of a blob in the centre",
    "spread_evenly": "share of the mass on the strongest tenth of the patches",
    "carried_by_outliers": "share of the mass on outlier tokens",
}
_GOOD = {"sensitive_to_weights": True, "better_than_centre": True, "spread_evenly": False, "carried_by_outliers": False}
_VALUES = {
    "sensitive_to_weights": "correlation",
    "better_than_centre": "advantage",
    "spread_evenly": "top_decile_mass",
    "carried_by_outliers": "outlier_mass",
}


def mapped(view: View, served: ServedClassifier, encoded: EncodedPicture) -> tuple[Explainer, ExplainedBatch]:
    """The view's map as the workflows have it, made of what is held: the model is not run."""
    target = served.labels[view.target] if view.method.for_a_class else None
    explainer = Explainer(served.opened, view.method, target)
    nothing_B = torch.zeros(1, dtype=torch.int64)
    batch = Batch(encoded.square_CHW[None], nothing_B - 1, nothing_B)
    probabilities_BC = torch.from_numpy(encoded.probabilities_C)[None]
    targets_B = torch.tensor([view.target])
    return explainer, ExplainedBatch(
        batch, explainer.pixels(batch.pixels_BCHW), probabilities_BC, targets_B, map_of(view, encoded)
    )


def checked_key(view: View) -> Hashable:
    """What a check is kept under."""
    return view.method, view.target if view.method.for_a_class else None


def check(view: View, served: ServedClassifier, encoded: EncodedPicture, job: Job) -> Checked:
    """Check one map, which runs the model many times; in the worker's thread. Kept once it is made.

    Raises:
        ApiError: it is a view that nothing is known to be compared with.
        JobCancelled: nobody waits.
    """
    key = checked_key(view)
    found: Checked | None = encoded.checked.get(key)
    if found is None:
        explainer, batch = mapped(view, served, encoded)
        with served.interrupted_by(job):
            found = check_maps(explainer, batch)
        cache_view(encoded.checked, key, found)
    return found


def require_checkable(view: View, served: ServedClassifier) -> None:
    """Refuse what no check is made for.

    Raises:
        ApiError: the view cannot be checked, or the model's patches do not divide its pictures.
    """
    side, layout = served.opened.spec.size, served.layout
    if side % layout.rows or side % layout.columns:
        raise ApiError(422, "The patches of this model do not divide its input evenly, so its maps cannot be checked.")
    if view.to:
        raise ApiError(422, "Only maps of what the model looks at can be checked, not of who attends to a patch.")


def verdict_info(
    view: View, served: ServedClassifier, encoded: EncodedPicture, checked: Checked, name: str
) -> VerdictInfo:
    """The answer to ``/api/verdict``."""
    rows, columns = served.layout.rows, served.layout.columns
    pixels_BCHW = served.explainer.pixels(encoded.square_CHW[None])
    seed = zlib.crc32(encoded.sha256.encode())  # a random control of its own for every picture
    maps = {
        "random": random_map(rows, columns, seed),
        "centre blob": centre_blob(rows, columns),
        "edges": edges(pixels_BCHW, rows, columns)[0],
    }
    verdict = checked.verdicts[0]
    line = command(view, served, name)
    assert line is not None
    return VerdictInfo(
        flag=verdict.flag,
        sentence=verdict.sentence,
        checks=_checks(verdict),
        controls=[ControlMap(name=key, map=Array.of(display_scores(map_RC, "mass"))) for key, map_RC in maps.items()],
        outliers=[[int(row), int(column)] for row, column in np.argwhere(checked.outliers_BRC[0])],
        picture=encoded.sha256,
        described=described(view, served),
        command=f"{line} --check",
    )


def _checks(verdict: Verdict) -> list[CheckInfo]:
    checks = []
    for name, label in _LABELS.items():
        answer: bool | None = getattr(verdict, name)
        good = None if answer is None else answer == _GOOD[name]
        value: float | None = getattr(verdict.evidence, _VALUES[name])
        checks.append(CheckInfo(name=name, answer=answer, good=good, value=value, label=label))
    return checks


_NAMES = {
    "neighbour_share": "cells whose most similar other cell is a direct neighbour",
    "distance_correlation": "rank correlation of similarity with distance",
    "additive_share": "similarity that a row term plus a column term explain",
}


class PositionFindingsCache:
    """Findings by model, made when they are first asked for. For many threads."""

    def __init__(self) -> None:
        self._found: dict[str, PositionFindings] = {}
        self._lock = threading.Lock()

    def of(self, served: ServedClassifier) -> PositionFindings:
        """The findings of a model.

        Raises:
            ModelError: it has no position embeddings of this kind.
        """
        with self._lock:
            if served.id not in self._found:
                table = position_embeddings(served.opened.module)
                notes = (*served.opened.loaded.notes, *table.notes)
                found = assess_positions(table.embeddings_RCD, is_fixed_sine=table.is_fixed_sine, notes=notes)
                self._found[served.id] = found
            return self._found[served.id]


def has_positions(served: ServedClassifier) -> bool:
    """Whether a model has position embeddings that can be compared."""
    try:
        position_embeddings(served.opened.module)
    except ModelError:
        return False
    return True


def positions_info(served: ServedClassifier, found: PositionFindings) -> Positions:
    """As it is sent."""
    own, untrained, sine = (
        each.to_dict() for each in (found.numbers, found.controls.untrained_mean, found.controls.sine)
    )
    cells = found.rows * found.columns
    return Positions(
        grid=[found.rows, found.columns],
        similarity=Array.of(found.similarity_RCRC.reshape(cells, cells), "float16"),
        numbers=[
            PositionNumber(name=name, value=own[key], untrained=untrained[key], sine=sine[key])
            for key, name in _NAMES.items()
        ],
        sentences=[found.sentence, *found.notes],
        command=positions_command(served),
    )


def positions_command(served: ServedClassifier, cell: tuple[int, int] | None = None) -> str:
    """The command line that draws the figure; rows and columns of its cell count from 1."""
    words = ["vitrine", "positions", served.reference, "-o", "positions.png"]
    words += [] if cell is None else ["--cell", f"{cell[0] + 1},{cell[1] + 1}"]
    return shlex.join([*words, *(["--arch", served.architecture] if served.architecture else [])])
