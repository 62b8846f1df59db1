"""Routes to the pictures that come with a model: the validation split, small copies, and its pictures whole."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from vitrine.data.samples import Sample
from vitrine.plotting.confusion import WHOLE
from vitrine.serve.errors import ApiError
from vitrine.serve.figures import confusion_command
from vitrine.serve.galleries import Gallery, RecordedValidation, id_at
from vitrine.serve.routes.explain import json_response
from vitrine.serve.schema import ModelId, RecordedPicture, Validation
from vitrine.serve.state import AppState
from vitrine.serve.uploads import Thumbnail, photograph, thumbnail

router = APIRouter(prefix="/api", tags=["data"])

ModelPath = Annotated[str, Path(max_length=20)]
PictureId = Annotated[str, Path(max_length=40)]
_PICTURES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The picture", "content": {"image/webp": {}, "image/png": {}, "image/jpeg": {}}}
}
_FOREVER = "private, max-age=31536000, immutable"


@router.get("/validation", response_model=Validation)
def validation(request: Request, model: Annotated[ModelId, Query()] = "0") -> Response:
    """What the run recorded of each validation picture, and the confusion matrix."""
    state: AppState = request.app.state.app_state
    gallery = state.model(model).gallery
    if gallery.recorded is None or not gallery.recorded.said:
        raise ApiError(404, "This model has no recorded predictions: it is no finished run of a classifier.", "unknown")
    served = state.classifier(model)
    return json_response(validation_of(gallery.recorded, gallery, confusion_command(served, gallery.recorded)))


def validation_of(recorded: RecordedValidation, gallery: Gallery, command: str) -> Validation:
    """Rows in the order of the split; pictures without prediction are left out. The command draws the matrix."""
    at = {label: place for place, label in enumerate(recorded.labels)}
    whole = len(recorded.labels) <= WHOLE
    confusion = [[0] * len(recorded.labels) for _ in recorded.labels] if whole else None
    pictures = []
    for place, name in enumerate(recorded.names):
        said = recorded.said.get(name)
        if said is None:
            continue
        true = recorded.truths.get(name)
        if confusion is not None and true in at and said.label in at:
            confusion[at[true]][at[said.label]] += 1
        row = RecordedPicture(
            id=id_at(place),
            name=name,
            true=true,
            predicted=said.label,
            probability=said.probability,
            right=None if true is None else true == said.label,
            present=id_at(place) in gallery.samples,
            version=recorded.hashes[name][:12],
        )
        pictures.append(row)
    return Validation(labels=list(recorded.labels), pictures=pictures, confusion=confusion, command=command)


@router.get("/thumbnail/{model}/{id}", responses=_PICTURES, response_class=Response)
async def small(
    request: Request,
    model: ModelPath,
    id: PictureId,  # noqa: A002  the address's name for it
    size: Annotated[int, Query(ge=16, le=512, description="Pixels of the longer side.")] = 96,
    v: Annotated[str | None, Query(max_length=64, description="A version: with it, the answer never changes.")] = None,
) -> Response:
    """A small copy of a sample or validation picture."""
    state: AppState = request.app.state.app_state
    sample = _sample(state, model, id)
    key = (model, id, size)
    result = state.thumbnails.get(key)
    if result is None:
        result = await state.decoding(lambda: thumbnail(sample, size))
        state.thumbnails.put(key, result)
    return _picture(result, v)


@router.get("/picture/{model}/{id}", responses=_PICTURES, response_class=Response)
async def whole(
    request: Request,
    model: ModelPath,
    id: PictureId,  # noqa: A002  the address's name for it
    v: Annotated[str | None, Query(max_length=64, description="A version: with it, the answer never changes.")] = None,
) -> Response:
    """A sample or validation picture, without what its file says beside the pixels."""
    state: AppState = request.app.state.app_state
    sample = _sample(state, model, id)
    return _picture(await state.decoding(lambda: photograph(sample)), v)


def _sample(state: AppState, model: str, number: str) -> Sample:
    samples = state.model(model).gallery.samples
    if number not in samples:
        raise ApiError(404, "This model has no such picture, or it is not where it was.", "unknown")
    return samples[number]


def _picture(result: Thumbnail, version: str | None) -> Response:
    headers = {"Cache-Control": _FOREVER if version else "no-cache"}
    return Response(result.data, media_type=result.media_type, headers=headers)
