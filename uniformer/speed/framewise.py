"""Networks of clips without a 3D convolution or a tensor of five dimensions, for the runtimes that have neither.

All 3D convolutions here are depthwise, pointwise, patch embeddings or the light stem. Each is exactly the sum of 2D
convolutions, one for every plane of its kernel in time, over the frames that this plane meets.

A clip is (B, C, T, H * W) here: the memory of (B, C, T, H, W), told in four dimensions. So it comes in, and so the
global stages see it, whose tokens are in raster order as ever. The local stages compute on its frames as images, (B *
T, C, H, W), which spares them a transposition around every convolution. Frames and size are fixed, the batch is not.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uniformer.errors import InputError
from uniformer.network.hourglass import HourglassState, pool_score
from uniformer.network.model import UniFormer
from uniformer.network.ops import Grid
from uniformer.speed.convolutions import is_pointwise
from uniformer.speed.network import FastUniFormer


class FramewiseUniFormer(FastUniFormer):
    """The inference copy of a network of clips, for one grid (T, H, W): clips (B, C, T, H * W) -> what it gives.

    Raises `InputError` for a grid that is too small for the strides, and for clips of another shape.
    """

    def __init__(self, model: UniFormer, grid: Grid, dtype: torch.dtype | None = None):
        super().__init__(model, dtype)
        self._shape = (self.config.in_chans, grid[0], grid[1] * grid[2])
        self._third = self.grids(grid)[2]
        takes_clip = True
        for index, stage in enumerate(self.stages):  # a stage's modules come in the order in which a clip passes them
            for name, conv in list(stage.named_modules()):
                if not isinstance(conv, nn.Conv3d):
                    continue
                if is_pointwise(conv):
                    stage.set_submodule(name, _plane(conv, 0, with_bias=True))
                    continue
                made = FrameConv(conv, grid, takes_clip=takes_clip, gives_clip=index >= 2)
                stage.set_submodule(name, made)
                grid, takes_clip = made.given, index >= 2
        if self.norm is not None:
            self.norm.__class__ = nn.BatchNorm2d

    def _enter_stage(
        self, index: int, x: Tensor, state: HourglassState | None, maps: list[Tensor]
    ) -> HourglassState | None:
        if index < 3 or state is None:
            return super()._enter_stage(index, x, state, maps)
        assert self.cls_proj is not None
        assert state.score is not None
        return HourglassState(self.cls_proj(state.cls), pool_score(state.score, self._third))

    def _check_input(self, x: Tensor) -> None:
        if tuple(x.shape[1:]) != self._shape:
            raise InputError(f"expected clips of shape (B, {', '.join(map(str, self._shape))}), got {tuple(x.shape)}")


class FrameConv(nn.Module):
    """A 3D convolution of a grid (T, H, W), as a sum of 2D ones over frames.

    Takes and gives frames (B * T, C, H, W), or clips (B, C, T, H * W) where it says so.
    """

    def __init__(self, conv: nn.Conv3d, grid: Grid, *, takes_clip: bool, gives_clip: bool):
        super().__init__()
        padding = tuple(map(int, conv.padding))
        geometry = zip(grid, conv.kernel_size, conv.stride, padding, strict=True)
        self.grid = grid
        self.given = tuple((n + 2 * p - k) // s + 1 for n, k, s, p in geometry)
        self.takes_clip, self.gives_clip = takes_clip, gives_clip
        self.padding, self.stride = padding[0], conv.stride[0]
        met = range(self.padding, self.padding + grid[0])  # the clip's frames among the padded
        self.first = [n for n in range(conv.kernel_size[0]) if any(frame in met for frame in self._frames(n))]
        self.planes = nn.ModuleList(_plane(conv, n, with_bias=n == self.first[0]) for n in self.first)

    def forward(self, x: Tensor) -> Tensor:
        T, H, W = self.grid
        clips = x.transpose(1, 2) if self.takes_clip else x.reshape(-1, T, x.shape[1], H * W)  # (B, T, C, H * W)
        C = clips.shape[2]
        if self.padding:
            clips = F.pad(clips, (0, 0, 0, 0, self.padding, self.padding))
        y: Tensor | None = None
        for first, plane in zip(self.first, self.planes, strict=True):
            frames = self._frames(first)
            seen = clips[:, frames.start : frames.stop : frames.step]
            part = plane(seen.reshape(-1, C, H, W))  # (B * T', C', H', W')
            y = part if y is None else y + part
        assert y is not None
        if not self.gives_clip:
            return y
        frames_out, *sides = self.given
        return y.reshape(-1, frames_out, y.shape[1], sides[0] * sides[1]).transpose(1, 2)

    def _frames(self, plane: int) -> range:
        """Those of the padded clip that a plane of the kernel meets, one for each frame of the output."""
        return range(plane, plane + self.stride * (self.given[0] - 1) + 1, self.stride)


def _plane(conv: nn.Conv3d, number: int, *, with_bias: bool) -> nn.Conv2d:
    """One plane in time of a 3D convolution."""
    geometry: tuple[Any, ...] = (conv.kernel_size[1:], conv.stride[1:], conv.padding[1:])
    kernel, stride, padding = geometry
    has_bias = with_bias and conv.bias is not None
    made: Any = nn.Conv2d(
        conv.in_channels, conv.out_channels, kernel, stride, padding, groups=conv.groups, bias=has_bias, device="meta"
    )
    made.weight = nn.Parameter(conv.weight[:, :, number].detach().contiguous(), requires_grad=False)
    if has_bias:
        made.bias = conv.bias
    return made
