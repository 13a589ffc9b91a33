"""Network, targets and loss as one module, so that gradients over processes and compilation see the whole."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from uniformer.errors import InputError
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
from uniformer.tasks.options import Loss, TargetOptions


class Samples(Protocol):
    """A batch, on the device already."""

    @property
    def x(self) -> Tensor: ...  #: (B, 3, [T,] h, w)
    @property
    def labels(self) -> Tensor: ...  #: int64 (B,), or float32 (B, K) of a multi-label set
    @property
    def label_maps(self) -> Tensor | None: ...  #: (B, 2, k, M, M)
    @property
    def crops(self) -> Tensor | None: ...  #: (B, 4), see `losses.label_map_targets`


class Objective(nn.Module):
    """What a step of training minimises: `forward(*targets(batch, rng))` gives the losses by name, scalars."""

    model: nn.Module

    def targets(self, batch: Any, rng: np.random.Generator) -> tuple[Any, ...]:
        """What the network is shown, first, and what it should say of a task's own batch, such as `Samples`.

        `rng` is the same in all processes of a step.
        """
        raise NotImplementedError

    def forward(self, *targets: Any) -> dict[str, Tensor]:
        raise NotImplementedError

    @property
    def leaves_parameters_out(self) -> bool:
        """Whether some parameters get no gradient."""
        return False


class ClassTargets(NamedTuple):
    """What a classifier is shown in one pass, and what it should say."""

    x: Tensor  #: (B, 3, [T,] h, w)
    targets: Tensor  #: (B, K)
    dense_targets: Tensor | None = None  #: (B, N, K), token labeling
    box: Box | None = None  #: of MixToken, on the stem's grid


class ClassObjective(Objective):
    """Losses of a classifier. `teacher` has no part in what is trained or saved."""

    model: UniFormer

    def __init__(self, model: UniFormer, options: TargetOptions, teacher: UniFormer | None = None):
        super().__init__()
        self.model, self.options = model, options
        self._teacher = (teacher,)  # in a tuple: not a submodule

    def targets(self, batch: Samples, rng: np.random.Generator) -> ClassTargets:
        mixing, classes = self.options.mixing, self.model.config.num_classes
        if self.options.loss.kind != "token_labeling":
            return ClassTargets(*mix_batch(batch.x, batch.labels, classes, mixing, rng))
        assert batch.label_maps is not None
        assert batch.crops is not None
        grids = self.model.grids(tuple(batch.x.shape[2:]))
        grid = (grids[-1][0], grids[-1][1])
        targets, dense = label_map_targets(batch.label_maps, batch.crops, classes, grid, mixing.label_smoothing)
        return ClassTargets(batch.x, targets, dense, draw_mix_box((grids[0][0], grids[0][1]), rng))

    def forward(
        self, x: Tensor, targets: Tensor, dense_targets: Tensor | None = None, box: Box | None = None
    ) -> dict[str, Tensor]:
        loss = self.options.loss
        if loss.kind == "two_head":
            logits, class_logits = self.model.forward_class_token(x)
            value = two_head_loss(logits, class_logits, targets)
        elif loss.kind == "token_labeling":
            assert dense_targets is not None
            logits, dense_logits, small = self.model.forward_token_labels(x, box)
            value = token_label_loss(logits, dense_logits, small, targets, dense_targets)
        else:
            logits = self.model(x)
            value = (binary_cross_entropy if loss.kind == "bce" else soft_target_cross_entropy)(logits, targets)
        (teacher,) = self._teacher
        if teacher is not None:
            with torch.no_grad():
                said = teacher(x)
            value = torch.lerp(value, distillation_loss(logits, said, loss.temperature), loss.teacher_weight)
        return {"loss": value}

    @property
    def leaves_parameters_out(self) -> bool:
        """The class token's head gets no gradient where the loss does not ask for it."""
        return self.model.config.is_hourglass and self.options.loss.kind != "two_head"


def load_teacher(loss: Loss, student: UniFormer) -> UniFormer | None:
    """The network to learn from, frozen, on the student's device. Raises `InputError` where it takes or says others."""
    if loss.teacher is None:
        return None
    from uniformer.checkpoints.load import load_model

    teacher, contract, _ = load_model(loss.teacher)
    wanted, found = student.config, teacher.config
    if (wanted.ndim, wanted.num_classes) != (found.ndim, found.num_classes) or teacher.norm is None:
        raise InputError(
            f"expected a teacher for {'clips' if wanted.is_video else 'images'} with {wanted.num_classes} classes, "
            f"got {contract.id or loss.teacher} for {'clips' if found.is_video else 'images'} "
            f"with {found.num_classes}"
        )
    return teacher.requires_grad_(False).float().to(next(student.parameters()).device).eval()
