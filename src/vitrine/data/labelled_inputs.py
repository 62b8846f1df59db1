"""Labelled pictures as people have them in Python: pairs, rows of a ``datasets`` split, batches of a DataLoader."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

import numpy as np
import torch

from vitrine.data.image_folder import SPLIT_NAMES
from vitrine.data.label_columns import LABEL_COLUMNS
from vitrine.data.picture_inputs import Normalisation, picture_input
from vitrine.data.samples import Dataset, FiniteSplit
from vitrine.errors import DataError
from vitrine.results import count_of

KINDS = (
    "a folder, a table or a reference such as scenes:new; or pictures in memory with their labels: a list of "
    "(picture, label), a datasets split, a DataLoader, or a dictionary of these by split"
)
"""What labelled data may be given as."""

IN_MEMORY = "pictures in memory"
"""The reference of data that none opens."""


@dataclass(frozen=True, eq=False)
class LabelledInput:
    """Labelled pictures that a person holds; all of them stay in memory while they are measured.

    Attributes:
        data: pairs, rows or batches, or a dictionary of these by split (train, validation, test); without one they are
            the test split. A label is a class's name, or its number.
        is_normalised: pictures are tensors that the model takes as they are.
    """

    data: Any
    is_normalised: bool = False

    def dataset(self, labels: Sequence[str], normalisation: Normalisation) -> Dataset:
        """The data as other modules take them.

        Args:
            labels: the model's class names, which numbers count where the data have no names of their own; none of a
                model without a head: then numbers are the names.
            normalisation: of the model's input.

        Raises:
            DataError: an item has no label, or a label is no class.
        """
        splits = self.data.items() if isinstance(self.data, Mapping) else (("test", self.data),)
        named_splits: dict[str, Any] = {}
        for name, part in splits:
            if str(name).lower() not in SPLIT_NAMES:
                raise DataError(f"{name!r} is no split: expected train, validation or test.")
            named_splits[SPLIT_NAMES[str(name).lower()]] = part
        pairs = {
            name: [(picture, self._label_name(label, _class_names(part) or labels)) for picture, label in _pairs(part)]
            for name, part in named_splits.items()
        }
        used = {label for part in pairs.values() for _, label in part}
        names = [*(each for each in labels if each in used), *sorted(used - set(labels))]
        numbers = {name: number for number, name in enumerate(names)}
        samples = {
            name: FiniteSplit(
                [
                    replace(sample, label=numbers[label])
                    for sample, (_, label) in zip(
                        picture_input(
                            [picture for picture, _ in part], normalisation if self.is_normalised else None
                        ).samples,
                        part,
                        strict=True,
                    )
                ]
            )
            for name, part in pairs.items()
        }
        return Dataset(IN_MEMORY, "pictures with labels", tuple(names), samples)

    @staticmethod
    def _label_name(label: Any, names: Sequence[str]) -> str:
        if isinstance(label, torch.Tensor | np.ndarray | np.generic) and label.ndim == 0:
            label = label.item()
        if isinstance(label, str):
            return label
        if isinstance(label, Integral) and not isinstance(label, bool):
            if not names:
                return str(label)
            if 0 <= int(label) < len(names):
                return names[int(label)]
            classes = count_of(len(names), "class", "classes")
            raise DataError(f"The label {label} is none of the {classes}: expected 0 to {len(names) - 1}.")
        raise DataError(
            f"A label is an object of the type {type(label).__name__}: expected a class's name, or its number from 0."
        )


def _class_names(part: Any) -> Sequence[str]:
    """What a ``datasets`` split calls its classes; nothing of other data."""
    features = getattr(part, "features", None)
    if isinstance(features, Mapping):
        for column in LABEL_COLUMNS:
            if column in features:
                return tuple(getattr(features[column], "names", None) or ())
    return ()


def _pairs(part: Any) -> Iterator[tuple[Any, Any]]:
    """Pictures with their labels, one by one."""
    if isinstance(part, str | bytes) or not (hasattr(part, "__iter__") or hasattr(part, "__getitem__")):
        raise DataError(f"An object of the type {type(part).__name__} is no labelled data: expected {KINDS}.")
    rows: Iterable[Any] = part if hasattr(part, "__iter__") else (part[place] for place in range(len(part)))
    for row in rows:
        picture, label = _pair(row)
        is_batch = isinstance(picture, torch.Tensor | np.ndarray) and picture.ndim == 4
        if not is_batch:
            yield picture, label
        elif getattr(label, "ndim", 1) != 1 or len(label) != len(picture):
            raise DataError("A batch has not one label a picture: expected (pictures, labels) of one length.")
        else:
            yield from zip(picture, label, strict=True)


def _pair(row: Any) -> tuple[Any, Any]:
    if isinstance(row, Mapping):
        for column in LABEL_COLUMNS:
            if column in row:
                return {name: value for name, value in row.items() if name != column}, row[column]
        raise DataError(
            f"A row has the columns {', '.join(map(repr, list(row)[:8]))}: expected a label in one called "
            f"{', '.join(LABEL_COLUMNS)}."
        )
    if isinstance(row, list | tuple) and len(row) == 2:
        return row[0], row[1]
    raise DataError(
        f"{type(row).__name__} is no picture with its label: expected pairs (picture, label), or rows with both."
    )
