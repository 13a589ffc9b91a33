"""Matrix products and attention on a CPU, by torch's own way or by oneDNN, whichever is the faster on this processor.

torch gives float32 products to MKL, which on processors that are not Intel's takes half as wide vectors: on an AMD EPYC
with AVX-512 oneDNN computes 2.2 times as fast. 16-bit products torch gives to oneDNN itself. Its fused attention makes
products by MKL in float32, and by slow ones in 16 bits; here a head's queries are taken in blocks, each of them two
products and a softmax within the caches: 1.7 times as fast from some hundred tokens on, and 2 in bfloat16.

`fastest` tries what is not known beforehand. What it chose decides the last digits of an answer, so it is part of the
form's name where results are kept (`By`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uniformer.errors import InputError
from uniformer.network import ops
from uniformer.speed.depthwise import trains_in_float32
from uniformer.support.jobs import one_thread

Library = Literal["torch", "onednn"]

LEAST = 1 << 20  #: multiply-adds of a product from which on oneDNN pays: each call costs it 10 microseconds more
LEAST_TOKENS = 256  #: from which on attention by blocks pays: 0.9 times as fast for 196 tokens of 28, 1.4 for 400
BLOCK = 1 << 19  #: affinities computed at once by each thread
PAYS = 1.25  #: so many times as fast as torch's way is what oneDNN must be: nearer to it, noise would decide


class By(NamedTuple):
    """Who computes products, and who attention."""

    products: Library = "torch"
    attention: Library = "torch"

    def __str__(self) -> str:
        return "/".join(self)

    @classmethod
    def parsed(cls, text: str) -> By:
        """The inverse of `str`. Raises `InputError`."""
        if text not in NAMES:
            raise InputError(f"expected products and attention by {', '.join(NAMES)}, got {text!r}")
        return cls(*text.split("/"))  # type: ignore[arg-type]


NAMES = [f"{products}/{attends}" for products in get_args(Library) for attends in get_args(Library)]  #: of each `By`


class UsesProducts(nn.Module):
    """A module that computes by what follows."""

    by: By = By()


def compute_by(model: nn.Module, by: By) -> None:
    """Let all of a model's modules that can choose compute so."""
    for module in model.modules():
        if isinstance(module, UsesProducts):
            module.by = by


def product(
    rows: Tensor, weight: Tensor, bias: Tensor | None = None, *, by: Library = "onednn", gelu: bool = False
) -> Tensor:
    """rows (..., C) @ weight (D, C) transposed, plus a bias (D,) -> (..., D); with `gelu` its GELU."""
    if _by_onednn(by, rows, weight):
        after, which = ("gelu", "none") if gelu else ("none", "")
        return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, after, [], which)
    y = F.linear(rows, weight, bias)
    return F.gelu(y) if gelu else y


def add_product_(rows: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None = None, *, by: Library) -> None:
    """rows (M, D) += hidden (M, C) @ weight (D, C) transposed, plus a bias (D,).

    In 16 bits torch's way is the same library, and rounds once.
    """
    if rows.dtype == torch.float32 and _by_onednn(by, hidden, weight):
        rows.add_(product(hidden, weight, bias))  # the library adds by itself, but plans that anew for 1 ms each time
        return
    if bias is not None:
        rows.add_(bias)
    rows.addmm_(hidden, weight.t())


def attention(q: Tensor, k: Tensor, v: Tensor, *, by: Library = "torch") -> Tensor:
    """`ops.attention` of (B, h, N, d): softmax(q k^T / sqrt(d)) v.

    By oneDNN in blocks. In 16 bits affinities are float32 until they are weights, as in torch's.
    """
    if by == "torch" or not onednn_can(q, k) or q.shape[-2] < LEAST_TOKENS:
        return ops.attention(q, k, v)
    mixed = torch.empty_like(v)
    for queries, keys, values, out in zip(*(t.flatten(0, 1) for t in (q, k, v, mixed)), strict=True):
        _attend(queries, keys, values, out)
    return mixed


def _attend(q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> None:
    """One head of `attention`, all (N, d)."""
    q, k = q.float() * q.shape[-1] ** -0.5, k.float()
    blocks = -(-len(q) * len(k) // (BLOCK * torch.get_num_threads()))
    rows = -(-len(q) // blocks)
    for queries, mixed in zip(q.split(rows), out.split(rows), strict=True):
        affinity = product(queries, k)  # (rows, N)
        torch.softmax(affinity, dim=-1, out=affinity)
        mixed.copy_(product(affinity.to(v.dtype), v.t()))


class Linear(UsesProducts, nn.Linear):
    """`nn.Linear` by `product`."""

    def forward(self, x: Tensor) -> Tensor:
        return product(x, self.weight, self.bias, by=self.by.products)


# ---- in training -----------------------------------------------------------------------------------------------------


def trained_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`product` by oneDNN with both products of its backward pass, where float32 gradients are wanted on a CPU.

    Elsewhere, and in 16 bits under autocast, which torch gives to oneDNN itself, it is torch's.
    """
    if not trains_in_float32(x, weight) or torch.compiler.is_compiling() or x.numel() * len(weight) < LEAST:
        return F.linear(x, weight, bias)
    y: Tensor = _Product.apply(x, weight, bias)
    return y


class _Product(torch.autograd.Function):
    generate_vmap_rule = True  # as of `depthwise._FastBackward`

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return product(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        grads = grad.flatten(0, -2)  # (M, D)
        return (
            product(grad, weight.t()) if of_x else None,
            _weight_gradient(x.flatten(0, -2), grads) if of_weight else None,
            grads.sum(0) if of_bias else None,
        )


def _weight_gradient(rows: Tensor, grads: Tensor) -> Tensor:
    """rows (M, C), grads (M, D) -> (D, C). The narrower side as the rows is up to twice as fast."""
    if rows.shape[1] > grads.shape[1]:
        return product(grads.t(), rows.t())
    return product(rows.t(), grads.t()).t()


# ---- which is the faster here ----------------------------------------------------------------------------------------


def onednn_can(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN can be asked here: not in graphs, nor where gradients are wanted."""
    if x.device.type != "cpu" or torch.compiler.is_compiling() or torch.is_grad_enabled():
        return False
    return x.dtype == weight.dtype and has_onednn(x.dtype) and x.numel() > 0


def _by_onednn(by: Library, rows: Tensor, weight: Tensor) -> bool:
    return by == "onednn" and onednn_can(rows, weight) and rows.numel() * len(weight) >= LEAST  # no sizes in graphs


@cache
def has_onednn(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


@cache
def fastest(dtype: torch.dtype) -> By:
    """What is the faster on this CPU, by trying both for some milliseconds, once per process."""
    if not has_onednn(dtype):
        return By()
    torch.empty(1 << 22)  # 16 MB, given back: what is smaller stays with the process now, as in longer work
    rows, weight = torch.ones(196, 320, dtype=dtype), torch.ones(640, 320, dtype=dtype)
    heads = torch.ones(3, 1, 2, 512, 64, dtype=dtype).unbind()
    with torch.inference_mode():
        products = dtype != torch.float32 or _pays(lambda by: product(rows, weight, by=by))
        attends = _pays(lambda by: attention(*heads, by=by))
    return By("onednn" if products else "torch", "onednn" if attends else "torch")


def _pays(run: Callable[[Library], Tensor], tries: int = 10) -> bool:
    """By the processor time of one thread: neither other work counts nor threads that wait for each other."""
    best: dict[Library, float] = dict.fromkeys(get_args(Library), float("inf"))
    with one_thread():
        for by in (*best,) * tries:
            begin = time.thread_time()
            run(by)
            best[by] = min(best[by], time.thread_time() - begin)
    return best["torch"] > PAYS * best["onednn"]
