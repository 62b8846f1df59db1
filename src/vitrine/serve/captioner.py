"""A captioner that is served: loaded once, pictures encoded once, captions sent word by word as they are decoded.

Axes: C channels, H, W pixels of the captioner's input.
"""

from __future__ import annotations

import copy
import shlex
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from vitrine.attribution.placement import Placement
from vitrine.caption.attention_sinks import find_sinks
from vitrine.caption.beam_search import beam_search
from vitrine.caption.decoding import DecodedCaption, MapChoice, describe_layers, end_ids
from vitrine.caption.inference import EncodedBatch
from vitrine.caption.model import Captioner
from vitrine.caption.readings import READINGS, has_reading, read_maps, require_reading
from vitrine.caption.run import CaptionSettings
from vitrine.caption.sampling import Candidate, PrefixStep, continue_prefix
from vitrine.caption.word_localization import check_words
from vitrine.caption.word_maps import CaptionWord, caption_words, group_tokens
from vitrine.models.captioner.inference import has_bf16_image_encoder
from vitrine.models.captioner.model import EncoderOutput
from vitrine.models.precision import autocast
from vitrine.models.vlm.prompt import PromptTransform
from vitrine.plotting.colormap import Scale, shared_scale
from vitrine.results import Progress, no_progress
from vitrine.serve.errors import ApiError
from vitrine.serve.galleries import NO_PICTURES, Gallery
from vitrine.serve.model import Encoding, ServedModel, output_folder
from vitrine.serve.schema import Alternative, Array, BeamCaption, CaptionResult, ScaleInfo, WordInfo
from vitrine.serve.worker import Job

OnWord = Callable[[WordInfo], None]
Layers = int | tuple[int, int] | Literal["mean"]

MAX_ANSWERS = 4
"""Captions that are kept with an encoding, so that their maps of other layers need no further run of the model."""

_ALL_LAYERS = MapChoice("all", "mean")


@dataclass(frozen=True)
class Decoding:
    """How a caption is decoded.

    Attributes:
        beams: 1 is greedy; with more, all words come at the end, when it is known which caption is best.
        prefix: ids of the tokens that the caption begins with; for one beam only.
        max_pieces: word pieces at most; None: as many as the captioner can.
    """

    beams: int = 1
    prefix: tuple[int, ...] = ()
    max_pieces: int | None = None


@dataclass(frozen=True, eq=False)
class Answer:
    """A decoded caption, of whose maps any layer can be read.

    Attributes:
        caption: with maps of every layer, mean over heads.
        candidates: of each place, what might have stood there; empty of beam search.
        beams: all complete captions, the best first.
        readings: the same caption with the maps of readings that come after decoding, by the reading's name.
    """

    caption: DecodedCaption
    candidates: tuple[tuple[Candidate, ...], ...]
    beams: tuple[BeamCaption, ...]
    readings: dict[str, DecodedCaption] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of all its maps."""
        return sum(each.maps_TLHK.nbytes for each in (self.caption, *list(self.readings.values())))


@dataclass(frozen=True, eq=False)
class PreparedPicture:
    """A picture as a captioner takes it.

    Attributes:
        model_input: a tensor, or a prompt with the picture.
        photo: mode RGB, upright, where a reading may need it again; None elsewhere.
    """

    model_input: Any
    photo: Image.Image | None


@dataclass(frozen=True, eq=False)
class CaptionerEncoding(Encoding):
    """One picture as one captioner saw it.

    Attributes:
        encoder_output: the encoder's output, from which captions are decoded.
        photo: of a vision-language model's picture; None of others.
        answers: captions that were decoded of it, the newest :data:`MAX_ANSWERS`.
    """

    encoder_output: EncoderOutput
    photo: Image.Image | None = None
    answers: dict[Decoding, Answer] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of the encoder's output, of the photograph and of the captions' maps."""
        photo = 0 if self.photo is None else 3 * self.photo.width * self.photo.height
        maps = sum(answer.nbytes for answer in list(self.answers.values()))
        return _count_bytes(self.encoder_output.features) + photo + maps


class ServedCaptioner(ServedModel[CaptionerEncoding]):
    """One captioner. ``encode``, ``answer`` and ``caption`` run it: call them in the worker's thread only.

    Attributes:
        model: the captioner.
        flags: options that a command needs beside the reference to load this captioner.
        reading: how the words' maps are read.
    """

    kind: Literal["captioner"] = "captioner"

    def __init__(
        self,
        model_id: str,
        reference: str,
        model: Captioner,
        precision: str,
        flags: Sequence[str] = (),
        gallery: Gallery = NO_PICTURES,
    ) -> None:
        super().__init__(model_id, reference, precision, gallery)
        self.model, self.flags = model, tuple(flags)
        self.notes = list(model.notes)
        self.is_slow = model.question is not None
        self.reading = next(iter(READINGS))

    def asking(self, prompt: str | None, reading: str = "attention") -> ServedCaptioner:
        """The same captioner with a question, whose maps are read in this way of
        :data:`vitrine.caption.readings.READINGS`.

        Args:
            prompt: the question; None takes the model's own captioning prompt.
            reading: how maps are read.

        Raises:
            ApiError: the captioner takes no question.
            UsageError: the question is empty, or holds the sign of a picture; or its maps cannot be read so.
        """
        if prompt is None and reading == self.reading:
            return self
        if self.model.question is None:
            raise ApiError(422, f"{self.reference} answers no questions: leave prompt and reading out.", "kind")
        require_reading(self.model, reading)
        captioner = copy.copy(self)
        captioner.model, captioner.reading = self.model.with_prompt(prompt, reading == "relative"), reading
        return captioner

    @property
    def question(self) -> str | None:
        """What is asked of every picture; None of a captioner that is asked nothing."""
        return self.model.question

    @property
    def readings(self) -> tuple[str, ...]:
        """The ways to read its maps that can be chosen; none where there is no choice."""
        if self.question is None:
            return ()
        return tuple(each.name for each in READINGS.values() if has_reading(self.model, each))

    @property
    def layers(self) -> int:
        """Decoder layers that can be chosen of a vision-language model; 0 of other captioners."""
        if self.question is None:
            return 0
        return int(self.model.module.model.config.get_text_config().num_hidden_layers)

    @property
    def module(self) -> torch.nn.Module:
        """The model itself."""
        module: torch.nn.Module = self.model.module
        return module

    @property
    def encoding_key(self) -> Hashable:
        """The model and, where it is asked one, the question, and how maps are read."""
        return self.id if self.question is None else (self.id, self.question, self.is_relative)

    @property
    def is_relative(self) -> bool:
        """Whether maps are divided by that of a neutral prompt."""
        transform = self.model.transform
        return isinstance(transform, PromptTransform) and transform.is_relative

    @property
    def weights_sha256(self) -> str | None:
        """sha256 of the weights file."""
        return self.model.weights.sha256

    def prepare(self, photo: Image.Image) -> Any:
        """A photograph as the captioner's input. May run in any thread."""
        return PreparedPicture(self.model.transform(photo), photo if self.question is not None else None)

    def encode(self, sha256: str, size: tuple[int, int], model_input: Any) -> CaptionerEncoding:
        """Run the image encoder once; see :meth:`vitrine.serve.model.ServedModel.encode`."""
        with torch.inference_mode(), self._autocast():
            encoder_output = self.model.module.encode([model_input.model_input.to(self.model.device)])
        geometry: Any = self.model.transform.geometry(*size)  # the kinds of transform have a box in common
        placement = Placement(geometry, *encoder_output.grids[0])
        return CaptionerEncoding(sha256, placement, encoder_output, model_input.photo)

    def settings(self, decoding: Decoding, layers: Layers = -1, kind: str = "png") -> CaptionSettings:
        """The settings of ``vitrine caption`` that give the same caption.

        Raises:
            UsageError: layers of a reading that has none.
        """
        transform = self.model.transform
        return CaptionSettings(
            beams=decoding.beams,
            max_pieces=decoding.max_pieces,
            layer=layers,
            precision=self.precision,
            kind=kind,
            prompt=transform.prompt if isinstance(transform, PromptTransform) else None,
            reading=self.reading,
        )

    def answer(
        self,
        encoding: CaptionerEncoding,
        decoding: Decoding,
        job: Job,
        on_step: Callable[[PrefixStep], None] = lambda _step: None,
    ) -> Answer:
        """Decode one caption, or take the one that was decoded before.

        Args:
            encoding: of the picture.
            decoding: how.
            job: the job that asks; cancelling it stops the decoding before the next token.
            on_step: called with each step, if there are any.

        Raises:
            ModelError: the prefix cannot be continued, or the answer does not fit into the model's context.
            JobCancelled: the job was cancelled.
        """
        if decoding in encoding.answers:
            return encoding.answers[decoding]
        candidates: list[tuple[Candidate, ...]] = []
        last: PrefixStep | None = None
        for last in self._decode_steps(encoding, decoding, job):
            candidates.append(last.candidates)
            on_step(last)
        assert last is not None
        caption = last.step.captions[0]
        beam_nodes = last.step.hypotheses[0] if last.step.hypotheses else last.step.best
        beams = tuple(self._beam(node.to_caption(caption.grid, caption.padded_grid)) for node in beam_nodes)
        answer = encoding.answers[decoding] = Answer(caption, tuple(candidates), beams)
        for old in list(encoding.answers)[:-MAX_ANSWERS]:
            del encoding.answers[old]
        return answer

    def read(
        self,
        answer: Answer,
        encoding: CaptionerEncoding,
        layers: Layers,
        job: Job,
        progress: Progress = no_progress,
    ) -> DecodedCaption:
        """A caption with the maps of these layers, as they are read here; those of a reading that comes after decoding
        are kept with the answer.

        Args:
            answer: that was decoded.
            encoding: of the picture.
            layers: of the decoder; -1 where the reading has none.
            job: the job that asks; cancelling it stops the reading.
            progress: called with cells done, of how many.

        Raises:
            ModelError: there is no such layer.
            JobCancelled: the job was cancelled.
        """
        reading = READINGS[self.reading]
        if reading.during_decoding:
            return self.with_layers(answer.caption, encoding, layers)
        if self.reading not in answer.readings:
            photos = () if encoding.photo is None else (encoding.photo,)
            batch = EncodedBatch(self.model, encoding.encoder_output, (), photos)
            with torch.inference_mode(), self._autocast(), self.stop_when_cancelled(job):
                (caption,) = read_maps(self.reading, batch, [answer.caption], _ALL_LAYERS, progress)
            answer.readings[self.reading] = caption
        caption = answer.readings[self.reading]
        return self.with_layers(caption, encoding, layers) if reading.has_layers else caption

    def with_layers(self, caption: DecodedCaption, encoding: CaptionerEncoding, layers: Layers) -> DecodedCaption:
        """A caption with the maps of these layers, of one with the maps of all; relative to the neutral prompt's where
        that is how maps are read.

        Raises:
            ModelError: there is no such layer.
        """
        maps = MapChoice(layers, "mean")
        kept_LTHK = torch.from_numpy(caption.maps_TLHK).transpose(0, 1)
        caption = replace(caption, maps_TLHK=maps.of(kept_LTHK).numpy())
        if not self.is_relative:
            return caption
        neutral_LPHK = self.model.module.neutral_attention(encoding.encoder_output)
        baseline_LHK: npt.NDArray[np.float32] = maps.of(neutral_LPHK).numpy()[0]
        return caption.relative_to(baseline_LHK)

    def caption(
        self,
        encoding: CaptionerEncoding,
        decoding: Decoding,
        layers: Layers,
        argument: str | None,
        job: Job,
        on_word: OnWord,
        progress: Progress = no_progress,
    ) -> CaptionResult:
        """Decode one caption and pass on each word as soon as it is complete.

        Words of a reading that comes after decoding are passed on with maps of attention, and have their own in the
        result.

        Args:
            encoding: of the picture.
            decoding: how.
            layers: of the decoder, whose maps are shown.
            argument: the picture as a command line takes it; None where no command can.
            job: the job that asks; cancelling it stops the decoding before the next token.
            on_word: called with each complete word.
            progress: called with cells done, of how many, while maps are made after decoding.

        Raises:
            ModelError: the prefix cannot be continued, there is no such layer, or the answer does not fit.
            JobCancelled: the job was cancelled.
        """
        stream = _WordStream(self, encoding, layers, on_word)
        answer = self.answer(encoding, decoding, job, stream.add_step if decoding.beams == 1 else lambda _step: None)
        words = stream.finish(self.with_layers(answer.caption, encoding, layers), answer.candidates)
        caption = self.read(answer, encoding, layers, job, progress)
        if not READINGS[self.reading].during_decoding:
            stream = _WordStream(self, encoding, layers, lambda _word: None)
            words = stream.finish(caption, answer.candidates)
        scale = Scale("uniform", shared_scale([word.map_RC for word in words]) if words else 2.0)
        checks = check_words(words)
        return CaptionResult(
            caption=self.model.vocabulary.decode(caption.ids),
            log_probability=caption.log_probability,
            finished=caption.has_end,
            words=[
                info.model_copy(update={"looked": check.is_localized, "check": check.sentence})
                for info, check in zip(stream.words, checks, strict=True)
            ],
            beams=list(answer.beams),
            picture=encoding.sha256,
            size=encoding.size,
            scale=ScaleInfo(kind="uniform", high=scale.high, label=scale.name),
            described=self.describe_maps(layers),
            prompt=self.question,
            notes=self._notes(caption, words),
            command=None if decoding.prefix or argument is None else self.command(argument, decoding, layers),
        )

    def _notes(self, caption: DecodedCaption, words: Sequence[CaptionWord]) -> list[str]:
        """That the caption was cut, and which places draw attention whatever the word is."""
        sinks = find_sinks(words).sentence(is_masked=False) if self.question is not None and words else ""
        return [note for note in (caption.length_note, sinks) if note]

    def _beam(self, caption: DecodedCaption) -> BeamCaption:
        text = self.model.vocabulary.decode(caption.ids)
        return BeamCaption(caption=text, log_probability=caption.log_probability, score=caption.score())

    def describe_maps(self, layers: Layers) -> str:
        """What the words' maps are, in words for a person."""
        line = READINGS[self.reading].caption_line
        return line.format(attention=self.model.attention, layers=describe_layers(layers), heads="mean of heads")

    def command(self, argument: str, decoding: Decoding, layers: Layers = -1) -> str:
        """The command line that captions the picture; it has no option for a prefix."""
        flags = [*self.flags, *self.settings(decoding, layers).flags()]
        out = output_folder("captions", self.reference, flags)
        return shlex.join(["vitrine", "caption", self.reference, argument, "-o", out, *flags])

    def _decode_steps(self, encoding: CaptionerEncoding, decoding: Decoding, job: Job) -> Iterator[PrefixStep]:
        assert decoding.beams == 1 or not decoding.prefix
        module, encoder_output = self.model.module, encoding.encoder_output
        common: dict[str, Any] = {"max_tokens": decoding.max_pieces, "maps": _ALL_LAYERS}
        steps: Iterator[Any] = (
            continue_prefix(module, encoder_output, decoding.prefix, **common)
            if decoding.beams == 1
            else beam_search(module, encoder_output, decoding.beams, **common)
        )
        while True:
            with torch.inference_mode(), self._autocast():
                step = next(steps, None)
            if step is None:
                return
            job.raise_if_cancelled()
            yield step if isinstance(step, PrefixStep) else PrefixStep(step, ())

    def _autocast(self) -> Any:
        has_bf16_weights = has_bf16_image_encoder(self.model.module)
        return autocast(self.model.device, "fp32" if has_bf16_weights else self.precision)


class _WordStream:
    """Collects tokens, and passes on each word once no further token can belong to it."""

    def __init__(
        self, captioner: ServedCaptioner, encoding: CaptionerEncoding, layers: Layers, on_word: OnWord
    ) -> None:
        self._captioner, self._encoding, self._layers, self._on_word = captioner, encoding, layers, on_word
        self._model = captioner.model
        self._candidates: list[tuple[Candidate, ...]] = []
        self.words: list[WordInfo] = []

    def add_step(self, step: PrefixStep) -> None:
        """Add the next token of the only caption, with its candidates."""
        self._candidates.append(step.candidates)
        ids = [node.id for node in step.step.best[0].tokens()]
        # The next token may still belong to the last word, but to no earlier one.
        if len(group_tokens(ids, self._model.vocabulary)) > len(self.words) + 1:
            caption = self._captioner.with_layers(step.step.captions[0], self._encoding, self._layers)
            self._pass_on(caption, is_complete=False)

    def finish(self, caption: DecodedCaption, candidates: Sequence[tuple[Candidate, ...]]) -> tuple[CaptionWord, ...]:
        """Pass on the remaining words; returns all words of the caption."""
        self._candidates = list(candidates)
        return self._pass_on(caption, is_complete=True)

    def _pass_on(self, caption: DecodedCaption, is_complete: bool) -> tuple[CaptionWord, ...]:
        vocabulary = self._model.vocabulary
        words, token_places = caption_words(caption, vocabulary), group_tokens(caption.ids, vocabulary)
        for index in range(len(self.words), len(words) if is_complete else len(words) - 1):
            word, places = words[index], token_places[index]
            info = WordInfo(
                index=index,
                text=word.text,
                probability=word.probability,
                map=Array.of(word.map_RC),
                grid=list(word.map_RC.shape),
                box=self._encoding.box,
                pieces=list(caption.ids[: places[-1] + 1]),
                alternatives=self._alternatives(caption.ids, places[0]),
                looked=None,
                check=None,
            )
            self.words.append(info)
            self._on_word(info)
        return words

    def _alternatives(self, ids: Sequence[int], place: int) -> list[Alternative]:
        """Other likely tokens in place of a word's first one, each with the prefix that continues with it."""
        module = self._model.module
        left_out = {module.start, module.pad, ids[place], *end_ids(module)}
        return [
            Alternative(
                pieces=[*ids[:place], candidate.id],
                text=self._token_text(candidate.id),
                probability=candidate.probability,
            )
            for candidate in self._candidates[place]
            if candidate.id not in left_out
        ]

    def _token_text(self, token_id: int) -> str:
        """A token for a person; one that continues the word before it has an ellipsis in front."""
        vocabulary = self._model.vocabulary
        text = vocabulary.decode([token_id]) or vocabulary.token(token_id)
        return f"…{text.removeprefix('##')}" if vocabulary.is_continuation(token_id) else text


def _count_bytes(features: Any) -> int:
    """Bytes of all tensors in nested containers and objects."""
    if isinstance(features, torch.Tensor):
        return features.untyped_storage().nbytes()
    if isinstance(features, dict):
        return sum(map(_count_bytes, features.values()))
    if isinstance(features, list | tuple):
        return sum(map(_count_bytes, features))
    return sum(map(_count_bytes, vars(features).values())) if hasattr(features, "__dict__") else 64
