"""``vitrine features``: patch features of pictures as colours, regions and similarities, with numbers beside them.

Axes: R grid rows, C grid columns, D channels.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from vitrine.attribution.maps import patch_on_grid
from vitrine.attribution.placement import Placement
from vitrine.classify.inference import eval_transform
from vitrine.classify.model import Classifier, open_classifier, place_on_device
from vitrine.data.masks import Masks, find_masks
from vitrine.data.picture_inputs import PictureInput, path_in, picture_input
from vitrine.data.samples import Sample
from vitrine.display import ResultSequence, csv_rows
from vitrine.errors import DataError, PictureError, UsageError
from vitrine.features.figures import (
    PAIRS_OF_A_SHEET,
    REGION_COLOURS,
    FeaturePicture,
    FeatureWords,
    feature_figure,
    feature_sheet,
    save_feature_figure,
    save_feature_sheet,
)
from vitrine.features.fit import FeatureFit, fit_features, read_fit, region_labels, write_fit
from vitrine.features.mask_agreement import RegionAgreement, agreement, patch_mask, place_control
from vitrine.features.patch_tokens import PatchTokens, TokenBatch, describe_tokens, require_whole_patches
from vitrine.features.principal_components import fit_principal_components, to_colours
from vitrine.features.regions import assign, fit_centres
from vitrine.features.similarity import cosine_similarity, lowest_colour
from vitrine.io.files import remove_unfinished, unwritten_picture, write_atomically
from vitrine.io.output_lock import writes_folder
from vitrine.io.resumable_csv import csv_row
from vitrine.models.load import load_model
from vitrine.plotting.provenance import Provenance, figure_names
from vitrine.plotting.style import figure_bytes
from vitrine.results import Progress, Unreadable, count_of, no_progress, none_drawn, percent, unreadable_to_json

Floats = npt.NDArray[np.float32]

SHEETS = ("features",)
"""Stems that no picture's figure may have."""

COMPONENTS_FILE = "components.safetensors"
CONTROL_PICTURES = 64
"""Pictures at most, the first ones, that an untrained model is run on."""

_PHOTO = 900  # pixels of a photograph's longer side in a figure


@dataclass(frozen=True)
class FeatureSettings:
    """What is made of each picture.

    Attributes:
        layer: whose tokens, from 0, or from the end with -1.
        image_size: side of the square input in pixels; 0 takes the model's own. Position embeddings are resampled.
        foreground: leave what the first component tells from the foreground uncoloured.
        regions: groups of patches that are alike, 2 or more; 0 draws none.
        query: (row, column), from 0 or from the end with -1, of a patch that all others are compared with; None
            compares none.
        query_picture: name of the picture that it is in; None is the first one.
        masks, category: what regions are compared with; by default masks beside the pictures.
        controls: also run the same model untrained, for its numbers.
        components: a file of an earlier call, whose components and regions are used instead of new ones.
        kind: "png" or "svg".
        seed: of the choice of pictures, the regions and the untrained model.
    """

    layer: int = -1
    image_size: int = 0
    foreground: bool = False
    regions: int = 0
    query: tuple[int, int] | None = None
    query_picture: str | None = None
    masks: Path | None = None
    category: str | None = None
    controls: bool = True
    components: Path | None = None
    kind: str = "png"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.regions and not 2 <= self.regions <= len(REGION_COLOURS):
            raise UsageError(
                f"{self.regions} regions cannot be drawn: expected 2 to {len(REGION_COLOURS)}, or 0 for none."
            )
        if self.query_picture is not None and self.query is None:
            raise UsageError("A picture to ask in needs a patch to ask for: give a query (row, column), too.")
        if self.components is not None and (self.foreground or self.regions):
            raise UsageError("The file of components says whether there is a foreground, and which regions: not both.")


@dataclass(frozen=True, eq=False, repr=False)
class FeatureRecord:
    """One picture's figure and what it shows.

    Attributes:
        name: of the picture.
        figure: its file; None where none was written: then it draws itself.
        outliers: how many of its patch tokens are outliers.
        foreground: share of its patches that are foreground, 0 to 1; None without a rule for it.
        regions_RC: int64 from 0; None where there are none.
        similarity_RC: float32, cosine with the asked patch, -1 to 1; None where none was asked.
        colours_RC3: float32, 0 to 1: the components.
    """

    name: str
    figure: Path | None
    outliers: int
    foreground: float | None
    regions_RC: npt.NDArray[np.int64] | None
    similarity_RC: Floats | None
    colours_RC3: Floats
    _drawing: tuple[FeaturePicture, FeatureWords, Provenance] | None = None

    def save(self, path: str | Path) -> Path:
        """Write the figure as .png or .svg, with its origin in its metadata.

        Raises:
            UsageError: it was written, and is not in memory.
            ValueError: another ending.
        """
        if self._drawing is None:
            raise UsageError(f"The figure of {self.name} was written: {self.figure}. Without out it stays in memory.")
        picture, words, provenance = self._drawing
        save_feature_figure(picture, words, Path(path), provenance.to_metadata())
        return Path(path)

    def _repr_png_(self) -> bytes | None:
        if self._drawing is not None:
            return figure_bytes(feature_figure(*self._drawing[:2]), "png", {})
        return self.figure.read_bytes() if self.figure is not None and self.figure.suffix == ".png" else None

    def __repr__(self) -> str:
        rows, columns = self.colours_RC3.shape[:2]
        where = "" if self.figure is None else f", {self.figure}"
        return f"<{self.name}: patch features, {rows} x {columns} patches{where}>"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        similarity = None if self.similarity_RC is None else np.round(self.similarity_RC, 6).tolist()
        return {
            "filename": self.name,
            "figure": None if self.figure is None else str(self.figure),
            "outliers": self.outliers,
            "foreground": None if self.foreground is None else round(self.foreground, 6),
            "regions": None if self.regions_RC is None else self.regions_RC.tolist(),
            "similarity": similarity,
        }

    def to_row(self, out: Path | None) -> list[str]:
        """Its row of features.csv; the figure is named from ``out`` on."""
        foreground = "" if self.foreground is None else f"{self.foreground:.6f}"
        figure = "" if self.figure is None or out is None else self.figure.relative_to(out).as_posix()
        return [self.name, figure, str(self.outliers), foreground]


_COLUMNS = ("filename", "figure", "outliers", "foreground")


@dataclass(frozen=True, eq=False, repr=False)
class FeaturesResult(ResultSequence):
    """What ``vitrine features`` made.

    Attributes:
        out: its folder; None where nothing was written.
        pictures: with their figures, or in memory with what draws them.
        table: features.csv; None where nothing was written.
        sheets: pictures beside their components.
        components: the file that applies what was fitted to other pictures; None where nothing was written.
        layer: in words.
        grid: rows and columns of patches.
        channels: of a token.
        variance_shares: share of the variance along each of the three components, of all patches.
        fitted_pictures: what was fitted to.
        untrained: the same shares of an untrained model; None where it was not run.
        agreement: of regions with masks; None without either.
        unreadable: (name, reason) of pictures that cannot be read.
        unwritten: (name, reason) of pictures whose figure cannot be written.
        precision: that the model ran in.
        notes: sentences on the weights and the pictures.
    """

    out: Path | None
    pictures: tuple[FeatureRecord, ...]
    table: Path | None
    sheets: tuple[Path, ...]
    components: Path | None
    layer: str
    grid: tuple[int, int]
    channels: int
    variance_shares: tuple[float, ...]
    fitted_pictures: int
    untrained: tuple[float, ...] | None
    agreement: RegionAgreement | None
    unreadable: tuple[Unreadable, ...]
    unwritten: tuple[Unreadable, ...]
    precision: str
    notes: tuple[str, ...] = ()

    def each_picture(self) -> Sequence[FeatureRecord]:
        """Its figure, and what that shows."""
        return self.pictures

    def headline(self) -> str:
        """How many figures of which tokens, and where."""
        aside = f", {count_of(len(self.unreadable), 'picture')} could not be read" if self.unreadable else ""
        where = "" if self.out is None else f" in {self.out}"
        what = count_of(len(self.pictures), "picture" if self.out is None else "figure")
        return f"{what}{where}: patch features, {self.layer}{aside}"

    def details(self) -> str:
        """What the components have of the variance."""
        shares = ", ".join(percent(share) for share in self.variance_shares)
        untrained = "" if self.untrained is None else f" (untrained: {', '.join(map(percent, self.untrained))})"
        return f"variance along the components: {shares}{untrained}"

    def table_rows(self) -> Sequence[Mapping[str, Any]]:
        """A row a picture, as in features.csv."""
        return csv_rows(_table(self.pictures, self.out) if self.table is None else self.table.read_bytes())

    def figure_png(self) -> bytes | None:
        """The first sheet, or the only figure; None where they are SVG."""
        drawings = [each._drawing for each in self.pictures[:PAIRS_OF_A_SHEET] if each._drawing is not None]
        if len(drawings) > 1:
            title = f"Patch features of {count_of(len(self.pictures), 'picture')}"
            return figure_bytes(feature_sheet([each[0] for each in drawings], drawings[0][1], title=title), "png", {})
        if self.sheets and self.sheets[0].suffix == ".png" and self.sheets[0].is_file():
            return self.sheets[0].read_bytes()
        return self.pictures[0]._repr_png_()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "layer": self.layer,
            "grid": list(self.grid),
            "channels": self.channels,
            "precision": self.precision,
            "variance_shares": [round(share, 6) for share in self.variance_shares],
            "fitted_pictures": self.fitted_pictures,
            "untrained": None if self.untrained is None else [round(share, 6) for share in self.untrained],
            "agreement": None if self.agreement is None else self.agreement.to_dict(),
            "pictures": [picture.to_dict() for picture in self.pictures],
            "unreadable": unreadable_to_json(self.unreadable),
            "unwritten": unreadable_to_json(self.unwritten),
        }

    def text(self) -> str:
        """The same for a person."""
        rows, columns = self.grid
        lines = [
            f"Patch tokens of {self.layer}: {rows} x {columns} patches, {self.channels} channels.",
            f"The first three components hold {_shares(self.variance_shares)} of the variance of "
            f"{count_of(self.fitted_pictures, 'picture')}{self._untrained_words()}.",
        ]
        outliers = sum(picture.outliers for picture in self.pictures)
        if outliers:
            with_outliers = sum(picture.outliers > 0 for picture in self.pictures)
            lines.append(
                f"{count_of(outliers, 'outlier token')} in {count_of(with_outliers, 'picture')}: left out of what was "
                "fitted, and drawn grey."
            )
        lines += [] if self.agreement is None else [self.agreement.sentence]
        if self.out is not None:
            lines.append(f"{count_of(len(self.pictures), 'figure')} in {self.out}; all of them: {self.sheets[0]}")
            lines.append(f"The same colours for other pictures: --components {self.components}")
        return "\n".join(lines)

    def _untrained_words(self) -> str:
        if self.untrained is None:
            return ""
        count = min(CONTROL_PICTURES, len(self.pictures))
        which = "" if count == len(self.pictures) else f", on the first {count}"
        return f"; of the same model untrained{which}: {_shares(self.untrained)}"

    def _repr_png_(self) -> bytes | None:
        return self.figure_png()


def _table(records: Sequence[FeatureRecord], out: Path | None) -> bytes:
    """The content of features.csv."""
    return b"".join(map(csv_row, (_COLUMNS, *(record.to_row(out) for record in records))))


def _shares(shares: Sequence[float]) -> str:
    each = ", ".join(f"{100 * share:.0f}" for share in shares)
    return f"{each} % ({100 * sum(shares):.0f} % together)"


@writes_folder("features")
def features(
    model: str | Classifier,
    images: Path | PictureInput,
    out: Path | None,
    settings: FeatureSettings,
    *,
    limit: int | None = None,
    batch_size: int = 16,
    precision: str = "auto",
    architecture: str | None = None,
    progress: Progress = no_progress,
) -> FeaturesResult:
    """Draw the patch features of pictures: principal components as colours, fitted jointly over the pictures.

    Args:
        model: a model reference, or an open classifier; it needs no head.
        images: a folder, searched with its sub-folders, or one picture; or pictures that were given in Python.
        out: the folder of figures; a picture's sub-folder and stem are kept. None writes nothing: pictures draw
            themselves.
        settings: what is made.
        limit: pictures at most; with more, a choice drawn with the settings' seed. None takes all.
        batch_size: pictures at a time.
        precision: auto, fp32 or bf16.
        architecture: the timm name of the model where ``model`` is a weights file.
        progress: called with pictures done, of how many, while tokens are computed.

    Raises:
        DataError: no pictures, none that can be read, or components of something else.
        ModelError: the model cannot be used, or has no such layer or patch.
    """
    if isinstance(model, Classifier) and settings.image_size:
        raise UsageError("An input of another size is of a model that is opened for it: give its reference.")
    pictures = images if isinstance(images, PictureInput) else picture_input(images)
    samples = tuple(pictures.choose(limit, settings.seed))  # fitted jointly, and so read several times
    classifier = open_classifier(model, precision, architecture, features=True, image_size=settings.image_size)
    require_whole_patches(classifier)
    tokens = PatchTokens(classifier, samples, settings.layer, batch_size, progress)
    origin = {
        "model": classifier.reference if classifier.weights is None else classifier.weights.sha256,
        "input": "{} x {}".format(*classifier.spec.size),
    }
    fit = _fit(tokens, settings, origin)
    writer = FeatureWriter(classifier.reference, pictures.path, out, settings, tokens, fit, architecture)
    if out is not None:
        remove_unfinished(*{(out / figure).parent for figure in writer.figures.values()})
    writer.write()
    control = (
        _untrained(classifier, samples, settings, batch_size) if settings.controls and not settings.components else None
    )
    masks = find_masks(samples, data=pictures.path, source=settings.masks, category=settings.category)
    region_agreement = (
        None if fit.centres_KD is None or masks is None else _agreement(tokens, fit, control, masks, settings)
    )
    if out is not None:
        write_fit(fit, out / COMPONENTS_FILE, origin)
    return writer.finish(control, region_agreement, (*classifier.notes, *pictures.notes))


def _fit(tokens: PatchTokens, settings: FeatureSettings, origin: dict[str, str]) -> FeatureFit:
    if settings.components is not None:
        width = int(tokens.classifier.module.num_features)  # type: ignore[arg-type]
        return read_fit(settings.components, width, tokens.layer, origin)
    return fit_features(tokens, foreground=settings.foreground, regions=settings.regions, seed=settings.seed)


def _untrained(
    classifier: Classifier, samples: Sequence[Sample], settings: FeatureSettings, batch_size: int
) -> PatchTokens | None:
    """The tokens of the same model with new random weights, on the first pictures; None of a model in memory."""
    if classifier.is_in_memory:
        return None
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        new = load_model(classifier.loaded_model.reference, pretrained=False, image_size=settings.image_size)
    untrained = place_on_device(new, (), classifier.spec, classifier.precision)
    return PatchTokens(untrained, samples[:CONTROL_PICTURES], settings.layer, batch_size)


def _agreement(
    tokens: PatchTokens, fit: FeatureFit, untrained: PatchTokens | None, masks: Masks, settings: FeatureSettings
) -> RegionAgreement | None:
    """How well regions agree with masks, beside regions of colours, of places, and of an untrained model's tokens."""
    assert fit.centres_KD is not None
    grid, count = (tokens.layout.rows, tokens.layout.columns), len(fit.centres_KD)
    inside = {}
    for sample in (sample for batch in tokens for sample in batch.samples):
        mask_RC = patch_mask(masks, sample, tokens.classifier.spec, grid)
        if mask_RC is not None:
            inside[sample.name] = mask_RC
    if not inside:
        return None
    own = {sample.name: labels for batch in tokens for sample, labels in _each(batch, fit)}
    place_RC = place_control(*grid, count, settings.seed)
    controls = {
        "the patches' colours": _regions_of(tokens, count, settings.seed, colours=True),
        "their places": dict.fromkeys(inside, place_RC),
    }
    if untrained is not None and {s.name for s in untrained.samples} >= set(inside):
        controls["the untrained model"] = _regions_of(untrained, count, settings.seed)
    names = list(inside)
    return agreement(
        [own[name] for name in names],
        {control: [labels[name] for name in names] for control, labels in controls.items()},
        [inside[name] for name in names],
        masks.origin,
    )


def _each(batch: TokenBatch, fit: FeatureFit) -> Iterator[tuple[Sample, npt.NDArray[np.int64]]]:
    for sample, tokens_RCD in zip(batch.samples, batch.tokens_BRCD, strict=True):
        labels_RC = region_labels(fit, tokens_RCD)
        assert labels_RC is not None
        yield sample, labels_RC


def _regions_of(
    tokens: PatchTokens, count: int, seed: int, *, colours: bool = False
) -> dict[str, npt.NDArray[np.int64]]:
    """Regions fitted to the patches' mean colours, or to tokens, by the picture's name."""
    batches = [(batch.samples, batch.colours_BRC3 if colours else batch.tokens_BRCD) for batch in tokens]
    centres = fit_centres(np.concatenate([v.reshape(-1, v.shape[-1]) for _, v in batches]), count, seed)
    return {
        sample.name: assign(values_RCD, centres)
        for samples, values_BRCD in batches
        for sample, values_RCD in zip(samples, values_BRCD, strict=True)
    }


@dataclass(eq=False)
class FeatureWriter:
    """Writes the figures of pictures, sheets of them, and at the end the table that names them.

    Attributes:
        model, images, out, settings, architecture: as they were given.
        tokens: of the pictures.
        fit: what colours and regions mean.
    """

    model: str
    images: Path | None
    out: Path | None
    settings: FeatureSettings
    tokens: PatchTokens
    fit: FeatureFit
    architecture: str | None
    records: list[FeatureRecord] = field(default_factory=list)
    unwritten: list[Unreadable] = field(default_factory=list)
    sheets: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        names = [sample.name for sample in self.tokens.samples]
        self.figures = figure_names(names, self.settings.kind, SHEETS)
        self._pending: list[FeaturePicture] = []
        query, layout = self.settings.query, self.tokens.layout
        self._query = None if query is None else patch_on_grid(query, layout.rows, layout.columns)
        self._query_name, self._query_D = self._query_token()
        self.words = self._words()

    def _query_token(self) -> tuple[str, Floats | None]:
        """The picture that the patch of the query is in, and the patch's token."""
        if self._query is None:
            return "", None
        for batch in self.tokens:
            for sample, tokens_RCD in zip(batch.samples, batch.tokens_BRCD, strict=True):
                if self.settings.query_picture in (None, sample.name):
                    return sample.name, tokens_RCD[self._query]
        raise DataError(f"There is no picture {self.settings.query_picture} here that can be read, to ask in.")

    def _words(self) -> FeatureWords:
        whose = (
            f"of {count_of(self.fit.pictures, 'picture')}" if self.settings.components is None else "of an earlier call"
        )
        detail = f"patch tokens of {self.layer_words} · {self.model} · components {whose}"
        lowest = 0.0
        if self._query_D is not None:
            similarities = np.concatenate([self._similarity(b.tokens_BRCD).ravel() for b in self.tokens])
            lowest = lowest_colour(similarities)
        query = ""
        if self._query is not None:
            row, column = self._query
            query = f"row {row}, column {column} of {self._query_name}"
        shares = tuple(float(share) for share in self.fit.components.variance_share_K)
        return FeatureWords(detail, shares, query, lowest)

    @property
    def layer_words(self) -> str:
        """Which tokens they are."""
        tokens = self.tokens
        return describe_tokens(tokens.classifier.module, tokens.layer, tokens.layout.blocks)

    def _similarity(self, tokens_RCD: Floats) -> Floats:
        """Cosine of each token with the asked one."""
        assert self._query_D is not None
        return cosine_similarity(tokens_RCD, self._query_D)

    def write(self) -> None:
        """Write every picture's figure, and the sheets.

        Raises:
            DataError: none of the pictures can be read or drawn.
        """
        for batch in self.tokens:
            for index, sample in enumerate(batch.samples):
                self._write_picture(sample, batch.tokens_BRCD[index], batch.outliers_BRC[index])
        if not self.records:
            raise none_drawn(self.tokens.unreadable, self.unwritten)
        if self._pending:
            self._write_sheet()

    def _write_picture(self, sample: Sample, tokens_RCD: Floats, outliers_RC: npt.NDArray[np.bool_]) -> None:
        figure = None if self.out is None else self.out / self.figures[sample.name]
        try:
            picture = self._picture(sample, tokens_RCD, outliers_RC)
            provenance = self._provenance(sample)
            if figure is not None:
                save_feature_figure(picture, self.words, figure, provenance.to_metadata())
        except PictureError as error:  # it could be read a moment ago
            self.tokens.unreadable.append((sample.name, str(error)))
            return
        except OSError as error:
            self.unwritten.append(unwritten_picture(sample.name, error))
            return
        foreground = None if picture.foreground_RC is None else float(picture.foreground_RC.mean())
        self.records.append(
            FeatureRecord(
                sample.name,
                figure,
                int(outliers_RC.sum()),
                foreground,
                picture.regions_RC,
                picture.similarity_RC,
                picture.colours_RC3,
                (picture, self.words, provenance) if figure is None else None,
            )
        )
        if figure is None:
            return
        self._pending.append(picture)
        if len(self._pending) == PAIRS_OF_A_SHEET:
            self._write_sheet()

    def _picture(self, sample: Sample, tokens_RCD: Floats, outliers_RC: npt.NDArray[np.bool_]) -> FeaturePicture:
        photo = sample.picture.decode()
        placement = Placement(eval_transform(self.tokens.classifier.spec).geometry(*photo.size), *outliers_RC.shape)
        photo.thumbnail((_PHOTO, _PHOTO), Image.Resampling.LANCZOS, reducing_gap=2.0)
        fit, has_query = self.fit, sample.name == self._query_name
        return FeaturePicture(
            photo_HWC=np.asarray(photo),
            placement=placement,
            name=sample.name,
            colours_RC3=to_colours(fit.components.project(tokens_RCD), fit.low_K, fit.high_K),
            outliers_RC=outliers_RC,
            foreground_RC=None if fit.foreground is None else fit.foreground.mask(tokens_RCD),
            regions_RC=region_labels(fit, tokens_RCD),
            similarity_RC=None if self._query_D is None else self._similarity(tokens_RCD),
            query=self._query if has_query else None,
        )

    def _write_sheet(self) -> None:
        assert self.out is not None
        number, of = len(self.sheets) + 1, ceil(len(self.figures) / PAIRS_OF_A_SHEET)
        path = self.out / (f"features.{self.settings.kind}" if of == 1 else f"features-{number}.{self.settings.kind}")
        title = f"Patch features of {count_of(len(self.figures), 'picture')}" + (
            f", sheet {number} of {of}" if of > 1 else ""
        )
        save_feature_sheet(self._pending, self.words, path, self._provenance(None).to_metadata(), title=title)
        self.sheets.append(path)
        self._pending = []

    def _provenance(self, sample: Sample | None) -> Provenance:
        classifier, settings = self.tokens.classifier, self.settings
        weights = classifier.weights
        images = str(self.images or count_of(len(self.figures), "picture"))
        is_folder = self.images is not None and self.images.is_dir()
        picture = images if sample is None else str(path_in(self.images, sample, is_folder) or sample.name)
        return Provenance(
            figure="patch features",
            model=self.model,
            weights_sha256=None if weights is None else weights.sha256,
            picture=picture,
            picture_sha256=None if sample is None else hashlib.sha256(sample.picture.read_bytes()).hexdigest(),
            layer=str(self.tokens.layer),
            precision=classifier.precision,
            options={"image_size": settings.image_size, "seed": settings.seed, "regions": settings.regions},
            command=self._command(),
        )

    def _command(self) -> str | None:
        """What draws the figures again; None of a model or pictures in memory."""
        if self.images is None or self.out is None or self.tokens.classifier.is_in_memory:
            return None
        words = ["vitrine", "features", self.model, str(self.images), "-o", str(self.out)]
        return shlex.join([*words, *self._flags()])

    def _flags(self) -> list[str]:
        settings, defaults = self.settings, FeatureSettings()
        query = None if settings.query is None else "{},{}".format(*settings.query)
        options: dict[str, tuple[Any, Any]] = {
            "--layer": (settings.layer, defaults.layer),
            "--image-size": (settings.image_size, defaults.image_size),
            "--regions": (settings.regions, defaults.regions),
            "--query": (query, None),
            "--query-picture": (settings.query_picture, None),
            "--masks": (settings.masks, None),
            "--category": (settings.category, None),
            "--components": (settings.components, None),
            "--format": (settings.kind, "png"),
            "--seed": (settings.seed, 0),
            "--arch": (self.architecture, None),
        }
        flags = [word for name, (value, default) in options.items() if value != default for word in (name, str(value))]
        flags += ["--foreground"] if settings.foreground else []
        flags += [] if settings.controls else ["--no-controls"]
        return [*flags, "--precision", self.tokens.classifier.precision]

    def finish(
        self, untrained: PatchTokens | None, region_agreement: RegionAgreement | None, notes: tuple[str, ...]
    ) -> FeaturesResult:
        """Write the table, and say what was made."""
        table = None if self.out is None else self.out / "features.csv"
        if table is not None:
            write_atomically(table, _table(self.records, self.out))
        fit, layout = self.fit, self.tokens.layout
        whole = fit.components if fit.foreground is None else fit.foreground.components
        shares = None
        if untrained is not None:
            control = fit_principal_components(batch.tokens_BRCD[~batch.outliers_BRC] for batch in untrained)
            shares = tuple(float(share) for share in control.variance_share_K)
        return FeaturesResult(
            out=self.out,
            pictures=tuple(self.records),
            table=table,
            sheets=tuple(self.sheets),
            components=None if self.out is None else self.out / COMPONENTS_FILE,
            layer=self.layer_words,
            grid=(layout.rows, layout.columns),
            channels=fit.components.components_KD.shape[1],
            variance_shares=tuple(float(share) for share in whole.variance_share_K),
            fitted_pictures=fit.pictures,
            untrained=shares,
            agreement=region_agreement,
            unreadable=tuple(self.tokens.unreadable),
            unwritten=tuple(self.unwritten),
            precision=self.tokens.classifier.precision,
            notes=notes,
        )
