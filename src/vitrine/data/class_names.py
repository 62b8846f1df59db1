"""Names for classes that are bare numbers: lists of names, ``id2label`` of a configuration, tables of ids and names."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vitrine.data.samples import Dataset
from vitrine.errors import DataError, error_summary
from vitrine.io.resumable_csv import csv_row
from vitrine.io.untrusted_files import parse_json, read_text
from vitrine.printable import escape_controls
from vitrine.results import count_of

RUN_FILE = "names.csv"
"""In a run whose classes were bare numbers: the number and the name of each, as ``--names`` takes it."""

_ID_COLUMNS = ("id", "number", "class", "class_id", "index", "label")
_NAME_COLUMNS = ("name", "class_name", "label_name", "category", "label")
_NUMBER = re.compile(r"\d{1,9}", re.ASCII)


def is_number(label: str) -> bool:
    """Whether a class is called by a bare number, such as 21 or 007."""
    return _NUMBER.fullmatch(label) is not None


def read_class_names(file: Path, numbers: Sequence[str]) -> dict[str, str]:
    """The name of each class that has a bare number, by the number as it is written there.

    Args:
        file: a text with a name a line, the first one of class 0, or of class 1 where the classes count from 1; JSON: a
            list likewise, an object from numbers to names, or one whose ``id2label`` is that; or a ``.csv`` or ``.tsv``
            with a column of ids and one of names.
        numbers: of the classes.

    Raises:
        DataError: the file cannot be read, the classes are called something already, a class has no name, two have the
            same, or there are more or fewer names in a list than classes.
    """
    others = [label for label in numbers if not is_number(label)]
    if others:
        raise DataError(
            f"The classes have names already, such as {others[0]!r}: --names is for classes that are bare numbers.\n"
            "Leave it out."
        )
    try:
        text = read_text(file)
        names = _parse(file, text)
    except (OSError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error_summary(error)
        raise DataError(f"The class names in {file} cannot be read: {reason}.") from error
    if isinstance(names, list):
        names = _number_list(file, names, numbers)
    missing = [label for label in numbers if int(label) not in names]
    if missing:
        raise DataError(
            f"{file} has {count_of(len(names), 'name')} and none for class {missing[0]} ({len(missing)} of "
            f"{count_of(len(numbers), 'class', 'classes')} "
            "lack one).\nGive every class a name."
        )
    name_by_label = {label: escape_controls(names[int(label)].strip()) for label in numbers}
    return _require_different(file, name_by_label)


def rename_classes(dataset: Dataset, names: Mapping[str, str]) -> Dataset:
    """The data with names in place of the class numbers that have one; all else stays as it is."""
    return replace(dataset, labels=tuple(names.get(label, label) for label in dataset.labels))


def names_csv(names: Mapping[str, str]) -> bytes:
    """The content of :data:`RUN_FILE`, which :func:`read_class_names` reads back."""
    return b"".join(map(csv_row, (("id", "name"), *names.items())))


def recorded_names(folder: Path | None) -> dict[str, str]:
    """Names by number of a run whose classes were bare numbers in its data; nothing of any other.

    Raises:
        DataError: the record is damaged.
    """
    if folder is None or not (folder / RUN_FILE).is_file():
        return {}
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(folder / RUN_FILE), newline="")))
        return {row["id"]: row["name"] for row in rows}
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise DataError(f"{folder / RUN_FILE} is not what vitrine writes ({type(error).__name__}).") from error


def _parse(file: Path, text: str) -> list[str] | dict[int, str]:
    if file.suffix.lower() == ".json":
        return _parse_json_names(parse_json(text))
    if file.suffix.lower() in (".csv", ".tsv"):
        return _parse_table(text, "\t" if file.suffix.lower() == ".tsv" else ",")
    lines = [line.strip() for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _parse_json_names(content: object) -> list[str] | dict[int, str]:
    if isinstance(content, dict) and isinstance(content.get("id2label"), dict):
        content = content["id2label"]
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        return content
    if isinstance(content, dict) and content and all(isinstance(name, str) for name in content.values()):
        if all(is_number(key) for key in content):
            return {int(key): name for key, name in content.items()}
        raise ValueError("its keys are no numbers; expected an object such as {'0': 'cat', '1': 'dog'}")
    raise ValueError("expected a list of names, or an object from numbers to names, or one with id2label")


def _parse_table(text: str, separator: str) -> dict[int, str]:
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    columns = {name.strip().lower(): name for name in rows.fieldnames or () if name}
    number = next((columns[name] for name in _ID_COLUMNS if name in columns), None)
    name = next((columns[name] for name in _NAME_COLUMNS if name in columns and columns[name] != number), None)
    if number is None or name is None:
        raise ValueError(f"its columns are {', '.join(columns) or 'none'}; expected id and name")
    names = {}
    for line, row in enumerate(rows, 2):
        key = (row[number] or "").strip()
        if not is_number(key):
            raise ValueError(f"in line {line} the id is {key!r}, which is no number")
        if int(key) in names:
            raise ValueError(f"class {key} has a second name in line {line}")
        names[int(key)] = row[name] or ""
    return names


def _number_list(file: Path, names: list[str], numbers: Sequence[str]) -> dict[int, str]:
    """Numbers of a list's names: from 0, or from 1 where the classes do."""
    values = {int(label) for label in numbers}
    first = 0 if 0 in values else 1
    expected = max(values, default=0) + 1 - first
    if len(names) != expected:
        raise DataError(
            f"{file} has {count_of(len(names), 'name')}, and the classes are the numbers {min(values, default=0)} to "
            f"{max(values, default=0)}: expected {count_of(expected, 'name')}, one a line from class {first} on."
        )
    return dict(enumerate(names, first))


def _require_different(file: Path, names: dict[str, str]) -> dict[str, str]:
    by_name: dict[str, str] = {}
    for number, name in names.items():
        if not name:
            raise DataError(f"{file} has an empty name for class {number}. Give every class a name.")
        if name in by_name:
            raise DataError(
                f"{file} calls two classes {name!r}: {by_name[name]} and {number}.\nGive every class a name of its own."
            )
        by_name[name] = number
    return names
