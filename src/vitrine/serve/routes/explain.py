"""Routes to models and to what they see in one picture: /api/models, /predict, /explain, /matrix."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel
from starlette.responses import Response

from vitrine.attribution.method_options import METHOD_OPTIONS
from vitrine.attribution.registry import ENTRIES
from vitrine.report.glossary import TERMS
from vitrine.serve.captioner import ServedCaptioner
from vitrine.serve.classifier import ClassifierEncoding, ServedClassifier
from vitrine.serve.features import MAX_FEATURE_PICTURES
from vitrine.serve.model import ServedModel
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
from vitrine.serve.state import AppState, get_state
from vitrine.serve.views import View, attention_matrix, explain_view, has_positions, parse_view, rank_classes
from vitrine.serve.worker import Job

router = APIRouter(prefix="/api")


def model_info(model: ServedModel[Any]) -> ModelInfo:
    """One model as the page needs it."""
    gallery = model.gallery
    samples = [
        SampleInfo(id=picture_id, name=gallery.samples[picture_id].name, label=gallery.label(picture_id))
        for picture_id in gallery.first_ids
    ]
    return ModelInfo(
        id=model.id,
        kind=model.kind,
        reference=model.reference,
        name=_short_name(model.reference),
        precision=model.precision,
        weights_sha256=model.weights_sha256,
        notes=[*model.notes, *gallery.notes],
        has_validation=gallery.validation is not None and bool(gallery.validation.predictions),
        samples=samples,
        **_anatomy(model),
    )


def _anatomy(model: Any) -> dict[str, Any]:
    """Classes, grid, layers and heads; a captioner has no classes, and a grid that varies."""
    if isinstance(model, ServedCaptioner):
        nothing: dict[str, Any] = {"labels": [], "input": None, "grid": None, "prefix": 0, "heads": 0}
        nothing |= {"prefix_words": "", "methods": [], "method_options": {}, "queries": [], "has_positions": False}
        return nothing | {"layers": model.layers, "prompt": model.question, "readings": list(model.readings)}
    (height, width), layout = model.model.spec.size, model.layout
    return {
        "labels": list(model.labels),
        "input": [width, height],
        "grid": [layout.rows, layout.columns],
        "prefix": layout.prefix,
        "prefix_words": layout.prefix_words,
        "layers": layout.blocks,
        "heads": model.heads,
        "methods": list(model.methods),
        "method_options": {name: list(METHOD_OPTIONS[name]) for name in model.methods},
        "queries": list(model.queries),
        "prompt": None,
        "readings": [],
        "has_positions": has_positions(model),
    }


def _short_name(reference: str) -> str:
    """The last part of a reference, for tabs and titles."""
    return reference.rstrip("/").rpartition("/")[2] or reference


def json_response(body: BaseModel) -> Response:
    """An answer as JSON, without FastAPI's second validation of it."""
    return Response(body.model_dump_json(), media_type="application/json")


@router.get("/models", response_model=ModelList, tags=["models"])
def models(request: Request) -> Response:
    """The models that are served, with what each can be asked."""
    state = get_state(request)
    infos = [model_info(model) for model in state.models.values()]
    titles = {entry.name: entry.title for entry in ENTRIES}
    return json_response(
        ModelList(
            models=infos,
            titles=titles,
            terms=TERMS,
            feature_pictures=MAX_FEATURE_PICTURES,
            report=state.report is not None,
        )
    )


@router.post("/predict", response_model=Prediction, openapi_extra=PICTURE_BODY, tags=["classify"])
async def predict(request: Request, params: Annotated[PictureParams, Query()]) -> Response:
    """What a classifier calls a picture: every class with its probability."""
    state = get_state(request)
    classifier = state.classifier(params.model)
    if params.picture is not None:
        encoding = (await state.encode_picture(request, params, classifier)).encoding
        sha256, size, probabilities_C = encoding.sha256, encoding.size, encoding.probabilities_C
    else:
        upload = await state.receive_picture(request, params, classifier)
        sha256, size = upload.sha256, list(upload.size)
        job = Job(key=("predict", classifier.id), item=upload.model_input, run_batch=classifier.predict)
        probabilities_C = await state.run_job(request, job)
    predictions = rank_classes(probabilities_C, classifier.labels)
    return json_response(Prediction(picture=sha256, size=size, predictions=predictions, precision=classifier.precision))


@router.post("/explain", response_model=Explanation, openapi_extra=PICTURE_BODY, tags=["classify"])
async def explain(request: Request, params: Annotated[ViewParams, Query()]) -> Response:
    """One map of a picture, by a method, of a layer and head, from or towards a token."""
    state = get_state(request)
    classifier = state.classifier(params.model)
    picture = await state.encode_picture(request, params, classifier)
    view = parse_view(params, classifier, picture.encoding)
    await ensure_map(state, request, classifier, picture.encoding, view)
    return json_response(
        await state.run_view(lambda: explain_view(view, classifier, picture.encoding, picture.argument))
    )


async def ensure_map(
    state: AppState, request: Request, classifier: ServedClassifier, encoding: ClassifierEncoding, view: View
) -> None:
    """Compute the view's map if its method runs the model and the encoding has no such map yet."""
    if view.runs_model and view.map_key not in encoding.maps:
        job = Job(lambda job: classifier.class_map(encoding, view.method, view.target, job), is_long=True)
        await state.run_job(request, job)


@router.post("/matrix", response_model=Matrix, openapi_extra=PICTURE_BODY, tags=["classify"])
async def matrix(request: Request, params: Annotated[MatrixParams, Query()]) -> Response:
    """The whole attention of one layer, every token to every token."""
    state = get_state(request)
    classifier = state.classifier(params.model)
    encoding = (await state.encode_picture(request, params, classifier)).encoding
    return json_response(
        await state.run_view(lambda: attention_matrix(classifier, encoding, params.layer, params.head))
    )
