"""What /api/models says of a model."""

from __future__ import annotations

from typing import Any

from vitrine.serve.classifiers import ServedClassifier
from vitrine.serve.explorer import Served, ServedModel
from vitrine.serve.place_numbers import has_positions
from vitrine.serve.schema import ModelInfo, SampleInfo


def model_info(model: ServedModel) -> ModelInfo:
    """One model as the page needs it."""
    served, gallery = model.served, model.gallery
    samples = [
        SampleInfo(id=number, name=gallery.samples[number].name, label=gallery.label(number))
        for number in gallery.shown
    ]
    return ModelInfo(
        id=served.id,
        kind=served.kind,
        reference=served.reference,
        name=_short(served.reference),
        precision=served.precision,
        weights_sha256=served.weights_sha256,
        notes=[*served.notes, *gallery.notes],
        has_validation=gallery.recorded is not None and bool(gallery.recorded.said),
        samples=samples,
        **_anatomy(served),
    )


def _anatomy(served: Served) -> dict[str, Any]:
    """Classes, grid, layers and heads; a captioner's grid changes with the picture, and it has no classes."""
    if not isinstance(served, ServedClassifier):
        nothing: dict[str, Any] = {"labels": [], "input": None, "grid": None, "prefix": 0, "layers": 0, "heads": 0}
        return nothing | {"methods": [], "queries": [], "has_positions": False}
    side, layout = served.opened.spec.size, served.layout
    return {
        "labels": list(served.labels),
        "input": [side, side],
        "grid": [layout.rows, layout.columns],
        "prefix": layout.prefix,
        "layers": layout.blocks,
        "heads": served.heads,
        "methods": list(served.methods),
        "queries": list(served.queries),
        "has_positions": has_positions(served),
    }


def _short(reference: str) -> str:
    """The last part of a reference, for tabs and titles."""
    return reference.rstrip("/").rpartition("/")[2] or reference
