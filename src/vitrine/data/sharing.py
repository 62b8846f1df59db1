"""How several processes share the pictures of a batch, or of a whole split, without any of them twice."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """One process's share of everything.

    Attributes:
        process: its number, from 0.
        processes: how many share.
        mirrored: picture i of a batch of n is kept beside picture n - 1 - i, which mixup and cutmix mix it with (timm
            mixes a batch with its reverse): what a process mixes is then what one process alone would have mixed.
    """

    process: int = 0
    processes: int = 1
    mirrored: bool = False

    def part(self, count: int) -> range:
        """Positions of a contiguous part of ``count``; the parts differ by one in length at most."""
        return range(count * self.process // self.processes, count * (self.process + 1) // self.processes)

    def of_batch(self, count: int) -> list[int]:
        """Positions in a batch of ``count`` pictures; none where there are fewer pictures than processes."""
        if not self.mirrored or self.processes == 1:
            return list(self.part(count))
        first = list(self.part(count // 2))
        mirror = [count // 2 * 2 - 1 - position for position in reversed(first)]
        odd = [count - 1] if count % 2 and self.process == self.processes - 1 else []  # timm leaves the last one out
        return first + mirror + odd

    def taken(self, count: int) -> tuple[list[int], bool]:
        """As :meth:`of_batch`, but never empty: every process has to take part in a step.

        Returns:
            the positions, and whether they are only lent: the first one, which counts elsewhere.
        """
        own = self.of_batch(count)
        return own or [0], not own
