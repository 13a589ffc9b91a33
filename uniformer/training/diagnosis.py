"""What went wrong when a number of a training step is not finite: the layer, or the gradient, where it began."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from uniformer.tasks.objective import Objective


@torch.no_grad()
def first_bad_layer(objective: Objective, targets: tuple[Any, ...]) -> str | None:
    """Where a forward pass first gives NaN or infinity: the input, a module by name, the loss; None where nowhere.

    Runs the pass again, and leaves its mark on the statistics of batch norms.
    """
    found: list[str] = [] if targets[0].isfinite().all() else ["the input"]
    modules = [(name, module) for name, module in objective.model.named_modules() if name]
    hooks = [module.register_forward_hook(_Watch(name, found)) for name, module in modules]
    try:
        losses = objective(*targets)
    finally:
        for hook in hooks:
            hook.remove()
    if found:
        return found[0]
    return None if all(value.isfinite() for value in losses.values()) else "the loss"


class _Watch:
    """A hook that notes a module whose output is not finite; inner modules end before outer ones."""

    def __init__(self, name: str, found: list[str]):
        self._name, self._found = name, found

    def __call__(self, _module: nn.Module, _args: object, output: object) -> None:
        tensors = output if isinstance(output, tuple | list) else (output,)
        if not self._found and any(isinstance(t, Tensor) and not t.isfinite().all() for t in tensors):
            self._found.append(self._name)


def last_bad_gradient(model: nn.Module) -> str | None:
    """The parameter nearest to the loss whose gradient is not finite: where the backward pass went wrong first."""
    bad = [n for n, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    return bad[-1] if bad else None
