"""Captioners of the transformers library behind the package's own face: BLIP, GIT, and vision encoders with a text
decoder (``VisionEncoderDecoderModel``, such as ViT with GPT-2). Transformers is loaded when one is opened."""

from vitrine.models.transformers_captioners.files import MODEL_TYPES, is_transformers_captioner
from vitrine.models.transformers_captioners.image_settings import ImageSettings
from vitrine.models.transformers_captioners.opening import TransformersCaptioner, open_transformers_captioner

__all__ = [
    "MODEL_TYPES",
    "ImageSettings",
    "TransformersCaptioner",
    "is_transformers_captioner",
    "open_transformers_captioner",
]
