"""Sections on what the final model looks at: its position embeddings, and attention maps with verdicts.

Axes: R grid rows, C grid columns.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrine.attribution.methods import Method
from vitrine.attribution.position_embeddings import position_embeddings
from vitrine.attribution.position_metrics import assess_positions
from vitrine.attribution.ranking import Estimate, RankedMethod, Ranking, metric
from vitrine.classify.model import Classifier
from vitrine.data.image_folder import one_picture
from vitrine.data.samples import Sample
from vitrine.errors import ModelError, RunError
from vitrine.explain.explainer import Explainer, check_maps
from vitrine.explain.figures.map import MapPicture
from vitrine.explain.figures.positions import number_rows, position_figure
from vitrine.explain.figures.ranking import methods_figure, methods_table
from vitrine.explain.run import map_picture, true_label_from_name
from vitrine.models.reference import file_sha256
from vitrine.plotting.colormap import Scale, shared_scale
from vitrine.plotting.provenance import plain_stem
from vitrine.plotting.tables import Table
from vitrine.report.document import (
    Block,
    Details,
    Finding,
    Findings,
    Gallery,
    Listing,
    MapView,
    Paragraph,
    Plot,
    Section,
    Sheet,
)
from vitrine.results import Interval, Progress, no_progress, shown_number
from vitrine.runs.data import find_validation_samples
from vitrine.runs.environment import WEIGHTS_SHA256
from vitrine.runs.record import RunRecord

_SIDE = 480  # pixels of a photograph on the page


def positions_section(opened: Classifier, name: str) -> Section:
    """The similarity of position embeddings as one figure, with its numbers beside those of controls."""
    try:
        table = position_embeddings(opened.module)
    except ModelError as error:
        blocks: tuple[Block, ...] = (Paragraph(str(error).splitlines()[0]),)
        return Section("positions", "Position embeddings", blocks)
    findings = assess_positions(
        table.embeddings_RCD, is_fixed_sine=table.is_fixed_sine, notes=(*opened.loaded.notes, *table.notes)
    )
    columns = ("", "this model", "untrained", "fixed 2-D sine")
    numbers = Table(columns, tuple((what, *cells) for what, cells in number_rows([findings.numbers], findings)))
    figure = position_figure(findings, f"Position embeddings of {name}", words=False)
    alt = (
        f"Similarity of each of {findings.rows} × {findings.columns} position embeddings with all. {findings.sentence}"
    )
    return Section(
        "positions",
        "Position embeddings",
        (
            Paragraph(findings.sentence),
            Sheet(
                numbers, "Untrained: random embeddings of this size. Fixed 2-D sine: embeddings that encode position."
            ),
            Plot("positions", figure, alt, lines=False),
            *(Paragraph(note, "note") for note in findings.notes),
        ),
    )


@dataclass(frozen=True)
class ShownPicture:
    """A picture whose map is shown, its true label where it is known, and why it is shown."""

    sample: Sample
    true: str | None
    why: str


def choose_pictures(record: RunRecord, data: str | None = None) -> tuple[ShownPicture, ...]:
    """The two validation pictures on which the run was surest and right, the two surest and wrong, and the two on which
    it was least sure, of different classes where there are any: fewer where it has no more, none where the pictures are
    no longer there.

    Args:
        record: the run.
        data: where its data are now; None: where they were.

    Raises:
        DataError: there are no such data.
        RunError: predictions.csv has a probability that is no number.
    """
    sure = {name: each.score for name, each in record.predictions.items() if each.score is not None}
    ranked = sorted(sure, key=lambda name: (-sure[name], name))
    right = [name for name in ranked if record.is_correct(name)]
    wrong = [name for name in ranked if not record.is_correct(name)]
    chosen: dict[str, str] = dict.fromkeys(_spread(right, record.true_labels), "surest and right")
    chosen |= dict.fromkeys(_spread(wrong, record.true_labels), "surest and wrong")
    unsure = [name for name in reversed(ranked) if name not in chosen]
    chosen |= dict.fromkeys(_spread(unsure, record.true_labels), "least sure")
    there = find_validation_samples(record, chosen, data)
    return tuple(ShownPicture(sample, record.true_labels[name], chosen[name]) for name, sample in there.items())


def _spread(names: Sequence[str], truths: Mapping[str, str], count: int = 2) -> list[str]:
    """The first names, of different classes where there are any."""
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(truths[name], name)
    taken = list(first.values())[:count]
    return (taken + [name for name in names if name not in taken])[:count]


def pictures_from_paths(paths: Sequence[Path], labels: Sequence[str]) -> tuple[ShownPicture, ...]:
    """The pictures that a person names; their folder or file name may say the true label.

    Raises:
        DataError: there is no such file.
    """
    return tuple(
        ShownPicture(one_picture(path, "vitrine explain"), true_label_from_name(str(path.absolute()), labels), "")
        for path in paths
    )


@dataclass(frozen=True)
class MapsMade:
    """A section of maps, how many there are, and (name, reason) of pictures that cannot be read."""

    section: Section
    shown: int
    unreadable: tuple[tuple[str, str], ...]


def maps_section(
    opened: Classifier,
    pictures: Sequence[ShownPicture],
    seed: int = 0,
    progress: Progress = no_progress,
) -> MapsMade:
    """Attention maps of pictures on one scale, each checked on its own picture."""
    explainer = Explainer(opened, Method())
    drawn: list[tuple[MapPicture, str, str]] = []
    unreadable = []
    for index, shown in enumerate(pictures):
        mapped = next(explainer.run([shown.sample], 1))
        if mapped.batch.unreadable:
            unreadable.append((shown.sample.name, mapped.batch.unreadable[0][1]))
            continue
        checked = check_maps(explainer, mapped, seed)
        picture = map_picture(explainer, mapped, 0, shown.sample, shown.true, checked)
        drawn.append((picture.with_smaller_photo(_SIDE), shown.why, checked.verdicts[0].flag))
        progress(index + 1, len(pictures))
    return MapsMade(Section("maps", "What it looks at", _maps(drawn)), len(drawn), tuple(unreadable))


def _maps(drawn: Sequence[tuple[MapPicture, str, str]]) -> tuple[Block, ...]:
    """(picture, why it is shown, flag of its verdict) as blocks."""
    if not drawn:
        return (Paragraph("No picture was there to be shown."),)
    scale = Scale("uniform", shared_scale([picture.map_RC for picture, *_ in drawn]))
    stems = [f"map-{i}-{plain_stem(Path(picture.name).stem)}" for i, (picture, *_) in enumerate(drawn, 1)]
    views = tuple(MapView(stem, each, scale, why) for stem, (each, why, _) in zip(stems, drawn, strict=True))
    method = drawn[0][0].method
    return (
        Paragraph(f"{method[0].upper()}{method[1:]}. All maps have one scale."),
        Findings((_verdicts([flag for *_, flag in drawn]),)),
        Gallery(views),
        Paragraph(
            "These pictures are no sample: they were chosen for what they are, and a check on one picture is weak. "
            "Whether maps of this model point at things in general is another measurement, on many pictures.",
            "note",
        ),
    )


def _verdicts(flags: Sequence[str]) -> Finding:
    good, bad, n = flags.count("believable"), flags.count("doubtful"), len(flags)
    flag = "doubtful" if bad else "believable" if good == n else "not checked"
    return Finding(flag, f"Of {n} map{'s' * (n != 1)}, {good} can be believed by these checks, and {bad} cannot.")


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
        fits = content[WEIGHTS_SHA256] == file_sha256(run / "model.safetensors")
        return scores_from_dict(content) if fits else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is not what vitrine explain --score writes ({error}). Remove it.") from error


def scores_from_dict(content: Mapping[str, Any]) -> RecordedScores:
    """What :meth:`vitrine.explain.score.MethodScores.to_dict` made.

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
            Details("The same as a table", (Sheet(table),)),
            *([Details("Verdicts on the other methods", (Findings(others),))] if others else []),
            *([Details("How they were scored", (Listing(scores.notes),))] if scores.notes else []),
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
