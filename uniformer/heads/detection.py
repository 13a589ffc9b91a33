"""Networks for detection and instance segmentation: Mask R-CNN (He et al. 2017) and Cascade Mask R-CNN (Cai and
Vasconcelos 2019).

    image -> backbone -> pyramid, strides 4 to 64 -> proposals -> boxes with classes -> masks (28 x 28 of each box)

Layers and names are those of the published files (TPAMI 2023, Tables 8 and 9). RoIAlign is torchvision's.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uniformer.config import Config
from uniformer.heads import boxes as box_ops
from uniformer.heads.pyramid import Conv, ConvNorm, DenseNetwork, FeaturePyramid, at_least_float32

ROI_STRIDES = (4, 8, 16, 32)  #: of the levels that regions are cut from
FINEST = 56  #: a region of this side and above the level's double is cut from the next coarser level
STDS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))  #: of each stage's deltas
RPN_STDS = (1.0, 1.0, 1.0, 1.0)
MASKS_AT_ONCE = 1000  # of detections: each takes 2 MB on the way
PASTED_AT_ONCE = 1 << 22  # pixels of a mask: of a huge picture's, all at once would take 20 bytes each


@dataclass(frozen=True)
class Limits:
    """What is kept on the way to detections; the published test settings."""

    per_level: int = 1000  #: proposals of a level, before suppression
    proposals: int = 1000  #: of an image, after it
    proposal_overlap: float = 0.7
    score: float = 0.05  #: that a detection must exceed
    overlap: float = 0.5  #: of two detections of a class
    detections: int = 100  #: of an image
    classes: tuple[int, ...] = ()  #: looked for; none: all of them


class Detections(NamedTuple):
    """What was found in an image, best first."""

    boxes: Tensor  #: (N, 4) in pixels of the original image
    scores: Tensor  #: (N,)
    labels: Tensor  #: (N,)


class RPNHead(nn.Module):
    """Proposes regions: on every cell of every level three anchors, each with a score and a correction."""

    def __init__(self, width: int):
        super().__init__()
        anchors = len(box_ops.RATIOS)
        self.rpn_conv = nn.Conv2d(width, width, 3, padding=1)
        self.rpn_cls = nn.Conv2d(width, anchors, 1)
        self.rpn_reg = nn.Conv2d(width, 4 * anchors, 1)
        for m in (self.rpn_conv, self.rpn_cls, self.rpn_reg):
            _initialise(m, 0.01)

    def forward(self, levels: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Per level logits (B, 3, H, W) and deltas (B, 12, H, W), four of each anchor in turn."""
        shared = [F.relu_(self.rpn_conv(x)) for x in levels]
        return [(at_least_float32(self.rpn_cls(x)), at_least_float32(self.rpn_reg(x))) for x in shared]


def anchors_of(outputs: Sequence[tuple[Tensor, Tensor]], scale: float) -> list[Tensor]:
    """Each level's anchors (N_i, 4) of `scale` strides, in the order of `flat_anchors`."""
    return [
        box_ops.level_anchors(logits.shape[2:], stride, logits.device, scale=scale).to(logits)
        for (logits, _), stride in zip(outputs, box_ops.STRIDES, strict=True)
    ]


def flat_anchors(logits: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor]:
    """A level's outputs in the order of its anchors: (B, N) and (B, N, 4)."""
    return logits.permute(0, 2, 3, 1).flatten(1), deltas.permute(0, 2, 3, 1).reshape(len(deltas), -1, 4)


class BoxHead(nn.Module):
    """Features of regions (N, width, 7, 7) -> logits (N, K + 1), the last for background, and deltas (N, 4 K).

    Two layers in Mask R-CNN; four convolutions and one layer in the cascade.
    """

    def __init__(self, num_classes: int, width: int, convolutions: int, stds: Sequence[float], layers: int):
        super().__init__()
        dim = 4 * width
        self.stds, self.num_classes = tuple(stds), num_classes
        self.fc_cls = nn.Linear(dim, num_classes + 1)
        self.fc_reg = nn.Linear(dim, 4 * num_classes)
        if convolutions:
            self.shared_convs = nn.ModuleList(ConvNorm(width, width, 3) for _ in range(convolutions))
        widths = (width * 7 * 7, *[dim] * layers)
        self.shared_fcs = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        for layer in self.shared_fcs:
            nn.init.xavier_uniform_(layer.weight)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        _initialise(self.fc_cls, 0.01)
        _initialise(self.fc_reg, 0.001)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for conv in getattr(self, "shared_convs", ()):
            x = conv(x)
        x = x.flatten(1)
        for layer in self.shared_fcs:
            x = F.relu(layer(x))
        return at_least_float32(self.fc_cls(x)), at_least_float32(self.fc_reg(x))


class MaskHead(nn.Module):
    """Features of regions (N, width, 14, 14) -> logits of a mask for each class (N, K, 28, 28)."""

    def __init__(self, num_classes: int, width: int):
        super().__init__()
        self.convs = nn.ModuleList(Conv(width, width, 3) for _ in range(4))
        self.upsample = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.conv_logits = nn.Conv2d(width, num_classes, 1)
        for m in (*(c.conv for c in self.convs), self.upsample, self.conv_logits):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")  # type: ignore[union-attr, arg-type]
            nn.init.zeros_(m.bias)  # type: ignore[union-attr, arg-type]

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = F.relu_(conv(x))
        return self.conv_logits(F.relu_(self.upsample(x)))


class RoIHead(nn.Module):
    """Boxes and masks of regions, in one stage, or in a cascade of three in which each refines the boxes of the one
    before."""

    def __init__(self, num_classes: int, width: int, stages: int):
        super().__init__()
        if stages == 1:
            self.bbox_head: nn.Module = BoxHead(num_classes, width, 0, STDS[0], layers=2)
            self.mask_head: nn.Module = MaskHead(num_classes, width)
        else:
            self.bbox_head = nn.ModuleList(BoxHead(num_classes, width, 4, stds, layers=1) for stds in STDS[:stages])
            self.mask_head = nn.ModuleList(MaskHead(num_classes, width) for _ in range(stages))

    @property
    def box_heads(self) -> list[BoxHead]:
        return list(self.bbox_head) if isinstance(self.bbox_head, nn.ModuleList) else [self.bbox_head]  # type: ignore[arg-type, list-item]

    @property
    def mask_heads(self) -> list[MaskHead]:
        return list(self.mask_head) if isinstance(self.mask_head, nn.ModuleList) else [self.mask_head]  # type: ignore[arg-type, list-item]


class Detector(DenseNetwork):
    """A backbone with pyramid, proposals and regions; one stage is Mask R-CNN, three the cascade.

    `detect` and `masks` take an image to results; `training` is in `detection_losses`.
    """

    def __init__(self, config: Config):
        super().__init__(config)
        self.num_classes = config.num_classes
        self.neck = FeaturePyramid(config.dims, config.head_width, levels=5)
        self.rpn_head = RPNHead(config.head_width)
        self.roi_head = RoIHead(
            config.num_classes, config.head_width, stages=3 if config.head == "cascade_mask_rcnn" else 1
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) -> the pyramid's five levels (B, width, H_i, W_i)."""
        return self.neck(self.backbone(x))

    def proposals(
        self, outputs: Sequence[tuple[Tensor, Tensor]], sizes: Sequence[Sequence[int]], limits: Limits
    ) -> list[Tensor]:
        """Regions worth a look, per image (N, 5) with their scores, best first, inside its `sizes` (H, W)."""
        flat = [flat_anchors(*level) for level in outputs]
        anchors = anchors_of(outputs, self.config.anchor_scale)
        return [
            _best_regions([(a, s[i].sigmoid(), d[i]) for a, (s, d) in zip(anchors, flat, strict=True)], size, limits)
            for i, size in enumerate(sizes)
        ]

    def detect(
        self, levels: Sequence[Tensor], regions: Sequence[Tensor], sizes: Sequence[Sequence[int]],
        scales: Sequence[Tensor], limits: Limits,
    ) -> list[Detections]:  # fmt: skip
        """Classes and boxes of regions (N, 4) of each image, in the originals' pixels: `scales` (4,) divides them."""
        rois = with_images(regions)
        heads, logits = self.roi_head.box_heads, []
        counts = [len(r) for r in regions]
        for head in heads:
            scores, deltas = head(self.cut(levels, rois, 7))
            logits.append(scores)
            if head is not heads[-1]:
                rois = refine(rois, deltas, scores[:, :-1].argmax(1), head.stds, sizes)
        shares = (sum(logits[1:], logits[0]) / len(logits)).softmax(1)
        parts = zip(rois.split(counts), deltas.split(counts), shares.split(counts), sizes, scales, strict=True)
        return [
            _best_detections(box_ops.decode(r[:, 1:], d, heads[-1].stds, size).unflatten(1, (-1, 4)) / scale, p, limits)
            for r, d, p, size, scale in parts
        ]

    def cut(self, levels: Sequence[Tensor], rois: Tensor, side: int) -> Tensor:
        """Regions (N, 5) of the levels, (N, width, side, side)."""
        return region_features(levels, rois, side)

    def masks(self, levels: Sequence[Tensor], found: Sequence[Detections], scales: Sequence[Tensor]) -> list[Tensor]:
        """Of each detection the share of its class in its box, (N, 28, 28); with several stages their mean."""
        rois = with_images([d.boxes * scale for d, scale in zip(found, scales, strict=True)])
        labels, means = torch.cat([d.labels for d in found]), []
        for some, own in zip(rois.split(MASKS_AT_ONCE), labels.split(MASKS_AT_ONCE), strict=True):
            features, rows = self.cut(levels, some, 14), torch.arange(len(some), device=some.device)
            shares = [head(features)[rows, own].sigmoid() for head in self.roi_head.mask_heads]
            means.append(sum(shares[1:], shares[0]) / len(shares))
        return list(torch.cat(means).split([len(d.boxes) for d in found]))


def _best_regions(levels: Sequence[tuple[Tensor, Tensor, Tensor]], size: Sequence[int], limits: Limits) -> Tensor:
    """Anchors (N, 4), scores (N,) and deltas (N, 4) of each level of one image -> (M, 5)."""
    kept_boxes, kept_scores, groups = [], [], []
    for number, (anchors, scores, deltas) in enumerate(levels):
        if len(scores) > limits.per_level:
            scores, best = scores.sort(descending=True, stable=True)
            scores, best = scores[: limits.per_level], best[: limits.per_level]
            anchors, deltas = anchors[best], deltas[best]
        kept_boxes.append(box_ops.decode(anchors, deltas, RPN_STDS, size))
        kept_scores.append(scores)
        groups.append(torch.full_like(scores, number))
    boxes, scores = torch.cat(kept_boxes), torch.cat(kept_scores)
    kept = box_ops.suppress(boxes, scores, torch.cat(groups), limits.proposal_overlap, limits.proposals)
    return torch.cat([boxes[kept], scores[kept, None]], dim=1)


def _best_detections(boxes: Tensor, shares: Tensor, limits: Limits) -> Detections:
    """Boxes (N, K, 4) and shares (N, K + 1) of regions -> detections; every pair above the score has its own box."""
    wanted = shares[:, :-1] > limits.score
    if limits.classes:
        wanted[:, [k for k in range(wanted.shape[1]) if k not in limits.classes]] = False
    row, label = wanted.nonzero(as_tuple=True)
    boxes, scores = boxes[row, label], shares[row, label]
    kept = box_ops.suppress(boxes, scores, label, limits.overlap, limits.detections)
    return Detections(boxes[kept], scores[kept], label[kept])


def with_images(regions: Sequence[Tensor]) -> Tensor:
    """Boxes (N, 4) of each image of a batch as rows (image, x1, y1, x2, y2)."""
    return torch.cat([F.pad(boxes, (1, 0), value=image) for image, boxes in enumerate(regions)])


def region_levels(rois: Tensor) -> Tensor:
    """The level 0 to 3 that each region (N, 5) is cut from."""
    side = box_ops.area(rois[:, 1:]).sqrt()
    return torch.log2(side / FINEST + 1e-6).floor().clamp(0, len(ROI_STRIDES) - 1).long()


def region_features(levels: Sequence[Tensor], rois: Tensor, side: int) -> Tensor:
    """Regions (N, 5) cut out of the levels that fit them: (N, width, side, side)."""
    from torchvision.ops import roi_align

    number = region_levels(rois)
    features = levels[0].new_zeros(len(rois), levels[0].shape[1], side, side)
    for i, stride in enumerate(ROI_STRIDES):
        rows = (number == i).nonzero()[:, 0]
        if len(rows):
            cut = roi_align(levels[i], rois[rows], side, 1 / stride, sampling_ratio=-1, aligned=True)
            features = features.index_copy(0, rows, cut)
    return features


def refine(
    rois: Tensor, deltas: Tensor, labels: Tensor, stds: Sequence[float], sizes: Sequence[Sequence[int]]
) -> Tensor:
    """Regions (N, 5) corrected by the columns of their classes, inside their images' sizes (H, W)."""
    own = deltas.unflatten(1, (-1, 4))[torch.arange(len(labels), device=labels.device), labels]
    boxes = torch.empty_like(rois)
    boxes[:, 0] = rois[:, 0]
    for image, size in enumerate(sizes):
        rows = rois[:, 0] == image
        boxes[rows, 1:] = box_ops.decode(rois[rows, 1:], own[rows], stds, size)
    return boxes


def paste_masks(shares: Tensor, boxes: Tensor, size: Sequence[int], threshold: float = 0.5) -> Tensor:
    """Shares (N, 28, 28) laid into their boxes (N, 4) on an image of (H, W): bool (N, H, W), at least `threshold`.

    Pixels take the share at their centre, interpolated, with zeros around the 28 x 28; on a CPU, as in the reference,
    only inside the box grown by a pixel.
    """
    pasted = torch.zeros(len(boxes), *size, dtype=torch.bool, device=boxes.device)
    for mask, share, box in zip(pasted, shares, boxes, strict=True):
        left, top = (box[:2].floor() - 1).clamp(min=0).int().tolist()
        right = min(int(box[2].ceil()) + 1, size[1])
        bottom = min(int(box[3].ceil()) + 1, size[0])
        rows = PASTED_AT_ONCE // max(1, right - left) + 1
        for first in range(top, bottom if left < right else top, rows):
            last = min(first + rows, bottom)
            x, y = _places(left, right, box[0], box[2]), _places(first, last, box[1], box[3])
            grid = torch.stack([x[None].expand(len(y), -1), y[:, None].expand(-1, len(x))], dim=2)[None]
            inside = F.grid_sample(share[None, None].to(grid), grid, align_corners=False)
            mask[first:last, left:right] = inside[0, 0] >= threshold
    return pasted


def _places(first: int, last: int, low: Tensor, high: Tensor) -> Tensor:
    """Where pixels `first` to `last` lie between the sides of a box, -1 to 1; in the middle of one without extent."""
    centres = torch.arange(first, last, device=low.device, dtype=low.dtype) + 0.5
    return ((centres - low) / (high - low) * 2 - 1).nan_to_num(posinf=0, neginf=0)


def _initialise(module: nn.Module, std: float) -> None:
    assert isinstance(module, nn.Conv2d | nn.Linear)
    nn.init.normal_(module.weight, std=std)
    assert module.bias is not None
    nn.init.zeros_(module.bias)
