"""What a clip must show to deserve its label: texture, change, and for a move the parallax that tells it from a turn or
a zoom, and that it goes as far as its size says. Both worlds and the demo ask here."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor

from uniformer.camera_motion.geometry import Array, parallax, shrink
from uniformer.camera_motion.paths import CameraPath, Z

# What a move must show, or nobody could tell it from turning and zooming: in a slow one the first is more, in a fast
# one the second.
_LEAST_PARALLAX = 0.02  # of the width
_LEAST_SHARE = 0.2  # of what the picture does
_SIZE_ERROR = 1.15  # how many times more or less than its size a move may do to the picture


class Parallax(NamedTuple):
    """What a move shows that no turn or zoom could."""

    width: float  #: share of the picture's width
    share: float  #: of what the picture does

    @property
    def is_visible(self) -> bool:
        return self.width >= _LEAST_PARALLAX and self.share >= _LEAST_SHARE


def shows_something(frames: Tensor, *, moves: bool) -> bool:
    """Whether there is texture in every frame, and change over the clip. (T, 3, H, W) in 0..255.

    A dark place or a bare wall that fills the view has none. Things that move in a corner do not count as change.
    """
    height, width = (n // 4 for n in frames.shape[2:])
    grey = shrink(frames.mean(1), 4)  # (T, H / 4, W / 4)
    if float(grey.mean((1, 2)).min()) < 12 or float(grey.std((1, 2)).min()) < 9:
        return False
    high, wide = height // 4, width // 5
    tiles = grey[:, : 4 * high, : 5 * wide].reshape(len(grey), 4, high, 5, wide).std((2, 4))  # (T, 4, 5)
    if float((tiles > 2.0).float().mean((1, 2)).min()) < 0.5:
        return False
    change = (grey - grey[:1]).abs().mean((1, 2)) / grey.std((1, 2)).clamp_min(1)
    return not moves or float(change.max()) > 0.3


def visible_parallax(near: Array, path: CameraPath) -> Parallax | None:
    """What a move shows, given (H, W) 1 over the distances at its start; None where the camera only turns or zooms."""
    way = path.motion[:3]
    if not way.any():
        return None
    other, common = parallax(near, way, path.fov)
    return Parallax(other, other / max(common, 1e-9))


def is_hidden(seen: Parallax | None) -> bool:
    """Whether a camera moves, but by the `visible_parallax` might as well turn or zoom."""
    return seen is not None and not seen.is_visible


def size_in_picture(near: Array, poses: Array, path: CameraPath) -> float | None:
    """How far a move takes the picture, in the unit of `path.size`: at every moment what is at the median distance.

    near: (T, H, W) 1 over the distances; poses: (T, 7) at the same moments. None where the camera only turns or zooms.
    """
    way = path.motion[:3]
    if not way.any():
        return None
    axis = int(np.abs(way).argmax())
    medians = np.median(near.reshape(len(near), -1), axis=1)  # (T,)
    steps = np.diff(poses[:, axis]) * (medians[1:] + medians[:-1]) / 2
    unit = np.log(2) if axis == Z else 2 * np.tan(np.radians(path.fov) / 2)
    return float(np.abs(np.cumsum(steps)).max() / unit)


def is_as_large(size: float | None, path: CameraPath) -> bool:
    """Whether what a move does to the picture (`size_in_picture`) is the size that was drawn for it."""
    return size is None or bool(abs(np.log(max(size, 1e-9) / path.size)) < np.log(_SIZE_ERROR))
