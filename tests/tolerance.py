"""How far two computations of one thing may be apart. It follows from the data type and from how much is summed, never
from what one machine showed: processors sum in other orders and round elsewhere.

A sum of n terms rounds n times, by half an eps at most and this way or that: together by about sqrt(n) of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

MARGIN = 4  #: for the largest of many sums, and for partial sums that are larger than the whole


def rounding(dtype: torch.dtype, terms: int = 1) -> float:
    """By which share of the largest value sums of so many terms may be off."""
    return MARGIN * torch.finfo(dtype).eps * float(terms) ** 0.5


def terms_of(model: nn.Module) -> int:
    """The products that are summed on the way to an output: of all layers, one after another."""
    return sum(weight[0].numel() for weight in model.parameters() if weight.ndim > 1)


def layers_of(model: nn.Module) -> int:
    """The roundings on the way to an output in 16 bits, where each layer sums in float32 and rounds what comes out."""
    return sum(weight.ndim > 1 for weight in model.parameters())


def off(found: Any, true: Any, scale: float | None = None) -> float:
    """The largest difference of two tensors or arrays, as a share of the largest true value or of `scale`."""
    a, b = (torch.as_tensor(values).detach().double() for values in (found, true))
    assert a.shape == b.shape, f"expected values of shape {tuple(b.shape)}, found {tuple(a.shape)}"
    difference = (a - b).abs().max()
    return float(difference / (b.abs().max() if scale is None else scale)) if difference else 0.0


def assert_close(
    found: Any, true: Any, terms: int = 1, *, scale: float | None = None, dtype: torch.dtype | None = None
) -> None:
    """Two tensors or arrays, as sums of so many terms in the coarser of their types or in `dtype`."""
    types = [dtype] if dtype else [torch.as_tensor(values).dtype for values in (found, true)]
    away, allowed = off(found, true, scale), max(rounding(kind, terms) for kind in types)
    assert away <= allowed, f"off by {away:.2e} of the largest value, expected at most {allowed:.2e}"


def assert_close_gradients(
    found: Mapping[str, Tensor | None],
    true: Mapping[str, Tensor | None],
    terms: int,
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """By name, as shares of the largest of the whole step: a gradient that is 0 in truth has no size of its own."""
    assert found.keys() == true.keys()
    largest = max(float(gradient.detach().abs().max()) for gradient in true.values() if gradient is not None)
    for name, gradient in true.items():
        mine = found[name]
        assert (mine is None) == (gradient is None), name
        if mine is not None:
            away, allowed = off(mine, gradient, largest), rounding(dtype or mine.dtype, terms)
            assert away <= allowed, f"{name}: off by {away:.2e} of the largest gradient, expected at most {allowed:.2e}"
