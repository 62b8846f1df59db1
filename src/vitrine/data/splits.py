"""Seeded, stratified splits that depend on nothing but names, labels and the seed."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from vitrine.data.samples import Sample


def hold_out(
    samples: Sequence[Sample], count: int, *, seed: int = 0, keep_both: bool = True
) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Set pictures of every class aside, in proportion to the size of the class.

    Each class gives its share of ``count``, rounded by the largest remainder. Within a class the pictures with the
    smallest SHA-256 of seed and name are held out: the result depends neither on the order of ``samples`` nor on any
    library's random numbers, and one more picture in the data moves at most a few others.

    Args:
        samples: the pictures to split; names are unique.
        count: how many to hold out in all.
        seed: another seed gives another split.
        keep_both: every class of two or more pictures keeps at least one on either side, and a class of one stays
            with the kept; ``count`` may be missed by as much as this needs.

    Returns:
        (kept, held out), both in the order of ``samples``.
    """
    by_class: dict[int | None, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_class[sample.label].append(sample)
    quotas = _quotas({label: len(members) for label, members in by_class.items()}, count)
    held_out: set[str] = set()
    for label, members in by_class.items():
        quota = min(max(quotas[label], 1), len(members) - 1) if keep_both else quotas[label]
        by_rank = sorted(members, key=lambda sample: _rank(seed, sample.name))
        held_out.update(sample.name for sample in by_rank[:quota])
    return (
        tuple(sample for sample in samples if sample.name not in held_out),
        tuple(sample for sample in samples if sample.name in held_out),
    )


def _quotas(sizes: dict[int | None, int], count: int) -> dict[int | None, int]:
    """Shares of ``count`` in proportion to the sizes (Hamilton's method of largest remainders), in whole numbers."""
    total = sum(sizes.values())
    count = min(max(count, 0), total)
    if total == 0:
        return {}
    quotas = {label: size * count // total for label, size in sizes.items()}
    by_remainder = sorted(sizes, key=lambda label: (-(sizes[label] * count % total), -1 if label is None else label))
    for label in by_remainder[: count - sum(quotas.values())]:
        quotas[label] += 1
    return quotas


def _rank(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{name}".encode("utf-8", "surrogatepass")).digest()
