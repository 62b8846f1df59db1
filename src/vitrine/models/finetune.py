"""Fine-tuning: which parameters are trained (all, the last blocks, LoRA, a linear probe) and in which groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn

from vitrine.errors import ModelError, RecipeError
from vitrine.models.forward_hooks import watch_input
from vitrine.models.precision import class_token_alone
from vitrine.results import count_of


def select_trainable(module: nn.Module, tune: str) -> nn.Module:
    """Freeze what ``tune`` leaves out; for LoRA, wrap the model in adapters.

    ``head`` trains the classifier alone; ``last:N`` the classifier, the norm before it and the last N blocks; ``all``
    everything; ``lora`` (rank 8) or ``lora:RANK`` low-rank adapters on every attention's and MLP's linear layers, and
    the classifier (Hu et al. 2021).

    Raises:
        RecipeError: more blocks than the model has.
        ModelError: LoRA without peft.
    """
    if tune == "all":
        return module
    if tune.startswith("lora"):
        return _with_adapters(module, int(tune.partition(":")[2] or 8))
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    parts = _classifiers(module)
    if tune.startswith("last:"):
        count = int(tune.partition(":")[2])
        blocks = list(module.blocks)  # type: ignore[arg-type]
        if count > len(blocks):
            raise RecipeError(f"tune = {tune!r} cannot be used: the model has {count_of(len(blocks), 'block')}.")
        parts += [*blocks[-count:], *_norms_before_head(module)]
    for part in parts:
        for parameter in part.parameters():
            parameter.requires_grad_(True)
    return module


def _classifiers(module: nn.Module) -> list[nn.Module]:
    """The modules that classify; a distilled model has two."""
    heads = module.get_classifier()  # type: ignore[operator]
    return list(heads) if isinstance(heads, tuple) else [heads]


def _norms_before_head(module: nn.Module) -> Iterable[nn.Module]:
    return [part for name in ("norm", "fc_norm") if isinstance(part := getattr(module, name, None), nn.Module)]


def _with_adapters(module: nn.Module, rank: int) -> nn.Module:
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ModelError(
            "tune = 'lora' needs the package peft. Install it with: pip install 'vitrine[peft]'"
        ) from error
    classifiers = _classifiers(module)
    head = [name for name, part in module.named_modules() if any(part is one for one in classifiers)]
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=["qkv", "q_proj", "v_proj", "proj", "fc1", "fc2"],
        modules_to_save=head,
    )
    model: nn.Module = get_peft_model(module, config)
    return model


def merge_adapters(module: nn.Module) -> nn.Module:
    """The plain timm model, LoRA adapters folded into its weights, on a copy; a plain model is returned as it is."""
    if not hasattr(module, "merge_and_unload"):
        return module
    model: nn.Module = deepcopy(module).merge_and_unload()  # type: ignore[operator]
    return model


def captioner_parameter_groups(
    module: nn.Module, weight_decay: float, backbone_lr_scale: float
) -> list[dict[str, Any]]:
    """Parameter groups of a captioner: the image encoder with its own learning rate, and the rest; no weight decay on
    vectors and embeddings.

    Each group has ``lr_scale``, as :func:`parameter_groups` says.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            no_decay = parameter.ndim < 2 or ".embeddings." in f".{name}" or name.endswith(("pos_embed", "cls_token"))
            groups.setdefault((".backbone." in f".{name}", no_decay), []).append(parameter)
    return [
        {
            "params": members,
            "weight_decay": 0.0 if no_decay else weight_decay,
            "lr_scale": backbone_lr_scale if is_backbone else 1.0,
        }
        for (is_backbone, no_decay), members in groups.items()
    ]


def parameter_groups(module: nn.Module, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """Parameter groups for AdamW: no weight decay on vectors, position embeddings and tokens; layer-wise learning rate.

    Each group has ``lr_scale``, which the schedule multiplies with its own value (Bao et al. 2021, BEiT).
    """
    plain = module.get_base_model() if hasattr(module, "get_base_model") else module  # type: ignore[operator]
    exempt = set(plain.no_weight_decay()) if hasattr(plain, "no_weight_decay") else set()  # type: ignore[operator]
    groups: list[dict[str, Any]] = param_groups_layer_decay(
        plain, weight_decay=weight_decay, no_weight_decay_list=exempt, layer_decay=layer_decay
    )
    return groups


# Attributes of dropout layers, of torch and timm, that hold how much they drop.
_DROP_RATES = ("p", "prob", "drop_prob")


class PooledFeatures(nn.Module):
    """A timm vision transformer without its classifier: one feature vector a picture.

    That is the class token, the mean of the patches, or whatever else the model's own head reads, after its last norm.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Features (B, D) of normalised pixels (B, C, H, W)."""
        tokens = self.module.forward_features(pixels_BCHW)  # type: ignore[operator]
        features_BD: Tensor = self.module.forward_head(tokens, pre_logits=True)  # type: ignore[operator]
        return features_BD


class LinearProbe(nn.Module):
    """The classifier of a frozen model, to be trained alone: its parameters and state are the classifier's.

    Attributes:
        head: the classifier.
        model: the whole model, beside this module rather than inside: a copy of this module shares it.
    """

    def __init__(self, model: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.head = head
        self._beside = (model, PooledFeatures(model))  # a tuple hides them from parameters(), state_dict() and deepcopy

    @property
    def model(self) -> nn.Module:
        """The model that the classifier belongs to."""
        return self._beside[0]

    @property
    def features(self) -> PooledFeatures:
        """The frozen model that computes what the classifier reads."""
        return self._beside[1]

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (B, C) of normalised pixels (B, 3, H, W), or of their features (B, D)."""
        if inputs.ndim == 4:
            with torch.no_grad(), class_token_alone(self.model):
                inputs = self.features(inputs)
        logits_BC: Tensor = self.head(inputs)
        return logits_BC

    def train(self, mode: bool = True) -> LinearProbe:
        """Switch training mode, of the frozen parts too: their dropout works as in any other training."""
        self.model.train(mode)
        super().train(mode)
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LinearProbe:
        self.model._apply(fn, recurse)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> LinearProbe:
        return LinearProbe(self.model, deepcopy(self.head, memo))

    @contextmanager
    def merged(self) -> Iterator[nn.Module]:
        """The whole model with this classifier, which may be a moving average; its own comes back after the block."""
        model_head: nn.Module = self.model.get_classifier()  # type: ignore[operator]
        before = {name: value.clone() for name, value in model_head.state_dict().items()}
        model_head.load_state_dict(self.head.state_dict())
        try:
            yield self.model
        finally:
            model_head.load_state_dict(before)


def is_stochastic(module: nn.Module) -> bool:
    """Whether a module in training mode may give another output for the same input: dropout in any form, batch norm."""
    return any(
        isinstance(part, nn.modules.batchnorm._BatchNorm)
        or ("Drop" in type(part).__name__ and any(float(getattr(part, name, None) or 0) > 0 for name in _DROP_RATES))
        for part in module.modules()
    )


def linear_head(module: nn.Module, size: tuple[int, int]) -> nn.Module | None:
    """A model's classifier, where it is one linear layer that reads :class:`PooledFeatures`; None of other models.

    Some models average two classifiers, and another library's head may read something else: the model is asked, with a
    picture of seeded random pixels, in rows and columns of ``size``.
    """
    head = module.get_classifier()  # type: ignore[operator]
    if not isinstance(head, nn.Linear):
        return None
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad(), watch_input(head) as head_inputs:
            pixels_BCHW = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
            module(pixels_BCHW)
            features_BD = PooledFeatures(module)(pixels_BCHW)
    finally:
        module.train(was_training)
    if len(head_inputs) != 1 or head_inputs[0].shape != features_BD.shape:
        return None
    return head if torch.allclose(head_inputs[0], features_BD, atol=1e-5) else None
