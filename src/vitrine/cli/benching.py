"""The verb bench."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from vitrine.cli.options import JsonOption
from vitrine.errors import UsageError


def bench(
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("-o", "--out", metavar="DIR", help="Write RESULTS.md and results.json there."),
    ] = None,
    model: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="NAME", help="timm name of a vision transformer; default: ViT-B/16."),
    ] = None,
    image: Annotated[
        Optional[list[int]],  # noqa: UP045
        typer.Option(min=1, help="Side in pixels; may be repeated; default: 224 and 384."),
    ] = None,
    batch: Annotated[
        Optional[list[int]],  # noqa: UP045
        typer.Option(min=1, help="Pictures of a batch; may be repeated; default: 8 and 16."),
    ] = None,
    rounds: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="That count, after one that does not; default: 3."),
    ] = None,
    captions: Annotated[bool, typer.Option(help="Measure captions too.")] = True,
    quick: Annotated[bool, typer.Option("--quick", help="Tiny sizes, to see that it runs.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure this machine: predictions, maps, training steps and captions a second, and how near to its limit."""
    from dataclasses import replace

    from vitrine.workflows.bench.bench import HOW, QUICK, BenchSettings
    from vitrine.workflows.bench.bench import bench as run_bench

    settings = QUICK if quick else BenchSettings()
    given: dict[str, Any] = {
        "model": model,
        "images": tuple(image) if image else None,
        "batches": tuple(batch) if batch else None,
        "rounds": rounds,
        "words": None if captions else 0,
    }
    settings = replace(settings, **{name: value for name, value in given.items() if value is not None})
    try:
        results = run_bench(settings, out, lambda line: typer.echo(f"Measuring {line} ...", err=True))
    except ValueError as error:  # two ways to one result differ
        raise UsageError(str(error)) from error
    typer.echo(
        json.dumps(results.to_dict(), indent=2, ensure_ascii=False)
        if as_json
        else results.page("Measured on this machine", HOW)
    )
