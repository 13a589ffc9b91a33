"""A picture and where things are in it, moved together: scaled, cropped, mirrored. NumPy only.

Boxes are corners (x1, y1, x2, y2) between pixels: a picture of width W reaches from x = 0 to x = W.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from uniformer.reading.pictures import Pixels
from uniformer.reading.scaling import box_factors, resize_pixels

Labels = TypeVar("Labels", NDArray[np.bool_], NDArray[np.uint8], NDArray[np.int64])


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture, its boxes, and which pixel of the picture as annotated each of its pixels shows.

    Masks and maps of labels are scaled to the nearest pixel, so that whatever is done to them takes some of their rows
    and columns: `taken` does it to any of them, once, at the end.
    """

    pixels: Pixels  #: RGB (h, w, 3)
    boxes: NDArray[np.float32]  #: (M, 4)
    instances: NDArray[np.int64]  #: (M,) which of the annotated instances these are: those out of sight are gone
    rows: NDArray[np.int64]  #: (h,) of the annotated picture
    columns: NDArray[np.int64]  #: (w,)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def taken(self, whole: Labels) -> Labels:
        """Masks or a map of labels (..., H, W) of the picture as annotated -> (..., h, w) of what there is here."""
        return whole[..., self.rows[:, None], self.columns]


def scene_of(
    pixels: Pixels, boxes: NDArray[np.floating[Any]] | None = None, size: Sequence[int] | None = None
) -> Scene:
    """A picture (h, w, 3) with boxes (M, 4), which are of a picture of `size` (H, W) where it was read smaller."""
    height, width = pixels.shape[:2] if size is None else size
    found = np.zeros((0, 4), np.float32) if boxes is None else np.array(boxes, np.float32).reshape(-1, 4)
    rows, columns = _nearest(height, pixels.shape[0]), _nearest(width, pixels.shape[1])
    boxes = found * box_factors(pixels.shape, (height, width))
    return Scene(pixels, boxes, np.arange(len(found)), rows, columns)


def resized(scene: Scene, size: Sequence[int]) -> Scene:
    """In another size (h, w); boxes end at its edges."""
    height, width = scene.size
    return replace(
        scene,
        pixels=resize_pixels(scene.pixels, size),
        boxes=_clipped(scene.boxes * box_factors(size, scene.size), size),
        rows=scene.rows[_nearest(height, size[0])],
        columns=scene.columns[_nearest(width, size[1])],
    )


def cropped(scene: Scene, corner: Sequence[int], size: Sequence[int]) -> Scene:
    """The part of `size` (h, w) from `corner` (top, left) on; instances whose boxes lie outside are gone."""
    (top, left), (height, width) = corner, size
    rows, columns = slice(top, top + height), slice(left, left + width)
    pixels = scene.pixels[rows, columns]
    boxes = _clipped(scene.boxes - np.array([left, top, left, top], np.float32), pixels.shape[:2])
    seen = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return Scene(pixels, boxes[seen], scene.instances[seen], scene.rows[rows], scene.columns[columns])


def mirrored(scene: Scene) -> Scene:
    """Left and right exchanged."""
    boxes, width = scene.boxes.copy(), np.float32(scene.size[1])
    boxes[:, 0::2] = width - scene.boxes[:, 2::-2]
    return replace(scene, pixels=scene.pixels[:, ::-1], boxes=boxes, columns=scene.columns[::-1])


def _clipped(boxes: NDArray[np.float32], size: Sequence[int]) -> NDArray[np.float32]:
    return boxes.clip(0, np.array([size[1], size[0]] * 2, np.float32))


def _nearest(length: int, wanted: int) -> NDArray[np.int64]:
    """The pixels that a side of `length` is made of when it is scaled to `wanted`: those of OpenCV's INTER_NEAREST."""
    places = np.floor(np.arange(wanted) * (1 / (wanted / length))).astype(np.int64)
    return places.clip(0, length - 1)
