"""Depthwise 3D convolution: as torch computes it, with a faster backward pass on a CPU, and in several ways on a GPU.

Forward, oneDNN is quick on a CPU; its backward pass is not: a small model spent three quarters of a training step there
(figures in `docs/log.md`). So here the same gradients are taken by other ways:

- of the input: a depthwise convolution once more, of the output's gradient with the kernel turned round;
- of the kernel: for each of its planes in time a 2D depthwise one, over the frames that this plane joins; or, where
  oneDNN is quick at those, for each sample a depthwise one of its input by the output's gradient as the kernel.

In 2D torch's own backward pass is as fast as this one.

On a GPU nobody knows beforehand which implementation is the fastest: `tuning.py` measures them, and gives each layer
the one that won. A layer that was given none computes as torch does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Implementation = Literal["contiguous", "channels_last", "planes", "triton"]  #: on a GPU; see `IMPLEMENTATIONS`
LARGE = (
    5  #: kernels from which on a sample by sample pays: 4 to 5 times as fast as by planes, for kernels of 3 not at all
)
GPU_DTYPES = (torch.float32, torch.float16, torch.bfloat16)  #: that an implementation may be given


class Depthwise3d(nn.Conv3d):
    """A depthwise `nn.Conv3d` that is computed by `depthwise`."""

    implementation: Implementation | None = None  #: how a GPU computes it; None: as torch does
    by_sample = False  #: how a CPU computes gradients of large kernels

    def forward(self, x: Tensor) -> Tensor:
        return depthwise(x, self.weight, self.bias, self.implementation, by_sample=self.by_sample)

    def added_to(self, x: Tensor) -> Tensor:
        """x + self(x), in one go where the implementation can."""
        return depthwise(x, self.weight, self.bias, self.implementation, residual=True)


def depthwise(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    implementation: Implementation | None = None,
    *,
    residual: bool = False,
    by_sample: bool = False,
) -> Tensor:
    """x (B, C, T, H, W) by a filter per channel, weight (C, 1, k, k, k) with k odd -> (B, C, T, H, W).

    `implementation` is for floats of 16 and 32 bits on a GPU; elsewhere there is no choice. With `residual` it is x
    plus that. `by_sample`: on a CPU the gradient of a large kernel is taken sample by sample.
    """
    if implementation is not None and x.is_cuda and x.dtype in GPU_DTYPES:
        return IMPLEMENTATIONS[usable(implementation)](x, weight, bias, residual)
    y: Tensor
    if trains_in_float32(x, weight) or _trains_under_autocast(x, weight):
        y = _FastBackward.apply(x, weight, bias, by_sample and weight.shape[-1] >= LARGE)
    else:
        y = depthwise_plain(x, weight, bias)
    return x + y if residual else y


def depthwise_plain(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The plain twin of `depthwise`; the tests hold outputs and gradients of one against the other."""
    return F.conv3d(x, weight, bias, padding=weight.shape[-1] // 2, groups=len(weight))


# ---- on a GPU --------------------------------------------------------------------------------------------------------
# Each takes x, weight, bias and whether x is added, and gives a map that lies in memory as x does.


def _contiguous(x: Tensor, weight: Tensor, bias: Tensor | None, residual: bool) -> Tensor:
    """torch's own kernel for maps (B, C, T, H, W), with a copy of x where it lies otherwise."""
    y = _laid_as(x, depthwise_plain(x.contiguous(), weight, bias))
    return x + y if residual else y


def _channels_last(x: Tensor, weight: Tensor, bias: Tensor | None, residual: bool) -> Tensor:
    """cuDNN's kernel for maps with the channels last in memory."""
    y = _laid_as(x, depthwise_plain(channels_last(x), channels_last(weight), bias))
    return x + y if residual else y


def _planes(x: Tensor, weight: Tensor, bias: Tensor | None, residual: bool) -> Tensor:
    """The sum of k 2D convolutions, one for each of the kernel's planes in time, over all frames."""
    images, middle = _as_images(x), weight.shape[2] // 2  # (B * T, C, H, W)

    def by(plane: int, bias: Tensor | None) -> Tensor:
        y = F.conv2d(images, weight[:, :, plane], bias, padding=middle, groups=len(weight))
        return y.unflatten(0, (len(x), -1)).transpose(1, 2)  # (B, C, T, H, W)

    y = by(middle, bias)
    for plane, seen, given in _joined(x.shape[2], weight.shape[2]):
        if plane != middle and seen.start < seen.stop:
            y[:, :, given] += by(plane, None)[:, :, seen]
    y = _laid_as(x, y)
    return x + y if residual else y


def _triton(x: Tensor, weight: Tensor, bias: Tensor | None, residual: bool) -> Tensor:
    """Our own kernels."""
    from uniformer.speed.kernels import depthwise_triton

    return depthwise_triton(x, weight, bias, residual=residual)


IMPLEMENTATIONS: dict[Implementation, Callable[[Tensor, Tensor, Tensor | None, bool], Tensor]] = {
    "contiguous": _contiguous,
    "channels_last": _channels_last,
    "planes": _planes,
    "triton": _triton,
}


def usable(implementation: Implementation) -> Implementation:
    """Itself, but for "triton" where Triton is not installed: a network may have come from elsewhere."""
    return "channels_last" if implementation == "triton" and not has_triton() else implementation


@cache
def has_triton() -> bool:
    """Whether our kernels can be imported."""
    if find_spec("triton") is None:
        return False
    try:
        import_module("uniformer.speed.kernels")
    except ImportError:
        return False
    return True


def channels_last(x: Tensor) -> Tensor:
    """(B, C, *grid) with the channels last in memory: x itself where they are."""
    return x.contiguous(memory_format=torch.channels_last_3d if x.ndim == 5 else torch.channels_last)


def _laid_as(x: Tensor, y: Tensor) -> Tensor:
    """y in the memory format of x."""
    last = x.is_contiguous(memory_format=torch.channels_last_3d)
    return y.contiguous(memory_format=torch.channels_last_3d if last else torch.contiguous_format)


# ---- on a CPU --------------------------------------------------------------------------------------------------------


def trains_in_float32(x: Tensor, weight: Tensor) -> bool:
    """Whether gradients are wanted on a CPU in float32, outside autocast: torch's own backward pass is the slow one."""
    return _trains(x, weight) and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


def _trains_under_autocast(x: Tensor, weight: Tensor) -> bool:
    """Whether they are wanted of a product in 16 bits, of a weight in float32."""
    computed = (torch.float32, torch.get_autocast_dtype("cpu"))
    return _trains(x, weight) and x.dtype in computed and torch.is_autocast_enabled("cpu")


def _trains(x: Tensor, weight: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and weight.dtype == torch.float32
        and torch.is_grad_enabled()
        and (x.requires_grad or weight.requires_grad)
    )


class _FastBackward(torch.autograd.Function):
    """Under autocast the output and the gradient of the input are taken in 16 bits, and that of the filters, a sum over
    all places, in float32."""

    generate_vmap_rule = True  # with `setup_context` apart from `forward` what `torch.func` asks for

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, by_sample: bool) -> Tensor:
        return depthwise_plain(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None, bool], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.by_sample = inputs[3]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias, _ = ctx.needs_input_grad
        of_filters = _weight_gradient_by_sample if ctx.by_sample else _weight_gradient
        turned = weight.flip(2, 3, 4).to(grad.dtype)
        with torch.autocast("cpu", enabled=False):  # a caller may go backward within it
            return (
                depthwise_plain(grad, turned, None).to(x.dtype) if of_x else None,
                of_filters(x.float(), grad.float(), weight) if of_weight else None,
                grad.sum((0, 2, 3, 4), dtype=weight.dtype) if of_bias else None,
                None,
            )


def _weight_gradient_by_sample(x: Tensor, grad: Tensor, weight: Tensor) -> Tensor:
    """As `_weight_gradient`: each place of a filter sees the input shifted, times the gradient, summed over the grid.

    That is a depthwise convolution of the input whose kernel is the gradient, as large as the grid. It has filters of
    its own for each sample; oneDNN's forward kernels take it in their stride, where the backward pass of a depthwise
    convolution wastes 15 of 16 lanes.
    """
    padding, C = weight.shape[-1] // 2, len(weight)
    each = (F.conv3d(a, g.unsqueeze(1), padding=padding, groups=C) for a, g in zip(x.split(1), grad, strict=True))
    return torch.cat([*each]).sum(0).unsqueeze(1)  # (B, C, k, k, k) -> (C, 1, k, k, k)


def _weight_gradient(x: Tensor, grad: Tensor, weight: Tensor) -> Tensor:
    """x and grad (B, C, T, H, W) -> the gradient of the filters, (C, 1, k, k, k), plane by plane."""
    middle, planes = weight.shape[2] // 2, []
    for plane, seen, given in _joined(x.shape[2], weight.shape[2]):
        if seen.start >= seen.stop:
            planes.append(torch.zeros_like(weight[:, :, plane]))
            continue
        gradients = torch.ops.aten.convolution_backward(
            _as_images(grad[:, :, given]), _as_images(x[:, :, seen]), weight[:, :, plane], None,
            [1, 1], [middle, middle], [1, 1], False, [0, 0], len(weight), [False, True, False],
        )  # fmt: skip
        planes.append(gradients[1])
    return torch.stack(planes, dim=2)


def _joined(frames: int, kernel: int) -> Iterator[tuple[int, slice, slice]]:
    """(plane, frames of the input, frames of the output) that each plane in time of a kernel joins.

    In a clip shorter than the kernel the outer planes only ever meet padding: their slices are empty.
    """
    for plane in range(kernel):
        ahead = plane - kernel // 2  # this plane takes frame t + ahead to frame t
        first, last = max(0, -ahead), min(frames, frames - ahead)
        yield plane, slice(first + ahead, last + ahead), slice(first, last)


def _as_images(clips: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B * T, C, H, W), channels last in memory: otherwise oneDNN takes twice as long."""
    return clips.permute(0, 2, 3, 4, 1).flatten(0, 1).permute(0, 3, 1, 2)
