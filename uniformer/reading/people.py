"""People as pose networks are fed them: the box of each, a little enlarged, cut out of the picture and normalised.

    box -> region (the crop's proportions, a quarter larger) -> matrix -> warp -> normalise

As the published top-down networks were fed (the simple baseline, Xiao et al. 2018), in float32 where theirs is. NumPy
only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from uniformer.config import PersonCrop
from uniformer.errors import InputError
from uniformer.reading.pictures import Pixels
from uniformer.reading.transforms import standardise
from uniformer.reading.warp import warp_pixels

Floats = npt.NDArray[np.floating[Any]]

UNIT = 200  #: pixels that scales are given in
FURTHEST = 1e7  #: pixels; no box lies further away


class Region(NamedTuple):
    """The part of an image that becomes a crop: its centre (x, y) in pixels and its sides (w, h) in 200 pixels."""

    centre: Floats
    scale: Floats


class Crops(NamedTuple):
    """The people of one picture as a network is fed them, and where they are."""

    array: npt.NDArray[np.float32]  #: (P, 3, h, w)
    regions: tuple[Region, ...]  #: P of them, in pixels of the picture


def cut_people(pixels: Pixels, boxes: Floats, crop: PersonCrop, full: tuple[int, int] | None = None) -> Crops:
    """Each person's crop: uint8 RGB (H, W, 3) and boxes (P, 4), x1, y1, x2, y2 in pixels -> (P, 3, h, w).

    A box may leave the picture; what lies beyond is 0 before it is normalised. Where `pixels` are a smaller copy of a
    picture, `full` is its height and width, which boxes are in. Raises `InputError` for what is no box.
    """
    regions = regions_of(boxes, crop)
    array = np.empty((len(regions), 3, *crop.size), np.float32)
    for view, region in zip(array, regions, strict=True):
        view[:] = warp_pixels(pixels, crop_matrix(region, crop.size), crop.size, full).transpose(2, 0, 1)
    return Crops(standardise(array, crop.mean, crop.std), regions)


def regions_of(boxes: Floats, crop: PersonCrop) -> tuple[Region, ...]:
    """What of a picture the crops of people are, by their boxes (P, 4). Raises `InputError` as `check_boxes`."""
    corners = check_boxes(boxes)
    return tuple(region_of((x1, y1, x2 - x1, y2 - y1), crop.size, crop.enlarge) for x1, y1, x2, y2 in corners)


def check_boxes(boxes: Floats) -> list[list[float]]:
    """Boxes (P, 4) as numbers. Raises `InputError` where one is not x1 < x2, y1 < y2."""
    corners = np.asarray(boxes, np.float64)
    if corners.ndim != 2 or corners.shape[1] != 4:
        raise InputError(f"expected boxes of shape (P, 4), got {corners.shape}")
    is_box = (np.abs(corners) <= FURTHEST).all(1) & (corners[:, :2] < corners[:, 2:]).all(1)
    if not is_box.all():
        first = int(np.argmin(is_box))
        raise InputError(f"expected a box x1 < x2, y1 < y2 in pixels, got {corners[first].tolist()} (number {first})")
    return corners.tolist()


def clipped_boxes(boxes: Floats, height: int, width: int) -> Floats:
    """Boxes (M, 4) of annotations as they were trained and are scored with: in the picture, and a pixel less wide and
    high. One without an area comes out as no box (x1 >= x2 or y1 >= y2)."""
    first = np.maximum(np.asarray(boxes, np.float64)[:, :2], 0)
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2] - 1, 0)
    return np.hstack([first, np.minimum(first + sides, [width - 1, height - 1])])


def region_of(box: Sequence[float], size: Sequence[int], enlarge: float = 1.25) -> Region:
    """Around a box (x, y, w, h), in the proportions of a crop of `size` (H, W), so many times as large."""
    x, y, w, h = box
    aspect = size[1] / size[0]
    w, h = max(w, h * aspect), max(h, w / aspect)
    centre = np.array([x + box[2] * 0.5, y + box[3] * 0.5], np.float32)
    return Region(centre, np.array([w / UNIT, h / UNIT], np.float32) * np.float32(enlarge))


def crop_matrix(region: Region, size: Sequence[int], degrees: float = 0.0) -> npt.NDArray[np.float64]:
    """From pixels of the image to those of a crop of `size` (H, W): float64 (2, 3). Turned by so many degrees."""
    height, width = size
    radians = math.pi * degrees / 180
    side = float(region.scale[0]) * UNIT
    here = _triangle(region.centre, np.array([side * 0.5 * math.sin(radians), -side * 0.5 * math.cos(radians)]))
    there = _triangle(np.array([width * 0.5, height * 0.5]), np.array([0, -width * 0.5]))
    known = np.hstack([here.astype(np.float64), np.ones((3, 1))])
    return np.linalg.solve(known, there.astype(np.float64)).T


def _triangle(centre: Floats, up: Floats) -> Floats:
    """The centre, a point above it, and one at a right angle to these, rounded to float32 on the way."""
    centre, top = centre.astype(np.float32), (centre + up).astype(np.float32)
    direction = centre - top
    return np.stack([centre, top, top + np.array([-direction[1], direction[0]], np.float32)])


def moved(points: Floats, matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Points (..., 2), x and y, where a matrix (2, 3) leads them."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def from_heat_map(cells: Floats, region: Region, grid: Sequence[int]) -> npt.NDArray[np.float64]:
    """Places (..., 2) in heat maps of `grid` (h, w) cells, of an unturned crop, in pixels of the image."""
    sides = region.scale * UNIT
    return cells * (sides / np.array([grid[1], grid[0]])) + region.centre - sides * 0.5
