"""The origin of a figure in its file's metadata: written, and read back with care, as a file may come from anyone."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from xml.parsers import expat

from PIL import Image

from vitrine.errors import DataError, error_summary
from vitrine.io.file_names import fit_path
from vitrine.io.limits import limit
from vitrine.version import __version__

PREFIX = "vitrine:"

WORDS = f"{PREFIX}words"
"""The text that a caption's figure carries beside its origin; see :mod:`vitrine.caption.figures.figure_file`."""

_PNG = b"\x89PNG\r\n\x1a\n"
MAX_PROVENANCE_LENGTH = limit("MAX_PROVENANCE_LENGTH", 1_000_000)
"""Characters of all texts in a figure's file, when they are read."""

MAX_FIGURE_BYTES = limit("MAX_FIGURE_BYTES", 256 << 20)
"""Bytes of a figure's file, when its texts are read."""
_HEAD = 4_000_000  # bytes of an SVG in which its metadata must end; matplotlib writes them first
_STEP = 65_536
_NAMESPACES = {
    "http://www.w3.org/2000/svg": "svg",
    "http://purl.org/dc/elements/1.1/": "dc",
    "http://creativecommons.org/ns#": "cc",
    "http://www.w3.org/1999/02/22-rdf-syntax-ns#": "rdf",
}
_DESCRIPTION = "dc:description"
_CREATOR = ("dc:creator", "cc:Agent", "dc:title")


@dataclass(frozen=True)
class Provenance:
    """What a figure shows and how it was made. None is what does not apply, and is not written.

    Attributes:
        figure: its kind, for example "attention map".
        version: of vitrine.
        model: the model reference.
        weights_sha256: of the weights file.
        picture: path or name of the picture.
        picture_sha256: of its file.
        method: of the map, for example "attention".
        layer: for example "11 of 0 to 11".
        heads: for example "mean".
        target: the class that is explained.
        precision: ``fp32`` or ``bf16``.
        options: whatever else was set, JSON-ready.
        command: what draws the figure again, quoted for a shell (``shlex.join``).
    """

    figure: str
    version: str = __version__
    model: str | None = None
    weights_sha256: str | None = None
    picture: str | None = None
    picture_sha256: str | None = None
    method: str | None = None
    layer: str | None = None
    heads: str | None = None
    target: str | None = None
    precision: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    command: str | None = None

    def to_metadata(self) -> dict[str, str]:
        r"""Texts for :func:`vitrine.plotting.style.save`, by "vitrine:figure", "vitrine:weights-sha256" and so on.

        Bytes of file names that are not UTF-8 become ``\xNN``, and characters that no PNG or SVG can hold ``\uNNNN``.
        """
        texts = {}
        for attribute in fields(self):
            value = getattr(self, attribute.name)
            if attribute.name == "options":
                value = json.dumps(dict(value), ensure_ascii=False, sort_keys=True) if value else None
            if value is not None:
                texts[f"{PREFIX}{attribute.name.replace('_', '-')}"] = _storable(str(value))
        return texts


def file_metadata(kind: str, texts: Mapping[str, str]) -> dict[str, Any]:
    """What matplotlib's ``savefig`` writes into a figure's file, vitrine's version among it.

    :func:`read_provenance` reads it back.

    Args:
        kind: "png", where every text is a chunk of its own, or "svg", where all are one JSON object in the
            ``dc:description``.
        texts: by name, as :meth:`Provenance.to_metadata` gives them, or others.
    """
    software = f"vitrine {__version__}"
    if kind == "png":
        return {"Software": software, **texts}
    return {"Creator": software, "Date": None, "Description": json.dumps(dict(texts), ensure_ascii=False)}


def read_provenance(path: Path) -> dict[str, str]:
    """All texts of a figure that vitrine wrote, "Software" among them, as they are in the file.

    The file may come from anyone: nothing in it is fetched, expanded or decoded beyond its texts, and it is read up to
    fixed limits. Texts may hold any characters, so escape them before they reach a terminal.

    Raises:
        DataError: the file cannot be read, is damaged, or is no PNG or SVG figure of vitrine's.
    """
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"{path} is not a file: expected a figure that vitrine wrote.")
        with path.open("rb") as file:
            head = file.read(512)
            size = file.seek(0, 2)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    if size > MAX_FIGURE_BYTES:
        raise DataError(
            f"{path} is {size:,} bytes long, too long for a figure of vitrine ({MAX_FIGURE_BYTES:,} at most)."
        )
    if head.startswith(_PNG):
        texts = _png_texts(path)
    elif head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<"):
        texts = _svg_texts(path)
    else:
        raise DataError(f"{path} is neither a PNG nor an SVG file: expected a figure that vitrine wrote.")
    if not texts.get("Software", "").startswith("vitrine "):
        by = f" (it says {texts['Software'][:60]!r})" if texts.get("Software") else ""
        raise DataError(
            f"{path} is not a figure of vitrine{by}, or its metadata were lost, for example in a screenshot or an "
            "upload.\nExpected the PNG or SVG file as vitrine wrote it."
        )
    return texts


def _png_texts(path: Path) -> dict[str, str]:
    """Text chunks before the picture's data. Pillow limits what compressed ones may expand to."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=("PNG",)) as picture:
            texts = {str(key): str(value) for key, value in picture.info.items() if isinstance(value, str)}
    except Exception as error:  # parsers of foreign bytes raise far more than they document
        reason = error_summary(error, 120)
        raise DataError(f"{path} is a damaged PNG file: {reason}.") from error
    return _limit_length(path, texts)


def _svg_texts(path: Path) -> dict[str, str]:
    """The creator and the JSON object in the description of an SVG's metadata."""
    reader = _MetadataReader()
    try:
        with path.open("rb") as file:
            while not reader.done and file.tell() < _HEAD:
                chunk = file.read(_STEP)
                reader.feed(chunk)
                if not chunk:
                    break
        description = json.loads(reader.texts.get(_DESCRIPTION) or "{}")
    except Exception as error:  # an encoding that Python does not know is a LookupError, and there will be others
        reason = error_summary(error, 120)
        raise DataError(f"{path} is no SVG figure that can be read: {reason}.") from error
    if not isinstance(description, dict) or not all(isinstance(value, str) for value in description.values()):
        raise DataError(f"{path} is not a figure of vitrine: its description is not what vitrine writes.")
    creator = reader.texts.get("Software")
    return _limit_length(path, {**({"Software": creator} if creator else {}), **description})


class _MetadataReader:
    """Reads an SVG up to the end of its first ``metadata`` element.

    matplotlib's SVGs name the public SVG 1.1 DTD, which expat does not fetch. Declarations within the file, of which
    entity bombs (CWE-776) are made, are refused before one of them is read.
    """

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.done = False
        self._open: list[str] = []
        self._pieces: list[str] = []
        self._length = 0
        self._parser = expat.ParserCreate(namespace_separator=" ")
        self._parser.StartDoctypeDeclHandler = self._doctype
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text

    def feed(self, chunk: bytes) -> None:
        if not self.done:
            self._parser.Parse(chunk, not chunk)

    def _doctype(self, _name: str, _system: str | None, _public: str | None, has_subset: bool) -> None:
        if has_subset:
            raise ValueError("it declares its own document type")

    def _start(self, name: str, _attributes: dict[str, str]) -> None:
        namespace, _, local = name.rpartition(" ")
        self._open.append(f"{_NAMESPACES.get(namespace, '?')}:{local}")
        if len(self._open) > 50:
            raise ValueError("its elements are nested too deeply")
        self._pieces = []

    def _end(self, _name: str) -> None:
        if not self.done and "svg:metadata" in self._open:
            if self._open[-1] == _DESCRIPTION:
                self.texts.setdefault(_DESCRIPTION, "".join(self._pieces))
            if tuple(self._open[-3:]) == _CREATOR:
                self.texts.setdefault("Software", "".join(self._pieces))
        self.done = self.done or self._open[-1] == "svg:metadata"
        self._open.pop()
        self._pieces = []

    def _text(self, text: str) -> None:
        if self.done or not self._open or (self._open[-1] != _DESCRIPTION and tuple(self._open[-3:]) != _CREATOR):
            return
        self._length += len(text)
        if self._length > MAX_PROVENANCE_LENGTH:
            raise ValueError("its description is too long")
        self._pieces.append(text)


def _limit_length(path: Path, texts: dict[str, str]) -> dict[str, str]:
    if sum(len(key) + len(value) for key, value in texts.items()) > MAX_PROVENANCE_LENGTH:
        raise DataError(
            f"{path} is not a figure of vitrine: it carries more than {MAX_PROVENANCE_LENGTH:,} characters of text."
        )
    return texts


def _storable(text: str) -> str:
    """Text that both a PNG and an SVG can hold: no bytes that are not UTF-8, no zero, no XML non-characters."""
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(f"\\u{ord(c):04x}" if c in "\0\ufffe\uffff" else c for c in text)


def figure_names(pictures: Sequence[str], kind: str, reserved_stems: Sequence[str] = ()) -> Mapping[str, str]:
    """A figure's path for every picture: its own with another ending, or with both where two would collide.

    Parts of it that would be longer than a file system allows are cut; see :mod:`vitrine.io.file_names`.

    Args:
        pictures: their names.
        kind: the figures' ending, without the dot.
        reserved_stems: stems that other files need.
    """
    names = FigureNames(kind, reserved_stems)
    return {name: names[name] for name in pictures}


def figures_of(samples: Iterable[Any], kind: str, reserved_stems: Sequence[str] = ()) -> Mapping[str, str]:
    """As :func:`figure_names`, of samples; of those that come one by one, a figure's path when it is asked for."""
    if isinstance(samples, Sequence):
        return figure_names([sample.name for sample in samples], kind, reserved_stems)
    return FigureNames(kind, reserved_stems)


class FigureNames(dict[str, str]):
    """As :func:`figure_names`, of pictures that come one by one: each has its figure's path when it is first asked for.

    Args:
        kind: the figures' ending, without the dot.
        reserved_stems: stems that other files need.
    """

    def __init__(self, kind: str, reserved_stems: Sequence[str] = ()) -> None:
        super().__init__()
        self._kind, self._used = kind, set(reserved_stems)

    def __missing__(self, name: str) -> str:
        stem = name.rpartition(".")[0] or name
        figure_stem = stem if stem not in self._used else name
        self._used.add(figure_stem)
        self[name] = fit_path(figure_stem, f".{self._kind}")
        return self[name]


def plain_stem(name: str) -> str:
    """A file name's stem, or an anchor of a page, of letters, digits and ``._-`` alone."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:60].strip("-.") or "unnamed"
