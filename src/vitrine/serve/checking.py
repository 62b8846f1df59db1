"""The verdict on one map, with the controls that it was held against.

Axes: R grid rows, C grid columns, B pictures (one here).
"""

from __future__ import annotations

import zlib
from collections.abc import Hashable

import numpy as np
import torch

from vitrine.data.batch import Batch
from vitrine.explain.controls import centre_blob, edges, random_map
from vitrine.explain.verdict import Verdict
from vitrine.serve.classifiers import ServedClassifier
from vitrine.serve.encoded import EncodedPicture, keep
from vitrine.serve.refusals import Refusal
from vitrine.serve.schema import Array, Check, ControlMap, VerdictInfo
from vitrine.serve.views import View, command, described, map_of
from vitrine.serve.worker import Job
from vitrine.workflows.map_pictures import shown
from vitrine.workflows.mapping import Checked, MappedBatch, Mapper, check_maps

_LABELS = {
    "sensitive_to_weights": "rank correlation with the map of a model with randomised weights",
    "better_than_centre": "insertion less deletion, above that of a blob in the centre",
    "spread_evenly": "share of the mass on the strongest tenth of the patches",
    "carried_by_outliers": "share of the mass on outlier tokens",
}
_GOOD = {"sensitive_to_weights": True, "better_than_centre": True, "spread_evenly": False, "carried_by_outliers": False}
_VALUES = {
    "sensitive_to_weights": "correlation",
    "better_than_centre": "advantage",
    "spread_evenly": "strongest_tenth",
    "carried_by_outliers": "carried",
}


def mapped(view: View, served: ServedClassifier, encoded: EncodedPicture) -> tuple[Mapper, MappedBatch]:
    """The view's map as the workflows have it, made of what is held: the model is not run."""
    target = served.labels[view.target] if view.method.for_a_class else None
    mapper = Mapper(served.opened, view.method, target)
    nothing_B = torch.zeros(1, dtype=torch.int64)
    batch = Batch(encoded.square_CHW[None], nothing_B - 1, nothing_B)
    probabilities_BC = torch.from_numpy(encoded.probabilities_C)[None]
    targets_B = torch.tensor([view.target])
    return mapper, MappedBatch(
        batch, mapper.pixels(batch.pixels_BCHW), probabilities_BC, targets_B, map_of(view, encoded)
    )


def checked_key(view: View) -> Hashable:
    """What a check is kept under."""
    return view.method, view.target if view.method.for_a_class else None


def check(view: View, served: ServedClassifier, encoded: EncodedPicture, job: Job) -> Checked:
    """Check one map, which runs the model many times; in the worker's thread. Kept once it is made.

    Raises:
        Refusal: it is a view that nothing is known to be compared with.
        Cancelled: nobody waits.
    """
    key = checked_key(view)
    found: Checked | None = encoded.checked.get(key)
    if found is None:
        mapper, batch = mapped(view, served, encoded)
        with served.interrupted_by(job):
            found = check_maps(mapper, batch)
        keep(encoded.checked, key, found)
    return found


def require_checkable(view: View, served: ServedClassifier) -> None:
    """Refuse what no check is made for.

    Raises:
        Refusal: the view cannot be checked, or the model's patches do not divide its pictures.
    """
    side, layout = served.opened.spec.size, served.layout
    if side % layout.rows or side % layout.columns:
        raise Refusal(422, "The patches of this model do not divide its input evenly, so its maps cannot be checked.")
    if view.to:
        raise Refusal(422, "Only maps of what the model looks at can be checked, not of who attends to a patch.")


def verdict_info(
    view: View, served: ServedClassifier, encoded: EncodedPicture, checked: Checked, name: str
) -> VerdictInfo:
    """The answer to ``/api/verdict``."""
    rows, columns = served.layout.rows, served.layout.columns
    pixels_BCHW = served.mapper.pixels(encoded.square_CHW[None])
    seed = zlib.crc32(encoded.sha256.encode())  # a random control of its own for every picture
    maps = {
        "random": random_map(rows, columns, seed),
        "centre blob": centre_blob(rows, columns),
        "edges": edges(pixels_BCHW, rows, columns)[0],
    }
    verdict = checked.verdicts[0]
    line = command(view, served, name)
    assert line is not None
    return VerdictInfo(
        flag=verdict.flag,
        sentence=verdict.sentence,
        checks=_checks(verdict),
        controls=[ControlMap(name=key, map=Array.of(shown(map_RC, "mass"))) for key, map_RC in maps.items()],
        outliers=[[int(row), int(column)] for row, column in np.argwhere(checked.outliers_BRC[0])],
        picture=encoded.sha256,
        described=described(view, served),
        command=f"{line} --check",
    )


def _checks(verdict: Verdict) -> list[Check]:
    checks = []
    for name, label in _LABELS.items():
        answer: bool | None = getattr(verdict, name)
        good = None if answer is None else answer == _GOOD[name]
        value: float | None = getattr(verdict.evidence, _VALUES[name])
        checks.append(Check(name=name, answer=answer, good=good, value=value, label=label))
    return checks
