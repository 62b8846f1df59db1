"""The published captioner as its prediction script runs it: the whole network again for every word.

From a checkout of its code, or a stand-in of it. Letters: B pictures, D channels, V vocabulary.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

POSITIONS, VOCABULARY = 128, 30522
START = 101


class StandIn(nn.Module):
    """The published network of plain torch and torchvision modules, under the published names.

    Everything that costs time is as it was published: nothing is folded or fused, attention weights are formed, encoder
    and image are computed anew for each word, and the decoder and the last layer to the vocabulary run over all 128
    positions.
    """

    def __init__(self) -> None:
        super().__init__()
        body = torchvision.models.resnet101(
            weights=None,
            replace_stride_with_dilation=[False, False, True],
            norm_layer=torchvision.ops.FrozenBatchNorm2d,
        )
        del body.avgpool, body.fc
        image = nn.Module()
        image.body = body
        self.backbone = nn.ModuleList([image])
        self.input_proj = nn.Conv2d(2048, 256, 1)
        self.transformer = nn.Module()
        self.transformer.encoder = _stack(_Layer(cross=False) for _ in range(6))
        self.transformer.decoder = _stack(_Layer(cross=True) for _ in range(6))
        self.transformer.embeddings = words = nn.Module()
        words.word_embeddings = nn.Embedding(VOCABULARY, 256, padding_idx=0)
        words.position_embeddings = nn.Embedding(POSITIONS, 256)
        words.LayerNorm = nn.LayerNorm(256, eps=1e-12)
        self.mlp = nn.Module()
        self.mlp.layers = nn.ModuleList([nn.Linear(256, 512), nn.Linear(512, 512), nn.Linear(512, VOCABULARY)])

    def forward(self, pixels_BHW: Tensor, ids_BT: Tensor, unused_BT: Tensor) -> Tensor:
        """Logits (B, 128, V) of pictures without padding, (B, 3, H, W); ``unused_BT`` is True where there is no word
        yet."""
        body = self.backbone[0].body
        x = body.maxpool(body.relu(body.bn1(body.conv1(pixels_BHW))))
        for stage in (body.layer1, body.layer2, body.layer3, body.layer4):
            x = stage(x)
        padded = torch.zeros(len(x), *x.shape[-2:], dtype=torch.bool, device=x.device)
        place = _sine(padded).flatten(1, 2).transpose(0, 1)
        memory = self.input_proj(x).flatten(2).permute(2, 0, 1)
        no_cell = padded.flatten(1)
        for layer in self.transformer.encoder.layers:
            memory = layer(memory, place, {"key_padding_mask": no_cell})
        memory = self.transformer.encoder.norm(memory)
        words = self.transformer.embeddings
        y = words.LayerNorm(words.word_embeddings(ids_BT) + words.position_embeddings.weight).transpose(0, 1)
        position = words.position_embeddings.weight[:, None].repeat(1, len(ids_BT), 1)
        later = torch.ones(POSITIONS, POSITIONS, dtype=torch.bool, device=x.device).triu(1)
        own = {"attn_mask": later, "key_padding_mask": unused_BT}
        for layer in self.transformer.decoder.layers:
            y = layer(y, position, own, (memory, memory + place, {"key_padding_mask": no_cell}))
        y = self.transformer.decoder.norm(y).transpose(0, 1)
        for linear in self.mlp.layers[:-1]:
            y = linear(y).relu()
        logits_BTV: Tensor = self.mlp.layers[-1](y)
        return logits_BTV


class _Layer(nn.Module):
    """An encoder or decoder layer: pre-norm, positions added to queries and keys."""

    def __init__(self, *, cross: bool) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(256, 8)
        if cross:
            self.multihead_attn = nn.MultiheadAttention(256, 8)
            self.norm3 = nn.LayerNorm(256)
        self.linear1, self.linear2 = nn.Linear(256, 2048), nn.Linear(2048, 256)
        self.norm1, self.norm2 = nn.LayerNorm(256), nn.LayerNorm(256)

    def forward(
        self, x: Tensor, place: Tensor, masks: Mapping[str, Tensor], picture: tuple[Tensor, Tensor, Any] | None = None
    ) -> Tensor:
        seen = self.norm1(x)
        x = x + self.self_attn(seen + place, seen + place, seen, **masks)[0]
        last = self.norm2
        if picture is not None:
            memory, placed, hidden = picture
            x = x + self.multihead_attn(self.norm2(x) + place, placed, memory, **hidden)[0]
            last = self.norm3
        return x + self.linear2(self.linear1(last(x)).relu())


def _stack(layers: Iterator[_Layer]) -> nn.Module:
    stack = nn.Module()
    stack.layers, stack.norm = nn.ModuleList(layers), nn.LayerNorm(256)
    return stack


def _sine(padded_BRC: Tensor) -> Tensor:
    """Sine and cosine of rows and columns, (B, R, C, 256)."""
    real = ~padded_BRC
    speed = 10000 ** (2 * (torch.arange(128, device=real.device) // 2) / 128)
    parts = []
    for axis in (1, 2):
        count = real.cumsum(axis, dtype=torch.float32)
        count = count / (count.select(axis, -1).unsqueeze(axis) + 1e-6) * 2 * math.pi
        angle = count[..., None] / speed
        parts.append(torch.stack((angle[..., 0::2].sin(), angle[..., 1::2].cos()), dim=4).flatten(3))
    return torch.cat(parts, dim=3)


class Published:
    """The published tool: its network, and how its prediction script goes from word to word.

    Attributes:
        name: what it is.
    """

    def __init__(
        self, weights: Mapping[str, Tensor], checkout: Path | None = None, device: torch.device | None = None
    ) -> None:
        """With these weights, under the published names; the code of ``checkout``, or the stand-in."""
        self.name = "published code" if checkout else "stand-in of the published code"
        self._module = _built(checkout) if checkout else StandIn()
        self._module.load_state_dict(weights)
        self._module.eval().to(device)

    @torch.no_grad()
    def words(self, pixels_BHW: Tensor, count: int) -> list[int]:
        """So many words, greedily, whether or not the end is among them; as its script finds them."""
        ids_BT, unused_BT = _template(pixels_BHW.device)
        for i in range(count):
            with warnings.catch_warnings():  # of masks whose types differ
                warnings.simplefilter("ignore")
                following_V = self._module(pixels_BHW, ids_BT, unused_BT)[:, i, :]
            ids_BT[:, i + 1] = following_V.argmax(-1)
            unused_BT[:, i + 1] = False
        return ids_BT[0, 1 : count + 1].tolist()

    @torch.no_grad()
    def logits(self, pixels_BHW: Tensor, ids: list[int]) -> Tensor:
        """After the start and after each of these words, (words + 1, V)."""
        ids_BT, unused_BT = _template(pixels_BHW.device)
        ids_BT[0, 1 : len(ids) + 1] = torch.tensor(ids)
        unused_BT[0, : len(ids) + 1] = False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logits_TV: Tensor = self._module(pixels_BHW, ids_BT, unused_BT)[0, : len(ids) + 1]
        return logits_TV.cpu()


def _template(device: torch.device) -> tuple[Tensor, Tensor]:
    ids_BT = torch.zeros(1, POSITIONS, dtype=torch.long, device=device)
    unused_BT = torch.ones(1, POSITIONS, dtype=torch.bool, device=device)
    ids_BT[:, 0], unused_BT[:, 0] = START, False
    return ids_BT, unused_BT


def _built(checkout: Path) -> nn.Module:
    """The network of a checkout's own code, without the image weights that it would download."""
    with _first_on_path(checkout), _without_download():
        from configuration import Config
        from models.caption import build_model

        module: nn.Module = build_model(Config())[0]
    return module


@contextmanager
def _first_on_path(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


@contextmanager
def _without_download() -> Iterator[None]:
    original = torchvision.models.resnet101
    torchvision.models.resnet101 = lambda pretrained=True, weights=None, **more: original(**more)  # noqa: ARG005
    try:
        yield
    finally:
        torchvision.models.resnet101 = original
