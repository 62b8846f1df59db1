"""Arguments and options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A run folder, vitrine/scenes-tiny, a timm name, hf-hub:owner/name, or a weights file with --arch.",
    ),
]
ArchOption = Annotated[
    Optional[str],  # noqa: UP045
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
VocabOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--vocab",
        metavar="FILE",
        help="Of the published captioner, its vocab.txt; default: beside the weights, else from the hub.",
    ),
]
FigureFormatOption = Annotated[str, typer.Option("--format", metavar="png|svg", help="Of the figures.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON for programs.")]
BatchOption = Annotated[int, typer.Option(min=1, help="Pictures at a time.")]
PrecisionOption = Annotated[
    str, typer.Option(help="fp32, bf16, or auto: bf16 where the hardware has it and the model is wide enough.")
]


def required_recipe(name: Optional[str]) -> str:  # noqa: UP045
    """The recipe that was named.

    Raises:
        RecipeError: none was; the message names those that there are.
    """
    if name is None:
        from vitrine.errors import RecipeError
        from vitrine.recipes import available_recipes

        raise RecipeError(f"--recipe is missing: expected a .toml file or one of {', '.join(available_recipes())}.")
    return name
