"""Steps whose numbers have not been read yet.

An accelerator works through a queue. Whoever reads a number of it waits for everything that was queued before, and
then it stands still until more is queued, which with small batches takes long. So the losses of a step are read when
the next one is queued.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence

import torch

from vitrine.errors import TrainingError
from vitrine.train.processes import Processes
from vitrine.train.whole import ReadLoss, WholeLoss


def steps_behind(device: torch.device) -> int:
    """How many steps wait to be read while the next one is queued; 0 reads each at once, as where nothing is queued."""
    return 1 if device.type == "cuda" else 0


class UnreadStep:
    """One optimizer step. What its micro-batches come to is read in their order, each once.

    Attributes:
        epoch: from 0.
        step: from 1.
        pictures: of all processes.
        learning_rate: that it is taken with.
    """

    def __init__(
        self,
        processes: Processes,
        counted: Callable[[ReadLoss], None],
        *,
        epoch: int,
        step: int,
        pictures: int,
        learning_rate: float,
    ) -> None:
        self.epoch, self.step, self.pictures, self.learning_rate = epoch, step, pictures, learning_rate
        self._processes, self._counted = processes, counted
        self._parts: deque[tuple[WholeLoss, Callable[[], Sequence[str]]]] = deque()
        self._sum, self._count = 0.0, 0

    def add(self, whole: WholeLoss, names: Callable[[], Sequence[str]], *, at_once: bool) -> None:
        """A micro-batch with the file names of this process's pictures.

        Raises:
            TrainingError: it is read at once, and its loss is not finite.
        """
        if at_once:
            self._parts.append((whole, names))
            self.read()
            return
        known = names()  # a stream has forgotten them by the time that they are wanted
        self._parts.append((whole, lambda: known))

    def read(self) -> float:
        """The mean loss of what was added; all processes have to ask.

        Raises:
            TrainingError: a loss is not finite; the message names its batch.
        """
        while self._parts:
            whole, names = self._parts[0]
            found = whole.read()
            if not math.isfinite(found.mean):
                raise TrainingError(self._not_finite(found.mean, names()))
            self._sum, self._count = self._sum + found.mean * found.count, self._count + found.count
            self._counted(found)
            self._parts.popleft()
        return self._sum / self._count

    def _not_finite(self, value: float, own: Sequence[str]) -> str:
        names = [name for part in self._processes.gathered(own) for name in part]
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        return (
            f"The loss became {value} in epoch {self.epoch + 1}, step {self.step}. The batch was: {shown}.\n"
            "Lower learning_rate, set clip_norm=1, or use precision=fp32; --resume continues from the last checkpoint."
        )
