"""The verb cache, and the options on downloads that every verb takes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from typer.core import TyperGroup

from vitrine.cli import show
from vitrine.cli.options import DataArgument, JsonOption
from vitrine.errors import UsageError
from vitrine.io.hub_cache import download_settings, quieten_client

if TYPE_CHECKING:
    from vitrine.cache import CacheContents
    from vitrine.models.cache import CachedItem


_SHARED = ("cache", "offline")


class Verbs(TyperGroup):
    """Every verb also takes the root's options on downloads, so that they may stand before it or after it."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        shared = [option for option in self.params if option.name in _SHARED]
        for verb in self.commands.values():
            verb.params = [*verb.params, *shared]


def _download_into(context: typer.Context, folder: Optional[Path]) -> None:  # noqa: UP045  typer reads it
    if folder is not None:
        context.with_resource(download_settings(into=folder))
    quieten_client()


def _stay_offline(context: typer.Context, wanted: bool) -> None:
    if wanted:
        context.with_resource(download_settings(offline=True))


CacheOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--cache",
        metavar="DIR",
        callback=_download_into,
        expose_value=False,
        help="Where downloads go; default: VITRINE_CACHE, else ~/.cache/vitrine.",
    ),
]
OfflineOption = Annotated[
    bool,
    typer.Option(
        "--offline",
        callback=_stay_offline,
        expose_value=False,
        help="Use no network, as with VITRINE_OFFLINE=1: only what is there.",
    ),
]


def cache(
    prune: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--prune",
            metavar="NAME|DAYS",
            help="Remove what has this name in the table, or what was not used for so many days; may be repeated.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove without asking.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show which downloaded files lie where, from where, with which hash and when they were used last.

    With --prune, remove some, and say which and how much that freed; exits 1 where one could not be removed.
    """
    from vitrine.cache import cache_contents
    from vitrine.cache import chosen as choose
    from vitrine.cache import prune as remove

    with show.reading_progress("Computing hashes") as progress:
        contents = cache_contents(progress)
    result: Any = contents
    if prune:
        items = choose(contents, prune)
        if items and not yes:
            _ask(contents, items)
        result = remove(contents, items)
    typer.echo(json.dumps(result.to_dict(), indent=2, ensure_ascii=False) if as_json else result.text())
    if prune and result.failed is not None:
        raise typer.Exit(1)


def _ask(contents: CacheContents, items: tuple[CachedItem, ...]) -> None:
    """Name what would be removed, and go on only where a person says yes."""
    from vitrine.cache import described

    if not sys.stdin.isatty():
        raise UsageError("--prune removes files: add --yes where nobody can be asked.")
    for item in items:
        typer.echo(described(item), err=True)
    if not typer.confirm(f"Remove from {contents.folder}?", err=True):
        typer.echo("Nothing was removed.", err=True)
        raise typer.Exit(1)


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run of a classifier.")],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="hf|timm|onnx|pt2",
            help="A folder of transformers or timm, ONNX, or torch.export's archive.",
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="The folder to write; new or empty.")],
    precision: Annotated[str, typer.Option(metavar="fp32|bf16", help="Of the stored weights.")] = "fp32",
    as_json: JsonOption = False,
) -> None:
    """Write a run for other tools, with a model card; it is read back and compared with the run.

    Exits 1, and writes nothing, where the two are not the same.
    """
    from vitrine.export.run import export as run_export

    result = run_export(run, to, out, precision=precision)
    typer.echo(json.dumps(result.to_dict(), indent=2, ensure_ascii=False) if as_json else result.text())
    if not result.same:
        raise typer.Exit(1)


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
    from vitrine.shards import write_shards

    with show.reading_progress("Writing shards") as progress:
        result = write_shards(data, out, megabytes=size, seed=seed, captions=captions, progress=progress)
    show.notes(result.notes)
    typer.echo(result.text())
