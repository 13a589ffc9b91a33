"""Models of the dense tasks, whose answers are made of whole pictures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from transformers.modeling_outputs import SemanticSegmenterOutput
from transformers.utils import ModelOutput

from uniformer.errors import InputError
from uniformer.heads.detection import Limits
from uniformer.tasks.detection import Detection, things_in
from uniformer.transformers.model import Model


@dataclass
class UniFormerSegmenterOutput(SemanticSegmenterOutput):
    """Logits (B, K, h, w) of some of the input's pixels."""

    input_size: Tensor | None = None  #: (2,), height and width of the input


class UniFormerForSemanticSegmentation(Model):
    task = "segmentation"

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, **_: Tensor) -> UniFormerSegmenterOutput:
        """`pixel_values` (B, 3, H, W) -> logits (B, K, H / 4, W / 4); the processor's
        `post_process_semantic_segmentation` makes classes of the picture's own pixels of them."""
        _refuse_labels(labels)
        return UniFormerSegmenterOutput(
            logits=self.network(pixel_values), input_size=torch.tensor(pixel_values.shape[2:])
        )


@dataclass
class UniFormerDetections(ModelOutput):
    """Of each picture: boxes (N, 4), x1, y1, x2, y2 in its own pixels, scores and labels (N,), the best first."""

    boxes: tuple[Tensor, ...] | None = None
    scores: tuple[Tensor, ...] | None = None
    labels: tuple[Tensor, ...] | None = None


class UniFormerForObjectDetection(Model):
    task = "detection"

    @cached_property
    def _limits(self) -> Limits:
        return Detection(self.config.contract).limits

    def forward(
        self, pixel_values: Tensor, sizes: Tensor, factors: Tensor, labels: Tensor | None = None
    ) -> UniFormerDetections:
        """As the processor gives them: `pixel_values` (B, 3, H, W), `sizes` (B, 2) without padding, `factors` (B, 4)
        from boxes of the picture to boxes of the input. The thresholds are the checkpoint's."""
        _refuse_labels(labels)
        whole = [(int(height), int(width)) for height, width in sizes]
        _, found = things_in(self.network, pixel_values, whole, list(factors.to(pixel_values)), self._limits)
        return UniFormerDetections(
            boxes=tuple(each.boxes for each in found),
            scores=tuple(each.scores for each in found),
            labels=tuple(each.labels for each in found),
        )


def _refuse_labels(labels: object) -> None:
    if labels is not None:
        raise InputError("expected no labels: dense networks learn by `uniformer train`, not in transformers")
