"""What a vision transformer's classifier reads: the features of a whole picture.

Axes: B pictures, C channels, H, W pixels, D features.
"""

from __future__ import annotations

from torch import Tensor, nn


class Pooled(nn.Module):
    """A timm vision transformer without its last layer.

    The class token, the mean of the patches, or whatever else the model's own head reads, after its last norm.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """(B, C, H, W), normalised, to (B, D)."""
        tokens = self.module.forward_features(pixels_BCHW)  # type: ignore[operator]
        features_BD: Tensor = self.module.forward_head(tokens, pre_logits=True)  # type: ignore[operator]
        return features_BD
