"""``vitrine explain --score``: methods and controls ranked on a person's own data.

Axes: P pictures, B pictures of a batch, C channels, H, W pixels, R grid rows, C grid columns.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from vitrine.attribution.baselines import centre_blob, edges, random_map
from vitrine.attribution.methods import METHODS, Method
from vitrine.attribution.outlier_tokens import outlier_mass
from vitrine.attribution.placement import Placement
from vitrine.attribution.pointing import MaskScores, centres_inside, score_against_mask
from vitrine.attribution.ranking import Ranking, ScoredMethod, paired_difference, rank_methods
from vitrine.attribution.verdict import Evidence, Verdict, judge, top_decile_mass
from vitrine.attribution.weight_randomization import randomised_copies
from vitrine.classify.model import Classifier
from vitrine.data.image_folder import iter_pictures
from vitrine.data.loader import batches
from vitrine.data.masks import FOLDER, Masks, find_masks
from vitrine.data.samples import Sample, random_subset
from vitrine.data.sources import open_data
from vitrine.errors import DataError
from vitrine.explain.explainer import Explainer
from vitrine.explain.figures.ranking import methods_csv, methods_table, methods_text, save_methods_figure
from vitrine.io.files import to_json, write_atomically
from vitrine.plotting.provenance import Provenance
from vitrine.results import Progress, no_progress


@dataclass(frozen=True)
class ScoreSettings:
    """What is scored.

    Attributes:
        methods: names of methods.
        layers: also score the attention of every other layer.
        split: of the data; None is test, else validation, else train.
        masks: a folder of masks or a COCO instances file; None looks beside the data.
        category: of COCO instances.
        limit: pictures at most; with more, a seeded choice.
        curves: pictures, the first ones, whose insertion and deletion are measured, which takes most of the time.
        batch_size: pictures at a time.
        seed: of the choice, the random control and the bootstrap.
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


@dataclass(frozen=True)
class MethodScores:
    """What ``vitrine explain --score`` found.

    Attributes:
        model, data: what was scored.
        ranking: methods, then controls.
        verdicts: of every method, over all pictures.
        masks: where masks came from; None without.
        masked: pictures with a mask.
        precision: that the model ran in.
        weights_sha256: of the model; None for random ones.
        settings: what was asked for.
        notes: sentences on what was decided on the way.
    """

    model: str
    data: str
    ranking: Ranking
    verdicts: Mapping[str, Verdict]
    masks: str | None
    masked: int
    precision: str
    weights_sha256: str | None
    settings: ScoreSettings
    notes: tuple[str, ...]

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
            "notes": list(self.notes),
        }

    def text(self) -> str:
        """The table, the verdicts and the notes for a person."""
        masked = f"Masks: {self.masks} ({self.masked} pictures)." if self.masks else "There are no masks."
        verdicts = [f"  {name}: {verdict.sentence}" for name, verdict in self.verdicts.items()]
        parts = [f"{self.model} on {self.data} ({self.precision})", *self.notes, masked]
        return "\n".join([*parts, "", methods_text(self.ranking).rstrip(), "", "Verdicts:", *verdicts])


def write_scores(result: MethodScores, out: Path) -> None:
    """methods.csv, methods.md, methods.json and methods.png into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "methods.csv", methods_csv(result.ranking))
    write_atomically(out / "methods.md", methods_table(result.ranking).markdown() + "\n")
    write_atomically(out / "methods.json", to_json(result.to_dict()))
    flags = [*result.settings.flags(), "--precision", result.precision]
    origin = Provenance(
        "methods",
        model=result.model,
        weights_sha256=result.weights_sha256,
        precision=result.precision,
        options={"data": result.data, "pictures": result.ranking.pictures, "seed": result.ranking.seed},
        command=shlex.join(["vitrine", "explain", result.model, "--score", result.data, "-o", str(out), *flags]),
    )
    save_methods_figure(result.ranking, out / "methods.png", origin.to_metadata())


def open_samples(data: str, split: str | None, limit: int, seed: int) -> tuple[tuple[Sample, ...], tuple[str, ...]]:
    """The pictures of a data reference or of a plain folder, and sentences on which they are.

    With more than ``limit`` pictures, so many are drawn with ``seed``, in the data's order.

    Raises:
        DataError: no pictures, no such split, or an endless source.
    """
    path = Path(data).expanduser()
    try:
        dataset = open_data(data)
    except DataError as error:
        if not path.is_dir() or split is not None:
            raise
        pictures = iter_pictures(path)
        samples: Sequence[Sample] = [sample for sample in pictures if not sample.name.startswith(f"{FOLDER}/")]
        if not samples:
            raise error from None
        notes = [f"{data} was read as a folder of pictures without labels."]
    else:
        finite = [name for name, part in dataset.splits.items() if not part.endless and len(part)]
        name = split or next((name for name in ("test", "validation", "train") if name in finite), None)
        if name not in finite:
            raise DataError(f"{data} has no {split or 'finite'} split; it has: {', '.join(finite) or 'none'}.")
        samples, notes = dataset.splits[name], [f"The pictures are the {name} split of {data} ({dataset.layout})."]
    if len(samples) > limit:
        notes.append(f"{limit} of {len(samples):,} pictures were drawn (seed {seed}).")
    return random_subset(samples, limit, seed), tuple(notes)


Floats = npt.NDArray[np.float32]
_MASK_METRICS = ("pointing", "inside", "average_precision", "iou_best", "iou_mean")
_SHUFFLE_SEED = 0


def score_methods(
    classifier: Classifier,
    model: str,
    data: str,
    settings: ScoreSettings,
    progress: Progress = no_progress,
) -> MethodScores:
    """Score methods and controls on the same pictures, and rank them.

    Args:
        classifier: the model.
        model: its reference, for the result.
        data: a data reference, or a folder of pictures; labels are not needed.
        settings: what is scored.
        progress: called with methods times pictures done, of how many.

    Raises:
        DataError, ModelError: the input cannot be used.
    """
    seed = settings.seed
    samples, notes = open_samples(data, settings.split, settings.limit, seed)
    masks = find_masks(samples, data=_folder_of(data), source=settings.masks, category=settings.category)
    methods = _named_methods(classifier, settings)
    pictures, unreadable = _load_pictures(classifier, samples, masks, settings.batch_size)
    total = len(pictures) * (len(methods) + 4)
    scorer = _Scorer(classifier, pictures, settings, lambda done: progress(done, total))
    scores = [scorer.score_method(name, method) for name, method in methods.items()]
    scores += [scorer.score_control(name, maps_PRC) for name, maps_PRC in scorer.control_maps()]
    best = rank_methods(scores, seed=seed).rows[0].name
    scores.append(scorer.score_shuffled(f"{best}, shuffled", methods[best]))
    ranking = rank_methods(scores, seed=seed)
    return MethodScores(
        model,
        data,
        ranking,
        verdicts={name: scorer.verdict(name, method, scores, ranking) for name, method in methods.items()},
        masks=None if masks is None else masks.origin,
        masked=sum(coverage_RC is not None for coverage_RC in pictures.coverage),
        precision=classifier.precision,
        weights_sha256=None if classifier.weights is None else classifier.weights.sha256,
        settings=settings,
        notes=(
            *notes,
            *(() if masks is None else masks.notes),
            *unreadable,
            f"In {best}, shuffled, all weights of the model are shuffled.",
        ),
    )


def _folder_of(data: str) -> Path | None:
    path = Path(data).expanduser()
    return path if path.exists() else None


def _named_methods(classifier: Classifier, settings: ScoreSettings) -> dict[str, Method]:
    """Methods by the name that the table gives them."""
    methods = {name: Method(name) for name in settings.methods}
    if settings.layers:
        count = len(classifier.module.blocks)  # type: ignore[arg-type]
        methods |= {f"attention, layer {layer + 1}": Method("attention", layer=layer) for layer in range(count - 1)}
    return methods


@dataclass(frozen=True, eq=False)
class _Pictures:
    """The pictures on which methods are scored, all in memory.

    Attributes:
        pixels_PCHW: uint8, what the model sees.
        targets_P: int64, the class that the model finds likeliest.
        coverage: share of each patch inside the picture's mask, float32 (R, C); None without a mask.
        hits: whether each patch's centre lies in the mask, bool (R, C); None without a mask.
    """

    pixels_PCHW: torch.Tensor
    targets_P: torch.Tensor
    coverage: tuple[Floats | None, ...]
    hits: tuple[npt.NDArray[np.bool_] | None, ...]

    def __len__(self) -> int:
        """P."""
        return len(self.targets_P)


def _load_pictures(
    classifier: Classifier, samples: Sequence[Sample], masks: Masks | None, batch_size: int
) -> tuple[_Pictures, list[str]]:
    """The pictures that can be read, with their masks on the model's grid, and sentences on the others."""
    explainer = Explainer(classifier, Method())
    pixels, targets, readable = [], [], []
    unreadable: list[str] = []
    for batch in batches(samples, explainer.transform, batch_size=batch_size):
        unreadable += [f"{samples[i].name} could not be read: {reason}" for i, reason in batch.unreadable]
        readable += [samples[i] for i in batch.indices_B.tolist()]
        if len(batch.pixels_BCHW):
            pixels.append(batch.pixels_BCHW)
            targets.append(explainer.probability(explainer.pixels(batch.pixels_BCHW)).argmax(1).cpu())
    if not readable:
        raise DataError(f"None of the {len(samples)} pictures can be read, for example {unreadable[0]}")
    regions = [_mask_on_grid(explainer, sample, masks) for sample in readable]
    coverage, hits = zip(*regions, strict=True)
    return _Pictures(torch.cat(pixels), torch.cat(targets), coverage, hits), unreadable


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


class _Scorer:
    """Scores one method after the other on the same pictures.

    Args:
        classifier: the model.
        pictures: to score methods on.
        settings: what is scored.
        progress: called with pictures done, those of every method counted.
    """

    def __init__(
        self, classifier: Classifier, pictures: _Pictures, settings: ScoreSettings, progress: Callable[[int], None]
    ) -> None:
        self.classifier, self.pictures, self.settings, self.progress = classifier, pictures, settings, progress
        # Of no method in particular: pixels, probabilities, curves and outliers are the same for all.
        self.explainer = Explainer(classifier, Method())
        self.pictures_done = 0
        self.maps: dict[str, Floats] = {}

    def score_method(self, name: str, method: Method, module: torch.nn.Module | None = None) -> ScoredMethod:
        """Make a method's maps of all pictures, timed, and score them.

        With ``module``, a copy of the model with other weights, it is a control.
        """
        explainer = Explainer(self.classifier, method)
        parts, seconds = [], 0.0
        for part in self._batches():
            pixels_BCHW = explainer.pixels(self.pictures.pixels_PCHW[part])
            start = time.perf_counter()
            parts.append(explainer.maps(pixels_BCHW, self.pictures.targets_P[part], module).scores_BRC.numpy())
            seconds += time.perf_counter() - start
        maps_PRC, is_control = np.concatenate(parts), module is not None
        return self._score(name, maps_PRC, is_control=is_control, seconds=seconds / len(self.pictures))

    def score_shuffled(self, name: str, method: Method) -> ScoredMethod:
        """The same method, by a copy of the model whose weights are all randomised, as a control."""
        *_, (_, copy) = randomised_copies(self.classifier.module, seed=_SHUFFLE_SEED)
        return self.score_method(name, method, copy)

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
        return self._score(name, maps_PRC, is_control=True, seconds=None)

    def _batches(self) -> Iterator[slice]:
        for first in range(0, len(self.pictures), self.settings.batch_size):
            yield slice(first, min(first + self.settings.batch_size, len(self.pictures)))

    def _score(self, name: str, maps_PRC: Floats, *, is_control: bool, seconds: float | None) -> ScoredMethod:
        self.maps[name] = maps_PRC
        values: dict[str, list[float]] = {"gap": [], "insertion": [], "deletion": []}
        for batch in self._batches():
            if with_curves := range(*batch.indices(min(self.settings.curves, len(maps_PRC)))):
                part = slice(with_curves.start, with_curves.stop)
                curves = self.explainer.curves(self.explainer.pixels(self.pictures.pixels_PCHW[part]), maps_PRC[part])
                values["gap"] += curves.gap.tolist()
                values["insertion"] += curves.insertion_area.tolist()
                values["deletion"] += curves.deletion_area.tolist()
            self.pictures_done += len(maps_PRC[batch])
            self.progress(self.pictures_done)
        for each in values.values():
            each += [np.nan] * (len(maps_PRC) - len(each))
        if any(coverage_RC is not None for coverage_RC in self.pictures.coverage):
            values |= self._mask_scores(maps_PRC)
        return ScoredMethod(name, is_control, {key: np.array(each) for key, each in values.items()}, seconds)

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

    def verdict(self, name: str, method: Method, scores: Sequence[ScoredMethod], ranking: Ranking) -> Verdict:
        """All checks of a method over all pictures; the weights are randomised on one batch of them."""
        by_name = {each.name: each for each in scores}
        lead = paired_difference(by_name[name], by_name["centre blob"], ranking.by, seed=self.settings.seed)
        explainer, first = Explainer(self.classifier, method), next(self._batches())
        pixels_BCHW, targets_B = explainer.pixels(self.pictures.pixels_PCHW[first]), self.pictures.targets_P[first]
        outliers_BRC, maps_PRC = self._outliers_BRC, self.maps[name]
        masses = [outlier_mass(*each) for each in zip(maps_PRC[first], outliers_BRC, strict=True)]
        evidence = Evidence(
            pictures=len(maps_PRC),
            correlation=float(explainer.sensitivity(pixels_BCHW, targets_B, _SHUFFLE_SEED).final_B.mean()),
            metric=ranking.by.key,
            top_decile_mass=float(top_decile_mass(maps_PRC).mean()),
            outlier_mass=float(np.mean(masses)),
            outliers=float(outliers_BRC.sum((1, 2)).mean()),
        )
        if lead is not None:
            evidence = replace(evidence, advantage=lead.mean, advantage_interval=lead.interval)
        return judge(evidence)
