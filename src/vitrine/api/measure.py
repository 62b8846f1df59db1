"""The functions that measure a model on labelled data: evaluate and knn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vitrine.api.options import (
    PathLike,
    csv_cells,
    data_reference,
    labelled_data,
    optional_path,
    require_counts,
    require_reference,
)
from vitrine.api.progress import reading_progress, say_notes
from vitrine.errors import UsageError
from vitrine.messages import quiet_messages

if TYPE_CHECKING:
    from vitrine.api.load import ModelLike
    from vitrine.classify.evaluate import EvaluationResult
    from vitrine.classify.knn import KnnResult


def evaluate(
    model: ModelLike,
    data: Any,
    *,
    out: PathLike | None = None,
    split: str | None = None,
    expect: float | None = None,
    tolerance: float = 0.005,
    batch_size: int | None = None,
    precision: str = "auto",
    device: str | None = None,
    against: str | None = None,
    threshold: float | None = None,
    seed: int | None = None,
    beams: int | None = None,
    java: bool = False,
    grounding: bool = False,
    readings: str | Sequence[str] | None = None,
    vocab: PathLike | None = None,
    arch: str | None = None,
    encoding: str | None = None,
    names: PathLike | None = None,
    csv_safe: bool = False,
    normalised: bool = False,
    quiet: bool = False,
) -> EvaluationResult:
    """Measure a classifier or a captioner on one split of some data.

    Args:
        model: a model reference, what :func:`vitrine.load` opened, or a module in memory.
        data: as :func:`vitrine.check` takes them; of a classifier also pictures in memory with their labels (names, or
            numbers from 0): a list of (picture, label), a ``datasets`` split, a DataLoader, or a dictionary of these by
            split. All of them stay in memory meanwhile.
        out: a folder for metrics.json, predictions.csv and figures; None writes nothing.
        split: train, validation or test; None is test where there is one, else validation.
        expect: the accuracy that is expected (of a multi-label model the mean average precision), 0 to 1: the result's
            ``missed_expectation`` says whether it was missed.
        tolerance: how far from ``expect`` is still right.
        batch_size: pictures at a time; None is 64, of a captioner 16.
        precision: fp32, bf16, or auto: bf16 where the hardware has it and the model is wide enough; of a captioner
            auto is fp32, or its own where it is open. Of a vision-language model 4bit, too: linear layers in 4 bits, by
            bitsandbytes.
        device: cpu, cuda, cuda:1 or mps, where a reference is opened; None takes a GPU where there is one. auto spreads
            a vision-language model over all GPUs, and puts the rest into memory and on the disk.
        against: fp32 or bf16: evaluate in this precision too, and count the labels that move.
        threshold: of a multi-label model, the probability above which a label is given; None is 0.5.
        seed: of the split that is made where the data have none; None is the run's own.
        beams: of a captioner's beam search; None is 1, which is greedy.
        java: of a captioner: METEOR and SPICE too, which need Java.
        grounding: of a captioner or vision-language model: score the maps of every layer on human captions, and write
            layers.json, which ``layer`` of :func:`vitrine.caption` reads.
        readings: of ``grounding``: the ways of reading maps that are scored, as a list or with commas: attention,
            relative, gradient, occlusion; None is all that the model has but occlusion, which runs it once a cell.
        vocab: of the published captioner, its vocab.txt.
        arch: the timm name of the model, where ``model`` is a weights file.
        encoding: of a table in the data, where it is neither UTF-8 nor UTF-16.
        names: a file with names for classes that are bare numbers.
        csv_safe: write an apostrophe before cells that a spreadsheet would compute.
        normalised: pictures in memory are tensors that the model takes as they are.
        quiet: show no progress and say nothing.

    Raises:
        DataError, ModelError: the input cannot be used.
        UsageError: options that do not go together.

    Examples:
        >>> result = vitrine.evaluate("runs/first", "photos", split="validation", quiet=True)
        >>> result.metrics.n
        24
        >>> vitrine.evaluate("runs/first", [("cat.jpg", result.metrics.classes[0].label)], quiet=True).metrics.n
        1
    """
    from vitrine.api.load import in_eval_mode, open_once
    from vitrine.caption.evaluate import evaluate_captioner
    from vitrine.caption.model import Captioner
    from vitrine.classify.evaluate import evaluate as run_evaluation
    from vitrine.models.kind import is_captioner
    from vitrine.models.precision import on_device

    require_counts(batch_size=batch_size)
    require_reference(device, model)
    if readings is not None and not grounding:
        raise UsageError("--readings goes with --grounding, which scores them.")
    reference, opened_model = labelled_data(data, encoding, normalised), open_once(model)
    if isinstance(opened_model, str):
        captioner = is_captioner(opened_model, arch)
    else:
        captioner = isinstance(opened_model, Captioner)
    if captioner:
        reference = data_reference(data, encoding)
    of_classifiers = {"expect": expect, "against": against, "threshold": threshold, "names": names}
    _refuse_options_of_the_other(
        captioner, **of_classifiers, beams=beams, java=java or None, vocab=vocab, grounding=grounding or None
    )
    with (
        quiet_messages(quiet),
        csv_cells(csv_safe),
        on_device(device),
        in_eval_mode(opened_model),
        reading_progress("Evaluating") as progress,
    ):
        result: EvaluationResult = (
            evaluate_captioner(
                opened_model,  # type: ignore[arg-type]
                reference,  # type: ignore[arg-type]
                out=optional_path(out),
                split=split,
                beams=beams or 1,
                java=java,
                batch_size=batch_size or 16,
                precision=precision,
                seed=seed,
                architecture=arch,
                vocabulary=optional_path(vocab),
                by_layer=grounding,
                readings=[name.strip() for name in readings.split(",")] if isinstance(readings, str) else readings,
                progress=progress,
            )
            if captioner
            else run_evaluation(
                opened_model,  # type: ignore[arg-type]
                reference,
                out=optional_path(out),
                split=split,
                expect=expect,
                tolerance=tolerance,
                batch_size=batch_size or 64,
                precision=precision,
                against=against,
                threshold=threshold,
                seed=seed,
                architecture=arch,
                names=optional_path(names),
                progress=progress,
            )
        )
        say_notes(result.notes)
        return result


def _refuse_options_of_the_other(captioner: bool, **options: object) -> None:
    """A classifier has no beams, and nothing is expected of a captioner: say so rather than ignore it."""
    others = ("expect", "against", "threshold", "names") if captioner else ("beams", "java", "vocab", "grounding")
    for name in others:
        if options[name] is not None:
            kinds = ("a captioner", "classifiers") if captioner else ("a classifier", "captioners")
            raise UsageError(f"--{name} is for {kinds[1]}; this is {kinds[0]}. Leave it out.")


def knn(
    model: ModelLike,
    data: Any,
    *,
    k: int = 20,
    split: str | None = None,
    batch_size: int = 64,
    precision: str = "auto",
    seed: int | None = None,
    arch: str | None = None,
    encoding: str | None = None,
    normalised: bool = False,
    quiet: bool = False,
) -> KnnResult:
    """Label pictures by their nearest training pictures in a model's frozen features: the one-minute baseline.

    Of a run: also in the features of the weights that it began with, beside what its own head was measured at.

    Args:
        model: a model reference (it need not have a head), what :func:`vitrine.load` opened, or a module in memory.
        data: as :func:`vitrine.check` takes them, with training pictures; or a dictionary of splits, train and another,
            of pictures in memory with their labels, as :func:`evaluate` takes them.
        k: neighbours that vote.
        split: validation or test; None is validation where there is one, else test.
        batch_size: pictures at a time.
        precision: fp32, bf16, or auto: bf16 where the hardware has it and the model is wide enough.
        seed: of the split that is made where the data have none; None is the run's own.
        arch: the timm name of the model, where ``model`` is a weights file.
        encoding: of a table in the data, where it is neither UTF-8 nor UTF-16.
        normalised: pictures in memory are tensors that the model takes as they are.
        quiet: show no progress and say nothing.

    Raises:
        DataError, ModelError: the input cannot be used.
        UsageError: the split is that of the neighbours.

    Examples:
        >>> result = vitrine.knn("vitrine/scenes-tiny", "photos", k=5, quiet=True)
        >>> 0 <= result.rows[0].accuracy <= 1
        True
    """
    from vitrine.api.load import in_eval_mode, open_once
    from vitrine.classify.knn import knn as run_knn

    require_counts(batch_size=batch_size, k=k)
    opened_model = open_once(model, features=True)
    with quiet_messages(quiet), in_eval_mode(opened_model), reading_progress("Computing features") as progress:
        result = run_knn(
            opened_model,  # type: ignore[arg-type]
            labelled_data(data, encoding, normalised),
            split=split,
            k=k,
            batch_size=batch_size,
            precision=precision,
            seed=seed,
            architecture=arch,
            progress=progress,
        )
        say_notes(result.notes)
        return result
