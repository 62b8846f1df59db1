"""Scores of predicted captions against human ones, beside those of one constant caption for every picture.

Axes: P pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vitrine.errors import DataError
from vitrine.metrics.caption_java import JAVA_METRICS, java_scores
from vitrine.metrics.caption_ngrams import (
    NGRAM_METRICS,
    NO_SCORERS,
    Floats,
    NgramScores,
    ngram_scores,
)
from vitrine.metrics.caption_text import (
    CONSTANT_CAPTION_RULE,
    TOKENISATION,
    Diversity,
    Lengths,
    Words,
    caption_diversity,
    constant_caption,
    lengths,
    tokenise,
)
from vitrine.metrics.intervals import MIN_PICTURES, jackknife_interval, wilson
from vitrine.results import Interval, agree, count_of, round_number

METRICS = {
    "bleu_1": "BLEU-1",
    "bleu_2": "BLEU-2",
    "bleu_3": "BLEU-3",
    "bleu_4": "BLEU-4",
    "rouge_l": "ROUGE-L",
    "cider": "CIDEr",
    "meteor": "METEOR",
    "spice": "SPICE",
}
"""By key, as they are shown. Higher is better; 0 to 1, CIDEr 0 to 10."""


@dataclass(frozen=True)
class Score:
    """A corpus figure and its 95 % interval; no interval where there are too few pictures or all of them agree."""

    value: float
    interval: Interval | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, rounded to ``DECIMALS``."""
        ends = None if self.interval is None else [round_number(self.interval.low), round_number(self.interval.high)]
        return {"value": round_number(self.value), "interval_95": ends}


@dataclass(frozen=True)
class ScoredCaptions:
    """One caption a picture, scored against the picture's human captions.

    Attributes:
        pictures: how many.
        metrics: by key of :data:`METRICS`, all of them; None where one was not computed.
        exact: pictures whose caption, as words, is one of its human captions.
        exact_interval: the 95 % interval of their share (Wilson).
        diversity: lengths, distinct words and repetitions.
    """

    pictures: int
    metrics: Mapping[str, Score | None]
    exact: int
    exact_interval: Interval
    diversity: Diversity

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready and stable: floats are rounded to ``DECIMALS``."""
        metrics = {key: self.metrics[key] for key in METRICS}
        ends = [round_number(self.exact_interval.low), round_number(self.exact_interval.high)]
        return {
            "pictures": self.pictures,
            "metrics": {key: score and score.to_dict() for key, score in metrics.items()},
            "exact": {"share": round_number(self.exact / self.pictures), "n": self.exact, "interval_95": ends},
            **self.diversity.to_dict(),
        }


@dataclass(frozen=True)
class CaptionScores:
    """A captioner's scores, beside those of a constant caption and, where pictures have several, of human captions.

    Attributes:
        predicted: the captioner's captions.
        constant: ``constant_caption`` for every picture: what is reached without looking at the picture.
        human: of the pictures with at least two human captions, the first against the others; None without such.
        lead: by key, predicted less constant, with the interval of the difference on the same pictures.
        constant_caption: as words.
        constant_from: what it was chosen from: "references" or "given captions".
        human_captions: how many the predicted captions were scored against.
        human_lengths: of all of these, in words.
        human_words: distinct words in them.
        notes: sentences that belong to the figures.
    """

    predicted: ScoredCaptions
    constant: ScoredCaptions
    human: ScoredCaptions | None
    lead: Mapping[str, Score]
    constant_caption: str
    constant_from: str
    human_captions: int
    human_lengths: Lengths
    human_words: int
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready and stable: the same captions give the same content; floats are rounded to ``DECIMALS``."""
        return {
            "tokenisation": TOKENISATION,
            "predicted": self.predicted.to_dict(),
            "constant_caption": {
                "caption": self.constant_caption,
                "rule": CONSTANT_CAPTION_RULE,
                "chosen_from": self.constant_from,
                **self.constant.to_dict(),
            },
            "human": None if self.human is None else self.human.to_dict(),
            "lead_over_constant_caption": {key: score.to_dict() for key, score in self.lead.items()},
            "human_captions": {
                "n": self.human_captions,
                "length_in_words": self.human_lengths.to_dict(),
                "distinct_words": self.human_words,
            },
            "notes": list(self.notes),
        }


__all__ = ["METRICS", "CaptionScores", "Score", "ScoredCaptions", "caption_scores", "tokenise"]

_FEW_PICTURES = 50  # below which CIDEr's idf weights say little


@dataclass(frozen=True)
class _Column:
    """A column of the table: one caption a picture and its references, as words, with their n-gram figures.

    Attributes:
        captions, references: one a picture, and several.
        ngrams: None without scorers.
        without_P: every figure without each picture in turn; empty with too few for intervals.
    """

    captions: Sequence[Words]
    references: Sequence[Sequence[Words]]
    ngrams: NgramScores | None
    without_P: Mapping[str, Floats]


def caption_scores(
    predictions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    *,
    control_from: Sequence[str] | None = None,
    java: bool = False,
) -> CaptionScores:
    """Score predicted captions. 5,000 pictures with five human captions each take about half a minute.

    Everything is computed over the words of :func:`~vitrine.metrics.caption_text.tokenise`, which differ now and then
    from those of the published tables (PTBTokenizer): compare figures of one tokenisation. A caption without a word
    counts, with zero words. With one picture CIDEr is 0 whatever the caption says, and with few pictures it means
    little: an n-gram that all pictures' references have weighs nothing. The result's notes say so.

    Intervals are from leaving out pictures one by one, for BLEU, ROUGE-L and CIDEr (its idf weights held fixed): see
    :func:`~vitrine.metrics.intervals.jackknife_interval`.
    The corpus figures of METEOR and SPICE have none.

    Args:
        predictions: a caption by the picture's name; may be empty text.
        references: the human captions by name; those without a word are left out, and so are pictures without
            prediction: the notes count both.
        control_from: captions from which the constant caption is chosen, such as the training captions. None chooses
            from ``references``, which makes it a little better than a caption chosen blind.
        java: whether METEOR and SPICE are computed and the words compared with PTBTokenizer's; takes minutes.

    Raises:
        DataError: no prediction, a picture without a human caption that has words, or nothing to choose the constant
            caption from.
        ValueError: a picture's references are one text and not a sequence of texts.
    """
    names = sorted(predictions)
    references_by_name, notes = _reference_words(predictions, references)
    references_P = [references_by_name[name] for name in names]
    all_references = [words for picture in references_P for words in picture]
    constant_words = _choose_constant(all_references, control_from)
    predicted = _measure([tokenise(predictions[name]) for name in names], references_P)
    constant = _measure([constant_words] * len(names), references_P)
    several = [picture for picture in references_P if len(picture) > 1]
    human = _measure([first for first, *_ in several], [rest for _, *rest in several]) if several else None
    columns = [column for column in (predicted, constant, human) if column is not None]
    texts = [text for name in names for text in (predictions[name], *references[name])] if java else []
    scores_in_java, java_notes = _score_in_java(columns, texts) if java else ([{} for _ in columns], ())
    scores = [_score(column, more) for column, more in zip(columns, scores_in_java, strict=True)]
    return CaptionScores(
        predicted=scores[0],
        constant=scores[1],
        human=scores[2] if human is not None else None,
        lead=_lead(predicted, constant),
        constant_caption=" ".join(constant_words),
        constant_from="references" if control_from is None else "given captions",
        human_captions=len(all_references),
        human_lengths=lengths(all_references),
        human_words=len({word for words in all_references for word in words}),
        notes=(*notes, *_remarks(predicted, human), *java_notes),
    )


def _reference_words(
    predictions: Mapping[str, str], references: Mapping[str, Sequence[str]]
) -> tuple[dict[str, tuple[Words, ...]], list[str]]:
    """The human captions of the predicted pictures as words, and sentences on what was left out."""
    if not predictions:
        raise DataError("There is no predicted caption to score. Predict captions for some pictures first.")
    if any(isinstance(captions, str) for captions in references.values()):
        raise ValueError("Each picture's references must be a sequence of captions; got one text.")
    captions = {name: [tokenise(caption) for caption in references.get(name, ())] for name in predictions}
    with_words = {name: tuple(words for words in each if words) for name, each in captions.items()}
    missing = sorted(name for name, each in with_words.items() if not each)
    if missing:
        raise DataError(
            f"{len(missing):,} of {count_of(len(predictions), 'picture')} "
            f"{agree(len(missing), 'has', 'have')} no human caption with words, "
            f"for example {missing[0]}. Give one for each, or leave these pictures out of the predictions."
        )
    notes = []
    wordless = sum(map(len, captions.values())) - sum(map(len, with_words.values()))
    if wordless:
        notes.append(f"{count_of(wordless, 'human caption')} without a word {agree(wordless, 'was', 'were')} left out.")
    without_prediction = sum(name not in predictions for name in references)
    if without_prediction:
        notes.append(
            f"{count_of(without_prediction, 'picture')} with human captions "
            f"{agree(without_prediction, 'is', 'are')} not counted: there is no predicted one."
        )
    return with_words, notes


def _choose_constant(references: Sequence[Words], control_from: Sequence[str] | None) -> Words:
    try:
        return constant_caption(references if control_from is None else [tokenise(text) for text in control_from])
    except ValueError:
        raise DataError(
            "None of the captions that the constant caption is to be chosen from has a word. "
            "Give others, or none to choose from the references."
        ) from None


def _measure(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> _Column:
    ngrams = ngram_scores(captions, references)
    enough = ngrams is not None and len(captions) >= MIN_PICTURES
    return _Column(captions, references, ngrams, ngrams.without_each() if ngrams and enough else {})


def _score_in_java(columns: Sequence[_Column], texts: Sequence[str]) -> tuple[list[dict[str, Score]], tuple[str, ...]]:
    """METEOR and SPICE of every column, where they can be computed, and sentences on where and why not."""
    scores = java_scores([(column.captions, column.references) for column in columns], texts)
    by_column: list[dict[str, Score]] = [{} for _ in columns]
    for key in JAVA_METRICS:
        for each, value in zip(by_column, scores.values[key] or (), strict=False):
            each[key] = Score(value)
    return by_column, scores.notes


def _score(column: _Column, more: Mapping[str, Score]) -> ScoredCaptions:
    metrics: dict[str, Score | None] = {**dict.fromkeys(METRICS), **more}
    if column.ngrams is not None:
        for key in NGRAM_METRICS:
            metrics[key] = _with_interval(key, column.ngrams.corpus[key], column.without_P.get(key), 0)
    human_words = {word for captions in column.references for words in captions for word in words}
    exact = sum(words in captions for words, captions in zip(column.captions, column.references, strict=True))
    pictures, diversity = len(column.captions), caption_diversity(column.captions, human_words)
    return ScoredCaptions(pictures, metrics, exact, wilson(exact, pictures), diversity)


def _with_interval(key: str, figure: float, without_P: Floats | None, low: int) -> Score:
    """A figure with its interval; without one where there are too few pictures, or none of them changes it.

    Args:
        key: of the metric.
        figure: of all pictures.
        without_P: without each of them; None with too few.
        low: 0 for a figure, -1 for a difference of two: how far it can go down, in units of the highest one.
    """
    if without_P is None or without_P.max() - without_P.min() <= 1e-12:
        return Score(figure)
    highest = 10.0 if key == "cider" else 1.0
    return Score(figure, jackknife_interval(figure, without_P, low * highest, highest))


def _lead(predicted: _Column, constant: _Column) -> dict[str, Score]:
    """By how much the predicted captions are ahead; without the same pictures in turn."""
    if predicted.ngrams is None or constant.ngrams is None:
        return {}
    lead = {}
    for key in NGRAM_METRICS:
        without_P = predicted.without_P[key] - constant.without_P[key] if predicted.without_P else None
        ahead = predicted.ngrams.corpus[key] - constant.ngrams.corpus[key]
        lead[key] = _with_interval(key, ahead, without_P, -1)
    return lead


def _remarks(predicted: _Column, human: _Column | None) -> Iterator[str]:
    pictures = len(predicted.captions)
    if predicted.ngrams is None:
        yield NO_SCORERS
    elif pictures == 1:
        yield "With one picture CIDEr is 0 whatever the caption says: every n-gram weighs nothing."
    elif pictures < _FEW_PICTURES:
        yield (
            f"With {count_of(pictures, 'picture')} CIDEr's weights say little: compare it on these same pictures only."
        )
    if pictures < MIN_PICTURES:
        yield f"Intervals need {MIN_PICTURES} pictures."
    if human is None:
        yield "No picture has two human captions, so no human caption could be scored against others."
    else:
        yield (
            "A human caption is the first of its picture, scored against the others: against one reference fewer "
            "than the predicted caption, which makes its figures a little lower."
        )
