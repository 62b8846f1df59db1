"""What several seeds of one recipe came to: how far a result moves when nothing but the seed changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vitrine.results import and_n_more, count_of
from vitrine.runs.index import RunSummary
from vitrine.runs.record import same_but_seed

ONE_SEED = "Intervals are over pictures. Another seed moves a result too, by an amount that one training does not know."
"""Said where no recipe was trained with two seeds."""

_MAX_NAMES = 6  # runs that a sentence names


_MEASURES = {
    "classifier": "accuracy",
    "multi-label": "mean average precision",
    "captioner": "word-piece accuracy",
}


@dataclass(frozen=True)
class SeedSpread:
    """The results of runs that differ in their seed alone.

    Attributes:
        names: of the runs, in the order given.
        seeds: of the recipe, likewise.
        accuracies: on the validation pictures, likewise, 0 to 1: of labels, of a captioner's word pieces, or the mean
            average precisions of multi-label models.
        measure: what these are, in words.
        shares_pictures: whether all were measured on the same pictures, which a seed may draw, too.
    """

    names: tuple[str, ...]
    seeds: tuple[int, ...]
    accuracies: tuple[float, ...]
    measure: str
    shares_pictures: bool

    @property
    def mean(self) -> float:
        """Mean of the accuracies."""
        return sum(self.accuracies) / len(self.accuracies)

    @property
    def sentence(self) -> str:
        """Mean and range, and what is in the range."""
        drew = " The seed also drew the validation pictures, so that both are in the range."
        return (
            f"{count_of(len(self.names), 'seed')} of one recipe ({and_n_more(self.names, _MAX_NAMES)}): "
            f"mean {self.measure} {self.mean:.4f}, range {min(self.accuracies):.4f} to {max(self.accuracies):.4f}."
            f"{'' if self.shares_pictures else drew}"
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "runs": list(self.names),
            "seeds": list(self.seeds),
            "mean": self.mean,
            "range": [min(self.accuracies), max(self.accuracies)],
            "same_pictures": self.shares_pictures,
            "sentence": self.sentence,
        }


def spread_over_seeds(runs: Sequence[RunSummary]) -> tuple[SeedSpread, ...]:
    """The spread of each recipe that was trained with two seeds or more, in the order of their first runs."""
    groups: list[list[RunSummary]] = []
    for run in runs:
        for group in groups:
            if run.kind == group[0].kind and same_but_seed(run.settings, group[0].settings):
                group.append(run)
                break
        else:
            groups.append([run])
    return tuple(_spread(group) for group in groups if len(group) > 1)


def _spread(group: Sequence[RunSummary]) -> SeedSpread:
    return SeedSpread(
        names=tuple(run.name for run in group),
        seeds=tuple(run.seed for run in group),
        accuracies=tuple(run.row.score for run in group),
        measure=_MEASURES[group[0].kind],
        shares_pictures=len({run.validation for run in group}) == 1,
    )
