"""The verb export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from vitrine.cli.options import JsonOption


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
    from vitrine.workflows.exporting import export as run_export

    result = run_export(run, to, out, precision=precision)
    typer.echo(json.dumps(result.to_dict(), indent=2, ensure_ascii=False) if as_json else result.text())
    if not result.same:
        raise typer.Exit(1)
