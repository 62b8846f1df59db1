"""``vitrine caption``: one figure for every picture, with a map for every word, and a table of captions."""

from __future__ import annotations

import hashlib
import json
import math
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from vitrine.caption.attention_sinks import find_sinks, mask_sinks
from vitrine.caption.beam_search import beam_search
from vitrine.caption.decoding import DecodedCaption, DecodeStep, MapChoice, describe_layers, greedy, parse_layers
from vitrine.caption.figures.figure_file import save_caption_figure
from vitrine.caption.figures.words import CaptionPicture, WordPanel
from vitrine.caption.inference import BatchCaptions, CaptionedPicture, EncodedBatch, ReadPrompts, caption_batches
from vitrine.caption.model import Captioner, open_captioner
from vitrine.caption.prompt_words import LINE, read_prompts
from vitrine.caption.readings import READINGS, choose_reading, read_maps, require_reading
from vitrine.caption.sampling import sample
from vitrine.caption.word_localization import WordCheck, check_words
from vitrine.caption.word_maps import CaptionWord, Join, caption_words
from vitrine.data.picture_inputs import PictureInput, count_at_hand, path_in, picture_input
from vitrine.data.samples import Sample
from vitrine.display import ResultSequence
from vitrine.errors import UsageError
from vitrine.io.figure_folder import FigureCall, FolderClaim, claim_folder, picture_choice
from vitrine.io.file_names import beside
from vitrine.io.files import remove_unfinished, unwritten_picture, writing
from vitrine.io.output_lock import writes_folder
from vitrine.io.resumable_csv import csv_row
from vitrine.io.untrusted_files import MAX_TEXT_BYTES, read_file
from vitrine.models.captioner.model import EncoderOutput
from vitrine.plotting.colormap import Scale, shared_scale
from vitrine.plotting.provenance import Provenance, figures_of
from vitrine.results import Progress, Unreadable, count_of, no_progress, none_drawn, round_number, unreadable_to_json

CAPTION_HEADER = csv_row(("filename", "caption", "log_probability", "words", "verdicts"))
"""The first row of ``captions.csv``."""

_TABLE = "captions.csv"
_LOCALIZED, _NOT_LOCALIZED = "looked somewhere", "nowhere in particular"


def caption_row(picture: CaptionPicture) -> bytes:
    """A picture's row of ``captions.csv``, as bytes.

    ``words`` and ``verdicts`` are JSON lists of one length. A verdict is "looked somewhere" or "nowhere in particular",
    the latter followed by the word's note where it has one. ``log_probability`` is natural, with six decimals; empty
    where it is not known.
    """
    log_probability = "" if picture.log_probability is None else f"{picture.log_probability:z.6f}"
    words = json.dumps([word.text for word in picture.words], ensure_ascii=False)
    verdicts = json.dumps([_verdict(word) for word in picture.words], ensure_ascii=False)
    return csv_row((picture.name, picture.caption, log_probability, words, verdicts))


def _verdict(word: WordPanel) -> str:
    if not word.grey:
        return _LOCALIZED
    return f"{_NOT_LOCALIZED}: {word.note}" if word.note else _NOT_LOCALIZED


_SHOWN = 10  # captions in a notebook; to_pandas() has all


@dataclass(frozen=True)
class CaptionSettings:
    """How captions are decoded and what their maps are.

    Attributes:
        beams: of beam search; 1 is greedy.
        length_normalisation: of beam search.
        no_repeat_ngram: no run of so many tokens comes twice; 0 allows all.
        sampled: draw tokens instead of taking the likeliest.
        temperature, top_k, top_p: of sampling.
        seed: of sampling, and of the choice of pictures.
        max_pieces: a caption is cut after so many; None: as many as the captioner can.
        layer: of the decoder, from 0 or from the end with -1; (first, last) or "mean" for the mean of several.
        heads: mean, max, or a head's number from 0.
        join: how the maps of a word's tokens become one: mean, first or max.
        precision: "fp32" or "bf16".
        kind: "png" or "svg".
        prompt: what a vision-language model is asked; None asks for a caption, as the model does.
        query_layers: of a model with query tokens, the layers in which they read a picture that are looked at: as
            ``layer``, or as the command line has it.
        reading: how maps are read: the name of one of :data:`vitrine.caption.readings.READINGS`.
        relative: the reading ``relative``, in which maps are divided by that of a neutral prompt on the same picture
            (Zhang et al. 2025), may be asked for by this, too.
        prompt_maps: the words of the prompt have maps as well: see :mod:`vitrine.caption.prompt_words`.
        without_sinks: places that draw attention whatever the word is are left out of a vision-language model's maps.
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
    layer: int | tuple[int, int] | Literal["mean"] = -1
    heads: Any = "mean"
    join: Join = "mean"
    precision: str = "fp32"
    kind: str = "png"
    prompt: str | None = None
    relative: bool = False
    without_sinks: bool = False
    reading: str = "attention"
    query_layers: Any = "mean"
    prompt_maps: bool = False

    def __post_init__(self) -> None:
        """Refuse a reading that there is not, or one that has no layers with some."""
        reading = choose_reading(None if self.relative and self.reading == "attention" else self.reading, self.relative)
        object.__setattr__(self, "reading", reading)
        object.__setattr__(self, "relative", reading == "relative")
        if isinstance(self.query_layers, str):
            object.__setattr__(self, "query_layers", parse_layers(self.query_layers, "--query-layers"))
        if not READINGS[reading].has_layers and (self.layer, self.heads) != (-1, "mean"):
            raise UsageError(f"Maps by {reading} have neither layers nor heads: leave --layer and --heads out.")

    def prepare(self, captioner: Captioner) -> Captioner:
        """The captioner with the prompt, and with what the reading needs.

        Raises:
            UsageError: the captioner takes no prompt, or its maps cannot be read so.
        """
        captioner = captioner.with_prompt(self.prompt, self.relative, self.query_layers, self.prompt_maps)
        require_reading(captioner, self.reading)
        return captioner

    def read(self, batch: EncodedBatch, captions: Sequence[DecodedCaption]) -> Sequence[DecodedCaption]:
        """Give captions the maps of the reading; what :func:`vitrine.caption.inference.caption_batches` takes as
        ``read``."""
        return read_maps(self.reading, batch, captions, MapChoice(self.layer, self.heads))

    @property
    def read_prompts(self) -> ReadPrompts | None:
        """What :func:`vitrine.caption.inference.caption_batches` takes under this name."""
        return partial(read_prompts, choice=MapChoice(self.layer, self.heads)) if self.prompt_maps else None

    def decode(
        self, captioner: Any, encoder_output: EncoderOutput, _samples: Sequence[Sample] = ()
    ) -> Iterator[DecodeStep]:
        """Decode an encoded batch by beam search, greedily or by sampling.

        It is what :func:`vitrine.caption.inference.caption_batches` takes as ``decode``.
        """
        maps = MapChoice(self.layer, self.heads)
        steps = self._steps(captioner, encoder_output, maps)
        if not self.relative:
            return steps
        baselines = tuple(maps.of(captioner.neutral_attention(encoder_output)).numpy())
        return (replace(step, baselines_PLHK=baselines) for step in steps)

    def _steps(self, captioner: Any, encoder_output: EncoderOutput, maps: MapChoice) -> Iterator[DecodeStep]:
        common: dict[str, Any] = {"max_tokens": self.max_pieces, "maps": maps, "no_repeat_ngram": self.no_repeat_ngram}
        if self.sampled:
            return sample(
                captioner,
                encoder_output,
                seed=self.seed,
                temperature=self.temperature,
                top_k=self.top_k,
                top_p=self.top_p,
                **common,
            )
        if self.beams > 1:
            return beam_search(
                captioner, encoder_output, self.beams, length_normalisation=self.length_normalisation, **common
            )
        return greedy(captioner, encoder_output, **common)

    def flags(self) -> list[str]:
        """The options of ``vitrine caption`` that differ from what it does without any."""
        default = CaptionSettings()
        fields = {
            "--prompt": "prompt",
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
            "--query-layers": "query_layers",
            "--join": "join",
            "--precision": "precision",
            "--format": "kind",
        }
        flags = [*(["--sample"] if self.sampled else []), *(["--relative"] if self.relative else [])]
        flags += ["--reading", self.reading] if self.reading not in (default.reading, "relative") else []
        flags += ["--mask-sinks"] if self.without_sinks else []
        flags += ["--prompt-maps"] if self.prompt_maps else []
        for option, name in fields.items():
            if getattr(self, name) != getattr(default, name):
                value = getattr(self, name)
                flags += [option, "-".join(map(str, value)) if isinstance(value, tuple) else str(value)]
        return flags


@dataclass(frozen=True, eq=False)
class CaptionRecord:
    """One picture's caption, as results list it.

    Attributes:
        name: of the picture.
        figure: its file; None where none was written.
        caption: the text.
        log_probability: natural, of the whole caption.
        words: with their maps.
        checks: one a word.
        query_maps_NRC: what each query token read of each cell; None of captioners without.
        prompt: the prompt's words with their maps, where they have some.
    """

    name: str
    figure: Path | None
    caption: str
    log_probability: float
    words: tuple[CaptionWord, ...]
    checks: tuple[WordCheck, ...]
    query_maps_NRC: npt.NDArray[np.float32] | None = None
    prompt: tuple[CaptionWord, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, maps included; ``prompt_words`` is there where the prompt's words have maps."""
        prompt = [
            {"text": word.text, "pieces": list(word.tokens), "map": _json_numbers(word.map_RC)} for word in self.prompt
        ]
        return ({"prompt_words": prompt} if prompt else {}) | {
            "filename": self.name,
            "figure": None if self.figure is None else str(self.figure),
            "caption": self.caption,
            "log_probability": round_number(self.log_probability),
            "words": [
                {
                    "text": word.text,
                    "probability": round(word.probability, 6),
                    "pieces": list(word.tokens),
                    "map": _json_numbers(word.map_RC),
                    "check": check.to_dict(),
                    **({} if word.queries_N is None else {"query_attention": _json_numbers(word.queries_N)}),
                }
                for word, check in zip(self.words, self.checks, strict=True)
            ],
            **({} if self.query_maps_NRC is None else {"query_maps": _json_numbers(self.query_maps_NRC)}),
        }


def _json_numbers(values: npt.NDArray[np.float32]) -> list[Any]:
    """An array as nested lists."""
    if values.ndim == 1:
        return [_json_number(value) for value in values.tolist()]
    return [_json_numbers(row) for row in values]


def _json_number(value: float) -> float | None:
    """With five digits; None for NaN, which JSON does not have: a place that was left out."""
    return None if math.isnan(value) else float(f"{value:.5g}")


class PictureCaption(Protocol):
    """One picture's caption, whether its figure was written (:class:`CaptionRecord`) or can be drawn (``Caption``)."""

    @property
    def name(self) -> str:
        """Of the picture."""

    @property
    def caption(self) -> str:
        """The text."""

    @property
    def log_probability(self) -> float:
        """Natural, of the whole caption."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, maps included."""


@dataclass(frozen=True, repr=False)
class CaptionResult(ResultSequence):
    """What ``vitrine caption`` made.

    Attributes:
        out: its folder; None where nothing was written.
        captions: of the readable pictures, in order.
        table: captions.csv; None where nothing was written.
        unreadable: (name, reason) of those that cannot be read.
        unwritten: (name, reason) of those whose figure cannot be written.
        notes: sentences on which files were in use.
    """

    out: Path | None
    captions: tuple[PictureCaption, ...]
    table: Path | None
    unreadable: tuple[Unreadable, ...]
    unwritten: tuple[Unreadable, ...]
    notes: tuple[str, ...]

    def each_picture(self) -> Sequence[PictureCaption]:
        """Its caption."""
        return self.captions

    def headline(self) -> str:
        """How many captions, and where."""
        where = "" if self.out is None else f" in {self.out}"
        aside = f", {count_of(len(self.unreadable), 'picture')} could not be read" if self.unreadable else ""
        return f"{count_of(len(self.captions), 'caption')}{where}{aside}"

    def details(self) -> str:
        """The first captions."""
        return "\n".join(f"{each.name}: {each.caption}" for each in self.captions[:_SHOWN])

    def table_rows(self) -> Sequence[Mapping[str, Any]]:
        """A row a picture."""
        return [
            {"filename": each.name, "caption": each.caption, "log_probability": each.log_probability}
            for each in self.captions
        ]

    def figure_png(self) -> bytes | None:
        """The figure of the only caption in memory."""
        drawable = [each for each in self.captions if hasattr(each, "_repr_png_")]
        return drawable[0]._repr_png_() if len(drawable) == 1 else None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "captions": [caption.to_dict() for caption in self.captions],
            "unreadable": unreadable_to_json(self.unreadable),
            "unwritten": unreadable_to_json(self.unwritten),
            "notes": list(self.notes),
        }


@dataclass(frozen=True, eq=False)
class WordMaps:
    """The word maps of one caption, ready to be drawn.

    Attributes:
        words: with their maps.
        checks: one a word.
        picture: what the figure shows.
        scale: of its maps.
        prompt: the prompt's words, where they have maps.
    """

    words: tuple[CaptionWord, ...]
    checks: tuple[WordCheck, ...]
    picture: CaptionPicture
    scale: Scale
    prompt: tuple[CaptionWord, ...] = ()


def prepare_word_maps(
    picture: CaptionedPicture, captioner: Captioner, settings: CaptionSettings, model: str = ""
) -> WordMaps:
    """Join a caption's tokens to words, check the words' maps, and describe them for the figure."""
    caption = picture.caption
    words = caption_words(caption, captioner.vocabulary, settings.join)
    sinks = find_sinks(words) if captioner.question is not None else None
    if sinks is not None and settings.without_sinks:
        words = mask_sinks(words, sinks)
    checks = check_words([replace(word, map_RC=np.nan_to_num(word.map_RC)) for word in words])
    heads = f"head {settings.heads}" if isinstance(settings.heads, int) else f"{settings.heads} of heads"
    layers = describe_layers(settings.layer)
    figure_picture = CaptionPicture(
        photo_HWC=np.asarray(picture.photo),
        placement=picture.placement,
        caption=captioner.vocabulary.decode(caption.ids),
        words=tuple(
            WordPanel(word.text, word.probability, word.map_RC, not check.is_localized)
            for word, check in zip(words, checks, strict=True)
        ),
        name=picture.sample.name,
        log_probability=caption.log_probability,
        method=READINGS[settings.reading].caption_line.format(
            attention=captioner.attention, layers=layers, heads=heads
        ),
        notes=_figure_notes(picture, captioner, sinks.sentence(settings.without_sinks) if sinks else ""),
        model=model,
        question=captioner.question or captioner.prompt,
    )
    scale = Scale("uniform", shared_scale([word.map_RC for word in words]) if words else 2.0)
    if picture.prompt is None:
        return WordMaps(words, checks, figure_picture, scale)
    prompt = caption_words(picture.prompt, captioner.vocabulary, settings.join)
    panels = tuple(WordPanel(word.text, None, word.map_RC) for word in prompt)
    line = LINE.format(attention=captioner.attention, layers=layers, heads=heads)
    return WordMaps(words, checks, replace(figure_picture, prompt=panels, prompt_line=line), scale, prompt)


def _figure_notes(picture: CaptionedPicture, captioner: Captioner, of_sinks: str) -> tuple[str, ...]:
    question = f"Goes on from: {captioner.prompt}" if captioner.prompt else ""
    question = question if captioner.question is None else f"Asked: {captioner.question}"
    return tuple(filter(None, (question, picture.caption.length_note, of_sinks)))


@dataclass(frozen=True)
class CaptionProvenance:
    """What the figures of one call say of their origin.

    Attributes:
        model: the captioner's reference, as it was given.
        captioner: the model.
        settings: of the decoding.
        flags: options of the command beside those of the settings.
        verb: "caption", or "ask", which takes the prompt as an argument and writes one file.
    """

    model: str
    captioner: Captioner
    settings: CaptionSettings
    flags: Sequence[str] = ()
    verb: Literal["caption", "ask"] = "caption"

    def call(self, pictures: tuple[str, ...] | None) -> FigureCall:
        """What the figures of a folder have to agree in; ``pictures`` as :class:`FigureCall` has them."""
        return FigureCall("caption", (self.model, *self.flags, *self.settings.flags()), pictures)

    @property
    def origin(self) -> CaptionOrigin:
        """The same, without the model itself."""
        captioner = self.captioner
        settings = replace(self.settings, precision=captioner.precision)  # weights saved in 4 bits are in no other
        return CaptionOrigin(
            self.model, captioner.weights.sha256, captioner.attention, settings, tuple(self.flags), self.verb
        )

    def of(self, sample: Sample, path: Path | None, out: str) -> Provenance:
        """As :meth:`CaptionOrigin.of`."""
        return self.origin.of(sample, path, out)


@dataclass(frozen=True)
class CaptionOrigin:
    """What one caption's figure says of its origin, once the model is no longer needed.

    Attributes:
        model, settings, flags, verb: as of :class:`CaptionProvenance`.
        weights_sha256: of the captioner.
        attention: the kind that its maps show.
    """

    model: str
    weights_sha256: str
    attention: str
    settings: CaptionSettings
    flags: tuple[str, ...]
    verb: Literal["caption", "ask"]

    def of(self, sample: Sample, path: Path | None, out: str) -> Provenance:
        """The provenance of one figure, with the command that makes it again where there is one.

        Args:
            sample: the picture.
            path: the picture's, as the command takes it; None of one in memory.
            out: the folder of the figure; of ``ask``, the figure.
        """
        settings = self.settings
        question = [settings.prompt or ""] if self.verb == "ask" else []
        flags = replace(settings, prompt=None, kind="png").flags() if question else settings.flags()
        layer = describe_layers(settings.layer) if isinstance(settings.layer, tuple) else str(settings.layer)
        command = ["vitrine", self.verb, self.model, str(path), *question, "-o", out, *self.flags, *flags]
        return Provenance(
            figure="caption",
            model=self.model,
            weights_sha256=self.weights_sha256,
            picture=str(path or sample.name),
            picture_sha256=None if path is None else hashlib.sha256(sample.picture.read_bytes()).hexdigest(),
            method=self.attention if settings.reading == "attention" else settings.reading,
            layer=layer if READINGS[settings.reading].has_layers else None,
            heads=str(settings.heads) if READINGS[settings.reading].has_layers else None,
            precision=settings.precision,
            command=None if path is None else shlex.join(command),
        )


@writes_folder("caption")
def caption_pictures(
    model: str | Captioner,
    images: Path | PictureInput,
    out: Path,
    settings: CaptionSettings,
    *,
    architecture: str | None = None,
    vocabulary: Path | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    progress: Progress = no_progress,
    download: Progress = no_progress,
    replace_others: bool = False,
) -> CaptionResult:
    """Caption every picture and draw its word maps; what was drawn before an interruption stays.

    Of pictures that come one by one no more than two batches are held.

    Args:
        model: ``catr/v1``, ``catr/v2``, ``catr/v3``; with ``architecture``, a weights file; or an open captioner.
        images: a folder, searched with its sub-folders, or one picture; or pictures that were given in Python.
        out: the folder of figures and captions.csv.
        settings: how captions are decoded.
        architecture: ``catr`` where ``model`` is a file.
        vocabulary: the captioner's vocab.txt or tokenizer.json; None finds it.
        limit: pictures at most; with more, a choice drawn with the settings' seed (of pictures whose number is not
            known, the first). None takes all.
        batch_size: pictures at a time; captions do not depend on it but for rounding.
        progress: called with pictures done, of how many.
        download: called with bytes done, of how many.
        replace_others: remove the figures of another call from ``out``, instead of refusing to draw beside them.

    Raises:
        DataError: no pictures, or none that can be read.
        ModelError, WeightsUnavailableError: the captioner cannot be opened.
        RunError: ``out`` has figures of another call.
    """
    pictures = images if isinstance(images, PictureInput) else picture_input(images)
    samples = pictures.choose(limit, settings.seed)
    captioner = open_captioner(model, architecture, vocabulary, download, settings.precision)
    captioner = settings.prepare(captioner)
    figures = figures_of(samples, settings.kind)
    remove_unfinished(out, *{(out / figure).parent for figure in figures.values()})
    provenance = CaptionProvenance(captioner.reference, captioner, settings, captioner_flags(architecture, vocabulary))
    call = provenance.call(picture_choice(pictures.path, limit, settings.seed))
    is_stream = count_at_hand(samples) is None
    claim = claim_folder(out, call, (*figures.values(), _TABLE), replace=replace_others, is_stream=is_stream)
    writer = CaptionWriter(provenance, pictures.path, out, figures, out / _TABLE, claim=claim)
    writer.caption(samples, batch_size, progress)
    result = writer.finish()
    return replace(result, notes=(*result.notes, *pictures.notes))


def captioner_flags(architecture: str | None, vocabulary: Path | None) -> list[str]:
    """The options that say what a captioner's weights file is."""
    flags = ["--arch", architecture] if architecture else []
    return flags + (["--vocab", str(vocabulary)] if vocabulary else [])


class CaptionWriter:
    """Captions pictures and writes their figures and rows, batch by batch.

    Args:
        provenance: of the figures; it has the captioner and the settings.
        images: the folder, or the one picture, that was given; None of pictures in memory.
        out: the folder of figures.
        figures: the path of each picture's figure from ``out`` on, by the picture's name.
        table: the CSV; unfinished it is ``TABLE.partial``.
        is_folder: whether a picture's path is ``images`` and its name; None looks.
        claim: the folder, which is made this call's own before the first figure; None where others see to it.

    Attributes:
        records: of the pictures that were captioned.
        unreadable: (name, reason) of those that cannot be read.
        unwritten: (name, reason) of those whose figure cannot be written: one of them does not end the others.
    """

    def __init__(
        self,
        provenance: CaptionProvenance,
        images: Path | None,
        out: Path,
        figures: Mapping[str, str],
        table: Path,
        *,
        is_folder: bool | None = None,
        claim: FolderClaim | None = None,
    ) -> None:
        self.provenance, self.images, self.out, self.figures = provenance, images, out, figures
        self.claim = claim or FolderClaim(out)
        self.captioner, self.settings, self.table = provenance.captioner, provenance.settings, table
        self.is_folder = images is not None and images.is_dir() if is_folder is None else is_folder
        self.records: list[CaptionRecord] = []
        self.unreadable: list[Unreadable] = []
        self.unwritten: list[Unreadable] = []
        out.mkdir(parents=True, exist_ok=True)
        self._partial = beside(table, ".partial")
        self._partial.write_bytes(CAPTION_HEADER)

    def caption(self, samples: Iterable[Sample], batch_size: int, progress: Progress = no_progress) -> None:
        """Caption pictures; see :func:`vitrine.caption.inference.caption_batches`."""
        for batch in caption_batches(
            self.captioner,
            samples,
            self.settings.decode,
            read=self.settings.read,
            read_prompts=self.settings.read_prompts,
            batch_size=batch_size,
            progress=progress,
        ):
            self._write(batch)
            del batch  # its photographs need not wait for the next ones

    def _write(self, batch: BatchCaptions) -> None:
        self.unreadable += batch.unreadable
        if batch.pictures:
            self.claim.take()
            self.claim.add([self.figures[picture.sample.name] for picture in batch.pictures])
        with writing(self.table, self._partial), self._partial.open("ab") as rows:
            for picture in batch.pictures:
                try:
                    row = self._draw(picture)
                except OSError as error:
                    self.unwritten.append(unwritten_picture(picture.sample.name, error))
                else:
                    rows.write(row)

    def _draw(self, picture: CaptionedPicture) -> bytes:
        """Write one figure; the row of its picture."""
        sample, word_maps = (
            picture.sample,
            prepare_word_maps(picture, self.captioner, self.settings, self.provenance.model),
        )
        figure, caption = self.out / self.figures[sample.name], word_maps.picture.caption
        path = path_in(self.images, sample, self.is_folder)
        provenance = self.provenance.of(sample, path, str(figure.parent))
        save_caption_figure(word_maps.picture, word_maps.scale, figure, provenance.to_metadata())
        log_probability = picture.caption.log_probability
        self.records.append(
            CaptionRecord(
                sample.name,
                figure,
                caption,
                log_probability,
                word_maps.words,
                word_maps.checks,
                picture.query_maps_NRC,
                word_maps.prompt,
            )
        )
        return caption_row(word_maps.picture)

    def finish_table(self) -> None:
        """Give the table its name; that of a call before stays where some of its figures were drawn anew."""
        if self.claim.redraws:
            self._partial.unlink()
            return
        if self.claim.adds and self.table.is_file():
            rows = self._partial.read_bytes().removeprefix(CAPTION_HEADER)
            self._partial.write_bytes(read_file(self.table, MAX_TEXT_BYTES) + rows)
        self._partial.replace(self.table)

    def finish(self) -> CaptionResult:
        """Give the table its name, and say what was made.

        Raises:
            DataError: none of the pictures can be read.
        """
        if not self.records:
            raise none_drawn(self.unreadable, self.unwritten)
        self.finish_table()
        self.claim.finish()
        return CaptionResult(
            self.out,
            tuple(self.records),
            self.table,
            tuple(self.unreadable),
            tuple(self.unwritten),
            (*self.captioner.notes, *self.claim.notes),
        )
