"""The settings that say which captioner is built; the published one is a set of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

PADDINGS = ("pixels", "features")

_SAVED_AS = {"max_length": "longest"}  # fields that have another name in a saved config.json


@dataclass(frozen=True)
class CaptionModelConfig:
    """A captioner's architecture; :meth:`to_dict` and :meth:`from_dict` write and read it.

    Attributes:
        image_model: timm name of the image encoder: a convolutional network or a vision transformer.
        vocabulary_size: number of word pieces.
        image_args: timm constructor arguments of the image encoder.
        stage: whose features are used: timm's ``forward_intermediates`` index; -1 is the last. A vision transformer's
            are patch tokens after its final norm, prefix tokens left out.
        frozen_norm: batch norm with fixed statistics and weights, eps 1e-5, as DETR and CATR have it.
        padding: how pictures of different sizes share a batch. "pixels" pads them with zeros before the image encoder,
            as the published captioner was trained: a picture's features then depend a little on its neighbours'
            sizes. "features" encodes pictures of each size together and pads their features, so that a picture's
            words do not depend on its neighbours. With pictures of one size both are the same.
        width: of the transformer's tokens; a multiple of 4 and of ``heads``.
        heads, encoder_layers, decoder_layers, feed_forward: of the transformer.
        dropout: in training, on embeddings, attention, and every residual branch.
        head_widths: hidden widths of the layers from a token to the vocabulary's logits.
        max_length: positions at most, the start included.
        start, end, pad: word-piece ids.
        embedding_eps: of the LayerNorm after the embeddings; every other one has 1e-5.

    Raises:
        ValueError: sizes that do not fit one another; it names the field.
    """

    image_model: str
    vocabulary_size: int
    image_args: Mapping[str, Any] = field(default_factory=dict)
    stage: int = -1
    frozen_norm: bool = False
    padding: str = "features"
    width: int = 256
    heads: int = 8
    encoder_layers: int = 6
    decoder_layers: int = 6
    feed_forward: int = 2048
    dropout: float = 0.1
    head_widths: tuple[int, ...] = (512, 512)
    max_length: int = 128
    start: int = 101
    end: int = 102
    pad: int = 0
    embedding_eps: float = 1e-12

    def __post_init__(self) -> None:
        object.__setattr__(self, "head_widths", tuple(self.head_widths))  # JSON has lists only
        for name in ("vocabulary_size", "width", "heads", "decoder_layers", "feed_forward", "max_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: expected 1 or more.")
        if self.encoder_layers < 0:
            raise ValueError(f"encoder_layers = {self.encoder_layers}: expected 0 or more.")
        if self.width % 4 or self.width % self.heads:
            raise ValueError(
                f"width = {self.width}: expected a multiple of 4 (sine and cosine of rows and columns) and of "
                f"heads = {self.heads}."
            )
        for name in ("start", "end", "pad"):
            if not 0 <= getattr(self, name) < self.vocabulary_size:
                raise ValueError(f"{name} = {getattr(self, name)}: expected an id below {self.vocabulary_size}.")
        if self.padding not in PADDINGS:
            raise ValueError(f"padding = {self.padding!r}: expected one of {', '.join(PADDINGS)}.")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, under the names that a saved config.json has."""
        return {_SAVED_AS.get(name, name): value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> CaptionModelConfig:
        """Read what :meth:`to_dict` gave.

        Raises:
            TypeError: an unknown name, or a field without default is missing.
            ValueError: as the constructor.
        """
        names = {stored_name: name for name, stored_name in _SAVED_AS.items()}
        return cls(**{names.get(name, name): value for name, value in content.items()})


def catr_config(padding: str = "pixels") -> CaptionModelConfig:
    """The published captioner (CATR v1 to v3, github.com/saahiluppal/catr, 2020, after DETR, arXiv:2005.12872).

    ResNet-101, last stage dilated in place of its stride, frozen batch norm; six and six layers of width 256; the word
    pieces of bert-base-uncased.

    Args:
        padding: see :class:`CaptionModelConfig`. Its prediction script took one picture at a time, so "features" gives
            that script's words for batches of any sizes.
    """
    return CaptionModelConfig(
        image_model="resnet101",
        image_args={"output_stride": 16},
        frozen_norm=True,
        padding=padding,
        vocabulary_size=30522,
    )
