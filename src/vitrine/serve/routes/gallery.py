"""Routes to the pictures that come with a model: /api/validation, /thumbnail, /picture."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from vitrine.data.samples import Sample
from vitrine.plotting.confusion import WHOLE
from vitrine.serve.errors import ApiError
from vitrine.serve.figures import confusion_command
from vitrine.serve.galleries import Gallery, RecordedValidation, picture_id
from vitrine.serve.routes.explain import json_response
from vitrine.serve.schema import ModelId, RecordedPicture, Validation
from vitrine.serve.state import AppState, get_state
from vitrine.serve.uploads import Thumbnail, make_photograph, make_thumbnail

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
    state = get_state(request)
    gallery = state.model(model).gallery
    if gallery.validation is None or not gallery.validation.predictions:
        raise ApiError(404, "This model has no recorded predictions: it is no finished run of a classifier.", "unknown")
    command = confusion_command(state.classifier(model), gallery.validation)
    return json_response(make_validation(gallery.validation, gallery, command))


def make_validation(validation: RecordedValidation, gallery: Gallery, command: str) -> Validation:
    """The answer to ``/api/validation``: pictures with predictions, in the order of the split.

    Args:
        validation: what the run recorded.
        gallery: pictures that still exist.
        command: the command line that draws the confusion matrix.
    """
    label_index = {label: index for index, label in enumerate(validation.labels)}
    is_small = len(validation.labels) <= WHOLE
    confusion = [[0] * len(validation.labels) for _ in validation.labels] if is_small else None
    pictures = []
    for index, name in enumerate(validation.names):
        prediction = validation.predictions.get(name)
        if prediction is None:
            continue
        true = validation.truths.get(name)
        if confusion is not None and true in label_index and prediction.text in label_index:
            confusion[label_index[true]][label_index[prediction.text]] += 1
        row = RecordedPicture(
            id=picture_id(index),
            name=name,
            true=true,
            predicted=prediction.text,
            probability=prediction.score,
            right=None if true is None else true == prediction.text,
            present=picture_id(index) in gallery.samples,
            version=validation.hashes[name][:12],
            training_copy=None if name not in validation.copies else validation.copies[name].description,
        )
        pictures.append(row)
    return Validation(
        labels=list(validation.labels),
        leakage=list(validation.leakage),
        pictures=pictures,
        confusion=confusion,
        command=command,
    )


@router.get("/thumbnail/{model}/{id}", responses=_PICTURES, response_class=Response)
async def thumbnail(
    request: Request,
    model: ModelPath,
    id: PictureId,  # noqa: A002  the address's name for it
    size: Annotated[int, Query(ge=16, le=512, description="Pixels of the longer side.")] = 96,
    v: Annotated[str | None, Query(max_length=64, description="A version: with it, the answer never changes.")] = None,
) -> Response:
    """A small copy of a sample or validation picture."""
    state = get_state(request)
    sample = _find_sample(state, model, id)
    key = (model, id, size)
    file = state.thumbnails.get(key)
    if file is None:
        file = await state.run_decoding(lambda: make_thumbnail(sample, size))
        state.thumbnails.put(key, file)
    return _picture_response(file, v)


@router.get("/picture/{model}/{id}", responses=_PICTURES, response_class=Response)
async def picture(
    request: Request,
    model: ModelPath,
    id: PictureId,  # noqa: A002  the address's name for it
    v: Annotated[str | None, Query(max_length=64, description="A version: with it, the answer never changes.")] = None,
) -> Response:
    """A sample or validation picture, without what its file says beside the pixels."""
    state = get_state(request)
    sample = _find_sample(state, model, id)
    return _picture_response(await state.run_decoding(lambda: make_photograph(sample)), v)


def _find_sample(state: AppState, model_id: str, sample_id: str) -> Sample:
    samples = state.model(model_id).gallery.samples
    if sample_id not in samples:
        raise ApiError(404, "This model has no such picture, or it is not where it was.", "unknown")
    return samples[sample_id]


def _picture_response(file: Thumbnail, version: str | None) -> Response:
    headers = {"Cache-Control": _FOREVER if version else "no-cache"}
    return Response(file.data, media_type=file.media_type, headers=headers)
