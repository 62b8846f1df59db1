"""Training pictures from the cache of decoded ones, where a recipe asks for it and they fit."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from vitrine.data.decoded_cache import DecodedPicture, bytes_for, folder_for, remove_unfinished, short_side
from vitrine.data.samples import FiniteSplit, Sample
from vitrine.downloads.records import note_use
from vitrine.downloads.settings import DECODED_FROM
from vitrine.recipes import Recipe
from vitrine.workflows.training_data import TrainingData

_GB = 1e9


def from_decoded_cache(data: TrainingData, recipe: Recipe, size: int) -> tuple[TrainingData, tuple[str, ...]]:
    """The data with training pictures that are decoded once, and a sentence on it.

    Validation pictures stay as they are: what a model is measured on is never reduced.

    Args:
        data: what a training reads.
        recipe: ``decoded_cache`` and ``transforms`` are read.
        size: side of the model's input, pixels.
    """
    if not recipe.decoded_cache:
        return data, ()
    if data.train.endless:
        return data, ("decoded_cache: training pictures come in a stream, of which none is kept.",)
    samples, index, short = tuple(data.train), data.index, short_side(recipe.transforms, size)
    if any(each.name not in index.hashes or each.name not in index.sizes for each in samples):
        return data, ("decoded_cache: training pictures are not files that were hashed, so they are not kept.",)
    needed = bytes_for((index.sizes[each.name] for each in samples), short)
    if needed > recipe.decoded_cache * _GB:
        told = f"{len(samples):,} decoded pictures would take {needed / _GB:.3g} GB, more than {recipe.decoded_cache:g}"
        return data, (f"decoded_cache: {told}; every epoch decodes them.",)
    folder = folder_for(short)
    kept = [_kept(each, index.hashes[each.name], folder, short) for each in samples]
    notes = [
        f"Decoded pictures are kept in {folder}: {needed / _GB:.3g} GB, short sides up to {short} px where reduced."
    ]
    notes += _begun(folder, needed)
    return replace(data, train=FiniteSplit(kept)), tuple(notes)


def _kept(sample: Sample, sha256: str, folder: Path, short: int) -> Sample:
    return replace(sample, picture=DecodedPicture(sample.picture, sha256, folder, short))


def _begun(folder: Path, needed: int) -> list[str]:
    """Make the folder, tidy it up, and look whether there is room; a training goes on without it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_unfinished(folder)
        note_use(folder, DECODED_FROM)
        there = sum(path.stat().st_size for path in folder.glob("*/*.rgbx"))
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return [f"Nothing can be kept there ({error.strerror or error}): pictures are decoded in every epoch."]
    if free < needed - there:
        return [f"Only {free / _GB:.3g} GB are free there: what finds no room is decoded in every epoch."]
    return []
