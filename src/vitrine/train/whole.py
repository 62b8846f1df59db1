"""The loss of a whole micro-batch whose parts several processes hold, and what each part's gradient weighs."""

from __future__ import annotations

from dataclasses import dataclass

from vitrine.train.objective import Loss
from vitrine.train.processes import Processes


@dataclass(frozen=True)
class WholeLoss:
    """One micro-batch, over the parts of all processes.

    Attributes:
        mean: the loss.
        count: what it is the mean of.
        correct: how many of these were the likeliest; None where targets were mixed.
        weight: what this process's mean loss is multiplied with before its gradient is taken. Gradients are averaged
            over processes: with ``processes × own count / count`` the average is the gradient of the whole mean,
            however unequal the parts are.
    """

    mean: float
    count: int
    correct: int | None
    weight: float


def whole_loss(processes: Processes, loss: Loss, lent: bool) -> WholeLoss:
    """Join the parts' losses; a part that was ``lent``, so that its process can take part, does not count."""
    mean = loss.mean.item()
    if processes.count == 1:
        return WholeLoss(mean, loss.count, loss.correct, 1.0)
    own = 0 if lent else loss.count
    sums = processes.totals((mean * own if own else 0.0, own, own and (loss.correct or 0), loss.correct is None))
    loss_sum, count, correct, mixed = sums
    weight = processes.count * own / count
    return WholeLoss(loss_sum / count, int(count), None if mixed else int(correct), weight)
