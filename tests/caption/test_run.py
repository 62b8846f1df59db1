"""``vitrine caption``: figures, table and errors, with seeded weights of the published captioner's shapes."""

from __future__ import annotations

import csv
import json
import shlex
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.tiny_captioners import save_tiny

from vitrine.models.captioner.catr import published_weights
from vitrine.models.captioner.config import catr_config
from vitrine.models.captioner.model import CaptionModel
from vitrine.plotting.provenance import read_provenance

Command = Callable[..., tuple[int, str, str]]


def seeded_weight(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Finite activations and uneven attention, from the name."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    values = rng.standard_normal(shape, dtype=np.float32)
    if name.endswith("running_var"):
        values = 0.5 + np.abs(values)
    elif len(shape) <= 1:
        values = 0.1 * values + (1 if name.endswith("weight") else 0)
    elif "embedding" not in name:
        values = values * (1.4 / np.sqrt(np.prod(shape[1:])))
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file like a released one, with a vocabulary of the same size beside it."""
    folder = tmp_path_factory.mktemp("catr")
    with torch.device("meta"):
        shapes = published_weights(CaptionModel(catr_config()).state_dict())
    weights = {name: seeded_weight(name, tuple(value.shape)) for name, value in shapes.items()}
    torch.save({"model": weights, "epoch": 1}, folder / "catr.pth")
    marks = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}
    (folder / "vocab.txt").write_text("".join(f"{marks.get(i, f'word{i}')}\n" for i in range(30522)))
    return folder / "catr.pth"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("girl.jpg", (60, 90)), ("wide.png", (120, 50))):
        Image.fromarray(rng.integers(0, 255, (*size[::-1], 3), dtype=np.uint8)).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 not a picture")
    return folder


def test_one_figure_for_each_picture_and_a_table(
    vitrine_command: Command, checkpoint: Path, pictures: Path, tmp_path: Path
) -> None:
    for leftover in ("__MACOSX/girl.jpg", "$RECYCLE.BIN/girl.jpg", "masks/girl.png"):
        (pictures / leftover).parent.mkdir()
        Image.new("1", (60, 90), 1).save(pictures / leftover)
    options = ("--arch", "catr", "--max-pieces", "4")
    status, out, err = vitrine_command("caption", checkpoint, pictures, "-o", tmp_path / "out", *options)
    assert status == 0, err
    assert "2 files were left aside, no data by name: $RECYCLE.BIN 1, __MACOSX 1." in err
    assert "1 mask of the pictures was left aside: masks/." in err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        ".vitrine-figures.json",
        "captions.csv",
        "girl.png",
        "wide.png",
    ]
    assert "not readable: broken.jpg" in err
    assert str(checkpoint) in err
    rows = list(csv.DictReader((tmp_path / "out" / "captions.csv").open()))
    assert [row["filename"] for row in rows] == ["girl.jpg", "wide.png"]
    assert all(len(json.loads(row["words"])) == len(json.loads(row["verdicts"])) for row in rows)
    assert out.splitlines() == [f"{row['filename']}: {row['caption']}" for row in rows]
    origin = read_provenance(tmp_path / "out" / "girl.png")
    before = np.asarray(Image.open(tmp_path / "out" / "girl.png")).astype(int)
    status, _, _ = vitrine_command(*shlex.split(origin["vitrine:command"])[1:])
    assert status == 0
    again = np.asarray(Image.open(tmp_path / "out" / "girl.png"))
    assert again.shape == before.shape
    assert np.abs(again - before).max() <= 2  # alone, and not in a batch: the same but for rounding


def test_captions_do_not_depend_on_the_batch_and_maps_are_in_the_json(
    vitrine_command: Command, checkpoint: Path, pictures: Path, tmp_path: Path
) -> None:
    captions_by_batch_size = []
    for batch in (1, 8):
        options = ("--arch", "catr", "--max-pieces", 3, "--batch-size", batch, "--json", "--format", "svg")
        status, out, err = vitrine_command("caption", checkpoint, pictures, "-o", tmp_path / str(batch), *options)
        assert status == 0, err
        captions_by_batch_size.append(json.loads(out)["captions"])
    for one, many in zip(*captions_by_batch_size, strict=True):
        assert one["caption"] == many["caption"]
        for word, same in zip(one["words"], many["words"], strict=True):
            np.testing.assert_allclose(word["map"], same["map"], rtol=1e-3, atol=1e-3)
            assert np.mean(word["map"]) == pytest.approx(1, abs=1e-3)
    assert np.shape(captions_by_batch_size[0][0]["words"][0]["map"]) == (19, 13)  # 299 x 199 pixels at a stride of 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["MODEL"], "needs its kind: --arch catr"),
        (["catr/v9"], "is no captioner that is known: catr/v1"),
        (["MODEL", "--arch", "blip"], "expected catr"),
        (["MODEL", "--arch", "catr", "--join", "sum"], "expected mean, first, max"),
        (["MODEL", "--arch", "catr", "--heads", "most"], "expected mean, max or a number"),
        (["MODEL", "--arch", "catr", "--sample", "--beams", "3"], "do not go together"),
        (["MODEL", "--arch", "catr", "--vocab", "SHORT"], "13 word pieces; the captioner has 30,522"),
        (["NOWHERE", "--arch", "catr"], "does not exist"),
        (["CODE", "--arch", "catr"], "Python objects"),
    ],
)
def test_errors_say_what_to_do(
    options: list[str], message: str, vitrine_command: Command, checkpoint: Path, pictures: Path, tmp_path: Path
) -> None:
    short = tmp_path / "short.txt"
    short.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n" + "".join(f"dog{i}\n" for i in range(9)))

    class Code:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    torch.save({"model": Code()}, tmp_path / "code.pth")
    names = {"MODEL": checkpoint, "SHORT": short, "NOWHERE": tmp_path / "no.pth", "CODE": tmp_path / "code.pth"}
    model, *rest = [str(names.get(option, option)) for option in options]
    status, out, err = vitrine_command("caption", model, pictures, "-o", tmp_path / "out", *rest)
    assert status == 2
    assert message in err
    assert out == ""
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(("kind", "attention"), [("blip", "cross-attention"), ("git", "self-attention to the image")])
def test_captioners_of_transformers_are_named_by_their_folder(
    vitrine_command: Command, pictures: Path, tmp_path: Path, kind: str, attention: str
) -> None:
    save_tiny(kind, tmp_path / kind)
    status, _, err = vitrine_command("caption", tmp_path / kind, pictures, "-o", tmp_path / "out", "--max-pieces", "5")
    assert status == 0 and "model.safetensors" in err
    figure = sorted((tmp_path / "out").rglob("*.png"))[0]
    assert read_provenance(figure)["vitrine:method"] == attention
    status, _, err = vitrine_command("predict", tmp_path / kind, pictures, "-o", tmp_path / "predictions.csv")
    assert status == 2 and "vitrine caption" in err


def test_no_name_and_no_figure_ends_the_others(vitrine_command: Command, tmp_path: Path) -> None:
    save_tiny("blip", tmp_path / "blip")
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    names = [f"{'n' * 240}.png", f"{'文' * 83}.jpg", "stands.png", "z.png"]
    for name in names:
        Image.new("RGB", (40, 30), "red").save(folder / name)
    (out / "stands.png").mkdir(parents=True)
    status, _, err = vitrine_command("caption", tmp_path / "blip", folder, "-o", out, "--max-pieces", "2")
    assert status == 0 and "3 figures" in err
    assert "no figure: stands.png: its figure cannot be written: Is a directory\n1 figure could not be written." in err
    rows = list(csv.DictReader((out / "captions.csv").open()))
    assert sorted(row["filename"] for row in rows) == sorted(set(names) - {"stands.png"})
    assert len([path for path in out.iterdir() if path.is_file()]) == 5
