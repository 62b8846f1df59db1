"""A page that describes the API, written from its OpenAPI description, with nothing from another machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, Response

router = APIRouter(include_in_schema=False)

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2730; --grey: #5c6670; --line: #d9dee3; --paper: #fff; --accent: #0072b2; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6eaee; --grey: #9aa5b1; --line: #333c45; --paper: #14191e; --accent: #56b4e9; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 2rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; } h2 { margin: 2.5rem 0 .5rem; font-size: 1.1rem; overflow-wrap: anywhere; }
a { color: var(--accent); } a:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
code, pre { font-family: ui-monospace, monospace; font-size: .9em; }
pre { overflow-x: auto; padding: .6rem .8rem; border: 1px solid var(--line); border-radius: .4rem; }
.method { display: inline-block; min-width: 3.5em; color: var(--accent); font-weight: 600; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; } th { font-weight: 600; text-align: left; }
th, td { padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
.grey { color: var(--grey); }
"""


@router.get("/api")
def reference(request: Request) -> Response:
    """Every address with its parameters and answers."""
    return HTMLResponse(render(request.app.openapi()))


@router.get("/api/style.css")
def style() -> Response:
    """The look of that page."""
    return Response(_STYLE, media_type="text/css; charset=utf-8", headers={"Cache-Control": "no-cache"})


def render(described: Mapping[str, Any]) -> str:
    """The page of an OpenAPI description."""
    info = described["info"]
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(info['title'])}: the API</title>",
        '<link rel="stylesheet" href="/api/style.css"></head><body><main>',
        f"<h1>{escape(info['title'])} {escape(info['version'])}: the API</h1>",
        f"<p>{escape(info['description'])}</p>",
        '<p>For programs: <a href="/openapi.json">openapi.json</a>. ',
        'The page that uses it: <a href="/">the explorer</a>.</p>',
    ]
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            parts += _operation(path, method, operation, described)
    return "".join([*parts, "</main></body></html>"])


def _operation(path: str, method: str, operation: Mapping[str, Any], described: Mapping[str, Any]) -> Iterator[str]:
    yield f'<section><h2><span class="method">{method.upper()}</span> <code>{escape(path)}</code></h2>'
    yield f"<p>{escape(operation.get('description') or operation.get('summary', ''))}</p>"
    if operation.get("parameters"):
        yield '<div class="scroll"><table><tr><th>parameter</th><th>values</th><th>by default</th><th></th></tr>'
        for parameter in operation["parameters"]:
            yield _parameter(parameter)
        yield "</table></div>"
    body = operation.get("requestBody")
    if body:
        yield f'<p class="grey">Body: {escape(body["description"])}</p>'
    yield f"<p>Answers {_answer(operation['responses'].get('200', {}), described)}.</p>"
    yield f"<pre>{escape(_example(path, method, bool(body)))}</pre></section>"


def _parameter(parameter: Mapping[str, Any]) -> str:
    schema = parameter.get("schema", {})
    default = schema.get("default")
    cells = (
        f"<code>{escape(parameter['name'])}</code>",
        escape(_values(schema)),
        "" if default is None else f"<code>{escape(str(default))}</code>",
        escape(parameter.get("description") or schema.get("description", "")),
    )
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _values(schema: Mapping[str, Any]) -> str:
    """What a parameter may be, in a few words."""
    if "anyOf" in schema:
        return " or ".join(_values(each) for each in schema["anyOf"] if each.get("type") != "null")
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    low, high = schema.get("minimum"), schema.get("maximum")
    ends = f" {low:g} to {high:g}" if low is not None and high is not None else ""
    return f"{schema.get('type', 'text')}{ends}".replace("string", "text").replace("integer", "whole number")


def _answer(response: Mapping[str, Any], described: Mapping[str, Any]) -> str:
    kinds = response.get("content", {})
    told = []
    for kind, content in kinds.items():
        name = str(content.get("schema", {}).get("$ref", "")).rpartition("/")[2]
        fields = described["components"]["schemas"].get(name, {}).get("properties", {})
        listed = ", ".join(f"<code>{escape(field)}</code>" for field in fields)
        told.append(f"{escape(kind)}{f': {listed}' if listed else ''}")
    return "; ".join(told) or "nothing"


def _example(path: str, method: str, has_body: bool) -> str:
    address = f"http://127.0.0.1:8000{path.replace('{model}', '0').replace('{id}', 'v0')}"
    if method == "get":
        return f"curl {address}"
    return (
        f"curl --data-binary @picture.jpg -H 'Content-Type: image/jpeg' {address}"
        if has_body
        else f"curl -X POST {address}"
    )
