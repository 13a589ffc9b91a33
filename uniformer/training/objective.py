"""Network and loss as one module, so that gradients over processes and compilation see the whole; and what went wrong
in it when a number is not finite."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from uniformer.errors import InputError
from uniformer.network.blocks import GlobalMHRA
from uniformer.network.model import UniFormer
from uniformer.tasks.losses import (
    binary_cross_entropy,
    distillation_loss,
    label_map_targets,
    soft_target_cross_entropy,
    token_label_loss,
    two_head_loss,
)
from uniformer.tasks.mixing import Box, draw_mix_box, mix_batch
from uniformer.training.batches import Batch
from uniformer.training.recipe import Loss, Recipe


class Task(NamedTuple):
    """What the network is shown in one pass, and what it should say."""

    x: Tensor  #: (B, 3, [T,] h, w)
    targets: Tensor  #: (B, K)
    dense_targets: Tensor | None = None  #: (B, N, K), token labeling
    box: Box | None = None  #: of MixToken, on the stem's grid


class Objective(nn.Module):
    """forward gives the loss of a `Task`, a scalar. `teacher` has no part in what is trained or saved."""

    def __init__(self, model: UniFormer, loss: Loss, teacher: UniFormer | None = None):
        super().__init__()
        self.model, self.loss = model, loss
        self._teacher = (teacher,)  # in a tuple: not a submodule

    def forward(
        self, x: Tensor, targets: Tensor, dense_targets: Tensor | None = None, box: Box | None = None
    ) -> Tensor:
        if self.loss.kind == "two_head":
            logits, class_logits = self.model.forward_class_token(x)
            value = two_head_loss(logits, class_logits, targets)
        elif self.loss.kind == "token_labeling":
            assert dense_targets is not None
            logits, dense_logits, small = self.model.forward_token_labels(x, box)
            value = token_label_loss(logits, dense_logits, small, targets, dense_targets)
        else:
            logits = self.model(x)
            value = (binary_cross_entropy if self.loss.kind == "bce" else soft_target_cross_entropy)(logits, targets)
        (teacher,) = self._teacher
        if teacher is None:
            return value
        with torch.no_grad():
            said = teacher(x)
        term = distillation_loss(logits, said, self.loss.temperature)
        return torch.lerp(value, term, self.loss.teacher_weight)

    @property
    def leaves_parameters_out(self) -> bool:
        """Whether some parameters get no gradient: the class token's head where the loss does not ask for it."""
        return self.model.config.is_hourglass and self.loss.kind != "two_head"


def make_task(batch: Batch, recipe: Recipe, model: UniFormer, rng: np.random.Generator) -> Task:
    """Mix a batch that is on the device already. `rng` is the same in all processes, which then draw the same."""
    smoothing, classes = recipe.mixing.label_smoothing, recipe.model.num_classes
    if recipe.loss.kind != "token_labeling":
        return Task(*mix_batch(batch.x, batch.labels, classes, recipe.mixing, rng))
    assert batch.label_maps is not None
    assert batch.crops is not None
    grids = model.grids(tuple(batch.x.shape[2:]))
    grid = (grids[-1][0], grids[-1][1])
    targets, dense = label_map_targets(batch.label_maps, batch.crops, classes, grid, smoothing)
    return Task(batch.x, targets, dense, draw_mix_box((grids[0][0], grids[0][1]), rng))


def attend_in_float32(model: nn.Module) -> None:
    """Keep attention out of autocast's lower precision."""
    for module in model.modules():
        if isinstance(module, GlobalMHRA):
            module.float32 = True


def load_teacher(recipe: Recipe, device: torch.device) -> UniFormer | None:
    """The network to learn from, frozen, on `device`. Raises `InputError` where it takes or says other things."""
    if recipe.loss.teacher is None:
        return None
    from uniformer.checkpoints.load import load_model

    teacher, contract, _ = load_model(recipe.loss.teacher)
    wanted, found = recipe.model, teacher.config
    if (wanted.ndim, wanted.num_classes) != (found.ndim, found.num_classes) or teacher.norm is None:
        raise InputError(
            f"expected a teacher for {'clips' if wanted.is_video else 'images'} with {wanted.num_classes} classes, "
            f"got {contract.id or recipe.loss.teacher} for {'clips' if found.is_video else 'images'} "
            f"with {found.num_classes}"
        )
    return teacher.requires_grad_(False).float().to(device).eval()


# ---- numbers that are not finite -------------------------------------------------------------------------------------


@torch.no_grad()
def first_bad_layer(objective: Objective, task: Task) -> str | None:
    """Where a forward pass first gives NaN or infinity: the input, a module by name, the loss; None where nowhere.

    Runs the pass again, and leaves its mark on the statistics of batch norms.
    """
    found: list[str] = [] if task.x.isfinite().all() else ["the input"]
    modules = [(name, module) for name, module in objective.model.named_modules() if name]
    hooks = [module.register_forward_hook(_Watch(name, found)) for name, module in modules]
    try:
        value = objective(*task)
    finally:
        for hook in hooks:
            hook.remove()
    if found:
        return found[0]
    return None if value.isfinite() else "the loss"


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
