"""What an inference copy computes beforehand: exact rewritings of weights, in float64.

Between the norms, convolutions and residuals of a local block stands nothing but one GELU, so nearly all of it merges.
A batch norm before a zero-padded convolution would not: its shift is not zero where the padding is. Here every padded
convolution reads values whose bias they carry already: the position embedding x itself, the affinity the value layer's
output, bias included.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from uniformer.network.blocks import LocalBlock


class Affine(NamedTuple):
    """weight @ x + bias over channels, weight (out, in); of a convolution the kernel (out, in / groups, *sizes)."""

    weight: Tensor
    bias: Tensor


def exact(parameter: Tensor | None) -> Tensor:
    """A parameter as a float64 constant, on the CPU: not every device has float64."""
    assert parameter is not None
    return parameter.detach().cpu().double()


def layer(module: nn.Module) -> Affine:
    """A convolution or a linear layer as it is."""
    return Affine(exact(module.get_parameter("weight")), exact(module.get_parameter("bias")))


def pointwise(module: nn.Module) -> Affine:
    """A 1x1 convolution as the linear layer it is."""
    weight, bias = layer(module)
    return Affine(weight.flatten(1), bias)


def after_norm(norm: nn.Module, linear: Affine) -> Affine:
    """linear(norm(x)) as one linear layer."""
    scale, shift = _scale_and_shift(norm)
    return Affine(linear.weight * scale, linear.bias + linear.weight @ shift)


def before_norm(convolution: Affine, norm: nn.Module) -> Affine:
    """norm(convolution(x)) as one convolution."""
    scale, shift = _scale_and_shift(norm)
    return Affine(_by_row(convolution.weight, scale), convolution.bias * scale + shift)


def scaled(affine: Affine, scale: Tensor | None) -> Affine:
    """scale * affine(x) as one layer: how a layer scale goes into the layer before it."""
    if scale is None:
        return affine
    return Affine(_by_row(affine.weight, exact(scale)), affine.bias * exact(scale))


def shifted(linear: Affine, shift: Tensor) -> Affine:
    """The layer that gives for x + shift what `linear` gives for x."""
    return Affine(linear.weight, linear.bias - linear.weight @ shift)


def with_residual(depthwise: Affine) -> Affine:
    """x + depthwise(x) as one depthwise convolution: 1 is added at the centre of every kernel (C, 1, [k,] k, k)."""
    kernel = depthwise.weight.clone()
    middle = kernel[0, 0].numel() // 2  # of an odd number of positions
    kernel.view(len(kernel), -1)[:, middle] += 1
    return Affine(kernel, depthwise.bias)


class LocalWeights(NamedTuple):
    """All that is left of a local block:

        x = pos_embed(x)                     (or x + pos_embed(x))
        x = x + proj @ affinity * value(x)
        x = x + fc2 @ gelu(fc1(x))

    Both branches' biases ride on x from the start, `value` and `fc1` take them off again for themselves. So a branch
    is one matrix product that adds to x in place.
    """

    pos_embed: Affine
    value: Affine
    affinity: Tensor  #: kernel (C, 1, [5,] 5, 5)
    proj: Tensor
    fc1: Affine
    fc2: Tensor


def local_weights(block: LocalBlock, *, residual: bool) -> LocalWeights:
    """`residual` says whether x + pos_embed(x) becomes one convolution; else it stays the caller's sum."""
    mhra, ffn = block.mhra, block.ffn
    value, affinity, proj = pointwise(mhra.value), layer(mhra.affinity), pointwise(mhra.proj)
    proj = scaled(Affine(proj.weight, proj.bias + proj.weight @ affinity.bias), block.scale1)
    fc2 = scaled(pointwise(ffn.fc2), block.scale2)
    pos_embed = with_residual(layer(block.pos_embed)) if residual else layer(block.pos_embed)
    riding = proj.bias + fc2.bias
    return LocalWeights(
        pos_embed=Affine(pos_embed.weight, pos_embed.bias + riding),
        value=shifted(after_norm(block.norm1, value), riding),
        affinity=affinity.weight,
        proj=proj.weight,
        fc1=shifted(after_norm(block.norm2, pointwise(ffn.fc1)), fc2.bias),
        fc2=fc2.weight,
    )


def _scale_and_shift(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """A batch norm in evaluation: norm(x) = scale * x + shift, per channel."""
    assert isinstance(norm, nn.BatchNorm2d | nn.BatchNorm3d)
    scale = exact(norm.weight) / torch.sqrt(exact(norm.running_var) + norm.eps)
    return scale, exact(norm.bias) - exact(norm.running_mean) * scale


def _by_row(weight: Tensor, scale: Tensor) -> Tensor:
    return weight * scale.view(-1, *(1,) * (weight.ndim - 1))
