"""Google's .npz files: arrays that are missing or left over, and the representation layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from support.checkpoints import expect_error
from support.format_makers import (
    google,
)

from vitrine.models.load import load_model


def test_a_new_head_is_not_the_files_where_the_files_reads_a_representation(tmp_path: Path) -> None:
    case = google(tmp_path, represented=True)
    arrays = dict(np.load(case.reference))
    arrays["head/kernel"] = arrays["head/kernel"][:, :37]
    arrays |= {"pre_logits/kernel": np.eye(48, dtype=np.float32), "pre_logits/bias": np.zeros(48, np.float32)}
    arrays["head/kernel"] = np.full((48, 37), 3.0, np.float32)  # of the shape that timm's reader would take
    np.savez(case.reference, **arrays)
    model = load_model(str(case.reference), pretrained=True, num_classes=37)
    assert not (model.module.head.weight == 3).any()


def test_arrays_of_googles_that_are_missing_or_left_over(tmp_path: Path) -> None:
    case = google(tmp_path)
    arrays = dict(np.load(case.reference))
    np.savez(case.reference, **{name: value for name, value in arrays.items() if "1/LayerNorm_2/bias" not in name})
    expect_error(case.reference, "but lacks Transformer/encoderblock_1/LayerNorm_2/bias")
    np.savez(case.reference, **arrays, extra=np.zeros(2))
    expect_error(case.reference, "but also has extra")
    np.savez(case.reference, **arrays, **{"conv_root/kernel": np.zeros(2)})
    expect_error(case.reference, "a hybrid")
