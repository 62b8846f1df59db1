"""Routes to patch features of several pictures: /api/features, /api/similarity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, TypeVar

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from vitrine.attribution.attention import layer_number
from vitrine.attribution.placement import Placement
from vitrine.features.patch_tokens import TokenBatch, require_whole_patches
from vitrine.serve.classifier import ClassifierEncoding, ServedClassifier
from vitrine.serve.errors import ApiError, gone_error
from vitrine.serve.features import (
    MAX_FEATURE_PICTURES,
    FeatureEncoding,
    FeatureView,
    JointFit,
    compute_missing_tokens,
    features_command,
    features_info,
    fit_jointly,
    parse_feature_view,
    parse_patch,
    similarities,
)
from vitrine.serve.routes.explain import json_response
from vitrine.serve.schema import (
    PICTURE_BODY,
    FeatureParams,
    FeaturesInfo,
    FigureParams,
    Similarities,
    SimilarityParams,
)
from vitrine.serve.state import AppState, get_state, require_one_picture
from vitrine.serve.uploads import Upload
from vitrine.serve.worker import Job

router = APIRouter(prefix="/api", tags=["features"])

P = TypeVar("P", FeatureParams, SimilarityParams, FigureParams)


@dataclass(frozen=True, eq=False)
class PictureGroup:
    """The pictures of a request, the one that is asked about first.

    Attributes:
        encodings: of the pictures.
        references: their names in the request; "" for the first.
        upload: the first picture; None if it was named by its sha256.
        name: of the first picture.
    """

    encodings: tuple[FeatureEncoding, ...]
    references: tuple[str, ...]
    upload: Upload | None
    name: str

    @property
    def argument(self) -> str | None:
        """The picture as a command line takes it, if it is alone: no command takes pictures from several places."""
        if len(self.encodings) > 1:
            return None
        return self.name if self.upload is None else self.upload.argument


@router.post("/features", response_model=FeaturesInfo, openapi_extra=PICTURE_BODY)
async def features(request: Request, params: Annotated[FeatureParams, Query()]) -> Response:
    """The patch tokens of pictures as colours and regions, fitted jointly to all of them."""
    state = get_state(request)
    classifier = state.classifier(params.model)
    view = parse_feature_view(params, classifier)
    group = await find_pictures(state, request, params, classifier)
    batches = await ensure_tokens(state, request, classifier, group.encodings, view.layer)
    joint = await ensure_fit(state, classifier, view, group.encodings, batches)
    command = features_command(view, classifier, group.argument)
    return json_response(
        await state.run_view(
            lambda: features_info(
                view, classifier, group.encodings, batches, joint, references=group.references, command=command
            )
        )
    )


@router.post("/similarity", response_model=Similarities, openapi_extra=PICTURE_BODY)
async def similarity(request: Request, params: Annotated[SimilarityParams, Query()]) -> Response:
    """How alike every patch of the pictures is to one patch of the first: the cosine of their tokens."""
    state = get_state(request)
    classifier = state.classifier(params.model)
    require_whole_patches(classifier.model)
    layer, patch = layer_number(params.layer, classifier.layout.blocks), parse_patch(params.patch, classifier)
    group = await find_pictures(state, request, params, classifier)
    batches = await ensure_tokens(state, request, classifier, group.encodings, layer)
    return json_response(await state.run_view(lambda: similarities(patch, group.encodings, batches, layer)))


async def find_pictures(
    state: AppState, request: Request, params: P, classifier: ServedClassifier, *, with_photo: bool = False
) -> PictureGroup:
    """The pictures of a request, each once.

    Raises:
        ApiError: there are too many, one cannot be used, or is not held any more.
    """
    require_one_picture(request, params)
    others = list(dict.fromkeys(params.others.split(","))) if params.others else []
    if len(others) >= MAX_FEATURE_PICTURES:
        raise ApiError(
            422, f"{len(others) + 1} pictures are too many at once: {MAX_FEATURE_PICTURES} is the most.", "many"
        )
    upload, name = None, params.name or "picture.jpg"
    if params.picture is not None and not with_photo:
        first = _find_encoding(state, classifier, params.picture)
    elif params.picture is not None:
        raise gone_error()
    else:
        upload = await state.receive_picture(request, params, classifier, keep_bytes=with_photo)
        first, name = _of_upload(state, classifier, upload), upload.name
    group, references = {first.sha256: first}, {first.sha256: ""}
    for reference in others:
        is_held = len(reference) == 64 and "/" not in reference
        each = (
            _find_encoding(state, classifier, reference)
            if is_held
            else _of_upload(state, classifier, await state.read_sample(reference, params.model, classifier))
        )
        group.setdefault(each.sha256, each)
        references.setdefault(each.sha256, reference)
    return PictureGroup(tuple(group.values()), tuple(references.values()), upload, name)


def _key(classifier: ServedClassifier, sha256: str) -> tuple[str, str, str]:
    return "features", classifier.id, sha256


def _of_upload(state: AppState, classifier: ServedClassifier, upload: Upload) -> FeatureEncoding:
    """The encoding of a picture that was decoded just now; tokens that are kept of it stay."""
    encoding = state.encodings.get(_key(classifier, upload.sha256))
    if isinstance(encoding, FeatureEncoding):
        return encoding
    geometry, layout = classifier.transform.geometry(*upload.size), classifier.layout
    encoding = FeatureEncoding(upload.sha256, Placement(geometry, layout.rows, layout.columns), upload.model_input)
    state.encodings.put(_key(classifier, upload.sha256), encoding)
    return encoding


def _find_encoding(state: AppState, classifier: ServedClassifier, sha256: str) -> FeatureEncoding:
    """The encoding of a picture that was sent before, for its features or for its maps.

    Raises:
        ApiError: it is not held any more.
    """
    encoding = state.encodings.get(_key(classifier, sha256))
    if isinstance(encoding, FeatureEncoding):
        return encoding
    of_maps = state.encodings.get((classifier.encoding_key, sha256))
    if not isinstance(of_maps, ClassifierEncoding):
        raise gone_error()
    encoding = FeatureEncoding(sha256, of_maps.placement, of_maps.input_CHW)
    state.encodings.put(_key(classifier, sha256), encoding)
    return encoding


async def ensure_tokens(
    state: AppState,
    request: Request,
    classifier: ServedClassifier,
    encodings: Sequence[FeatureEncoding],
    layer: int,
) -> list[TokenBatch]:
    """The tokens of a layer of all pictures, of each alone; the model runs on those that have none yet."""

    def compute(job: Job) -> list[TokenBatch]:
        compute_missing_tokens(classifier, encodings, layer, state.settings.max_batch, job)
        for encoding in encodings:
            state.encodings.put(_key(classifier, encoding.sha256), encoding)
        return [encoding.tokens[layer] for encoding in encodings]

    batches = [encoding.tokens.get(layer) for encoding in encodings]
    if all(batch is not None for batch in batches):
        return [batch for batch in batches if batch is not None]
    result: list[TokenBatch] = await state.run_job(request, Job(compute, is_long=len(encodings) > 1))
    return result


async def ensure_fit(
    state: AppState,
    classifier: ServedClassifier,
    view: FeatureView,
    encodings: Sequence[FeatureEncoding],
    batches: Sequence[TokenBatch],
) -> JointFit:
    """What is fitted to the pictures, in the order of their sha256: the same whichever of them is asked about."""
    order = sorted(range(len(encodings)), key=lambda index: encodings[index].sha256)
    key = (classifier.id, view, tuple(encodings[index].sha256 for index in order))
    joint = state.joint_fits.get(key)
    if joint is None:
        joint = await state.run_view(lambda: fit_jointly(view, classifier, [batches[index] for index in order]))
        state.joint_fits.put(key, joint)
    return joint
