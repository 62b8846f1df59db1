"""A classifier that is served: loaded once, every picture encoded once, every view made from the cached encoding.

Axes: B pictures, C channels or classes, H, W pixels of the model's input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from vitrine.attribution.attention import QUERIES
from vitrine.attribution.attention_cache import AttentionCache, cache_attention
from vitrine.attribution.maps import BatchMaps, TokenLayout
from vitrine.attribution.methods import Method
from vitrine.attribution.placement import Placement
from vitrine.attribution.readout import Readout
from vitrine.attribution.registry import ENTRIES, METHODS
from vitrine.classify.inference import eval_transform
from vitrine.classify.model import Classifier
from vitrine.data.transforms import EvalTransform
from vitrine.errors import ModelError
from vitrine.explain.explainer import Explainer
from vitrine.io.limits import limit
from vitrine.models.precision import autocast
from vitrine.serve.galleries import NO_PICTURES, Gallery
from vitrine.serve.model import Encoding, ServedModel
from vitrine.serve.worker import Job

Floats = npt.NDArray[np.float32]

MAX_VIEWS = limit("MAX_VIEWS", 64)
"""Maps, and checks, that the explorer keeps of one picture; a model of a thousand classes has thousands."""


def cache_view(cache: dict[Any, Any], key: Any, value: Any) -> Any:
    """Put a value into a dictionary as its newest of at most :data:`MAX_VIEWS`, and return it."""
    cache[key] = value
    for old_key in list(cache)[:-MAX_VIEWS]:
        cache.pop(old_key, None)
    return value


@dataclass(frozen=True, eq=False)
class ClassifierEncoding(Encoding):
    """One picture as one classifier saw it.

    Attributes:
        input_CHW: uint8 pixels that the model sees, for methods that run it again.
        probabilities_C: of the classes, float32.
        attention: of every layer; None for a model whose attention cannot be shown.
        maps: of methods that run the model again, by method and class; the newest :data:`MAX_VIEWS`.
        checks: results of checking maps, by method, layer, heads, query and class; the newest :data:`MAX_VIEWS`.
    """

    input_CHW: torch.Tensor
    probabilities_C: Floats
    attention: AttentionCache | None
    maps: dict[tuple[Method, int], BatchMaps] = field(default_factory=dict)
    checks: dict[Any, Any] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes, about, with as many maps and checks as may be cached."""
        attention = 0 if self.attention is None else self.attention.nbytes
        maps = 2 * MAX_VIEWS * 4 * self.placement.rows * self.placement.columns
        return attention + maps + self.input_CHW.nbytes + self.probabilities_C.nbytes


class ServedClassifier(ServedModel[ClassifierEncoding]):
    """One classifier. ``predict``, ``encode`` and ``class_map`` run it: call them in the worker's thread only.

    Attributes:
        model: the classifier.
        architecture: timm name, for a reference that is a weights file.
        methods: names of the methods that can explain the model.
        heads: attention heads a layer; 0 for a model whose attention cannot be shown.
        readout: what the head reads; the error that says why that is not known, or not shown.
    """

    kind: Literal["classifier"] = "classifier"

    def __init__(
        self,
        model_id: str,
        reference: str,
        model: Classifier,
        architecture: str | None = None,
        gallery: Gallery = NO_PICTURES,
    ) -> None:
        super().__init__(model_id, reference, model.precision, gallery)
        self.model, self.architecture = model, architecture
        self.transform: EvalTransform = eval_transform(model.spec)
        self.explainer = Explainer(model, Method())
        self.notes = list(model.notes)
        self.methods: tuple[str, ...] = METHODS
        try:
            _, attention = self._run_with_attention(torch.zeros(1, 3, *model.spec.size, device=model.device))
            self.heads, self.readout = attention.heads(0), attention.readout
        except ModelError as error:
            self.heads, self.readout = 0, error
        if isinstance(self.readout, ModelError):
            lacking = {"head"} if self.heads else {"head", "attention"}
            self.methods = tuple(entry.name for entry in ENTRIES if lacking.isdisjoint(entry.needs))
            self.notes.append(" ".join(str(self.readout).split()))

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the outputs."""
        return self.model.labels

    @property
    def module(self) -> torch.nn.Module:
        """The model itself."""
        return self.model.module

    @property
    def layout(self) -> TokenLayout:
        """How the model's tokens are laid out: prefix tokens, rows and columns of patches."""
        return self.explainer.layout

    @cached_property
    def weights_sha256(self) -> str | None:
        """sha256 of the weights file; None for random weights."""
        weights = self.model.weights
        return None if weights is None else weights.sha256

    @property
    def queries(self) -> tuple[str, ...]:
        """What can be asked for its attention beside patches, by the names of attribution's ``QUERIES``."""
        is_known = isinstance(self.readout, Readout)
        has = {
            "auto": is_known,
            "class": self.layout.has_class,
            "distillation": self.layout.has_distillation,
            "pool": isinstance(self.readout, Readout) and self.readout.is_pool,
        }
        return tuple(name for name in QUERIES if has[name])

    def prepare(self, photo: Image.Image) -> torch.Tensor:
        """A photograph as the model's input: uint8 (C, H, W). May run in any thread."""
        return torch.from_numpy(self.transform(photo)).permute(2, 0, 1).contiguous()

    def predict(self, inputs: Sequence[torch.Tensor]) -> list[Floats]:
        """Class probabilities of several pictures in one batch: float32 (C,) each."""
        probabilities_BC = self.explainer.probability(self.explainer.pixels(torch.stack(list(inputs))))
        return list(probabilities_BC.cpu().numpy())

    def encode(self, sha256: str, size: tuple[int, int], model_input: torch.Tensor) -> ClassifierEncoding:
        """Run the model once; see :meth:`vitrine.serve.model.ServedModel.encode`."""
        pixels_BCHW = self.explainer.pixels(model_input[None])
        attention: AttentionCache | None = None
        if self.heads:
            logits_BC, attention = self._run_with_attention(pixels_BCHW)
            probabilities_BC = self.model.probabilities(logits_BC)
        else:
            probabilities_BC = self.explainer.probability(pixels_BCHW)
        placement = Placement(self.transform.geometry(*size), self.layout.rows, self.layout.columns)
        return ClassifierEncoding(sha256, placement, model_input, probabilities_BC[0].cpu().numpy(), attention)

    def class_map(self, encoding: ClassifierEncoding, method: Method, target: int, job: Job) -> BatchMaps:
        """The map of a class by a method that runs the model; computed once and cached with the encoding.

        Args:
            encoding: of the picture.
            method: with its settings.
            target: index of the class.
            job: the job that asks; cancelling it stops the model.

        Raises:
            JobCancelled: the job was cancelled.
        """
        maps = encoding.maps.get((method, target))
        if maps is None:
            explainer = Explainer(self.model, method)
            pixels_BCHW = explainer.pixels(encoding.input_CHW[None])
            with self.stop_when_cancelled(job):
                maps = explainer.maps(pixels_BCHW, torch.tensor([target]))
            cache_view(encoding.maps, (method, target), maps)
        return maps

    def _run_with_attention(self, pixels_BCHW: torch.Tensor) -> tuple[torch.Tensor, AttentionCache]:
        with autocast(self.model.device, self.model.precision):
            return cache_attention(self.model.module, pixels_BCHW)
