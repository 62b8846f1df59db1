"""Which parameters are trained, and with which share of the learning rate and weight decay."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from vitrine.errors import ModelError, RecipeError
from vitrine.recipes import Recipe
from vitrine.torchpair import require_torchvision

require_torchvision()

from timm.optim import param_groups_layer_decay  # noqa: E402


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
            raise RecipeError(f"tune = {tune!r} cannot be used: the model has {len(blocks)} blocks.")
        parts += [*blocks[-count:], *_norms_before_head(module)]
    for part in parts:
        for parameter in part.parameters():
            parameter.requires_grad_(True)
    return module


def _classifiers(module: nn.Module) -> list[nn.Module]:
    """The modules that classify; a distilled model has two."""
    found = module.get_classifier()  # type: ignore[operator]
    return list(found) if isinstance(found, tuple) else [found]


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
    adapted: nn.Module = get_peft_model(module, config)
    return adapted


def without_adapters(module: nn.Module) -> nn.Module:
    """The plain timm model, LoRA adapters folded into its weights, on a copy; a plain model is returned as it is."""
    if not hasattr(module, "merge_and_unload"):
        return module
    from copy import deepcopy

    merged: nn.Module = deepcopy(module).merge_and_unload()  # type: ignore[operator]
    return merged


def captioner_groups(module: nn.Module, recipe: Recipe, backbone_learning_rate: float) -> list[dict[str, Any]]:
    """Parameter groups of a captioner: the image encoder with its own learning rate, and the rest; no weight decay on
    vectors and embeddings.

    Each group has ``lr_scale``, as :func:`parameter_groups` says.
    """
    made: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            plain = parameter.ndim < 2 or ".embeddings." in f".{name}" or name.endswith(("pos_embed", "cls_token"))
            made.setdefault((".backbone." in f".{name}", plain), []).append(parameter)
    return [
        {
            "params": members,
            "weight_decay": 0.0 if plain else recipe.weight_decay,
            "lr_scale": backbone_learning_rate / recipe.learning_rate if of_image else 1.0,
        }
        for (of_image, plain), members in made.items()
    ]


def parameter_groups(module: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Parameter groups for AdamW: no weight decay on vectors, position embeddings and tokens; layer-wise learning rate.

    Each group has ``lr_scale``, which the schedule multiplies with its own value (Bao et al. 2021, BEiT).
    """
    plain = module.get_base_model() if hasattr(module, "get_base_model") else module  # type: ignore[operator]
    exempt = set(plain.no_weight_decay()) if hasattr(plain, "no_weight_decay") else set()  # type: ignore[operator]
    groups: list[dict[str, Any]] = param_groups_layer_decay(
        plain, weight_decay=recipe.weight_decay, no_weight_decay_list=exempt, layer_decay=recipe.layer_decay
    )
    return groups
