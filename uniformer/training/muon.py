"""Muon: weights that are matrices step along the nearest orthogonal matrix of their momentum, all others by AdamW.

K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024), kellerjordan.github.io/posts/muon.
The libraries' own compute in bfloat16 everywhere, which takes thirty times as long as float32 on a CPU without
instructions for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw as adamw_

# A quintic a x + b x^3 + c x^5 of singular values in (0, 1] that brings nearly all of them into 0.7 to 1.2 in five
# rounds: steep at 0 rather than exact at 1, which makes no difference to training.
QUINTIC = (3.4445, -4.7750, 2.0315)
ROUNDS = 5
#: An orthogonal matrix of R rows and C columns, times this and sqrt(max(R, C)), is as large as AdamW's steps are, so
#: that one learning rate and weight decay serve both (Moonlight, arXiv:2502.16982, section 2.2).
SIZE_OF_ADAMW = 0.2
MOMENTUM = 0.95


class Muon(torch.optim.Optimizer):
    """Groups with "matrix" set by Muon with Nesterov momentum, the rest as torch's AdamW; weight decay is decoupled.

    A convolution's weight (out, in, *kernel) counts as the matrix (out, in x kernel).
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, betas: tuple[float, float], eps: float):
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0, "matrix": False, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step by the gradients as they are, or as `closure` makes them; returns what it returns, its loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            trained = [parameter for parameter in group["params"] if parameter.grad is not None]
            if trained:
                (self._step_matrices if group["matrix"] else self._step_adamw)(trained, group)
        return loss

    def _step_matrices(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        alike: dict[torch.Size, list[Tensor]] = {}
        for weight in weights:
            alike.setdefault(weight.shape, []).append(weight)
        for same in alike.values():  # as one batch of products
            steps = orthogonal(torch.stack([self._momentum(weight).flatten(1) for weight in same]))
            size = SIZE_OF_ADAMW * max(steps.shape[1:]) ** 0.5
            for weight, step in zip(same, steps, strict=True):
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.sub_(step.view_as(weight), alpha=group["lr"] * size)

    def _momentum(self, weight: Tensor) -> Tensor:
        """The gradient's moving average, as it will be after one more gradient like this one (Nesterov)."""
        assert weight.grad is not None
        state = self.state[weight]
        if not state:
            state["average"] = torch.zeros_like(weight)
        average = state["average"].lerp_(weight.grad, 1 - MOMENTUM)
        return weight.grad.lerp(average, MOMENTUM)

    def _step_adamw(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        states = [self.state[parameter] for parameter in parameters]
        for parameter, state in zip(parameters, states, strict=True):
            if not state:
                state["step"] = torch.zeros(())
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        adamw_(
            parameters,
            [parameter.grad for parameter in parameters],  # type: ignore[misc]
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],  # of AMSGrad
            [state["step"] for state in states],
            amsgrad=False,
            maximize=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
        )


def orthogonal(matrices: Tensor) -> Tensor:
    """(n, R, C) -> the same: singular values nearly 1 instead of what they are, singular vectors as they are.

    By Newton-Schulz iteration, in bfloat16 where the device computes in it. A matrix of zeros stays one.
    """
    x = matrices.to(_precision(matrices.device))
    if tall := x.shape[1] > x.shape[2]:
        x = x.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)  # so no singular value is above 1
    a, b, c = QUINTIC
    for _ in range(ROUNDS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


def _precision(device: torch.device) -> torch.dtype:
    if device.type == "cpu" and not torch.cpu.get_capabilities().get("avx512_bf16", False):
        return torch.float32
    return torch.bfloat16
