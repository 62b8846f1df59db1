"""Does the model's answer depend on the patches that a map marks? They are hidden, beside random sets of as many.

Axes: J sets of patches, N patches in reading order, S numbers of hidden patches, C channels, H, W pixel rows and
columns, K candidates (orders in which patches are hidden), R, C (after R) grid rows and columns, B pictures.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vitrine.attribution.faithfulness import blur
from vitrine.results import count_of, join_words, round_number, shown_number

FILLINGS = ("blur", "mean colour", "other patches")
"""What hides a patch: the picture under the blur of :func:`vitrine.attribution.faithfulness.blur`, 0 after the
normalisation, and a visible patch of the same picture from a random place."""

DRAWS = 100
"""Random sets beside which the marked patches are hidden: p can be as small as 1 / 101."""

SHARES = (0.25, 0.5, 0.75)
"""Shares of a map's mass: as many of its strongest patches are hidden as hold them."""

SIGNIFICANT = 0.05
"""p up to which the answer is said to depend on the marked patches: of random maps, this share is said to be so."""

MIN_EFFECT = 0.1
"""Probability that hiding the marked patches must take more than hiding random ones."""

Flag = Literal["depends", "not shown", "cannot tell"]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class HiddenSet:
    """What was left of the answer when so many patches were hidden.

    Attributes:
        patches: how many.
        answer: probability left with the map's strongest ones hidden.
        random: probability left with random ones hidden, the median of the draws.
        most_needed: probability left with those hidden that the random sets show to be needed most.
    """

    patches: int
    answer: float
    random: float
    most_needed: float


@dataclass(frozen=True)
class HiddenControl:
    """A map that knows nothing of the model, in the place of the map: ``answers`` are those left, by size."""

    name: str
    answers: tuple[float, ...]
    p: float


@dataclass(frozen=True)
class HidingTest:
    """Whether a model's answer depends on the patches that one map of one picture marks.

    Attributes:
        label: the class whose probability is the answer.
        answer: its probability on the intact picture.
        all_hidden: its probability with every patch hidden.
        grid_patches: of the whole grid.
        sets: what was hidden, smallest first; the middle one is what the sentence tells.
        p: of a random map doing as well as this one: (1 + random orders that did) / (1 + draws).
        draws: random orders.
        fillings: what the patches were hidden behind.
        marks_nothing: the map is the same everywhere, so that no patch is stronger than another.
        controls: maps that know nothing of the model, tested alike.
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
    controls: tuple[HiddenControl, ...] = ()

    @property
    def effect(self) -> float:
        """Probability that hiding the marked patches takes more than hiding random ones, -1 to 1, mean over sizes."""
        return float(np.mean([each.random - each.answer for each in self.sets]))

    @property
    def flag(self) -> Flag:
        """Whether the answer depends on the marked patches, this does not show, or this picture cannot tell."""
        if self.marks_nothing:
            return "cannot tell"
        if self.p <= SIGNIFICANT and self.effect >= MIN_EFFECT:
            return "depends"
        return "not shown" if self._has_power else "cannot tell"

    @property
    def sentence(self) -> str:
        """What was hidden, what it did and what follows from it, for a person."""
        claims: dict[Flag, str] = {
            "depends": "The answer depends on the patches that this map marks",
            "not shown": "It does not show that the answer depends on the patches that this map marks",
            "cannot tell": "This picture cannot tell whether the answer depends on the patches that this map marks",
        }
        if self.marks_nothing:
            return f"{claims['cannot tell']}: it is the same everywhere, and marks none."
        reason = f" {self._lack_of_power}" if self.flag == "cannot tell" else ""
        return f"{claims[self.flag]}: {self._account}.{reason}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: flag, sentence, and the numbers rounded to ``DECIMALS``."""
        content = asdict(self) | {"effect": self.effect}
        return {"flag": self.flag, "sentence": self.sentence, **_round_floats(content)}

    @property
    def shown_set(self) -> HiddenSet:
        """The set that the sentence tells of."""
        return self.sets[len(self.sets) // 2]

    @property
    def _has_power(self) -> bool:
        return not self._lack_of_power

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
        trial, numbers = self.shown_set, [f"{each.patches}" for each in self.sets]
        lowers = "lowers" if trial.answer < self.answer else "moves"
        over = f" over {join_words(numbers)} patches" if len(numbers) > 1 else ""
        return (
            f"hiding the {trial.patches} strongest of {self.grid_patches} {lowers} {self.label} from "
            f"{shown_number(self.answer)} to {shown_number(trial.answer)}; hiding {trial.patches} at random, to "
            f"{shown_number(trial.random)} (median of {self.draws}); p = {_shown_p(self.p)}{over}, hidden behind "
            f"{join_words([_FILLING_WORDS[name] for name in self.fillings])}"
        )


def count_hiding_tests(flags: Sequence[str]) -> str:
    """How many tests of maps came out how, as one sentence."""
    depends, not_shown, cannot_tell = (flags.count(flag) for flag in get_args(Flag))
    return (
        f"Of {count_of(len(flags), 'map')}, {depends} mark{'s' * (depends == 1)} patches that the answer depends on "
        f"(p at most {SIGNIFICANT:g} each, which random maps reach in 1 of 20); {not_shown} "
        f"{'does' if not_shown == 1 else 'do'} not show it, and {count_of(cannot_tell, 'picture')} cannot tell."
    )


_FILLING_WORDS = {
    "blur": "blur",
    "mean colour": "the mean colour",
    "other patches": "other patches of the picture",
}


def hiding_tests(
    probability: Callable[[Tensor], Tensor],
    pixels_BCHW: Tensor,
    scores_BRC: npt.NDArray[np.floating],
    classes_B: Sequence[int],
    labels: Sequence[str],
    *,
    fillings: Sequence[str] = FILLINGS,
    controls: Mapping[str, npt.NDArray[np.floating]] | None = None,
    draws: int = DRAWS,
    batch_size: int = 64,
    seed: int = 0,
) -> tuple[HidingTest, ...]:
    """Hide the strongest patches of each map, beside random orders of the same patches in the same numbers.

    Numbers of hidden patches come from the map's own mass (:func:`marked_counts`). The statistic of an order is the
    probability that is left of the class, the mean over these numbers, where its first patches are hidden; each hidden
    patch is behind one of the ``fillings``, drawn for every patch. A random map's order is one more draw from where the
    random orders come from, so that p is exact for it, whatever the model (Monte Carlo test: Dwass 1957; Besag and
    Clifford 1989): P(p <= a) <= a.

    Results do not depend on how pictures are batched; the model sees ``len(SHARES)`` pictures an order.

    Args:
        probability: normalised pictures (J, C, H, W) to class probabilities (J, classes) in evaluation mode.
        pixels_BCHW: floating point, normalised, what the model sees, on its device.
        scores_BRC: a score a patch, finite; R divides H and C divides W.
        classes_B: the class whose probability is the answer, for each picture.
        labels: the classes' names.
        fillings: some of :data:`FILLINGS`. For a map that was made by hiding patches, others than it was made with.
        controls: by name, maps (B, R, C) that know nothing of the model, tested in the place of the map.
        draws: random orders, 1 or more.
        batch_size: changed pictures that the model is shown together.
        seed: of the random orders and of what patches are hidden behind, beside the pixels.

    Raises:
        ValueError: shapes that do not fit, scores that are not finite, an unknown filling or none, or no draws.
    """
    scores_BRC = np.asarray(scores_BRC)
    _check(pixels_BCHW, scores_BRC, fillings, draws)
    tests = []
    for b, pixels_CHW in enumerate(pixels_BCHW):
        candidates = {"": scores_BRC[b], **{name: maps_BRC[b] for name, maps_BRC in (controls or {}).items()}}
        trial = _Trial(
            probability, pixels_CHW, int(classes_B[b]), scores_BRC.shape[1:], tuple(fillings), batch_size, seed
        )
        tests.append(trial.run(candidates, labels[int(classes_B[b])], draws))
    return tuple(tests)


def marked_counts(scores_RC: npt.NDArray[np.floating], shares: Sequence[float] = SHARES) -> tuple[int, ...]:
    """How many of the strongest patches hold each share of a map's positive mass; at least 1, at most half of all.

    Equal numbers are given once, so that a map with one strong patch has one.
    """
    mass_N = np.sort(np.maximum(np.asarray(scores_RC, dtype=np.float64).ravel(), 0))[::-1]
    if not mass_N.sum() > 0:
        mass_N = np.ones_like(mass_N)
    held_N = np.cumsum(mass_N) / mass_N.sum()
    counts = (int(np.searchsorted(held_N, share - 1e-9)) + 1 for share in shares)
    return tuple(sorted({min(max(count, 1), max(1, mass_N.size // 2)) for count in counts}))


class _Trial:
    """One picture, whose patches are hidden in many orders."""

    def __init__(
        self,
        probability: Callable[[Tensor], Tensor],
        pixels_CHW: Tensor,
        target: int,
        grid: tuple[int, ...],
        fillings: tuple[str, ...],
        batch_size: int,
        seed: int,
    ) -> None:
        self.probability, self.target, self.grid, self.fillings = probability, target, grid, fillings
        self.batch_size, self.intact_CHW = batch_size, pixels_CHW
        self.patches_NCHW = _to_patches(pixels_CHW, grid)
        self.blurred_NCHW = _to_patches(blur(pixels_CHW[None])[0], grid)
        content = zlib.crc32(pixels_CHW.detach().float().cpu().numpy().tobytes())
        self.rng = np.random.default_rng([seed, content])

    def run(self, candidates: Mapping[str, npt.NDArray[np.floating]], label: str, draws: int) -> HidingTest:
        """The test of the first candidate; the others are controls."""
        (_, scores_RC), *others = candidates.items()
        counts, patches = marked_counts(scores_RC), scores_RC.size
        orders_KN = [self._ranks(each_RC) for each_RC in candidates.values()]
        orders_KN += [self.rng.permutation(patches) for _ in range(draws)]
        answers_KS = self._answers(np.stack(orders_KN), counts)
        ours, random_KS = len(candidates), answers_KS[len(candidates) :]
        needed_N = needed_order(np.stack(orders_KN[ours:]), random_KS, counts)
        needed_S = self._answers(needed_N[None], counts)[0]
        (all_hidden,) = self._answers(np.arange(patches)[None], (patches,))[0]
        totals_K, medians_S = answers_KS.mean(axis=1), np.median(random_KS, axis=0)
        p_values = [monte_carlo_p(total, totals_K[ours:]) for total in totals_K[:ours]]
        return HidingTest(
            label=label,
            answer=float(self._probabilities(self.intact_CHW[None])[0]),
            all_hidden=float(all_hidden),
            grid_patches=patches,
            sets=tuple(
                HiddenSet(count, *map(float, left))
                for count, *left in zip(counts, answers_KS[0], medians_S, needed_S, strict=True)
            ),
            p=p_values[0],
            draws=draws,
            fillings=self.fillings,
            marks_nothing=bool(np.ptp(scores_RC) == 0),
            controls=tuple(
                HiddenControl(name, tuple(answers_S.tolist()), p)
                for (name, _), answers_S, p in zip(others, answers_KS[1:ours], p_values[1:], strict=True)
            ),
        )

    def _ranks(self, scores_RC: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
        """Each patch's place in the order of falling scores, from 0; equal ones in random order."""
        order_N = np.lexsort((self.rng.permutation(scores_RC.size), -scores_RC.ravel()))
        ranks_N = np.empty(scores_RC.size, dtype=np.int64)
        ranks_N[order_N] = np.arange(scores_RC.size)
        return ranks_N

    def _answers(self, ranks_KN: npt.NDArray[np.int64], counts: Sequence[int]) -> Floats:
        """The probability that is left with the first patches of each order hidden: (K, S)."""
        hidden_JN = (ranks_KN[:, None] < np.array(counts)[:, None]).reshape(-1, ranks_KN.shape[1])
        parts = [self._probabilities(part_JCHW) for part_JCHW in self._pictures(hidden_JN)]
        return np.concatenate(parts).reshape(len(ranks_KN), len(counts))

    def _pictures(self, hidden_JN: npt.NDArray[np.bool_]) -> Iterator[Tensor]:
        """The picture with each set of patches hidden, batch by batch."""
        sets, patches = hidden_JN.shape
        filling_JN = self.rng.integers(len(self.fillings), size=(sets, patches))
        # A visible patch for every hidden one: visible patches come first in a stable order by hiddenness.
        visible_J1 = patches - hidden_JN.sum(axis=1, keepdims=True) % patches  # any patch where none is visible
        places_JN = (self.rng.random((sets, patches)) * visible_J1).astype(np.int64)
        sources_JN = np.take_along_axis(np.argsort(hidden_JN, axis=1, kind="stable"), places_JN, axis=1)
        device = self.patches_NCHW.device
        for start in range(0, sets, self.batch_size):
            part = slice(start, start + self.batch_size)
            stack_JNCHW = self.patches_NCHW.expand(len(hidden_JN[part]), -1, -1, -1, -1)
            for number, name in enumerate(self.fillings):
                chosen_JN = torch.from_numpy(hidden_JN[part] & (filling_JN[part] == number)).to(device)
                stack_JNCHW = torch.where(
                    chosen_JN[:, :, None, None, None],
                    self._filling(name, torch.from_numpy(sources_JN[part]).to(device)),
                    stack_JNCHW,
                )
            yield _from_patches(stack_JNCHW, self.grid)

    def _filling(self, name: str, sources_JN: Tensor) -> Tensor:
        if name == "blur":
            return self.blurred_NCHW
        return torch.zeros_like(self.patches_NCHW) if name == "mean colour" else self.patches_NCHW[sources_JN]

    def _probabilities(self, pixels_JCHW: Tensor) -> Floats:
        with torch.inference_mode():
            left_J = self.probability(pixels_JCHW)[:, self.target]
        return np.asarray(left_J.double().cpu().numpy())


def monte_carlo_p(value: float, draws: npt.NDArray[np.floating]) -> float:
    """p of a value that is small where its hypothesis is false: (1 + draws that are as small) / (1 + draws)."""
    return float((1 + np.count_nonzero(draws <= value)) / (1 + draws.size))


def needed_order(ranks_KN: npt.NDArray[np.int64], answers_KS: Floats, counts: Sequence[int]) -> npt.NDArray[np.int64]:
    """The order in which random sets show patches to be most_needed: the rank of each patch, (N,).

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


def _check(pixels_BCHW: Tensor, scores_BRC: npt.NDArray[np.floating], fillings: Sequence[str], draws: int) -> None:
    if draws < 1 or not fillings or not set(fillings) <= set(FILLINGS):
        raise ValueError(f"Expected draws, and fillings among {', '.join(FILLINGS)}; got {draws} and {fillings}.")
    if pixels_BCHW.ndim != 4 or scores_BRC.ndim != 3 or len(pixels_BCHW) != len(scores_BRC) or not scores_BRC.size:
        shapes = f"{tuple(pixels_BCHW.shape)} and {scores_BRC.shape}"
        raise ValueError(f"Expected pixels (B, C, H, W) and scores (B, rows, columns) of one B; got {shapes}.")
    (height, width), (rows, columns) = pixels_BCHW.shape[-2:], scores_BRC.shape[-2:]
    if height % rows or width % columns:
        raise ValueError(f"A grid of {rows} x {columns} patches does not divide {height} x {width} pixels evenly.")
    if not np.isfinite(scores_BRC).all():
        raise ValueError("Scores must be finite: a patch that was not scored has no place in the order.")
