"""The search against a plain one over all pairs; the hash against imagehash's own; and what it takes for copies."""

from __future__ import annotations

import io
from itertools import product

import imagehash
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from support.paths import SHARED

from vitrine.data import perceptual_hash
from vitrine.data.perceptual_hash import BITS, COMPARISONS, MAX_DISTANCE, SIGNATURE_BYTES, find_near, signature
from vitrine.data.scenes import open_scenes

RNG = np.random.default_rng(5)
HASH_BYTES = BITS // 8


def photograph(seed: int, size: tuple[int, int] = (200, 150)) -> Image.Image:
    """Smooth random structure on all scales, as photographs have it: amplitudes fall with frequency."""
    rng, (width, height) = np.random.default_rng(seed), size
    frequency = np.hypot(np.fft.fftfreq(height)[:, None] * height, np.fft.fftfreq(width)[None] * width)
    noise_HWC = rng.normal(size=(height, width, 3)).mean(2, keepdims=True) + 0.3 * rng.normal(size=(height, width, 3))
    spectrum_HWC = np.fft.fft2(noise_HWC, axes=(0, 1)) / (1 + frequency[..., None]) ** 1.2
    values_HWC = np.fft.ifft2(spectrum_HWC, axes=(0, 1)).real
    low, high = np.quantile(values_HWC, (0.01, 0.99))
    return Image.fromarray((255 * (values_HWC - low) / (high - low)).clip(0, 255).astype(np.uint8))


def jpeg(picture: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def cropped(picture: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    width, height = picture.size
    return picture.crop((int(left * width), int(top * height), int((1 - right) * width), int((1 - bottom) * height)))


def nearest(one: Image.Image, other: Image.Image) -> tuple[int, bool] | None:
    first, second = signature(one), signature(other)
    assert first is not None and second is not None
    near = find_near([first], [second])
    return (near[0].distance, near[0].is_mirrored) if near else None


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda p: jpeg(p, 30), id="JPEG 30"),
        pytest.param(lambda p: jpeg(p, 95), id="JPEG 95"),
        pytest.param(lambda p: p.resize((50, 37)), id="a quarter"),
        pytest.param(lambda p: p.resize((400, 300)), id="twice"),
        pytest.param(lambda p: p.resize((300, 150)), id="stretched"),
        pytest.param(lambda p: cropped(p, 0.01, 0.01, 0.01, 0.01), id="2 % off"),
        pytest.param(lambda p: cropped(p, 0.025, 0.025, 0.025, 0.025), id="5 % off"),
        pytest.param(lambda p: cropped(p, 0.05, 0.05, 0.05, 0.05), id="10 % off"),
        pytest.param(lambda p: cropped(p, 0, 0, 0, 0.05), id="5 % off at the bottom"),
        pytest.param(lambda p: cropped(p, 0.07, 0, 0, 0), id="7 % off at the left"),
        pytest.param(lambda p: cropped(p, 0.05, 0.05, 0, 0), id="5 % off at left and top"),
        pytest.param(lambda p: ImageEnhance.Brightness(p).enhance(1.15), id="brighter"),
        pytest.param(lambda p: ImageEnhance.Contrast(p).enhance(0.8), id="paler"),
        pytest.param(lambda p: p.convert("L"), id="grey"),
        pytest.param(lambda p: jpeg(cropped(p, 0.04, 0.05, 0.05, 0.04).resize((120, 90)), 50), id="all of it"),
    ],
)
def test_a_changed_picture_is_near_its_original_mirrored_or_not(change) -> None:
    for seed in range(4):
        original = photograph(seed)
        changed = change(original)
        for one, other in ((original, changed), (changed, original)):
            found = nearest(one, other)
            assert found is not None and not found[1]
        for one, other in ((original, ImageOps.mirror(changed)), (ImageOps.mirror(original), changed)):
            found = nearest(one, other)
            assert found is not None and found[1]


def test_different_pictures_are_not_near() -> None:
    """Scenes of one large shape are alike in all low frequencies: ``phash`` alone is within 36 of 256 bits for two."""
    scenes = open_scenes("scenes:new?train=900&validation=200").splits
    alike = [scenes["validation"][172], scenes["train"][836]]
    pictures = [each.picture.decode() for each in (*alike, *scenes["validation"][:60])]
    pictures += [photograph(seed) for seed in range(60)]
    signatures = [each for picture in pictures if (each := signature(picture)) is not None]
    assert len(signatures) == 122
    assert find_near(signatures, signatures, earlier_only=True) == []
    low = [np.frombuffer(each[:32], np.uint8) for each in signatures[:2]]
    assert int(np.bitwise_count(low[0] ^ low[1]).sum()) <= 36


def test_a_hash_is_imagehashs_own() -> None:
    """Both of them, bit for bit, of a picture whose thumbnail is itself; and nearly so of any other."""
    small = photograph(1, (128, 128)).convert("L")
    part = small.resize((64, 64), Image.Resampling.BILINEAR)
    bits_16x16 = imagehash.phash(part, hash_size=16).hash
    ours = np.unpackbits(np.frombuffer((signature(small) or b"")[:HASH_BYTES], np.uint8)).astype(bool)
    halves = (slice(8), slice(8, 16))
    quarters = [bits_16x16[rows, columns].ravel() for rows, columns in product(halves, halves)]
    differences = imagehash.dhash(part, hash_size=16).hash.ravel()
    np.testing.assert_array_equal(ours, np.concatenate([*quarters, differences]))
    for seed in range(5):
        one, other = photograph(seed), photograph(seed + 10, (311, 173))
        whole = [np.frombuffer((signature(each) or b"")[:HASH_BYTES], np.uint8) for each in (one, other)]
        distance = int(np.bitwise_count(whole[0] ^ whole[1]).sum())
        expected = sum(each(one, 16) - each(other, 16) for each in (imagehash.phash, imagehash.dhash))
        assert abs(distance - expected) <= 16


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (10, 200, 30)])
def test_a_picture_of_one_colour_has_nothing_to_compare(colour: tuple[int, int, int]) -> None:
    assert signature(Image.new("RGB", (40, 30), colour)) is None
    assert signature(jpeg(Image.new("RGB", (40, 30), colour), 50)) is None


def test_a_tiny_picture_has_a_signature() -> None:
    picture = Image.fromarray(RNG.integers(0, 256, (2, 3, 3), dtype=np.uint8))
    assert len(signature(picture) or b"") == SIGNATURE_BYTES


def flipped(original: bytes, hash_number: int, bits: int, *, low: int = 0) -> bytes:
    """A signature of random hashes but one, which differs from the original's first hash in so many bits."""
    values = np.frombuffer(original[:HASH_BYTES], np.uint8).copy()
    all_bits = np.unpackbits(values)
    places = np.concatenate([RNG.permutation(64)[:low], 64 + RNG.permutation(BITS - 64)[: bits - low]])
    all_bits[places] ^= 1
    hashes = [RNG.bytes(HASH_BYTES) for _ in range(12)]
    hashes[0 if hash_number != 3 else 3] = original[:HASH_BYTES]
    hashes[hash_number] = np.packbits(all_bits).tobytes()
    return b"".join(hashes)


def plain_search(queries: list[bytes], references: list[bytes], earlier_only: bool) -> list[tuple[int, int, int, bool]]:
    """Every pair, bit by bit: the nearest, of equally near ones the first, unmirrored before mirrored."""

    def bits(text: bytes, number: int) -> list[int]:
        return [byte >> (7 - place) & 1 for byte in text[HASH_BYTES * number :][:HASH_BYTES] for place in range(8)]

    rows = []
    for q, query in enumerate(queries):
        best: list[tuple[int, int, bool]] = []
        for (r, reference), (one, other, mirrored) in product(enumerate(references), COMPARISONS):
            if earlier_only and r >= q:
                continue
            differ = [a != b for a, b in zip(bits(query, one), bits(reference, other), strict=True)]
            whole = zip(bits(query, 3 if mirrored else 0)[:64], bits(reference, 0)[:64], strict=True)
            if sum(differ) <= MAX_DISTANCE and sum(differ[:64]) <= 12 and sum(a != b for a, b in whole) <= 22:
                best.append((sum(differ), r, mirrored))
        if best:
            distance, r, mirrored = min(best)
            rows.append((q, r, distance, mirrored))
    return rows


@pytest.mark.parametrize("earlier_only", [False, True])
def test_the_search_finds_what_a_plain_one_finds(earlier_only: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perceptual_hash, "_QUERIES_AT_ONCE", 3)
    monkeypatch.setattr(perceptual_hash, "_REFERENCES_AT_ONCE", 4)
    references = [RNG.bytes(SIGNATURE_BYTES) for _ in range(9)]
    queries = [
        *references[:2],
        flipped(references[3], 0, MAX_DISTANCE, low=12),
        flipped(references[3], 0, MAX_DISTANCE + 1, low=5),  # too far
        flipped(references[4], 0, 30, low=13),  # its low frequencies differ too much
        flipped(references[5], 1, 9),
        flipped(references[6], 3, 17, low=3),
        references[8],
        RNG.bytes(SIGNATURE_BYTES),
    ]
    if earlier_only:
        queries = references = [*references, *queries, references[0]]
    found = find_near(queries, references, earlier_only=earlier_only)
    expected = plain_search(queries, references, earlier_only)
    assert [(each.query, each.reference, each.distance, each.is_mirrored) for each in found] == expected
    assert len(expected) == (7 if earlier_only else 6)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real photographs of ../shared/data are not here")
def test_a_photograph_that_was_saved_twice_is_known_among_its_like() -> None:
    """Both are in the training pictures of the garments, once as shorts and once as a skirt."""
    garments = SHARED / "clothing" / "train"
    skirts = sorted((garments / "skirt").glob("*.jpg"))
    shorts = garments / "shorts" / "6075b4a5-5b1a-4ce0-aea0-9dbfbca7c35c.jpg"
    signatures = [signature(Image.open(path).convert("RGB")) or b"" for path in (*skirts, shorts)]
    (near,) = find_near(signatures, signatures, earlier_only=True)
    assert skirts[near.reference].name.startswith("637a56e4") and near.query == len(skirts)
    assert near.distance <= 8 and not near.is_mirrored


def test_nothing_has_nothing_near() -> None:
    assert find_near([], [RNG.bytes(SIGNATURE_BYTES)]) == find_near([RNG.bytes(SIGNATURE_BYTES)], []) == []
    assert SIGNATURE_BYTES == 12 * HASH_BYTES
