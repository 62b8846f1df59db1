"""A browser for tests of pages: the system's Chromium, driven by playwright, watched for what a page must not do."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def open_browser() -> Iterator[Any]:
    """A headless browser; the test skips where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="Tests of pages want playwright: pip install vitrine[test]")
    if CHROMIUM is None:
        pytest.skip("Tests of pages want a Chromium on the PATH, from the distribution's packages.")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def open_page(browser: Any, home: str, *, refusals: bool = False, **options: Any) -> Iterator[Any]:
    """A page of its own context. At its end it is checked that only ``home`` was asked.

    Args:
        browser: from :func:`open_browser`.
        home: what every address must begin with, a server's or ``file:``.
        refusals: the server refuses something on purpose, which browsers write to the console.
        options: of the context.
    """
    settings = {"viewport": {"width": 1440, "height": 900}, "reduced_motion": "reduce"} | options
    context = browser.new_context(**settings)
    context.set_default_timeout(15_000)
    page = context.new_page()
    errors: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.requested_urls = requests
    try:
        yield page
    finally:
        context.close()
    errors = [error for error in errors if not (refusals and error.startswith("Failed to load resource"))]
    assert not errors, errors
    strangers = [url for url in requests if not url.startswith((home, "data:", "blob:"))]
    assert not strangers, strangers


def leave(page: Any, home: str) -> None:
    """Leave the explorer for an empty page of the same address, which the browser shows in the same process:
    ``about:blank`` costs a process more for each way."""
    nothing = "<!doctype html><link rel=icon href='data:,'>"
    page.route("**/nothing", lambda route: route.fulfill(body=nothing, content_type="text/html"))
    page.goto(f"{home}/nothing")
    page.unroute("**/nothing")


def until(page: Any, expression: str, argument: Any = None) -> None:
    """Wait until an expression is true of a page. playwright's own way evaluates text inside the page, which the
    explorer's content-security policy forbids."""
    for _ in range(375):
        if page.evaluate(expression, argument):
            return
        page.wait_for_timeout(40)
    raise AssertionError(f"This did not become true in the page: {expression}")


def canvas_data(canvas: Any) -> str:
    """The image that a canvas shows, as a data URL to compare with others."""
    return canvas.evaluate("canvas => canvas.toDataURL()")
