"""Models, maps and captions pickle and copy: in another process they are what they were here."""

from __future__ import annotations

import copy
import os
import pickle
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from support.tiny_captioners import save_tiny

import vitrine
from vitrine.errors import ModelError, UsageError

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8))


def answers(file: Path) -> dict[str, Any]:
    """What things that were pickled say, in whatever process this is."""
    things = pickle.loads(file.read_bytes())
    seen, caption = things["map"], things["caption"]
    return {
        "process": os.getpid(),
        "logits": [things[name].predict(PICTURE).logits for name in ("on disk", "in memory")],
        "words": things["captioner"].caption(PICTURE).text,
        "map": seen.map,
        "pixels": seen.pixels_CHW.numpy(),
        "caption": (caption.text, [word.map for word in caption.words]),
        "figures": (seen._repr_png_(), caption._repr_png_()),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captioner")
    save_tiny("git", folder)
    return folder


@pytest.fixture(scope="module")
def things(folder: Path) -> dict[str, Any]:
    torch.manual_seed(0)
    module = timm.create_model("vit_tiny_patch16_224", num_classes=2, img_size=32, depth=1)
    model, captioner = vitrine.load("vitrine/scenes-tiny"), vitrine.load(folder)
    return {
        "on disk": model,
        "in memory": vitrine.load(module, labels=["a", "b"]),
        "captioner": captioner,
        "map": model.explain(PICTURE),
        "caption": captioner.caption(PICTURE),
    }


def test_another_process_has_the_same(things: dict[str, Any], warm_python: str, tmp_path: Path) -> None:
    """What comes back from it is compared, and what it was asked with is unhurt."""
    (tmp_path / "things").write_bytes(pickle.dumps(things))
    here = answers(tmp_path / "things")
    answer = (
        "import pickle, sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import test_model_pickle as t; "
    )
    answer += "Path(sys.argv[3]).write_bytes(pickle.dumps(t.answers(Path(sys.argv[2]))))"
    command = [warm_python, "-c", answer, str(Path(__file__).parent), str(tmp_path / "things"), str(tmp_path / "said")]
    subprocess.run(command, check=True)
    there = pickle.loads((tmp_path / "said").read_bytes())
    assert there["process"] != here["process"]
    assert (there["words"], there["caption"][0]) == (here["words"], things["caption"].text)
    for name in ("logits", "map", "pixels"):
        for one, other in zip(there[name], here[name], strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)
    for one, other in zip(there["caption"][1], here["caption"][1], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert there["figures"] == here["figures"] == (things["map"]._repr_png_(), things["caption"]._repr_png_())
    np.testing.assert_array_equal(here["logits"][1], things["in memory"].predict(PICTURE).logits)


def test_a_deep_copy_has_weights_of_its_own(things: dict[str, Any]) -> None:
    copies = copy.deepcopy(things)
    before = things["in memory"].predict(PICTURE).logits
    with torch.no_grad():
        for each in ("in memory", "on disk"):
            copies[each].classifier.module.head.weight.zero_()
        copies["map"]._explainer.classifier.module.head.weight.zero_()
    np.testing.assert_array_equal(things["in memory"].predict(PICTURE).logits, before)
    assert copies["in memory"].classifier.module is copies["in memory"].classifier.loaded_model.module
    assert copies["captioner"].caption(PICTURE).text == things["caption"].text == copies["caption"].text
    np.testing.assert_array_equal(copies["map"].map, things["map"].map)


def test_a_caption_needs_no_model(things: dict[str, Any]) -> None:
    """One of a model of gigabytes pickles as a picture and its maps."""
    photo_bytes = 3 * 40 * 50
    weights_bytes = 4 * sum(each.numel() for each in things["captioner"].captioner.module.parameters())
    size = len(pickle.dumps(things["captioner"].caption(PICTURE)))
    assert photo_bytes < size < 5 * photo_bytes < weights_bytes


def test_what_cannot_be_pickled_gets_a_sentence(things: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    module = things["in memory"].classifier.module
    handle = module.blocks[0].register_forward_hook(lambda *_: None)
    try:
        with pytest.raises(
            UsageError, match=r"has a hook .*<lambda> at blocks\.0, which cannot be pickled\.\nRemove it"
        ):
            pickle.dumps(things["in memory"])
        copy.deepcopy(things["in memory"])
    finally:
        handle.remove()
    other = Path(shutil.copytree(folder, tmp_path / "captioner"))
    pickled = pickle.dumps(vitrine.load(other))
    (other / "model.safetensors").write_bytes(_changed(other / "model.safetensors"))
    with pytest.raises(ModelError, match="has other weights than when it was pickled"):
        pickle.loads(pickled)


def _changed(path: Path) -> bytes:
    from safetensors.torch import load_file, save

    return save({name: value + 1e-3 if value.is_floating_point() else value for name, value in load_file(path).items()})
