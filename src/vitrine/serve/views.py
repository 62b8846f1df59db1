"""Views of an encoded picture: its map by a method, whole attention matrices, the map's verdict, and positions.

Axes: R grid rows, C grid columns, N tokens (prefix tokens first), B pictures (one here).
"""

from __future__ import annotations

import shlex
import threading
import zlib
from collections.abc import Hashable
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import torch

from vitrine.attribution.attention import query_readout
from vitrine.attribution.baselines import centre_blob, edges, random_map
from vitrine.attribution.maps import BatchMaps, display_scores
from vitrine.attribution.method_options import OPTIONS, refuse_options
from vitrine.attribution.methods import Method
from vitrine.attribution.position_embeddings import position_embeddings
from vitrine.attribution.position_metrics import NUMBER_MEANINGS, NUMBER_NAMES, PositionFindings, assess_positions
from vitrine.classify.labels import find_class
from vitrine.data.samples import Sample
from vitrine.errors import ModelError
from vitrine.explain.explainer import ExplainedPicture, Explainer, MapCheck
from vitrine.explain.run import ExplainSettings, choose_scale, explain_flags
from vitrine.plotting.colormap import Scale, shared_scale
from vitrine.serve.classifier import ClassifierEncoding, ServedClassifier, cache_view
from vitrine.serve.errors import ApiError
from vitrine.serve.model import output_folder
from vitrine.serve.schema import (
    Array,
    ClassProbability,
    ControlMap,
    Explanation,
    HiddenPatches,
    Matrix,
    PositionNumber,
    Positions,
    ScaleInfo,
    VerdictInfo,
    ViewParams,
)
from vitrine.serve.worker import Job

Floats = npt.NDArray[np.float32]

_LONGEST_NAME = 60  # characters of a class name that a message repeats


@dataclass(frozen=True)
class View:
    """Which map of a picture to show.

    Attributes:
        method: with its settings.
        to: whether the map is of the patches that attend to the query, not of what the query attends to.
        target: index of the class that the map is for.
    """

    method: Method
    to: bool
    target: int

    @property
    def runs_model(self) -> bool:
        """Whether the first map of its kind needs the model."""
        return not self.method.entry.has_cached_attention

    @property
    def map_key(self) -> tuple[Method, int]:
        """Key of the cached map of a method that runs the model."""
        return self.method, self.target

    @property
    def check_key(self) -> Hashable:
        """Key of the cached result of checking the map."""
        return self.method, self.target if self.method.for_a_class else None


def parse_view(params: ViewParams, classifier: ServedClassifier, encoding: ClassifierEncoding) -> View:
    """The view that request parameters describe, checked against the model.

    Raises:
        ApiError: the model has no such method or class.
        UsageError: the method does not have one of the parameters.
        ModelError: no such layer, head or query.
    """
    if params.method not in classifier.methods:
        expected = ", ".join(classifier.methods)
        raise ApiError(422, f"{classifier.reference} cannot be explained by {params.method}: expected {expected}.")
    spelling = {"heads": "head"}
    options = [option for option in OPTIONS if spelling.get(option, option) in params.model_fields_set]
    refuse_options(params.method, options, lambda option: spelling.get(option, option))
    likeliest = int(encoding.probabilities_C.argmax())
    target = likeliest if params.target is None else _parse_target(params.target, classifier)
    row, comma, column = params.query.partition(",")
    query = (int(row), int(column)) if comma else params.query
    against = None if params.against is None else classifier.labels[_parse_target(params.against, classifier)]
    method = Method(params.method, params.layer, parse_head(params.head), query, params.window, against)
    return View(method, params.direction == "to", target)


def _parse_target(target: str, classifier: ServedClassifier) -> int:
    try:
        return find_class(classifier.labels, target)
    except ModelError as error:
        raise ApiError(422, str(error) if len(target) <= _LONGEST_NAME else "The model has no such class.") from error


def parse_head(head: str) -> int | str:
    """A head's number, or the name of a reduction over heads."""
    return int(head) if head.removeprefix("-").isdecimal() else head


def compute_map(view: View, encoding: ClassifierEncoding) -> BatchMaps:
    """The map of a view, without running the model.

    Raises:
        ModelError: no such layer, head or query.
        KeyError: the method runs the model, and no map of it is cached yet.
    """
    method = view.method
    if view.runs_model:
        return encoding.maps[view.map_key]
    assert encoding.attention is not None
    if method.name == "rollout":
        return encoding.attention.rollout
    return encoding.attention.map(method.layer, method.heads, method.query)


def attention_to(view: View, encoding: ClassifierEncoding) -> Floats:
    """How much every patch attends to the query, in multiples of uniform: float32 (R, C).

    Each patch's row of attention is divided by its mean over all patches, so that a number here equals the one that
    the map *from* that patch has at the query.

    Raises:
        ModelError: no such layer, head or patch, or the query is several tokens or a pool, to which no patch attends.
    """
    attention, method = encoding.attention, view.method
    assert attention is not None
    layout = attention.layout
    readout = query_readout(layout, method.query, attention.describe)
    token = readout.token
    if token is None:
        raise ModelError(f"Nobody attends to {readout.names}: give one token, as the patch in query=3,4.")
    matrix_NN = attention.matrix(method.layer, method.heads)[layout.prefix :]
    means_N = matrix_NN[:, layout.prefix :].mean(dim=1).clamp_min(1e-30)
    scores: Floats = (matrix_NN[:, token] / means_N).reshape(layout.rows, layout.columns).numpy()
    return scores


def scale_of_attention_to(map_RC: Floats) -> Scale:
    """The colour scale of a map from :func:`attention_to`."""
    return Scale("uniform", shared_scale([map_RC], minimum=2.0))


def explain_view(
    view: View, classifier: ServedClassifier, encoding: ClassifierEncoding, argument: str | None
) -> Explanation:
    """The answer to ``/api/explain``; ``argument`` is the picture as a command line takes it, if one can.

    Raises:
        ModelError: no such layer, head or query.
    """
    prefix_share = None
    if view.to:
        map_RC = attention_to(view, encoding)
        scale = scale_of_attention_to(map_RC)
    else:
        maps = compute_map(view, encoding)
        map_RC = display_scores(maps.scores_BRC[0].numpy(), maps.unit)
        scale = choose_scale([map_RC], maps.unit, ExplainSettings(view.method))
        prefix_share = None if maps.prefix_share_B is None else float(maps.prefix_share_B[0])
    return Explanation(
        picture=encoding.sha256,
        size=encoding.size,
        grid=list(map_RC.shape),
        map=Array.of(map_RC),
        scale=ScaleInfo(kind="lost" if scale.kind == "lost" else "uniform", high=scale.high, label=scale.name),
        box=encoding.box,
        prefix_share=prefix_share,
        predictions=rank_classes(encoding.probabilities_C, classifier.labels),
        target=_target_label(view, classifier),
        described=describe_view(view, classifier),
        command=explain_command(view, classifier, argument),
    )


def rank_classes(probabilities_C: Floats, labels: tuple[str, ...]) -> list[ClassProbability]:
    """Every class with its probability, the likeliest first; equal ones in class order."""
    order = np.argsort(-probabilities_C, kind="stable").tolist()
    return [ClassProbability(label=labels[i], probability=float(probabilities_C[i])) for i in order]


def describe_view(view: View, classifier: ServedClassifier) -> str:
    """What the map shows, in words for a person."""
    words = view.method.describe(classifier.model.module)
    if not view.to:
        return words
    query, _, rest = words.removeprefix("attention of ").partition(" to the patches")
    return f"attention of the patches to {query}{rest}"


def explain_command(
    view: View, classifier: ServedClassifier, argument: str | None, *, check: bool = False
) -> str | None:
    """The command line that draws the same map; None for attention to a query, and for pictures without a file.

    Args:
        view: the map.
        classifier: of the map.
        argument: the picture as a command line takes it.
        check: whether the map is checked, too.
    """
    if view.to or argument is None:
        return None
    settings = ExplainSettings(view.method, _target_label(view, classifier), check=check)
    flags = explain_flags(settings, classifier.precision, classifier.architecture)
    out = output_folder("maps", classifier.reference, flags)
    return shlex.join(["vitrine", "explain", classifier.reference, argument, "-o", out, *flags])


def _target_label(view: View, classifier: ServedClassifier) -> str | None:
    """The class that the map is for; None for methods whose maps are for no class."""
    return classifier.labels[view.target] if view.method.for_a_class else None


def attention_matrix(classifier: ServedClassifier, encoding: ClassifierEncoding, layer: int, head: str) -> Matrix:
    """The answer to ``/api/matrix``.

    Raises:
        ApiError: the model has no attention that can be shown.
        ModelError: no such layer or head.
    """
    if encoding.attention is None:
        raise ApiError(422, f"{classifier.reference} has no attention that can be shown.")
    layout = encoding.attention.layout
    matrix_NN: torch.Tensor = encoding.attention.matrix(layer, parse_head(head))
    return Matrix(
        tokens=len(matrix_NN),
        prefix=layout.prefix,
        grid=[layout.rows, layout.columns],
        matrix=Array.of(matrix_NN.numpy(), "float16"),
    )


def make_explained_picture(
    view: View,
    classifier: ServedClassifier,
    encoding: ClassifierEncoding,
    sample: Sample,
    map_check: MapCheck | None = None,
) -> ExplainedPicture:
    """A view of a picture as ``vitrine explain`` has it, without running the model."""
    explainer = Explainer(classifier.model, view.method)
    probabilities_C = torch.from_numpy(encoding.probabilities_C)
    return explainer.picture(sample, probabilities_C, view.target, compute_map(view, encoding), check=map_check)


def require_checkable(view: View, classifier: ServedClassifier) -> None:
    """Refuse a view whose map cannot be checked.

    Raises:
        ApiError: the map is of attention to a patch, or the model's patches do not divide its input.
    """
    (height, width), layout = classifier.model.spec.size, classifier.layout
    if height % layout.rows or width % layout.columns:
        raise ApiError(422, "The patches of this model do not divide its input evenly, so its maps cannot be checked.")
    if view.to:
        raise ApiError(422, "Only maps of what the model looks at can be checked, not of who attends to a patch.")


def check_view(view: View, classifier: ServedClassifier, encoding: ClassifierEncoding, job: Job) -> MapCheck:
    """Check the map of a view, which runs the model many times: in the worker's thread. The result is cached.

    Raises:
        JobCancelled: the job was cancelled.
    """
    result: MapCheck | None = encoding.checks.get(view.check_key)
    if result is None:
        explainer = Explainer(classifier.model, view.method)
        pixels_BCHW, targets_B = explainer.pixels(encoding.input_CHW[None]), torch.tensor([view.target])
        with classifier.stop_when_cancelled(job):
            (result,) = explainer.check(pixels_BCHW, targets_B, compute_map(view, encoding).scores_BRC.numpy())
        cache_view(encoding.checks, view.check_key, result)
    return result


def verdict_info(
    view: View, classifier: ServedClassifier, encoding: ClassifierEncoding, result: MapCheck, argument: str | None
) -> VerdictInfo:
    """The answer to ``/api/verdict``, from the result of :func:`check_view`."""
    rows, columns = classifier.layout.rows, classifier.layout.columns
    pixels_BCHW = classifier.explainer.pixels(encoding.input_CHW[None])
    seed = zlib.crc32(encoding.sha256.encode())  # every picture has a random control of its own
    controls = {
        "random": random_map(rows, columns, seed),
        "centre blob": centre_blob(rows, columns),
        "edges": edges(pixels_BCHW, rows, columns)[0],
    }
    verdict = result.verdict
    return VerdictInfo(
        flag=verdict.flag,
        sentence=verdict.sentence,
        label=verdict.label,
        answer=verdict.answer,
        all_hidden=verdict.all_hidden,
        sets=[HiddenPatches(**asdict(each)) for each in verdict.sets],
        p=verdict.p,
        draws=verdict.draws,
        fillings=list(verdict.fillings),
        controls=[
            ControlMap(name=key, map=Array.of(display_scores(map_RC, "mass"))) for key, map_RC in controls.items()
        ],
        outliers=[list(patch) for patch in result.outlier_patches],
        picture=encoding.sha256,
        described=describe_view(view, classifier),
        command=explain_command(view, classifier, argument, check=True),
    )


class PositionFindingsCache:
    """Findings on position embeddings by model, computed at first use. Safe for many threads."""

    def __init__(self) -> None:
        self._findings: dict[str, PositionFindings] = {}
        self._lock = threading.Lock()

    def get(self, classifier: ServedClassifier) -> PositionFindings:
        """The findings on a model.

        Raises:
            ModelError: it has no position embeddings of this kind.
        """
        with self._lock:
            if classifier.id not in self._findings:
                table = position_embeddings(classifier.model.module)
                notes = (*classifier.model.loaded_model.notes, *table.notes)
                self._findings[classifier.id] = assess_positions(
                    table.embeddings_RCD, is_fixed_sine=table.is_fixed_sine, notes=notes
                )
            return self._findings[classifier.id]


def has_positions(classifier: ServedClassifier) -> bool:
    """Whether a model has position embeddings that can be compared."""
    try:
        position_embeddings(classifier.model.module)
    except ModelError:
        return False
    return True


def positions_info(classifier: ServedClassifier, findings: PositionFindings) -> Positions:
    """The answer to ``/api/positions``."""
    controls = findings.controls
    model, random, sine = (each.to_dict() for each in (findings.numbers, controls.untrained_mean, controls.sine))
    cells = findings.rows * findings.columns
    return Positions(
        grid=[findings.rows, findings.columns],
        similarity=Array.of(findings.similarity_RCRC.reshape(cells, cells), "float16"),
        numbers=[
            PositionNumber(
                name=name, meaning=NUMBER_MEANINGS[key], value=model[key], untrained=random[key], sine=sine[key]
            )
            for key, name in NUMBER_NAMES.items()
        ],
        sentences=[findings.sentence, *findings.notes],
        command=positions_command(classifier),
    )


def positions_command(classifier: ServedClassifier, cell: tuple[int, int] | None = None) -> str:
    """The command line that draws the figure, of all patches or of one (row, column), into a file of its own."""
    figure = "positions.png" if cell is None else f"positions-{cell[0]}-{cell[1]}.png"
    words = ["vitrine", "positions", classifier.reference, "-o", figure]
    words += [] if cell is None else ["--cell", f"{cell[0]},{cell[1]}"]
    return shlex.join([*words, *(["--arch", classifier.architecture] if classifier.architecture else [])])
