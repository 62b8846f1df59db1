"""A captioner made ready to predict: the same numbers up to rounding, sooner."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.resnet import Bottleneck
from torch import Tensor, nn

from vitrine.models import precision
from vitrine.models.captioner.backbone import fold_frozen_norms
from vitrine.models.captioner.layers import Attention
from vitrine.models.captioner.model import CaptionModel

_LARGE = 1 << 19  # weights, from which on it pays: the feed-forward layers of the published captioner, and its last one


def pack_linears(module: nn.Module) -> int:
    """Put a :class:`PackedLinear` in the place of every large linear layer; names and parameters stay.

    Returns:
        how many were replaced.
    """
    replaced = 0
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and child.weight.numel() >= _LARGE:
                setattr(parent, name, PackedLinear(child))
                replaced += 1
    return replaced


class _Packed(nn.Module):
    """A layer with a second copy of its weights.

    The copy is made when it is first needed, by a forward pass without gradients on the CPU, and dropped when the
    module is moved or cast. Whoever changes the weights in place afterwards calls :meth:`forget`. Where torch has no
    oneDNN, and under autocast, the layer computes as its base class does.
    """

    weight: Tensor
    _copy: Tensor | None = None

    def forget(self) -> None:
        """Drop the second copy."""
        self._copy = None

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles, which cannot hold what oneDNN keeps."""
        return self.__dict__ | {"_copy": None}

    def _usable(self, x: Tensor) -> bool:
        """Whether the second copy may serve for this input."""
        fits = x.dtype == self.weight.dtype and x.device.type == "cpu"
        plain = not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
        return fits and plain and precision.packs(x.dtype)

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        self.forget()
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]


class PackedLinear(_Packed, nn.Linear):
    """A linear layer for a few rows at once: beams, batches of pictures, cells of a grid.

    From two rows on, a product with a large matrix otherwise spends its time bringing the weights into order, at each
    call: five rows times the 512 x 30,522 weights of the published captioner's last layer take 3.3 ms on one core with
    AVX-512 in place of 9.3, sixteen take 6.1 in place of 16. One row reads the weights as they lie.
    """

    def __init__(self, linear: nn.Linear) -> None:
        """With the parameters of ``linear``, which are shared."""
        super().__init__(linear.in_features, linear.out_features, device="meta")
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x_NI: Tensor) -> Tensor:
        """(..., O)."""
        if x_NI.numel() <= self.in_features or not self._usable(x_NI):
            return super().forward(x_NI)
        if self._copy is None:
            self._copy = precision.pack_linear(self.weight)
        return precision.linear(x_NI, self._copy, self.bias)


class PackedConvolution(_Packed, nn.Conv2d):
    """A convolution, and what comes after it in the same pass over memory: a sum, a ReLU."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        """With the parameters of ``convolution``, which are shared."""
        own: Any = convolution  # whose sizes are declared as tuples of any length
        super().__init__(
            own.in_channels,
            own.out_channels,
            own.kernel_size,
            stride=own.stride,
            padding=own.padding,
            dilation=own.dilation,
            groups=own.groups,
            device="meta",
        )
        self.weight, self.bias = own.weight, own.bias

    def forward(self, x_BDHW: Tensor, *, relu: bool = False) -> Tensor:
        """As ``nn.Conv2d``, and its ReLU if wanted."""
        if not self._usable(x_BDHW):
            made_BDHW = super().forward(x_BDHW)
            return made_BDHW.relu() if relu else made_BDHW
        packed, where = self._ready(x_BDHW)
        after = "relu" if relu else "none"
        made: Tensor = torch.ops.mkldnn._convolution_pointwise(x_BDHW, packed, self.bias, *where, after, [], "")
        return made

    def add(self, x_BDHW: Tensor, shortcut_BDHW: Tensor) -> Tensor:
        """The ReLU of the convolution plus ``shortcut_BDHW``."""
        if not self._usable(x_BDHW):
            return (super().forward(x_BDHW) + shortcut_BDHW).relu()
        packed, where = self._ready(x_BDHW)
        made: Tensor = torch.ops.mkldnn._convolution_pointwise.binary(
            x_BDHW, shortcut_BDHW, packed, self.bias, *where, "add", 1.0, "relu", [], ""
        )
        return made

    def _ready(self, x_BDHW: Tensor) -> tuple[Tensor, tuple[Any, ...]]:
        where = (self.padding, self.stride, self.dilation, self.groups)
        if self._copy is None:
            shape = list(x_BDHW.shape)
            self._copy = torch.ops.mkldnn._reorder_convolution_weight(self.weight.detach(), *where, shape)
        return self._copy, where


class PackedBottleneck(nn.Module):
    """A bottleneck block of a ResNet whose norms are folded into its convolutions; names stay."""

    def __init__(self, block: Bottleneck) -> None:
        """With the parameters of ``block``, which are shared."""
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (PackedConvolution(c) for c in (block.conv1, block.conv2, block.conv3))
        self.downsample: nn.Sequential | None = None
        if block.downsample is not None:
            self.downsample = nn.Sequential(PackedConvolution(block.downsample[0]))

    def forward(self, x_BDHW: Tensor) -> Tensor:
        """As the block."""
        shortcut_BDHW = x_BDHW if self.downsample is None else self.downsample(x_BDHW)
        return self.conv3.add(self.conv2(self.conv1(x_BDHW, relu=True), relu=True), shortcut_BDHW)


def pack_bottlenecks(module: nn.Module) -> int:
    """Put a :class:`PackedBottleneck` in the place of every block that is what it can stand for.

    Returns:
        how many were replaced.
    """
    replaced = 0
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is Bottleneck and _plain(child):
                setattr(parent, name, PackedBottleneck(child))
                replaced += 1
    return replaced


def _plain(block: Bottleneck) -> bool:
    """Whether the block is three convolutions with ReLU, and a shortcut with another one at most: norms folded, nothing
    between."""
    between = (block.bn1, block.bn2, block.bn3, block.drop_block, block.aa, block.se, block.drop_path)
    ways = [block.conv1, block.conv2, block.conv3]
    if block.downsample is not None:
        ways.append(block.downsample[0])
        between += tuple(block.downsample[1:])
    return (
        all(part is None or isinstance(part, nn.Identity) for part in between)
        and all(type(act) is nn.ReLU for act in (block.act1, block.act2, block.act3))
        and all(type(c) is nn.Conv2d and _usual(c) for c in ways)
    )


def _usual(convolution: nn.Conv2d) -> bool:
    zeros = convolution.padding_mode == "zeros" and isinstance(convolution.padding, tuple)
    return zeros and convolution.bias is not None


def prepare_for_prediction(model: CaptionModel) -> CaptionModel:
    """Fold frozen batch norms into the convolutions, and lay weights out in memory as one word at a time reads them.

    Convolutions become channels-last; a ResNet's are packed, and fused with what follows them. Matrices that widen
    (above all the last one, to the vocabulary) are stored by columns: the product of one row with such a matrix, which
    is what a word costs, then takes less than half the time in float32. Several rows at once, beams and batches, go
    through large matrices that are packed. Packed copies are made when they are first used, and take as much memory
    again: see :mod:`vitrine.models.captioner.inference`. ``.to(torch.bfloat16)`` afterwards keeps all of it.

    Args:
        model: changed in place and put into eval mode. Its state dict has other names and layouts from here on, so
            save before.

    Returns:
        the same model.
    """
    fold_frozen_norms(model.backbone)
    model.backbone = model.backbone.to(memory_format=torch.channels_last)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            _by_columns(module.weight)
        elif isinstance(module, Attention):
            _by_columns(module.in_proj_weight)
    pack_bottlenecks(model.backbone)
    pack_linears(model)
    return model.eval()


def cast_image_encoder(model: CaptionModel) -> CaptionModel:
    """Put the image side, up to the encoder's last layer, into bf16: weights and what is computed from them. Words stay
    in float32: rounded too, they would cost no less, one at a time, and more of them would be others.

    Args:
        model: changed in place; it cannot be made float32 again.

    Returns:
        the same model.
    """
    for part in (model.backbone, model.projection, model.encoder):
        part.to(torch.bfloat16)
    return model


def has_bf16_image_encoder(module: nn.Module) -> bool:
    """Whether this is a captioner whose image side is in bf16."""
    return isinstance(module, CaptionModel) and module.projection.weight.dtype == torch.bfloat16


def _by_columns(weight: Tensor) -> None:
    rows, columns = weight.shape
    if rows >= columns:
        weight.data = weight.data.t().contiguous().t()
