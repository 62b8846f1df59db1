"""What is published: the wheel holds the whole package and nothing else, and files beside it agree with it."""

from __future__ import annotations

import re
import tomllib
import zipfile
from pathlib import Path

import pytest

import vitrine

SOURCE = Path(vitrine.__file__).parent
CHECKOUT = SOURCE.parent.parent

if not (CHECKOUT / "pyproject.toml").is_file():
    pytest.skip("This is an installed package: what is published is looked at in a checkout.", allow_module_level=True)


def test_the_wheel_is_the_package_and_nothing_else(tmp_path: Path) -> None:
    """Also what is not Python: weights, templates, recipes, the page of the explorer."""
    wheel_module = pytest.importorskip("hatchling.builders.wheel", reason="hatchling comes with the extra [dev]")
    (wheel,) = wheel_module.WheelBuilder(str(CHECKOUT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    expected = {
        f"vitrine/{path.relative_to(SOURCE).as_posix()}"
        for path in SOURCE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    metadata = {name for name in names if name.startswith(f"vitrine-{vitrine.__version__}.dist-info/")}
    assert names - metadata == expected
    for ending in ("METADATA", "entry_points.txt", "licenses/LICENSE"):
        assert any(name.endswith(ending) for name in metadata), ending
    assert {Path(name).suffix for name in expected} >= {
        ".py",
        ".toml",
        ".safetensors",
        ".html",
        ".js",
        ".css",
        ".typed",
    }


def test_the_source_distribution_builds_the_same_wheel_and_brings_no_leftovers() -> None:
    """Everything that the wheel is made of and tested with, and nothing of an environment, a run or a cache."""
    sdist_module = pytest.importorskip("hatchling.builders.sdist", reason="hatchling comes with the extra [dev]")
    builder = sdist_module.SdistBuilder(str(CHECKOUT))
    with builder.config.set_build_data({"artifacts": [], "force_include": {}}):
        names = {Path(file.distribution_path).as_posix() for file in builder.recurse_included_files()}
    package = {
        path.relative_to(CHECKOUT).as_posix()
        for path in SOURCE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert package <= names
    assert {"pyproject.toml", "README.md", "LICENSE", "Makefile", "constraints.txt", "tests/test_package.py"} <= names
    kinds = {"src", "tests", "tools", "docs", "benchmarks", "examples", "reproduce", ".github", ".ci"}
    assert {name.split("/")[0] for name in names if "/" in name} <= kinds
    leftovers = [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".part", ".partial"))]
    assert not leftovers


def test_the_citation_is_of_this_version() -> None:
    text = (CHECKOUT / "CITATION.cff").read_text("utf-8")
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["project"]
    fields = dict(re.findall(r"^([a-z-]+): (\S.*)$", text, re.M))
    assert (fields["version"], fields["license"], fields["title"]) == (
        vitrine.__version__, project["license"], project["name"],
    )  # fmt: skip
    assert project["authors"][0]["name"] in text


def test_the_workflow_runs_what_a_developer_runs() -> None:
    """Everything that it does stands in .ci/run and in targets of the Makefile."""
    text = (CHECKOUT / ".github" / "workflows" / "ci.yml").read_text("utf-8")
    commands = re.findall(r"^ +- run: (.+)$", text, re.M)
    targets = re.findall(r"^([a-z-]+):.*##", (CHECKOUT / "Makefile").read_text("utf-8"), re.M)
    assert ".ci/run" in commands and (CHECKOUT / ".ci" / "run").stat().st_mode & 0o100
    for command in commands:
        assert command == ".ci/run" or (command.split()[0] == "make" and command.split()[1] in targets), command


def test_the_promises_on_security_name_pages_that_are_there() -> None:
    links = re.findall(r"\]\(([^)#]+)", (CHECKOUT / "SECURITY.md").read_text("utf-8"))
    assert links and all((CHECKOUT / link).is_file() for link in links)
