"""A new captioner round an image model whose weights are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitrine.config import CaptionSpec
from vitrine.config.preprocessing import CaptionInput
from vitrine.errors import ModelError, error_summary
from vitrine.models.captioner.backbone import build_image_model
from vitrine.models.captioner.config import CaptionModelConfig
from vitrine.models.captioner.model import CaptionModel
from vitrine.models.checkpoints.state_dict import open_weights
from vitrine.models.load import input_spec, load_model
from vitrine.models.reference import ModelReference, WeightsFile, resolve_reference
from vitrine.models.timm_model import create_timm_model


@dataclass(frozen=True)
class LoadedCaptioner:
    """A captioner with its weights and their origin, to be trained or to be made ready to predict.

    Attributes:
        model: float32, on the CPU, with its vocabulary.
        input: how its pictures are prepared.
        weights: the file its weights came from; None for random ones.
        notes: sentences on which files are in use, and what was done to make the weights fit.
        folder: of the run that it is; None of others.
    """

    model: CaptionModel
    input: CaptionInput
    weights: WeightsFile | None
    notes: tuple[str, ...] = ()
    folder: Path | None = None


def build_captioner(
    reference: str | ModelReference,
    spec: CaptionSpec,
    vocabulary: Any,
    *,
    pretrained: bool | str = True,
    image_size: int = 0,
    model_args: Mapping[str, Any] | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
) -> LoadedCaptioner:
    """Build a captioner: the image encoder with its weights, everything else random from torch's global seed.

    A vision transformer sees whole pictures of any shape, in patches; a convolutional network likewise, its batch norm
    fixed where its weights are pretrained (as DETR and CATR do it).

    Args:
        reference: of the image model.
        spec: of everything else.
        vocabulary: of its token ids.
        pretrained: as in :func:`vitrine.models.load.load_model`.
        image_size: long side of the pictures; 0 asks the image model.
        model_args: timm constructor arguments of the image model.
        mean: of the normalisation; None asks the image model.
        std: likewise.

    Raises:
        ModelError: unknown model, unusable arguments, or weights that do not fit.
        WeightsUnavailableError: the weights are not here and cannot be fetched.
    """
    if isinstance(reference, str):
        own_file = pretrained if isinstance(pretrained, str) else None
        reference = resolve_reference(reference, model_args, own_file)
    if _has_patches(reference):
        args = dict(model_args or {}) | {"dynamic_img_size": True}
        model = load_model(reference, pretrained=pretrained, image_size=image_size, num_classes=0, model_args=args)
        module, weights, notes, frozen_norm = model.module, model.weights, model.notes, False
        image_args = {key: value for key, value in model.reference.model_args.items() if key != "num_classes"} | args
        if image_size:
            image_args["img_size"] = image_size
        size, multiple = max(input_spec(module).size), int(module.patch_embed.patch_size[0])  # type: ignore[union-attr,index]
    else:
        image_args, frozen_norm, notes = {**reference.model_args, **(model_args or {})}, pretrained is not False, ()
        module, weights = _load_convolutional(reference, image_args, pretrained)
        size, multiple = image_size or int(reference.pretrained_cfg["input_size"][-1]), 1
    config = CaptionModelConfig(
        image_model=reference.architecture,
        image_args=image_args,
        stage=spec.stage,
        frozen_norm=frozen_norm,
        vocabulary_size=vocabulary.size,
        width=spec.width,
        heads=spec.heads,
        encoder_layers=spec.encoder_layers,
        decoder_layers=spec.decoder_layers,
        feed_forward=spec.feed_forward,
        dropout=spec.dropout,
        head_widths=(spec.head_width,) * 2 if spec.head_width else (),
        max_length=spec.longest,
        start=vocabulary.start,
        end=vocabulary.end,
        pad=vocabulary.pad,
    )
    normalisation: Mapping[str, Any] = reference.pretrained_cfg
    caption_input = CaptionInput(
        size, multiple, mean or tuple(normalisation["mean"]), std or tuple(normalisation["std"])
    )
    notes = tuple(note for note in notes if "classification head" not in note)  # a captioner has none
    return LoadedCaptioner(CaptionModel(config, module, vocabulary), caption_input, weights, notes)


def _has_patches(reference: ModelReference) -> bool:
    """Whether it is a vision transformer."""
    with torch.device("meta"):
        try:
            return hasattr(create_timm_model(reference.architecture, **reference.model_args), "patch_embed")
        except Exception as error:  # arguments from a file: timm checks none before it uses them
            raise ModelError(f"{reference.text} cannot be built: {error_summary(error)}") from error


def _load_convolutional(
    reference: ModelReference, args: Mapping[str, Any], pretrained: bool | str
) -> tuple[nn.Module, WeightsFile | None]:
    """A convolutional network of timm; with weights, its batch norm is fixed."""
    if pretrained is False:
        return build_image_model(reference.architecture, args, frozen_norm=False), None
    weights = reference.weights
    module = build_image_model(reference.architecture, args, frozen_norm=True)
    heads = (reference.pretrained_cfg.get("classifier") or "fc",)
    tensors = {
        name: value
        for name, value in open_weights(weights.path).tensors().items()
        if not name.endswith("num_batches_tracked") and name.rpartition(".")[0] not in heads
    }
    names = {name for name in module.state_dict() if name.rpartition(".")[0] not in heads}
    if differing := sorted(names ^ tensors.keys()):
        examples = ", ".join(differing[:4])
        raise ModelError(
            f"{weights.path} does not fit {reference.architecture}: {examples} ({len(differing)} in all) differ."
        )
    try:
        module.load_state_dict(tensors, strict=False)  # names were compared above; the head alone is left out
    except RuntimeError as error:
        raise ModelError(
            f"{weights.path} does not fit {reference.architecture}: {error_summary(error, 240)}"
        ) from error
    return module, weights
