"""``vitrine explain``: one figure of a map for every picture, contact sheets, and a table.

Axes: B pictures, C classes, H heads, R grid rows, C grid columns, Q queries, K keys.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from vitrine.attribution.attention import attention_matrices, head_maps
from vitrine.attribution.maps import BatchMaps, Unit
from vitrine.attribution.methods import Method
from vitrine.attribution.outlier_tokens import without_outliers
from vitrine.attribution.placement import Placement
from vitrine.attribution.verdict import Verdict
from vitrine.classify.inference import eval_transform
from vitrine.classify.model import Classifier, open_classifier
from vitrine.data.image_folder import list_pictures
from vitrine.data.samples import Sample, random_subset
from vitrine.explain.explainer import Checked, ExplainedBatch, Explainer, check_maps
from vitrine.explain.figures.contact_sheet import A_SHEET, count_pictures, save_contact_sheet
from vitrine.explain.figures.map import MapPicture, Scale, save_map_figure, shared_scale
from vitrine.io.csv_tables import csv_row
from vitrine.io.files import write_atomically
from vitrine.models.precision import autocast
from vitrine.plotting.heads import heads_figure, matrices_figure
from vitrine.plotting.provenance import Provenance, figure_names
from vitrine.plotting.style import save
from vitrine.results import Progress, no_progress, none_readable, unreadable_to_json

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ExplainSettings:
    """What is made of each picture.

    Attributes:
        method: of the maps.
        target: the class that maps are for; None is the predicted one.
        each_head: also a figure with a panel a head (attention only).
        matrix: also a figure of the layer's whole attention, head by head.
        check: check every map, and say what the checks found.
        stretch: stretch every map to its own minimum and maximum; figures say so.
        scale: where the colours end, in the unit of the maps; 0 finds it on the first pictures.
        smooth: draw overlays smoothly between the middles of patches.
        kind: "png" or "svg".
        seed: of the checks.
    """

    method: Method = field(default_factory=Method)
    target: str | None = None
    each_head: bool = False
    matrix: bool = False
    check: bool = False
    stretch: bool = False
    scale: float = 0.0
    smooth: bool = True
    kind: str = "png"
    seed: int = 0


@dataclass(frozen=True, eq=False)
class ExplainedPicture:
    """One picture's map.

    Attributes:
        name: of the picture.
        figure: its file.
        predicted, probability: the likeliest class.
        target: the class that the map is for; None where the method is for none.
        true: the true label where the picture's folder or file name gives it; else None.
        scores_RC: float32, as the method gives them.
        prefix_share: what prefix tokens hold of the map's mass, 0 to 1; None where that says nothing.
        verdict: None where it was not checked.
    """

    name: str
    figure: Path
    predicted: str
    probability: float
    target: str | None
    true: str | None
    scores_RC: Floats
    prefix_share: float | None
    verdict: Verdict | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, the map included."""
        return {
            "filename": self.name,
            "figure": str(self.figure),
            "predicted": self.predicted,
            "probability": round(self.probability, 6),
            "target": self.target,
            "true": self.true,
            "map": [[float(f"{score:.6g}") for score in row] for row in self.scores_RC.tolist()],
            "prefix_share": None if self.prefix_share is None else round(self.prefix_share, 6),
            "verdict": None if self.verdict is None else self.verdict.to_dict(),
        }


@dataclass(frozen=True)
class ExplainResult:
    """What ``vitrine explain`` made.

    Attributes:
        out: its folder.
        pictures: with their figures.
        table: maps.csv.
        sheets: the contact sheets.
        unreadable: (name, reason) of pictures without figure.
        method: in words.
        precision: that the model ran in.
        notes: sentences on the weights.
    """

    out: Path
    pictures: tuple[ExplainedPicture, ...]
    table: Path
    sheets: tuple[Path, ...]
    unreadable: tuple[tuple[str, str], ...]
    method: str
    precision: str
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "method": self.method,
            "precision": self.precision,
            "pictures": [picture.to_dict() for picture in self.pictures],
            "unreadable": unreadable_to_json(self.unreadable),
        }


def map_records(explained: Sequence[ExplainedPicture], out: Path) -> Iterator[bytes]:
    """The records of maps.csv, the header first; figures are named from ``out`` on."""
    yield csv_row(["filename", "figure", "label", "probability", "true", "target", "prefix_share", "verdict", "reason"])
    for each in explained:
        yield csv_row(
            [
                each.name,
                each.figure.relative_to(out).as_posix(),
                each.predicted,
                f"{each.probability:.6f}",
                each.true or "",
                each.target or "",
                "" if each.prefix_share is None else f"{each.prefix_share:.6f}",
                "" if each.verdict is None else each.verdict.flag,
                "" if each.verdict is None else each.verdict.sentence,
            ]
        )


Origin = Callable[[str, str | None, str | None, str, float], Provenance]


def true_label_from_name(name: str, labels: Sequence[str]) -> str | None:
    """The true label, where a picture's folder or its file name (``{label}_{id}``) is a class of the model."""
    path = PurePosixPath(name)
    for candidate in (path.parent.name, path.stem.rpartition("_")[0]):
        if candidate in labels:
            return candidate
    return None


def origin_of(model: str, opened: Classifier, settings: ExplainSettings, architecture: str | None) -> Origin:
    """What makes a figure's provenance from (picture, sha256, target, folder of figures, end of the scale)."""
    method, weights = settings.method, opened.weights
    attends = method.name == "attention"
    flags = explain_flags(settings, opened.precision, architecture)

    def origin(picture: str, sha256: str | None, target: str | None, out: str, scale: float) -> Provenance:
        return Provenance(
            figure="map",
            model=model,
            weights_sha256=None if weights is None else weights.sha256,
            picture=picture,
            picture_sha256=sha256,
            method=method.name,
            layer=str(method.layer) if attends else None,
            heads=str(method.heads) if attends else None,
            target=target,
            precision=opened.precision,
            options={
                "query": format_query(method.query) if attends else None,
                "check": settings.check,
                "stretch": settings.stretch,
                "scale": scale,
                "smooth": settings.smooth,
                "seed": settings.seed,
            },
            command=shlex.join(["vitrine", "explain", model, picture, "-o", out, "--scale", f"{scale:g}", *flags]),
        )

    return origin


def format_query(query: str | tuple[int, int]) -> str:
    """As the command line takes it: rows and columns count from 1."""
    return query if isinstance(query, str) else f"{query[0] + 1},{query[1] + 1}"


def explain_flags(settings: ExplainSettings, precision: str, architecture: str | None) -> list[str]:
    """The options of ``vitrine explain`` that differ from what it does without any; the precision always."""
    method = settings.method
    said = {
        "--method": (method.name, "attention"),
        "--layer": (method.layer, -1),
        "--heads": ("each" if settings.each_head else method.heads, "mean"),
        "--query": (format_query(method.query), "auto"),
        "--target": (settings.target, None),
        "--format": (settings.kind, "png"),
        "--seed": (settings.seed, 0),
        "--arch": (architecture, None),
    }
    flags = [word for name, (value, usual) in said.items() if value != usual for word in (name, str(value))]
    switches = {
        "--matrix": settings.matrix,
        "--check": settings.check,
        "--stretch": settings.stretch,
        "--patches": not settings.smooth,
    }
    return [*flags, *(name for name, on in switches.items() if on), "--precision", precision]


FLAGS = {"believable": "Believable", "doubtful": "Doubtful", "not checked": "Not checked"}


def display_scores(scores_RC: Floats, unit: Unit) -> Floats:
    """As figures show a map: multiples of uniform, or probability lost; a map of nothing is nothing."""
    if unit == "drop":
        return scores_RC
    mean = float(scores_RC.mean())
    return scores_RC / mean if mean > 0 else np.zeros_like(scores_RC)


def choose_scale(maps: BatchMaps, settings: ExplainSettings) -> Scale:
    """One scale for the pictures of a call: as asked for, else found on these maps."""
    lost = maps.unit == "drop"
    if settings.stretch:
        return Scale("own", label="probability lost" if lost else "")
    each = [display_scores(scores_RC, maps.unit) for scores_RC in maps.scores_BRC.numpy()]
    high = settings.scale or shared_scale(each, least=0.05 if lost else 2.0)
    return Scale("lost" if lost else "uniform", high)


def map_picture(
    explainer: Explainer,
    mapped: ExplainedBatch,
    b: int,
    sample: Sample,
    true: str | None = None,
    checked: Checked | None = None,
    smooth: bool = True,
) -> MapPicture:
    """One picture of a batch with its map, what the model said, and what the checks found.

    Args:
        explainer: made the maps.
        mapped: the batch.
        b: the picture's place in it.
        sample: the picture itself.
        true: its true label, None where it is not known.
        checked: the batch's checks; None without.
        smooth: draw the overlay smoothly between the middles of patches.
    """
    scores_RC, unit = mapped.maps.scores_BRC[b].numpy(), mapped.maps.unit
    photo_HWC = np.asarray(sample.picture.decode())
    height, width = photo_HWC.shape[:2]
    likeliest = int(mapped.probabilities_BC[b].argmax())
    verdict = None if checked is None else checked.verdicts[b]
    marked: tuple[tuple[int, int], ...] = ()
    masked_RC = None
    if checked is not None and checked.outliers_BRC[b].any():
        marked = tuple((int(row), int(column)) for row, column in np.argwhere(checked.outliers_BRC[b]))
        masked_RC = display_scores(without_outliers(scores_RC, checked.outliers_BRC[b]), unit)
    return MapPicture(
        photo_HWC=photo_HWC,
        map_RC=display_scores(scores_RC, unit),
        placement=Placement(eval_transform(explainer.opened.spec).geometry(width, height), *scores_RC.shape),
        name=sample.name,
        predicted=explainer.opened.labels[likeliest],
        probability=float(mapped.probabilities_BC[b, likeliest]),
        true=true,
        method=explainer.method.describe(explainer.opened.module),
        notes=_notes(explainer, mapped, b, likeliest),
        flag="" if verdict is None else FLAGS[verdict.flag],
        verdict="" if verdict is None else verdict.sentence,
        outlier_patches=marked,
        masked_RC=masked_RC,
        smooth=smooth,
    )


def _notes(explainer: Explainer, mapped: ExplainedBatch, b: int, likeliest: int) -> tuple[str, ...]:
    notes = []
    if explainer.method.for_a_class and int(mapped.targets_B[b]) != likeliest:
        notes.append(f"The map is for the class {explainer.opened.labels[int(mapped.targets_B[b])]}.")
    if mapped.maps.prefix_share_B is not None:
        share = float(mapped.maps.prefix_share_B[b])
        count = explainer.layout.prefix
        tokens = "the prefix token" if count == 1 else f"the {count} prefix tokens"
        notes.append(
            f"{'Less than 1' if share < 0.01 else f'{100 * share:.0f}'} % of the mass is on {tokens} and not drawn."
        )
    if explainer.method.name == "attention" and explainer.layout.readout == "mean":
        notes.append("This model's head reads the mean of the patches, not this row.")
    return tuple(notes)


SHEETS = ("contact-sheet",)
"""Stems that no picture's figure may have."""


def explain(
    model: str,
    images: Path,
    out: Path,
    settings: ExplainSettings,
    *,
    limit: int | None = None,
    batch_size: int = 16,
    precision: str = "auto",
    architecture: str | None = None,
    progress: Progress = no_progress,
) -> ExplainResult:
    """Draw a map for every picture, as pictures come: what was drawn before an interruption stays.

    All figures of a call share one scale, found on the first ``batch_size`` pictures.

    Args:
        model: a model reference with a head of its own.
        images: a folder, searched with its sub-folders, or one picture.
        out: the folder of figures; a picture's sub-folder and stem are kept.
        settings: what is made.
        limit: pictures at most; with more, a choice drawn with the settings' seed. None takes all.
        batch_size: pictures at a time.
        precision: auto, fp32 or bf16.
        architecture: the timm name of the model where ``model`` is a weights file.
        progress: called with pictures done, of how many.

    Raises:
        DataError: no pictures, or none that can be read.
        ModelError: the model cannot be used, or lacks what was asked for.
    """
    samples = random_subset(list_pictures(images), limit, settings.seed)
    opened = open_classifier(model, precision, architecture)
    explainer = Explainer(opened, settings.method, settings.target)
    figures = figure_names([sample.name for sample in samples], settings.kind, SHEETS)
    session = ExplainSession(model, images, out, explainer, settings, samples, figures, architecture)
    for mapped in explainer.run(samples, batch_size):
        session.draw(mapped)
        progress(session.done, len(samples))
    return session.finish()


class ExplainSession:
    """One call: figures are written batch by batch.

    Args:
        model: its reference, as it was given.
        images: what was given.
        out: the folder of figures.
        explainer: makes the maps.
        settings: what is made.
        samples: the pictures.
        figures: the path of each picture's figure, from ``out`` on.
        architecture: as it was given.
        folder: whether a picture's path is ``images`` and its name; None looks.
        sheets: whether contact sheets are drawn.
    """

    def __init__(
        self,
        model: str,
        images: Path,
        out: Path,
        explainer: Explainer,
        settings: ExplainSettings,
        samples: Sequence[Sample],
        figures: Mapping[str, str],
        architecture: str | None,
        folder: bool | None = None,
        sheets: bool = True,
    ) -> None:
        self.images, self.out, self.explainer, self.settings, self.samples = images, out, explainer, settings, samples
        self.folder = images.is_dir() if folder is None else folder
        self.figures, self.draws_sheets = figures, sheets
        self.opened: Classifier = explainer.opened
        self.method = settings.method.describe(self.opened.module)
        self.origin = origin_of(model, self.opened, settings, architecture)
        self.transform = eval_transform(self.opened.spec)
        self.scale: Scale | None = None
        self.explained: list[ExplainedPicture] = []
        self.unreadable: list[tuple[str, str]] = []
        self.sheet: list[MapPicture] = []
        self.sheets: list[Path] = []

    @property
    def done(self) -> int:
        return len(self.explained) + len(self.unreadable)

    def draw(self, mapped: ExplainedBatch) -> None:
        """Figures of one batch."""
        self.unreadable += [(self.samples[i].name, reason) for i, reason in mapped.batch.unreadable]
        if not len(mapped.pixels_BCHW):
            return
        if self.scale is None:
            self.scale = choose_scale(mapped.maps, self.settings)
        checked = check_maps(self.explainer, mapped, self.settings.seed) if self.settings.check else None
        extras = list(self._extras(mapped))
        for b, index in enumerate(mapped.batch.indices_B.tolist()):
            sample = self.samples[index]
            picture = map_picture(
                self.explainer, mapped, b, sample, self._true_label(sample), checked, self.settings.smooth
            )
            explained = self._explained(picture, mapped, b, sample, checked)
            encoded = sample.picture.read_bytes()
            origin = self._origin(sample.name, hashlib.sha256(encoded).hexdigest(), explained.target)
            save_map_figure(picture, self.scale, explained.figure, origin.to_metadata())
            for suffix, figure in extras[b](picture) if extras else ():
                path = explained.figure.with_name(f"{explained.figure.stem}-{suffix}{explained.figure.suffix}")
                save(figure, path, replace(origin, figure=suffix).to_metadata())
            self.explained.append(explained)
            if self.draws_sheets:
                self.sheet.append(picture.with_smaller_photo(320))
            if len(self.sheet) == A_SHEET:
                self._write_sheet()

    def _true_label(self, sample: Sample) -> str | None:
        """A single picture's folder may say it, although the picture's name here is without it."""
        name = sample.name if self.folder else str(self.images.absolute())
        return true_label_from_name(name, self.opened.labels)

    def _explained(
        self, picture: MapPicture, mapped: ExplainedBatch, b: int, sample: Sample, checked: Checked | None
    ) -> ExplainedPicture:
        assert picture.probability is not None
        share_B, target = mapped.maps.prefix_share_B, self.opened.labels[int(mapped.targets_B[b])]
        return ExplainedPicture(
            sample.name,
            self.out / self.figures[sample.name],
            picture.predicted,
            picture.probability,
            target if self.settings.method.for_a_class else None,
            picture.true,
            mapped.maps.scores_BRC[b].numpy(),
            None if share_B is None else float(share_B[b]),
            None if checked is None else checked.verdicts[b],
        )

    def _extras(self, mapped: ExplainedBatch) -> Iterator[Callable[[MapPicture], Iterator[tuple[str, Any]]]]:
        """For each picture of a batch, what draws its further figures: (suffix, figure)."""
        settings, method = self.settings, self.settings.method
        if not (settings.each_head or settings.matrix):
            return
        heads_HBRC: Floats | None = None
        matrices_BHQK: Floats | None = None
        with autocast(self.opened.device, self.opened.precision):
            module, pixels_BCHW = self.opened.module, mapped.pixels_BCHW
            if settings.each_head:
                maps = head_maps(module, pixels_BCHW, layer=method.layer, query=method.query)
                heads_HBRC = np.stack([each.scores_BRC.numpy() for each in maps])
            if settings.matrix:
                matrices_BHQK = attention_matrices(module, pixels_BCHW, layer=method.layer).cpu().numpy()
        for b in range(len(mapped.pixels_BCHW)):
            yield lambda picture, b=b: self._extra_figures(picture, b, heads_HBRC, matrices_BHQK)  # type: ignore[misc]

    def _extra_figures(
        self, picture: MapPicture, b: int, heads_HBRC: Floats | None, matrices_BHQK: Floats | None
    ) -> Iterator[tuple[str, Any]]:
        assert self.scale is not None
        if heads_HBRC is not None:
            shown_HRC = np.stack([display_scores(each_RC, "mass") for each_RC in heads_HBRC[:, b]])
            scale = self.scale if self.settings.stretch else Scale("uniform", shared_scale(list(shown_HRC)))
            detail = self.method.replace(self._reduction, "head by head")
            yield (
                "heads",
                heads_figure(
                    picture.photo_HWC,
                    shown_HRC,
                    picture.placement,
                    scale,
                    title=picture.title,
                    detail=detail,
                    smooth=self.settings.smooth,
                ),
            )
        if matrices_BHQK is not None:
            layer = self.settings.method.layer % self.explainer.layout.blocks + 1
            detail = f"attention of every token to every token, layer {layer} of {self.explainer.layout.blocks}"
            prefix = self.explainer.layout.prefix
            yield "matrix", matrices_figure(matrices_BHQK[b], prefix, title=picture.title, detail=detail)

    @property
    def _reduction(self) -> str:
        return self.method.rpartition(", ")[2]

    def _origin(self, name: str, sha256: str, target: str | None) -> Provenance:
        where = self.images / name if self.folder else self.images
        return self.origin(str(where), sha256, target, str((self.out / self.figures[name]).parent), self._high)

    @property
    def _high(self) -> float:
        return self.scale.high if self.scale is not None and not self.settings.stretch else 0.0

    def _write_sheet(self) -> None:
        assert self.scale is not None
        whole = replace(
            self.origin(str(self.images), None, self.settings.target, str(self.out), self._high), figure="contact sheet"
        )
        self.sheets.append(
            save_contact_sheet(
                self.sheet,
                self.scale,
                self.out / f"contact-sheet.{self.settings.kind}",
                whole.to_metadata(),
                place=(len(self.sheets) + 1, ceil(len(self.samples) / A_SHEET)),
                title=count_pictures(len(self.samples)),
                detail=self.method,
            )
        )
        self.sheet = []

    def finish(self) -> ExplainResult:
        """The last sheet and the table."""
        if not self.explained:
            raise none_readable(self.unreadable)
        if self.sheet:
            self._write_sheet()
        table = self.out / "maps.csv"
        write_atomically(table, b"".join(map_records(self.explained, self.out)))
        return ExplainResult(
            self.out,
            tuple(self.explained),
            table,
            tuple(self.sheets),
            tuple(self.unreadable),
            self.method,
            self.opened.precision,
            self.opened.notes,
        )
