"""Labelled data: what a person writes for DATA becomes pictures with labels, by split."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from vitrine.data import coco, huggingface, image_folder, manifest, oxford_pets
from vitrine.data.image_folder import list_pictures, read_pictures
from vitrine.data.mask_folders import CHOICES
from vitrine.data.reference_options import split_options
from vitrine.data.samples import Dataset, FiniteSplit, Sample
from vitrine.data.shards.dataset import expand_braces, is_shards, open_shards
from vitrine.data.shards.index import is_remote
from vitrine.data.splits import hold_out
from vitrine.errors import DataError
from vitrine.results import agree, and_n_more, count_of

__all__ = ["list_pictures", "open_data", "open_unlabelled"]


METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet", "_classes.csv", "labels.json")
"""What Hugging Face datasets, Roboflow and FiftyOne call a manifest that lies among the pictures, or in each split."""

OPTIONS = (
    *("image", "label", "labels", "separator", "split", "config", "revision", "folders", "masks"),
    *("encoding", "pictures"),
)
"""Options that may follow a reference after a question mark: columns by name, what is between the labels of a cell, a
hub data set's configuration, what folders are that are called like splits (classes or splits), what those are that are
called like masks (auto, aside or pictures), the encoding of a table, and the folder that a table's paths begin at."""


def open_data(reference: str, *, seed: int = 0, val_fraction: float = 0.2) -> Dataset:
    """Open labelled pictures.

    Args:
        reference: a folder (class folders, ``{label}_{id}`` files, either below split folders, or one written by
            Hugging Face datasets, or COCO's with ``annotations/instances_*.json``); a manifest (``.csv``, ``.tsv``,
            ``.jsonl``, ``.json``, ``.parquet``); ``hf:owner/name``;
            ``oxford-pets`` or ``oxford-pets:reference``; ``scenes:...``; webdataset shards (see
            :func:`vitrine.data.shards.dataset.open_shards`).
        seed: of the split, where one is made, and of generated scenes.
        val_fraction: share of the training pictures held out for validation where the data have no such split;
            above 0, below 1.

    Returns:
        The data; ``notes`` names every decision that was taken on the way.

    Raises:
        DataError: nothing there, no known layout, no pictures, or no network where one is needed.
    """
    if not 0 < val_fraction < 1:
        raise DataError(f"val_fraction is {val_fraction}: give a share above 0 and below 1, such as 0.2.")
    if reference.startswith("scenes:"):
        from vitrine.data.scenes import open_scenes

        return open_scenes(reference, seed=seed)
    if is_shards(reference):
        return open_shards(reference)
    return _with_validation(_open(reference), seed, val_fraction)


def open_unlabelled(reference: str) -> Dataset:
    """A folder of pictures without labels, as one split named "pictures".

    Raises:
        DataError: nothing there, or no picture in it.
    """
    place, options = split_options(reference, OPTIONS)
    pictures = read_pictures(Path(place).expanduser(), options.get("masks", "auto"))
    if not pictures.samples:
        raise DataError(f"There are no pictures in {reference}. Give a folder that holds some.")
    notes = pictures.aside.notes()
    return Dataset(reference, "pictures without labels", (), {"pictures": FiniteSplit(pictures.samples)}, notes)


def _open(reference: str) -> Dataset:
    if reference in oxford_pets.NAMES or reference.startswith("oxford-pets:"):
        return oxford_pets.open_pets(reference)
    place, options = split_options(reference, OPTIONS)
    if place.startswith("hf:") and not place.startswith(("hf:.", "hf:/", "hf:~")):
        _refuse_text_options(options, reference)
        return huggingface.open_hub(place.removeprefix("hf:"), reference, options)
    path = Path(place.removeprefix("hf:")).expanduser()
    if path.is_dir():
        return _open_folder(path, reference, options)
    if path.is_file():
        return _open_file(path, reference, options)
    raise _nothing_at(path)


def require_place(reference: str) -> None:
    """Refuse a file or folder that is not there, before anything that takes long is done for it; nothing is opened.

    Raises:
        DataError: there is none.
    """
    if reference.startswith(("scenes:", "hf:")) or reference in oxford_pets.NAMES or is_shards(reference):
        return
    place, _ = split_options(reference, OPTIONS)
    path = Path(place).expanduser()
    if not path.exists() and not reference.startswith("oxford-pets:"):
        raise _nothing_at(path)


def _nothing_at(path: Path) -> DataError:
    return DataError(
        f"There is no file or folder {path}. Give a folder of pictures, a manifest, hf:owner/name, "
        f"{' or '.join(oxford_pets.NAMES)}, or scenes:base."
    )


def _open_folder(folder: Path, reference: str, options: dict[str, str]) -> Dataset:
    if huggingface.is_saved(folder):
        _refuse_text_options(options, reference)
        return huggingface.open_saved(folder, reference, options)
    files = huggingface.picture_tables(folder)
    if files:
        _refuse_text_options(options, reference)
        return huggingface.open_tables(files, reference, options)
    for name in METADATA:
        if (folder / name).is_file() and manifest.has_columns(folder / name):
            return manifest.open_manifest(folder / name, reference, options)
    in_splits = _tables_in_splits(folder)
    if in_splits:
        return manifest.open_manifests(in_splits, folder, reference, options)
    instances = coco.instance_files(folder)
    if instances and not options:
        return coco.open_instances(instances, reference)
    folders, masks = options.pop("folders", ""), options.pop("masks", "auto")
    if options:
        raise DataError(f"{reference}: options choose columns, and {folder} holds no table of pictures.")
    if folders not in ("", "classes", "splits"):
        raise DataError(f"{reference}: folders={folders} is not known; expected folders=classes or folders=splits.")
    if masks not in CHOICES:
        raise DataError(f"{reference}: masks={masks} is not known; expected masks=aside or masks=pictures.")
    return image_folder.open_folder(folder, reference, folders, masks)


def _refuse_text_options(
    options: dict[str, str], reference: str, keys: tuple[str, ...] = ("encoding", "pictures")
) -> None:
    """An option that nothing reads is refused rather than ignored."""
    for key in keys:
        if key in options:
            raise DataError(f"{reference}: {key}= is of tables in text files, which these data are not. Leave it out.")


def _tables_in_splits(folder: Path) -> dict[Path, str]:
    """Manifests that lie among the pictures of each split folder, with their splits."""
    tables = image_folder.tables_in_splits(folder, METADATA)
    return {path: split for path, split in tables.items() if manifest.has_columns(path)}


def _open_file(path: Path, reference: str, options: dict[str, str]) -> Dataset:
    suffix = path.suffix.lower()
    if coco.is_instances(path):
        return coco.open_instances([path], reference)
    if suffix not in manifest.SUFFIXES:
        raise DataError(f"{path} is no manifest: known are {', '.join(manifest.SUFFIXES)}. Or give a folder.")
    if suffix == ".parquet":
        _refuse_text_options(options, reference, ("encoding",))
    if suffix == ".parquet" and huggingface.holds_pictures(path):
        return huggingface.open_tables({"train": [str(path)]}, reference, options)
    return manifest.open_manifest(path, reference, options)


def _with_validation(data: Dataset, seed: int, fraction: float) -> Dataset:
    """Hold pictures out of the training split where no validation split came with the data."""
    notes = [*data.notes, *_class_notes(data)]
    train = data.splits.get("train")
    if train is None or "validation" in data.splits:
        return replace(data, notes=tuple(notes))
    rest, held_out = hold_out(train, round(len(train) * fraction), seed=seed)
    if not held_out:
        notes.append("There is no validation split, and no class has two pictures to make one of.")
        return replace(data, notes=tuple(notes))
    how = "by a hash of their names" if data.is_multi_label else "stratified by class"
    notes.append(
        f"There is no validation split: {len(held_out):,} of {count_of(len(train), 'training picture')} "
        f"{agree(len(held_out), 'was', 'were')} held out for it, "
        f"{how}, seed {seed}."
    )
    alone = sum(n == 1 for n in Counter(sample.label for sample in train).values())
    if alone and not data.is_multi_label:
        notes.append(
            f"{count_of(alone, 'class', 'classes')} with a single training picture "
            f"{agree(alone, 'has', 'have')} none in validation."
        )
    if data.is_multi_label:
        notes.append(_label_counts_note(data.labels, rest, held_out))
    splits = {"train": FiniteSplit(rest), "validation": FiniteSplit(held_out)}
    return replace(
        data, splits={**splits, **{k: v for k, v in data.splits.items() if k != "train"}}, notes=tuple(notes)
    )


def _label_counts_note(labels: tuple[str, ...], *splits: tuple[Sample, ...]) -> str:
    """How many pictures of training and validation have each label; the labels that the split leaves thinnest first."""
    counts = [Counter(label for sample in split for label in sample.label_set) for split in splits]
    order = sorted(range(len(labels)), key=lambda label: (min(each[label] for each in counts), label))
    each_label = [f"{labels[label]} {counts[0][label]:,} and {counts[1][label]:,}" for label in order]
    return f"Pictures with a label, in training and in validation, fewest first: {and_n_more(each_label, 12)}."


def _class_notes(data: Dataset) -> list[str]:
    notes = []
    noun = "labels" if data.is_multi_label else "classes"
    if len(data.labels) == 1 and not data.is_multi_label:
        notes.append(f"All pictures are of one class, {data.labels[0]}: there is nothing to tell apart.")
    train = data.splits.get("train")
    if train is None:
        return notes
    training_labels = {label for sample in train for label in sample.label_set}
    for name, split in data.splits.items():
        if name != "train":
            new_labels = sorted({label for sample in split for label in sample.label_set} - training_labels)
            if new_labels:
                names = and_n_more([data.labels[label] for label in new_labels])
                notes.append(f"{noun.capitalize()} of {name} that no training picture has: {names}.")
    return notes


_HUB = "hf:"
_NO_PATHS = ("scenes:", "oxford-pets:")


def absolute_reference(reference: str, folder: Path) -> str:
    """A reference whose paths are relative to ``folder``, with absolute ones; one without paths stays as it is."""
    if reference in oxford_pets.NAMES or reference.startswith(_NO_PATHS):
        return reference
    if "::" in reference:  # several patterns of shards
        return "::".join(absolute_reference(part, folder) for part in reference.split("::"))
    if reference.startswith(_HUB):
        place = reference.removeprefix(_HUB)
        return f"{_HUB}{folder}/{place}" if place.startswith(".") else reference
    if is_remote(reference) or reference.startswith("~") or Path(reference).is_absolute():
        return reference
    return f"{folder}/{reference}"


def reference_exists(reference: str) -> bool:
    """Whether the file or folder that an absolute reference means exists; of shards by name, the first."""
    place = reference.removeprefix(_HUB).partition("::")[0]
    names = (place, place.partition("?")[0], expand_braces(place)[0])  # what follows a question mark are options
    return any(Path(name).exists() for name in names)
