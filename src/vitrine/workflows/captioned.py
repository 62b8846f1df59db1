"""What ``vitrine caption`` is asked for, and what it made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrine.caption.beams import beam_search
from vitrine.caption.decoded import MapChoice, Progress
from vitrine.caption.decoding import greedy
from vitrine.caption.sampling import sample
from vitrine.caption.word_checks import WordCheck
from vitrine.caption.words import CaptionWord, Join
from vitrine.models.captioner.interface import Memory
from vitrine.results import rounded


@dataclass(frozen=True)
class CaptionSettings:
    """How captions are decoded and what their maps are.

    Attributes:
        beams: of beam search; 1 is greedy.
        length_normalisation: of beam search.
        no_repeat_ngram: no run of so many pieces comes twice; 0 allows all.
        sampled: draw pieces instead of taking the likeliest.
        temperature, top_k, top_p: of sampling.
        seed: of sampling, and of the choice of pictures.
        max_pieces: a caption is cut after so many; None: as many as the captioner can.
        layer: of the decoder, from 0 or from the end with -1.
        heads: mean, max, or a head's number from 0.
        join: how maps of word pieces become one: mean, first or max.
        precision: "fp32" or "bf16".
        kind: "png" or "svg".
    """

    beams: int = 1
    length_normalisation: float = 1.0
    no_repeat_ngram: int = 0
    sampled: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    max_pieces: int | None = None
    layer: int = -1
    heads: Any = "mean"
    join: Join = "mean"
    precision: str = "fp32"
    kind: str = "png"

    def decode(self, captioner: Any, memory: Memory) -> Iterator[Progress]:
        """The decoder that was asked for."""
        maps = MapChoice(self.layer, self.heads)
        shared: dict[str, Any] = {"max_pieces": self.max_pieces, "maps": maps, "no_repeat_ngram": self.no_repeat_ngram}
        if self.sampled:
            return sample(
                captioner,
                memory,
                seed=self.seed,
                temperature=self.temperature,
                top_k=self.top_k,
                top_p=self.top_p,
                **shared,
            )
        if self.beams > 1:
            return beam_search(captioner, memory, self.beams, length_normalisation=self.length_normalisation, **shared)
        return greedy(captioner, memory, **shared)

    def flags(self) -> list[str]:
        """The options of ``vitrine caption`` that differ from what it does without any."""
        usual = CaptionSettings()
        named = {
            "--beams": "beams",
            "--length-normalisation": "length_normalisation",
            "--no-repeat": "no_repeat_ngram",
            "--temperature": "temperature",
            "--top-k": "top_k",
            "--top-p": "top_p",
            "--seed": "seed",
            "--max-pieces": "max_pieces",
            "--layer": "layer",
            "--heads": "heads",
            "--join": "join",
            "--precision": "precision",
            "--format": "kind",
        }
        flags = ["--sample"] if self.sampled else []
        for option, name in named.items():
            if getattr(self, name) != getattr(usual, name):
                flags += [option, str(getattr(self, name))]
        return flags


@dataclass(frozen=True, eq=False)
class Captioned:
    """One picture's caption.

    Attributes:
        name: of the picture.
        figure: its file.
        caption: the text.
        log_probability: natural, of the whole caption.
        words: with their maps.
        checks: one a word.
    """

    name: str
    figure: Path
    caption: str
    log_probability: float
    words: tuple[CaptionWord, ...]
    checks: tuple[WordCheck, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, maps included."""
        return {
            "filename": self.name,
            "figure": str(self.figure),
            "caption": self.caption,
            "log_probability": rounded(self.log_probability),
            "words": [
                {
                    "text": word.text,
                    "probability": round(word.probability, 6),
                    "pieces": list(word.pieces),
                    "map": [[float(f"{value:.5g}") for value in row] for row in word.map_RC.tolist()],
                    "check": check.to_dict(),
                }
                for word, check in zip(self.words, self.checks, strict=True)
            ],
        }


@dataclass(frozen=True)
class Captions:
    """What ``vitrine caption`` made.

    Attributes:
        out: its folder.
        captions: of the readable pictures, in name order.
        table: captions.csv.
        unreadable: (name, reason) of the others.
        notes: sentences on which files were in use.
    """

    out: Path
    captions: tuple[Captioned, ...]
    table: Path
    unreadable: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "captions": [caption.to_dict() for caption in self.captions],
            "unreadable": [{"name": name, "reason": reason} for name, reason in self.unreadable],
            "notes": list(self.notes),
        }
