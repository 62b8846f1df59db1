"""A captioner made ready to predict: the same numbers up to rounding, sooner."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vitrine.models.captioner.backbone import fold_frozen_norms
from vitrine.models.captioner.model import CaptionModel
from vitrine.models.captioner.packed import pack_bottlenecks, pack_linears
from vitrine.models.captioner.transformer import Attention


def prepare_for_prediction(model: CaptionModel) -> CaptionModel:
    """Fold frozen batch norms into the convolutions, and lay weights out in memory as one word at a time reads them.

    Convolutions become channels-last; a ResNet's are packed, and fused with what follows them. Matrices that widen
    (above all the last one, to the vocabulary) are stored by columns: the product of one row with such a matrix, which
    is what a word costs, then takes less than half the time in float32. Several rows at once, beams and batches, go
    through large matrices that are packed. Packed copies are made when they are first used, and take as much memory
    again: see :mod:`vitrine.models.captioner.packed`. ``.to(torch.bfloat16)`` afterwards keeps all of it.

    Args:
        model: changed in place and put into eval mode. Its state dict has other names and layouts from here on, so
            save before.

    Returns:
        the same model.
    """
    fold_frozen_norms(model.backbone)
    model.backbone = model.backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for module in model.modules():
        if isinstance(module, nn.Linear):
            _by_columns(module.weight)
        elif isinstance(module, Attention):
            _by_columns(module.in_proj_weight)
    pack_bottlenecks(model.backbone)
    pack_linears(model)
    return model.eval()


def round_images(model: CaptionModel) -> CaptionModel:
    """Put the image side, up to the encoder's last layer, into bf16: weights and what is computed from them. Words stay
    in float32: rounded too, they would cost no less, one at a time, and more of them would be others.

    Args:
        model: changed in place; it cannot be made float32 again.

    Returns:
        the same model.
    """
    for part in (model.backbone, model.projection, model.encoder):
        part.to(torch.bfloat16)
    return model


def images_rounded(module: nn.Module) -> bool:
    """Whether this is a captioner whose image side is in bf16."""
    return isinstance(module, CaptionModel) and module.projection.weight.dtype == torch.bfloat16


def _by_columns(weight: Tensor) -> None:
    rows, columns = weight.shape
    if rows >= columns:
        weight.data = weight.data.t().contiguous().t()
