"""Routes to what is told of a map or a model beside the map itself: verdicts, positions, figures."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from vitrine.serve.captioner import EncodedCaption, ServedCaptioner
from vitrine.serve.classifier import EncodedPicture, ServedClassifier
from vitrine.serve.errors import Refusal
from vitrine.serve.figures import draw_caption, draw_confusion, draw_map, draw_positions
from vitrine.serve.routes.caption import prefix_ids
from vitrine.serve.routes.explain import made, sent
from vitrine.serve.schema import PICTURE_BODY, FigureQuery, ModelId, Positions, VerdictInfo, ViewQuery
from vitrine.serve.state import Explorer
from vitrine.serve.views import check, checked_key, positions_info, require_checkable, verdict_info, view_of
from vitrine.serve.worker import Job

router = APIRouter(prefix="/api")

_TYPES = {"png": "image/png", "svg": "image/svg+xml"}
_FIGURE: dict[int | str, dict[str, Any]] = {
    200: {"description": "The figure", "content": {kind: {} for kind in _TYPES.values()}}
}


@router.post("/verdict", response_model=VerdictInfo, openapi_extra=PICTURE_BODY, tags=["classify"])
async def verdict(request: Request, asked: Annotated[ViewQuery, Query()]) -> Response:
    """How far a map can be believed: the model is run about a hundred times, once for each map."""
    explorer: Explorer = request.app.state.explorer
    served = explorer.classifier(asked.model)
    encoded, name = await explorer.classified(request, asked)
    view = view_of(asked, served, encoded)
    require_checkable(view, served)
    await made(explorer, request, served, encoded, view)
    checked = encoded.checked.get(checked_key(view))
    if checked is None:
        job = Job(lambda job: check(view, served, encoded, job), long=True)
        checked = await explorer.run(request, job, explorer.settings.check_seconds)
    return sent(await explorer.viewing(lambda: verdict_info(view, served, encoded, checked, name)))


@router.get("/positions", response_model=Positions, tags=["positions"])
async def positions(request: Request, model: Annotated[ModelId, Query()] = "0") -> Response:
    """The similarity of every patch's position embedding with every other's, and whether position was learned."""
    explorer: Explorer = request.app.state.explorer
    served = explorer.classifier(model)
    return sent(await explorer.viewing(lambda: positions_info(served, explorer.places.of(served))))


@router.post("/figure", responses=_FIGURE, response_class=Response, openapi_extra=PICTURE_BODY, tags=["figures"])
async def figure(request: Request, asked: Annotated[FigureQuery, Query()]) -> Response:
    """What is shown as a figure, as the command line draws it, with where it came from in its metadata."""
    explorer: Explorer = request.app.state.explorer
    served = explorer.model(asked.model).served
    wanted = asked.figure or ("caption" if isinstance(served, ServedCaptioner) else "map")
    if wanted == "caption":
        drawn = await _caption_figure(explorer, request, asked)
    elif wanted == "map":
        drawn = await _map_figure(explorer, request, asked)
    elif wanted == "confusion":
        drawn = await _confusion_figure(explorer, asked)
    else:
        drawn = await _position_figure(explorer, asked, explorer.classifier(asked.model))
    headers = {"Content-Disposition": f'attachment; filename="vitrine-{wanted}.{asked.kind}"'}
    return Response(drawn, media_type=_TYPES[asked.kind], headers=headers)


async def _map_figure(explorer: Explorer, request: Request, asked: FigureQuery) -> bytes:
    served = explorer.classifier(asked.model)
    encoded, _, upload = await explorer.encoded(request, asked, served, with_photo=True)
    assert isinstance(encoded, EncodedPicture) and upload is not None
    view = view_of(asked, served, encoded)
    await made(explorer, request, served, encoded, view)
    return await explorer.viewing(lambda: draw_map(view, served, encoded, upload, asked.kind))


async def _caption_figure(explorer: Explorer, request: Request, asked: FigureQuery) -> bytes:
    served, prefix = explorer.captioner(asked.model), prefix_ids(asked.prefix)
    if asked.beams > 1 and prefix:
        raise Refusal(422, "A caption is continued by the likeliest words: leave beams out.")
    encoded, _, upload = await explorer.encoded(request, asked, served, with_photo=True)
    assert isinstance(encoded, EncodedCaption) and upload is not None
    caption = await explorer.run(request, Job(lambda job: served.decoded(encoded, asked.beams, prefix, job)))
    return await explorer.viewing(
        lambda: draw_caption(
            served, encoded, caption, upload, beams=asked.beams, continued=bool(prefix), kind=asked.kind
        )
    )


async def _confusion_figure(explorer: Explorer, asked: FigureQuery) -> bytes:
    served, recorded = explorer.classifier(asked.model), explorer.model(asked.model).gallery.recorded
    if recorded is None:
        raise Refusal(404, "This model has no recorded predictions: it is no finished run of a classifier.", "unknown")
    return await explorer.viewing(lambda: draw_confusion(served, recorded, asked.kind))


async def _position_figure(explorer: Explorer, asked: FigureQuery, served: ServedClassifier) -> bytes:
    cell = None
    if asked.cell is not None:
        row, _, column = asked.cell.partition(",")
        cell = (int(row), int(column))
    return await explorer.viewing(lambda: draw_positions(served, explorer.places.of(served), cell, asked.kind))
