"""The function features: what a model's patch tokens tell apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vitrine.api.options import PathLike, csv_cells, optional_path, require_counts, require_out
from vitrine.api.progress import reading_progress, say_notes, say_unreadable, say_unwritten
from vitrine.errors import UsageError
from vitrine.messages import quiet_messages

if TYPE_CHECKING:
    from vitrine.api.load import ModelLike
    from vitrine.features.run import FeaturesResult


def features(
    model: ModelLike,
    images: Any,
    out: PathLike | None = None,
    *,
    layer: int = -1,
    image_size: int = 0,
    foreground: bool = False,
    regions: int = 0,
    query: tuple[int, int] | None = None,
    query_picture: str | None = None,
    masks: PathLike | None = None,
    category: str | None = None,
    controls: bool = True,
    components: PathLike | None = None,
    limit: int | None = None,
    format: str = "png",  # noqa: A002  the command line's word
    seed: int = 0,
    batch_size: int = 16,
    precision: str = "auto",
    arch: str | None = None,
    csv_safe: bool = False,
    quiet: bool = False,
) -> FeaturesResult:
    """Draw what a model's patch features tell apart: components as colours, regions, and patches that are alike.

    Components are fitted to all pictures together, which are read several times: those of a generator are all kept.

    Args:
        model: a model reference, what :func:`vitrine.load` opened, or a module in memory; it needs no head.
        images: pictures, as :func:`vitrine.predict` takes them.
        out: the folder for figures, a sheet, features.csv and components.safetensors; None keeps all in memory, as the
            result's ``pictures``, which draw themselves.
        layer: whose tokens: from 0, or from the end with -1.
        image_size: side of the model's input in pixels; 0 is its own. More shows smaller patches.
        foreground: colour the foreground alone, as the first component tells it.
        regions: groups of patches that are alike, 2 to 10; 0 draws none.
        query: a patch as (row, column), from 0 or from the end with -1, that all patches are compared with.
        query_picture: the name of the picture that it is in; None is the first one.
        masks: what regions are compared with: a folder of masks, or COCO instances; None is ``masks/`` near the data.
        category: of COCO instances: the category whose instances are inside.
        controls: also run the model untrained, for its numbers; never of a module in memory.
        components: components.safetensors of an earlier call: the same colours for other pictures.
        limit: pictures at most, drawn with ``seed``, or of a generator the first ones; None is all.
        format: png or svg, of the figures.
        seed: of the choice of pictures, the regions, and the untrained model.
        batch_size: pictures at a time.
        precision: fp32, bf16, or auto: bf16 where the hardware has it and the model is wide enough.
        arch: the timm name of the model, where ``model`` is a weights file.
        csv_safe: write an apostrophe before cells that a spreadsheet would compute.
        quiet: show no progress and say nothing.

    Raises:
        DataError: no pictures, none that can be read, or components of something else.
        ModelError: the model cannot be used, or has no such layer or patch.
        UsageError: options that do not go together.

    Examples:
        >>> result = vitrine.features("vitrine/scenes-tiny", "photos/test", "features", limit=2, quiet=True)
        >>> len(result.pictures), len(result.variance_shares)
        (2, 3)
        >>> vitrine.features("vitrine/scenes-tiny", ["cat.jpg"], quiet=True).pictures[0].colours_RC3.shape
        (8, 8, 3)
    """
    from vitrine.api.load import in_eval_mode, open_once
    from vitrine.caption.model import Captioner
    from vitrine.data.picture_inputs import picture_input
    from vitrine.features.run import FeatureSettings
    from vitrine.features.run import features as run_features

    require_counts(batch_size=batch_size, limit=limit)
    require_out(out, format=format != "png", csv_safe=csv_safe)
    if format not in ("png", "svg"):
        raise UsageError(f"--format {format} cannot be used: expected png or svg.")
    if category is not None and masks is None:
        raise UsageError("--category is of --masks with COCO instances: give these, too.")
    if masks is not None and not regions and components is None:
        raise UsageError("--masks is what regions are compared with: give --regions, too.")
    settings = FeatureSettings(
        layer,
        image_size,
        foreground,
        regions,
        query,
        query_picture,
        optional_path(masks),
        category,
        controls,
        optional_path(components),
        format,
        seed,
    )
    pictures, classifier = picture_input(images), open_once(model, features=True)
    if isinstance(classifier, Captioner):
        raise UsageError(f"{classifier.reference} is a captioner, whose patch features are not looked at.")
    with (
        quiet_messages(quiet),
        csv_cells(csv_safe),
        in_eval_mode(classifier),
        reading_progress("Reading features") as progress,
    ):
        result = run_features(
            classifier,
            pictures,
            optional_path(out),
            settings,
            limit=limit,
            batch_size=batch_size,
            precision=precision,
            architecture=arch,
            progress=progress,
        )
        say_notes(result.notes)
        say_unreadable(result.unreadable)
        say_unwritten(result.unwritten)
        return result
