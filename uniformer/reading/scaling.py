"""A whole picture scaled for a dense network: its proportions kept, normalised, its sides made multiples of 32.

The published networks were fed by OpenCV; `resize_pixels` gives its very numbers. NumPy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from uniformer.config import Scaling
from uniformer.reading.pictures import Pixels
from uniformer.reading.transforms import Floats

_BITS = 11  # of the weights that OpenCV interpolates 8-bit pixels with


class Scaled(NamedTuple):
    """A picture as a network is fed it."""

    array: Floats  #: (3, h, w), padding included
    size: tuple[int, int]  #: height and width without padding


def scale_picture(pixels: Pixels, scaling: Scaling, *, fixed: Sequence[int] | None = None) -> Scaled:
    """uint8 RGB (H, W, 3) -> the network's input; of the size `fixed` (h, w), whatever the picture's proportions."""
    height, width = pixels.shape[:2]
    size = scaled_size(height, width, scaling) if fixed is None else (fixed[0], fixed[1])
    resized = resize_pixels(pixels, size)
    if scaling.by == "resizing" and fixed is None:
        size = (_multiple(size[0], scaling.multiple), _multiple(size[1], scaling.multiple))
        resized = resize_pixels(resized, size)
    if scaling.swap:
        resized = resized[:, :, ::-1]
    array = normalised(resized, scaling).transpose(2, 0, 1)
    if scaling.by == "padding" and fixed is None:
        pad = [(0, _multiple(n, scaling.multiple) - n) for n in size]
        array = np.pad(array, ((0, 0), *pad))
    return Scaled(np.ascontiguousarray(array), size)


def box_factors(size: Sequence[int], full: Sequence[int]) -> Floats:
    """float32 (4,): boxes of a picture of `full` (H, W) times these are boxes of it in `size` (h, w)."""
    return np.tile(np.array([size[1] / full[1], size[0] / full[0]], np.float32), 2)


def scaled_size(height: int, width: int, scaling: Scaling) -> tuple[int, int]:
    """The largest with the picture's proportions whose sides both limits allow; a pixel of each at least."""
    factor = min(scaling.longest / max(height, width), scaling.shortest / min(height, width))
    return max(int(height * factor + 0.5), 1), max(int(width * factor + 0.5), 1)


def normalised(pixels: Pixels, scaling: Scaling) -> Floats:
    """In float32 as the reference does it: by the reciprocal of the deviation."""
    shifted = pixels.astype(np.float32) - np.array(scaling.mean, np.float32)
    return shifted * (1 / np.array(scaling.std, np.float64)).astype(np.float32)


def resize_pixels(pixels: NDArray[Any], size: Sequence[int]) -> Pixels:
    """uint8 (H, W, C) in another size, bilinear without antialiasing: what OpenCV's INTER_LINEAR gives, to the bit.

    It computes in whole numbers, drops four bits between the axes, and halves by the mean of four pixels.
    """
    height, width = size
    if pixels.shape[:2] == (height, width):
        return pixels
    values = pixels.astype(np.int32)
    if pixels.shape[:2] == (2 * height, 2 * width):
        squares = values[::2, ::2] + values[1::2, ::2] + values[::2, 1::2] + values[1::2, 1::2]
        return ((squares + 2) >> 2).astype(np.uint8)
    left, right, across = _taps(pixels.shape[1], width, keeps_ends=True)
    above, below, down = _taps(pixels.shape[0], height, keeps_ends=False)
    rows = (values[:, left] * across[0][:, None] + values[:, right] * across[1][:, None]) >> 4
    upper, lower = (rows[where] * weight[:, None, None] >> 16 for where, weight in ((above, down[0]), (below, down[1])))
    return ((upper + lower + 2) >> 2).astype(np.uint8)


def _taps(length: int, wanted: int, *, keeps_ends: bool) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """The two pixels that each new one lies between, and their weights (2, wanted), of 2048 together.

    At the ends both are the same pixel; with `keeps_ends` the first then has all the weight.
    """
    place = ((np.arange(wanted) + 0.5) * (1.0 / (wanted / length)) - 0.5).astype(np.float32)
    first = np.floor(place).astype(np.int64)
    share = place - first.astype(np.float32)
    if keeps_ends:
        share[(first < 0) | (first >= length - 1)] = 0
    weights = np.rint(np.stack([np.float32(1) - share, share]) * np.float32(1 << _BITS)).astype(np.int32)
    return first.clip(0, length - 1), (first + 1).clip(0, length - 1), weights


def _multiple(side: int, of: int) -> int:
    """The next multiple from `side` on."""
    return -(-side // of) * of
