"""The benchmark's pieces: arithmetic counted another way, fair rounds, and no row without a check."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import timm
import torch
from harness import arithmetic, captioner, classifier
from harness.arithmetic import forward_operations, matrix_work
from harness.captioner import CaptionerWork
from harness.classifier import ClassifierWork
from harness.plain import PlainLoop
from harness.profile import slowest
from harness.rounds import Spread, alternate, ratios
from harness.rows import Results, Row, regressions
from support.models import MICRO
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vitrine.models.captioner import CaptionModel
from vitrine.models.captioner.config import CaptionModelConfig

Command = Callable[..., tuple[int, str, str]]
CPU = torch.device("cpu")


@pytest.mark.parametrize(("size", "registers"), [(32, 0), (64, 4)])
def test_operations_are_those_that_torch_counts(size: int, registers: int) -> None:
    """torch's counter looks at every product as it runs, with attention formed as matrices."""
    arguments = MICRO | {"img_size": size, "num_classes": 7, "reg_tokens": registers}
    module = timm.create_model("vit_tiny_patch16_224", **arguments).eval()
    for block in module.blocks:
        block.attn.fused_attn = False
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(torch.zeros(3, 3, size, size))
    assert counter.get_total_flops() == 3 * forward_operations(module, size, size)


def test_a_step_is_three_forward_passes_of_products() -> None:
    """But for the gradient of the pixels, which nobody asks for."""
    module = timm.create_model("vit_tiny_patch16_224", **MICRO)
    for block in module.blocks:
        block.attn.fused_attn = False
    with FlopCounterMode(display=False) as counter:
        module(torch.zeros(2, 3, 32, 32)).sum().backward()
    share = counter.get_total_flops() / (2 * arithmetic.TRAINING * forward_operations(module, 32, 32))
    assert 0.9 < share <= 1


def test_a_matrix_product_is_twice_the_cube(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(arithmetic._SIDE, "cpu", 24)
    with FlopCounterMode(display=False) as counter:
        assert matrix_work(CPU, "fp32")() == counter.get_total_flops() == 2 * 24**3


def test_rounds_begin_with_another_one_each_and_the_first_does_not_count() -> None:
    order: list[str] = []
    speeds = alternate({name: lambda n=name: order.append(n) or 1.0 for name in "abc"}, rounds=3)  # type: ignore[misc]
    assert "".join(order) == "abc" + "bca" + "cab" + "abc"
    assert {name: len(each) for name, each in speeds.items()} == dict.fromkeys("abc", 3)


def test_ratios_are_taken_round_by_round() -> None:
    """A machine that is half as fast in one round does not show."""
    assert ratios([10.0, 5.0, 30.0], [2.0, 1.0, 10.0]) == Spread(5.0, 3.0, 5.0)


def row(name: str = "work", check: str = "equal", **beside: float) -> Row:
    spreads = {peer: Spread(value, value, value) for peer, value in beside.items()}
    return Row("section", name, "pictures/s", Spread(2.0, 1.0, 3.0), check, spreads)


def results(*rows: Row) -> Results:
    return Results({"cpu": "x"}, {"rounds": 1}, rows, 0.5)


def test_a_result_without_a_check_is_not_shown() -> None:
    with pytest.raises(ValueError, match="without a check"):
        row(check="")


def test_results_are_read_as_they_were_written() -> None:
    full = Row(
        "s", "n", "u", Spread(1.5, 1.0, 2.0), "c", {"timm": Spread(3.0, 2.0, 4.0)}, Spread(0.5, 0.4, 0.6), 12, "mm 9 %"
    )
    made = results(full, row())
    assert Results.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    page = made.page("Title", "How.")
    assert "| n | 1.5 (1 to 2) u | 3 (2 to 4) | 50 % | 12 | mm 9 % |" in page
    assert "Checked first: c" in page


def test_a_ratio_that_fell_by_more_than_fifteen_per_cent_is_a_regression() -> None:
    before = results(row(timm=4.0, peer=2.0), row("other", timm=1.0))
    assert not regressions(before, results(row(timm=3.41, peer=9.0), row("new", timm=0.1), row("other")))
    (fell,) = regressions(before, results(row(timm=3.39, peer=2.0)))
    assert (fell.beside, str(fell)) == ("timm", "section: work, times timm: 4.00 before, 3.39 now (-15 %)")


@pytest.fixture
def micro(monkeypatch: pytest.MonkeyPatch) -> ClassifierWork:
    build = classifier.load_model
    monkeypatch.setattr(
        classifier, "load_model", lambda name, **more: build(name, **(more | {"model_args": MICRO, "image_size": 0}))
    )
    return ClassifierWork("vit_tiny_patch16_224", 32, 3, "bf16")


def test_what_is_timed_is_what_the_verbs_do(micro: ClassifierWork) -> None:
    assert "float32 within" in micro.check_logits() and "bf16 within" in micro.check_maps()
    assert "cross-entropy" in micro.check_training()
    weights = [weight.clone() for weight in micro.module.parameters()]
    assert (micro.infer(), micro.map_batch(), micro.step(), micro.step()) == (3, 3, 3, 3)
    assert all(torch.equal(*pair) for pair in zip(weights, micro.module.parameters(), strict=True))
    assert micro.plain().infer(micro.plain_batches()) == 3


def test_nothing_is_timed_where_results_differ(micro: ClassifierWork, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = ClassifierWork.logits
    monkeypatch.setattr(ClassifierWork, "logits", lambda self, precision: logits(self, precision) + 0.01)
    with pytest.raises(ValueError, match="Nothing was timed: logits"):
        micro.check_logits()
    maps = ClassifierWork.maps
    monkeypatch.setattr(ClassifierWork, "maps", lambda self, precision=None: maps(self, precision) * 1.01)
    with pytest.raises(ValueError, match="Nothing was timed: maps"):
        micro.check_maps()


def test_the_plain_loop_is_plain() -> None:
    """Two steps by hand give the same weights."""
    torch.manual_seed(0)
    module, other = nn.Linear(4, 3), nn.Linear(4, 3)
    other.load_state_dict(module.state_dict())
    batches = [(torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])) for _ in range(2)]
    assert PlainLoop(module).train(batches) == 10
    optimizer = torch.optim.AdamW(other.parameters(), lr=1e-5, weight_decay=1e-4)
    for pixels, labels in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(other(pixels), labels).backward()
        optimizer.step()
    assert torch.equal(module.weight, other.weight)


class TinyCaptions(CaptionerWork):
    def made(self) -> CaptionModel:
        config = CaptionModelConfig(
            vocabulary_size=30, image_model="resnet10t", width=16, heads=2, encoder_layers=1, decoder_layers=1,
            feed_forward=16, head_widths=(), max_length=8, start=1, end=2, pad=0,
        )  # fmt: skip
        model = CaptionModel(config).eval()
        with torch.no_grad():
            model.head.layers[-1].bias[2] = captioner.NEVER  # type: ignore[index,union-attr]
        return model


def test_captions_are_checked_against_teacher_forcing(monkeypatch: pytest.MonkeyPatch) -> None:
    work = TinyCaptions(image=64, words=4, beams=2, batch=2)
    assert "a batch of 2 says" in work.check()
    assert len(work.one("fp32")[0].ids) == 4
    forced = TinyCaptions._forced
    monkeypatch.setattr(TinyCaptions, "_forced", lambda self, precision, ids: forced(self, precision, ids) + 0.1)
    with pytest.raises(ValueError, match="log-probabilities"):
        work.check()


def test_the_profile_names_what_takes_the_time(capfd: pytest.CaptureFixture[str]) -> None:
    side = torch.randn(300, 300)
    first = slowest(lambda: side @ side, CPU, 2).split(", ")[0]
    assert first.split()[0] == "mm" and first.endswith("%")
    assert capfd.readouterr().err == ""
