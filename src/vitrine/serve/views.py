"""One view of an encoded picture: the map that was asked for, in the unit of its scale, and what it is in words.

Axes: R grid rows, C grid columns, N tokens (prefix tokens first), B pictures (one here).
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from vitrine.errors import ModelError
from vitrine.explain.maps import BatchMaps
from vitrine.explain.methods import Method
from vitrine.report.scale import Scale, shared_scale
from vitrine.serve.asked import ViewQuery
from vitrine.serve.classifiers import ServedClassifier
from vitrine.serve.encoded import EncodedPicture
from vitrine.serve.refusals import Refusal
from vitrine.serve.schema import Array, ClassProbability, Explained, Matrix, ScaleInfo
from vitrine.workflows.explain_words import explain_flags
from vitrine.workflows.explained import ExplainSettings
from vitrine.workflows.map_pictures import scale_of, shown

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


def view_of(asked: ViewQuery, served: ServedClassifier, encoded: EncodedPicture) -> View:
    """What was asked for, checked against the model.

    Raises:
        Refusal: the model has no such method or class, or it goes together with nothing.
        ModelError: no such layer, head or query.
    """
    if asked.method not in served.methods:
        known = ", ".join(served.methods)
        raise Refusal(422, f"{served.reference} cannot be explained by {asked.method}: expected {known}.")
    if asked.direction == "to" and asked.method != "attention":
        raise Refusal(422, f"Who attends to a patch is a view of attention; {asked.method} has one direction.")
    if asked.target is not None and asked.target not in served.labels:
        raise Refusal(422, f"The model has no class {asked.target[:60]!r}.")
    likeliest = int(encoded.probabilities_C.argmax())
    target = likeliest if asked.target is None else served.labels.index(asked.target)
    heads = int(asked.head) if asked.head.isdecimal() else asked.head
    row, comma, column = asked.query.partition(",")
    query = (int(row), int(column)) if comma else asked.query
    if asked.method != "attention":
        return View(Method(asked.method), False, target)
    return View(Method("attention", asked.layer, heads, query), asked.direction == "to", target)


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


def towards(view: View, encoded: EncodedPicture) -> Floats:
    """How much every patch attends to the query, in multiples of uniform: float32 (R, C).

    Each patch's row of attention is divided by the mean that it gives to a patch, so that a number here is the one
    that the map *from* that patch has at the query.
    """
    held, method = encoded.attention, view.method
    assert held is not None
    layout = held.layout
    if isinstance(method.query, tuple):
        token = layout.token_of(*method.query)
    elif layout.has_class and method.query in ("auto", "class"):
        token = 0
    else:
        raise ModelError("Nobody attends to a pool: give a patch, as in query=3,4.")
    matrix_NN = held.matrix(method.layer, method.heads)[layout.prefix :]
    means_N = matrix_NN[:, layout.prefix :].mean(dim=1).clamp_min(1e-30)
    scores: Floats = (matrix_NN[:, token] / means_N).reshape(layout.rows, layout.columns).numpy()
    return scores


def explained(view: View, served: ServedClassifier, encoded: EncodedPicture, name: str) -> Explained:
    """The answer to ``/api/explain``.

    Raises:
        ModelError: no such layer, head or query.
    """
    share = None
    if view.to:
        map_RC = towards(view, encoded)
        scale = Scale("uniform", shared_scale([map_RC], least=2.0))
    else:
        maps = map_of(view, encoded)
        map_RC = shown(maps.scores_BRC[0].numpy(), maps.unit)
        scale = scale_of(maps, ExplainSettings(view.method))
        share = None if maps.prefix_share_B is None else float(maps.prefix_share_B[0])
    return Explained(
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
        Refusal: the model has no attention that can be shown.
        ModelError: no such layer or head.
    """
    if encoded.attention is None:
        raise Refusal(422, f"{served.reference} has no attention that can be shown.")
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
