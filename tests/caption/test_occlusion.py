"""Occlusion of every cell in batches, beside a loop over pixels that are painted by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.tiny_vlms import photographs, reload_vlm, save_tiny_vlm

from vitrine.attribution.placement import Placement
from vitrine.caption import occlusion
from vitrine.caption.decoding import DecodedCaption
from vitrine.caption.model import open_captioner
from vitrine.caption.occlusion import covered_photographs, occlusion_maps
from vitrine.config.preprocessing import CaptionInput
from vitrine.data.captions.transforms import CaptionTransform, WholeGeometry, colour_of

IDS = (30, 41, 52)


@pytest.mark.parametrize("kind", ["llava", "qwen2_vl"])
def test_a_cell_is_worth_what_a_loop_says(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each covered photograph by itself, through the library's processor and one forward pass of the whole answer."""
    monkeypatch.setattr(occlusion, "CELLS_AT_ONCE", 5)  # parts that do not divide the cells
    save_tiny_vlm(kind, tmp_path)
    captioner = open_captioner(str(tmp_path))
    model, processor = reload_vlm(tmp_path)
    (photo,) = photographs((50, 50))
    layout = captioner.transform.geometry(*photo.size)
    rows, columns = layout.rows, layout.columns
    caption = DecodedCaption(IDS, (0.0,) * 3, None, np.zeros((3, 1, 1, rows * columns), np.float32), (rows, columns),
                             (rows, columns))  # fmt: skip
    with torch.inference_mode():
        maps_TRC = occlusion_maps(captioner, photo, caption).reshape(3, rows, columns)

    def log_probabilities(picture: Image.Image) -> np.ndarray:
        inputs = processor(images=[picture], text=[captioner.transform.text], return_tensors="pt")
        inputs = {name: value for name, value in inputs.items() if name != "labels"}
        length = inputs["input_ids"].shape[1]
        inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([IDS])], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        if "mm_token_type_ids" in inputs:
            inputs["mm_token_type_ids"] = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, len(IDS)))
        with torch.no_grad():
            logits_TV = model(**inputs).logits[0, length - 1 : -1].double()
        return logits_TV.log_softmax(-1)[torch.arange(len(IDS)), list(IDS)].numpy()

    whole_T, mean = log_probabilities(photo), [round(255 * value) for value in processor.image_processor.image_mean]
    falls = []
    left, top, right, bottom = layout.box
    for row in range(rows):
        for column in range(columns):
            pixels_HWC = np.array(photo)
            y0, y1 = (top + (bottom - top) * at / rows for at in (row, row + 1))
            x0, x1 = (left + (right - left) * at / columns for at in (column, column + 1))
            for y in range(50):
                for x in range(50):
                    if y + 1 > y0 and y < y1 and x + 1 > x0 and x < x1:  # the pixel and the cell overlap
                        pixels_HWC[y, x] = mean
            falls.append(np.maximum(whole_T - log_probabilities(Image.fromarray(pixels_HWC)), 0))
    expected_TRC = np.stack(falls, 1).reshape(3, rows, columns)
    assert expected_TRC.max() > 1e-3
    np.testing.assert_allclose(maps_TRC, expected_TRC, atol=2e-5)


def test_every_pixel_is_covered_and_borders_are_not_photographs() -> None:
    photo = Image.fromarray(np.full((30, 41, 3), 200, np.uint8))
    geometry = WholeGeometry(41, 30, 41, 30)
    times_HW = np.zeros((30, 41), int)
    for _, _, picture in covered_photographs(photo, Placement(geometry, 7, 4), (1, 2, 3)):
        pixels_HWC = np.array(picture)
        is_covered_HW = (pixels_HWC == (1, 2, 3)).all(-1)
        assert (pixels_HWC[~is_covered_HW] == 200).all()
        times_HW += is_covered_HW
    assert times_HW.min() == 1 and times_HW.max() <= 4
    assert (np.array(photo) == 200).all()


def test_a_normalisations_mean_as_a_colour() -> None:
    assert colour_of((0.5, 0.25, 1.0), 1 / 255) == (128, 64, 255)
    assert colour_of((0.0,), 1 / 127.5) == (0, 0, 0)
    assert CaptionTransform(CaptionInput()).mean_colour == (128, 128, 128)
