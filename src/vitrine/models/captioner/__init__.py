"""The captioner: assembled from parts, and the published one as a configuration of it."""

from vitrine.models.captioner.catr import published_weights
from vitrine.models.captioner.config import CaptionModelConfig, catr_config
from vitrine.models.captioner.features import Features
from vitrine.models.captioner.interface import Memory, Step
from vitrine.models.captioner.loading import load_catr
from vitrine.models.captioner.model import CaptionModel
from vitrine.models.captioner.prediction import prepare_for_prediction
from vitrine.models.captioner.released import RELEASES, fetch_release, release_path

__all__ = [
    "RELEASES",
    "CaptionModel",
    "CaptionModelConfig",
    "Features",
    "Memory",
    "Step",
    "catr_config",
    "fetch_release",
    "load_catr",
    "prepare_for_prediction",
    "published_weights",
    "release_path",
]
