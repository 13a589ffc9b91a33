"""Matrix products by oneDNN, with what follows them done before they are stored.

torch gives float32 products on a CPU to MKL, which on processors that are not Intel's takes half as wide vectors: on an
AMD EPYC with AVX-512 oneDNN computes 2.3 times as fast. Where oneDNN is not to be had, in graphs and where gradients
are wanted, all is torch's own.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def product(rows: Tensor, weight: Tensor, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
    """rows (..., C) @ weight (D, C) transposed, plus a bias (D,) -> (..., D); with `gelu` its GELU."""
    if by_onednn(rows, weight):
        after, which = ("gelu", "none") if gelu else ("none", "")
        return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, after, [], which)
    y = F.linear(rows, weight, bias)
    return F.gelu(y) if gelu else y


def product_added(rows: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """rows (M, D) + hidden (M, C) @ weight (D, C) transposed, plus a bias (D,)."""
    if by_onednn(hidden, weight):
        return torch.ops.mkldnn._linear_pointwise(hidden, rows, weight, bias, "add")
    return rows + F.linear(hidden, weight, bias)


class Linear(nn.Linear):
    """`nn.Linear` by `product`."""

    def forward(self, x: Tensor) -> Tensor:
        return product(x, self.weight, self.bias)


def by_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN is to compute this here."""
    if x.device.type != "cpu" or torch.compiler.is_compiling() or torch.is_grad_enabled():
        return False
    return x.dtype == weight.dtype and _has_onednn(x.dtype) and x.numel() > 0


@cache
def _has_onednn(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
