"""The loss of a whole micro-batch whose parts several processes hold, and what each part's gradient weighs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vitrine.train.objective import Loss
from vitrine.train.processes import Processes


class Numbers:
    """Numbers on their way from where they are computed; reading them waits for what was queued before, no longer."""

    def __init__(self, *numbers: Tensor) -> None:
        # From CUDA, such a copy goes into pinned memory and is queued behind the work that makes the number.
        self._here = [number.detach().to("cpu", non_blocking=number.is_cuda) for number in numbers]
        self._arrived = torch.cuda.Event() if numbers[0].is_cuda else None
        if self._arrived is not None:
            self._arrived.record()

    def read(self) -> list[float]:
        """Their values."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return [number.item() for number in self._here]


@dataclass(frozen=True)
class ReadLoss:
    """What a micro-batch came to, over the parts of all processes.

    Attributes:
        mean: the loss.
        count: what it is the mean of.
        correct: how many of these were the likeliest; None where targets were mixed.
    """

    mean: float
    count: int
    correct: int | None


@dataclass(frozen=True)
class WholeLoss:
    """One micro-batch, over the parts of all processes, before its loss is read.

    Attributes:
        count: what its loss is the mean of.
        weight: what this process's mean loss is multiplied with before its gradient is taken. Gradients are averaged
            over processes: with ``processes × own count / count`` the average is the gradient of the whole mean,
            however unequal the parts are.
        own: this process's share of ``count``.
        numbers: its mean loss, and how many were the likeliest unless targets were mixed.
        processes: that hold the parts.
    """

    count: int
    weight: float
    own: int
    numbers: Numbers
    processes: Processes

    def read(self) -> ReadLoss:
        """Join the parts' losses; all processes have to ask."""
        mean, *correct = self.numbers.read()
        if self.processes.count == 1:
            return ReadLoss(mean, self.count, int(correct[0]) if correct else None)
        parts = (mean * self.own, sum(correct)) if self.own else (0.0, 0.0)
        loss_sum, right, mixed = self.processes.totals((*parts, not correct))
        return ReadLoss(loss_sum / self.count, self.count, None if mixed else int(right))


def whole_loss(processes: Processes, loss: Loss, lent: bool) -> WholeLoss:
    """Join what is known of the parts; one that was ``lent``, so that its process can take part, does not count."""
    numbers = Numbers(*(each for each in (loss.mean, loss.correct) if each is not None))
    if processes.count == 1:
        return WholeLoss(loss.count, 1.0, loss.count, numbers, processes)
    own = 0 if lent else loss.count
    count = int(processes.totals((own,))[0])
    return WholeLoss(count, processes.count * own / count, own, numbers, processes)
