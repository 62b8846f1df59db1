"""Tensors to a device."""

from __future__ import annotations

import torch


def moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """``tensor`` on ``device``, without waiting for what is queued there.

    A copy from ordinary memory to CUDA waits for its turn in the queue; one from pinned memory is queued itself.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()  # which copies nothing where it is pinned already
    return tensor.to(device, non_blocking=True)
