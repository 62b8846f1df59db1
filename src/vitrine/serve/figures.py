"""Figures of what is shown, as the command line draws them, with where they came from in their metadata.

Axes: R grid rows, C grid columns.
"""

from __future__ import annotations

import shlex
import threading
from dataclasses import replace
from typing import Any

from vitrine.attribution.position_metrics import PositionFindings
from vitrine.caption.decoding import DecodedCaption
from vitrine.caption.figures.words import caption_figure
from vitrine.caption.inference import CaptionedPicture
from vitrine.caption.run import caption_provenance, prepare_word_maps
from vitrine.data.decode import BytesPicture
from vitrine.data.samples import Sample
from vitrine.errors import ModelError
from vitrine.explain.figures.map import map_figure
from vitrine.explain.figures.positions import position_figure
from vitrine.explain.run import ExplainSettings, choose_scale, map_picture, origin_of
from vitrine.plotting.colormap import Scale, shared_scale
from vitrine.plotting.confusion import confusion_figure
from vitrine.plotting.provenance import Provenance
from vitrine.plotting.style import figure_bytes
from vitrine.serve.captioner import EncodedCaption, ServedCaptioner
from vitrine.serve.classifier import EncodedPicture, ServedClassifier
from vitrine.serve.galleries import RecordedValidation
from vitrine.serve.uploads import Upload
from vitrine.serve.views import View, attention_to, checked_key, described, mapped, positions_command

_DRAWING = threading.Lock()  # matplotlib's settings are the process's


def draw_map(view: View, served: ServedClassifier, encoded: EncodedPicture, upload: Upload, kind: str) -> bytes:
    """The figure of ``vitrine explain`` of a view, as PNG or SVG; with the verdict where the map has been checked.

    Raises:
        ModelError: no such layer, head or query.
    """
    target = served.labels[view.target] if view.method.for_a_class else None
    checked = encoded.checked.get(checked_key(view))
    settings = ExplainSettings(view.method, target, check=checked is not None, kind=kind)
    sample = Sample(upload.name, BytesPicture(upload.data))
    if view.to:
        map_RC = attention_to(view, encoded)
        plain = replace(view, to=False)
        explainer, batch = mapped(plain, served, encoded)
        picture = map_picture(explainer, batch, 0, sample)
        picture = replace(picture, map_RC=map_RC, method=described(view, served), notes=())
        scale = Scale("uniform", shared_scale([map_RC], least=2.0))
    else:
        explainer, batch = mapped(view, served, encoded)
        picture, scale = map_picture(explainer, batch, 0, sample, checked=checked), choose_scale(batch.maps, settings)
    origin = origin_of(served.reference, served.opened, settings, served.architecture)
    told: Provenance = origin(upload.name, upload.sha256, target, "maps", scale.high)
    if view.to:
        told = replace(told, options={**told.options, "direction": "to"}, command=None)
    with _DRAWING:
        return figure_bytes(map_figure(picture, scale), kind, told.to_metadata())


def draw_caption(
    served: ServedCaptioner,
    encoded: EncodedCaption,
    caption: DecodedCaption,
    upload: Upload,
    *,
    beams: int,
    continued: bool,
    kind: str,
) -> bytes:
    """The figure of ``vitrine caption`` of a decoded caption, as PNG or SVG."""
    settings = served.settings(beams, kind)
    sample = Sample(upload.name, BytesPicture(upload.data))
    decoded = CaptionedPicture(sample, sample.picture.decode(), caption, encoded.placement)
    worded = prepare_word_maps(decoded, served.opened, settings)
    told = caption_provenance(served.reference, served.opened, settings, sample, upload.name, "captions", served.flags)
    if continued:
        told = replace(told, command=None, options={**told.options, "continued": True})
    with _DRAWING:
        return figure_bytes(caption_figure(worded.picture, worded.scale), kind, told.to_metadata())


def draw_positions(served: ServedClassifier, found: PositionFindings, cell: tuple[int, int] | None, kind: str) -> bytes:
    """The figure of ``vitrine positions``, of all cells or of one (row, column from 0), as PNG or SVG.

    Raises:
        ModelError: the cell lies outside of the grid.
    """
    if cell is not None and not (cell[0] < found.rows and cell[1] < found.columns):
        raise ModelError(f"There is no patch {cell}: the grid has {found.rows} rows and {found.columns} columns.")
    from_one = None if cell is None else (cell[0] + 1, cell[1] + 1)
    options: dict[str, Any] = {"cell": from_one, "before": None, "architecture": served.architecture}
    told = Provenance(
        figure="positions",
        model=served.reference,
        weights_sha256=served.weights_sha256 or "none",
        options=options,
        command=positions_command(served, cell),
    )
    title = f"Position embeddings of {served.reference}"
    with _DRAWING:
        return figure_bytes(position_figure(found, title, cell=from_one), kind, told.to_metadata())


def confusion_command(served: ServedClassifier, recorded: RecordedValidation) -> str:
    """What measures the validation pictures again and draws their confusion matrix."""
    words = ["vitrine", "evaluate", served.reference, recorded.reference, "--split", "validation", "-o", "evaluation"]
    return shlex.join(words)


def draw_confusion(served: ServedClassifier, recorded: RecordedValidation, kind: str) -> bytes:
    """The confusion matrix of a run's validation pictures as PNG or SVG, as ``vitrine evaluate`` draws it.

    Raises:
        ModelError: the run recorded no metrics.
    """
    if recorded.metrics is None:
        raise ModelError(f"{served.reference} recorded no metrics, of which a confusion matrix could be drawn.")
    told = Provenance(
        figure="confusion",
        model=served.reference,
        weights_sha256=served.weights_sha256 or "none",
        options={"data": recorded.reference, "split": "validation"},
        command=confusion_command(served, recorded),
    )
    with _DRAWING:
        return figure_bytes(confusion_figure(recorded.metrics), kind, told.to_metadata())
