"""A caption's figure as a file, which carries its words with their maps: written, and read back with care, as a file
may come from anyone.

Letters: W words, R, C rows and columns of patches.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import numpy.typing as npt
from PIL import Image

from vitrine.attribution.placement import Placement
from vitrine.caption.figures.words import CaptionPicture, WordPanel, caption_figure
from vitrine.data.decode import decode
from vitrine.errors import DataError, PictureError
from vitrine.io.untrusted_files import parse_json, require_shape
from vitrine.plotting.colormap import Scale
from vitrine.plotting.provenance import MAX_PROVENANCE_LENGTH, PREFIX, WORDS, read_provenance
from vitrine.plotting.style import figure_bytes, save

PHOTO_SIDE = 480
"""Pixels of the photograph that a figure's file carries beside the maps."""

_QUALITY = 85  # of that photograph, as JPEG
_MAX_VALUES = 16 << 20  # of all maps of a figure, when they are read
_ROOM = 20_000  # characters of a figure's other texts


class _Word(TypedDict):
    """The shape of one word in a figure's file."""

    text: str
    probability: float | None
    grey: bool


class _Content(TypedDict):
    """The shape of what a figure's file carries; maps are base64 of zlib's bytes of float16 (W, R, C)."""

    caption: str
    question: str
    log_probability: float | None
    method: str
    notes: list[str]
    prompt_line: str
    photo: str
    size: list[float]
    box: list[float]
    grid: list[int]
    high: float
    words: list[_Word]
    prompt: list[_Word]
    maps: str


@dataclass(frozen=True)
class _Geometry:
    """Where the model's input lies on the photograph, as a file says."""

    width: int
    height: int
    box: tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class CaptionFigure:
    """A caption's figure that was read.

    Attributes:
        path: its file.
        provenance: texts by their names without the prefix: model, weights-sha256, command and so on.
        picture: the photograph, smaller, with its words and their maps.
        scale: of the maps' colours.
    """

    path: Path
    provenance: Mapping[str, str]
    picture: CaptionPicture
    scale: Scale


def caption_figure_bytes(picture: CaptionPicture, scale: Scale, kind: str, metadata: Mapping[str, str]) -> bytes:
    """:func:`~vitrine.caption.figures.words.caption_figure` as the bytes of a PNG or SVG file, with its words."""
    return figure_bytes(caption_figure(picture, scale), kind, {**metadata, **words_text(picture, scale)})


def save_caption_figure(picture: CaptionPicture, scale: Scale, path: Path, metadata: Mapping[str, str]) -> None:
    """Write :func:`~vitrine.caption.figures.words.caption_figure` as PNG or SVG, with its words and their maps; see
    :func:`vitrine.plotting.style.save`."""
    save(caption_figure(picture, scale), path, {**metadata, **words_text(picture, scale)})


def words_text(picture: CaptionPicture, scale: Scale) -> dict[str, str]:
    """What a figure's file carries beside its origin, by its name; nothing where that is longer than is ever read."""
    geometry, panels = picture.placement.geometry, [*picture.words, *picture.prompt]
    maps_WRC = np.stack([word.map_RC for word in panels]) if panels else np.zeros((0, 1, 1))
    content: _Content = {
        "caption": picture.caption,
        "question": picture.question,
        "log_probability": picture.log_probability,
        "method": picture.method,
        "notes": list(picture.notes),
        "prompt_line": picture.prompt_line,
        "photo": _photo_text(picture),
        "size": [geometry.width, geometry.height],
        "box": [round(edge, 3) for edge in geometry.box],
        "grid": [picture.placement.rows, picture.placement.columns],
        "high": scale.high,
        "words": [_word(word) for word in picture.words],
        "prompt": [_word(word) for word in picture.prompt],
        "maps": _text(zlib.compress(np.ascontiguousarray(maps_WRC, "<f2").tobytes(), 6)),
    }
    text = json.dumps(content, separators=(",", ":"))  # ASCII alone, which PNG and SVG both hold
    return {WORDS: text} if len(text) <= MAX_PROVENANCE_LENGTH - _ROOM else {}


def _photo_text(picture: CaptionPicture) -> str:
    file = io.BytesIO()
    photo = Image.fromarray(picture.with_smaller_photo(PHOTO_SIDE).photo_HWC)
    photo.save(file, "JPEG", quality=_QUALITY, optimize=True)
    return _text(file.getvalue())


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _word(word: WordPanel) -> _Word:
    probability = None if word.probability is None else round(word.probability, 6)
    return {"text": word.text, "probability": probability, "grey": word.grey}


def is_caption_figure(path: Path) -> bool:
    """Whether a file says that it is a figure of ``vitrine caption`` or ``ask``."""
    try:
        return read_provenance(path).get(f"{PREFIX}figure") == "caption"
    except DataError:
        return False


def read_caption_figure(path: Path) -> CaptionFigure:
    """A caption with its maps from its figure's file. What it states is not verified: whoever writes it can state
    anything.

    Raises:
        DataError: it is no figure of ``vitrine caption`` or ``ask``, or its words cannot be read.
    """
    texts = read_provenance(path)
    if texts.get(f"{PREFIX}figure") != "caption":
        shows = texts.get(f"{PREFIX}figure") or "something else"
        raise DataError(f"{path} shows {shows[:60]!r}: expected a figure that vitrine caption or vitrine ask wrote.")
    if WORDS not in texts:
        raise DataError(
            f"{path} has no words in its file: an older version wrote it, or its maps are too many.\n"
            "Draw it anew with this version, or ask for fewer words with --max-pieces."
        )
    provenance = {key.removeprefix(PREFIX): text for key, text in texts.items() if key != WORDS}
    try:
        content = require_shape(parse_json(texts[WORDS]), _Content)
        picture = _picture(content, provenance)
        if not (math.isfinite(content["high"]) and content["high"] > 1):
            raise ValueError(f"its scale ends at {content['high']}")
    except (ValueError, PictureError, binascii.Error, zlib.error, ArithmeticError) as error:
        raise DataError(f"{path} cannot be read: its words are not what vitrine writes ({error}).") from error
    return CaptionFigure(path, provenance, picture, Scale("uniform", content["high"]))


def _picture(content: _Content, provenance: Mapping[str, str]) -> CaptionPicture:
    words, prompt = content["words"], content["prompt"]
    rows, columns = _counts(content["grid"])
    maps_WRC = _maps(content["maps"], (len(words) + len(prompt), rows, columns))
    panels = [
        WordPanel(word["text"], _share(word["probability"]), map_RC, word["grey"])
        for word, map_RC in zip([*words, *prompt], maps_WRC, strict=True)
    ]
    return CaptionPicture(
        photo_HWC=np.asarray(decode(base64.b64decode(content["photo"], validate=True), max_pixels=PHOTO_SIDE**2)),
        placement=Placement(_geometry(content), rows, columns),
        caption=content["caption"],
        words=tuple(panels[: len(words)]),
        name=Path(provenance.get("picture", "")).name,
        log_probability=_finite(content["log_probability"]),
        method=content["method"],
        notes=tuple(content["notes"]),
        model=provenance.get("model", ""),
        prompt=tuple(panels[len(words) :]),
        prompt_line=content["prompt_line"],
        question=content["question"],
    )


def _counts(grid: Sequence[int]) -> tuple[int, int]:
    if len(grid) != 2 or min(grid) < 1 or math.prod(grid) > _MAX_VALUES:
        raise ValueError(f"its grid is {list(grid)[:4]}")
    return grid[0], grid[1]


def _geometry(content: _Content) -> _Geometry:
    numbers = [*content["size"], *content["box"]]
    if len(numbers) != 6 or not all(math.isfinite(number) for number in numbers):
        raise ValueError("its photograph has no size")
    width, height, left, top, right, bottom = numbers
    if min(width, height) < 1 or left >= right or top >= bottom or min(right, bottom) <= 0 or left >= width:
        raise ValueError("its photograph and its maps do not lie on one another")
    return _Geometry(int(width), int(height), (left, top, right, bottom))


def _maps(text: str, shape: tuple[int, int, int]) -> npt.NDArray[np.float32]:
    """Maps (W, R, C); no more is unpacked than maps of that shape have."""
    size = 2 * math.prod(shape)
    if math.prod(shape) > _MAX_VALUES:
        raise ValueError("it has more maps than are read")
    unpacker = zlib.decompressobj()
    data = unpacker.decompress(base64.b64decode(text, validate=True), size + 1)
    if len(data) != size:
        raise ValueError("its maps have another size than its words and its grid say")
    return np.frombuffer(data, "<f2").astype(np.float32).reshape(shape)


def _share(probability: float | None) -> float | None:
    if probability is not None and not 0 <= probability <= 1:
        raise ValueError(f"a word has the probability {probability}")
    return probability


def _finite(value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise ValueError(f"its log-probability is {value}")
    return value
