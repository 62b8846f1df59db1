"""What is not ours (names, labels, what libraries say) is shown escaped, by every verb and in every encoding."""

from __future__ import annotations

import ast
import io
import json
import os
import shutil
from collections.abc import Callable
from importlib import import_module
from itertools import product
from pathlib import Path

import pytest
from support.tiny_captioners import save_tiny

from vitrine.api.progress import training_progress
from vitrine.cli import main, show
from vitrine.errors import DataError
from vitrine.printable import escape_controls, printable_json, printable_line, printable_lines

Command = Callable[..., tuple[int, str, str]]

FORGED = "vitrine: all is well"
HOSTILE = (
    "a\x1b[2J\x1b]0;title\x07",
    f"b\n{FORGED}",
    f"c\r{FORGED}",
    f"d\u2028{FORGED}\x85{FORGED}",
    "e\u202egnp.exe",
    "f\x9b31mred",
    "g\x00\x08\x7f".replace("\x00", ""),
    "h\u2066\u200b\ufeff\U000e0041",
    "i\udcff\udc80",
    "j\x0b\x0c\x1c\x1d\x1e",
)
HARMLESS = (
    "plain name",
    "été",
    "子猫",
    "😀",
    "👩\u200d🚀",
    "\u05d7\u05ea\u05d5\u05dc",
    "گربه\u200cها",
    "a\\n",
    "=1+2",
    "<b>&",
)


def is_quiet(shown: str) -> bool:
    """Whether nothing in it acts on a terminal, and no line of it was forged."""
    acting = [c for c in shown if printable_lines(c) != c]
    return not acting and not any(line.startswith(FORGED) for line in shown.splitlines())


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_escaped(text: str) -> None:
    line = printable_line(text)
    assert line != text and line.isprintable() and is_quiet(line) and printable_line(line) == line
    assert len(escape_controls(text).splitlines()) == 1 and "\x1b" not in escape_controls(text)
    assert json.loads(printable_json(json.dumps([text], ensure_ascii=False))) == [text]


@pytest.mark.parametrize("text", HARMLESS)
def test_harmless_text_stays(text: str) -> None:
    assert text == printable_line(text) == printable_lines(text) == escape_controls(text) == printable_json(text)


def test_own_line_breaks_stay() -> None:
    assert printable_lines("a\n\tb\r\x1b") == "a\n\tb\\r\\x1b"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, small_scenes: Path) -> Path:
    """Readable and unreadable pictures with hostile names, in a class folder that the micro model knows."""
    folder = tmp_path_factory.mktemp("hostile") / "clover"
    folder.mkdir()
    source = next((small_scenes / "test" / "clover").glob("*.png"))
    for stem in HOSTILE:
        shutil.copy(source, folder / os.fsdecode(f"{stem}.png".encode("utf-8", "surrogateescape")))
        (folder / f"{stem} damaged.png").write_bytes(b"not a picture")
    return folder.parent


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captioner")
    save_tiny("blip", folder)
    return folder


VERBS: dict[str, tuple[str, ...]] = {
    "check": ("check", "DATA"),
    "predict": ("predict", "RUN", "DATA", "-o", "OUT/p.csv"),
    "predict --json": ("predict", "RUN", "DATA", "-o", "OUT/p.csv", "--json"),
    "explain": ("explain", "RUN", "DATA", "-o", "OUT/maps"),
    "explain svg": ("explain", "RUN", "DATA", "-o", "OUT/maps", "--format", "svg", "--limit", "4", "--json"),
    "caption": ("caption", "CAPTIONER", "DATA", "-o", "OUT/captions", "--max-pieces", "2"),
    "evaluate": ("evaluate", "RUN", "DATA", "-o", "OUT/eval"),
    "knn": ("knn", "RUN", "DATA"),
    "shards": ("shards", "DATA", "-o", "OUT/shards"),
    "a model of that name": ("predict", "x\x1b[2J\nvitrine: all is well", "DATA", "-o", "OUT/p.csv"),
    "data of that name": ("check", "x\x1b[2J\nvitrine: all is well"),
    "a recipe of that name": ("train", "DATA", "-o", "OUT/r", "--recipe", "x\x1b\nvitrine: all is well"),
    "a field of that name": ("train", "DATA", "-o", "OUT/r", "--recipe", "finetune", "--set", "x\x1b=1"),
    "a figure of that name": ("inspect", "x\x1b[2J\nvitrine: all is well.png"),
    "a run of that name": ("verify", "x\x1b[2J\nvitrine: all is well"),
    "runs of that name": ("compare", "x\x1b[2J\nvitrine: all is well", "y\u202e"),
    "an option of that name": ("predict", "--x\x1b[2J\nvitrine: all is well"),
    "a verb of that name": ("x\x1b[2J\nvitrine: all is well",),
    "a class of that name": ("explain", "RUN", "DATA", "-o", "OUT/m", "--target", "x\x1b[2J\nvitrine: all is well"),
}


@pytest.mark.parametrize("arguments", VERBS.values(), ids=VERBS)
def test_every_verb_shows_hostile_names_escaped(
    arguments: tuple[str, ...],
    pictures: Path,
    captioner: Path,
    small_run: Path,
    tmp_path: Path,
    vitrine_command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"DATA": pictures, "RUN": small_run, "CAPTIONER": captioner}
    words = [str(places.get(word, word.replace("OUT", str(tmp_path)))) for word in arguments]
    status, out, err = vitrine_command(*words)
    assert status in (0, 1, 2) and is_quiet(out) and is_quiet(err), (out, err)
    assert out + err, "it said something"
    if "--json" in arguments:
        json.loads(out)


def test_an_error_of_a_library_is_shown_escaped(monkeypatch: pytest.MonkeyPatch, vitrine_command: Command) -> None:
    check = import_module("vitrine.check")
    for error in (DataError(HOSTILE[0]), OSError(2, "No\x1b[2J", f"a\x1b\n{FORGED}"), PermissionError("\x1b]0;x")):

        def fail(*_: object, _error: Exception = error, **__: object) -> None:
            raise _error

        monkeypatch.setattr(check, "check", fail)
        status, _, err = vitrine_command("check", "data")
        assert status == 2 and is_quiet(err) and err.startswith("vitrine: ")


ENCODINGS = ("ascii", "latin-1", "cp1252", "utf-8", "shift_jis")


@pytest.mark.parametrize(
    ("verb", "encoding"),
    [
        *product(["predict", "check --json"], ENCODINGS),
        *product(["explain"], ENCODINGS[1:2]),  # it draws
        *product(["explain --json"], ENCODINGS[::4]),
    ],
)
def test_a_terminal_of_any_encoding_gets_text(
    encoding: str,
    verb: str,
    small_run: Path,
    small_scenes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``PYTHONIOENCODING=latin-1`` and ``LANG=C``: characters are replaced, and JSON keeps them all."""
    name = "子猫 😀 é.png"
    folder = tmp_path / "文 é"
    folder.mkdir()
    shutil.copy(next((small_scenes / "test" / "clover").glob("*.png")), folder / name)
    (folder / "é 😀 damaged.png").write_bytes(b"no")
    streams = [io.TextIOWrapper(io.BytesIO(), encoding, errors="strict", write_through=True) for _ in range(2)]
    monkeypatch.setattr("sys.stdout", streams[0])
    monkeypatch.setattr("sys.stderr", streams[1])
    word, *json_option = verb.split()
    out = ["-o", str(tmp_path / "out" / "p.csv")] if word != "check" else []
    arguments = [str(folder)] if word == "check" else [str(small_run), str(folder)]
    monkeypatch.setattr("sys.argv", ["vitrine", word, *arguments, *out, *json_option])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code in (0, 1)
    out_text, err_text = (stream.buffer.getvalue().decode(encoding) for stream in streams)  # type: ignore[attr-defined]
    assert "Traceback" not in err_text
    if json_option:
        assert json.loads(out_text)
        if word == "explain":
            assert [each["filename"] for each in json.loads(out_text)["pictures"]] == [name]


def test_nothing_else_in_the_command_line_prints() -> None:
    """The choke point has no way round it: only show.py writes, but for the version and a question of yes or no."""
    for path in Path(show.__file__).parent.glob("*.py"):
        calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
        names = [ast.unparse(call.func) for call in calls]
        printers = [name for name in names if name in ("print", "typer.echo", "sys.stdout.write", "sys.stderr.write")]
        allowed = {"show.py": 2, "app.py": 1}
        assert len(printers) == allowed.get(path.name, 0), (path.name, printers)


def test_training_lines_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    from vitrine.train.events import Note

    with training_progress() as report:
        report(Note(f"set aside: {HOSTILE[0]}"))
    assert is_quiet(capsys.readouterr().err)
