"""What is asked, as types: parameters of addresses, and what a request may be refused with."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from vitrine.serve.schema import ErrorBody

_IDS = "^[0-9]{1,7}(,[0-9]{1,7})*$"

ModelId = Annotated[str, Field(min_length=1, max_length=20, description="The id of a model in /api/models.")]


class PictureQuery(BaseModel):
    """Which model, and which picture where the body has none."""

    model_config = ConfigDict(extra="forbid")

    model: ModelId = "0"
    sample: Annotated[
        str | None,
        Field(max_length=40, description="A sample's or validation picture's id, of another model as MODEL/ID."),
    ] = None
    picture: Annotated[
        str | None, Field(pattern="^[0-9a-f]{64}$", description="sha256 of a picture whose encoding is still held.")
    ] = None
    name: Annotated[str | None, Field(max_length=200, description="What figures and commands call the picture.")] = None


class ViewQuery(PictureQuery):
    """Which map."""

    method: Literal["attention", "rollout", "relevance", "gradcam", "occlusion"] = "attention"
    layer: Annotated[int, Field(ge=-1000, le=1000, description="Of attention: from 0, or -1 for the last.")] = -1
    head: Annotated[
        str, Field(pattern="^(mean|max|min|[0-9]{1,4})$", description="mean, max, min, or a number from 0.")
    ] = "mean"
    query: Annotated[
        str,
        Field(
            pattern="^(auto|class|pool|[0-9]{1,4},[0-9]{1,4})$", description="Who looks: class, or a patch r,c from 0."
        ),
    ] = "auto"
    direction: Literal["from", "to"] = "from"
    target: Annotated[str | None, Field(max_length=500, description="The class; by default the predicted one.")] = None


class MatrixQuery(PictureQuery):
    """Which layer's attention."""

    layer: Annotated[int, Field(ge=-1000, le=1000)] = -1
    head: Annotated[str, Field(pattern="^(mean|max|min|[0-9]{1,4})$")] = "mean"


class CaptionQuery(PictureQuery):
    """How a caption is decoded."""

    beams: Annotated[int, Field(ge=1, le=10, description="1 takes the likeliest word each time.")] = 1
    prefix: Annotated[
        str | None,
        Field(
            pattern="^[0-9]{1,7}(,[0-9]{1,7})*$",
            max_length=4000,
            description="Ids of pieces that the caption begins with.",
        ),
    ] = None
    stream: Annotated[bool, Field(description="Send words as they are decoded, as server-sent events.")] = False


class FigureQuery(ViewQuery):
    """Which figure, of which view."""

    figure: Annotated[
        Literal["map", "caption", "positions", "confusion"] | None,
        Field(description="By default what the model is for."),
    ] = None
    kind: Literal["png", "svg"] = "png"
    beams: Annotated[int, Field(ge=1, le=10)] = 1
    prefix: Annotated[str | None, Field(pattern=_IDS, max_length=4000)] = None
    cell: Annotated[
        str | None, Field(pattern="^[0-9]{1,4},[0-9]{1,4}$", description="Of positions: the one patch r,c from 0.")
    ] = None


REFUSED: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": words}
    for status, words in {
        400: "Nothing usable was sent",
        401: "The token is missing",
        403: "Asked from another page or under another name",
        404: "No such model, sample or held picture",
        405: "This path has other methods",
        408: "The picture took too long to arrive",
        413: "Too many bytes or pixels",
        415: "Not a picture, or labelled as what it is not",
        422: "A value that cannot be used, or a damaged picture",
        503: "The queue is full, or the answer took too long",
    }.items()
}
