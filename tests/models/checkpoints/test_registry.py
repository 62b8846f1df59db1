"""Every format that models are passed on in: opened, and compared with the library that it is of."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from support.format_makers import CASES
from support.paths import CHECKOUT
from support.readouts import require_true_readout

from vitrine.attribution.attention import attention_map
from vitrine.classify.model import open_classifier
from vitrine.models.checkpoints.registry import FORMATS, formats_table


@pytest.mark.parametrize("name", CASES)
def test_a_model_of_every_format_gives_its_own_librarys_logits(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    case = CASES[name](tmp_path)
    model = open_classifier(str(case.reference), "fp32")
    big = case.size > 200  # one picture is enough where it takes seconds
    pixels = torch.randn(1 if big else 2, 3, case.size, case.size, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected, logits = case.logits(pixels), model.module(pixels)
    assert logits.shape == (len(pixels), 37) and expected.std() > 0.1
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    assert model.labels == case.labels
    spec = model.spec
    assert (spec.size, spec.mean, spec.crop) == ((case.size,) * 2, case.mean, pytest.approx(case.crop))
    assert case.architecture in ("", model.loaded_model.reference.architecture)
    for note in case.notes:
        assert any(re.search(note, text) for text in model.loaded_model.notes), (note, model.loaded_model.notes)
    if not big:  # attention is recorded inside the same module, of what noise shows its head to read
        require_true_readout(model.module, pixels[:1])
        scores_BRC = attention_map(model.module, pixels[:1]).scores_BRC
        assert scores_BRC.shape[1] == scores_BRC.shape[2] and 0 < float(scores_BRC.sum()) <= 1.001


def test_the_table_has_no_format_that_nothing_opens() -> None:
    case_names = {"weights in timm's names": "timm file", "timm": "timm folder"}
    for one in FORMATS:
        if one.name not in ("DINO", "DINOv3", "OpenCLIP"):  # which have no classifier: see the tests of their modules
            assert any(name.startswith(case_names.get(one.name, one.name)) for name in CASES), one.name


def test_the_page_of_formats_has_the_table_of_the_code() -> None:
    assert formats_table() in (CHECKOUT / "docs" / "formats.md").read_text("utf-8"), (
        "write vitrine.models.checkpoints.registry.formats_table()"
    )
