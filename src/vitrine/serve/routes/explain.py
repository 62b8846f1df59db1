"""Routes that look at one picture: what it is, and what the model looks at."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel
from starlette.responses import Response

from vitrine.serve.classifier import EncodedPicture, ServedClassifier
from vitrine.serve.schema import (
    PICTURE_BODY,
    Explanation,
    Matrix,
    MatrixParams,
    ModelInfo,
    ModelList,
    PictureParams,
    Prediction,
    SampleInfo,
    ViewParams,
)
from vitrine.serve.state import AppState, Served, ServedModel
from vitrine.serve.views import View, explained, has_positions, predictions, view_of
from vitrine.serve.views import matrix as matrix_of
from vitrine.serve.worker import Job


def model_info(model: ServedModel) -> ModelInfo:
    """One model as the page needs it."""
    served, gallery = model.served, model.gallery
    samples = [
        SampleInfo(id=number, name=gallery.samples[number].name, label=gallery.label(number))
        for number in gallery.shown
    ]
    return ModelInfo(
        id=served.id,
        kind=served.kind,
        reference=served.reference,
        name=_short(served.reference),
        precision=served.precision,
        weights_sha256=served.weights_sha256,
        notes=[*served.notes, *gallery.notes],
        has_validation=gallery.recorded is not None and bool(gallery.recorded.said),
        samples=samples,
        **_anatomy(served),
    )


def _anatomy(served: Served) -> dict[str, Any]:
    """Classes, grid, layers and heads; a captioner's grid changes with the picture, and it has no classes."""
    if not isinstance(served, ServedClassifier):
        nothing: dict[str, Any] = {"labels": [], "input": None, "grid": None, "prefix": 0, "layers": 0, "heads": 0}
        return nothing | {"methods": [], "queries": [], "has_positions": False}
    side, layout = served.opened.spec.size, served.layout
    return {
        "labels": list(served.labels),
        "input": [side, side],
        "grid": [layout.rows, layout.columns],
        "prefix": layout.prefix,
        "layers": layout.blocks,
        "heads": served.heads,
        "methods": list(served.methods),
        "queries": list(served.queries),
        "has_positions": has_positions(served),
    }


def _short(reference: str) -> str:
    """The last part of a reference, for tabs and titles."""
    return reference.rstrip("/").rpartition("/")[2] or reference


router = APIRouter(prefix="/api")


def json_response(body: BaseModel) -> Response:
    """JSON without the second look that a framework would take at it."""
    return Response(body.model_dump_json(), media_type="application/json")


@router.get("/models", response_model=ModelList, tags=["models"])
def models(request: Request) -> Response:
    """The models that are served, with what each can be asked."""
    state: AppState = request.app.state.app_state
    listed = [model_info(model) for model in state.models.values()]
    return json_response(ModelList(models=listed, report=state.report is not None))


@router.post("/predict", response_model=Prediction, openapi_extra=PICTURE_BODY, tags=["classify"])
async def predict(request: Request, params: Annotated[PictureParams, Query()]) -> Response:
    """What a classifier calls a picture: every class with its probability."""
    state: AppState = request.app.state.app_state
    served = state.classifier(params.model)
    if params.picture is not None:
        encoded, _ = await state.classified(request, params)
        picture, size, probabilities_C = encoded.sha256, encoded.size, encoded.probabilities_C
    else:
        upload = await state.upload(request, params, served)
        picture, size = upload.sha256, list(upload.size)
        job = Job(key=("predict", served.id), item=upload.prepared, batch=served.predict)
        probabilities_C = await state.run(request, job)
    named = predictions(probabilities_C, served.labels)
    return json_response(Prediction(picture=picture, size=size, predictions=named, precision=served.precision))


@router.post("/explain", response_model=Explanation, openapi_extra=PICTURE_BODY, tags=["classify"])
async def explain(request: Request, params: Annotated[ViewParams, Query()]) -> Response:
    """One map of a picture, by a method, of a layer and head, from or towards a token."""
    state: AppState = request.app.state.app_state
    served = state.classifier(params.model)
    encoded, name = await state.classified(request, params)
    view = view_of(params, served, encoded)
    await ensure_map(state, request, served, encoded, view)
    return json_response(await state.viewing(lambda: explained(view, served, encoded, name)))


async def ensure_map(
    state: AppState, request: Request, served: ServedClassifier, encoded: EncodedPicture, view: View
) -> None:
    """Have the view's map made, where its method runs the model and it is not held yet."""
    if view.runs_model and (view.method.name, view.target) not in encoded.maps:
        job = Job(lambda job: served.class_map(encoded, view.method.name, view.target, job), is_long=True)
        await state.run(request, job)


@router.post("/matrix", response_model=Matrix, openapi_extra=PICTURE_BODY, tags=["classify"])
async def matrix(request: Request, params: Annotated[MatrixParams, Query()]) -> Response:
    """The whole attention of one layer, every token to every token."""
    state: AppState = request.app.state.app_state
    served = state.classifier(params.model)
    encoded, _ = await state.classified(request, params)
    return json_response(await state.viewing(lambda: matrix_of(served, encoded, params.layer, params.head)))
