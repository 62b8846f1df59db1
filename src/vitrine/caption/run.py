"""``vitrine caption``: one figure for every picture, with a map for every word, and a table of captions."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitrine.caption.beam_search import beam_search
from vitrine.caption.decoding import DecodeStep, MapChoice, greedy
from vitrine.caption.figures.words import CaptionPicture, WordPanel, save_caption_figure
from vitrine.caption.inference import CaptionedPicture, caption_batches
from vitrine.caption.model import Captioner, open_captioner
from vitrine.caption.sampling import sample
from vitrine.caption.word_maps import CaptionWord, Join, WordCheck, caption_words, check_words
from vitrine.data.image_folder import list_pictures
from vitrine.data.samples import Sample, random_subset
from vitrine.io.csv_tables import csv_row
from vitrine.models.captioner.model import EncoderOutput
from vitrine.plotting.colormap import Scale, shared_scale
from vitrine.plotting.provenance import Provenance, figure_names
from vitrine.results import Progress, Unreadable, no_progress, none_readable, rounded, unreadable_to_json

CAPTION_HEADER = csv_row(("filename", "caption", "log_probability", "words", "verdicts"))
"""The first line."""

SOMEWHERE, NOWHERE = "looked somewhere", "nowhere in particular"


def caption_record(picture: CaptionPicture) -> bytes:
    r"""A picture's line, ended by ``\n``: UTF-8, quoted where it has to be.

    ``words`` and ``verdicts`` are JSON lists of one length. A verdict is "looked somewhere" or "nowhere in particular",
    the latter followed by the word's note where it has one. ``log_probability`` is natural, with six decimals; empty
    where it is not known.
    """
    likely = "" if picture.log_probability is None else f"{picture.log_probability:z.6f}"
    words = json.dumps([word.text for word in picture.words], ensure_ascii=False)
    verdicts = json.dumps([_verdict(word) for word in picture.words], ensure_ascii=False)
    return csv_row((picture.name, picture.caption, likely, words, verdicts))


def _verdict(word: WordPanel) -> str:
    if not word.grey:
        return SOMEWHERE
    return f"{NOWHERE}: {word.note}" if word.note else NOWHERE


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

    def decode(
        self, captioner: Any, encoder_output: EncoderOutput, _samples: Sequence[Sample] = ()
    ) -> Iterator[DecodeStep]:
        """Decode an encoded batch, as :func:`vitrine.caption.inference.caption_batches` wants it."""
        maps = MapChoice(self.layer, self.heads)
        shared: dict[str, Any] = {"max_tokens": self.max_pieces, "maps": maps, "no_repeat_ngram": self.no_repeat_ngram}
        if self.sampled:
            return sample(
                captioner,
                encoder_output,
                seed=self.seed,
                temperature=self.temperature,
                top_k=self.top_k,
                top_p=self.top_p,
                **shared,
            )
        if self.beams > 1:
            return beam_search(
                captioner, encoder_output, self.beams, length_normalisation=self.length_normalisation, **shared
            )
        return greedy(captioner, encoder_output, **shared)

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
class PictureCaption:
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
                    "pieces": list(word.tokens),
                    "map": [[float(f"{value:.5g}") for value in row] for row in word.map_RC.tolist()],
                    "check": check.to_dict(),
                }
                for word, check in zip(self.words, self.checks, strict=True)
            ],
        }


@dataclass(frozen=True)
class CaptionResult:
    """What ``vitrine caption`` made.

    Attributes:
        out: its folder.
        captions: of the readable pictures, in name order.
        table: captions.csv.
        unreadable: (name, reason) of the others.
        notes: sentences on which files were in use.
    """

    out: Path
    captions: tuple[PictureCaption, ...]
    table: Path
    unreadable: tuple[Unreadable, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "captions": [caption.to_dict() for caption in self.captions],
            "unreadable": unreadable_to_json(self.unreadable),
            "notes": list(self.notes),
        }


@dataclass(frozen=True, eq=False)
class WordMaps:
    """A caption in words.

    Attributes:
        words: with their maps.
        checks: one a word.
        picture: what the figure is drawn of.
        scale: of its maps.
    """

    words: tuple[CaptionWord, ...]
    checks: tuple[WordCheck, ...]
    picture: CaptionPicture
    scale: Scale


def prepare_word_maps(decoded: CaptionedPicture, opened: Captioner, settings: CaptionSettings) -> WordMaps:
    """Join word pieces, check their maps, and say what they are."""
    caption = decoded.caption
    words = caption_words(caption, opened.vocabulary, settings.join)
    checks = check_words(words)
    of_heads, layer = settings.heads, settings.layer
    heads = f"head {of_heads}" if isinstance(of_heads, int) else f"{of_heads} of heads"
    where = "last decoder layer" if layer == -1 else f"decoder layer {layer}"
    picture = CaptionPicture(
        photo_HWC=np.asarray(decoded.photo),
        placement=decoded.placement,
        caption=opened.vocabulary.decode(caption.ids),
        words=tuple(
            WordPanel(word.text, word.probability, word.map_RC, not check.is_localized)
            for word, check in zip(words, checks, strict=True)
        ),
        name=decoded.sample.name,
        log_probability=caption.log_probability,
        method=f"{opened.attention} of the query that predicted each word, {where}, {heads}",
        notes=() if caption.has_end else ("The caption was cut for its length.",),
    )
    return WordMaps(
        words, checks, picture, Scale("uniform", shared_scale([word.map_RC for word in words]) if words else 2.0)
    )


def caption_provenance(
    reference: str,
    opened: Captioner,
    settings: CaptionSettings,
    sample: Sample,
    picture: str,
    folder: str,
    flags: Sequence[str] = (),
) -> Provenance:
    """Where a figure of a caption came from, and the command that makes it again.

    Args:
        reference: of the captioner, as it was given.
        opened: the captioner.
        settings: of the decoding.
        sample: the picture.
        picture: its path, as a command has it.
        folder: of the figure.
        flags: options of the command beside those of the settings.
    """
    command = ["vitrine", "caption", reference, picture, "-o", folder, *flags, *settings.flags()]
    return Provenance(
        figure="caption",
        model=reference,
        weights_sha256=opened.weights.sha256,
        picture=picture,
        picture_sha256=hashlib.sha256(sample.picture.read_bytes()).hexdigest(),
        method=opened.attention,
        layer=str(settings.layer),
        heads=str(settings.heads),
        precision=settings.precision,
        command=shlex.join(command),
    )


def caption_pictures(
    model: str,
    images: Path,
    out: Path,
    settings: CaptionSettings,
    *,
    architecture: str | None = None,
    vocabulary: Path | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    progress: Progress = no_progress,
    download: Progress = no_progress,
) -> CaptionResult:
    """Caption every picture, as pictures come: what was drawn before an interruption stays.

    Args:
        model: ``catr/v1``, ``catr/v2``, ``catr/v3``; with ``architecture``, a weights file.
        images: a folder, searched with its sub-folders, or one picture.
        out: the folder of figures and captions.csv.
        settings: how captions are decoded.
        architecture: ``catr`` where ``model`` is a file.
        vocabulary: the captioner's vocab.txt or tokenizer.json; None finds it.
        limit: pictures at most; with more, a choice drawn with the settings' seed. None takes all.
        batch_size: pictures at a time; captions do not depend on it but for rounding.
        progress: called with pictures done, of how many.
        download: called with bytes done, of how many.

    Raises:
        DataError: no pictures, or none that can be read.
        ModelError, WeightsUnavailableError: the captioner cannot be opened.
    """
    samples = random_subset(list_pictures(images), limit, settings.seed)
    opened = open_captioner(model, architecture, vocabulary, download, settings.precision)
    given = captioner_flags(architecture, vocabulary)
    figures = figure_names([sample.name for sample in samples], settings.kind)
    session = CaptionSession(opened, model, images, out, settings, figures, given, out / "captions.csv")
    session.caption(samples, batch_size, progress)
    return session.finish()


def captioner_flags(architecture: str | None, vocabulary: Path | None) -> list[str]:
    """The options that say what a captioner's weights file is."""
    flags = ["--arch", architecture] if architecture else []
    return flags + (["--vocab", str(vocabulary)] if vocabulary else [])


class CaptionSession:
    """One call: figures and rows are written batch by batch.

    Args:
        opened: the captioner.
        model: its reference, as it was given.
        images: what was given.
        out: the folder of figures.
        settings: of the decoding.
        figures: the path of each picture's figure, from ``out`` on.
        flags: options that say what the captioner is.
        table: the CSV; unfinished it is ``TABLE.partial``.
        folder: whether a picture's path is ``images`` and its name; None looks.
    """

    def __init__(
        self,
        opened: Captioner,
        model: str,
        images: Path,
        out: Path,
        settings: CaptionSettings,
        figures: Mapping[str, str],
        flags: Sequence[str],
        table: Path,
        folder: bool | None = None,
    ) -> None:
        self.opened, self.model, self.images, self.out, self.settings = opened, model, images, out, settings
        self.flags, self.figures, self.table = flags, figures, table
        self.folder = images.is_dir() if folder is None else folder
        self.made: list[PictureCaption] = []
        self.unreadable: list[Unreadable] = []
        out.mkdir(parents=True, exist_ok=True)
        self.partial = table.with_name(f"{table.name}.partial")
        self.partial.write_bytes(CAPTION_HEADER)

    def caption(self, samples: Sequence[Sample], batch_size: int, progress: Progress = no_progress) -> None:
        """Caption and draw pictures; rows are written batch by batch."""
        parts = caption_batches(
            self.opened,
            samples,
            self.settings.decode,
            precision=self.settings.precision,
            batch_size=batch_size,
            progress=progress,
        )
        for part in parts:
            self.unreadable += part.unreadable
            with self.partial.open("ab") as rows:
                for picture in part.pictures:
                    rows.write(self._draw(picture))

    def _draw(self, decoded: CaptionedPicture) -> bytes:
        sample, worded = decoded.sample, prepare_word_maps(decoded, self.opened, self.settings)
        figure, text = self.out / self.figures[sample.name], worded.picture.caption
        where = str(self.images / sample.name if self.folder else self.images)
        origin = caption_provenance(
            self.model, self.opened, self.settings, sample, where, str(figure.parent), self.flags
        )
        save_caption_figure(worded.picture, worded.scale, figure, origin.to_metadata())
        likely = decoded.caption.log_probability
        self.made.append(PictureCaption(sample.name, figure, text, likely, worded.words, worded.checks))
        return caption_record(worded.picture)

    def finish(self) -> CaptionResult:
        """The table under its name."""
        if not self.made:
            raise none_readable(self.unreadable)
        self.partial.replace(self.table)
        return CaptionResult(self.out, tuple(self.made), self.table, tuple(self.unreadable), self.opened.notes)
