"""Features of an image encoder that is not trained: computed once, kept for every epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from vitrine.data.batch import batch_count, epoch_order
from vitrine.data.sharing import Share
from vitrine.recipes import Recipe
from vitrine.recipes.checks import refuse
from vitrine.workflows.training_task import Setting

KEPT_BYTES = 4 << 30  # features are kept up to here, and computed every epoch beyond


class KeptFeatures:
    """Tensors of pictures, on the CPU, by version (view) and position.

    Those of the first one's shape lie in one tensor, others by themselves.

    Args:
        pictures: how many there are.
        views: versions of each.
    """

    def __init__(self, pictures: int, views: int = 1) -> None:
        self._pictures, self._views = pictures, views
        self._rows: Tensor | None = None
        self._there = torch.zeros(pictures * views, dtype=torch.bool)
        self._others: dict[int, Tensor] = {}

    @property
    def count(self) -> int:
        """Tensors that are there."""
        return int(self._there.sum())

    def add(self, view: int, index: int, value: Tensor) -> None:
        """Keep a copy of one picture's tensor."""
        if self._rows is None:
            self._rows = torch.empty((len(self._there), *value.shape), dtype=value.dtype)
        place = view * self._pictures + index
        if value.shape == self._rows.shape[1:]:
            self._rows[place] = value
        else:
            self._others[place] = value.to("cpu", copy=True)
        self._there[place] = True

    def has(self, view: int, index: int) -> bool:
        """Whether the picture could be read when its features were computed."""
        return bool(self._there[view * self._pictures + index])

    def __call__(self, view: int, indices: Sequence[int]) -> list[Tensor]:
        """The tensors of these pictures, all of which are there."""
        assert self._rows is not None
        places = [view * self._pictures + index for index in indices]
        return [self._others[place] if place in self._others else self._rows[place] for place in places]

    def batches(
        self, recipe: Recipe, epoch: int, start: int, view: int, share: Share
    ) -> Iterator[tuple[list[int], list[Tensor], bool]]:
        """Positions and tensors of this process's parts of an epoch's batches from ``start`` on, and whether they are
        only lent: those that a loader would give."""
        order = epoch_order(self._pictures, seed=recipe.seed, epoch=epoch, shuffle=True).tolist()
        size = recipe.batch_size
        for number in range(start, batch_count(self._pictures, size)):
            whole = order[number * size : (number + 1) * size]
            positions, lent = share.taken(len(whole))
            indices = [whole[position] for position in positions if self.has(view, whole[position])]
            yield indices, self(view, indices), lent


def require_views_possible(recipe: Recipe, endless: bool) -> None:
    """Refuse versions of pictures that have no number of their own.

    Raises:
        RecipeError: ``views`` with training pictures that come in a stream.
    """
    if recipe.views and endless:
        raise refuse("views", recipe.views, "0, as these training pictures come in a stream")


def view_of(recipe: Recipe, random: bool, epoch: int) -> int:
    """Which version of the pictures an epoch (from 0) takes: the one that the random changes of this epoch give.

    With ``views`` they take turns; without, every epoch has its own, and one that changes nothing at random the first.
    """
    if recipe.views:
        return epoch % recipe.views
    return epoch if random else 0


def stored_dtype(setting: Setting) -> torch.dtype:
    """What features are kept in: that of the products which read them, so that nothing is lost by it."""
    return torch.bfloat16 if setting.precision == "bf16" else torch.float32


def keep_features(
    passes: Sequence[Callable[[], Iterable[Any]]],
    see: Callable[[Any], Sequence[Tensor]],
    pictures: int,
    progress: Callable[[int, int], None],
) -> KeptFeatures | None:
    """Run an image encoder over all versions of all pictures once.

    Args:
        passes: one for each version: batches with ``indices_B``.
        see: encodes a batch: a tensor for each of its pictures.
        pictures: how many there are.
        progress: called with tensors done, of how many.

    Returns:
        None where the first batch shows that it would take more than ``KEPT_BYTES``.
    """
    kept, total = KeptFeatures(pictures, len(passes)), pictures * len(passes)
    done = 0
    for view, batches in enumerate(passes):
        for batch in batches():
            values = see(batch) if len(batch.indices_B) else ()
            if len(values) and total * values[0].nbytes > KEPT_BYTES:
                return None
            for index, value in zip(batch.indices_B.tolist(), values, strict=True):
                kept.add(view, index, value)
            done += len(values)
            progress(done, total)
    return kept
