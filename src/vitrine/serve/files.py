"""The page's files: a fixed table of what lies in the package, made once. No name from a request is ever a path."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable

from starlette.responses import Response

from vitrine.serve.refusals import Refusal

INDEX = "index.html"

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
    """A file of the package and its type."""

    place: Traversable
    media_type: str

    def response(self, known: str | None = None) -> Response:
        """The file, or that the browser's copy (its tag is ``known``) is the same."""
        content = self.place.read_bytes()
        tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        headers = {"ETag": tag, "Cache-Control": "no-cache"}
        if known is not None and tag in known:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=self.media_type)


def packaged_files() -> dict[str, PackagedFile]:
    """Every file of the page by its name; files in folders by their path from there, with slashes."""
    table: dict[str, PackagedFile] = {}
    for package, folder in _FOLDERS:
        place = resources.files(package) / folder
        if place.is_dir():
            _gather(place, "", table)
    return table


def _gather(folder: Traversable, before: str, table: dict[str, PackagedFile]) -> None:
    for entry in sorted(folder.iterdir(), key=lambda each: each.name):
        name = f"{before}{entry.name}"
        if entry.is_dir():
            _gather(entry, f"{name}/", table)
            continue
        _, dot, ending = entry.name.rpartition(".")
        if f"{dot}{ending}" in _TYPES and not entry.name.startswith("."):
            table[name] = PackagedFile(entry, _TYPES[f".{ending}"])


def found(table: dict[str, PackagedFile], name: str) -> PackagedFile:
    """A file of the table.

    Raises:
        Refusal: it has none of this name.
    """
    if name not in table:
        raise Refusal(404, "There is no such file in the page.", "unknown")
    return table[name]
