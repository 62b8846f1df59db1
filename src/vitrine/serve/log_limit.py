"""A limit on how often a log says the same thing, so that clients cannot fill a disk or a terminal."""

from __future__ import annotations

import copy
import logging
import time
from typing import Any

from uvicorn.config import LOGGING_CONFIG

from vitrine.serve.settings import LOG_SECONDS

_MAX_MESSAGES = 1000  # different ones that are remembered


class RepeatFilter(logging.Filter):
    """Passes each message once in a while, and then says how many like it were left out.

    Messages are the same if their text before formatting is, and, for exceptions, the type and the line that raised.
    """

    def __init__(self, seconds: float = LOG_SECONDS) -> None:
        """``seconds``: for how long a message that was logged is not logged again."""
        super().__init__()
        self._seconds = seconds
        self._log_times: dict[tuple[object, ...], tuple[float, int]] = {}  # when last, and how many left out since

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log a record; its message gets the number of those left out."""
        key, now = _kind(record), time.monotonic()
        logged_at, left_out = self._log_times.get(key, (-self._seconds, 0))
        if now - logged_at < self._seconds:
            self._log_times[key] = logged_at, left_out + 1
            return False
        if len(self._log_times) >= _MAX_MESSAGES:
            self._log_times.clear()
        self._log_times[key] = now, 0
        if left_out:
            record.msg = f"{record.getMessage().rstrip()} ({left_out:,} more of the same before)"
            record.args = ()
        return True


def _kind(record: logging.LogRecord) -> tuple[object, ...]:
    error = record.exc_info[1] if record.exc_info else None
    traceback = error.__traceback__ if error is not None else None
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    place = (traceback.tb_frame.f_code.co_filename, traceback.tb_lineno) if traceback is not None else None
    return record.name, record.levelno, str(record.msg), type(error), place


def log_config() -> dict[str, Any]:
    """uvicorn's logging configuration with :class:`RepeatFilter` in its handler, which asyncio's messages pass, too."""
    config = copy.deepcopy(LOGGING_CONFIG)
    config["filters"] = {"repeat": {"()": RepeatFilter}}
    config["handlers"]["default"]["filters"] = ["repeat"]
    config["loggers"]["asyncio"] = {"handlers": ["default"], "level": "WARNING", "propagate": False}
    return config
