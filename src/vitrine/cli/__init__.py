"""The command line: parse, call, render. No module here imports torch; a verb's work is imported when it runs."""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

INTERRUPTED = 130  # what shells give for a process that Ctrl-C ended
UNEXPECTED = 3
DEBUG = "VITRINE_DEBUG"
"""Environment variable that is set where --debug is: processes that this one starts see it too."""


def main() -> None:
    """Run the command line.

    Exit status: 0 done; 1 it ran and the answer is no; 2 the input is wrong; 3 a fault of vitrine.
    """
    from vitrine.messages import only_on_stderr

    with only_on_stderr():
        _main()


def _main() -> NoReturn:
    from typer import Abort, BadParameter

    from vitrine.cli import show
    from vitrine.cli.app import app
    from vitrine.errors import LostProcessError, VitrineError, environment_mismatch
    from vitrine.io.garbage_collection import collect_seldom
    from vitrine.printable import printable_line

    collect_seldom()
    show.accept_any_text()
    _require_one_process()
    try:
        status = app(standalone_mode=False) or 0  # typer turns an interruption into 130 or Abort, by its version
    except VitrineError as error:
        _fail(str(error), error.exit_code, certainly=isinstance(error, LostProcessError))
    except (KeyboardInterrupt, Abort):
        status = INTERRUPTED
    except OSError as error:  # a full disk, a folder that may not be written to
        _fail(f"{error.strerror or error}{f': {printable_line(error.filename)}' if error.filename else ''}", 2)
    except _parents_of(BadParameter) as error:
        _fail_usage(error)
    except Exception as error:
        mismatch = environment_mismatch(error) if isinstance(error, ImportError | RuntimeError) else None
        if mismatch is not None:
            _fail(str(mismatch), mismatch.exit_code)
        _fail_unexpectedly(error)
    if status == INTERRUPTED:
        _fail("interrupted. What was finished is kept.", INTERRUPTED)
    sys.exit(status)


def _require_one_process() -> None:
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes != "1" and "train" not in sys.argv:
        _fail(f"{processes} processes were launched, and only vitrine train divides its work. Run this by itself.", 2)


def _fail(message: str, status: int, certainly: bool = False) -> NoReturn:
    """Of several processes that train together, one on every machine speaks; ``certainly`` makes any one."""
    if certainly or os.environ.get("LOCAL_RANK", "0") == "0":
        from vitrine.cli import show

        show.say(f"vitrine: {message}")
    sys.exit(status)


def _fail_unexpectedly(error: Exception) -> NoReturn:
    """Two lines that ask for a report; the traceback goes into a file, or with --debug to stderr."""
    import traceback

    from vitrine.cli import show

    text = "".join(traceback.format_exception(error))
    if os.environ.get(DEBUG):
        show.say(text.rstrip())
        place = "with what stands above"
    else:
        place = f"with {_write_report(text)}, or see it here with: vitrine --debug VERB ..."
    what = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    _fail(f"unexpected {what}\nThis is a fault of vitrine. Please report it {place}", UNEXPECTED, certainly=True)


def _write_report(text: str) -> str:
    """Versions and a traceback in a new file of the folder for temporary files; its path."""
    import platform
    import tempfile

    from vitrine.version import __version__

    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", errors="replace", prefix="vitrine-fault-", suffix=".txt", delete=False
        ) as file:
            file.write(f"vitrine {__version__}, Python {platform.python_version()}, {platform.platform()}\n{text}")
        return file.name
    except OSError:  # no room for it
        return "the traceback"


def _parents_of(error: type[Exception]) -> tuple[type[Exception], ...]:
    """The error and its base classes from click, which newer versions of typer carry inside."""
    return tuple(base for base in error.__mro__ if hasattr(base, "format_message"))


def _fail_usage(error: Any) -> NoReturn:
    """A wrong command line in two lines. Without any argument the help was shown, and there is no message."""
    message = error.format_message()
    if not message:
        sys.exit(error.exit_code)
    command = f"vitrine {error.ctx.info_name}" if error.ctx and error.ctx.parent else "vitrine"
    _fail(f"{message}\nSee: {command} --help", error.exit_code)
