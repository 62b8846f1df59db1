"""Position embeddings: which they are, their similarity, and the numbers that say whether position was learned."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from statistics import correlation
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.models import MICRO
from timm.models._hub import save_for_hf
from torch import nn

from vitrine.attribution.position_embeddings import position_embeddings
from vitrine.attribution.position_metrics import (
    assess_positions,
    cosine_similarity,
    position_controls,
    position_numbers,
    sine_embedding,
)
from vitrine.errors import ModelError, VitrineError
from vitrine.explain.positions import positions
from vitrine.models.reference import bundled_folder

PLAIN = "vit_tiny_patch16_224"
SCENES = "vitrine/scenes-tiny"


def create(name: str = PLAIN, seed: int = 0, **args: Any) -> nn.Module:
    """A tiny model with random weights, position embeddings included, whatever they usually start from."""
    torch.manual_seed(seed)
    module: nn.Module = timm.create_model(name, **(MICRO | {"img_size": (32, 48), "num_classes": 5} | args)).eval()
    with torch.no_grad():
        for key, value in module.named_parameters():
            if "pos_embed" in key:
                value.normal_()
    return module


def outline(name: str, **args: Any) -> nn.Module:
    """A model of its real size without any numbers in it."""
    with torch.device("meta"):
        module: nn.Module = timm.create_model(name, **args)
    return module


# --- which embeddings


MODELS: dict[str, tuple[int, dict[str, Any]]] = {
    "class token": (1, {}),
    "square": (1, {"img_size": 32}),
    "tall": (1, {"img_size": (64, 16)}),
    "no class token": (0, {"class_token": False, "global_pool": "avg"}),
    "class token without a position": (0, {"no_embed_class": True}),
    "registers": (5, {"reg_tokens": 4}),
    "registers without positions": (0, {"reg_tokens": 4, "no_embed_class": True}),
    "distilled": (2, {"name": "deit_tiny_distilled_patch16_224"}),
    "deit3": (0, {"name": "deit3_small_patch16_224"}),
    "cait": (0, {"name": "cait_xxs24_224"}),
    "eva02": (1, {"name": "eva02_tiny_patch14_224"}),
    "sam": (0, {"name": "samvit_base_patch16"}),
}


@pytest.mark.parametrize(("prefix", "args"), MODELS.values(), ids=MODELS.keys())
def test_the_table_is_what_the_first_block_sees_of_an_empty_picture(prefix: int, args: dict[str, Any]) -> None:
    """With a patch embedding of zeros, what enters the blocks at the patches is their position embeddings alone."""
    module: Any = create(**args)
    table = position_embeddings(module)
    for value in module.patch_embed.proj.parameters():
        nn.init.zeros_(value)
    block_inputs: list[torch.Tensor] = []
    module.blocks[0].register_forward_pre_hook(lambda _, inputs: block_inputs.append(inputs[0]))
    high, wide = module.patch_embed.img_size
    module(torch.ones(1, 3, high, wide))
    assert (table.rows, table.columns, table.channels) == (high // 8, wide // 8, 32)
    tokens_ND = block_inputs[0].detach().reshape(-1, 32)[-table.rows * table.columns :]
    np.testing.assert_allclose(table.embeddings_RCD.reshape(-1, 32), tokens_ND, atol=1e-6)
    assert table.embeddings_RCD.dtype == np.float32
    assert table.prefix_tokens == prefix
    assert not table.is_fixed_sine


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("vit_base_patch16_384", None, (24, 24, 768, 1)),
        (PLAIN, (224, 160), (14, 10, 192, 1)),
        ("deit_base_distilled_patch16_384", None, (24, 24, 768, 2)),
        ("vit_small_patch14_reg4_dinov2", None, (37, 37, 384, 0)),
    ],
)
def test_real_sizes(name: str, size: tuple[int, int] | None, expected: tuple[int, ...]) -> None:
    module: Any = outline(name, **({} if size is None else {"img_size": size}))
    module.pos_embed = nn.Parameter(torch.ones(module.pos_embed.shape))
    table = position_embeddings(module)
    assert (*table.embeddings_RCD.shape, table.prefix_tokens) == expected


def test_prefix_tokens_do_not_leak_into_the_table() -> None:
    for args, prefix in (({}, 1), ({"name": "deit_tiny_distilled_patch16_224"}, 2), ({"reg_tokens": 4}, 5)):
        module: Any = create(**args)
        before = position_embeddings(module).embeddings_RCD
        with torch.no_grad():
            module.pos_embed[:, :prefix] = 1e3
        np.testing.assert_array_equal(position_embeddings(module).embeddings_RCD, before)


def test_a_table_of_its_own_grid() -> None:
    module: Any = create("naflexvit_base_patch16_gap", img_size=None, pos_embed_grid_size=(4, 6))
    table = position_embeddings(module)
    np.testing.assert_array_equal(table.embeddings_RCD, module.embeds.pos_embed[0].detach())
    assert table.prefix_tokens == 0


REFUSED = {
    "vit_base_patch16_rope_224": r"rotary position embeddings \(RotaryEmbeddingCat\)",
    "vit_small_patch16_rope_mixed_224": "RotaryEmbeddingMixed",
    "beit_base_patch16_224": "relative position bias",
    "vit_relpos_small_patch16_224": "relative position bias",
    "vit_srelpos_small_patch16_224": "relative position bias",
    "xcit_nano_12_p16_224": "Fourier features",
    "crossvit_9_240": r"another form \(pos_embed_0 \(1, 401, 128\), pos_embed_1",
    "hiera_tiny_224": r"\(1, 3136, 96\)",
    "naflexvit_base_patch16_parfac_gap": "embeds.pos_embed_y",
}


@pytest.mark.parametrize(("name", "instead"), REFUSED.items(), ids=REFUSED.keys())
def test_a_model_without_such_a_table_is_refused_by_what_it_has(name: str, instead: str) -> None:
    with pytest.raises(ModelError, match=instead) as refusal:
        position_embeddings(outline(name))
    assert len(str(refusal.value).splitlines()) == 2


def test_no_positions_at_all() -> None:
    with pytest.raises(ModelError, match="no position embeddings of any kind"):
        position_embeddings(create(pos_embed="none"))


def test_what_else_tells_the_place_is_noted() -> None:
    assert position_embeddings(create()).notes == ()
    (note,) = position_embeddings(create("eva02_tiny_patch14_224")).notes
    assert "rotary" in note
    (note,) = position_embeddings(create("samvit_base_patch16")).notes
    assert "relative" in note


def test_a_formula_is_told_from_training() -> None:
    module: Any = create(img_size=(32, 48))
    for roll in (0, 16):  # MAE's order of the halves, and MoCo v3's
        with torch.no_grad():
            module.pos_embed[0, 1:] = torch.from_numpy(np.roll(sine_embedding(4, 6, 32), roll, axis=2).reshape(24, 32))
        table = position_embeddings(module)
        assert table.is_fixed_sine
        assert "formula" in table.notes[0]
        assert "formula" in assess_positions(table.embeddings_RCD, is_fixed_sine=True).sentence
    with torch.no_grad():
        module.pos_embed[0, 5] += 0.1
    assert not position_embeddings(module).is_fixed_sine
    module.pos_embed.requires_grad_(False)
    assert "fixed table" in position_embeddings(module).notes[0]


def test_broken_tables() -> None:
    module: Any = create()
    with torch.no_grad():
        module.pos_embed[0, 3] = 0
    assert "1 of 24 embeddings are zero" in position_embeddings(module).notes[0]
    with torch.no_grad():
        module.pos_embed[0, 3, 0] = torch.nan
    with pytest.raises(ModelError, match="not all finite"):
        position_embeddings(module)
    with pytest.raises(ModelError, match="one patch only"):
        position_embeddings(create(img_size=8))
    module.pos_embed = nn.Parameter(torch.zeros(1, 20, 32))
    with pytest.raises(ModelError, match=r"\(1, 20, 32\) for a grid of 4 x 6"):
        position_embeddings(module)


# --- their similarity


def slow_similarity(embeddings_RCD: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    rows, columns, _ = embeddings_RCD.shape
    similarity_RCRC = np.zeros((rows, columns, rows, columns))
    for r, c, i, j in np.ndindex(rows, columns, rows, columns):
        one, other = embeddings_RCD[r, c].astype(np.float64), embeddings_RCD[i, j].astype(np.float64)
        similarity_RCRC[r, c, i, j] = one @ other / np.sqrt((one @ one) * (other @ other))
    return similarity_RCRC


def test_similarity_equals_a_double_loop() -> None:
    embeddings_RCD = position_embeddings(create(seed=3)).embeddings_RCD
    similarity_RCRC = cosine_similarity(embeddings_RCD)
    assert similarity_RCRC.dtype == np.float32
    assert similarity_RCRC.shape == (4, 6, 4, 6)
    np.testing.assert_allclose(similarity_RCRC, slow_similarity(embeddings_RCD), atol=1e-6)
    common_RCD = embeddings_RCD + 100  # nearly the same direction everywhere
    np.testing.assert_allclose(cosine_similarity(common_RCD), slow_similarity(common_RCD), atol=1e-6)


@given(st.integers(0, 1000), st.integers(1, 5), st.integers(1, 5), st.floats(1e-15, 1e15))
def test_similarity_is_symmetric_bounded_and_blind_to_length(seed: int, rows: int, columns: int, scale: float) -> None:
    embeddings_RCD = np.random.default_rng(seed).normal(size=(rows, columns, 7))
    similarity_RCRC = cosine_similarity(embeddings_RCD * scale)
    square = similarity_RCRC.reshape(rows * columns, -1)
    np.testing.assert_array_equal(square, square.T)
    np.testing.assert_array_equal(np.diag(square), 1)
    assert np.abs(square).max() <= 1
    np.testing.assert_allclose(similarity_RCRC, cosine_similarity(embeddings_RCD), atol=1e-6)


@pytest.mark.filterwarnings("error")
def test_an_embedding_of_zeros_is_similar_to_nothing() -> None:
    embeddings_RCD = np.random.default_rng(0).normal(size=(2, 3, 5))
    embeddings_RCD[1, 1] = 0
    similarity_RCRC = cosine_similarity(embeddings_RCD)
    assert not similarity_RCRC[1, 1].any()
    assert not similarity_RCRC[:, :, 1, 1].any()
    assert similarity_RCRC[0, 0, 0, 0] == 1
    assert np.isfinite(similarity_RCRC).all()


# --- the numbers


def slow_neighbour_share(similarity: npt.NDArray[np.float32]) -> float:
    rows, columns = similarity.shape[:2]
    shares = []
    for r, c in np.ndindex(rows, columns):
        others = {(i, j): float(similarity[r, c, i, j]) for i, j in np.ndindex(rows, columns) if (i, j) != (r, c)}
        best = [cell for cell, value in others.items() if value >= max(others.values()) - 1e-6]
        near = [(i, j) for i, j in best if (i, j) in ((r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1))]
        shares.append(len(near) / len(best))
    return sum(shares) / len(shares)


def slow_ranks(values: list[float]) -> list[float]:
    return [sum(other < value for other in values) + (values.count(value) + 1) / 2 for value in values]


def slow_rank_correlation(similarity: npt.NDArray[np.float32]) -> float:
    rows, columns = similarity.shape[:2]
    cells = list(np.ndindex(rows, columns))
    pairs = [(one, other) for k, one in enumerate(cells) for other in cells[:k]]
    distances = [((a - c) ** 2 + (b - d) ** 2) ** 0.5 for (a, b), (c, d) in pairs]
    values = [float(similarity[one + other]) for one, other in pairs]
    return correlation(slow_ranks(values), slow_ranks(distances))


def slow_additive_share(similarity: npt.NDArray[np.float32]) -> float:
    """With dummies for every row and every column, by least squares."""
    rows, columns = similarity.shape[:2]
    design = np.array([[*np.eye(rows)[i], *np.eye(columns)[j]] for i, j in np.ndindex(rows, columns)])
    left = whole = 0.0
    for r, c in np.ndindex(rows, columns):
        target = similarity[r, c].astype(np.float64).ravel()
        fit = design @ np.linalg.lstsq(design, target, rcond=None)[0]
        left += float(((target - fit) ** 2).sum())
        whole += float(((target - target.mean()) ** 2).sum())
    return 1 - left / whole


def smooth(rows: int, columns: int, seed: int = 0) -> npt.NDArray[np.float64]:
    """Embeddings of a place with some noise: between nothing and everything learned."""
    noise_RCD = np.random.default_rng(seed).normal(size=(rows, columns, 32))
    return sine_embedding(rows, columns, 32) + 0.7 * noise_RCD


@pytest.mark.parametrize("grid", [(5, 7), (4, 4), (1, 9), (6, 1), (2, 2)])
@pytest.mark.parametrize("kind", ["random", "smooth", "ties"])
def test_the_numbers_equal_slow_ones(grid: tuple[int, int], kind: str) -> None:
    rng = np.random.default_rng(1)
    table = {"random": rng.normal(size=(*grid, 16)), "smooth": smooth(*grid), "ties": rng.integers(0, 2, (*grid, 3))}
    similarity = cosine_similarity(np.asarray(table[kind], np.float64) + (kind == "ties"))
    numbers = position_numbers(similarity)
    assert numbers.neighbour_share == pytest.approx(slow_neighbour_share(similarity), abs=1e-9)
    assert numbers.distance_correlation == pytest.approx(slow_rank_correlation(similarity), abs=1e-9)
    assert numbers.additive_share == pytest.approx(slow_additive_share(similarity), abs=1e-6)


def test_cells_that_tie_share_the_count() -> None:
    """Embeddings of the row alone: all other cells of a row are equally near, and one or two of them are neighbours."""
    rows_RCD = np.repeat(np.eye(3)[:, None], 5, axis=1)
    assert position_numbers(cosine_similarity(rows_RCD)).neighbour_share == pytest.approx((2 * 1 + 3 * 2) / 4 / 5)
    # Now similarities differ, by less than 1e-6.
    noisy_RCD = rows_RCD + np.random.default_rng(0).normal(0, 3e-4, (3, 5, 3))
    assert position_numbers(cosine_similarity(noisy_RCD)).neighbour_share == pytest.approx((2 * 1 + 3 * 2) / 4 / 5)


@pytest.mark.filterwarnings("error")
def test_numbers_that_nothing_defines() -> None:
    same = position_numbers(cosine_similarity(np.ones((3, 4, 5))))
    assert (same.distance_correlation, same.additive_share) == (None, None)
    assert same.neighbour_share == pytest.approx(2 * 17 / 12 / 11)  # 17 edges: the share of neighbours among all
    zero = position_numbers(cosine_similarity(np.zeros((3, 4, 5))))
    assert (zero.distance_correlation, zero.additive_share) == (None, None)
    assert same.to_dict() == {"neighbour_share": 0.257576, "distance_correlation": None, "additive_share": None}
    pair = position_numbers(cosine_similarity(np.random.default_rng(0).normal(size=(1, 2, 5))))
    assert pair.neighbour_share == 1
    assert pair.distance_correlation is None


# --- what they are compared with, and what follows


def mae_embedding(channels: int, rows: int, columns: int) -> npt.NDArray[np.float64]:
    """As ``get_2d_sincos_pos_embed`` of MAE's util/pos_embed.py has it, for a grid that need not be square."""

    def along(positions: npt.NDArray[np.float32], width: int) -> npt.NDArray[np.float64]:
        omega = np.arange(width // 2, dtype=float)
        omega /= width / 2.0
        omega = 1.0 / 10000**omega
        out = np.einsum("m,d->md", positions.reshape(-1), omega)
        return np.concatenate([np.sin(out), np.cos(out)], axis=1)

    grid_h, grid_w = np.arange(rows, dtype=np.float32), np.arange(columns, dtype=np.float32)
    grid = np.stack(np.meshgrid(grid_w, grid_h), axis=0).reshape([2, 1, rows, columns])  # here w goes first
    return np.concatenate([along(grid[0], channels // 2), along(grid[1], channels // 2)], axis=1)


@pytest.mark.parametrize(("rows", "columns", "channels"), [(14, 14, 768), (3, 5, 8)])
def test_the_sine_embedding_is_that_of_mae(rows: int, columns: int, channels: int) -> None:
    table_ND = sine_embedding(rows, columns, channels).reshape(rows * columns, channels)
    np.testing.assert_allclose(table_ND, mae_embedding(channels, rows, columns), atol=1e-6)
    assert sine_embedding(3, 5, 11).shape == (3, 5, 8)


@pytest.mark.parametrize(("rows", "columns"), [(14, 14), (6, 9)])
def test_the_controls_are_what_theory_says(rows: int, columns: int) -> None:
    """Untrained: every other cell is as likely; independent numbers are explained by their degrees of freedom alone."""
    controls = position_controls(rows, columns, 96)
    cells, edges = rows * columns, rows * (columns - 1) + columns * (rows - 1)
    assert controls.untrained_mean.neighbour_share == pytest.approx(2 * edges / cells / (cells - 1), abs=0.02)
    assert controls.untrained_mean.additive_share == pytest.approx((rows + columns - 2) / (cells - 1), abs=0.01)
    assert controls.untrained_mean.distance_correlation == pytest.approx(0, abs=0.02)
    assert controls.draws >= 10
    # The sine embedding's similarity is a function of the column plus one of the row, and falls with the distance.
    assert controls.sine.neighbour_share == 1
    assert controls.sine.additive_share == pytest.approx(1, abs=1e-6)
    assert controls.sine.distance_correlation is not None
    assert controls.sine.distance_correlation < -0.7
    assert position_controls(rows, columns, 96) == position_controls.__wrapped__(rows, columns, 96)


def lead(embeddings_RCD: npt.NDArray[Any]) -> str:
    return (
        assess_positions(embeddings_RCD).sentence.partition(":")[0].removeprefix("Compared with untrained embeddings")
    )


NOTHING, PART, LEARNED = (
    " there is no clear sign of learned position",
    ", position was learned in part",
    ", position was learned",
)


@pytest.mark.parametrize("grid", [(3, 3), (8, 8), (2, 7), (1, 8)])
def test_untrained_embeddings_are_hardly_ever_said_to_have_learned(grid: tuple[int, int]) -> None:
    leads = [lead(np.random.default_rng(1000 + seed).normal(size=(*grid, 48))) for seed in range(100)]
    assert leads.count(NOTHING) >= 97


def test_what_follows_from_the_numbers() -> None:
    rng = np.random.default_rng(0)
    assert lead(sine_embedding(8, 8, 64)) == LEARNED
    assert lead(smooth(8, 8)) in (PART, LEARNED)
    shuffled_RCD = rng.permutation(sine_embedding(8, 8, 64).reshape(64, 64)).reshape(8, 8, 64)
    assert lead(shuffled_RCD) == NOTHING  # the same embeddings at other places
    lines = assess_positions(rng.normal(size=(9, 1, 64)) + rng.normal(size=(1, 9, 64))).sentence
    assert "neighbours are not clearly more alike than by chance" in lines
    assert "rows and columns explain most of the similarity" in lines
    assert lines.startswith("Compared with untrained embeddings, position was learned:")
    full = assess_positions(sine_embedding(8, 8, 64))
    assert "for all patches (100.0 %, untrained" in full.sentence
    assert full.sentence.endswith("and similarity falls clearly with distance.")
    ring_RCD = np.where(
        (np.indices((8, 8)) % 7 == 0).any(0)[..., None], rng.normal(size=16), rng.normal(size=(8, 8, 16))
    )
    assert "does not" in assess_positions(ring_RCD).sentence  # the border is alike, however far away


def test_sentences_where_there_is_nothing_to_compare() -> None:
    assert assess_positions(np.ones((4, 4, 8))).sentence == (
        "All position embeddings are alike: they tell no place from another."
    )
    assert "too small" in assess_positions(np.random.default_rng(0).normal(size=(1, 2, 8))).sentence


# --- the verb


def test_positions_of_the_bundled_model(tmp_path: Path) -> None:
    result = positions(SCENES, tmp_path / "positions.png")
    module: Any = timm.create_model(f"local-dir:{bundled_folder()}", pretrained=True)
    embeddings_RCD = module.pos_embed[0, 1:].detach().numpy().reshape(8, 8, 128)
    np.testing.assert_allclose(result.findings.similarity_RCRC, slow_similarity(embeddings_RCD), atol=1e-6)
    content = json.loads(json.dumps(result.to_dict()))
    assert content["grid"] == [8, 8]
    assert content["numbers"]["neighbour_share"] == pytest.approx(result.numbers.neighbour_share, abs=1e-6)
    assert content["untrained"]["neighbour_share"] < content["numbers"]["neighbour_share"] < 1
    assert content["fixed_sine"]["neighbour_share"] == 1
    assert result.sentence == content["sentence"]
    text = result.text()
    assert result.sentence in text
    assert f"{100 * result.numbers.neighbour_share:.1f} %" in text
    assert str(result.out) in text
    assert result._repr_png_() == result.out.read_bytes()
    assert result._repr_svg_() is None
    axes = result.plot()
    assert result.plot(axes) is axes


def test_a_figure_says_how_it_was_made_and_its_command_makes_it_again(tmp_path: Path) -> None:
    out = tmp_path / "a b.png"
    positions(SCENES, out, cell=(1, 7), before=SCENES)
    first = out.read_bytes()
    with Image.open(out) as picture:
        text: dict[str, str] = dict(picture.text)  # type: ignore[attr-defined]
    assert text["vitrine:figure"] == "positions"
    assert text["vitrine:model"] == SCENES
    assert len(text["vitrine:weights-sha256"]) == 64
    options = json.loads(text["vitrine:options"])
    assert options["cell"] == [1, 7]
    assert options["before-weights-sha256"] == text["vitrine:weights-sha256"]
    words = shlex.split(text["vitrine:command"])
    assert words == ["vitrine", "positions", SCENES, "-o", str(out), "--cell", "1,7", "--before", SCENES]
    out.unlink()
    positions(words[2], Path(words[4]), cell=(1, 7), before=words[8])
    assert out.read_bytes() == first


def test_a_model_without_a_head_and_with_a_grid_that_is_not_square(tmp_path: Path) -> None:
    module: Any = create(num_classes=0)
    save_for_hf(module, str(tmp_path / "run"), model_args=MICRO | {"img_size": (32, 48)}, safe_serialization=True)
    result = positions(str(tmp_path / "run"), tmp_path / "run.svg")
    assert (result.findings.rows, result.findings.columns) == (4, 6)
    assert "no clear sign" in result.sentence
    assert result._repr_svg_() == result.out.read_text("utf-8")
    with pytest.raises(ModelError, match=r"scenes-tiny has 8 x 8 patches, .*run has 4 x 6"):
        positions(str(tmp_path / "run"), tmp_path / "both.png", before=SCENES)
    assert not (tmp_path / "both.png").exists()


def test_a_weights_file_with_its_architecture(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = timm.create_model("test_vit", num_classes=5)
    torch.save(module.state_dict(), tmp_path / "weights.pth")
    result = positions(str(tmp_path / "weights.pth"), tmp_path / "a.png", architecture="test_vit", cell=(1, 1))
    assert result.findings.channels == 64
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.text["vitrine:command"].endswith("--cell 1,1 --arch test_vit")  # type: ignore[attr-defined]
    both = positions(
        str(tmp_path / "weights.pth"), tmp_path / "b.png", architecture="test_vit", before=str(tmp_path / "weights.pth")
    )
    assert both.to_dict()["before"]["numbers"] == both.numbers.to_dict()


def test_what_a_person_can_get_wrong(tmp_path: Path) -> None:
    for cell in ((8, 1), (-9, 1), (1, 8)):
        with pytest.raises(ModelError, match=rf"row {cell[0]}, column {cell[1]}: .* rows 0 to 7 and columns 0 to 7"):
            positions(SCENES, tmp_path / "a.png", cell=cell)
    with pytest.raises(VitrineError, match=r"\.png or \.svg"):
        positions(SCENES, tmp_path / "a.pdf")
    assert not list(tmp_path.iterdir())
