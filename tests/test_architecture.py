"""Rules of the code that a machine can check: layers, light faces, names, and where tests stand."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from support.names import is_bare_participle, javascript_names, python_names
from support.paths import TESTS

import vitrine
from vitrine import errors
from vitrine.errors import VitrineError

SOURCE = Path(vitrine.__file__).parent
CHECKOUT = SOURCE.parent.parent
MODULES = sorted(SOURCE.rglob("*.py"))

# Each of these takes from a tenth of a second to several seconds to import.
HEAVY = ("torch", "torchvision", "timm", "accelerate", "transformers", "datasets", "pandas", "pyarrow", "matplotlib")

_IMPORTS = (ast.Import, ast.ImportFrom)

_HEAVY_NOW = f"[name for name in {HEAVY!r} if name in sys.modules]"


def _run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_imports_run_downwards_only(monkeypatch: pytest.MonkeyPatch) -> None:
    linter = pytest.importorskip("importlinter.cli", reason="import-linter comes with the extra [dev]")
    if not (CHECKOUT / "pyproject.toml").is_file():
        pytest.skip("The layers are written in the pyproject.toml of a checkout, and this is an installed package.")
    monkeypatch.chdir(CHECKOUT)
    assert linter.lint_imports(no_cache=True) == 0, "run lint-imports to see which import is wrong"


def test_light_modules_import_nothing_heavy() -> None:
    assert _run(f"import sys, vitrine, vitrine.errors, vitrine.config, vitrine.cli; print({_HEAVY_NOW})") == "[]"


def test_one_module_imports_pyplot() -> None:
    """It chooses a backend; tests/plotting/test_style.py looks at what libraries bring along."""

    def imports_pyplot(path: Path) -> bool:
        nodes = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, _IMPORTS)]
        names = [(getattr(node, "module", None) or "", *(alias.name for alias in node.names)) for node in nodes]
        return any({"pyplot", "pylab"} & set(".".join(each).split(".")) for each in names)

    assert [path.name for path in MODULES if imports_pyplot(path)] == ["own_axes.py"]


def test_looking_at_data_and_comparing_runs_need_no_torch() -> None:
    """Half of what ``vitrine check`` takes, and more, would be its import; and of ``compare`` of a few runs."""
    imports = "vitrine.check, vitrine.data.shards.writer, vitrine.compare.run"
    assert _run(f"import sys, {imports}; print('torch' in sys.modules)") == "False"


def test_predicting_and_explaining_import_no_more_than_they_need() -> None:
    """What only tables of bulk work, vision-language models, data sets of the hub and training need stays away; and of
    predictions, which draw nothing, what draws."""
    idle = ("pyarrow", "transformers", "datasets", "accelerate", "sklearn", "fastapi", "vitrine.bulk", "vitrine.train")
    drawing = ("matplotlib", "vitrine.plotting.overlay", "vitrine.explain")
    predict = "import sys, vitrine.api.predict, vitrine.api.load, vitrine.classify.predict"
    explain = "import vitrine.api.explain, vitrine.explain.run, vitrine.plotting.style"
    names = f"print([name for name in {idle + drawing!r} if name in sys.modules])"
    program = f"{predict}; {names}; {explain}; {names.replace(repr(idle + drawing), repr(idle))}"
    assert _run(program).splitlines() == ["[]", "[]"]


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "vitrine", "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "train" in done.stdout


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_every_module_says_what_it_is(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    assert ast.get_docstring(tree) or not tree.body or path.name == "__main__.py"


def test_every_error_of_ours_has_an_exit_status() -> None:
    ours = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(ours) > 5
    for kind in ours:
        assert issubclass(kind, VitrineError), kind
        assert kind.exit_code in (1, 2), "1: it ran and the answer is no; 2: the input is wrong"
        assert kind.__doc__, kind


@pytest.mark.parametrize("name", ["found", "_kept", "opened", "told_"])
def test_a_bare_participle_is_recognised(name: str) -> None:
    assert is_bare_participle(name)
    assert not is_bare_participle(f"{name.strip('_')}_files")


@pytest.mark.parametrize("name", ["seed", "matches", "left", "is_finished", "Shared"])
def test_other_names_are_no_bare_participles(name: str) -> None:
    assert not is_bare_participle(name)


def test_no_name_is_a_participle_alone() -> None:
    names = [
        f"{path.relative_to(SOURCE)}:{line} {name}"
        for pattern, read in (("*.py", python_names), ("*.js", javascript_names))
        for path in sorted(SOURCE.rglob(pattern))
        for line, name in read(path)
        if is_bare_participle(name)
    ]
    assert not names, "say what the thing is:\n" + "\n".join(names)


def test_tests_stand_where_the_code_stands() -> None:
    """tests/data/test_loader_shards.py is of src/vitrine/data/loader.py."""
    strays = []
    for path in sorted(TESTS.rglob("test_*.py")):
        folder = path.parent.relative_to(TESTS)
        if folder == Path() or folder.parts[0] == "benchmarks":
            continue
        modules = {entry.stem for entry in (SOURCE / folder).iterdir()}
        words = path.stem.removeprefix("test_").split("_")
        if not any("_".join(words[:count]) in modules for count in range(1, len(words) + 1)):
            strays.append(str(path.relative_to(TESTS)))
    assert not strays
