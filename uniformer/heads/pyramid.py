"""What the dense networks share: a convolution with its norm, and the feature pyramid over a backbone's four maps.

Parameters have the names of the published files (`neck.lateral_convs.0.conv.weight`), the backbone's are our own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from uniformer.config import Config, PersonCrop, Scaling
from uniformer.errors import InputError
from uniformer.network.model import UniFormer


class ConvNorm(nn.Module):
    """A convolution that keeps the grid, batch norm and ReLU: (B, C, H, W) -> (B, dim, H, W). The norm makes its bias
    needless."""

    def __init__(self, dim_in: int, dim: int, kernel: int):
        super().__init__()
        self.conv = nn.Conv2d(dim_in, dim, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Conv(nn.Module):
    """A convolution that keeps the grid, with bias: (B, C, H, W) -> (B, dim, H, W)."""

    def __init__(self, dim_in: int, dim: int, kernel: int):
        super().__init__()
        self.conv = nn.Conv2d(dim_in, dim, kernel, padding=kernel // 2)
        nn.init.xavier_uniform_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class FeaturePyramid(nn.Module):
    """FPN (Lin et al. 2017): four maps of strides 4 to 32 -> as many of `width` channels, or with `levels` 5 one
    more of stride 64, every other cell of the fourth."""

    def __init__(self, dims: Sequence[int], width: int, levels: int):
        super().__init__()
        self.levels = levels
        self.lateral_convs = nn.ModuleList(Conv(dim, width, 1) for dim in dims)
        self.fpn_convs = nn.ModuleList(Conv(width, width, 3) for _ in dims)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps (B, C_i, H_i, W_i), finest first -> (B, width, H_i, W_i)."""
        merged = [conv(x) for conv, x in zip(self.lateral_convs, maps, strict=True)]
        for i in range(len(merged) - 1, 0, -1):  # down from the coarsest
            merged[i - 1].add_(F.interpolate(merged[i], size=merged[i - 1].shape[2:], mode="nearest"))
        out = [conv(x) for conv, x in zip(self.fpn_convs, merged, strict=True)]
        if self.levels > len(out):
            out.append(out[-1][:, :, ::2, ::2])
        return out


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Maps (B, C, H, W) in another size, bilinear, corners not aligned."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def at_least_float32(x: Tensor) -> Tensor:
    """What places and their order follow from: with the 8 or 11 bits of 16-bit numbers a box is off by pixels."""
    return x.float() if x.dtype.itemsize < 4 else x


class DenseNetwork(nn.Module):
    """A backbone under a head. Its config is that of the backbone, and says the head and its classes.

    Raises `InputError` where the config says no head.
    """

    input_spec: Scaling | PersonCrop | None = None  #: what its weights were trained with, once they say so

    def __init__(self, config: Config):
        super().__init__()
        if config.head is None:
            raise InputError("expected the config of a dense network, got one without a head")
        self.config = config
        self.backbone = UniFormer(config.backbone)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the backbone's activations in the backward pass: less memory, more time."""
        self.backbone.set_grad_checkpointing(enable)
