"""The functions that see inside a model: explain, score and positions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace as with_fields
from typing import TYPE_CHECKING, Any

from vitrine.api.options import (
    PathLike,
    as_path,
    bulk_settings,
    csv_cells,
    data_or_pictures,
    optional_path,
    path_for_ray,
    require_counts,
    require_local,
    require_out,
    text_for_ray,
)
from vitrine.api.progress import reading_progress, say_bulk_result, say_notes, say_unreadable, say_unwritten
from vitrine.attribution.registry import ALL_METHODS, METHODS
from vitrine.errors import UsageError
from vitrine.messages import quiet_messages

if TYPE_CHECKING:
    from pathlib import Path

    from vitrine.api.load import ModelLike
    from vitrine.attribution.foreign_methods import MapFunction
    from vitrine.attribution.methods import Method
    from vitrine.bulk.run import BulkResult, BulkSettings
    from vitrine.explain.method_sheet import MethodSheets, SheetSettings
    from vitrine.explain.positions import PositionsResult
    from vitrine.explain.run import ExplainResult, ExplainSettings
    from vitrine.explain.score import MethodScores


def explain(
    model: ModelLike,
    images: Any,
    out: PathLike | None = None,
    *,
    method: str | MapFunction | Sequence[str | MapFunction] = "attention",
    layer: int = -1,
    heads: str | int = "mean",
    query: str | tuple[int, int] = "auto",
    target: str | int | None = None,
    against: str | int | None = None,
    window: int = 0,
    matrix: bool = False,
    check: bool = False,
    limit: int | None = None,
    stretch: bool = False,
    scale: float = 0.0,
    patches: bool = False,
    contour: bool = False,
    format: str = "png",  # noqa: A002  the command line's word
    replace: bool = False,
    seed: int = 0,
    batch_size: int = 16,
    precision: str = "auto",
    arch: str | None = None,
    names: PathLike | None = None,
    engine: str = "local",
    ray_address: str | None = None,
    workers: int | None = None,
    part_size: int | None = None,
    resume: bool = False,
    csv_safe: bool = False,
    normalised: bool = False,
    quiet: bool = False,
) -> ExplainResult | MethodSheets | BulkResult:
    """Draw what a model looks at on each picture, into a folder or in memory; or by several methods, on one sheet.

    Args:
        model: a model reference, what :func:`vitrine.load` opened, or a module in memory.
        images: pictures, as :func:`vitrine.predict` takes them. A generator is read as it comes: with ``out``, of its
            pictures two batches are held at most.
        out: the folder for figures, contact sheets and maps.csv; None keeps maps in memory, as the result's
            ``pictures``, which draw themselves, and so keep their photographs.
        method: a method of :data:`vitrine.attribution.registry.ENTRIES`, ``captum:NAME`` or ``cam:NAME``; or a function
            of yours: called with the module, normalised pixels (B, C, H, W) and class indices (B,), it gives scores
            (B, rows, columns). Of several, or ``all`` of vitrine's own, sheets are drawn: a row a picture, a column a
            method, one scale; ``target``, ``against`` and ``seed`` act on those that have them.
        layer: of attention, gradcam and value-norm: from 0, or from the end with -1.
        heads: of attention: mean, max, min, a number from 0 (-1 is the last), or each (with ``out``: a panel each).
        query: of attention: who looks: auto, class, distillation, pool, or a patch as (row, column) from 0.
        target: the class that the maps are for, by its label or its number; None is the predicted one.
        against: why the target and not this class, by its label or its number; of methods with gradients.
        window: of occlusion: patches a side of what is covered; 0 chooses.
        matrix: with ``out``: also draw the layer's whole attention, head by head.
        check: test whether the answer depends on the patches that each map marks.
        limit: pictures at most, drawn with ``seed``, or of a generator the first ones; None is all.
        stretch: stretch each map to its own minimum and maximum; figures say so.
        scale: where the colours end; 0 finds it on the first ``batch_size`` pictures, or on each map in memory.
        patches: draw patches as they are, not smoothed.
        contour: draw a line where a map crosses uniform (of occlusion: no effect).
        format: png or svg, of the figures.
        replace: remove the figures that another call left in ``out``; without it they are an error.
        seed: of the checks and the choice of pictures.
        batch_size: pictures at a time.
        precision: fp32, bf16, or auto: bf16 where the hardware has it and the model is wide enough.
        arch: the timm name of the model, where ``model`` is a weights file.
        names: a file with names for classes that are bare numbers.
        engine: local, or ray: several processes, on this machine or a cluster, part by part.
        ray_address: of the engine ray: a cluster; None is this machine.
        workers: of the engine ray: processes with a model each.
        part_size: of the engine ray: pictures that are finished, or lost in an interruption, together.
        resume: of the engine ray: continue a job that was interrupted.
        csv_safe: write an apostrophe before cells that a spreadsheet would compute.
        normalised: pictures are tensors that the model takes as they are.
        quiet: show no progress and say nothing.

    Raises:
        DataError: no pictures, or none that can be read.
        ModelError: the model cannot be used, or lacks what was asked for.
        UsageError: options that do not go together.

    Examples:
        >>> result = vitrine.explain("vitrine/scenes-tiny", ["cat.jpg"], quiet=True)
        >>> result.pictures[0].map.shape
        (8, 8)
        >>> vitrine.explain("runs/first", "photos/test", "maps", limit=2, quiet=True).table.name
        'maps.csv'
    """
    require_counts(batch_size=batch_size, limit=limit, workers=workers, part_size=part_size)
    _require_figures(out, format, replace, csv_safe)
    bulk = bulk_settings(engine, ray_address, workers, part_size, resume)
    require_local(resume, bulk)
    if several := _several_methods(method):
        return _draw_sheets(
            model,
            images,
            normalised,
            optional_path(out),
            _sheet_settings(
                several,
                None if target is None else str(target),
                against,
                {
                    "layer": layer != -1,
                    "heads": heads != "mean",
                    "query": query != "auto",
                    "window": window != 0,
                    "matrix": matrix,
                    "check": check,
                    "stretch": stretch,
                    "engine": bulk is not None,
                },
                scale=scale,
                smooth=not patches,
                contour=contour,
                kind=format,
                seed=seed,
            ),
            {"precision": precision, "architecture": arch, "names": optional_path(names)},
            {"limit": limit, "batch_size": batch_size, "replace_others": replace},
            quiet=quiet,
            csv_safe=csv_safe,
        )
    _require_known(method, bulk)
    settings = _explain_settings(
        _method(method, layer, heads, query, window, against, seed),
        None if target is None else str(target),
        each_head=heads == "each",
        matrix=matrix,
        check=check,
        stretch=stretch,
        scale=scale,
        smooth=not patches,
        contour=contour,
        kind=format,
        seed=seed,
    )
    with quiet_messages(quiet), csv_cells(csv_safe), reading_progress("Explaining") as progress:
        if bulk is not None:
            from vitrine.bulk.jobs import ExplainJob
            from vitrine.bulk.run import explain_in_bulk

            name_file = None if names is None else str(optional_path(names))
            pictures, folder = path_for_ray(images, "images"), path_for_ray(out, "out")
            job = ExplainJob(
                text_for_ray(model), arch, precision, batch_size, pictures, True, folder, settings, name_file
            )
            outcome = explain_in_bulk(job, bulk, limit, progress, replace)
            say_bulk_result(outcome, "figures")
            return outcome
        from vitrine.api.load import classifier_and_pictures, in_eval_mode
        from vitrine.explain.explanation import explain_in_memory
        from vitrine.explain.run import explain as run_explain

        classifier, inputs = classifier_and_pictures(model, images, normalised, precision, arch, names)
        options: dict[str, Any] = {
            "limit": limit,
            "batch_size": batch_size,
            "precision": precision,
            "architecture": arch,
            "names": optional_path(names),
            "progress": progress,
        }
        if out is None:
            result = explain_in_memory(classifier, inputs, settings, **options)
        else:
            with in_eval_mode(classifier):
                result = run_explain(classifier, inputs, as_path(out), settings, replace_others=replace, **options)
        say_notes(result.notes)
        say_unreadable(result.unreadable)
        say_unwritten(result.unwritten)
        return result


def _several_methods(method: str | MapFunction | Sequence[str | MapFunction]) -> tuple[str | MapFunction, ...]:
    """The methods of a sheet; none where one method is drawn by itself.

    Raises:
        UsageError: a list of none or one, which says neither.
    """
    if isinstance(method, str):
        return METHODS if method == ALL_METHODS else ()
    if callable(method) or not isinstance(method, Iterable):
        return ()
    methods = tuple(each for one in method for each in (METHODS if one == ALL_METHODS else (one,)))
    if len(methods) < 2:
        raise UsageError(
            f"method = {list(method)!r} names {len(methods)}: give one method by itself, two or more, or all."
        )
    return methods


def _sheet_settings(
    methods: Sequence[str | MapFunction],
    target: str | None,
    against: str | int | None,
    of_one: dict[str, bool],
    *,
    seed: int,
    **look: Any,
) -> SheetSettings:
    """What a sheet draws; a class, and one that it is compared with, act on the methods that have them.

    Args:
        methods: two or more.
        target: the class that maps are for.
        against: the class that it is compared with.
        of_one: by options that a sheet lacks, whether one was given.
        seed: of what methods draw, and of the choice of pictures.
        look: further fields of the settings.

    Raises:
        ModelError: no such method.
        UsageError: none of the methods explains a class, or an option of a method drawn by itself was given.
    """
    for option, is_on in of_one.items():
        if is_on:
            raise UsageError(
                f"--{option} is for a method drawn by itself, and a sheet of several methods would ignore it.\n"
                "Leave it out, or give one --method."
            )
    from vitrine.attribution.methods import Method, function_name
    from vitrine.explain.method_sheet import SheetSettings

    plain = [
        Method(each, seed=seed) if isinstance(each, str) else Method(function_name(each), seed=seed, function=each)
        for each in methods
    ]
    for option, value, has_it in (
        ("target", target, any(each.for_a_class for each in plain)),
        ("against", against, any(each.entry.takes_contrast for each in plain)),
    ):
        if value is not None and not has_it:
            raise UsageError(f"None of these methods has the option --{option}: leave it out, or add one that has.")
    methods_with_contrast = tuple(
        with_fields(each, against=against) if each.entry.takes_contrast else each for each in plain
    )
    return SheetSettings(methods_with_contrast, target, seed=seed, **look)


def _draw_sheets(
    model: ModelLike,
    images: Any,
    normalised: bool,
    out: Path | None,
    settings: SheetSettings,
    opening: dict[str, Any],
    work: dict[str, Any],
    *,
    quiet: bool,
    csv_safe: bool,
) -> MethodSheets:
    """Open the model and the pictures, and draw sheets of several methods.

    ``opening`` and ``work`` are arguments of :func:`vitrine.explain.method_sheet.explain_by_methods`.
    """
    from vitrine.api.load import classifier_and_pictures, in_eval_mode
    from vitrine.explain.method_sheet import explain_by_methods

    with quiet_messages(quiet), csv_cells(csv_safe):
        classifier, inputs = classifier_and_pictures(model, images, normalised, *opening.values())
        with reading_progress("Explaining") as progress, in_eval_mode(classifier):
            result = explain_by_methods(classifier, inputs, out, settings, **opening, **work, progress=progress)
        say_notes(result.notes)
        say_unreadable(result.unreadable)
        return result


def _require_figures(out: PathLike | None, kind: str, replace: bool, csv_safe: bool) -> None:
    """Refuse a kind of figure that there is not, and options of figures where none is written.

    Raises:
        UsageError: it names the option.
    """
    if kind not in ("png", "svg"):
        raise UsageError(f"--format {kind} cannot be used: expected png or svg.")
    require_out(out, format=kind != "png", replace=replace, csv_safe=csv_safe)


def _explain_settings(method: Method, target: str | None, **fields: Any) -> ExplainSettings:
    """What is made of each picture; imported when it is needed."""
    from vitrine.explain.run import ExplainSettings

    return ExplainSettings(method, target, **fields)


def _require_known(method: str | MapFunction | Sequence[str | MapFunction], bulk: BulkSettings | None) -> None:
    """Refuse a person's own function where other processes, or machines, would have to have it.

    Raises:
        UsageError: the engine is ray.
    """
    if bulk is not None and not isinstance(method, str):
        raise UsageError("--engine ray runs vitrine's own methods and those of libraries; leave it out for your own.")


def _method(
    method: str | MapFunction | Sequence[str | MapFunction],
    layer: int,
    heads: str | int,
    query: str | tuple[int, int],
    window: int,
    against: str | int | None,
    seed: int,
) -> Method:
    """The method that is drawn; it refuses options that it does not have."""
    from vitrine.attribution.methods import Method, function_name

    function: Any = None if isinstance(method, str) else method
    name = method if isinstance(method, str) else function_name(function)
    return Method(name, layer, "mean" if heads == "each" else heads, query, window, against, seed, function)


def score(
    model: ModelLike,
    data: Any,
    out: PathLike | None = None,
    *,
    method: str | MapFunction | Sequence[str | MapFunction] = (),
    layers: bool = False,
    split: str | None = None,
    masks: PathLike | None = None,
    category: str | None = None,
    limit: int | None = None,
    curves: int = 100,
    seed: int = 0,
    batch_size: int = 16,
    precision: str = "auto",
    arch: str | None = None,
    names: PathLike | None = None,
    encoding: str | None = None,
    csv_safe: bool = False,
    quiet: bool = False,
) -> MethodScores:
    """Score and rank attribution methods, and controls, on some data: what ``vitrine explain --score DATA`` does.

    Args:
        model: a model reference, what :func:`vitrine.load` opened, or a module in memory.
        data: as :func:`vitrine.check` takes them, or a folder of pictures, or pictures in memory as
            :func:`vitrine.predict` takes them; labels are not needed, and of pictures in memory not looked at.
        out: a folder for methods.csv, scores.json and a figure; None writes nothing.
        method: one method or several, as :func:`explain` takes them; none, or ``all``, is all of vitrine's own.
        layers: also every other layer's attention.
        split: train, validation or test; None is test where there is one.
        masks: a folder of masks, or COCO instances; None is ``masks/`` beside the data.
        category: of COCO instances: the category whose instances are inside.
        limit: pictures at most, drawn with ``seed``; None is 100.
        curves: pictures whose insertion and deletion are measured.
        seed: of the choice of pictures and the random control.
        batch_size: pictures at a time.
        precision: fp32, bf16, or auto: bf16 where the hardware has it and the model is wide enough.
        arch: the timm name of the model, where ``model`` is a weights file.
        names: a file with names for classes that are bare numbers.
        encoding: of a table in the data, where it is neither UTF-8 nor UTF-16.
        csv_safe: write an apostrophe before cells that a spreadsheet would compute.
        quiet: show no progress and say nothing.

    Raises:
        DataError, ModelError: the input cannot be used.

    Examples:
        >>> methods = ["attention", "rollout"]
        >>> scores = vitrine.score("runs/first", "photos", method=methods, limit=4, curves=2, quiet=True)
        >>> sorted(scores.verdicts)
        ['attention', 'rollout']
    """
    from contextlib import nullcontext

    from vitrine.api.load import in_eval_mode, open_once
    from vitrine.attribution.methods import function_name
    from vitrine.classify.model import open_classifier
    from vitrine.explain.score import ScoreSettings, score_methods, write_scores
    from vitrine.io.output_lock import lock_folder

    require_counts(batch_size=batch_size, limit=limit)
    methods = (method,) if isinstance(method, str) or callable(method) else tuple(method)
    methods = tuple(each for one in methods for each in (METHODS if one == ALL_METHODS else (one,)))
    functions = {function_name(each): each for each in methods if not isinstance(each, str)}
    method_names = [each if isinstance(each, str) else function_name(each) for each in methods]
    plan = ScoreSettings(
        tuple(dict.fromkeys(method_names)) or ScoreSettings().methods,
        layers,
        split,
        optional_path(masks),
        category,
        limit or 100,
        curves,
        batch_size,
        seed,
        functions,
    )
    folder, opened_model = optional_path(out), open_once(model)
    pictures = data_or_pictures(data, encoding)
    with (
        quiet_messages(quiet),
        csv_cells(csv_safe),
        nullcontext() if folder is None else lock_folder(folder, "explain"),
    ):
        classifier = open_classifier(opened_model, precision, arch, names=optional_path(names))  # type: ignore[arg-type]
        say_notes(classifier.notes)
        with in_eval_mode(classifier), reading_progress("Scoring") as progress:
            result = score_methods(classifier, classifier.reference, pictures, plan, progress)
        if folder is not None:
            opening = {"--arch": arch, "--names": names}
            words = [word for flag, value in opening.items() if value is not None for word in (flag, str(value))]
            has_command = isinstance(pictures, str) and not classifier.is_in_memory
            write_scores(result, folder, words if has_command else None)
        return result


def positions(
    model: ModelLike,
    out: PathLike | None = None,
    *,
    cell: tuple[int, int] | None = None,
    before: ModelLike | None = None,
    arch: str | None = None,
    quiet: bool = False,
) -> PositionsResult:
    """Measure how alike the position embeddings are, and whether position was learned; draw it.

    Args:
        model: a model reference, what :func:`vitrine.load` opened, or a module in memory.
        out: the figure to write, .png or .svg; None writes nothing.
        cell: row and column, from 0 or from the end with -1, of one patch that is drawn large.
        before: another model to compare with: both on one scale, and the difference.
        arch: the timm name of the model, where ``model`` or ``before`` is a weights file.
        quiet: say nothing.

    Raises:
        ModelError: a model has no such embeddings, the cell lies outside of the grid, or two models differ in it.

    Examples:
        >>> result = vitrine.positions("vitrine/scenes-tiny", "positions.png")
        >>> result.out.name, result.sentence != ""
        ('positions.png', True)
    """
    from vitrine.api.load import loaded_once
    from vitrine.explain.positions import positions as run_positions

    with quiet_messages(quiet):
        earlier = None if before is None else loaded_once(before)
        result = run_positions(loaded_once(model), optional_path(out), cell=cell, before=earlier, architecture=arch)
        say_notes(result.weights)
        return result
