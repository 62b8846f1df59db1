"""Captioners of transformers: equal to the library's own answers, and what is refused.

What they have in common with other captioners is asked in test_captioner_contract.py.
"""

from __future__ import annotations

import ast
import json
import logging
import pickle
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from support.stand_in_hub import Fault, StandInHub
from support.tiny_captioners import (
    BERT_PIECES,
    CELLS,
    GPT_PIECES,
    KINDS,
    SIDE,
    edit_json,
    image_processor,
    library_pass,
    over_cells,
    reload,
    save_tiny,
    tiny_model,
)

from vitrine.attribution.placement import Placement
from vitrine.caption.decoding import final_captions, greedy
from vitrine.caption.tokenizer import read_vocabulary
from vitrine.config.preprocessing import ProcessorInput
from vitrine.data.captions.transforms import ProcessorTransform
from vitrine.errors import ModelError, WeightsUnavailableError
from vitrine.models.hf_captioners import load as transformers_captioners
from vitrine.models.hf_captioners.base import quiet
from vitrine.models.hf_captioners.load import is_transformers_captioner, open_transformers_captioner

import transformers  # isort: skip  after torchvision was made safe to import, above

MORE = ("deit-gpt2", "beit-bert", "swin-bert")


@pytest.fixture(scope="module")
def model_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in (*KINDS, *MORE)}
    for kind, folder in folders.items():
        save_tiny(kind, folder)
    return folders


@pytest.fixture
def copy_model_folder(model_folders: dict[str, Path], tmp_path: Path) -> Any:
    """A folder of its own, to be spoilt."""

    def copy(kind: str) -> Path:
        return Path(shutil.copytree(model_folders[kind], tmp_path / kind))

    return copy


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def pixels(count: int) -> torch.Tensor:
    """(count, 3, SIDE, SIDE), of large squares."""
    coarse = 2 * torch.randn(count, 3, 2, 2, generator=torch.Generator().manual_seed(3))
    return coarse.repeat_interleave(SIDE // 2, 2).repeat_interleave(SIDE // 2, 3)


@pytest.mark.parametrize("kind", [*KINDS, *MORE])
def test_greedy_says_what_the_library_generates(kind: str, model_folders: dict[str, Path]) -> None:
    module = open_transformers_captioner(str(model_folders[kind])).module
    generated_BT = reload(kind, model_folders[kind]).generate(
        pixel_values=pixels(12), do_sample=False, num_beams=1, max_new_tokens=module.max_length - 1
    )
    captions = final_captions(greedy(module, module.encode(list(pixels(12)))))
    for caption, (start, *ids) in zip(captions, generated_BT.tolist(), strict=True):
        assert start == module.start
        said = [*caption.ids, *([module.end] if caption.has_end else [])]
        assert ids[: len(said)] == said
        assert set(ids[len(said) :]) <= {module.pad}
    assert len({caption.ids for caption in captions}) > 1
    assert kind in MORE or {caption.has_end for caption in captions} == {True, False}


@pytest.mark.parametrize("kind", MORE)
def test_other_image_encoders_are_the_librarys_too(kind: str, model_folders: dict[str, Path]) -> None:
    module = open_transformers_captioner(str(model_folders[kind])).module
    ids_BT = torch.randint(4, 40, (2, 7), generator=torch.Generator().manual_seed(1))
    ids_BT[:, 0] = module.start
    encoder_output = module.encode(list(pixels(2)))
    assert encoder_output.padded_grid == (4, 4)
    logits_BTV, cross_LBHTK = module(encoder_output, ids_BT)
    expected_BTV, rows_LBHTN = library_pass(kind, reload(kind, model_folders[kind]), pixels(2), ids_BT)
    assert rows_LBHTN.shape[-1] - CELLS == {"deit": 2, "beit": 1, "swin": 0}[kind.split("-")[0]]
    assert (logits_BTV - expected_BTV).abs().max() < 1e-5
    assert (cross_LBHTK - over_cells(rows_LBHTN)).abs().max() < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_cells_are_the_pictures_patches_row_by_row(kind: str, model_folders: dict[str, Path]) -> None:
    """Of an encoder that is cut down to its patches, only one patch's token changes with one patch's pixels."""
    module = open_transformers_captioner(str(model_folders[kind])).module
    encoder = {"blip": "vision_model", "git": "git.image_encoder.vision_model"}.get(kind, "encoder")
    embeddings = module.model.get_submodule(f"{encoder}.embeddings")
    plain = pixels(1)
    for row, column in ((0, 0), (1, 2), (3, 1)):
        changed = plain.clone()
        changed[..., row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] += 1
        moved_N = (embeddings(changed) - embeddings(plain)).abs().sum(-1)[0] > 1e-6
        assert moved_N.nonzero().tolist() == [[module.spec.prefix_tokens + row * 4 + column]]


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_is_encoded_once_and_a_step_computes_one_word(kind: str, model_folders: dict[str, Path]) -> None:
    module = open_transformers_captioner(str(model_folders[kind])).module
    encoder, layer, keys = {
        "blip": ("vision_model", "text_decoder.bert.encoder.layer.0", "crossattention.self.key"),
        "git": ("git.image_encoder", "git.encoder.layer.0", "attention.self.key"),
        "vit-gpt2": ("encoder", "decoder.transformer.h.0", "crossattention.c_attn"),
        "vit-bert": ("encoder", "decoder.bert.encoder.layer.0", "crossattention.self.key"),
    }[kind]
    seen: dict[str, list[int]] = {"encoder": [], "layer": [], "keys": []}

    def counting(name: str) -> Any:
        return lambda _module, given, *_: seen[name].append(given[0].shape[1] if given else 0)

    for name, path in (("encoder", encoder), ("layer", layer), ("keys", f"{layer}.{keys}")):
        module.model.get_submodule(path).register_forward_hook(counting(name))
    encoder_output = module.encode(list(pixels(1)))
    assert len(seen["encoder"]) == 1
    assert seen["keys"] == [CELLS + (2 if kind == "git" else 1)]  # the class token; in GIT, the word beside the image
    seen["layer"].clear()
    seen["keys"].clear()
    state = None
    for _ in range(5):
        state = module.step(torch.tensor([module.start]), encoder_output, state).state
    assert len(seen["encoder"]) == 1
    assert seen["layer"] == [1] * 5
    assert seen["keys"] == ([1] * 5 if kind == "git" else [])


def test_the_class_token_is_left_out_and_the_rest_is_renormalised(model_folders: dict[str, Path]) -> None:
    module = open_transformers_captioner(str(model_folders["blip"])).module
    ids_1T = torch.tensor([[module.start, 9, 11]])
    rows_LBHTN = library_pass("blip", reload("blip", model_folders["blip"]), pixels(1), ids_1T)[1]
    cross_LBHTK = module(module.encode(list(pixels(1))), ids_1T)[1]
    assert rows_LBHTN.shape[-1] == CELLS + 1
    for layer, head, place in ((0, 0, 0), (1, 3, 2), (2, 1, 1)):
        row = rows_LBHTN[layer, 0, head, place].tolist()
        expected = [value / sum(row[1:]) for value in row[1:]]
        np.testing.assert_allclose(cross_LBHTK[layer, 0, head, place], expected, atol=1e-6)
        assert row[0] > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_gives_float32_near_by(kind: str, model_folders: dict[str, Path]) -> None:
    module = open_transformers_captioner(str(model_folders[kind])).module
    start_B = torch.full((2,), module.start)
    exact = module.step(start_B, module.encode(list(pixels(2))), None)
    with torch.autocast("cpu", torch.bfloat16):
        encoder_output = module.encode(list(pixels(2)))
        first = module.step(start_B, encoder_output, None)
        second = module.step(start_B, encoder_output, first.state)
    assert first.logits_BV.dtype == second.cross_LBHK.dtype == torch.float32
    assert 0 < (first.logits_BV - exact.logits_BV).abs().max() < 0.2
    assert (second.cross_LBHK.sum(-1) - 1).abs().max() < 1e-5


def test_the_library_says_nothing_and_its_logging_is_left_as_it_was(
    copy_model_folder: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = copy_model_folder("vit-gpt2")
    logs, said = transformers.utils.logging, []
    before, listener = logs.get_verbosity(), logging.Handler()
    listener.emit = said.append  # type: ignore[method-assign]
    logs.get_logger("transformers").addHandler(listener)
    try:
        module = open_transformers_captioner(str(folder)).module
        final_captions(greedy(module, module.encode(list(pixels(1)))))
        (folder / "model.safetensors").unlink()
        torch.save({"a.stranger": torch.zeros(2)}, folder / "pytorch_model.bin")
        with pytest.raises(ModelError, match="unknown"):  # of which the library prints a table
            open_transformers_captioner(str(folder))
    finally:
        logs.get_logger("transformers").removeHandler(listener)
    assert not said
    assert capfd.readouterr() == ("", "")
    assert logs.get_verbosity() == before
    with pytest.raises(RuntimeError), quiet(transformers):
        raise RuntimeError
    assert logs.get_verbosity() == before


# --- Word pieces -----------------------------------------------------------------------------------------------------


def test_what_frames_a_caption_is_named(model_folders: dict[str, Path]) -> None:
    named = {kind: open_transformers_captioner(str(model_folders[kind])).vocabulary for kind in KINDS}
    assert (named["blip"].start, named["blip"].end, named["blip"].pad) == ("[DEC]", "[SEP]", "[PAD]")
    assert (named["git"].start, named["git"].end) == ("[CLS]", "[SEP]")
    assert (named["vit-bert"].start, named["vit-bert"].end) == ("[CLS]", "[SEP]")
    assert open_transformers_captioner(str(model_folders["blip"])).module.attention == "cross-attention"
    assert open_transformers_captioner(str(model_folders["git"])).module.attention == "self-attention to the image"
    assert {named["vit-gpt2"].start, named["vit-gpt2"].end, named["vit-gpt2"].pad} == {"<|endoftext|>"}


def test_a_vocabulary_of_lines_and_one_without_the_start(copy_model_folder: Any) -> None:
    """As published: BLIP's word pieces are BERT's, and its start is a number after them."""
    folder = copy_model_folder("blip")
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in BERT_PIECES[:-1]))
    edit_json(folder / "config.json", text_config=json.loads((folder / "config.json").read_text())["text_config"] | {
        "bos_token_id": 39})  # fmt: skip
    opened = open_transformers_captioner(str(folder))
    assert (opened.module.start, opened.vocabulary.start, opened.vocabulary.path.name) == (39, None, "vocab.txt")
    vocabulary = read_vocabulary(
        opened.vocabulary.path, start=opened.vocabulary.start, end=opened.vocabulary.end, pad=opened.vocabulary.pad
    )
    assert (vocabulary.end, vocabulary.pad) == (opened.module.end, opened.module.pad)


def test_generation_config_has_the_last_word(copy_model_folder: Any) -> None:
    folder = copy_model_folder("vit-bert")
    edit_json(folder / "config.json", decoder_start_token_id=None, eos_token_id=9)
    edit_json(folder / "generation_config.json", decoder_start_token_id=7, eos_token_id=[8])
    module = open_transformers_captioner(str(folder)).module
    assert (module.start, module.end) == (7, 8)
    (folder / "generation_config.json").unlink()
    edit_json(folder / "config.json", decoder_start_token_id=6)
    module = open_transformers_captioner(str(folder)).module
    assert (module.start, module.end) == (6, 9)


def test_settings_of_decoding_in_older_files_change_nothing(
    copy_model_folder: Any, model_folders: dict[str, Path]
) -> None:
    """Version 4 wrote all of them into every part of config.json."""
    older = {"torch_dtype": None, "max_length": 4, "num_beams": 3, "do_sample": True, "min_length": 2, "top_k": 50,
             "use_bfloat16": False, "torchscript": False, "pruned_heads": {}, "id2label": {"0": "LABEL_0"}}  # fmt: skip
    for kind, parts in (("blip", ["text_config"]), ("git", []), ("vit-gpt2", ["encoder", "decoder"])):
        folder = copy_model_folder(kind)
        (folder / "generation_config.json").unlink()
        config = json.loads((folder / "config.json").read_text()) | older
        edit_json(folder / "config.json", **older, **{part: config[part] | older for part in parts})
        found, expected = (open_transformers_captioner(str(at)).module for at in (folder, model_folders[kind]))
        assert found.spec == expected.spec
        captions = [final_captions(greedy(module, module.encode(list(pixels(3))))) for module in (found, expected)]
        assert [one.ids for one in captions[0]] == [one.ids for one in captions[1]]


# --- Pictures --------------------------------------------------------------------------------------------------------


def photo(width: int, height: int) -> Image.Image:
    random = np.random.default_rng(width)
    coarse = Image.fromarray(random.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(64, 48), (47, 91), (33, 32), (20, 20), (301, 87)])
def test_pictures_are_prepared_as_the_library_does_it(
    kind: str, size: tuple[int, int], model_folders: dict[str, Path]
) -> None:
    transform = ProcessorTransform(open_transformers_captioner(str(model_folders[kind])).image)
    prepared = transform(photo(*size))
    expected = image_processor(kind)(photo(*size), return_tensors="pt")["pixel_values"][0]
    assert prepared.dtype == torch.float32
    assert prepared.shape == (3, SIDE, SIDE)
    torch.testing.assert_close(prepared, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["BeitImageProcessorPil", "DeiTImageProcessorPil"])
def test_a_crop_out_of_a_larger_square(name: str, copy_model_folder: Any) -> None:
    folder = copy_model_folder("vit-bert")
    side = {"height": SIDE, "width": SIDE}
    processor = getattr(transformers, name)(size={"height": 40, "width": 37}, crop_size=side, do_center_crop=True)
    processor.save_pretrained(folder)
    transform = ProcessorTransform(open_transformers_captioner(str(folder)).image)
    expected = processor(photo(61, 45), return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(transform(photo(61, 45)), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("settings", "resize", "crop"),
    [
        ({"feature_extractor_type": "ViTFeatureExtractor", "size": SIDE}, (SIDE, SIDE), None),
        (
            {"image_processor_type": "ViTImageProcessorFast", "size": {"height": SIDE, "width": SIDE}},
            (SIDE, SIDE),
            None,
        ),
        ({"feature_extractor_type": "CLIPFeatureExtractor", "size": 40, "crop_size": SIDE}, 40, (SIDE, SIDE)),
    ],
)
def test_older_and_newer_files_say_the_same(
    settings: dict[str, Any], resize: Any, crop: Any, copy_model_folder: Any
) -> None:
    folder = copy_model_folder("vit-gpt2")
    (folder / "preprocessor_config.json").write_text(json.dumps(settings | {"image_mean": [0.1, 0.2, 0.3]}))
    image = open_transformers_captioner(str(folder)).image
    assert (image.resize, image.crop, image.mean) == (resize, crop, (0.1, 0.2, 0.3))


def test_without_normalisation_pixels_are_from_0_to_1(copy_model_folder: Any) -> None:
    folder = copy_model_folder("vit-gpt2")
    edit_json(folder / "preprocessor_config.json", do_normalize=False)
    transform = ProcessorTransform(open_transformers_captioner(str(folder)).image)
    white = transform(Image.new("RGB", (9, 9), (255, 0, 51)))
    np.testing.assert_allclose(white[:, 0, 0], [1, 0, 0.2], atol=1e-6)


@pytest.mark.parametrize(("kind", "size"), [("git", (96, 50)), ("git", (50, 97)), ("blip", (96, 50))])
def test_cells_lie_on_the_photographs_own_pixels(
    kind: str, size: tuple[int, int], model_folders: dict[str, Path]
) -> None:
    """A picture whose colour is its coordinate: each cell's mean colour is the middle of where the cell is placed."""
    width, height = size
    values = np.zeros((height, width, 3), np.uint8)
    values[..., 0], values[..., 1] = np.arange(width) * 2, np.arange(height)[:, None] * 2
    transform = ProcessorTransform(open_transformers_captioner(str(model_folders[kind])).image)
    red_and_green = transform(Image.fromarray(values))[:2]
    mean, std = (torch.tensor(part[:2])[:, None, None] for part in (transform.spec.mean, transform.spec.std))
    coordinates = (red_and_green * std + mean) / transform.spec.rescale / 2 + 0.5
    cells = coordinates.unfold(1, 8, 8).unfold(2, 8, 8).mean((-1, -2))
    placement = Placement(transform.geometry(width, height), 4, 4)  # type: ignore[arg-type]
    found = np.array([[placement.centre(row, column) for column in range(4)] for row in range(4)])
    np.testing.assert_allclose(np.moveaxis(cells.numpy(), 0, -1)[1:3, 1:3], found[1:3, 1:3], atol=0.5)
    np.testing.assert_allclose(np.moveaxis(cells.numpy(), 0, -1), found, atol=1.5)  # edges have less to mix
    assert placement.visible_share == pytest.approx(min(size) / max(size) if kind == "git" else 1, abs=0.02)


def test_a_strip_of_pixels_is_not_magnified(monkeypatch: pytest.MonkeyPatch) -> None:
    transform = ProcessorTransform(ProcessorInput(SIDE, (SIDE, SIDE), 3, 1 / 255, (0.0,) * 3, (1.0,) * 3))
    strip = photo(20_000, 2)
    left, top, right, bottom = transform.geometry(*strip.size).box
    assert (right - left, bottom - top) == pytest.approx((2, 2), abs=1e-6)
    assert (left + right) / 2 == pytest.approx(10_000, abs=0.1)
    expected = strip.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=(left, top, right, bottom))
    made: list[tuple[int, int]] = []
    resize = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda *given, **named: made.append(given[1]) or resize(*given, **named))
    np.testing.assert_allclose(transform(strip).permute(1, 2, 0), np.asarray(expected) / 255, atol=1e-6)
    assert made == [(SIDE, SIDE)]


# --- Files -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInHub]:
    from huggingface_hub import constants

    with StandInHub({"owner/blip": model_folders["blip"], "owner/gpt": model_folders["vit-gpt2"]}).running() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.address)
        template = running.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setenv("VITRINE_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield running


@pytest.mark.parametrize(("name", "kind"), [("owner/blip", "blip"), ("owner/gpt", "vit-gpt2")])
def test_a_repository_of_the_hub(
    name: str, kind: str, hub: StandInHub, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    opened = open_transformers_captioner(f"hf-hub:{name}")
    assert opened.weights.origin == f"hf-hub:{name}/model.safetensors"
    assert opened.weights.path.is_relative_to(tmp_path / "cache" / "hub")
    local = open_transformers_captioner(str(model_folders[kind]))
    for one, other in zip(opened.module.parameters(), local.module.parameters(), strict=True):
        assert torch.equal(one, other)
    assert (opened.image, opened.vocabulary.end) == (local.image, local.vocabulary.end)
    assert not any(request.endswith(".py") for request in hub.requests)


def test_a_repository_that_cannot_be_reached(hub: StandInHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsUnavailableError, match=r"config\.json of owner/nobody"):
        open_transformers_captioner("hf-hub:owner/nobody")
    hub.faults["model.safetensors"] = Fault(sent=0.5, is_short=True)
    with pytest.raises(WeightsUnavailableError, match=r"model\.safetensors of owner/blip"):
        open_transformers_captioner("hf-hub:owner/blip")


def test_weights_as_torch_saves_them_with_what_older_versions_wrote_beside_them(copy_model_folder: Any) -> None:
    folder = copy_model_folder("vit-gpt2")
    weights = load_file(folder / "model.safetensors")
    older = {
        "decoder.transformer.h.0.attn.bias": torch.ones(1, 1, 14, 14, dtype=torch.bool),
        "decoder.transformer.h.0.attn.masked_bias": torch.tensor(-1e4),
        "decoder.transformer.h.1.crossattention.bias": torch.ones(1, 1, 14, 14, dtype=torch.bool),
        "decoder.lm_head.weight": weights["decoder.transformer.wte.weight"],
    }
    expected = open_transformers_captioner(str(folder)).module
    (folder / "model.safetensors").unlink()
    remaining = {name: value for name, value in weights.items() if not name.startswith("encoder.pooler.")}
    torch.save(remaining | older, folder / "pytorch_model.bin")
    opened = open_transformers_captioner(str(folder))
    assert opened.weights.path.name == "pytorch_model.bin"
    start_B = torch.full((2,), expected.start)
    one, other = (module.step(start_B, module.encode(list(pixels(2))), None) for module in (expected, opened.module))
    assert torch.equal(one.logits_BV, other.logits_BV)


def test_half_precision_weights_are_computed_with_in_float32(copy_model_folder: Any) -> None:
    folder = copy_model_folder("git")
    weights = {name: value.half() for name, value in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    edit_json(folder / "config.json", dtype="float16")
    module = open_transformers_captioner(str(folder)).module
    assert {value.dtype for value in module.parameters()} == {torch.float32}


class Armed:
    """A pickle that would make a file, and thereby tell on whoever runs it."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return (Path.touch, (self.target,))


def test_a_pickle_that_carries_code_runs_nothing(copy_model_folder: Any, tmp_path: Path) -> None:
    folder = copy_model_folder("blip")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Armed(tmp_path / "ran")}))
    with pytest.raises(ModelError, match=r"pytorch_model\.bin"):
        open_transformers_captioner(str(folder))
    torch.save({"weight": torch.zeros(2), "code": Armed(tmp_path / "ran")}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="could run code"):
        open_transformers_captioner(str(folder))
    assert not (tmp_path / "ran").exists()


def test_code_in_a_repository_is_not_looked_at(copy_model_folder: Any, tmp_path: Path) -> None:
    folder = copy_model_folder("git")
    (folder / "modeling.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Git: pass\n")
    own = {"AutoModelForCausalLM": "modeling.Git", "AutoConfig": "modeling.Git", "AutoModel": "modeling.Git"}
    edit_json(folder / "config.json", auto_map=own)
    open_transformers_captioner(str(folder))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "processor_config.json"])
def test_a_missing_file_is_named(name: str, copy_model_folder: Any) -> None:
    folder = copy_model_folder("blip")
    (folder / name).unlink()
    with pytest.raises(ModelError, match=f"has no .*{name}") as error_info:
        open_transformers_captioner(str(folder))
    assert len(str(error_info.value).splitlines()) == 2
    with pytest.raises(ModelError, match="There is no folder"):
        open_transformers_captioner(str(folder / "nowhere"))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "processor_config.json"])
@pytest.mark.parametrize("content", [b"", b"\xff\x00 nothing", b"[1, 2]"])
def test_a_damaged_file_is_named(name: str, content: bytes, copy_model_folder: Any) -> None:
    folder = copy_model_folder("blip")
    (folder / name).write_bytes(content)
    with pytest.raises(ModelError, match=name) as error_info:
        open_transformers_captioner(str(folder))
    assert len(str(error_info.value).splitlines()) <= 2


def test_a_truncated_weights_file(copy_model_folder: Any) -> None:
    folder = copy_model_folder("blip")
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        open_transformers_captioner(str(folder))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_other_names_or_shapes_are_refused(kind: str, copy_model_folder: Any) -> None:
    folder = copy_model_folder(kind)
    weights = load_file(folder / "model.safetensors")
    fine = dict(weights)
    gone = [name for name in weights if name.endswith(("output.LayerNorm.bias", "ln_1.bias"))][:3]
    assert len(gone) == 3
    for name in gone:
        del weights[name]
    other_shape = next(name for name, value in weights.items() if value.ndim == 2)
    weights["a.stranger"], weights[other_shape] = torch.zeros(2), torch.zeros(3, 5)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError) as error_info:
        open_transformers_captioner(str(folder))
    said = str(error_info.value)
    assert "3 missing: " in said
    assert all(name in said for name in gone)
    assert "1 unknown: a.stranger" in said
    assert f"1 of another shape: {other_shape} (3 x 5 in place of " in said
    assert len(said.splitlines()) == 2
    many = {name: value for name, value in fine.items() if ".1." not in name}
    save_file(many, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"and \d+ more") as error_info:
        open_transformers_captioner(str(folder))
    assert len(str(error_info.value)) < 600


def test_models_of_other_kinds_are_refused_by_name(copy_model_folder: Any) -> None:
    folder = copy_model_folder("vit-bert")
    config = json.loads((folder / "config.json").read_text())
    edit_json(folder / "config.json", model_type="pix2struct")
    with pytest.raises(ModelError, match=r"'pix2struct'.*\n.*blip, git, vision-encoder-decoder"):
        open_transformers_captioner(str(folder))
    assert not is_transformers_captioner(folder)
    changes = [
        ({"decoder": config["decoder"] | {"model_type": "xlm"}}, "decoder xlm.*\n.*bert, gpt2"),
        ({"encoder": config["encoder"] | {"model_type": "dinov2"}}, "encoder dinov2.*\n.*deit, swin, vit"),
        ({"decoder": config["decoder"] | {"add_cross_attention": False}}, "without cross-attention"),
        ({"decoder": config["decoder"] | {"hidden_size": "wide"}}, "does not describe a vision-encoder-decoder"),
        ({"eos_token_id": [3, 4]}, r"eos_token_id as \[3, 4\]"),
    ]
    (folder / "generation_config.json").unlink()
    for change, message in changes:
        (folder / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ModelError, match=message) as error_info:
            open_transformers_captioner(str(folder))
        assert len(str(error_info.value).splitlines()) <= 2
    edit_json(folder / "config.json", eos_token_id=None)
    with pytest.raises(ModelError, match="which word piece starts and which ends"):
        open_transformers_captioner(str(folder))


def test_a_captioner_of_films_is_refused(tmp_path: Path) -> None:
    save_tiny("git", tmp_path, model=tiny_model("git", num_image_with_embedding=6))
    with pytest.raises(ModelError, match="films of 6 frames"):
        open_transformers_captioner(str(tmp_path))


def test_files_that_do_not_belong_together_are_refused(copy_model_folder: Any) -> None:
    folder = copy_model_folder("vit-bert")
    edit_json(folder / "preprocessor_config.json", size={"height": 48, "width": 48})
    with pytest.raises(ModelError, match="pictures of 48 x 48 pixels; the model takes 32 x 32 pixels"):
        open_transformers_captioner(str(folder))
    edit_json(folder / "preprocessor_config.json", size={"longest_edge": 48})
    with pytest.raises(ModelError, match="does not say how pictures are prepared"):
        open_transformers_captioner(str(folder))
    edit_json(folder / "preprocessor_config.json", size=SIDE, do_center_crop=True, crop_size=None)
    with pytest.raises(ModelError, match="crops them to no size"):
        open_transformers_captioner(str(folder))
    edit_json(folder / "preprocessor_config.json", image_processor_type="DonutImageProcessor")
    with pytest.raises(ModelError, match=r"DonutImageProcessor.*\n.*BlipImageProcessor"):
        open_transformers_captioner(str(folder))
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in [*BERT_PIECES, "too", "many"]))
    with pytest.raises(ModelError, match="up to number 41; the captioner has 40"):
        open_transformers_captioner(str(folder))
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in BERT_PIECES[:3]))
    with pytest.raises(ModelError, match="no word piece 3"):
        open_transformers_captioner(str(folder))


def test_pictures_of_another_size_are_refused(model_folders: dict[str, Path]) -> None:
    module = open_transformers_captioner(str(model_folders["blip"])).module
    with pytest.raises(ModelError, match="32 x 32 pixels in 3 channels; got 3 x 32 x 40"):
        module.encode([torch.zeros(3, 32, 32), torch.zeros(3, 32, 40)])


def test_which_folders_are_captioners(model_folders: dict[str, Path], tmp_path: Path) -> None:
    assert all(is_transformers_captioner(folder) for folder in model_folders.values())
    assert not is_transformers_captioner(tmp_path)
    for content in ("{", "[]", '{"model_type": "vit"}', '{"architecture": "vit_tiny_patch16_224"}'):
        (tmp_path / "config.json").write_text(content)
        assert not is_transformers_captioner(tmp_path)


def test_without_the_library_the_extra_is_named(
    model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelError, match=r"pip install 'vitrine\[hf\]'"):
        open_transformers_captioner(str(model_folders["blip"]))


def test_an_older_library_is_refused(model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["transformers"], "__version__", "5.9.1")
    with pytest.raises(ModelError, match=r"5\.23 or newer; this is 5\.9\.1"):
        open_transformers_captioner(str(model_folders["blip"]))


def test_the_library_is_imported_by_one_function_only() -> None:
    """It takes seconds, and may not be there."""
    for path in Path(transformers_captioners.__file__).parent.glob("*.py"):
        imports = [
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        names = [getattr(node, "module", None) or node.names[0].name for node in imports]
        assert not [name for name in names if name.split(".")[0] == "transformers"], path
        assert path.name == "base.py" or "import_module" not in path.read_text()


def test_gpt_pieces_are_read_with_their_word_starts(model_folders: dict[str, Path]) -> None:
    words = open_transformers_captioner(str(model_folders["vit-gpt2"])).vocabulary
    vocabulary = read_vocabulary(words.path, start=words.start, end=words.end, pad=words.pad)
    ids = [GPT_PIECES.index(piece) for piece in ("Ġwa", "s", "Ġwb", "ing", ".")]
    assert [vocabulary.is_continuation(number) for number in ids] == [False, True, False, True, True]
    assert vocabulary.decode([0, *ids, 0]) == "was wbing."
