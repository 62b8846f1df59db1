"""``vitrine explain``: one figure of a map for every picture, contact sheets, and a table.

Axes: B pictures, H heads, R grid rows, C grid columns, N tokens.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from vitrine.attribution.attention import attention_matrices, describe_layer, head_maps
from vitrine.attribution.maps import SIGNED_UNITS, Unit, display_scores, token_layout
from vitrine.attribution.method_options import refuse_options
from vitrine.attribution.methods import Method
from vitrine.attribution.patch_hiding import HidingTest
from vitrine.attribution.placement import Placement
from vitrine.classify.model import Classifier, open_classifier
from vitrine.data.picture_inputs import PictureInput, count_at_hand, path_in, picture_input
from vitrine.data.samples import Sample
from vitrine.display import ResultSequence
from vitrine.errors import UsageError
from vitrine.explain.explainer import ExplainedBatch, ExplainedPicture, Explainer
from vitrine.explain.figures.contact_sheet import A_SHEET, save_contact_sheet, sheet_path
from vitrine.explain.figures.map import MapPicture, Scale, save_map_figure, shared_scale
from vitrine.io.figure_folder import FigureCall, FolderClaim, claim_folder, picture_choice
from vitrine.io.file_names import beside
from vitrine.io.files import remove_unfinished, unwritten_picture, write_atomically
from vitrine.io.output_lock import writes_folder
from vitrine.io.resumable_csv import csv_row
from vitrine.io.untrusted_files import MAX_TEXT_BYTES, read_file
from vitrine.models.precision import autocast
from vitrine.plotting.heads import heads_figure, matrices_figure
from vitrine.plotting.own_axes import overlays_figure
from vitrine.plotting.provenance import Provenance, figures_of
from vitrine.plotting.style import figure_bytes, save, shorten
from vitrine.results import Progress, Unreadable, count_of, no_progress, none_drawn, unreadable_to_json

Floats = npt.NDArray[np.float32]

SHEETS = ("contact-sheet",)
"""Stems that no picture's figure may have."""

_SHOWN = 8  # pictures in a notebook
_TABLE = "maps.csv"
_SHEET_PHOTO = 320  # pixels of a photograph's longer side on a contact sheet


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
        contour: draw a line over the photograph where a map crosses the value that favours no patch.
        kind: "png" or "svg".
        seed: of the checks.

    Raises:
        UsageError: an option that the method does not have, a scale that is none, or one beside a stretch.
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
    contour: bool = False

    def __post_init__(self) -> None:
        requests = {"target": self.target is not None, "heads": self.each_head, "matrix": self.matrix}
        refuse_options(self.method.name, [option for option, is_on in requests.items() if is_on])
        require_scale(self.scale)
        if self.stretch and self.scale:
            raise UsageError("Either every map is stretched to its own range, or all have one scale: leave one out.")


def require_scale(scale: float) -> None:
    """Refuse an end of the colours that is none.

    Raises:
        UsageError: it is negative or no number.
    """
    if not 0 <= scale < float("inf"):
        raise UsageError(
            f"scale = {scale:g} cannot be used: expected where the colours end, above 0, or 0, which finds it."
        )


@dataclass(frozen=True, eq=False)
class MapRecord:
    """One picture's figure and map, as the table and the JSON result have them.

    Attributes:
        name: of the picture.
        figure: its file.
        predicted, probability: the likeliest class.
        target: the class that the map is for; None where the method explains no class.
        true: the true label where the picture's folder or file name gives it; else None.
        scores_RC: float32, as the method gives them.
        prefix_share: what prefix tokens hold of the map's mass, 0 to 1; None where the method gives them none.
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
    verdict: HidingTest | None

    @property
    def known_verdict(self) -> HidingTest | None:
        """The verdict."""
        return self.verdict

    @property
    def is_wrong(self) -> bool | None:
        """Whether the answer is wrong, so that the map explains a wrong answer; None where the truth is not known."""
        return None if self.true is None else self.predicted != self.true

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, the map included."""
        return {
            "filename": self.name,
            "figure": str(self.figure),
            "predicted": self.predicted,
            "probability": round(self.probability, 6),
            "target": self.target,
            "true": self.true,
            "wrong_answer": self.is_wrong,
            "map": [[float(f"{score:.6g}") for score in row] for row in self.scores_RC.tolist()],
            "prefix_share": None if self.prefix_share is None else round(self.prefix_share, 6),
            "verdict": None if self.verdict is None else self.verdict.to_dict(),
        }

    def to_row(self, out: Path) -> list[str]:
        """Its row of maps.csv; the figure is named from ``out`` on."""
        return [
            self.name,
            self.figure.relative_to(out).as_posix(),
            self.predicted,
            f"{self.probability:.6f}",
            self.true or "",
            self.target or "",
            "" if self.prefix_share is None else f"{self.prefix_share:.6f}",
            "" if self.verdict is None else self.verdict.flag,
            "" if self.verdict is None else self.verdict.sentence,
        ]


class PictureMap(Protocol):
    """One picture's map, whether its figure was written (:class:`MapRecord`) or can be drawn (``Explanation``)."""

    @property
    def name(self) -> str:
        """Of the picture."""

    @property
    def figure(self) -> Path | None:
        """Its file; None where none was written."""

    @property
    def predicted(self) -> str:
        """The likeliest class."""

    @property
    def probability(self) -> float:
        """Of it, 0 to 1."""

    @property
    def target(self) -> str | None:
        """The class that the map is for; None where the method explains no class."""

    @property
    def true(self) -> str | None:
        """The true label where the picture's folder or file name gives it; else None."""

    @property
    def scores_RC(self) -> Floats:  # noqa: N802  the letters are its axes
        """float32 (R, C), as the method gives them."""

    @property
    def verdict(self) -> HidingTest | None:
        """Whether the answer depends on the patches that the map marks; None where it was not checked."""

    @property
    def known_verdict(self) -> HidingTest | None:
        """The verdict, as far as it is known without testing."""

    @property
    def is_wrong(self) -> bool | None:
        """Whether the answer is wrong; None where the truth is not known."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, the map included."""


@runtime_checkable
class DrawableMap(Protocol):
    """A map in memory, which can be drawn."""

    @property
    def on_photo(self) -> tuple[Any, Floats, Placement, str]:
        """Photograph, map, placement and title."""

    def scale_with(self, others: Sequence[Any]) -> Scale:
        """One scale for the maps of several."""


_COLUMNS = ("filename", "figure", "label", "probability", "true", "target", "prefix_share", "verdict", "reason")


def maps_csv(records: Sequence[MapRecord], out: Path) -> bytes:
    """The content of maps.csv; figures are named from ``out`` on."""
    return b"".join(map(csv_row, (_COLUMNS, *(record.to_row(out) for record in records))))


@dataclass(frozen=True, repr=False)
class ExplainResult(ResultSequence):
    """What ``vitrine explain`` made.

    Attributes:
        out: its folder; None where nothing was written.
        pictures: with their figures, or in Python with maps that can be drawn.
        table: maps.csv; None where nothing was written.
        sheets: the contact sheets.
        unreadable: (name, reason) of pictures that cannot be read.
        unwritten: (name, reason) of pictures whose figure cannot be written.
        method: in words.
        precision: that the model ran in.
        notes: sentences on the weights.
    """

    out: Path | None
    pictures: tuple[PictureMap, ...]
    table: Path | None
    sheets: tuple[Path, ...]
    unreadable: tuple[Unreadable, ...]
    unwritten: tuple[Unreadable, ...]
    method: str
    precision: str
    notes: tuple[str, ...] = ()

    def each_picture(self) -> Sequence[PictureMap]:
        """Its map, with the figure where one was written."""
        return self.pictures

    def headline(self) -> str:
        """How many maps, by what, and where."""
        where = "" if self.out is None else f" in {self.out}"
        aside = f", {count_of(len(self.unreadable), 'picture')} could not be read" if self.unreadable else ""
        return f"{count_of(len(self.pictures), 'map')}{where}: {self.method} ({self.precision}){aside}"

    def details(self) -> str:
        """The verdicts that were asked for."""
        verdicts = [(each.name, each.known_verdict) for each in self.pictures]
        return "\n".join(f"{name}: {verdict}" for name, verdict in verdicts[:_SHOWN] if verdict is not None)

    def table_rows(self) -> Sequence[Mapping[str, Any]]:
        """A row a picture, without its map."""
        return [
            {
                "filename": each.name,
                "figure": None if each.figure is None else str(each.figure),
                "label": each.predicted,
                "probability": each.probability,
                "true": each.true,
                "target": each.target,
                "verdict": None if each.known_verdict is None else each.known_verdict.flag,
                "reason": None if each.known_verdict is None else each.known_verdict.sentence,
            }
            for each in self.pictures
        ]

    def plot(self, limit: int = 8) -> Figure:
        """The first maps over their photographs, on one scale with one colour bar: a matplotlib figure.

        Raises:
            UsageError: figures were written, and maps are not in memory.
        """
        drawable = [each for each in self.pictures[:limit] if isinstance(each, DrawableMap)]
        if not drawable:
            raise UsageError("The figures were written: open them, or explain without out to keep maps in memory.")
        return overlays_figure([each.on_photo for each in drawable], drawable[0].scale_with(drawable))

    def figure_png(self) -> bytes | None:
        """The first maps; of a result whose figures were written, the first contact sheet or figure that is a PNG."""
        if any(isinstance(each, DrawableMap) for each in self.pictures):
            return figure_bytes(self.plot(), "png", {})
        files = (*self.sheets, *(each.figure for each in self.pictures if each.figure is not None))
        file = next((each for each in files if each.suffix == ".png" and each.is_file()), None)
        return None if file is None else file.read_bytes()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "method": self.method,
            "precision": self.precision,
            "pictures": [picture.to_dict() for picture in self.pictures],
            "unreadable": unreadable_to_json(self.unreadable),
            "unwritten": unreadable_to_json(self.unwritten),
        }


@writes_folder("explain")
def explain(
    model: str | Classifier,
    images: Path | PictureInput,
    out: Path,
    settings: ExplainSettings,
    *,
    limit: int | None = None,
    batch_size: int = 16,
    precision: str = "auto",
    architecture: str | None = None,
    names: Path | None = None,
    progress: Progress = no_progress,
    replace_others: bool = False,
) -> ExplainResult:
    """Draw a map for every picture, as pictures come: what was drawn before an interruption stays.

    All figures of a call share one scale, found on the first ``batch_size`` pictures. The folder belongs to the call:
    see :func:`vitrine.io.figure_folder.claim_folder`. Of pictures that come one by one two batches are held at most.

    Args:
        model: a model reference with a head of its own, or an open classifier.
        images: a folder, searched with its sub-folders, or one picture; or pictures that were given in Python.
        out: the folder of figures; a picture's sub-folder and stem are kept.
        settings: what is made.
        limit: pictures at most; with more, a choice drawn with the settings' seed (of pictures whose number is not
            known, the first). None takes all.
        batch_size: pictures at a time.
        precision: auto, fp32 or bf16.
        architecture: the timm name of the model where ``model`` is a weights file.
        names: a file with names for the model's classes, where they are bare numbers.
        progress: called with pictures done, of how many; 0 where that is not known.
        replace_others: remove the figures of another call from ``out``, instead of refusing to draw beside them.

    Raises:
        DataError: no pictures, or none that can be read.
        ModelError: the model cannot be used, or lacks what was asked for.
        RunError: ``out`` has figures of another call.
    """
    pictures = images if isinstance(images, PictureInput) else picture_input(images)
    samples = pictures.choose(limit, settings.seed)
    count = count_at_hand(samples)
    classifier = open_classifier(model, precision, architecture, names=names)
    explainer = Explainer(classifier, settings.method, settings.target)
    figures = figures_of(samples, settings.kind, SHEETS)
    remove_unfinished(out, *{(out / figure).parent for figure in figures.values()})
    provenance = MapProvenance(classifier.reference, classifier, settings, architecture, names)
    call = provenance.call(picture_choice(pictures.path, limit, settings.seed))
    files = written_files(figures, settings)
    claim = claim_folder(out, call, files, replace=replace_others, is_stream=count is None)
    writer = MapWriter(provenance, pictures.path, out, figures, claim=claim)
    for batch in explainer.run(samples, batch_size, check=settings.check, seed=settings.seed):
        writer.write(batch)
        progress(writer.done, count or 0)
        del batch  # its pictures need not wait for the next one
    result = writer.finish()
    return replace(result, notes=(*result.notes, *pictures.notes))


def written_files(figures: Mapping[str, str], settings: ExplainSettings) -> tuple[str, ...]:
    """Every file of a call from its folder on: figures, those beside them, sheets and the table.

    ``figures``: by the picture's name; a picture alone has no sheet.
    """
    count = ceil(len(figures) / A_SHEET) if len(figures) > 1 else 0
    sheets = [_sheet_file(number, settings) for number in range(1, count + 1)]
    return (*_picture_files(figures.values(), settings), *sheets, _TABLE)


def _picture_files(figures: Iterable[str], settings: ExplainSettings) -> tuple[str, ...]:
    """Figures and those beside them."""
    suffixes = [suffix for suffix, is_on in (("heads", settings.each_head), ("matrix", settings.matrix)) if is_on]
    paths = [Path(name) for name in figures]
    others = [_beside(path, suffix) for path in paths for suffix in suffixes]
    return tuple(path.as_posix() for path in (*paths, *others))


def _sheet_file(number: int, settings: ExplainSettings) -> str:
    return sheet_path(Path(f"{SHEETS[0]}.{settings.kind}"), number).as_posix()


def _beside(figure: Path, suffix: str) -> Path:
    """The path of another figure of the same picture."""
    return beside(figure, f"-{suffix}{figure.suffix}", keep_ending=False)


@dataclass(frozen=True)
class MapProvenance:
    """What the figures of one call say of their origin.

    Attributes:
        model: its reference, as it was given.
        classifier: the model.
        settings: what is made.
        architecture, names: as they were given.
    """

    model: str
    classifier: Classifier
    settings: ExplainSettings
    architecture: str | None
    names: Path | None = None

    def call(self, pictures: tuple[str, ...] | None) -> FigureCall:
        """What the figures of a folder have to agree in; ``pictures`` as :class:`FigureCall` has them."""
        return FigureCall("explain", (self.model, *self._flags()), pictures)

    def _flags(self) -> list[str]:
        names = ["--names", str(self.names)] if self.names else []
        return explain_flags(self.settings, self.classifier.precision, self.architecture) + names

    def of(
        self,
        picture: str,
        out: str,
        scale: float,
        *,
        sha256: str | None = None,
        target: str | None = None,
        is_file: bool = True,
    ) -> Provenance:
        """The provenance of one figure.

        Args:
            picture: its path, as the command takes it.
            out: the folder of the figure.
            scale: where the colours end; 0 where the map is stretched.
            sha256: of the picture's file.
            target: the class that the map is for.
            is_file: whether the picture is one that a command can open.
        """
        settings, method, weights = self.settings, self.settings.method, self.classifier.weights
        is_attention, precision = method.name == "attention", self.classifier.precision
        flags = [*(["--scale", f"{scale:g}"] if scale else []), *self._flags()]
        command = ["vitrine", "explain", self.model, picture, "-o", out, *flags]
        return Provenance(
            figure="map",
            model=self.model,
            weights_sha256=None if weights is None else weights.sha256,
            picture=picture,
            picture_sha256=sha256,
            method=method.name,
            layer=str(method.layer) if is_attention else None,
            heads=str(method.heads) if is_attention else None,
            target=target,
            precision=precision,
            options={
                "query": format_query(method.query) if is_attention else None,
                "check": settings.check,
                "stretch": settings.stretch,
                "scale": scale,
                "smooth": settings.smooth,
                "contour": settings.contour,
                "seed": settings.seed,
            },
            command=shlex.join(command) if is_file and not self.classifier.is_in_memory else None,
        )


class MapWriter:
    """Writes the figures of explained pictures, and at the end the table that names them.

    Args:
        provenance: of the figures; it has the model and the settings.
        images: the folder, or the one picture, that was given; None of pictures in memory.
        out: the folder of figures.
        figures: the path of each picture's figure from ``out`` on, by the picture's name.
        is_folder: whether a picture's path is ``images`` and its name; None looks.
        draw_sheets: whether contact sheets are drawn, of more than one picture.
        claim: the folder, which is made this call's own before the first figure; None where others see to it.

    Attributes:
        records: of the figures that were written.
        unreadable: (name, reason) of pictures that cannot be read.
        unwritten: (name, reason) of pictures whose figure cannot be written: one of them does not end the others.
    """

    def __init__(
        self,
        provenance: MapProvenance,
        images: Path | None,
        out: Path,
        figures: Mapping[str, str],
        *,
        is_folder: bool | None = None,
        draw_sheets: bool = True,
        claim: FolderClaim | None = None,
    ) -> None:
        self.provenance, self.images, self.out, self.figures = provenance, images, out, figures
        self.classifier, self.settings = provenance.classifier, provenance.settings
        self.is_folder = images is not None and images.is_dir() if is_folder is None else is_folder
        self.draw_sheets = draw_sheets
        self.claim = claim or FolderClaim(out)
        self.records: list[MapRecord] = []
        self.unreadable: list[Unreadable] = []
        self.unwritten: list[Unreadable] = []
        self._scale: Scale | None = None
        self._sheet: list[MapPicture] = []  # pictures of the sheet that is not full yet
        self._sheets: list[Path] = []

    @property
    def done(self) -> int:
        """Pictures that were looked at."""
        return len(self.records) + len(self.unreadable) + len(self.unwritten)

    def write(self, batch: ExplainedBatch) -> None:
        """Write the figures of one batch."""
        self.unreadable += batch.unreadable
        if not batch.pictures:
            return
        if self._scale is None:
            maps = [item.display_RC for item in batch.pictures]
            self._scale = choose_scale(maps, batch.pictures[0].unit, self.settings)
        self.claim.take()
        self.claim.add(_picture_files([self.figures[item.sample.name] for item in batch.pictures], self.settings))
        heads_BHRC, matrices_BHNN = self._head_maps(batch), self._matrices(batch)
        for b, item in enumerate(batch.pictures):
            true, settings = self._true_label(item.sample), self.settings
            picture = MapPicture.of(item, true, settings.smooth, settings.contour)
            heads_HRC = None if heads_BHRC is None else heads_BHRC[b]
            matrices_HNN = None if matrices_BHNN is None else matrices_BHNN[b]
            try:
                self._draw(item, picture, heads_HRC, matrices_HNN)
            except OSError as error:
                self.unwritten.append(unwritten_picture(item.sample.name, error))
                continue
            self.records.append(self._record(item, picture.true))
            if self.draw_sheets:
                self._sheet.append(picture.with_smaller_photo(_SHEET_PHOTO))
            if len(self._sheet) == A_SHEET:
                self._write_sheet(is_last=False)

    def _draw(
        self, item: ExplainedPicture, picture: MapPicture, heads_HRC: Floats | None, matrices_HNN: Floats | None
    ) -> None:
        assert self._scale is not None
        figure, provenance = self.out / self.figures[item.sample.name], self._provenance(item)
        save_map_figure(picture, self._scale, figure, provenance.to_metadata())
        if heads_HRC is not None:
            self._save_beside(self._heads_figure(picture, heads_HRC), figure, "heads", provenance)
        if matrices_HNN is not None:
            self._save_beside(self._matrix_figure(picture, matrices_HNN), figure, "matrix", provenance)

    def finish(self) -> ExplainResult:
        """Write the last sheet and the table.

        Raises:
            DataError: none of the pictures can be read.
        """
        if not self.records:
            raise none_drawn(self.unreadable, self.unwritten)
        if self._sheet and len(self.figures) > 1:
            self._write_sheet(is_last=True)
        table = self._write_table()
        self.claim.finish()
        return ExplainResult(
            self.out,
            tuple(self.records),
            table,
            tuple(self._sheets),
            tuple(self.unreadable),
            tuple(self.unwritten),
            self._method,
            self.classifier.precision,
            (*self.classifier.notes, *self.claim.notes),
        )

    def _write_table(self) -> Path:
        """maps.csv; that of a call before stays where this one draws some of its figures anew, and gets new rows."""
        table = self.out / _TABLE
        if not self.claim.redraws:
            rows = maps_csv(self.records, self.out)
            before = read_file(table, MAX_TEXT_BYTES) if self.claim.adds and table.is_file() else b""
            write_atomically(table, before + rows.partition(b"\n")[2] if before else rows)
        return table

    def _true_label(self, sample: Sample) -> str | None:
        """A single picture's folder may say it, although the picture's name here is without it."""
        path = path_in(self.images, sample, self.is_folder)
        if path is None:
            return None
        name = sample.name if self.is_folder else str(path.absolute())
        return true_label_from_name(name, self.classifier.labels, self.classifier.numbers)

    def _record(self, picture: ExplainedPicture, true: str | None) -> MapRecord:
        return MapRecord(
            name=picture.sample.name,
            figure=self.out / self.figures[picture.sample.name],
            predicted=picture.predicted,
            probability=picture.probability,
            target=picture.target,
            true=true,
            scores_RC=picture.scores_RC,
            prefix_share=picture.prefix_share,
            verdict=picture.verdict,
        )

    def _provenance(self, picture: ExplainedPicture) -> Provenance:
        sample = picture.sample
        path = path_in(self.images, sample, self.is_folder)
        return self.provenance.of(
            str(path or sample.name),
            str((self.out / self.figures[sample.name]).parent),
            self._scale_end,
            sha256=None if path is None else hashlib.sha256(sample.picture.read_bytes()).hexdigest(),
            target=picture.target,
            is_file=path is not None,
        )

    @property
    def _scale_end(self) -> float:
        return self._scale.high if self._scale is not None and not self.settings.stretch else 0.0

    @property
    def _method(self) -> str:
        return self.settings.method.describe(self.classifier.module)

    @property
    def _sheet_detail(self) -> str:
        """What a contact sheet says of all its maps: the method, the class where one was asked for, and the model."""
        target = f", for {self.settings.target}" if self.settings.target else ""
        return f"{self._method}{target} · model {shorten(self.provenance.model, 44)}"

    def _head_maps(self, batch: ExplainedBatch) -> Floats | None:
        """The map of every head: float32 (B, H, R, C); None where they are not drawn."""
        if not self.settings.each_head:
            return None
        method = self.settings.method
        with autocast(self.classifier.device, self.classifier.precision):
            maps = head_maps(self.classifier.module, batch.pixels_BCHW, layer=method.layer, query=method.query)
        return np.stack([head.scores_BRC.numpy() for head in maps], axis=1)

    def _matrices(self, batch: ExplainedBatch) -> Floats | None:
        """The whole attention of the layer: float32 (B, H, N, N); None where it is not drawn."""
        if not self.settings.matrix:
            return None
        with autocast(self.classifier.device, self.classifier.precision):
            matrices_BHNN = attention_matrices(
                self.classifier.module, batch.pixels_BCHW, layer=self.settings.method.layer
            )
        numbers: Floats = matrices_BHNN.cpu().numpy()
        return numbers

    def _heads_figure(self, picture: MapPicture, heads_HRC: Floats) -> Figure:
        assert self._scale is not None
        displays_HRC = np.stack([display_scores(head_RC, "mass") for head_RC in heads_HRC])
        scale = self._scale if self.settings.stretch else Scale("uniform", shared_scale(list(displays_HRC)))
        reduction = self._method.rpartition(", ")[2]
        return heads_figure(
            picture.photo_HWC,
            displays_HRC,
            picture.placement,
            scale,
            title=picture.headline,
            detail=picture.origin.replace(reduction, "head by head"),
            smooth=self.settings.smooth,
            query=picture.query,
            contour=picture.contour,
        )

    def _matrix_figure(self, picture: MapPicture, matrices_HNN: Floats) -> Figure:
        layout = token_layout(self.classifier.module)
        layer = describe_layer(self.settings.method.layer, layout.blocks)
        method = f"attention of every token to every token, {layer}"
        detail = replace(picture, method=method).origin
        return matrices_figure(matrices_HNN, layout.prefix, title=picture.headline, detail=detail)

    def _save_beside(self, figure: Figure, path: Path, suffix: str, provenance: Provenance) -> None:
        save(figure, _beside(path, suffix), replace(provenance, figure=suffix).to_metadata())

    def _write_sheet(self, *, is_last: bool) -> None:
        assert self._scale is not None
        number, count = len(self._sheets) + 1, len(self.figures)
        of = ceil(count / A_SHEET)
        if self.claim.is_stream:  # how many come after it is not known
            of, count = (1 if is_last and number == 1 else 0), len(self._sheet)
        self.claim.add([_sheet_file(number, self.settings)])
        images = str(self.images or count_of(len(self.figures), "picture"))
        provenance = self.provenance.of(
            images, str(self.out), self._scale_end, target=self.settings.target, is_file=self.images is not None
        )
        self._sheets.append(
            save_contact_sheet(
                self._sheet,
                self._scale,
                self.out / f"contact-sheet.{self.settings.kind}",
                replace(provenance, figure="contact sheet").to_metadata(),
                place=(number, of),
                title=count_of(count, "picture"),
                detail=self._sheet_detail,
            )
        )
        self._sheet = []


# Where colours end at least, so that a map of next to nothing looks like it; a person's own scores have any size.
_LEAST_ENDS = {"drop": 0.05, "gain": 0.05, "logit": 0.05, "score": 1e-6}


def choose_scale(maps: Sequence[Floats], unit: Unit, settings: ExplainSettings) -> Scale:
    """One scale for the maps of a call: as the settings ask, else one on which these maps can be read.

    Args:
        maps: (R, C) each, as figures show them.
        unit: of the method's scores.
        settings: of the call.
    """
    label = SIGNED_UNITS.get(unit, "")
    if settings.stretch:
        return Scale("own", label=label)
    high = settings.scale or shared_scale(maps, minimum=_LEAST_ENDS.get(unit, 2.0))
    return Scale("lost" if label else "uniform", high, label)


def true_label_from_name(name: str, labels: Sequence[str], numbers: Mapping[str, str] | None = None) -> str | None:
    """The true label, where a picture's folder or its file name (``{label}_{id}``) is a class of the model.

    ``numbers``: names of classes that the folder or file may call by their number, by that number.
    """
    path = PurePosixPath(name)
    for candidate in (path.parent.name, path.stem.rpartition("_")[0]):
        label = (numbers or {}).get(candidate, candidate)
        if label in labels:
            return label
    return None


def explain_flags(settings: ExplainSettings, precision: str, architecture: str | None) -> list[str]:
    """The options of ``vitrine explain`` that differ from what it does without any; the precision always."""
    method = settings.method
    options = {
        "--method": (method.name, "attention"),
        "--layer": (method.layer, -1),
        "--heads": ("each" if settings.each_head else method.heads, "mean"),
        "--query": (format_query(method.query), "auto"),
        "--window": (method.window, 0),
        "--target": (settings.target, None),
        "--against": (method.against, None),
        "--format": (settings.kind, "png"),
        "--seed": (settings.seed if settings.check or "seed" in method.entry.needs else 0, 0),
        "--arch": (architecture, None),
    }
    flags = [word for name, (value, default) in options.items() if value != default for word in (name, str(value))]
    switches = {
        "--matrix": settings.matrix,
        "--check": settings.check,
        "--stretch": settings.stretch,
        "--patches": not settings.smooth,
        "--contour": settings.contour,
    }
    return [*flags, *(name for name, is_on in switches.items() if is_on), "--precision", precision]


def format_query(query: str | tuple[int, int]) -> str:
    """A query as the command line takes it."""
    return query if isinstance(query, str) else f"{query[0]},{query[1]}"
