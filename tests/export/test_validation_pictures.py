"""An export for transformers labels the run's pictures as the run does, and says of which it does not."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from PIL import Image
from support.format_makers import seeded
from support.models import MICRO
from support.odd_pictures import odd_pictures
from support.paths import SHARED
from transformers import pipeline

import vitrine
from vitrine.classify.inference import eval_transform
from vitrine.config.preprocessing import InputSpec
from vitrine.data.decode import decode
from vitrine.data.loader import normalise
from vitrine.export.run import ExportResult, export
from vitrine.runs.folder import RunFolder

PICTURES = odd_pictures()
AS_THEY_ARE = {name for name in PICTURES if name.startswith(("rgb.", "turned", "several", "one bit", "grey."))}
AS_THEY_ARE |= {"grey, 4 bits.png"}
AS_THEY_ARE |= {"palette.png", "palette.gif", "cmyk.jpg", "cmyk.tif", "ycbcr.tif", "rgb, 16 bits.png"}
"""Those that ``convert("RGB")`` gives the run's pixels."""


def run_on(files: Sequence[tuple[str, bytes]], small_run: Path, folder: Path, side: int = 64) -> Path:
    """``small_run`` with a model of another size, whose data's validation split has these pictures."""
    run, labels = folder / "run", RunFolder(small_run).read_labels()
    shutil.copytree(small_run, run)
    rows = []
    for number, (name, content) in enumerate(files):
        label = number % len(labels)
        for split in ("train", "validation"):
            (folder / "data" / split / labels[label]).mkdir(parents=True, exist_ok=True)
        (folder / "data" / "validation" / labels[label] / name).write_bytes(content)
        Image.new("RGB", (8, 8)).save(folder / "data" / "train" / labels[label] / "black.png")
        name, sha256 = f"validation/{labels[label]}/{name}", hashlib.sha256(content).hexdigest()
        rows.append({"name": name, "sha256": sha256, "label": label})
    data = json.loads((run / "data.json").read_text())
    data |= {"reference": str(folder / "data"), "splits": data["splits"] | {"validation": rows}}
    (run / "data.json").write_text(json.dumps(data))
    spec = InputSpec((side, side), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), 0.9)
    module = seeded(timm.create_model("vit_tiny_patch16_224", **{**MICRO, "img_size": side}, num_classes=len(labels)))
    pixels = torch.stack([torch.from_numpy(eval_transform(spec)(decode(content))) for _, content in files])
    with torch.inference_mode():  # no class is preferred, so that labels follow from the pictures
        logits = module.eval()(normalise(pixels.permute(0, 3, 1, 2), spec.mean, spec.std))
        module.head.bias.sub_(logits.mean(0))
    RunFolder(run).save_model(module, labels, spec)
    return run


def labels_of(run: Path, pictures: Sequence[Path]) -> list[str]:
    model = vitrine.load(run, precision="fp32")
    return [model.predict(picture).label for picture in pictures]


def transformers_labels(folder: Path, pictures: Sequence[Any]) -> list[str]:
    classify = pipeline("image-classification", model=str(folder), top_k=1)
    return [classify(picture)[0]["label"] for picture in pictures]


def opened_as_the_card_says(folder: Path, pictures: Sequence[Path]) -> list[Image.Image]:
    text = (folder / "README.md").read_text("utf-8").partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    exec(text.partition("\nclassify = ")[0], names)
    return [names["open_picture"](picture) for picture in pictures]


@pytest.fixture(scope="module")
def odd_run(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_on(list(PICTURES.items()), small_run, tmp_path_factory.mktemp("odd"))


@pytest.fixture(scope="module")
def odd_export(odd_run: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    return export(odd_run, "hf", tmp_path_factory.mktemp("hf") / "export")


def test_the_message_counts_the_labels_that_move(odd_run: Path, odd_export: ExportResult) -> None:
    files = sorted((odd_run.parent / "data" / "validation").rglob("*.*"))
    ours, theirs = labels_of(odd_run, files), transformers_labels(odd_export.out, [str(file) for file in files])
    moved = sum(one != other for one, other in zip(ours, theirs, strict=True))
    found = odd_export.validation
    assert found is not None and found.pictures == found.recorded_pictures == len(PICTURES) == len(files)
    assert {Path(name).name for name in found.other_pixels} == set(PICTURES) - AS_THEY_ARE
    assert len(found.other_labels) == moved > 0, "pictures that show what was transparent"
    sentence = odd_export.sentences[-1]
    assert f"{len(PICTURES):,} were opened by transformers from their files: {len(found.other_pixels)} have" in sentence
    assert f"labels that move: {moved} of {len(PICTURES)} (" in sentence and "all have the run's pixels." in sentence
    assert odd_export.to_dict()["validation"]["labels_moved"] == moved
    assert sentence.split(" (")[0] in (odd_export.out / "README.md").read_text("utf-8")


def test_pictures_opened_as_the_card_says_have_the_runs_labels(odd_run: Path, odd_export: ExportResult) -> None:
    files = sorted((odd_run.parent / "data" / "validation").rglob("*.*"))
    ours = labels_of(odd_run, files)
    assert len(set(ours)) > 2
    assert transformers_labels(odd_export.out, opened_as_the_card_says(odd_export.out, files)) == ours
    again = vitrine.load(odd_export.out, precision="fp32")
    assert [again.predict(file).label for file in files] == ours


def test_the_card_says_what_is_needed_and_what_to_do_without(odd_export: ExportResult) -> None:
    card = (odd_export.out / "README.md").read_text("utf-8")
    assert "timm has to be installed beside transformers" in card
    expression = card.partition("give the pipeline `image_processor=")[2].partition("`")[0]
    assert expression == 'BitImageProcessor.from_pretrained("./export")'
    processor = transformers.BitImageProcessor.from_pretrained(odd_export.out)
    classify = pipeline("image-classification", model=str(odd_export.out), image_processor=processor)
    assert type(classify.image_processor).__name__.startswith("BitImageProcessor")


def test_pictures_of_plain_colours_all_have_the_runs_pixels(small_run: Path, tmp_path: Path) -> None:
    run = run_on([(name, PICTURES[name]) for name in sorted(AS_THEY_ARE)], small_run, tmp_path, side=32)
    result = export(run, "hf", tmp_path / "hf")
    count = len(AS_THEY_ARE)
    assert f"all have the run's pixels, to the bit; labels that move: 0 of {count}." in result.sentences[-1]


def test_pictures_that_are_gone_or_changed_are_not_spoken_of(small_run: Path, tmp_path: Path) -> None:
    run = run_on([("a.png", PICTURES["grey.png"]), ("b.png", PICTURES["rgba.png"])], small_run, tmp_path, side=32)
    (found,) = (tmp_path / "data" / "validation").rglob("b.png")
    found.write_bytes(PICTURES["palette.png"])
    result = export(run, "hf", tmp_path / "one")
    assert "1 of 2 were opened by transformers" in result.sentences[-1]
    shutil.rmtree(tmp_path / "data")
    result = export(run, "hf", tmp_path / "none")
    assert "Of the run's 2 validation pictures none is where it was" in result.sentences[-1]
    assert result.same and result.validation is not None and result.validation.pictures == 0


def test_other_targets_open_no_files(odd_run: Path, tmp_path: Path) -> None:
    result = export(odd_run, "timm", tmp_path / "timm")
    assert result.validation is None and result.to_dict()["validation"] is None


# --- real photographs

JPEG_MODES = ("RGB", "L", "CMYK")
MODES = ("RGB", "L", "CMYK", "P", "RGBA", "LA", "I;16", "RGB")


def odd_photographs() -> list[tuple[str, bytes]]:
    """24 photographs, cut to odd sizes, each in one of several modes."""
    from support.odd_pictures import encode

    files = sorted(SHARED.glob("clothing/test/*/*.jpg"))[::60] + sorted(SHARED.glob("coco/val2017/**/*.jpg"))
    files = sorted(SHARED.glob("pets37/val/**/*.jpg"))[:8] + files
    pictures = []
    for number, file in enumerate(files[:24]):
        mode = MODES[number % len(MODES)]
        image = Image.open(file).convert("RGB")
        image = image.crop((0, 0, image.width - number, image.height - 3 * number))  # no two shapes alike
        if mode == "I;16":
            deep = Image.eval(image.convert("L").convert("I"), lambda value: value * 257)
            content = encode(deep.convert("I;16"))
        else:
            shape = image.convert("L").resize(image.size) if mode in ("RGBA", "LA") else None
            image = image.convert("RGB" if mode == "RGBA" else "L" if mode == "LA" else mode)
            if shape is not None:
                image.putalpha(shape)
            content = encode(image, "JPEG" if mode in JPEG_MODES else "PNG")
        ending = "jpg" if mode in JPEG_MODES else "png"
        pictures.append((f"{number:02} {mode.replace(';', ' ')}.{ending}", content))
    return pictures


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real photographs of ../shared/data are not here")
def test_real_photographs_of_odd_sizes_and_modes(small_run: Path, tmp_path: Path) -> None:
    """24 of them at 64 px, of which transformers' own processor puts several under another label."""
    run = run_on(odd_photographs(), small_run, tmp_path)
    result = export(run, "hf", tmp_path / "hf")
    files = sorted((tmp_path / "data" / "validation").rglob("*.*"))
    ours = labels_of(run, files)
    assert len(files) == 24 and len(set(ours)) > 2
    assert transformers_labels(result.out, opened_as_the_card_says(result.out, files)) == ours
    paths = [file for file in files if not any(mode in file.name for mode in ("RGBA", "LA", "I 16"))]
    expected = [label for file, label in zip(files, ours, strict=True) if file in paths]
    assert len(paths) == 15 and transformers_labels(result.out, [str(path) for path in paths]) == expected
    found = result.validation
    assert found is not None and {Path(name).name for name in found.other_pixels} == {
        file.name for file in files if file not in paths
    }
    native = transformers.BitImageProcessor.from_pretrained(result.out)
    model = transformers.AutoModelForImageClassification.from_pretrained(result.out)
    before = [
        model.config.id2label[int(model(**native(image, return_tensors="pt")).logits.argmax())]
        for image in opened_as_the_card_says(result.out, files)
    ]
    assert before != ours, "why timm prepares the pictures"
