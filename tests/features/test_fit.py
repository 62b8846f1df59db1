"""What is fitted is told from what is not, is written, and is read back for the same model only."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pytest
from safetensors.numpy import save_file

from vitrine.errors import DataError
from vitrine.features.fit import fit_features, read_fit, region_labels, write_fit
from vitrine.features.patch_tokens import PatchTokens, TokenBatch

ORIGIN = {"model": "a" * 64, "input": "32 x 32"}


class _Layout:
    rows = columns = 6
    patches = 36


class _Tokens(list[TokenBatch]):
    """Batches as PatchTokens gives them, without a model."""

    layer, layout = 1, _Layout()

    @property
    def pictures(self) -> int:
        return sum(len(batch.tokens_BRCD) for batch in self)


def tokens_of(objects: list[tuple[slice, slice]], outlier: tuple[int, int] | None = None) -> PatchTokens:
    """Pictures with an object at a place: its tokens point one way, those of the background another."""
    rng = np.random.default_rng(0)
    tokens_BRCD = rng.normal(0, 0.1, (len(objects), 6, 6, 8)).astype(np.float32)
    outliers_BRC = np.zeros((len(objects), 6, 6), dtype=bool)
    tokens_BRCD[..., 1] += 5
    for index, place in enumerate(objects):
        tokens_BRCD[index][place] += np.array([4, -5, 0, 0, 0, 0, 0, 0], dtype=np.float32)
        tokens_BRCD[index][place] += rng.normal(0, 1, (1, 1, 8)) * np.array([0, 0, 1, 1, 0, 0, 0, 0])
    if outlier is not None:
        tokens_BRCD[0][outlier] = 1000
        outliers_BRC[0][outlier] = True
    colours = np.zeros((len(objects), 6, 6, 3), np.float32)
    batch = TokenBatch(tuple(range(len(objects))), tokens_BRCD, colours, outliers_BRC)  # type: ignore[arg-type]
    return cast("PatchTokens", _Tokens([batch]))


MIDDLE, CORNER = (slice(2, 4), slice(2, 5)), (slice(1, 5), slice(1, 3))


def test_the_foreground_is_what_is_not_at_the_border() -> None:
    tokens = tokens_of([MIDDLE, CORNER, MIDDLE, CORNER])
    fit = fit_features(tokens, foreground=True, regions=2)
    assert fit.foreground is not None
    (batch,) = tokens
    for index, place in enumerate((MIDDLE, CORNER)):
        expected = np.zeros((6, 6), dtype=bool)
        expected[place] = True
        assert np.array_equal(fit.foreground.mask(batch.tokens_BRCD[index]), expected)
        labels = region_labels(fit, batch.tokens_BRCD[index])
        assert labels is not None
        assert np.array_equal(labels == 1, expected), "the background is the larger region, and comes first"
    assert fit.components.patches == 2 * 6 + 2 * 8


def test_outliers_do_not_set_the_directions() -> None:
    fit = fit_features(tokens_of([MIDDLE, CORNER], outlier=(0, 0)))
    without = fit_features(tokens_of([MIDDLE, CORNER]))
    assert abs(float(fit.components.components_KD[0] @ without.components.components_KD[0])) > 0.99
    assert fit.components.patches == 71


def test_pictures_without_a_patch_that_differs_are_refused() -> None:
    tokens = tokens_of([])
    with pytest.raises(DataError, match="None of the pictures can be read"):
        fit_features(tokens)
    alike = tokens_of([MIDDLE])
    alike[0].tokens_BRCD[:] = 1  # type: ignore[index]
    with pytest.raises(DataError, match="alike"):
        fit_features(alike)


@pytest.mark.parametrize(("foreground", "regions"), [(False, 0), (True, 0), (False, 3), (True, 2)])
def test_what_was_written_is_read_back(foreground: bool, regions: int, tmp_path: Path) -> None:
    tokens = tokens_of([MIDDLE, CORNER])
    fit = fit_features(tokens, foreground=foreground, regions=regions)
    write_fit(fit, tmp_path / "components.safetensors", ORIGIN)
    again = read_fit(tmp_path / "components.safetensors", 8, 1, ORIGIN)
    (batch,) = tokens
    assert np.array_equal(again.components.project(batch.tokens_BRCD), fit.components.project(batch.tokens_BRCD))
    assert (again.low_K == fit.low_K).all()
    assert (again.high_K == fit.high_K).all()
    assert again.components.variance_share_K.tolist() == fit.components.variance_share_K.tolist()
    assert (again.layer, again.pictures) == (1, 2)
    assert (again.foreground is None) == (not foreground)
    if fit.foreground is not None and again.foreground is not None:
        assert np.array_equal(again.foreground.mask(batch.tokens_BRCD), fit.foreground.mask(batch.tokens_BRCD))
    labels, others = region_labels(again, batch.tokens_BRCD), region_labels(fit, batch.tokens_BRCD)
    assert (labels is None and others is None) or np.array_equal(labels, others)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("channels", "layer", "origin"),
    [(9, 1, ORIGIN), (8, 0, ORIGIN), (8, 1, ORIGIN | {"model": "b" * 64}), (8, 1, ORIGIN | {"input": "64 x 64"})],
)
def test_components_of_something_else_are_refused(
    channels: int, layer: int, origin: dict[str, str], tmp_path: Path
) -> None:
    write_fit(fit_features(tokens_of([MIDDLE])), tmp_path / "c.safetensors", ORIGIN)
    with pytest.raises(DataError, match="one model, layer and input size"):
        read_fit(tmp_path / "c.safetensors", channels, layer, origin)


@pytest.mark.parametrize("damage", ["empty", "text", "weights", "nan", "shape", "folder", "missing", "number", "deep"])
def test_any_other_file_is_a_sentence(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    write_fit(fit_features(tokens_of([MIDDLE, CORNER]), regions=2), path, ORIGIN)
    content = path.read_bytes()
    match damage:
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_bytes(b"components" * 50)
        case "weights":
            save_file({"weight": np.zeros((2, 2), np.float32)}, path)
        case "nan":
            path.write_bytes(content[:-4] + b"\xff\xff\xff\xff")
        case "shape":
            path.write_bytes(content.replace(b'"shape":[3,8]', b'"shape":[8,3]'))
        case "folder":
            path.unlink()
            path.mkdir()
        case "missing":
            path.unlink()
        case "number":
            path.write_bytes(content.replace(b'"layer":"1"', b'"layer":"x"'))
        case "deep":
            path.write_bytes((200_000).to_bytes(8, "little") + b"[" * 200_000)
    with pytest.raises(DataError, match="cannot be used as components"):
        read_fit(path, 8, 1, ORIGIN)
