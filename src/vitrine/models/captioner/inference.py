"""A captioner prepared for fast prediction: packed weights, fused convolutions; the same numbers up to rounding."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.resnet import Bottleneck
from torch import Tensor, nn

from vitrine.models import precision
from vitrine.models.captioner.backbone import fold_frozen_norms
from vitrine.models.captioner.layers import Attention
from vitrine.models.captioner.model import CaptionModel
from vitrine.models.captioner.speculative_decoding import Guesser

_MIN_PACKED_WEIGHTS = 1 << 19  # the feed-forward layers of the published captioner, and its last one; fewer do not pay


def pack_linears(module: nn.Module) -> int:
    """Replace every large linear layer by a :class:`PackedLinear`; names and parameters stay.

    Returns:
        the number of layers.
    """
    count = 0
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and child.weight.numel() >= _MIN_PACKED_WEIGHTS:
                setattr(parent, name, PackedLinear(child))
                count += 1
    return count


class _Packed(nn.Module):
    """A layer whose weights are held in the order in which oneDNN reads them, from its first use without gradients on.

    Once packed, they are held in that order alone and ``weight`` is empty: a second copy would double what the layers
    take. Whatever needs them as they were (gradients, autocast, a move, a state dict, a copy) has them put back first,
    bit for bit. Where torch has no oneDNN, and under autocast, the layer computes as its base class does.
    """

    weight: Tensor
    _packed_weight: Tensor | None = None

    def drop_packed_weight(self) -> None:
        """Put the weights back into ``weight``; the next forward pass packs them again."""
        if self._packed_weight is not None:
            with torch.inference_mode(False):
                self.weight.data = self._in_plain_order(self._packed_weight.to_dense())
            self._packed_weight = None

    def _keep_packed(self, packed_weight: Tensor) -> Tensor:
        """Hold the weights as these alone."""
        self._packed_weight = packed_weight
        self.weight.data = self.weight.data.new_empty(0)
        return packed_weight

    def _in_plain_order(self, weight: Tensor) -> Tensor:
        """The weights in the order in which the base class reads them fastest."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles, which cannot hold oneDNN's opaque tensor: with the weights as they were."""
        self.drop_packed_weight()
        return self.__dict__

    def _save_to_state_dict(self, *arguments: Any) -> None:
        self.drop_packed_weight()
        super()._save_to_state_dict(*arguments)

    def _can_use_packed(self, x: Tensor) -> bool:
        """Whether packed weights may be used for this input."""
        fits = x.dtype == self.weight.dtype and x.device.type == "cpu"
        is_plain = not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
        return fits and is_plain and precision.can_pack(x.dtype)

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        self.drop_packed_weight()
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]


class PackedLinear(_Packed, nn.Linear):
    """A linear layer that is fast for a few rows at once: beams, batches of pictures, cells of a grid.

    From two rows on, PyTorch's product with a large matrix spends its time on reordering the weights, at each call:
    packed, five rows times the 512 x 30,522 weights of the published captioner's last layer take 3.3 ms on one core
    with AVX-512 in place of 9.3 (2.8 times as fast), sixteen take 6.1 in place of 16. One row reads the weights as they
    are stored, until several rows have had them packed.
    """

    def __init__(self, linear: nn.Linear) -> None:
        """Share the parameters of ``linear``."""
        super().__init__(linear.in_features, linear.out_features, device="meta")
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x_NI: Tensor) -> Tensor:
        """(..., O)."""
        if not self._can_use_packed(x_NI):
            self.drop_packed_weight()
            return super().forward(x_NI)
        packed_weight = self._packed_weight
        if packed_weight is None:
            if x_NI.numel() <= self.in_features:
                return super().forward(x_NI)
            with torch.inference_mode(False):
                packed_weight = self._keep_packed(precision.pack_linear(self.weight))
        return precision.packed_linear(x_NI, packed_weight, self.bias)

    def _in_plain_order(self, weight: Tensor) -> Tensor:
        return _by_columns(weight)


class PackedConvolution(_Packed, nn.Conv2d):
    """A convolution that is fused with the operations after it, a sum and a ReLU."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        """Share the parameters of ``convolution``."""
        source: Any = convolution  # whose sizes are declared as tuples of any length
        super().__init__(
            source.in_channels,
            source.out_channels,
            source.kernel_size,
            stride=source.stride,
            padding=source.padding,
            dilation=source.dilation,
            groups=source.groups,
            device="meta",
        )
        self.weight, self.bias = source.weight, source.bias

    def forward(self, x_BDHW: Tensor, *, relu: bool = False) -> Tensor:
        """As ``nn.Conv2d``, then a ReLU if ``relu``."""
        if not self._can_use_packed(x_BDHW):
            self.drop_packed_weight()
            output_BDHW = super().forward(x_BDHW)
            return output_BDHW.relu() if relu else output_BDHW
        weight, geometry = self._pack(x_BDHW)
        activation = "relu" if relu else "none"
        output: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x_BDHW, weight, self.bias, *geometry, activation, [], ""
        )
        return output

    def add(self, x_BDHW: Tensor, shortcut_BDHW: Tensor) -> Tensor:
        """The ReLU of the convolution plus ``shortcut_BDHW``."""
        if not self._can_use_packed(x_BDHW):
            self.drop_packed_weight()
            return (super().forward(x_BDHW) + shortcut_BDHW).relu()
        weight, geometry = self._pack(x_BDHW)
        output: Tensor = torch.ops.mkldnn._convolution_pointwise.binary(
            x_BDHW, shortcut_BDHW, weight, self.bias, *geometry, "add", 1.0, "relu", [], ""
        )
        return output

    def _pack(self, x_BDHW: Tensor) -> tuple[Tensor, tuple[Any, ...]]:
        """The packed weights; and padding, stride, dilation and groups."""
        geometry = (self.padding, self.stride, self.dilation, self.groups)
        if self._packed_weight is None:
            shape = list(x_BDHW.shape)
            with torch.inference_mode(False):
                reorder = torch.ops.mkldnn._reorder_convolution_weight
                return self._keep_packed(reorder(self.weight.detach(), *geometry, shape)), geometry
        return self._packed_weight, geometry

    def _in_plain_order(self, weight: Tensor) -> Tensor:
        return weight.contiguous(memory_format=torch.channels_last)


class PackedBottleneck(nn.Module):
    """A ResNet's bottleneck block, its norms folded into its convolutions; parameters keep their names."""

    def __init__(self, block: Bottleneck) -> None:
        """Share the parameters of ``block``."""
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (PackedConvolution(c) for c in (block.conv1, block.conv2, block.conv3))
        self.downsample: nn.Sequential | None = None
        if block.downsample is not None:
            self.downsample = nn.Sequential(PackedConvolution(block.downsample[0]))

    def forward(self, x_BDHW: Tensor) -> Tensor:
        """The block's output."""
        shortcut_BDHW = x_BDHW if self.downsample is None else self.downsample(x_BDHW)
        return self.conv3.add(self.conv2(self.conv1(x_BDHW, relu=True), relu=True), shortcut_BDHW)


def pack_bottlenecks(module: nn.Module) -> int:
    """Replace every bottleneck block that :class:`PackedBottleneck` can compute.

    Returns:
        the number of blocks.
    """
    count = 0
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is Bottleneck and _can_pack_block(child):
                setattr(parent, name, PackedBottleneck(child))
                count += 1
    return count


def _can_pack_block(block: Bottleneck) -> bool:
    """Whether the block is three convolutions with ReLU and a shortcut of at most one more, with nothing in between:
    norms are folded."""
    extras = (block.bn1, block.bn2, block.bn3, block.drop_block, block.aa, block.se, block.drop_path)
    convolutions = [block.conv1, block.conv2, block.conv3]
    if block.downsample is not None:
        convolutions.append(block.downsample[0])
        extras += tuple(block.downsample[1:])
    return (
        all(part is None or isinstance(part, nn.Identity) for part in extras)
        and all(type(act) is nn.ReLU for act in (block.act1, block.act2, block.act3))
        and all(type(c) is nn.Conv2d and _can_pack_convolution(c) for c in convolutions)
    )


def _can_pack_convolution(convolution: nn.Conv2d) -> bool:
    pads_zeros = convolution.padding_mode == "zeros" and isinstance(convolution.padding, tuple)
    return pads_zeros and convolution.bias is not None


def prepare_for_prediction(model: CaptionModel) -> CaptionModel:
    """Make a captioner fast at decoding: fold frozen batch norms, fuse convolutions, and store weights for one word at
    a time.

    Convolutions become channels-last; a ResNet's are packed, and fused with what follows them. Matrices that widen
    (above all the last one, to the vocabulary) are stored by columns: the product of one row with such a matrix, which
    is what a word costs, then takes less than half the time in float32. Several rows at once (beams, batches, words
    that were guessed ahead) have the large matrices packed, in place of what they were. Words of one picture are
    guessed ahead by a copy of decoder and head in int8: see :mod:`vitrine.models.captioner.speculative_decoding`.
    ``.to(torch.bfloat16)`` afterwards keeps all of it but the guessing.

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
            module.weight.data = _by_columns(module.weight.data)
        elif isinstance(module, Attention):
            module.in_proj_weight.data = _by_columns(module.in_proj_weight.data)
    pack_bottlenecks(model.backbone)
    pack_linears(model)
    model.guesser = Guesser()
    return model.eval()


def cast_image_encoder(model: CaptionModel) -> CaptionModel:
    """Cast the image encoder and the transformer's encoder to bf16; the decoder stays in float32.

    One word at a time, a decoder in bf16 would cost no less, and more words would differ.

    Args:
        model: changed in place; what was rounded stays rounded.

    Returns:
        the same model.
    """
    for part in (model.backbone, model.projection, model.encoder):
        part.to(torch.bfloat16)
    return model


def has_bf16_image_encoder(module: nn.Module) -> bool:
    """Whether this is a captioner whose image encoder is in bf16."""
    return isinstance(module, CaptionModel) and module.projection.weight.dtype == torch.bfloat16


def _by_columns(weight: Tensor) -> Tensor:
    """The matrix, stored by columns where it widens."""
    rows, columns = weight.shape
    return weight.t().contiguous().t() if rows >= columns else weight.contiguous()
