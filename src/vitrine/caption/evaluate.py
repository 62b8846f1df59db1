"""``vitrine evaluate`` of a captioner: its captions scored, and whether its words look at what they name."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vitrine.attribution.grounding import ClusteredMean, GroundedCaption, Grounding, alignment_drop, grounding
from vitrine.caption.beam_search import beam_search
from vitrine.caption.decoding import DecodedCaption, DecodeStep, final_captions, greedy, teacher_forced
from vitrine.caption.figures.grounding import grounding_text, mean_text, save_grounding_figure
from vitrine.caption.inference import (
    CaptionedPicture,
    PredictedCaption,
    caption_batches,
    captions_csv,
    predicted_caption,
    score_captions,
)
from vitrine.caption.model import Captioner, open_captioner
from vitrine.caption.word_maps import caption_words
from vitrine.classify.evaluate import choose_split, split_of_run
from vitrine.data.captions.datasets import open_captions
from vitrine.data.captions.regions import NamedRegions, find_named_words, open_regions
from vitrine.data.samples import Sample
from vitrine.io.files import to_json, write_atomically
from vitrine.metrics.caption_text import CONSTANT_CAPTION_RULE
from vitrine.metrics.captions import METRICS, CaptionScores, Score, ScoredCaptions
from vitrine.models.captioner.model import EncoderOutput
from vitrine.plotting.tables import Cell, Table
from vitrine.results import (
    Interval,
    Progress,
    Unreadable,
    no_progress,
    none_readable,
    shown_number,
    unreadable_lines,
    unreadable_to_json,
)
from vitrine.runs.environment import WEIGHTS_SHA256

_WIDTH = 100  # characters of the sentences in a terminal
_FIRST = "cider"  # the metric whose lead is put into words, where it was computed
_LONGEST_CAPTION = 160


def caption_table(scores: CaptionScores) -> str:
    """The figures for a terminal: what they are of, the table, and the sentences that belong to it.

    A row a metric, a column each for the predicted captions, the constant caption and, where there are any, people;
    95 % intervals in parentheses. Metrics that were not computed have no row.
    """
    said = [line for sentence in _sentences(scores) for line in textwrap.wrap(sentence, _WIDTH)]
    return "\n\n".join([_heading(scores), _table(scores).text(), "\n".join(said)])


def caption_markdown(scores: CaptionScores) -> str:
    """The same for a README: a pipe table between the heading and a list of the sentences."""
    listed = "\n".join(f"- {sentence}" for sentence in _sentences(scores))
    return "\n\n".join([_heading(scores), _table(scores).markdown(), listed])


def _heading(scores: CaptionScores) -> str:
    lengths = scores.human_lengths
    return (
        f"{_count(scores.predicted.pictures, 'picture')}, {_count(scores.human_captions, 'human caption')} "
        f"of {lengths.shortest} to {lengths.longest} words (mean {lengths.mean:.1f}), "
        f"{scores.human_words:,} distinct words"
    )


def _table(scores: CaptionScores) -> Table:
    columns = {"predicted": scores.predicted, "constant caption": scores.constant}
    if scores.human is not None:
        columns["human"] = scores.human
    shown = list(columns.values())
    rows: list[tuple[Cell, ...]] = [
        (label, *(_score(column.metrics[key]) for column in shown))
        for key, label in METRICS.items()
        if any(column.metrics[key] is not None for column in shown)
    ]
    rows += [(label, *(cell(column) for column in shown)) for label, cell in _ROWS.items()]
    # The constant caption repeats itself by design: nothing is said of it there.
    rows += [
        (label, *(None if column is scores.constant else cell(column) for column in shown))
        for label, cell in _VARIETY_ROWS.items()
    ]
    if len({column.pictures for column in shown}) > 1:
        rows.append(("pictures", *(f"{column.pictures:,}" for column in shown)))
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
    predicted = scores.predicted.diversity
    source = "the captions given for it" if scores.constant_from == "given captions" else "these human captions"
    rule = CONSTANT_CAPTION_RULE.partition(";")[0]
    sentences = [_lead(scores.lead[_FIRST])] if _FIRST in scores.lead else []
    sentences.append(f"Constant caption: {_quoted(scores.constant_caption)}; of {source} {rule}.")
    if predicted.commonest_count > 1:
        sentences.append(
            f"Commonest prediction: {_quoted(predicted.commonest)}, for {predicted.commonest_count:,} pictures."
        )
    if predicted.novel_examples:
        sentences.append(f"Words never said by a human: {', '.join(predicted.novel_examples)}.")
    has_intervals = any(score is not None and score.interval for score in scores.predicted.metrics.values())
    if has_intervals:
        sentences.append(
            f"Intervals are 95 %, over pictures: {scores.resamples:,} resamples, seed {scores.seed}; Wilson for shares."
        )
    return [*sentences, *scores.notes]


def _lead(score: Score) -> str:
    label, size = METRICS[_FIRST], f"{abs(score.value):.3f}"
    if score.interval is None:
        side = "above" if score.value > 0 else "below" if score.value < 0 else "equal to"
        return f"{label} is {side} the constant caption's{f' by {size}' if score.value else ''}; no interval."
    if score.interval.low > 0:
        return f"{label} is {size} {_ends(score.interval)} above the constant caption's."
    if score.interval.high < 0:
        mirrored = Interval(-score.interval.high, -score.interval.low)
        return f"{label} is {size} {_ends(mirrored)} BELOW the constant caption's: looking did not help."
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


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _quoted(caption: str) -> str:
    if not caption:
        return "no word at all"
    return f'"{caption if len(caption) <= _LONGEST_CAPTION else caption[: _LONGEST_CAPTION - 1] + "…"}"'


@dataclass(frozen=True)
class CaptionEvaluation:
    """What ``vitrine evaluate`` found of a captioner.

    Attributes:
        model, data, split: what was evaluated.
        precision: "fp32" or "bf16".
        decoding: how captions were decoded, in words.
        scores: of the captions against the human ones.
        negative_log_likelihood: of the word pieces of each picture's first human caption, its end included, each after
            those before it: mean over the pieces, in nats.
        pieces: how many those were.
        predicted: whether the words of predicted captions look at what they name; None where nothing is known of the
            things in the pictures.
        human: the same for each picture's first human caption.
        drop: by how much the pointing hit of nouns of human captions falls when each gets the map of the next word,
            which shows that maps and words are in step; None where it was not measured.
        captions: of the readable pictures.
        unreadable: (name, reason) of pictures that count in no figure.
        weights_sha256: of the captioner.
        notes: sentences on files and decisions.
    """

    model: str
    data: str
    split: str
    precision: str
    decoding: str
    scores: CaptionScores
    negative_log_likelihood: float
    pieces: int
    predicted: Grounding | None
    human: Grounding | None
    drop: ClusteredMean | None
    captions: tuple[PredictedCaption, ...]
    unreadable: tuple[Unreadable, ...]
    weights_sha256: str
    notes: tuple[str, ...]

    @property
    def grounded(self) -> dict[str, Grounding]:
        """What was found of predicted and of human captions, where it was measured."""
        both = {"predicted captions": self.predicted, "human captions": self.human}
        return {name: found for name, found in both.items() if found is not None}

    @property
    def met(self) -> None:
        """Nothing is expected of a captioner."""
        return

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; the same evaluation gives the same bytes."""
        return {
            "model": self.model,
            "data": self.data,
            "split": self.split,
            WEIGHTS_SHA256: self.weights_sha256,
            "precision": self.precision,
            "decoding": self.decoding,
            "captions": self.scores.to_dict(),
            "human_captions": {
                "negative_log_likelihood": round(self.negative_log_likelihood, 6),
                "pieces": self.pieces,
            },
            "grounding": {
                "predicted": self.predicted and self.predicted.to_dict(),
                "human": self.human and self.human.to_dict(),
                "drop_with_the_next_word": self.drop and self.drop.to_dict(),
            },
            "unreadable": unreadable_to_json(self.unreadable),
        }

    def table(self) -> str:
        """The same for a person."""
        lines = [f"{self.model} on {self.data}, {self.split} split, {self.decoding}, {self.precision}", ""]
        lines += [caption_table(self.scores), ""]
        lines.append(
            f"Human captions: {self.negative_log_likelihood:.3f} nats a word piece (each picture's first caption, "
            f"{self.pieces:,} pieces)."
        )
        if self.grounded:
            lines += ["", "Do words look at what they name?", grounding_text(self.grounded)]
            if self.drop is not None:
                lines += [
                    "",
                    f"With the map of the next word, human captions' nouns hit less by {mean_text(self.drop)}.",
                ]
        else:
            lines.append("Grounding was not measured: these data do not say where things are.")
        return "\n".join(lines + unreadable_lines(self.unreadable))


def evaluate_captioner(
    model: str,
    data: str,
    *,
    out: Path | None = None,
    split: str | None = None,
    beams: int = 1,
    java: bool = False,
    batch_size: int = 16,
    precision: str = "fp32",
    seed: int | None = None,
    architecture: str | None = None,
    vocabulary: Path | None = None,
    progress: Progress = no_progress,
) -> CaptionEvaluation:
    """Evaluate a captioner on one split of captioned pictures.

    Args:
        model: a captioner's reference (see ``vitrine.caption.model.open_captioner``).
        data: a reference to captioned pictures (see ``vitrine.data.captions.datasets.open_captions``).
        out: where metrics.json, captions.csv and grounding.png go; None writes nothing.
        split: which split; by default test, else validation, else train.
        beams: of beam search; 1 is greedy.
        java: METEOR and SPICE too, which need Java.
        batch_size: pictures at a time; captions do not depend on it but for rounding.
        precision: fp32 or bf16.
        seed: of the split made where the data have none, and of the bootstrap; by default a run's own, else 0.
        architecture: ``catr`` where ``model`` is a weights file.
        vocabulary: of that file.
        progress: called with pictures done, of how many.

    Raises:
        DataError, ModelError: the input cannot be used.
    """
    opened = open_captioner(model, architecture, vocabulary, precision=precision)
    own_seed, fraction = split_of_run(opened.folder)
    seed = own_seed if seed is None else seed
    found = open_captions(data, seed=seed, val_fraction=fraction)
    name = choose_split(found, split)
    samples = tuple(found.splits[name])
    session = _Session(opened, samples, open_regions(data, samples), batch_size, precision, progress)
    session.run(beams)
    if not session.captions:
        raise none_readable(session.unreadable)
    result = CaptionEvaluation(
        model=model,
        data=data,
        split=name,
        precision=precision,
        decoding="greedy" if beams == 1 else f"{beams} beams",
        scores=score_captions(session.captions, samples, java=java, seed=seed),
        negative_log_likelihood=-session.log_probability / session.pieces,
        pieces=session.pieces,
        predicted=grounding(session.grounded["predicted"], seed=seed) if session.grounded["predicted"] else None,
        human=grounding(session.grounded["human"], seed=seed) if session.grounded["human"] else None,
        drop=alignment_drop(session.grounded["human"], seed=seed),
        captions=tuple(session.captions),
        unreadable=tuple(session.unreadable),
        weights_sha256=opened.weights.sha256,
        notes=(*opened.notes, *found.notes),
    )
    if out is not None:
        _write(out, result)
    return result


@dataclass
class _Session:
    """What is gathered picture by picture."""

    opened: Captioner
    samples: Sequence[Sample]
    regions: NamedRegions | None
    batch_size: int
    precision: str
    progress: Progress
    captions: list[PredictedCaption] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)
    grounded: dict[str, list[GroundedCaption]] = field(default_factory=lambda: {"predicted": [], "human": []})
    log_probability: float = 0.0
    pieces: int = 0

    def run(self, beams: int) -> None:
        """Every picture's caption and its first human one, of one encoding; and where the words of both look."""
        opened, words, longest = self.opened, self.opened.vocabulary, self.opened.module.max_length - 2
        first = {each.name: words.encode(each.captions[0])[:longest] for each in self.samples if each.captions}
        human: dict[str, DecodedCaption] = {}

        def decode(module: Any, encoder_output: EncoderOutput, samples: Sequence[Sample]) -> Iterator[DecodeStep]:
            names = [sample.name for sample in samples]
            captions = final_captions(teacher_forced(module, encoder_output, [first[name] for name in names]))
            human.update(zip(names, captions, strict=True))
            return greedy(module, encoder_output) if beams == 1 else beam_search(module, encoder_output, beams)

        for part in caption_batches(
            opened,
            self.samples,
            decode,
            precision=self.precision,
            batch_size=self.batch_size,
            progress=self.progress,
        ):
            self.unreadable += part.unreadable
            for picture in part.pictures:
                self.captions.append(predicted_caption(picture, words))
                self._ground("predicted", picture)
                self._follow(replace(picture, caption=human.pop(picture.sample.name)))

    def _follow(self, human: CaptionedPicture) -> None:
        """A human caption that the captioner was made to follow."""
        self.log_probability += human.caption.log_probability
        self.pieces += len(human.caption.ids) + human.caption.has_end
        self._ground("human", human)

    def _ground(self, which: str, decoded: CaptionedPicture) -> None:
        found = self.regions.of(decoded.sample.name) if self.regions is not None else None
        if found is None or not decoded.caption.ids:
            return
        words = caption_words(decoded.caption, self.opened.vocabulary)
        named = find_named_words([word.text for word in words], found)
        nouns = [(each.index, found.mask(each.regions, decoded.photo.size)) for each in named if each.regions]
        absent = sum(not each.regions for each in named)
        maps = [word.map_RC for word in words]
        self.grounded[which].append(GroundedCaption(decoded.sample.name, maps, decoded.placement, nouns, absent))


def _write(out: Path, result: CaptionEvaluation) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "metrics.json", to_json(result.to_dict()))
    write_atomically(out / "captions.csv", captions_csv(result.captions))
    if result.grounded:
        origin = {"model": result.model, "weights_sha256": result.weights_sha256, "data": result.data}
        save_grounding_figure(result.grounded, out / "grounding.png", origin | {"split": result.split})
