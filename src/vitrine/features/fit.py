"""What is fitted jointly to the patch tokens of a call: components, foreground and regions; kept in a file.

Axes: N patches, R grid rows, C grid columns, D channels, K components or regions.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from vitrine.errors import DataError, error_summary
from vitrine.features.patch_tokens import PatchTokens, TokenBatch, TokensInMemory
from vitrine.features.principal_components import (
    PrincipalComponents,
    border_mask,
    colour_range,
    fit_principal_components,
    otsu_threshold,
)
from vitrine.features.regions import FITTED_PATCHES, assign, fit_centres
from vitrine.io.files import write_atomically
from vitrine.io.untrusted_files import read_file

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

Tokens = PatchTokens | TokensInMemory

_MAX_FILE_BYTES = 64 << 20


@dataclass(frozen=True, eq=False)
class Foreground:
    """The rule for which patches are foreground: those beyond a threshold on the first component of all patches.

    Attributes:
        components: fitted to foreground and background; the first one points to the foreground.
        threshold: Otsu's, on the first component.
    """

    components: PrincipalComponents
    threshold: float

    def mask(self, tokens_NRCD: Floats) -> Bools:
        """Which patches are foreground: bool (...)."""
        is_foreground: Bools = self.components.project(tokens_NRCD)[..., 0] > self.threshold
        return is_foreground


@dataclass(frozen=True, eq=False)
class FeatureFit:
    """What one call fitted, for its own pictures and for new ones.

    Attributes:
        components: three, of the foreground where there is a rule for it.
        low_K, high_K: where each one's colour begins and ends.
        foreground: None where all patches are coloured.
        centres_KD: of the regions; None where there are none.
        layer: from 0.
        pictures: how many were fitted.
    """

    components: PrincipalComponents
    low_K: Floats
    high_K: Floats
    foreground: Foreground | None
    centres_KD: Floats | None
    layer: int
    pictures: int


def fit_features(tokens: Tokens, *, foreground: bool = False, regions: int = 0, seed: int = 0) -> FeatureFit:
    """Fit components, and where asked for the foreground and regions, to all patches that are no outliers.

    Args:
        tokens: of the pictures.
        foreground: tell foreground from background by the first component, and fit the three to the foreground.
        regions: how many; 0 for none.
        seed: of the regions.

    Raises:
        DataError: none of the pictures can be read, or all their patches are alike.
    """
    pictures = sum(len(batch.tokens_BRCD) for batch in tokens)
    if not pictures:
        raise DataError("None of the pictures can be read.")
    components = _components(_usual(batch) for batch in tokens)
    rule = _foreground_rule(tokens, components) if foreground else None
    if rule is not None:
        components = _components(_usual(batch, rule) for batch in tokens)
    projections_NK = np.concatenate([components.project(_usual(batch, rule)) for batch in tokens])
    low_K, high_K = colour_range(projections_NK)
    centres_KD = fit_centres(_some(tokens, seed), regions, seed) if regions else None
    return FeatureFit(components, low_K, high_K, rule, centres_KD, tokens.layer, pictures)


def _components(batches: Iterable[Floats]) -> PrincipalComponents:
    components = fit_principal_components(batches)
    if components.total_variance <= 0:
        raise DataError("All patches of the pictures are alike: there is nothing to tell apart.")
    return components


def _usual(batch: TokenBatch, rule: Foreground | None = None) -> Floats:
    """The tokens of a batch that are no outliers and, with a rule, foreground: (N, D)."""
    tokens_ND = batch.tokens_BRCD[~batch.outliers_BRC]
    return tokens_ND if rule is None else tokens_ND[rule.mask(tokens_ND)]


def _foreground_rule(tokens: Tokens, components: PrincipalComponents) -> Foreground:
    """The side of Otsu's threshold that has the smaller share of the patches at the pictures' borders."""
    first = [components.project(batch.tokens_BRCD)[..., 0] for batch in tokens]
    usual = [~batch.outliers_BRC for batch in tokens]
    threshold = otsu_threshold(np.concatenate([values[mask] for values, mask in zip(first, usual, strict=True)]))
    is_border_RC = border_mask(tokens.layout.rows, tokens.layout.columns)
    above = np.concatenate([values > threshold for values in first])
    is_above_inside = above[:, ~is_border_RC].mean() >= above[:, is_border_RC].mean()
    sign = 1 if is_above_inside else -1
    return Foreground(components.with_signs([sign, 1, 1][: len(components.components_KD)]), sign * threshold)


def _some(tokens: Tokens, seed: int) -> Floats:
    """Patches that are no outliers, at most about as many as are fitted, the same share of each batch."""
    rng, count = np.random.default_rng(seed), tokens.pictures * tokens.layout.patches
    share = min(1.0, FITTED_PATCHES / max(1, count))
    choice = []
    for batch in tokens:
        tokens_ND = _usual(batch)
        choice.append(tokens_ND[rng.random(len(tokens_ND)) < share] if share < 1 else tokens_ND)
    return np.concatenate(choice)


def region_labels(fit: FeatureFit, tokens_RCD: Floats) -> npt.NDArray[np.int64] | None:
    """The region of each patch, from 0; None where no regions were fitted."""
    return None if fit.centres_KD is None else assign(tokens_RCD, fit.centres_KD)


def write_fit(fit: FeatureFit, path: Path, origin: dict[str, str]) -> None:
    """Write a fit as safetensors, with texts on its origin.

    Args:
        fit: what is written.
        path: ends in .safetensors.
        origin: model, weights and whatever else new pictures must have in common with those that were fitted.
    """
    tensors: dict[str, Any] = {"low": fit.low_K, "high": fit.high_K, **_tensors("components", fit.components)}
    if fit.foreground is not None:
        tensors |= _tensors("foreground", fit.foreground.components)
        tensors["foreground.threshold"] = np.array([fit.foreground.threshold])
    if fit.centres_KD is not None:
        tensors["centres"] = fit.centres_KD
    about = {"layer": str(fit.layer), "pictures": str(fit.pictures), "origin": json.dumps(origin, sort_keys=True)}
    tensors = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, save(tensors, metadata={"vitrine": "features", **about}))


def _tensors(prefix: str, components: PrincipalComponents) -> dict[str, Any]:
    return {
        f"{prefix}.mean": components.mean_D,
        f"{prefix}.directions": components.components_KD,
        f"{prefix}.variance": components.variance_K,
        f"{prefix}.total": np.array([components.total_variance, float(components.patches)]),
    }


def read_fit(path: Path, channels: int, layer: int, origin: dict[str, str]) -> FeatureFit:
    """Read what :func:`write_fit` wrote, for pictures of the same model, layer and input.

    Args:
        path: the file.
        channels: of the model's tokens.
        layer: from 0, that is read now.
        origin: of the pictures that it is applied to.

    Raises:
        DataError: it cannot be read, is no such file, or was fitted to something else.
    """
    try:
        content = read_file(path, _MAX_FILE_BYTES)
        about = _metadata(content)
        tensors = load(content)
        fit = _from_tensors(tensors, int(about["layer"]), int(about["pictures"]))
        file_origin = json.loads(about["origin"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        raise DataError(
            f"{path} cannot be used as components: {error_summary(error)}.\n"
            "Expected the components.safetensors that vitrine features wrote."
        ) from error
    if fit.components.mean_D.shape != (channels,) or file_origin != origin or fit.layer != layer:
        raise DataError(
            f"{path} was fitted to {_describe(file_origin, fit.layer)}; here it is {_describe(origin, layer)}.\n"
            "Components are of one model, layer and input size: fit them anew without --components."
        )
    return fit


def _metadata(content: bytes) -> dict[str, str]:
    """The texts in the header of a safetensors file: its length in 8 bytes, then JSON."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    about = header["__metadata__"]
    if about.get("vitrine") != "features":
        raise ValueError("it holds something else")
    return {str(name): str(value) for name, value in about.items()}


def _from_tensors(tensors: dict[str, Any], layer: int, pictures: int) -> FeatureFit:
    components = _read_components(tensors, "components")
    channels, count = components.components_KD.shape[1], len(components.components_KD)
    foreground = None
    if "foreground.threshold" in tensors:
        threshold = float(_check_tensor(tensors["foreground.threshold"], (1,))[0])
        foreground = Foreground(_read_components(tensors, "foreground"), threshold)
    centres = tensors.get("centres")
    return FeatureFit(
        components,
        _check_tensor(tensors["low"], (count,)),
        _check_tensor(tensors["high"], (count,)),
        foreground,
        None if centres is None else _check_tensor(centres, (len(centres), channels)),
        layer,
        pictures,
    )


def _read_components(tensors: dict[str, Any], prefix: str) -> PrincipalComponents:
    directions_KD = tensors[f"{prefix}.directions"]
    count, channels = directions_KD.shape
    total, patches = _check_tensor(tensors[f"{prefix}.total"], (2,))
    return PrincipalComponents(
        _check_tensor(tensors[f"{prefix}.mean"], (channels,)),
        _check_tensor(directions_KD, (count, channels)),
        _check_tensor(tensors[f"{prefix}.variance"], (count,)),
        float(total),
        int(patches),
    )


def _check_tensor(tensor: Any, shape: tuple[int, ...]) -> Any:
    if tensor.shape != shape or not np.issubdtype(tensor.dtype, np.floating) or not np.isfinite(tensor).all():
        raise ValueError(f"a tensor has shape {tensor.shape}, or numbers that are not finite; expected {shape}")
    return tensor


def _describe(origin: Any, layer: int) -> str:
    texts = origin if isinstance(origin, dict) else {}
    return f"{texts.get('model', 'unknown')}, layer {layer}, {texts.get('input', 'unknown')} pixels"
