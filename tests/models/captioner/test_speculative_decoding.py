"""Words guessed ahead: whatever is guessed, captions are those of one word at a time.

The plain way is the same captioner without a guesser, and a product in double precision.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from vitrine.caption.decoding import DecodedCaption, final_captions, greedy
from vitrine.caption.sampling import PrefixStep, continue_prefix
from vitrine.models.captioner import (
    CaptionModel,
    CaptionModelConfig,
    EncoderOutput,
    prepare_for_prediction,
    speculative_decoding,
)
from vitrine.models.captioner.model import Features
from vitrine.models.captioner.speculative_decoding import Guesser, Int8Linear, can_draft

END, POSITIONS = 2, 24
needs_int8 = pytest.mark.skipif(not can_draft(), reason="this processor or torch does not draft in int8")


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def model() -> CaptionModel:
    """A captioner of sizes that int8 takes, whose words depend on the picture and on one another."""
    torch.manual_seed(3)
    config = CaptionModelConfig(
        image_model="resnet10t", vocabulary_size=61, width=64, heads=4, encoder_layers=1, decoder_layers=2,
        feed_forward=128, head_widths=(64,), max_length=POSITIONS, start=1, end=END,
    )  # fmt: skip
    made = CaptionModel(config).eval()
    with torch.no_grad():
        for name, value in made.named_parameters():
            if "embeddings" in name or "in_proj" in name or name.startswith("head"):
                value.mul_(3)
        made.head.layers[-1].bias[END] -= 3  # type: ignore[operator]
    return prepare_for_prediction(made)


def encode(model: CaptionModel, count: int = 1) -> EncoderOutput:
    torch.manual_seed(4)
    return model.encode_features(
        Features(4 * torch.randn(count, model.backbone.channels, 3, 4), None, ((3, 4),) * count)
    )


@contextmanager
def guessing(model: CaptionModel, guesser: Guesser | None) -> Iterator[None]:
    """Within the block, words are guessed by this one; None: not at all."""
    before, model.guesser = model.guesser, guesser
    try:
        yield
    finally:
        model.guesser = before


def plainly(model: CaptionModel, encoder_output: EncoderOutput, **settings: Any) -> DecodedCaption:
    """By one word at a time."""
    with guessing(model, None):
        return final_captions(greedy(model, encoder_output, **settings))[0]


def same(found: DecodedCaption, expected: DecodedCaption) -> None:
    assert found.ids == expected.ids
    assert found.log_probabilities == pytest.approx(expected.log_probabilities, abs=1e-5)
    assert found.has_end == expected.has_end
    assert abs(found.maps_TLHK - expected.maps_TLHK).max() < 1e-6


class Guess(Guesser):
    """Says what a function of the word's place says, and counts."""

    def __init__(self, words: Any) -> None:
        super().__init__()
        self.words, self.calls = words, 0
        self.most: list[int] = []

    def guess(self, model: Any, token_id: int, image: Any, past: Any, count: int) -> list[int]:
        self.calls += 1
        self.most.append(count)
        place = 0 if past is None else past.length
        return list(self.words(place))[: min(count, model.max_length - place - 1)]


@pytest.mark.parametrize("kind", ["right", "wrong", "half right", "one right", "end", "none", "random"])
@pytest.mark.parametrize(
    "settings", [{}, {"max_tokens": 5}, {"no_repeat_ngram": 1}], ids=["long", "short", "no repeat"]
)
def test_whatever_is_guessed_captions_are_those_of_one_word_at_a_time(
    model: CaptionModel, kind: str, settings: dict[str, Any]
) -> None:
    encoder_output = encode(model)
    expected = plainly(model, encoder_output, **settings)
    assert len(expected.ids) > 4 and len(set(expected.ids)) > 2
    random = torch.Generator().manual_seed(9)

    def words(place: int) -> list[int]:
        right = list(expected.ids[place:])
        return {
            "right": right,
            "wrong": [(each + 1) % 61 for each in right],
            "half right": [each if i < 2 else 5 for i, each in enumerate(right)],
            "one right": right[:1],
            "end": [END] * 4,
            "none": [],
            "random": [
                each if torch.rand(1, generator=random) < 0.7 else int(torch.randint(61, (1,), generator=random))
                for each in right
            ],
        }[kind]

    guess = Guess(words)
    with guessing(model, guess):
        same(final_captions(greedy(model, encoder_output, **settings))[0], expected)
    steps = len(expected.ids) + expected.has_end
    if kind == "right":
        assert guess.calls <= 2  # at the start, and perhaps for what comes after the last guess
    if kind in ("wrong", "none"):
        assert guess.calls >= steps - 1
    if kind == "wrong":
        assert guess.most[0] > 2 >= max(guess.most[1:])


def test_a_state_goes_on_with_any_word(model: CaptionModel) -> None:
    encoder_output = encode(model)
    with guessing(model, Guess(lambda _: [7, 9, 4])):
        state = model.step_ahead(torch.tensor([1]), encoder_output, None, 9).state
        for word in (7, 30, 7):  # guessed, not guessed, and again: a state does not change
            outputs = [
                model.step_ahead(torch.tensor([word]), encoder_output, state, 9),
                model.step(torch.tensor([word]), encoder_output, state),
            ]
            whole_BTV, cross_LBHTK = model(encoder_output, torch.tensor([[1, word]]))
            for each in outputs:
                assert torch.allclose(each.logits_BV, whole_BTV[:, 1], atol=1e-4)
                assert torch.allclose(each.cross_LBHK, cross_LBHTK[:, :, :, 1], atol=1e-6)
                assert each.state.length == 2
    moved = model.reorder(state, torch.tensor([0, 0]))
    assert moved is not None and (moved.rows, moved.length, moved.ahead) == (2, 1, None)


@pytest.mark.parametrize("prefix", [(), (5,), (5, 6, 7)])
def test_a_prefix_is_continued_alike(
    model: CaptionModel, prefix: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder_output = encode(model)
    monkeypatch.setattr(model, "vocabulary", type("Vocabulary", (), {"size": 61}))

    def run(guesser: Guesser | None) -> list[PrefixStep]:
        with guessing(model, guesser):
            return list(continue_prefix(model, encoder_output, prefix, max_tokens=12))

    expected = run(None)
    ids = [step.step.best[0].id for step in expected]
    guess = Guess(lambda place: ids[place:])
    found = run(guess)
    assert [step.step.best[0].id for step in found] == ids
    assert [[c.id for c in step.candidates] for step in found] == [[c.id for c in step.candidates] for step in expected]
    assert guess.calls <= 2
    same(found[-1].step.captions[0], expected[-1].step.captions[0])


def product_bound(layer: Int8Linear, weight: Tensor, x: Tensor) -> Tensor:
    """How far a product may be from that in double precision: half a level of each weight, and bf16's roundings of
    inputs and of the product."""
    u = 2.0**-8
    bound_O = (layer._scale_O.double() * 0.51)[:, None] * x.abs().sum(1).double()
    size_O = (weight.double().abs() @ x.double().abs().T) + bound_O
    return (bound_O + 3 * u * size_O)[:, 0]


@needs_int8
@pytest.mark.parametrize("scale", [1.0, 1e15, 1e-15, 1e-39], ids=str)
@pytest.mark.parametrize(("rows", "columns"), [(61, 64), (4, 192), (257, 128)])
def test_an_int8_layer_is_within_its_rounding(scale: float, rows: int, columns: int) -> None:
    torch.manual_seed(rows)
    weight, x, bias = torch.randn(rows, columns) * scale, torch.randn(1, columns), torch.randn(rows)
    weight[1] = 0
    weight[2, 5] *= 100  # one weight that makes all others of its row coarse
    layer = Int8Linear(weight)
    found = layer(x, torch.zeros(rows))[0]
    expected = (x.double() @ weight.double().T)[0]
    assert found[1] == 0
    assert ((found.double() - expected).abs() <= product_bound(layer, weight, x) + 1e-18).all()
    assert torch.allclose(layer(x, bias)[0] - bias, found, rtol=1e-3, atol=1e-5 + 1e-5 * float(found.abs().max()))


@needs_int8
def test_the_draft_guesses_the_captioner_s_own_words(model: CaptionModel, monkeypatch: pytest.MonkeyPatch) -> None:
    passes, decode = [], model._decode
    monkeypatch.setattr(
        model, "_decode", lambda ids_BT, *rest, **more: passes.append(ids_BT) or decode(ids_BT, *rest, **more)
    )
    encoder_output = encode(model, 6)
    for picture in range(6):
        alone = encoder_output.select_rows([picture])
        expected = plainly(model, alone)
        before = len(passes)
        same(final_captions(greedy(model, alone))[0], expected)
    steps = len(expected.ids) + expected.has_end
    assert steps > 6
    assert len(passes) - before < 0.7 * steps
    assert isinstance(model.guesser, Guesser) and model.guesser._draft is not None
    # Rounded differently it would still be near: its logits for the first word are those of the captioner.
    draft = model.guesser._draft
    plain = model.step(torch.tensor([1]), alone, None).logits_BV
    logits = []
    last, bias = draft._head[-1]
    monkeypatch.setattr(
        draft, "_head", [*draft._head[:-1], (lambda x, b: logits.append(last(x, b)) or logits[-1], bias)]
    )
    draft.guess(1, alone.features, None, 1, END)
    assert (logits[0] - plain).abs().max() < 0.1 * plain.std()


@needs_int8
@pytest.mark.parametrize(
    "change", ["gradients", "autocast", "training", "two pictures", "bf16", "odd size", "no room", "padding"]
)
def test_nothing_is_guessed_where_the_draft_does_not_fit(model: CaptionModel, change: str) -> None:
    pictures = 2 if change == "two pictures" else 1
    encoder_output, one = encode(model, pictures), copy.deepcopy(model)
    image: Any = encoder_output.features
    assert isinstance(one.guesser, Guesser) and one.guesser._draft is None
    past = None
    if change == "no room":
        past = model._decode(torch.ones(1, POSITIONS - 1, dtype=torch.long), encoder_output, None, need_weights=False)[
            2
        ]
    if change == "bf16":
        one.to(torch.bfloat16)
    if change == "odd size":
        one.config = type("Config", (), {"feed_forward": 100})  # type: ignore[assignment]
    if change == "padding":
        image = type(image)(image.keys, image.values, torch.zeros(1, 12, dtype=torch.bool))
    one.train(change == "training")
    with torch.set_grad_enabled(change == "gradients"), torch.autocast("cpu", enabled=change == "autocast"):
        assert one.guesser.guess(one, 1, image, past, 5) == []
    assert one.guesser._draft is None


@needs_int8
def test_damaged_weights_are_no_words(model: CaptionModel) -> None:
    one = copy.deepcopy(model)
    one.head.layers[-1].weight[7, 3] = float("nan")  # type: ignore[index]
    with pytest.raises(Exception, match="not numbers"):
        final_captions(greedy(one, encode(model)))


def test_without_int8_products_captions_are_decoded_word_by_word(
    model: CaptionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speculative_decoding, "can_draft", lambda: False)
    encoder_output = encode(model)
    same(final_captions(greedy(model, encoder_output))[0], plainly(model, encoder_output))
