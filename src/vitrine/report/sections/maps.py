"""Sections on what the final model looks at: position embeddings, attention maps with verdicts, scored methods.

Axes: R grid rows, C grid columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrine.attribution.methods import Method
from vitrine.attribution.patch_hiding import count_hiding_tests
from vitrine.attribution.position_embeddings import position_embeddings
from vitrine.attribution.position_metrics import assess_positions
from vitrine.attribution.ranking import Estimate, PairedDifference, RankedMethod, Ranking, metric
from vitrine.classify.model import Classifier
from vitrine.data.image_folder import one_picture
from vitrine.data.samples import Sample
from vitrine.errors import ModelError, RunError
from vitrine.explain.explainer import Explainer
from vitrine.explain.figures.map import MapPicture
from vitrine.explain.figures.positions import number_rows, position_figure
from vitrine.explain.figures.ranking import methods_figure, methods_table
from vitrine.explain.run import true_label_from_name
from vitrine.io.files import file_sha256
from vitrine.io.untrusted_files import read_json
from vitrine.plotting.colormap import Scale, shared_scale
from vitrine.plotting.provenance import plain_stem
from vitrine.plotting.tables import Table
from vitrine.report.document import (
    Block,
    BulletList,
    Details,
    Finding,
    Findings,
    Gallery,
    MapView,
    Paragraph,
    Plot,
    Section,
    TableBlock,
)
from vitrine.results import Interval, Progress, Unreadable, agree, count_of, no_progress, shown_number
from vitrine.runs.data import find_validation_samples
from vitrine.runs.environment import WEIGHTS_SHA256
from vitrine.runs.record import RunRecord

SCORES = "methods/methods.json"
"""Where a report looks for scored methods: ``vitrine explain RUN --score DATA -o RUN/methods``."""

_PHOTO_SIDE = 480  # pixels of a photograph on the page
_MAX_METRICS = 4  # metrics in the ranking's figure and table
_METHODS_AT_FIRST = 5  # the best, beside the controls; all are in a table that opens


def build_positions_section(classifier: Classifier, name: str) -> Section:
    """The similarity of position embeddings as one figure, and its numbers beside those of controls."""
    try:
        table = position_embeddings(classifier.module)
    except ModelError as error:
        blocks: tuple[Block, ...] = (Paragraph(str(error).splitlines()[0]),)
        return Section("positions", "Position embeddings", blocks)
    findings = assess_positions(
        table.embeddings_RCD, is_fixed_sine=table.is_fixed_sine, notes=(*classifier.loaded_model.notes, *table.notes)
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
            TableBlock(
                numbers, "Untrained: random embeddings of this size. Fixed 2-D sine: embeddings that encode position."
            ),
            Plot("positions", figure, alt, lines=False),
            *(Paragraph(note, "note") for note in findings.notes),
        ),
    )


@dataclass(frozen=True)
class SelectedPicture:
    """A picture whose map a report shows.

    Attributes:
        sample: the picture.
        true: its true label; None if it is not known.
        why: why it was selected, in a few words; "" for a picture that a person named.
    """

    sample: Sample
    true: str | None
    why: str


def choose_pictures(record: RunRecord, data: str | None = None) -> tuple[SelectedPicture, ...]:
    """Choose up to six validation pictures: two on which the run was surest and right, two surest and wrong, and two on
    which it was least sure, of different classes if possible. Pictures that no longer exist are left out.

    Args:
        record: the run.
        data: reference of its data; None takes the one that it was trained on.

    Raises:
        DataError: there are no such data.
        RunError: predictions.csv has a probability that is no number.
    """
    probability = {name: each.score for name, each in record.predictions.items() if each.score is not None}
    names = sorted(probability, key=lambda name: (-probability[name], name))
    right = [name for name in names if record.is_correct(name)]
    wrong = [name for name in names if not record.is_correct(name)]
    reasons: dict[str, str] = dict.fromkeys(_prefer_different_labels(right, record.true_labels), "surest and right")
    reasons |= dict.fromkeys(_prefer_different_labels(wrong, record.true_labels), "surest and wrong")
    unsure = [name for name in reversed(names) if name not in reasons]
    reasons |= dict.fromkeys(_prefer_different_labels(unsure, record.true_labels), "least sure")
    samples = find_validation_samples(record, reasons, data)
    return tuple(SelectedPicture(sample, record.true_labels[name], reasons[name]) for name, sample in samples.items())


def _prefer_different_labels(names: Sequence[str], truths: Mapping[str, str], count: int = 2) -> list[str]:
    """The first ``count`` names, of different classes if possible."""
    by_label: dict[str, str] = {}
    for name in names:
        by_label.setdefault(truths[name], name)
    best = list(by_label.values())[:count]
    return (best + [name for name in names if name not in best])[:count]


def pictures_from_paths(paths: Sequence[Path], labels: Sequence[str]) -> tuple[SelectedPicture, ...]:
    """The pictures that a person named; their folder or file name may say the true label.

    Raises:
        DataError: there is no such file.
    """
    return tuple(
        SelectedPicture(one_picture(path, "vitrine explain"), true_label_from_name(str(path.absolute()), labels), "")
        for path in paths
    )


@dataclass(frozen=True)
class MapsSection:
    """A section of maps.

    Attributes:
        section: with the maps.
        count: number of maps in it.
        unreadable: pictures that cannot be read, which it lacks.
    """

    section: Section
    count: int
    unreadable: tuple[Unreadable, ...]


def build_maps_section(
    classifier: Classifier,
    pictures: Sequence[SelectedPicture],
    seed: int = 0,
    progress: Progress = no_progress,
) -> MapsSection:
    """Attention maps of pictures on one colour scale, each with the test whether the answer depends on it."""
    explainer = Explainer(classifier, Method())
    maps: list[tuple[MapPicture, str, str]] = []
    unreadable: list[Unreadable] = []
    for index, item in enumerate(pictures):
        batch = next(explainer.run([item.sample], 1, check=True, seed=seed))
        unreadable += batch.unreadable
        for explanation in batch.pictures:
            assert explanation.verdict is not None
            picture = MapPicture.of(explanation, item.true).with_smaller_photo(_PHOTO_SIDE)
            maps.append((picture, item.why, explanation.verdict.flag))
            progress(index + 1, len(pictures))
    return MapsSection(Section("maps", "What it looks at", _map_blocks(maps)), len(maps), tuple(unreadable))


def _map_blocks(maps: Sequence[tuple[MapPicture, str, str]]) -> tuple[Block, ...]:
    """The blocks of (picture with its map, why it is shown, flag of its verdict)."""
    if not maps:
        return (Paragraph("No picture was there to be shown."),)
    scale = Scale("uniform", shared_scale([picture.map_RC for picture, *_ in maps]))
    stems = [f"map-{i}-{plain_stem(Path(picture.name).stem)}" for i, (picture, *_) in enumerate(maps, 1)]
    views = tuple(MapView(stem, each, scale, why) for stem, (each, why, _) in zip(stems, maps, strict=True))
    method = maps[0][0].method
    return (
        Paragraph(f"{method[0].upper()}{method[1:]}. All maps have one scale."),
        Findings((Finding("", count_hiding_tests([flag for *_, flag in maps])),)),
        Gallery(views),
        Paragraph(
            f"{CAVEAT} The pictures are no sample: they were chosen for what they "
            "are. Whether maps of this model point at objects is another measurement, on many pictures.",
            "note",
        ),
    )


CAVEAT = (
    "Each test says whether the model's answer on that picture depends on the patches that the map marks, and not "
    "whether these patches lie on the object."
)
"""What the test of a map does not say; the explorer says it, too."""


@dataclass(frozen=True)
class RecordedScores:
    """Scores of explanation methods that ``vitrine explain --score`` recorded.

    Attributes:
        ranking: methods, then controls.
        verdicts: (flag, sentence) by method.
        data: reference of the data that they were scored on.
        masked: number of pictures with an object mask.
        notes: sentences on how they were scored.
    """

    ranking: Ranking
    verdicts: Mapping[str, tuple[str, str]]
    data: str
    masked: int
    notes: tuple[str, ...]


def read_scores(run: Path) -> RecordedScores | None:
    """The scores in RUN/methods; None if there are none, or they are of other weights than the run has now.

    Raises:
        RunError: the file exists and cannot be read.
    """
    path = run / SCORES
    if not path.is_file():
        return None
    try:
        content = read_json(path, dict[str, Any])
        fits = content[WEIGHTS_SHA256] == file_sha256(run / "model.safetensors")
        return scores_from_dict(content) if fits else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is not what vitrine explain --score writes ({error}). Remove it.") from error


def scores_from_dict(content: Mapping[str, Any]) -> RecordedScores:
    """Scores from the dictionary that :meth:`vitrine.explain.score.MethodScores.to_dict` returns.

    Raises:
        KeyError, TypeError, ValueError: the dictionary has another form.
    """
    rows = tuple(
        RankedMethod(
            each["name"],
            each["control"],
            each["seconds_a_picture"],
            {key: _estimate(estimate) for key, estimate in each["metrics"].items()},
            each["standing"],
            None if each["lead_of_best"] is None else _paired_difference(each["lead_of_best"]),
            each["p_of_lead"],
            each.get("bytes_a_picture"),
        )
        for each in content["methods"]
    )
    ranking = Ranking(metric(content["ranked_by"]), rows, content["pictures"])
    verdicts = {name: (verdict["flag"], verdict["sentence"]) for name, verdict in content["verdicts"].items()}
    return RecordedScores(ranking, verdicts, content["data"], content["pictures_with_mask"], tuple(content["notes"]))


def _paired_difference(content: Mapping[str, Any]) -> PairedDifference:
    return PairedDifference(_estimate(content), content["wins"], content["losses"], content["p"])


def _estimate(content: Mapping[str, Any]) -> Estimate:
    ends = content["interval_95"]
    return Estimate(content["mean"], None if ends is None else Interval(*ends), content["n"])


def build_methods_section(scores: RecordedScores) -> Section:
    """The ranking of methods as figure and table, with the best method's verdict; the others' are folded."""
    ranking = scores.ranking
    best = ranking.rows[0]
    metrics = ranking.metrics[:_MAX_METRICS]
    best_ranking = ranking.best(_METHODS_AT_FIRST)
    table = methods_table(best_ranking, metrics)
    is_shortened = len(best_ranking.rows) < len(ranking.rows)
    every_row = [Details("All methods", (TableBlock(methods_table(ranking, metrics)),))] if is_shortened else []
    alt = f"Methods ranked by {ranking.by.label}: " + "; ".join(
        f"{row.name} {shown_number(row.estimates[ranking.by.key].mean, 3)}"
        for row in best_ranking.rows
        if ranking.by.key in row.estimates
    )
    others = tuple(
        Finding(flag, f"{name}: {sentence}") for name, (flag, sentence) in scores.verdicts.items() if name != best.name
    )
    flag, sentence = scores.verdicts[best.name]
    return Section(
        "methods",
        "Which maps to trust",
        (
            Paragraph(_describe_best(scores)),
            Findings((Finding(flag, f"{best.name}: {sentence}"),)),
            Plot("methods", methods_figure(best_ranking, metrics=metrics), alt, _figure_caption(scores)),
            Details("The same as a table", (TableBlock(table),)),
            *every_row,
            *([Details("Verdicts on the other methods", (Findings(others),))] if others else []),
            *([Details("How they were scored", (BulletList(scores.notes),))] if scores.notes else []),
        ),
    )


def _describe_best(scores: RecordedScores) -> str:
    ranking = scores.ranking
    best, by = ranking.rows[0], ranking.by
    score = best.estimates[by.key]
    methods = [row for row in ranking.rows if not row.is_control]
    ties = [row.name for row in methods[1:] if row.standing == "ties"]
    ahead = [row.name for row in ranking.rows if row.is_control and row.standing == "above"]
    level = [row.name for row in ranking.rows if row.is_control and row.standing == "ties"]
    text = (
        f"Of {count_of(len(methods), 'method')} and layers, {best.name} has the best {by.label}, "
        f"{shown_number(score.mean, 3)} on "
        f"{count_of(score.n, 'picture')} of {scores.data}."
    )
    if ties:
        text += f" It cannot be told from {', '.join(ties)}."
    if ahead:
        text += f" Controls that know nothing of the model do better: {', '.join(ahead)}."
    if level:
        text += f" It cannot be told from controls that know nothing of the model: {', '.join(level)}."
    return text


def _figure_caption(scores: RecordedScores) -> str:
    masked = (
        f"{count_of(scores.masked, 'picture')} {agree(scores.masked, 'has', 'have')} masks. "
        if scores.masked
        else "There are no masks. "
    )
    return f"{masked}Controls, grey, know nothing of the model. 95 % intervals over pictures."
