"""Ways of reading where a caption's words looked: the one table that the command line, Python, evaluation and the
explorer go by. To add one is to add a row here and a branch in :func:`read_maps`.

Axes: L decoder layers, H heads, P pictures, K cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from vitrine.caption.decoding import DecodedCaption, MapChoice
from vitrine.caption.inference import EncodedBatch
from vitrine.caption.model import Captioner
from vitrine.caption.occlusion import occlusion_maps
from vitrine.errors import UsageError
from vitrine.results import Progress, no_progress


@dataclass(frozen=True)
class Reading:
    """One way to read a word's map.

    Attributes:
        name: on the command line and in Python.
        caption_line: what a figure says of it, with ``{attention}``, ``{layers}`` and ``{heads}`` to be filled in.
        has_layers: whether layers and heads can be chosen.
        any_captioner: whether it works for every captioner, or for vision-language models alone.
        during_decoding: whether maps are there while words come, rather than when all have.
    """

    name: str
    caption_line: str
    has_layers: bool = True
    any_captioner: bool = False
    during_decoding: bool = False


_ROW = "of the query that predicted each word, {layers}, {heads}"

READINGS: Mapping[str, Reading] = {
    each.name: each
    for each in (
        Reading("attention", f"{{attention}} {_ROW}", any_captioner=True, during_decoding=True),
        Reading("relative", f"{{attention}} {_ROW}, relative to a neutral prompt", during_decoding=True),
        Reading("gradient", f"{{attention}} {_ROW}, times the positive gradient of the word's logit"),
        Reading(
            "occlusion",
            "fall of each word's log-probability when a cell of the photograph is covered with the mean colour",
            has_layers=False,
            any_captioner=True,
        ),
    )
}
"""By name; the first is what is read where nothing is said."""


def choose_reading(name: str | None, relative: bool) -> str:
    """The name of a reading, from what a person gave: a name or None, and whether ``--relative`` was.

    Raises:
        UsageError: there is no such reading, or both were given and differ.
    """
    if name is not None and name not in READINGS:
        raise UsageError(f"--reading {name} cannot be used: expected {', '.join(READINGS)}.")
    if relative and name not in (None, "relative"):
        raise UsageError(f"--relative and --reading {name} do not go together: give one of them.")
    return "relative" if relative else name or next(iter(READINGS))


def require_reading(captioner: Captioner, reading: str) -> None:
    """Refuse a reading that a captioner does not have.

    Raises:
        UsageError: it says which ones there are.
    """
    possible = [each.name for each in READINGS.values() if has_reading(captioner, each)]
    if reading not in possible:
        raise UsageError(
            f"Maps of {captioner.reference or 'this captioner'} cannot be read by {reading}: "
            f"expected {' or '.join(possible)}."
        )


def has_reading(captioner: Captioner, reading: Reading) -> bool:
    """Whether a captioner's maps can be read in this way."""
    if reading.any_captioner:
        return True
    if captioner.question is None:
        return False
    return reading.name != "gradient" or getattr(captioner.module, "has_gradients", False)


def read_maps(
    reading: str,
    batch: EncodedBatch,
    captions: Sequence[DecodedCaption],
    choice: MapChoice,
    progress: Progress = no_progress,
) -> tuple[DecodedCaption, ...]:
    """Captions with the maps of a reading that comes after decoding; those of others have their maps already.

    Args:
        reading: its name.
        batch: the pictures.
        captions: one a picture.
        choice: layers and heads, where the reading has some.
        progress: called by occlusion, with cells of a caption done, of how many.
    """
    if reading == "gradient":
        maps = batch.captioner.module.gradient_attention(batch.encoder_output, [each.ids for each in captions])
        map_arrays = [choice.of(maps_TLHK.transpose(0, 1)).numpy() for maps_TLHK in maps]
        return tuple(replace(each, maps_TLHK=maps) for each, maps in zip(captions, map_arrays, strict=True))
    if reading == "occlusion":
        return tuple(
            replace(each, maps_TLHK=occlusion_maps(batch.captioner, photo, each, progress))
            for each, photo in zip(captions, batch.photos, strict=True)
        )
    return tuple(captions)


def neutral_maps(batch: EncodedBatch, choice: MapChoice) -> torch.Tensor:
    """What relative maps are divided by: (P, L, H, K), of pictures that were encoded with a neutral prompt."""
    return choice.of(batch.captioner.module.neutral_attention(batch.encoder_output))
