"""The verb report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vitrine.cli import show
from vitrine.cli.options import EncodingOption, JsonOption


def report(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="Run folders, patterns such as 'runs/*', or a folder that holds runs; folders of captions and figures "
            "of answers (vitrine caption, vitrine ask), and folders of vitrine evaluate --grounding.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="PAGE", help="The page to write, for example report.html.")
    ],
    pictures: Annotated[
        list[str] | None,
        typer.Option(
            "--pictures",
            metavar="FILE...",
            help="Pictures whose maps and captions are shown; default: validation pictures on which the final run was "
            "surest and right, surest and wrong, and least sure.",
        ),
    ] = None,
    final: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="The final result; default: the best on the validation pictures."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Where the classifiers' pictures are; default: where they were in training."),
    ] = None,
    encoding: EncodingOption = None,
    score: Annotated[
        int,
        typer.Option(min=0, help="Score methods on so many pictures; default: what lies in RUN/methods."),
    ] = 0,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Also the same as Markdown with PNG files, for a repository.")
    ] = False,
    title: Annotated[str, typer.Option(help="Of the report.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="Of the checks on maps.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Write one self-contained page on runs and answers: results, tests, curves, classes, maps, captions, and doubts.

    The final result's measurement on test pictures is shown where it lies in RUN/test (vitrine evaluate RUN DATA
    --split test -o RUN/test), scored methods where they lie in RUN/methods (vitrine explain RUN --score DATA -o
    RUN/methods). Captions and answers are shown with a map for every word, as their figures have them.
    """
    from vitrine.api.runs import report as run
    from vitrine.caption.figures.figure_file import is_caption_figure

    # "--pictures a.jpg b.jpg": what follows the first is read as runs, and no run is a file.
    files = [each for each in runs if pictures and Path(each).is_file() and not is_caption_figure(Path(each))]
    result = run(
        [each for each in runs if each not in files],
        out,
        pictures=[*(pictures or []), *files],
        final=final,
        data=data,
        encoding=encoding,
        score=score,
        markdown=markdown,
        title=title,
        seed=seed,
    )
    if as_json:
        show.json(result)
    else:
        show.answer("\n".join(f"written: {path}" for path in result.paths[:2]))
