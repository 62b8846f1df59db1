"""The verbs that write for other tools: export and shards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vitrine.cli import show
from vitrine.cli.options import CaptionsOption, DataArgument, EncodingOption, JsonOption


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
    from vitrine.api.runs import export as run_export

    result = run_export(run, to, out, precision=precision)
    show.result(result, result.text, as_json)
    if not result.same:
        raise typer.Exit(1)


def shards(
    data: DataArgument,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="The folder to write; new, or unfinished.")],
    size: Annotated[float, typer.Option(metavar="MB", help="Of a shard, in millions of bytes.")] = 128,
    seed: Annotated[
        int, typer.Option(min=0, help="Of the order, and of the split that is made where the data have none.")
    ] = 0,
    captions: CaptionsOption = None,
    encoding: EncodingOption = None,
) -> None:
    """Write labelled or captioned pictures as webdataset shards with an index, for training from disk or over http.

    The same command continues what was stopped.
    """
    from vitrine.api.data import shards as run

    with show.how_to_continue():
        result = run(data, out, size=size, seed=seed, captions=captions, encoding=encoding)
    show.answer(result.text())
