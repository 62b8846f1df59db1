"""``vitrine explain --score``: methods and controls ranked on a person's own data.

Axes: P pictures, B pictures of a batch, C channels, H, W pixels, R grid rows, C grid columns.
"""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure

from vitrine.attribution.baselines import centre_blob, edges, random_map
from vitrine.attribution.faithfulness import FILLERS, CurveEnds, blur, curve_ends, deletion_areas
from vitrine.attribution.foreign_methods import MapFunction
from vitrine.attribution.gradcam import gradcam_tokens
from vitrine.attribution.method_agreement import Agreement, agreement_of, order_notes
from vitrine.attribution.methods import Method
from vitrine.attribution.outlier_tokens import outlier_mass
from vitrine.attribution.placement import Placement
from vitrine.attribution.pointing import MaskScores, centres_inside, score_against_mask
from vitrine.attribution.ranking import (
    Estimate,
    Ranking,
    ScoredMethod,
    estimate,
    metric,
    paired_difference,
    rank_methods,
)
from vitrine.attribution.registry import METHODS
from vitrine.attribution.set_verdict import (
    Accuracy,
    ControlComparison,
    SetEvidence,
    SetVerdict,
    Stage,
    judge_sets,
    top_decile_mass,
)
from vitrine.attribution.shared_passes import runs_alone, shared_maps
from vitrine.attribution.tensor_memory import TensorMemory
from vitrine.attribution.weight_randomization import HEAD, correlation_with_intact, randomised_copies, weight_stages
from vitrine.classify.model import Classifier
from vitrine.data.image_folder import read_pictures
from vitrine.data.labelled_inputs import IN_MEMORY
from vitrine.data.loader import batches
from vitrine.data.masks import Masks, find_masks
from vitrine.data.picture_inputs import PictureInput
from vitrine.data.reference_options import without_options
from vitrine.data.samples import Sample, random_subset
from vitrine.data.sources import open_data
from vitrine.display import ResultDisplay, csv_rows
from vitrine.errors import DataError
from vitrine.explain.explainer import Explainer
from vitrine.explain.figures.agreement import save_agreement_figure
from vitrine.explain.figures.ranking import (
    cascade_table,
    methods_csv,
    methods_figure,
    methods_table,
    methods_text,
    save_methods_figure,
)
from vitrine.io.files import to_json, write_atomically
from vitrine.metrics.intervals import MIN_PICTURES, mean_interval
from vitrine.models.precision import autocast
from vitrine.plotting.provenance import Provenance
from vitrine.plotting.style import figure_bytes
from vitrine.results import agree, count_of

ScoreProgress = Callable[[int, int, str], None]
"""Called with maps done, of how many, and the method that they are of."""


def no_score_progress(done: int, total: int, method: str) -> None:
    """Nobody looks."""


_CASCADE_HEADING = "While weights are shuffled, rank correlation with the intact model's maps"


@dataclass(frozen=True)
class ScoreSettings:
    """What is scored.

    Attributes:
        methods: names of methods.
        layers: also score attention and Grad-CAM of every other layer.
        split: of the data; None is test, else validation, else train.
        masks: a folder of masks or a COCO instances file; None looks beside the data.
        category: of COCO instances.
        limit: pictures at most; with more, a seeded choice.
        curves: pictures, the first ones, whose insertion and deletion are measured, which takes most of the time.
        batch_size: pictures at a time.
        seed: of the choice, the random control, and what methods draw.
        functions: a person's own, by their names among ``methods``.
        fillers: what deletion puts in place of patches, beside the mean colour: see
            :data:`vitrine.attribution.faithfulness.FILLERS`.
    """

    methods: tuple[str, ...] = METHODS
    layers: bool = False
    split: str | None = None
    masks: Path | None = None
    category: str | None = None
    limit: int = 100
    curves: int = 100
    batch_size: int = 16
    seed: int = 0
    functions: Mapping[str, MapFunction] = field(default_factory=dict)
    fillers: tuple[str, ...] = FILLERS

    def flags(self) -> list[str]:
        """The options of ``vitrine explain --score`` that differ from what it does without any."""
        default = ScoreSettings()
        texts = {"--split": self.split, "--masks": self.masks, "--category": self.category}
        flags = [word for name, value in texts.items() if value is not None for word in (name, str(value))]
        for name in ("limit", "curves", "seed"):
            if getattr(self, name) != getattr(default, name):
                flags += [f"--{name}", str(getattr(self, name))]
        if self.methods != METHODS:
            flags += [word for name in self.methods for word in ("--method", name)]
        return [*flags, *(["--layers"] if self.layers else [])]


@dataclass(frozen=True, repr=False)
class MethodScores(ResultDisplay):
    """What ``vitrine explain --score`` found.

    Attributes:
        model, data: what was scored.
        ranking: methods, then controls.
        verdicts: of every method, over all pictures; p values are corrected for the number of methods.
        masks: where masks came from; None without.
        masked: pictures with a mask.
        precision: that the model ran in.
        weights_sha256: of the model; None for random ones.
        settings: what was asked for.
        notes: sentences on what was decided on the way.
        agreement: how alike the maps of two methods are.
    """

    model: str
    data: str
    ranking: Ranking
    verdicts: Mapping[str, SetVerdict]
    masks: str | None
    masked: int
    precision: str
    weights_sha256: str | None
    settings: ScoreSettings
    notes: tuple[str, ...]
    agreement: Agreement

    def headline(self) -> str:
        """Which method comes first, and on what."""
        best, count = self.ranking.rows[0].name, count_of(len(self.verdicts), "method")
        return f"{best} ranks first of {count}: {self.model} on {self.data}"

    def details(self) -> str:
        """The table, the verdicts and the notes."""
        return self.text()

    def table_rows(self) -> Sequence[Mapping[str, Any]]:
        """A row a method or control."""
        return csv_rows(methods_csv(self.ranking))

    def plot(self) -> Figure:
        """The ranking, a panel a measure: a matplotlib figure."""
        return methods_figure(self.ranking)

    def figure_png(self) -> bytes:
        """The ranking."""
        return figure_bytes(self.plot(), "png", {})

    def save(self, path: str | Path) -> Path:
        """Write the figure of the ranking as .png or .svg."""
        save_methods_figure(self.ranking, Path(path), {})
        return Path(path)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; seconds apart, the same scoring gives the same bytes."""
        return {
            "model": self.model,
            "data": self.data,
            "weights_sha256": self.weights_sha256,
            "precision": self.precision,
            "masks": self.masks,
            "pictures_with_mask": self.masked,
            **self.ranking.to_dict(),
            "verdicts": {name: verdict.to_dict() for name, verdict in self.verdicts.items()},
            "agreement": self.agreement.to_dict(),
            "notes": list(self.notes),
        }

    def text(self) -> str:
        """The table, the verdicts and the notes for a person."""
        masked = f"Masks: {self.masks} ({count_of(self.masked, 'picture')})." if self.masks else "There are no masks."
        verdicts = [f"  {name}: {verdict.sentence}" for name, verdict in self.verdicts.items()]
        parts = [f"{self.model} on {self.data} ({self.precision})", *self.notes, masked]
        cascade = ["", f"{_CASCADE_HEADING}:", cascade_table(self.verdicts).text().rstrip()]
        return "\n".join([*parts, "", methods_text(self.ranking).rstrip(), *cascade, "", "Verdicts:", *verdicts])


def write_scores(result: MethodScores, out: Path, opening: Sequence[str] | None = ()) -> None:
    """methods.csv, methods.md, methods.json and methods.png into a folder, and agreement.png of several methods.

    Args:
        result: what was found.
        out: the folder.
        opening: the options with which the model was opened, for the command that the figure has in its metadata;
            None of one in memory, which no command opens.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "methods.csv", methods_csv(result.ranking))
    cascade = f"{_CASCADE_HEADING}:\n\n{cascade_table(result.verdicts).markdown()}\n"
    write_atomically(out / "methods.md", f"{methods_table(result.ranking).markdown()}\n\n{cascade}")
    write_atomically(out / "methods.json", to_json(result.to_dict()))
    flags = [*result.settings.flags(), *(opening or ()), "--precision", result.precision]
    command = ["vitrine", "explain", result.model, "--score", result.data, "-o", str(out), *flags]
    origin = Provenance(
        "methods",
        model=result.model,
        weights_sha256=result.weights_sha256,
        precision=result.precision,
        options={"data": result.data, "pictures": result.ranking.pictures, "seed": result.settings.seed},
        command=None if opening is None else shlex.join(command),
    )
    save_methods_figure(result.ranking, out / "methods.png", origin.to_metadata())
    if len(result.agreement.names) > 1:
        save_agreement_figure(
            result.agreement, out / "agreement.png", replace(origin, figure="agreement").to_metadata()
        )


@dataclass(frozen=True)
class ScoredSamples:
    """The pictures of a data reference or of a plain folder.

    Attributes:
        samples: in the data's order.
        labels: class names, which a sample's label is an index into; none where no labels are known.
        notes: sentences on which pictures they are.
    """

    samples: tuple[Sample, ...]
    labels: tuple[str, ...]
    notes: tuple[str, ...]


def open_samples(data: str | PictureInput, split: str | None, limit: int, seed: int) -> ScoredSamples:
    """Open the pictures that methods are scored on; those in memory have no labels.

    With more than ``limit`` pictures, so many are drawn with ``seed``, in the data's order.

    Raises:
        DataError: no pictures, no such split, or an endless source.
    """
    if isinstance(data, PictureInput):
        if split is not None:
            raise DataError(f"Pictures in memory have no split {split}: leave split out.")
        chosen_pictures = tuple(data.choose(limit, seed))
        return ScoredSamples(chosen_pictures, (), (f"{count_of(len(chosen_pictures), 'picture')} in memory.",))
    path = Path(without_options(data)).expanduser()
    labels: Sequence[str]
    try:
        dataset = open_data(data)
    except DataError as error:
        if not path.is_dir() or split is not None:
            raise
        pictures = read_pictures(path, masks="aside")  # those of its own are what methods are scored on
        samples: Sequence[Sample] = pictures.samples
        if not samples:
            raise error from None
        labels, notes = (), [f"{data} was read as a folder of pictures without labels.", *pictures.notes]
    else:
        finite = [name for name, part in dataset.splits.items() if not part.endless and len(part)]
        name = split or next((name for name in ("test", "validation", "train") if name in finite), None)
        if name not in finite:
            raise DataError(f"{data} has no {split or 'finite'} split; it has: {', '.join(finite) or 'none'}.")
        samples, labels = dataset.splits[name], dataset.labels
        notes = [f"The pictures are the {name} split of {data} ({dataset.layout})."]
    if len(samples) > limit:
        notes.append(
            f"{limit} of {count_of(len(samples), 'picture')} {agree(limit, 'was', 'were')} drawn (seed {seed})."
        )
    return ScoredSamples(random_subset(samples, limit, seed), tuple(labels), tuple(notes))


Floats = npt.NDArray[np.float32]
_MASK_METRICS = ("pointing", "inside", "average_precision", "iou_best", "iou_mean")
_CONTROLS = {"random": "a random map", "centre blob": "a blob in the centre", "edges": "the picture's edges"}
"""By the name in the ranking, what sentences call them."""

_TIMED_PICTURES = 8  # of which the maps are made once more by each method that shared its passes
_SHUFFLED = "the same method with all weights shuffled"
_SHUFFLE_SEED = 0
_CASCADE_PICTURES = MIN_PICTURES  # whose maps are made again at every stage of shuffled weights


def score_methods(
    classifier: Classifier,
    model: str,
    data: str | PictureInput,
    settings: ScoreSettings,
    progress: ScoreProgress = no_score_progress,
) -> MethodScores:
    """Score methods and controls on the same pictures, and rank them.

    Args:
        classifier: the model.
        model: its reference, for the result.
        data: a data reference, a folder of pictures, or pictures in memory; labels are not needed.
        settings: what is scored.
        progress: called with maps made and scored, of how many in all, and which method they are of.

    Raises:
        DataError, ModelError: the input cannot be used.
    """
    data_samples = open_samples(data, settings.split, settings.limit, settings.seed)
    masks = find_masks(data_samples.samples, data=_folder_of(data), source=settings.masks, category=settings.category)
    methods = _named_methods(classifier, settings)
    pictures, unreadable = _load_pictures(classifier, data_samples, masks, settings.batch_size)
    scorer = _Scorer(classifier, pictures, settings, methods, progress)
    controls = [scorer.score_control(name, maps_PRC) for name, maps_PRC in scorer.control_maps()]
    scores = scorer.score_methods()
    best = rank_methods([*scores.values(), *controls]).rows[0].name
    after_shuffle = scorer.shuffle_weights()
    shuffled_scores = {
        name: scorer.score_shuffled(f"{name}, shuffled", maps, with_curves=name == best)
        for name, maps in after_shuffle.items()
    }
    evidence = {
        name: scorer.evidence(method, scores[name], controls, shuffled_scores[name], after_shuffle[name].stages)
        for name, method in methods.items()
    }
    return MethodScores(
        model,
        data if isinstance(data, str) else IN_MEMORY,
        rank_methods([*scores.values(), *controls, shuffled_scores[best]]),
        verdicts=judge_sets(evidence),
        masks=None if masks is None else masks.origin,
        masked=sum(coverage_RC is not None for coverage_RC in pictures.coverage),
        precision=classifier.precision,
        weights_sha256=None if classifier.weights is None else classifier.weights.sha256,
        settings=settings,
        notes=(
            *data_samples.notes,
            *(() if masks is None else masks.notes),
            *unreadable,
            f"In {best}, shuffled, all weights of the model are shuffled.",
            *order_notes([*scores.values()]),
            *_blank_notes(scorer.maps, methods),
        ),
        agreement=agreement_of({name: scorer.maps[name] for name in methods}),
    )


def _blank_notes(maps: Mapping[str, Floats], methods: Mapping[str, Method]) -> Iterator[str]:
    for name in methods:
        if blank := _count_blank(maps[name]):
            yield (
                f"{name}: {blank:,} of {count_of(len(maps[name]), 'map')} {agree(blank, 'is', 'are')} zero "
                f"everywhere; {agree(blank, 'it hits', 'they hit')} by chance."
            )


def _count_blank(maps_PRC: Floats) -> int:
    """Maps that are zero everywhere: nothing there speaks for the class."""
    return int(np.count_nonzero(~maps_PRC.any(axis=(1, 2))))


def _folder_of(data: str | PictureInput) -> Path | None:
    if not isinstance(data, str):
        return data.path
    path = Path(without_options(data)).expanduser()
    return path if path.exists() else None


def _named_methods(classifier: Classifier, settings: ScoreSettings) -> dict[str, Method]:
    """Methods by the name that the table gives them, which says the layer where there is a choice."""
    module = classifier.module
    earlier = range(len(module.blocks) - 1) if settings.layers else ()  # type: ignore[arg-type]
    chosen_layers = [
        Method(name, seed=settings.seed, function=settings.functions.get(name)) for name in settings.methods
    ]
    methods = {_method_name(module, each): each for each in chosen_layers}
    methods |= {f"attention, layer {layer}": Method("attention", layer=layer) for layer in earlier}
    if "gradcam" in settings.methods:
        methods |= {_method_name(module, each): each for each in (Method("gradcam", layer=layer) for layer in earlier)}
    return methods


def _method_name(module: torch.nn.Module, method: Method) -> str:
    return f"gradcam, {gradcam_tokens(module, method.layer)}" if method.name == "gradcam" else method.name


@dataclass(frozen=True, eq=False)
class _Pictures:
    """The pictures on which methods are scored, all in memory.

    Attributes:
        pixels_PCHW: uint8, what the model sees.
        targets_P: int64, the class that the model finds likeliest.
        right_P: whether that is the picture's label, 1 or 0; NaN where it is not known.
        chance: what always naming the commonest label reaches; see ``Accuracy``.
        coverage: share of each patch inside the picture's mask, float32 (R, C); None without a mask.
        hits: whether each patch's centre lies in the mask, bool (R, C); None without a mask.
    """

    pixels_PCHW: torch.Tensor
    targets_P: torch.Tensor
    right_P: npt.NDArray[np.float64]
    chance: float
    coverage: tuple[Floats | None, ...]
    hits: tuple[npt.NDArray[np.bool_] | None, ...]

    def __len__(self) -> int:
        """P."""
        return len(self.targets_P)


def _load_pictures(
    classifier: Classifier, data_samples: ScoredSamples, masks: Masks | None, batch_size: int
) -> tuple[_Pictures, list[str]]:
    """The pictures that can be read, with their masks on the model's grid, and sentences on the others."""
    explainer, samples = Explainer(classifier, Method()), data_samples.samples
    pixels, targets, readable = [], [], []
    unreadable: list[str] = []
    for batch in batches(samples, explainer.transform, batch_size=batch_size):
        unreadable += [f"{samples[i].name} could not be read: {reason}" for i, reason in batch.unreadable]
        readable += [samples[i] for i in batch.indices_B.tolist()]
        if len(batch.pixels_BCHW):
            pixels.append(batch.pixels_BCHW)
            targets.append(explainer.probability(explainer.pixels(batch.pixels_BCHW)).argmax(1).cpu())
    if not readable:
        raise DataError(f"None of the {count_of(len(samples), 'picture')} can be read, for example {unreadable[0]}")
    regions = [_mask_on_grid(explainer, sample, masks) for sample in readable]
    coverage, hits = zip(*regions, strict=True)
    right_P, chance = _answers(classifier, torch.cat(targets).tolist(), readable, data_samples.labels)
    return _Pictures(torch.cat(pixels), torch.cat(targets), right_P, chance, coverage, hits), unreadable


def _answers(
    classifier: Classifier, targets: Sequence[int], samples: Sequence[Sample], labels: Sequence[str]
) -> tuple[npt.NDArray[np.float64], float]:
    """Whether each answer is the picture's label (NaN where the model has no such label), and what chance reaches."""
    truths = [None if sample.label is None or not labels else labels[sample.label] for sample in samples]
    known_truths = [truth if truth in classifier.labels else None for truth in truths]
    right_P = np.array(
        [
            np.nan if truth is None else float(classifier.labels[target] == truth)
            for target, truth in zip(targets, known_truths, strict=True)
        ]
    )
    counts = Counter(truth for truth in known_truths if truth is not None)
    commonest = max(counts.values(), default=0) / max(1, counts.total())
    return right_P, max(commonest, 1 / len(classifier.labels))


def _mask_on_grid(
    explainer: Explainer, sample: Sample, masks: Masks | None
) -> tuple[Floats | None, npt.NDArray[np.bool_] | None]:
    """Coverage and hits of a picture's mask, as :class:`_Pictures` has them; None for both without a mask."""
    if masks is None or sample.name not in masks.loaders:
        return None, None
    size = sample.picture.decode().size
    mask_HW = masks.mask_of(sample.name, size)
    if mask_HW is None:
        return None, None
    placement = Placement(explainer.transform.geometry(*size), explainer.layout.rows, explainer.layout.columns)
    return placement.coverage(mask_HW), centres_inside(mask_HW, placement)


@dataclass(frozen=True, eq=False)
class _ShuffledMaps:
    """A method's maps while the weights of the model are shuffled.

    Attributes:
        stages: rank correlations with the intact model's maps of some pictures, from the head down.
        maps_PRC: of all pictures, by the model whose weights are all shuffled.
    """

    stages: tuple[Stage, ...]
    maps_PRC: Floats


class Cost(NamedTuple):
    """What the maps of a method take: seconds a picture, and bytes of tensors at a time for one."""

    seconds: float
    memory: int


def _looks_at(method: Method, stage: str) -> bool:
    """Whether a method's maps are made at a stage of shuffled weights before the last."""
    return stage == HEAD or "probabilities" not in method.entry.needs


class _Scorer:
    """Scores one method after the other on the same pictures.

    Args:
        classifier: the model.
        pictures: to score methods on.
        settings: what is scored.
        methods: by the name that the table gives them.
        progress: called with maps made and scored, of how many in all, and which method they are of.
    """

    def __init__(
        self,
        classifier: Classifier,
        pictures: _Pictures,
        settings: ScoreSettings,
        methods: Mapping[str, Method],
        progress: ScoreProgress,
    ) -> None:
        self.classifier, self.pictures, self.settings, self.methods = classifier, pictures, settings, methods
        # Of no method in particular: pixels, probabilities, curves and outliers are the same for all.
        self.explainer = Explainer(classifier, Method())
        self.progress, self.steps_done = progress, 0
        # Each method's maps are made and scored, by the model and by a shuffled copy; a control's are only scored.
        stages = [stage for stage, _ in weight_stages(classifier.module)][:-1]
        cascades = sum(_looks_at(method, stage) for method in methods.values() for stage in stages)
        cascade_maps = min(len(pictures), _CASCADE_PICTURES) * cascades
        self.steps = len(pictures) * (4 * len(methods) + len(_CONTROLS)) + cascade_maps
        self.maps: dict[str, Floats] = {}
        self._seconds: dict[str, list[float]] = {}  # a picture of each batch, of methods that share no pass
        self._ends: dict[int, CurveEnds] = {}  # of the curves of a batch, by its first picture: the same for all maps

    def score_methods(self) -> dict[str, ScoredMethod]:
        """Make every method's maps of all pictures, from shared passes, and score them; time and memory by itself."""
        maps = self._make_maps()
        return {
            name: self._score(name, maps_PRC, is_control=False, cost=self._cost(name))
            for name, maps_PRC in maps.items()
        }

    def _cost(self, name: str) -> Cost:
        """What a method takes by itself: seconds a picture in a batch, and tensors' bytes for one picture."""
        method = self.methods[name]
        explainer = Explainer(self.classifier, method)
        seconds = min(self._seconds[name]) if name in self._seconds else self._time_alone(explainer)
        pixels_BCHW, targets_B = self._pixels(slice(1)), self.pictures.targets_P[:1]
        with TensorMemory() as memory:
            explainer.maps(pixels_BCHW, targets_B)
        return Cost(seconds, memory.peak)

    def _time_alone(self, explainer: Explainer) -> float:
        """Seconds a picture of a method whose maps were made in passes that others shared."""
        few = min(_TIMED_PICTURES, len(self.pictures))
        pixels_BCHW = self._pixels(slice(few))
        start = time.perf_counter()
        explainer.maps(pixels_BCHW, self.pictures.targets_P[:few])
        return (time.perf_counter() - start) / few

    def shuffle_weights(self) -> dict[str, _ShuffledMaps]:
        """Maps by ever more shuffled copies of the model, of every method that was scored, by its name.

        All methods see one copy after the other: to shuffle a large model takes longer than many a map. The last copy's
        maps are of all pictures, since they are a control too. Methods that run the model hundreds of times for a map
        see but the two copies that verdicts rest on: with the head's weights shuffled, and with all.
        """
        stages: dict[str, list[Stage]] = {name: [] for name in self.methods}
        last_stage, _ = weight_stages(self.classifier.module)[-1]
        for stage, copy in randomised_copies(self.classifier.module, seed=_SHUFFLE_SEED):
            count = len(self.pictures) if stage == last_stage else min(len(self.pictures), _CASCADE_PICTURES)
            methods_then = {
                name: method for name, method in self.methods.items() if stage == last_stage or _looks_at(method, stage)
            }
            last_maps = self._make_maps(copy, count, methods_then)
            for name, maps_PRC in last_maps.items():
                some = slice(0, _CASCADE_PICTURES)
                correlation_P = correlation_with_intact(self.maps[name][some], maps_PRC[some])
                interval = mean_interval(correlation_P, -1, 1)
                survival = Estimate(float(correlation_P.mean()), interval, len(correlation_P))
                stages[name].append(Stage(stage, survival))
        return {name: _ShuffledMaps(tuple(stages[name]), maps_PRC) for name, maps_PRC in last_maps.items()}

    def score_shuffled(self, name: str, maps: _ShuffledMaps, *, with_curves: bool) -> ScoredMethod:
        """Maps by a copy of the model whose weights are all shuffled, as a control.

        Args:
            name: of the control.
            maps: of the copy.
            with_curves: measure insertion and deletion also where average precision decides the verdict.
        """
        curves = with_curves or not self._has_enough_masks
        return self._score(name, maps.maps_PRC, is_control=True, with_curves=curves)

    def _make_maps(
        self,
        module: torch.nn.Module | None = None,
        count: int | None = None,
        methods: Mapping[str, Method] | None = None,
    ) -> dict[str, Floats]:
        """Maps of the first ``count`` pictures by every method, or by some; by ``module`` where it is given, a copy
        with other weights."""
        methods = self.methods if methods is None else methods
        parts: dict[str, list[Floats]] = {name: [] for name in methods}
        classifier = self.classifier
        for part in self._batches(count):
            pixels_BCHW, targets_B = self._pixels(part), self.pictures.targets_P[part]
            with autocast(classifier.device, classifier.precision):
                method_maps = shared_maps(
                    methods, module or classifier.module, pixels_BCHW, targets_B, classifier.probabilities
                )
                start = time.perf_counter()
                for name, maps in method_maps:
                    if module is None and runs_alone(methods[name]):
                        seconds = (time.perf_counter() - start) / len(targets_B)
                        self._seconds.setdefault(name, []).append(seconds)
                    parts[name].append(maps.scores_BRC.numpy())
                    self._advance(len(targets_B), name)
                    start = time.perf_counter()
        return {name: np.concatenate(each) for name, each in parts.items()}

    def _pixels(self, part: slice) -> torch.Tensor:
        return self.explainer.pixels(self.pictures.pixels_PCHW[part])

    def _advance(self, steps: int, name: str) -> None:
        self.steps_done += steps
        self.progress(self.steps_done, self.steps, name)

    @property
    def _has_enough_masks(self) -> bool:
        return sum(coverage_RC is not None for coverage_RC in self.pictures.coverage) >= MIN_PICTURES

    def control_maps(self) -> Iterator[tuple[str, Floats]]:
        """Maps of all pictures that know nothing of the model, by the controls' names."""
        layout = self.explainer.layout
        grid, count = (layout.rows, layout.columns), len(self.pictures)
        yield "random", np.stack([random_map(*grid, self.settings.seed + p) for p in range(count)])
        yield "centre blob", np.stack([centre_blob(*grid)] * count)
        pixels = (self.explainer.pixels(self.pictures.pixels_PCHW[part]).cpu() for part in self._batches())
        yield "edges", np.concatenate([edges(pixels_BCHW, *grid) for pixels_BCHW in pixels])

    def score_control(self, name: str, maps_PRC: Floats) -> ScoredMethod:
        """Score maps that no method made."""
        return self._score(name, maps_PRC, is_control=True)

    def _batches(self, count: int | None = None) -> Iterator[slice]:
        """The places of the first ``count`` pictures, or of all, a batch at a time."""
        end = len(self.pictures) if count is None else count
        for first in range(0, end, self.settings.batch_size):
            yield slice(first, min(first + self.settings.batch_size, end))

    def _score(
        self, name: str, maps_PRC: Floats, *, is_control: bool, cost: Cost | None = None, with_curves: bool = True
    ) -> ScoredMethod:
        self.maps[name] = maps_PRC
        curve_pictures = min(self.settings.curves, len(maps_PRC)) if with_curves else 0
        values: dict[str, list[float]] = {key: [] for key in ("gap", "insertion", "deletion", *self._filler_keys)}
        for batch in self._batches():
            if places := range(*batch.indices(curve_pictures)):
                self._measure_curves(slice(places.start, places.stop), maps_PRC, values)
            self._advance(len(maps_PRC[batch]), name)
        for each in values.values():
            each += [np.nan] * (len(maps_PRC) - len(each))
        if any(coverage_RC is not None for coverage_RC in self.pictures.coverage):
            values |= self._mask_scores(maps_PRC)
        seconds, memory = (None, None) if cost is None else cost
        return ScoredMethod(name, is_control, {key: np.array(each) for key, each in values.items()}, seconds, memory)

    @property
    def _filler_keys(self) -> dict[str, str]:
        """By metric, what its deletion puts in place of patches."""
        return {f"deletion_{filler}": filler for filler in self.settings.fillers}

    def _measure_curves(self, part: slice, maps_PRC: Floats, values: dict[str, list[float]]) -> None:
        pixels_BCHW, maps_BRC = self._pixels(part), maps_PRC[part]
        if part.start not in self._ends:
            self._ends[part.start] = curve_ends(self.explainer.probability, pixels_BCHW)
        ends = self._ends[part.start]
        curves = self.explainer.curves(pixels_BCHW, maps_BRC, ends)
        values["gap"] += curves.gap.tolist()
        values["insertion"] += curves.insertion_area.tolist()
        values["deletion"] += curves.deletion_area.tolist()
        for key, filler in self._filler_keys.items():
            beneath_BCHW = blur(pixels_BCHW) if filler == "blur" else self._others(part)
            areas_B = deletion_areas(self.explainer.probability, pixels_BCHW, beneath_BCHW, maps_BRC, ends=ends)
            values[key] += areas_B.tolist()

    def _others(self, part: slice) -> torch.Tensor:
        """For each picture the next one of another answer, or the next where all have one answer."""
        targets = self.pictures.targets_P.tolist()
        others = []
        for p in range(part.start, part.stop):
            following = [(p + step) % len(targets) for step in range(1, len(targets))] or [p]
            others.append(next((q for q in following if targets[q] != targets[p]), following[0]))
        return self.explainer.pixels(self.pictures.pixels_PCHW[others])

    def _mask_scores(self, maps_PRC: Floats) -> dict[str, list[float]]:
        """By metric, the score of every map against its picture's mask; NaN where there is none."""
        values: dict[str, list[float]] = {key: [] for key in _MASK_METRICS}
        for scores_RC, coverage_RC, hit_RC in zip(maps_PRC, self.pictures.coverage, self.pictures.hits, strict=True):
            scores: MaskScores | None = None
            if coverage_RC is not None and hit_RC is not None:
                scores = score_against_mask(scores_RC, coverage_RC, hit_RC)
            for key in _MASK_METRICS:
                value = None if scores is None else getattr(scores, key)
                values[key].append(np.nan if value is None else value)
        return values

    @cached_property
    def _outliers_BRC(self) -> npt.NDArray[np.bool_]:  # noqa: N802  its axes
        """Outlier tokens of the first batch; they are the model's, whatever the method."""
        return self.explainer.outliers(self.explainer.pixels(self.pictures.pixels_PCHW[next(self._batches())]))

    def evidence(
        self,
        method: Method,
        own: ScoredMethod,
        controls: Sequence[ScoredMethod],
        shuffled_scores: ScoredMethod,
        stages: tuple[Stage, ...],
    ) -> SetEvidence:
        """All tests of a method over all pictures; stages of shuffled weights on some of them.

        It is compared with controls by average precision where enough pictures have masks: that sees the order of all
        patches, and tells methods apart on a fraction of the pictures that hits of the strongest patch take.
        """
        by = metric("average_precision" if self._has_enough_masks or not self.settings.curves else "gap")
        mean = estimate(own.values[by.key], by)
        assert mean is not None  # insertion and deletion of one picture at least
        comparisons = []
        for control, words in (*((each, _CONTROLS[each.name]) for each in controls), (shuffled_scores, _SHUFFLED)):
            lead, other = paired_difference(own, control, by), estimate(control.values[by.key], by)
            if control.name != "random" and lead is not None and other is not None:
                comparisons.append(ControlComparison(words, other.mean, lead))
        first, maps_PRC, right_P = next(self._batches()), self.maps[own.name], self.pictures.right_P
        masses = [outlier_mass(*each) for each in zip(maps_PRC[first], self._outliers_BRC, strict=True)]
        labelled_pictures = int(np.count_nonzero(~np.isnan(right_P)))
        return SetEvidence(
            metric=by.key,
            mean=mean,
            controls=tuple(comparisons),
            stages=stages,
            for_a_class=method.for_a_class,
            accuracy=Accuracy(int(np.nansum(right_P)), labelled_pictures, self.pictures.chance)
            if labelled_pictures
            else None,
            right=estimate(own.values[by.key][right_P == 1], by),
            wrong=estimate(own.values[by.key][right_P == 0], by),
            blank=_count_blank(maps_PRC),
            top_decile_mass=float(top_decile_mass(maps_PRC).mean()),
            outlier_mass=float(np.mean(masses)),
        )
