"""Pictures that are decoded once: the same pixels as without, whatever happens to the files."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import math
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.training import recipe
from torch.nn import functional

from vitrine.cache import cache_contents, prune, select_items
from vitrine.config import Recipe, TransformSpec, named_transforms
from vitrine.data import decoded_cache
from vitrine.data.decode import BytesPicture, FilePicture, decode, full_size
from vitrine.data.decoded_cache import (
    DecodedPicture,
    bytes_for,
    folder_for,
    reduced_size,
    remove_unfinished,
)
from vitrine.data.sample_index import SampleIndex
from vitrine.data.sources import open_data
from vitrine.data.transforms import TrainTransform, random_resized_crop, short_side, warp_matrix
from vitrine.errors import PictureError
from vitrine.io.file_names import temporary_path
from vitrine.train.data import TrainingData, use_decoded_cache
from vitrine.train.events import Plan
from vitrine.train.run import train

Command = Callable[..., tuple[int, str, str]]
ROTATED = TransformSpec(rotation=20, crop_scale=(0.7, 1.0), brightness=0.3, contrast=0.2, flip=0.5, erase=0.5)
UPRIGHT = TransformSpec(crop_scale=(0.7, 1.0), flip=0.5)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VITRINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(decoded_cache, "_verified_paths", set())
    return tmp_path / "cache"


def photograph(width: int, height: int, seed: int = 0, **how: object) -> bytes:
    """A JPEG with detail at all scales, as photographs have it (a power spectrum of 1/f²), and film grain."""
    rng = np.random.default_rng(seed)
    across, down = np.fft.rfftfreq(width)[None], np.fft.fftfreq(height)[:, None]
    frequency = np.maximum(np.hypot(across, down), 1 / max(width, height))
    layers = []
    for _ in range(3):
        smooth = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(height, width))) / frequency, s=(height, width))
        layers.append(128 + 45 * smooth / smooth.std() + rng.normal(0, 4, (height, width)))
    stream = io.BytesIO()
    image = Image.fromarray(np.stack(layers, -1).clip(0, 255).astype(np.uint8))
    image.save(stream, "JPEG", quality=92, **how)
    return stream.getvalue()


def cached_picture(data: bytes, short: int, folder: Path | None = None) -> DecodedPicture:
    return DecodedPicture(BytesPicture(data), hashlib.sha256(data).hexdigest(), folder or folder_for(short), short)


def apply_transform(image: Image.Image, spec: TransformSpec, size: int, seed: int) -> np.ndarray:
    return TrainTransform(spec, (size, size))(image, np.random.default_rng(seed))


def encode(image: Image.Image, kind: str, **how: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **how)
    return stream.getvalue()


@pytest.mark.parametrize("spec", [ROTATED, UPRIGHT, TransformSpec()], ids=["rotated", "upright", "none"])
def test_pictures_that_are_not_large_are_equal_to_the_bit(spec: TransformSpec) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned
    alpha = Image.fromarray(np.random.default_rng(1).integers(0, 256, (50, 70, 4), dtype=np.uint8), "RGBA")
    pictures = [
        photograph(90, 60),
        photograph(60, 90, exif=exif),
        encode(alpha, "PNG"),
        encode(Image.new("L", (40, 40), 77), "PNG"),
    ]
    for data in pictures:
        picture = cached_picture(data, 64)
        for image in (picture.decode(), picture.decode()):  # made now, then read
            assert image.mode == "RGBX" and full_size(image) == decode(data).size == image.size
            np.testing.assert_array_equal(np.array(image)[..., :3], np.array(decode(data)))
            for seed in range(5):
                np.testing.assert_array_equal(
                    apply_transform(image, spec, 48, seed), apply_transform(decode(data), spec, 48, seed)
                )
        assert picture.path.is_file() and picture.read_bytes() == data


def ideal(image: Image.Image, spec: TransformSpec, size: int, seed: int, finer: int = 8) -> np.ndarray:
    """The same changes with 64 bilinear samples for every pixel, averaged in floating point."""
    change = TrainTransform(spec, (size, size)).draw(image.width, image.height, np.random.default_rng(seed))
    matrix = warp_matrix(image.width, image.height, change.angle, change.crop, change.flip, size).finer(finer, finer)
    sides = (size * finer, size * finer)
    samples = image.transform(sides, Image.Transform.AFFINE, matrix.coefficients, Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(samples)).permute(2, 0, 1)[None].float()
    small = functional.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
    return small[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize(
    ("spec", "apart", "worse"),
    [
        (dataclasses.replace(named_transforms("tfm1"), brightness=0.0), 4.5, 0.0),
        (UPRIGHT, 1.3, 0.6),
    ],
    ids=["rotated", "upright"],
)
def test_large_pictures_stay_within_the_stated_tolerance(spec: TransformSpec, apart: float, worse: float) -> None:
    """Mean differences in grey levels: to direct decoding; and of both to an ideal result, where rotation samples."""
    size, data = 96, photograph(900, 700)
    short = short_side(spec, size)
    picture, direct = cached_picture(data, short), decode(data)
    image = picture.decode()
    assert min(image.size) == short < 200 and full_size(image) == (900, 700)
    assert picture.path.stat().st_size == bytes_for([(900, 700)], short) < direct.width * direct.height
    between, errors, outside = [], [], []
    for seed in range(6):
        ours, theirs = (apply_transform(each, spec, size, seed).astype(float) for each in (image, direct))
        best = ideal(direct, spec, size, seed)
        between.append(np.abs(ours - theirs).mean())
        errors.append((np.abs(ours - best).mean(), np.abs(theirs - best).mean()))
        corners = (best == 0).all(-1)  # what comes from outside is black in both
        outside.append(corners.sum())
        assert ours[corners].sum() <= 3 * 3 * corners.sum()
    assert (sum(outside) > 0) == (spec.rotation > 0)
    reduced_error, whole = np.mean(errors, axis=0)
    assert 0.05 < np.mean(between) < apart
    assert reduced_error < whole + worse


@pytest.mark.parametrize(
    ("spec", "apart", "worse"),
    [(dataclasses.replace(named_transforms("tfm1"), brightness=0.0), 4.5, 0.3), (UPRIGHT, 1.3, 0.8)],
    ids=["rotated", "upright"],
)
def test_what_a_decoder_leaves_out_stays_within_the_stated_tolerance(
    spec: TransformSpec, apart: float, worse: float
) -> None:
    """As above, of a picture that its decoder reduces to a quarter; what is drawn is drawn for the whole picture."""
    size, data = 96, photograph(900, 700)
    transform, direct = TrainTransform(spec, (size, size)), decode(data)
    image = decode(data, short=transform.short)
    assert (image.size, full_size(image)) == ((225, 175), (900, 700)) and transform.short <= 175
    between, errors = [], []
    for seed in range(6):
        ours, theirs = (apply_transform(each, spec, size, seed).astype(float) for each in (image, direct))
        best = ideal(direct, spec, size, seed)
        between.append(np.abs(ours - theirs).mean())
        errors.append((np.abs(ours - best).mean(), np.abs(theirs - best).mean()))
    reduced_error, whole = np.mean(errors, axis=0)
    assert 0.05 < np.mean(between) < apart
    assert reduced_error < whole + worse


@given(
    st.integers(20, 400),
    st.integers(20, 400),
    st.floats(0.05, 1),
    st.floats(0.3, 1),
    st.floats(1, 3),
    st.integers(0, 99),
)
def test_no_crop_of_a_reduced_picture_is_smaller_than_the_input(
    width: int, height: int, low: float, narrow: float, wide: float, seed: int
) -> None:
    spec, size = TransformSpec(crop_scale=(low, 1.0), crop_ratio=(narrow, wide)), 16
    short = short_side(spec, size)
    across, down = reduced_size(width, height, short)
    if (across, down) == (width, height):
        assert short / min(width, height) > math.sqrt(0.5)
        return
    assert across * down <= 0.5 * width * height * 1.05 and min(across, down) >= short
    crop = random_resized_crop(width, height, spec.crop_scale, spec.crop_ratio, np.random.default_rng(seed))
    # The crop is rounded to pixels of the picture, and the reduced picture to pixels of its own.
    rounding = 0.5 * max(across / width, down / height) + 0.5 * max(crop.width / width, crop.height / height)
    assert crop.width * across / width >= size - 1e-6 - rounding
    assert crop.height * down / height >= size - 1e-6 - rounding


def test_a_changed_file_is_another_picture(tmp_path: Path) -> None:
    path, folder = tmp_path / "a.jpg", folder_for(64)
    first, second = photograph(60, 50, 1), photograph(60, 50, 2)
    path.write_bytes(first)
    old = DecodedPicture(FilePicture(path), hashlib.sha256(first).hexdigest(), folder, 64)
    path.write_bytes(second)  # after it was hashed, before it was decoded
    np.testing.assert_array_equal(np.array(old.decode())[..., :3], np.array(decode(second)))
    assert not old.path.exists(), "these are not the pixels of that hash"
    path.write_bytes(first)
    old.decode()
    path.write_bytes(second)
    np.testing.assert_array_equal(np.array(old.decode())[..., :3], np.array(decode(first)))
    new = DecodedPicture(FilePicture(path), hashlib.sha256(second).hexdigest(), folder, 64)
    np.testing.assert_array_equal(np.array(new.decode())[..., :3], np.array(decode(second)))
    assert old.path.exists() and new.path.exists()


def _cut(content: bytes) -> bytes:
    return content[:-100]


def _flip_byte(content: bytes) -> bytes:
    return content[:500] + bytes([content[500] ^ 1]) + content[501:]


DAMAGE: list[Callable[[bytes], bytes]] = [
    _cut,
    _flip_byte,
    lambda content: b"",
    lambda content: content[:5],
    lambda content: b"X" + content[1:],
    lambda content: content[:8] + b"\xff" * 8 + content[16:],
    lambda content: content[:16] + b"\x01" + content[17:],  # the size of the full picture
    lambda content: content + b"more",
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_decoded_again(damage: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    data = photograph(60, 50)
    picture = cached_picture(data, 64)
    picture.decode()
    whole = picture.path.read_bytes()
    picture.path.write_bytes(damage(whole))
    monkeypatch.setattr(decoded_cache, "_verified_paths", set())  # as in a new process
    np.testing.assert_array_equal(np.array(picture.decode())[..., :3], np.array(decode(data)))
    assert picture.path.read_bytes() == whole


def test_what_cannot_be_decoded_or_kept_is_told_or_done_without(cache: Path) -> None:
    with pytest.raises(PictureError, match="not a picture"):
        cached_picture(b"nothing", 64).decode()
    data = photograph(60, 50)
    cache.mkdir()
    (cache / "decoded").write_text("a file where a folder should be")
    image = cached_picture(data, 64).decode()
    np.testing.assert_array_equal(np.array(image)[..., :3], np.array(decode(data)))


def test_what_a_killed_writer_left_is_removed_and_nothing_else(cache: Path) -> None:
    picture = cached_picture(photograph(60, 50), 64)
    picture.decode()
    own = temporary_path(picture.path)
    pid = os.fork()
    if not pid:
        temporary_path(picture.path).write_bytes(b"half")
        os._exit(0)
    os.waitpid(pid, 0)
    own.write_bytes(b"half")
    assert len(list(picture.path.parent.iterdir())) == 3
    remove_unfinished(picture.folder)
    assert sorted(path.name for path in picture.path.parent.iterdir()) == sorted([own.name, picture.path.name])


def _decode_all(seeds: list[int]) -> str:
    together = hashlib.sha256()
    for seed in seeds:
        image = cached_picture(photograph(200, 150, seed), 40).decode()
        together.update(image.tobytes())
    return together.hexdigest()


def test_processes_that_build_it_together_spoil_nothing(cache: Path) -> None:
    seeds = list(range(12))
    with multiprocessing.Pool(2) as pool:
        sizes = pool.map(_decode_all, [seeds, seeds])
    assert sizes[0] == sizes[1] == _decode_all(seeds)
    files = [path for path in (cache / "decoded").rglob("*") if path.is_file()]
    assert len(files) == 12 and not [path for path in files if path.name.endswith(".part")]


def test_a_build_that_is_killed_leaves_whole_pictures(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = list(range(300))
    process = multiprocessing.Process(target=_decode_all, args=(seeds,))
    process.start()
    deadline = time.monotonic() + 60
    while len(list((cache / "decoded").rglob("*.rgbx"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.join()
    there = list((cache / "decoded").rglob("*.rgbx"))
    assert 5 <= len(there) < len(seeds), "killed too late to test anything"
    assert all(decoded_cache._read(path) is not None for path in there)
    for seed in seeds[:3]:
        data = photograph(200, 150, seed)
        elsewhere = cached_picture(data, 40, cache / "elsewhere").decode()
        assert cached_picture(data, 40).decode().tobytes() == elsewhere.tobytes()


# --- in training

REPEATABLE = ("history.jsonl", "metrics.json", "predictions.csv", "model.safetensors", "data.json")


def notes_of(data: Path | str, settings: Recipe, run: Path) -> tuple[str, ...]:
    plans: list[Plan] = []
    train(str(data), settings, run, report=lambda e: plans.append(e) if isinstance(e, Plan) else None)
    return plans[0].notes


def same_files(one: Path, other: Path) -> None:
    for name in REPEATABLE:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_training_is_the_same_to_the_bit_and_decodes_once(
    small_scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 0

    def count_decode(data: bytes) -> Image.Image:
        nonlocal count
        count += 1
        return decode(data)

    monkeypatch.setattr(decoded_cache, "decode", count_decode)
    train(str(small_scenes), recipe(), tmp_path / "without")
    assert count == 0
    notes = notes_of(small_scenes, recipe(decoded_cache=1), tmp_path / "cold")
    assert count == 48, "in the first epoch, once each; validation pictures go another way"
    assert any(note.startswith("Decoded pictures are kept in") for note in notes)
    train(str(small_scenes), recipe(decoded_cache=1), tmp_path / "warm")
    train(str(small_scenes), recipe(decoded_cache=1, workers=1), tmp_path / "workers")
    assert count == 48
    for name in ("cold", "warm", "workers"):
        same_files(tmp_path / "without", tmp_path / name)  # none of these pictures is large


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large")
    for number in range(12):
        path = folder / ("train" if number < 8 else "validation") / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photograph(160, 120, number))
    return folder


def test_what_training_sees_does_not_depend_on_what_is_there(large: Path, tmp_path: Path, cache: Path) -> None:
    settings = recipe(decoded_cache=1, transforms=UPRIGHT)
    train(str(large), settings, tmp_path / "cold")
    files = sorted((cache / "decoded").rglob("*.rgbx"))
    assert len(files) == 8
    assert all(path.stat().st_size < 160 * 120 * 4 / 2 for path in files)
    train(str(large), settings, tmp_path / "warm")
    files[0].unlink()
    files[1].write_bytes(b"damaged")
    decoded_cache._verified_paths.clear()
    train(str(large), settings, tmp_path / "mended")
    (cache / "decoded").rename(cache / "away")
    (cache / "decoded").write_text("a file where a folder should be")
    notes = notes_of(large, settings, tmp_path / "nowhere")
    assert any("Nothing can be kept there" in note for note in notes)
    for name in ("warm", "mended", "nowhere"):
        same_files(tmp_path / "cold", tmp_path / name)
    train(str(large), recipe(transforms=UPRIGHT), tmp_path / "without")
    histories = [(tmp_path / name / "history.jsonl").read_bytes() for name in ("cold", "without")]
    assert histories[0] != histories[1], "these pictures are reduced"


def test_what_does_not_fit_is_decoded_in_every_epoch(large: Path, tmp_path: Path, cache: Path) -> None:
    cache_bytes = bytes_for([(160, 120)] * 8, short_side(UPRIGHT, 32))
    settings = recipe(transforms=UPRIGHT, epochs=1)
    notes = notes_of(large, dataclasses.replace(settings, decoded_cache=(cache_bytes - 1) / 1e9), tmp_path / "not")
    assert any("more than" in note and "every epoch decodes them" in note for note in notes)
    assert not (cache / "decoded").exists()
    notes = notes_of(large, dataclasses.replace(settings, decoded_cache=cache_bytes / 1e9), tmp_path / "just")
    assert any(note.startswith("Decoded pictures are kept") for note in notes)
    used = sum(path.stat().st_size for path in (cache / "decoded").rglob("*.rgbx"))
    assert used == cache_bytes


def test_a_full_disk_is_told_of(large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    notes = notes_of(large, recipe(decoded_cache=1, epochs=1), tmp_path / "run")
    assert any("are free there" in note for note in notes)


def test_a_stream_has_nothing_to_keep() -> None:
    scenes = open_data("scenes:base")
    data = TrainingData(scenes, scenes.splits["train"], (), {}, SampleIndex({}, (), {}))
    same, notes = use_decoded_cache(data, TransformSpec(), (32, 32), max_gb=1)
    assert same is data and "come in a stream" in notes[0]


def test_the_cache_verb_lists_and_prunes_it(large: Path, tmp_path: Path, vitrine_command: Command) -> None:
    train(str(large), recipe(decoded_cache=1, transforms=UPRIGHT, epochs=1), tmp_path / "run")
    short = short_side(UPRIGHT, 32)
    folder = folder_for(short)
    contents = cache_contents()
    (item,) = contents.items
    assert (item.name, item.kind) == (f"decoded/{short}px", "decoded pictures")
    assert item.last_used is not None and not contents.unknown
    assert item.size == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    status, out, _ = vitrine_command("cache")
    assert status == 0 and f"decoded/{short}px" in out and "decoded by vitrine train" in out
    assert not select_items(contents, ["1"]), "used today"
    pruned = prune(contents, select_items(contents, [item.name]))
    assert pruned.failure is None and not folder.exists() and pruned.freed >= item.size
    train(str(large), recipe(decoded_cache=1, transforms=UPRIGHT, epochs=1), tmp_path / "again")
    same_files(tmp_path / "run", tmp_path / "again")
