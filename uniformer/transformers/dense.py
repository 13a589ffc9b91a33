"""Models of the dense tasks, whose answers are made of whole pictures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers.modeling_outputs import SemanticSegmenterOutput
from transformers.utils import ModelOutput

from uniformer.errors import InputError
from uniformer.tasks.detection import Detection, things_in
from uniformer.tasks.pose import Pose
from uniformer.transformers.config import UniFormerConfig
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
    pictures: Tensor | None = None  #: (B, 2), their heights and widths
    masks: tuple[Tensor, ...] | None = None  #: (N, 28, 28), shares of the class in its box; None of boxes alone


class UniFormerForObjectDetection(Model):
    task = "detection"
    with_masks: ClassVar[bool] = False

    @cached_property
    def _task(self) -> Detection:
        return Detection(self.config.contract)

    def forward(
        self, pixel_values: Tensor, sizes: Tensor, pictures: Tensor, labels: Tensor | None = None
    ) -> UniFormerDetections:
        """As the processor gives them: `pixel_values` (B, 3, H, W), `sizes` (B, 2), height and width without padding,
        and those of the `pictures` (B, 2). The thresholds are the checkpoint's.

        Raises `InputError` for less than float32: boxes need it, and `torch.autocast` keeps it where they do."""
        _refuse_labels(labels)
        if pixel_values.dtype.itemsize < 4:
            raise InputError(f"expected pixel_values in float32, and torch.autocast for less, got {pixel_values.dtype}")
        whole = [(int(height), int(width)) for height, width in sizes]
        scales = list((sizes / pictures).flip(1).repeat(1, 2).to(pixel_values.device))  # x, y, x, y
        network: Any = self.network
        levels, found = things_in(network, pixel_values, whole, scales, self._task.limits)
        return UniFormerDetections(
            boxes=tuple(each.boxes for each in found),
            scores=tuple(each.scores for each in found),
            labels=tuple(each.labels for each in found),
            pictures=pictures,
            masks=tuple(network.masks(levels, found, scales)) if self.with_masks else None,
        )


class UniFormerForInstanceSegmentation(UniFormerForObjectDetection):
    """With a mask of each thing. Raises `InputError` for a network that nobody has taught any."""

    with_masks = True

    def __init__(self, config: UniFormerConfig):
        super().__init__(config)
        if not self._task.has_masks:
            raise InputError("expected a network that makes masks, got one of boxes alone")


@dataclass
class UniFormerHeatMaps(ModelOutput):
    """Of all people of all pictures, in their order: where their key points are, (P, K, h / 4, w / 4)."""

    heatmaps: Tensor | None = None


class UniFormerForPoseEstimation(Model):
    task = "pose"

    @cached_property
    def _task(self) -> Pose:
        return Pose(self.config.contract)

    def forward(
        self, pixel_values: Tensor, flip: bool | None = None, labels: Tensor | None = None
    ) -> UniFormerHeatMaps:
        """Crops of people, `pixel_values` (P, 3, h, w), as the processor gives them; `flip`: whether their maps are
        averaged with those of their mirror, by default as the checkpoint says, which `Predictor` does too.

        Raises `InputError` where it does not say which key points a mirror swaps."""
        _refuse_labels(labels)
        task = self._task if flip is None else Pose(self.config.contract, flip=flip)
        return UniFormerHeatMaps(heatmaps=task.heat_maps(self.network, pixel_values))


def _refuse_labels(labels: object) -> None:
    if labels is not None:
        raise InputError("expected no labels: dense networks learn by `uniformer train`, not in transformers")
