"""What vitrine says while it works: records of the logger ``vitrine``, shown on stderr, and how much of it is shown."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from vitrine.errors import UsageError
from vitrine.printable import printable_line, printable_lines

LOGGER = logging.getLogger("vitrine")
"""Everything that is said for a person is a record of it: sentences on files and decisions have the level INFO."""

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
"""What :func:`set_verbosity` takes; ``info`` is the default."""

ReportDownload = Callable[[str, int, int], None]

_is_quiet: ContextVar[bool] = ContextVar("vitrine_is_quiet", default=False)
_download_report: ContextVar[ReportDownload | None] = ContextVar("vitrine_download_report", default=None)


class _Stderr(logging.Handler):
    """Writes messages to stderr as it is at the time, unless the program has set up logging for itself."""

    is_only_one = False  # the command line speaks here whatever a library has set up

    def emit(self, record: logging.LogRecord) -> None:
        if self.is_only_one or not logging.getLogger().handlers:
            print(record.getMessage(), file=sys.stderr, flush=True)


_STDERR = _Stderr()
LOGGER.addHandler(_STDERR)
LOGGER.setLevel(logging.INFO)


def set_verbosity(level: str | int) -> None:
    """Choose how much vitrine says on stderr while it works; results and errors are not changed.

    What is said are records of the standard logger ``vitrine``: a handler of one's own on it, or
    ``logging.basicConfig()``, gets them too.

    Args:
        level: ``info`` (the default: sentences on files and decisions, and progress bars), ``warning`` or ``error``
            (neither), ``debug``; or a level of :mod:`logging`.

    Raises:
        UsageError: another word.

    Examples:
        >>> import vitrine
        >>> vitrine.set_verbosity("warning")
        >>> vitrine.set_verbosity("info")
    """
    number = LEVELS.get(level.lower()) if isinstance(level, str) else level
    if not isinstance(number, int) or isinstance(number, bool):
        raise UsageError(f"set_verbosity({level!r}) cannot be used: expected {', '.join(LEVELS)}.")
    LOGGER.setLevel(number)


@contextmanager
def quiet_messages(quiet: bool = True) -> Iterator[None]:
    """Nothing is said and no progress is shown inside the block, where ``quiet``; other threads are not changed."""
    token = _is_quiet.set(quiet or _is_quiet.get())
    try:
        yield
    finally:
        _is_quiet.reset(token)


def shows_progress() -> bool:
    """Whether progress bars are wanted."""
    return not _is_quiet.get() and LOGGER.isEnabledFor(logging.INFO)


@contextmanager
def showing_downloads(report: ReportDownload) -> Iterator[None]:
    """Downloads inside the block are reported: the file's name, bytes done, of how many (0 where that is not known)."""
    token = _download_report.set(report)
    try:
        yield
    finally:
        _download_report.reset(token)


def download_report() -> ReportDownload | None:
    """Who is told of downloads; None where nobody is."""
    return _download_report.get()


def say(text: str) -> None:
    """Say something to a person, with everything escaped that would act in a terminal."""
    if _STDERR.is_only_one:  # libraries set up logging, and switch off every logger that they do not know
        LOGGER.disabled = False
    if not _is_quiet.get():
        LOGGER.info(printable_output(text))


def printable_output(text: str) -> str:
    """The text as it can be shown. Line breaks that a person's own argument brings into it are no lines of ours."""
    for argument in sys.argv[1:]:
        for words in (argument, str(Path(argument))):
            if (line := printable_line(words)) != words:
                text = text.replace(words, line)
    return printable_lines(text)


@contextmanager
def only_on_stderr() -> Iterator[None]:
    """Inside the block everything is said, on stderr and there alone: the process is the command line's."""
    before = (_STDERR.is_only_one, LOGGER.level, LOGGER.propagate)
    _STDERR.is_only_one, LOGGER.propagate = True, False
    LOGGER.setLevel(logging.INFO)
    try:
        yield
    finally:
        _STDERR.is_only_one, level, LOGGER.propagate = before
        LOGGER.setLevel(level)
