"""People cut out of pictures as the published pose networks were fed them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from tests.films import photo
from tests.tiny import refused
from uniformer.reading.pictures import Pixels
from uniformer.reading.warp import _inverse, _places, warp_pixels

OPENCV_4_10 = "9f55be66c5002c18e176c5e150277d7fbb4aa84049baf7cb87656331c50843c8"  #: sha256 of what OpenCV 4.10.0 makes

Case = tuple[Pixels, NDArray[np.float64], tuple[int, int]]


def pictures_and_matrices() -> Iterator[Case]:
    """Noise, any scale, turned or not, sheared, mirrored, beyond the edges, and shifts by whole pixels."""
    draw = np.random.default_rng(7)
    for number in range(60):
        height, width, *size = draw.integers(1, 150, 4).tolist()
        pixels = draw.integers(0, 256, (height, width, 3), np.uint8)
        matrix = draw.normal(size=(2, 3)) * [1, 1, 40]
        if number % 3:
            turn, scale = draw.uniform(-3, 3) * (number % 2), draw.uniform(0.2, 5)
            matrix[:, :2] = scale * np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        if number % 10 == 0:
            matrix = np.array([[1.0, 0, draw.integers(-9, 9)], [0, 1, draw.integers(-9, 9)]])
        yield pixels, matrix, (size[0], size[1])


def test_warped_pixels_are_those_of_opencv_4() -> None:
    """Which the published networks were fed, and trained with."""
    digest = hashlib.sha256()
    for case in pictures_and_matrices():
        digest.update(warp_pixels(*case).tobytes())
    assert digest.hexdigest() == OPENCV_4_10


def test_pixels_are_mixed_as_by_opencv() -> None:
    """Whichever is installed: `remap` takes places in 32nds of a pixel in all releases."""
    for pixels, matrix, size in pictures_and_matrices():
        x, y = (place.clip(-(1 << 19), (1 << 19) - 1) for place in _places(_inverse(matrix), *size))
        pixel = np.stack([x >> 5, y >> 5], axis=-1).astype(np.int16)
        share = ((y & 31) * 32 + (x & 31)).astype(np.uint16)
        theirs = cv2.remap(pixels, pixel, share, cv2.INTER_LINEAR)
        assert np.array_equal(warp_pixels(pixels, matrix, size), theirs)


def test_a_photograph_is_warped_as_by_any_opencv() -> None:
    """To a grey level within its edges: places between pixels are finer in later releases."""
    pixels = np.asarray(photo(1).resize((128, 96)).resize((512, 384)))
    for degrees in (0, 30, 200):
        matrix = cv2.getRotationMatrix2D((256, 192), degrees, 1.4) + [[0, 0, 96 - 256], [0, 0, 128 - 192]]
        theirs = cv2.warpAffine(pixels, matrix, (192, 256), flags=cv2.INTER_LINEAR).astype(int)
        assert np.abs(warp_pixels(pixels, matrix, (256, 192)) - theirs).max() <= 1


def test_a_matrix_without_a_way_back_is_refused() -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    for matrix in ([[1, 1, 0], [1, 1, 0]], [[1, 0, np.nan], [0, 1, 0]]):
        with refused("expected a matrix .* of an area"):
            warp_pixels(pixels, np.array(matrix, np.float64), (4, 4))
