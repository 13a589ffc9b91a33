"""The four networks, each with what it learns from and how it answers. All begin with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from data import Batch
from torch import Tensor, nn
from torchvision.models.detection import ssdlite320_mobilenet_v3_large
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from uniformer.doom.coco import CLASSES
from uniformer.doom.views import THINGS
from uniformer.heads import build_network
from uniformer.heads.detection import Limits, paste_masks
from uniformer.heads.segmentation import IGNORED, resize, segmentation_losses
from uniformer.network.variants import VARIANTS
from uniformer.tasks.detection_losses import MASK_RCNN, Truth, detection_losses

Size = tuple[int, int]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

#: The published settings of Mask R-CNN look at 512 regions of a picture of 1,333 x 800; these pictures are small.
LEARNING = replace(
    MASK_RCNN,
    limits=Limits(per_level=500, proposals=200),
    rpn=replace(MASK_RCNN.rpn, samples=64),
    stages=(replace(MASK_RCNN.stages[0], samples=48),),
)
ANSWERS = Limits(per_level=500, proposals=200)


class Found(NamedTuple):
    """What a detector says of a picture (H, W)."""

    boxes: Tensor  #: (N, 4)
    scores: Tensor  #: (N,)
    labels: Tensor  #: (N,) from 0 up
    masks: Tensor | None  #: (N, H, W) bool


class Subject(NamedTuple):
    """A network that learns, and the two things that the loop asks of it."""

    network: nn.Module
    loss: Callable[[Batch], Tensor]
    answer: Callable[[Tensor], Any]  #: pictures (B, 3, H, W) -> a list of `Found`, or classes (B, H, W)
    is_detector: bool
    needs_masks: bool = False


def normalised(x: Tensor) -> Tensor:
    return (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def lraspp(size: Size) -> Subject:
    network = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=len(CLASSES))

    def loss(batch: Batch) -> Tensor:
        return F.cross_entropy(network(normalised(batch.pictures))["out"], batch.maps, ignore_index=IGNORED)

    return Subject(network, loss, lambda x: network(normalised(x))["out"], is_detector=False)


def semantic_fpn(size: Size) -> Subject:
    network = build_network(replace(VARIANTS["semantic_fpn.uniformer_nano"], num_classes=len(CLASSES)))

    def loss(batch: Batch) -> Tensor:
        return total(segmentation_losses(network.forward_train(normalised(batch.pictures)), batch.maps))

    return Subject(network, loss, lambda x: resize(network(normalised(x)), x.shape[2:]), is_detector=False)


def ssdlite(size: Size) -> Subject:
    """Fed in this size instead of 320 x 320."""
    network = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=len(THINGS) + 1)
    fixed = (size[1], size[0])  # width first
    network.transform = GeneralizedRCNNTransform(
        min(size), max(size), [0.5] * 3, [0.5] * 3, size_divisible=1, fixed_size=fixed
    )

    def loss(batch: Batch) -> Tensor:
        pairs = zip(batch.boxes, batch.labels, strict=True)
        return total(network(list(batch.pictures), [{"boxes": b, "labels": k + 1} for b, k in pairs]))

    def answer(x: Tensor) -> list[Found]:
        return [Found(a["boxes"], a["scores"], a["labels"] - 1, None) for a in network(list(x))]

    return Subject(network, loss, answer, is_detector=True)


def mask_rcnn(size: Size) -> Subject:
    network = build_network(replace(VARIANTS["mask_rcnn.uniformer_nano"], num_classes=len(THINGS)))
    whole = torch.ones(4)

    def loss(batch: Batch) -> Tensor:
        truths = [Truth(*t) for t in zip(batch.boxes, batch.labels, batch.masks, strict=True)]
        return total(detection_losses(network, normalised(batch.pictures), [size] * len(truths), truths, LEARNING))

    def answer(x: Tensor) -> list[Found]:
        levels, sizes, scales = network(normalised(x)), [size] * len(x), [whole] * len(x)
        regions = [r[:, :4] for r in network.proposals(network.rpn_head(levels), sizes, ANSWERS)]
        found = network.detect(levels, regions, sizes, scales, ANSWERS)
        masks = network.masks(levels, found, scales)
        return [Found(*d, paste_masks(m, d.boxes, size)) for d, m in zip(found, masks, strict=True)]

    return Subject(network, loss, answer, is_detector=True, needs_masks=True)


def total(losses: dict[str, Tensor]) -> Tensor:
    return sum(losses.values(), torch.zeros(()))


SUBJECTS = {f.__name__: f for f in (lraspp, semantic_fpn, ssdlite, mask_rcnn)}
