"""The verb cache, and the options on downloads that every verb takes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from vitrine.api.progress import reading_progress
from vitrine.cli import show
from vitrine.cli.options import JsonOption
from vitrine.errors import UsageError
from vitrine.io.hub_cache import download_settings, quieten_client
from vitrine.printable import printable_line

if TYPE_CHECKING:
    from vitrine.cache import CacheContents
    from vitrine.models.cache import CachedItem


_SHARED = ("cache", "offline")


class Verbs(TyperGroup):
    """Every verb also takes the root's options on downloads, so that they may stand before it or after it."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        common = [option for option in self.params if option.name in _SHARED]
        for verb in self.commands.values():
            verb.params = [*verb.params, *common]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As typer's, except that ``VERB --help`` is answered at once: the root's options would import pydantic."""
        if len(args) == 2 and args[0] in self.commands and args[1] in ctx.help_option_names:
            self.commands[args[0]].make_context(args[0], args[1:], parent=ctx)  # prints the help, and ends
        rest: list[str] = super().parse_args(ctx, args)
        return rest


def _download_into(context: typer.Context, folder: Path | None) -> None:
    if folder is not None:
        context.with_resource(download_settings(into=folder))
    quieten_client()


def _stay_offline(context: typer.Context, offline: bool) -> None:
    if offline:
        context.with_resource(download_settings(offline=True))


CacheOption = Annotated[
    Path | None,
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
        list[str] | None,
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
    from vitrine.cache import cache_contents, select_items
    from vitrine.cache import prune as remove

    with reading_progress("Computing hashes") as progress:
        contents = cache_contents(progress)
    result: Any = contents
    if prune:
        items = select_items(contents, prune)
        if items and not yes:
            _ask(contents, items)
        result = remove(contents, items)
    show.result(result, result.text, as_json)
    if prune and result.failure is not None:
        raise typer.Exit(1)


def _ask(contents: CacheContents, items: tuple[CachedItem, ...]) -> None:
    """Name what would be removed, and go on only where a person says yes."""
    from vitrine.cache import item_text

    if not sys.stdin.isatty():
        raise UsageError("--prune removes files: add --yes where nobody can be asked.")
    for item in items:
        show.say(item_text(item))
    if not typer.confirm(printable_line(f"Remove from {contents.folder}?"), err=True):
        show.say("Nothing was removed.")
        raise typer.Exit(1)
