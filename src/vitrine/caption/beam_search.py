"""Beam search: several captions of each picture are followed, and the best of them is given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from vitrine.caption.decoding import (
    LAST_LAYER,
    CaptionerModule,
    Link,
    MapChoice,
    Memory,
    Next,
    Progress,
    Rows,
    best_first,
    normalised,
    step_limit,
    without_repeats,
)


def beam_search(
    captioner: CaptionerModule,
    memory: Memory,
    beams: int = 5,
    *,
    length_normalisation: float = 1.0,
    no_repeat_ngram: int = 0,
    max_pieces: int | None = None,
    maps: MapChoice = LAST_LAYER,
) -> Iterator[Progress]:
    """Follow the ``beams`` most likely beginnings of each picture. One beam is greedy decoding.

    Of every step's continuations, the best ``beams`` count: those that end are finished captions, and as many others
    as there are beams go on. A picture is done with ``beams`` finished captions of which none has a lower score than
    the best that goes on has at its present length. Scores are those of
    :meth:`vitrine.caption.decoding.DecodedCaption.score`. A caption that was cut for its length is given only if none
    ended. Of equals, the one whose beginning was better comes first, then the one with the lower id.

    Args:
        captioner: in evaluation mode.
        memory: the encoded pictures.
        beams: 1 or more.
        length_normalisation: 0 or more; 0 prefers short captions, 1 compares the mean of the log-probabilities.
        no_repeat_ngram: as in :func:`vitrine.caption.decoding.greedy`.
        max_pieces: likewise.
        maps: likewise. While a picture is decoded, those of all its beams are held: at most pieces × beams × kept
            layers × kept heads × cells numbers of 4 bytes.

    Raises:
        ModelError: as :func:`vitrine.caption.decoding.greedy`.
        ValueError: ``beams`` or ``length_normalisation`` outside its range.
    """
    if beams < 1 or length_normalisation < 0:
        raise ValueError(f"beams = {beams}, length_normalisation = {length_normalisation} is out of range.")
    steps = step_limit(captioner, max_pieces)
    rows = Rows(captioner, memory, maps)
    searches = [_Search(beams, length_normalisation) for _ in memory.grids]
    ids = [captioner.start] * len(searches)
    for step in range(1, steps + 1):
        if not rows.pictures:
            return
        captions = [link for picture in dict.fromkeys(rows.pictures) for link in searches[picture].going_on]
        following = rows.step(ids)
        allowed_BV = without_repeats(following.logits_BV, captions, no_repeat_ngram)
        best_B = best_first(allowed_BV, 2 * beams)
        order: list[int] = []
        for picture in dict.fromkeys(rows.pictures):
            own = [row for row, owner in enumerate(rows.pictures) if owner == picture]
            order += searches[picture].advance(following, own, best_B, captioner.end, last=step == steps)
        rows.keep(order)
        going_on = [link for picture in dict.fromkeys(rows.pictures) for link in searches[picture].going_on]
        ids = [link.id for link in going_on if link is not None]
        running = tuple(bool(search.going_on) for search in searches)
        ranked = tuple(search.ranked for search in searches)
        leading = tuple(links[0] for links in ranked)
        yield Progress(step, running, leading, memory.grids, memory.padded, ranked)


@dataclass
class _Search:
    """The search for one picture's caption.

    Attributes:
        beams, exponent: how wide it is, and how it normalises for length.
        going_on: captions that may grow, the best first, one a row of the batch; the first one is empty: None.
        finished: captions that ended, the best first.
        cut: captions that could not go on.
    """

    beams: int
    exponent: float
    going_on: list[Link | None] = field(default_factory=lambda: [None])
    finished: list[Link] = field(default_factory=list)
    cut: list[Link] = field(default_factory=list)

    def advance(
        self,
        following: Next,
        rows: Sequence[int],
        best_B: Sequence[Sequence[tuple[float, int]]],
        end: int,
        *,
        last: bool,
    ) -> list[int]:
        """Add a piece to each caption; the batch's rows to go on with, one for each of ``going_on``."""
        candidates = []
        for before, row in zip(self.going_on, rows, strict=True):
            so_far = before.total if before else 0.0
            candidates += [
                (so_far + (piece[0] - following.log_total_B[row]), before, row, piece) for piece in best_B[row]
            ]
            if not best_B[row] and before:
                self.cut.append(before)
        candidates.sort(key=lambda candidate: -candidate[0])  # stable: equals stay in the order of rows and ids
        going_on: list[Link] = []
        order: list[int] = []
        for place, (_, before, row, piece) in enumerate(candidates[: 2 * self.beams]):
            link = following.link(row, before, piece, end)
            if link.ends:
                if place < self.beams:
                    self.finished.append(link)
            elif len(going_on) < self.beams:
                going_on.append(link)
                order.append(row)
        self.finished = sorted(self.finished, key=self._score, reverse=True)[: self.beams]
        if last:
            self.cut += going_on
        if last or self._done(going_on):
            going_on, order = [], []
        self.going_on = list(going_on)
        return order

    @property
    def ranked(self) -> tuple[Link, ...]:
        """The captions so far, finished or not, the best first; at the end, finished ones if there are any."""
        going_on = [link for link in self.going_on if link is not None]
        ranked = sorted(self.finished + going_on or self.cut, key=self._score, reverse=True)
        return tuple(ranked[: self.beams])

    def _done(self, going_on: Sequence[Link]) -> bool:
        if len(self.finished) < self.beams or not going_on:
            return not going_on
        return self._score(self.finished[-1]) >= max(map(self._score, going_on))

    def _score(self, link: Link) -> float:
        return normalised(link.total, link.pieces, self.exponent)
