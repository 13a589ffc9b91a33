"""Whether a computation is right here: its output and gradients in one type of numbers against those in a finer one.

Libraries have faults on some processors only, and say nothing of them. What a fault gives is not a little off: it is
garbage, with another direction and another size. So a computation is right where direction, size and every value agree
but for rounding. All trials of the package, before training and in `uniformer doctor`, are this one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

#: By which share of the largest value, and of the norm, a computation may be off. 16 bits round by 0.004 and 0.0005,
#: garbage is off by 0.8 and more; cuDNN takes TF32 for float32.
TOLERANCES = {torch.float32: 5e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}

NOTHING = 5e-6  #: of the largest gradient: what is 0 in truth comes out as up to 1e-6 of it in float32


class Agreement(NamedTuple):
    """How tensors agree with truer ones: the worst of them."""

    cosine: float = 1.0
    size: float = 1.0  #: norm, as a multiple of the true one
    off: float = 0.0  #: largest difference, as a share of the largest true value

    def is_within(self, tolerance: float) -> bool:
        """Also false where a number is NaN. A cosine is 1 - t^2 / 2 where tensors are apart by t of their norm."""
        return self.cosine >= 1 - tolerance**2 / 2 and abs(self.size - 1) <= tolerance and self.off <= tolerance

    def __str__(self) -> str:
        if not math.isfinite(self.cosine * self.off):
            return "not finite"
        return f"cosine {self.cosine:.4g}, size {self.size:.3g}"


class Trial(NamedTuple):
    """What came of a computation that was tried in a type of numbers."""

    output: Agreement
    gradients: Agreement  #: of all that goes in, parameters included
    dtype: torch.dtype

    @property
    def is_right(self) -> bool:
        return all(agreement.is_within(TOLERANCES[self.dtype]) for agreement in (self.output, self.gradients))

    @property
    def worst(self) -> Agreement:
        return worst((self.output, self.gradients))


def tried(
    compute: Callable[..., Tensor], leaves: Sequence[Tensor], dtype: torch.dtype, grad: Tensor | None = None
) -> Trial:
    """`compute(*leaves)` in a type of numbers, 16 bits by autocast, against float32, or float64 for float32.

    Both get the same numbers, rounded to `dtype`. `grad` is that of the output, cut to its shape; drawn by default.
    Draws nothing from the caller's generators.
    """
    device, is_low = leaves[0].device.type, dtype.itemsize == 2
    low = [leaf.detach().to(dtype).float().requires_grad_() for leaf in leaves]
    true = [leaf.detach().to(torch.float32 if is_low else torch.float64).requires_grad_() for leaf in low]
    with torch.enable_grad():
        with torch.autocast(device, enabled=False):
            exact = compute(*true)
        with torch.autocast(device, dtype if is_low else None, enabled=is_low):
            found = compute(*low)
    if grad is None:
        grad = drawn(exact.shape, leaves[0].device)
    grad = grad[tuple(map(slice, exact.shape))].to(dtype)
    of_low, of_true = (
        torch.autograd.grad(y, x, grad.to(y.dtype), allow_unused=True, materialize_grads=True)
        for y, x in ((found, low), (exact, true))
    )
    largest = max(float(gradient.abs().max()) for gradient in of_true)
    of_pairs = worst(agreement_of(f, t, largest) for f, t in zip(of_low, of_true, strict=True))
    return Trial(agreement_of(found.detach(), exact.detach()), of_pairs, dtype)


def drawn(shape: Sequence[int], device: torch.device | str = "cpu", seed: int = 0) -> Tensor:
    """Normal numbers, always the same, from a generator of their own."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed)).to(device)


def agreement_of(found: Tensor, true: Tensor, largest: float = 0.0) -> Agreement:
    """Of two tensors of one shape. What is 0 in truth, but for rounding beside the `largest` value of all that belongs
    to it, has no direction and no size of its own: it is off by a share of that."""
    f, t = found.double().flatten(), true.double().flatten()
    off, most = (float(values.abs().max()) if len(t) else 0.0 for values in (f - t, t))
    if most <= NOTHING * largest or most == 0:
        return Agreement(off=off / largest if largest else off and math.inf)
    of_f, of_t = float(f.norm()), float(t.norm())
    return Agreement(float(f @ t) / (of_f * of_t) if of_f else 0.0, of_f / of_t, off / most)


def worst(agreements: Iterable[Agreement]) -> Agreement:
    """The one of several that is furthest off; a NaN is further than any number."""
    return max(agreements, key=lambda a: max(a.off, 1 - a.cosine) if a.off == a.off else math.inf, default=Agreement())
