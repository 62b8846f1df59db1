"""Routes to what is told of a map or a model beside the map itself: verdicts, positions, figures."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from vitrine.serve.captioner import EncodedCaption, ServedCaptioner
from vitrine.serve.classifier import EncodedPicture, ServedClassifier
from vitrine.serve.errors import ApiError
from vitrine.serve.figures import draw_caption, draw_confusion, draw_map, draw_positions
from vitrine.serve.routes.caption import prefix_ids
from vitrine.serve.routes.explain import ensure_map, json_response
from vitrine.serve.schema import PICTURE_BODY, FigureParams, ModelId, Positions, VerdictInfo, ViewParams
from vitrine.serve.state import AppState
from vitrine.serve.views import check, checked_key, positions_info, require_checkable, verdict_info, view_of
from vitrine.serve.worker import Job

router = APIRouter(prefix="/api")

_TYPES = {"png": "image/png", "svg": "image/svg+xml"}
_FIGURE: dict[int | str, dict[str, Any]] = {
    200: {"description": "The figure", "content": {kind: {} for kind in _TYPES.values()}}
}


@router.post("/verdict", response_model=VerdictInfo, openapi_extra=PICTURE_BODY, tags=["classify"])
async def verdict(request: Request, params: Annotated[ViewParams, Query()]) -> Response:
    """How far a map can be believed: the model is run about a hundred times, once for each map."""
    state: AppState = request.app.state.app_state
    served = state.classifier(params.model)
    encoded, name = await state.classified(request, params)
    view = view_of(params, served, encoded)
    require_checkable(view, served)
    await ensure_map(state, request, served, encoded, view)
    checked = encoded.checked.get(checked_key(view))
    if checked is None:
        job = Job(lambda job: check(view, served, encoded, job), is_long=True)
        checked = await state.run(request, job, state.settings.check_seconds)
    return json_response(await state.viewing(lambda: verdict_info(view, served, encoded, checked, name)))


@router.get("/positions", response_model=Positions, tags=["positions"])
async def positions(request: Request, model: Annotated[ModelId, Query()] = "0") -> Response:
    """The similarity of every patch's position embedding with every other's, and whether position was learned."""
    state: AppState = request.app.state.app_state
    served = state.classifier(model)
    return json_response(await state.viewing(lambda: positions_info(served, state.position_findings.of(served))))


@router.post("/figure", responses=_FIGURE, response_class=Response, openapi_extra=PICTURE_BODY, tags=["figures"])
async def figure(request: Request, params: Annotated[FigureParams, Query()]) -> Response:
    """What is shown as a figure, as the command line draws it, with where it came from in its metadata."""
    state: AppState = request.app.state.app_state
    served = state.model(params.model).served
    wanted = params.figure or ("caption" if isinstance(served, ServedCaptioner) else "map")
    if wanted == "caption":
        drawn = await _caption_figure(state, request, params)
    elif wanted == "map":
        drawn = await _map_figure(state, request, params)
    elif wanted == "confusion":
        drawn = await _confusion_figure(state, params)
    else:
        drawn = await _position_figure(state, params, state.classifier(params.model))
    headers = {"Content-Disposition": f'attachment; filename="vitrine-{wanted}.{params.kind}"'}
    return Response(drawn, media_type=_TYPES[params.kind], headers=headers)


async def _map_figure(state: AppState, request: Request, params: FigureParams) -> bytes:
    served = state.classifier(params.model)
    encoded, _, upload = await state.encoded(request, params, served, with_photo=True)
    assert isinstance(encoded, EncodedPicture) and upload is not None
    view = view_of(params, served, encoded)
    await ensure_map(state, request, served, encoded, view)
    return await state.viewing(lambda: draw_map(view, served, encoded, upload, params.kind))


async def _caption_figure(state: AppState, request: Request, params: FigureParams) -> bytes:
    served, prefix = state.captioner(params.model), prefix_ids(params.prefix)
    if params.beams > 1 and prefix:
        raise ApiError(422, "A caption is continued by the likeliest words: leave beams out.")
    encoded, _, upload = await state.encoded(request, params, served, with_photo=True)
    assert isinstance(encoded, EncodedCaption) and upload is not None
    caption = await state.run(request, Job(lambda job: served.decoded(encoded, params.beams, prefix, job)))
    return await state.viewing(
        lambda: draw_caption(
            served, encoded, caption, upload, beams=params.beams, continued=bool(prefix), kind=params.kind
        )
    )


async def _confusion_figure(state: AppState, params: FigureParams) -> bytes:
    served, recorded = state.classifier(params.model), state.model(params.model).gallery.recorded
    if recorded is None:
        raise ApiError(404, "This model has no recorded predictions: it is no finished run of a classifier.", "unknown")
    return await state.viewing(lambda: draw_confusion(served, recorded, params.kind))


async def _position_figure(state: AppState, params: FigureParams, served: ServedClassifier) -> bytes:
    cell = None
    if params.cell is not None:
        row, _, column = params.cell.partition(",")
        cell = (int(row), int(column))
    return await state.viewing(lambda: draw_positions(served, state.position_findings.of(served), cell, params.kind))
