"""vitrine's own captioner work, by a captioner of the published one's shapes with random weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vitrine.caption.beam_search import beam_search
from vitrine.caption.decoding import DecodedCaption, final_captions, greedy
from vitrine.models.captioner import CaptionModel, EncoderOutput, catr_config, prepare_for_prediction
from vitrine.models.captioner.inference import cast_image_encoder
from vitrine.models.precision import default_device

LARGEST_DIFFERENCE = 1e-3  # between float32 logits, whose standard deviation is about 1
NEVER = -100.0  # the end's bias: every caption has all its words


class CaptionerWork:
    """A captioner in float32 and with the image side in bf16, and pictures for it.

    Args:
        image: side of a picture in pixels.
        words: word pieces of a caption.
        beams: of beam search.
        batch: pictures of a batch.
        device: None chooses.
    """

    def __init__(self, image: int, words: int, beams: int, batch: int, device: torch.device | None = None) -> None:
        self.words, self.beams, self.batch = words, beams, batch
        self.device = default_device() if device is None else device
        torch.manual_seed(0)
        model = self.made()
        float32 = prepare_for_prediction(model)
        rounded = cast_image_encoder(copy.deepcopy(float32))
        self.models = {"fp32": float32.to(self.device), "bf16": rounded.to(self.device)}
        self.pictures = [_waves(image, seed).to(self.device) for seed in range(batch)]

    def made(self) -> CaptionModel:
        """The network, before it is made ready to predict."""
        model = CaptionModel(catr_config("features")).eval()
        _uneven(model)
        return model

    def one(self, precision: str) -> tuple[DecodedCaption, ...]:
        """One picture's caption with its maps, greedily."""
        return self.greedy(precision, self.pictures[:1])

    def many(self, precision: str) -> tuple[DecodedCaption, ...]:
        """All pictures' in one batch."""
        return self.greedy(precision, self.pictures)

    def searched(self, precision: str) -> tuple[DecodedCaption, ...]:
        """One picture's by beam search."""
        model = self.models[precision]
        with torch.inference_mode():
            encoder_output = model.encode(self.pictures[:1])
            return final_captions(beam_search(model, encoder_output, self.beams, max_tokens=self.words))

    def seen(self, precision: str) -> int:
        """One picture encoded, and no word."""
        with torch.inference_mode():
            self.models[precision].encode(self.pictures[:1])
        return 1

    def words_alone(self, encoder_output: EncoderOutput, *, guessed_ahead: bool = True) -> int:
        """Captions of pictures that are encoded, in float32 whatever the pictures are in.

        Args:
            encoder_output: of the pictures.
            guessed_ahead: whether words of one picture may be guessed ahead, as they are elsewhere.
        """
        model = self.models["fp32"]
        guesser = model.guesser
        try:
            model.guesser = guesser if guessed_ahead else None
            with torch.inference_mode():
                return len(final_captions(greedy(model, encoder_output, max_tokens=self.words)))
        finally:
            model.guesser = guesser

    def greedy(self, precision: str, pictures: Sequence[Tensor]) -> tuple[DecodedCaption, ...]:
        """These pictures' captions, in one batch."""
        model = self.models[precision]
        with torch.inference_mode():
            return final_captions(greedy(model, model.encode(pictures), max_tokens=self.words))

    def check(self) -> str:
        """Compare captions with what the model says of them without a cache, teacher forced; and a batch with singles.

        Returns:
            What was compared, and how near it is.

        Raises:
            ValueError: words are others, or a log-probability is.
        """
        furthest = 0.0
        for precision in self.models:
            for caption in (*self.one(precision), *self.searched(precision)):
                furthest = max(furthest, abs(self._forced(precision, caption.ids) - caption.log_probability))
        if not furthest <= LARGEST_DIFFERENCE:
            raise ValueError(f"Nothing was timed: log-probabilities of captions differ by {furthest:.3g}.")
        alone = [self.greedy("fp32", [picture])[0].ids for picture in self.pictures]
        if [caption.ids for caption in self.many("fp32")] != alone:
            raise ValueError("Nothing was timed: a batch says other words than each picture alone.")
        return (
            f"captions of {self.words} words: log-probabilities, greedy and of {self.beams} beams, with teacher "
            f"forcing without a cache within {furthest:.1g}; a batch of {self.batch} says what its pictures say alone."
        )

    def _forced(self, precision: str, ids: Sequence[int]) -> float:
        model = self.models[precision]
        before_BT = torch.tensor([[model.start, *ids[:-1]]], device=self.device)
        with torch.inference_mode():
            logits_TV = model(model.encode(self.pictures[:1]), before_BT)[0][0].float()
        chosen_T1 = torch.tensor(list(ids), device=self.device)[:, None]
        return float(logits_TV.log_softmax(-1).gather(1, chosen_T1).sum())


@torch.no_grad()
def _uneven(model: CaptionModel) -> None:
    """Weights with noise everywhere, so that a misplaced one shows, and words that depend on the picture."""
    for name, weight in model.state_dict().items():
        noise = torch.randn(weight.shape)
        if name.endswith("running_var"):
            weight.copy_(1 + 0.1 * noise.abs())
        elif weight.ndim <= 1:
            damped = 0.3 if "bn3" in name or "downsample" in name else 1.0
            weight.copy_(damped * (1 + 0.1 * noise) if name.endswith("weight") else 0.1 * noise)
        elif "embeddings" in name:
            weight.copy_(noise)
        else:
            gain = 2.0 if "in_proj_weight" in name else 1.4
            weight.copy_(gain / math.sqrt(weight[0].numel()) * noise)
    model.head.layers[-1].bias[model.end] = NEVER  # type: ignore[operator]


def _waves(side: int, seed: int) -> Tensor:
    """A picture in [-1, 1]: a sum of plane waves, (3, side, side)."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.linspace(0, 1, side)[:, None], torch.linspace(0, 1, side)[None]
    picture = torch.zeros(3, side, side)
    for _ in range(12):
        fy, fx = (40 * torch.rand(2, generator=generator) - 20).tolist()
        colour, phase = torch.randn(3, 1, 1, generator=generator), 6.3 * torch.rand(3, 1, 1, generator=generator)
        picture += colour * (2 * math.pi * (fy * y + fx * x) + phase).sin()
    return picture / picture.abs().max()
