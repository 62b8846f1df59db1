"""Data sets of Hugging Face ``datasets``: from the hub, from a folder it wrote, or from parquet files."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import pyarrow
import pyarrow.parquet
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.file_download import repo_folder_name

from vitrine.data.decode import EncodedPicture, FilePicture
from vitrine.data.ignored_files import is_ignored_path
from vitrine.data.image_folder import SPLIT_NAMES, class_name, ordered_labels
from vitrine.data.manifest import LABEL_COLUMNS
from vitrine.data.samples import Dataset, FiniteSplit, Sample, Split
from vitrine.errors import DataError, PictureError
from vitrine.io.files import file_sha256
from vitrine.io.hub_cache import (
    DATASETS,
    HUB,
    NETWORK_OFF,
    cache_folder,
    hash_difference,
    is_offline,
    note_use,
    quieten_client,
)
from vitrine.io.network import MAX_SILENT_SECONDS, Failure, WebPageError, diagnose, retry
from vitrine.results import agree, and_n_more, count_of


def is_saved(folder: Path) -> bool:
    """Whether ``save_to_disk`` of Hugging Face datasets wrote this folder."""
    return (folder / "dataset_dict.json").is_file() or (
        (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    )


def picture_tables(folder: Path) -> dict[str, list[str]]:
    """Parquet files with pictures in them, by split: in a folder, in its ``data/`` and in its split folders."""
    by_split: dict[str, list[str]] = {}
    for path in sorted((*folder.glob("*.parquet"), *folder.glob("*/*.parquet"))):
        if not is_ignored_path(path.relative_to(folder).as_posix()) and holds_pictures(path):
            start = re.match(r"[A-Za-z]+", path.name)
            names = (start[0].lower() if start else "", path.parent.name.lower())
            split = next((SPLIT_NAMES[name] for name in names if name in SPLIT_NAMES), "train")
            by_split.setdefault(split, []).append(str(path))
    return by_split


def holds_pictures(table: Path) -> bool:
    """Whether a parquet file has a column of encoded pictures, as Hugging Face datasets writes them."""
    try:
        schema = pyarrow.parquet.read_schema(table)
    except (OSError, pyarrow.ArrowException):
        return False
    return any(is_picture_struct(field.type) for field in schema)


def is_picture_struct(kind: pyarrow.DataType) -> bool:
    """Whether an Arrow type is that of datasets' image columns: the encoded bytes, or the path of a file."""
    return bool(pyarrow.types.is_struct(kind)) and {field.name for field in kind} == {"bytes", "path"}


@dataclass(frozen=True)
class HubPicture(EncodedPicture):
    """One cell of an image column, read when asked for."""

    rows: Any  # datasets.Dataset with the image column alone, not decoded
    row: int
    column: str

    def read_bytes(self) -> bytes:
        """The cell's bytes, or those of the file it points to.

        Raises:
            PictureError: the cell is empty or its file cannot be read.
        """
        cell = self.rows[self.row][self.column]
        if cell and cell.get("bytes"):
            return bytes(cell["bytes"])
        if cell and cell.get("path"):
            return FilePicture(Path(cell["path"])).read_bytes()
        raise PictureError("the row holds no picture")


def open_hub(name: str, reference: str, options: Mapping[str, str]) -> Dataset:
    """Open ``owner/name`` from the hub, or from the local cache of an earlier download where there is no network.

    Raises:
        DataError: unknown, closed, or neither reachable nor on this machine.
    """
    quieten_client()
    failure = Failure(NETWORK_OFF) if is_offline() else _failure_of_hub(name, options.get("revision"))
    arguments = {"name": options.get("config"), "revision": options.get("revision"), "cache_dir": _folder()}
    began = time.time()
    with _into_cache_folder(), _quiet() if failure is None else _without_network():
        try:
            data = retry(lambda: _load(name, arguments)) if failure is None else _load(name, arguments)
        except Exception as error:  # whatever the hub's builders raise; the cause is kept
            if failure is None:
                reason = diagnose(error).reason if diagnose(error).passes else _first_line(error)
                raise DataError(f"hf:{name} cannot be loaded: {reason}") from error
            raise DataError(
                f"{_describe(failure)}, and {name} is not in {_folder()}.\n"
                "Download it on a machine with network, save_to_disk() it, and give that folder."
            ) from error
    _check_downloads(name, began)
    _note_use(data, f"hf:{name}")
    notes = [] if failure is None else [f"{_describe(failure)}: an earlier download is used."]
    return _to_dataset(data, reference, "Hugging Face data set", options, notes)


def _load(name: str, arguments: Mapping[str, Any]) -> Any:
    """The data set; a failure of the network that may pass is raised itself, without what datasets wraps it in."""
    import datasets

    try:
        return datasets.load_dataset(name, **arguments)
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not diagnose(cause).passes:
            cause = cause.__cause__
        if cause is None:
            raise
        raise cause from None


def _describe(failure: Failure) -> str:
    if failure.reason == NETWORK_OFF:
        return "The network was turned off"
    return f"{constants.ENDPOINT} {'cannot be reached' if failure.status is None else 'refuses'} ({failure.reason})"


def _check_downloads(name: str, began: float) -> None:
    """Compare what was downloaded just now with the hashes that the hub gave, by which its client names files.

    The client compares sizes only. What is damaged is removed, with the Arrow files that datasets made of it.

    Raises:
        DataError: a file is damaged.
    """
    folder = cache_folder() / HUB / repo_folder_name(repo_id=name, repo_type="dataset")
    fresh = [blob for blob in folder.glob("blobs/*") if blob.is_file() and blob.stat().st_mtime >= began - 1]
    differences = {blob: text for blob in fresh if (text := hash_difference(blob, file_sha256(blob)))}
    if not differences:
        return
    for pointer in folder.glob("snapshots/*/**/*"):
        if pointer.resolve() in {blob.resolve() for blob in differences}:
            pointer.unlink()
    for blob in differences:
        blob.unlink(missing_ok=True)
    shutil.rmtree(_arrow_folder(name), ignore_errors=True)
    raise DataError(
        f"What came from the hub is damaged: a file of hf:{name} {next(iter(differences.values()))}.\n"
        "It was not kept: try again."
    )


def _arrow_folder(name: str) -> Path:
    """Where datasets keeps what it made of a data set of the hub."""
    return Path(_folder()) / name.replace("/", "___")


def open_saved(folder: Path, reference: str, options: Mapping[str, str]) -> Dataset:
    """Open a folder that ``save_to_disk`` wrote.

    Raises:
        DataError: it cannot be read, or has no image or label column.
    """
    import datasets

    try:
        data = datasets.load_from_disk(str(folder))
    except Exception as error:  # pyarrow, json and fsspec raise each their own
        raise DataError(f"{folder} cannot be read as a saved data set: {_first_line(error)}") from error
    return _to_dataset(data, reference, "folder saved by Hugging Face datasets", options, [])


def open_tables(files: Mapping[str, Sequence[str]], reference: str, options: Mapping[str, str]) -> Dataset:
    """Open parquet files with pictures in them. datasets copies them to its cache as Arrow files, once.

    Raises:
        DataError: they cannot be read, or have no image or label column.
    """
    import datasets

    with _quiet():
        try:
            data_files = {split: list(paths) for split, paths in files.items()}
            data = datasets.load_dataset("parquet", data_files=data_files, cache_dir=_folder())
        except Exception as error:  # see open_hub
            raise DataError(f"{reference} cannot be read as parquet: {_first_line(error)}") from error
    _note_use(data, "parquet files, as datasets copies them")
    return _to_dataset(data, reference, "parquet files with pictures", options, [])


def _folder() -> str:
    return str(cache_folder() / DATASETS)


def _note_use(data: Any, origin: str) -> None:
    """Record which folders of the cache folder are used."""
    parts = data.values() if isinstance(data, dict) else (data,)
    top, files = cache_folder() / DATASETS, [Path(file["filename"]) for rows in parts for file in rows.cache_files]
    for name in sorted({file.relative_to(top).parts[0] for file in files if file.is_relative_to(top)}):
        note_use(top / name, origin)


@contextmanager
def _into_cache_folder() -> Iterator[None]:
    """Let datasets download where models are downloaded: it asks the hub's client for its own folder."""
    before = constants.HF_HUB_CACHE
    constants.HF_HUB_CACHE = str(cache_folder() / HUB)
    try:
        yield
    finally:
        constants.HF_HUB_CACHE = before


def _failure_of_hub(name: str, revision: str | None) -> Failure | None:
    """What is wrong with the hub, or with the way to it; None where it answers.

    Without this, datasets retries for 23 seconds. Where an earlier download can be used, nothing is tried again.

    Raises:
        DataError: the hub answers that the data set cannot be had.
    """

    def ask() -> None:
        huggingface_hub.HfApi().dataset_info(name, revision=revision, timeout=MAX_SILENT_SECONDS)

    try:
        ask() if _arrow_folder(name).is_dir() else retry(ask)
    except GatedRepoError as error:
        raise DataError(
            f"hf:{name} is gated, and you are not among those whom its owner lets in.\n"
            f"Accept its terms at {constants.ENDPOINT}/datasets/{name}, log in with 'hf auth login' (or set HF_TOKEN), "
            "and try again."
        ) from error
    except RepositoryNotFoundError as error:
        raise DataError(
            f"The hub has no data set {name!r}, or it is private. Expected hf:owner/name.\n"
            "For a private one, log in with 'hf auth login' (or set HF_TOKEN)."
        ) from error
    except RevisionNotFoundError as error:
        raise DataError(f"hf:{name} has no revision {revision!r}.") from error
    except HFValidationError as error:
        raise DataError(f"{name!r} is no name of a data set on the hub: expected hf:owner/name.") from error
    except json.JSONDecodeError:
        return diagnose(WebPageError())
    except Exception as error:  # the HTTP library's own, which differ between versions of huggingface_hub
        return diagnose(error)
    return None


@contextmanager
def _without_network() -> Iterator[None]:
    """Let datasets look into its cache at once instead of retrying a hub that did not answer."""
    import datasets

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        with _quiet():
            yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


@contextmanager
def _quiet() -> Iterator[None]:
    """No log lines of datasets where an error or a note says the same; its progress bars stay."""
    import datasets

    before = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity_error()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(before)


def _to_dataset(data: Any, reference: str, layout: str, options: Mapping[str, str], notes: list[str]) -> Dataset:
    parts = dict(data) if isinstance(data, dict) else {"train": data}
    rows_by_split = {SPLIT_NAMES[name.lower()]: rows for name, rows in parts.items() if name.lower() in SPLIT_NAMES}
    aside = [name for name in parts if name.lower() not in SPLIT_NAMES]
    if not rows_by_split:
        raise DataError(
            f"{reference} has the splits {and_n_more(aside)}; at least one of train, validation, test is needed."
        )
    if aside:
        notes.append(f"Splits left aside: {and_n_more(aside)}.")
    features = next(iter(rows_by_split.values())).features
    image = _choose(reference, features, "image", _image_columns(features), options)
    label = _choose(reference, features, "label", _label_columns(features), options)
    notes.append(f"Columns used: {image}, {label}.")
    values_by_split = {split: rows.select_columns([label])[:][label] for split, rows in rows_by_split.items()}
    kind, values = features[label], [value for values in values_by_split.values() for value in values]
    is_multi_label = hasattr(kind, "feature")  # a list; its elements are of that kind
    if is_multi_label:
        kind, values = kind.feature, [each for value in values for each in value or ()]
        notes.append(f"Multi-label: the column {label} holds lists.")
    labels, index = _label_index(kind, values)
    splits: dict[str, Split] = {}
    for split in ("train", "validation", "test"):
        if split in rows_by_split:
            targets = [_target(index, value, is_multi_label) for value in values_by_split[split]]
            splits[split] = FiniteSplit(_samples(split, rows_by_split[split], image, targets))
            unknown = len(values_by_split[split]) - len(splits[split])
            if unknown:
                notes.append(
                    f"{count_of(unknown, 'row')} of {split} without a label {agree(unknown, 'was', 'were')} left aside."
                )
            notes.extend(_origin(rows_by_split[split]))
    return Dataset(reference, layout, labels, splits, tuple(dict.fromkeys(notes)), is_multi_label)


def _target(index: Mapping[Any, int], value: Any, is_multi_label: bool) -> int | tuple[int, ...] | None:
    """The class of a cell, or of multi-label data its labels; None where it is not known."""
    if not is_multi_label:
        return index.get(value)
    return tuple(sorted({index[each] for each in value or () if each in index}))


def _samples(split: str, rows: Any, image: str, targets: Sequence[int | tuple[int, ...] | None]) -> list[Sample]:
    import datasets

    pictures = rows.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    return [
        Sample(f"{split}/{row:06d}", HubPicture(pictures, row, image), labels=target)
        if isinstance(target, tuple)
        else Sample(f"{split}/{row:06d}", HubPicture(pictures, row, image), target)
        for row, target in enumerate(targets)
        if target is not None
    ]


def _label_index(feature: Any, values: Sequence[Any]) -> tuple[tuple[str, ...], dict[Any, int]]:
    """Class names in order, and the class of every value that is one; -1 and None mean "unknown" in datasets."""
    import datasets

    if isinstance(feature, datasets.ClassLabel):
        return tuple(feature.names), {value: value for value in range(feature.num_classes)}
    names = {value: class_name(str(value)) for value in set(values) if value is not None}
    labels = ordered_labels(names.values())
    return labels, {value: labels.index(name) for value, name in names.items()}


def _image_columns(features: Any) -> list[str]:
    return [field.name for field in features.arrow_schema if is_picture_struct(field.type)]


def _label_columns(features: Any) -> list[str]:
    import datasets

    kinds = {name: getattr(feature, "feature", feature) for name, feature in features.items()}  # of a list's elements
    classes = [name for name, kind in kinds.items() if isinstance(kind, datasets.ClassLabel)]
    plain = [name for name in features if name.lower() in LABEL_COLUMNS and isinstance(kinds[name], datasets.Value)]
    return classes or plain


def _choose(reference: str, features: Any, option: str, candidates: list[str], options: Mapping[str, str]) -> str:
    if option in options:
        if options[option] not in features:
            raise DataError(f"{reference} has no column {options[option]!r}; it has {and_n_more(list(features), 12)}.")
        return options[option]
    if len(candidates) > 1 and option in candidates:
        return option
    if len(candidates) == 1:
        return candidates[0]
    what = (
        f"several {option} columns ({and_n_more(candidates)})"
        if candidates
        else f"no {option} column among {and_n_more(list(features), 12)}"
    )
    raise DataError(f"{reference} has {what}.\nChoose one: '{reference.split('?')[0]}?{option}=COLUMN'.")


def _origin(rows: Any) -> list[str]:
    """Which files on this machine are read."""
    folders = sorted({str(Path(file["filename"]).parent) for file in rows.cache_files})
    return [f"Read from {and_n_more(folders, 2)}."] if folders else []


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
