"""A model spread over devices gives the words and maps of one that is not."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import dispatch_model
from support.tiny_vlms import photographs, save_tiny_vlm
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from vitrine.caption.decoding import MapChoice, final_captions, greedy
from vitrine.models.vlm import device_map
from vitrine.models.vlm.device_map import AutoDeviceMap, describe_spread, main_device
from vitrine.models.vlm.load import OpenedModel, open_vision_language_model
from vitrine.models.vlm.model import AnswerState


def answers(opened: OpenedModel) -> Any:
    """Ids, maps of all layers and heads, and gradient-weighted ones where the model has them, of two pictures."""
    module, prompts = opened.module, [opened.transform(photo) for photo in photographs((50, 41), (33, 64))]
    with torch.inference_mode():
        encoded = module.encode(prompts)
        captions = final_captions(greedy(module, encoded, max_tokens=4, maps=MapChoice("all", "all")))
        ids = [caption.ids for caption in captions]
        weighted = module.gradient_attention(encoded, ids) if module.has_gradients else ()
    return ids, [*(torch.from_numpy(caption.maps_TLHK) for caption in captions), *weighted]


def folder_on_disk(opened: OpenedModel) -> Path:
    """Where the layers lie that are on the disk."""
    hooks = [getattr(part, "_hf_hook", None) for part in opened.module.model.modules()]
    maps = [hook.weights_map for hook in hooks if getattr(hook, "weights_map", None) is not None]
    (folder,) = {Path(each["safetensors_file"]).parent for each in maps[0].dataset.index.values()}
    return folder


# Layers of one decoder; with query tokens and weights that two parts share; an encoder with cross-attention.
@pytest.mark.parametrize("kind", ["qwen2_vl", "blip2-t5", "florence2"])
def test_layers_on_the_disk_change_nothing(kind: str, tmp_path: Path) -> None:
    save_tiny_vlm(kind, tmp_path)
    plain = open_vision_language_model(str(tmp_path))
    sizes = [value.nbytes for value in plain.module.model.state_dict().values()]
    room = AutoDeviceMap({"cpu": sum(sizes) // 2 + 2 * max(sizes)})
    opened = open_vision_language_model(str(tmp_path), "fp32", room)
    (note,) = opened.notes
    assert "on the disk" in note and "copied to it for every word" in note and opened.device == torch.device("cpu")
    folder = folder_on_disk(opened)
    assert folder.is_dir()
    (ids, maps), (plain_ids, plain_maps) = answers(opened), answers(plain)
    assert ids == plain_ids
    for one, other in zip(maps, plain_maps, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)
    del opened
    gc.collect()
    assert not folder.exists(), "layers stay on the disk when their model is gone"


def test_rows_of_layers_on_two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With tensors that have shapes and devices and no numbers: torch refuses to mix their devices as a GPU would."""
    save_tiny_vlm("llava", tmp_path)
    opened = open_vision_language_model(str(tmp_path))
    module, model = opened.module, opened.module.model
    prompt = opened.transform(photographs((50, 41))[0])
    first, second = ("vision_tower", "multi_modal_projector"), ("embed_tokens", "layers.0", "rotary_emb")
    parts = {f"model.{name}": 0 for name in first} | {f"model.language_model.{name}": 0 for name in second}
    parts |= {"model.language_model.layers.1": 1, "model.language_model.norm": 1, "lm_head": 1}
    monkeypatch.setattr(AnswerState, "mask_BS", None)  # which asks for numbers
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        for name, number in parts.items():
            for part in model.get_submodule(name).modules():
                for values in (part._parameters, part._buffers):
                    for key, value in values.items():
                        if value is not None:
                            empty = torch.empty(value.shape, device=f"cuda:{number}")
                            values[key] = nn.Parameter(empty, False) if isinstance(value, nn.Parameter) else empty
        dispatch_model(model, parts)
        text = replace(prompt, tensors={"input_ids": prompt.tensors["input_ids"]}).to(main_device(model))
        encoded = module.encode([text])
        state = module.reorder(module.step(torch.zeros(1, dtype=torch.long), encoded, None).state, torch.tensor([0]))
        output = module.step(torch.zeros(1, dtype=torch.long), encoded, state)
    assert [str(keys.device) for keys, _ in output.state.layers] == ["cuda:0", "cuda:1"]
    assert output.cross_LBHK.shape == (2, 1, 4, 16)
    assert str(output.cross_LBHK.device) == str(output.logits_BV.device) == "cuda:0"
    assert describe_spread(model) == "Devices: of the 8 parts of this model, on cuda:0 5, on cuda:1 3."


def test_room_is_nine_tenths_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_map, "free_gpu_memory", lambda: {0: 1000, 1: 20})
    monkeypatch.setattr(device_map, "free_memory", lambda: 500)
    assert AutoDeviceMap().room() == {0: 900, 1: 18, "cpu": 450}
    monkeypatch.setattr(device_map, "free_memory", lambda: None)
    assert AutoDeviceMap().room() is None, "accelerate knows more"


def test_all_of_it_in_memory_is_said(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("This machine has a GPU.")
    save_tiny_vlm("llava", tmp_path)
    opened = open_vision_language_model(str(tmp_path), "fp32", AutoDeviceMap())
    assert opened.notes == ("Devices: all of this model is in memory, on the CPU; this machine has no GPU.",)
