"""The section on methods: which maps find the things, beside controls that know nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrine.errors import RunError
from vitrine.explain.ranking import Estimate, RankedMethod, Ranking, metric
from vitrine.models.weights import file_sha256
from vitrine.report.methods import methods_figure, methods_table
from vitrine.report.page.document import Finding, Findings, Folded, Listing, Paragraph, Plot, Section, Sheet
from vitrine.results import Interval, shown_number
from vitrine.workflows.weights_notes import MEASURED

SCORES = "methods/methods.json"
"""Where a report looks for scored methods: ``vitrine explain RUN --score DATA -o RUN/methods``."""

_MAIN = 4  # metrics in the open


@dataclass(frozen=True)
class RecordedScores:
    """Methods scored on pictures, read back.

    Attributes:
        ranking: methods, then controls.
        verdicts: (flag, sentence) by method.
        data: what they were scored on.
        masked: pictures with a mask.
        notes: sentences on what was decided on the way.
    """

    ranking: Ranking
    verdicts: Mapping[str, tuple[str, str]]
    data: str
    masked: int
    notes: tuple[str, ...]


def read_scores(run: Path) -> RecordedScores | None:
    """The scores in RUN/methods; None where there are none, or they are of other weights than the run has now.

    Raises:
        RunError: the file is there and cannot be read.
    """
    path = run / SCORES
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text("utf-8"))
        fits = content[MEASURED] == file_sha256(run / "model.safetensors")
        return scores_from_dict(content) if fits else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is not what vitrine explain --score writes ({error}). Remove it.") from error


def scores_from_dict(content: Mapping[str, Any]) -> RecordedScores:
    """What :meth:`vitrine.workflows.method_scores.MethodScores.to_dict` made.

    Raises:
        KeyError, TypeError, ValueError: it is not.
    """
    rows = tuple(
        RankedMethod(
            each["name"],
            each["control"],
            each["seconds_a_picture"],
            {key: _estimate(found) for key, found in each["metrics"].items()},
            each["standing"],
            None if each["lead_of_best"] is None else _estimate(each["lead_of_best"]),
        )
        for each in content["methods"]
    )
    bootstrap = content["bootstrap"]
    ranking = Ranking(
        metric(content["ranked_by"]), rows, content["pictures"], bootstrap["resamples"], bootstrap["seed"]
    )
    verdicts = {name: (found["flag"], found["sentence"]) for name, found in content["verdicts"].items()}
    return RecordedScores(ranking, verdicts, content["data"], content["pictures_with_mask"], tuple(content["notes"]))


def _estimate(content: Mapping[str, Any]) -> Estimate:
    ends = content["interval_95"]
    return Estimate(content["mean"], None if ends is None else Interval(*ends), content["n"])


def methods_section(scores: RecordedScores) -> Section:
    """The ranking as figure and table, the best method's verdict in the open, the others' for whoever asks."""
    ranking = scores.ranking
    best = ranking.rows[0]
    shown = ranking.metrics[:_MAIN]
    table = methods_table(ranking, shown)
    alt = f"Methods ranked by {ranking.by.label}: " + "; ".join(
        f"{row.name} {shown_number(row.estimates[ranking.by.key].mean, 3)}"
        for row in ranking.rows
        if ranking.by.key in row.estimates
    )
    others = tuple(
        Finding(flag, f"{name}: {said}") for name, (flag, said) in scores.verdicts.items() if name != best.name
    )
    flag, said = scores.verdicts[best.name]
    return Section(
        "methods",
        "Which maps to trust",
        (
            Paragraph(_best(scores)),
            Findings((Finding(flag, f"{best.name}: {said}"),)),
            Plot("methods", methods_figure(ranking, metrics=shown), alt, _below(scores)),
            Folded("The same as a table", (Sheet(table),)),
            *([Folded("Verdicts on the other methods", (Findings(others),))] if others else []),
            *([Folded("How they were scored", (Listing(scores.notes),))] if scores.notes else []),
        ),
    )


def _best(scores: RecordedScores) -> str:
    ranking = scores.ranking
    best, by = ranking.rows[0], ranking.by
    methods = [row for row in ranking.rows if not row.is_control]
    ties = [row.name for row in methods[1:] if row.standing == "ties"]
    ahead = [row.name for row in ranking.rows if row.is_control and row.standing == "above"]
    level = [row.name for row in ranking.rows if row.is_control and row.standing == "ties"]
    said = (
        f"Of {len(methods)} methods and layers, {best.name} has the best {by.label}, "
        f"{shown_number(best.estimates[by.key].mean, 3)} on {ranking.pictures:,} pictures of {scores.data}."
    )
    if ties:
        said += f" It cannot be told from {', '.join(ties)}."
    if ahead:
        said += f" Controls that know nothing of the model do better: {', '.join(ahead)}."
    if level:
        said += f" It cannot be told from controls that know nothing of the model: {', '.join(level)}."
    return said


def _below(scores: RecordedScores) -> str:
    masked = f"{scores.masked:,} pictures have masks. " if scores.masked else "There are no masks. "
    return f"{masked}Controls, grey, know nothing of the model. 95 % intervals from drawing pictures (bootstrap)."
