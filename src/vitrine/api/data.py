"""The functions on data: check and shards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vitrine.api.options import PathLike, as_path, data_reference
from vitrine.api.progress import reading_progress, say_notes
from vitrine.messages import quiet_messages

if TYPE_CHECKING:
    from vitrine.data.check import DataReport
    from vitrine.shards import WrittenShards


def check(
    data: PathLike,
    *,
    seed: int = 0,
    captions: bool | None = None,
    encoding: str | None = None,
    quiet: bool = False,
) -> DataReport:
    """Say what is in some data, and what is wrong with them.

    Args:
        data: class folders, files named ``{label}_{id}``, a table, ``hf:owner/name``, shards, or generated scenes
            (``scenes:new?train=24&validation=8&test=8``): whatever ``vitrine check`` takes.
        seed: of the split that is made where the data have none.
        captions: look at captions, or at labels; None takes captions where there is a file of them, unless that file
            has classes too.
        encoding: of a table in the data, where it is neither UTF-8 nor UTF-16.
        quiet: show no progress and say nothing.

    Raises:
        DataError: there are no data, or no pictures in them.

    Examples:
        >>> report = vitrine.check("photos")
        >>> report.serious
        False
    """
    from vitrine.check import check as run_check

    with quiet_messages(quiet), reading_progress("Reading pictures") as progress:
        return run_check(data_reference(data, encoding), seed=seed, captions=captions, progress=progress)


def shards(
    data: PathLike,
    out: PathLike,
    *,
    size: float = 128,
    seed: int = 0,
    captions: bool | None = None,
    encoding: str | None = None,
    quiet: bool = False,
) -> WrittenShards:
    """Write labelled or captioned pictures as webdataset shards with an index; the same call continues a stopped one.

    Args:
        data: as :func:`vitrine.check` takes them.
        out: the folder to write; new, or unfinished.
        size: of a shard, in millions of bytes.
        seed: of the order, and of the split that is made where the data have none.
        captions: write captions, or labels; None as in :func:`vitrine.check`.
        encoding: of a table in the data, where it is neither UTF-8 nor UTF-16.
        quiet: show no progress and say nothing.

    Raises:
        DataError: no data, or none that can be written; or the folder holds something else.
        EnvironmentMismatchError: the extra ``shards`` is not installed.

    Examples:
        >>> written = vitrine.shards("photos", "photos-shards", quiet=True)
        >>> [(split, pictures) for split, _shards, pictures, _bytes in written.splits]
        [('train', 48), ('validation', 24), ('test', 200)]
    """
    from vitrine.shards import write_shards

    with quiet_messages(quiet), reading_progress("Writing shards") as progress:
        reference = data_reference(data, encoding)
        result = write_shards(reference, as_path(out), megabytes=size, seed=seed, captions=captions, progress=progress)
        say_notes(result.notes)
        return result
