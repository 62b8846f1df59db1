"""What is known of a captioner's captions, as frozen data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vitrine.evaluate.caption_constant import RULE
from vitrine.evaluate.caption_tokens import TOKENISATION
from vitrine.evaluate.caption_variety import Lengths, Variety
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
