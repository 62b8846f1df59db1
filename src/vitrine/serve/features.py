"""Patch features of several pictures, fitted jointly: components as colours, regions, and the similarity of one patch.

Axes: N patches of all pictures, R grid rows, C grid columns, D channels.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from vitrine.attribution.attention import layer_number
from vitrine.attribution.maps import patch_on_grid
from vitrine.features.figures import REGION_COLOURS, FeaturePicture, FeatureWords, Patch
from vitrine.features.fit import FeatureFit, fit_features, region_labels
from vitrine.features.patch_tokens import (
    TokenBatch,
    TokensInMemory,
    compute_tokens,
    describe_tokens,
    require_whole_patches,
)
from vitrine.features.principal_components import to_colours
from vitrine.features.similarity import common_lowest_colour, cosine_similarity
from vitrine.io.limits import limit
from vitrine.results import count_of
from vitrine.serve.classifier import ServedClassifier
from vitrine.serve.errors import ApiError
from vitrine.serve.model import Encoding, output_folder
from vitrine.serve.schema import Array, FeatureParams, FeaturePictureInfo, FeaturesInfo, FigureParams, Similarities
from vitrine.serve.worker import Job

MAX_FEATURE_PICTURES = limit("MAX_FEATURE_PICTURES", 24)
"""Pictures whose patch features the explorer fits jointly; one more is refused."""

_MAX_LAYERS = 4  # layers whose tokens are kept of one picture, the newest


@dataclass(frozen=True, eq=False)
class FeatureEncoding(Encoding):
    """One picture with the patch tokens of the layers that were asked for.

    Attributes:
        input_CHW: uint8 pixels that the model sees.
        tokens: of this picture alone, by layer from 0; the newest few.
    """

    input_CHW: torch.Tensor
    tokens: dict[int, TokenBatch] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of pixels and tokens."""
        return self.input_CHW.nbytes + sum(batch.size for batch in list(self.tokens.values()))


@dataclass(frozen=True)
class FeatureView:
    """What is fitted to the pictures.

    Attributes:
        layer: from 0.
        foreground: whether components are fitted to the foreground alone.
        regions: of k-means; 0 for none.
    """

    layer: int
    foreground: bool
    regions: int


@dataclass(frozen=True, eq=False)
class JointFit:
    """What was fitted to several pictures, and where the colours of similarities begin for all patches of them."""

    fit: FeatureFit
    lowest: float

    @property
    def nbytes(self) -> int:
        """Bytes, about."""
        centres = 0 if self.fit.centres_KD is None else self.fit.centres_KD.nbytes
        return centres + 3 * self.fit.components.components_KD.nbytes


def parse_feature_view(params: FeatureParams | FigureParams, classifier: ServedClassifier) -> FeatureView:
    """The view that request parameters describe, checked against the model.

    Raises:
        ApiError: so many regions cannot be drawn.
        ModelError: there is no such layer, or the input is no whole number of patches.
    """
    if params.regions == 1:
        raise ApiError(422, f"1 region cannot be drawn: expected 2 to {len(REGION_COLOURS)}, or 0 for none.", "value")
    require_whole_patches(classifier.model)
    return FeatureView(layer_number(params.layer, classifier.layout.blocks), params.foreground, params.regions)


def compute_missing_tokens(
    classifier: ServedClassifier, encodings: Sequence[FeatureEncoding], layer: int, max_batch: int, job: Job
) -> None:
    """Run the model on the pictures whose tokens of a layer are not kept: in the worker's thread only.

    Raises:
        JobCancelled: the job was cancelled.
    """
    missing = [encoding for encoding in encodings if layer not in encoding.tokens]
    for start in range(0, len(missing), max_batch):
        chunk = missing[start : start + max_batch]
        with classifier.stop_when_cancelled(job):
            batch = compute_tokens(classifier.model, layer, torch.stack([each.input_CHW for each in chunk]))
        for index, encoding in enumerate(chunk):
            encoding.tokens[layer] = replace(
                batch,
                tokens_BRCD=batch.tokens_BRCD[index : index + 1].copy(),
                colours_BRC3=batch.colours_BRC3[index : index + 1].copy(),
                outliers_BRC=batch.outliers_BRC[index : index + 1].copy(),
            )
            for old in list(encoding.tokens)[:-_MAX_LAYERS]:
                encoding.tokens.pop(old, None)


def fit_jointly(view: FeatureView, classifier: ServedClassifier, batches: Sequence[TokenBatch]) -> JointFit:
    """Fit components, and what else the view has, to the tokens of pictures, in the order in which they are given.

    Raises:
        DataError: all patches are alike.
    """
    tokens = TokensInMemory(tuple(batches), view.layer, classifier.layout)
    fit = fit_features(tokens, foreground=view.foreground, regions=view.regions)
    usual_ND = np.concatenate([batch.tokens_BRCD[~batch.outliers_BRC] for batch in batches])
    return JointFit(fit, common_lowest_colour(usual_ND))


def features_info(
    view: FeatureView,
    classifier: ServedClassifier,
    encodings: Sequence[FeatureEncoding],
    batches: Sequence[TokenBatch],
    joint: JointFit,
    *,
    references: Sequence[str],
    command: str | None,
) -> FeaturesInfo:
    """The answer to ``/api/features``: what each patch's colour is, in a byte a channel.

    Args:
        view: what was fitted.
        classifier: the model.
        encodings: the pictures.
        batches: the tokens of each.
        joint: the fit.
        references: what the request calls them.
        command: the command line that draws the first one, where one can.
    """
    layout, whole = classifier.layout, joint.fit.components
    return FeaturesInfo(
        picture=encodings[0].sha256,
        size=encodings[0].size,
        grid=[layout.rows, layout.columns],
        layer=view.layer,
        described=describe_tokens(classifier.module, view.layer, layout.blocks),
        variance_shares=[float(share) for share in whole.variance_share_K],
        lowest=joint.lowest,
        region_colours=list(REGION_COLOURS[: view.regions]),
        pictures=[_picture_info(*each, joint.fit) for each in zip(references, encodings, batches, strict=True)],
        command=command,
    )


def _picture_info(reference: str, encoding: FeatureEncoding, batch: TokenBatch, fit: FeatureFit) -> FeaturePictureInfo:
    tokens_RCD = batch.tokens_BRCD[0]
    regions_RC = region_labels(fit, tokens_RCD)
    foreground_RC = None if fit.foreground is None else fit.foreground.mask(tokens_RCD)
    return FeaturePictureInfo(
        reference=reference,
        picture=encoding.sha256,
        size=encoding.size,
        box=encoding.box,
        colours=Array.of(np.rint(255 * _colours(fit, tokens_RCD)), "uint8"),
        regions=None if regions_RC is None else Array.of(regions_RC, "uint8"),
        foreground=None if foreground_RC is None else Array.of(foreground_RC, "uint8"),
        outliers=[[int(row), int(column)] for row, column in np.argwhere(batch.outliers_BRC[0])],
    )


def _colours(fit: FeatureFit, tokens_RCD: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return to_colours(fit.components.project(tokens_RCD), fit.low_K, fit.high_K)


def parse_patch(patch: str, classifier: ServedClassifier) -> Patch:
    """A patch (row, column) from 0 of text such as ``3,5``.

    Raises:
        ModelError: it lies outside of the grid.
    """
    row, _, column = patch.partition(",")
    return patch_on_grid((int(row), int(column)), classifier.layout.rows, classifier.layout.columns)


def similarities(
    patch: Patch, encodings: Sequence[FeatureEncoding], batches: Sequence[TokenBatch], layer: int
) -> Similarities:
    """The answer to ``/api/similarity``: how alike all patches are to one of the first picture."""
    query_D = batches[0].tokens_BRCD[0][patch]
    maps = [cosine_similarity(batch.tokens_BRCD[0], query_D) for batch in batches]
    return Similarities(
        picture=encodings[0].sha256,
        patch=list(patch),
        layer=layer,
        maps=[Array.of(map_RC, "float16") for map_RC in maps],
    )


def features_command(
    view: FeatureView, classifier: ServedClassifier, argument: str | None, patch: Patch | None = None
) -> str | None:
    """The command line that draws the features of one picture that was fitted alone; None where no command can."""
    if argument is None:
        return None
    flags = ["--layer", str(view.layer)] if view.layer != classifier.layout.blocks - 1 else []
    flags += ["--foreground"] if view.foreground else []
    flags += ["--regions", str(view.regions)] if view.regions else []
    flags += ["--query", "{},{}".format(*patch)] if patch else []
    flags += ["--arch", classifier.architecture] if classifier.architecture else []
    flags += ["--precision", classifier.precision]
    out = output_folder("features", classifier.reference, flags)
    return shlex.join(["vitrine", "features", classifier.reference, argument, "-o", out, *flags])


def feature_picture(
    encoding: FeatureEncoding, batch: TokenBatch, fit: FeatureFit, photo: Image.Image, name: str, patch: Patch | None
) -> FeaturePicture:
    """One picture as the figure of ``vitrine features`` takes it."""
    tokens_RCD = batch.tokens_BRCD[0]
    return FeaturePicture(
        photo_HWC=np.asarray(photo),
        placement=encoding.placement,
        name=name,
        colours_RC3=_colours(fit, tokens_RCD),
        outliers_RC=batch.outliers_BRC[0],
        foreground_RC=None if fit.foreground is None else fit.foreground.mask(tokens_RCD),
        regions_RC=region_labels(fit, tokens_RCD),
        similarity_RC=None if patch is None else cosine_similarity(tokens_RCD, tokens_RCD[patch]),
        query=patch,
    )


def feature_words(
    classifier: ServedClassifier, view: FeatureView, joint: JointFit, name: str, patch: Patch | None
) -> FeatureWords:
    """What that figure says; its similarities are on the scale that the explorer has for all patches."""
    described = describe_tokens(classifier.module, view.layer, classifier.layout.blocks)
    of = count_of(joint.fit.pictures, "picture")
    detail = f"patch tokens of {described} · {classifier.reference} · components of {of}"
    shares = tuple(float(share) for share in joint.fit.components.variance_share_K)
    query = "" if patch is None else f"row {patch[0]}, column {patch[1]} of {name}"
    return FeatureWords(detail, shares, query, joint.lowest)
