"""Training batches out of shards: names, captions and damage are kept track of while pictures pass by."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vitrine.data.loading import PictureLoader
from vitrine.data.samples import Sample
from vitrine.data.shards.stream import BLACK, ShardSplit
from vitrine.data.sharing import Share
from vitrine.errors import DataError
from vitrine.recipes import Recipe
from vitrine.train.processes import Processes
from vitrine.workflows.training_events import Event, Note

_MOST_NAMED = 1000  # unreadable pictures; all are counted


@dataclass(frozen=True)
class _Told:
    """What is remembered of a picture that went to be loaded."""

    name: str
    captions: tuple[str, ...]


class ShardedBatches:
    """The batches of a training that reads shards, whatever its loader makes of pictures.

    Args:
        split: the training pictures.
        recipe: batch size, seed, buffer, and how many pictures may be unreadable.
        share: of this process.
        report: is told which pictures could not be read.
    """

    def __init__(
        self, split: ShardSplit, recipe: Recipe, share: Share, report: Callable[[Event], None] = lambda _: None
    ) -> None:
        self._split, self._recipe, self._share, self._report = split, recipe, share, report
        self._recent: deque[dict[int, _Told]] = deque(maxlen=recipe.accumulate)
        self._unreadable: list[tuple[str, str]] = []
        self._count = 0

    def epoch(self, loader: PictureLoader, epoch: int, start: int) -> Iterator[Any]:
        """This process's parts of an epoch's batches, from a batch number on.

        Raises:
            DataError: a shard is gone, or nothing of a whole batch can be read.
        """
        recipe, told, lent = self._recipe, dict[int, _Told](), self._share.processes > 1

        def parts() -> Iterator[tuple[tuple[int, ...], tuple[Sample, ...], bool]]:
            for part in self._split.parts(
                batch_size=recipe.batch_size,
                seed=recipe.seed,
                epoch=epoch,
                buffer=recipe.shuffle_buffer,
                start_batch=start,
                share=self._share,
            ):
                for place, sample in zip(part.indices, part.samples, strict=True):
                    told[place] = _Told(sample.name, sample.captions)
                yield part.indices, part.samples, part.lent

        for batch in loader.stream(parts(), seed=recipe.seed, epoch=epoch):
            places = [*batch.indices_B.tolist(), *(place for place, _ in batch.unreadable)]
            self._recent.append({place: told.pop(place) for place in places})
            for place, reason in batch.unreadable:
                self._tell(self._recent[-1][place].name, reason)
            if len(batch):
                yield batch
            elif lent:
                yield self._stand_in(loader, places[0])
            else:
                name, reason = self._unreadable[-1]
                raise DataError(
                    f"None of the {len(places)} pictures of a batch can be read, for example {name}: {reason}"
                )

    def _stand_in(self, loader: PictureLoader, place: int) -> Any:
        self._recent[-1][place] = _Told(BLACK.name, BLACK.captions)
        return replace(loader.load((BLACK,), (place,), loader.transform, seed=0, epoch=0), lent=True)

    def _tell(self, name: str, reason: str) -> None:
        self._count += 1
        if len(self._unreadable) < _MOST_NAMED:
            self._unreadable.append((name, reason))

    def tell_unreadable(self, processes: Processes) -> None:
        """Say which pictures could not be used since this was called last; every process calls it.

        Raises:
            DataError: more of them than the recipe allows.
        """
        parts = processes.gathered((self._count, self._unreadable))
        self._count, self._unreadable = 0, []
        count, named, total = (
            sum(part[0] for part in parts),
            [row for part in parts for row in part[1]],
            len(self._split),
        )
        if not count:
            return
        for name, reason in named[:5]:
            self._report(Note(f"not readable: {name}: {reason}"))
        self._report(Note(f"{count:,} of {total:,} pictures could not be read in this epoch."))
        if count > self._recipe.max_unreadable * total:
            name, reason = named[0]
            raise DataError(
                f"{count:,} of {total:,} pictures cannot be read, for example {name}: {reason}\n"
                "Make the shards anew with vitrine shards, or --set max_unreadable=1 in a new run."
            )

    def names(self, indices: Sequence[int]) -> list[str]:
        """File names of pictures of the last ``accumulate`` batches, by their places in the epoch."""
        known = {place: each.name for batch in self._recent for place, each in batch.items()}
        return [known.get(place, "?") for place in indices]

    def captions(self, indices: Sequence[int]) -> list[tuple[str, ...]]:
        """Captions of pictures of the batch that came last."""
        return [self._recent[-1][place].captions for place in indices]
