"""The loader: repeatable whatever the workers do, honest about what fails, gone when it should be."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.inputs import square_input
from support.paths import TESTS

from vitrine.config import TransformSpec, named_transforms
from vitrine.data.batch_plan import batch_count, epoch_order
from vitrine.data.decode import BytesPicture, decode, full_size
from vitrine.data.loader import Batch, PictureLoader, Transform, batches, load_batch, normalise
from vitrine.data.samples import Sample
from vitrine.data.transforms import EvalTransform, TrainTransform
from vitrine.errors import DataError, PictureError

SPEC = TransformSpec(rotation=20, crop_scale=(0.5, 1), flip=0.5, brightness=0.3, contrast=0.2, erase=0.3)


@dataclass(frozen=True)
class Noise:
    """A picture that is a function of its number."""

    number: int

    def read_bytes(self) -> bytes:
        return self.number.to_bytes(8, "big")

    def decode(self) -> Image.Image:
        pixels = np.random.default_rng(self.number).integers(0, 256, (24, 30, 3), dtype=np.uint8)
        return Image.fromarray(pixels)


@dataclass(frozen=True)
class Unreadable(Noise):
    def decode(self) -> Image.Image:
        raise PictureError("truncated: the file ends before its picture does")


@dataclass(frozen=True)
class Broken(Noise):
    def decode(self) -> Image.Image:
        raise ZeroDivisionError("a mistake of ours")


@dataclass(frozen=True)
class Deadly(Noise):
    def decode(self) -> Image.Image:
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
        raise AssertionError


def samples(n: int, special: dict[int, type[Noise]] | None = None, first: int = 0) -> list[Sample]:
    kinds = special or {}
    return [Sample(f"{i}.png", kinds.get(i, Noise)(first + i), label=i % 3) for i in range(n)]


def pixels(loaded_batches: Sequence[Batch]) -> torch.Tensor:
    return torch.cat([batch.pixels_BCHW for batch in loaded_batches])


def indices(loaded_batches: Sequence[Batch]) -> list[int]:
    return torch.cat([batch.indices_B for batch in loaded_batches]).tolist()


def load(data: Sequence[Sample], **options: object) -> list[Batch]:
    settings = {"batch_size": 4, "seed": 3, "epoch": 1, "shuffle": True, "workers": 0} | options
    return list(batches(data, TrainTransform(SPEC, (16, 16)), **settings))  # type: ignore[arg-type]


def test_a_batch_holds_what_it_promises() -> None:
    loaded_batches = load(samples(10))
    assert [tuple(batch.pixels_BCHW.shape) for batch in loaded_batches] == [
        (4, 3, 16, 16),
        (4, 3, 16, 16),
        (2, 3, 16, 16),
    ]
    first = loaded_batches[0]
    assert (first.pixels_BCHW.dtype, first.labels_B.dtype, first.indices_B.dtype) == (
        torch.uint8,
        torch.int64,
        torch.int64,
    )
    assert first.pixels_BCHW.is_contiguous()
    for batch in loaded_batches:
        assert batch.labels_B.tolist() == [i % 3 for i in batch.indices_B.tolist()]
    assert sorted(indices(loaded_batches)) == list(range(10))
    unknown = batches([Sample("a", Noise(1))], EvalTransform(square_input(16)), batch_size=1)
    assert next(iter(unknown)).labels_B.tolist() == [-1]


def test_pixels_are_those_of_the_transform() -> None:
    (batch,) = batches(samples(2), EvalTransform(square_input(16)), batch_size=2, workers=0)
    expected = EvalTransform(square_input(16))(Noise(1).decode())
    np.testing.assert_array_equal(batch.pixels_BCHW[1].permute(1, 2, 0).numpy(), expected)


def test_workers_and_batch_size_change_nothing() -> None:
    data = samples(13)
    alone = load(data)
    for workers in (1, 2):
        together = load(data, workers=workers)
        assert indices(together) == indices(alone)
        assert torch.equal(pixels(together), pixels(alone))
    assert torch.equal(pixels(load(data, batch_size=5)), pixels(alone))


@pytest.mark.parametrize("workers", [0, 1])
def test_starting_later_gives_the_same_batches(workers: int) -> None:
    data = samples(14)
    whole, rest = load(data), load(data, start_batch=2, workers=workers)
    assert len(rest) == 2
    assert indices(rest) == indices(whole[2:])
    assert torch.equal(pixels(rest), pixels(whole[2:]))
    assert load(data, start_batch=9, workers=workers) == []


def test_seed_and_epoch_change_order_and_pixels() -> None:
    data = samples(12)
    base = load(data)
    for change in ({"seed": 4}, {"epoch": 2}):
        other = load(data, **change)
        assert indices(other) != indices(base)
        row, other_row = indices(base).index(5), indices(other).index(5)
        assert not torch.equal(pixels(base)[row], pixels(other)[other_row])
    assert indices(load(data, shuffle=False)) == list(range(12))


@given(st.integers(0, 200), st.integers(1, 30), st.booleans())
def test_batch_count_counts(n: int, size: int, drop_last: bool) -> None:
    cut = [range(n)[i : i + size] for i in range(0, n, size)]
    assert batch_count(n, size, drop_last) == len([part for part in cut if not drop_last or len(part) == size])


def test_a_last_batch_can_be_dropped() -> None:
    assert [len(batch.indices_B) for batch in load(samples(10), drop_last=True)] == [4, 4]


def test_an_order_is_a_permutation_without_favourites() -> None:
    firsts = [int(epoch_order(5, seed=seed, epoch=0, shuffle=True)[0]) for seed in range(500)]
    assert sorted(epoch_order(50, seed=1, epoch=2, shuffle=True)) == list(range(50))
    assert np.bincount(firsts, minlength=5) == pytest.approx(100, abs=4 * 9)  # four standard deviations


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_pictures_are_named_and_the_rest_goes_on(workers: int) -> None:
    data = samples(8, {1: Unreadable, 4: Unreadable, 5: Unreadable, 6: Unreadable, 7: Unreadable})
    loaded_batches = load(data, shuffle=False, workers=workers)
    assert indices(loaded_batches) == [0, 2, 3]
    assert [index for batch in loaded_batches for index, _ in batch.unreadable] == [1, 4, 5, 6, 7]
    assert "truncated" in loaded_batches[0].unreadable[0][1]
    assert tuple(loaded_batches[1].pixels_BCHW.shape) == (0, 3, 16, 16)  # a batch of which nothing is left
    clean = dict(zip(indices(load(samples(8))), pixels(load(samples(8))), strict=True))
    for i, row in zip(indices(loaded_batches), pixels(loaded_batches), strict=True):
        assert torch.equal(row, clean[i])  # neighbours that fail change nothing


@pytest.mark.parametrize("workers", [0, 1])
def test_our_own_mistakes_are_raised_with_the_name(workers: int) -> None:
    with pytest.raises(RuntimeError, match=r"Loading 6\.png failed: ZeroDivisionError: a mistake of ours"):
        load(samples(9, {6: Broken}), workers=workers)


def test_a_killed_worker_is_an_error_and_not_a_wait() -> None:
    with pytest.raises((DataError, RuntimeError), match=r"killed|exited"):
        load(samples(30, {9: Deadly}), workers=1)
    assert multiprocessing.active_children() == []


def test_a_loader_lives_for_many_epochs_and_leaves_nothing_behind() -> None:
    data, other = samples(9), samples(9, first=100)
    with PictureLoader(TrainTransform(SPEC, (16, 16)), 4, 1) as loader:
        for epoch in range(2):
            assert torch.equal(
                pixels(list(loader.epoch(data, seed=3, epoch=epoch, shuffle=True))), pixels(load(data, epoch=epoch))
            )
        workers = multiprocessing.active_children()
        # An endless source has other samples in every epoch.
        assert torch.equal(pixels(list(loader.epoch(other, seed=3, epoch=1, shuffle=True))), pixels(load(other)))
        assert multiprocessing.active_children() == workers
        first_epoch = loader.epoch(data)
        next(first_epoch)
        assert torch.equal(pixels(list(loader.epoch(data, seed=3, epoch=1, shuffle=True))), pixels(load(data)))
        with pytest.raises(RuntimeError, match="newer epoch"):
            next(first_epoch)
    assert multiprocessing.active_children() == []


def test_the_trainers_random_numbers_are_its_own() -> None:
    before = torch.get_rng_state()
    load(samples(9), workers=1)
    load(samples(9))
    assert torch.equal(torch.get_rng_state(), before)


class Counted(Sequence[Sample]):
    """A hundred thousand samples, made when asked for, and counted."""

    accesses = 0

    def __len__(self) -> int:
        return 100_000

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]
        Counted.accesses += 1
        return Sample(str(index), Noise(index))


def test_only_a_few_batches_are_loaded_ahead() -> None:
    with PictureLoader(EvalTransform(square_input(16)), 4, 1) as loader:
        list(loader.epoch(samples(4)))  # its workers know other samples, so these are made here, and can be counted
        Counted.accesses = 0
        stream = loader.epoch(Counted())
        for _ in range(3):
            next(stream)
        time.sleep(0.2)
        assert Counted.accesses <= 4 * (3 + 3)


def test_an_interrupt_ends_it_all(warm_python: str) -> None:
    program = """
        import multiprocessing, time
        from test_loader import SPEC, samples
        from vitrine.data.loader import batches
        from vitrine.data.transforms import TrainTransform
        try:
            for batch in batches(samples(100_000), TrainTransform(SPEC, (16, 16)), batch_size=4, workers=2):
                print("loading", flush=True)
                time.sleep(0.05)
        except KeyboardInterrupt:
            print("interrupted", len(multiprocessing.active_children()), flush=True)
    """
    paths = os.pathsep.join([str(TESTS), *sys.path])
    process = subprocess.Popen(
        [warm_python, "-c", textwrap.dedent(program)],
        cwd=TESTS / "data",
        env=os.environ | {"PYTHONPATH": paths},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it: to the workers too
    out, err = process.communicate(timeout=60)
    assert "interrupted 0" in out, err
    assert "Traceback" not in err


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_normalise_is_its_formula(dtype: torch.dtype) -> None:
    pixels_BCHW = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(2, 3, 16, 16)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.5, 0.01)
    expected = (pixels_BCHW.double() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    result = normalise(pixels_BCHW, mean, std, dtype)
    assert result.dtype == dtype
    tolerance = {"rtol": 1e-2, "atol": 1e-2} if dtype is torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(result.double(), expected, **tolerance)
    assert pixels_BCHW.dtype == torch.uint8


def test_large_jpegs_are_reduced_by_their_decoder_in_training_alone() -> None:
    """As far as the smallest crop still has the input's pixels; anything else, and evaluation, is decoded whole."""
    rng = np.random.default_rng(5)
    smooth = Image.fromarray(rng.integers(0, 256, (5, 8, 3), dtype=np.uint8)).resize(
        (400, 240), Image.Resampling.BICUBIC
    )
    turned = Image.Exif()
    turned[0x0112] = 6
    jpeg, rotated, png = (encoded(smooth, *how) for how in (("JPEG",), ("JPEG", turned), ("PNG",)))
    least = TrainTransform(TransformSpec(), (50, 50)).short  # 58 pixels: 240 / 4 is enough, an eighth is not
    for data, short, size, full in (
        (jpeg, least, (100, 60), (400, 240)),
        (jpeg, 61, (200, 120), (400, 240)),
        (jpeg, 120, (200, 120), (400, 240)),
        (jpeg, 121, (400, 240), (400, 240)),
        (jpeg, 0, (400, 240), (400, 240)),
        (jpeg, 30, (50, 30), (400, 240)),
        (rotated, least, (60, 100), (240, 400)),
        (png, least, (400, 240), (400, 240)),
    ):
        image = decode(data, short=short)
        assert (image.mode, image.size, full_size(image)) == ("RGB", size, full)
        whole = decode(data).resize(size, Image.Resampling.BOX)
        assert np.abs(np.asarray(image, float) - np.asarray(whole, float)).mean() < 2
    with pytest.raises(PictureError, match="truncated"):
        decode(jpeg[: len(jpeg) // 2], short=30)

    def load(transform: Transform, data: bytes) -> torch.Tensor:
        return load_batch([Sample("x", BytesPicture(data))], [3], transform, seed=0, epoch=1).pixels_BCHW

    spec = named_transforms("tfm1")
    small, exact = (TrainTransform(replace(spec, reduced_decoding=on), (50, 50)) for on in (True, False))
    evaluation = EvalTransform(square_input(50))
    difference = (load(small, jpeg).float() - load(exact, jpeg).float()).abs()
    assert 0 < difference.mean() < 4
    assert torch.equal(load(small, png), load(exact, png))
    assert torch.equal(load(evaluation, jpeg)[0].permute(1, 2, 0), torch.from_numpy(evaluation(decode(jpeg))))


def encoded(image: Image.Image, kind: str, exif: Image.Exif | None = None) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **({"exif": exif, "quality": 95} if exif else {"quality": 95} if kind == "JPEG" else {}))
    return stream.getvalue()
