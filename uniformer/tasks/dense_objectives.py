"""What the dense networks learn in a step: network, targets and losses as one module for each task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from uniformer.heads.detection import Detector
from uniformer.heads.pose import PoseNetwork, pose_loss
from uniformer.heads.pyramid import at_least_float32
from uniformer.heads.segmentation import Segmenter, segmentation_losses
from uniformer.tasks.detection_losses import CASCADE, MASK_RCNN, Truth, detection_losses
from uniformer.tasks.objective import Objective


class Pictures(Protocol):
    """A batch, on the device already. It has what its task learns from."""

    @property
    def x(self) -> Tensor: ...  #: (B, 3, H, W)
    @property
    def sizes(self) -> list[tuple[int, int]]: ...  #: height and width of each picture in it
    @property
    def truths(self) -> list[Truth] | None: ...
    @property
    def draws(self) -> list[int] | None: ...  #: of each picture the seed by which anchors and regions are chosen
    @property
    def label_maps(self) -> Tensor | None: ...  #: (B, H, W)
    @property
    def heat_maps(self) -> Tensor | None: ...  #: (B, K, H / 4, W / 4)
    @property
    def weights(self) -> Tensor | None: ...  #: (B, K)


class DetectionObjective(Objective):
    """Proposals, boxes and, where the data have them, masks."""

    model: Detector

    def __init__(self, model: Detector, has_masks: bool, regions: int):
        super().__init__()
        self.model, self.has_masks = model, has_masks
        published = CASCADE if model.config.head == "cascade_mask_rcnn" else MASK_RCNN
        stages = tuple(replace(stage, samples=regions) for stage in published.stages)
        self.learning = replace(published, stages=stages)

    def targets(self, batch: Pictures, rng: np.random.Generator) -> tuple[Any, ...]:
        return batch.x, batch.sizes, batch.truths, batch.draws

    def forward(
        self, x: Tensor, sizes: Sequence[tuple[int, int]], truths: list[Truth], draws: list[int]
    ) -> dict[str, Tensor]:
        generators = [torch.Generator().manual_seed(draw) for draw in draws]
        return detection_losses(self.model, x, sizes, truths, self.learning, generators)

    @property
    def leaves_parameters_out(self) -> bool:
        return not self.has_masks


class SegmentationObjective(Objective):
    """The class of each pixel."""

    model: Segmenter

    def __init__(self, model: Segmenter, hardest: float):
        super().__init__()
        self.model, self.hardest = model, hardest

    def targets(self, batch: Pictures, rng: np.random.Generator) -> tuple[Tensor, Tensor | None]:
        return batch.x, batch.label_maps

    def forward(self, x: Tensor, label_maps: Tensor) -> dict[str, Tensor]:
        logits = [at_least_float32(logits) for logits in self.model.forward_train(x)]
        return segmentation_losses(logits, label_maps, self.hardest)


class PoseObjective(Objective):
    """Heat maps of key points."""

    model: PoseNetwork

    def __init__(self, model: PoseNetwork):
        super().__init__()
        self.model = model

    def targets(self, batch: Pictures, rng: np.random.Generator) -> tuple[Tensor | None, ...]:
        return batch.x, batch.heat_maps, batch.weights

    def forward(self, x: Tensor, heat_maps: Tensor, weights: Tensor) -> dict[str, Tensor]:
        return {"loss_pose": pose_loss(at_least_float32(self.model(x)), heat_maps, weights)}

    @property
    def leaves_parameters_out(self) -> bool:
        """The norms of the three maps that the head does not look at."""
        return True
