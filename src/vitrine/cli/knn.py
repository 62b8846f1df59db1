"""The verb knn."""

from __future__ import annotations

import json
from typing import Annotated, Optional

import typer

from vitrine.cli import show
from vitrine.cli.options import ArchOption, BatchOption, DataArgument, JsonOption, ModelArgument, PrecisionOption


def knn(
    model: ModelArgument,
    data: DataArgument,
    k: Annotated[int, typer.Option("--k", min=1, help="Neighbours that vote.")] = 20,
    split: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="validation or test; the default is validation where there is one, else test."),
    ] = None,
    batch_size: BatchOption = 64,
    precision: PrecisionOption = "auto",
    seed: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=0, help="Of the split that is made where the data have none; by default the run's own."),
    ] = None,
    arch: ArchOption = None,
    as_json: JsonOption = False,
) -> None:
    """Label pictures by their nearest training pictures in a model's frozen features: the one-minute baseline.

    Of a run: also in the features of the weights that it began with, beside what its own head was measured at, with
    exact tests. So it says whether fine-tuning helped.
    """
    from vitrine.workflows.knn import knn as run_knn

    with show.reading_progress("Computing features") as progress:
        result = run_knn(
            model,
            data,
            split=split,
            k=k,
            batch_size=batch_size,
            precision=precision,
            seed=seed,
            architecture=arch,
            progress=progress,
        )
    show.notes(result.notes)
    typer.echo(json.dumps(result.to_dict(), indent=2, ensure_ascii=False) if as_json else result.table())
