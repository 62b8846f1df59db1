"""The scripts of ``reproduce/`` on stand-in weights, and without any: what is wanted is said, and no half is made."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from support.paths import CHECKOUT

from vitrine.data.scenes import write_scenes

SCRIPTS = CHECKOUT / "reproduce"
SHOWN = ("26_5064.jpg", "29_4718.jpg", "31_4838.jpg")
MICRO = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
SET = "image_size=32 epochs=1 workers=0 precision=fp32 " + " ".join(f"model_args.{k}={v}" for k, v in MICRO.items())

pytestmark = pytest.mark.skipif(
    not SCRIPTS.is_dir() or sys.platform == "win32", reason="the scripts are in a checkout, and need a bash"
)

Script = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def script(warm_python: str, tmp_path: Path) -> Script:
    """Run a script in an empty folder without network and with an empty cache."""

    def run(name: str, *arguments: object, **environment: object) -> subprocess.CompletedProcess[str]:
        (tmp_path / "here").mkdir(exist_ok=True)
        kept = {key: value for key, value in os.environ.items() if key not in ("MODEL", "WEIGHTS", "VOCAB", "DATA")}
        given = {
            "VITRINE": f"{warm_python} -m vitrine",
            "VITRINE_OFFLINE": 1,
            "VITRINE_CACHE": tmp_path / "cache",
            **environment,
        }
        return subprocess.run(
            ["bash", str(SCRIPTS / name), *map(str, arguments)],
            env={**kept, **{key: str(value) for key, value in given.items()}},
            cwd=tmp_path / "here",
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures named as those of the reference job: three classes, and the three that it shows."""
    folder = tmp_path_factory.mktemp("pets")
    scenes = write_scenes(folder / "scenes", "new", {"train": 18, "validation": 9}, size=48)
    names = {
        "train": [f"{label}_{i}.jpg" for i in range(6) for label in (26, 29, 31)],
        "val": [*SHOWN, *(f"{label}_{i}.jpg" for i in range(100, 102) for label in (26, 29, 31))],
    }
    for split, source in (("train", "train"), ("val", "validation")):
        (folder / "data" / split).mkdir(parents=True)
        for name, picture in zip(names[split], sorted((scenes / source).rglob("*.png")), strict=True):
            Image.open(picture).save(folder / "data" / split / name)
    return folder / "data"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As those of ViT-B/16, but tiny."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(timm.create_model("vit_base_patch16_224", **MICRO).state_dict(), path)
    return path


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as stream:
        return list(csv.reader(stream))


def test_the_reference_job(script: Script, pets: Path, weights: Path, tmp_path: Path) -> None:
    """All of it; again, nothing is trained twice; and its final run labels the pictures of a folder."""
    out, given = tmp_path / "out", {"DATA": pets, "WEIGHTS_224": weights, "WEIGHTS_384": weights, "SET": SET}
    found = script("pets.sh", OUT=out, **given)
    recipes = ("pets-b16-224-bs32", "pets-b16-224-bs16", "pets-b16-384")
    assert found.returncode == 0, found.stderr
    page = (out / "report.html").read_text()
    assert all(name in page for name in (*recipes, *SHOWN)) and "The final result is pets-b16-384." in page
    for name, batch, rate in zip(recipes, (32, 16, 8), (1e-5, 1e-5, 1e-5), strict=True):
        environment = json.loads((out / name / "environment.json").read_text())
        assert environment["starting_weights"]["path"] == str(weights)
        recipe = (out / name / "recipe.toml").read_text()
        assert f"batch_size = {batch}\n" in recipe and f"learning_rate = {rate}\n" in recipe
        assert name in found.stdout
    compared = json.loads((out / "comparison" / "comparison.json").read_text())
    assert {run["run"] for run in compared["runs"]} == set(recipes) and len(compared["tests"]) == 3
    assert (out / "positions.png").is_file()
    assert {path.stem for path in (out / "maps").glob("2*.png")} == {"26_5064", "29_4718"}
    assert (out / "maps" / "31_4838.png").is_file()
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/metrics.json")}
    (out / "pets-b16-384" / "metrics.json").unlink()
    again = script("pets.sh", OUT=out, **given)
    assert again.returncode == 0, again.stderr
    assert f"{out}/pets-b16-224-bs32 is finished." in again.stdout and "pets-b16-384 is finished" not in again.stdout
    after = {path: path.stat().st_mtime_ns for path in out.glob("*/metrics.json")}
    assert after.keys() == before.keys() and sum(after[path] != before[path] for path in before) == 1
    # The course's call: pictures in, a table out.
    found = script("classify.sh", pets / "val", tmp_path / "made" / "out.csv", MODEL=out / "pets-b16-384")
    assert found.returncode == 0, found.stderr
    header, *labelled = rows(tmp_path / "made" / "out.csv")
    assert header == ["filename", "label"]
    assert [name for name, _ in labelled] == sorted(path.name for path in (pets / "val").iterdir())
    known = {name.split("/")[-1]: label for name, label, *_ in rows(out / "pets-b16-384" / "predictions.csv")[1:]}
    assert dict(labelled) == known


def test_captions(script: Script, catr: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, name in enumerate(("bike.jpg", "girl.png")):
        Image.effect_noise((60, 40 + 20 * i), 80).convert("RGB").save(folder / name)
    found = script("caption.sh", folder, tmp_path / "out", WEIGHTS=catr, VOCAB=catr.with_name("words.txt"))
    assert found.returncode == 0, found.stderr
    assert {path.name for path in (tmp_path / "out").glob("[!.]*")} == {"bike.png", "girl.png", "captions.csv"}
    assert str(catr) in found.stderr, "the file in use is said"
    assert len(rows(tmp_path / "out" / "captions.csv")) > 2, found.stdout


@pytest.fixture(scope="module")
def catr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file like the released captioner's, its vocabulary beside it. Of its weights only those are random, and a place
    of their own on the disk, that words are chosen with: all others are one number in every place."""
    from vitrine.models.captioner.catr import published_weights
    from vitrine.models.captioner.config import catr_config
    from vitrine.models.captioner.model import CaptionModel

    folder = tmp_path_factory.mktemp("catr")
    with torch.device("meta"):
        shapes = published_weights(CaptionModel(catr_config()).state_dict())
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, value in shapes.items():
        is_scale = name.endswith(("norm.weight", "running_var")) or value.ndim == 1
        state[name] = torch.tensor(1.0 if is_scale else 1e-3).expand(value.shape)
        if name.startswith(("mlp.", "transformer.embeddings.position")):
            state[name] = 0.02 * torch.randn(value.shape, generator=generator)
    head = next(name for name, value in reversed(shapes.items()) if value.shape == (30522, 512))
    state[head][102] = 0  # a caption ends where one unit, which is on at about every second place, is on
    state[head][102][0] = 100
    torch.save({"model": state, "epoch": 1}, folder / "catr.pth")
    marks = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}
    (folder / "words.txt").write_text("".join(f"{marks.get(i, f'word{i}')}\n" for i in range(30522)))
    return folder / "catr.pth"


def test_without_weights_all_that_is_wanted_is_said_at_once(script: Script, tmp_path: Path) -> None:
    found = script("pets.sh")
    assert found.returncode == 2 and found.stdout == ""
    for wanted in (
        "timm/vit_base_patch16_224.orig_in21k",
        "timm/vit_base_patch16_384.orig_in21k_ft_in1k",
        "WEIGHTS_224=FILE",
        "WEIGHTS_384=FILE",
        "images.tar.gz",
        "DATA=FOLDER",
        "Nothing was trained.",
    ):
        assert wanted in found.stderr
    assert list((tmp_path / "here").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "arguments", "environment", "wanted"),
    [
        ("classify.sh", ("PICTURES", "out/x.csv"), {}, ("no trained model in runs/pets", "MODEL=RUN")),
        ("classify.sh", ("PICTURES", "out/x.csv"), {"MODEL": "nowhere"}, ("There is no model 'nowhere'",)),
        ("classify.sh", ("nowhere", "out/x.csv"), {"MODEL": "vitrine/scenes-tiny"}, ("no pictures at nowhere",)),
        (
            "caption.sh",
            ("PICTURES", "out"),
            {},
            ("catr/v3 is needed", "weight493084032.pth", "vocab.txt", "VOCAB=FILE"),
        ),
        ("caption.sh", ("PICTURES", "out"), {"WEIGHTS": "no.pth"}, ("no.pth does not exist", "WEIGHTS=FILE")),
        ("caption.sh", ("nowhere", "out"), {}, ("no pictures at nowhere",)),
        ("pets.sh", (), {"WEIGHTS_224": "no.safetensors", "SET": "model_args.depth=2"}, ("no file no.safetensors",)),
        ("pets.sh", (), {"VITRINE": "vitrine-that-is-not-there"}, ("no command vitrine-that-is-not-there",)),
        ("classify.sh", ("one",), {}, ("Usage: reproduce/classify.sh IMAGES OUT.csv",)),
        ("caption.sh", (), {}, ("Usage: reproduce/caption.sh IMAGES OUT_DIR",)),
        ("pets.sh", ("more",), {}, ("Usage: reproduce/pets.sh",)),
    ],
)
def test_what_is_wanted_is_said_and_nothing_is_written(
    name: str, arguments: Sequence[str], environment: dict[str, str], wanted: Sequence[str], script: Script, pets: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    given = [str(pets / "val") if each == "PICTURES" else each for each in arguments]
    found = script(name, *given, **environment)
    assert found.returncode == 2, found.stderr
    assert all(each in found.stderr for each in wanted), found.stderr
    assert "Traceback" not in found.stderr
    assert list((tmp_path / "here").iterdir()) == []


@pytest.mark.parametrize("name", ["pets.sh", "classify.sh", "caption.sh"])
def test_help_names_every_variable(name: str) -> None:
    text = (SCRIPTS / name).read_text()
    shown = subprocess.run(["bash", str(SCRIPTS / name), "--help"], capture_output=True, text=True, check=True).stdout
    used = {part.split("}")[0].split(":")[0] for part in text.split("${")[1:]}
    variables = {each for each in used if each.isupper()}
    assert variables and all(f"  {each} " in shown for each in variables), variables
    assert text.splitlines()[0] == "#!/usr/bin/env bash" and "\nset -euo pipefail\n" in text
    assert os.access(SCRIPTS / name, os.X_OK)
