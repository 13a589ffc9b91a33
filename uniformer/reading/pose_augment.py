"""Where a person is cut out of a picture for training: moved, mirrored, halved, scaled and turned by chance.

The draws of the published top-down networks (the simple baseline, Xiao et al. 2018; half bodies: Wang et al. 2018). All
of them end in one matrix, by which the picture is warped and key points are moved. NumPy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from uniformer.config import PersonCrop
from uniformer.reading.dense_options import PoseAugment
from uniformer.reading.people import Floats, Region, crop_matrix, moved, region_of


class Body(NamedTuple):
    """What is known of key points beside their places."""

    pairs: NDArray[np.int64]  #: (P, 2) left and right
    upper: NDArray[np.bool_]  #: (K,) whether a point belongs to the upper half

    def exchanged(self) -> NDArray[np.int64]:
        """(K,) which key point each of a mirrored person is."""
        order = np.arange(len(self.upper))
        order[self.pairs] = self.pairs[:, ::-1]
        return order


class Cut(NamedTuple):
    """One crop of a person."""

    matrix: Floats  #: float64 (2, 3), from pixels of the picture to pixels of the crop, mirroring included
    points: Floats  #: float32 (K, 2), in pixels of the crop
    visible: NDArray[np.bool_]  #: (K,)


def draw_cut(
    points: Floats, box: Sequence[float], width: int, crop: PersonCrop, augment: PoseAugment, body: Body,
    rng: np.random.Generator,
) -> Cut:  # fmt: skip
    """A crop of the person whose key points (K, 3: x, y, visible) and box (x, y, w, h) these are, in a picture so wide.

    The reference draws the shift of a box once for the whole run; here it is drawn for every sample.
    """
    points = np.asarray(points, np.float64)
    centre, scale = region_of(box, crop.size, crop.enlarge)
    if rng.random() < augment.shift_prob:
        centre = centre + augment.shift * rng.uniform(-1, 1, 2) * np.array(box[2:])
    is_mirrored = rng.random() < augment.flip
    if is_mirrored:
        points = points[body.exchanged()]
        points[:, 0] = width - 1 - points[:, 0]
        centre = np.array([width - 1 - centre[0], centre[1]])
    visible = points[:, 2] > 0
    if visible.sum() > augment.half_body_above and rng.random() < augment.half_body:
        centre, scale = _half(points, visible, crop, augment, body, rng) or (centre, scale)
    scale = scale * np.clip(1 + augment.scale * rng.standard_normal(), 1 - augment.scale, 1 + augment.scale)
    degrees = float(np.clip(rng.standard_normal(), -2, 2) * augment.rotation)
    is_turned = rng.random() < augment.rotation_prob
    matrix = crop_matrix(Region(np.asarray(centre, np.float32), scale), crop.size, degrees if is_turned else 0.0)
    places = moved(points[:, :2], matrix).astype(np.float32)
    if is_mirrored:
        matrix = matrix @ np.array([[-1.0, 0, width - 1], [0, 1, 0], [0, 0, 1]])
    return Cut(matrix, places, visible)


def _half(
    points: Floats, visible: NDArray[np.bool_], crop: PersonCrop, augment: PoseAugment, body: Body,
    rng: np.random.Generator,
) -> Region | None:  # fmt: skip
    """The upper half more often than the lower: where a normal number is below one half, as in the reference."""
    upper, lower = points[visible & body.upper, :2], points[visible & ~body.upper, :2]
    is_upper = rng.standard_normal() < 0.5
    half = upper if (is_upper and len(upper) > 2) or len(lower) <= 2 else lower
    if len(half) < 2 or (np.ptp(half, axis=0) == 0).all():
        return None
    sides = np.ptp(half, axis=0)
    return Region(half.mean(0), region_of((0, 0, *sides), crop.size, augment.half_body_enlarge).scale)
