"""Insertion and deletion: does a map name the patches that the prediction depends on?

Axes: B pictures, C input channels or classes, H and W pixel rows and columns, R and C (after R) grid rows and columns,
N patches in reading order, S steps, J pictures that are shown to the model together.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

BLUR = 1 / 8
"""Sigma of the blurred picture that insertion starts from, as a share of the picture's shorter side.

The published 5 of 224 pixels (a 45th) leaves the class in the picture where objects are large: of 256 scenes,
``vitrine/scenes-tiny`` still calls 93 % what it called them sharp. With an eighth it is 14 %, near to a guess among 12.
"""

_REACH = 3  # sigmas after which the blur's kernel is cut off; what is lost is 0.3 % of its weight

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class InsertionDeletionCurves:
    """The probability of a picture's class while patches are deleted, and while they are inserted.

    Attributes:
        shares_S: share of the patches that were changed, from 0 to 1, rising.
        deletion_BS: probability after that share was deleted, strongest patches first; the first is the intact picture.
        insertion_BS: probability after that share was put into the blurred picture; the last is the intact picture.
        classes_B: the class whose probability it is: the likeliest one on the intact picture.
    """

    shares_S: npt.NDArray[np.float64]
    deletion_BS: Floats
    insertion_BS: Floats
    classes_B: npt.NDArray[np.int64]

    @property
    def deletion_area(self) -> npt.NDArray[np.float64]:
        """(B,): area under each deletion curve, 0 to 1; low is good."""
        return area(self.deletion_BS, self.shares_S)

    @property
    def insertion_area(self) -> npt.NDArray[np.float64]:
        """(B,): area under each insertion curve, 0 to 1; high is good."""
        return area(self.insertion_BS, self.shares_S)

    @property
    def gap(self) -> npt.NDArray[np.float64]:
        """(B,): insertion area less deletion area, -1 to 1; high is good."""
        return self.insertion_area - self.deletion_area


def area(curve_BS: npt.NDArray[np.floating], shares_S: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Area under curves by the trapezoid rule over the share of patches: (B,) from (B, S)."""
    heights_BS = np.asarray(curve_BS, dtype=np.float64)
    return np.asarray(((heights_BS[:, 1:] + heights_BS[:, :-1]) / 2) @ np.diff(shares_S), dtype=np.float64)


def insertion_deletion_curves(
    probability: Callable[[Tensor], Tensor],
    pixels_BCHW: Tensor,
    scores_BRC: npt.NDArray[np.floating],
    *,
    steps: int = 16,
    batch_size: int = 64,
    seed: int = 0,
    ends: CurveEnds | None = None,
) -> InsertionDeletionCurves:
    """Insertion and deletion curves of maps, patch by patch from the highest score down.

    Deletion sets patches to 0, the colour that the model's normalisation calls the mean. Insertion puts patches of the
    picture into a blurred copy of it (Gaussian, sigma :data:`BLUR` of the shorter side). The curves are of the
    probability of the class that the model finds likeliest on the intact picture; the true label plays no part.

    Patches of equal score come in an order drawn from ``seed`` and the picture's pixels: a constant map is a random
    order, another one for every picture, and the same one however the pictures are batched.

    Source: V. Petsiuk, A. Das, K. Saenko (2018), RISE: randomized input sampling for explanation of black-box models,
    BMVC; there by pixel, here by patch, because a patch is what a map has one score for.

    Args:
        probability: normalised pictures (J, C, H, W) to class probabilities (J, classes) in evaluation mode.
        pixels_BCHW: floating point, normalised, what the model sees; on the device that ``probability`` wants.
        scores_BRC: a score a patch, finite; R divides H and C divides W.
        steps: equal parts that the patches are taken in; with fewer patches than that, one patch at a time.
        batch_size: pictures that the model is shown together; memory grows with it, the numbers do not depend on it.
        seed: of the order among equal scores.
        ends: of these pictures, where several maps of them are measured; None computes them.

    Raises:
        ValueError: shapes that do not fit, scores that are not finite, or an argument outside its range.
    """
    scores_BRC = np.asarray(scores_BRC)
    _check(pixels_BCHW, scores_BRC, steps, batch_size)
    counts_S = patch_counts(scores_BRC[0].size, steps)
    ranks_BRC = _ranks(pixels_BCHW, scores_BRC, seed)
    ends = ends or curve_ends(probability, pixels_BCHW, batch_size=batch_size)
    deletion = _Jobs(ranks_BRC, counts_S[1:-1], shows_strongest=False)
    insertion = _Jobs(ranks_BRC, counts_S[1:-1], shows_strongest=True)
    blank_BCHW, blurred_BCHW = torch.zeros_like(pixels_BCHW), blur(pixels_BCHW)
    with torch.inference_mode():
        deletion_batches = deletion.pictures(pixels_BCHW, blank_BCHW, batch_size)
        insertion_batches = insertion.pictures(pixels_BCHW, blurred_BCHW, batch_size)
        deleted_BS = _class_probabilities(probability, ends.classes_B, deletion_batches).reshape(len(scores_BRC), -1)
        inserted_BS = _class_probabilities(probability, ends.classes_B, insertion_batches).reshape(len(scores_BRC), -1)
    return InsertionDeletionCurves(
        shares_S=counts_S / ranks_BRC[0].size,
        deletion_BS=np.concatenate([ends.intact_B1, deleted_BS, ends.blank_B1], axis=1),
        insertion_BS=np.concatenate([ends.blurred_B1, inserted_BS, ends.intact_B1], axis=1),
        classes_B=ends.classes_B.cpu().numpy(),
    )


@dataclass(frozen=True, eq=False)
class CurveEnds:
    """Where the curves of pictures begin and end, whatever the map: float32 (B, 1), probabilities of one class.

    Attributes:
        classes_B: int64, that class: the likeliest one on the intact picture.
        intact_B1: on the intact picture.
        blank_B1: with all patches deleted.
        blurred_B1: with none inserted.
    """

    classes_B: Tensor
    intact_B1: Floats
    blank_B1: Floats
    blurred_B1: Floats


def curve_ends(probability: Callable[[Tensor], Tensor], pixels_BCHW: Tensor, *, batch_size: int = 64) -> CurveEnds:
    """The ends of the curves of pictures; the arguments are those of :func:`insertion_deletion_curves`."""
    with torch.inference_mode():
        classes_B, intact_B1 = _intact_answers(probability, pixels_BCHW, batch_size)
        index_B = torch.arange(len(classes_B), device=classes_B.device)
        blank_B, blurred_B = (
            _class_probabilities(
                probability, classes_B, zip(index_B.split(batch_size), end_BCHW.split(batch_size), strict=True)
            )
            for end_BCHW in (torch.zeros_like(pixels_BCHW), blur(pixels_BCHW))
        )
    return CurveEnds(classes_B, intact_B1, blank_B[:, None], blurred_B[:, None])


def _intact_answers(
    probability: Callable[[Tensor], Tensor], pixels_BCHW: Tensor, batch_size: int
) -> tuple[Tensor, Floats]:
    """The likeliest class of every picture, int64 (B,), and its probability, (B, 1)."""
    intact = [probability(part_JCHW).max(dim=1) for part_JCHW in pixels_BCHW.split(batch_size)]
    classes_B = torch.cat([part.indices for part in intact])
    return classes_B, torch.cat([part.values for part in intact]).float().cpu().numpy()[:, None]


def patch_counts(patches: int, steps: int) -> npt.NDArray[np.int64]:
    """How many patches are changed at each point of a curve: from none to all in equal parts, rounded, none twice."""
    return np.unique(np.rint(np.linspace(0, patches, min(steps, patches) + 1)).astype(np.int64))


def blur(pixels_BCHW: Tensor) -> Tensor:
    """Pictures under the Gaussian blur that insertion starts from: sigma :data:`BLUR` of the shorter side, mirrored
    at the edges. Blurring after the normalisation is blurring before it: the weights sum to 1."""
    sigma = BLUR * min(pixels_BCHW.shape[-2:])
    reach = min(int(np.ceil(_REACH * sigma)), min(pixels_BCHW.shape[-2:]) - 1)
    # Down, then across: torchvision convolves with the whole square kernel, which is 20 times slower at 224 px.
    down_BCHW = gaussian_blur(pixels_BCHW, [1, 2 * reach + 1], [sigma, sigma])
    result: Tensor = gaussian_blur(down_BCHW, [2 * reach + 1, 1], [sigma, sigma])
    return result


FILLERS = ("blur", "others")
"""What else than the mean colour deletion puts in place of patches: the blurred picture, or other pictures' patches."""


def deletion_areas(
    probability: Callable[[Tensor], Tensor],
    pixels_BCHW: Tensor,
    beneath_BCHW: Tensor,
    scores_BRC: npt.NDArray[np.floating],
    *,
    steps: int = 16,
    batch_size: int = 64,
    seed: int = 0,
    ends: CurveEnds | None = None,
) -> npt.NDArray[np.float64]:
    """Areas under deletion curves, (B,), whose deleted patches show ``beneath_BCHW`` instead of the mean colour.

    The order of the patches, the class and the other arguments are those of :func:`insertion_deletion_curves`; of
    ``ends``, the class and the intact picture's probability are read.
    """
    scores_BRC = np.asarray(scores_BRC)
    _check(pixels_BCHW, scores_BRC, steps, batch_size)
    counts_S = patch_counts(scores_BRC[0].size, steps)
    jobs = _Jobs(_ranks(pixels_BCHW, scores_BRC, seed), counts_S[1:], shows_strongest=False)
    with torch.inference_mode():
        if ends is None:
            classes_B, intact_B1 = _intact_answers(probability, pixels_BCHW, batch_size)
        else:
            classes_B, intact_B1 = ends.classes_B, ends.intact_B1
        variants = jobs.pictures(pixels_BCHW, beneath_BCHW, batch_size)
        deleted_BS = _class_probabilities(probability, classes_B, variants).reshape(len(classes_B), -1)
    return area(np.concatenate([intact_B1, deleted_BS], axis=1), counts_S / scores_BRC[0].size)


def _class_probabilities(
    probability: Callable[[Tensor], Tensor], classes_B: Tensor, batches: Iterator[tuple[Tensor, Tensor]]
) -> Floats:
    """The probability of its own picture's class for every changed picture, in order."""
    parts = [
        probability(pixels_JCHW).gather(1, classes_B[index_J, None])[:, 0].float().cpu()
        for index_J, pixels_JCHW in batches
    ]
    probabilities: Floats = torch.cat(parts).numpy() if parts else np.empty(0, dtype=np.float32)
    return probabilities


def _ranks(pixels_BCHW: Tensor, scores_BRC: npt.NDArray[np.floating], seed: int) -> npt.NDArray[np.int64]:
    """Each patch's place in the order of falling scores, from 0."""
    ranks_BRC = np.empty(scores_BRC.shape, dtype=np.int64)
    for picture, scores_RC in enumerate(scores_BRC):
        content = zlib.crc32(pixels_BCHW[picture].detach().float().cpu().numpy().tobytes())
        lots_N = np.random.default_rng([seed, content]).permutation(scores_RC.size)
        order_N = np.lexsort((lots_N, -scores_RC.ravel()))
        ranks_BRC[picture].ravel()[order_N] = np.arange(scores_RC.size)
    return ranks_BRC


@dataclass(frozen=True)
class _Jobs:
    """Changed copies of pictures: each picture with each count of changed patches, picture by picture.

    Attributes:
        ranks_BRC: each patch's place in the order of falling scores, from 0.
        counts_S: how many patches are changed.
        shows_strongest: whether the strongest patches are shown (insertion) or hidden (deletion).
    """

    ranks_BRC: npt.NDArray[np.int64]
    counts_S: npt.NDArray[np.int64]
    shows_strongest: bool

    def pictures(self, top_BCHW: Tensor, beneath_BCHW: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (index into B, picture) of up to ``size`` jobs: ``top`` where a patch is seen, else ``beneath``."""
        _, rows, columns = self.ranks_BRC.shape
        height, width = top_BCHW.shape[-2:]
        jobs = len(self.ranks_BRC) * len(self.counts_S)
        for start in range(0, jobs, size):
            picture_J, step_J = np.divmod(np.arange(start, min(start + size, jobs)), len(self.counts_S))
            changed_JRC = self.ranks_BRC[picture_J] < self.counts_S[step_J, None, None]
            seen_JRC = torch.from_numpy(changed_JRC == self.shows_strongest).to(top_BCHW.device)
            seen_JHW = seen_JRC.repeat_interleave(height // rows, 1).repeat_interleave(width // columns, 2)
            index_J = torch.from_numpy(picture_J).to(top_BCHW.device)
            yield index_J, torch.where(seen_JHW[:, None], top_BCHW[index_J], beneath_BCHW[index_J])


def _check(pixels_BCHW: Tensor, scores_BRC: npt.NDArray[np.floating], steps: int, batch_size: int) -> None:
    if steps < 1 or batch_size < 1:
        raise ValueError(f"steps and batch_size must be at least 1; got {steps} and {batch_size}.")
    if pixels_BCHW.ndim != 4 or scores_BRC.ndim != 3 or len(pixels_BCHW) != len(scores_BRC) or not scores_BRC.size:
        shapes = f"{tuple(pixels_BCHW.shape)} and {scores_BRC.shape}"
        raise ValueError(f"Expected pixels (B, C, H, W) and scores (B, rows, columns) of one B; got {shapes}.")
    (height, width), (rows, columns) = pixels_BCHW.shape[-2:], scores_BRC.shape[-2:]
    if height % rows or width % columns:
        raise ValueError(f"A grid of {rows} x {columns} patches does not divide {height} x {width} pixels evenly.")
    if not np.isfinite(scores_BRC).all():
        raise ValueError("Scores must be finite: a patch that was not scored has no place in the order.")
