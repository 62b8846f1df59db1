"""Captions from encoded pictures: greedy decoding, teacher forcing, and what every way of decoding shares.

Every decoder is a generator that yields a :class:`DecodeStep` after each token, so that a caption can be shown while
it grows; :func:`final_captions` runs one to its end. All pictures are decoded in one batch, which a picture leaves when
its caption is complete. Beam search and sampling are in modules of their own.

Letters: B rows, T tokens, L decoder layers, H heads, K keys (cells of the padded grid, row by row), V vocabulary.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vitrine.caption.tokenizer import Vocabulary
from vitrine.errors import ModelError, UsageError
from vitrine.models.captioner.model import DecoderOutput, EncoderOutput
from vitrine.results import count_of

__all__ = ["CaptionerModule", "DecoderOutput", "EncoderOutput"]


class CaptionerModule(Protocol):
    """What the decoders need of a captioning model: pictures are encoded once, then one token a row is decoded a step.

    Attributes:
        start, end, pad: token ids.
        max_length: positions at most, the start included.
        vocabulary: of the token ids.
    """

    start: int
    end: int
    pad: int
    max_length: int
    vocabulary: Vocabulary

    def encode(self, pixels: Sequence[Tensor]) -> EncoderOutput:
        """Encode normalised float32 pictures, (3, h, w) each; where sizes differ, features are padded at the right and
        at the bottom, and masked."""
        ...

    def step(self, ids_B: Tensor, encoder_output: EncoderOutput, state: Any | None) -> DecoderOutput:
        """Decode one position.

        Args:
            ids_B: int64, the newest token of every row and nothing else; ``start`` at first.
            encoder_output: of as many rows.
            state: of the step before; None at the start.

        Returns:
            the logits of the *next* token, and the cross-attention of the query that predicts it.
        """
        ...

    def reorder(self, state: Any, order_B: Tensor) -> Any:
        """The state with its rows selected, int64 (B,): beams that were repeated, dropped or moved."""
        ...


@dataclass(frozen=True)
class MapChoice:
    """Which layers and heads of the cross-attention are kept while decoding; reduced axes keep the length 1.

    To keep all of them takes layers × heads times as much memory: 48 times for six layers of eight heads.

    Attributes:
        layers: a layer from 0, or from the end with -1; or the mean of all, or of those from a first to a last one; or
            all.
        heads: a head from 0; or their mean or maximum; or all.
    """

    layers: int | tuple[int, int] | Literal["mean", "all"] = -1
    heads: int | Literal["mean", "max", "all"] = "mean"

    def of(self, cross_LBHK: torch.Tensor) -> torch.Tensor:
        """The chosen part of (L, B, H, K), heads reduced before layers: float32 (B, L, H, K) on the CPU.

        Raises:
            ModelError: there is no such layer or head.
        """
        layers, _, heads, _ = cross_LBHK.shape
        if isinstance(self.layers, int):
            if not -layers <= self.layers < layers:
                raise ModelError(
                    f"There is no decoder layer {self.layers}: expected 0 to {layers - 1}, or -1 for the last."
                )
            cross_LBHK = cross_LBHK[[self.layers]]
        elif isinstance(self.layers, tuple):
            first, last = self.layers
            if not 0 <= first <= last < layers:
                raise ModelError(f"There are no decoder layers {first} to {last}: expected two of 0 to {layers - 1}.")
            cross_LBHK = cross_LBHK[first : last + 1]
        if isinstance(self.heads, int):
            if not -heads <= self.heads < heads:
                raise ModelError(f"There is no head {self.heads}: expected 0 to {heads - 1}, or -1 for the last.")
            cross_LBHK = cross_LBHK[:, :, [self.heads]]
        elif self.heads == "max":
            cross_LBHK = cross_LBHK.amax(2, keepdim=True)
        elif self.heads == "mean":
            cross_LBHK = cross_LBHK.mean(2, keepdim=True)
        if self.layers == "mean" or isinstance(self.layers, tuple):
            cross_LBHK = cross_LBHK.mean(0, keepdim=True)
        # A copy even where there is nothing to convert: a captioner may use its tensors again in the next step.
        return cross_LBHK.transpose(0, 1).detach().to("cpu", torch.float32, copy=True)


def parse_layers(text: str, option: str = "--layer") -> int | tuple[int, int] | Literal["mean"]:
    """Layers as the command line has them: ``-1``, ``14``, ``8-20`` for the mean of those from 8 to 20, or ``mean``.

    Raises:
        UsageError: it is none of these.
    """
    if text == "mean":
        return "mean"
    match = re.fullmatch(r"(-?\d{1,4})|(\d{1,4})-(\d{1,4})", text, re.ASCII)
    if match is None:
        raise UsageError(f"{option} {text} cannot be used: expected a number, as 14 or -1, a range, as 8-20, or mean.")
    return int(match[1]) if match[1] else (int(match[2]), int(match[3]))


def describe_layers(layers: int | tuple[int, int] | str) -> str:
    """Layers in words, for a figure."""
    if isinstance(layers, tuple):
        return f"mean of decoder layers {layers[0]} to {layers[1]}"
    if isinstance(layers, str):
        return "mean of all decoder layers"
    return "last decoder layer" if layers == -1 else f"decoder layer {layers}"


LAST_LAYER = MapChoice()
"""The last decoder layer, mean over its heads."""


@dataclass(frozen=True, eq=False)
class DecodedCaption:
    """One picture's caption.

    Attributes:
        ids: of its tokens, without start and end.
        log_probabilities: natural, of each token given those before it: the model's own, whatever was done to choose
            the token (temperature, forbidden repetitions).
        end_log_probability: the same for the end; None where the caption was cut for its length.
        maps_TLHK: float32, the cross-attention row that *predicted* each token: of the query one position before it.
            L and H as :class:`MapChoice` has left them. Over the keys of the padded grid.
        grid: (rows, columns) of the picture's own part, at top and left of the padded grid.
        padded_grid: (rows, columns) of the padded grid.
        queries_TLHN: float32, the attention to each query token, where maps are products with what those read; None of
            other captioners.
    """

    ids: tuple[int, ...]
    log_probabilities: tuple[float, ...]
    end_log_probability: float | None
    maps_TLHK: npt.NDArray[np.float32]
    grid: tuple[int, int]
    padded_grid: tuple[int, int]
    queries_TLHN: npt.NDArray[np.float32] | None = None

    def relative_to(self, baseline_LHK: npt.NDArray[np.float32]) -> DecodedCaption:
        """The same with maps divided by another one; cells where that is 0, which are padding, stay 0."""
        maps_TLHK = np.zeros_like(self.maps_TLHK)
        np.divide(self.maps_TLHK, baseline_LHK, out=maps_TLHK, where=np.broadcast_to(baseline_LHK > 0, maps_TLHK.shape))
        return replace(self, maps_TLHK=maps_TLHK)

    @property
    def has_end(self) -> bool:
        """Whether it ended by itself, rather than being cut for its length."""
        return self.end_log_probability is not None

    @property
    def length_note(self) -> str:
        """That it was cut for its length, for a person; empty where it ended by itself."""
        return "" if self.has_end else f"Cut for its length, after {count_of(len(self.ids), 'word piece')}."

    @property
    def log_probability(self) -> float:
        """Of the whole caption; its end is part of it where it has one."""
        return sum(self.log_probabilities) + (self.end_log_probability or 0.0)

    def score(self, length_normalisation: float = 1.0) -> float:
        """What beam search ranks by: the log-probability divided by the number of tokens, the end included, to the
        power of ``length_normalisation``; 0 does not normalise, 1 gives the mean over tokens."""
        return length_normalised_score(self.log_probability, len(self.ids) + self.has_end, length_normalisation)


def length_normalised_score(log_probability: float, length: int, exponent: float) -> float:
    """A caption's log-probability divided by its length, in tokens, to the power of ``exponent``."""
    return float(log_probability / max(length, 1) ** exponent)


@dataclass(frozen=True, eq=False)
class TokenNode:
    """The newest token of a caption, linked to the one before it: hypotheses share the nodes that they have in common,
    and none is copied when beams are reordered.

    Attributes:
        previous: None for a first token.
        id: of the token, or of the end.
        is_end: it is the end.
        log_probability: of this token.
        map_LHK: of the query that predicted it.
        total_log_probability: of the caption up to here.
        length: tokens of the caption up to here, the end included.
        queries_LHN: the same query's attention to query tokens; None of captioners without.
    """

    previous: TokenNode | None
    id: int
    is_end: bool
    log_probability: float
    map_LHK: torch.Tensor
    total_log_probability: float
    length: int
    queries_LHN: torch.Tensor | None = None

    @classmethod
    def after(
        cls,
        previous: TokenNode | None,
        token_id: int,
        is_end: bool,
        log_probability: float,
        map_LHK: torch.Tensor,
        queries_LHN: torch.Tensor | None = None,
    ) -> TokenNode:
        """The caption ``previous`` with one token more, of this id."""
        total, length = (previous.total_log_probability, previous.length) if previous else (0.0, 0)
        total += log_probability
        return cls(previous, token_id, is_end, log_probability, map_LHK, total, length + 1, queries_LHN)

    def to_caption(self, grid: tuple[int, int], padded_grid: tuple[int, int]) -> DecodedCaption:
        """The caption that this token is the last one of."""
        nodes = self.tokens()
        maps = [node.map_LHK.numpy() for node in nodes]
        queries = [node.queries_LHN.numpy() for node in nodes if node.queries_LHN is not None]
        return DecodedCaption(
            ids=tuple(node.id for node in nodes),
            log_probabilities=tuple(node.log_probability for node in nodes),
            end_log_probability=self.log_probability if self.is_end else None,
            maps_TLHK=np.stack(maps) if maps else np.zeros((0, *self.map_LHK.shape), np.float32),
            grid=grid,
            padded_grid=padded_grid,
            queries_TLHN=np.stack(queries) if queries else None,
        )

    def tokens(self) -> list[TokenNode]:
        """The tokens in reading order, without the end."""
        nodes: list[TokenNode] = []
        node = self.previous if self.is_end else self
        while node is not None:
            nodes.append(node)
            node = node.previous
        return nodes[::-1]


@dataclass(frozen=True, eq=False)
class DecodeStep:
    """One more token for every picture that is still being captioned.

    Attributes:
        step: tokens so far of the captions that go on, 1 at first.
        is_running: of each picture, whether its caption may still change.
        best: of each picture, the last token of the best caption so far.
        grids, padded_grid: of the pictures, as in :class:`DecodedCaption`.
        hypotheses: of each picture, the last tokens of all captions that are followed, the best first; empty where
            only the best one is followed.
        baselines_PLHK: of each picture, a map that its maps are divided by; empty leaves them as they are.
    """

    step: int
    is_running: tuple[bool, ...]
    best: tuple[TokenNode, ...]
    grids: tuple[tuple[int, int], ...]
    padded_grid: tuple[int, int]
    hypotheses: tuple[tuple[TokenNode, ...], ...] = ()
    baselines_PLHK: tuple[npt.NDArray[np.float32], ...] = ()

    @property
    def captions(self) -> tuple[DecodedCaption, ...]:
        """Each picture's caption so far, with its maps; after the last step, the result. Computed at each access."""
        captions = [node.to_caption(grid, self.padded_grid) for node, grid in zip(self.best, self.grids, strict=True)]
        if not self.baselines_PLHK:
            return tuple(captions)
        return tuple(each.relative_to(base) for each, base in zip(captions, self.baselines_PLHK, strict=True))


def end_ids(captioner: CaptionerModule) -> frozenset[int]:
    """All ids that end a caption: a captioner that has several names them as ``ends``."""
    return frozenset(getattr(captioner, "ends", ())) | {captioner.end}


def final_captions(steps: Iterable[DecodeStep]) -> tuple[DecodedCaption, ...]:
    """Run a decoder to its end; the captions in the order of the pictures."""
    last = None
    for last in steps:  # noqa: B007  the last one is wanted
        pass
    return last.captions if last else ()


@dataclass(frozen=True, eq=False)
class NextTokenLogits:
    """The logits of the next token of each row, and the attention that they were predicted from.

    Attributes:
        logits_BV: float32.
        log_sum_exp_B: of the logits, in double precision: a logit minus this is a log-probability.
        maps_BLHK: what :class:`MapChoice` keeps of the cross-attention.
        queries_BLHN: the same of the attention to query tokens; None of captioners without.
    """

    logits_BV: torch.Tensor
    log_sum_exp_B: list[float]
    maps_BLHK: torch.Tensor
    queries_BLHN: torch.Tensor | None = None

    def append(self, row: int, previous: TokenNode | None, token: tuple[float, int], ends: frozenset[int]) -> TokenNode:
        """The caption ``previous``, which this row stands for, with one token (its logit and id) added."""
        logit, token_id = token
        log_probability = logit - self.log_sum_exp_B[row]
        queries_LHN = None if self.queries_BLHN is None else self.queries_BLHN[row]
        return TokenNode.after(previous, token_id, token_id in ends, log_probability, self.maps_BLHK[row], queries_LHN)

    def logits_of(self, ids: Sequence[int | None]) -> list[float]:
        """The logit of one id in each row; of None, any."""
        ids_B1 = torch.tensor([token_id or 0 for token_id in ids], device=self.logits_BV.device)[:, None]
        return list(self.logits_BV.gather(1, ids_B1)[:, 0].tolist())


class DecodingBatch:
    """The rows that are being decoded together: one for each caption that is followed.

    Attributes:
        pictures: of each row, the index of its picture.
    """

    def __init__(self, captioner: CaptionerModule, encoder_output: EncoderOutput, maps: MapChoice) -> None:
        """One row for each picture of ``encoder_output``."""
        self._captioner, self._encoder_output, self._maps = captioner, encoder_output, maps
        self._state: Any = None
        self.pictures = list(range(len(encoder_output.grids)))

    def step(self, ids: Sequence[int], likeliest: int = 0) -> NextTokenLogits:
        """Decode one position of each row, given its newest token.

        Args:
            ids: the tokens.
            likeliest: so many steps at most, from this one on, after which the likeliest token is taken: a captioner
                with ``step_ahead`` may then decode several positions at once.

        Raises:
            ModelError: the captioner's numbers are not finite.
        """
        with torch.no_grad():
            newest_B = torch.tensor(ids, dtype=torch.long)
            step_ahead = getattr(self._captioner, "step_ahead", None)
            if likeliest > 1 and step_ahead is not None:
                step = step_ahead(newest_B, self._encoder_output, self._state, likeliest)
            else:
                step = self._captioner.step(newest_B, self._encoder_output, self._state)
            self._state = step.state
            logits_BV = step.logits_BV.detach().float()
            log_sum_exp_B = _log_sum_exp(logits_BV)
            maps_BLHK = self._maps.of(step.cross_LBHK)
            queries_LBHN = getattr(step, "queries_LBHN", None)  # of captioners with query tokens
            queries_BLHN = None if queries_LBHN is None else self._maps.of(queries_LBHN)
        if not all(map(math.isfinite, log_sum_exp_B)):
            raise ModelError("The captioner gives words probabilities that are not numbers: its weights are damaged.")
        return NextTokenLogits(logits_BV, log_sum_exp_B, maps_BLHK, queries_BLHN)

    def keep(self, order: Sequence[int]) -> None:
        """Go on with these rows in this order; a row may be repeated, and what is left out costs nothing from here on.

        Rows of one picture share its encoder output, which is left alone when they only change places.
        """
        if list(order) == list(range(len(self.pictures))):
            return
        pictures = [self.pictures[row] for row in order]
        if pictures and pictures != self.pictures:
            self._encoder_output = self._encoder_output.select_rows(list(order))
        if pictures:
            with torch.no_grad():
                self._state = self._captioner.reorder(self._state, torch.tensor(order, dtype=torch.long))
        self.pictures = pictures


ChooseTokens = Callable[[NextTokenLogits, Sequence[int], Sequence[TokenNode | None]], Sequence[int | None]]
"""From the logits, the picture of each row and its caption so far, to the next token id of each row; None ends it."""


def decode_loop(
    captioner: CaptionerModule,
    encoder_output: EncoderOutput,
    choose: ChooseTokens,
    *,
    steps: int,
    maps: MapChoice,
    likeliest_from: int | None = None,
) -> Iterator[DecodeStep]:
    """Decode one caption a picture until all have ended, or for so many steps.

    Args:
        captioner: in evaluation mode.
        encoder_output: the encoded pictures.
        choose: takes the next token of each row from its logits.
        steps: tokens at most, the end included.
        maps: what is kept of the attention.
        likeliest_from: the step from which on ``choose`` takes the likeliest token as a rule; None: it does not.
    """
    batch, ends = DecodingBatch(captioner, encoder_output, maps), end_ids(captioner)
    captions: list[TokenNode | None] = [None] * len(encoder_output.grids)
    ids = [captioner.start] * len(encoder_output.grids)
    for step in range(1, steps + 1):
        if not batch.pictures:
            return
        takes_likeliest = likeliest_from is not None and step >= likeliest_from
        following = batch.step(ids, steps - step + 1 if takes_likeliest else 0)
        next_ids = choose(following, batch.pictures, [captions[picture] for picture in batch.pictures])
        logits = following.logits_of(next_ids)
        rows, ids = [], []
        for row, (picture, token_id) in enumerate(zip(batch.pictures, next_ids, strict=True)):
            if token_id is None:
                continue
            captions[picture] = following.append(row, captions[picture], (logits[row], token_id), ends)
            if token_id not in ends and step < steps:
                rows.append(row)
                ids.append(token_id)
        batch.keep(rows)
        is_running = tuple(picture in batch.pictures for picture in range(len(captions)))
        best = tuple(node for node in captions if node is not None)
        yield DecodeStep(step, is_running, best, encoder_output.grids, encoder_output.padded_grid)


def top_k_stable(logits_BV: torch.Tensor, count: int) -> list[list[tuple[float, int]]]:
    """Of each row, its ``count`` highest logits and their ids, the highest first; of equals, the lowest id.

    ``torch.topk`` leaves open which of equals it takes. A logit of minus infinity is left out: there may be fewer.
    """
    count = min(count, logits_BV.shape[1])
    values_BN, ids_BN = logits_BV.topk(count)
    has_ties_B = ((logits_BV >= values_BN[:, -1:]).sum(1) > count).tolist()
    top = []
    for row, (values, ids) in enumerate(zip(values_BN.tolist(), ids_BN.tolist(), strict=True)):
        if has_ties_B[row]:
            ids = (logits_BV[row] >= values[-1]).nonzero()[:, 0].tolist()
            values = logits_BV[row, ids].tolist()
        pairs = sorted(zip(values, ids, strict=True), key=lambda pair: (-pair[0], pair[1]))
        top.append([pair for pair in pairs[:count] if pair[0] > -math.inf])
    return top


def ban_repeated_ngrams(logits_BV: torch.Tensor, captions: Sequence[TokenNode | None], ngram: int) -> torch.Tensor:
    """The logits, minus infinity for each token that would repeat a run of ``ngram`` tokens of its caption; 0 bans
    nothing (Paulus et al. 2018, arXiv:1705.04304)."""
    bans = [_repeating_tokens(caption, ngram) for caption in captions] if ngram else []
    if not any(bans):
        return logits_BV
    logits_BV = logits_BV.clone()
    for row, ids in enumerate(bans):
        logits_BV[row, sorted(ids)] = -math.inf
    return logits_BV


def _repeating_tokens(caption: TokenNode | None, ngram: int) -> set[int]:
    """The ids that would complete a run of ``ngram`` tokens that the caption has already."""
    ids = [node.id for node in caption.tokens()] if caption else []
    if len(ids) < ngram:
        return set()
    newest = ids[len(ids) - ngram + 1 :]
    return {ids[at + ngram - 1] for at in range(len(ids) - ngram + 1) if ids[at : at + ngram - 1] == newest}


def _log_sum_exp(logits_BV: torch.Tensor) -> list[float]:
    """Log-sum-exp, added up in double precision: a caption's log-probability adds dozens of them."""
    highest_B1 = logits_BV.amax(1, keepdim=True)
    totals_B = (logits_BV - highest_B1).exp().sum(1, dtype=torch.float64)
    return list((highest_B1[:, 0].double() + totals_B.log()).tolist())


def step_limit(captioner: CaptionerModule, encoder_output: EncoderOutput, max_tokens: int | None) -> int:
    """Steps for captions of at most ``max_tokens`` tokens, the end included; None: as many as the captioner can.

    A captioner whose pictures share its positions with its words says by ``answer_limit`` how many are left.

    Raises:
        ModelError: the captioner has not so many positions.
    """
    if hasattr(captioner, "answer_limit"):
        return int(captioner.answer_limit(encoder_output, max_tokens))
    most: int = captioner.max_length - 1
    if max_tokens is None:
        return most
    if not 1 <= max_tokens <= most:
        raise ModelError(
            f"This captioner's captions have 1 to {count_of(most, 'word piece')}; {max_tokens} cannot be asked of it."
        )
    return max_tokens


def greedy(
    captioner: CaptionerModule,
    encoder_output: EncoderOutput,
    *,
    no_repeat_ngram: int = 0,
    max_tokens: int | None = None,
    maps: MapChoice = LAST_LAYER,
) -> Iterator[DecodeStep]:
    """Take the most likely token at every step; of equally likely ones, the one of the lowest id.

    Args:
        captioner: in evaluation mode.
        encoder_output: the encoded pictures.
        no_repeat_ngram: no run of so many tokens comes twice; 0 allows all.
        max_tokens: a caption is cut after so many, the end included; None: as many as the captioner can.
        maps: what is kept of the attention.

    Raises:
        ModelError: more tokens than the captioner has positions, no such layer or head, or logits that are not numbers.
    """

    def choose(
        following: NextTokenLogits, _pictures: Sequence[int], captions: Sequence[TokenNode | None]
    ) -> list[int | None]:
        logits_BV = ban_repeated_ngrams(following.logits_BV, captions, no_repeat_ngram)
        return [best[0][1] if best else None for best in top_k_stable(logits_BV, 1)]

    steps = step_limit(captioner, encoder_output, max_tokens)
    yield from decode_loop(captioner, encoder_output, choose, steps=steps, maps=maps, likeliest_from=1)


def teacher_forced(
    captioner: CaptionerModule,
    encoder_output: EncoderOutput,
    captions: Sequence[Sequence[int]],
    *,
    with_end: bool | Sequence[bool] = True,
    maps: MapChoice = LAST_LAYER,
) -> Iterator[DecodeStep]:
    """Follow given captions (teacher forcing): their log-probabilities and maps, whatever the captioner would say.

    Args:
        captioner: in evaluation mode.
        encoder_output: the encoded pictures.
        captions: one a picture, ids without start and end.
        with_end: whether the end is predicted after the last token, as its probability is part of a whole caption's;
            one answer for all or one a picture.
        maps: what is kept of the attention.

    Raises:
        ModelError: a caption is longer than the captioner's positions.
        ValueError: another number of captions than pictures, or one that is empty and has no end, or holds one.
    """
    if len(captions) != len(encoder_output.grids):
        raise ValueError(
            f"Expected {count_of(len(encoder_output.grids), 'caption')}, one a picture; got {len(captions)}."
        )
    has_end = [with_end] * len(captions) if isinstance(with_end, bool) else list(with_end)
    if any(end_ids(captioner).intersection(ids) for ids in captions):
        raise ValueError("The end is not among the tokens of a caption to follow.")
    targets = [[*ids, *([captioner.end] if end else [])] for ids, end in zip(captions, has_end, strict=True)]
    if not all(targets):
        raise ValueError("A caption to follow has a token, or at least an end.")
    steps = max(map(len, targets), default=0)
    if steps > captioner.max_length - 1:
        raise ModelError(
            f"A caption of {count_of(steps, 'word piece')}, its end included, is too long: this captioner "
            f"has positions for "
            f"{captioner.max_length - 1}."
        )

    def choose(
        _following: NextTokenLogits, pictures: Sequence[int], captions: Sequence[TokenNode | None]
    ) -> list[int | None]:
        lengths = [caption.length if caption else 0 for caption in captions]
        return [
            targets[picture][length] if length < len(targets[picture]) else None
            for picture, length in zip(pictures, lengths, strict=True)
        ]

    yield from decode_loop(captioner, encoder_output, choose, steps=steps, maps=maps)
