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


def warp_pixels(
    pixels: Pixels, matrix: NDArray[np.floating[Any]], size: Sequence[int], full: tuple[int, int] | None = None
) -> Pixels:
    """uint8 (H, W, C) -> uint8 (h, w, C) of `size` (h, w): bilinear, and 0 beyond the picture's edges.

    `matrix` (2, 3) leads from places (x, y) in the picture to places in the result. Equal, to the bit, to
    `cv2.warpAffine` of OpenCV up to 4.10: it computes in whole numbers, and knows 32 places between two pixels. (Later
    releases mix in floats.) Where `pixels` are a smaller copy of the picture, `full` is its height and width. Raises
    `InputError` for a matrix that nothing leads back from.
    """
    tall, wide = full or pixels.shape[:2]
    matrix = matrix / np.array([pixels.shape[1] / wide, pixels.shape[0] / tall, 1.0])
    height, width = size
    x, y = _places(_inverse(matrix), height, width)
    window, left, top = _window(pixels, x >> _KEPT, y >> _KEPT)
    row = window.shape[1]
    flat, first = window.reshape(-1, window.shape[2]), (top * row + left).ravel()
    right_share, lower_share = ((place & (_PARTS - 1)).astype(np.int32).ravel() for place in (x, y))
    total = np.full((height * width, flat.shape[1]), _PARTS * _PARTS // 2, np.int32)  # half of what it is divided by
    for down, rows in ((0, _PARTS - lower_share), (row, lower_share)):
        for across, columns in ((0, _PARTS - right_share), (1, right_share)):
            total += flat.take(first + (down + across), axis=0) * (rows * columns)[:, None]
    return (total >> 2 * _KEPT).astype(np.uint8).reshape(height, width, -1)


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


def _window(
    pixels: Pixels, left: NDArray[np.int64], top: NDArray[np.int64]
) -> tuple[Pixels, NDArray[np.int64], NDArray[np.int64]]:
    """The part of a picture that holds these places and those to the right of and below them, with zeros where there is
    no picture; and the places in it."""
    height, width = pixels.shape[:2]
    left, top = left.clip(-2, width), top.clip(-2, height)  # two beyond the edge, both neighbours are zeros
    x0, x1, y0, y1 = (int(n) for n in (left.min(), left.max() + 2, top.min(), top.max() + 2))
    window = np.zeros((y1 - y0, x1 - x0, pixels.shape[2]), np.uint8)
    there = pixels[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)]
    window[max(-y0, 0) :, max(-x0, 0) :][: there.shape[0], : there.shape[1]] = there
    return window, left - x0, top - y0
