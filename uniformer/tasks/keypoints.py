"""Key points: heat maps as targets, heat maps decoded, doubles removed. No torch here.

The arithmetic of the published top-down networks (the simple baseline, Xiao et al. 2018), in float32 where theirs is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from uniformer.reading.people import Floats, Region, from_heat_map

STRIDE = 4  #: of heat maps
VISIBLE = 0.2  #: the score from which a key point counts in rescoring


def heat_map_targets(points: Floats, visible: Floats, grid: Sequence[int], sigma: float) -> tuple[Floats, Floats]:
    """Points (K, 2) in pixels of the crop -> maps (K, h, w) and weights (K,), float32.

    A map is a Gaussian of height 1, `sigma` cells wide, cut off at three of these, in the cell that the point lies in.
    A point that is not visible, or whose square lies outside, has weight 0.
    """
    height, width = grid
    reach = 3 * sigma
    axis = np.arange(int(2 * reach + 1)).astype(np.float32)
    bell = np.exp(-((axis - reach) ** 2 + (axis[:, None] - reach) ** 2) / (2 * sigma**2))
    maps, weights = np.zeros((len(points), height, width), np.float32), np.asarray(visible, np.float32).copy()
    for k, point in enumerate(np.asarray(points, np.float32)):
        x, y = (int(v / STRIDE + 0.5) for v in point)  # towards zero, for points left of the crop too
        left, top, right, bottom = int(x - reach), int(y - reach), int(x + reach + 1), int(y + reach + 1)
        if left >= width or top >= height or right < 0 or bottom < 0:
            weights[k] = 0
        if weights[k] <= 0.5:
            continue
        rows, columns = slice(max(0, top), min(bottom, height)), slice(max(0, left), min(right, width))
        maps[k, rows, columns] = bell[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    return maps, weights


def decode_heat_maps(maps: Floats, regions: Sequence[Region]) -> tuple[Floats, Floats]:
    """Maps (N, K, h, w) of N people -> key points (N, K, 2) in pixels of the image, and scores (N, K).

    The cell of a map's maximum, moved by a quarter towards the higher neighbour on each axis; (-1, -1) cells where
    nothing is above zero.
    """
    count, joints, height, width = maps.shape
    flat = maps.reshape(count, joints, height * width)
    best, scores = flat.argmax(2), flat.max(2)
    cells = np.stack([best % width, best // width], axis=2).astype(np.float32)
    cells[scores <= 0] = -1
    for (n, k), _ in np.ndenumerate(scores):
        x, y = (int(v) for v in cells[n, k])
        if 1 < x < width - 1 and 1 < y < height - 1:
            m = maps[n, k]
            cells[n, k] += np.sign([m[y, x + 1] - m[y, x - 1], m[y + 1, x] - m[y - 1, x]]).astype(np.float32) * 0.25
    points = np.empty((count, joints, 2))
    for n, region in enumerate(regions):
        points[n] = from_heat_map(cells[n], region, (height, width))
    return points, scores


def rescore(box_score: float, scores: Floats) -> float:
    """A person's score: the box's by the mean of the key points' that are above 0.2."""
    seen = scores[scores > VISIBLE]
    return float(box_score * (seen.mean() if len(seen) else 0.0))


def similarity(points: Floats, others: Floats, area: float, other_areas: Floats, sigmas: Floats) -> Floats:
    """OKS of a person (K, 2) with others (N, K, 2): (N,), 1 where they are equal."""
    apart = ((others - points) ** 2).sum(2)  # (N, K)
    spread = 2 * (2 * sigmas) ** 2 * ((area + other_areas) / 2 + np.spacing(1))[:, None]
    return np.exp(-apart / spread).mean(1)


def without_doubles(points: Floats, areas: Floats, scores: Floats, sigmas: Floats, threshold: float = 0.9) -> list[int]:
    """Indices of people kept, best first: of two more alike than `threshold` the better one. Points (N, K, 2)."""
    order, kept = np.argsort(-scores, kind="stable"), []
    while len(order):
        first, rest = order[0], order[1:]
        kept.append(int(first))
        alike = similarity(points[first], points[rest], areas[first], areas[rest], sigmas)
        order = rest[alike <= threshold]
    return kept
