"""vitrine's own classifier work on pictures in memory: predicting, mapping and training, as its verbs do them.

Axes: B pictures, C channels or classes, H, W pixels; R, C rows and columns of the grid.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import repeat

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from harness.arithmetic import finish
from harness.plain import PlainLoop
from vitrine.attribution.attention import attention_map, attention_matrices, reduce_heads
from vitrine.attribution.maps import token_layout
from vitrine.classify.inference import predict_batches
from vitrine.config import Recipe
from vitrine.data.decode import BytesPicture
from vitrine.data.loader import Batch, normalise
from vitrine.data.samples import Sample
from vitrine.models.load import load_model, width_of
from vitrine.models.precision import autocast, default_device, resolve_precision
from vitrine.train.loop import EpochDone, StepDone, TrainingState, fit
from vitrine.train.losses import Classification
from vitrine.train.optimizer import make_optimizer, make_schedule
from vitrine.train.settings import LoopSettings, LossSettings, OptimizerSettings, ScheduleSettings

CLASSES = 37
LARGEST_DIFFERENCE = 1e-4  # between float32 logits
LARGEST_ROUNDING = 0.25  # of bf16 logits, in standard deviations of the logits
LARGEST_MAP_DIFFERENCE = 1e-6

_ENDLESS = 1_000_000  # epochs: rounds decide when training stops


class ClassifierWork:
    """One model with random weights at one input size, and one batch of random pixels.

    Args:
        model: timm name of a plain vision transformer with a class token.
        image: side in pixels.
        batch: pictures of a batch.
        precision: auto, fp32 or bf16.
        device: None chooses.
    """

    def __init__(
        self, model: str, image: int, batch: int, precision: str = "auto", device: torch.device | None = None
    ) -> None:
        torch.manual_seed(0)
        self.device = default_device() if device is None else device
        built = load_model(model, pretrained=False, num_classes=CLASSES, image_size=image)
        with torch.no_grad():
            for parameter in built.module.parameters():  # with zeros and ones, a misplaced one would not show
                parameter.add_(0.02 * torch.randn_like(parameter))
        self.module, self.spec = built.module.to(self.device).eval(), built.input
        self.name, self.image, self.batch = model, image, batch
        self.precision = resolve_precision(precision, self.device, width_of(self.module))
        pixels_BCHW = torch.randint(256, (batch, 3, image, image), dtype=torch.uint8)
        self.pictures = Batch(pixels_BCHW, torch.randint(CLASSES, (batch,)), torch.arange(batch))
        self.samples = [Sample(f"{number}.png", BytesPicture(b"")) for number in range(batch)]
        self._steps: Iterator[StepDone | EpochDone] | None = None

    def normalised(self) -> Tensor:
        """The pixels as the model takes them, on its device."""
        return normalise(self.pictures.pixels_BCHW.to(self.device), self.spec.mean, self.spec.std)

    def logits(self, precision: str) -> Tensor:
        """As ``vitrine predict`` computes them, float32 on the CPU."""
        batches, device = [self.pictures], self.device
        parts = predict_batches(self.module, self.samples, batches, self.spec, device=device, precision=precision)
        return torch.from_numpy(next(parts).logits_BC)

    def infer(self) -> int:
        """Predict the batch."""
        return len(self.logits(self.precision))

    def maps(self, precision: str | None = None) -> Tensor:
        """The class token's map of the last layer, as ``vitrine explain`` computes it: (B, R, C) on the CPU."""
        with autocast(self.device, precision or self.precision):
            return attention_map(self.module, self.normalised()).scores_BRC

    def map_batch(self) -> int:
        """Map the batch."""
        return len(self.maps())

    def step(self) -> int:
        """One step of ``vitrine train``."""
        if self._steps is None:
            self._steps = self._training()
        for event in self._steps:
            if isinstance(event, StepDone):
                finish(self.device)
                return event.pictures
        raise AssertionError("A training without end has ended.")

    def _training(self) -> Iterator[StepDone | EpochDone]:
        recipe = Recipe(
            name="bench", model=self.name, pretrained=False, epochs=_ENDLESS, learning_rate=1e-5, weight_decay=1e-4
        )
        AcceleratorState._reset_state(reset_partial_state=True)  # other work may have been on another device
        accelerator = Accelerator(cpu=self.device.type == "cpu")
        module = copy.deepcopy(self.module)  # predictions stay those of the weights that were checked
        trained, optimizer = accelerator.prepare(module, make_optimizer(module, OptimizerSettings.from_recipe(recipe)))
        training = TrainingState(
            trained,
            optimizer,
            make_schedule(optimizer, ScheduleSettings.from_recipe(recipe), 1),
            None,
            accelerator,
            self.precision,
        )
        objective = Classification(
            LossSettings.from_recipe(recipe), CLASSES, self.spec.mean, self.spec.std, self.device
        )
        return fit(
            training,
            objective,
            LoopSettings.from_recipe(recipe),
            lambda *_: repeat(self.pictures, 1),
            lambda *_: ["random pixels"],
        )

    def plain(self) -> PlainLoop:
        """timm's own loop over a copy of the module."""
        return PlainLoop(copy.deepcopy(self.module))

    def plain_batches(self) -> list[tuple[Tensor, Tensor]]:
        """The same pictures, normalised and ready."""
        return [(self.normalised(), self.pictures.labels_B.to(self.device))]

    def check_logits(self) -> str:
        """Compare with the module called by itself.

        Returns:
            What was compared, and how near it is.

        Raises:
            ValueError: the logits are others.
        """
        with torch.inference_mode():
            expected_BC = self.module(self.normalised()).float().cpu()
        spread = float(expected_BC.std())
        return _compared(
            f"logits of {self.batch} pictures at {self.image} px with those of the module alone",
            float((self.logits("fp32") - expected_BC).abs().max()),
            LARGEST_DIFFERENCE * max(1.0, spread),
            float((self.logits(self.precision) - expected_BC).abs().max()) / spread,
            self.precision,
        )

    def check_maps(self) -> str:
        """Compare with attention that is formed as a whole matrix, head by head.

        Raises:
            ValueError: the maps are others.
        """
        layout = token_layout(self.module, self.image, self.image)
        whole_BHQK = attention_matrices(self.module, self.normalised())
        row_BK = reduce_heads(whole_BHQK, "mean")[:, 0, layout.prefix :].float().cpu()
        mine_BN = self.maps("fp32").flatten(1)
        difference = float((mine_BN - row_BK).abs().max())
        rounding = float((self.maps().flatten(1) - row_BK).abs().max() / row_BK.std())
        what = f"maps of {self.batch} pictures at {self.image} px with the rows of whole attention matrices"
        return _compared(what, difference, LARGEST_MAP_DIFFERENCE, rounding, self.precision)

    def check_training(self) -> str:
        """Compare a float32 step with timm's own: gradients of the same loss, clipped to the same norm.

        Raises:
            ValueError: the losses are others.
        """
        loop = self.plain()
        (pixels_BCHW, labels_B) = self.plain_batches()[0]
        recipe = Recipe(name="bench", model=self.name, pretrained=False)
        objective = Classification(
            LossSettings.from_recipe(recipe), CLASSES, self.spec.mean, self.spec.std, self.device
        )
        with torch.no_grad():
            mine = float(objective(loop.module.train(), self.pictures, mix=False).mean)
            theirs = float(torch.nn.functional.cross_entropy(loop.module(pixels_BCHW), labels_B))
        what = f"training loss of {self.batch} pictures at {self.image} px with cross-entropy by torch"
        return _compared(what, abs(mine - theirs), LARGEST_DIFFERENCE, 0.0, "fp32")


def _compared(what: str, difference: float, most: float, rounding: float, precision: str) -> str:
    if not difference <= most:
        raise ValueError(f"Nothing was timed: {what}, float32, differ by {difference:.3g}; {most:.3g} is allowed.")
    if not rounding <= LARGEST_ROUNDING:
        raise ValueError(
            f"Nothing was timed: {what}, {precision}, differ by {rounding:.2g} standard deviations; "
            f"{LARGEST_ROUNDING} is allowed."
        )
    rounded = f"; {precision} within {rounding:.2g} standard deviations" if precision != "fp32" else ""
    return f"{what}: float32 within {difference:.1g}{rounded}."
