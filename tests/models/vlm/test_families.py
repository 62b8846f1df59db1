"""Where image tokens lie: photographs painted patch by patch, through the library's processor and vision tower.

The tower's attention is replaced by one in which every patch sees itself alone, so that a painted region changes the
tokens that see it and no others; everything else (resizing, tiles, merging, the order of tokens) is the library's own.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from support.tiny_vlms import tiny_vlm

from vitrine.models.vlm.families import FAMILIES
from vitrine.models.vlm.layout import TokenLayout, grid_boxes, no_place
from vitrine.models.vlm.prompt import PromptTransform

KINDS = {"llava-full": "llava", "llava-siglip": "llava"} | {
    kind: kind
    for kind in (
        "llava", "paligemma", "gemma3", "llava_next", "llava_onevision", "idefics3", "internvl", "qwen2_vl",
        "qwen2_5_vl", "qwen3_vl",
    )
} | {"blip2": "blip-2", "kosmos2": "kosmos-2", "florence2": "florence2"} | {
    kind: kind for kind in ("smolvlm", "vipllava", "aya_vision", "cohere2_vision", "idefics2")
} | {"idefics2-whole": "idefics2"}  # fmt: skip
SIZES = ((96, 96), (150, 101), (61, 140), (90, 31))
"""Of photographs, pixels: square, broad, tall, and flat; sides that no patch divides, and borders of a canvas."""


def _see_yourself(_module: Any, _query: Any, _key: Any, value_BHSE: torch.Tensor, *_: Any, **__: Any) -> Any:
    return value_BHSE.transpose(1, 2).contiguous(), None


@pytest.fixture(scope="module", params=KINDS)
def tower(request: pytest.FixtureRequest) -> SimpleNamespace:
    transformers.AttentionInterface.register("see_yourself", _see_yourself)
    transformers.AttentionMaskInterface.register("see_yourself", transformers.masking_utils.sdpa_mask)
    model, processor = tiny_vlm(request.param)
    model.set_attn_implementation({"vision_config": "see_yourself"})
    for module in model.modules():  # convolutions inside of Florence-2's blocks see their neighbours
        if isinstance(module, torch.nn.Conv2d) and module.groups > 1:
            see_centre = torch.zeros(3, 3)
            see_centre[1, 1] = 1.0
            module.weight.data *= see_centre
    transform = PromptTransform(processor, model.config, FAMILIES[KINDS[request.param]])
    return SimpleNamespace(kind=request.param, model=model, transform=transform)


def image_tokens(tower: SimpleNamespace, photo: Image.Image) -> torch.Tensor:
    """What the language model is given for each image token, or query tokens for each that they read: (N, D)."""
    prompt, given = tower.transform(photo), {}
    if tower.kind == "blip2":
        reader = tower.model.qformer
    elif tower.kind == "kosmos2":
        reader = tower.model.image_to_text_projection.x_attn
    elif tower.kind.startswith("idefics2"):
        reader = tower.model.model.connector.perceiver_resampler
    elif tower.kind == "florence2":
        reader = tower.model.model.language_model.encoder
    else:
        parts = tower.model.model
        reader = parts.text_model if tower.kind in ("idefics3", "smolvlm") else parts.language_model
    handle = reader.register_forward_pre_hook(lambda _module, _args, options: given.update(options), with_kwargs=True)
    try:
        with torch.no_grad():
            tower.model(**prompt.tensors, use_cache=False)
    finally:
        handle.remove()
    if "context" in given:  # parts one by one, each before its queries; what is masked is not read
        seen_BPD = given["context"] * given["attention_mask"][..., None]
        queries_BND = seen_BPD.new_zeros(len(seen_BPD), reader.n_latents, seen_BPD.shape[2])
        return torch.cat([seen_BPD, queries_BND], 1).flatten(0, 1).double()
    if "encoder_hidden_states" in given:
        return given["encoder_hidden_states"][0].double()
    return given["inputs_embeds"][0, prompt.places_N].double()


def painted(size: tuple[int, int], box: tuple[float, float, float, float]) -> Image.Image:
    """A grey photograph with a bright region."""
    pixels_HWC = np.full((size[1], size[0], 3), 100, np.uint8)
    left, top, right, bottom = map(round, box)
    pixels_HWC[max(0, top) : bottom, max(0, left) : right] = (255, 20, 230)
    return Image.fromarray(pixels_HWC)


@pytest.mark.parametrize("size", SIZES, ids=[f"{width}x{height}" for width, height in SIZES])
def test_tokens_see_what_is_painted_where_they_are_drawn(tower: SimpleNamespace, size: tuple[int, int]) -> None:
    layout = tower.transform.geometry(*size)
    plain_ND = image_tokens(tower, painted(size, (0, 0, 0, 0)))
    assert len(plain_ND) == layout.tokens
    rng = np.random.default_rng(1)
    # Cells at the corners and along the seams of tiles are among them, as the grids are small.
    cells = grid_boxes(layout.box, layout.rows, layout.columns)
    inside = [cell for cell in cells if cell[0] >= 0 and cell[1] >= 0 and cell[2] <= size[0] and cell[3] <= size[1]]
    chosen = {0, len(inside) - 1, *rng.choice(len(inside), min(4, len(inside)), replace=False).tolist()}
    for number in sorted(chosen):
        left, top, right, bottom = inside[number]
        changed_N = (image_tokens(tower, painted(size, (left, top, right, bottom))) - plain_ND).norm(dim=1).numpy()
        across, down = (right - left) / 2, (bottom - top) / 2
        # Resizing spreads the region's edge over its neighbours: half a patch and a pixel is more than any filter's.
        reach = np.array([left - across - 1, top - down - 1, right + across + 1, bottom + down + 1])
        boxes_N4 = layout.boxes_N4
        may_change_N = (
            (boxes_N4[:, 0] < reach[2]) & (boxes_N4[:, 2] > reach[0])
            & (boxes_N4[:, 1] < reach[3]) & (boxes_N4[:, 3] > reach[1])
        )  # fmt: skip
        does_change_N = changed_N > 0.02 * changed_N.max()
        assert not (does_change_N & ~may_change_N).any(), (number, np.flatnonzero(does_change_N & ~may_change_N))
        middle = np.array([(left + right) / 2, (top + bottom) / 2])
        sees_middle_N = (boxes_N4[:, :2] <= middle).all(1) & (boxes_N4[:, 2:] >= middle).all(1)
        assert sees_middle_N.any()
        assert does_change_N[sees_middle_N].all(), (number, np.flatnonzero(sees_middle_N & ~does_change_N))
        assert sees_middle_N[int(changed_N.argmax())], (number, int(changed_N.argmax()))
    # Tokens of no place change nowhere: neither a class token nor the end of a row sees a patch.
    fixed_N = np.isnan(layout.boxes_N4[:, 0])
    assert not changed_N[fixed_N].any()


@pytest.mark.parametrize("tower", ["florence2"], indirect=True)
def test_a_cell_of_convolutions_lies_around_the_middle_of_what_it_sees(tower: SimpleNamespace) -> None:
    """The pixels that a token's gradient reaches, by the library's own convolutions."""
    layout, size = tower.transform.geometry(32, 32), tower.transform.processor.image_processor.size
    assert (size.height, size.width) == (32, 32)
    pixels_13HW = torch.randn(1, 3, 32, 32, requires_grad=True)
    tokens_ND = tower.model.get_image_features(pixels_13HW).pooler_output[0]
    for row, column in ((1, 1), (1, 2), (2, 2)):  # away from edges, where padding cuts off what would be seen
        number = 1 + row * layout.columns + column
        (gradient_13HW,) = torch.autograd.grad(tokens_ND[number].square().sum(), pixels_13HW, retain_graph=True)
        seen_HW = gradient_13HW[0].abs().sum(0) > 0
        down, across = (torch.nonzero(seen_HW.any(axis))[:, 0] for axis in (1, 0))
        middle = (across[0] + across[-1] + 1) / 2, (down[0] + down[-1] + 1) / 2
        left, top, right, bottom = layout.boxes_N4[number]
        assert middle == ((left + right) / 2, (top + bottom) / 2)


def test_attention_is_shared_out_by_area_and_none_is_lost() -> None:
    """A token over four cells, one over one and a half, and one of no place, against areas counted by hand."""
    boxes_N4 = np.concatenate([np.array([[0.0, 0.0, 20.0, 20.0], [10.0, 0.0, 25.0, 10.0]]), no_place(1)])
    layout = TokenLayout(40, 20, (0.0, 0.0, 40.0, 20.0), 2, 4, boxes_N4)
    cells_K = layout.spread.over_cells(torch.tensor([0.4, 0.6, 7.0]))
    expected = torch.tensor([[0.1, 0.1 + 0.4, 0.2, 0.0], [0.1, 0.1, 0.0, 0.0]])
    torch.testing.assert_close(cells_K.reshape(2, 4), expected)
    assert float(cells_K.sum()) == pytest.approx(1.0)


def test_what_hangs_over_the_grid_is_drawn_in_it() -> None:
    layout = TokenLayout(20, 20, (0.0, 0.0, 20.0, 20.0), 2, 2, np.array([[-10.0, 0.0, 10.0, 10.0]]))
    assert layout.spread.over_cells(torch.tensor([1.0])).tolist() == [1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("tower", ["llava"], indirect=True)
def test_a_picture_padded_to_a_square_lies_in_its_middle(tower: SimpleNamespace) -> None:
    processor = tower.transform.processor
    images = transformers.LlavaImageProcessor(
        do_pad=True, size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    padded = SimpleNamespace(model=tower.model, transform=replace(tower.transform, processor=type(processor)(
        images, processor.tokenizer, patch_size=8, num_additional_image_tokens=1,
        vision_feature_select_strategy="default",
    )), kind="padded")  # fmt: skip
    assert padded.transform.geometry(120, 60).box == (0.0, -30.0, 120.0, 90.0)
    test_tokens_see_what_is_painted_where_they_are_drawn(padded, (120, 60))
