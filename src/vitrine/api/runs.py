"""The functions on finished runs: compare, verify, report and export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vitrine.api.options import PathLike, as_path, csv_cells, optional_path, optional_reference
from vitrine.api.progress import named_progress, reading_progress
from vitrine.messages import quiet_messages

if TYPE_CHECKING:
    from vitrine.compare.run import ComparisonResult
    from vitrine.export.run import ExportResult
    from vitrine.report.run import Report
    from vitrine.verify.checks import VerificationResult

Runs = PathLike | Sequence[PathLike]
"""Run folders, patterns such as ``runs/*``, or a folder that holds runs; one, or several in a list."""


def compare(
    runs: Runs,
    *,
    out: PathLike | None = None,
    pictures: bool = False,
    csv_safe: bool = False,
    quiet: bool = False,
) -> ComparisonResult:
    """Put runs side by side: what was set, what came out, and an exact test of each pair on the same pictures.

    Args:
        runs: run folders, patterns such as ``runs/*``, or a folder that holds runs.
        out: a folder for the tables, the tests and two figures; None writes nothing.
        pictures: of two runs: the pictures on which they disagree; with ``out``, their maps.
        csv_safe: write an apostrophe before cells that a spreadsheet would compute.
        quiet: show no progress and say nothing.

    Raises:
        RunError: no finished run, or one whose files do not fit one another.

    Examples:
        >>> result = vitrine.compare(["runs/first", "runs/second"])
        >>> print(result.text().splitlines()[0].split()[0])
        run
    """
    from vitrine.compare.run import compare as run_compare

    with quiet_messages(quiet), csv_cells(csv_safe):
        return run_compare(_texts(runs), out=optional_path(out), pictures=pictures)


def verify(
    run: PathLike,
    data: PathLike | None = None,
    *,
    tolerance: float = 0.005,
    batch_size: int = 64,
    precision: str | None = None,
    encoding: str | None = None,
    quiet: bool = False,
) -> VerificationResult:
    """Hold a run against its own record: hashes of weights and data, and its labels or captions made again.

    Args:
        run: the folder of a finished run.
        data: where its pictures are; None takes where they were in training.
        tolerance: share of the labels or captions that may differ, 0 to 1.
        batch_size: pictures at a time.
        precision: fp32 or bf16, to compute in; None is the recorded one.
        encoding: of a table in ``data``, where it is neither UTF-8 nor UTF-16.
        quiet: show no progress and say nothing.

    Returns:
        The checks; ``same`` says whether everything is.

    Raises:
        RunError: not a finished run, or its files do not fit one another.
        DataError: the data cannot be opened.
        UsageError: the tolerance or the precision cannot be used.

    Examples:
        >>> vitrine.verify("runs/first", quiet=True).same
        True
    """
    from vitrine.verify.run import verify as run_verify

    with (
        quiet_messages(quiet),
        reading_progress("Hashing pictures") as reading,
        reading_progress("Evaluating") as progress,
    ):
        return run_verify(
            as_path(run),
            optional_reference(data, encoding),
            tolerance=tolerance,
            batch_size=batch_size,
            precision=precision,
            reading=reading,
            progress=progress,
        )


def report(
    runs: Runs,
    out: PathLike,
    *,
    pictures: Sequence[PathLike] = (),
    final: str | None = None,
    data: PathLike | None = None,
    encoding: str | None = None,
    score: int = 0,
    markdown: bool = False,
    title: str = "",
    seed: int = 0,
    quiet: bool = False,
) -> Report:
    """Write one self-contained page on runs and answers: results with their tests, curves, classes, maps, captions, and
    doubts.

    Args:
        runs: run folders, patterns such as ``runs/*``, or a folder that holds runs; folders of captions, figures of
            answers, and folders that ``evaluate(grounding=True)`` wrote, which need no run beside them.
        out: the page to write, for example ``report.html``.
        pictures: files whose maps and captions are shown; none chooses validation pictures on which the final run was
            surest and right, surest and wrong, and least sure.
        final: the run that is the final result; None is the best on the validation pictures.
        data: where the classifiers' pictures are; None takes where they were in training.
        encoding: of a table in ``data``, where it is neither UTF-8 nor UTF-16.
        score: score methods on so many pictures; 0 takes what lies in RUN/methods.
        markdown: also write the same as Markdown with PNG files.
        title: of the report; empty makes one.
        seed: of the checks on maps.
        quiet: show no progress and say nothing.

    Raises:
        RunError: no finished run, or one whose files do not fit one another.
        UsageError: ``out`` is no page, the final run is not among the runs, or an option is of runs and there is none.
        DataError: a figure of an answer cannot be read.

    Examples:
        >>> page = vitrine.report("runs/first", "report.html", pictures=["cat.jpg"], quiet=True)
        >>> page.paths[0].name
        'report.html'
    """
    from vitrine.report.run import ReportSettings, write_report

    settings = ReportSettings(
        pictures=tuple(as_path(each) for each in pictures),
        final=final,
        data=optional_reference(data, encoding),
        score=score,
        markdown=markdown,
        title=title,
        seed=seed,
    )
    with quiet_messages(quiet), named_progress() as progress:
        return write_report(_texts(runs), as_path(out), settings, progress=progress)


def export(run: PathLike, to: str, out: PathLike, *, precision: str = "fp32", quiet: bool = False) -> ExportResult:
    """Write a run for other tools, with a model card; it is read back and compared with the run.

    Args:
        run: the folder of a finished run of a classifier.
        to: hf (transformers), timm, onnx or pt2 (torch.export's archive).
        out: the folder to write; new or empty.
        precision: fp32 or bf16, of the stored weights.
        quiet: show no progress and say nothing.

    Returns:
        The comparison. Where ``same`` is false, nothing was written.

    Raises:
        RunError: not a finished run.
        UsageError: no such target or precision, or ``out`` is in use.
        ModelError: the target cannot hold the model, or its packages are missing.

    Examples:
        >>> vitrine.export("runs/first", "timm", "exports/timm").same
        True
    """
    from vitrine.export.run import export as run_export

    with quiet_messages(quiet):
        return run_export(as_path(run), to, as_path(out), precision=precision)


def _texts(runs: Runs) -> list[str]:
    several = [runs] if isinstance(runs, str | Path) or hasattr(runs, "__fspath__") else runs
    return [each if isinstance(each, str) else str(as_path(each)) for each in several]
