"""Pictures of a training before it begins: its first batch, its classes, and what becomes of single pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from vitrine.config import TransformSpec
from vitrine.config.preprocessing import InputSpec
from vitrine.data.loader import PictureLoader, sample_rng
from vitrine.data.samples import Sample
from vitrine.data.transforms import EvalTransform, TrainChange, TrainTransform
from vitrine.errors import PictureError
from vitrine.plotting.provenance import Provenance
from vitrine.plotting.style import save
from vitrine.results import join_words
from vitrine.train.class_balance import count_labels
from vitrine.train.data import TrainingData
from vitrine.train.figures.batch import LabelledPixels, batch_figure
from vitrine.train.figures.classes import EXAMPLES, ClassRow, choose_classes, classes_figure
from vitrine.train.figures.mosaic import Pixels
from vitrine.train.figures.views import VIEWS, PictureViews, Rectangle, views_figure
from vitrine.train.settings import BatchSettings

_IN_BATCH = 32  # pictures of the first batch that are drawn
_THUMBNAIL, _PHOTO = 128, 640  # longest side in pixels of what is drawn small, and of a photograph
_MAX_PIXELS = 300_000_000  # of the classes' examples, which takes seconds to decode
_FROM_STREAM_EACH = 50  # pictures a class, of data without an end
_AT_RANDOM = 2  # pictures on views.png besides those of an unusual shape and size


@dataclass(frozen=True)
class Preview:
    """What is drawn of a training before it begins.

    Attributes:
        data: of the training, none of it a stream of shards.
        settings: of its batches.
        input: of its model.
        weights_N: how often each picture is drawn, where the classes are balanced so.
    """

    data: TrainingData
    settings: BatchSettings
    input: InputSpec
    weights_N: npt.NDArray[np.float64] | None = None

    def save(self, folder: Path, model: str) -> tuple[Path, ...]:
        """Write batch.png, classes.png and views.png into a folder; what was written."""
        noun = "labels" if self.data.source.is_multi_label else "classes"
        classes, first = len(self.data.source.labels), len(self._class_samples()) if self.data.train.endless else 0
        figures = {
            "batch": ("first batch of a training", batch_figure(self.first_batch(), self._details())),
            "classes": ("classes of a training", classes_figure(self.class_rows(), classes, noun=noun, first=first)),
        }
        if views := self.picture_views():
            figures["views"] = ("pictures on their way into a training", views_figure(views))
        for name, (what, figure) in figures.items():
            save(figure, folder / f"{name}.png", Provenance(figure=what, model=model).to_metadata())
        return tuple(folder / f"{name}.png" for name in figures)

    def first_batch(self) -> list[LabelledPixels]:
        """The first pictures of the first batch, with the very changes that the model gets them with."""
        settings, samples = self.settings, self._samples()
        size = min(settings.batch_size, _IN_BATCH)
        with PictureLoader(TrainTransform(settings.transforms, self.input.size), size, workers=0) as loader:
            batch = next(
                loader.epoch(
                    samples,
                    seed=settings.seed,
                    shuffle=True,
                    view=settings.view(0) if settings.views or not settings.transforms.is_random else None,
                    weights_N=self.weights_N,
                )
            )
        pixels_BHWC = batch.pixels_BCHW.permute(0, 2, 3, 1).numpy()
        return [
            LabelledPixels(pixels_HWC, self._label(samples[index]))
            for pixels_HWC, index in zip(pixels_BHWC, batch.indices_B.tolist(), strict=True)
        ]

    def class_rows(self) -> list[ClassRow]:
        """The classes with their pictures, those with the most first; of endless data, with the first pictures."""
        labels, samples = self.data.source.labels, self._class_samples()
        train, validation = (
            count_labels((each.label_set for each in split), len(labels)) for split in (samples, self.data.validation)
        )
        drawn_classes = choose_classes(train.tolist())
        examples = self._examples(samples, drawn_classes)
        return [
            ClassRow(labels[each], int(train[each]), int(validation[each]), tuple(examples[each]))
            for each in drawn_classes
        ]

    def _class_samples(self) -> tuple[Sample, ...]:
        """The training pictures; of a stream without an end, so many as tell how often each class comes."""
        samples = self._samples()
        if not self.data.train.endless:
            return tuple(samples)
        return tuple(islice(samples, _FROM_STREAM_EACH * max(1, len(self.data.source.labels))))

    def _examples(self, samples: Sequence[Sample], classes: Sequence[int]) -> dict[int, list[Pixels]]:
        """A few pictures of each class, drawn at random; fewer where they are so large that it would take long."""
        areas = [width * height for width, height in self.data.index.sizes.values()]
        mean_area = sum(areas) / max(1, len(areas))
        count = next((n for n in (EXAMPLES, 2) if n * len(classes) * mean_area <= _MAX_PIXELS), 1)
        examples: dict[int, list[Pixels]] = {each: [] for each in classes}
        missing = len(classes) * count
        for position in np.random.default_rng(self.settings.seed).permutation(len(samples)):
            if not missing:
                break
            sample = samples[int(position)]
            hungry = [each for each in sample.label_set if len(examples.get(each, range(count))) < count]
            pixels_HWC = _thumbnail(sample, _THUMBNAIL) if hungry else None
            if pixels_HWC is not None:
                for each in hungry:
                    examples[each].append(pixels_HWC)
                    missing -= 1
        return examples

    def picture_views(self) -> list[PictureViews]:
        """Pictures of the most unusual shape and size, and some at random, with what becomes of each."""
        samples = self._samples()
        return [
            views for at, why in self._positions(samples) if (views := self._views(samples[at], at, why)) is not None
        ]

    def _positions(self, samples: Sequence[Sample]) -> Iterator[tuple[int, str]]:
        """Positions of pictures with the reason for each."""
        sizes = [self.data.index.sizes.get(each.name) for each in samples] if not self.data.train.endless else []
        sized_samples = [(at, size) for at, size in enumerate(sizes) if size is not None]
        reasons: dict[int, str] = {}
        if len({size for _, size in sized_samples}) > 1:
            reasons[max(sized_samples, key=lambda row: row[1][0] / row[1][1])[0]] = "the broadest"
            reasons.setdefault(min(sized_samples, key=lambda row: row[1][0] / row[1][1])[0], "the tallest")
            reasons.setdefault(min(sized_samples, key=lambda row: row[1][0] * row[1][1])[0], "the smallest")
        rest = np.random.default_rng(self.settings.seed).permutation(len(samples))
        at_random = [int(at) for at in rest[: _AT_RANDOM + 3] if int(at) not in reasons][
            : _AT_RANDOM + 3 * (not reasons)
        ]
        yield from reasons.items()
        yield from ((at, "drawn at random") for at in at_random)

    def _views(self, sample: Sample, position: int, reason: str) -> PictureViews | None:
        try:
            image = sample.picture.decode()
        except PictureError:  # a file that is gone since it was read
            return None
        settings = self.settings
        evaluation, training = EvalTransform(self.input), TrainTransform(settings.transforms, self.input.size)
        changes = [
            training.draw(*image.size, sample_rng(settings.seed, settings.view(epoch), position))
            for epoch in range(VIEWS)
        ]
        return PictureViews(
            reason,
            self._label(sample),
            image.size,
            _reduce(image, _PHOTO),
            evaluation(image),
            tuple(training.apply(image, change) for change in changes),
            _shares(evaluation.geometry(*image.size).box, image.size),
            tuple(_crop_shares(change, image.size) for change in changes if not change.angle),
        )

    def _samples(self) -> Sequence[Sample]:
        return self.data.train.for_epoch(0, self.settings.epoch_size)

    def _label(self, sample: Sample) -> str:
        return self.data.source.label_text(sample) or "no label"

    def _details(self) -> list[str]:
        height, width = self.input.size
        mean, std = (", ".join(f"{value:.3g}" for value in values) for values in (self.input.mean, self.input.std))
        return [
            f"At {width} × {height} px, after {describe_changes(self.settings.transforms)}; before the normalisation "
            f"with mean {mean} and deviation {std}.",
            "Are the labels right, is the object inside, upright and recognisable, are the colours possible?",
        ]


def describe_changes(transforms: TransformSpec) -> str:
    """The random changes in words, such as ``crops of 50 to 100 % of the area, mirrored in 50 %``."""
    low, high = transforms.crop_scale
    parts = [f"crops of {100 * low:.3g} to {100 * high:.3g} % of the area"] if (low, high) != (1.0, 1.0) else []
    parts += [f"turned by up to {transforms.rotation:g}°"] if transforms.rotation else []
    parts += [f"mirrored in {100 * transforms.flip:.3g} %"] if transforms.flip else []
    parts += [f"turned by a multiple of 90° in {100 * transforms.turn:.3g} %"] if transforms.turn else []
    strengths: dict[float, list[str]] = {}
    for name in ("brightness", "contrast", "saturation"):
        strengths.setdefault(getattr(transforms, name), []).append(name)
    parts += [f"{join_words(names)} by up to {100 * each:.3g} %" for each, names in strengths.items() if each]
    parts += [f"a rectangle of noise in {100 * transforms.erase:.3g} %"] if transforms.erase else []
    return ", ".join(parts) or "no random change"


def _thumbnail(sample: Sample, longest: int) -> Pixels | None:
    try:
        return _reduce(sample.picture.decode(), longest)
    except PictureError:  # a file that is gone since it was read
        return None


def _reduce(image: Image.Image, longest: int) -> Pixels:
    copy = image.convert("RGB")
    copy.thumbnail((longest, longest))
    return np.array(copy)


def _shares(box: tuple[float, float, float, float], size: tuple[int, int]) -> Rectangle:
    """A box in a picture's pixels as shares of its sides, without what lies outside."""
    left, top, right, bottom = (
        min(1.0, max(0.0, value / side)) for value, side in zip(box, (*size, *size), strict=True)
    )
    return left, top, right, bottom


def _crop_shares(change: TrainChange, size: tuple[int, int]) -> Rectangle:
    crop = change.crop
    return _shares((crop.left, crop.top, crop.left + crop.width, crop.top + crop.height), size)
