"""The verbs compare, verify and sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vitrine.cli import show
from vitrine.cli.options import BatchOption, CsvSafeOption, EncodingOption, JsonOption
from vitrine.errors import UsageError

_FORMATS = ("text", "markdown", "csv", "latex")


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="Run folders, patterns such as 'runs/*', or a folder that holds runs."),
    ],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="DIR", help="Write the tables, the tests and two figures."),
    ] = None,
    layout: Annotated[
        str, typer.Option("--format", metavar="text|markdown|csv|latex", help="What is printed.")
    ] = "text",
    pictures: Annotated[
        bool, typer.Option("--pictures", help="Of two runs: the pictures on which they disagree; with -o, their maps.")
    ] = False,
    csv_safe: CsvSafeOption = False,  # noqa: ARG001  its callback acts
    as_json: JsonOption = False,
) -> None:
    """Put runs side by side: what was set, what came out, and an exact test of each pair on the same pictures."""
    from vitrine.api.runs import compare as run

    if layout not in _FORMATS:
        raise UsageError(f"--format {layout} cannot be used: expected {', '.join(_FORMATS)}.")
    result = run(runs, out=out, pictures=pictures)
    if as_json:
        show.json(result)
    elif layout == "csv":
        show.answer(result.csv().decode("utf-8", "backslashreplace"), end="")
    else:
        texts = {"text": result.text, "markdown": result.markdown, "latex": result.latex}
        show.answer(texts[layout]().rstrip("\n"))
    if as_json or layout != "text":
        for path in result.paths:
            show.say(f"written: {path}")


def verify(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    data: Annotated[
        str | None,
        typer.Argument(metavar="[DATA]", help="Where its pictures are; default: where they were in training."),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the labels or captions that may differ.")
    ] = 0.005,
    batch_size: BatchOption = 64,
    precision: Annotated[
        str | None,
        typer.Option(metavar="fp32|bf16", help="To compute in; default: the recorded one."),
    ] = None,
    encoding: EncodingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Hold a run against its own record: hashes of weights and data, and its labels or captions made again, row by row.

    Exits 1 where something differs.
    """
    from vitrine.api.runs import verify as run_verify

    result = run_verify(run, data, tolerance=tolerance, batch_size=batch_size, precision=precision, encoding=encoding)
    show.result(result, result.text, as_json)
    if not result.same:
        raise typer.Exit(1)


def sweep(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="SWEEP.toml",
            help="Data, recipe and seeds; a table set for all runs; and what varies: a grid, a list or random draws.",
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="The folder of the run folders.")],
    jobs: Annotated[
        int, typer.Option(min=1, help="Trainings at a time; each has a GPU of its own where there are as many.")
    ] = 1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list the runs, how far they are, and about how long they take.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train every setting with every seed, and compare them. The same command continues what was interrupted.

    Finished runs are skipped. A run that fails is recorded and does not stop the rest; then it exits 1.
    """
    from vitrine.api.train import sweep as run

    if dry_run:
        schedule = run(file, out, jobs=jobs, dry_run=True)
        show.result(schedule, schedule.text, as_json)
        return
    with show.how_to_continue():
        result = run(file, out, jobs=jobs)
    show.result(result, result.text, as_json)
    if result.failures:
        raise typer.Exit(1)
