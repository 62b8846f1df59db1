"""Which pictures also stand in training: facts before suspicions, and what files keep of it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from vitrine.data.perceptual_hash import BITS, SIGNATURE_BYTES
from vitrine.data.training_copies import (
    PERCEPTUAL_HASH,
    HashedPicture,
    TrainingCopy,
    find_training_copies,
    signature_from_text,
    signature_to_text,
)

RNG = np.random.default_rng(3)
SIGNATURES = [RNG.bytes(SIGNATURE_BYTES) for _ in range(6)]


def nearby(signature: bytes, bits: int) -> bytes:
    """A signature whose first hash differs in so many bits, none of them among the first quarter."""
    values = np.unpackbits(np.frombuffer(signature, np.uint8)).copy()
    values[64 + RNG.permutation(BITS - 64)[:bits]] ^= 1
    return np.packbits(values[:BITS]).tobytes() + RNG.bytes(SIGNATURE_BYTES - BITS // 8)


def test_a_fact_comes_before_a_suspicion_and_the_first_original_is_named() -> None:
    training = [
        HashedPicture("t0", "a", SIGNATURES[0]),
        HashedPicture("t1", "a", SIGNATURES[0]),
        HashedPicture("t2", "b", SIGNATURES[1]),
        HashedPicture("t3", "c", None),
    ]
    pictures = [
        HashedPicture("new", "z", SIGNATURES[4]),
        HashedPicture("same", "a", SIGNATURES[0]),
        HashedPicture("near", "y", nearby(SIGNATURES[1], 9)),
        HashedPicture("blank", "x", None),
        HashedPicture("same blank", "c", None),
    ]
    assert find_training_copies(pictures, training) == (
        TrainingCopy("same", "t0"),
        TrainingCopy("near", "t2", 9),
        TrainingCopy("same blank", "t3"),
    )
    assert find_training_copies(pictures, []) == find_training_copies([], training) == ()


@pytest.mark.parametrize("copy", [TrainingCopy("a", "b"), TrainingCopy("a", "b", 0), TrainingCopy("a", "b", 30, True)])
def test_files_keep_a_copy_as_it_is(copy: TrainingCopy) -> None:
    assert TrainingCopy.from_dict(json.loads(json.dumps(copy.to_dict()))) == copy
    assert copy.is_exact == (copy.distance is None)


def test_what_a_copy_is_said_to_be() -> None:
    assert TrainingCopy("a", "b.jpg").description == "the same file as b.jpg"
    assert TrainingCopy("a", "b.jpg", 3).description == "near copy of b.jpg (distance 3 of 512)"
    assert TrainingCopy("a", "b.jpg", 0, True).description == "near copy of b.jpg (distance 0 of 512, mirrored)"


@pytest.mark.parametrize("text", [None, 3, "", "no base64!", "AAAA", signature_to_text(SIGNATURES[0])[:-4]])
def test_what_is_no_signature_is_none(text: object) -> None:
    assert signature_from_text(text) is None
    assert HashedPicture.from_row({"name": "n", "sha256": "s", PERCEPTUAL_HASH: text}).signature is None


def test_files_keep_a_signature() -> None:
    whole, hash_bytes = SIGNATURES[2], BITS // 8
    restored = signature_from_text(signature_to_text(whole))
    assert restored == whole[: 4 * hash_bytes] + 8 * whole[:hash_bytes] and len(restored) == len(whole)
    assert signature_to_text(None) is None
