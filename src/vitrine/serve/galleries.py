"""Pictures that come with a model: the validation split of its run, or generated scenes for the bundled one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vitrine.data.captions import open_captions
from vitrine.data.samples import Sample
from vitrine.data.sources import open_data
from vitrine.downloads.settings import downloading
from vitrine.errors import VitrineError
from vitrine.models.captioner.saved import is_captioner_folder
from vitrine.models.reference import BUNDLED
from vitrine.models.run_folder import RunFolder
from vitrine.serve.recorded import CheckedPicture, Recorded, read_recorded
from vitrine.workflows.run_data import data_of, looked_for

SHOWN = 12  # samples of a model

_SCENES = "scenes:base"  # what the bundled model was trained on


@dataclass(frozen=True)
class Gallery:
    """Pictures by id.

    Attributes:
        samples: by id; only those whose picture is there.
        shown: ids of the few that are offered first.
        labels: class names that the samples' labels count in.
        recorded: what the run said of its validation pictures; None where there is no run, or no predictions.
        notes: sentences on what is missing.
    """

    samples: Mapping[str, Sample]
    shown: tuple[str, ...]
    labels: tuple[str, ...] = ()
    recorded: Recorded | None = None
    notes: tuple[str, ...] = ()

    def label(self, number: str) -> str | None:
        """True class of a picture, where it is known."""
        at = self.samples[number].label
        return None if at is None or at >= len(self.labels) else self.labels[at]


def gallery_of(reference: str) -> Gallery:
    """The pictures of a model reference; a model that is no run has none."""
    if reference == BUNDLED:
        data = open_data(_SCENES)
        scenes = {id_at(place): data.splits["validation"][place] for place in range(2 * SHOWN)}
        return Gallery(scenes, _spread(scenes), data.labels)
    folder = RunFolder(Path(reference).expanduser())
    if not folder.started or not (folder.path / "data.json").is_file():
        return Gallery({}, ())
    try:
        with downloading(offline=True):  # what was trained on may be on the hub: nothing is fetched to show it
            return _of_run(folder)
    except VitrineError as error:
        return Gallery({}, (), notes=(f"The run's pictures cannot be shown: {' '.join(str(error).split())}",))


def _of_run(folder: RunFolder) -> Gallery:
    recorded = read_recorded(folder)
    recipe, place = folder.recipe(), data_of(folder, recorded.reference)
    labels: Sequence[str] = ()
    try:
        if is_captioner_folder(folder.path):
            captions = open_captions(place, seed=recipe.seed, val_fraction=recipe.val_fraction)
            there = [each.unlabelled for each in captions.splits["validation"]]
        else:
            data = open_data(place, seed=recipe.seed, val_fraction=recipe.val_fraction)
            there, labels = list(data.splits["validation"]), data.labels
    except (VitrineError, KeyError) as error:
        first = str(error).splitlines()[0]
        looked = f"{looked_for(folder, recorded.reference)} Put the data there, or start where they lie."
        note = f"The run's pictures are not where they were: {first} {looked}"
        return Gallery({}, (), recorded=recorded, notes=(note,))
    by_name = {
        sample.name: replace(sample, picture=CheckedPicture(sample.picture, recorded.hashes[sample.name]))
        for sample in there
        if sample.name in recorded.hashes
    }
    by_id = {id_at(place): by_name[name] for place, name in enumerate(recorded.names) if name in by_name}
    missing = len(recorded.names) - len(by_id)
    notes = (f"{missing:,} of the run's {len(recorded.names):,} validation pictures are missing.",) if missing else ()
    return Gallery(by_id, _spread(by_id), tuple(labels), recorded, notes)


def id_at(place: int) -> str:
    """The id of a picture by its place in the validation split."""
    return f"v{place}"


def _spread(samples: Mapping[str, Sample]) -> tuple[str, ...]:
    """A few ids: one of every class in turn, the earliest first."""
    turns: dict[int | None, int] = {}
    order = []
    for place, (number, sample) in enumerate(samples.items()):
        turn = turns[sample.label] = turns.get(sample.label, -1) + 1
        order.append((turn, place, number))
    return tuple(number for _, _, number in sorted(order)[:SHOWN])
