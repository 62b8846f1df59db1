"""Does the model's answer depend on the patches that a map marks? They are hidden, beside random sets of as many.

Axes: J sets of patches, N patches in reading order, S numbers of hidden patches, C channels, H, W pixel rows and
columns, K orders in which patches are hidden, R, C (after R) grid rows and columns, O other pictures, V variants.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vitrine.attribution.baselines import centre_blob
from vitrine.display import notebook_html
from vitrine.results import agree, count_of, join_words, round_number, shown_number

FILLINGS = ("other pictures", "elsewhere")
"""What hides a patch: a patch of another picture, or a visible patch of the same picture, mirrored and recoloured. Blur
and the mean colour leave an object's outline as a hole of its shape: with them among the fillings fewer of the objects'
own masks pass. And occlusion covers patches with the mean colour: a map must not be judged by what it was made of."""

DRAWS = 100
"""Random sets beside which the marked patches are hidden: p can be as small as 1 / 101."""

COMPACT_DRAWS = 30
"""Compact sets about the middle, of which the median is taken; they have no part in p."""

REPETITIONS = 4
"""Times that the marked patches are hidden, each time behind others. Their mean is what is told of them and the effect;
p is from the first time alone, as random sets are hidden once."""

SHARES = (0.5, 0.75, 0.95)
"""Shares of a map's mass: about as many of its strongest patches are hidden as hold them."""

LARGEST = 1 / 4
"""Share of the patches that is hidden at most: of a map that is spread over the picture, its strongest quarter."""

SIGNIFICANT = 0.05
"""p up to which the answer is said to depend on the marked patches: of random maps, at most this share is."""

MIN_EFFECT = 0.05
"""Probability that hiding the marked patches must take more than hiding random ones: less is no dependence to speak of,
however sure it is."""

Flag = Literal["depends", "not shown", "cannot tell"]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class HiddenSet:
    """What was left of the answer when so many patches were hidden.

    Attributes:
        patches: how many.
        answer: probability left with the map's strongest ones hidden, the mean over repetitions.
        random: probability left with random ones hidden, the median of the draws.
        compact: probability left with as many side by side about the middle hidden, the median of the draws.
        most_needed: probability left with those hidden that the random sets show to be needed most.
    """

    patches: int
    answer: float
    random: float
    compact: float
    most_needed: float


@dataclass(frozen=True, repr=False)
class HidingTest:
    """Whether a model's answer depends on the patches that one map of one picture marks.

    Attributes:
        label: the class whose probability is the answer.
        answer: its probability on the intact picture.
        all_hidden: its probability with every patch hidden.
        grid_patches: of the whole grid.
        sets: what was hidden, smallest first.
        p: of a random map doing as well as this one: (1 + random orders that did) / (1 + draws).
        draws: random orders.
        fillings: what the patches were hidden behind.
        marks_nothing: the map is the same everywhere, so that no patch is stronger than another.
    """

    label: str
    answer: float
    all_hidden: float
    grid_patches: int
    sets: tuple[HiddenSet, ...]
    p: float
    draws: int
    fillings: tuple[str, ...]
    marks_nothing: bool = False

    def __repr__(self) -> str:
        return f"<{self}>"

    def __str__(self) -> str:
        return f"{self.flag.capitalize()}: {self.sentence}"

    def _repr_html_(self) -> str:
        return notebook_html(self.flag.capitalize(), sentence=self.sentence)

    @property
    def effect(self) -> float:
        """Probability that hiding the marked patches takes more than hiding as many random ones, or as many about the
        middle, whichever of the two take more: -1 to 1, mean over sizes."""
        return float(np.mean([min(each.random, each.compact) - each.answer for each in self.sets]))

    @property
    def random_effect(self) -> float:
        """Probability that hiding the marked patches takes more than hiding as many random ones: mean over sizes."""
        return float(np.mean([each.random - each.answer for each in self.sets]))

    @property
    def flag(self) -> Flag:
        """Whether the answer depends on the marked patches, this does not show, or this picture cannot tell.

        It depends on them where random orders seldom do as well (:data:`SIGNIFICANT`), hiding them takes at least
        :data:`MIN_EFFECT` more than hiding random ones, and no less than hiding those about the middle. Nothing can be
        told where the map marks nothing, where nothing is lost with all patches hidden, or where neither the marked
        patches nor those that the random sets show to be needed most take more than random ones.
        """
        if self.marks_nothing:
            return "cannot tell"
        if self.p <= SIGNIFICANT and self.random_effect >= MIN_EFFECT and self.effect >= 0:
            return "depends"
        return "cannot tell" if self._lack_of_power else "not shown"

    @property
    def sentence(self) -> str:
        """What was hidden, what it did and what follows from it, for a person."""
        claims: dict[Flag, str] = {
            "depends": "The answer depends on the patches that this map marks",
            "not shown": "It is not shown that the answer depends on the patches that this map marks",
            "cannot tell": "This picture cannot tell whether the answer depends on the patches that this map marks",
        }
        if self.marks_nothing:
            return f"{claims['cannot tell']}: it is the same everywhere, and marks none."
        reason = f" {self._lack_of_power}" if self.flag == "cannot tell" else ""
        if self.flag == "not shown" and self.p <= SIGNIFICANT:
            reason = (
                " Random patches seldom take as much, but those about the middle take more."
                if self.random_effect >= MIN_EFFECT
                else f" Random patches seldom take as much, but it is less than {MIN_EFFECT:g} more."
            )
        return f"{claims[self.flag]}: {self._account}.{reason}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: flag, sentence, and the numbers rounded to ``DECIMALS``."""
        content = asdict(self) | {"effect": self.effect, "random_effect": self.random_effect}
        return {"flag": self.flag, "sentence": self.sentence, **_round_floats(content)}

    @property
    def _lack_of_power(self) -> str:
        """Why nothing could have been shown; "" where it could."""
        if self.answer - self.all_hidden < MIN_EFFECT:
            return f"With all patches hidden it is {shown_number(self.all_hidden)}: there is nothing to lose."
        if max(each.random - min(each.most_needed, each.answer) for each in self.sets) < MIN_EFFECT:
            return "No set of so few patches that was tried lowers it: what it rests on stands in several places."
        return ""

    @property
    def _account(self) -> str:
        numbers = join_words([f"{each.patches}" for each in self.sets])
        left, at_random, about_the_middle = (
            join_words([shown_number(getattr(each, name)) for each in self.sets])
            for name in ("answer", "random", "compact")
        )
        lowers = "lowers" if all(each.answer < self.answer for each in self.sets) else "moves"
        return (
            f"hiding its {numbers} strongest of {self.grid_patches} {lowers} {self.label} from "
            f"{shown_number(self.answer)} to {left}; as many at random, to {at_random} (median of {self.draws}); as "
            f"many about the middle, to {about_the_middle}; p = {_shown_p(self.p)}. They were hidden behind patches of "
            f"{join_words([_FILLING_WORDS[name] for name in self.fillings])}"
        )


def count_hiding_tests(flags: Sequence[str]) -> str:
    """How many tests of maps came out how, as one sentence."""
    depends, not_shown, cannot_tell = (flags.count(flag) for flag in get_args(Flag))
    return (
        f"Of {count_of(len(flags), 'map')}, {depends} {agree(depends, 'marks', 'mark')} patches that the "
        f"answer depends on "
        f"(p at most {SIGNIFICANT:g} each, which random maps reach in 1 of 20); {not_shown} "
        f"{agree(not_shown, 'does', 'do')} not show it, and for {cannot_tell} it cannot be told."
    )


_FILLING_WORDS = {
    "other pictures": "other pictures",
    "elsewhere": "other places in the picture",
}


class PatchHiding:
    """One picture, whose patches are hidden in the order of a map and in random orders.

    Random orders are drawn once: a second map of the same picture is tested beside the same ones. Results depend on the
    picture, the map and the seed, and not on what was tested before.

    Args:
        probability: normalised pictures (J, C, H, W) to class probabilities (J, classes) in evaluation mode.
        pixels_CHW: floating point, normalised, what the model sees, on its device.
        target: index of the class whose probability is the answer.
        label: its name.
        others_OCHW: other pictures, normalised, of the same size, whose patches hide patches.
        grid: rows and columns of patches; they divide H and W.
        fillings: some of :data:`FILLINGS`.
        draws: random orders, 1 or more.
        batch_size: changed pictures that the model is shown together.
        seed: of all that is random, beside the pixels.

    Raises:
        ValueError: shapes that do not fit, an unknown filling or none, or no draws.
    """

    def __init__(
        self,
        probability: Callable[[Tensor], Tensor],
        pixels_CHW: Tensor,
        target: int,
        label: str,
        others_OCHW: Tensor,
        grid: tuple[int, int],
        *,
        fillings: Sequence[str] = FILLINGS,
        draws: int = DRAWS,
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        _check(pixels_CHW, others_OCHW, grid, fillings, draws)
        self.probability, self.target, self.label, self.grid = probability, target, label, grid
        self.fillings, self.draws, self.batch_size = tuple(fillings), draws, batch_size
        self.patches_NCHW = _to_patches(pixels_CHW, grid)
        self._banks = {name: self._bank(name, others_OCHW) for name in fillings}
        self._seed = (seed, zlib.crc32(pixels_CHW.detach().float().cpu().numpy().tobytes()))
        rng, patches = np.random.default_rng(self._seed), grid[0] * grid[1]
        self._random_KN = np.stack([rng.permutation(patches) for _ in range(draws)])
        self._compact_KN = np.stack([_ranks(scores_RC, rng) for scores_RC in compact_maps(*grid, COMPACT_DRAWS, rng)])
        self._answers_of_draws: dict[int, tuple[Floats, Floats]] = {}
        self._answer = float(self._probabilities(pixels_CHW[None])[0])
        everything_RN = np.zeros((REPETITIONS, patches), dtype=np.int64)
        self._all_hidden = float(self._answers(everything_RN, 1, rng).mean())

    def test(self, scores_RC: npt.NDArray[np.floating]) -> HidingTest:
        """Hide the strongest patches of a map, beside random orders of the same patches in the same numbers.

        Numbers of hidden patches come from the map's own mass (:func:`marked_counts`). The statistic of an order is the
        probability that is left of the class where its first patches are hidden, as log-odds, the mean over these
        numbers; each hidden patch is behind one of the fillings, drawn for every patch. A random map's order is one
        more draw from where the random orders come from, so that p is exact for it, whatever the model (Monte Carlo
        test: Dwass 1957; Besag and Clifford 1989): P(p <= a) <= a.

        The model sees at most ``len(SHARES)`` pictures an order: about 400 with what is beside them.

        Raises:
            ValueError: another grid, or scores that are not finite.
        """
        scores_RC = np.asarray(scores_RC)
        if scores_RC.shape != self.grid or not np.isfinite(scores_RC).all():
            raise ValueError(f"Expected finite scores of {self.grid[0]} x {self.grid[1]} patches; got {scores_RC}.")
        rng = np.random.default_rng((*self._seed, zlib.crc32(scores_RC.tobytes())))
        counts, ranks_N = marked_counts(scores_RC), _ranks(scores_RC, rng)
        ranks_RN = np.broadcast_to(ranks_N, (REPETITIONS, ranks_N.size))
        answers_RS = np.stack([self._answers(ranks_RN, count, rng) for count in counts], axis=1)
        random_KS, compact_KS = (np.stack(each, axis=1) for each in zip(*map(self._draws, counts), strict=True))
        needed_N = needed_order(self._random_KN, random_KS, counts)
        needed_S = np.concatenate([self._answers(needed_N[None], count, rng) for count in counts])
        medians_S, compact_S = np.median(random_KS, axis=0), np.median(compact_KS, axis=0)
        columns = (counts, answers_RS.mean(axis=0).tolist(), medians_S.tolist(), compact_S.tolist(), needed_S.tolist())
        return HidingTest(
            label=self.label,
            answer=self._answer,
            all_hidden=self._all_hidden,
            grid_patches=scores_RC.size,
            sets=tuple(HiddenSet(*each) for each in zip(*columns, strict=True)),
            p=monte_carlo_p(float(_log_odds(answers_RS[0]).mean()), _log_odds(random_KS).mean(axis=1)),
            draws=self.draws,
            fillings=self.fillings,
            marks_nothing=bool(np.ptp(scores_RC) == 0),
        )

    def _draws(self, count: int) -> tuple[Floats, Floats]:
        """Probabilities left with ``count`` patches hidden: of random and of compact orders, (K,) each."""
        if count not in self._answers_of_draws:
            rng = np.random.default_rng((*self._seed, count))
            answers_K = self._answers(np.concatenate([self._random_KN, self._compact_KN]), count, rng)
            self._answers_of_draws[count] = answers_K[: self.draws], answers_K[self.draws :]
        return self._answers_of_draws[count]

    def _answers(self, ranks_KN: npt.NDArray[np.int64], count: int, rng: np.random.Generator) -> Floats:
        """The probability that is left with the first ``count`` patches of each order hidden: (K,)."""
        return np.concatenate([self._probabilities(part_JCHW) for part_JCHW in self._pictures(ranks_KN < count, rng)])

    def _pictures(self, hidden_JN: npt.NDArray[np.bool_], rng: np.random.Generator) -> Iterator[Tensor]:
        """The picture with each set of patches hidden, batch by batch."""
        sets, patches = hidden_JN.shape
        filling_JN = rng.integers(len(self.fillings), size=(sets, patches))
        variant_JN = rng.integers(2**31, size=(sets, patches))
        # A visible patch for every hidden one: visible patches come first in a stable order by hiddenness.
        visible_J1 = patches - hidden_JN.sum(axis=1, keepdims=True) % patches  # any patch where none is visible
        places_JN = (rng.random((sets, patches)) * visible_J1).astype(np.int64)
        sources_JN = np.take_along_axis(np.argsort(hidden_JN, axis=1, kind="stable"), places_JN, axis=1)
        for start in range(0, sets, self.batch_size):
            part = slice(start, start + self.batch_size)
            stack_JNCHW = self.patches_NCHW.repeat(len(hidden_JN[part]), 1, 1, 1, 1)
            for number, name in enumerate(self.fillings):
                j, n = np.nonzero(hidden_JN[part] & (filling_JN[part] == number))
                bank_VNCHW = self._banks[name]
                stack_JNCHW[j, n] = bank_VNCHW[variant_JN[part][j, n] % len(bank_VNCHW), sources_JN[part][j, n]]
            yield _from_patches(stack_JNCHW, self.grid)

    def _bank(self, name: str, others_OCHW: Tensor) -> Tensor:
        """The patches that a filling takes from: (variants, N, C, H, W), by the place that they are taken from."""
        if name == "other pictures":
            return torch.stack([_to_patches(other_CHW, self.grid) for other_CHW in others_OCHW])
        channels = self.patches_NCHW.shape[1]
        variants = [
            self.patches_NCHW.roll(1 + turn % max(1, channels - 1), dims=1).flip(flips)
            for turn, flips in enumerate(((2,), (3,), (2, 3), (3,)))
        ]
        return torch.stack(variants)

    def _probabilities(self, pixels_JCHW: Tensor) -> Floats:
        with torch.inference_mode():
            left_J = self.probability(pixels_JCHW)[:, self.target]
        return np.asarray(left_J.double().cpu().numpy())


def _ranks(scores_RC: npt.NDArray[np.floating], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Each patch's place in the order of falling scores, from 0; equal ones in random order."""
    order_N = np.lexsort((rng.permutation(scores_RC.size), -scores_RC.ravel()))
    ranks_N = np.empty(scores_RC.size, dtype=np.int64)
    ranks_N[order_N] = np.arange(scores_RC.size)
    return ranks_N


def compact_maps(rows: int, columns: int, count: int, rng: np.random.Generator) -> Floats:
    """Random maps whose strongest patches lie side by side, mostly about the middle: (count, rows, columns).

    White noise under a Gaussian of :data:`_COMPACT` of each side, to unit variance, and twice the logarithm of
    :func:`~vitrine.attribution.baselines.centre_blob`. They are what a map is that knows where objects tend to be.
    """
    spread = [np.square(np.subtract.outer(np.arange(n), np.arange(n)) / (_COMPACT * n)) for n in (rows, columns)]
    down_RR, across_CC = (np.exp(-each / 2) for each in spread)
    noise_KRC = down_RR @ rng.standard_normal((count, rows, columns)) @ across_CC
    deviation_RC = np.sqrt(np.outer(np.square(down_RR).sum(axis=1), np.square(across_CC).sum(axis=0)))
    centred_KRC: Floats = noise_KRC / deviation_RC + 2 * np.log(centre_blob(rows, columns).astype(np.float64))
    return centred_KRC


_COMPACT = 0.19
_STEPS = (1, 1.5)  # numbers of hidden patches: 1, 2, 3, 4, 6, 8, 12, 16 ...


def marked_counts(scores_RC: npt.NDArray[np.floating], shares: Sequence[float] = SHARES) -> tuple[int, ...]:
    """How many of the strongest patches hold each share of a map's positive mass, about.

    Rounded to 1, 2, 3, 4, 6, 8, 12, 16 and so on, at most :data:`LARGEST` of all; equal numbers are given once, so that
    a map with one strong patch has one.
    """
    mass_N = np.sort(np.maximum(np.asarray(scores_RC, dtype=np.float64).ravel(), 0))[::-1]
    if not mass_N.sum() > 0:
        mass_N = np.ones_like(mass_N)
    held_N = np.cumsum(mass_N) / mass_N.sum()
    largest = max(1, int(LARGEST * mass_N.size))
    ladder = np.array(sorted({int(2**power * step) for power in range(largest.bit_length()) for step in _STEPS}))
    ladder = ladder[ladder <= largest]
    exact = (int(np.searchsorted(held_N, share - 1e-9)) + 1 for share in shares)
    return tuple(sorted({int(ladder[np.abs(np.log(ladder / number)).argmin()]) for number in exact}))


def monte_carlo_p(value: float, draws: npt.NDArray[np.floating]) -> float:
    """p of a value that is small where its hypothesis is false: (1 + draws that are as small) / (1 + draws)."""
    return float((1 + np.count_nonzero(draws <= value)) / (1 + draws.size))


def needed_order(ranks_KN: npt.NDArray[np.int64], answers_KS: Floats, counts: Sequence[int]) -> npt.NDArray[np.int64]:
    """The order in which random sets show patches to be needed: the rank of each patch, (N,).

    A patch is needed as much as the answers without it are lower than those with it, the mean over the numbers of
    hidden patches (the estimate of RISE, Petsiuk et al. 2018, from sets that are hidden).
    """
    need_N = np.zeros(ranks_KN.shape[1])
    for s, count in enumerate(counts):
        hidden_KN = ranks_KN < count
        left_K1 = answers_KS[:, s, None]
        with_N = (left_K1 * ~hidden_KN).sum(axis=0) / np.maximum((~hidden_KN).sum(axis=0), 1)
        without_N = (left_K1 * hidden_KN).sum(axis=0) / np.maximum(hidden_KN.sum(axis=0), 1)
        need_N += np.where(hidden_KN.any(axis=0) & (~hidden_KN).any(axis=0), with_N - without_N, 0)
    ranks_N = np.empty(need_N.size, dtype=np.int64)
    ranks_N[np.argsort(-need_N, kind="stable")] = np.arange(need_N.size)
    return ranks_N


def _to_patches(pixels_CHW: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Pixels cut into a grid of patches: (N, C, height and width of a patch)."""
    (channels, height, width), (rows, columns) = pixels_CHW.shape, grid
    cut = pixels_CHW.reshape(channels, rows, height // rows, columns, width // columns)
    return cut.permute(1, 3, 0, 2, 4).reshape(rows * columns, channels, height // rows, width // columns)


def _from_patches(patches_JNCHW: Tensor, grid: tuple[int, ...]) -> Tensor:
    """The reverse of :func:`_to_patches`, for J pictures."""
    (sets, _, channels, height, width), (rows, columns) = patches_JNCHW.shape, grid
    cut = patches_JNCHW.reshape(sets, rows, columns, channels, height, width)
    return cut.permute(0, 3, 1, 4, 2, 5).reshape(sets, channels, rows * height, columns * width)


def _shown_p(p: float) -> str:
    return f"{p:.1g}" if p < 0.01 else f"{p:.2f}"


def _round_floats(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _round_floats(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_round_floats(each) for each in value]
    return round_number(value) if isinstance(value, float) else value


def _log_odds(probabilities: npt.NDArray[np.floating]) -> Floats:
    """Of a probability that is kept :data:`_CERTAIN` away from 0 and 1, beyond which the model only says how sure."""
    shares = np.clip(probabilities, _CERTAIN, 1 - _CERTAIN)
    return np.asarray(np.log(shares / (1 - shares)))


_CERTAIN = 0.01


def _check(pixels_CHW: Tensor, others_OCHW: Tensor, grid: tuple[int, int], fillings: Sequence[str], draws: int) -> None:
    if draws < 1 or not fillings or not set(fillings) <= set(FILLINGS):
        raise ValueError(f"Expected draws, and fillings among {', '.join(FILLINGS)}; got {draws} and {fillings}.")
    if pixels_CHW.ndim != 3 or others_OCHW.ndim != 4 or others_OCHW.shape[1:] != pixels_CHW.shape:
        shapes = f"{tuple(pixels_CHW.shape)} and {tuple(others_OCHW.shape)}"
        raise ValueError(f"Expected a picture (C, H, W) and others of its size (O, C, H, W); got {shapes}.")
    (height, width), (rows, columns) = pixels_CHW.shape[-2:], grid
    if height % rows or width % columns:
        raise ValueError(f"A grid of {rows} x {columns} patches does not divide {height} x {width} pixels evenly.")
