"""Run by test_depthwise_triton.py in a process of its own, with TRITON_INTERPRET=1: our GPU kernels, computed on a CPU.

Prints one JSON object: for each case how far the output and each gradient are from float64's, as a share of the largest
value there, and what else each check found.
"""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tolerance import off
from uniformer.speed.depthwise import depthwise_plain

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
LAST = torch.channels_last_3d
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
SEVERAL = "several tiles for each program"

#: (B, C, T, H, W), kernel, channels last in memory, type, residual
CASES = {
    "odd sizes": ((2, 3, 3, 5, 7), 3, True, "float32", False),
    "channels first": ((2, 3, 3, 5, 3), 3, False, "float32", True),
    "one frame": ((1, 6, 1, 4, 3), 5, True, "float32", False),
    "two frames, channels first": ((1, 9, 2, 3, 4), 5, False, "float32", False),
    "one place": ((1, 5, 4, 1, 1), 5, True, "float32", True),
    "blocks of channels": ((1, 70, 2, 2, 3), 3, True, "float32", False),
    "blocks of positions": ((1, 2, 1, 35, 31), 3, True, "float32", False),
    SEVERAL: ((3, 4, 2, 9, 9), 3, True, "float32", False),
    "bfloat16": ((1, 9, 3, 3, 4), 3, True, "bfloat16", True),
    "float16": ((1, 5, 5, 3, 3), 5, True, "float16", False),
}


def drawn(shape: tuple[int, ...], k: int, last: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, grad = torch.randn(2, *shape, generator=generator).to(dtype)
    weight, bias = (torch.randn(s, generator=generator).to(dtype) for s in ((shape[1], 1, k, k, k), (shape[1],)))
    return (x.contiguous(memory_format=LAST) if last else x), weight / k, bias, grad


def terms(shape: tuple[int, ...], k: int) -> int:
    """What is summed at most: a kernel for an output, all places for a gradient of the filters."""
    return k**3 + math.prod(shape) // shape[1]


def all_of_it(convolve_: Any, x: Tensor, weight: Tensor, bias: Tensor, grad: Tensor) -> list[Tensor]:
    leaves = [v.detach().requires_grad_() for v in (x, weight, bias)]
    y = convolve_(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad.to(y.dtype))]


def agreement(ours: Any, shape: tuple[int, ...], k: int, last: bool, dtype: str, residual: bool) -> dict[str, Any]:
    drawn_ = drawn(shape, k, last, DTYPES[dtype])
    found = all_of_it(lambda *v: ours.depthwise_triton(*v, residual=residual), *drawn_)
    true = all_of_it(lambda x, *v: depthwise_plain(x, *v) + (x if residual else 0), *(v.double() for v in drawn_))
    return {
        "off": [off(f, t) for f, t in zip(found, true, strict=True)],
        "types": [str(f.dtype) for f in found],
        "lies as x": found[0].stride() == drawn_[0].stride(),
    }


def as_an_operator(ours: Any) -> dict[str, Any]:
    """What torch asks of one: schemas, shapes without values, gradients, compilation."""
    x, weight, bias, _ = drawn((1, 3, 2, 3, 4), 3, True, torch.float32)
    taps = weight[:, 0].permute(1, 2, 3, 0).contiguous()
    asked = [(ours.convolve, (x, taps, bias)), (ours.correlate, (x, x.clone(), 3))]
    said = [
        torch.library.opcheck(op, [a.clone().requires_grad_() if isinstance(a, Tensor) else a for a in args])
        for op, args in asked
    ]
    compiled = torch.compile(ours.depthwise_triton, backend="aot_eager", fullgraph=True)
    return {
        "opcheck": sorted({answer for answers in said for answer in answers.values()}),
        "compiled is off": off(compiled(x, weight, bias), ours.depthwise_triton(x, weight, bias).double()),
    }


def other_ways(ours: Any) -> dict[str, Any]:
    """Second derivatives, autocast, maps that lie in no usual way, gradients of some inputs only."""
    x, weight, bias, _ = drawn((1, 2, 3, 4, 4), 3, True, torch.float32)

    def curvature(f: Any) -> list[Tensor]:
        leaves = [v.detach().double() if f is depthwise_plain else v.detach() for v in (x, weight, bias)]
        leaves = [v.requires_grad_() for v in leaves]
        first = torch.autograd.grad(f(*leaves).square().sum(), leaves, create_graph=True)
        return list(torch.autograd.grad(sum(g.square().sum() for g in first), leaves))

    found = {"second derivatives": max(map(off, curvature(ours.depthwise_triton), curvature(depthwise_plain)))}
    true = depthwise_plain(x.double(), weight.double(), bias.double())
    odd = x.transpose(3, 4).contiguous().transpose(3, 4)
    found["odd strides"] = off(ours.depthwise_triton(odd, weight, bias), true)
    with torch.autocast("cpu", torch.bfloat16):
        cast, kept = (ours.depthwise_triton(x, weight, bias, residual=r) for r in (False, True))
    found["autocast"] = [str(cast.dtype), str(kept.dtype), off(cast, true), off(kept, true + x.double())]
    y = ours.depthwise_triton(x, weight.requires_grad_(), None)
    found["filters alone"] = list(torch.autograd.grad(y.sum(), weight)[0].shape)
    return found


if __name__ == "__main__":
    from uniformer.speed import kernels as ours

    torch.set_num_threads(1)
    usual, results = ours.PROGRAMS, {}
    for name, case in CASES.items():
        ours.PROGRAMS = 6 if name == SEVERAL else usual
        results[name] = agreement(ours, *case)
    ours.PROGRAMS = usual
    print(json.dumps(results | {"operator": as_an_operator(ours), "other ways": other_ways(ours)}))
