"""Depthwise 3D convolution: as torch computes it, and with a faster backward pass on a CPU.

Forward, oneDNN is quick on a CPU; its backward pass is not: a small model spent three quarters of a training step there
(figures in `docs/log.md`). So the fast form takes the same gradients by other ways:

- of the input: a depthwise convolution once more, of the output's gradient with the kernel turned round;
- of the kernel: for each of its planes in time a 2D depthwise one, over the frames that this plane joins.

In 2D torch's own backward pass is as fast as this one.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Depthwise3d(nn.Conv3d):
    """One kernel x kernel x kernel filter per channel, zero-padded to keep the grid: (B, C, T, H, W) -> the same."""

    def __init__(self, dim: int, kernel: int):
        super().__init__(dim, dim, kernel, padding=kernel // 2, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        return depthwise(x, self.weight, self.bias)


def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (B, C, T, H, W) by a filter per channel, weight (C, 1, k, k, k) with k odd -> (B, C, T, H, W)."""
    if _slow_backward(x, weight):
        y: Tensor = _FastBackward.apply(x, weight, bias)
        return y
    return depthwise_plain(x, weight, bias)


def depthwise_plain(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The plain twin of `depthwise`; the tests hold outputs and gradients of one against the other."""
    return F.conv3d(x, weight, bias, padding=weight.shape[-1] // 2, groups=len(weight))


def _slow_backward(x: Tensor, weight: Tensor) -> bool:
    """Whether torch's own backward pass would be the slow one: float32 on a CPU, outside autocast."""
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and torch.is_grad_enabled()
        and (x.requires_grad or weight.requires_grad)
        and not torch.is_autocast_enabled("cpu")
    )


class _FastBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return depthwise_plain(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            depthwise_plain(grad, weight.flip(2, 3, 4), None) if of_x else None,
            _weight_gradient(x, grad, weight) if of_weight else None,
            grad.sum((0, 2, 3, 4)) if of_bias else None,
        )


def _weight_gradient(x: Tensor, grad: Tensor, weight: Tensor) -> Tensor:
    """x and grad (B, C, T, H, W) -> the gradient of the filters, (C, 1, k, k, k)."""
    frames, middle = x.shape[2], weight.shape[2] // 2
    planes = []
    for plane in range(weight.shape[2]):
        ahead = plane - middle  # this plane takes frame t + ahead to frame t
        first, last = max(0, -ahead), min(frames, frames - ahead)
        if first >= last:  # a clip shorter than the kernel: this plane only ever meets padding
            planes.append(torch.zeros_like(weight[:, :, plane]))
            continue
        seen, given = _as_images(x[:, :, first + ahead : last + ahead]), _as_images(grad[:, :, first:last])
        gradients = torch.ops.aten.convolution_backward(
            given, seen, weight[:, :, plane], None, [1, 1], [middle, middle], [1, 1], False, [0, 0], len(weight),
            [False, True, False],
        )  # fmt: skip
        planes.append(gradients[1])
    return torch.stack(planes, dim=2)


def _as_images(clips: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B * T, C, H, W), channels last in memory: otherwise oneDNN takes twice as long."""
    return clips.permute(0, 2, 3, 4, 1).flatten(0, 1).permute(0, 3, 1, 2)
