"""A classifier that is served: opened once, pictures encoded once, every view from what is held.

Axes: B pictures, C channels or classes, H, W pixels of the model's input.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from vitrine.attribution.attention_cache import AttentionCache, cache_attention
from vitrine.attribution.maps import BatchMaps, TokenLayout
from vitrine.attribution.methods import METHODS, Method
from vitrine.attribution.placement import Placement
from vitrine.classify.inference import eval_transform
from vitrine.classify.model import Classifier
from vitrine.data.transforms import EvalTransform
from vitrine.errors import ModelError
from vitrine.explain.explainer import Explainer
from vitrine.models.precision import autocast
from vitrine.runs.environment import model_notes
from vitrine.serve.worker import Job

MAX_VIEWS_CACHED = 64
"""Maps, and checks, of one picture at most: a model of a thousand classes has thousands that can be asked for."""


def cache_view(kept: dict[Any, Any], key: Any, value: Any) -> Any:
    """Keep something as the latest of at most :data:`KEPT`, and give it back."""
    kept[key] = value
    for old in list(kept)[:-MAX_VIEWS_CACHED]:
        kept.pop(old, None)
    return value


@dataclass(frozen=True, eq=False)
class EncodedPicture:
    """One picture as one classifier saw it.

    Attributes:
        sha256: of the file.
        placement: of the grid on the photograph.
        square_CHW: uint8, what the model sees, for methods that run it again.
        probabilities_C: float32.
        attention: of every layer; None where the model has none that can be shown.
        maps: of methods that run the model again, by method and class; the latest :data:`KEPT`, see :func:`keep`.
        checked: what checks found, by method, layer, heads, query and class; likewise.
    """

    sha256: str
    placement: Placement
    square_CHW: torch.Tensor
    probabilities_C: npt.NDArray[np.float32]
    attention: AttentionCache | None
    maps: dict[tuple[str, int], BatchMaps] = field(default_factory=dict)
    checked: dict[Any, Any] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes, about, once as many maps and checks are kept as may be."""
        attention = 0 if self.attention is None else self.attention.nbytes
        maps = 2 * MAX_VIEWS_CACHED * 4 * self.placement.rows * self.placement.columns
        return attention + maps + self.square_CHW.nbytes + self.probabilities_C.nbytes

    @property
    def size(self) -> list[int]:
        """Width and height of the photograph."""
        return [self.placement.geometry.width, self.placement.geometry.height]

    @property
    def box(self) -> list[float]:
        """Left, top, width and height of the grid on the photograph, in its pixels."""
        left, top, right, bottom = self.placement.geometry.box
        return [left, top, right - left, bottom - top]


Floats = npt.NDArray[np.float32]

_OF_ATTENTION = ("attention", "rollout", "relevance")


class ServedClassifier:
    """One classifier. ``predict``, ``encode``, ``class_map`` run the model: call them in the worker's thread alone.

    Attributes:
        id: in addresses.
        reference: as it was given.
        opened: the model.
        architecture: the timm name, where the reference is a weights file.
        methods: those that it can be explained by.
    """

    kind: Literal["classifier"] = "classifier"

    def __init__(self, number: str, reference: str, opened: Classifier, architecture: str | None = None) -> None:
        self.id, self.reference, self.opened, self.architecture = number, reference, opened, architecture
        self.transform: EvalTransform = eval_transform(opened.spec)
        self.explainer = Explainer(opened, Method())
        self.notes = list(model_notes(opened.loaded))
        self.methods: tuple[str, ...] = METHODS
        side = opened.spec.size
        try:
            _, held = self._hold(torch.zeros(1, 3, side, side, device=opened.device))
            self.heads = held.heads(0)
        except ModelError as error:
            self.heads = 0
            self.methods = tuple(name for name in METHODS if name not in _OF_ATTENTION)
            self.notes.append(" ".join(str(error).split()))

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the outputs."""
        return self.opened.labels

    @property
    def layout(self) -> TokenLayout:
        """Of its tokens."""
        return self.explainer.layout

    @property
    def precision(self) -> str:
        """That it runs in."""
        return self.opened.precision

    @cached_property
    def weights_sha256(self) -> str | None:
        """Of the weights file; None for random ones."""
        weights = self.opened.loaded.weights
        return None if weights is None else weights.sha256

    @property
    def queries(self) -> tuple[str, ...]:
        """Tokens other than patches whose attention can be asked for."""
        has = {"class": self.layout.has_class, "pool": self.layout.readout == "pool"}
        return tuple(name for name, there in has.items() if there)

    def prepare(self, photo: Image.Image) -> torch.Tensor:
        """What the model sees of a photograph: uint8 (C, H, W). For any thread."""
        return torch.from_numpy(self.transform(photo)).permute(2, 0, 1).contiguous()

    def predict(self, squares: Sequence[torch.Tensor]) -> list[Floats]:
        """Probabilities of pictures that go through the model together: float32 (C,) each."""
        probabilities_BC = self.explainer.probability(self.explainer.pixels(torch.stack(list(squares))))
        return list(probabilities_BC.cpu().numpy())

    def encode(self, sha256: str, size: tuple[int, int], square_CHW: torch.Tensor) -> EncodedPicture:
        """Run the model once and keep what every view is made of.

        Args:
            sha256: of the picture's file.
            size: width and height of the photograph.
            square_CHW: of the photograph, from :meth:`prepare`.
        """
        pixels_BCHW = self.explainer.pixels(square_CHW[None])
        attention: AttentionCache | None = None
        if self.heads:
            logits_BC, attention = self._hold(pixels_BCHW)
            probabilities_BC = logits_BC.float().softmax(-1)
        else:
            probabilities_BC = self.explainer.probability(pixels_BCHW)
        placement = Placement(self.transform.geometry(*size), self.layout.rows, self.layout.columns)
        return EncodedPicture(sha256, placement, square_CHW, probabilities_BC[0].cpu().numpy(), attention)

    def class_map(self, encoded: EncodedPicture, name: str, target: int, job: Job) -> BatchMaps:
        """The map of a method that runs the model, kept once it is made."""
        result = encoded.maps.get((name, target))
        if result is None:
            explainer = Explainer(self.opened, Method(name))
            pixels_BCHW = explainer.pixels(encoded.square_CHW[None])
            with self.interrupted_by(job):
                result = explainer.maps(pixels_BCHW, torch.tensor([target]))
            cache_view(encoded.maps, (name, target), result)
        return result

    @contextmanager
    def interrupted_by(self, job: Job) -> Iterator[None]:
        """Within the ``with`` block, every run of the model, or of a copy of it, looks first whether anyone waits."""

        def look(*_: Any) -> None:
            job.raise_if_cancelled()

        handle = self.opened.module.register_forward_pre_hook(look)
        try:
            yield
        finally:
            handle.remove()

    def _hold(self, pixels_BCHW: torch.Tensor) -> tuple[torch.Tensor, AttentionCache]:
        with autocast(self.opened.device, self.opened.precision):
            return cache_attention(self.opened.module, pixels_BCHW)
