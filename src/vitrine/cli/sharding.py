"""The verb shards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from vitrine.cli import show
from vitrine.cli.options import DataArgument


def shards(
    data: DataArgument,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="The folder to write; new, or unfinished.")],
    size: Annotated[float, typer.Option(metavar="MB", help="Of a shard, in millions of bytes.")] = 128,
    seed: Annotated[
        int, typer.Option(min=0, help="Of the order, and of the split that is made where the data have none.")
    ] = 0,
    captions: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option(
            "--captions/--labels",
            help="What is written of data that have both; default: captions where there is a file of them, unless that "
            "file has classes too.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write labelled or captioned pictures as webdataset shards with an index, for training from disk or over http.

    The same command continues what was stopped.
    """
    from vitrine.workflows.sharding import write_shards

    with show.reading_progress("Writing shards") as progress:
        result = write_shards(data, out, megabytes=size, seed=seed, captions=captions, progress=progress)
    show.notes(result.notes)
    typer.echo(result.text())
