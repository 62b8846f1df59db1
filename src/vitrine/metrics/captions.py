"""The figures of a captioner: predicted captions against what people wrote, beside one caption for every picture.

Axes: L resamples of the pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vitrine.errors import DataError
from vitrine.metrics.caption_java import JAVA_METRICS, java_scores
from vitrine.metrics.caption_ngrams import (
    MIN_PICTURES,
    NGRAM_METRICS,
    NO_SCORERS,
    RESAMPLES,
    Floats,
    NgramScores,
    interval,
    ngram_scores,
)
from vitrine.metrics.caption_text import (
    RULE,
    TOKENISATION,
    Lengths,
    Variety,
    Words,
    constant_caption,
    lengths,
    tokenise,
    variety,
)
from vitrine.metrics.intervals import wilson
from vitrine.results import Interval, rounded

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
        ends = None if self.interval is None else [rounded(self.interval.low), rounded(self.interval.high)]
        return {"value": rounded(self.value), "interval_95": ends}


@dataclass(frozen=True)
class ScoredCaptions:
    """One caption a picture, scored against the picture's human captions.

    Attributes:
        pictures: how many.
        metrics: by key of :data:`METRICS`, all of them; None where one was not computed.
        exact: pictures whose caption, as words, is one of its human captions.
        exact_interval: the 95 % interval of their share (Wilson).
        variety: lengths, words and repeats.
    """

    pictures: int
    metrics: Mapping[str, Score | None]
    exact: int
    exact_interval: Interval
    variety: Variety

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready and stable: floats are rounded to ``DECIMALS``."""
        metrics = {key: self.metrics[key] for key in METRICS}
        ends = [rounded(self.exact_interval.low), rounded(self.exact_interval.high)]
        return {
            "pictures": self.pictures,
            "metrics": {key: score and score.to_dict() for key, score in metrics.items()},
            "exact": {"share": rounded(self.exact / self.pictures), "n": self.exact, "interval_95": ends},
            **self.variety.to_dict(),
        }


@dataclass(frozen=True)
class CaptionScores:
    """A captioner's figures beside its control and, where it can be, beside people.

    Attributes:
        predicted: the captions that were given.
        constant: ``constant_caption`` for every picture: what is reached without looking.
        human: of the pictures with two human captions or more, the first against the others; None without such.
        lead: by key, predicted less constant, with the interval of the difference on the same resamples of pictures.
        constant_caption: as words.
        constant_from: where it was chosen from: "references" or "given captions".
        human_captions: how many the predicted captions were scored against.
        human_lengths: of all of these, in words.
        human_words: distinct words in them.
        resamples, seed: of the bootstrap.
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
    resamples: int
    seed: int
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready and stable: the same captions give the same content; floats are rounded to ``DECIMALS``."""
        return {
            "tokenisation": TOKENISATION,
            "bootstrap": {"resamples": self.resamples, "seed": self.seed},
            "predicted": self.predicted.to_dict(),
            "constant_caption": {
                "caption": self.constant_caption,
                "rule": RULE,
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

_FEW = 50  # pictures below which idf weights say little


@dataclass(frozen=True)
class _Row:
    """Captions, one a picture, and each picture's references, as words; with what was measured of them."""

    captions: Sequence[Words]
    references: Sequence[Sequence[Words]]
    ngrams: NgramScores | None
    samples_L: Mapping[str, Floats]


def caption_scores(
    predicted: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    *,
    control_from: Sequence[str] | None = None,
    java: bool = False,
    seed: int = 0,
) -> CaptionScores:
    """Score predicted captions. 5,000 pictures with five human captions each take about half a minute.

    All is computed over :func:`~vitrine.metrics.caption_text.tokenise`, whose words differ now and then from those
    of the published tables (PTBTokenizer): compare figures of one tokenisation. A caption without a word counts, with
    zero words. With one picture CIDEr is 0 whatever the caption says, and with few pictures it means little: an n-gram
    that all pictures' references have weighs nothing. The result's notes say so.

    Intervals are of the percentile bootstrap over pictures, for BLEU, ROUGE-L and CIDEr (its idf weights held fixed).
    The corpus figures of METEOR and SPICE have none.

    Args:
        predicted: a caption by name of the picture; may be empty text.
        references: the human captions by name; those without a word are left out, and so are pictures without
            prediction: the notes count both.
        control_from: captions from which the constant caption is chosen, such as the training captions. None chooses
            from ``references``, which makes it a little better than a caption chosen blind.
        java: whether METEOR and SPICE are computed and the words compared with PTBTokenizer's; takes minutes.
        seed: of the bootstrap.

    Raises:
        DataError: no prediction, a picture without a human caption that has words, or nothing to choose the constant
            caption from.
        ValueError: a picture's references are one text and not a sequence of texts.
    """
    names = sorted(predicted)
    references_of, notes = _checked(predicted, references)
    others = [references_of[name] for name in names]
    everything = [words for picture in others for words in picture]
    constant = _constant(everything, control_from)
    own = _measured([tokenise(predicted[name]) for name in names], others, seed)
    control = _measured([constant] * len(names), others, seed)
    several = [picture for picture in others if len(picture) > 1]
    human = _measured([first for first, *_ in several], [rest for _, *rest in several], seed) if several else None
    rows = [row for row in (own, control, human) if row is not None]
    texts = [text for name in names for text in (predicted[name], *references[name])] if java else []
    by_java, java_notes = _by_java(rows, texts) if java else ([{} for _ in rows], ())
    scored = [_scored(row, more) for row, more in zip(rows, by_java, strict=True)]
    return CaptionScores(
        predicted=scored[0],
        constant=scored[1],
        human=scored[2] if human is not None else None,
        lead=_lead(own, control),
        constant_caption=" ".join(constant),
        constant_from="references" if control_from is None else "given captions",
        human_captions=len(everything),
        human_lengths=lengths(everything),
        human_words=len({word for words in everything for word in words}),
        resamples=RESAMPLES,
        seed=seed,
        notes=(*notes, *_remarks(own, human), *java_notes),
    )


def _checked(
    predicted: Mapping[str, str], references: Mapping[str, Sequence[str]]
) -> tuple[dict[str, tuple[Words, ...]], list[str]]:
    """The human captions of the predicted pictures as words, and sentences on what was left out."""
    if not predicted:
        raise DataError("There is no predicted caption to score. Predict captions for some pictures first.")
    if any(isinstance(captions, str) for captions in references.values()):
        raise ValueError("Each picture's references must be a sequence of captions; got one text.")
    found = {name: [tokenise(caption) for caption in references.get(name, ())] for name in predicted}
    kept = {name: tuple(words for words in captions if words) for name, captions in found.items()}
    lacking = sorted(name for name, captions in kept.items() if not captions)
    if lacking:
        raise DataError(
            f"{len(lacking):,} of {len(predicted):,} pictures have no human caption with words, "
            f"for example {lacking[0]}. Give one for each, or leave these pictures out of the predictions."
        )
    notes = []
    wordless = sum(map(len, found.values())) - sum(map(len, kept.values()))
    if wordless:
        notes.append(f"{wordless:,} human captions without a word were left out.")
    unpredicted = sum(name not in predicted for name in references)
    if unpredicted:
        notes.append(f"{unpredicted:,} pictures with human captions have no predicted one and are not counted.")
    return kept, notes


def _constant(everything: Sequence[Words], control_from: Sequence[str] | None) -> Words:
    try:
        return constant_caption(everything if control_from is None else [tokenise(text) for text in control_from])
    except ValueError:
        raise DataError(
            "None of the captions that the constant caption is to be chosen from has a word. "
            "Give others, or none to choose from the references."
        ) from None


def _measured(captions: Sequence[Words], references: Sequence[Sequence[Words]], seed: int) -> _Row:
    ngrams = ngram_scores(captions, references)
    enough = ngrams is not None and len(captions) >= MIN_PICTURES
    return _Row(captions, references, ngrams, ngrams.resampled(RESAMPLES, seed) if ngrams and enough else {})


def _by_java(rows: Sequence[_Row], texts: Sequence[str]) -> tuple[list[dict[str, Score]], tuple[str, ...]]:
    """METEOR and SPICE of every row, as far as they can be had, and sentences on the rest."""
    found = java_scores([(row.captions, row.references) for row in rows], texts)
    by_row: list[dict[str, Score]] = [{} for _ in rows]
    for key in JAVA_METRICS:
        for scores, value in zip(by_row, found.values[key] or (), strict=False):
            scores[key] = Score(value)
    return by_row, found.notes


def _scored(row: _Row, more: Mapping[str, Score]) -> ScoredCaptions:
    metrics: dict[str, Score | None] = {**dict.fromkeys(METRICS), **more}
    if row.ngrams is not None:
        for key in NGRAM_METRICS:
            ends = interval(row.samples_L[key]) if row.samples_L else None
            metrics[key] = Score(row.ngrams.corpus[key], ends)
    heard = {word for captions in row.references for words in captions for word in words}
    exact = sum(words in captions for words, captions in zip(row.captions, row.references, strict=True))
    pictures = len(row.captions)
    return ScoredCaptions(pictures, metrics, exact, wilson(exact, pictures), variety(row.captions, heard))


def _lead(own: _Row, control: _Row) -> dict[str, Score]:
    """By how much the predicted captions are ahead; both rows drew the same pictures in every resample."""
    if own.ngrams is None or control.ngrams is None:
        return {}
    lead = {}
    for key in NGRAM_METRICS:
        ends = interval(own.samples_L[key] - control.samples_L[key]) if own.samples_L else None
        lead[key] = Score(own.ngrams.corpus[key] - control.ngrams.corpus[key], ends)
    return lead


def _remarks(own: _Row, human: _Row | None) -> Iterator[str]:
    pictures = len(own.captions)
    if own.ngrams is None:
        yield NO_SCORERS
    elif pictures == 1:
        yield "With one picture CIDEr is 0 whatever the caption says: every n-gram weighs nothing."
    elif pictures < _FEW:
        yield f"With {pictures} pictures CIDEr's weights say little: compare it on these same pictures only."
    if pictures < MIN_PICTURES:
        yield f"Intervals by resampling need {MIN_PICTURES} pictures."
    if human is None:
        yield "No picture has two human captions, so no human caption could be scored against others."
    else:
        yield (
            "A human caption is the first of its picture, scored against the others: against one reference fewer "
            "than the predicted caption, which makes its figures a little lower."
        )
