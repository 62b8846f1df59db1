"""The programs in model cards give a picture the run's pixels: whatever its mode, however it is resized and cropped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.odd_pictures import odd_pictures

from vitrine.classify.inference import eval_transform
from vitrine.config.preprocessing import CROP_MODES, InputSpec
from vitrine.data.decode import TREATMENTS, decode, describe
from vitrine.data.loader import normalise
from vitrine.export.compare import describe_input
from vitrine.runs.model_card import model_card, read_card_facts
from vitrine.runs.model_card_sections import CardFacts, ExportFacts

PICTURES = odd_pictures()


@pytest.fixture(scope="module")
def facts(small_run: Path) -> CardFacts:
    return read_card_facts(small_run)


def program(facts: CardFacts, to: str, spec: InputSpec | None = None) -> str:
    """The program of the card of an export."""
    config = facts.config
    if spec is not None:
        config = {**config, "pretrained_cfg": {**config["pretrained_cfg"], **spec.to_timm()}}
    card = model_card(replace(facts, config=config, export=ExportFacts(to, "folder", "fp32", ())))
    (text,) = (part.partition("```")[0] for part in card.split("```python\n")[1:])
    return text


def open_picture(facts: CardFacts, to: str) -> Any:
    """The function of that name in a card's program."""
    text = program(facts, to)
    start = text.index("def open_picture")
    names: dict[str, Any] = {}
    exec("import numpy as np\nfrom PIL import Image, ImageOps\n" + text[start : text.index("\n\n\n", start)], names)
    return names["open_picture"]


@pytest.mark.parametrize("to", ["timm", "hf", "onnx", "pt2"])
def test_every_card_opens_pictures_in_the_same_way(facts: CardFacts, to: str) -> None:
    texts = {program(facts, each).partition("def open_picture")[2].partition("\n\n\n")[0] for each in ("timm", to)}
    assert len(texts) == 1 and "has_transparency_data" in texts.pop()


@pytest.mark.parametrize("name", PICTURES)
def test_the_program_opens_a_picture_as_vitrine_does(name: str, facts: CardFacts, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes(PICTURES[name])
    theirs = open_picture(facts, "timm")(file)
    assert theirs.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(theirs), np.asarray(decode(PICTURES[name])))


def test_the_pictures_are_of_every_special_kind() -> None:
    kinds = {kind for data in PICTURES.values() for kind in describe(data).kinds}
    assert kinds | {"colour profile"} == set(TREATMENTS)
    modes = {describe(data).mode for data in PICTURES.values()}
    assert {"1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I"} <= modes


def test_to_convert_at_once_gives_other_pixels(tmp_path: Path) -> None:
    """What a card must not say: transparent and deep pictures become other ones."""
    differences = {}
    for name, data in PICTURES.items():
        file = tmp_path / name
        file.write_bytes(data)
        with Image.open(file) as image:
            plain = image.convert("RGB")
        if plain.size == decode(data).size and "turned" not in name:
            differences[name] = np.abs(np.asarray(plain).astype(int) - np.asarray(decode(data))).max()
    assert differences["rgba.png"] > 100 and differences["palette, one colour clear.png"] > 50
    assert differences["rgb.jpg"] == differences["cmyk.jpg"] == 0


@pytest.mark.parametrize("mode", CROP_MODES)
@pytest.mark.parametrize(
    ("size", "crop", "interpolation"),
    [
        ((32, 32), 0.9, "bicubic"),
        ((32, 32), 1.0, "bilinear"),
        ((24, 40), 0.875, "lanczos"),
        ((40, 24), 1.15, "nearest"),
    ],
)
def test_the_program_prepares_a_picture_as_the_run_does(
    mode: str, size: tuple[int, int], crop: float, interpolation: str, facts: CardFacts, tmp_path: Path
) -> None:
    spec = InputSpec(size, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), crop, mode, interpolation)
    text = program(facts, "pt2", spec)
    text = text[text.index("def open_picture") : text.index("with torch.inference_mode")]
    metadata = {"input": json.loads(json.dumps(describe_input(spec)))}
    for width, height in ((67, 45), (45, 67), (20, 23), (151, 30)):
        rng = np.random.default_rng((width, height))
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(tmp_path / "picture.png")
        names: dict[str, Any] = {"metadata": metadata}
        start = "import math\nimport numpy as np\nfrom PIL import Image, ImageOps\n"
        exec(start + text.replace('"picture.jpg"', repr(str(tmp_path / "picture.png"))), names)
        pixels_HWC = torch.from_numpy(eval_transform(spec)(decode((tmp_path / "picture.png").read_bytes())))
        ours = normalise(pixels_HWC.permute(2, 0, 1)[None], spec.mean, spec.std)
        torch.testing.assert_close(torch.from_numpy(names["pixels"]), ours, rtol=0, atol=2e-6)
