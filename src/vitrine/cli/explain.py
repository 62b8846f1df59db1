"""The verbs that see inside a model: explain, positions, inspect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitrine.attribution.method_options import OPTIONS, list_methods, methods_with, refuse_options
from vitrine.attribution.registry import ALL_METHODS, DRAWING_METHODS, METHODS, is_own_function
from vitrine.cli import show
from vitrine.cli.options import (
    AddressOption,
    ArchOption,
    BatchOption,
    CsvSafeOption,
    EncodingOption,
    EngineOption,
    FigureFormatOption,
    JsonOption,
    ModelArgument,
    NamesOption,
    PartSizeOption,
    PrecisionOption,
    ReplaceOption,
    ResumeOption,
    WorkersOption,
    explicit_options,
    refuse_explicit,
    row_and_column,
)
from vitrine.errors import UsageError

if TYPE_CHECKING:
    from vitrine.attribution.foreign_methods import MapFunction

_OF_SCORES = ("masks", "category", "split", "curves", "layers", "encoding")
_OF_METHODS = tuple(option for option in OPTIONS if option != "seed")  # --seed is of checks, limits and scores too
_OF_ONE_METHOD = ("layer", "heads", "query", "window", "matrix", "check", "stretch", "engine")
_OF_FIGURES = (*_OF_METHODS, "check", "stretch", "scale", "patches", "contour", "kind", "replace", "engine")
_OF_ENGINES = ("ray_address", "workers", "part_size", "resume")


def explain(
    context: typer.Context,
    model: ModelArgument,
    images: Annotated[
        Path | None,
        typer.Argument(metavar="IMAGES", help="A folder of pictures, or one picture; not with --score."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="DIR", help="Where figures and tables are written. Required."),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help=f"{list_methods()}; or captum:NAME, cam:NAME (extras captum, grad-cam), or MODULE:FUNCTION, your own "
            "Python. Repeated, or all: one sheet with a column a method. With --score all of vitrine's own are scored "
            "without it."
        ),
    ] = None,
    layer: Annotated[int, typer.Option(help=f"Of {methods_with('layer')}: from 0, or from the end with -1.")] = -1,
    heads: Annotated[
        str,
        typer.Option(
            help=f"Of {methods_with('heads')}: mean, max, min, a number from 0 "
            "(-1 is the last), or each (a panel a head, too)."
        ),
    ] = "mean",
    query: Annotated[
        str,
        typer.Option(
            metavar="auto|class|distillation|pool|ROW,COLUMN",
            help=f"Of {methods_with('query')}: who looks. auto is what the head reads: the class token, the mean of "
            "the patches, several tokens by their weights, or the pool. Rows and columns count from 0; -1 is the last.",
        ),
    ] = "auto",
    target: Annotated[
        str | None,
        typer.Option(
            metavar="LABEL",
            help=f"Of {methods_with('target')}: the class that the map is for, or its number from 0; by default the "
            "predicted one.",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="LABEL",
            help=f"Of {methods_with('against')}: why the target and not this class; a label or number.",
        ),
    ] = None,
    window: Annotated[
        int,
        typer.Option(min=0, help=f"Of {methods_with('window')}: patches a side of what is covered; 0 chooses."),
    ] = 0,
    matrix: Annotated[
        bool,
        typer.Option(
            "--matrix", help=f"Of {methods_with('matrix')}: also draw the layer's whole attention, head by head."
        ),
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Test whether the answer depends on the patches that each map marks.")
    ] = False,
    score: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Score and rank the methods, and controls, on these data instead."),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="With --score: a folder of masks, or COCO instances; default: masks/ beside the data."
        ),
    ] = None,
    category: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="With --masks of COCO: the category whose instances are inside."),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="With --score: train, validation or test; default: test where there is one."),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Pictures at most, drawn with --seed; default: all, and 100 with --score."),
    ] = None,
    curves: Annotated[
        int, typer.Option(min=0, help="With --score: pictures whose insertion and deletion are measured.")
    ] = 100,
    layers: Annotated[bool, typer.Option("--layers", help="With --score: also every other layer's attention.")] = False,
    stretch: Annotated[
        bool, typer.Option("--stretch", help="Stretch each map to its own minimum and maximum; figures say so.")
    ] = False,
    scale: Annotated[
        float, typer.Option(min=0, help="Where the colours end; 0 finds it on the first --batch-size pictures.")
    ] = 0.0,
    patches: Annotated[bool, typer.Option("--patches", help="Draw patches as they are, not smoothed.")] = False,
    contour: Annotated[
        bool, typer.Option("--contour", help="Draw a line where a map crosses uniform (of occlusion: no effect).")
    ] = False,
    kind: FigureFormatOption = "png",
    replace: ReplaceOption = False,
    seed: Annotated[int, typer.Option(min=0, help="Of --check, --limit and --score.")] = 0,
    batch_size: BatchOption = 16,
    precision: PrecisionOption = "auto",
    arch: ArchOption = None,
    names: NamesOption = None,
    engine: EngineOption = "local",
    ray_address: AddressOption = None,
    workers: WorkersOption = None,
    part_size: PartSizeOption = None,
    resume: ResumeOption = False,
    encoding: EncodingOption = None,
    csv_safe: CsvSafeOption = False,  # noqa: ARG001  its callback acts
    as_json: JsonOption = False,
) -> None:
    """Draw what a model looks at on each picture, or score and rank such maps on many pictures."""
    if out is None:
        raise UsageError("Option -o is missing: the folder that figures and tables are written to.")
    if (images is None) == (score is None):
        raise UsageError("Give pictures to draw maps for (IMAGES), or data to score methods on (--score DATA).")
    explicit = explicit_options(context)
    if score is not None:
        refuse_explicit(explicit, (*_OF_FIGURES, *_OF_ENGINES), "where maps are drawn, without --score")
        from vitrine.api.explain import score as run_score

        scores = run_score(
            model,
            score,
            out,
            method=[_named_method(name) for name in method or ()],
            layers=layers,
            split=split,
            masks=masks,
            category=category,
            limit=limit,
            curves=curves,
            seed=seed,
            batch_size=batch_size,
            precision=precision,
            arch=arch,
            names=names,
            encoding=encoding,
        )
        show.result(scores, scores.text, as_json)
        return
    refuse_explicit(explicit, _OF_SCORES, "with --score")
    methods = _methods_with(explicit, method or ["attention"], draws_pictures=check or limit is not None)
    from vitrine.api.explain import explain as run
    from vitrine.explain.method_sheet import MethodSheets
    from vitrine.explain.run import ExplainResult

    with show.how_to_continue("--resume", lambda: engine == "ray"):
        result = run(
            model,
            images,
            out,
            method=_named_method(methods[0]) if len(methods) == 1 else [_named_method(name) for name in methods],
            layer=layer,
            heads=_head(heads),
            query=_query(query),
            target=target,
            against=against,
            window=window,
            matrix=matrix,
            check=check,
            limit=limit,
            stretch=stretch,
            scale=scale,
            patches=patches,
            contour=contour,
            format=kind,
            replace=replace,
            seed=seed,
            batch_size=batch_size,
            precision=precision,
            arch=arch,
            names=names,
            engine=engine,
            ray_address=ray_address,
            workers=workers,
            part_size=part_size,
            resume=resume,
        )
    if isinstance(result, ExplainResult):
        show.result(result, lambda: show.explained_summary(result), as_json)
    elif isinstance(result, MethodSheets):
        show.result(result, result.text, as_json)
    elif as_json:
        show.json(result)


def _methods_with(explicit: Mapping[str, str], names: Sequence[str], *, draws_pictures: bool) -> tuple[str, ...]:
    """The methods that are drawn, each of which has the options that were given.

    Args:
        explicit: the options that were given.
        names: of methods, or all.
        draws_pictures: whether a seed is that of checks or of the choice of pictures.

    Raises:
        UsageError: an option would be ignored.
    """
    methods = tuple(each for one in names for each in (METHODS if one == ALL_METHODS else (one,)))
    if not draws_pictures and not set(methods) & set(DRAWING_METHODS):
        refuse_explicit(explicit, ("seed",), "with --check, --limit or --score")
    if len(methods) > 1:
        refuse_explicit(explicit, (*_OF_ONE_METHOD, *_OF_ENGINES), "where one method is drawn by itself")
    else:
        options = [option for option in _OF_METHODS if option in explicit]
        refuse_options(methods[0], options, lambda option: explicit[option])
    return methods


def _named_method(name: str) -> str | MapFunction:
    """A method's name as it is, or the function that ``MODULE:FUNCTION`` names, imported.

    Raises:
        UsageError: there is no such function.
    """
    if not is_own_function(name):
        return name
    from vitrine.attribution.foreign_methods import import_function

    return import_function(name)


def positions(
    model: ModelArgument,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="The figure to write: .png or .svg.")],
    cell: Annotated[
        str | None,
        typer.Option(metavar="ROW,COLUMN", help="Draw one patch large; rows and columns count from 0; -1 is the last."),
    ] = None,
    before: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Another model to compare with: both on one scale, and the difference."),
    ] = None,
    arch: ArchOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draw how alike the position embeddings are, and say whether position was learned."""
    from vitrine.api.explain import positions as run

    place = None if cell is None else row_and_column(cell, "--cell")
    result = run(model, out, cell=place, before=before, arch=arch)
    show.result(result, result.text, as_json)


def inspect(
    figure: Annotated[Path, typer.Argument(metavar="FIGURE", help="A .png or .svg that vitrine drew.")],
    as_json: JsonOption = False,
) -> None:
    """Say where a figure came from, and the command that draws it again."""
    from vitrine.explain.inspect import inspect_figure

    result = inspect_figure(figure)
    show.result(result, result.text, as_json)


def _head(heads: str) -> str | int:
    return int(heads) if heads.removeprefix("-").isdecimal() else heads


def _query(query: str) -> str | tuple[int, int]:
    if "," not in query:
        return query
    return row_and_column(query, "--query")
