"""Boxes (x1, y1, x2, y2) in pixels: anchors, their code, overlaps, which truth each belongs to, suppression.

Everything here follows the published detectors to the last digit (Faster R-CNN, Ren et al. 2015; Cascade R-CNN, Cai and
Vasconcelos 2018). Suppression is torchvision's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

STRIDES = (4, 8, 16, 32, 64)  #: of the pyramid's levels
RATIOS = (0.5, 1.0, 2.0)  #: of an anchor's height to its width
MOST_GROWTH = math.log(1000 / 16)  #: of a side, as a logarithm, up or down
EPS = 1e-6  #: smallest union in an overlap
SUPPRESSED_AT_ONCE = 1000  # boxes on a CPU: of more, group by group takes less time, as it grows with the square


def level_anchors(grid: Sequence[int], stride: int, device: torch.device | None = None, *, scale: float = 8) -> Tensor:
    """The anchors of a level of (H, W) cells, float32 (H * W * 3, 4): row by row, in each cell the three ratios; their
    sides are `scale` strides.

    They are centred on the cells' upper left corners and computed in float32, as in the reference.
    """
    heights = torch.tensor(RATIOS, device=device).sqrt()
    widths = stride * (1 / heights) * scale
    heights = stride * heights * scale
    base = torch.stack([-0.5 * widths, -0.5 * heights, 0.5 * widths, 0.5 * heights], dim=1)  # (3, 4)
    y, x = (torch.arange(n, device=device, dtype=torch.float32) * stride for n in grid)
    corners = torch.stack([x.repeat(len(y)), y.repeat_interleave(len(x))], dim=1).repeat(1, 2)  # (H * W, 4)
    return (corners[:, None] + base[None]).flatten(0, 1)


def encode(boxes: Tensor, truths: Tensor, stds: Sequence[float]) -> Tensor:
    """What turns boxes (N, 4) into truths (N, 4): shifts in sides and logarithms of growth, over `stds`."""
    (x, y, w, h), (tx, ty, tw, th) = _centred(boxes), _centred(truths)
    deltas = torch.stack([(tx - x) / w, (ty - y) / h, torch.log(tw / w), torch.log(th / h)], dim=-1)
    return deltas / deltas.new_tensor(stds)


def decode(boxes: Tensor, deltas: Tensor, stds: Sequence[float], size: Sequence[int] | None = None) -> Tensor:
    """Boxes (N, 4) changed by deltas (N, 4 C) -> (N, 4 C); clipped to an image of `size` (H, W)."""
    dx, dy, dw, dh = (deltas.unflatten(1, (-1, 4)) * deltas.new_tensor(stds)).unbind(-1)  # (N, C) each
    x, y, w, h = (part[:, None] for part in _centred(boxes))
    x, w = x + w * dx, w * dw.clamp(-MOST_GROWTH, MOST_GROWTH).exp()
    y, h = y + h * dy, h * dh.clamp(-MOST_GROWTH, MOST_GROWTH).exp()
    decoded = torch.stack([x - w * 0.5, y - h * 0.5, x + w * 0.5, y + h * 0.5], dim=-1)
    return (decoded if size is None else clip(decoded, size)).flatten(1)


def area(boxes: Tensor) -> Tensor:
    """Of boxes (..., 4), square pixels."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def clip(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """Boxes (..., 4) inside an image of (H, W): 0 to W and 0 to H."""
    h, w = size
    return torch.stack(
        [boxes[..., 0].clamp(0, w), boxes[..., 1].clamp(0, h), boxes[..., 2].clamp(0, w), boxes[..., 3].clamp(0, h)],
        dim=-1,
    )


def overlaps(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of each of a (N, 4) with each of b (M, 4): (N, M)."""
    shared = _shared(a[:, None], b[None])
    union = area(a)[:, None] + area(b)[None] - shared
    return shared / union.clamp(min=EPS)


def generalised_overlaps(a: Tensor, b: Tensor) -> Tensor:
    """Generalised intersection over union (Rezatofighi et al. 2019) of pairs (N, 4): (N,), 1 where they are equal."""
    shared = _shared(a, b)
    union = (area(a) + area(b) - shared).clamp(min=EPS)
    hull = torch.cat([torch.minimum(a[:, :2], b[:, :2]), torch.maximum(a[:, 2:], b[:, 2:])], dim=1)
    enclosed = area(hull).clamp(min=EPS)
    return shared / union - (enclosed - union) / enclosed


def assign(boxes: Tensor, truths: Tensor, *, positive: float, negative: float, least: float | None = None) -> Tensor:
    """The truth (M, 4) that each box (N, 4) belongs to: its index, -1 for background, -2 for neither.

    A box belongs to the truth that it overlaps most, from `positive` on; below `negative` it is background. With
    `least` every truth also gets the boxes that overlap it most, if by no less than that; later truths come first.
    """
    found = torch.full((len(boxes),), -2, dtype=torch.long, device=boxes.device)
    if not len(truths) or not len(boxes):
        return found.fill_(-1)
    shares = overlaps(truths, boxes)  # (M, N)
    best, of = shares.max(dim=0)
    found[best < negative] = -1
    found[best >= positive] = of[best >= positive]
    if least is not None:
        for i, most in enumerate(shares.max(dim=1).values):
            if most >= least:
                found[shares[i] == most] = i
    return found


def suppress(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float, most: int) -> Tensor:
    """Indices of the `most` best boxes kept, best first: of two in one group that overlap by more than `threshold` the
    better one is.

    Groups are kept apart as in the reference, by moving each to where no other is: overlaps are rounded there.
    """
    if not len(boxes):
        return torch.zeros(0, dtype=torch.long, device=boxes.device)
    apart = groups.to(boxes) * (boxes.max() + 1)
    boxes = boxes + apart[:, None]
    order = scores.argsort(descending=True, stable=True)
    # On a CPU the time grows with the square of the boxes: the best alone are tried, as no worse one changes their fate
    tried = len(order) if boxes.is_cuda else 2 * most
    while True:
        best = order[:tried]
        kept = _suppressed(boxes[best], scores[best], groups[best], threshold)
        if len(kept) >= most or tried >= len(order):
            return best[kept[:most]]
        tried *= 2


def _suppressed(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """Places of those kept among boxes sorted by score, in their order; no box of a group touches one of another."""
    from torchvision.ops import nms

    if boxes.is_cuda or len(boxes) <= SUPPRESSED_AT_ONCE:
        return nms(boxes, scores, threshold)
    own = [(groups == group).nonzero()[:, 0] for group in groups.unique()]
    return torch.cat([rows[nms(boxes[rows], scores[rows], threshold)] for rows in own]).sort().values


def _centred(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Centres and sides."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return (x1 + x2) * 0.5, (y1 + y2) * 0.5, x2 - x1, y2 - y1


def _shared(a: Tensor, b: Tensor) -> Tensor:
    """Areas of intersections."""
    sides = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    return sides[..., 0] * sides[..., 1]
