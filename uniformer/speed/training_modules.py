"""What stands in for modules of the network in training: the same parameters, computed faster, or rightly.

Each is the plain module with another `forward` and nothing else, so one is put in place of the other by its class
alone: parameters, hooks, names, copies and state dicts stay as they are. `preparation.py` does that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uniformer.network.blocks import GlobalMHRA, OverlapEmbed
from uniformer.network.ops import attention, class_token_affinity
from uniformer.speed.convolutions import is_depthwise, is_pointwise
from uniformer.speed.depthwise import Depthwise3d, channels_last, depthwise
from uniformer.speed.products import Library, trained_product


class Pointwise3d(nn.Conv3d):
    """A 1x1x1 convolution, computed as the linear layer that it is: faster on a CPU, forward and backward."""

    def forward(self, x: Tensor) -> Tensor:
        by_position = F.linear(x.permute(0, 2, 3, 4, 1), self.weight.flatten(1), self.bias)
        return by_position.permute(0, 4, 1, 2, 3)


class OneDnnPointwise3d(nn.Conv3d):
    """`Pointwise3d` by oneDNN."""

    def forward(self, x: Tensor) -> Tensor:
        by_position = trained_product(x.permute(0, 2, 3, 4, 1), self.weight.flatten(1), self.bias)
        return by_position.permute(0, 4, 1, 2, 3)


class OneDnnLinear(nn.Linear):
    """A linear layer by oneDNN."""

    def forward(self, x: Tensor) -> Tensor:
        return trained_product(x, self.weight, self.bias)


class OneDnnDepthwise3d(Depthwise3d):
    """A depthwise convolution of clips, the gradients of large kernels by oneDNN's forward kernels."""

    by_sample = True


class ChannelsLastEmbed(OverlapEmbed):
    """In training on a CPU maps have the channels last in memory from here on: its convolutions take half the time."""

    def forward(self, x: Tensor) -> Tensor:
        trains = self.training and torch.is_grad_enabled()
        return super().forward(channels_last(x) if trains and x.device.type == "cpu" else x)


class Float32MHRA(GlobalMHRA):
    """Attends in float32, also under autocast."""

    def _heads(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super()._heads(tokens)
        return q.float(), k.float(), v.float()

    def forward(self, tokens: Tensor) -> Tensor:
        q, k, v = self._heads(tokens)
        with torch.autocast(q.device.type, enabled=False):
            mixed = attention(q, k, v)
        return self._merge(mixed)

    def with_class_affinity(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v = self._heads(tokens)
        with torch.autocast(q.device.type, enabled=False):
            mixed, affinity = attention(q, k, v), class_token_affinity(q, k)
        return self._merge(mixed), affinity


class Float32Conv2d(nn.Conv2d):
    """Computes in float32, also under autocast; gives what it would have given."""

    def forward(self, x: Tensor) -> Tensor:
        return _in_float32(self, x, self._conv_forward)


class Float32Conv3d(nn.Conv3d):
    """The same for clips."""

    def forward(self, x: Tensor) -> Tensor:
        return _in_float32(self, x, depthwise if is_depthwise(self) else self._conv_forward)


class Float32ConvTranspose2d(nn.ConvTranspose2d):
    """The same for what makes maps larger."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]  # no head asks for a size
        def up(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            sizes: Any = self.stride, self.padding, self.output_padding, self.groups, self.dilation
            return F.conv_transpose2d(x, weight, bias, *sizes)

        return _in_float32(self, x, up)


class Float32Linear(nn.Linear):
    """The same for products."""

    def forward(self, x: Tensor) -> Tensor:
        return _in_float32(self, x, F.linear)


def _in_float32(layer: Any, x: Tensor, compute: Callable[..., Tensor]) -> Tensor:
    """`compute(x, weight, bias)` of a layer, in the type that it would have given."""
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    weight, bias = layer.weight.float(), None if layer.bias is None else layer.bias.float()
    with torch.autocast(device, enabled=False):
        return compute(x.float(), weight, bias).to(dtype)


#: what each stands in for
PLAIN: dict[type[nn.Module], type[nn.Module]] = {
    Pointwise3d: nn.Conv3d,
    OneDnnPointwise3d: nn.Conv3d,
    OneDnnLinear: nn.Linear,
    Depthwise3d: nn.Conv3d,
    OneDnnDepthwise3d: nn.Conv3d,
    Float32Conv2d: nn.Conv2d,
    Float32Conv3d: nn.Conv3d,
    Float32ConvTranspose2d: nn.ConvTranspose2d,
    Float32Linear: nn.Linear,
    ChannelsLastEmbed: OverlapEmbed,
    Float32MHRA: GlobalMHRA,
}

#: of each plain layer the one that computes in float32
IN_FLOAT32: dict[type[nn.Module], type[nn.Module]] = {
    plain: kind for kind, plain in PLAIN.items() if kind.__name__.startswith("Float32")
}


def stand_in(
    module: nn.Module, *, wrong: bool, attention_float32: bool, products: Library = "torch"
) -> type[nn.Module] | None:
    """What stands in for a plain module in training, if anything; `wrong`: not torch's convolution in 16 bits."""
    kind = type(module)  # and no class derived from it
    if kind is nn.Conv2d and wrong:
        return Float32Conv2d
    if kind is nn.Conv3d:
        if wrong:
            return Float32Conv3d
        if is_pointwise(module):
            return Pointwise3d if products == "torch" else OneDnnPointwise3d
        if is_depthwise(module):
            return Depthwise3d if products == "torch" else OneDnnDepthwise3d
        return None
    if kind is nn.Linear and products == "onednn":
        return OneDnnLinear
    if kind is OverlapEmbed and isinstance(module.conv1, nn.Conv3d):
        return ChannelsLastEmbed
    return Float32MHRA if kind is GlobalMHRA and attention_float32 else None
