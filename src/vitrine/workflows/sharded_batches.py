"""Training batches out of shards: names and damage are kept track of while pictures pass by."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace

from vitrine.data.batch import Batch
from vitrine.data.loading import PictureLoader
from vitrine.data.samples import Sample
from vitrine.data.shards.stream import BLACK, ShardSplit
from vitrine.data.sharing import Share
from vitrine.errors import DataError
from vitrine.recipes import Recipe

_MOST_NAMED = 1000  # unreadable pictures; all are counted


class ShardedBatches:
    """The batches of a training that reads shards.

    Attributes:
        unreadable: (name, reason) of pictures that could not be used since :meth:`taken_unreadable` was asked last.
    """

    def __init__(self, split: ShardSplit, recipe: Recipe, share: Share) -> None:
        self._split, self._recipe, self._share = split, recipe, share
        self._recent: deque[dict[int, str]] = deque(maxlen=recipe.accumulate)
        self.unreadable: list[tuple[str, str]] = []
        self._count = 0

    def epoch(self, loader: PictureLoader, epoch: int, start: int) -> Iterator[Batch]:
        """This process's parts of an epoch's batches, from a batch number on.

        Raises:
            DataError: a shard is gone, or nothing of a whole batch can be read.
        """
        recipe, names, lent = self._recipe, dict[int, str](), self._share.processes > 1

        def parts() -> Iterator[tuple[tuple[int, ...], tuple[Sample, ...], bool]]:
            for part in self._split.parts(
                batch_size=recipe.batch_size,
                seed=recipe.seed,
                epoch=epoch,
                buffer=recipe.shuffle_buffer,
                start_batch=start,
                share=self._share,
            ):
                names.update(zip(part.indices, (sample.name for sample in part.samples), strict=True))
                yield part.indices, part.samples, part.lent

        for batch in loader.stream(parts(), seed=recipe.seed, epoch=epoch):
            places = [*batch.indices_B.tolist(), *(place for place, _ in batch.unreadable)]
            self._recent.append({place: names.pop(place) for place in places})
            for place, reason in batch.unreadable:
                self._tell(self._recent[-1][place], reason)
            if len(batch):
                yield batch
            elif lent:
                yield self._stand_in(loader, places[0])
            else:
                name, reason = self.unreadable[-1]
                raise DataError(
                    f"None of the {len(places)} pictures of a batch can be read, for example {name}: {reason}"
                )

    def _stand_in(self, loader: PictureLoader, place: int) -> Batch:
        blank: Batch = loader.load((BLACK,), (place,), loader.transform, seed=0, epoch=0)
        return replace(blank, lent=True)

    def _tell(self, name: str, reason: str) -> None:
        self._count += 1
        if len(self.unreadable) < _MOST_NAMED:
            self.unreadable.append((name, reason))

    def taken_unreadable(self) -> tuple[int, list[tuple[str, str]]]:
        """How many could not be used since this was asked last, and the first thousand of them."""
        count, named = self._count, self.unreadable
        self._count, self.unreadable = 0, []
        return count, named

    def names(self, batch: Batch) -> list[str]:
        """File names of a batch that was among the last ``accumulate``."""
        known = {place: name for each in self._recent for place, name in each.items()}
        return [known.get(place, "?") for place in batch.indices_B.tolist()]
