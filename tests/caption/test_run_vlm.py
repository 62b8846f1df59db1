"""``vitrine caption --prompt`` and ``vitrine ask``, with a tiny vision-language model saved as a repository is."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.tiny_captioners import edit_json, save_tiny
from support.tiny_vlms import END, OTHER_END, photographs, reload_vlm, save_tiny_vlm

import vitrine
from vitrine.errors import UsageError
from vitrine.models.kind import captioner_kind
from vitrine.plotting.provenance import read_provenance

Command = Callable[..., tuple[int, str, str]]
QUESTION = "What is in the picture?"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vlm") / "llava"
    save_tiny_vlm("llava", folder)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("in")
    for name, photo in zip(("girl.png", "wide.png"), photographs((60, 90), (120, 50)), strict=True):
        photo.save(folder / name)
    return folder


def library_words(model: Path, photo: Path, text: str, pieces: int) -> str:
    """What transformers itself answers to a whole prompt, with its own processor."""
    library_model, processor = reload_vlm(model)
    inputs = processor(images=Image.open(photo).convert("RGB"), text=text, return_tensors="pt")
    with torch.no_grad():
        ids = library_model.generate(**inputs, max_new_tokens=pieces, do_sample=False)[
            0, inputs["input_ids"].shape[1] :
        ]
    return str(processor.tokenizer.decode([each for each in ids if int(each) not in (END, OTHER_END)]).strip())


def test_a_figure_and_a_row_for_each_picture(
    vitrine_command: Command, model: Path, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    status, said, err = vitrine_command(
        "caption", model, pictures, "-o", out, "--prompt", QUESTION, "--max-pieces", 5, "--layer", 0, "--json"
    )
    assert status == 0, err
    assert sorted(path.name for path in out.glob("[a-z]*")) == ["captions.csv", "girl.png", "wide.png"]
    rows = list(csv.DictReader((out / "captions.csv").open(newline="")))
    text = f"USER: <image>\n{QUESTION} ASSISTANT:"
    assert [row["caption"] for row in rows] == [
        library_words(model, pictures / name, text, 5) for name in ("girl.png", "wide.png")
    ]
    words = json.loads(said)["captions"][0]["words"]
    assert [word["text"] for word in words] == json.loads(rows[0]["words"])
    assert all(np.shape(word["map"]) == (4, 4) for word in words)
    command = read_provenance(out / "girl.png")["vitrine:command"]
    assert shlex.split(command)[6:8] == ["--prompt", QUESTION]


def test_an_answer_and_its_figure(vitrine_command: Command, model: Path, pictures: Path, tmp_path: Path) -> None:
    figure = tmp_path / "new" / "answer.svg"
    ways = ("--relative", "--mask-sinks", "--layer", "0-1")
    status, said, err = vitrine_command(
        "ask", model, pictures / "girl.png", QUESTION, "-o", figure, "--max-pieces", 5, *ways
    )
    assert status == 0, err
    text = f"USER: <image>\n{QUESTION} ASSISTANT:"
    assert said.strip() == library_words(model, pictures / "girl.png", text, 5)
    assert str(figure) in err and "Cut for its length, after 5 word pieces." in err
    origin = read_provenance(figure)
    assert set(ways) <= set(shlex.split(origin["vitrine:command"]))
    before = figure.read_bytes()
    status, again, err = vitrine_command(*shlex.split(origin["vitrine:command"])[1:])
    assert status == 0, err
    assert (again, figure.read_bytes()) == (said, before)


def test_in_python(model: Path, pictures: Path) -> None:
    opened = vitrine.load(str(model))
    answer = opened.ask(pictures / "girl.png", QUESTION, max_pieces=5)
    same = opened.caption(pictures / "girl.png", prompt=QUESTION, max_pieces=5)
    assert answer.text == same.text
    assert answer.words
    assert all(word.map.shape == (4, 4) and word.map.mean() == pytest.approx(1, abs=1e-4) for word in answer.words)
    also = vitrine.ask(opened, pictures / "girl.png", QUESTION, max_pieces=5, layer="mean", mask_sinks=True, quiet=True)
    assert also.text == answer.text
    assert any((one.map != other.map).any() for one, other in zip(answer.words, also.words, strict=True))
    own = opened.caption(pictures / "girl.png", max_pieces=5)
    text = "USER: <image>\nDescribe the picture. ASSISTANT:"
    assert own.text == library_words(model, pictures / "girl.png", text, 5)
    with pytest.raises(UsageError, match="prompt is empty"):
        opened.ask(pictures / "girl.png", "  ")


CONFIG_FAULTS = {
    "unknown": {"model_type": "mllama", "architectures": ["MllamaForConditionalGeneration"]},
    "few bits": {"quantization_config": {"quant_method": "gptq", "bits": 4}},
    "no image token": {"image_token_id": 9999, "image_token_index": 9999},
}


def break_folder(folder: Path, fault: str) -> None:
    """Do to a copy of the model's folder what people do."""
    if fault in CONFIG_FAULTS:
        edit_json(folder / "config.json", **CONFIG_FAULTS[fault])
    elif fault == "no processor":
        (folder / "processor_config.json").unlink()
    elif fault == "no pieces":
        (folder / "tokenizer.json").unlink()
    elif fault == "no end":
        edit_json(folder / "generation_config.json", eos_token_id=9999)
    elif fault == "other size":
        settings = json.loads((folder / "processor_config.json").read_text())
        settings["image_processor"] |= {"crop_size": {"height": 24, "width": 24}}
        (folder / "processor_config.json").write_text(json.dumps(settings))
    elif fault == "damaged":
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:900])
    elif fault == "other weights":
        config = json.loads((folder / "config.json").read_text())
        config["text_config"]["num_hidden_layers"] = 3
        (folder / "config.json").write_text(json.dumps(config))
    elif fault == "no room":
        config = json.loads((folder / "config.json").read_text())
        config["text_config"]["max_position_embeddings"] = 30
        (folder / "config.json").write_text(json.dumps(config))
    elif fault == "code":
        edit_json(folder / "config.json", auto_map={"AutoConfig": "stolen.Config"})
        (folder / "stolen.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")


@pytest.mark.parametrize(
    ("fault", "sentences"),
    [
        ("unknown", ("'mllama'", "not known here", "clip_vision_model", "image token 4", "llava")),
        ("no processor", ("has no processor", "processor_config.json")),
        ("no pieces", ("has no tokenizer.json",)),
        ("no end", ("ends an answer", "9999")),
        ("other size", ("cannot read what its processor made", "24")),
        ("damaged", ("model.safetensors",)),
        ("other weights", ("does not fit LlavaForConditionalGeneration", "missing")),
        ("few bits", ("weights in a few bits", "gptq", "--precision bf16")),
        ("no image token", ("has no piece 9,999", "the image token")),
        ("no room", ("cannot be used", "16 image tokens", "the model has 30")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_faults_are_said(
    fault: str, sentences: tuple[str, ...], vitrine_command: Command, model: Path, pictures: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    break_folder(folder, fault)
    status, _, err = vitrine_command("ask", folder, pictures / "girl.png", QUESTION, "-o", tmp_path / "answer.png")
    assert status == 2, err
    assert len(err.strip().splitlines()) <= 3
    for sentence in sentences:
        assert sentence in err
    assert not (tmp_path / "answer.png").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("MODEL", "PICTURE", " "), "The prompt is empty"),
        (("MODEL", "PICTURE", "what is <image>?"), "The prompt holds <image>"),
        (("MODEL", "PICTURE", QUESTION, "--max-pieces", "2000"), "--max-pieces 610"),
        (("MODEL", "PICTURE", QUESTION, "-o", "answer.gif"), "ends in .png or .svg"),
        (("MODEL", "FOLDER", QUESTION), "is a folder"),
        (("VIT-BERT", "PICTURE", QUESTION), "takes no prompt"),
    ],
)
def test_questions_that_cannot_be_asked(
    arguments: tuple[str, ...],
    sentence: str,
    vitrine_command: Command,
    model: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "vit-bert"
    if "VIT-BERT" in arguments:
        save_tiny("vit-bert", other)
    stand_ins = {"MODEL": model, "PICTURE": pictures / "girl.png", "FOLDER": pictures, "VIT-BERT": other}
    status, _, err = vitrine_command("ask", *(stand_ins.get(each, each) for each in arguments))
    assert status == 2, err
    assert sentence in err


def test_code_of_a_repository_is_never_run(model: Path, pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    break_folder(folder, "code")
    answer = vitrine.load(str(folder)).ask(pictures / "girl.png", QUESTION, max_pieces=3)
    assert answer.words
    assert not (folder / "ran").exists()


def test_what_is_a_vision_language_model_and_what_is_none(model: Path, tmp_path: Path) -> None:
    assert captioner_kind(str(model)) == "vision-language"
    (tmp_path / "config.json").write_text('{"model_type": "clip", "vision_config": {}, "architectures": ["CLIPModel"]}')
    assert captioner_kind(str(tmp_path)) is None


def test_bf16_answers_too(model: Path, pictures: Path) -> None:
    opened = vitrine.load(str(model), precision="bf16")
    assert next(opened.captioner.module.parameters()).dtype == torch.bfloat16
    answer = opened.ask(pictures / "girl.png", QUESTION, max_pieces=3)
    assert all(np.isfinite(word.map).all() for word in answer.words)


def test_what_does_not_take_these_models_says_so(model: Path) -> None:
    from vitrine.caption.model import load_captioner
    from vitrine.errors import ModelError

    with pytest.raises(ModelError, match="runs and does not train"):
        load_captioner(str(model))
    with pytest.raises(UsageError, match="has word pieces of its own"):
        vitrine.load(str(model), vocab="vocab.txt")
    with pytest.raises(UsageError, match="classifier"):
        vitrine.ask("vitrine/scenes-tiny", Image.new("RGB", (8, 8)), QUESTION, quiet=True)
