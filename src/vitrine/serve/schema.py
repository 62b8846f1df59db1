"""What goes over the wire, as types: the OpenAPI description is made of them."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field


class Wire(BaseModel):
    """Base of what is sent."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Array(Wire):
    """Numbers, little-endian, row by row, as base64."""

    shape: list[int]
    dtype: Literal["float16", "float32"]
    data: str

    @classmethod
    def of(cls, values: npt.ArrayLike, dtype: Literal["float16", "float32"] = "float32") -> Array:
        """From any array."""
        packed = np.ascontiguousarray(values, dtype=np.dtype(dtype).newbyteorder("<"))
        return cls(shape=list(packed.shape), dtype=dtype, data=base64.b64encode(packed.tobytes()).decode("ascii"))


class ErrorBody(Wire):
    """Why a request was refused."""

    error: str
    code: str


class SampleInfo(Wire):
    """A picture that comes with a model."""

    id: str
    name: str
    label: str | None


class ModelInfo(Wire):
    """One model that is served. Lengths in pixels, the grid in patches."""

    id: str
    kind: Literal["classifier", "captioner"]
    reference: str
    name: str
    labels: list[str]
    input: list[int] | None
    grid: list[int] | None
    prefix: int
    layers: int
    heads: int
    methods: list[str]
    queries: list[str]
    precision: str
    weights_sha256: str | None
    notes: list[str]
    has_positions: bool
    has_validation: bool
    samples: list[SampleInfo]


class ModelList(Wire):
    """All models, in the order of the command line."""

    models: list[ModelInfo]


class Health(Wire):
    """The server answers."""

    status: Literal["ok"] = "ok"


class ClassProbability(Wire):
    """A class and its probability, 0 to 1."""

    label: str
    probability: float


class Predicted(Wire):
    """What a classifier says of a picture; all classes, the likeliest first."""

    picture: str
    size: list[int]
    predictions: list[ClassProbability]
    precision: str


class ScaleInfo(Wire):
    """What the numbers of a map mean, and where its colours end."""

    kind: Literal["uniform", "lost"]
    high: float
    label: str


class Explained(Wire):
    """One map of a picture. ``box`` is where its grid lies on the photograph: left, top, width, height in pixels."""

    picture: str
    size: list[int]
    grid: list[int]
    map: Array
    scale: ScaleInfo
    box: list[float]
    prefix_share: float | None
    predictions: list[ClassProbability]
    target: str | None
    described: str
    command: str | None


class Matrix(Wire):
    """Attention of every token to every token; prefix tokens come first."""

    tokens: int
    prefix: int
    grid: list[int]
    matrix: Array


ModelId = Annotated[str, Field(min_length=1, max_length=20, description="The id of a model in /api/models.")]


class PictureQuery(BaseModel):
    """Which model, and which picture where the body has none."""

    model_config = ConfigDict(extra="forbid")

    model: ModelId = "0"
    sample: Annotated[str | None, Field(max_length=40, description="A sample's or validation picture's id.")] = None
    picture: Annotated[
        str | None, Field(pattern="^[0-9a-f]{64}$", description="sha256 of a picture whose encoding is still held.")
    ] = None
    name: Annotated[str | None, Field(max_length=200, description="What figures and commands call the picture.")] = None


class ViewQuery(PictureQuery):
    """Which map."""

    method: Literal["attention", "rollout", "relevance", "gradcam", "occlusion"] = "attention"
    layer: Annotated[int, Field(ge=-1000, le=1000, description="Of attention: from 0, or -1 for the last.")] = -1
    head: Annotated[str, Field(pattern="^(mean|max|min|[0-9]{1,4})$", description="mean, or a number from 0.")] = "mean"
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
