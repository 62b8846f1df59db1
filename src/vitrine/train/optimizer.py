"""The optimizer, AdamW or Muon, and the schedule of its learning rate."""

from __future__ import annotations

import re
from typing import Any

import torch
from timm.optim import Muon
from timm.scheduler import CosineLRScheduler
from torch import nn

from vitrine.models.finetune import parameter_groups
from vitrine.train.settings import OptimizerSettings, ScheduleSettings

# Parameters of blocks, as timm's models name them, and of a captioner's transformer.
_INSIDE = re.compile(r"(^|\.)(blocks|(en|de)coder\.layers)\.")


def make_optimizer(
    module: nn.Module, settings: OptimizerSettings, groups: list[dict[str, Any]] | None = None
) -> torch.optim.Optimizer:
    """AdamW or Muon over groups of the trainable parameters, each of which may have a ``lr_scale``.

    Without ``groups``, a vision transformer's parameters are grouped by weight decay and layer.

    ``adamw`` is torch's, fused. ``muon`` (Jordan et al. 2024) is timm's: the weight matrices inside the blocks take
    orthogonalised momentum steps, scaled to the size that AdamW's steps have (Liu et al. 2025, arXiv:2502.16982), so
    that a learning rate means about the same for both; everything else takes NAdamW's.
    """
    groups = parameter_groups(module, settings.weight_decay, settings.layer_decay) if groups is None else groups
    for group in groups:
        group.pop("param_names", None)  # which timm adds for its own messages
    betas = (0.9, settings.beta2)
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=betas, fused=True)
    optimizer: torch.optim.Optimizer = Muon(
        _split_off_matrices(module, groups),
        lr=settings.learning_rate,
        nesterov=True,
        betas=betas,
        adjust_lr_fn="match_rms_adamw",
    )
    return optimizer


def _split_off_matrices(module: nn.Module, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each group as two: matrices inside the blocks, and the rest, which falls back to NAdamW."""
    inside = {id(p) for name, p in module.named_parameters() if p.ndim == 2 and _INSIDE.search(name)}
    return [
        {**group, "params": members, "use_fallback": falls_back}
        for group in groups
        for falls_back in (False, True)
        if (members := [p for p in group["params"] if (id(p) not in inside) == falls_back])
    ]


def make_schedule(
    optimizer: torch.optim.Optimizer, settings: ScheduleSettings, steps_per_epoch: int
) -> CosineLRScheduler:
    """Linear warm-up from zero to the peak, then a cosine to ``final_lr_ratio`` of it, counted in optimizer steps.

    The warm-up takes half of all steps at most, so that a run of one epoch still reaches its peak.
    """
    total = settings.epochs * steps_per_epoch
    warmup = min(round(settings.warmup_epochs * steps_per_epoch), total // 2)
    return CosineLRScheduler(
        optimizer,
        t_initial=max(1, total - warmup),
        lr_min=settings.learning_rate * settings.final_lr_ratio,
        warmup_t=warmup,
        warmup_prefix=True,
        t_in_epochs=False,
    )
