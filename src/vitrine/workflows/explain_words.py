"""What figures of maps say of themselves: origin, command, true label, and the verdict's flag in words."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

from vitrine.report.provenance import Provenance
from vitrine.workflows.explained import ExplainSettings
from vitrine.workflows.opened import OpenedModel

Origin = Callable[[str, str | None, str | None, str, float], Provenance]


def true_label_in(name: str, labels: Sequence[str]) -> str | None:
    """The true label, where a picture's folder or its file name (``{label}_{id}``) is a class of the model."""
    path = PurePosixPath(name)
    for candidate in (path.parent.name, path.stem.rpartition("_")[0]):
        if candidate in labels:
            return candidate
    return None


def origin_of(model: str, opened: OpenedModel, settings: ExplainSettings, architecture: str | None) -> Origin:
    """What makes a figure's provenance from (picture, sha256, target, folder of figures, end of the scale)."""
    method, weights = settings.method, opened.built.weights
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
                "query": query_in_words(method.query) if attends else None,
                "check": settings.check,
                "stretch": settings.stretch,
                "scale": scale,
                "smooth": settings.smooth,
                "seed": settings.seed,
            },
            command=shlex.join(["vitrine", "explain", model, picture, "-o", out, "--scale", f"{scale:g}", *flags]),
        )

    return origin


def query_in_words(query: str | tuple[int, int]) -> str:
    """As the command line takes it: rows and columns count from 1."""
    return query if isinstance(query, str) else f"{query[0] + 1},{query[1] + 1}"


def explain_flags(settings: ExplainSettings, precision: str, architecture: str | None) -> list[str]:
    """The options of ``vitrine explain`` that differ from what it does without any; the precision always."""
    method = settings.method
    said = {
        "--method": (method.name, "attention"),
        "--layer": (method.layer, -1),
        "--heads": ("each" if settings.each_head else method.heads, "mean"),
        "--query": (query_in_words(method.query), "auto"),
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
