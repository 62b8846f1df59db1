"""Types of the API's answers and request parameters, from which its OpenAPI description is made."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from vitrine.attribution.method_options import methods_with
from vitrine.attribution.registry import METHODS
from vitrine.caption.readings import READINGS


class Payload(BaseModel):
    """Base class of answers."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Dtype = Literal["uint8", "float16", "float32"]


class Array(Payload):
    """An array of numbers: little-endian, row by row, as base64."""

    shape: list[int]
    dtype: Dtype
    data: str

    @classmethod
    def of(cls, values: npt.ArrayLike, dtype: Dtype = "float32") -> Array:
        """Pack an array of any type."""
        array = np.ascontiguousarray(values, dtype=np.dtype(dtype).newbyteorder("<"))
        return cls(shape=list(array.shape), dtype=dtype, data=base64.b64encode(array.tobytes()).decode("ascii"))


class ErrorBody(Payload):
    """Why a request was refused: a sentence for a person, and a code for a program."""

    error: str
    code: str


class SampleInfo(Payload):
    """A picture that comes with a model."""

    id: str
    name: str
    label: str | None


class ModelInfo(Payload):
    """One model of the server. ``input`` is in pixels, ``grid`` in patches; both are null for captioners. ``prompt`` is
    what a vision-language model is asked where nothing else is, null of models that take no question, and ``readings``
    are the ways to read its maps.
    """

    id: str
    kind: Literal["classifier", "captioner"]
    reference: str
    name: str
    labels: list[str]
    input: list[int] | None
    grid: list[int] | None
    prefix: int
    prefix_words: str
    layers: int
    heads: int
    methods: list[str]
    method_options: dict[str, list[str]]
    queries: list[str]
    prompt: str | None
    readings: list[str]
    precision: str
    weights_sha256: str | None
    notes: list[str]
    has_positions: bool
    has_validation: bool
    samples: list[SampleInfo]


class ModelList(Payload):
    """All models, in the order of the command line, titles of methods, meanings of terms, how many pictures
    /api/features fits together, and whether /report has a page on the runs."""

    models: list[ModelInfo]
    titles: dict[str, str]
    terms: dict[str, str]
    feature_pictures: int
    report: bool = False


class Health(Payload):
    """The server runs."""

    status: Literal["ok"] = "ok"


class ClassProbability(Payload):
    """A class and its probability, 0 to 1."""

    label: str
    probability: float


class Prediction(Payload):
    """The classes of a picture with their probabilities, the likeliest first; ``picture`` is its sha256."""

    picture: str
    size: list[int]
    predictions: list[ClassProbability]
    precision: str


class ScaleInfo(Payload):
    """The unit of a map's numbers, and the value at which its colours end."""

    kind: Literal["uniform", "lost"]
    high: float
    label: str


class Explanation(Payload):
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


class Matrix(Payload):
    """Attention of every token to every token; prefix tokens come first."""

    tokens: int
    prefix: int
    grid: list[int]
    matrix: Array


class HiddenPatches(Payload):
    """What is left of the answer's probability with so many patches hidden: those that the map marks most, random ones
    and compact ones about the middle (medians of the draws), and those that the random draws show to be needed most.
    """

    patches: int
    answer: float
    random: float
    compact: float
    most_needed: float


class ControlMap(Payload):
    """A control: a map that knows nothing of the model, in multiples of uniform."""

    name: str
    map: Array


class VerdictInfo(Payload):
    """Whether the model's answer depends on the patches that a map marks, tested by hiding them beside random ones.

    ``answer`` is the probability of the class ``label`` on the intact picture, ``all_hidden`` with all patches hidden;
    ``p`` is the share of random maps that do as well, from ``draws`` of them; ``fillings`` is what patches were hidden
    behind.
    """

    flag: Literal["depends", "not shown", "cannot tell"]
    sentence: str
    label: str
    answer: float
    all_hidden: float
    sets: list[HiddenPatches]
    p: float
    draws: int
    fillings: list[str]
    controls: list[ControlMap]
    outliers: list[list[int]]
    picture: str
    described: str
    command: str | None


class PositionNumber(Payload):
    """A number of a model's position embeddings, beside that of random and of fixed sine embeddings."""

    name: str
    meaning: str
    value: float | None
    untrained: float | None
    sine: float | None


class Positions(Payload):
    """The similarity of every patch's position embedding with every other's."""

    grid: list[int]
    similarity: Array
    numbers: list[PositionNumber]
    sentences: list[str]
    command: str


class FeaturePictureInfo(Payload):
    """What the patches of one picture are. ``reference`` is its name among the request's ``others``, empty for the
    picture itself; ``colours`` are the first three components as red, green and blue, 0 to 255;
    ``regions`` count from 0; ``foreground`` is 1 where a patch is, null where all are coloured; ``outliers`` are
    patches (row, column) with outlier tokens.
    """

    reference: str
    picture: str
    size: list[int]
    box: list[float]
    colours: Array
    regions: Array | None
    foreground: Array | None
    outliers: list[list[int]]


class FeaturesInfo(Payload):
    """Patch features that were fitted jointly to the pictures: ``picture`` is the first of ``pictures``, and they stand
    in the order of the request. ``variance_shares`` are those of the components; the colours of similarities begin at
    ``lowest``, whichever patch is asked for.
    """

    picture: str
    size: list[int]
    grid: list[int]
    layer: int
    described: str
    variance_shares: list[float]
    lowest: float
    region_colours: list[str]
    pictures: list[FeaturePictureInfo]
    command: str | None


class Similarities(Payload):
    """The cosine of every patch's token with that of ``patch`` of the picture, -1 to 1: a map for every picture of the
    request, in its order.
    """

    picture: str
    patch: list[int]
    layer: int
    maps: list[Array]


class Alternative(Payload):
    """Another likely token in a place; ``pieces`` are the ids of the tokens that a caption with it begins with."""

    pieces: list[int]
    text: str
    probability: float


class WordInfo(Payload):
    """A word of a caption with its map. ``pieces`` are the ids of the caption's tokens up to the word's end;
    ``looked`` is whether the word looked anywhere in particular, null until the caption is complete.
    """

    index: int
    text: str
    probability: float
    map: Array
    grid: list[int]
    box: list[float]
    pieces: list[int]
    alternatives: list[Alternative]
    looked: bool | None
    check: str | None


class ReadingProgress(Payload):
    """How far the maps of an answer's words are, where they are made when all words are there: cells of ``total``."""

    done: int
    total: int


class BeamCaption(Payload):
    """A caption of beam search; ``score``, by which captions are ranked, is the log-probability a token."""

    caption: str
    log_probability: float
    score: float


class CaptionResult(Payload):
    """A complete caption, or answer, with the maps of its words; ``finished``: whether it has an end token; ``prompt``
    what was asked, ``notes`` say what else to know of it.
    """

    caption: str
    log_probability: float
    finished: bool
    words: list[WordInfo]
    beams: list[BeamCaption]
    picture: str
    size: list[int]
    scale: ScaleInfo
    described: str
    prompt: str | None
    notes: list[str]
    command: str | None


class RecordedPicture(Payload):
    """A validation picture and what the run recorded of it. ``version`` changes with its content; ``training_copy``
    says of which training picture it is a copy, or looks like one.
    """

    id: str
    name: str
    true: str | None
    predicted: str
    probability: float | None
    right: bool | None
    present: bool
    version: str
    training_copy: str | None


class Validation(Payload):
    """A run's validation pictures; rows of the confusion matrix are true classes, columns predicted ones.

    The matrix is null with more than 1,000 classes, for which a table would be too large. ``leakage`` has sentences on
    pictures that also stand in training.
    """

    labels: list[str]
    leakage: list[str]
    pictures: list[RecordedPicture]
    confusion: list[list[int]] | None
    command: str


_IDS = "^[0-9]{1,7}(,[0-9]{1,7})*$"
_METHOD = f"^({'|'.join(METHODS)})$"
_HEAD = "^(mean|max|min|-?[0-9]{1,4})$"

ModelId = Annotated[str, Field(min_length=1, max_length=20, description="The id of a model in /api/models.")]


class PictureParams(BaseModel):
    """Which model, and which picture if the body has none."""

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


class ViewParams(PictureParams):
    """Which map of a picture."""

    method: Annotated[str, Field(json_schema_extra={"enum": [*METHODS]}, pattern=_METHOD)] = "attention"
    layer: Annotated[
        int, Field(ge=-1000, le=1000, description=f"Of {methods_with('layer')}: from 0, or -1 for the last.")
    ] = -1
    head: Annotated[
        str,
        Field(pattern=_HEAD, description=f"Of {methods_with('heads')}: mean, max, min, or a number from 0."),
    ] = "mean"
    query: Annotated[
        str,
        Field(
            pattern="^(auto|class|distillation|pool|-?[0-9]{1,4},-?[0-9]{1,4})$",
            description=f"Of {methods_with('query')}: who looks. auto is what the head reads; class, distillation, "
            "pool, or a patch r,c from 0; -1 is the last.",
        ),
    ] = "auto"
    direction: Annotated[
        Literal["from", "to"],
        Field(description=f"Of {methods_with('direction')}: what the query looks at, or who looks at it."),
    ] = "from"
    window: Annotated[
        int, Field(ge=0, le=1000, description=f"Of {methods_with('window')}: patches a side of the cover; 0 chooses.")
    ] = 0
    against: Annotated[
        str | None,
        Field(max_length=500, description=f"Of {methods_with('against')}: why the target and not this class."),
    ] = None
    target: Annotated[
        str | None,
        Field(max_length=500, description=f"Of {methods_with('target')}: the class; by default the predicted one."),
    ] = None


class MatrixParams(PictureParams):
    """Which layer's attention."""

    layer: Annotated[int, Field(ge=-1000, le=1000)] = -1
    head: Annotated[str, Field(pattern=_HEAD)] = "mean"


Beams = Annotated[int, Field(ge=1, le=10, description="1 takes the likeliest word each time.")]
Prefix = Annotated[
    str | None, Field(pattern=_IDS, max_length=4000, description="Ids of pieces that the caption begins with.")
]
Prompt = Annotated[
    str | None,
    Field(max_length=2000, description="Of vision-language models: what is asked; by default for a caption."),
]
MaxPieces = Annotated[int | None, Field(ge=1, le=100_000, description="A caption is cut after so many word pieces.")]
DecoderLayers = Annotated[
    str,
    Field(
        pattern="^(mean|-?[0-9]{1,4}|[0-9]{1,4}-[0-9]{1,4})$",
        description="Of a caption's maps: a decoder layer from 0, -1 for the last, 8-20 for the mean of some, or mean.",
    ),
]
Reading = Annotated[
    str,
    Field(
        json_schema_extra={"enum": [*READINGS]},
        pattern=f"^({'|'.join(READINGS)})$",
        description="Of vision-language models: how maps are read. relative reads the picture once more, gradient goes "
        "over the answer once more, occlusion reads the picture as many times as the map has cells, and has no layers.",
    ),
]


class CaptionChoice(BaseModel):
    """How a caption is decoded, and which maps its words have."""

    prompt: Prompt = None
    beams: Beams = 1
    prefix: Prefix = None
    max_pieces: MaxPieces = None
    layers: DecoderLayers = "-1"
    reading: Reading = "attention"


class CaptionParams(PictureParams, CaptionChoice):
    """Which picture, how its caption is decoded, and whether words are sent one by one."""

    stream: Annotated[bool, Field(description="Send words as they are decoded, as server-sent events.")] = False


_PATCH = "^-?[0-9]{1,4},-?[0-9]{1,4}$"
FeatureLayer = Annotated[int, Field(ge=-1000, le=1000, description="Whose tokens: from 0, or -1 for the last.")]
Foreground = Annotated[bool, Field(description="Fit the components to the foreground alone, and colour nothing else.")]
Regions = Annotated[int, Field(ge=0, le=10, description="Groups of patches that are alike, 2 or more; 0 for none.")]
Others = Annotated[
    str | None,
    Field(
        max_length=4000,
        pattern="^[0-9a-zA-Z/]{1,64}(,[0-9a-zA-Z/]{1,64})*$",
        description="Other pictures that components and regions are fitted to as well: each the sha256 of one that is "
        "held, or a sample's id, of another model as MODEL/ID.",
    ),
]


class FeatureChoice(BaseModel):
    """Which patch features, of which other pictures."""

    others: Others = None
    foreground: Foreground = False
    regions: Regions = 0


class FeatureParams(PictureParams, FeatureChoice):
    """Which patch features, of which pictures."""

    layer: FeatureLayer = -1


class SimilarityParams(PictureParams):
    """Which patch all others are compared with."""

    others: Others = None
    layer: FeatureLayer = -1
    patch: Annotated[
        str, Field(pattern=_PATCH, description="Of the picture: r,c from 0; -1 is the last.", examples=["0,0"])
    ]


class FigureParams(ViewParams, CaptionChoice, FeatureChoice):
    """Which figure, of which view."""

    figure: Annotated[
        Literal["map", "caption", "features", "positions", "confusion"] | None,
        Field(description="By default what the model is for."),
    ] = None
    kind: Literal["png", "svg"] = "png"
    cell: Annotated[
        str | None,
        Field(pattern=_PATCH, description="Of positions: one patch r,c from 0; -1 is the last."),
    ] = None
    patch: Annotated[
        str | None, Field(pattern=_PATCH, description="Of features: the patch that others are compared with.")
    ] = None


ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
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

_BYTES = {"schema": {"type": "string", "format": "binary"}}

PICTURE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": False,
        "description": "The picture's bytes; none with ?sample= or ?picture=.",
        "content": dict.fromkeys(("application/octet-stream", "image/jpeg", "image/png", "image/webp"), _BYTES),
    }
}
