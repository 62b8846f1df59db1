"""Attribution methods by name, with their settings: their maps of a batch, and what they show in words.

Axes: B pictures, C channels (or classes, in logits_BC), H, W pixels.
"""

from __future__ import annotations

import difflib
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn

from vitrine.attribution.attention import (
    HEAD_REDUCTIONS,
    POOL,
    describe_layer,
    head_count,
    query_layers,
    query_readout,
)
from vitrine.attribution.foreign_methods import MapFunction
from vitrine.attribution.gradcam import gradcam_tokens
from vitrine.attribution.maps import BatchMaps, TokenLayout, token_layout
from vitrine.attribution.method_options import refuse_options, require_method
from vitrine.attribution.readout import describe_readout
from vitrine.attribution.registry import MethodEntry, method_entry, own_entry
from vitrine.errors import ModelError, UsageError
from vitrine.results import count_of


def softmax(logits_BC: torch.Tensor) -> torch.Tensor:
    """Probabilities of classes of which a picture has one: (B, C), rows sum to 1."""
    return logits_BC.softmax(-1)


@dataclass(frozen=True)
class Method:
    """A method with its settings.

    Which method has which option is said by :data:`vitrine.attribution.registry.ENTRIES`.

    Attributes:
        name: one of ``METHODS``.
        layer: of ``attention`` and ``gradcam``: a block from 0, or from the end with -1.
        heads: of ``attention``: mean, max, min, or a head's number from 0, or from the end with -1.
        query: of ``attention``: class, distillation, pool, a patch (row, column) from 0 or from the end, or auto:
            what the head reads.
        window: of ``occlusion``: patches a side of the cover; 0 chooses.
        against: of methods that explain a logit: a class, by label or number, that the map's is compared with.
        seed: of what ``smoothgrad`` and ``rise`` draw.

        function: a person's own, whose name is then ``module:function``; see
            :data:`vitrine.attribution.foreign_methods.MapFunction`. Never made of a name from a file or a request.

    Raises:
        ModelError: no such method or way over heads.
        UsageError: an option that the method does not have differs from its default, or one is no whole number.
    """

    name: str = "attention"
    layer: int = -1
    heads: str | int = "mean"
    query: str | tuple[int, int] = "auto"
    window: int = 0
    against: str | int | None = None
    seed: int = 0
    function: MapFunction | None = None

    def __post_init__(self) -> None:
        self._use_whole_numbers()
        if self.function is None:
            require_method(self.name)
        refuse_options(self.name, [name for name in self.fields() if getattr(self, name) != getattr(Method, name)])
        if self.heads == "each":
            raise UsageError(
                "Heads one by one are panels of a figure in a folder: vitrine.explain(model, pictures, out, "
                "heads='each').\nFor a map in memory give a head's number from 0, mean, max or min."
            )
        if isinstance(self.heads, str) and self.heads not in HEAD_REDUCTIONS:
            raise ModelError(f"heads = {self.heads!r} cannot be used: expected mean, max, min, each or a number.")

    def _use_whole_numbers(self) -> None:
        """Take whole numbers of NumPy and torch as Python's, so that figures can say them; refuse what is no number.

        Raises:
            UsageError: it names the option, and its value.
        """
        for name in ("layer", "window", "seed", "heads"):
            value = getattr(self, name)
            if name == "heads" and isinstance(value, str):
                continue
            try:
                object.__setattr__(self, name, operator.index(value))
            except TypeError as error:
                expected = "mean, max, min, each or a head's number" if name == "heads" else "a whole number"
                raise UsageError(f"{name} = {value!r} cannot be used: expected {expected}.") from error
        if self.window < 0:
            raise UsageError(f"window = {self.window} cannot be used: expected patches a side, or 0, which chooses.")

    @property
    def for_a_class(self) -> bool:
        """Whether the map is of one class; the others are the same whatever the class."""
        return self.entry.for_a_class

    @property
    def entry(self) -> MethodEntry:
        """Its row of the table of methods."""
        return method_entry(self.name) if self.function is None else own_entry(self.name)

    @classmethod
    def fields(cls) -> tuple[str, ...]:
        """Names of the settings that a person can give a method, beside the seed."""
        return tuple(each.name for each in fields(cls) if each.name not in ("name", "seed", "function"))

    def maps(
        self,
        module: nn.Module,
        pixels_BCHW: torch.Tensor,
        targets_B: torch.Tensor,
        probabilities: Callable[[torch.Tensor], torch.Tensor] = softmax,
        against_B: torch.Tensor | None = None,
    ) -> BatchMaps:
        """Maps of a batch of normalised pictures.

        Args:
            module: a timm vision transformer in eval mode.
            pixels_BCHW: normalised, on the module's device.
            targets_B: int64, a class for each picture; ignored by methods that explain no class.
            probabilities: of logits (B, C); a softmax by default.
            against_B: int64, the class that each is compared with, where the method takes one; None is none.

        Raises:
            ModelError: the model has no such layer, head or query, or an attention that cannot be shown.
        """
        entry = self.entry
        names = [name for name in self.fields() if name in entry.options and name != "against"]
        arguments: dict[str, Any] = {name: getattr(self, name) for name in names}
        if self.function is not None:
            arguments |= {"function": self.function, "name": self.name}
        if entry.variant:
            arguments["variant"] = entry.variant
        if entry.takes_contrast:
            arguments["against_B"] = against_B
        if entry.for_a_class:
            arguments["targets_B"] = targets_B
        if "seed" in entry.needs:
            arguments["seed"] = self.seed
        if "probabilities" in entry.needs:
            arguments["probabilities"] = probabilities
        maps: BatchMaps = entry.load()(module, pixels_BCHW, **arguments)
        return maps

    def describe(self, module: nn.Module) -> str:
        """What the map is, in words for a figure."""
        if self.name == "attention":
            return self._describe_attention(module, token_layout(module))
        words = self.entry.words.format_map(_Words(module, self.layer))
        return words if self.against is None else f"{words}, against {self.against}"

    def notes(self, module: nn.Module) -> tuple[str, ...]:
        """Sentences on what has to be known to read the map: that the head does not read the token that was asked for.

        A patch that was asked for needs none: its attention is what a person wanted to see.
        """
        if self.name != "attention" or self.query not in ("class", "distillation"):
            return ()
        layout = token_layout(module)
        token = query_readout(layout, self.query, lambda: describe_readout(module, layout))
        try:
            readout = describe_readout(module, layout)
        except ModelError:
            return ("Whether this model's head reads this token is not known.",)
        if token.token is None or readout.reads(token.token):
            return ()
        return (f"This model's head does not read {token.names}: it reads {readout.names}.",)

    def _describe_attention(self, module: nn.Module, layout: TokenLayout) -> str:
        readout = query_readout(layout, self.query, lambda: describe_readout(module, layout))
        if query_layers(layout, readout, self.query, self.layer) == (POOL,):
            return f"weights of the attention pool, {self._heads_in_words(None)}"
        where = describe_layer(self.layer, layout.blocks)
        heads = self._heads_in_words(head_count(module, self.layer))
        reader = "the patches, by the attention pool's weights," if readout.is_pool else readout.words
        return f"attention of {reader} to the patches, {where}, {heads}"

    def _heads_in_words(self, count: int | None) -> str:
        if isinstance(self.heads, int):
            return f"head {self.heads % count if count else self.heads}"
        reduction = {"mean": "mean", "max": "maximum", "min": "minimum"}[self.heads]
        return f"{reduction} of {count_of(count, 'head')}" if count else f"{reduction} over heads"


def method_with(method: str | MapFunction, options: Mapping[str, Any]) -> Method:
    """A method, by its name or as a person's own function, with the options that were given, each of which it has.

    Raises:
        ModelError: no such method or way over heads.
        UsageError: it would ignore one of the options.
    """
    name = method if isinstance(method, str) else function_name(method)
    settings = tuple(each for each in Method.fields() if each != "function")
    for option in options:
        if option not in settings:
            near = difflib.get_close_matches(option, settings, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise UsageError(f"{option} is no option of a map: expected one of {', '.join(settings)}.{hint}")
    refuse_options(name, options)
    return Method(name, **options, function=None if isinstance(method, str) else method)


def function_name(function: MapFunction) -> str:
    """What figures and tables call a person's own function: ``module:function``.

    Raises:
        UsageError: it is no function.
    """
    if not callable(function):
        raise UsageError(
            f"A method is one's name, such as 'attention', or a function of your own; got {type(function).__name__}."
        )
    module = getattr(function, "__module__", None) or "python"
    return f"{module}:{getattr(function, '__qualname__', type(function).__name__)}"


class _Words(dict[str, str]):
    """What a method's words leave open, filled in from the model when it is asked for."""

    def __init__(self, module: nn.Module, layer: int) -> None:
        super().__init__()
        self.module, self.layer = module, layer

    def __missing__(self, key: str) -> str:
        layout = token_layout(self.module)
        if key == "layers":
            return str(layout.blocks)
        if key == "layer":
            is_pool = query_layers(layout, describe_readout(self.module, layout), "auto", self.layer) == (POOL,)
            return "in the pool itself" if is_pool else describe_layer(self.layer, layout.blocks)
        if key == "tokens":
            return gradcam_tokens(self.module, self.layer)
        readout = describe_readout(self.module, layout)
        by = ", each by its weight in the class's logit" if readout.depends_on_class else ""
        return {"readout": readout.words, "names": readout.names, "by": by}[key]
