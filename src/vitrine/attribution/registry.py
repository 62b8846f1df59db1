"""The table of attribution methods, read by the command line, Python, the explorer, the documentation and the tests.

No tensors here: a method's function is named, and imported when a map is made, so that the table can be read at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

Need = Literal["attention", "head", "gradients", "probabilities", "seed"]
Option = Literal["target", "against", "layer", "heads", "query", "window", "matrix", "direction"]

_HERE = "vitrine.attribution"


@dataclass(frozen=True)
class MethodEntry:
    """One method, and all that others have to know of it.

    Attributes:
        name: on the command line, in Python and in requests.
        title: in headings and menus.
        function: ``module:name``; called with the module, normalised pixels (B, C, H, W), class indices (B,) where the
            target matters, probabilities of logits where it needs them, and its options by name; gives ``BatchMaps``.
        score: what a patch's score is, in one line.
        formula: the same in symbols.
        words: what a map is, for a figure; ``{readout}``, ``{names}``, ``{by}``, ``{layer}``, ``{layers}`` and
            ``{tokens}`` are filled in from the model.
        source: the paper; "" where there is none.
        comparison: what it is compared with in the tests, and to what difference.
        needs: "attention" that can be shown, a "head" whose reading is known, "gradients" of the model, or nothing of
            it but "probabilities"; and a "seed", where it draws something.
        options: that act on it. "target" is the class that the map is for, "against" one that it is compared with;
            "matrix" is a further figure, "direction" a view of the explorer.
        variant: of a library's method, the name that the function is told.
        has_cached_attention: the map follows from the attention of one forward pass, which the explorer keeps.
    """

    name: str
    title: str
    function: str
    score: str
    formula: str
    words: str
    source: str
    comparison: str
    needs: tuple[Need, ...] = ()
    options: tuple[Option, ...] = ()
    variant: str = ""
    has_cached_attention: bool = False

    @property
    def for_a_class(self) -> bool:
        """Whether the map is of one class; the others are the same whatever the class."""
        return "target" in self.options

    @property
    def takes_contrast(self) -> bool:
        """Whether a map can say why one class and not another: it explains a logit, not a probability."""
        return "against" in self.options

    def load(self) -> Callable[..., Any]:
        """The function that makes the maps."""
        module, _, name = self.function.partition(":")
        function: Callable[..., Any] = getattr(import_module(module), name)
        return function


ENTRIES: tuple[MethodEntry, ...] = (
    MethodEntry(
        name="attention",
        title="Attention",
        function=f"{_HERE}.attention:attention_map",
        score="attention probability from what the head reads (or from one token: `--query`) in one layer",
        formula="A = softmax(Q Kᵀ / √d), mean over heads",
        words="",  # they follow from layer, heads and query
        source="",
        comparison="the matrix of the model's unfused branch: 1e-5",
        needs=("attention",),
        options=("layer", "heads", "query", "matrix", "direction"),
        has_cached_attention=True,
    ),
    MethodEntry(
        name="rollout",
        title="Rollout",
        function=f"{_HERE}.rollout:rollout",
        score="attention of all layers multiplied out, half of each being the residual connection",
        formula="Π (½ A + ½ I)",
        words="attention rollout through {layers} layers, from {readout}",
        source="Abnar and Zuidema 2020",
        comparison="the product of whole matrices, layer by layer: 1e-4 of each score",
        needs=("attention", "head"),
        has_cached_attention=True,
    ),
    MethodEntry(
        name="relevance",
        title="Relevance",
        function=f"{_HERE}.relevance:relevance",
        score="attention weighted by the positive part of its gradient, summed through all layers",
        formula="R ← R + (∇A ⊙ A)⁺ R",
        words="gradient-weighted attention over {layers} layers, from {names}{by}",
        source="Chefer, Gur and Wolf 2021b",
        comparison="the update on whole matrices, gradients by plain autograd: 2e-3 of each score",
        needs=("attention", "head", "gradients"),
        options=("target", "against"),
    ),
    MethodEntry(
        name="gradcam",
        title="Grad-CAM",
        function=f"{_HERE}.gradcam:gradcam",
        score="channels weighted by their mean gradient, at the tokens that the last attention reads (`--layer`)",
        formula="(Σ_d mean_n(∂z/∂x_nd) x_nd)⁺",
        words="Grad-CAM on the tokens of {tokens}",
        source="Selvaraju et al. 2017",
        comparison="a loop over patches: 1e-4 of each score; pytorch-grad-cam's GradCAM at the same tokens: 1e-3",
        needs=("gradients",),
        options=("layer", "target", "against"),
    ),
    MethodEntry(
        name="occlusion",
        title="Occlusion",
        function=f"{_HERE}.occlusion:occlusion_maps",
        score="mean loss of the class's probability while the patch is covered",
        formula="mean over covers of p(x) − p(x covered)",
        words="occlusion: mean loss of the class's probability while a patch is covered",
        source="Zeiler and Fergus 2014",
        comparison="a loop over covers: 1e-4 of each score",
        needs=("probabilities",),
        options=("target", "window"),
    ),
    MethodEntry(
        name="input-gradient",
        title="Input × gradient",
        function=f"{_HERE}.pixel_gradients:input_gradient",
        score="pixels times the gradient of the class's logit by them, summed over the patch",
        formula="Σ x ∂z/∂x",
        words="input × gradient: share of each patch in the class's logit, by its gradient",
        source="Shrikumar et al. 2016",
        comparison="captum's InputXGradient, summed in a loop over patches: 1e-4 of each score",
        needs=("gradients",),
        options=("target", "against"),
    ),
    MethodEntry(
        name="integrated-gradients",
        title="Integrated gradients",
        function=f"{_HERE}.pixel_gradients:integrated_gradients",
        score="pixels times the mean gradient on the way from grey to the picture, summed over the patch",
        formula="Σ x ∫ ∂z/∂x(αx) dα",
        words="integrated gradients: share of each patch in the class's logit, from a grey picture on",
        source="Sundararajan et al. 2017",
        comparison="captum's IntegratedGradients: 1e-4 of each score; the logit's difference from grey: 1e-2 of it",
        needs=("gradients",),
        options=("target", "against"),
    ),
    MethodEntry(
        name="smoothgrad",
        title="SmoothGrad",
        function=f"{_HERE}.pixel_gradients:smoothgrad",
        score="size of the mean gradient under noise, summed over the patch",
        formula="Σ |mean ∂z/∂x(x + ε)|",
        words="SmoothGrad: size of the class's mean gradient under noise",
        source="Smilkov et al. 2017",
        comparison="a loop over noisy copies and patches: 1e-4 of each score",
        needs=("gradients", "seed"),
        options=("target", "against"),
    ),
    MethodEntry(
        name="legrad",
        title="LeGrad",
        function=f"{_HERE}.legrad:legrad",
        score="growth of each layer's class score with its attention to the patch, mean over layers, heads and queries",
        formula="mean (∂z_l/∂A_l)⁺",
        words="LeGrad over {layers} layers: growth of each layer's class score with its attention",
        source="Bousselham et al. 2024",
        comparison="the authors' code where the mean of all tokens is read: 2e-5 of the map's range; "
        "the formula on whole matrices, gradients by plain autograd: 1e-3 of each score",
        needs=("attention", "head", "gradients"),
        options=("target", "against"),
    ),
    MethodEntry(
        name="value-norm",
        title="Attention × value norm",
        function=f"{_HERE}.value_norm:value_norm",
        score="length of what the patch adds, through one layer's attention, to what the head reads (`--layer`)",
        formula="‖Σ_h α_h f_h(x)‖",
        words="attention × value norm: length of what each patch adds to {readout}, {layer}",
        source="Kobayashi et al. 2020",
        comparison="one vector a pair of tokens, in a loop: 1e-4 of each score",
        needs=("attention", "head"),
        options=("layer",),
    ),
    MethodEntry(
        name="value-output",
        title="Value-output contribution",
        function=f"{_HERE}.value_output:value_output",
        score="what the patch's values, attended to in the last block, add to the class's logit",
        formula="Σ_hq A_hqk ḡ_hq · v_hk",
        words="contribution of each patch to the class's logit through the last layer's attention",
        source="after Kobayashi et al. 2020 and Sundararajan et al. 2017",
        comparison="the logit's change when that attention adds nothing, which all tokens sum to: 1e-3 of it",
        needs=("attention", "gradients"),
        options=("target", "against"),
    ),
    MethodEntry(
        name="attnlrp",
        title="AttnLRP",
        function=f"{_HERE}.attnlrp:attnlrp",
        score="relevance of the patch's pixels for the class's logit, passed back by rules for attention and norms",
        formula="Σ x ∂z/∂x, by the rules' gradients",
        words="AttnLRP: relevance of each patch for the class's logit",
        source="Achtibat et al. 2024",
        comparison="the authors' lxt 2.1: 2e-6 where the largest is 0.4; "
        "relevance passed back layer by layer, each rule as printed: 1e-3 of each score",
        needs=("gradients",),
        options=("target", "against"),
    ),
    MethodEntry(
        name="rise",
        title="RISE",
        function=f"{_HERE}.rise:rise",
        score="how much likelier the class is where the patch is seen, over 512 random masks",
        formula="Σ p(x⊙m) m / Σ m − mean p(x⊙m)",
        words="RISE: how much likelier the class is where a patch is seen, over 512 random masks",
        source="Petsiuk, Das and Saenko 2018",
        comparison="a loop over masks: 1e-4 of each score",
        needs=("probabilities", "seed"),
        options=("target",),
    ),
)
"""Every method of vitrine's own, in the order of tables and menus."""

METHODS: tuple[str, ...] = tuple(entry.name for entry in ENTRIES)

ALL_METHODS = "all"
"""In place of a method's name: all of them."""

CORE_METHODS = ("attention", "rollout", "relevance", "gradcam", "occlusion")
"""Methods that a demonstration and a report score, where nobody asks for all."""

_CAPTUM = (
    *("DeepLift", "Deconvolution", "FeatureAblation", "GradientShap", "GuidedBackprop", "InputXGradient"),
    *("IntegratedGradients", "KernelShap", "Lime", "Occlusion", "Saliency", "ShapleyValueSampling"),
)
_CAM = (
    *("AblationCAM", "EigenCAM", "EigenGradCAM", "FEM", "FinerCAM", "GradCAM", "GradCAMElementWise", "GradCAMPlusPlus"),
    *("HiResCAM", "KPCA_CAM", "LayerCAM", "ScoreCAM", "XGradCAM"),
)
_OF_NO_CLASS = ("EigenCAM", "FEM", "KPCA_CAM")  # they look at the tokens alone


def _captum_entry(variant: str) -> MethodEntry:
    return MethodEntry(
        name=f"captum:{variant}",
        title=f"captum's {variant}",
        function=f"{_HERE}.captum_methods:captum_maps",
        score=f"captum's {variant} of the class's logit, summed over the patch or of it as one feature",
        formula="",
        words=f"captum's {variant} for the class's logit",
        source="captum",
        comparison="",
        needs=("gradients", "seed"),
        options=("target", "against"),
        variant=variant,
    )


def _cam_entry(variant: str) -> MethodEntry:
    return MethodEntry(
        name=f"cam:{variant}",
        title=f"pytorch-grad-cam's {variant}",
        function=f"{_HERE}.cam_methods:cam_maps",
        score=f"pytorch-grad-cam's {variant} at the tokens that Grad-CAM takes",
        formula="",
        words=f"pytorch-grad-cam's {variant} on the tokens of {{tokens}}",
        source="pytorch-grad-cam",
        comparison="",
        needs=("gradients",),
        options=("layer",) if variant in _OF_NO_CLASS else ("layer", "target", "against"),
        variant=variant,
    )


LIBRARY_ENTRIES: tuple[MethodEntry, ...] = (*map(_captum_entry, _CAPTUM), *map(_cam_entry, _CAM))
"""Methods of libraries that are installed by extras, by the names ``captum:NAME`` and ``cam:NAME``."""

LIBRARIES = ("captum", "cam")
_BY_NAME = {entry.name: entry for entry in (*ENTRIES, *LIBRARY_ENTRIES)}


DRAWING_METHODS = tuple(name for name, entry in _BY_NAME.items() if "seed" in entry.needs)
"""Methods whose map depends on a seed."""


def method_entry(name: str) -> MethodEntry:
    """The row of a method, of vitrine's own or of a library.

    Raises:
        KeyError: there is no such method.
    """
    return _BY_NAME[name]


def is_own_function(name: str) -> bool:
    """Whether a name is that of a person's own function, ``module:function``, not of a library's method."""
    library, colon, _ = name.partition(":")
    return bool(colon) and library not in LIBRARIES


def own_entry(name: str) -> MethodEntry:
    """The row of a person's own function."""
    return MethodEntry(
        name=name,
        title=name,
        function=f"{_HERE}.foreign_methods:own_maps",
        score=f"whatever {name} gives",
        formula="",
        words=f"maps by {name}",
        source="",
        comparison="",
        options=("target",),
    )
