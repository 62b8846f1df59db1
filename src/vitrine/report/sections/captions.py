"""The section on a captioner: what its captions come to, and captions whose words show where they looked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vitrine.caption.inference import CaptionedPicture, caption_batches
from vitrine.caption.model import Captioner, open_captioner
from vitrine.caption.run import CaptionSettings, prepare_word_maps
from vitrine.data.captions.datasets import open_captions
from vitrine.data.image_folder import one_picture
from vitrine.data.samples import Sample
from vitrine.errors import DataError
from vitrine.plotting.tables import Cell, Table
from vitrine.report.document import (
    Block,
    CaptionView,
    Finding,
    Findings,
    Gallery,
    Number,
    Numbers,
    Paragraph,
    Section,
    Sheet,
)
from vitrine.report.sections.summary import read_test_metrics
from vitrine.results import CaptioningMetrics, Progress, no_progress
from vitrine.runs.data import content_sha256, resolve_data_reference
from vitrine.runs.record import RunRecord

_SIDE = 480  # pixels of a photograph on the page
_SURE, _UNSURE = 2, 2  # captions that are shown of each kind

_METRICS = {
    "bleu_1": "BLEU-1",
    "bleu_4": "BLEU-4",
    "rouge_l": "ROUGE-L",
    "cider": "CIDEr",
    "meteor": "METEOR",
    "spice": "SPICE",
}


def captioner_section(
    record: RunRecord,
    number: int,
    pictures: Sequence[Path] | None = (),
    progress: Progress = no_progress,
) -> Section:
    """A captioner's scores, whether its words look at what they name, and some of its captions.

    Args:
        record: the run.
        number: among the captioners of the report, from 1.
        pictures: to caption; without any, four of its validation pictures are shown; None shows no captions.
        progress: called with pictures done, of how many.

    Raises:
        RunError: its files cannot be read.
        DataError, ModelError: its pictures or weights cannot be used.
    """
    name, folder, metrics = record.name, record.folder.path, record.captioning_metrics
    tested = read_test_metrics(folder)
    split = "validation" if tested is None else "test"
    scores: Mapping[str, Any] = metrics.scores if tested is None else tested["captions"]
    opened = open_captioner(str(folder), precision=metrics.precision)
    shown: list[_Shown] = []
    if pictures is not None:
        given: list[_Shown] = [(one_picture(path, "vitrine caption"), (), "") for path in pictures]
        shown = given or _default(record, opened)
    views = tuple(_views(number, opened, shown, metrics.precision, progress))
    blocks: list[Block] = [
        Paragraph(f"{name} has these scores on {scores['predicted']['pictures']:,} {split} pictures."),
        Numbers(tuple(_numbers(metrics, scores, split))),
        Sheet(_score_table(scores), "One caption for all is what is reached without looking at the pictures."),
    ]
    blocks += _grounding(tested)
    if views:
        blocks += [
            Paragraph("Each word has a map of where the captioner looked when it said the word."),
            Gallery(views),
        ]
    return Section(f"captions-{number}", f"Captions by {name}", tuple(blocks))


def _numbers(metrics: CaptioningMetrics, scores: Mapping[str, Any], split: str) -> list[Number]:
    exact = scores["predicted"]["exact"]
    low, high = exact["interval_95"]
    n = scores["predicted"]["pictures"]
    return [
        Number(
            f"{exact['share']:.3f}",
            "captions word for word a person's",
            f"{exact['n']:,} of {n:,} {split} pictures, 95 % interval {low:.3f} to {high:.3f}",
            is_main=True,
        ),
        Number(
            f"{metrics.accuracy:.4f}",
            "word pieces right",
            f"after the human ones before them; {metrics.pieces:,} pieces, validation",
        ),
    ]


def _score_table(scores: Mapping[str, Any]) -> Table:
    columns = {"this captioner": scores["predicted"], "one caption for all": scores["constant_caption"]}
    if scores.get("human"):
        columns["people"] = scores["human"]
    rows: list[tuple[Cell, ...]] = [
        (label, *(_value(each["metrics"].get(key)) for each in columns.values()))
        for key, label in _METRICS.items()
        if scores["predicted"]["metrics"].get(key)
    ]
    rows.append(("word for word a person's", *(f"{each['exact']['share']:.3f}" for each in columns.values())))
    rows.append(("different captions", *(each["distinct_captions"] for each in columns.values())))
    return Table(("", *columns), tuple(rows))


def _value(score: Mapping[str, Any] | None) -> str | None:
    if score is None:
        return None
    ends = score.get("interval_95")
    return f"{score['value']:.3f}" + (f" ({ends[0]:.3f} to {ends[1]:.3f})" if ends else "")


_FLAGS = {"points": "supported", "worse": "not supported"}  # all else is not decided


def _grounding(tested: Mapping[str, Any] | None) -> list[Block]:
    """Whether words look at what they name, where that was measured."""
    found = (tested or {}).get("grounding") or {}
    items = [
        Finding(_FLAGS.get(each["flag"], "undecided"), f"Words of {whose} captions: {_lowered(each['sentence'])}")
        for key, whose in (("predicted", "its own"), ("human", "human"))
        if (each := found.get(key))
    ]
    return [Paragraph("Do words look at what they name?"), Findings(tuple(items))] if items else []


def _lowered(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]


_Shown = tuple[Sample, tuple[str, ...], str]


def _default(record: RunRecord, opened: Captioner) -> list[_Shown]:
    """Validation pictures with the captions that were surest, and those that were least sure, a word piece."""
    encode = opened.vocabulary.encode
    sure = {
        name: each.score / (len(encode(each.text)) + 1)
        for name, each in record.predictions.items()
        if each.score is not None
    }
    ranked = sorted(sure, key=lambda name: (-sure[name], name))
    why = dict.fromkeys(ranked[:_SURE], "surest of its words")
    why |= dict.fromkeys([name for name in ranked[-_UNSURE:] if name not in why], "least sure of its words")
    recipe = record.recipe
    place = resolve_data_reference(record.folder, str(record.data["reference"]))
    found = open_captions(place, seed=recipe.seed, val_fraction=recipe.val_fraction)
    there = {each.name: each for each in found.splits["validation"]} if "validation" in found.splits else {}
    same = [name for name in why if name in there and (name, content_sha256(there[name])) in record.pictures]
    if not same:
        raise DataError(f"none of them is in {record.data['reference']} as it was")
    return [(there[name], tuple(there[name].captions[:1]), why[name]) for name in same]


def _views(
    number: int, opened: Captioner, shown: Sequence[_Shown], precision: str, progress: Progress
) -> list[CaptionView]:
    settings = CaptionSettings(precision=precision)
    pictures: list[CaptionedPicture] = []
    for part in caption_batches(opened, [sample for sample, _, _ in shown], settings.decode, precision=precision):
        for name, reason in part.unreadable:
            raise DataError(f"{name} cannot be captioned: {reason}")
        pictures += part.pictures
    views = []
    for index, (each, (_, true, why)) in enumerate(zip(pictures, shown, strict=True), 1):
        worded = prepare_word_maps(each, opened, settings)
        picture = replace(worded.picture, true=true).with_smaller_photo(_SIDE)
        views.append(CaptionView(f"caption-{number}-{index}", picture, worded.scale, why))
        progress(index, len(shown))
    return views
