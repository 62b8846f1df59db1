"""Is the attended region of a word the thing that the word names? Scored noun by noun, against maps that cannot know.

For each noun whose region is known, the map of the word is held against the mean map of the caption's words (which
looks where captions look, whatever the word), a blob in the centre, and a uniform map.

Axes: R grid rows, C grid columns, H and W pixel rows and columns, N nouns, K maps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vitrine.explain.controls import centre_blob
from vitrine.explain.grounding_result import CONTROLS, MAPS, METRICS, WORD, Grounding
from vitrine.explain.localisation import centres_inside, pointing_hit, share_inside
from vitrine.explain.noun_means import NounMean, clustered_means
from vitrine.explain.placement import Placement
from vitrine.explain.ranking import RESAMPLES, Metric

__all__ = ["GroundedCaption", "Grounding", "NounMean", "NounScore", "alignment_drop", "grounding", "score_nouns"]

Floats = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class GroundedCaption:
    """A caption with its maps and the regions of its nouns.

    Attributes:
        name: of the picture. Captions of one picture have one name.
        maps: of all its words, in order: (R, C) each, finite, in any unit that is the same for all of them.
        placement: of that grid on the photograph.
        nouns: (index of the word, bool (H, W) in the upright photograph's own pixels) of each noun whose region is
            known.
        absent: nouns that name something which is not in the picture; they are counted, and cannot be scored.

    Raises:
        ValueError: a map of another grid than the placement's, or a noun that is no word of the caption.
    """

    name: str
    maps: Sequence[Floats]
    placement: Placement
    nouns: Sequence[tuple[int, Mask]]
    absent: int = 0

    def __post_init__(self) -> None:
        grid = (self.placement.rows, self.placement.columns)
        wrong = [np.shape(map_RC) for map_RC in self.maps if np.shape(map_RC) != grid]
        if wrong:
            raise ValueError(f"{self.name}: expected maps of {grid[0]} x {grid[1]} cells; got {wrong[0]}.")
        outside = [word for word, _ in self.nouns if not 0 <= word < len(self.maps)]
        if outside:
            raise ValueError(f"{self.name}: word {outside[0]} is a noun, but there are {len(self.maps)} maps.")


@dataclass(frozen=True)
class NounScore:
    """One noun.

    Attributes:
        name: of the picture.
        word: index of the noun in its caption.
        values: by metric and by map, 0 to 1; without a metric that every map would score alike on: one whose region
            holds the centres of all patches or of none (pointing), or all that was seen or nothing (share inside).
    """

    name: str
    word: int
    values: Mapping[str, Mapping[str, float]]


def score_nouns(caption: GroundedCaption, shift: int = 0) -> tuple[NounScore | None, ...]:
    """Score every noun of a caption; None for one that has no neighbour at that shift.

    Args:
        caption: with its maps.
        shift: which word's map a noun gets: its own, or that of the word so many places on.

    Raises:
        ValueError: a mask of another size than the photograph, or a map that is not finite.
    """
    at = caption.placement
    controls = {"centre": centre_blob(at.rows, at.columns), "uniform": np.ones((at.rows, at.columns), np.float32)}
    if caption.maps:
        controls["mean"] = np.mean(np.stack([np.asarray(each, np.float64) for each in caption.maps]), axis=0)
    found: list[NounScore | None] = []
    for word, mask_HW in caption.nouns:
        if not 0 <= word + shift < len(caption.maps):
            found.append(None)
            continue
        maps = {WORD: caption.maps[word + shift], **controls}
        hit_RC, coverage_RC = centres_inside(mask_HW, at), at.coverage(mask_HW)
        values = {
            "pointing": {key: pointing_hit(maps[key], hit_RC) for key in MAPS},
            "inside": {key: share_inside(maps[key], coverage_RC) for key in MAPS},
        }
        # Whether there is a score depends on the region alone: all maps have one, or none has.
        known = {key: {name: value for name, value in row.items() if value is not None} for key, row in values.items()}
        found.append(NounScore(caption.name, word, {key: row for key, row in known.items() if row}))
    return tuple(found)


def grounding(
    captions: Sequence[GroundedCaption], *, shift: int = 0, resamples: int = RESAMPLES, seed: int = 0
) -> Grounding:
    """Score the nouns of captions, and say whether words look at what they name.

    Means are over nouns, their intervals from drawing whole pictures: see
    :func:`~vitrine.explain.noun_means.clustered_means`. Each comparison stands for itself.

    Args:
        captions: of any number of pictures.
        shift: see :func:`score_nouns`. A score that does not fall when nouns get the map of the next word says that
            rows and words are out of step, or that neighbours look alike.
        resamples: bootstrap samples.
        seed: of the bootstrap: the same seed gives the same numbers.

    Raises:
        ValueError: see :func:`score_nouns`; or ``resamples`` below 1.
    """
    scored = [score for caption in captions for score in score_nouns(caption, shift)]
    paired = [score for score in scored if score is not None]
    estimates: dict[str, dict[str, NounMean]] = {}
    leads: dict[str, dict[str, NounMean]] = {}
    for each in METRICS:
        decided = [score for score in paired if each.key in score.values]
        if not decided:
            continue
        names = [score.name for score in decided]
        values_NK = np.array([[score.values[each.key][key] for key in MAPS] for score in decided])
        better_NK = values_NK[:, :1] - values_NK[:, 1:]
        means = clustered_means(names, values_NK, 0.0, resamples, seed)
        estimates[each.key] = dict(zip(MAPS, means, strict=True))
        leads[each.key] = dict(zip(CONTROLS, clustered_means(names, better_NK, -1.0, resamples, seed), strict=True))
    return Grounding(
        estimates=estimates,
        leads=leads,
        captions=len(captions),
        pictures=len({caption.name for caption in captions}),
        nouns=len(scored),
        absent=sum(caption.absent for caption in captions),
        unpaired=len(scored) - len(paired),
        shift=shift,
        resamples=resamples,
        seed=seed,
    )


def alignment_drop(
    captions: Sequence[GroundedCaption],
    shift: int = 1,
    by: Metric = METRICS[0],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> NounMean | None:
    """By how much a score falls when each noun gets the map of its neighbour, on the nouns that have one.

    Returns:
        The mean of (own map - neighbour's map), -1 to 1, with the interval of :func:`grounding`; None where no noun has
        both. An interval above 0 shows that rows and words are in step as far as neighbours look at different things.
    """
    names: list[str] = []
    drops: list[float] = []
    for caption in captions:
        for own, other in zip(score_nouns(caption), score_nouns(caption, shift), strict=True):
            if own is not None and other is not None and by.key in own.values:
                names.append(caption.name)
                drops.append(own.values[by.key][WORD] - other.values[by.key][WORD])
    return clustered_means(names, np.array(drops)[:, None], -1.0, resamples, seed)[0] if drops else None
