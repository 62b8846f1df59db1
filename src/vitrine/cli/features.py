"""The verb features: patch features as colours, regions and similarities."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vitrine.cli import show
from vitrine.cli.options import (
    ArchOption,
    BatchOption,
    CsvSafeOption,
    FigureFormatOption,
    JsonOption,
    ModelArgument,
    PrecisionOption,
    row_and_column,
)


def features(
    model: ModelArgument,
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="A folder of pictures, or one picture.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Where figures and tables are written.")],
    layer: Annotated[int, typer.Option(help="Whose tokens: from 0, or from the end with -1.")] = -1,
    image_size: Annotated[
        int,
        typer.Option(
            min=0, metavar="PIXELS", help="Side of the model's input; 0 is its own. More shows smaller patches."
        ),
    ] = 0,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Colour the foreground alone, as the first component tells it.")
    ] = False,
    regions: Annotated[int, typer.Option(min=0, help="Groups of patches that are alike; 0 draws none.")] = 0,
    query: Annotated[
        str | None,
        typer.Option(
            metavar="ROW,COLUMN", help="A patch that all patches are compared with, counted from 0; -1 is the last."
        ),
    ] = None,
    query_picture: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="With --query: the picture that it is in; by default the first one."),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="What regions are compared with: a folder of masks, or COCO instances; default: masks/ near the data.",
        ),
    ] = None,
    category: Annotated[
        str | None, typer.Option(metavar="NAME", help="With --masks of COCO: the category whose instances are inside.")
    ] = None,
    controls: Annotated[
        bool, typer.Option("--controls/--no-controls", help="Also run the model untrained, for its numbers.")
    ] = True,
    components: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="components.safetensors of an earlier call: the same colours for other pictures."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Pictures at most, drawn with --seed; default: all.")] = None,
    kind: FigureFormatOption = "png",
    seed: Annotated[
        int, typer.Option(min=0, help="Of the choice of pictures, the regions, and the untrained model.")
    ] = 0,
    batch_size: BatchOption = 16,
    precision: PrecisionOption = "auto",
    arch: ArchOption = None,
    csv_safe: CsvSafeOption = False,  # noqa: ARG001  its callback acts
    as_json: JsonOption = False,
) -> None:
    """Draw what a model's patch features tell apart: components as colours, regions, and patches that are alike."""
    from vitrine.api.features import features as run

    result = run(
        model,
        images,
        out,
        layer=layer,
        image_size=image_size,
        foreground=foreground,
        regions=regions,
        query=None if query is None else row_and_column(query, "--query"),
        query_picture=query_picture,
        masks=masks,
        category=category,
        controls=controls,
        components=components,
        limit=limit,
        format=kind,
        seed=seed,
        batch_size=batch_size,
        precision=precision,
        arch=arch,
    )
    show.result(result, result.text, as_json)
