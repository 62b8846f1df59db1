"""The verbs that see inside a model: explain, positions, inspect."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from vitrine.attribution.method_options import OPTIONS, list_methods, methods_with, refuse_options
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
    ResumeOption,
    WorkersOption,
    bulk_settings,
    data_reference,
    explicit_options,
    refuse_explicit,
    require_local,
)
from vitrine.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vitrine.attribution.methods import Method
    from vitrine.bulk.run import BulkSettings
    from vitrine.explain.run import ExplainSettings
    from vitrine.explain.score import ScoreSettings


_OF_SCORES = ("masks", "category", "split", "curves", "layers", "encoding")
_OF_FIGURES = (*OPTIONS, "check", "stretch", "scale", "patches", "kind", "engine")


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
        typer.Option(help=f"{list_methods()}; with --score it may be repeated, and all are scored without it."),
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
    kind: FigureFormatOption = "png",
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
    if kind not in ("png", "svg"):
        raise UsageError(f"--format {kind} cannot be used: expected png or svg.")
    explicit = explicit_options(context)
    bulk = bulk_settings(engine, ray_address, workers, part_size, resume)
    require_local(resume, bulk)
    sizes = _Sizes(limit, batch_size, precision, arch, names)
    if score is not None:
        refuse_explicit(explicit, _OF_FIGURES, "where maps are drawn, without --score")
        from vitrine.explain.score import ScoreSettings

        methods = tuple(dict.fromkeys(method or ScoreSettings().methods))
        plan = ScoreSettings(methods, layers, split, masks, category, limit or 100, curves, batch_size, seed)
        _score(model, data_reference(score, encoding), out, plan, sizes, as_json)
        return
    refuse_explicit(explicit, _OF_SCORES, "with --score")
    if not check and limit is None:
        refuse_explicit(explicit, ("seed",), "with --check, --limit or --score")
    from vitrine.explain.run import ExplainSettings

    assert images is not None
    settings = ExplainSettings(
        _one_method(method or ["attention"], explicit, layer, heads, query, window),
        target,
        heads == "each",
        matrix,
        check,
        stretch,
        scale,
        smooth=not patches,
        kind=kind,
        seed=seed,
    )
    if bulk is not None:
        _explain_in_bulk(model, images, out, settings, sizes, bulk, as_json)
    else:
        _explain_here(model, images, out, settings, sizes, as_json)


class _Sizes(NamedTuple):
    """How many pictures are explained, how many at a time, and how the model is opened."""

    limit: int | None
    batch_size: int
    precision: str
    arch: str | None
    names: Path | None

    def opening_flags(self) -> list[str]:
        """The options with which the model is opened, but for its precision."""
        values = {"--arch": self.arch, "--names": self.names}
        return [word for flag, value in values.items() if value is not None for word in (flag, str(value))]


def _one_method(
    names: list[str], explicit: Mapping[str, str], layer: int, heads: str, query: str, window: int
) -> Method:
    """The method that is drawn.

    Raises:
        UsageError: several were named, or options that this one does not have.
    """
    if len(names) > 1:
        raise UsageError("Several methods can be scored (--score DATA), and one drawn: give one --method.")
    refuse_options(names[0], [name for name in OPTIONS if name in explicit], lambda name: explicit[name])
    from vitrine.attribution.methods import Method

    return Method(names[0], layer, "mean" if heads == "each" else _head(heads), _query(query), window)


def _explain_in_bulk(
    model: str,
    images: Path,
    out: Path,
    settings: ExplainSettings,
    sizes: _Sizes,
    bulk: BulkSettings,
    as_json: bool,
) -> None:
    from vitrine.bulk.jobs import ExplainJob
    from vitrine.bulk.run import explain_in_bulk

    names = None if sizes.names is None else str(sizes.names)
    job = ExplainJob(model, sizes.arch, sizes.precision, sizes.batch_size, images, True, out, settings, names)
    with show.reading_progress("Explaining") as progress:
        result = explain_in_bulk(job, bulk, sizes.limit, progress)
    show.bulk_result(result, "figures", as_json)


def _explain_here(model: str, images: Path, out: Path, settings: ExplainSettings, sizes: _Sizes, as_json: bool) -> None:
    from vitrine.explain.run import explain as run_explain

    with show.reading_progress("Explaining") as progress:
        result = run_explain(
            model,
            images,
            out,
            settings,
            limit=sizes.limit,
            batch_size=sizes.batch_size,
            precision=sizes.precision,
            architecture=sizes.arch,
            names=sizes.names,
            progress=progress,
        )
    show.notes(result.notes)
    show.result(result, lambda: show.explained_summary(result), as_json)
    show.unreadable(result.unreadable)
    show.unwritten(result.unwritten)


def _score(model: str, data: str, out: Path, settings: ScoreSettings, sizes: _Sizes, as_json: bool) -> None:
    from vitrine.classify.model import open_classifier
    from vitrine.explain.score import score_methods, write_scores
    from vitrine.io.output_lock import lock_folder

    with lock_folder(out, "explain"):
        classifier = open_classifier(model, sizes.precision, sizes.arch, names=sizes.names)
        show.notes(classifier.notes)
        with show.reading_progress("Scoring") as progress:
            result = score_methods(classifier, model, data, settings, progress)
        write_scores(result, out, sizes.opening_flags())
    show.result(result, result.text, as_json)


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
    from vitrine.explain.positions import positions as run_positions

    place = None if cell is None else _row_and_column(cell, "--cell")
    result = run_positions(model, out, cell=place, before=before, architecture=arch)
    show.notes(result.weights)
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
    return _row_and_column(query, "--query")


def _row_and_column(text: str, option: str) -> tuple[int, int]:
    """Two whole numbers from 0, or from the end with -1."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 2 or not all(part.removeprefix("-").isdecimal() for part in parts):
        raise UsageError(f"{option} {text} cannot be read: expected ROW,COLUMN, counted from 0, such as 3,5.")
    return int(parts[0]), int(parts[1])
