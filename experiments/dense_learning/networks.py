"""torchvision's small networks in the place of ours: trained by the same loop and recipe, fed and scored the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection import ssdlite320_mobilenet_v3_large
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from uniformer.config import Config
from uniformer.reading.whole import WholeViews
from uniformer.tasks.detection import Detection
from uniformer.tasks.detection_losses import Truth
from uniformer.tasks.objective import Objective

SMALLEST_BOX, LARGEST_BOX = 0.05, 0.8  #: boxes of SSDlite, shares of a side; its own suit photographs


class LRASPP(nn.Module):
    """LR-ASPP on MobileNetV3-L. It answers as a `Segmenter` does."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.network = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=config.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)["out"]

    def forward_train(self, x: Tensor) -> tuple[Tensor]:
        return (self(x),)


class AsTheyAre(GeneralizedRCNNTransform):
    """Pictures that are scaled and normalised already."""

    def resize(self, image: Tensor, target: Any = None) -> tuple[Tensor, Any]:
        return image, target


class SSDlite(nn.Module):
    """SSDlite on MobileNetV3-L."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.network = ssdlite320_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=config.num_classes + 1
        )
        self.network.transform = AsTheyAre(1, 1, [0.0] * 3, [1.0] * 3, size_divisible=1)
        self.network.anchor_generator = DefaultBoxGenerator([[2, 3]] * 6, min_ratio=SMALLEST_BOX, max_ratio=LARGEST_BOX)

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        return self.network(list(x))


class SSDliteObjective(Objective):
    model: SSDlite

    def __init__(self, model: SSDlite):
        super().__init__()
        self.model = model

    def targets(self, batch: Any, rng: np.random.Generator) -> tuple[Any, ...]:
        return batch.x, batch.truths

    def forward(self, x: Tensor, truths: Sequence[Truth]) -> dict[str, Tensor]:
        return self.model.network(list(x), [{"boxes": t.boxes, "labels": t.labels + 1} for t in truths])


class Boxes(Detection):
    """Detection by SSDlite: boxes without masks."""

    def objective(self, options: Any, train_set: Any) -> Callable[[Any], Objective]:
        self.contract = replace(self.contract, details={**self.contract.details, "masks": False})
        return SSDliteObjective

    def answer(self, form: Any, views: WholeViews, device: torch.device, batch_size: int) -> tuple[Tensor, ...]:
        (found,) = form(torch.from_numpy(views.array).to(device))
        boxes = found["boxes"] / torch.from_numpy(views.factors).to(device)
        best = self.options.most
        kept = tuple(found[name][:best] for name in ("scores", "labels"))
        return boxes[:best], kept[0], kept[1] - 1, boxes.new_zeros(0, 28, 28), boxes.sum()[None]


RIVALS = {"lraspp": (LRASPP, None), "ssdlite": (SSDlite, Boxes)}
