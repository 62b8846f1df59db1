"""Routes to verdicts on maps, to position embeddings, and to figures: /api/verdict, /positions, /figure."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from vitrine.caption.decoding import DecodedCaption, parse_layers
from vitrine.serve.captioner import ServedCaptioner
from vitrine.serve.errors import ApiError
from vitrine.serve.features import features_command, parse_feature_view, parse_patch
from vitrine.serve.figures import draw_caption, draw_confusion, draw_map, draw_patch_features, draw_positions
from vitrine.serve.routes.caption import parse_decoding
from vitrine.serve.routes.explain import ensure_map, json_response
from vitrine.serve.routes.features import ensure_fit, ensure_tokens, find_pictures
from vitrine.serve.schema import (
    PICTURE_BODY,
    CaptionParams,
    FeatureParams,
    FigureParams,
    ModelId,
    Positions,
    VerdictInfo,
    ViewParams,
)
from vitrine.serve.state import AppState, get_state
from vitrine.serve.views import check_view, parse_view, positions_info, require_checkable, verdict_info
from vitrine.serve.worker import Job

router = APIRouter(prefix="/api")

_TYPES = {"png": "image/png", "svg": "image/svg+xml"}
_FIGURE: dict[int | str, dict[str, Any]] = {
    200: {"description": "The figure", "content": {media_type: {} for media_type in _TYPES.values()}}
}


@router.post("/verdict", response_model=VerdictInfo, openapi_extra=PICTURE_BODY, tags=["classify"])
async def verdict(request: Request, params: Annotated[ViewParams, Query()]) -> Response:
    """Whether the answer depends on the patches that a map marks: the model is run on about 400 changed pictures, once
    for each map."""
    state = get_state(request)
    classifier = state.classifier(params.model)
    picture = await state.encode_picture(request, params, classifier)
    encoding = picture.encoding
    view = parse_view(params, classifier, encoding)
    require_checkable(view, classifier)
    await ensure_map(state, request, classifier, encoding, view)
    result = encoding.checks.get(view.check_key)
    if result is None:
        job = Job(lambda job: check_view(view, classifier, encoding, job), is_long=True)
        result = await state.run_job(request, job, state.settings.check_seconds)
    return json_response(
        await state.run_view(lambda: verdict_info(view, classifier, encoding, result, picture.argument))
    )


@router.get("/positions", response_model=Positions, tags=["positions"])
async def positions(request: Request, model: Annotated[ModelId, Query()] = "0") -> Response:
    """The similarity of every patch's position embedding with every other's, and whether position was learned."""
    state = get_state(request)
    classifier = state.classifier(model)
    return json_response(
        await state.run_view(lambda: positions_info(classifier, state.position_findings.get(classifier)))
    )


_OF_EVERY_FIGURE = frozenset({"model", "figure", "kind"})
_OF_FIGURE = {
    "map": frozenset(ViewParams.model_fields),
    "caption": frozenset(CaptionParams.model_fields) - {"stream"},
    "features": frozenset(FeatureParams.model_fields) | {"patch"},
    "positions": frozenset({"cell"}),
    "confusion": frozenset[str](),
}
"""Which parameters each figure has beside :data:`_OF_EVERY_FIGURE`."""


def _refuse_other_parameters(figure: str, params: FigureParams) -> None:
    """Refuse parameters that the figure would ignore.

    Raises:
        ApiError: one of them is of another figure.
    """
    for name in sorted(params.model_fields_set - _OF_EVERY_FIGURE - _OF_FIGURE[figure]):
        figures = " or ".join(other for other, names in _OF_FIGURE.items() if name in names)
        raise ApiError(422, f"{name} is a parameter of the figure {figures}; {figure} would ignore it: leave it out.")


@router.post("/figure", responses=_FIGURE, response_class=Response, openapi_extra=PICTURE_BODY, tags=["figures"])
async def figure(request: Request, params: Annotated[FigureParams, Query()]) -> Response:
    """What is shown as a figure, as the command line draws it, with where it came from in its metadata."""
    state = get_state(request)
    model = state.model(params.model)
    name = params.figure or ("caption" if isinstance(model, ServedCaptioner) else "map")
    _refuse_other_parameters(name, params)
    if name == "caption":
        content = await _caption_figure(state, request, params)
    elif name == "map":
        content = await _map_figure(state, request, params)
    elif name == "features":
        content = await _feature_figure(state, request, params)
    elif name == "confusion":
        content = await _confusion_figure(state, params)
    else:
        content = await _position_figure(state, params)
    headers = {"Content-Disposition": f'attachment; filename="vitrine-{name}.{params.kind}"'}
    return Response(content, media_type=_TYPES[params.kind], headers=headers)


async def _map_figure(state: AppState, request: Request, params: FigureParams) -> bytes:
    classifier = state.classifier(params.model)
    picture = await state.encode_picture(request, params, classifier, with_photo=True)
    encoding, upload = picture.encoding, picture.upload
    assert upload is not None
    view = parse_view(params, classifier, encoding)
    await ensure_map(state, request, classifier, encoding, view)
    return await state.run_view(lambda: draw_map(view, classifier, encoding, upload, params.kind))


async def _caption_figure(state: AppState, request: Request, params: FigureParams) -> bytes:
    captioner = state.captioner(params.model).asking(params.prompt, params.reading)
    decoding, layers = parse_decoding(params), parse_layers(params.layers)
    captioner.settings(decoding, layers)  # refuses layers where there are none, before the picture is read
    picture = await state.encode_picture(request, params, captioner, with_photo=True)
    encoding, upload = picture.encoding, picture.upload
    assert upload is not None

    def read(job: Job) -> DecodedCaption:
        return captioner.read(captioner.answer(encoding, decoding, job), encoding, layers, job)

    job = Job(read, is_long=captioner.is_slow)
    caption = await state.run_job(request, job, state.seconds_of(captioner))
    state.keep_encoding(captioner, encoding)
    return await state.run_view(
        lambda: draw_caption(captioner, encoding, caption, upload, decoding=decoding, layers=layers, kind=params.kind)
    )


async def _feature_figure(state: AppState, request: Request, params: FigureParams) -> bytes:
    classifier = state.classifier(params.model)
    view = parse_feature_view(params, classifier)
    patch = None if params.patch is None else parse_patch(params.patch, classifier)
    group = await find_pictures(state, request, params, classifier, with_photo=True)
    batches = await ensure_tokens(state, request, classifier, group.encodings, view.layer)
    joint = await ensure_fit(state, classifier, view, group.encodings, batches)
    upload, command = group.upload, features_command(view, classifier, group.argument, patch)
    assert upload is not None
    return await state.run_view(
        lambda: draw_patch_features(
            classifier,
            view,
            joint,
            group.encodings[0],
            batches[0],
            upload,
            patch=patch,
            command=command,
            kind=params.kind,
        )
    )


async def _confusion_figure(state: AppState, params: FigureParams) -> bytes:
    classifier = state.classifier(params.model)
    validation = classifier.gallery.validation
    if validation is None:
        raise ApiError(404, "This model has no recorded predictions: it is no finished run of a classifier.", "unknown")
    return await state.run_view(lambda: draw_confusion(classifier, validation, params.kind))


async def _position_figure(state: AppState, params: FigureParams) -> bytes:
    classifier = state.classifier(params.model)
    cell = None
    if params.cell is not None:
        row, _, column = params.cell.partition(",")
        cell = (int(row), int(column))
    return await state.run_view(
        lambda: draw_positions(classifier, state.position_findings.get(classifier), cell, params.kind)
    )
