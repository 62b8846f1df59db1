"""The function predict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vitrine.api.options import (
    PathLike,
    bulk_settings,
    csv_cells,
    optional_path,
    path_for_ray,
    require_counts,
    require_out,
    text_for_ray,
)
from vitrine.api.progress import reading_progress, say_bulk_result, say_notes, say_unreadable
from vitrine.messages import quiet_messages, say
from vitrine.results import count_of

if TYPE_CHECKING:
    from vitrine.api.load import ModelLike
    from vitrine.bulk.run import BulkResult
    from vitrine.classify.predict import PredictionResult


def predict(
    model: ModelLike,
    images: Any,
    out: PathLike | None = None,
    *,
    probabilities: bool = False,
    top: int = 0,
    threshold: float | None = None,
    batch_size: int = 64,
    precision: str = "auto",
    resume: bool = False,
    arch: str | None = None,
    names: PathLike | None = None,
    engine: str = "local",
    ray_address: str | None = None,
    workers: int | None = None,
    part_size: int | None = None,
    csv_safe: bool = False,
    normalised: bool = False,
    quiet: bool = False,
) -> PredictionResult | BulkResult:
    """Label pictures, into a table or in memory.

    Args:
        model: a model reference, what :func:`vitrine.load` opened, or a module in memory.
        images: a folder, a picture, or several: paths, bytes, PIL images, NumPy arrays (H, W, 3), torch tensors
            (C, H, W), a list or generator of these, a ``datasets`` split or a DataLoader. With ``engine="ray"`` a
            folder, shards or Parquet files.
        out: the table to write, ``filename,label``; None keeps the predictions in memory, as the result's
            ``predictions``. A generator is read as it comes: with a table, in constant memory.
        probabilities: of a table: add the predicted label's probability.
        top: of a table: add the K most likely labels with their probabilities.
        threshold: of a multi-label model, the probability above which a label is given; None is 0.5.
        batch_size: pictures at a time.
        precision: fp32, bf16, or auto: bf16 where the hardware has it and the model is wide enough.
        resume: continue a table that was interrupted.
        arch: the timm name of the model, where ``model`` is a weights file.
        names: a file with names for classes that are bare numbers.
        engine: local, or ray: several processes, on this machine or a cluster, part by part.
        ray_address: of the engine ray: a cluster; None is this machine.
        workers: of the engine ray: processes with a model each.
        part_size: of the engine ray: pictures that are finished, or lost in an interruption, together.
        csv_safe: write an apostrophe before cells that a spreadsheet would compute.
        normalised: pictures are tensors that the model takes as they are.
        quiet: show no progress and say nothing.

    Returns:
        The predictions, or what a table of them holds; of the engine ray, what the job made.

    Raises:
        DataError: no pictures, or a partial table of other pictures.
        ModelError: the model cannot be used.
        UsageError: options that do not go together.

    Examples:
        >>> from PIL import Image
        >>> result = vitrine.predict("vitrine/scenes-tiny", [Image.open("cat.jpg")], quiet=True)
        >>> [prediction.label in prediction.probabilities for prediction in result.predictions]
        [True]
        >>> vitrine.predict("runs/first", "photos/test", "predictions.csv", quiet=True).table.rows
        200
    """
    require_counts(batch_size=batch_size, workers=workers, part_size=part_size)
    require_out(out, probabilities=probabilities, top=bool(top), resume=resume, csv_safe=csv_safe)
    settings = bulk_settings(engine, ray_address, workers, part_size, resume)
    with quiet_messages(quiet), csv_cells(csv_safe), reading_progress("Predicting") as progress:
        if settings is not None:
            from vitrine.bulk.jobs import PredictJob
            from vitrine.bulk.run import predict_in_bulk

            name_file = None if names is None else str(optional_path(names))
            job = PredictJob(text_for_ray(model), arch, precision, batch_size, probabilities, top, threshold, name_file)
            table = path_for_ray(out, "out")
            outcome = predict_in_bulk(job, path_for_ray(images, "images"), table, settings, progress)
            say_bulk_result(outcome, "predictions")
            return outcome
        from vitrine.api.load import classifier_and_pictures, in_eval_mode
        from vitrine.classify.predict import predict as run_prediction

        classifier, pictures = classifier_and_pictures(model, images, normalised, precision, arch, names)
        with in_eval_mode(classifier):
            result = run_prediction(
                classifier,
                pictures,
                optional_path(out),
                probabilities=probabilities,
                top=top,
                threshold=threshold,
                batch_size=batch_size,
                precision=precision,
                resume=resume,
                architecture=arch,
                names=optional_path(names),
                progress=progress,
            )
        _say_result(result)
        return result


def _say_result(result: PredictionResult) -> None:
    """What has to be known of the model, where a table is and how long, and what could not be read."""
    say_notes(result.notes)
    if result.table is None:
        say_unreadable(result.unreadable)
        return
    rows, path, aside = result.table.rows, result.table.path, result.table.unreadable_path
    what = f"{count_of(rows, 'row')}, one a label," if result.is_multi_label else count_of(rows, "prediction")
    say(f"{what} in {path} ({result.precision}).")
    say_unreadable(result.unreadable, len(result.unreadable), aside)
