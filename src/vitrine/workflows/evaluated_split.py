"""Which split an evaluation measures on, and how a run split its own data."""

from __future__ import annotations

from pathlib import Path

from vitrine.data.captions import CaptionData
from vitrine.data.samples import LabelledData
from vitrine.errors import DataError
from vitrine.models.run_folder import RunFolder


def choose_split(found: LabelledData | CaptionData, wanted: str | None) -> str:
    """The split that is wanted; by default test, else validation, else train.

    Raises:
        DataError: it does not exist, is empty, or is endless.
    """
    finite = [name for name, part in found.splits.items() if not part.endless and len(part)]
    for name in (wanted,) if wanted else ("test", "validation", "train"):
        if name in finite:
            return name
    raise DataError(f"{found.reference} has no {wanted or 'finite'} split; it has: {', '.join(finite) or 'none'}.")


def split_of_run(folder: Path | None) -> tuple[int, float]:
    """Seed and share of the split that a run's training made; 0 and 0.2 of what is no run."""
    if folder is None or not RunFolder(folder).started:
        return 0, 0.2
    recipe = RunFolder(folder).recipe()
    return recipe.seed, recipe.val_fraction
