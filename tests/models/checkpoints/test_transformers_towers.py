"""Image towers of transformers without a classifier: DINOv2, DINOv3, CLIP, SigLIP, compared with its own modules."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from support.checkpoints import expect_error, pixels
from support.format_makers import as_naflex, transformers_model
from support.readouts import require_true_readout
from torch import nn

from vitrine.classify.inference import eval_transform
from vitrine.classify.model import open_classifier
from vitrine.errors import ModelError
from vitrine.export.transformers import as_transformers
from vitrine.models.checkpoints.image_processor import read_processor
from vitrine.models.checkpoints.state_dict import StateDictFile
from vitrine.models.checkpoints.transformers import convert_transformers, describe_transformers
from vitrine.models.checkpoints.transformers_config import FAMILIES
from vitrine.models.load import load_for_inference, load_model

# What each is made of: the class, what its configuration says, what reads its tokens, and what is left out.
TOWERS: dict[str, tuple[str, dict[str, Any], str, tuple[str, ...]]] = {
    "DINOv2 with registers": ("Dinov2WithRegistersModel", {}, "[class]", ("mask_token",)),
    "DINOv2 with no register": ("Dinov2WithRegistersModel", {"num_register_tokens": 0}, "[class]", ("mask_token",)),
    "DINOv2 with registers, as a backbone": ("Dinov2WithRegistersBackbone", {}, "[class]", ()),
    "DINOv3": ("DINOv3ViTModel", {"num_register_tokens": 4}, "[class]", ("mask_token",)),
    "DINOv3, gated": (
        "DINOv3ViTModel",
        {"num_register_tokens": 4, "use_gated_mlp": True, "hidden_act": "silu", "intermediate_size": 100},
        "[class]", ("mask_token",),
    ),
    "DINOv3, other numbers": (
        "DINOv3ViTModel",
        {"rope_theta": 50.0, "query_bias": False, "value_bias": False, "layer_norm_eps": 0.01},
        "[class]", (),
    ),
    "CLIP's tower": ("CLIPVisionModel", {}, "[class]", ()),
    "CLIP's tower, projected": ("CLIPVisionModelWithProjection", {}, "[class]", ("visual_projection.weight",)),
    "CLIP": ("CLIPModel", {"hidden_act": "gelu"}, "[class]",
             ("its text half, 22 tensors (logit_scale, text_model, text_projection)", "visual_projection.weight")),
    "SigLIP's tower": ("SiglipVisionModel", {}, "the attention pool", ()),
    "SigLIP": ("SiglipModel", {"hidden_act": "gelu"}, "the attention pool",
               ("its text half, 24 tensors (logit_bias, logit_scale, text_model)",)),
    "SigLIP's tower without a pool": ("SiglipVisionModel", {"vision_use_head": False}, "the mean of the patches", ()),
    "SigLIP 2's tower": ("Siglip2VisionModel", {}, "the attention pool", ("square pictures only",)),
    "SigLIP 2": ("Siglip2Model", {}, "the attention pool", ("its text half",)),
}  # fmt: skip


def own_features(theirs: nn.Module, pixels_BCHW: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
    """What the library's model gives: tokens after its last norm, where it has them, and what it pools them to."""
    tower: Any = getattr(theirs, "vision_model", theirs)
    inputs = as_naflex(pixels_BCHW) if "Siglip2" in type(theirs).__name__ else {"pixel_values": pixels_BCHW}
    output = tower(**inputs)
    if "Backbone" in type(theirs).__name__:  # the patches alone, on their grid
        return None, output.feature_maps[-1].flatten(2).mean(dim=2)
    pooled = getattr(output, "pooler_output", None)
    if "CLIP" in type(theirs).__name__:  # whose tower has no norm over all tokens
        pooled = tower.post_layernorm(output.last_hidden_state[:, 0]) if pooled is None else pooled
        return None, pooled
    return output.last_hidden_state, output.last_hidden_state.mean(dim=1) if pooled is None else pooled


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[nn.Module, Path]]:
    """Each tower with its folder; DINOv3's weights in several files, as large ones are saved."""
    base, result = tmp_path_factory.mktemp("towers"), {}
    for number, (name, (kind, config, _, _)) in enumerate(TOWERS.items()):
        theirs, folder = transformers_model(kind, **config), base / str(number)
        theirs.save_pretrained(folder, max_shard_size="50KB" if name == "DINOv3" else "1GB")
        result[name] = theirs, folder
    assert len(list(result["DINOv3"][1].glob("model-*.safetensors"))) > 1
    return result


@pytest.mark.parametrize("name", TOWERS)
def test_a_tower_gives_its_own_librarys_features(name: str, towers: dict[str, tuple[nn.Module, Path]]) -> None:
    (theirs, folder), (_, _, reader, left_out) = towers[name], TOWERS[name]
    model = load_model(str(folder), pretrained=True)
    module = model.module.eval()
    with torch.no_grad():
        tokens, pooled = own_features(theirs, pixels())
        ours = module.forward_features(pixels())
        if tokens is not None:
            torch.testing.assert_close(ours, tokens, rtol=1e-5, atol=1e-5)
        if "Backbone" in TOWERS[name][0]:
            ours_pooled = ours[:, module.num_prefix_tokens :].mean(dim=1)
        else:
            ours_pooled = module(pixels())
        torch.testing.assert_close(ours_pooled, pooled, rtol=1e-5, atol=1e-5)
    assert pooled.std() > 0.1
    for part in left_out:
        assert any(part in note for note in model.notes), (part, model.notes)
    with pytest.raises(ModelError, match="has no classification head"):
        open_classifier(str(folder))

    trained = load_model(str(folder), pretrained=True, num_classes=4).module.eval()
    nn.init.normal_(trained.head.weight)  # type: ignore[union-attr, arg-type]
    assert require_true_readout(trained, pixels()).names == reader
    with torch.no_grad():
        features = trained.forward_head(trained.forward_features(pixels()), pre_logits=True)
    if "eps" not in str(TOWERS[name][1]):  # a training keeps timm's own epsilon, and says so
        torch.testing.assert_close(features, module(pixels()), rtol=1e-4, atol=1e-4)
    different = r"(cannot hold this model: .*)"
    with pytest.raises(ModelError, match=different):
        as_transformers(trained, ["a", "b", "c", "d"])


@pytest.mark.parametrize("name", ["DINOv2 with registers", "DINOv3", "CLIP", "SigLIP", "SigLIP 2"])
def test_a_tower_takes_pictures_of_another_size(name: str, towers: dict[str, tuple[nn.Module, Path]]) -> None:
    theirs, folder = towers[name]
    pixels_BCHW = pixels(48)
    module = load_model(str(folder), pretrained=True, image_size=48).module.eval()
    with torch.no_grad():
        ours = module.forward_features(pixels_BCHW)
        if name in ("CLIP", "SigLIP"):  # which resample positions without antialiasing; timm's way is kept and said
            assert torch.isfinite(ours).all()
            return
        tokens, _ = own_features(theirs, pixels_BCHW)
        torch.testing.assert_close(ours, tokens, rtol=1e-5, atol=1e-5)


# Of these odd sizes an even number of pixels is cut off: of an odd one the library cuts one less at the left.
SHORT_SIDE = ((33, 33), (61, 101), (101, 61))
SQUEEZED = ((33, 33), (57, 91), (101, 45), (7, 5))


@pytest.mark.parametrize("backend", ["", "Pil"])
@pytest.mark.parametrize(
    ("kind", "side", "processor", "options", "sizes"),
    [
        ("CLIPModel", 32, "CLIPImageProcessor", {"size": {"shortest_edge": 32}}, SHORT_SIDE),
        ("CLIPModel", 32, "CLIPImageProcessor", {"size": {"shortest_edge": 38}, "resample": 2}, SHORT_SIDE),
        # In floating-point numbers 40 / (40 / 58) is less than 58.
        ("CLIPModel", 40, "CLIPImageProcessor", {"size": {"shortest_edge": 58}}, SHORT_SIDE),
        ("Dinov2WithRegistersModel", 32, "BitImageProcessor", {"size": {"shortest_edge": 40}}, SHORT_SIDE),
        ("SiglipModel", 32, "SiglipImageProcessor", {"size": {"height": 32, "width": 32}}, SQUEEZED),
        ("DINOv3ViTModel", 32, "DINOv3ViTImageProcessor", {"size": {"height": 32, "width": 32}}, SQUEEZED),
        ("Siglip2VisionModel", 32, "Siglip2ImageProcessor", {"patch_size": 8, "max_num_patches": 16}, ((33, 33),)),
        ("Siglip2VisionModel", 40, "Siglip2ImageProcessor", {"patch_size": 8, "max_num_patches": 30}, ((7, 7),)),
    ],
)  # fmt: skip
def test_pictures_of_odd_sizes_are_prepared_as_the_processor_does(
    kind: str, side: int, processor: str, options: dict[str, Any], sizes: tuple[tuple[int, int], ...], backend: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    transformers = pytest.importorskip("transformers", reason="transformers is not installed (vitrine[hf])")
    if not hasattr(transformers, processor + backend):
        pytest.skip(f"transformers has no {processor}{backend}")
    is_naflex = processor == "Siglip2ImageProcessor"
    transformers_model(kind, **{} if is_naflex else {"image_size": side}).save_pretrained(tmp_path)
    if "shortest_edge" in options.get("size", ()):
        options = {**options, "crop_size": {"height": side, "width": side}}
    own = getattr(transformers, processor + backend)(**options)
    own.save_pretrained(tmp_path)
    spec = load_model(str(tmp_path), pretrained=True).input
    assert spec.size == (side, side)
    for rows, columns in sizes:
        rng = np.random.default_rng(rows)
        image = Image.fromarray(rng.integers(0, 256, (rows, columns, 3), dtype=np.uint8))
        theirs = own(image, return_tensors="pt")["pixel_values"][0]
        ours_HWC = torch.from_numpy(eval_transform(spec)(image)).float() / 255
        ours = ((ours_HWC - torch.tensor(spec.mean)) / torch.tensor(spec.std)).permute(2, 0, 1)
        if is_naflex:
            ours = as_naflex(ours[None])["pixel_values"][0]
            theirs = theirs[: len(ours)]  # the rest is padding
        assert ours.shape == theirs.shape
        largest = float((ours - torch.as_tensor(theirs)).abs().max()) * max(spec.std) * 255
        # Pillow's resize to the bit; torch's, which rounds otherwise, within 3 levels of 255.
        assert largest < (0.01 if backend == "Pil" else 3.01), largest


@pytest.mark.parametrize(
    "name",
    ["BitImageProcessor", "CLIPImageProcessor", "DeiTImageProcessor", "DINOv3ViTImageProcessor", "SiglipImageProcessor",
     "Siglip2ImageProcessor", "ViTImageProcessor"],
)  # fmt: skip
def test_what_a_processor_does_where_its_file_says_nothing(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed (vitrine[hf])")
    specs = []
    getattr(transformers, name)().save_pretrained(tmp_path)  # every setting, by name
    for _ in range(2):
        specs.append(read_processor(tmp_path, (64, 64), FAMILIES["vit"].processor, "", is_fixed=True))
        (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": f"{name}Fast"}))
    assert specs[0] == specs[1]


def test_the_processor_of_a_whole_model_is_read(towers: dict[str, tuple[nn.Module, Path]], tmp_path: Path) -> None:
    """Version 5 of transformers writes it into processor_config.json, beside the tokenizer's settings."""
    theirs, _ = towers["CLIP"]
    theirs.save_pretrained(tmp_path)  # type: ignore[operator]
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "image_mean": [0.1, 0.2, 0.3],
        "crop_size": 32,
        "size": 40,
    }
    whole = {"image_processor": processor, "processor_class": "CLIPProcessor"}
    (tmp_path / "processor_config.json").write_text(json.dumps(whole))
    spec = load_model(str(tmp_path), pretrained=True).input
    assert (spec.mean, spec.crop, spec.crop_mode) == ((0.1, 0.2, 0.3), 0.8, "center")


@pytest.mark.parametrize(
    ("name", "changes", "match"),
    [
        ("CLIP", {"architectures": ["CLIPTextModelWithProjection"]}, "is of a CLIPTextModelWithProjection"),
        ("CLIP", {"model_type": "clip_text_model", "architectures": ["CLIPTextModel"]}, "is of a CLIPTextModel"),
        ("CLIP", {"model_type": "altclip", "architectures": ["AltCLIPModel"]}, "is of a AltCLIPModel"),
        ("CLIP's tower", {"num_hidden_layers": 3}, "The file has 2 blocks, the model 3"),
        ("CLIP's tower", {"hidden_act": "mish"}, "hidden_act = 'mish' is not known"),
        ("SigLIP's tower without a pool", {"vision_use_head": True}, r"missing \(attn_pool"),
        ("SigLIP's tower", {"vision_use_head": False}, r"unexpected \(attn_pool"),
        ("DINOv3", {"num_register_tokens": 3}, "size mismatch: reg_token is 1 x 4 x 48"),
        ("DINOv3", {"use_gated_mlp": True}, "this hidden_act cannot be opened here; expected silu"),
        ("DINOv3", {"hidden_act": "relu"}, "this hidden_act cannot be opened here; expected gelu"),
        ("DINOv3", {"key_bias": True}, "DINOv3 with these biases cannot be opened"),
        ("DINOv3", {"proj_bias": False}, "DINOv3 with these biases cannot be opened"),
        ("DINOv2 with registers", {"num_register_tokens": -1}, "num_register_tokens = -1 is not"),
        ("SigLIP 2's tower", {"num_patches": 0}, "num_patches = 0 is not"),
    ],
)  # fmt: skip
def test_configurations_of_towers_that_cannot_be_used(
    name: str, changes: dict[str, Any], match: str, towers: dict[str, tuple[nn.Module, Path]], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(towers[name][1], tmp_path / "copy"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    expect_error(folder, match)


def test_fields_that_a_nested_configuration_leaves_out_are_the_librarys_own(tmp_path: Path) -> None:
    """google/siglip-base-patch16-224 says no more of its image tower than this."""
    tower = {"model_type": "siglip_vision_model"}
    config = {"architectures": ["SiglipModel"], "model_type": "siglip", "vision_config": tower}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = describe_transformers(tmp_path)
    assert (model.architecture, model.cfg["input_size"]) == ("vit_base_patch16_siglip_224", (3, 224, 224))
    transformers = pytest.importorskip("transformers", reason="transformers is not installed (vitrine[hf])")
    for model_type, family in FAMILIES.items():
        own = transformers.AutoConfig.for_model(model_type)
        own = getattr(own, "vision_config", own)
        assert {key: getattr(own, key) for key in family.defaults} == dict(family.defaults), model_type


def test_weights_of_a_tower_without_their_configuration(
    towers: dict[str, tuple[nn.Module, Path]], tmp_path: Path
) -> None:
    """Nothing in the file says how many heads there are; where a person names the model, that is enough."""
    theirs, folder = towers["CLIP's tower"]
    file = Path(shutil.copy(folder / "model.safetensors", tmp_path / "clip.safetensors"))
    expect_error(file, r"names of the library transformers, without the config\.json")
    sizes = "img_size=32,patch_size=8,embed_dim=48,depth=2,num_heads=3,mlp_ratio=2"
    model = load_for_inference(file, f"vit_base_patch32_clip_quickgelu_224:{sizes}")
    with torch.no_grad():
        torch.testing.assert_close(model.module(pixels()), own_features(theirs, pixels())[1], rtol=1e-5, atol=1e-5)


# Published sizes, and timm's own names of them: width, blocks, heads, MLP, and what else their files say.
PUBLISHED: tuple[tuple[str, str, tuple[int, ...], dict[str, Any]], ...] = (
    ("vit_large_patch14_clip_quickgelu_336", "CLIPVision", (1024, 24, 16, 4096), {"patch_size": 14, "image_size": 336}),
    ("vit_so400m_patch14_siglip_384", "SiglipVision", (1152, 27, 16, 4304), {"patch_size": 14, "image_size": 384}),
    ("vit_so400m_patch16_siglip_256", "Siglip2Vision", (1152, 27, 16, 4304), {}),
    ("vit_small_plus_patch16_dinov3_qkvb", "DINOv3ViT", (384, 12, 6, 1536), {"use_gated_mlp": True}),
    ("vit_base_patch14_reg4_dinov2", "Dinov2WithRegisters", (768, 12, 12), {"patch_size": 14, "image_size": 518}),
)


@pytest.mark.parametrize(("name", "kind", "sizes", "more"), PUBLISHED)
def test_published_sizes_are_timms_own_models(
    name: str, kind: str, sizes: tuple[int, ...], more: dict[str, Any], tmp_path: Path
) -> None:
    """By the tensors of both libraries' models, without memory for them: those of timm's model of that name."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed (vitrine[hf])")
    keys = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    settings = dict(zip(keys, sizes, strict=False)) | more
    settings |= {"num_register_tokens": 4} if kind.startswith("DINO") else {}
    settings |= {"hidden_act": "silu"} if "use_gated_mlp" in more else {}
    config = getattr(transformers, f"{kind}Config")(**settings)
    with torch.device("meta"):
        theirs = getattr(transformers, f"{kind}Model")(config).state_dict()
        ours = timm.create_model(name, num_classes=0)
    (tmp_path / "config.json").write_text(json.dumps({**config.to_dict(), "architectures": [f"{kind}Model"]}))
    shapes = {key: tuple(value.shape) for key, value in theirs.items()}
    checkpoint = convert_transformers(StateDictFile(tmp_path / "model.safetensors", shapes))
    assert {key: tuple(value.shape) for key, value in ours.state_dict().items()} == checkpoint.shapes
    model = describe_transformers(tmp_path)
    assert (model.architecture, model.model_args["img_size"]) == (
        name,
        more.get("image_size", model.cfg["input_size"][1]),
    )
    args = {"num_heads": ours.blocks[0].attn.num_heads, "embed_dim": ours.embed_dim, "depth": len(ours.blocks)}
    assert {key: model.model_args.get(key, value) for key, value in args.items()} == args
    assert args["num_heads"] == sizes[2]
