"""What a recipe says of a captioner beyond what it says of every model, as data."""

from __future__ import annotations

from dataclasses import dataclass

from vitrine.recipes.checks import refuse, require_number

FROM_CAPTIONS = "captions"


@dataclass(frozen=True)
class CaptionSpec:
    """A captioner round the recipe's ``model``, which becomes its image encoder.

    What belongs to the architecture and the vocabulary is not read where ``model`` is a captioner itself: that one is
    trained on as it is.

    Attributes:
        vocabulary: ``captions`` learns word pieces from the training captions; or the path of a ``vocab.txt`` or
            ``tokenizer.json``.
        vocabulary_size: pieces at most that are learnt.
        stage: whose features of the image model are used: a block or stage from 0, or from the end with -1. Features of
            earlier ones say less of what is there, and more of where.
        width: of the transformer's tokens; a multiple of 4 and of ``heads``.
        heads, encoder_layers, decoder_layers, feed_forward: of the transformer.
        head_width: of the two hidden layers between a token and the vocabulary; 0 leaves them out.
        dropout: on embeddings, attention and every residual branch.
        longest: word pieces of a caption at most, its start and end included; longer ones are cut.
        captions_a_picture: how many captions of a picture are learnt in an epoch at most; where it has more, they are
            drawn anew for every epoch.
        word_dropout: share of the words before that the model does not get to see while it learns the next one.
        backbone_learning_rate: peak of the schedule for the image encoder, whose start is pretrained; everything else
            has ``learning_rate``.
    """

    vocabulary: str = FROM_CAPTIONS
    vocabulary_size: int = 8_000
    stage: int = -1
    width: int = 256
    heads: int = 8
    encoder_layers: int = 3
    decoder_layers: int = 3
    feed_forward: int = 1_024
    head_width: int = 0
    dropout: float = 0.1
    longest: int = 64
    captions_a_picture: int = 5
    word_dropout: float = 0.0
    backbone_learning_rate: float = 1e-5

    def __post_init__(self) -> None:
        if not self.vocabulary or not isinstance(self.vocabulary, str):
            raise refuse("caption.vocabulary", self.vocabulary, f"{FROM_CAPTIONS!r} or the path of a vocabulary")
        for name in ("vocabulary_size", "width", "heads", "decoder_layers", "feed_forward", "captions_a_picture"):
            require_number(f"caption.{name}", getattr(self, name), 1, whole=True)
        require_number("caption.stage", self.stage, -1_000, 1_000, whole=True)
        for name in ("encoder_layers", "head_width"):
            require_number(f"caption.{name}", getattr(self, name), 0, whole=True)
        require_number("caption.longest", self.longest, 3, whole=True)
        for name in ("dropout", "word_dropout"):
            require_number(f"caption.{name}", getattr(self, name), 0, 0.99)
        require_number("caption.backbone_learning_rate", self.backbone_learning_rate, 0)
        if self.width % 4 or self.width % self.heads:
            raise refuse("caption.width", self.width, f"a multiple of 4 and of caption.heads = {self.heads}")
