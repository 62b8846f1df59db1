"""The Oxford-IIIT Pets, by name: downloaded from where torchvision says, read in their official splits.

Source: O. M. Parkhi, A. Vedaldi, A. Zisserman, C. V. Jawahar, "Cats and Dogs", CVPR 2012.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

from vitrine.data.decode import FilePicture
from vitrine.data.samples import Dataset, FiniteSplit, Sample, Split
from vitrine.data.splits import hold_out
from vitrine.errors import DataError
from vitrine.io.file_names import temporary_path
from vitrine.io.files import atomic_path, remove_unfinished
from vitrine.io.hub_cache import NETWORK_OFF, PETS, cache_folder, is_offline, note_use
from vitrine.io.network import diagnose, download
from vitrine.io.untrusted_files import read_lines
from vitrine.results import Progress, agree, and_n_more, count_of

NAMES = ("oxford-pets", "oxford-pets:reference")
"""References that this module opens."""

REFERENCE_VALIDATION = 1_500
OFFICIAL_TEST = 3_669
REFERENCE_SEED = 0
"""The reference job's cut: 1,500 of the official 3,669 test pictures for validation. Which ones is not known; ours are
drawn stratified by breed with this seed, whatever the seed of a run, so that results can be compared."""

PARTS = ("images", "annotations")
ADDRESS = "https://www.robots.ox.ac.uk/~vgg/data/pets/data/"
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EPERM}


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
    notes = [
        f"Oxford-IIIT Pets in {folder}: {len(trainval):,} official training and {count_of(len(test), 'test picture')}."
    ]
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
    """Put the folders of the data set there, each of them whole or not at all.

    Raises:
        DataError: an archive is not here and cannot be had now.
    """
    for part in PARTS:
        if not (folder / part).is_dir():
            try:
                folder.mkdir(parents=True, exist_ok=True)
                remove_unfinished(folder)
                _unpack(_archive(folder, f"{part}.tar.gz"), folder / part)
            except (OSError, HTTPException, EOFError, tarfile.TarError) as error:
                raise _unavailable(folder, error) from error


def _unavailable(folder: Path, error: Exception) -> DataError:
    if isinstance(error, OSError) and error.strerror and error.errno in _DISK:
        return DataError(
            f"The Oxford-IIIT Pets cannot be saved in {folder}: {error.strerror}.\n"
            "Make room, or choose another folder: --cache DIR, or the environment's VITRINE_CACHE."
        )
    files = " and ".join(f"{part}.tar.gz" for part in PARTS if not (folder / part).is_dir())
    return DataError(
        f"The Oxford-IIIT Pets are not in {folder}, and {files} could not be had from {ADDRESS} "
        f"({diagnose(error).reason}).\n"
        f"Put {files} from there into {folder} by hand; the next call unpacks them. VITRINE_CACHE moves the folder."
    )


def _archive(folder: Path, name: str) -> Path:
    """An archive of the data set, downloaded where it is not here, with the md5 that torchvision states for it.

    Raises:
        OSError: there is no network; what came has another md5.
    """
    from torchvision.datasets import OxfordIIITPet

    address, md5 = next((address, md5) for address, md5 in OxfordIIITPet._RESOURCES if address.endswith(name))
    path = folder / name
    if path.is_file() and _md5(path) == md5:
        return path
    if is_offline():
        raise OSError(NETWORK_OFF)
    with atomic_path(path) as temporary, _progress_bar(name) as advance:
        download(address, temporary, advance)
        if _md5(temporary) != md5:
            raise OSError(f"{name} came damaged: its md5 should be {md5}, and is {_md5(temporary)}")
    return path


@contextmanager
def _progress_bar(name: str) -> Iterator[Progress]:
    """A bar as the hub's client draws it, on a terminal; advanced by bytes so far and bytes in all."""
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    with tqdm(desc=name, unit="B", unit_scale=True, disable=None) as bar:  # type: ignore[no-untyped-call]

        def advance(done: int, total: int) -> None:
            bar.total = total or None
            bar.update(done - bar.n)

        yield advance


def _md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack the folder of this name from an archive."""
    temporary = temporary_path(folder)
    try:
        with tarfile.open(archive) as content:
            content.extractall(temporary, filter="data")
        (temporary / folder.name).rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
            f"{count_of(len(absent), 'picture')} {agree(len(absent), 'is', 'are')} missing, such as "
            f"{and_n_more(absent, 2)}"
            if absent
            else f"{path} has gaps"
        )
        raise DataError(f"The Oxford-IIIT Pets in {folder} are incomplete: {what}.\nRemove {folder} and run again.")
    return breeds, tuple(sorted(samples, key=lambda sample: sample.name))
