"""The depthwise convolution with a fast backward pass, held against its plain twin."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from tests.tolerance import assert_close
from uniformer.speed.depthwise import Depthwise3d, depthwise, depthwise_plain
from uniformer.speed.training_modules import Pointwise3d

SHAPES = [(2, 8, 6, 5, 7), (1, 3, 1, 4, 4), (3, 16, 2, 9, 3), (2, 5, 8, 1, 1), (2, 24, 4, 12, 10)]


def gradients(convolve, x: Tensor, weight: Tensor, bias: Tensor | None) -> list[Tensor]:
    """The output, and the gradients of what is asked for, under a fixed random weighting of the output."""
    y = convolve(x, weight, bias)
    weighting = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    wanted = [v for v in (x, weight, bias) if v is not None and v.requires_grad]
    return [y.detach(), *torch.autograd.grad((y * weighting).sum(), wanted)]


def drawn(shape: tuple[int, ...], kernel: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator)
    weight = torch.randn(shape[1], 1, kernel, kernel, kernel, generator=generator)
    return x, weight, torch.randn(shape[1], generator=generator)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("by_sample", [False, True])
def test_gradients_are_those_of_the_plain_twin(shape, kernel, memory_format, by_sample):
    x, weight, bias = drawn(shape, kernel)
    x = x.contiguous(memory_format=memory_format)
    got = gradients(partial(depthwise, by_sample=by_sample), *(v.requires_grad_() for v in (x, weight, bias)))
    exact = gradients(depthwise_plain, *(v.detach().double().requires_grad_() for v in (x, weight, bias)))
    for mine, true in zip(got, exact, strict=True):
        assert_close(mine, true, kernel**3 + x[:, 0].numel())  # over a kernel, or for gradients over all places


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_autocast_gradients_are_as_near_as_the_plain_twins(shape, kernel, dtype):
    """Of the filters nearer: they are summed in float32."""
    x, weight, bias = (v.to(torch.bfloat16).float() for v in drawn(shape, kernel))
    exact = gradients(depthwise_plain, *(v.double().requires_grad_() for v in (x, weight, bias)))
    found = {}
    for way in (partial(depthwise, by_sample=kernel == 5), depthwise_plain):
        with torch.autocast("cpu", torch.bfloat16):
            found[way] = gradients(way, *(v.detach().requires_grad_() for v in (x.to(dtype), weight, bias)))
    ours, twin = found.values()
    assert [v.dtype for v in ours] == [v.dtype for v in twin]
    for mine, other, true in zip(ours, twin, exact, strict=True):
        scale = true.abs().max()
        off, others = ((v - true).abs().max() / scale for v in (mine, other))
        assert off <= 2 * others + 2**-8  # half of the last place of bfloat16, whose output's gradient is rounded


def test_only_what_is_asked_for_gets_a_gradient():
    x, weight, _ = drawn(SHAPES[0], 3)
    output, of_weight = gradients(depthwise, x, weight.requires_grad_(), None)
    assert of_weight.shape == weight.shape
    output, of_x = gradients(depthwise, x.requires_grad_(), weight.detach(), None)
    assert of_x.shape == x.shape == output.shape


def test_the_fast_backward_pass_is_used_where_torch_is_slow_and_only_there():
    x, weight, bias = drawn(SHAPES[0], 3)
    name = lambda y: type(y.grad_fn).__name__  # noqa: E731
    weight.requires_grad_()
    assert name(depthwise(x, weight, bias)) == "_FastBackwardBackward"
    assert name(depthwise(x.double(), weight.double(), bias.double())) == "ConvolutionBackward0"
    with torch.autocast("cpu", torch.bfloat16):
        y = depthwise(x, weight, bias)
        assert name(depthwise(x.half(), weight.half(), bias.half())) != "_FastBackwardBackward"
    assert name(y) == "_FastBackwardBackward"
    assert y.dtype == torch.bfloat16
    with torch.no_grad():
        assert depthwise(x, weight, bias).grad_fn is None


@pytest.mark.parametrize(("kernel", "by_sample"), [(3, False), (5, True)])
def test_second_derivatives(kernel, by_sample):
    given = drawn((2, 2, 3, 4, 4), kernel)

    def curvature(convolve, *given: Tensor) -> Tensor:
        x, weight, bias = (v.requires_grad_() for v in given)
        (of_x,) = torch.autograd.grad(convolve(x, weight, bias).square().sum(), x, create_graph=True)
        return torch.autograd.grad(of_x.square().sum(), weight)[0]

    exact = curvature(depthwise_plain, *(v.double() for v in given))
    found = curvature(partial(depthwise, by_sample=by_sample), *given)
    assert_close(found, exact, 4 * kernel**3 + 2 * 48)  # four convolutions, and a sum over all places


def test_the_layers_are_convolutions_to_the_state_dict_and_to_numbers():
    torch.manual_seed(0)
    x = torch.randn(2, 6, 3, 4, 5)
    for ours, plain in (
        (Depthwise3d(6, 6, 5, padding=2, groups=6), torch.nn.Conv3d(6, 6, 5, padding=2, groups=6)),
        (Pointwise3d(6, 9, 1), torch.nn.Conv3d(6, 9, 1)),
    ):
        plain.load_state_dict(ours.state_dict())
        terms = plain.weight[0].numel()
        assert_close(ours(x), plain(x), terms)
        assert_close(ours.double()(x.double()), plain.double()(x.double()), terms)
