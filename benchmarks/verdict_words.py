"""What the check of a word's map says of maps whose truth is known: the section ``words`` of verdicts.py.

Axes: R grid rows, C grid columns, H, W pixel rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from harness.error_rates import Aim, RateTable
from verdict_models import Workplace
from verdict_pictures import area_under_curve

from vitrine.attribution.pointing import centres_inside, pointing_hit
from vitrine.caption.decoding import DecodeStep, greedy, teacher_forced
from vitrine.caption.inference import CaptionedPicture, Decode, caption_batches
from vitrine.caption.model import Captioner, open_captioner
from vitrine.caption.word_localization import WordCheck, check_words
from vitrine.caption.word_maps import CaptionWord, caption_words
from vitrine.data.captions.datasets import open_captions
from vitrine.data.captions.regions import find_named_words, open_regions
from vitrine.data.samples import Sample

Floats = npt.NDArray[np.floating]
_DATA = "scenes:base?validation=300&test=300&seed=7"


@dataclass(frozen=True, eq=False)
class NamedObject:
    """A noun of a caption. ``hit_RC`` is whether each cell's centre lies on what it names, ``mask_RC`` the share."""

    word: int
    hit_RC: npt.NDArray[np.bool_]
    mask_RC: Floats


@dataclass(frozen=True, eq=False)
class CaptionOfScene:
    """A caption with the maps of its words, and its nouns that name what is there."""

    words: tuple[CaptionWord, ...]
    nouns: tuple[NamedObject, ...]


@dataclass(frozen=True)
class CheckedWord:
    """A word's check, and whether its strongest cell lies on what it names; None for a word that names nothing."""

    check: WordCheck
    hit: float | None

    @property
    def distance(self) -> float:
        """The smaller of both distances, from which the check decides."""
        return min(self.check.to_uniform, 1.0 if self.check.to_others is None else self.check.to_others)


def measure(workplace: Workplace) -> Iterable[RateTable]:
    """The section's tables; none without a trained captioner."""
    if workplace.captioner_run is None:
        return
    captioner = open_captioner(workplace.captioner_run)
    samples = tuple(open_captions(_DATA).splits["test"][: workplace.sizes.captioned])
    captions, shuffled = _read_captions(captioner, samples)
    rng = np.random.default_rng(0)
    others = [*captions[1:], captions[0]]
    kinds = {
        "nouns of the captioner": _nouns(captions),
        "other words of the captioner": _other_words(captions),
        "nouns, all weights shuffled": _nouns(shuffled),
        "other words, all weights shuffled": _other_words(shuffled),
        "the named object's mask": _with_maps(captions, lambda _caption, noun: noun.mask_RC + 1e-9),
        "random": _with_maps(captions, lambda _caption, noun: rng.random(noun.mask_RC.shape) + 1e-9),
        "the next word's map": _with_maps(captions, _map_of_the_next_word),
        "a noun's map of another picture": [
            checked
            for caption, other in zip(captions, others, strict=True)
            if other.nouns
            for checked in _with_maps([caption], lambda _c, _n, o=other: o.words[o.nouns[0].word].map_RC)
        ],
    }
    yield _table(kinds, len(captions))


def _read_captions(
    captioner: Captioner, samples: Sequence[Sample]
) -> tuple[list[CaptionOfScene], list[CaptionOfScene]]:
    """The captioner's captions, and the same words followed by a copy of it whose weights are all shuffled."""
    captions, ids = [], dict[str, tuple[int, ...]]()
    for picture in _pictures(captioner, samples, lambda module, output, _: greedy(module, output)):
        if picture.caption.ids:
            ids[picture.sample.name] = tuple(picture.caption.ids)
            captions.append(_caption_of_scene(captioner, picture, samples))
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for parameter in captioner.module.parameters():
            order_N = torch.from_numpy(rng.permutation(parameter.numel()))
            parameter.copy_(parameter.flatten()[order_N].reshape(parameter.shape))
    spoken = [sample for sample in samples if sample.name in ids]

    def follow(module: Any, output: Any, some: Sequence[Sample]) -> Iterator[DecodeStep]:
        return teacher_forced(module, output, [ids[each.name] for each in some])

    pictures = _pictures(captioner, spoken, follow)
    return captions, [_caption_of_scene(captioner, picture, samples) for picture in pictures]


def _pictures(captioner: Captioner, samples: Sequence[Sample], decode: Decode) -> Iterator[CaptionedPicture]:
    for batch in caption_batches(captioner, samples, decode, batch_size=32):
        yield from batch.pictures


def _caption_of_scene(captioner: Captioner, picture: CaptionedPicture, samples: Sequence[Sample]) -> CaptionOfScene:
    words = caption_words(picture.caption, captioner.vocabulary)
    regions = open_regions(_DATA, samples)
    assert regions is not None
    known = regions.of(picture.sample.name)
    assert known is not None
    nouns = []
    for noun in find_named_words([word.text for word in words], known):
        if noun.regions:
            mask_HW = known.mask(noun.regions, picture.photo.size)
            hit_RC = centres_inside(mask_HW, picture.placement)
            nouns.append(NamedObject(noun.index, hit_RC, picture.placement.coverage(mask_HW)))
    return CaptionOfScene(words, tuple(nouns))


def _nouns(captions: Sequence[CaptionOfScene]) -> list[CheckedWord]:
    return _with_maps(captions, lambda caption, noun: caption.words[noun.word].map_RC)


def _other_words(captions: Sequence[CaptionOfScene]) -> list[CheckedWord]:
    return [
        CheckedWord(check, None)
        for caption in captions
        for index, check in enumerate(check_words(caption.words))
        if index not in {noun.word for noun in caption.nouns}
    ]


def _map_of_the_next_word(caption: CaptionOfScene, noun: NamedObject) -> Floats:
    return caption.words[(noun.word + 1) % len(caption.words)].map_RC


def _with_maps(
    captions: Sequence[CaptionOfScene], map_of: Callable[[CaptionOfScene, NamedObject], Floats]
) -> list[CheckedWord]:
    """Every noun checked with another map in its place, among the maps of the caption's other words."""
    result = []
    for caption in captions:
        for noun in caption.nouns:
            scores_RC = np.asarray(map_of(caption, noun), dtype=np.float32)
            words = list(caption.words)
            words[noun.word] = replace(words[noun.word], map_RC=scores_RC / scores_RC.mean())
            result.append(CheckedWord(check_words(words)[noun.word], pointing_hit(scores_RC, noun.hit_RC)))
    return result


def _table(kinds: dict[str, list[CheckedWord]], captions: int) -> RateTable:
    rows, rates = [], {}
    for kind, words in kinds.items():
        localized = [each for each in words if each.check.is_localized]
        rates[kind] = len(localized) / max(1, len(words))
        flags = [
            f"{sum(each.check.flag == flag for each in words) / max(1, len(words)):.2f}"
            for flag in ("particular", "average", "uniform")
        ]
        hits = [_mean([each.hit for each in part]) for part in (localized, [w for w in words if w not in localized])]
        on = [each.distance for each in words if each.hit is not None and each.hit >= 0.5]
        off = [each.distance for each in words if each.hit is not None and each.hit < 0.5]
        curve = area_under_curve(on, off)
        rows.append((kind, f"{len(words)}", *flags, *hits, "" if np.isnan(curve) else f"{curve:.2f}"))
    return RateTable(
        "words",
        "What the check of a word's map says of each kind of map",
        (
            *("map", "words", "somewhere in particular", "that of the other words", "spread evenly"),
            *("somewhere: on what it names", "nowhere: on what it names", "area under the curve"),
        ),
        tuple(rows),
        aims=(
            Aim("the named object's mask, somewhere in particular", rates["the named object's mask"], "at least", 0.8),
            Aim("random maps, somewhere in particular", rates["random"], "at most", 0.05),
            Aim(
                "nouns of a captioner with shuffled weights, somewhere in particular",
                rates["nouns, all weights shuffled"],
                "at most",
                0.05,
            ),
        ),
        notes=(
            f"{captions} captions of test scenes. A noun is on what it names where the centre of the strongest cell of "
            "its map lies on it. The area under the curve is of the distances that the check decides by, words on what "
            "they name against the others: the check is of a map's shape, and does not say that a word looked at what "
            "it names.",
        ),
    )


def _mean(hits: Sequence[float | None]) -> str:
    known = [hit for hit in hits if hit is not None]
    return f"{np.mean(known):.2f} of {len(known)}" if known else ""
