"""RoIAlign on a CPU as weighted sums of the cells that a region's bins lie on.

torchvision goes channel by channel, and fetches four cells for each sample of a bin. Here channels lie last, a bin is a
sum of rows of a table, which is `embedding_bag`, and a cell under several samples is fetched once: s x s samples, which
are no further apart than cells, lie on (s + 1) x (s + 1) of them. Samples are where torchvision has them, so that
results differ by the order of sums alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from uniformer.heads.detection import ROI_STRIDES, region_levels

AT_ONCE = 1 << 18  # cells summed up in one go: of a huge picture a region has many


def cut_regions(levels: Sequence[Tensor], rois: Tensor, side: int) -> Tensor:
    """`heads.detection.region_features` on a CPU: regions (N, 5) -> (N, width, side, side), channels last in memory."""
    number, width = region_levels(rois), levels[0].shape[1]
    bins = levels[0].new_zeros(len(rois), side * side, width)
    for i, stride in enumerate(ROI_STRIDES):
        rows = (number == i).nonzero()[:, 0]
        if len(rows):
            _fill(bins, rows, levels[i], rois[rows], side, stride)
    return bins.unflatten(1, (side, side)).permute(0, 3, 1, 2)


def _fill(bins: Tensor, rows: Tensor, level: Tensor, rois: Tensor, side: int, stride: int) -> None:
    """The bins (N, side * side, C) of some rows, from a level (B, C, H, W); regions with as many samples together."""
    H, W = level.shape[2:]
    table = level.permute(0, 2, 3, 1).flatten(0, 2)  # (B * H * W, C)
    first = rois[:, 0].long() * (H * W)
    down = _axis(rois[:, 2], rois[:, 4], side, stride, H)
    across = _axis(rois[:, 1], rois[:, 3], side, stride, W)
    samples = torch.stack([down.samples, across.samples], dim=1)
    for tall, wide in samples.clamp(min=0).unique(dim=0).tolist():
        if not tall or not wide:  # regions without extent: zeros
            continue
        alike = ((down.samples == tall) & (across.samples == wide)).nonzero()[:, 0]
        for some in alike.split(max(1, AT_ONCE // (side**2 * (tall + 1) * (wide + 1)))):
            y, x = down.cells[some, :, None, : tall + 1, None], across.cells[some, None, :, None, : wide + 1]
            cells = first[some, None, None, None, None] + y * W + x  # (n, side, side, tall + 1, wide + 1)
            weights = down.weights[some, :, None, : tall + 1, None] * across.weights[some, None, :, None, : wide + 1]
            each = (len(some) * side**2, -1)
            bins[rows[some]] = F.embedding_bag(
                cells.reshape(each), table, per_sample_weights=weights.reshape(each), mode="sum"
            ).view(len(some), side**2, -1)


class _Axis(NamedTuple):
    """Of regions what lies under their bins along rows or columns."""

    samples: Tensor  #: (N,) of a bin, on one cell more
    cells: Tensor  #: (N, side, most samples + 1)
    weights: Tensor  #: as many


def _axis(low: Tensor, high: Tensor, side: int, stride: int, length: int) -> _Axis:
    """Of regions from `low` to `high` (N,), pixels, on an axis of `length` cells of `stride`.

    As in torchvision, a bin has as many samples as cells lie along it, rounded up, and one that is a cell or more
    outside counts as 0.
    """
    start = low / stride - 0.5
    bin_size = ((high / stride - 0.5) - start) / side
    samples = bin_size.ceil().long()
    sample = torch.arange(max(int(samples.max()), 0), device=low.device)
    bins = torch.arange(side, device=low.device)
    within = (sample + 0.5) * bin_size[:, None] / samples[:, None]
    places = (start[:, None] + bins * bin_size[:, None])[:, :, None] + within[:, None]  # (N, side, most samples)
    counts = (sample < samples[:, None])[:, None] & (places >= -1) & (places <= length)
    places = places.clamp(0, length - 1)
    below = places.floor()
    beyond, share = places - below, counts.to(places) / samples[:, None, None]
    last = samples.clamp(min=0)[:, None, None]  # rounding may put a last sample on the cell after it
    offset = torch.minimum((below - below[:, :, :1]).long(), last).clamp(min=0)
    weights = places.new_zeros(*places.shape[:2], len(sample) + 1)
    weights.scatter_add_(2, offset, (1 - beyond) * share)
    weights.scatter_add_(2, torch.minimum(offset + 1, last), beyond * share)
    cells = below[:, :, :1].long() + torch.arange(len(sample) + 1, device=low.device)
    return _Axis(samples, cells.clamp(0, length - 1), weights)
