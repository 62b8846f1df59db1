"""One figure for each picture, under the picture's own name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vitrine.data.samples import Sample


def figure_names(samples: Sequence[Sample], kind: str, taken: Sequence[str] = ()) -> Mapping[str, str]:
    """A figure's path for every picture: its own with another ending, or with both where two would collide.

    Args:
        samples: the pictures.
        kind: the figures' ending, without the dot.
        taken: stems that other files need.
    """
    used = set(taken)
    names = {}
    for sample in samples:
        stem = sample.name.rpartition(".")[0] or sample.name
        chosen = stem if stem not in used else sample.name
        used.add(chosen)
        names[sample.name] = f"{chosen}.{kind}"
    return names
