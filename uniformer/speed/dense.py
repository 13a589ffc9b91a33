"""Networks of detection, segmentation and pose as inference computes them: the backbone's fast form under a fast head.

In the heads batch norms are folded into the convolutions before them, maps lie in memory with the channels last, and
products and convolutions are oneDNN's (`products.py`). In 16 bits the layers compute in 16 bits, and whatever goes from
one part to the next is float32: boxes, scores and shares are reckoned from it as in the plain form.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uniformer.errors import InputError
from uniformer.heads.detection import BoxHead, Detector, MaskHead, RPNHead
from uniformer.heads.pose import KeypointHead, PoseNetwork
from uniformer.heads.pyramid import ConvNorm, DenseNetwork, at_least_float32
from uniformer.heads.segmentation import Segmenter
from uniformer.speed import winograd
from uniformer.speed.dense_blocks import DENSE
from uniformer.speed.depthwise import channels_last
from uniformer.speed.fold import Affine, before_norm, exact
from uniformer.speed.network import FOR_TRAINING, FastUniFormer, in_own_type
from uniformer.speed.products import By, Linear, compute_by, onednn_can
from uniformer.speed.regions import cut_regions


def fast_network(
    network: DenseNetwork,
    dtype: torch.dtype | None = None,
    *,
    attention_float32: bool = False,
    share: bool = False,
    by: By | None = None,
) -> DenseNetwork:
    """An inference copy in evaluation mode: the same inputs, outputs and methods, other weights. `dtype` is what it
    computes in, by default the network's own; `share` and `by` as of `FastUniFormer`."""
    own = next(network.parameters()).dtype
    dtype = dtype or own
    asked: Any = {"attention_float32": attention_float32, "share": share, "by": by}
    backbone = FastUniFormer(network.backbone, dtype, forms=DENSE, **asked)
    known: dict[int, Any] = {id(p): p for p in network.parameters()} if share and dtype == own else {}
    made = copy.deepcopy(network, {**known, id(network.backbone): backbone})
    if isinstance(made, Segmenter):
        made.auxiliary_head = None  # of training alone
    for parent in list(made.modules()):
        if isinstance(parent, KeypointHead):
            parent.deconv_layers = _folded_ups(parent.deconv_layers)
        for name, child in parent.named_children():
            if isinstance(child, ConvNorm):
                setattr(parent, name, FastConvNorm(child))
    for module in made.modules():
        module.__class__ = STAND_INS.get(type(module), type(module))
        if isinstance(module, Conv2d):
            module.weight = nn.Parameter(channels_last(module.weight.detach()), requires_grad=False)
    compute_by(made, backbone.by)
    return made.to(dtype).eval()


class FastConvNorm(nn.Module):
    """`ConvNorm` as one convolution and ReLU."""

    def __init__(self, layers: ConvNorm):
        super().__init__()
        conv = layers.conv
        sizes: Any = {"kernel_size": conv.kernel_size, "padding": conv.padding, "device": "meta"}
        self.conv = nn.Conv2d(conv.in_channels, conv.out_channels, **sizes)
        weight = exact(conv.weight)
        _fill(self.conv, before_norm(Affine(weight, weight.new_zeros(len(weight))), layers.bn), conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu_(self.conv(x))


class Conv2d(nn.Conv2d):
    """`nn.Conv2d` by oneDNN also where torch would take its own, slower kernels, for one picture on one thread; with
    fewer multiplications where that pays."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float32 or not onednn_can(x, self.weight):
            return super().forward(x)
        if self.kernel_size == (3, 3) and self._keeps_grid() and winograd.pays(x, self.weight):
            return winograd.convolve(x, self.weight, self.bias)
        assert isinstance(self.padding, tuple)
        return torch.mkldnn_convolution(
            x, self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups
        )

    def _keeps_grid(self) -> bool:
        return self.stride == self.padding == self.dilation == (1, 1) and self.groups == 1


def _folded_ups(layers: nn.Sequential) -> nn.Sequential:
    """Transposed convolutions, batch norms and ReLUs in turn, without the norms."""
    made: list[nn.Module] = []
    for up, norm, relu in zip(layers[::3], layers[1::3], layers[2::3], strict=True):
        assert isinstance(up, nn.ConvTranspose2d)
        sizes: Any = {"kernel_size": up.kernel_size, "stride": up.stride, "padding": up.padding, "device": "meta"}
        folded = nn.ConvTranspose2d(up.in_channels, up.out_channels, **sizes)
        weight = exact(up.weight).transpose(0, 1)  # (out, in, k, k)
        affine = before_norm(Affine(weight, weight.new_zeros(len(weight))), norm)
        _fill(folded, Affine(affine.weight.transpose(0, 1).contiguous(), affine.bias), up.weight)
        made += [folded, relu]
    return nn.Sequential(*made)


def _fill(module: nn.Conv2d | nn.ConvTranspose2d, affine: Affine, like: Tensor) -> None:
    """Weights of the type and on the device of `like`."""
    module.weight = nn.Parameter(affine.weight.to(like), requires_grad=False)
    module.bias = nn.Parameter(affine.bias.to(like), requires_grad=False)


# ---- parts that are called from outside ------------------------------------------------------------------------------


class Inference(nn.Module):
    """Takes and gives float32 at least, computes in its own type whatever autocast says, and without gradients."""

    @torch.no_grad()
    def forward(self, x: Any) -> Any:
        like = next(self.parameters())
        with in_own_type(like.device.type):
            return _widened(super().forward(_as(x, like.dtype)))

    def train(self, mode: bool = True) -> Any:
        if mode:
            raise InputError(FOR_TRAINING)
        return super().train(False)


def _as(x: Any, dtype: torch.dtype) -> Any:
    """A tensor or several in another type."""
    return x.to(dtype) if isinstance(x, Tensor) else type(x)(_as(one, dtype) for one in x)


def _widened(x: Any) -> Any:
    """Tensors of 16 bits in 32, wherever they are."""
    if isinstance(x, Tensor):
        return at_least_float32(x)
    return type(x)(_widened(one) for one in x)


class FastRPNHead(Inference, RPNHead):
    pass


class FastBoxHead(Inference, BoxHead):
    pass


class FastMaskHead(Inference, MaskHead):
    pass


class FastSegmenter(Inference, Segmenter):
    def forward_train(self, x: Tensor) -> tuple[Tensor, ...]:
        raise InputError(FOR_TRAINING)


class FastPoseNetwork(Inference, PoseNetwork):
    pass


class FastDetector(Inference, Detector):
    def cut(self, levels: Sequence[Tensor], rois: Tensor, side: int) -> Tensor:
        return (super().cut if rois.is_cuda else cut_regions)(levels, rois, side)


STAND_INS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: Linear,
    nn.Conv2d: Conv2d,
    RPNHead: FastRPNHead,
    BoxHead: FastBoxHead,
    MaskHead: FastMaskHead,
    Detector: FastDetector,
    Segmenter: FastSegmenter,
    PoseNetwork: FastPoseNetwork,
}
