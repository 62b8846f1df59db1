"""A captioner that is served: opened once, pictures encoded once, captions told word by word.

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
from vitrine.caption.word_maps import CaptionWord, caption_words, check_words, group_tokens
from vitrine.models.captioner.inference import has_bf16_image_encoder
from vitrine.models.captioner.model import EncoderOutput
from vitrine.models.precision import autocast
from vitrine.plotting.colormap import Scale, shared_scale
from vitrine.serve.errors import ApiError
from vitrine.serve.schema import Alternative, Array, BeamCaption, CaptionResult, ScaleInfo, WordInfo
from vitrine.serve.worker import Job

Say = Callable[[WordInfo], None]


@dataclass(frozen=True, eq=False)
class EncodedCaption:
    """One picture as one captioner saw it.

    Attributes:
        sha256: of the file.
        placement: of the grid on the photograph.
        encoder_output: what words are decoded from.
    """

    sha256: str
    placement: Placement
    encoder_output: EncoderOutput

    @property
    def nbytes(self) -> int:
        """Bytes of the encoding."""
        return _bytes(self.encoder_output.features)

    @property
    def size(self) -> list[int]:
        """Width and height of the photograph."""
        return [self.placement.geometry.width, self.placement.geometry.height]

    @property
    def box(self) -> list[float]:
        """Left, top, width and height of the grid on the photograph, in its pixels."""
        left, top, right, bottom = self.placement.geometry.box
        return [left, top, right - left, bottom - top]


class ServedCaptioner:
    """One captioner. ``encode`` and ``caption`` run it: call them in the worker's thread alone.

    Attributes:
        id: in addresses.
        reference: as it was given.
        opened: the captioner.
        precision: that its pictures are encoded in.
        flags: options of a command that say which captioner it is, beside the reference.
    """

    kind: Literal["captioner"] = "captioner"

    def __init__(
        self, number: str, reference: str, opened: Captioner, precision: str, flags: Sequence[str] = ()
    ) -> None:
        self.id, self.reference, self.opened = number, reference, opened
        self.precision, self.flags = precision, tuple(flags)
        self.notes = list(opened.notes)

    @property
    def weights_sha256(self) -> str | None:
        """Of the weights file."""
        return self.opened.weights.sha256

    def prepare(self, photo: Image.Image) -> torch.Tensor:
        """What the captioner sees of a photograph: float32 (C, H, W). For any thread."""
        pixels_CHW: torch.Tensor = self.opened.transform(photo)
        return pixels_CHW

    def encode(self, sha256: str, size: tuple[int, int], prepared_CHW: torch.Tensor) -> EncodedCaption:
        """Run the image side once."""
        with torch.inference_mode(), self._rounded():
            encoder_output = self.opened.module.encode([prepared_CHW.to(self.opened.device)])
        geometry: Any = self.opened.transform.geometry(*size)  # the kinds of transform have a box in common
        return EncodedCaption(sha256, Placement(geometry, *encoder_output.grids[0]), encoder_output)

    def settings(self, beams: int, kind: str = "png") -> CaptionSettings:
        """Of a decoding."""
        return CaptionSettings(beams=beams, precision=self.precision, kind=kind)

    def decoded(self, encoded: EncodedCaption, beams: int, prefix: Sequence[int], job: Job) -> DecodedCaption:
        """A caption without telling its words."""
        steps = self._steps(encoded, beams, prefix, job)
        *_, last = steps
        return last.step.captions[0]

    def caption(
        self, encoded: EncodedCaption, beams: int, prefix: Sequence[int], name: str, job: Job, say: Say
    ) -> CaptionResult:
        """Decode one caption and tell each word as soon as nothing can be added to it.

        Args:
            encoded: the picture.
            beams: 1 is greedy; with more, words are told at the end, when it is known which caption leads.
            prefix: ids of word pieces that the caption begins with; for one beam.
            name: of the picture, for the command.
            job: looked at before each piece.
            say: told of each word.

        Raises:
            ModelError: the beginning cannot be continued.
            JobCancelled: nobody waits.
        """
        teller = _Teller(self.opened, encoded, say)
        last: PrefixStep | None = None
        for last in self._steps(encoded, beams, prefix, job):
            teller.more(last.candidates, last.step.captions[0] if beams == 1 else None)
        assert last is not None
        caption = last.step.captions[0]
        words = teller.end(caption)
        ranked = last.step.hypotheses[0] if last.step.hypotheses else last.step.best
        scale = Scale("uniform", shared_scale([word.map_RC for word in words]) if words else 2.0)
        checks = check_words(words)
        return CaptionResult(
            caption=self.opened.vocabulary.decode(caption.ids),
            log_probability=caption.log_probability,
            finished=caption.has_end,
            words=[
                told.model_copy(update={"looked": check.is_localized, "check": check.sentence})
                for told, check in zip(teller.told, checks, strict=True)
            ],
            beams=[self._beam(node.to_caption(caption.grid, caption.padded_grid)) for node in ranked],
            picture=encoded.sha256,
            size=encoded.size,
            scale=ScaleInfo(kind="uniform", high=scale.high, label=scale.name),
            described=self.described,
            command=None if prefix else self.command(name, beams),
        )

    def _beam(self, caption: DecodedCaption) -> BeamCaption:
        text = self.opened.vocabulary.decode(caption.ids)
        return BeamCaption(caption=text, log_probability=caption.log_probability, score=caption.score())

    @property
    def described(self) -> str:
        """What word maps are."""
        return f"{self.opened.attention} of the query that predicted each word, last decoder layer, mean of heads"

    def command(self, name: str, beams: int) -> str:
        """The command line that captions the picture; a beginning is none of its options."""
        words = ["vitrine", "caption", self.reference, name, "-o", "captions", *self.flags]
        return shlex.join([*words, *self.settings(beams).flags()])

    def _steps(self, encoded: EncodedCaption, beams: int, prefix: Sequence[int], job: Job) -> Iterator[PrefixStep]:
        if beams > 1 and prefix:
            raise ApiError(422, "A caption is continued by the likeliest words: leave beams out.")
        module, encoder_output = self.opened.module, encoded.encoder_output
        steps: Iterator[Any] = (
            continue_prefix(module, encoder_output, prefix)
            if beams == 1
            else beam_search(module, encoder_output, beams)
        )
        while True:
            with torch.inference_mode(), self._rounded():
                step = next(steps, None)
            if step is None:
                return
            job.raise_if_cancelled()
            yield step if isinstance(step, PrefixStep) else PrefixStep(step, ())

    def _rounded(self) -> Any:
        rounded = has_bf16_image_encoder(self.opened.module)
        return autocast(self.opened.device, "fp32" if rounded else self.precision)


class _Teller:
    """Finds out which words are whole, and tells each of them once."""

    def __init__(self, opened: Captioner, encoded: EncodedCaption, say: Say) -> None:
        self._opened, self._encoded, self._say = opened, encoded, say
        self._candidates: list[tuple[Candidate, ...]] = []
        self.told: list[WordInfo] = []

    def more(self, candidates: tuple[Candidate, ...], caption: DecodedCaption | None) -> None:
        """One more piece; None where it is not known yet which caption it is of."""
        self._candidates.append(candidates)
        # What comes next may still belong to the last word, and to no earlier one.
        if caption is not None and len(group_tokens(caption.ids, self._opened.vocabulary)) > len(self.told) + 1:
            self._tell(caption, whole=False)

    def end(self, caption: DecodedCaption) -> tuple[CaptionWord, ...]:
        """All words, the last ones told."""
        return self._tell(caption, whole=True)

    def _tell(self, caption: DecodedCaption, whole: bool) -> tuple[CaptionWord, ...]:
        vocabulary = self._opened.vocabulary
        words, places = caption_words(caption, vocabulary), group_tokens(caption.ids, vocabulary)
        for index in range(len(self.told), len(words) if whole else len(words) - 1):
            word, first = words[index], places[index][0]
            told = WordInfo(
                index=index,
                text=word.text,
                probability=word.probability,
                map=Array.of(word.map_RC),
                grid=list(word.map_RC.shape),
                box=self._encoded.box,
                pieces=list(caption.ids[: places[index][-1] + 1]),
                alternatives=self._alternatives(caption.ids, first),
                looked=None,
                check=None,
            )
            self.told.append(told)
            self._say(told)
        return words

    def _alternatives(self, ids: Sequence[int], place: int) -> list[Alternative]:
        """What else might have come in place of a word's first piece, and what the caption would be continued from."""
        module = self._opened.module
        frame = (module.start, module.end, module.pad, ids[place])
        return [
            Alternative(
                pieces=[*ids[:place], each.id],
                text=self._piece(each.id),
                probability=each.probability,
            )
            for each in self._candidates[place]
            if each.id not in frame
        ]

    def _piece(self, number: int) -> str:
        """A piece for a person; what is written onto the word before it has an ellipsis in front."""
        vocabulary = self._opened.vocabulary
        text = vocabulary.decode([number]) or vocabulary.token(number)
        return f"…{text.removeprefix('##')}" if vocabulary.is_continuation(number) else text


def _bytes(features: Any) -> int:
    if isinstance(features, torch.Tensor):
        return features.untyped_storage().nbytes()
    if isinstance(features, dict):
        return sum(map(_bytes, features.values()))
    if isinstance(features, list | tuple):
        return sum(map(_bytes, features))
    return sum(map(_bytes, vars(features).values())) if hasattr(features, "__dict__") else 64
