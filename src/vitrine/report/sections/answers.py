"""The section on a model that captioned or answered: what was asked, its answers with a map for every word, and whether
its words look at what they name. All of it is read from figures and scores; the model is not run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitrine.caption.figures.figure_file import CaptionFigure, read_caption_figure
from vitrine.errors import DataError
from vitrine.plotting.style import shorten
from vitrine.plotting.tables import Table
from vitrine.report.document import (
    Block,
    CaptionView,
    Commands,
    Details,
    Finding,
    Findings,
    Gallery,
    Paragraph,
    Section,
    TableBlock,
)
from vitrine.report.sections.layers import LayerScores
from vitrine.report.sources import Sources
from vitrine.results import agree, count_of

_SURE, _UNSURE = 2, 2  # answers of each kind that are shown of one folder
_MOST_ROWS = 200  # of the table of all answers
_MOST_LETTERS = 300  # of an answer in it


@dataclass(frozen=True, eq=False)
class ShownFigure:
    """A figure of an answer.

    Attributes:
        figure: with its words.
        why: why it is shown; None where it is in the table alone.
    """

    figure: CaptionFigure
    why: str | None


@dataclass
class AnsweringModel:
    """What a report has of one model that captioned or answered.

    Attributes:
        name: its reference, as the first of its figures or scores has it.
        weights_sha256: of its weights; "" where that is not known.
        figures: of its answers.
        scores: of its layers.
    """

    name: str
    weights_sha256: str
    figures: list[ShownFigure] = field(default_factory=list)
    scores: list[LayerScores] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: the answers without their maps, and which layers to use."""
        answers = [
            {
                "figure": str(each.figure.path),
                "picture": each.figure.provenance.get("picture"),
                "question": each.figure.picture.question,
                "answer": each.figure.picture.caption,
                "log_probability": each.figure.picture.log_probability,
            }
            for each in self.figures
        ]
        layers = [each.to_dict() for each in self.scores]
        return {"model": self.name, "weights_sha256": self.weights_sha256, "answers": answers, "layers": layers}


def read_answers(sources: Sources) -> tuple[list[AnsweringModel], list[str]]:
    """What figures and scores say, model by model, and sentences on figures of folders that cannot be read.

    Raises:
        DataError: a figure that was named by itself cannot be read, or no figure of a folder can.
        RunError: the scores of a folder cannot be read.
    """
    models: dict[str, AnsweringModel] = {}
    missing: list[str] = []
    for path in sources.figures:
        _add(models, [ShownFigure(read_caption_figure(path), "named for this report")])
    for folder, paths in sources.folders:
        figures, errors = _read_all(paths)
        if not figures:
            raise DataError(f"{folder} has no figure that can be read: {errors[0]}")
        missing += [f"An answer: {' '.join(str(error).split())}" for error in errors]
        _add(models, _choose(figures))
    for folder in sources.scores:
        scores = LayerScores.read(folder)
        _model_of(models, scores.model, scores.weights_sha256).scores.append(scores)
    return list(models.values()), missing


def _read_all(paths: Sequence[Path]) -> tuple[list[CaptionFigure], list[DataError]]:
    figures: list[CaptionFigure] = []
    errors: list[DataError] = []
    for path in paths:
        try:
            figures.append(read_caption_figure(path))
        except DataError as error:
            errors.append(error)
    return figures, errors


def _add(models: dict[str, AnsweringModel], figures: Sequence[ShownFigure]) -> None:
    for each in figures:
        provenance = each.figure.provenance
        _model_of(models, provenance.get("model", ""), provenance.get("weights-sha256", "")).figures.append(each)


def _model_of(models: dict[str, AnsweringModel], name: str, weights_sha256: str) -> AnsweringModel:
    return models.setdefault(weights_sha256 or name, AnsweringModel(name, weights_sha256))


def _choose(figures: Sequence[CaptionFigure]) -> list[ShownFigure]:
    """Of a folder's answers those with the highest and the lowest log-probability a word are shown; of few, all."""
    if len(figures) <= _SURE + _UNSURE:
        return [ShownFigure(each, "") for each in figures]
    by_mean = sorted(range(len(figures)), key=lambda index: (-_mean_log_probability(figures[index]), index))
    why = dict.fromkeys(by_mean[:_SURE], "surest of its words")
    why |= dict.fromkeys(by_mean[-_UNSURE:], "least sure of its words")
    return [ShownFigure(each, why.get(index)) for index, each in enumerate(figures)]


def _mean_log_probability(figure: CaptionFigure) -> float:
    return (figure.picture.log_probability or 0.0) / max(1, len(figure.picture.words))


def build_answers_section(model: AnsweringModel, number: int) -> Section:
    """What a model answered, where its words looked, and which of its layers look at what words name.

    Args:
        model: with figures or scores.
        number: among the models of the report that answered, from 1.
    """
    blocks: list[Block] = []
    if model.figures:
        blocks += _answer_blocks(model, number)
    if model.scores:
        blocks.append(Paragraph("Which maps look at what words name?"))
        for scores in model.scores:
            blocks += scores.blocks([each.figure.provenance for each in model.figures])
    return Section(f"answers-{number}", f"Answers of {shorten(model.name, 60)}", tuple(blocks))


def _answer_blocks(model: AnsweringModel, number: int) -> list[Block]:
    figures = [each.figure for each in model.figures]
    figures_with_reasons = [(each.figure, each.why) for each in model.figures if each.why is not None]
    views = tuple(
        CaptionView(f"answer-{number}-{index}", figure.picture, figure.scale, why)
        for index, (figure, why) in enumerate(figures_with_reasons, 1)
    )
    verb = "answered" if any(each.picture.question for each in figures) else "captioned"
    part = f", of which {count_of(len(views), 'answer')} {agree(len(views), 'is', 'are')} shown"
    part = "" if len(views) == len(figures) else part
    return [
        Paragraph(f"{model.name} {verb} {count_of(len(figures), 'picture')}{part}."),
        TableBlock(_calls_table(figures)),
        Findings((Finding("", _looked_sentence(figures)),)),
        Paragraph(
            "Each word has a map of where the model looked when it said the word; a grey word looked nowhere in "
            "particular."
        ),
        Gallery(views),
        Details(f"All {count_of(len(figures), 'answer')}", (TableBlock(_answers_table(figures), _cut_note(figures)),)),
    ]


def _calls_table(figures: Sequence[CaptionFigure]) -> Table:
    """A row for each question with each kind of maps."""
    calls: dict[tuple[str, str, str], list[CaptionFigure]] = {}
    for each in figures:
        key = each.picture.question, each.picture.method, each.provenance.get("precision", "")
        calls.setdefault(key, []).append(each)
    rows = tuple(
        (question or "–", len(some), sum(len(each.picture.words) for each in some), _looked(some), precision, method)
        for (question, method, precision), some in calls.items()
    )
    return Table(("asked", "pictures", "words", "looked somewhere", "computed in", "maps"), rows)


def _looked(figures: Sequence[CaptionFigure]) -> int:
    return sum(not word.grey for each in figures for word in each.picture.words)


def _looked_sentence(figures: Sequence[CaptionFigure]) -> str:
    total, looked = sum(len(each.picture.words) for each in figures), _looked(figures)
    return (
        f"{looked:,} of {count_of(total, 'word')} looked somewhere in particular: the maps of the others are spread "
        "evenly, or are those of the other words of their answer. That a word looked somewhere does not say that it "
        "looked at what it names."
    )


def _answers_table(figures: Sequence[CaptionFigure]) -> Table:
    rows = tuple(
        (
            each.provenance.get("picture") or each.picture.name,
            each.picture.question or "–",
            shorten(each.picture.caption, _MOST_LETTERS) or "(no words)",
            None if each.picture.log_probability is None else f"{each.picture.log_probability:z.2f}",
        )
        for each in figures[:_MOST_ROWS]
    )
    return Table(("picture", "asked", "answer", "log-probability"), rows)


def _cut_note(figures: Sequence[CaptionFigure]) -> str:
    return f"The first {_MOST_ROWS} of {len(figures):,}" if len(figures) > _MOST_ROWS else ""


def answer_limits(models: Sequence[AnsweringModel]) -> list[str]:
    """Sentences on what the report does not know of models that answered."""
    limits = []
    for model in models:
        if not model.scores:
            how = shlex.join(["vitrine", "evaluate", model.name, "DATA", "--grounding", "-o", "DIR"])
            limits.append(
                f"Whether words of {model.name} look at what they name: {how}, and DIR given to this report, say so."
            )
        if model.figures:
            limits.append(
                f"Whether {model.name} gives the same answers again: they are shown as their figures have them."
            )
    return limits


def answer_origins(models: Sequence[AnsweringModel]) -> list[Block]:
    """Which weights answered, and the commands that draw the figures shown again."""
    rows = tuple((each.name, each.weights_sha256 or "–", _versions(each)) for each in models)
    commands = tuple(
        dict.fromkeys(
            command
            for model in models
            for each in model.figures
            if each.why is not None and (command := _command(each.figure.provenance))
        )
    )
    table = TableBlock(Table(("model", "sha256 of the weights", "figures drawn by"), rows), "Models that answered")
    if not commands:
        return [table]
    return [
        table,
        Paragraph("The figures of answers shown here say that they were drawn by:", "note"),
        Commands(commands),
    ]


def _versions(model: AnsweringModel) -> str:
    versions = dict.fromkeys(each.figure.provenance.get("version", "?") for each in model.figures)
    return f"vitrine {', '.join(versions)}" if versions else "–"


def _command(provenance: Mapping[str, str]) -> str:
    """A figure's command, quoted anew: a hostile file may state any."""
    try:
        words = shlex.split(provenance.get("command", ""))
    except ValueError:
        return ""
    return shlex.join(words) if words[:1] == ["vitrine"] else ""
