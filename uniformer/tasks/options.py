"""What training is told about batches, targets and loss, as data. No torch here, so that recipes list quickly."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from uniformer.errors import Checked
from uniformer.reading.options import not_shares

REGIONS = 512  #: of a picture that a step of a detector looks at, at most a quarter of them things; as published


@dataclass(frozen=True)
class Mixing(Checked):
    """How the samples of a batch are blended, and their labels with them. The defaults are all published runs'."""

    mixup_alpha: float = 0.8  #: of the Beta distribution of the shares of two blended samples; 0 for no mixup
    cutmix_alpha: float = 1.0  #: same, of the area of a box taken from another sample; 0 for no cutmix
    prob: float = 1.0  #: of mixing at all
    switch_prob: float = 0.5  #: of cutmix rather than mixup where both are on
    mode: Literal["batch", "pair", "elem"] = "batch"  #: one draw for a batch, for each pair of samples, for each sample
    label_smoothing: float = 0.1  #: share of the label spread over all classes

    def _problems(self) -> Iterable[str]:
        for name in ("mixup_alpha", "cutmix_alpha"):
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)):
                yield f"expected {name} of 0 or more, got {value}"
        if self.mode not in ("batch", "pair", "elem"):
            yield f"expected mode 'batch', 'pair' or 'elem', got {self.mode!r}"
        yield from not_shares(prob=self.prob, switch_prob=self.switch_prob, label_smoothing=self.label_smoothing)

    @property
    def is_on(self) -> bool:
        """Whether samples are ever mixed; labels are smoothed in any case."""
        return self.prob > 0 and (self.mixup_alpha > 0 or self.cutmix_alpha > 0)


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
    regions: int = REGIONS
    hardest: float = 1.0
