"""Routes of the page itself: its files, the report, health and metrics, and the reference of the API at /api."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Path, Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from vitrine.report.html import content_security_policy
from vitrine.serve.errors import ApiError
from vitrine.serve.schema import Health
from vitrine.serve.security import CSP_HEADER
from vitrine.serve.state import get_state

_FOLDERS = (("vitrine.report", "page"), ("vitrine.serve", "page"))  # the viewer that reports share; the explorer
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webp": "image/webp",
    ".woff2": "font/woff2",
    ".json": "application/json",
}


@dataclass(frozen=True)
class PackagedFile:
    """A file of the installed package with its media type."""

    path: Traversable
    media_type: str

    def response(self, if_none_match: str | None = None) -> Response:
        """The file; 304 if ``if_none_match``, the ETags of the browser's copies, has the file's own."""
        content = self.path.read_bytes()
        tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        headers = {"ETag": tag, "Cache-Control": "no-cache"}
        if if_none_match is not None and tag in if_none_match:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=self.media_type)


def list_packaged_files() -> dict[str, PackagedFile]:
    """Every file of the page by its path within its folder, with slashes."""
    files: dict[str, PackagedFile] = {}
    for package, folder in _FOLDERS:
        path = resources.files(package) / folder
        if path.is_dir():
            files.update(_list_folder(path, ""))
    return files


def _list_folder(folder: Traversable, prefix: str) -> Iterator[tuple[str, PackagedFile]]:
    for entry in sorted(folder.iterdir(), key=lambda each: each.name):
        name = f"{prefix}{entry.name}"
        if entry.is_dir():
            yield from _list_folder(entry, f"{name}/")
            continue
        _, dot, ending = entry.name.rpartition(".")
        if f"{dot}{ending}" in _TYPES and not entry.name.startswith("."):
            yield name, PackagedFile(entry, _TYPES[f".{ending}"])


router = APIRouter()

_FILES = list_packaged_files()


@router.get("/", include_in_schema=False)
def index(request: Request) -> Response:
    """The explorer's page."""
    return _FILES["index.html"].response(request.headers.get("if-none-match"))


@router.get("/assets/{name:path}", include_in_schema=False)
def asset(name: Annotated[str, Path(max_length=200)], request: Request) -> Response:
    """A file of the page, looked up by name among the packaged files: no path reaches the file system."""
    if name not in _FILES:
        raise ApiError(404, "There is no such file in the page.", "unknown")
    return _FILES[name].response(request.headers.get("if-none-match"))


@router.get("/report", include_in_schema=False)
def report(request: Request) -> Response:
    """The report on the runs that are served."""
    page = get_state(request).report
    if page is None:
        raise ApiError(404, "No report is served here: start with vitrine serve RUN ... --report.", "unknown")
    return HTMLResponse(page, headers={CSP_HEADER: f"{content_security_policy()}; frame-ancestors 'none'"})


@router.get("/healthz", response_model=Health, tags=["watching"])
def healthz() -> Health:
    """Whether the server answers."""
    return Health()


@router.get("/metrics", tags=["watching"], response_class=PlainTextResponse)
def metrics(request: Request) -> Response:
    """Prometheus metrics: requests, batches, the queue, and what is held."""
    return get_state(request).metrics.response()


@router.get("/api", include_in_schema=False)
def reference(request: Request) -> Response:
    """The page with every address of the API, its parameters and answers."""
    return HTMLResponse(render_reference(request.app.openapi(), Examples.of(request)))


@router.get("/api/style.css", include_in_schema=False)
def style(request: Request) -> Response:
    """The stylesheet of the API's reference."""
    return _FILES["reference.css"].response(request.headers.get("if-none-match"))


@dataclass(frozen=True)
class Examples:
    """Command lines that ask this server: its address as the reader has it, models and pictures that it has.

    Attributes:
        address: such as ``http://127.0.0.1:8000``.
        has_token: whether requests must carry a token.
        models: by the tag of a route, the id of the first model that it can be asked of.
        picture: the model and the id of a picture that comes with it; None without any.
    """

    address: str
    has_token: bool
    models: Mapping[str, str]
    picture: tuple[str, str] | None

    @classmethod
    def of(cls, request: Request) -> Examples:
        """Those of the server that answers a request."""
        state = get_state(request)
        models: dict[str, str] = {}
        for model in reversed(state.models.values()):
            tags = ("classify", "features", "positions") if model.kind == "classifier" else ("caption",)
            models |= dict.fromkeys((*tags, "figures"), model.id)
            if model.gallery.validation is not None and model.gallery.validation.predictions:
                models["data"] = model.id
        pictures = [
            (each.id, next(iter(each.gallery.samples))) for each in state.models.values() if each.gallery.samples
        ]
        address = str(request.base_url).rstrip("/")
        return cls(address, state.settings.token is not None, models, pictures[0] if pictures else None)

    def command(self, path: str, method: str, operation: Mapping[str, Any]) -> str | None:
        """A command line that asks for an address; None where no model of this server can be asked for it."""
        names = {each["name"] for each in operation.get("parameters", ())}
        if "{id}" in path:
            if self.picture is None:
                return None
            model, picture = self.picture
            path = path.replace("{model}", model).replace("{id}", picture)
        elif "model" in names:
            model_id = self.models.get(operation["tags"][0])
            if model_id is None:
                return None
            query = {} if model_id == "0" else {"model": model_id}
            query |= {
                each["name"]: each["schema"]["examples"][0] for each in operation["parameters"] if each["required"]
            }
            path += f"?{urlencode(query, safe=',')}" if query else ""
        words = ["curl", "-H 'Authorization: Bearer TOKEN'"] if self.has_token else ["curl"]
        if operation.get("requestBody"):
            words.append("--data-binary @picture.jpg -H 'Content-Type: image/jpeg'")
        elif method == "post":
            words.append("-X POST")
        return " ".join([*words, shlex.quote(f"{self.address}{path}")])


def render_reference(openapi: Mapping[str, Any], examples: Examples) -> str:
    """An OpenAPI description as an HTML page."""
    info = openapi["info"]
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
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            parts += _render_operation(path, method, operation, openapi, examples)
    return "".join([*parts, "</main></body></html>"])


def _render_operation(
    path: str, method: str, operation: Mapping[str, Any], openapi: Mapping[str, Any], examples: Examples
) -> Iterator[str]:
    yield f'<section><h2><span class="method">{method.upper()}</span> <code>{escape(path)}</code></h2>'
    yield f"<p>{escape(operation.get('description') or operation.get('summary', ''))}</p>"
    if operation.get("parameters"):
        yield '<div class="scroll"><table><tr><th>parameter</th><th>values</th><th>by default</th><th></th></tr>'
        for parameter in operation["parameters"]:
            yield _render_parameter(parameter)
        yield "</table></div>"
    body = operation.get("requestBody")
    if body:
        yield f'<p class="grey">Body: {escape(body["description"])}</p>'
    yield f"<p>Answers {_render_answer(operation['responses'].get('200', {}), openapi)}.</p>"
    command = examples.command(path, method, operation)
    yield '<p class="grey">No model of this server can be asked for it.</p>' if command is None else ""
    yield "</section>" if command is None else f"<pre>{escape(command)}</pre></section>"


def _render_parameter(parameter: Mapping[str, Any]) -> str:
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
    """The values that a parameter may have, in a few words."""
    if "anyOf" in schema:
        return " or ".join(_values(each) for each in schema["anyOf"] if each.get("type") != "null")
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    low, high = schema.get("minimum"), schema.get("maximum")
    ends = f" {low:g} to {high:g}" if low is not None and high is not None else ""
    return f"{schema.get('type', 'text')}{ends}".replace("string", "text").replace("integer", "whole number")


def _render_answer(response: Mapping[str, Any], openapi: Mapping[str, Any]) -> str:
    """Media types of an answer, each with its fields."""
    parts = []
    for media_type, content in response.get("content", {}).items():
        name = str(content.get("schema", {}).get("$ref", "")).rpartition("/")[2]
        properties = openapi["components"]["schemas"].get(name, {}).get("properties", {})
        fields = ", ".join(f"<code>{escape(field)}</code>" for field in properties)
        parts.append(f"{escape(media_type)}{f': {fields}' if fields else ''}")
    return "; ".join(parts) or "nothing"
