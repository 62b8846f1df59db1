"""The command line application: every verb, and the options before it. demo, check, train and evaluate are here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from vitrine.cli import DEBUG, show
from vitrine.cli.cache import CacheOption, OfflineOption, Verbs, cache
from vitrine.cli.caption import caption
from vitrine.cli.compare import compare, sweep, verify
from vitrine.cli.explain import explain, inspect, positions
from vitrine.cli.export import export, shards
from vitrine.cli.options import (
    ArchOption,
    CaptionsOption,
    CsvSafeOption,
    DataArgument,
    EncodingOption,
    JsonOption,
    ModelArgument,
    NamesOption,
    PrecisionOption,
    VocabOption,
    data_reference,
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
    context_settings={"help_option_names": ["-h", "--help"]},
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
    from vitrine.demo import run_demo

    with show.demo_progress() as report:
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
    from vitrine.check import check as run_check
    from vitrine.check import render

    with show.reading_progress("Reading pictures") as progress:
        report = run_check(data_reference(data, encoding), seed=seed, captions=captions, progress=progress)
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


@app.command()
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
        typer.Option("--set", metavar="KEY=VALUE", help="Change a recipe field; may be repeated."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a training that was stopped.")] = False,
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
    from vitrine.config import DEFAULT_RECIPE, load_recipe, override
    from vitrine.train.run import default_run_folder, load_run_recipe
    from vitrine.train.run import train as run_training

    run = out or default_run_folder(data)
    base = load_run_recipe(run) if recipe is None and resume else load_recipe(recipe or DEFAULT_RECIPE)
    final_recipe = override(base, settings or [])
    with show.training_progress() as report:
        result = run_training(
            data_reference(data, encoding), final_recipe, run, resume=resume, names=names, report=report
        )
    if show.is_first_process():
        show.result(result, lambda: show.training_summary(result), as_json)


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
            "labels.csv, labels.png); of a captioner metrics.json, captions.csv, grounding.png.",
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
    precision: PrecisionOption = "auto",
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
    from vitrine.caption.evaluate import evaluate_captioner
    from vitrine.classify.evaluate import EvaluationResult
    from vitrine.classify.evaluate import evaluate as run_evaluation
    from vitrine.models.kind import is_captioner

    data = data_reference(data, encoding)
    captioner = is_captioner(model, arch)
    of_classifiers = {"expect": expect, "against": against, "threshold": threshold, "names": names}
    _refuse_options_of_the_other(captioner, **of_classifiers, beams=beams, java=java or None, vocab=vocab)
    with show.reading_progress("Evaluating") as progress:
        result: EvaluationResult = (
            evaluate_captioner(
                model,
                data,
                out=out,
                split=split,
                beams=beams or 1,
                java=java,
                batch_size=batch_size or 16,
                precision="fp32" if precision == "auto" else precision,
                seed=seed,
                architecture=arch,
                vocabulary=vocab,
                progress=progress,
            )
            if captioner
            else run_evaluation(
                model,
                data,
                out=out,
                split=split,
                expect=expect,
                tolerance=tolerance,
                batch_size=batch_size or 64,
                precision=precision,
                against=against,
                threshold=threshold,
                seed=seed,
                architecture=arch,
                names=names,
                progress=progress,
            )
        )
    show.notes(result.notes)
    show.result(result, result.table, as_json)
    if result.missed_expectation:
        raise typer.Exit(1)


def _refuse_options_of_the_other(captioner: bool, **options: object) -> None:
    """A classifier has no beams, and nothing is expected of a captioner: say so rather than ignore it."""
    from vitrine.errors import UsageError

    others = ("expect", "against", "threshold", "names") if captioner else ("beams", "java", "vocab")
    for name in others:
        if options[name] is not None:
            kinds = ("a captioner", "classifiers") if captioner else ("a classifier", "captioners")
            raise UsageError(f"--{name} is for {kinds[1]}; this is {kinds[0]}. Leave it out.")


app.command()(predict)
app.command()(explain)
app.command()(positions)
app.command()(caption)
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
