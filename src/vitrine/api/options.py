"""What arguments of several verbs have in common: paths, data with an encoding, the engine of bulk work, safe CSV."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitrine.errors import UsageError

if TYPE_CHECKING:
    from vitrine.bulk.run import BulkSettings
    from vitrine.data.labelled_inputs import LabelledInput
    from vitrine.data.picture_inputs import PictureInput

PathLike = str | os.PathLike[str]


def as_path(path: PathLike) -> Path:
    """A path as vitrine opens it: ``~`` is the home folder.

    Raises:
        UsageError: it is no path, such as a number or a list.
    """
    if not isinstance(path, str | os.PathLike):
        raise UsageError(f"A path is expected, as text or a pathlib.Path; got {_kind_of(path)}.")
    return Path(path).expanduser()


def _kind_of(value: Any) -> str:
    return "None" if value is None else f"an object of the type {type(value).__name__}"


def optional_path(path: PathLike | None) -> Path | None:
    """As :func:`as_path`; None stays None."""
    return None if path is None else as_path(path)


def require_reference(device: str | None, model: Any) -> None:
    """Refuse a device of a model that is open already.

    Raises:
        UsageError: a device was named, and the model is no reference.
    """
    if device is not None and not isinstance(model, str | os.PathLike):
        raise UsageError(f"device={device!r} is chosen when a reference is opened, and this model is open already.")


def data_reference(data: PathLike, encoding: str | None = None) -> str:
    """A reference to data with the encoding of its table.

    Raises:
        UsageError: it is neither text nor a path, such as a list of pictures or a model.
    """
    if not isinstance(data, str | os.PathLike):
        raise UsageError(
            "Data with labels or captions are a folder, a table or a reference such as scenes:new; got "
            f"{_kind_of(data)}."
        )
    from vitrine.data.reference_options import with_option

    return with_option(os.fspath(data), "encoding", encoding)


def labelled_data(data: Any, encoding: str | None, normalised: bool) -> str | LabelledInput:
    """A reference to labelled data with the encoding of its table, or labelled pictures in memory.

    Raises:
        DataError: neither.
        UsageError: an option of the other kind.
    """
    if isinstance(data, str | os.PathLike):
        if normalised:
            raise UsageError("normalised is of tensors in memory, and files are none: leave it out.")
        return data_reference(data, encoding)
    from vitrine.data.labelled_inputs import LabelledInput

    if encoding is not None:
        raise UsageError("encoding is of a table: leave it out of pictures in memory.")
    return LabelledInput(data, normalised)


def data_or_pictures(data: Any, encoding: str | None) -> str | PictureInput:
    """A reference to data with the encoding of its table, or pictures in memory.

    Raises:
        DataError: neither.
        UsageError: an encoding of pictures in memory.
    """
    if isinstance(data, str | os.PathLike):
        return data_reference(data, encoding)
    from vitrine.data.picture_inputs import picture_input

    if encoding is not None:
        raise UsageError("encoding is of a table: leave it out of pictures in memory.")
    return picture_input(data)


def optional_reference(data: PathLike | None, encoding: str | None) -> str | None:
    """As :func:`data_reference`, of data that need not be named.

    Raises:
        UsageError: an encoding without data.
    """
    if data is None and encoding is not None:
        raise UsageError("--encoding is of DATA: give both, or leave it out; a run remembers that of its own data.")
    return None if data is None else data_reference(data, encoding)


def require_counts(**counts: int | None) -> None:
    """Refuse what is no number of things, before any work is done.

    Args:
        counts: by the option's name; None where a person did not say.

    Raises:
        UsageError: one is no whole number, or less than 1.
    """
    for name, value in counts.items():
        is_whole = isinstance(value, Integral) and not isinstance(value, bool)
        if value is not None and (not is_whole or value < 1):
            raise UsageError(f"{name} = {value!r} cannot be used: expected a whole number, at least 1.")


def require_out(out: PathLike | None, **options: bool) -> None:
    """Refuse options of files where nothing is written.

    Args:
        out: where files go; None keeps results in memory.
        options: by name, whether each asks for something.

    Raises:
        UsageError: one of them would be ignored.
    """
    for name, is_asked_for in options.items():
        if out is None and is_asked_for:
            raise UsageError(f"{name} is of what is written: give out too, or leave {name} out.")


def bulk_settings(
    engine: str, address: str | None, workers: int | None, part_size: int | None, resume: bool
) -> BulkSettings | None:
    """What an engine and its options ask for; None for work in this process.

    Raises:
        UsageError: no such engine, or an option of the other one.
    """
    if engine not in ("local", "ray"):
        raise UsageError(f"--engine {engine} cannot be used: expected local or ray.")
    if engine == "local":
        ray_options = {"--ray-address": address, "--workers": workers, "--part-size": part_size}
        for option, value in ray_options.items():
            if value is not None:
                raise UsageError(f"{option} is of --engine ray: give both, or leave it out.")
        return None
    from vitrine.bulk.run import BulkSettings

    usual = BulkSettings()
    return BulkSettings(part_size or usual.part_size, workers or usual.workers, address, resume)


def require_local(resume: bool, settings: BulkSettings | None) -> None:
    """Refuse to resume where a single process would ignore it."""
    if resume and settings is None:
        raise UsageError("--resume is of --engine ray: give both, or leave it out.")


def text_of_reference(model: Any, why: str = "This opens the model in a way of its own") -> str:
    """A model reference, where no model in memory will do.

    Raises:
        UsageError: a model in memory; ``why`` says what speaks against it.
    """
    if isinstance(model, str | os.PathLike):
        return os.fspath(model)
    raise UsageError(f"{why}: give a model reference, such as a run folder; got {type(model).__name__}.")


def text_for_ray(model: Any) -> str:
    """The model reference that several processes open.

    Raises:
        UsageError: a model in memory, which other processes do not have.
    """
    return text_of_reference(model, "With the engine ray every process opens the model")


def path_for_ray(path: Any, name: str) -> Path:
    """A path that several processes read or write.

    Raises:
        UsageError: something else, or none.
    """
    if isinstance(path, str | os.PathLike):
        return as_path(path)
    raise UsageError(f"With the engine ray, {name} is a path that every process can open; got {type(path).__name__}.")


@contextmanager
def csv_cells(safe: bool) -> Iterator[None]:
    """Inside the block, tables have an apostrophe before cells that a spreadsheet would compute, where ``safe``.

    Processes that are started see it too.
    """
    from vitrine.io.resumable_csv import CSV_SAFE

    before = os.environ.get(CSV_SAFE)
    if safe:
        os.environ[CSV_SAFE] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(CSV_SAFE, None)
        else:
            os.environ[CSV_SAFE] = before
