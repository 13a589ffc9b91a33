"""What detectors learn from: which truths anchors and regions belong to, and the losses (Mask R-CNN, Cascade).

Divisors are the reference's: proposals by the anchors sampled in the batch, boxes by all regions sampled, positive or
not, masks by the positive regions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from uniformer.heads import boxes as box_ops
from uniformer.heads.detection import (
    RPN_STDS,
    BoxHead,
    Detector,
    Limits,
    anchors_of,
    flat_anchors,
    refine,
    region_features,
    with_images,
)
from uniformer.heads.pyramid import at_least_float32


class Truth(NamedTuple):
    """What is in an image."""

    boxes: Tensor  #: (M, 4) in pixels of the network's input
    labels: Tensor  #: (M,)
    #: (M, H, W) on the padded input, 0 or 1; None where the data have none: none are learnt
    masks: Tensor | None
    masked: Tensor | None = None  #: (M,): which have a mask, where not all do: of the others the boxes are learnt alone


MASK_VALUES = 1 << 24  #: of masks that are floats at a time, 64 MB in float32


@dataclass(frozen=True)
class Matching:
    """Which boxes belong to a truth, and how many of them a step looks at."""

    positive: float
    negative: float
    least: float | None  #: overlap from which a truth takes its best boxes, however little they overlap
    samples: int
    positive_share: float


@dataclass(frozen=True)
class Learning:
    """The published training settings of a kind of detector."""

    limits: Limits  #: of proposals
    rpn: Matching
    stages: tuple[Matching, ...]
    weights: tuple[float, ...]  #: of the stages' losses
    inside_only: bool  #: anchors that leave the image take no part
    is_smooth: bool  #: smooth L1 for proposals, GIoU for boxes, instead of L1 for both


_RPN = Matching(0.7, 0.3, 0.3, 256, 0.5)
MASK_RCNN = Learning(Limits(2000, 1000), _RPN, (Matching(0.5, 0.5, 0.5, 512, 0.25),), (1.0,), False, False)
CASCADE = Learning(
    Limits(2000, 2000), _RPN, tuple(Matching(t, t, None, 512, 0.25) for t in (0.5, 0.6, 0.7)), (1.0, 0.5, 0.25),
    inside_only=True, is_smooth=True,
)  # fmt: skip


def detection_losses(
    model: Detector, x: Tensor, sizes: Sequence[Sequence[int]], truths: Sequence[Truth], learning: Learning,
    draws: Sequence[torch.Generator] | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """The losses of a batch of images (B, 3, H, W), each of which ends at its `sizes` (H, W), padded to 32.

    Of each image anchors and regions are chosen by its own of `draws`, so that what is chosen of it does not depend on
    the images beside it; by torch's own random numbers where there are none.
    Boxes and losses are reckoned in float32 where layers compute in less: 16 bits would move anchors by whole pixels.
    """
    levels = model(x)
    outputs = model.rpn_head(levels)
    anchors = torch.cat(anchors_of(outputs, model.config.anchor_scale))
    losses = proposal_losses(outputs, anchors, sizes, [t.boxes for t in truths], learning, draws)
    detached = [(scores.detach(), deltas.detach()) for scores, deltas in outputs]
    regions = [r[:, :4] for r in model.proposals(detached, sizes, learning.limits)]
    roi = model.roi_head
    heads = zip(roi.box_heads, roi.mask_heads, learning.stages, learning.weights, strict=True)
    for number, (box_head, mask_head, matching, weight) in enumerate(heads):
        chosen = [
            sample_regions(r, t, matching, draw) for r, t, draw in zip(regions, truths, _each(draws, x), strict=True)
        ]
        rois = with_images([c.boxes for c in chosen])
        logits, deltas = box_head(region_features(levels, rois, 7))
        found = box_losses(box_head, rois, logits, deltas, chosen, truths, learning.is_smooth)
        if all(t.masks is not None for t in truths):
            shown = [_with_masks(c, t) for c, t in zip(chosen, truths, strict=True)]
            positive = with_images([c.boxes[: c.positives] for c in shown])
            masks = at_least_float32(mask_head(region_features(levels, positive, 14)))
            found["loss_mask"] = mask_loss(masks, shown, truths)
        prefix = f"s{number}." if len(learning.stages) > 1 else ""
        losses |= {prefix + name: weight * value for name, value in found.items()}
        if number + 1 < len(learning.stages):
            regions = _refined(box_head, rois, logits, deltas, chosen, truths, sizes)
    return losses


def _each(draws: Sequence[torch.Generator] | None, images: Sequence[Any] | Tensor) -> Sequence[torch.Generator | None]:
    return [None] * len(images) if draws is None else draws


class Chosen(NamedTuple):
    """Regions of an image that a step looks at, the positive ones first."""

    boxes: Tensor  #: (N, 4)
    truth: Tensor  #: (N,) index of the truth, -1 for background
    is_truth: Tensor  #: (N,) whether the region is a truth itself
    positives: int


def sample_regions(regions: Tensor, truth: Truth, matching: Matching, generator: torch.Generator | None) -> Chosen:
    """The truths themselves and the regions (N, 4), matched; of these as many as are to be looked at."""
    found = box_ops.assign(
        regions, truth.boxes, positive=matching.positive, negative=matching.negative, least=matching.least
    )
    own = torch.arange(len(truth.boxes), device=regions.device)
    boxes, found = torch.cat([truth.boxes.to(regions), regions]), torch.cat([own, found])
    rows, positives = _sampled(found, matching, generator)
    return Chosen(boxes[rows], found[rows], rows < len(own), positives)


def _sampled(found: Tensor, matching: Matching, generator: torch.Generator | None) -> tuple[Tensor, int]:
    """Rows of at most `samples` boxes, the positive ones first, in their order; how many these are."""
    positive = _some((found >= 0).nonzero()[:, 0], int(matching.samples * matching.positive_share), generator)
    negative = _some((found == -1).nonzero()[:, 0], matching.samples - len(positive), generator)
    return torch.cat([positive, negative]), len(positive)


def _some(rows: Tensor, most: int, generator: torch.Generator | None) -> Tensor:
    if len(rows) <= most:
        return rows
    chosen = torch.randperm(len(rows), generator=generator)[:most].to(rows.device)
    return rows[chosen.sort().values]


def proposal_losses(
    outputs: Sequence[tuple[Tensor, Tensor]], anchors: Tensor, sizes: Sequence[Sequence[int]],
    truths: Sequence[Tensor], learning: Learning, draws: Sequence[torch.Generator] | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """Is there an object, and where: over the anchors (N, 4) of all levels that were sampled in the batch."""
    logits, deltas = (torch.cat(parts, dim=1) for parts in zip(*(flat_anchors(*o) for o in outputs), strict=True))
    object_loss, box_loss, sampled = logits.new_zeros(()), logits.new_zeros(()), 0
    for image, (size, boxes, draw) in enumerate(zip(sizes, truths, _each(draws, truths), strict=True)):
        usable = _usable(outputs, anchors, size, learning.inside_only)
        found = box_ops.assign(
            anchors[usable], boxes.to(anchors), positive=learning.rpn.positive, negative=learning.rpn.negative,
            least=learning.rpn.least,
        )  # fmt: skip
        rows, positives = _sampled(found, learning.rpn, draw)
        of, rows = found[rows], usable[rows]
        sampled += max(positives, 1) + max(len(rows) - positives, 1)
        object_loss = object_loss + F.binary_cross_entropy_with_logits(
            logits[image, rows], (of >= 0).to(logits), reduction="sum"
        )
        hit = rows[:positives]
        targets = box_ops.encode(anchors[hit], boxes.to(anchors)[of[:positives]], RPN_STDS)
        box_loss = box_loss + _box_distance(deltas[image, hit], targets, 1 / 9 if learning.is_smooth else 0.0)
    return {"loss_rpn_cls": object_loss / sampled, "loss_rpn_bbox": box_loss / sampled}


def _usable(
    outputs: Sequence[tuple[Tensor, Tensor]], anchors: Tensor, size: Sequence[int], inside_only: bool
) -> Tensor:
    """Indices of anchors whose cells lie on the image padded to 32, and with `inside_only` that do not leave it."""
    parts = []
    for (scores, _), stride in zip(outputs, box_ops.STRIDES, strict=True):
        rows, columns = (min(-(-_padded(n) // stride), cells) for n, cells in zip(size, scores.shape[2:], strict=True))
        valid = torch.zeros(*scores.shape[2:], len(box_ops.RATIOS), dtype=torch.bool, device=scores.device)
        valid[:rows, :columns] = True
        parts.append(valid.flatten())
    valid = torch.cat(parts)
    if inside_only:
        valid &= (anchors[:, :2] >= 0).all(1) & (anchors[:, 2] < size[1]) & (anchors[:, 3] < size[0])
    return valid.nonzero()[:, 0]


def _padded(side: int) -> int:
    return -(-side // 32) * 32


def _box_distance(found: Tensor, wanted: Tensor, beta: float) -> Tensor:
    return F.smooth_l1_loss(found, wanted, beta=beta, reduction="sum")


def box_losses(
    head: BoxHead, rois: Tensor, logits: Tensor, deltas: Tensor, chosen: Sequence[Chosen], truths: Sequence[Truth],
    is_smooth: bool,
) -> dict[str, Tensor]:  # fmt: skip
    """Of sampled regions: the class, and the box of the true class's columns."""
    labels = torch.cat([_labels(c, t, head.num_classes) for c, t in zip(chosen, truths, strict=True)])
    wanted = torch.cat([t.boxes.to(rois)[c.truth[: c.positives]] for c, t in zip(chosen, truths, strict=True)])
    hit = (labels < head.num_classes).nonzero()[:, 0]
    own = deltas.unflatten(1, (-1, 4))[hit, labels[hit]]
    if is_smooth:
        boxes = box_ops.decode(rois[hit, 1:], own, head.stds)
        box_loss = 10 * (1 - box_ops.generalised_overlaps(boxes, wanted)).sum()
    else:
        box_loss = _box_distance(own, box_ops.encode(rois[hit, 1:], wanted, head.stds), 0.0)
    return {"loss_cls": F.cross_entropy(logits, labels), "loss_bbox": box_loss / len(rois)}


def _labels(chosen: Chosen, truth: Truth, background: int) -> Tensor:
    """The classes of an image's regions, the last number for background."""
    labels = torch.full_like(chosen.truth, background)
    labels[: chosen.positives] = truth.labels[chosen.truth[: chosen.positives]]
    return labels


def _with_masks(chosen: Chosen, truth: Truth) -> Chosen:
    """Less the positive regions of things without a mask."""
    if truth.masked is None:
        return chosen
    rows = truth.masked[chosen.truth[: chosen.positives]].nonzero()[:, 0]
    return Chosen(chosen.boxes[rows], chosen.truth[rows], chosen.is_truth[rows], len(rows))


def mask_loss(logits: Tensor, chosen: Sequence[Chosen], truths: Sequence[Truth]) -> Tensor:
    """Of positive regions' logits (N, K, 28, 28): binary cross-entropy of the true class's mask."""
    targets = torch.cat([mask_targets(c, t, logits.shape[2]) for c, t in zip(chosen, truths, strict=True)])
    labels = torch.cat([t.labels[c.truth[: c.positives]] for c, t in zip(chosen, truths, strict=True)])
    own = logits[torch.arange(len(labels), device=labels.device), labels]
    if not len(own):
        return logits.sum() * 0
    return F.binary_cross_entropy_with_logits(own, targets.to(own))


def mask_targets(chosen: Chosen, truth: Truth, side: int) -> Tensor:
    """The truths' masks inside an image's positive regions, (N, side, side), 0 or 1; some masks at a time."""
    from torchvision.ops import roi_align

    assert truth.masks is not None  # see `detection_losses`
    boxes, of = box_ops.clip(chosen.boxes[: chosen.positives], truth.masks.shape[1:]), chosen.truth[: chosen.positives]
    targets = boxes.new_empty(len(boxes), side, side)
    together = max(1, MASK_VALUES // truth.masks[:1].numel()) if len(truth.masks) else 1
    for first in range(0, len(truth.masks), together):
        masks = truth.masks[first : first + together, None]
        rows = ((of >= first) & (of < first + together)).nonzero()[:, 0]
        if len(rows):
            rois = torch.cat([(of[rows, None] - first).to(boxes), boxes[rows]], dim=1)
            cut = roi_align(masks.to(boxes), rois, side, 1.0, sampling_ratio=-1, aligned=True)
            targets[rows] = (cut[:, 0] >= 0.5).to(boxes)
    return targets


@torch.no_grad()
def _refined(
    head: BoxHead, rois: Tensor, logits: Tensor, deltas: Tensor, chosen: Sequence[Chosen], truths: Sequence[Truth],
    sizes: Sequence[Sequence[int]],
) -> list[Tensor]:  # fmt: skip
    """The regions of the next stage: corrected by the true class's columns, by the likeliest class's where there is
    none; truths among them stay behind."""
    labels = torch.cat([_labels(c, t, head.num_classes) for c, t in zip(chosen, truths, strict=True)])
    labels = torch.where(labels == head.num_classes, logits[:, :-1].argmax(1), labels)
    boxes = refine(rois, deltas, labels, head.stds, sizes)[:, 1:]
    parts = zip(boxes.split([len(c.boxes) for c in chosen]), chosen, strict=True)
    return [part[~c.is_truth] for part, c in parts]
