"""Render a report as one HTML file that loads nothing else; the same document gives the same bytes."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from dataclasses import replace
from functools import lru_cache
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from PIL import Image

from vitrine.attribution.placement import Placement
from vitrine.caption.figures.words import CaptionPicture
from vitrine.explain.figures.map import MapPicture
from vitrine.plotting.colormap import Scale
from vitrine.plotting.fonts import any_script
from vitrine.plotting.style import ACCENT, GREY, HAIRLINE, INK, SERIES, figure_style
from vitrine.plotting.tables import Table
from vitrine.printable import printable_json, printable_words
from vitrine.report.document import Document
from vitrine.results import percent

Pixels = npt.NDArray[np.uint8]

_MAX_LOSSLESS_SIDE = 160  # pixels a side up to which a photograph is stored as PNG
_QUALITY = 85  # of larger photographs, as JPEG

# CSS variables of the figures' colours, which follow the page into the dark.
_THEME_VARIABLES = {colour: f"--series-{number}" for number, colour in enumerate(SERIES, 1)} | {
    INK: "--ink",
    GREY: "--grey",
    HAIRLINE: "--hairline",
    ACCENT: "--accent",
    "#000000": "--ink",  # also the last series
    "#ffffff": "--paper",  # of hollow dots
}


def figure_svg(figure: Figure, name: str) -> str:
    """A figure of lines and text as an ``svg`` element in the page's own colours, which may be dark.

    Ids hold for the whole page: this figure's begin with ``name``, which no other figure of the page has.
    """
    buffer = io.StringIO()
    with figure_style(), any_script(figure):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)  # it would hold for the whole page
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    for colour, variable in _THEME_VARIABLES.items():
        text = re.sub(rf"(fill|stroke): {colour}\b", rf"\1: var({variable})", text)
    text = re.sub(r">\s+<", "><", _with_own_ids(text, name))
    return text.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)


def _with_own_ids(text: str, name: str) -> str:
    """Prefix the ids that are referred to with the figure's name, and drop all others: matplotlib repeats its ids."""
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', text))
    text = re.sub(r'\sid="([^"]*)"', lambda match: f' id="{name}-{match[1]}"' if match[1] in used else "", text)
    return re.sub(r'(href="|url\()#', rf"\g<1>#{name}-", text)


def figure_png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file with 256 colours."""
    buffer = io.BytesIO()
    with figure_style(), any_script(figure):
        figure.savefig(buffer, format="png")
    png_file = io.BytesIO()
    Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(png_file, "PNG", optimize=True)
    return png_file.getvalue()


def data_url(content: bytes, kind: str) -> str:
    """Bytes of a media type as a ``data:`` URL."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def photo_url(photo_HWC: Pixels) -> str:
    """A photograph as a ``data:`` URL: PNG if it is small, else JPEG."""
    picture, buffer = Image.fromarray(photo_HWC), io.BytesIO()
    if max(photo_HWC.shape[:2]) <= _MAX_LOSSLESS_SIDE:
        picture.save(buffer, "PNG", optimize=True)
        return data_url(buffer.getvalue(), "image/png")
    picture.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return data_url(buffer.getvalue(), "image/jpeg")


def map_data(picture: MapPicture, scale: Scale) -> dict[str, Any]:
    """A map as the page's viewer takes it; viewer.js documents the fields at its top."""
    return {
        "photograph": photo_url(picture.photo_HWC),
        **_place(picture.placement),
        "map": _values(picture.map_RC),
        "scale": _scale(scale, picture.map_RC),
        "described": f"{picture.method}, over the photograph {picture.name}",
        "sentence": "Point at a patch to read its value.",
    }


def caption_data(picture: CaptionPicture, scale: Scale) -> dict[str, Any]:
    """A caption as the page's viewer takes it; viewer.js documents the fields at its top."""
    return {
        "photograph": photo_url(picture.photo_HWC),
        **_place(picture.placement),
        "scale": _scale(scale),
        "words": [
            {
                "text": word.text,
                "probability": None if word.probability is None else round(word.probability, 6),
                "map": _values(word.map_RC),
                "particular": not word.grey,
            }
            for word in picture.words
        ],
    }


def prompt_data(picture: CaptionPicture, scale: Scale) -> dict[str, Any]:
    """The prompt's words as :func:`caption_data` gives the caption's."""
    return caption_data(replace(picture, words=picture.prompt), scale)


def _place(placement: Placement) -> dict[str, Any]:
    geometry = placement.geometry
    left, top, right, bottom = geometry.box
    return {
        "size": [geometry.width, geometry.height],
        "grid": [placement.rows, placement.columns],
        "box": [round(each, 3) for each in (left, top, right - left, bottom - top)],
    }


def _scale(scale: Scale, map_RC: npt.ArrayLike | None = None) -> dict[str, Any]:
    ends = scale if map_RC is None else scale.for_map(map_RC)
    low_end = {} if ends.low is None else {"low": ends.low}
    return {"kind": scale.kind, "high": ends.high, **low_end, "label": scale.name}


def _values(map_RC: npt.NDArray[np.floating]) -> dict[str, Any]:
    """An array as base64 of float16, which is finer than any colour."""
    values = np.ascontiguousarray(map_RC, dtype="<f2")
    return {
        "shape": list(values.shape),
        "dtype": "float16",
        "data": base64.b64encode(values.tobytes()).decode("ascii"),
    }


_STYLES = ("theme.css", "report.css")
_SCRIPTS = ("viewer.js", "report.js")


def read_asset(name: str) -> str:
    """The text of one of the page's own files."""
    return files("vitrine.report.page").joinpath(name).read_text("utf-8")


def render_html(document: Document) -> str:
    """The whole HTML page of a document.

    The page's own content security policy forbids everything but what is in it: nothing is requested from anywhere, and
    no script runs but the page's own, whose hash the policy names.
    """
    style = "\n".join(_compress_css(read_asset(name)) for name in _STYLES)
    template = _environment().get_template("report.html.j2")
    page = template.render(
        document=document,
        style=Markup(style),  # noqa: S704  the package's own
        script=Markup(_script()),  # noqa: S704
        policy=content_security_policy(),
        facts=_json(document.facts),
    )
    return printable_words(page)


def content_security_policy() -> str:
    """The content security policy of a report's page."""
    digest = base64.b64encode(hashlib.sha256(_script().encode("utf-8")).digest()).decode("ascii")
    inside = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return f"{inside}; script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


@lru_cache(maxsize=1)
def _script() -> str:
    return "\n".join(read_asset(name) for name in _SCRIPTS)


def _compress_css(style: str) -> str:
    """CSS without comments and indentation."""
    return re.sub(r"\s+", " ", re.sub(r"/\*.*?\*/", "", style, flags=re.DOTALL))


def _json(value: object) -> Markup:
    """JSON that is safe inside a script element, whatever texts it has."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Markup(printable_json(text).replace("<", "\\u003c"))  # noqa: S704


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("vitrine.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["kind"] = lambda block, name: type(block).__name__ == name
    environment.filters |= {
        "svg": lambda figure, name: Markup(figure_svg(figure, name)),  # noqa: S704  matplotlib escapes the text that it draws
        "png_url": lambda figure: data_url(figure_png(figure), "image/png"),
        "map_json": lambda view: _json(map_data(view.picture, view.scale)),
        "caption_json": lambda view: _json(caption_data(view.picture, view.scale)),
        "prompt_json": lambda view: _json(prompt_data(view.picture, view.scale)),
        "numeric": _numeric,
        "isolate": isolate,
        "percent": percent,
    }
    return environment


# Letters of Hebrew, Arabic, Syriac and the other scripts that are written from right to left.
_RIGHT_TO_LEFT = "\u0590-\u08ff\u200f\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff"
_RIGHT_TO_LEFT_RUN = re.compile(f"[{_RIGHT_TO_LEFT}]+(?:[ _.\u200c\u200d-][{_RIGHT_TO_LEFT}]+)*")


def isolate(words: object) -> Markup:
    """Words of a page in which names from right to left do not move what stands beside them: each is a ``bdi``."""
    return Markup(_RIGHT_TO_LEFT_RUN.sub(r"<bdi>\g<0></bdi>", str(escape(words))))  # noqa: S704  it is escaped


_NUMBER = re.compile(r"[−+-]?[\d,.]+( %| pp)?")


def _numeric(table: Table) -> list[Any]:
    """Whether each column has numbers only, which are then aligned to the right."""
    cells = table.cells()
    return [
        any(row[i] != "–" for row in cells) and all(row[i] == "–" or _NUMBER.fullmatch(row[i]) for row in cells)
        for i in range(len(table.columns))
    ]
