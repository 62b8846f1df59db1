"""A captioner that is served: loaded once, pictures encoded once, captions sent word by word as they are decoded.

Axes: C channels, H, W pixels of the captioner's input.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from PIL import Image

from vitrine.attribution.placement import Placement
from vitrine.caption.beam_search import beam_search
from vitrine.caption.decoding import DecodedCaption
from vitrine.caption.model import Captioner
from vitrine.caption.run import CaptionSettings
from vitrine.caption.sampling import Candidate, PrefixStep, continue_prefix
from vitrine.caption.word_localization import check_words
from vitrine.caption.word_maps import CaptionWord, caption_words, group_tokens
from vitrine.models.captioner.inference import has_bf16_image_encoder
from vitrine.models.captioner.model import EncoderOutput
from vitrine.models.precision import autocast
from vitrine.plotting.colormap import Scale, shared_scale
from vitrine.serve.galleries import NO_PICTURES, Gallery
from vitrine.serve.model import Encoding, ServedModel, output_folder
from vitrine.serve.schema import Alternative, Array, BeamCaption, CaptionResult, ScaleInfo, WordInfo
from vitrine.serve.worker import Job

OnWord = Callable[[WordInfo], None]


@dataclass(frozen=True, eq=False)
class CaptionerEncoding(Encoding):
    """One picture as one captioner saw it.

    Attributes:
        encoder_output: the encoder's output, from which captions are decoded.
    """

    encoder_output: EncoderOutput

    @property
    def nbytes(self) -> int:
        """Bytes of the encoder's output."""
        return _count_bytes(self.encoder_output.features)


class ServedCaptioner(ServedModel[CaptionerEncoding]):
    """One captioner. ``encode``, ``decode`` and ``caption`` run it: call them in the worker's thread only.

    Attributes:
        model: the captioner.
        flags: options that a command needs beside the reference to load this captioner.
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

    @property
    def weights_sha256(self) -> str | None:
        """sha256 of the weights file."""
        return self.model.weights.sha256

    def prepare(self, photo: Image.Image) -> torch.Tensor:
        """A photograph as the captioner's input: float32 (C, H, W). May run in any thread."""
        pixels_CHW: Any = self.model.transform(photo)  # a tensor: models that take a prompt are not served
        return pixels_CHW  # type: ignore[no-any-return]

    def encode(self, sha256: str, size: tuple[int, int], input_CHW: torch.Tensor) -> CaptionerEncoding:
        """Run the image encoder once; see :meth:`vitrine.serve.model.ServedModel.encode`."""
        with torch.inference_mode(), self._autocast():
            encoder_output = self.model.module.encode([input_CHW.to(self.model.device)])
        geometry: Any = self.model.transform.geometry(*size)  # the kinds of transform have a box in common
        return CaptionerEncoding(sha256, Placement(geometry, *encoder_output.grids[0]), encoder_output)

    def settings(self, beams: int, kind: str = "png") -> CaptionSettings:
        """The settings of ``vitrine caption`` that give the same caption."""
        return CaptionSettings(beams=beams, precision=self.precision, kind=kind)

    def decode(self, encoding: CaptionerEncoding, beams: int, prefix: Sequence[int], job: Job) -> DecodedCaption:
        """Decode one caption; the arguments and errors are those of :meth:`caption`."""
        *_, last = self._decode_steps(encoding, beams, prefix, job)
        return last.step.captions[0]

    def caption(
        self,
        encoding: CaptionerEncoding,
        beams: int,
        prefix: Sequence[int],
        argument: str | None,
        job: Job,
        on_word: OnWord,
    ) -> CaptionResult:
        """Decode one caption and pass on each word as soon as it is complete.

        Args:
            encoding: of the picture.
            beams: 1 is greedy; with more, all words come at the end, when it is known which caption is best.
            prefix: ids of the tokens that the caption begins with; for one beam only.
            argument: the picture as a command line takes it; None where no command can.
            job: the job that asks; cancelling it stops the decoding before the next token.
            on_word: called with each complete word.

        Raises:
            ModelError: the prefix cannot be continued.
            JobCancelled: the job was cancelled.
        """
        stream = _WordStream(self.model, encoding, on_word)
        last: PrefixStep | None = None
        for last in self._decode_steps(encoding, beams, prefix, job):
            stream.add_token(last.candidates, last.step.captions[0] if beams == 1 else None)
        assert last is not None
        caption = last.step.captions[0]
        words = stream.finish(caption)
        beam_nodes = last.step.hypotheses[0] if last.step.hypotheses else last.step.best
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
            beams=[self._beam(node.to_caption(caption.grid, caption.padded_grid)) for node in beam_nodes],
            picture=encoding.sha256,
            size=encoding.size,
            scale=ScaleInfo(kind="uniform", high=scale.high, label=scale.name),
            described=self.map_description,
            command=None if prefix or argument is None else self.command(argument, beams),
        )

    def _beam(self, caption: DecodedCaption) -> BeamCaption:
        text = self.model.vocabulary.decode(caption.ids)
        return BeamCaption(caption=text, log_probability=caption.log_probability, score=caption.score())

    @property
    def map_description(self) -> str:
        """What the words' maps are, in words for a person."""
        return f"{self.model.attention} of the query that predicted each word, last decoder layer, mean of heads"

    def command(self, argument: str, beams: int) -> str:
        """The command line that captions the picture; it has no option for a prefix."""
        flags = [*self.flags, *self.settings(beams).flags()]
        out = output_folder("captions", self.reference, flags)
        return shlex.join(["vitrine", "caption", self.reference, argument, "-o", out, *flags])

    def _decode_steps(
        self, encoding: CaptionerEncoding, beams: int, prefix: Sequence[int], job: Job
    ) -> Iterator[PrefixStep]:
        assert beams == 1 or not prefix
        module, encoder_output = self.model.module, encoding.encoder_output
        steps: Iterator[Any] = (
            continue_prefix(module, encoder_output, prefix)
            if beams == 1
            else beam_search(module, encoder_output, beams)
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

    def __init__(self, model: Captioner, encoding: CaptionerEncoding, on_word: OnWord) -> None:
        self._model, self._encoding, self._on_word = model, encoding, on_word
        self._candidates: list[tuple[Candidate, ...]] = []
        self.words: list[WordInfo] = []

    def add_token(self, candidates: tuple[Candidate, ...], caption: DecodedCaption | None) -> None:
        """Add the next token with its candidates; ``caption`` is None while several beams compete for it."""
        self._candidates.append(candidates)
        # The next token may still belong to the last word, but to no earlier one.
        if caption is not None and len(group_tokens(caption.ids, self._model.vocabulary)) > len(self.words) + 1:
            self._pass_on(caption, is_complete=False)

    def finish(self, caption: DecodedCaption) -> tuple[CaptionWord, ...]:
        """Pass on the remaining words; returns all words of the caption."""
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
        left_out = (module.start, module.end, module.pad, ids[place])
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
