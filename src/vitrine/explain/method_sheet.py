"""``vitrine explain`` with several methods: sheets with a row a picture and a column a method, and a table.

Axes: B pictures, R grid rows, C grid columns.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure

from vitrine.attribution.maps import SIGNED_UNITS, BatchMaps, Unit, mean_size_multiples
from vitrine.attribution.methods import Method
from vitrine.attribution.placement import Placement
from vitrine.attribution.shared_passes import shared_maps
from vitrine.classify.inference import prepared_batches
from vitrine.classify.model import Classifier, open_classifier
from vitrine.data.picture_inputs import PictureInput, count_at_hand, path_in, picture_input
from vitrine.data.samples import Sample
from vitrine.display import ResultSequence
from vitrine.errors import UsageError
from vitrine.explain.explainer import Explainer
from vitrine.explain.figures.contact_sheet import sheet_path
from vitrine.explain.figures.map import MapPicture
from vitrine.explain.figures.method_sheet import PICTURES_A_SHEET, SheetColumn, method_sheet
from vitrine.explain.run import require_scale, true_label_from_name
from vitrine.io.figure_folder import FigureCall, FolderClaim, claim_folder, picture_choice
from vitrine.io.files import remove_unfinished, write_atomically
from vitrine.io.output_lock import writes_folder
from vitrine.io.resumable_csv import csv_row
from vitrine.models.precision import autocast
from vitrine.plotting.colormap import number, shared_scale
from vitrine.plotting.provenance import Provenance
from vitrine.plotting.style import figure_bytes, save, shorten
from vitrine.results import (
    Progress,
    Unreadable,
    count_of,
    join_words,
    no_progress,
    none_readable,
    unreadable_to_json,
)

Floats = npt.NDArray[np.float32]

SHEET = "method-sheet"
"""Stem of the sheets' files."""

_TABLE = "maps.csv"
_PHOTO_SIDE = 400  # pixels of a photograph's longer side on a sheet
_UNIT_WORDS: Mapping[Unit, str] = {"drop": " p", "gain": " p", "logit": " logit", "score": ""}
_COLUMNS = ("filename", "label", "probability", "true", "method", "target", "unit", "mean_size", "row", "column")


@dataclass(frozen=True)
class SheetSettings:
    """What is drawn of each picture.

    Attributes:
        methods: two or more, each with its settings.
        target: the class that maps are for, of methods that explain one; None is the predicted one.
        scale: where the colours end, in multiples of a map's mean size; 0 finds it on the pictures of the first sheet.
        smooth: draw overlays smoothly between the middles of patches.
        contour: draw a line where a map crosses the value that favours no patch.
        kind: "png" or "svg".
        seed: of the choice of pictures; that of what methods draw is theirs.

    Raises:
        UsageError: a method twice, fewer than two, or a scale that is none.
    """

    methods: tuple[Method, ...]
    target: str | None = None
    scale: float = 0.0
    smooth: bool = True
    contour: bool = False
    kind: str = "png"
    seed: int = 0

    def __post_init__(self) -> None:
        require_scale(self.scale)
        twice = [name for index, name in enumerate(self.names) if name in self.names[:index]]
        if twice:
            raise UsageError(f"--method {twice[0]} is there twice: name each method once.")
        if len(self.methods) < 2:
            raise UsageError("A sheet of methods has two columns or more: name another --method, or all.")

    @property
    def names(self) -> tuple[str, ...]:
        """Of the methods."""
        return tuple(method.name for method in self.methods)

    def flags(self, precision: str) -> list[str]:
        """The options of ``vitrine explain`` that make a sheet look as it does."""
        against = next((method.against for method in self.methods if method.against is not None), None)
        options = {
            "--target": (self.target, None),
            "--scale": (f"{self.scale:g}", "0"),
            "--against": (against, None),
            "--format": (self.kind, "png"),
            "--seed": (self.seed, 0),
        }
        flags = [word for name in self.names for word in ("--method", name)]
        flags += [word for name, (value, default) in options.items() if value != default for word in (name, str(value))]
        switches = {"--patches": not self.smooth, "--contour": self.contour}
        return [*flags, *(name for name, is_on in switches.items() if is_on), "--precision", precision]


@dataclass(frozen=True, eq=False)
class SheetMap:
    """One map of a picture.

    Attributes:
        method: its name.
        target: the class that it is for; None where the method explains no class.
        scores_RC: float32, as the method gives them, in ``unit``.
        unit: see :class:`vitrine.attribution.maps.BatchMaps`.
        is_against_itself: whether the class is the one that it was to be compared with, and the map is zero for that.
    """

    method: str
    target: str | None
    scores_RC: Floats
    unit: Unit
    is_against_itself: bool = False

    @property
    def mean_size(self) -> float:
        """What 1 is on the sheet, in the method's unit."""
        return mean_size_multiples(self.scores_RC, self.unit)[1]

    @property
    def multiples_RC(self) -> Floats:  # noqa: N802  its axes
        """As a sheet paints it, in multiples of its mean size; NaN, which has no paint, where all scores are zero."""
        multiples_RC = mean_size_multiples(self.scores_RC, self.unit)[0]
        return multiples_RC if self.scores_RC.any() else np.full_like(multiples_RC, np.nan)

    @property
    def words(self) -> str:
        """What stands under the map."""
        if not self.scores_RC.any():
            return "against itself" if self.is_against_itself else "all zero"
        return f"{number(self.mean_size)}{_UNIT_WORDS[self.unit]}" if self.unit in SIGNED_UNITS else ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "target": self.target,
            "unit": self.unit,
            "mean_size": float(f"{self.mean_size:.6g}"),
            "map": [[float(f"{score:.6g}") for score in row] for row in self.scores_RC.tolist()],
        }


@dataclass(frozen=True, eq=False)
class SheetPicture:
    """One picture with its maps.

    Attributes:
        name: of the picture.
        predicted, probability: the likeliest class.
        true: the true label where the picture's folder or file name gives it; else None.
        maps: in the order of the methods.
    """

    name: str
    predicted: str
    probability: float
    true: str | None
    maps: tuple[SheetMap, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, the maps included."""
        return {
            "filename": self.name,
            "predicted": self.predicted,
            "probability": round(self.probability, 6),
            "true": self.true,
            "maps": {each.method: each.to_dict() for each in self.maps},
        }

    def rows(self) -> Iterator[dict[str, Any]]:
        """A row of the table a method; row and column are those of its strongest patch."""
        for each in self.maps:
            row, column = np.unravel_index(int(each.scores_RC.argmax()), each.scores_RC.shape)
            values = (self.name, self.predicted, round(self.probability, 6), self.true, each.method, each.target)
            ends = (each.unit, float(f"{each.mean_size:.6g}"), int(row), int(column))
            yield dict(zip(_COLUMNS, (*values, *ends), strict=True))


@dataclass(frozen=True, repr=False)
class MethodSheets(ResultSequence):
    """What ``vitrine explain`` with several methods made.

    Attributes:
        out: its folder; None where nothing was written.
        methods: their names, in the order of the columns.
        pictures: with their maps.
        table: maps.csv; None where nothing was written.
        sheets: the figures' files.
        unreadable: (name, reason) of pictures that cannot be read.
        precision: that the model ran in.
        notes: sentences on the weights.
    """

    out: Path | None
    methods: tuple[str, ...]
    pictures: tuple[SheetPicture, ...]
    table: Path | None
    sheets: tuple[Path, ...]
    unreadable: tuple[Unreadable, ...]
    precision: str
    notes: tuple[str, ...]
    _draw_first: Callable[[], Figure]

    def each_picture(self) -> Sequence[SheetPicture]:
        """Its maps."""
        return self.pictures

    def headline(self) -> str:
        """How many pictures and methods, and where."""
        where = "" if self.out is None else f" in {self.out}"
        aside = f", {count_of(len(self.unreadable), 'picture')} could not be read" if self.unreadable else ""
        pictures, methods = count_of(len(self.pictures), "picture"), count_of(len(self.methods), "method")
        return f"{pictures} by {methods}{where} ({self.precision}){aside}"

    def details(self) -> str:
        """The methods, and where the sheets and the table are."""
        lines = [f"Methods: {join_words(self.methods)}", *(f"Sheet: {path}" for path in self.sheets)]
        return "\n".join([*lines, *([] if self.table is None else [f"Table: {self.table}"])])

    def text(self) -> str:
        """What the command line prints."""
        return f"{self.headline()}\n{self.details()}"

    def table_rows(self) -> Sequence[Mapping[str, Any]]:
        """A row a picture and method."""
        return [row for each in self.pictures for row in each.rows()]

    def plot(self) -> Figure:
        """The first sheet: a matplotlib figure."""
        return self._draw_first()

    def figure_png(self) -> bytes:
        """The first sheet."""
        return figure_bytes(self.plot(), "png", {})

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "methods": list(self.methods),
            "precision": self.precision,
            "pictures": [picture.to_dict() for picture in self.pictures],
            "unreadable": unreadable_to_json(self.unreadable),
        }


@writes_folder("explain")
def explain_by_methods(
    model: str | Classifier,
    images: Path | PictureInput,
    out: Path | None,
    settings: SheetSettings,
    *,
    limit: int | None = None,
    batch_size: int = 16,
    precision: str = "auto",
    architecture: str | None = None,
    names: Path | None = None,
    progress: Progress = no_progress,
    replace_others: bool = False,
) -> MethodSheets:
    """Draw sheets of several methods' maps of the same pictures, a sheet as soon as it is full.

    All sheets of a call share one scale, found on the first one. The folder belongs to the call.

    Args:
        model: a model reference with a head of its own, or an open classifier.
        images: a folder, searched with its sub-folders, or one picture; or pictures that were given in Python.
        out: the folder of sheets; None writes nothing, and the result draws its first sheet.
        settings: what is drawn.
        limit: pictures at most; with more, a choice drawn with the settings' seed. None takes all.
        batch_size: pictures at a time.
        precision: auto, fp32 or bf16.
        architecture: the timm name of the model where ``model`` is a weights file.
        names: a file with names for the model's classes, where they are bare numbers.
        progress: called with pictures done, of how many; 0 where that is not known.
        replace_others: remove the figures of another call from ``out``, instead of refusing to draw beside them.

    Raises:
        DataError: no pictures, or none that can be read.
        ModelError: the model cannot be used, or lacks what one of the methods needs.
        RunError: ``out`` has figures of another call.
        UsageError: a class is compared with itself.
    """
    pictures = images if isinstance(images, PictureInput) else picture_input(images)
    samples = pictures.choose(limit, settings.seed)
    classifier = open_classifier(model, precision, architecture, names=names)
    maker = _SheetMaker(classifier, settings)
    claim, provenance = None, Provenance("method sheet")
    if out is not None:
        opening = [*(["--arch", architecture] if architecture else []), *(["--names", str(names)] if names else [])]
        flags = [*settings.flags(classifier.precision), *opening]
        choice = picture_choice(pictures.path, limit, settings.seed) or (str(pictures.path),)
        remove_unfinished(out)
        count = count_at_hand(samples)
        files = [] if count is None else _files(count, settings.kind)
        call = FigureCall("explain", (classifier.reference, *flags), choice)
        claim = claim_folder(out, call, files, replace=replace_others, is_stream=count is None)
        command = ["vitrine", "explain", classifier.reference, *choice, "-o", str(out), *flags]
        has_command = pictures.path is not None and not classifier.is_in_memory
        provenance = maker.provenance(shlex.join(command) if has_command else None)
    writer = _SheetWriter(maker, pictures.path, claim, provenance)
    unreadable: list[Unreadable] = []
    for batch in prepared_batches(classifier, samples, batch_size=batch_size):
        unreadable += batch.unreadable
        writer.add(batch.samples, batch.pixels_BCHW)
        progress(len(writer.pictures) + len(unreadable), count_at_hand(samples) or 0)
        del batch  # its pictures need not wait for the next one
    if not writer.pictures:
        raise none_readable(unreadable)
    result = writer.finish()
    notes = (*classifier.notes, *pictures.notes, *result.notes)
    return replace(result, unreadable=tuple(unreadable), notes=notes)


def _files(count: int, kind: str) -> list[str]:
    """Every file of a call from its folder on."""
    return [*(_sheet_file(number, kind) for number in range(1, ceil(count / PICTURES_A_SHEET) + 1)), _TABLE]


def _sheet_file(number: int, kind: str) -> str:
    return sheet_path(Path(f"{SHEET}.{kind}"), number).as_posix()


class _SheetMaker:
    """A classifier and several methods, which explain pictures together.

    Args:
        classifier: in eval mode.
        settings: of the sheets.
    """

    def __init__(self, classifier: Classifier, settings: SheetSettings) -> None:
        self.classifier, self.settings = classifier, settings
        explainers = {method.name: Explainer(classifier, method, settings.target) for method in settings.methods}
        self.any = next(iter(explainers.values()))
        # Contrasts run by themselves: the passes that methods share are of one logit.
        self.contrasts = {name: each for name, each in explainers.items() if each.against_index is not None}
        self.alike = {name: each.method for name, each in explainers.items() if name not in self.contrasts}

    def maps(self, pixels_BCHW: torch.Tensor, targets_B: torch.Tensor) -> dict[str, BatchMaps]:
        """The maps of a batch by every method, by its name."""
        classifier = self.classifier
        with autocast(classifier.device, classifier.precision):
            maps = dict(shared_maps(self.alike, classifier.module, pixels_BCHW, targets_B, classifier.probabilities))
        return maps | {name: each.maps(pixels_BCHW, targets_B) for name, each in self.contrasts.items()}

    def pictures(
        self, samples: Sequence[Sample], pixels_BCHW: torch.Tensor, images: Path | None
    ) -> Iterator[SheetPicture]:
        """Each of some pictures with its maps; none of none."""
        if not len(pixels_BCHW):
            return
        labels, settings = self.classifier.labels, self.settings
        probabilities_BC = self.any.probability(pixels_BCHW).cpu()
        likeliest_B = probabilities_BC.argmax(dim=1)
        index = self.any.target_index
        targets_B = likeliest_B if index is None else torch.full_like(likeliest_B, index)
        maps = self.maps(pixels_BCHW, targets_B)
        for b, sample in enumerate(samples):
            target, best = labels[int(targets_B[b])], int(likeliest_B[b])
            yield SheetPicture(
                sample.name,
                labels[best],
                float(probabilities_BC[b, best]),
                self._true_label(sample, images),
                tuple(
                    SheetMap(
                        method.name,
                        target if method.for_a_class else None,
                        maps[method.name].scores_BRC[b].numpy(),
                        maps[method.name].unit,
                        method.name in self.contrasts
                        and self.contrasts[method.name].against_index == int(targets_B[b]),
                    )
                    for method in settings.methods
                ),
            )

    def _true_label(self, sample: Sample, images: Path | None) -> str | None:
        """A single picture's folder may say it, although the picture's name here is without it."""
        is_folder = images is not None and images.is_dir()
        path = path_in(images, sample, is_folder)
        if path is None:
            return None
        name = sample.name if is_folder else str(path.absolute())
        return true_label_from_name(name, self.classifier.labels, self.classifier.numbers)

    def row(self, sample: Sample, picture: SheetPicture) -> list[MapPicture]:
        """The picture's maps as a sheet has them, with its photograph, which is decoded for them.

        Raises:
            PictureError: the photograph can no longer be read.
        """
        photo_HWC, settings = np.asarray(sample.picture.decode()), self.settings
        height, width = photo_HWC.shape[:2]
        rows, columns = picture.maps[0].scores_RC.shape
        first = MapPicture(
            photo_HWC=photo_HWC,
            map_RC=picture.maps[0].scores_RC,
            placement=Placement(self.any.transform_of(sample).geometry(width, height), rows, columns),
            name=sample.name,
            predicted=picture.predicted,
            probability=picture.probability,
            true=picture.true,
            smooth=settings.smooth,
            contour=settings.contour,
        ).with_smaller_photo(_PHOTO_SIDE)
        return [replace(first, map_RC=each.multiples_RC, flag=each.words) for each in picture.maps]

    @property
    def detail(self) -> str:
        """What a sheet says of all its maps: the model, and the classes that were asked for."""
        settings, names = self.settings, list(self.contrasts)
        parts = [f"model {shorten(self.classifier.reference, 44)}"]
        if settings.target is not None:
            of_none = [method.name for method in settings.methods if not method.for_a_class]
            aside = f" ({join_words(of_none)}: of no class)" if of_none else ""
            parts.append(f"for {settings.target}{aside}")
        if names:
            parts.append(f"against {self.contrasts[names[0]].method.against}: {join_words(names)}")
        return " · ".join(parts)

    def provenance(self, command: str | None) -> Provenance:
        """Of the sheets of a call."""
        weights, settings = self.classifier.weights, self.settings
        return Provenance(
            "method sheet",
            model=self.classifier.reference,
            weights_sha256=None if weights is None else weights.sha256,
            method=", ".join(settings.names),
            target=settings.target,
            precision=self.classifier.precision,
            options={"smooth": settings.smooth, "contour": settings.contour, "seed": settings.seed},
            command=command,
        )


class _SheetWriter:
    """Collects pictures, and draws and writes a sheet as soon as it is full.

    Args:
        maker: of the maps.
        images: the folder, or the one picture, that was given; None of pictures in memory.
        claim: the folder; None writes nothing, and keeps the first sheet to be drawn.
        provenance: of the sheets.
    """

    def __init__(
        self, maker: _SheetMaker, images: Path | None, claim: FolderClaim | None, provenance: Provenance
    ) -> None:
        self.maker, self.images, self.claim, self.provenance = maker, images, claim, provenance
        self.pictures: list[SheetPicture] = []
        self._rows: list[list[MapPicture]] = []
        self._draw_first: Callable[[], Figure] | None = None
        self._sheets: list[Path] = []
        self._sheet_count = 0
        self._scale = maker.settings.scale

    def add(self, samples: Sequence[Sample], pixels_BCHW: torch.Tensor) -> None:
        """Explain a batch; its pictures fill sheets."""
        for sample, picture in zip(samples, self.maker.pictures(samples, pixels_BCHW, self.images), strict=True):
            self.pictures.append(picture)
            if self.claim is None and self._draw_first is not None:
                continue  # the first sheet is kept, and no other
            self._rows.append(self.maker.row(sample, picture))
            if len(self._rows) == PICTURES_A_SHEET:
                self._end_sheet()

    def _end_sheet(self) -> None:
        rows, settings, number = self._rows, self.maker.settings, self._sheet_count + 1
        self._rows, self._sheet_count = [], number
        self._scale = self._scale or shared_scale([each.map_RC for row in rows for each in row])
        last = self.pictures[-1]
        columns = [SheetColumn(each.method, each.unit in SIGNED_UNITS) for each in last.maps]
        start = (number - 1) * PICTURES_A_SHEET
        counts = f"{count_of(len(rows), 'picture')} by {count_of(len(columns), 'method')}"
        title = counts if number == 1 else f"{counts}, from picture {start + 1} on"
        draw = partial(method_sheet, rows, columns, self._scale, title=title, detail=self.maker.detail)
        if number == 1:
            self._draw_first = draw
        if self.claim is None:
            return
        self.claim.take()
        name = _sheet_file(number, settings.kind)
        self.claim.add([name])
        save(draw(), self.claim.folder / name, self.provenance.to_metadata())
        self._sheets.append(self.claim.folder / name)

    def finish(self) -> MethodSheets:
        """Draw the last sheet and write the table, and give the result."""
        if self._rows:
            self._end_sheet()
        assert self._draw_first is not None
        classifier, claim, table = self.maker.classifier, self.claim, None
        if claim is not None:
            table = claim.folder / _TABLE
            rows = [row.values() for each in self.pictures for row in each.rows()]
            cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
            claim.add([_TABLE])
            write_atomically(table, b"".join(map(csv_row, (list(_COLUMNS), *cells))))
            claim.finish()
        return MethodSheets(
            None if claim is None else claim.folder,
            self.maker.settings.names,
            tuple(self.pictures),
            table,
            tuple(self._sheets),
            (),
            classifier.precision,
            () if claim is None else tuple(claim.notes),
            self._draw_first,
        )
