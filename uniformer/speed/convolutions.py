"""A network's convolutions: of which kind they are, and whether torch computes them rightly on this processor.

On CPUs with AVX512-BF16 torch 2.15 gives garbage, finite or not, for the weight gradient of a 3D convolution in
bfloat16 of stride 1 in time whose kernel is longer than the clip: 3 frames over 2, or 5 over 2, 3 and 4 (not over 1).
Nothing says so; the values look like what memory held before. So each convolution of a network is tried before it
trains in bfloat16 (`uniformer train` tries every layer, on its first batch: `sixteen_bits.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uniformer.config import Config
from uniformer.network.model import UniFormer
from uniformer.speed.agreement import drawn, tried
from uniformer.speed.depthwise import channels_last, depthwise

Convolution: TypeAlias = nn.Conv2d | nn.Conv3d


class Geometry(NamedTuple):
    """One convolution as a network asks for it."""

    shape: tuple[int, ...]  #: of the input, (C, [T,] H, W)
    out_channels: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    groups: int


def is_pointwise(module: nn.Module) -> bool:
    """Whether it is a convolution that is a linear layer over channels."""
    return isinstance(module, Convolution) and max(module.kernel_size) == max(module.stride) == module.groups == 1


def is_depthwise(module: nn.Module) -> bool:
    """Whether it is a convolution with one filter per channel that keeps the grid."""
    if not isinstance(module, Convolution) or max(module.stride) > 1 or is_pointwise(module):
        return False
    return module.groups == module.in_channels == module.out_channels


def convolution_inputs(config: Config, size: Sequence[int]) -> dict[str, tuple[Convolution, tuple[int, ...]]]:
    """A network's convolutions by name, on the meta device, each with the shape (C, [T,] H, W) of its input.

    `size` is that of one view, (C, [T,] H, W).
    """
    found: dict[str, tuple[Convolution, tuple[int, ...]]] = {}
    with torch.device("meta"), torch.no_grad():
        model = UniFormer(config).requires_grad_(False).eval()
        for name, module in model.named_modules():
            if isinstance(module, Convolution):

                def note(m: nn.Module, args: tuple[Tensor], out: Tensor, name: str = name) -> None:
                    assert isinstance(m, Convolution)
                    found[name] = (m, tuple(args[0].shape[1:]))

                module.register_forward_hook(note)
        model(torch.empty(1, *size))
    return found


def wrong_convolutions(config: Config, size: Sequence[int], dtype: torch.dtype) -> set[str]:
    """The names of those that torch gets wrong on this CPU under autocast to `dtype`, forward or backward.

    Not the pointwise ones of clips: training computes them as matrix products.
    """
    wrong = set()
    for name, (module, shape) in convolution_inputs(config, size).items():
        geometry = Geometry(
            shape,
            module.out_channels,
            module.kernel_size,
            module.stride,
            tuple(map(int, module.padding)),
            module.groups,
        )
        if not (config.is_video and is_pointwise(module)) and not is_right(geometry, dtype):
            wrong.add(name)
    return wrong


@cache
def is_right(geometry: Geometry, dtype: torch.dtype) -> bool:
    """Whether output and gradients of one sample under autocast to `dtype` are those of float32, but for rounding."""
    shape, out_channels, kernel, stride, padding, groups = geometry
    fan_in = shape[0] // groups * math.prod(kernel)
    weight = drawn((out_channels, shape[0] // groups, *kernel), seed=1) / math.sqrt(fan_in)
    is_slow = len(kernel) == 3 and groups == shape[0] == out_channels  # by torch in float32, backward
    convolve: Callable[..., Tensor] = F.conv3d if len(kernel) == 3 else F.conv2d

    def compute(x: Tensor, weight: Tensor) -> Tensor:
        return depthwise(x, weight, None) if is_slow else convolve(x, weight, None, stride, padding, 1, groups)

    return tried(compute, (channels_last(drawn((1, *shape))), weight), dtype).is_right
