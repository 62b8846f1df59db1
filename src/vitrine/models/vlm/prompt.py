"""A picture and a question as a vision-language model takes them: by its own processor, in its own words."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from PIL import Image

from vitrine.errors import ModelError, PictureError, UsageError, error_summary
from vitrine.models.vlm.families import Family, context_length
from vitrine.models.vlm.layout import TokenLayout
from vitrine.models.vlm.model import PromptInput
from vitrine.models.vlm.query_tokens import QueryLayers

NEUTRAL_PROMPT = "Write a general description of the image."
"""The prompt that others' attention is divided by (Zhang et al. 2025, arXiv:2502.17422)."""


@dataclass(frozen=True, eq=False)
class PromptTransform:
    """Prepares a picture with a prompt, by the processor that the model came with.

    Attributes:
        processor: of the library.
        config: the model's.
        family: what is known of it.
        prompt: the question, in plain words; None asks for a caption, as the family does.
        is_relative: whether the picture is prepared with :data:`NEUTRAL_PROMPT` as well.
        query_layers: of a model with query tokens, the layers in which they read the picture that are looked at.
        has_prompt_maps: whether the question's own words are to have maps.
    """

    processor: Any
    config: Any
    family: Family
    prompt: str | None = None
    is_relative: bool = False
    query_layers: QueryLayers = "mean"
    has_prompt_maps: bool = False

    def __post_init__(self) -> None:
        """Refuse a prompt that asks nothing, or that holds the sign of an image."""
        if self.prompt is None:
            return
        if not self.prompt.strip():
            raise UsageError("The prompt is empty: ask something, or leave it out for a caption.")
        for sign in self.image_signs:
            if sign in self.prompt:
                raise UsageError(
                    f"The prompt holds {sign}, which stands for a picture in this model's prompts.\n"
                    "Leave it out: the picture is put where the model expects it."
                )

    @property
    def question(self) -> str:
        """What the model is asked."""
        return self.family.caption_prompt if self.prompt is None else self.prompt

    @property
    def text(self) -> str:
        """The whole prompt, with the image's sign, as the chat template or the family puts it."""
        if not (self.family.has_chat_template and self.processor.chat_template):
            template = self.family.template
            if self.family.question_template is not None and self.question.rstrip().endswith("?"):
                template = self.family.question_template
            return template.format(image=self.image_sign, prompt=self.question)
        content = [{"type": "image"}, {"type": "text", "text": self.question}]
        try:
            text = self.processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True
            )
        except Exception as error:  # a template is a program of the repository's, run in a sandbox
            raise ModelError(
                f"The chat template that came with this model cannot be filled in: {error_summary(error)}."
            ) from error
        return str(text)

    @property
    def image_sign(self) -> str:
        """What stands for a picture in a prompt's text."""
        return self.image_signs[0]

    @property
    def image_signs(self) -> tuple[str, ...]:
        """What stands for a picture or for one of its tokens."""
        names = (self.family.image_sign, "boi_token", "image_token", "img_patch_token")
        signs = (getattr(self.processor, name, None) for name in names)
        return tuple(dict.fromkeys(str(sign) for sign in signs if sign))

    @property
    def mean_colour(self) -> tuple[int, int, int]:
        """The colour that the processor's normalisation makes 0: red, green, blue, 0 to 255; grey without one."""
        images = self.processor.image_processor
        mean = images.image_mean if getattr(images, "do_normalize", False) else None
        red, green, blue = (min(255, max(0, round(255 * value))) for value in mean or (0.5, 0.5, 0.5))
        return red, green, blue

    def __call__(self, image: Image.Image) -> PromptInput:
        """The model's input.

        Args:
            image: mode RGB, upright.

        Raises:
            PictureError: the processor cannot prepare it, or it is longer than the model's context with its prompt.
            ModelError: the processor makes other image tokens than the family's description says.
        """
        text = self.text
        bos = self.processor.tokenizer.bos_token
        options = {"add_special_tokens": False} if bos and text.startswith(bos) else {}
        try:
            inputs = self.processor(images=[image], text=[text], return_tensors="pt", **options)
        except Exception as error:  # what processors raise differs from one to the next
            raise PictureError(
                f"the processor of this {self.family.name} cannot prepare a picture of {image.width} x {image.height} "
                f"pixels: {error_summary(error)}"
            ) from error
        tensors = {
            name: value for name, value in inputs.items() if isinstance(value, torch.Tensor) and name != "labels"
        }
        places_N, layout = self.family.places(self.config, tensors), self.geometry(*image.size)
        expected = (
            layout.tokens if self.family.query_tokens is None else self.family.query_tokens(self.processor, self.config)
        )
        if len(places_N) != expected:
            raise ModelError(
                f"The processor of this {self.family.name} made {len(places_N):,} image tokens of a picture of "
                f"{image.width} x {image.height} pixels; expected {expected:,}.\n"
                "Its settings and config.json do not belong together."
            )
        length, context = tensors["input_ids"].shape[1], context_length(self.config)
        if length >= context:
            raise PictureError(
                f"its {len(places_N):,} image tokens and the prompt take {length:,} positions, and the model has "
                f"{context:,}: give a shorter prompt, or a smaller picture where the model takes it as it is"
            )
        neutral = None
        if self.is_relative:
            neutral = replace(self, prompt=NEUTRAL_PROMPT, is_relative=False, has_prompt_maps=False)(image)
        question_Q = self._question_places(tensors["input_ids"][0], places_N) if self.has_prompt_maps else None
        return PromptInput(tensors, places_N, layout, neutral, self.query_layers, question_Q)

    def _question_places(self, ids_T: torch.Tensor, places_N: torch.Tensor) -> torch.Tensor:
        """The positions of the question's own pieces after the image, without those of a template round it: int64 (Q,).

        Raises:
            ModelError: the question does not stand there.
        """
        first = int(places_N[-1]) + 1
        ids, question = ids_T[first:].tolist(), self.question.strip()
        texts = [
            self.processor.tokenizer.decode(ids[:count], clean_up_tokenization_spaces=False)
            for count in range(len(ids) + 1)
        ]
        start = texts[-1].find(question)
        if start < 0:
            raise ModelError(
                f"The prompt's words cannot be found after the picture in what the processor of this "
                f"{self.family.name} made of them, so that they have no maps.\nLeave --prompt-maps out."
            )
        end = start + len(question)
        places = [first + at for at in range(len(ids)) if len(texts[at]) < end and len(texts[at + 1]) > start]
        return torch.tensor(places)

    def geometry(self, width: int, height: int) -> TokenLayout:
        """Where the image tokens of a photograph of ``width`` × ``height`` pixels lie."""
        return _describe(self, width, height)


@lru_cache(maxsize=64)
def _describe(transform: PromptTransform, width: int, height: int) -> TokenLayout:
    return transform.family.describe(transform.processor, transform.config, (width, height))
