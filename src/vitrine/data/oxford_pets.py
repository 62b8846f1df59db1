"""The Oxford-IIIT Pets, by name: downloaded by torchvision, read in their official splits.

Source: O. M. Parkhi, A. Vedaldi, A. Zisserman, C. V. Jawahar, "Cats and Dogs", CVPR 2012.
"""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vitrine.data.decode import FilePicture
from vitrine.data.samples import Dataset, FiniteSplit, Sample, Split
from vitrine.data.splits import hold_out
from vitrine.errors import DataError
from vitrine.io.hub_cache import NETWORK_OFF, PETS, cache_folder, is_offline, note_use
from vitrine.io.untrusted_files import read_lines
from vitrine.results import and_n_more

NAMES = ("oxford-pets", "oxford-pets:reference")
"""References that this module opens."""

REFERENCE_VALIDATION = 1_500
OFFICIAL_TEST = 3_669
REFERENCE_SEED = 0
"""The reference job's cut: 1,500 of the official 3,669 test pictures for validation. Which ones is not known; ours are
drawn stratified by breed with this seed, whatever the seed of a run, so that results can be compared."""

ARCHIVES = ("images.tar.gz", "annotations.tar.gz")
ADDRESS = "https://www.robots.ox.ac.uk/~vgg/data/pets/data/"
_SECONDS = 10.0  # without an answer, after which a connection counts as none


def open_pets(reference: str) -> Dataset:
    """Open ``oxford-pets`` (official trainval and test) or ``oxford-pets:reference`` (the reference job's splits).

    Raises:
        DataError: unknown name, no network, or an incomplete copy; the message says which file and how to provide it.
    """
    if reference not in NAMES:
        raise DataError(f"There are no pets named {reference!r}: known are {' and '.join(NAMES)}.")
    folder = cache_folder() / PETS
    _download(folder)
    note_use(folder, ADDRESS)
    labels, trainval = _read(folder, "trainval", ())
    _, test = _read(folder, "test", labels)
    notes = [f"Oxford-IIIT Pets in {folder}: {len(trainval):,} official training and {len(test):,} test pictures."]
    splits: dict[str, Split] = {"train": FiniteSplit(trainval), "test": FiniteSplit(test)}
    if reference == "oxford-pets:reference":
        # Exactly 1,500 of the official 3,669; the same share of a smaller copy.
        count = round(len(test) * REFERENCE_VALIDATION / OFFICIAL_TEST)
        rest, validation = hold_out(test, count, seed=REFERENCE_SEED, keep_both=False)
        splits = {"train": splits["train"], "validation": FiniteSplit(validation), "test": FiniteSplit(rest)}
        notes.append(
            f"The official test pictures were cut into {len(validation):,} for validation and {len(rest):,} for test, "
            f"stratified by breed, seed {REFERENCE_SEED} always: the reference job does not name its own cut."
        )
    return Dataset(reference, "Oxford-IIIT Pets", labels, splits, tuple(notes))


def _download(folder: Path) -> None:
    if (folder / "images").is_dir() and (folder / "annotations").is_dir():
        return
    missing = [name for name in ARCHIVES if not (folder / name).is_file()]
    try:
        if missing and is_offline():
            raise OSError(NETWORK_OFF)
        if missing:
            _require_reachable(ADDRESS + missing[0])
        from torchvision.datasets import OxfordIIITPet

        with _socket_timeout():
            OxfordIIITPet(str(folder.parent), download=True)
    except (OSError, RuntimeError, EOFError) as error:  # URLError is an OSError; RuntimeError: a checksum differs
        files = " and ".join(missing or ARCHIVES)
        reason = getattr(error, "reason", error)
        raise DataError(
            f"The Oxford-IIIT Pets are not in {folder}, and {files} could not be had from {ADDRESS} ({reason}).\n"
            f"Put {files} from there into {folder} by hand; the next call unpacks them. VITRINE_CACHE moves the folder."
        ) from error


def _require_reachable(address: str) -> None:
    """Fail within seconds, not minutes, where there is no network. Raises OSError."""
    request = urllib.request.Request(address, method="HEAD", headers={"User-Agent": "vitrine"})  # noqa: S310 - https
    urllib.request.urlopen(request, timeout=_SECONDS).close()  # noqa: S310


@contextmanager
def _socket_timeout() -> Iterator[None]:
    """A time limit on sockets: torchvision sets none, and would wait forever on a connection that fell silent."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(3 * _SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _read(folder: Path, part: str, labels: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[Sample, ...]]:
    """One official list: lines of picture name, class (from 1), species and breed number; '#' starts a comment."""
    path = folder / "annotations" / f"{part}.txt"
    names: dict[int, str] = {}
    samples = []
    try:
        for line in read_lines(path):
            if line.strip() and not line.startswith("#"):
                name, number = line.split()[:2]
                names[int(number) - 1] = " ".join(word.title() for word in name.rsplit("_", 1)[0].split("_"))
                picture = FilePicture(folder / "images" / f"{name}.jpg")
                samples.append(Sample(f"images/{name}.jpg", picture, int(number) - 1))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}). Remove {folder / 'annotations'} and run again.") from error
    breeds = tuple(names[number] for number in sorted(names))
    absent = [sample.name for sample in samples if not (folder / sample.name).is_file()]
    if absent or sorted(names) != list(range(len(names))) or (labels and breeds != labels):
        what = (
            f"{len(absent):,} pictures are missing, such as {and_n_more(absent, 2)}" if absent else f"{path} has gaps"
        )
        raise DataError(f"The Oxford-IIIT Pets in {folder} are incomplete: {what}.\nRemove {folder} and run again.")
    return breeds, tuple(sorted(samples, key=lambda sample: sample.name))
