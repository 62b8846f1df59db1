"""What a report is made from, by what a person writes for RUN: runs, figures of captions and answers, and scores of the
layers that a model's words look with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from vitrine.caption.figures.figure_file import is_caption_figure
from vitrine.caption.layer_grounding import FILE
from vitrine.errors import RunError
from vitrine.io.figure_folder import figures_in
from vitrine.runs.find import has_runs

_MOST_FILES = 1000  # of a folder without a list of its figures that are looked at


@dataclass(frozen=True)
class Sources:
    """What references name.

    Attributes:
        runs: references for :func:`vitrine.runs.find.find_runs`.
        figures: files of captions and answers that were named one by one.
        folders: (folder, its figures of captions and answers).
        scores: folders with the scores of layers.
    """

    runs: tuple[str, ...]
    figures: tuple[Path, ...]
    folders: tuple[tuple[Path, tuple[Path, ...]], ...]
    scores: tuple[Path, ...]

    @property
    def has_answers(self) -> bool:
        """Whether there is anything but runs."""
        return bool(self.figures or self.folders or self.scores)


def find_sources(references: Sequence[str]) -> Sources:
    """Tell runs, figures and scores apart.

    Args:
        references: run folders, patterns, folders that hold runs; folders of ``vitrine caption``, figures of ``vitrine
            ask`` and folders that hold some; folders of ``vitrine evaluate --grounding``.

    Raises:
        RunError: a folder has nothing of these.
    """
    runs: list[str] = []
    figures: list[Path] = []
    folders: list[tuple[Path, tuple[Path, ...]]] = []
    scores: list[Path] = []
    for reference in references:
        path = Path(reference).expanduser()
        if path.is_file():
            figures.append(path)
        elif not path.is_dir() or has_runs(path):
            runs.append(reference)  # a pattern, too, or a name that nothing has
        else:
            has_scores, inside = (path / FILE).is_file(), _figures_of(path)
            if not has_scores and not inside:
                raise _nothing_in(path)
            scores += [path] if has_scores else []
            folders += [(path, inside)] if inside else []
    return Sources(tuple(runs), tuple(figures), tuple(folders), tuple(scores))


def _figures_of(folder: Path) -> tuple[Path, ...]:
    """Figures that ``vitrine caption`` listed in a folder, or that lie in it as ``vitrine ask`` writes them."""
    of_call = figures_in(folder, "caption")
    if of_call is not None:
        return of_call
    files = sorted(islice((each for each in folder.iterdir() if each.suffix in (".png", ".svg")), _MOST_FILES))
    return tuple(each for each in files if is_caption_figure(each))


def _nothing_in(path: Path) -> RunError:
    return RunError(
        f"{path} has nothing to report: it is no run and holds none.\n"
        "Expected a folder that vitrine train or sweep wrote, figures of vitrine caption or vitrine ask, or the folder "
        "of vitrine evaluate MODEL DATA --grounding -o DIR."
    )
