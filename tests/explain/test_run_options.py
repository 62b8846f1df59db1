"""Every option of explain acts or is refused, in Python and on the command line: all pairs of method and option."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.method_options import VALUES, pairs

import vitrine
from vitrine.attribution.method_options import METHOD_OPTIONS
from vitrine.attribution.methods import Method
from vitrine.attribution.registry import METHODS
from vitrine.errors import UsageError, VitrineError
from vitrine.explain.run import ExplainSettings


@pytest.fixture(scope="module")
def picture(small_scenes: Path) -> Path:
    return next((small_scenes / "test" / "clover").glob("*.png"))


@pytest.fixture(scope="module")
def model(small_run: Path) -> Any:
    return vitrine.load(small_run)


@pytest.fixture(scope="module")
def plain_maps(model: Any, picture: Path) -> dict[str, np.ndarray]:
    return {method: model.explain(picture, method).map for method in METHODS}


@pytest.mark.parametrize(("method", "option"), pairs())
def test_python_acts_on_an_option_or_refuses_it(
    method: str, option: str, model: Any, picture: Path, plain_maps: dict[str, np.ndarray]
) -> None:
    if option in METHOD_OPTIONS[method] and option in {"target", *Method.fields()}:
        explanation = model.explain(picture, method, **{option: VALUES[option]})
        assert not np.allclose(explanation.map, plain_maps[method], rtol=1e-3)
    else:
        with pytest.raises(UsageError, match=option):
            model.explain(picture, method, **{option: VALUES[option]})


def test_the_default_of_an_option_is_refused_as_well(model: Any, picture: Path) -> None:
    with pytest.raises(
        UsageError, match=r"layer is an option of attention, gradcam and value-norm; rollout would ignore it"
    ):
        model.explain(picture, "rollout", layer=-1)
    with pytest.raises(UsageError, match=r"lyer is no option of a map.*Did you mean layer\?"):
        model.explain(picture, "attention", lyer=0)


WRITTEN = {name: str(value) for name, value in VALUES.items()} | {"query": "1,2"}


@cache
def explain_command() -> Any:
    from typer.main import get_command

    from vitrine.cli.app import app

    return get_command(app).commands["explain"]  # type: ignore[attr-defined]


def refusal(*words: object) -> str:
    """What ``vitrine explain`` with these words is refused with; "" where it is not."""
    try:
        with explain_command().make_context("explain", list(map(str, words))) as context:
            explain_command().invoke(context)
    except UsageError as error:
        return str(error)
    return ""


@pytest.fixture
def settings_of(small_run: Path, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What the command line makes of options: the settings that it would draw with, and what it is refused with."""
    recorded_settings: list[ExplainSettings] = []

    def record(_model: str, _images: Path, _out: Path, settings: ExplainSettings, **_how: object) -> None:
        recorded_settings.append(settings)
        raise UsageError("recorded")

    monkeypatch.setattr("vitrine.explain.run.explain", record)

    def run(*options: str) -> tuple[ExplainSettings | None, str]:
        recorded_settings.clear()
        error = refusal(small_run, picture, "-o", tmp_path / "out", *options)
        return recorded_settings[0] if recorded_settings else None, error

    return run


@pytest.mark.parametrize(("method", "option"), [pair for pair in pairs() if pair[1] != "direction"])
def test_the_command_line_acts_on_an_option_or_refuses_it(method: str, option: str, settings_of: Any) -> None:
    words = [f"--{option}"] if VALUES[option] is True else [f"--{option}", WRITTEN[option]]
    settings, error = settings_of("--method", method, *words)
    if option in METHOD_OPTIONS[method]:
        assert settings is not None and settings != ExplainSettings(Method(method))
        changed = getattr(settings if option in ("matrix", "target") else settings.method, option)
        assert changed == VALUES[option] or option == "query"  # the command line counts rows and columns its own way
    else:
        assert settings is None and f"--{option} is an option of" in error and f"{method} would ignore it" in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--masks", "x"], "--masks does something only with --score"),
        (["--category", "x"], "--category does something only with --score"),
        (["--split", "test"], "--split does something only with --score"),
        (["--curves", "100"], "--curves does something only with --score"),
        (["--layers"], "--layers does something only with --score"),
        (["--encoding", "cp1252"], "--encoding does something only with --score"),
        (["--seed", "0"], "--seed does something only with --check, --limit or --score"),
        (["--stretch", "--scale", "3"], "leave one out"),
        (["--method", "rollout", "--heads", "each"], "--heads is an option of attention; rollout would ignore it"),
    ],
)
def test_drawing_refuses_what_it_would_ignore(options: list[str], message: str, settings_of: Any) -> None:
    settings, error = settings_of(*options)
    assert settings is None and message in error


DRAWING = [
    ["--layer", "0"], ["--heads", "mean"], ["--query", "auto"], ["--target", "pie"],
    ["--against", "pie"], ["--window", "0"], ["--matrix"],
    ["--check"], ["--stretch"], ["--scale", "0"], ["--patches"], ["--format", "png"], ["--engine", "local"],
]  # fmt: skip


@pytest.mark.parametrize("option", DRAWING, ids=lambda option: option[0])
def test_scoring_refuses_options_of_figures(option: list[str], tmp_path: Path) -> None:
    error = refusal("no model", "--score", "scenes:new", "-o", tmp_path / "out", *option)
    assert f"{option[0]} does something only where maps are drawn, without --score" in error
    assert not (tmp_path / "out").exists()


def test_no_setting_is_without_a_word_of_the_command_line() -> None:
    """A setting that only Python has would be lost in the command that a figure carries."""
    from vitrine.explain.run import explain_flags

    every = ExplainSettings(
        Method("attention", 0, 1, (1, 2)), None, True, True, True, True, 0.0, False, kind="svg", seed=3, contour=True
    )
    flags = " ".join(explain_flags(every, "fp32", "vit_tiny_patch16_224"))
    flags += " ".join(explain_flags(ExplainSettings(Method("occlusion", window=2), "pie"), "fp32", None))
    flags += " ".join(explain_flags(ExplainSettings(Method("legrad", against="drop")), "fp32", None))
    spelling = {"each_head": "heads", "smooth": "patches", "kind": "format"}
    names = {each.name for each in fields(ExplainSettings)} - {"method", "scale"} | set(Method.fields())
    assert {name for name in names if f"--{spelling.get(name, name)}" not in flags} == set()


@pytest.mark.parametrize(
    "make",
    [
        lambda: ExplainSettings(Method("rollout"), target="pie"),
        lambda: ExplainSettings(Method("gradcam"), each_head=True),
        lambda: ExplainSettings(Method("gradcam"), matrix=True),
        lambda: ExplainSettings(stretch=True, scale=2.0),
        lambda: Method("rollout", layer=0),
        lambda: Method("occlusion", heads="max"),
        lambda: Method("attention", window=2),
    ],
)
def test_settings_that_would_be_ignored_cannot_be_made(make: Any) -> None:
    with pytest.raises(VitrineError):
        make()


_OF_TABLES = {"probabilities": True, "top": 3, "resume": True, "csv_safe": True}
_OF_FIGURES = {"format": "svg", "replace": True, "csv_safe": True}


@pytest.mark.parametrize(
    ("verb", "name", "value"),
    [
        (verb, name, value)
        for verb, options in (("predict", _OF_TABLES), ("explain", _OF_FIGURES), ("caption", _OF_FIGURES))
        for name, value in options.items()
    ],
)
def test_options_of_files_are_refused_where_none_is_written(verb: str, name: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"{name} is of what is written: give out too"):
        getattr(vitrine, verb)("no model", "no picture", **{name: value})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"method": "occlusion", "window": -1}, "window = -1 cannot be used"),
        ({"scale": -1.0}, "scale = -1 cannot be used"),
        ({"scale": float("nan")}, "scale = nan cannot be used"),
        ({"method": "all", "scale": -1.0}, "scale = -1 cannot be used"),
        ({"method": None}, "got NoneType"),
        ({"method": 3}, "got int"),
        ({"method": ["attention", 3]}, "got int"),
    ],
    ids=["window", "scale", "nan", "sheet", "none", "number", "number among names"],
)
def test_python_refuses_what_the_command_line_cannot_say(
    options: dict[str, Any], expected: str, model: Any, picture: Path
) -> None:
    with pytest.raises(UsageError, match=expected):
        vitrine.explain(model, picture, quiet=True, **options)


@pytest.mark.parametrize("method", ["relevance", "gradcam", "smoothgrad", "value-output", "attnlrp"])
def test_the_answer_against_itself_is_said_to_have_no_map(method: str, model: Any, picture: Path) -> None:
    answer = model.predict(picture).label
    explanation = model.explain(picture, method, against=answer)
    assert not explanation.map.any()
    notes = " ".join(explanation.picture.notes)
    assert f"The answer is {answer} itself: against itself a class has no map, and it is zero everywhere." in notes
    assert "nothing here speaks" not in notes and "of the map is on" not in notes
    (sheet,) = vitrine.explain(model, picture, method=["attention", method], against=answer, quiet=True)
    assert [each.words for each in sheet.maps] == ["", "against itself"]


@pytest.mark.parametrize(
    ("method", "expected"),
    [((), METHODS), ("all", METHODS), (["all", "cam:EigenCAM"], (*METHODS, "cam:EigenCAM")), ("rise", ("rise",))],
    ids=["none", "all", "all and one", "one"],
)
def test_all_is_every_method_of_the_bench(
    method: Any, expected: tuple[str, ...], model: Any, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = []

    def note(_classifier: Any, _reference: str, _data: Any, plan: Any, _progress: Any) -> None:
        plans.append(plan)

    monkeypatch.setattr("vitrine.explain.score.score_methods", note)
    vitrine.score(model, picture.parent, method=method, quiet=True)
    assert [plan.methods for plan in plans] == [expected]
