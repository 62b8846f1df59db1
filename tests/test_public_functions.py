"""The promise of ``vitrine``: every verb is a function with the command line's words and defaults, and an example."""

from __future__ import annotations

import doctest
import importlib
import inspect
import io
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.tiny_captioners import save_tiny
from support.tiny_vlms import save_tiny_vlm
from typer.main import get_command

import vitrine
from vitrine.api.captioner import CaptionerModel
from vitrine.api.model import Model
from vitrine.cli.app import app

COMMANDS: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]

NO_FUNCTION = {
    "demo": "it shows the command line itself, on generated pictures",
    "inspect": "it reads a figure's own metadata, which Pillow does as well",
    "serve": "it is a program that runs until it is stopped",
    "cache": "it is for a person's disk, not for a program",
}
NO_VERB = {"load", "score", "set_verbosity", "__version__"}

SCORE_OPTIONS = ("masks", "category", "split", "curves", "layers", "encoding")
ONLY_THERE = {
    "json": "a result has to_dict()",
    "cache": "of every verb: an environment variable in Python (HF_HOME)",
    "offline": "of every verb: an environment variable in Python (HF_HUB_OFFLINE)",
    "help": "help(vitrine.train)",
    ("train", "show_recipe"): "it prints and ends",
    ("compare", "format"): "what is printed: the result has text(), markdown(), csv() and latex()",
    ("explain", "score"): "a function of its own, vitrine.score, which has these options:",
    **{
        ("explain", word): "of vitrine.score" for word in ("masks", "category", "split", "curves", "layers", "encoding")
    },
}
ONLY_IN_PYTHON = {
    "quiet": "on the command line a redirection of stderr",
    ("predict", "normalised"): "files are not normalised",
    ("explain", "normalised"): "files are not normalised",
    ("evaluate", "normalised"): "files are not normalised",
    ("knn", "normalised"): "files are not normalised",
}
OTHER_NAMES = {
    ("train", "set"): "settings",  # set is a type of Python's
}
OTHER_DEFAULTS = {
    ("train", "settings"): ((), "no changes: a dictionary or a list"),
    ("report", "pictures"): ((), "a list of paths"),
    ("explain", "method"): ("attention", "the command line's list is for --score; one method is drawn"),
    ("predict", "out"): (None, "predictions may stay in memory"),
    ("explain", "out"): (None, "maps may stay in memory"),
    ("features", "out"): (None, "components may stay in memory"),
    ("caption", "out"): (None, "captions may stay in memory"),
    ("ask", "out"): (None, "an answer may stay in memory"),
    ("positions", "out"): (None, "the numbers may be all that is wanted"),
    ("explain", "images"): (inspect.Parameter.empty, "required: data to score have a function of their own"),
}


def option_word(parameter: Any) -> str:
    """What an option is called, as a name in Python; of an argument, the parameter's own name."""
    if parameter.param_type_name == "argument":
        return str(parameter.name)
    return max(parameter.opts, key=len).lstrip("-").replace("-", "_")


def command_options(verb: str) -> dict[str, Any]:
    """Words of a verb's options with their defaults; ``empty`` where they are required."""
    options = {}
    for parameter in COMMANDS[verb].params:
        word = option_word(parameter)
        if parameter.name in ("cache", "offline", "help") or word in ONLY_THERE or (verb, word) in ONLY_THERE:
            continue
        options[OTHER_NAMES.get((verb, word), word)] = (
            inspect.Parameter.empty if parameter.required else parameter.default
        )
    return options


def arguments(verb: str) -> dict[str, Any]:
    """Arguments of a function with their defaults, but for those of Python alone."""
    parameters = inspect.signature(getattr(vitrine, verb)).parameters.values()
    return {
        each.name: each.default
        for each in parameters
        if each.name not in ONLY_IN_PYTHON and (verb, each.name) not in ONLY_IN_PYTHON
    }


VERBS = sorted(set(COMMANDS) - set(NO_FUNCTION))


def test_every_verb_is_promised_or_excused() -> None:
    assert set(vitrine.__all__) == set(VERBS) | NO_VERB
    assert set(NO_FUNCTION) < set(COMMANDS)


@pytest.mark.parametrize("verb", VERBS)
def test_the_words_and_defaults_are_the_command_lines(verb: str) -> None:
    options, own = command_options(verb), arguments(verb)
    assert set(options) == set(own), "one face has what the other lacks, and no table here says why"
    for word, default in options.items():
        expected, _ = OTHER_DEFAULTS.get((verb, word), (default, ""))
        found = own[word]
        same = found is expected or found == expected or str(found) == str(expected)
        assert same, (verb, word, found, expected)


def test_the_tables_of_differences_hold_nothing_that_is_gone() -> None:
    words = {(verb, option_word(each)) for verb in VERBS for each in COMMANDS[verb].params}
    own = {(verb, name) for verb in VERBS for name in inspect.signature(getattr(vitrine, verb)).parameters}
    assert {key for key in (*ONLY_THERE, *OTHER_NAMES) if isinstance(key, tuple)} <= words
    assert {key for key in (*ONLY_IN_PYTHON, *OTHER_DEFAULTS) if isinstance(key, tuple)} <= own


def test_options_of_scores_are_those_of_the_command_line() -> None:
    names = {option_word(each): each for each in COMMANDS["explain"].params}
    for name, parameter in inspect.signature(vitrine.score).parameters.items():
        if name not in ("data", "quiet"):
            assert name in names, name
        if name in (
            "layers",
            "split",
            "masks",
            "category",
            "limit",
            "curves",
            "seed",
            "batch_size",
            "precision",
            "arch",
        ):
            assert names[name].default == parameter.default, name


@pytest.mark.parametrize("name", [name for name in vitrine.__all__ if name != "__version__"])
def test_every_function_is_typed_and_explained(name: str) -> None:
    function = getattr(vitrine, name)
    signature, text = inspect.signature(function), inspect.getdoc(function) or ""
    assert signature.return_annotation is not inspect.Signature.empty
    for parameter in signature.parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty, parameter
        assert f"\n    {parameter.name}: " in text, f"{name} does not say what {parameter.name} is"
    assert "Examples:" in text and ">>> " in text


def test_what_stands_behind_a_function_stays_importable() -> None:
    """A sub-package has the name of its function: whichever is imported first, the name is the function's."""
    for name in ("train.run", "check", "explain.run", "report.run", "shards"):
        module = importlib.import_module(f"vitrine.{name}")
        assert sys.modules[f"vitrine.{name}"] is module
    assert sys.modules["vitrine.train.run"] is vitrine.train.run, "through the function, too"
    names = [name for name in vitrine.__all__ if name != "__version__"]
    assert all(inspect.isfunction(getattr(vitrine, name)) for name in names)
    assert set(names) <= set(dir(vitrine))
    with pytest.raises(AttributeError, match="no attribute 'explian'"):
        _ = vitrine.explian


EXAMPLES = [
    test
    for function in (
        *(getattr(vitrine, name) for name in vitrine.__all__ if name != "__version__"),
        Model,
        CaptionerModel,
    )
    for test in doctest.DocTestFinder(exclude_empty=True).find(function, function.__name__, globs={"vitrine": vitrine})
    if test.examples
]


@pytest.fixture(scope="module")
def workplace(small_scenes: Path, small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that examples stand in: photos, runs, a vision-language model, and a sweep."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "photos").symlink_to(small_scenes)
    Image.open(next(small_scenes.glob("test/*/*.png"))).save(folder / "cat.jpg")
    (folder / "runs").mkdir()
    for name in ("first", "second"):
        shutil.copytree(small_run, folder / "runs" / name)
    save_tiny("vit-bert", folder / "runs" / "captioner")
    save_tiny_vlm("llava", folder / "models" / "llava")
    (folder / "sweep.toml").write_text(
        'data = "photos"\nrecipe = "scratch-tiny"\nseeds = [0]\n[grid]\nepochs = [1, 2]\n', "utf-8"
    )
    return folder


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda test: test.name)
def test_the_example_in_the_docstring_runs(
    example: doctest.DocTest, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workplace)
    said = io.StringIO()
    outcome = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=said.write, clear_globs=False)
    assert outcome.failed == 0, said.getvalue()
