"""A caption's figure as a file: its words and maps come back as they were drawn, and foreign files are refused."""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from support.figures import blob, photo

from vitrine.attribution.placement import Placement
from vitrine.caption.figures import figure_file
from vitrine.caption.figures.figure_file import is_caption_figure, read_caption_figure, save_caption_figure, words_text
from vitrine.caption.figures.words import CaptionPicture, WordPanel
from vitrine.errors import DataError
from vitrine.explain.inspect import inspect_figure
from vitrine.plotting.colormap import Scale
from vitrine.plotting.provenance import WORDS, Provenance

SCALE = Scale("uniform", 5.0)
ORIGIN = Provenance(
    "caption", model="some/model", weights_sha256="ab" * 32, picture="in/girl ☃.png", command="vitrine x"
)


@pytest.fixture(scope="module")
def picture() -> CaptionPicture:
    maps = [blob(3, 5, 0.2, 0.8, 0.1), np.full((3, 5), np.nan, np.float32), 40 * blob(3, 5, 0.9, 0.1, 0.2)]
    words = tuple(
        WordPanel(text, share, map_RC, grey)
        for text, share, map_RC, grey in zip(
            ("a", "日本", "<b>"), (0.5, 1e-7, 1.0), maps, (False, True, False), strict=True
        )
    )
    geometry = figure_file._Geometry(900, 600, (30.5, -20.0, 870.25, 620.0))
    return CaptionPicture(
        photo(900, 600), Placement(geometry, 3, 5), "a 日本 <b>", words, name="girl ☃.png", log_probability=-3.25,
        method="attention", notes=("Asked: what?",), model="some/model", prompt=(WordPanel("what?", None, maps[0]),),
        prompt_line="The prompt.", question="what?",
    )  # fmt: skip


@pytest.fixture(scope="module")
def figure(picture: CaptionPicture, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("out") / "girl.png"
    save_caption_figure(picture, SCALE, path, ORIGIN.to_metadata())
    return path


def test_words_and_maps_come_back(picture: CaptionPicture, figure: Path) -> None:
    read = read_caption_figure(figure)
    again = read.picture
    for attribute in ("caption", "name", "log_probability", "method", "notes", "model", "prompt_line", "question"):
        assert getattr(again, attribute) == getattr(picture, attribute)
    for one, other in zip([*picture.words, *picture.prompt], [*again.words, *again.prompt], strict=True):
        assert (one.text, one.grey) == (other.text, other.grey)
        assert one.probability is other.probability or one.probability == pytest.approx(other.probability, abs=1e-6)
        np.testing.assert_allclose(other.map_RC, one.map_RC, rtol=1e-3)  # float16
    assert again.placement.geometry.box == picture.placement.geometry.box
    assert (again.placement.rows, again.placement.columns) == (3, 5)
    assert again.photo_HWC.shape == (320, 480, 3)
    expected = np.asarray(Image.fromarray(picture.photo_HWC).resize((480, 320), Image.Resampling.LANCZOS), float)
    assert np.abs(again.photo_HWC - expected).mean() < 8
    assert (read.scale, read.provenance["weights-sha256"]) == (SCALE, "ab" * 32)


def test_an_svg_carries_them_too(picture: CaptionPicture, figure: Path, tmp_path: Path) -> None:
    save_caption_figure(picture, SCALE, tmp_path / "girl.svg", ORIGIN.to_metadata())
    one, other = read_caption_figure(figure), read_caption_figure(tmp_path / "girl.svg")
    np.testing.assert_array_equal(one.picture.words[2].map_RC, other.picture.words[2].map_RC)
    assert one.picture.words[1].text == other.picture.words[1].text


def test_inspect_does_not_print_them(figure: Path) -> None:
    text = inspect_figure(figure).text()
    assert "some/model" in text
    assert max(map(len, text.splitlines())) < 200


def test_words_without_a_map_or_a_word(picture: CaptionPicture, tmp_path: Path) -> None:
    save_caption_figure(
        replace(picture, words=(), prompt=(), caption=""), SCALE, tmp_path / "x.png", ORIGIN.to_metadata()
    )
    assert read_caption_figure(tmp_path / "x.png").picture.words == ()


def test_too_many_maps_are_left_out_and_said_so(
    picture: CaptionPicture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figure_file, "MAX_PROVENANCE_LENGTH", figure_file._ROOM + 100)
    assert words_text(picture, SCALE) == {}
    save_caption_figure(picture, SCALE, tmp_path / "x.png", ORIGIN.to_metadata())
    with pytest.raises(
        DataError, match="has no words in its file: an older version wrote it, or its maps are too many"
    ):
        read_caption_figure(tmp_path / "x.png")
    assert is_caption_figure(tmp_path / "x.png")


def foreign(path: Path, text: str, kind: str = "caption") -> Path:
    info = PngInfo()
    for key, value in {"Software": "vitrine 9", "vitrine:figure": kind, WORDS: text}.items():
        info.add_text(key, value)
    Image.new("RGB", (4, 4)).save(path, pnginfo=info)
    return path


def bomb(size: int) -> str:
    return base64.b64encode(zlib.compress(bytes(size), 9)).decode()


CHANGES: dict[str, dict[str, Any]] = {
    "a grid of 0": {"grid": [0, 5]},
    "a grid of three": {"grid": [3, 5, 1]},
    "a huge grid": {"grid": [10**6, 10**6]},
    "another grid": {"grid": [4, 5]},
    "maps that unpack to more": {"maps": bomb(1 << 24)},
    "maps that are no base64": {"maps": "*"},
    "maps that are not packed": {"maps": base64.b64encode(b"abc").decode()},
    "a size of no number": {"size": [float("nan"), 2]},
    "a box beside the photograph": {"box": [901, 0, 950, 10]},
    "a box upside down": {"box": [0, 10, 10, 0]},
    "a box of three": {"box": [0, 10, 10]},
    "a photograph that is none": {"photo": base64.b64encode(b"GIF89a").decode()},
    "a scale without end": {"high": float("inf")},
    "words of another shape": {"words": [{"text": 7}]},
    "a probability of 2": {"words": [{"text": "a", "probability": 2.0, "grey": False}] * 3},
    "a log-probability of no number": {"log_probability": float("nan")},
    "no caption": {"caption": None},
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES.values(), ids=[*CHANGES])
def test_what_is_not_vitrines_is_refused(change: dict[str, Any], picture: CaptionPicture, tmp_path: Path) -> None:
    content = json.loads(words_text(picture, SCALE)[WORDS])
    read_caption_figure(foreign(tmp_path / "right.png", json.dumps(content)))
    with pytest.raises(DataError, match="its words are not what vitrine writes"):
        read_caption_figure(foreign(tmp_path / "wrong.png", json.dumps(content | change)))


def test_other_figures_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="shows 'attention map': expected a figure that vitrine caption or vitrine ask"):
        read_caption_figure(foreign(tmp_path / "x.png", "{}", "attention map"))
    assert not is_caption_figure(tmp_path / "missing.png")
    with pytest.raises(DataError, match="no JSON"):
        read_caption_figure(foreign(tmp_path / "y.png", "{"))
