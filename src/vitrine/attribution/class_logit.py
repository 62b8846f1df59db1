"""The number whose gradients maps are made of: a class's logit, or by how much it is above another class's.

Axes: B pictures, C classes (in logits_BC) or channels, H, W pixels.
"""

from __future__ import annotations

import torch


def class_logit(
    logits_BC: torch.Tensor, targets_B: torch.Tensor, against_B: torch.Tensor | None = None
) -> torch.Tensor:
    """The sum over pictures of each one's class logit, less that of another class where one is named.

    Pictures do not depend on one another, so that the sum's gradient by one picture's input is that of its own logit.

    Args:
        logits_BC: of the model.
        targets_B: int64, a class for each picture, on any device.
        against_B: likewise, the class that the first is compared with: why ``targets_B`` and not ``against_B``.

    Returns:
        A scalar, float32.
    """
    logits_BC = logits_BC.float()
    own = logits_BC.gather(1, targets_B[:, None].to(logits_BC.device)).sum()
    return own if against_B is None else own - logits_BC.gather(1, against_B[:, None].to(logits_BC.device)).sum()
