"""The limit on repeated messages: what passes, what is counted, and that it stands in uvicorn's configuration."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from vitrine.serve.log_limit import RepeatFilter, log_config


def record(text: str, *args: object, error: Exception | None = None) -> logging.LogRecord:
    exc_info = (type(error), error, error.__traceback__) if error else None
    return logging.LogRecord("uvicorn.error", logging.WARNING, __file__, 1, text, args, exc_info)


def raised(raise_error: Callable[[], object]) -> Exception:
    try:
        raise_error()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def test_a_message_passes_once_in_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("vitrine.serve.log_limit.time.monotonic", lambda: now[0])
    limit = RepeatFilter(60)
    assert limit.filter(record("%d connections", 1))
    assert not any(limit.filter(record("%d connections", number)) for number in range(5))  # the numbers differ
    assert limit.filter(record("another"))
    now[0] += 59
    assert not limit.filter(record("%d connections", 2))
    now[0] += 2
    last = record("%d connections", 7)
    assert limit.filter(last)
    assert last.getMessage() == "7 connections (6 more of the same before)"
    now[0] += 61
    assert limit.filter(last := record("%d connections", 8)) and last.getMessage() == "8 connections"


def test_other_errors_under_the_same_words_pass() -> None:
    limit = RepeatFilter(60)
    errors = [raised(lambda: int("x")), raised(lambda: [][0]), raised(lambda: {}["x"])]
    assert [limit.filter(record("Exception in ASGI application\n", error=error)) for error in errors] == [True] * 3
    assert not limit.filter(record("Exception in ASGI application\n", error=errors[0]))


def test_ever_new_messages_take_no_memory() -> None:
    limit = RepeatFilter(60)
    assert all(limit.filter(record(f"message {number}")) for number in range(3000))
    assert len(limit._log_times) <= 1000


def test_it_stands_before_the_handler_of_uvicorn_and_asyncio() -> None:
    config = log_config()
    assert config["handlers"]["default"]["filters"] == ["repeat"]
    assert config["loggers"]["asyncio"]["handlers"] == config["loggers"]["uvicorn"]["handlers"] == ["default"]
