"""The verb predict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vitrine.cli import show
from vitrine.cli.options import (
    AddressOption,
    ArchOption,
    BatchOption,
    CsvSafeOption,
    DataArgument,
    EncodingOption,
    EngineOption,
    JsonOption,
    ModelArgument,
    NamesOption,
    PartSizeOption,
    PrecisionOption,
    WorkersOption,
)
from vitrine.io.file_names import beside


def predict(
    model: ModelArgument,
    images: Annotated[
        Path,
        typer.Argument(
            metavar="IMAGES",
            help="A folder of pictures, or one picture; with --engine ray also .tar shards or .parquet files.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            "--out",
            metavar="CSV",
            help="The table to write: filename,label. With --engine ray and .parquet, a folder of parts.",
        ),
    ],
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Add the predicted label's probability.")
    ] = False,
    top: Annotated[int, typer.Option(min=0, help="Add the K most likely labels with their probabilities.")] = 0,
    threshold: Annotated[
        float | None,
        typer.Option(help="Of a multi-label model: the probability above which a label gets a row; 0.5 by default."),
    ] = None,
    batch_size: BatchOption = 64,
    precision: PrecisionOption = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Continue a table that was interrupted.")] = False,
    arch: ArchOption = None,
    names: NamesOption = None,
    engine: EngineOption = "local",
    ray_address: AddressOption = None,
    workers: WorkersOption = None,
    part_size: PartSizeOption = None,
    csv_safe: CsvSafeOption = False,  # noqa: ARG001  its callback acts
    as_json: JsonOption = False,
) -> None:
    """Label every picture of a folder, in name order, into a CSV.

    A multi-label model's picture has a row for every label above --threshold, or one with an empty label.
    """
    from vitrine.api.predict import predict as run

    partial_table = beside(out, ".partial")
    with show.how_to_continue("--resume", lambda: engine == "ray" or partial_table.is_file()):
        result = run(
            model,
            images,
            out,
            probabilities=probabilities,
            top=top,
            threshold=threshold,
            batch_size=batch_size,
            precision=precision,
            resume=resume,
            arch=arch,
            names=names,
            engine=engine,
            ray_address=ray_address,
            workers=workers,
            part_size=part_size,
        )
    if as_json:
        show.json(result)


def knn(
    model: ModelArgument,
    data: DataArgument,
    k: Annotated[int, typer.Option("--k", min=1, help="Neighbours that vote.")] = 20,
    split: Annotated[
        str | None,
        typer.Option(help="validation or test; the default is validation where there is one, else test."),
    ] = None,
    batch_size: BatchOption = 64,
    precision: PrecisionOption = "auto",
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Of the split that is made where the data have none; by default the run's own."),
    ] = None,
    arch: ArchOption = None,
    encoding: EncodingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Label pictures by their nearest training pictures in a model's frozen features: the one-minute baseline.

    Of a run: also in the features of the weights that it began with, beside what its own head was measured at, with
    exact tests. So it says whether fine-tuning helped.
    """
    from vitrine.api.measure import knn as run

    result = run(
        model,
        data,
        k=k,
        split=split,
        batch_size=batch_size,
        precision=precision,
        seed=seed,
        arch=arch,
        encoding=encoding,
    )
    show.result(result, result.table, as_json)
