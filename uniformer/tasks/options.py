"""What training is told about targets and loss, as data. No torch here, so that recipes list quickly."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from uniformer.errors import Checked
from uniformer.reading.options import Mixing


@dataclass(frozen=True)
class Loss(Checked):
    """What is minimised; label smoothing is part of `Mixing`."""

    #: two_head: half the loss of each of the light models' two classifiers; bce: several labels a sample
    kind: Literal["soft_target", "two_head", "token_labeling", "bce"] = "soft_target"
    teacher: str | None = None  #: checkpoint id or path of a network to learn from as well (distillation)
    teacher_weight: float = 0.5  #: share of the teacher's term; the labels have the rest
    temperature: float = 1.0  #: that both networks' logits are divided by in the teacher's term

    def _problems(self) -> Iterable[str]:
        if not 0 <= self.teacher_weight <= 1:
            yield f"expected loss.teacher_weight in [0, 1], got {self.teacher_weight}"
        if not 0 < self.temperature < math.inf:
            yield f"expected a positive loss.temperature, got {self.temperature}"


@dataclass(frozen=True)
class TargetOptions:
    """The settings of a recipe that a task's targets and loss go by."""

    loss: Loss = field(default_factory=Loss)
    mixing: Mixing = field(default_factory=Mixing)
    label_maps: str | None = None  #: folder of dense label maps, for token labeling
