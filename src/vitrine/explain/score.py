"""``vitrine explain --score``: methods and controls ranked on a person's own data.

Axes: P pictures, B pictures of a batch, C channels, H, W pixels, R grid rows, C grid columns.
"""

from __future__ import annotations

import shlex
import time
from collections import Counter
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
from vitrine.attribution.pointing import centres_inside, score_against_mask
from vitrine.attribution.ranking import Ranking, ScoredMethod, paired_difference, rank_methods
from vitrine.attribution.verdict import Evidence, Verdict, judge, top_decile_mass
from vitrine.attribution.weight_randomization import randomised_copies
from vitrine.classify.inference import eval_transform
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
        usual = ScoreSettings()
        named = {"--split": self.split, "--masks": self.masks, "--category": self.category}
        flags = [word for name, value in named.items() if value is not None for word in (name, str(value))]
        for name in ("limit", "curves", "seed"):
            if getattr(self, name) != getattr(usual, name):
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


def scored_samples(data: str, split: str | None, limit: int, seed: int) -> tuple[tuple[Sample, ...], tuple[str, ...]]:
    """Pictures and sentences on how they were found; with more than ``limit``, a seeded choice in the data's order.

    Raises:
        DataError: no pictures, no such split, or an endless source.
    """
    path = Path(data).expanduser()
    try:
        found = open_data(data)
    except DataError as error:
        if not path.is_dir() or split is not None:
            raise
        aside: Counter[str] = Counter()
        samples: Sequence[Sample] = [s for s in iter_pictures(path, aside=aside) if not s.name.startswith(f"{FOLDER}/")]
        if not samples:
            raise error from None
        notes = [f"{data} was read as a folder of pictures without labels."]
    else:
        finite = [name for name, part in found.splits.items() if not part.endless and len(part)]
        chosen = split or next((name for name in ("test", "validation", "train") if name in finite), None)
        if chosen not in finite:
            raise DataError(f"{data} has no {split or 'finite'} split; it has: {', '.join(finite) or 'none'}.")
        samples, notes = found.splits[chosen], [f"The pictures are the {chosen} split of {data} ({found.layout})."]
    if len(samples) > limit:
        notes.append(f"{limit} of {len(samples):,} pictures were drawn (seed {seed}).")
    return random_subset(samples, limit, seed), tuple(notes)


Floats = npt.NDArray[np.float32]
_MASKED = ("pointing", "inside", "average_precision", "iou_best", "iou_mean")
_SHUFFLED_SEED = 0


@dataclass(frozen=True, eq=False)
class _Scene:
    """All that is scored, in memory: at most ``limit`` small pictures."""

    pixels_PCHW: torch.Tensor  # uint8
    targets_P: torch.Tensor
    coverage: tuple[Floats | None, ...]
    hits: tuple[npt.NDArray[np.bool_] | None, ...]


def score_methods(
    opened: Classifier,
    model: str,
    data: str,
    settings: ScoreSettings,
    progress: Progress = no_progress,
) -> MethodScores:
    """Score methods and controls on the same pictures, and rank them.

    Args:
        opened: the model.
        model: its reference, for the result.
        data: a data reference, or a folder of pictures; labels are not needed.
        settings: what is scored.
        progress: called with methods times pictures done, of how many.

    Raises:
        DataError, ModelError: the input cannot be used.
    """
    seed = settings.seed
    samples, notes = scored_samples(data, settings.split, settings.limit, seed)
    found = find_masks(samples, data=_folder_of(data), source=settings.masks, category=settings.category)
    contenders = _contenders(opened, settings)
    scene, left_out = _load(opened, samples, found, settings.batch_size)
    total = len(scene.targets_P) * (len(contenders) + 4)
    work = _Scoring(opened, scene, settings, lambda done: progress(done, total))
    scored = [work.method(name, method) for name, method in contenders]
    scored += [work.control(name, maps_PRC) for name, maps_PRC in work.controls()]
    best = rank_methods(scored, seed=seed).rows[0].name
    scored.append(work.shuffled(f"{best}, shuffled", dict(contenders)[best]))
    ranking = rank_methods(scored, seed=seed)
    weights = opened.weights
    return MethodScores(
        model,
        data,
        ranking,
        verdicts={name: work.verdict(name, method, scored, ranking) for name, method in contenders},
        masks=found.origin if found else None,
        masked=sum(cover is not None for cover in scene.coverage),
        precision=opened.precision,
        weights_sha256=None if weights is None else weights.sha256,
        settings=settings,
        notes=(
            *notes,
            *(found.notes if found else ()),
            *left_out,
            f"In {best}, shuffled, all weights of the model are shuffled.",
        ),
    )


def _folder_of(data: str) -> Path | None:
    path = Path(data).expanduser()
    return path if path.exists() else None


def _contenders(opened: Classifier, settings: ScoreSettings) -> list[tuple[str, Method]]:
    """Methods by the name that the table gives them."""
    found = [(name, Method(name)) for name in settings.methods]
    if settings.layers:
        count = len(opened.module.blocks)  # type: ignore[arg-type]
        found += [(f"attention, layer {layer + 1}", Method("attention", layer=layer)) for layer in range(count - 1)]
    return found


def _load(
    opened: Classifier, samples: Sequence[Sample], masks: Masks | None, batch_size: int
) -> tuple[_Scene, list[str]]:
    """Pictures as bytes, the model's own classes, and where the masks lie on the grid."""
    explainer = Explainer(opened, Method())
    layout, transform = explainer.layout, eval_transform(opened.spec)
    pixels, targets, kept = [], [], []
    left_out: list[str] = []
    for batch in batches(samples, transform, batch_size=batch_size):
        left_out += [f"{samples[i].name} could not be read: {reason}" for i, reason in batch.unreadable]
        kept += batch.indices_B.tolist()
        if len(batch.pixels_BCHW):
            pixels.append(batch.pixels_BCHW)
            targets.append(explainer.probability(explainer.pixels(batch.pixels_BCHW)).argmax(1).cpu())
    if not kept:
        raise DataError(f"None of the {len(samples)} pictures can be read, for example {left_out[0]}")
    coverage: list[Floats | None] = []
    hits: list[npt.NDArray[np.bool_] | None] = []
    for sample in (samples[i] for i in kept):
        mask_HW = None
        if masks is not None and sample.name in masks.loaders:
            size = sample.picture.decode().size
            mask_HW = masks.mask_of(sample.name, size)
            placement = Placement(transform.geometry(*size), layout.rows, layout.columns)
        coverage.append(None if mask_HW is None else placement.coverage(mask_HW))
        hits.append(None if mask_HW is None else centres_inside(mask_HW, placement))
    return _Scene(torch.cat(pixels), torch.cat(targets), tuple(coverage), tuple(hits)), left_out


class _Scoring:
    """One scene, scored by one method after the other."""

    def __init__(
        self, opened: Classifier, scene: _Scene, settings: ScoreSettings, progress: Callable[[int], None]
    ) -> None:
        self.opened, self.scene, self.settings, self.progress = opened, scene, settings, progress
        self.explainer = Explainer(
            opened, Method()
        )  # of no method in particular: pixels, probabilities, curves, outliers
        self.done = 0
        self.maps: dict[str, Floats] = {}

    def _batches(self) -> Iterator[slice]:
        for first in range(0, len(self.scene.targets_P), self.settings.batch_size):
            yield slice(first, min(first + self.settings.batch_size, len(self.scene.targets_P)))

    def method(self, name: str, method: Method, module: torch.nn.Module | None = None) -> ScoredMethod:
        """Maps of all pictures, timed, and their scores."""
        explainer = Explainer(self.opened, method)
        parts, spent = [], 0.0
        for some in self._batches():
            pixels_BCHW = explainer.pixels(self.scene.pixels_PCHW[some])
            began = time.perf_counter()
            parts.append(explainer.maps(pixels_BCHW, self.scene.targets_P[some], module).scores_BRC.numpy())
            spent += time.perf_counter() - began
        seconds = spent / len(self.scene.targets_P)
        return self._scored(name, np.concatenate(parts), is_control=module is not None, seconds=seconds)

    def shuffled(self, name: str, method: Method) -> ScoredMethod:
        """The same method by a copy of the model whose weights are all randomised."""
        *_, (_, copy) = randomised_copies(self.opened.module, seed=_SHUFFLED_SEED)
        return self.method(name, method, copy)

    def controls(self) -> Iterator[tuple[str, Floats]]:
        """Maps that know nothing of the model, of all pictures."""
        layout = self.explainer.layout
        grid, count = (layout.rows, layout.columns), len(self.scene.targets_P)
        yield "random", np.stack([random_map(*grid, self.settings.seed + p) for p in range(count)])
        yield "centre blob", np.stack([centre_blob(*grid)] * count)
        parts = [edges(self.explainer.pixels(self.scene.pixels_PCHW[some]).cpu(), *grid) for some in self._batches()]
        yield "edges", np.concatenate(parts)

    def control(self, name: str, maps_PRC: Floats) -> ScoredMethod:
        """A control's scores."""
        return self._scored(name, maps_PRC, is_control=True, seconds=None)

    def _scored(self, name: str, maps_PRC: Floats, *, is_control: bool, seconds: float | None) -> ScoredMethod:
        self.maps[name] = maps_PRC
        values: dict[str, list[float]] = {"gap": [], "insertion": [], "deletion": []}
        for some in self._batches():
            if measured := range(*some.indices(min(self.settings.curves, len(maps_PRC)))):
                part = slice(measured.start, measured.stop)
                curves = self.explainer.curves(self.explainer.pixels(self.scene.pixels_PCHW[part]), maps_PRC[part])
                values["gap"] += curves.gap.tolist()
                values["insertion"] += curves.insertion_area.tolist()
                values["deletion"] += curves.deletion_area.tolist()
            self.done += len(maps_PRC[some])
            self.progress(self.done)
        for each in values.values():
            each += [np.nan] * (len(maps_PRC) - len(each))
        if any(cover is not None for cover in self.scene.coverage):
            values |= self._localised(maps_PRC)
        return ScoredMethod(name, is_control, {key: np.array(each) for key, each in values.items()}, seconds)

    def _localised(self, maps_PRC: Floats) -> dict[str, list[float]]:
        values: dict[str, list[float]] = {key: [] for key in _MASKED}
        for scores_RC, cover_RC, hit_RC in zip(maps_PRC, self.scene.coverage, self.scene.hits, strict=True):
            found = None if cover_RC is None or hit_RC is None else score_against_mask(scores_RC, cover_RC, hit_RC)
            for key, said in zip(_MASKED, _numbers(found), strict=True):
                values[key].append(np.nan if said is None else said)
        return values

    @cached_property
    def _outliers_BRC(self) -> npt.NDArray[np.bool_]:  # noqa: N802  its axes
        """Of the first batch; they are the model's, whatever the method."""
        return self.explainer.outliers(self.explainer.pixels(self.scene.pixels_PCHW[next(self._batches())]))

    def verdict(self, name: str, method: Method, scored: Sequence[ScoredMethod], ranking: Ranking) -> Verdict:
        """All checks of a method over all pictures; the weights are randomised on one batch of them."""
        by_name = {each.name: each for each in scored}
        lead = paired_difference(by_name[name], by_name["centre blob"], ranking.by, seed=self.settings.seed)
        explainer, first = Explainer(self.opened, method), next(self._batches())
        pixels_BCHW, targets_B = explainer.pixels(self.scene.pixels_PCHW[first]), self.scene.targets_P[first]
        outliers_BRC, maps_PRC = self._outliers_BRC, self.maps[name]
        evidence = Evidence(
            pictures=len(maps_PRC),
            correlation=float(explainer.sensitivity(pixels_BCHW, targets_B, _SHUFFLED_SEED).final_B.mean()),
            metric=ranking.by.key,
            top_decile_mass=float(top_decile_mass(maps_PRC).mean()),
            outlier_mass=float(
                np.mean([outlier_mass(*pair) for pair in zip(maps_PRC[first], outliers_BRC, strict=True)])
            ),
            outliers=float(outliers_BRC.sum((1, 2)).mean()),
        )
        if lead is not None:
            evidence = replace(evidence, advantage=lead.mean, advantage_interval=lead.interval)
        return judge(evidence)


def _numbers(found: Any) -> tuple[float | None, ...]:
    return tuple(None if found is None else getattr(found, key) for key in _MASKED)
