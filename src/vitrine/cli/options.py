"""Arguments and options that several verbs share."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from vitrine.errors import UsageError

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A run folder, vitrine/scenes-tiny, a timm name, hf-hub:owner/name, or a weights file with --arch.",
    ),
]
ArchOption = Annotated[
    str | None,
    typer.Option("--arch", metavar="NAME", help="The timm name of the model, where MODEL is a weights file."),
]
DataArgument = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="Class folders, files named {label}_{id}, a CSV or Parquet manifest, hf:owner/name, a saved data set, "
        "oxford-pets, scenes:base, or webdataset shards (a folder, an address, names with braces). For captioners: "
        "COCO's or Flickr8k's layout, Karpathy's json, a table of captions, scenes, or shards with captions.",
    ),
]
EncodingOption = Annotated[
    str | None,
    typer.Option(
        "--encoding",
        metavar="NAME",
        help="Of a table in DATA, where it is neither UTF-8 nor UTF-16, such as cp1252; as DATA?encoding=NAME.",
    ),
]
CaptionsOption = Annotated[
    bool | None,
    typer.Option(
        "--captions/--labels",
        help="What is taken of data that have both; default: captions where there is a file of them, unless that "
        "file has classes too.",
        show_default=False,
    ),
]
VocabOption = Annotated[
    Path | None,
    typer.Option(
        "--vocab",
        metavar="FILE",
        help="Of the published captioner, its vocab.txt; default: beside the weights, else from the hub.",
    ),
]
NamesOption = Annotated[
    Path | None,
    typer.Option(
        "--names",
        metavar="FILE",
        help="Names for classes that are bare numbers: a text of one a line, JSON (id2label), a table of id, name.",
    ),
]


def _set_csv_safe(value: bool) -> bool:
    from vitrine.io.resumable_csv import CSV_SAFE

    os.environ.pop(CSV_SAFE, None)
    if value:
        os.environ[CSV_SAFE] = "1"
    return value


CsvSafeOption = Annotated[
    bool,
    typer.Option(
        "--csv-safe",
        callback=_set_csv_safe,
        help="Write an apostrophe before cells that a spreadsheet would compute, such as file names that begin with =.",
    ),
]
ReplaceOption = Annotated[
    bool,
    typer.Option(
        "--replace",
        help="Remove the figures that another call left in the folder; without it they are an error, so that two "
        "calls' figures are never taken for one's.",
    ),
]
FigureFormatOption = Annotated[str, typer.Option("--format", metavar="png|svg", help="Of the figures.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON for programs.")]
BatchOption = Annotated[int, typer.Option(min=1, help="Pictures at a time.")]
PrecisionOption = Annotated[
    str, typer.Option(help="fp32, bf16, or auto: bf16 where the hardware has it and the model is wide enough.")
]

AnyModelPrecisionOption = Annotated[
    str,
    typer.Option(
        metavar="auto|fp32|bf16|4bit",
        help="auto takes bf16 where the hardware has it and the model is wide enough, and fp32 of captioners. 4bit has "
        "linear layers of vision-language models in 4 bits (extra bitsandbytes).",
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        metavar="cpu|cuda|cuda:N|mps|auto",
        help="Where the model runs; default: a GPU where there is one. auto spreads a vision-language model over all "
        "GPUs, and puts the rest into memory and on the disk.",
    ),
]


class SeveralSettings(TyperCommand):
    """A command whose ``--set`` takes one setting or several: ``--set epochs=3 batch_size=8``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Write ``--set`` before every setting that follows one."""
        words: list[str] = []
        for word in args:
            follows = len(words) > 1 and words[-2] == "--set" and _SETTING.match(word) and not Path(word).exists()
            words += ["--set", word] if follows else [word]
        return super().parse_args(ctx, words)


_SETTING = re.compile(r"[a-z][a-z0-9_.]*=")  # KEY=VALUE, and neither an option nor data such as photos?label=x


def explicit_options(context: typer.Context) -> dict[str, str]:
    """What a command line names itself rather than leaves as it is: how each is written, by the parameter's name."""
    spelling = {parameter.name or "": max(parameter.opts, key=len) for parameter in context.command.params}
    sources = {name: context.get_parameter_source(name) for name in spelling}
    return {name: spelling[name] for name, source in sources.items() if source and source.name == "COMMANDLINE"}


def refuse_explicit(explicit: Mapping[str, str], names: Iterable[str], where: str) -> None:
    """Refuse options that would be ignored.

    Args:
        explicit: from :func:`explicit_options`.
        names: of the parameters that do nothing here.
        where: the place in which they do something, for the message: "--score".

    Raises:
        UsageError: one of them was named on the command line.
    """
    for name in names:
        if name in explicit:
            raise UsageError(f"{explicit[name]} does something only {where}: leave it out here.")


EngineOption = Annotated[
    str,
    typer.Option(
        metavar="local|ray",
        help="local works in this process; ray (extra ray) in several, on this machine or a cluster, part by part.",
    ),
]
AddressOption = Annotated[
    str | None,
    typer.Option("--ray-address", metavar="HOST:PORT", help="Of --engine ray: a cluster; default: this machine."),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(min=1, help="Of --engine ray: processes with a model each; default: one a GPU, else one a core pair."),
]
PartSizeOption = Annotated[
    int | None,
    typer.Option(
        min=1, help="Of --engine ray: pictures that are finished, or lost in an interruption, together; default: 1024."
    ),
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Of --engine ray: continue a job that was interrupted.")]


def row_and_column(text: str, option: str) -> tuple[int, int]:
    """Two whole numbers, from 0 or from the end, where -1 is the last."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 2 or not all(part.removeprefix("-").isdecimal() for part in parts):
        raise UsageError(f"{option} {text} cannot be read: expected ROW,COLUMN, counted from 0, such as 3,5.")
    return int(parts[0]), int(parts[1])
