"""Vision-language models in 4 bits: their settings everywhere, and their numbers where bitsandbytes is installed."""

from __future__ import annotations

import io
import json
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from support.serving import client_of
from support.tiny_vlms import photographs, save_tiny_vlm

import vitrine
from vitrine.caption.decoding import MapChoice, final_captions, greedy
from vitrine.data.scenes import write_scenes
from vitrine.errors import ModelError, UsageError
from vitrine.models.checkpoints.state_dict import open_weights
from vitrine.models.vlm.four_bit import _without_kernels, saved_settings
from vitrine.models.vlm.load import OpenedModel, open_vision_language_model
from vitrine.models.vlm.memory_plan import MemoryPlan
from vitrine.plotting.provenance import read_provenance
from vitrine.serve.server import open_app_state
from vitrine.serve.settings import ServeSettings

NEEDS_LIBRARY = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="bitsandbytes is not here: pip install 'vitrine[bitsandbytes]'"
)
SAVED = {"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False, "bnb_4bit_quant_type": "nf4",
         "bnb_4bit_compute_dtype": "bfloat16", "bnb_4bit_use_double_quant": True}  # fmt: skip


def test_the_library_is_asked_for_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny_vlm("llava", tmp_path)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ModelError, match=r"need the library bitsandbytes.*\nInstall it: pip install 'vitrine\[bits"):
        open_vision_language_model(str(tmp_path), "4bit")
    monkeypatch.setitem(sys.modules, "bitsandbytes", SimpleNamespace(__version__="0.46.1"))
    with pytest.raises(ModelError, match=r"need bitsandbytes 0.50 or newer; this is 0.46.1"):
        open_vision_language_model(str(tmp_path), "4bit")


@pytest.mark.parametrize("model", ["vitrine/scenes-tiny", "catr/v3"])
def test_other_models_are_not_in_4_bits(model: str) -> None:
    with pytest.raises(UsageError, match="--precision 4bit is of vision-language models"):
        vitrine.load(model, precision="4bit")


def test_no_code_is_fetched_as_it_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kernels", SimpleNamespace(get_kernel=print))
    with _without_kernels(), pytest.raises(ImportError):
        import kernels  # noqa: F401
    assert sys.modules["kernels"].get_kernel is print


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"quant_method": "gptq", "bits": 4}, "quantization_config: gptq"),
        ({**SAVED, "load_in_4bit": False, "load_in_8bit": True}, "quantization_config: bitsandbytes in 8 bits"),
        ({"bits": 4}, "quantization_config: of no method"),
        ({**SAVED, "bnb_4bit_quant_type": "nf3"}, "bnb_4bit_quant_type 'nf3'.\nExpected one of these: nf4, fp4."),
        ({**SAVED, "bnb_4bit_compute_dtype": "load"}, "bnb_4bit_compute_dtype 'load'"),
        ({**SAVED, "bnb_4bit_quant_storage": "float64"}, "bnb_4bit_quant_storage 'float64'"),
    ],
    ids=["gptq", "8-bits", "no-method", "type", "dtype", "storage"],
)  # fmt: skip
def test_other_weights_in_a_few_bits_are_refused_by_name(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ModelError) as error:
        saved_settings(Path("config.json"), {"quantization_config": settings})
    assert sentence in str(error.value)


def test_settings_that_are_not_known_are_left_out() -> None:
    config = {"quantization_config": {**SAVED, "llm_int8_skip_modules": ["lm_head"], "hook": "os.system"}}
    known = saved_settings(Path("config.json"), config)
    assert known is not None and "hook" not in known and known["llm_int8_skip_modules"] == ["lm_head"]
    assert saved_settings(Path("config.json"), {}) is None


# With the library.

NF4 = (-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
       -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
       0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0)  # fmt: skip


def nearest_values(weight: torch.Tensor) -> torch.Tensor:
    """The slow obvious nf4: of each block of 64, the largest size times the nearest of 16 values."""
    padded = torch.nn.functional.pad(weight.flatten(), (0, -weight.numel() % 64)).reshape(-1, 64)
    scale = padded.abs().amax(1, keepdim=True)
    values = torch.tensor(NF4)[((padded / scale)[..., None] - torch.tensor(NF4)).abs().argmin(-1)] * scale
    return values.flatten()[: weight.numel()].reshape(weight.shape)


def greedy_answer(opened: OpenedModel) -> Any:
    """An answer of four words with the maps of all layers and heads."""
    with torch.inference_mode():
        encoded = opened.module.encode([opened.transform(photographs((50, 41))[0])])
        (caption,) = final_captions(greedy(opened.module, encoded, max_tokens=4, maps=MapChoice("all", "all")))
    return encoded.features.rows[0].logits_V, caption


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in float32, of layers with 64 inputs, and with 96, which are no whole blocks."""
    folder = tmp_path_factory.mktemp("llava")
    config = save_tiny_vlm("llava", folder).config
    for part in (config.vision_config, config.text_config):
        part.hidden_size, part.intermediate_size = 64, 96
    config.text_config.head_dim = 16
    torch.manual_seed(0)
    transformers.LlavaForConditionalGeneration(config).save_pretrained(folder)
    return folder


@NEEDS_LIBRARY
def test_a_model_is_that_of_its_rounded_weights(folder: Path, tmp_path: Path) -> None:
    """Beside the same model in float32, whose linear layers have the values that 4 bits leave."""
    opened = open_vision_language_model(str(folder), "4bit")
    model = opened.module.model
    names = {f"{name}.weight" for name, layer in model.named_modules() if type(layer).__name__ == "Linear4bit"}
    assert len(names) > 20 and "lm_head.weight" not in names
    assert not any(name.endswith(("down_proj.weight", "fc2.weight")) for name in names), "96 are no whole blocks"
    plain = open_vision_language_model(str(folder))
    with torch.no_grad():
        for name, weight in plain.module.model.named_parameters():
            rounded = weight.bfloat16().float()  # as it is read, before it is brought into 4 bits
            weight.copy_(nearest_values(rounded) if name in names else rounded)
    (logits_V, caption), (expected_V, expected) = greedy_answer(opened), greedy_answer(plain)
    exact = greedy_answer(open_vision_language_model(str(folder)))[0]
    error, rounding = (logits_V - expected_V).abs().max(), (exact - expected_V).abs().max()
    assert error < 0.4 * rounding, "bf16 takes a part of what 4 bits do"
    weights = {name: weight.data for name, weight in plain.module.model.named_parameters()}
    for name, layer in model.named_modules():
        if f"{name}.weight" in names:
            inputs = torch.randn(1, 3, layer.in_features).bfloat16()
            expected_O = inputs.float() @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", torch.zeros(1))
            with torch.inference_mode():
                difference = (layer(inputs).float() - expected_O).abs().max()
            assert difference < 0.02 * expected_O.abs().max(), name
    first = abs(caption.maps_TLHK[0] - expected.maps_TLHK[0]).max()
    assert first < 0.05, "the first word's map is of the prompt, which both have read"
    shapes = open_weights(folder / "model.safetensors", as_named=True).shapes
    plan = MemoryPlan.of(folder / "model.safetensors", shapes, model.config.get_text_config(), 640, "4bit")
    quantized = [layer.weight for layer in model.modules() if type(layer).__name__ == "Linear4bit"]
    scales = sum(4 * weight.quant_state.shape.numel() // 64 for weight in quantized)
    taken = scales + sum(value.nbytes for value in model.parameters())
    assert plan.weights == pytest.approx(taken, rel=0.02)


@NEEDS_LIBRARY
def test_weights_that_were_saved_in_4_bits(folder: Path, tmp_path: Path) -> None:
    opened = open_vision_language_model(str(folder), "4bit")
    shutil.copytree(folder, tmp_path / "saved")
    (tmp_path / "saved" / "model.safetensors").unlink()
    opened.module.model.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["quantization_config"]["load_in_4bit"]
    again = open_vision_language_model(str(tmp_path / "saved"), "4bit")
    assert again.notes == (
        "These weights were saved in 4 bits and are taken as they are; --precision is of the others.",
    )
    (logits_V, caption), (again_V, repeated) = greedy_answer(opened), greedy_answer(again)
    assert logits_V.equal(again_V) and caption.ids == repeated.ids
    photo = photographs((40, 30))[0]
    for precision in ("fp32", "4bit"):
        vitrine.ask(
            tmp_path / "saved", photo, "What?", tmp_path / "a.png", max_pieces=1, precision=precision, quiet=True
        )
        assert read_provenance(tmp_path / "a.png")["vitrine:precision"] == "4bit", "what the weights are in"
    path = tmp_path / "saved" / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("q_proj.weight.absmax"))
    save_file(tensors | {name: tensors[name][:1].clone()}, path, {"format": "pt"})
    with pytest.raises(ModelError, match=r"q_proj in 4 bits that do not fit its 64 x 64 layer"):
        open_vision_language_model(str(tmp_path / "saved"), "4bit")


@NEEDS_LIBRARY
def test_a_question_is_answered_in_4_bits(folder: Path) -> None:
    photo = photographs((40, 30))[0]
    assert len(vitrine.ask(folder, photo, "What?", max_pieces=2, precision="4bit", quiet=True).words) > 0
    model = vitrine.load(folder, precision="4bit", device="cpu")
    if model.captioner.module.has_gradients:
        pytest.skip("This processor takes the layout that gradients pass through.")
    with pytest.raises(UsageError, match="cannot be read by gradient"):
        model.ask(photo, "What?", reading="gradient")


@NEEDS_LIBRARY
def test_layers_are_scored_and_pictures_served_in_4_bits(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    shutil.copytree(folder, tmp_path / "short")
    config["text_config"]["max_position_embeddings"] = 64  # answers of random weights hardly ever end
    (tmp_path / "short" / "config.json").write_text(json.dumps(config))
    scenes = write_scenes(tmp_path / "scenes", "base", {"test": 3}, size=32)
    options = {"grounding": True, "readings": "attention", "quiet": True}
    result = vitrine.evaluate(tmp_path / "short", scenes, precision="4bit", device="cpu", **options)
    again = vitrine.evaluate(vitrine.load(tmp_path / "short", precision="4bit"), scenes, **options)
    assert result.precision == again.precision == "4bit"
    assert result.negative_log_likelihood == again.negative_log_likelihood
    assert (
        result.negative_log_likelihood
        != vitrine.evaluate(tmp_path / "short", scenes, quiet=True).negative_log_likelihood
    )
    state = open_app_state([str(tmp_path / "short")], ServeSettings(), precision="4bit", device="cpu")
    served = state.captioner("0")
    assert served.precision == "4bit"
    assert any(type(layer).__name__ == "Linear4bit" for layer in served.module.modules())
    encoded = io.BytesIO()
    photographs((40, 30))[0].save(encoded, "PNG")
    with client_of(state) as client:
        answer = client.post("/api/caption", params={"prompt": "What?", "max_pieces": 2}, content=encoded.getvalue())
    assert answer.status_code == 200 and "--precision 4bit" in answer.json()["command"]
