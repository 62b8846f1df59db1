"""The optimizer and its schedule, from a recipe."""

from __future__ import annotations

import torch
from torch import nn

from vitrine.models.tuning import parameter_groups
from vitrine.recipes import Recipe
from vitrine.torchpair import require_torchvision

require_torchvision()

from timm.scheduler import CosineLRScheduler  # noqa: E402


def make_optimizer(module: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """Fused AdamW over the trainable parameters, grouped by weight decay and layer."""
    return torch.optim.AdamW(
        parameter_groups(module, recipe), lr=recipe.learning_rate, betas=(0.9, recipe.beta2), fused=True
    )


def make_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, steps_per_epoch: int) -> CosineLRScheduler:
    """Linear warm-up from zero to the peak, then a cosine to ``final_lr_ratio`` of it, counted in optimizer steps.

    The warm-up is cut to the schedule's length, so that a run of one epoch still reaches its peak.
    """
    total = recipe.epochs * steps_per_epoch
    warmup = min(round(recipe.warmup_epochs * steps_per_epoch), total // 2)
    return CosineLRScheduler(
        optimizer,
        t_initial=max(1, total - warmup),
        lr_min=recipe.learning_rate * recipe.final_lr_ratio,
        warmup_t=warmup,
        warmup_prefix=True,
        t_in_epochs=False,
    )
