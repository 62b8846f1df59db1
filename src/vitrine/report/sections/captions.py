"""The section on a captioner: its scores, and captions whose words have maps of where the captioner looked."""

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
    TableBlock,
)
from vitrine.report.sections.summary import LEAK, read_test_metrics
from vitrine.results import OVER_PICTURES, CaptioningMetrics, Progress, count_of, no_progress
from vitrine.runs.data import content_sha256, resolve_data_reference
from vitrine.runs.leakage import LEAKAGE, Leakage
from vitrine.runs.record import RunRecord

_PHOTO_SIDE = 480  # pixels of a photograph on the page
_SURE, _UNSURE = 2, 2  # captions of each kind

_METRICS = {
    "bleu_1": "BLEU-1",
    "bleu_4": "BLEU-4",
    "rouge_l": "ROUGE-L",
    "cider": "CIDEr",
    "meteor": "METEOR",
    "spice": "SPICE",
}


def build_captioner_section(
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
    test_content = read_test_metrics(folder)
    split = "validation" if test_content is None else "test"
    scores: Mapping[str, Any] = metrics.scores if test_content is None else test_content["captions"]
    captioner = open_captioner(str(folder), precision=metrics.precision)
    requests: list[_CaptionRequest] = []
    if pictures is not None:
        requests = [(one_picture(path, "vitrine caption"), (), "") for path in pictures]
        requests = requests or _choose_pictures(record, captioner)
    views = tuple(_views(number, captioner, requests, metrics.precision, progress))
    blocks: list[Block] = [
        Paragraph(f"{name} has these scores on {scores['predicted']['pictures']:,} {split} pictures."),
        Numbers(tuple(_numbers(metrics, scores, split))),
        *_leakage_findings(record, test_content),
        Paragraph("Intervals are over pictures: another seed moves these scores too, by an amount not known here."),
        TableBlock(_score_table(scores), "One caption for all is what is reached without looking at the pictures."),
    ]
    blocks += _grounding(test_content)
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
            f"{exact['n']:,} of {n:,} {split} pictures, {OVER_PICTURES} {low:.3f} to {high:.3f}",
            is_main=True,
        ),
        Number(
            f"{metrics.accuracy:.4f}",
            "word pieces right",
            f"after the human ones before them; {count_of(metrics.pieces, 'piece')}, validation",
        ),
    ]


def _leakage_findings(record: RunRecord, test_content: Mapping[str, Any] | None) -> list[Block]:
    """What the captions come to without pictures that also stand in training."""
    of_test = (test_content or {}).get(LEAKAGE)
    leakages = [Leakage.from_dict(of_test) if of_test else None, record.leakage]
    findings = [Finding(LEAK, sentence) for each in leakages if each for sentence in each.sentences()]
    return [Findings(tuple(findings))] if findings else []


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


def _grounding(test_content: Mapping[str, Any] | None) -> list[Block]:
    """Whether words look at what they name, if that was measured."""
    grounding = (test_content or {}).get("grounding") or {}
    items = [
        Finding(
            _FLAGS.get(each["flag"], "undecided"), f"Words of {whose} captions: {_lowercase_first(each['sentence'])}"
        )
        for key, whose in (("predicted", "its own"), ("human", "human"))
        if (each := grounding.get(key))
    ]
    return [Paragraph("Do words look at what they name?"), Findings(tuple(items))] if items else []


def _lowercase_first(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]


_CaptionRequest = tuple[Sample, tuple[str, ...], str]
"""A picture to caption, its human captions, and why it is shown."""


def _choose_pictures(record: RunRecord, captioner: Captioner) -> list[_CaptionRequest]:
    """Validation pictures whose captions have the highest and the lowest log-probability a token."""
    encode = captioner.vocabulary.encode
    mean_log_probability = {
        name: each.score / (len(encode(each.text)) + 1)
        for name, each in record.predictions.items()
        if each.score is not None
    }
    names = sorted(mean_log_probability, key=lambda name: (-mean_log_probability[name], name))
    why = dict.fromkeys(names[:_SURE], "surest of its words")
    why |= dict.fromkeys([name for name in names[-_UNSURE:] if name not in why], "least sure of its words")
    recipe = record.recipe
    reference = resolve_data_reference(record.folder, str(record.data["reference"]))
    data = open_captions(reference, seed=recipe.seed, val_fraction=recipe.val_fraction)
    samples = {each.name: each for each in data.splits["validation"]} if "validation" in data.splits else {}
    present_names = [
        name for name in why if name in samples and (name, content_sha256(samples[name])) in record.pictures
    ]
    if not present_names:
        raise DataError(f"none of them is in {record.data['reference']} as it was")
    return [(samples[name], tuple(samples[name].captions[:1]), why[name]) for name in present_names]


def _views(
    number: int, captioner: Captioner, requests: Sequence[_CaptionRequest], precision: str, progress: Progress
) -> list[CaptionView]:
    settings = CaptionSettings(precision=precision)
    pictures: list[CaptionedPicture] = []
    for part in caption_batches(captioner, [sample for sample, _, _ in requests], settings.decode):
        for name, reason in part.unreadable:
            raise DataError(f"{name} cannot be captioned: {reason}")
        pictures += part.pictures
    views = []
    for index, (caption, (_, true, why)) in enumerate(zip(pictures, requests, strict=True), 1):
        word_maps = prepare_word_maps(caption, captioner, settings)
        picture = replace(word_maps.picture, true=true).with_smaller_photo(_PHOTO_SIDE)
        views.append(CaptionView(f"caption-{number}-{index}", picture, word_maps.scale, why))
        progress(index, len(requests))
    return views
