"""Which pictures methods are scored on: a split of labelled data, or any folder of pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from vitrine.data.listing import iter_pictures
from vitrine.data.masks import FOLDER
from vitrine.data.samples import Sample, drawn
from vitrine.data.sources import open_data
from vitrine.errors import DataError


def scored_samples(data: str, split: str | None, limit: int, seed: int) -> tuple[tuple[Sample, ...], tuple[str, ...]]:
    """Pictures and sentences on how they were found; with more than ``limit``, a seeded choice in the data's order.

    Raises:
        DataError: no pictures, no such split, or an endless source.
    """
    path = Path(data).expanduser()
    try:
        found = open_data(data)
    except DataError as error:
        if not path.is_dir() or split is not None:
            raise
        aside: Counter[str] = Counter()
        samples: Sequence[Sample] = [s for s in iter_pictures(path, aside=aside) if not s.name.startswith(f"{FOLDER}/")]
        if not samples:
            raise error from None
        notes = [f"{data} was read as a folder of pictures without labels."]
    else:
        finite = [name for name, part in found.splits.items() if not part.endless and len(part)]
        chosen = split or next((name for name in ("test", "validation", "train") if name in finite), None)
        if chosen not in finite:
            raise DataError(f"{data} has no {split or 'finite'} split; it has: {', '.join(finite) or 'none'}.")
        samples, notes = found.splits[chosen], [f"The pictures are the {chosen} split of {data} ({found.layout})."]
    if len(samples) > limit:
        notes.append(f"{limit} of {len(samples):,} pictures were drawn (seed {seed}).")
    return drawn(samples, limit, seed), tuple(notes)
