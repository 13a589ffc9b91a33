"""A network's convolutions: of which kind they are, and what they are fed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from uniformer.config import Config
from uniformer.network.model import UniFormer

Convolution: TypeAlias = nn.Conv2d | nn.Conv3d


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
    hooks = []
    with torch.device("meta"), torch.no_grad():
        model = UniFormer(config).requires_grad_(False).eval()
        for name, module in model.named_modules():
            if isinstance(module, Convolution):

                def note(m: nn.Module, args: tuple[Tensor], out: Tensor, name: str = name) -> None:
                    assert isinstance(m, Convolution)
                    found[name] = (m, tuple(args[0].shape[1:]))

                hooks.append(module.register_forward_hook(note))
        model(torch.empty(1, *size))
    for hook in hooks:
        hook.remove()
    return found
