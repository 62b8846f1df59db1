"""The captioner: assembled from parts, and the published one as a configuration of it."""

from vitrine.models.captioner.catr import RELEASES, fetch_release, load_catr, published_weights, release_path
from vitrine.models.captioner.config import CaptionModelConfig, catr_config
from vitrine.models.captioner.inference import prepare_for_prediction
from vitrine.models.captioner.model import CaptionModel, DecoderOutput, EncoderOutput, Features

__all__ = [
    "RELEASES",
    "CaptionModel",
    "CaptionModelConfig",
    "DecoderOutput",
    "EncoderOutput",
    "Features",
    "catr_config",
    "fetch_release",
    "load_catr",
    "prepare_for_prediction",
    "published_weights",
    "release_path",
]
