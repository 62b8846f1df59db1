"""Beam search: several captions of each picture are followed, and the best of them is given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from vitrine.caption.decoding import (
    LAST_LAYER,
    CaptionerModule,
    DecodeStep,
    DecodingBatch,
    EncoderOutput,
    MapChoice,
    NextTokenLogits,
    TokenNode,
    ban_repeated_ngrams,
    end_ids,
    length_normalised_score,
    step_limit,
    top_k_stable,
)


def beam_search(
    captioner: CaptionerModule,
    encoder_output: EncoderOutput,
    beams: int = 5,
    *,
    length_normalisation: float = 1.0,
    no_repeat_ngram: int = 0,
    max_tokens: int | None = None,
    maps: MapChoice = LAST_LAYER,
) -> Iterator[DecodeStep]:
    """Follow the ``beams`` most likely beginnings of each picture. One beam is greedy decoding.

    Of every step's continuations, the best ``beams`` count: those that end are complete captions, and as many others
    as there are beams go on. A picture is done with ``beams`` complete captions of which none has a lower score than
    the best that goes on has at its present length. Scores are those of
    :meth:`vitrine.caption.decoding.DecodedCaption.score`. A caption that was cut for its length is given only if none
    ended. Of equals, the one whose beginning was better comes first, then the one with the lower id.

    Args:
        captioner: in evaluation mode.
        encoder_output: the encoded pictures.
        beams: 1 or more.
        length_normalisation: 0 or more; 0 prefers short captions, 1 compares the mean of the log-probabilities.
        no_repeat_ngram: as in :func:`vitrine.caption.decoding.greedy`.
        max_tokens: likewise.
        maps: likewise. While a picture is decoded, those of all its beams are held: at most tokens × beams × kept
            layers × kept heads × cells numbers of 4 bytes.

    Raises:
        ModelError: as :func:`vitrine.caption.decoding.greedy`.
        ValueError: ``beams`` or ``length_normalisation`` outside its range.
    """
    if beams < 1 or length_normalisation < 0:
        raise ValueError(f"beams = {beams}, length_normalisation = {length_normalisation} is out of range.")
    steps = step_limit(captioner, encoder_output, max_tokens)
    batch = DecodingBatch(captioner, encoder_output, maps)
    searches = [_Search(beams, length_normalisation) for _ in encoder_output.grids]
    ids = [captioner.start] * len(searches)
    for step in range(1, steps + 1):
        if not batch.pictures:
            return
        captions = [node for picture in dict.fromkeys(batch.pictures) for node in searches[picture].open_nodes]
        following = batch.step(ids)
        logits_BV = ban_repeated_ngrams(following.logits_BV, captions, no_repeat_ngram)
        top_B = top_k_stable(logits_BV, 2 * beams)
        order: list[int] = []
        for picture in dict.fromkeys(batch.pictures):
            rows = [row for row, owner in enumerate(batch.pictures) if owner == picture]
            order += searches[picture].advance(following, rows, top_B, end_ids(captioner), is_last=step == steps)
        batch.keep(order)
        open_nodes = [node for picture in dict.fromkeys(batch.pictures) for node in searches[picture].open_nodes]
        ids = [node.id for node in open_nodes if node is not None]
        is_running = tuple(bool(search.open_nodes) for search in searches)
        hypotheses = tuple(search.hypotheses for search in searches)
        best = tuple(nodes[0] for nodes in hypotheses)
        yield DecodeStep(step, is_running, best, encoder_output.grids, encoder_output.padded_grid, hypotheses)


@dataclass
class _Search:
    """The search for one picture's caption.

    Attributes:
        beams: captions that are followed.
        exponent: of the length normalisation.
        open_nodes: captions that may grow, the best first, one a row of the batch; the first one is empty: None.
        complete_nodes: captions that ended, the best first.
        cut_nodes: captions that could not go on.
    """

    beams: int
    exponent: float
    open_nodes: list[TokenNode | None] = field(default_factory=lambda: [None])
    complete_nodes: list[TokenNode] = field(default_factory=list)
    cut_nodes: list[TokenNode] = field(default_factory=list)

    def advance(
        self,
        following: NextTokenLogits,
        rows: Sequence[int],
        top_B: Sequence[Sequence[tuple[float, int]]],
        ends: frozenset[int],
        *,
        is_last: bool,
    ) -> list[int]:
        """Add a token to each caption.

        Args:
            following: the logits of the whole batch.
            rows: the batch's rows of this picture, one for each of ``open_nodes``.
            top_B: of each row of the batch, the likeliest tokens: their logits and ids.
            ends: the ids that end a caption.
            is_last: whether no further step is taken.

        Returns:
            the batch's rows to go on with, one for each of the new ``open_nodes``.
        """
        candidates = []
        for previous, row in zip(self.open_nodes, rows, strict=True):
            total = previous.total_log_probability if previous else 0.0
            candidates += [
                (total + (token[0] - following.log_sum_exp_B[row]), previous, row, token) for token in top_B[row]
            ]
            if not top_B[row] and previous:
                self.cut_nodes.append(previous)
        candidates.sort(key=lambda candidate: -candidate[0])  # stable: equals stay in the order of rows and ids
        open_nodes: list[TokenNode] = []
        order: list[int] = []
        for place, (_, previous, row, token) in enumerate(candidates[: 2 * self.beams]):
            node = following.append(row, previous, token, ends)
            if node.is_end:
                if place < self.beams:
                    self.complete_nodes.append(node)
            elif len(open_nodes) < self.beams:
                open_nodes.append(node)
                order.append(row)
        self.complete_nodes = sorted(self.complete_nodes, key=self._score, reverse=True)[: self.beams]
        if is_last:
            self.cut_nodes += open_nodes
        if is_last or self._is_decided(open_nodes):
            open_nodes, order = [], []
        self.open_nodes = list(open_nodes)
        return order

    @property
    def hypotheses(self) -> tuple[TokenNode, ...]:
        """The captions so far, complete or not, the best first; at the end, complete ones if there are any."""
        open_nodes = [node for node in self.open_nodes if node is not None]
        best_first = sorted(self.complete_nodes + open_nodes or self.cut_nodes, key=self._score, reverse=True)
        return tuple(best_first[: self.beams])

    def _is_decided(self, open_nodes: Sequence[TokenNode]) -> bool:
        if len(self.complete_nodes) < self.beams or not open_nodes:
            return not open_nodes
        return self._score(self.complete_nodes[-1]) >= max(map(self._score, open_nodes))

    def _score(self, node: TokenNode) -> float:
        return length_normalised_score(node.total_log_probability, node.length, self.exponent)
