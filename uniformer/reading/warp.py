"""Pictures turned and scaled by a matrix, as OpenCV 4 did it for the published pose networks. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uniformer.errors import InputError
from uniformer.reading.pictures import Pixels

_BITS = 10  # of the fractions that places are computed with
_KEPT = 5  # of these bits, the ones that pixels are mixed by
_PARTS = 1 << _KEPT
_FURTHEST = float(1 << 40)  # no place is further away, so that whole numbers hold it


def warp_pixels(pixels: Pixels, matrix: NDArray[np.floating[Any]], size: Sequence[int]) -> Pixels:
    """uint8 (H, W, C) -> uint8 (h, w, C) of `size` (h, w): bilinear, and 0 beyond the picture's edges.

    `matrix` (2, 3) leads from places (x, y) in the picture to places in the result. Equal, to the bit, to
    `cv2.warpAffine` of OpenCV up to 4.10: it computes in whole numbers, and knows 32 places between two pixels. (Later
    releases mix in floats.) Raises `InputError` for a matrix that nothing leads back from.
    """
    height, width = size
    x, y = _places(_inverse(matrix), height, width)
    left, top = x >> _KEPT, y >> _KEPT
    right_share, lower_share = x & (_PARTS - 1), y & (_PARTS - 1)
    total = np.full((height, width, pixels.shape[2]), _PARTS * _PARTS // 2, np.int32)  # half of what it is divided by
    for down, rows in ((0, _PARTS - lower_share), (1, lower_share)):
        for across, columns in ((0, _PARTS - right_share), (1, right_share)):
            total += _pixels_at(pixels, top + down, left + across, rows * columns)
    return (total >> 2 * _KEPT).astype(np.uint8)


def _inverse(matrix: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """In OpenCV's order of operations, for equal rounding."""
    (a, b, dx), (c, d, dy) = np.asarray(matrix, np.float64).tolist()
    if not np.isfinite(matrix).all() or not (determinant := a * d - b * c):
        raise InputError(f"expected a matrix (2, 3) of an area, got {np.asarray(matrix).tolist()}")
    scale = 1 / determinant
    a, b, c, d = d * scale, b * -scale, c * -scale, a * scale
    return np.array([[a, b, -a * dx - b * dy], [c, d, -c * dx - d * dy]])


def _places(back: NDArray[np.float64], height: int, width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each new pixel lies in the picture, x and y in 32nds of a pixel: int64 (h, w) each."""
    column, row = np.arange(width), np.arange(height)[:, None]

    def whole(values: NDArray[np.float64]) -> NDArray[np.int64]:
        return np.rint((values * (1 << _BITS)).clip(-_FURTHEST, _FURTHEST)).astype(np.int64)

    half = 1 << (_BITS - _KEPT - 1)
    x, y = (whole(b * row + c) + half + whole(a * column) >> _BITS - _KEPT for a, b, c in back)
    return x, y


def _pixels_at(
    pixels: Pixels, rows: NDArray[np.int64], columns: NDArray[np.int64], weights: NDArray[np.int64]
) -> NDArray[np.int32]:
    """Weighted pixels (h, w, C) at places (h, w); nothing where there is no such place."""
    height, width, channels = pixels.shape
    is_there = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    at = np.where(is_there, rows * width + columns, 0)
    found = pixels.reshape(-1, channels)[at].astype(np.int32)
    return found * np.where(is_there, weights, 0).astype(np.int32)[..., None]
