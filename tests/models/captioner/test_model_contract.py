"""What every captioner promises to a decoder, asked of each of them: the package's own in three configurations, and
those of transformers, saved and opened through that library's own files.

Letters: B pictures or beams, T words, L decoder layers, H heads, K keys, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.tiny_captioners import BERT_PIECES, KINDS, SIDE, library_pass, over_cells, reload, save_tiny
from torch import Tensor

from vitrine.caption.beam_search import beam_search
from vitrine.caption.decoding import DecodedCaption, MapChoice, final_captions, greedy, teacher_forced
from vitrine.caption.tokenizer import read_vocabulary
from vitrine.caption.word_maps import caption_words, group_tokens
from vitrine.errors import ModelError
from vitrine.models.captioner.config import CaptionModelConfig, catr_config
from vitrine.models.captioner.model import CaptionModel
from vitrine.models.hf_captioners.load import open_transformers_captioner

ALL = MapChoice(layers="all", heads="all")
SMALL = {"vocabulary_size": 40, "width": 32, "heads": 4, "encoder_layers": 1, "decoder_layers": 3, "feed_forward": 48,
         "head_widths": (24,), "max_length": 14, "start": 2, "end": 3, "pad": 0}  # fmt: skip
VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2, "dynamic_img_size": True}
OWN = {
    "resnet": CaptionModelConfig(**SMALL, image_model="resnet10t"),
    "vit": CaptionModelConfig(**SMALL, image_model="vit_tiny_patch16_224", image_args=VIT),
    "published": dataclasses.replace(
        catr_config("pixels"), **SMALL, image_model="resnet10t", image_args={"output_stride": 16}
    ),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A captioner, pictures for it, and its answers to whole captions by one pass without any cache of words."""

    module: Any
    pixels: list[Tensor]
    whole: Callable[[list[Tensor], Tensor], tuple[Tensor, Tensor]]


def random_pictures(*sizes: tuple[int, int]) -> list[Tensor]:
    """Of large squares: to convolutions, pictures of noise are all alike."""
    random = torch.Generator().manual_seed(5)
    coarse = [2 * torch.randn(3, rows // 16, columns // 16, generator=random) for rows, columns in sizes]
    return [squares.repeat_interleave(16, 1).repeat_interleave(16, 2) for squares in coarse]


def own_case(name: str, folder: Path) -> Case:
    torch.manual_seed(2)
    module = CaptionModel(OWN[name])
    with torch.no_grad():
        for part, value in module.state_dict().items():
            if part.endswith("in_proj_weight"):
                value.mul_(3)  # uneven attention
            if part.endswith(("running_mean", "running_var")):
                value.add_(0.2 * torch.rand_like(value))
        module.projection.weight.mul_(4)  # so that captions differ
        module.head.layers[-1].weight.mul_(4)
        module.head.layers[-1].bias[module.end] += 1  # so that some captions end
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in BERT_PIECES))
    module.vocabulary = read_vocabulary(folder / "vocab.txt")
    # Pixels that are padded change what lies beside them: of that configuration, pictures of one size are the same.
    sizes = ((64, 96),) * 6 if name == "published" else ((64, 96), (96, 32)) * 3
    return Case(module.eval(), random_pictures(*sizes), lambda pixels, ids_BT: module(module.encode(pixels), ids_BT))


def library_case(kind: str, folder: Path) -> Case:
    save_tiny(kind, folder)
    hf_captioner = open_transformers_captioner(str(folder))
    words = hf_captioner.vocabulary
    hf_captioner.module.vocabulary = read_vocabulary(words.path, start=words.start, end=words.end, pad=words.pad)
    model = reload(kind, folder)

    def whole(pixels: list[Tensor], ids_BT: Tensor) -> tuple[Tensor, Tensor]:
        logits_BTV, rows_LBHTN = library_pass(kind, model, torch.stack(pixels), ids_BT)
        return logits_BTV, over_cells(rows_LBHTN)

    return Case(hf_captioner.module, random_pictures(*((SIDE, SIDE),) * 6), whole)


@pytest.fixture(scope="module", params=[*OWN, *KINDS])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp(request.param)
    return own_case(request.param, folder) if request.param in OWN else library_case(request.param, folder)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def some_words(case: Case, rows: int, length: int = 8) -> Tensor:
    ids_BT = torch.randint(5, 40, (rows, length), generator=torch.Generator().manual_seed(6))
    ids_BT[:, 0] = case.module.start
    return ids_BT


def decode_stepwise(case: Case, encoder_output: Any, ids_BT: Tensor) -> tuple[Tensor, Tensor]:
    logits, cross, state = [], [], None
    for ids_B in ids_BT.T:
        step = case.module.step(ids_B, encoder_output, state)
        state = step.state
        logits.append(step.logits_BV)
        cross.append(step.cross_LBHK)
    return torch.stack(logits, 1), torch.stack(cross, 3)


def tensors(value: Any) -> list[Tensor]:
    """All of a state or encoder output, whatever it is made of."""
    if isinstance(value, Tensor):
        return [value]
    if dataclasses.is_dataclass(value):
        value = [getattr(value, field.name) for field in dataclasses.fields(value)]
    if isinstance(value, dict):
        value = list(value.values())
    return [found for part in value for found in tensors(part)] if isinstance(value, tuple | list) else []


def ids_with_end(caption: DecodedCaption, module: Any) -> list[int]:
    return [*caption.ids, *([module.end] if caption.has_end else [])]


def test_shapes_types_and_ids(case: Case) -> None:
    module, encoder_output = case.module, case.module.encode(case.pixels)
    assert len(encoder_output.grids) == 6
    assert encoder_output.padded_grid == tuple(map(max, zip(*encoder_output.grids, strict=True)))
    step = module.step(torch.full((6,), module.start), encoder_output, None)
    assert step.logits_BV.shape == (6, module.vocabulary.size) == (6, 40)
    assert step.cross_LBHK.shape == (3, 6, 4, math.prod(encoder_output.padded_grid))
    assert step.logits_BV.dtype == step.cross_LBHK.dtype == torch.float32
    assert (module.end, module.pad) == (module.vocabulary.end, module.vocabulary.pad)
    assert module.start == module.vocabulary.start
    assert module.max_length == 14


def test_the_attention_is_shared_out_over_a_pictures_own_cells(case: Case) -> None:
    encoder_output = case.module.encode(case.pixels)
    cross_LBHTK = decode_stepwise(case, encoder_output, some_words(case, 6))[1]
    assert torch.allclose(cross_LBHTK.sum(-1), torch.ones(()), atol=1e-5)
    for i, (rows, columns) in enumerate(encoder_output.grids):
        own = cross_LBHTK[:, i].unflatten(-1, encoder_output.padded_grid)
        assert (own[..., :rows, :columns] > 0).all()
        assert own[..., rows:, :].sum() == own[..., columns:].sum() == 0
    assert cross_LBHTK.std() > 0.002  # even attention would agree with anything


def test_one_word_at_a_time_equals_a_whole_pass(case: Case) -> None:
    ids_BT = some_words(case, 6)
    logits_BTV, cross_LBHTK = decode_stepwise(case, case.module.encode(case.pixels), ids_BT)
    expected_BTV, expected_LBHTK = case.whole(case.pixels, ids_BT)
    assert (logits_BTV - expected_BTV).abs().max() < 1e-5
    assert (cross_LBHTK - expected_LBHTK).abs().max() < 1e-5
    assert expected_BTV.std() > 0.2
    assert (expected_BTV[0, -1] - expected_BTV[2, -1]).abs().max() > 0.1  # it depends on picture and words


def test_the_picture_matters(case: Case) -> None:
    ids_BT = some_words(case, 1).expand(6, -1)
    logits_BTV = case.module(case.module.encode(case.pixels), ids_BT)[0]
    assert (logits_BTV[0, -1] - logits_BTV[2, -1]).abs().max() > 1e-3


def test_all_at_once_equals_one_at_a_time(case: Case) -> None:
    encoder_output, ids_BT = case.module.encode(case.pixels), some_words(case, 6)
    for whole, steps in zip(
        case.module(encoder_output, ids_BT), decode_stepwise(case, encoder_output, ids_BT), strict=True
    ):
        assert (whole - steps).abs().max() < 1e-5


def test_a_step_changes_nothing_that_it_was_given(case: Case) -> None:
    module, encoder_output, ids_BT = case.module, case.module.encode(case.pixels[:2]), some_words(case, 2)
    state = None
    for ids_B in ids_BT[:, :3].T:
        state = module.step(ids_B, encoder_output, state).state
    given = tensors(state) + tensors(encoder_output.features)
    assert len(tensors(state)) >= 6
    before = [value.clone() for value in given]
    first = module.step(ids_BT[:, 3], encoder_output, state)
    module.step(ids_BT[:, 4], encoder_output, first.state)
    other = module.step(ids_BT[:, 5], encoder_output, state)
    again = module.step(ids_BT[:, 3], encoder_output, state)
    assert all(torch.equal(one, two) for one, two in zip(given, before, strict=True))
    assert len(tensors(state) + tensors(encoder_output.features)) == len(before)
    assert torch.equal(first.logits_BV, again.logits_BV)
    assert torch.equal(first.cross_LBHK, again.cross_LBHK)
    assert not torch.allclose(other.logits_BV, again.logits_BV, atol=1e-3)


def test_rows_are_picked_and_reordered(case: Case) -> None:
    module, order = case.module, [2, 0, 0, 1]
    encoder_output, ids_BT = module.encode(case.pixels[:3]), some_words(case, 3)
    state = None
    for ids_B in ids_BT[:, :4].T:
        state = module.step(ids_B, encoder_output, state).state
    selection = encoder_output.select_rows(order)
    assert selection.grids == tuple(encoder_output.grids[row] for row in order)
    state = module.reorder(state, torch.tensor(order))
    newest_B = torch.tensor([7, 8, 9, 7])
    step = module.step(newest_B, selection, state)
    followed_BT = torch.cat((ids_BT[order, :4], newest_B[:, None]), 1)
    for row, picture in enumerate(order):
        alone = module.encode([case.pixels[picture]])
        logits_1TV, cross_L1HTK = decode_stepwise(case, alone, followed_BT[row : row + 1])
        assert (step.logits_BV[row] - logits_1TV[0, -1]).abs().max() < 1e-5
        own = step.cross_LBHK[:, row].unflatten(-1, selection.padded_grid)[
            ..., : alone.padded_grid[0], : alone.padded_grid[1]
        ]
        assert (own.flatten(-2) - cross_L1HTK[:, 0, :, -1]).abs().max() < 1e-5
    assert not torch.allclose(step.logits_BV[1], step.logits_BV[2], atol=1e-3)
    assert module.reorder(None, torch.tensor(order)) is None


def test_greedy_takes_what_whole_passes_find_likeliest(case: Case) -> None:
    module = case.module
    captions = final_captions(greedy(module, module.encode(case.pixels), maps=ALL))
    for picture, caption in enumerate(captions):
        pieces = ids_with_end(caption, module)
        ids_1T = torch.tensor([[module.start, *pieces]])[:, : module.max_length]
        logits_1TV, cross_L1HTK = case.whole([case.pixels[picture]], ids_1T)
        assert logits_1TV[0, : len(pieces)].argmax(-1).tolist() == pieces
        scores_TV = logits_1TV[0].double().log_softmax(-1)
        expected = [float(scores_TV[place, piece]) for place, piece in enumerate(pieces)]
        np.testing.assert_allclose(caption.log_probability, sum(expected), atol=1e-4)
        rows, columns = caption.grid
        maps = caption.maps_TLHK.reshape(len(caption.ids), 3, 4, *caption.padded_grid)[..., :rows, :columns]
        predicting = cross_L1HTK[:, 0].movedim(2, 0)[: len(caption.ids)]  # row t predicts piece t
        np.testing.assert_allclose(maps.reshape(len(caption.ids), 3, 4, rows * columns), predicting, atol=1e-5)
    assert len({caption.ids for caption in captions}) > 1
    assert {caption.has_end for caption in captions} == {True, False}


def test_one_beam_is_greedy(case: Case) -> None:
    encoder_output = case.module.encode(case.pixels)
    beams = final_captions(beam_search(case.module, encoder_output, 1))
    for one, other in zip(beams, final_captions(greedy(case.module, encoder_output)), strict=True):
        assert (one.ids, one.has_end) == (other.ids, other.has_end)
        np.testing.assert_allclose(one.log_probability, other.log_probability, atol=1e-5)
        np.testing.assert_allclose(one.maps_TLHK, other.maps_TLHK, atol=1e-6)


def test_beam_scores_and_maps_are_those_of_teacher_forcing(case: Case) -> None:
    module, encoder_output = case.module, case.module.encode(case.pixels)
    captions = final_captions(beam_search(module, encoder_output, 4, maps=ALL))
    ended = [caption.has_end for caption in captions]
    again = final_captions(
        teacher_forced(module, encoder_output, [caption.ids for caption in captions], with_end=ended, maps=ALL)
    )
    for picture, (one, other) in enumerate(zip(captions, again, strict=True)):
        assert one.score() == pytest.approx(other.score(), abs=1e-5)
        np.testing.assert_allclose(one.maps_TLHK, other.maps_TLHK, atol=1e-5)
        pieces = ids_with_end(one, module)
        ids_1T = torch.tensor([[module.start, *pieces]])[:, : module.max_length]
        scores_TV = case.whole([case.pixels[picture]], ids_1T)[0][0].double().log_softmax(-1)
        expected = sum(float(scores_TV[place, piece]) for place, piece in enumerate(pieces))
        assert one.log_probability == pytest.approx(expected, abs=1e-4)
    assert any(len(caption.ids) > 2 for caption in captions)


def test_a_batch_says_what_each_picture_says(case: Case) -> None:
    module = case.module
    for batch in (case.pixels[:2], case.pixels):
        together = final_captions(greedy(module, module.encode(batch)))
        for picture, caption in zip(batch, together, strict=True):
            (alone,) = final_captions(greedy(module, module.encode([picture])))
            assert (caption.ids, caption.has_end, caption.grid) == (alone.ids, alone.has_end, alone.grid)
            assert caption.log_probability == pytest.approx(alone.log_probability, abs=1e-5)
            own = caption.maps_TLHK.reshape(-1, *caption.padded_grid)[:, : alone.grid[0], : alone.grid[1]]
            np.testing.assert_allclose(own, alone.maps_TLHK.reshape(-1, *alone.grid), atol=1e-5)


def test_each_word_comes_with_its_map(case: Case) -> None:
    module = case.module
    for caption in final_captions(greedy(module, module.encode(case.pixels))):
        words = caption_words(caption, module.vocabulary)
        assert len(words) == len(group_tokens(caption.ids, module.vocabulary))
        assert sum(len(word.tokens) for word in words) == len(caption.ids)
        for word in words:
            assert word.map_RC.shape == caption.grid
            assert word.map_RC.mean() == pytest.approx(1, abs=1e-5)


def test_the_last_position_can_be_used_and_none_after_it(case: Case) -> None:
    module, encoder_output = case.module, case.module.encode(case.pixels[:2])
    ids_BT = some_words(case, 2, module.max_length)
    (caption, _) = final_captions(teacher_forced(module, encoder_output, ids_BT[:, 1:].tolist(), with_end=False))
    assert len(caption.ids) == module.max_length - 1
    state = None
    for ids_B in ids_BT.T:
        step = module.step(ids_B, encoder_output, state)
        state = step.state
    expected_BTV, _ = case.whole(case.pixels[:2], ids_BT)
    assert (step.logits_BV - expected_BTV[:, -1]).abs().max() < 1e-5
    with pytest.raises(ValueError, match="14 positions; 15"):
        module.step(ids_B, encoder_output, state)
    with pytest.raises(ModelError, match="1 to 13 word pieces; 14"):
        final_captions(greedy(module, encoder_output, max_tokens=14))


def test_other_numbers_of_rows_are_refused(case: Case) -> None:
    module, encoder_output = case.module, case.module.encode(case.pixels[:2])
    start = torch.full((2,), module.start)
    with pytest.raises(ValueError, match="1 row do not go with an encoder output of 2"):
        module.step(start[:1], encoder_output, None)
    state = module.step(start, encoder_output, None).state
    with pytest.raises(ValueError, match="a state of 2"):
        module.step(start[:1], encoder_output.select_rows([1]), state)
    with pytest.raises(ValueError):
        module.encode([])


def test_the_same_pictures_give_the_same_caption(case: Case) -> None:
    assert not any(part.training for part in case.module.modules())
    one, other = (final_captions(greedy(case.module, case.module.encode(case.pixels))) for _ in range(2))
    for first, second in zip(one, other, strict=True):
        assert (first.ids, first.log_probabilities) == (second.ids, second.log_probabilities)
        np.testing.assert_array_equal(first.maps_TLHK, second.maps_TLHK)
