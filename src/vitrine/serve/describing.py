"""What /api/models says of a model."""

from __future__ import annotations

from vitrine.serve.explorer import ServedModel
from vitrine.serve.schema import ModelInfo, SampleInfo


def model_info(model: ServedModel) -> ModelInfo:
    """One model as the page needs it."""
    served, gallery = model.served, model.gallery
    side, layout = served.opened.spec.size, served.layout
    return ModelInfo(
        id=served.id,
        kind="classifier",
        reference=served.reference,
        name=_short(served.reference),
        labels=list(served.labels),
        input=[side, side],
        grid=[layout.rows, layout.columns],
        prefix=layout.prefix,
        layers=layout.blocks,
        heads=served.heads,
        methods=list(served.methods),
        queries=list(served.queries),
        precision=served.precision,
        weights_sha256=served.weights_sha256,
        notes=[*served.notes, *gallery.notes],
        has_positions=False,
        has_validation=gallery.recorded is not None and bool(gallery.recorded.said),
        samples=[
            SampleInfo(id=number, name=gallery.samples[number].name, label=gallery.label(number))
            for number in gallery.shown
        ],
    )


def _short(reference: str) -> str:
    """The last part of a reference, for tabs and titles."""
    return reference.rstrip("/").rpartition("/")[2] or reference
