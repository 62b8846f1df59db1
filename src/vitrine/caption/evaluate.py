"""``vitrine evaluate`` of a captioner: its captions scored, and whether its words look at what they name."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vitrine.attribution.grounding import ClusteredMean, GroundedCaption, Grounding, alignment_drop, grounding
from vitrine.caption.beam_search import beam_search
from vitrine.caption.decoding import DecodedCaption, DecodeStep, MapChoice, final_captions, greedy, teacher_forced
from vitrine.caption.figures.grounding import grounding_text, mean_text, save_grounding_figure
from vitrine.caption.inference import (
    CaptionedPicture,
    EncodedBatch,
    PredictedCaption,
    caption_batches,
    captions_csv,
    predicted_caption,
    score_captions,
)
from vitrine.caption.layer_grounding import FILE, CaptionMaps, LayerGrounding, ReadingTallies
from vitrine.caption.model import Captioner, open_captioner
from vitrine.caption.readings import READINGS, choose_reading, has_reading, neutral_maps, read_maps, require_reading
from vitrine.caption.word_maps import caption_words
from vitrine.classify.evaluate import EvaluationResult, choose_split, split_settings
from vitrine.data.captions.datasets import open_captions
from vitrine.data.captions.regions import NamedRegions, find_named_words, open_regions
from vitrine.data.samples import Sample
from vitrine.errors import DataError
from vitrine.io.files import write_atomically
from vitrine.io.output_lock import writes_folder
from vitrine.metrics.caption_text import CONSTANT_CAPTION_RULE
from vitrine.metrics.captions import METRICS, CaptionScores, Score, ScoredCaptions
from vitrine.models.captioner.model import EncoderOutput
from vitrine.plotting.tables import Cell, Table
from vitrine.results import (
    ONE_TRAINING,
    Interval,
    Progress,
    Unreadable,
    count_of,
    no_progress,
    none_readable,
    shown_number,
    unreadable_lines,
)
from vitrine.runs.leakage import EXACT_CAPTIONS
from vitrine.runs.record import is_correct
from vitrine.runs.training_pictures import copies_of_run

_WIDTH = 100  # characters of the sentences in a terminal
_LEAD_METRIC = "cider"  # the metric whose lead is put into words, where it was computed
_LONGEST_CAPTION = 160


def caption_table(scores: CaptionScores) -> str:
    """The figures for a terminal: what they are of, the table, and the sentences that belong to it.

    A row a metric, a column each for the predicted captions, the constant caption and, where there are any, people;
    95 % intervals in parentheses. Metrics that were not computed have no row.
    """
    lines = [line for sentence in _sentences(scores) for line in textwrap.wrap(sentence, _WIDTH)]
    return "\n\n".join([_heading(scores), _table(scores).text(), "\n".join(lines)])


def _heading(scores: CaptionScores) -> str:
    lengths = scores.human_lengths
    return (
        f"{count_of(scores.predicted.pictures, 'picture')}, {count_of(scores.human_captions, 'human caption')} "
        f"of {lengths.shortest} to {count_of(lengths.longest, 'word')} (mean {lengths.mean:.1f}), "
        f"{count_of(scores.human_words, 'distinct word')}"
    )


def _table(scores: CaptionScores) -> Table:
    columns = {"predicted": scores.predicted, "constant caption": scores.constant}
    if scores.human is not None:
        columns["human"] = scores.human
    sources = list(columns.values())
    rows: list[tuple[Cell, ...]] = [
        (label, *(_score(column.metrics[key]) for column in sources))
        for key, label in METRICS.items()
        if any(column.metrics[key] is not None for column in sources)
    ]
    rows += [(label, *(cell(column) for column in sources)) for label, cell in _ROWS.items()]
    # The constant caption repeats itself by design: nothing is said of it there.
    rows += [
        (label, *(None if column is scores.constant else cell(column) for column in sources))
        for label, cell in _VARIETY_ROWS.items()
    ]
    if len({column.pictures for column in sources}) > 1:
        rows.append(("pictures", *(f"{column.pictures:,}" for column in sources)))
    return Table(("", *columns), tuple(rows))


def _exact(column: ScoredCaptions) -> str:
    return f"{column.exact / column.pictures:.3f} {_ends(column.exact_interval)}"


def _lengths(column: ScoredCaptions) -> str:
    lengths = column.diversity.lengths
    return f"{lengths.mean:.1f} ({lengths.shortest} to {lengths.longest})"


_ROWS: dict[str, Callable[[ScoredCaptions], str]] = {
    "equals a human caption": _exact,
    "words, mean (least to most)": _lengths,
}
_VARIETY_ROWS: dict[str, Callable[[ScoredCaptions], str]] = {
    "distinct words": lambda column: f"{column.diversity.words:,}",
    "  never said by a human": lambda column: _share(column.diversity.novel_words, column.diversity.words),
    "distinct captions": lambda column: f"{column.diversity.distinct:,}",
    "caption also of another picture": lambda column: _share(column.diversity.duplicates, column.pictures),
    "a word twice in a row": lambda column: _share(column.diversity.repeated_words, column.pictures),
    "a pair of words twice": lambda column: _share(column.diversity.repeated_pairs, column.pictures),
    "no word at all": lambda column: _share(column.diversity.empty, column.pictures),
}


def _sentences(scores: CaptionScores) -> list[str]:
    diversity = scores.predicted.diversity
    source = "the captions given for it" if scores.constant_from == "given captions" else "these human captions"
    rule = CONSTANT_CAPTION_RULE.partition(";")[0]
    sentences = [_lead_sentence(scores.lead[_LEAD_METRIC])] if _LEAD_METRIC in scores.lead else []
    sentences.append(f"Constant caption: {_quote(scores.constant_caption)}; of {source} {rule}.")
    if diversity.commonest_count > 1:
        sentences.append(
            f"Commonest prediction: {_quote(diversity.commonest)}, for "
            f"{count_of(diversity.commonest_count, 'picture')}."
        )
    if diversity.novel_examples:
        sentences.append(f"Words never said by a human: {', '.join(diversity.novel_examples)}.")
    has_intervals = any(score is not None and score.interval for score in scores.predicted.metrics.values())
    if has_intervals:
        sentences.append("Intervals are 95 %, over pictures.")
    return [*sentences, *scores.notes]


def _lead_sentence(score: Score) -> str:
    label, size = METRICS[_LEAD_METRIC], f"{abs(score.value):.3f}"
    if score.interval is None:
        side = "above" if score.value > 0 else "below" if score.value < 0 else "equal to"
        return f"{label} is {side} the constant caption's{f' by {size}' if score.value else ''}; no interval."
    if score.interval.low > 0:
        return f"{label} is {size} {_ends(score.interval)} above the constant caption's."
    if score.interval.high < 0:
        below = Interval(-score.interval.high, -score.interval.low)
        return f"{label} is {size} {_ends(below)} BELOW the constant caption's: looking did not help."
    return (
        f"{label} cannot be told from the constant caption's: "
        f"the difference is {shown_number(score.value, 3)} {_ends(score.interval)}."
    )


def _score(score: Score | None) -> str | None:
    if score is None:
        return None
    return f"{score.value:.3f}" if score.interval is None else f"{score.value:.3f} {_ends(score.interval)}"


def _ends(interval: Interval) -> str:
    return f"({shown_number(interval.low, 3)} to {shown_number(interval.high, 3)})"


def _share(count: int, of: int) -> str:
    return f"{count / of:.3f} ({count:,})" if count else "0"


def _quote(caption: str) -> str:
    if not caption:
        return "no word at all"
    return f'"{caption if len(caption) <= _LONGEST_CAPTION else caption[: _LONGEST_CAPTION - 1] + "…"}"'


@dataclass(frozen=True, kw_only=True, repr=False)
class CaptionerEvaluation(EvaluationResult):
    """What ``vitrine evaluate`` found of a captioner.

    Attributes:
        precision: "fp32" or "bf16"; of a vision-language model "4bit", too.
        decoding: how captions were decoded, in words.
        scores: of the captions against the human ones.
        negative_log_likelihood: of the tokens of each picture's first human caption under teacher forcing, the end
            token included: mean over the tokens, in nats.
        tokens: how many those were.
        predicted_grounding: whether the words of predicted captions look at what they name; None where nothing is known
            of the things in the pictures.
        human_grounding: the same for each picture's first human caption.
        next_word_drop: by how much the pointing hit of nouns of human captions falls when each gets the map of the next
            word, which shows that maps and words are in step; None where it was not measured.
        captions: of the readable pictures.
        layer_grounding: the grounding of human captions by every decoder layer; None where it was not asked for.
    """

    precision: str
    decoding: str
    scores: CaptionScores
    negative_log_likelihood: float
    tokens: int
    predicted_grounding: Grounding | None
    human_grounding: Grounding | None
    next_word_drop: ClusteredMean | None
    captions: tuple[PredictedCaption, ...]
    layer_grounding: LayerGrounding | None = None

    @property
    def groundings(self) -> dict[str, Grounding]:
        """The grounding of predicted and of human captions, where it was measured."""
        groundings = {"predicted captions": self.predicted_grounding, "human captions": self.human_grounding}
        return {name: each for name, each in groundings.items() if each is not None}

    def table_rows(self) -> Sequence[Mapping[str, Any]]:
        """A row a picture: filename, caption, log-probability."""
        return [
            {"filename": each.name, "caption": each.caption, "log_probability": each.log_probability}
            for each in self.captions
        ]

    def _scores(self) -> Mapping[str, Any]:
        return {
            "precision": self.precision,
            "decoding": self.decoding,
            "captions": self.scores.to_dict(),
            "human_captions": {
                "negative_log_likelihood": round(self.negative_log_likelihood, 6),
                "pieces": self.tokens,
            },
            "grounding": {
                "predicted": self.predicted_grounding and self.predicted_grounding.to_dict(),
                "human": self.human_grounding and self.human_grounding.to_dict(),
                "drop_with_the_next_word": self.next_word_drop and self.next_word_drop.to_dict(),
            },
        }

    def table(self) -> str:
        """The same for a person."""
        lines = [f"{self.model} on {self.data}, {self.split} split, {self.decoding}, {self.precision}", ""]
        lines += [caption_table(self.scores), ""]
        lines.append(
            f"Loss on human captions: {self.negative_log_likelihood:.3f} a word piece, the mean of "
            f"\N{MINUS SIGN}log of "
            f"its probability (each picture's first caption, {count_of(self.tokens, 'piece')})."
        )
        if self.groundings:
            lines += ["", "Do words look at what they name?", grounding_text(self.groundings)]
            if self.next_word_drop is not None:
                drop = mean_text(self.next_word_drop)
                lines += ["", f"With the map of the next word, human captions' nouns hit less by {drop}."]
        else:
            lines.append("Grounding was not measured: these data do not say where things are.")
        if self.layer_grounding is not None:
            lines += ["", "Which maps look at what human captions name?", self.layer_grounding.table().text()]
            lines.append(self.layer_grounding.sentence)
        lines += [*self.leakage_lines(), "", ONE_TRAINING]
        return "\n".join(lines + unreadable_lines(self.unreadable))


@writes_folder("evaluate")
def evaluate_captioner(
    model: str | Captioner,
    data: str,
    *,
    out: Path | None = None,
    split: str | None = None,
    beams: int = 1,
    java: bool = False,
    batch_size: int = 16,
    precision: str = "auto",
    seed: int | None = None,
    architecture: str | None = None,
    vocabulary: Path | None = None,
    by_layer: bool = False,
    readings: Sequence[str] | None = None,
    progress: Progress = no_progress,
) -> CaptionerEvaluation:
    """Evaluate a captioner on one split of captioned pictures.

    Args:
        model: a captioner's reference (see ``vitrine.caption.model.open_captioner``).
        data: a reference to captioned pictures (see ``vitrine.data.captions.datasets.open_captions``).
        out: where metrics.json, captions.csv, grounding.png and layers.json go; None writes nothing.
        split: which split; by default test, else validation, else train.
        beams: of beam search; 1 is greedy.
        java: METEOR and SPICE too, which need Java.
        batch_size: pictures at a time; captions do not depend on it but for rounding.
        precision: fp32, bf16, or 4bit of a vision-language model; auto is fp32, or what an open captioner is in.
        seed: of the split made where the data have none; by default a run's own, else 0.
        architecture: ``catr`` where ``model`` is a weights file.
        vocabulary: of that file.
        by_layer: score the maps of every decoder layer on human captions, and say which points best.
        readings: the ways of reading maps that are scored so; None takes all that the captioner has whose cost is not
            that of running it for every cell.
        progress: called with pictures done, of how many.

    Raises:
        DataError, ModelError: the input cannot be used.
    """
    captioner = open_captioner(model, architecture, vocabulary, precision=precision)
    captioner, names = _prepare_readings(captioner, readings) if by_layer else (captioner, ())
    settings = split_settings(captioner.folder, seed)
    dataset = open_captions(data, seed=settings.seed, val_fraction=settings.val_fraction)
    name = choose_split(dataset, split)
    samples = tuple(dataset.splits[name])
    collector = _CaptionCollector(captioner, samples, open_regions(data, samples), batch_size, progress, names)
    if by_layer and collector.regions is None:
        raise DataError(
            f"{data} does not say where things are, so that no layer can be scored.\n"
            "Give scenes, or pictures in COCO's layout with instances_*.json."
        )
    collector.run(beams)
    copies = None if name == "train" else copies_of_run(captioner.folder, samples, progress)
    human_captions = {sample.name: tuple(sample.captions) for sample in samples}
    exact = {each.name: is_correct(each.caption, human_captions[each.name]) for each in collector.captions}
    result = CaptionerEvaluation(
        model=captioner.reference,
        data=data,
        split=name,
        precision=captioner.precision,
        decoding="greedy" if beams == 1 else f"{beams} beams",
        scores=score_captions(collector.captions, samples, java=java),
        negative_log_likelihood=-collector.log_probability / collector.tokens,
        tokens=collector.tokens,
        predicted_grounding=collector.grounding("predicted"),
        human_grounding=collector.grounding("human"),
        next_word_drop=alignment_drop(collector.grounded_captions["human"]),
        captions=tuple(collector.captions),
        layer_grounding=collector.tallies.scores(),
        unreadable=tuple(collector.unreadable),
        weights_sha256=captioner.weights.sha256,
        notes=(*captioner.notes, *dataset.notes),
        leakage=None if copies is None else copies.leakage(exact, split=name, measure=EXACT_CAPTIONS),
        copies=() if copies is None else copies.copies,
    )
    if out is not None:
        _write(out, result)
    return result


@dataclass
class _CaptionCollector:
    """One pass of a captioner over a split, and what it gathers picture by picture."""

    captioner: Captioner
    samples: Sequence[Sample]
    regions: NamedRegions | None
    batch_size: int
    progress: Progress
    readings: Sequence[str] = ()
    tallies: ReadingTallies = field(default_factory=ReadingTallies)
    captions: list[PredictedCaption] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)
    grounded_captions: dict[str, list[GroundedCaption]] = field(default_factory=lambda: {"predicted": [], "human": []})
    log_probability: float = 0.0
    tokens: int = 0

    def run(self, beams: int) -> None:
        """Every picture's caption and its first human one, of one encoding; and where the words of both look.

        Raises:
            DataError: none of the pictures can be read.
        """
        vocabulary, max_tokens = self.captioner.vocabulary, self.captioner.module.max_length - 2
        first_ids = {
            each.name: vocabulary.encode(each.captions[0])[:max_tokens] for each in self.samples if each.captions
        }
        human: dict[str, DecodedCaption] = {}
        maps: dict[str, list[CaptionMaps]] = {}

        def decode(module: Any, encoder_output: EncoderOutput, samples: Sequence[Sample]) -> Iterator[DecodeStep]:
            names = [sample.name for sample in samples]
            ids = [first_ids[name] for name in names]
            choice = MapChoice("all" if self.readings else -1)
            captions = final_captions(teacher_forced(module, encoder_output, ids, maps=choice))
            human.update(zip(names, captions, strict=True))
            return greedy(module, encoder_output) if beams == 1 else beam_search(module, encoder_output, beams)

        def read(batch: EncodedBatch, captions: Sequence[DecodedCaption]) -> Sequence[DecodedCaption]:
            names = [sample.name for sample in batch.samples]
            maps.update(zip(names, self._read(batch, [human[name] for name in names]), strict=True))
            return captions

        for part in caption_batches(
            self.captioner,
            self.samples,
            decode,
            read=read if self.readings else None,
            batch_size=self.batch_size,
            progress=self.progress,
        ):
            self.unreadable += part.unreadable
            for picture in part.pictures:
                self.captions.append(predicted_caption(picture, vocabulary))
                self._ground("predicted", picture)
                name = picture.sample.name
                self._score_human(replace(picture, caption=human.pop(name)), maps.pop(name, []))
        if not self.captions:
            raise none_readable(self.unreadable)

    def grounding(self, source: str) -> Grounding | None:
        """Of "predicted" or "human" captions; None where nothing is known of the things in the pictures."""
        captions = self.grounded_captions[source]
        return grounding(captions) if captions else None

    def _read(self, batch: EncodedBatch, captions: Sequence[DecodedCaption]) -> list[list[CaptionMaps]]:
        """The maps of every reading of a batch's human captions, picture by picture."""
        pictures: list[list[CaptionMaps]] = [[] for _ in captions]
        for reading in self.readings:
            with_maps = read_maps(reading, batch, captions, MapChoice("all"))
            baselines = (
                neutral_maps(batch, MapChoice("all")).numpy() if reading == "relative" else [None] * len(captions)
            )
            for picture, caption, baseline in zip(pictures, with_maps, baselines, strict=True):
                picture.append(CaptionMaps(reading, caption, baseline))
        return pictures

    def _score_human(self, picture: CaptionedPicture, maps: Sequence[CaptionMaps]) -> None:
        """A picture with its human caption, as the captioner scored it under teacher forcing, and its maps by the
        readings that are compared."""
        self.log_probability += picture.caption.log_probability
        self.tokens += len(picture.caption.ids) + picture.caption.has_end
        self._ground("human", picture, maps)

    def _ground(self, source: str, picture: CaptionedPicture, by_reading: Sequence[CaptionMaps] = ()) -> None:
        """Note where the words of a caption look, where it is known what is in the picture."""
        regions = self.regions.of(picture.sample.name) if self.regions is not None else None
        if regions is None or not picture.caption.ids:
            return
        words = caption_words(picture.caption, self.captioner.vocabulary, maps=MapChoice(-1))
        nouns = find_named_words([word.text for word in words], regions)
        masks = [(each.index, regions.mask(each.regions, picture.photo.size)) for each in nouns if each.regions]
        absent = sum(not each.regions for each in nouns)
        maps = [word.map_RC for word in words]
        caption = GroundedCaption(picture.sample.name, maps, picture.placement, masks, absent)
        self.grounded_captions[source].append(caption)
        self.tallies.add(caption, by_reading, self.captioner.vocabulary)


def _prepare_readings(captioner: Captioner, names: Sequence[str] | None) -> tuple[Captioner, tuple[str, ...]]:
    """The captioner with what the readings to compare need, and their names, in the order of their table.

    Raises:
        UsageError: there is no such reading, or the captioner does not have it.
    """
    for name in names or ():
        require_reading(captioner, choose_reading(name, relative=False))
    possible = [each for each in READINGS.values() if has_reading(captioner, each)]
    readings = tuple(each.name for each in possible if (each.has_layers if names is None else each.name in names))
    return (captioner.with_prompt(None, relative=True) if "relative" in readings else captioner), readings


def _write(out: Path, result: CaptionerEvaluation) -> None:
    metadata = result.write_metrics(out)
    write_atomically(out / "captions.csv", captions_csv(result.captions))
    if result.layer_grounding is not None:
        write_atomically(out / FILE, result.layer_grounding.to_json())
    if result.groundings:
        save_grounding_figure(result.groundings, out / "grounding.png", metadata)
