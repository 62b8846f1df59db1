"""The command line application: every verb, and the options before it. demo, check, train and evaluate are here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from vitrine.cli import DEBUG, show
from vitrine.cli.cache import CacheOption, OfflineOption, Verbs, cache
from vitrine.cli.caption import ask, caption
from vitrine.cli.compare import compare, sweep, verify
from vitrine.cli.explain import explain, inspect, positions
from vitrine.cli.export import export, shards
from vitrine.cli.features import features
from vitrine.cli.options import (
    AnyModelPrecisionOption,
    ArchOption,
    CaptionsOption,
    CsvSafeOption,
    DataArgument,
    DeviceOption,
    EncodingOption,
    JsonOption,
    ModelArgument,
    NamesOption,
    SeveralSettings,
    VocabOption,
)
from vitrine.cli.predict import knn, predict
from vitrine.cli.report import report
from vitrine.cli.serve import serve
from vitrine.version import __version__

app = typer.Typer(
    name="vitrine",
    cls=Verbs,
    help="Fine-tune vision transformers on your own pictures and see what they look at.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its columns cut the names of long options in a terminal of 80
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"vitrine {__version__}")
        raise typer.Exit


def _set_debug(debug: bool) -> None:
    if debug:
        os.environ[DEBUG] = "1"


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    cache: CacheOption = None,
    offline: OfflineOption = False,
    debug: Annotated[
        bool,
        typer.Option("--debug", callback=_set_debug, is_eager=True, help="Print the traceback of an unexpected error."),
    ] = False,
) -> None:
    """Shared options."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Where everything is written.")] = Path(
        "demo"
    ),
    seed: Annotated[int, typer.Option(min=0, help="Of the pictures and the trainings.")] = 0,
) -> None:
    """Generate pictures, fine-tune, evaluate and predict: offline, in a few minutes."""
    from vitrine.api.progress import demo_progress
    from vitrine.demo import run_demo

    with demo_progress() as report:
        result = run_demo(out, seed=seed, report=report)
    show.answer(result.text())


@app.command()
def check(
    data: DataArgument,
    as_json: JsonOption = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the split that is made where the data have none.")] = 0,
    captions: CaptionsOption = None,
    encoding: EncodingOption = None,
) -> None:
    """Say what is in this data, and what is wrong with it. Exits 1 where something is."""
    from vitrine.api.data import check as run
    from vitrine.check import render

    report = run(data, seed=seed, captions=captions, encoding=encoding)
    show.result(report, lambda: render(report), as_json)
    if report.serious:
        raise typer.Exit(1)


def _show_recipe(name: str | None) -> None:
    if name is None:
        return
    from vitrine.config import available_recipes, load_recipe, recipe_to_toml

    if name == "list":
        for recipe in available_recipes():
            show.answer(f"{recipe:22} {' '.join(load_recipe(recipe).description.split())}")
    else:
        show.answer(recipe_to_toml(load_recipe(name)), end="")
    raise typer.Exit


@app.command(cls=SeveralSettings)
def train(
    data: DataArgument,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", metavar="RUN", help="The run folder to write; default: runs/ and the name of DATA."
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A recipe's name or the path of a .toml file; default: finetune, or with --resume the run's own. "
            "--show-recipe list names all.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE...", help="Change recipe fields: one or several, and it may be repeated."
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a training that was stopped.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Say what would be trained and what it would take, after a few steps in memory."
        ),
    ] = False,
    encoding: EncodingOption = None,
    names: NamesOption = None,
    as_json: JsonOption = False,
    show_recipe: Annotated[  # noqa: ARG001  the callback acts
        str | None,
        typer.Option(
            metavar="NAME",
            callback=_show_recipe,
            is_eager=True,
            help="Print a recipe as TOML, or all names with: list.",
        ),
    ] = None,
) -> None:
    """Fine-tune a vision transformer on labelled pictures, into a run folder."""
    from vitrine.api.options import data_reference
    from vitrine.api.progress import is_first_process
    from vitrine.api.train import train as run
    from vitrine.train.run import default_run_folder

    how: dict[str, Any] = {"recipe": recipe, "settings": settings or (), "encoding": encoding, "names": names}
    if dry_run:
        plan = run(data, out, resume=resume, dry_run=True, **how)
        if is_first_process():
            show.result(plan, plan.text, as_json)
        return
    recipe_file = (out or default_run_folder(data)) / "recipe.toml"
    with show.how_to_continue("--resume", recipe_file.is_file):
        result = run(data, out, resume=resume, **how)
    if is_first_process():
        show.result(result, lambda: show.training_summary(result, data_reference(data, encoding)), as_json)


@app.command()
def evaluate(
    model: ModelArgument,
    data: DataArgument,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="DIR",
            help="Write metrics.json, predictions.csv, confusion.csv, confusion.png (of a multi-label model "
            "labels.csv, labels.png); of a captioner metrics.json, captions.csv, grounding.png, layers.json.",
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="train, validation or test; the default is test where there is one, else validation."),
    ] = None,
    expect: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="The accuracy that is expected, of a multi-label model the mean average precision; exits 1 when it is "
            "missed.",
        ),
    ] = None,
    tolerance: Annotated[float, typer.Option(min=0, max=1, help="How far from --expect is still right.")] = 0.005,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Pictures at a time; default: 64, of a captioner 16."),
    ] = None,
    precision: AnyModelPrecisionOption = "auto",
    device: DeviceOption = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="fp32|bf16", help="Evaluate in this precision too, and count the labels that move."),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Of a multi-label model: the probability above which a label is given; default: 0.5."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Of the split that is made where the data have none; by default the run's own."),
    ] = None,
    beams: Annotated[
        int | None,
        typer.Option(min=1, help="Of a captioner's beam search; default: 1, which is greedy."),
    ] = None,
    java: Annotated[
        bool, typer.Option("--java", help="Of a captioner: METEOR and SPICE too, which need Java.")
    ] = False,
    grounding: Annotated[
        bool,
        typer.Option(
            "--grounding",
            help="Of a captioner or vision-language model: score the maps of every layer on human captions, and write "
            "layers.json, which vitrine caption --layer reads.",
        ),
    ] = False,
    readings: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME",
            help="Of --grounding: the ways of reading maps that are scored, of attention, relative, gradient and "
            "occlusion; default: all that the model has but occlusion, which runs it once a cell.",
        ),
    ] = None,
    vocab: VocabOption = None,
    arch: ArchOption = None,
    encoding: EncodingOption = None,
    names: NamesOption = None,
    csv_safe: CsvSafeOption = False,  # noqa: ARG001  its callback acts
    as_json: JsonOption = False,
) -> None:
    """Measure a classifier: accuracy with its interval, per class, calibration, mistakes.

    Of a multi-label model: mean average precision with its interval, and F1 by label.
    Of a captioner: BLEU, ROUGE-L and CIDEr beside one caption for every picture, and whether words look at what they
    name.
    """
    from vitrine.api.measure import evaluate as run

    result = run(
        model,
        data,
        out=out,
        split=split,
        expect=expect,
        tolerance=tolerance,
        batch_size=batch_size,
        precision=precision,
        device=device,
        against=against,
        threshold=threshold,
        seed=seed,
        beams=beams,
        java=java,
        vocab=vocab,
        arch=arch,
        encoding=encoding,
        names=names,
        grounding=grounding,
        readings=readings,
    )
    show.result(result, result.table, as_json)
    if result.missed_expectation:
        raise typer.Exit(1)


app.command()(predict)
app.command()(explain)
app.command()(positions)
app.command()(features)
app.command()(caption)
app.command()(ask)
app.command()(inspect)
app.command()(sweep)
app.command()(compare)
app.command()(verify)
app.command()(report)
app.command()(serve)
app.command()(export)
app.command()(knn)
app.command()(shards)
app.command()(cache)
