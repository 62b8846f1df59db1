"""Figures of the explorer's views, as the command line draws them, with their provenance in the file's metadata.

Axes: R grid rows, C grid columns.
"""

from __future__ import annotations

import shlex
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from vitrine.attribution.maps import patch_on_grid
from vitrine.attribution.position_metrics import PositionFindings
from vitrine.caption.decoding import DecodedCaption
from vitrine.caption.figures.figure_file import caption_figure_bytes
from vitrine.caption.inference import CaptionedPicture
from vitrine.caption.run import CaptionProvenance, prepare_word_maps
from vitrine.data.decode import BytesPicture
from vitrine.data.samples import Sample
from vitrine.errors import ModelError
from vitrine.explain.figures.map import MapPicture, map_figure, wrong_answer_notes
from vitrine.explain.figures.positions import position_figure
from vitrine.explain.run import ExplainSettings, MapProvenance, choose_scale
from vitrine.features.figures import feature_figure
from vitrine.features.patch_tokens import TokenBatch
from vitrine.plotting.confusion import confusion_figure
from vitrine.plotting.provenance import Provenance
from vitrine.plotting.style import figure_bytes
from vitrine.serve.captioner import CaptionerEncoding, Decoding, Layers, ServedCaptioner
from vitrine.serve.classifier import ClassifierEncoding, ServedClassifier
from vitrine.serve.features import FeatureEncoding, FeatureView, JointFit, feature_picture, feature_words
from vitrine.serve.galleries import RecordedValidation
from vitrine.serve.model import output_folder
from vitrine.serve.uploads import Upload
from vitrine.serve.views import (
    View,
    attention_to,
    describe_view,
    explain_command,
    make_explained_picture,
    positions_command,
    scale_of_attention_to,
)

_DRAW_LOCK = threading.Lock()  # matplotlib's settings belong to the whole process


def draw_map(
    view: View, classifier: ServedClassifier, encoding: ClassifierEncoding, upload: Upload, kind: str
) -> bytes:
    """The figure of ``vitrine explain`` of a view, as PNG or SVG; with a verdict if the map has been checked.

    Raises:
        ModelError: no such layer, head or query.
    """
    target = classifier.labels[view.target] if view.method.for_a_class else None
    check_result = encoding.checks.get(view.check_key)
    settings = ExplainSettings(view.method, target, check=check_result is not None, kind=kind)
    sample = Sample(upload.name, BytesPicture(upload.data))
    true = upload.true if upload.true in classifier.labels else None
    if view.to:
        map_RC = attention_to(view, encoding)
        picture = MapPicture.of(make_explained_picture(replace(view, to=False), classifier, encoding, sample), true)
        picture = replace(picture, map_RC=map_RC, method=describe_view(view, classifier))
        picture = replace(picture, notes=wrong_answer_notes(picture.predicted, true, None))
        scale = scale_of_attention_to(map_RC)
    else:
        explanation = make_explained_picture(view, classifier, encoding, sample, check_result)
        picture = MapPicture.of(explanation, true)
        scale = choose_scale([explanation.display_RC], explanation.unit, settings)
    origin = MapProvenance(classifier.reference, classifier.model, settings, classifier.architecture)
    provenance = origin.of(upload.name, "maps", scale.high, sha256=upload.sha256, target=target)
    command = explain_command(view, classifier, upload.argument, check=settings.check)
    direction = {"direction": "to"} if view.to else {}
    provenance = replace(provenance, options={**provenance.options, **direction}, command=command)
    with _DRAW_LOCK:
        return figure_bytes(map_figure(picture, scale), kind, provenance.to_metadata())


def draw_caption(
    captioner: ServedCaptioner,
    encoding: CaptionerEncoding,
    caption: DecodedCaption,
    upload: Upload,
    *,
    decoding: Decoding,
    layers: Layers,
    kind: str,
) -> bytes:
    """The figure of ``vitrine caption`` of a caption with its maps, as PNG or SVG; no command draws one with a
    prefix."""
    settings = captioner.settings(decoding, layers, kind)
    sample = Sample(upload.name, BytesPicture(upload.data))
    captioned_picture = CaptionedPicture(sample, sample.picture.decode(), caption, encoding.placement)
    words = prepare_word_maps(captioned_picture, captioner.model, settings, captioner.reference)
    origin = CaptionProvenance(captioner.reference, captioner.model, settings, captioner.flags)
    provenance = origin.of(sample, Path(upload.name), "captions")
    has_command = upload.argument is not None and not decoding.prefix
    provenance = replace(
        provenance,
        command=captioner.command(upload.argument or "", decoding, layers) if has_command else None,
        options={**provenance.options, **({"continued": True} if decoding.prefix else {})},
    )
    with _DRAW_LOCK:
        return caption_figure_bytes(words.picture, words.scale, kind, provenance.to_metadata())


def draw_positions(
    classifier: ServedClassifier, findings: PositionFindings, cell: tuple[int, int] | None, kind: str
) -> bytes:
    """The figure of ``vitrine positions``, of all cells or of one (row, column from 0), as PNG or SVG.

    Raises:
        ModelError: the cell lies outside of the grid.
    """
    cell = None if cell is None else patch_on_grid(cell, findings.rows, findings.columns)
    options: dict[str, Any] = {"cell": cell, "before": None, "architecture": classifier.architecture}
    title = f"Position embeddings of {classifier.reference}"
    with _DRAW_LOCK:
        figure = position_figure(findings, title, cell=cell)
        return _with_provenance(figure, "positions", classifier, options, positions_command(classifier, cell), kind)


def draw_patch_features(
    classifier: ServedClassifier,
    view: FeatureView,
    joint: JointFit,
    encoding: FeatureEncoding,
    batch: TokenBatch,
    upload: Upload,
    *,
    patch: tuple[int, int] | None,
    command: str | None,
    kind: str,
) -> bytes:
    """The figure of ``vitrine features`` of one picture, as PNG or SVG, with what was fitted to all pictures of the
    view; a patch is compared on the scale that the explorer has for all patches."""
    photo = BytesPicture(upload.data).decode()
    picture = feature_picture(encoding, batch, joint.fit, photo, upload.name, patch)
    words = feature_words(classifier, view, joint, upload.name, patch)
    options = {"regions": view.regions, "foreground": view.foreground, "pictures": joint.fit.pictures, "patch": patch}
    provenance = Provenance(
        figure="patch features",
        model=classifier.reference,
        weights_sha256=classifier.weights_sha256 or "none",
        picture=upload.argument or upload.name,
        picture_sha256=upload.sha256,
        layer=str(view.layer),
        precision=classifier.precision,
        options=options,
        command=command,
    )
    with _DRAW_LOCK:
        return figure_bytes(feature_figure(picture, words), kind, provenance.to_metadata())


def confusion_command(classifier: ServedClassifier, validation: RecordedValidation) -> str:
    """The command line that evaluates the validation pictures again and draws their confusion matrix."""
    words = ["vitrine", "evaluate", classifier.reference, validation.reference]
    return shlex.join([*words, "--split", "validation", "-o", output_folder("evaluation", classifier.reference)])


def draw_confusion(classifier: ServedClassifier, validation: RecordedValidation, kind: str) -> bytes:
    """The confusion matrix of a run's validation pictures as PNG or SVG, as ``vitrine evaluate`` draws it.

    Raises:
        ModelError: the run recorded no metrics.
    """
    if validation.metrics is None:
        raise ModelError(f"{classifier.reference} recorded no metrics, of which a confusion matrix could be drawn.")
    options = {"data": validation.reference, "split": "validation"}
    command = confusion_command(classifier, validation)
    with _DRAW_LOCK:
        return _with_provenance(confusion_figure(validation.metrics), "confusion", classifier, options, command, kind)


def _with_provenance(
    figure: Figure, name: str, classifier: ServedClassifier, options: dict[str, Any], command: str, kind: str
) -> bytes:
    provenance = Provenance(
        figure=name,
        model=classifier.reference,
        weights_sha256=classifier.weights_sha256 or "none",
        options=options,
        command=command,
    )
    return figure_bytes(figure, kind, provenance.to_metadata())
