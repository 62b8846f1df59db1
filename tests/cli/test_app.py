"""The command line: quick help, errors of at most two lines, exit status as promised."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from vitrine.errors import TrainingError

Command = Callable[..., tuple[int, str, str]]
VERBS = (
    "demo",
    "check",
    "train",
    "evaluate",
    "predict",
    "explain",
    "positions",
    "features",
    "caption",
    "ask",
    "inspect",
    "report",
    "sweep",
    "compare",
    "verify",
    "serve",
    "export",
    "knn",
    "shards",
    "cache",
)


def test_help_imports_nothing_heavy() -> None:
    """One process that shows every help; it counts what it had to import for that."""
    script = (
        "import contextlib, io, sys\n"
        "from vitrine.cli.app import app\n"
        f"for arguments in [['--help'], *[[verb, '--help'] for verb in {VERBS!r}], ['--version']]:\n"
        "    shown = io.StringIO()\n"
        "    with contextlib.redirect_stdout(shown):\n"
        "        assert not app(arguments, standalone_mode=False)\n"
        "    assert shown.getvalue().strip(), arguments\n"
        "    slow = {'pydantic', 'importlib.metadata'} & set(sys.modules)  # a quarter of what a help page takes\n"
        "    assert arguments == ['--version'] or not slow, (arguments, slow)\n"
        "heavy = {'torch', 'torchvision', 'timm', 'matplotlib', 'numpy', 'PIL', 'datasets', 'accelerate', 'pyarrow'}\n"
        "heavy |= {'pandas', 'transformers'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_every_verb_is_there() -> None:
    from vitrine.cli.app import app

    assert {command.callback.__name__ for command in app.registered_commands if command.callback} == set(VERBS)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], "Did you mean 'train'?"),
        (["train"], "Missing argument 'DATA'.\nSee: vitrine train --help"),
        (["train", "data", "--set", "model=vitrine/scenes-tiny"], "There is no file or folder data"),
        (["train", "data", "-o", "run", "--resume"], "no run to resume"),
        (["train", "data", "-o", "run", "--recipe", "nope"], "There is no recipe 'nope'"),
        (["train", "data", "-o", "run", "--recipe", "scratch-tiny", "--set", "epoch=3"], "the nearest name is epochs"),
        (["train", "data", "-o", "run", "--recipe", "scratch-tiny", "--set", "epochs"], "expected key=value"),
        (["train", "data", "-o", "run", "--recipe", "scratch-tiny", "--set", "epochs=0"], "epochs = 0 cannot be used"),
        (["train", "--show-recipe", "nope"], "There is no recipe 'nope'"),
        (["evaluate", "model", "data", "--expect", "95"], "--expect"),
        (["evaluate", "model", "data"], "There is no model 'model'"),
        (["predict", "model", "nowhere", "-o", "p.csv"], "nowhere"),
        (["check", "nowhere"], "There is no file or folder nowhere"),
    ],
)
def test_wrong_input_is_answered_in_two_lines(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vitrine_command: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, error = vitrine_command(*arguments)
    assert (status, out) == (2, "")
    assert error.startswith("vitrine: ") and said in error
    assert len(error.strip().splitlines()) <= 2


def raising(error: BaseException) -> Callable[..., None]:
    def run(*_: object, **__: object) -> None:
        raise error

    return run


@pytest.mark.parametrize(
    ("raised", "status", "said"),
    [
        (KeyboardInterrupt(), 130, "vitrine: interrupted. What was finished is kept.\n"),
        (TrainingError("The loss became nan."), 1, "vitrine: The loss became nan.\n"),
        (PermissionError(13, "Permission denied", "/etc/run"), 2, "vitrine: Permission denied: /etc/run\n"),
    ],
)
def test_what_ends_a_verb(
    raised: BaseException, status: int, said: str, monkeypatch: pytest.MonkeyPatch, vitrine_command: Command
) -> None:
    check = import_module("vitrine.check")
    monkeypatch.setattr(check, "check", raising(raised))
    assert vitrine_command("check", "data") == (status, "", said)


def test_a_fault_of_ours_has_a_status_of_its_own_and_asks_for_a_report(
    monkeypatch: pytest.MonkeyPatch, vitrine_command: Command, tmp_path: Path
) -> None:
    check = import_module("vitrine.check")
    monkeypatch.setattr(check, "check", raising(ZeroDivisionError("a\nbug")))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    status, said, error = vitrine_command("check", "data")
    (report,) = tmp_path.glob("vitrine-fault-*.txt")
    assert (status, said) == (3, "")
    assert error == (
        "vitrine: unexpected ZeroDivisionError: a bug\nThis is a fault of vitrine. Please report it with "
        f"{report}, or see it here with: vitrine --debug VERB ...\n"
    )
    assert "Traceback" in report.read_text() and "data" not in report.read_text().splitlines()[0]

    monkeypatch.setenv("VITRINE_DEBUG", "")  # that --debug sets
    status, _, error = vitrine_command("--debug", "check", "data")
    assert status == 3 and "ZeroDivisionError" in error and error.startswith("Traceback")
    assert error.endswith("Please report it with what stands above\n")
    assert list(tmp_path.glob("*.txt")) == [report]


def test_output_may_be_cut_off() -> None:
    """As in ``vitrine train --show-recipe list | head -1``, with a reader that goes away at once."""
    process = subprocess.Popen(
        [sys.executable, "-m", "vitrine", "train", "--show-recipe", "list"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.wait()


def test_recipes_are_shown(vitrine_command: Command) -> None:
    from vitrine.config import available_recipes, load_recipe, recipe_from_toml

    status, out, _ = vitrine_command("train", "--show-recipe", "list")
    assert status == 0 and [line.split()[0] for line in out.splitlines()] == list(available_recipes())
    status, out, _ = vitrine_command("train", "--show-recipe", "pets-b16-224-bs16")
    assert status == 0
    assert recipe_from_toml(out, "x") == load_recipe("pets-b16-224-bs16"), "a person copies and edits it"


def test_a_run_is_resumed_without_naming_its_recipe(
    small_scenes: Path, small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vitrine_command: Command
) -> None:
    from vitrine.train import trainer

    arguments = ("train", small_scenes, "-o", tmp_path / "run")
    original = trainer.Trainer._save_checkpoint

    def interrupted(session: trainer.Trainer) -> None:
        original(session)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "_save_checkpoint", interrupted)
        status, _, error = vitrine_command(*arguments, "--recipe", small_run / "recipe.toml")
    assert status == 130 and error.endswith("vitrine: interrupted. What was finished is kept.\n")
    status, out, error = vitrine_command(*arguments, "--resume", "--set", "epochs=9")
    assert status == 2 and "epochs was 2, now 9" in error
    status, out, error = vitrine_command(*arguments, "--resume")
    assert status == 0 and "Continuing after step 3." in error
    assert f"Run: {tmp_path / 'run'}" in out
    for name in ("history.jsonl", "model.safetensors", "metrics.json"):
        assert (tmp_path / "run" / name).read_bytes() == (small_run / name).read_bytes(), name


@pytest.mark.parametrize(("is_started", "launched"), [(False, False), (True, False), (True, True)])
def test_an_interrupted_training_says_how_it_is_continued(
    is_started: bool, launched: bool, monkeypatch: pytest.MonkeyPatch, vitrine_command: Command, tmp_path: Path
) -> None:
    import vitrine.train.run

    run = tmp_path / "my run"
    if is_started:
        run.mkdir()
        (run / "recipe.toml").write_text("")
    if launched:
        monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(vitrine.train.run, "train", raising(KeyboardInterrupt()))
    status, out, err = vitrine_command("train", "photos", "-o", run, "--recipe", "finetune")
    command = f"vitrine train photos -o '{run}' --recipe finetune --resume"
    hint = "Continue with the same command and --resume.\n" if launched else f"Continue with: {command}\n"
    ended = "vitrine: interrupted. What was finished is kept.\n"
    assert (status, out, err) == (130, "", (hint if is_started else "") + ended)


def test_help_cuts_no_name_at_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.main import get_command
    from typer.testing import CliRunner

    from vitrine.cli.app import app

    monkeypatch.setenv("COLUMNS", "80")
    for verb, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        text = CliRunner().invoke(app, [verb, "--help"]).output
        assert "\N{HORIZONTAL ELLIPSIS}" not in text and max(map(len, text.splitlines())) <= 80
        assert all(name in text for parameter in command.params for name in parameter.opts if name.startswith("-"))
