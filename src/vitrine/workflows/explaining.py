"""``vitrine explain``: one figure of a map for every picture, contact sheets, and a table.

Axes: B pictures, C classes, H heads, R grid rows, C grid columns, Q queries, K keys.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vitrine.data.listing import list_pictures
from vitrine.data.samples import Sample, drawn
from vitrine.errors import DataError
from vitrine.explain.attention_rows import attention_matrices, head_maps
from vitrine.models.precision import autocast
from vitrine.models.run_folder import write_atomically
from vitrine.report.contact_sheet import A_SHEET, counted, save_contact_sheet
from vitrine.report.maps import MapPicture, Scale, save_map_figure, shared_scale
from vitrine.report.panels import heads_figure, matrices_figure
from vitrine.report.provenance import Provenance
from vitrine.report.style import save
from vitrine.workflows.explain_words import origin_of, true_label_in
from vitrine.workflows.explained import Explained, ExplainedPicture, ExplainSettings, table_rows
from vitrine.workflows.figure_names import figure_names
from vitrine.workflows.inference import eval_transform
from vitrine.workflows.map_pictures import map_picture, scale_of, shown
from vitrine.workflows.mapping import Checked, MappedBatch, Mapper, check_maps
from vitrine.workflows.opened import OpenedModel, open_model
from vitrine.workflows.weights_notes import model_notes

Floats = npt.NDArray[np.float32]

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
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Explained:
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
    samples = drawn(list_pictures(images), limit, settings.seed)
    opened = open_model(model, precision, architecture)
    mapper = Mapper(opened, settings.method, settings.target)
    figures = figure_names([sample.name for sample in samples], settings.kind, SHEETS)
    session = ExplainSession(model, images, out, mapper, settings, samples, figures, architecture)
    for mapped in mapper.run(samples, batch_size):
        session.draw(mapped)
        progress(session.done, len(samples))
    return session.finish()


class ExplainSession:
    """One call: figures are written batch by batch.

    Args:
        model: its reference, as it was given.
        images: what was given.
        out: the folder of figures.
        mapper: makes the maps.
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
        mapper: Mapper,
        settings: ExplainSettings,
        samples: Sequence[Sample],
        figures: Mapping[str, str],
        architecture: str | None,
        folder: bool | None = None,
        sheets: bool = True,
    ) -> None:
        self.images, self.out, self.mapper, self.settings, self.samples = images, out, mapper, settings, samples
        self.folder = images.is_dir() if folder is None else folder
        self.figures, self.draws_sheets = figures, sheets
        self.opened: OpenedModel = mapper.opened
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

    def draw(self, mapped: MappedBatch) -> None:
        """Figures of one batch."""
        self.unreadable += [(self.samples[i].name, reason) for i, reason in mapped.batch.unreadable]
        if not len(mapped.pixels_BCHW):
            return
        if self.scale is None:
            self.scale = scale_of(mapped.maps, self.settings)
        checked = check_maps(self.mapper, mapped, self.settings.seed) if self.settings.check else None
        extras = list(self._extras(mapped))
        for b, index in enumerate(mapped.batch.indices_B.tolist()):
            sample = self.samples[index]
            picture = map_picture(
                self.mapper, mapped, b, sample, self._true_label(sample), checked, self.settings.smooth
            )
            explained = self._explained(picture, mapped, b, sample, checked)
            encoded = sample.picture.encoded()
            origin = self._origin(sample.name, hashlib.sha256(encoded).hexdigest(), explained.target)
            save_map_figure(picture, self.scale, explained.figure, origin.to_metadata())
            for suffix, figure in extras[b](picture) if extras else ():
                path = explained.figure.with_name(f"{explained.figure.stem}-{suffix}{explained.figure.suffix}")
                save(figure, path, replace(origin, figure=suffix).to_metadata())
            self.explained.append(explained)
            if self.draws_sheets:
                self.sheet.append(picture.lighter(320))
            if len(self.sheet) == A_SHEET:
                self._write_sheet()

    def _true_label(self, sample: Sample) -> str | None:
        """A single picture's folder may say it, although the picture's name here is without it."""
        name = sample.name if self.folder else str(self.images.absolute())
        return true_label_in(name, self.opened.labels)

    def _explained(
        self, picture: MapPicture, mapped: MappedBatch, b: int, sample: Sample, checked: Checked | None
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

    def _extras(self, mapped: MappedBatch) -> Iterator[Callable[[MapPicture], Iterator[tuple[str, Any]]]]:
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
            shown_HRC = np.stack([shown(each_RC, "mass") for each_RC in heads_HBRC[:, b]])
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
            layer = self.settings.method.layer % self.mapper.layout.blocks + 1
            detail = f"attention of every token to every token, layer {layer} of {self.mapper.layout.blocks}"
            prefix = self.mapper.layout.prefix
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
                title=counted(len(self.samples)),
                detail=self.method,
            )
        )
        self.sheet = []

    def finish(self) -> Explained:
        """The last sheet and the table."""
        if not self.explained:
            name, reason = self.unreadable[0]
            raise DataError(f"None of the {len(self.samples)} pictures can be read, for example {name}: {reason}")
        if self.sheet:
            self._write_sheet()
        table = self.out / "maps.csv"
        write_atomically(table, b"".join(table_rows(self.explained, self.out)))
        return Explained(
            self.out,
            tuple(self.explained),
            table,
            tuple(self.sheets),
            tuple(self.unreadable),
            self.method,
            self.opened.precision,
            model_notes(self.opened.built),
        )
