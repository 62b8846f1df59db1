"""A report as one HTML file: no network, no other file, the same bytes for the same document."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from functools import lru_cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from vitrine.report.page.document import Document
from vitrine.report.page.drawn import caption_data, data_url, map_data, png, svg
from vitrine.report.style import percent
from vitrine.report.tables import Table

_STYLES = ("theme.css", "report.css")
_SCRIPTS = ("viewer.js", "report.js")


def asset(name: str) -> str:
    """The text of one of the page's own files."""
    return files("vitrine.report.page").joinpath(name).read_text("utf-8")


def render_html(document: Document) -> str:
    """The whole page.

    A content security policy in the page itself forbids everything but what is in it: no address is ever asked, and no
    script runs but the page's own, whose hash the policy names.
    """
    style = "\n".join(_squeezed(asset(name)) for name in _STYLES)
    template = _environment().get_template("report.html.j2")
    return template.render(
        document=document,
        style=Markup(style),  # noqa: S704  the package's own
        script=Markup(_script()),  # noqa: S704
        policy=policy(),
        facts=_json(document.facts),
    )


def policy() -> str:
    """The page's content security policy."""
    digest = base64.b64encode(hashlib.sha256(_script().encode("utf-8")).digest()).decode("ascii")
    inside = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return f"{inside}; script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


@lru_cache(maxsize=1)
def _script() -> str:
    return "\n".join(asset(name) for name in _SCRIPTS)


def _squeezed(style: str) -> str:
    """Without comments and indentation."""
    return re.sub(r"\s+", " ", re.sub(r"/\*.*?\*/", "", style, flags=re.DOTALL))


def _json(value: object) -> Markup:
    """JSON that may stand in a script element, whatever is in it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))  # noqa: S704


@lru_cache(maxsize=1)
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("vitrine.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.tests["kind"] = lambda block, name: type(block).__name__ == name
    made.filters |= {
        "svg": lambda figure, name: Markup(svg(figure, name)),  # noqa: S704  matplotlib escapes the text that it draws
        "png_url": lambda figure: data_url(png(figure), "image/png"),
        "map_json": lambda view: _json(map_data(view.picture, view.scale)),
        "caption_json": lambda view: _json(caption_data(view.picture, view.scale)),
        "numeric": _numeric,
        "percent": percent,
    }
    return made


_NUMBER = re.compile(r"[−+-]?[\d,.]+( %| pp)?")


def _numeric(table: Table) -> list[Any]:
    """Whether each column holds numbers and nothing else, which are then set to the right."""
    cells = table.cells()
    return [
        any(row[i] != "–" for row in cells) and all(row[i] == "–" or _NUMBER.fullmatch(row[i]) for row in cells)
        for i in range(len(table.columns))
    ]
