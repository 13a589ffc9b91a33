"""People cut out of pictures as the published pose networks were fed them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms.functional import normalize, to_tensor

from tests.films import photo
from tests.tiny import refused
from uniformer.config import PersonCrop
from uniformer.reading.people import clipped_boxes, crop_matrix, cut_people
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
        matrix = cv2.getRotationMatrix2D((256, 192), degrees, 1.4)
        matrix[:, 2] += 96 - 256, 128 - 192
        theirs = cv2.warpAffine(pixels, matrix, (192, 256), flags=cv2.INTER_LINEAR).astype(int)
        assert np.abs(warp_pixels(pixels, matrix, (256, 192)) - theirs).max() <= 1


def test_a_matrix_without_a_way_back_is_refused() -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    for matrix in ([[1, 1, 0], [1, 1, 0]], [[1, 0, np.nan], [0, 1, 0]]):
        with refused("expected a matrix .* of an area"):
            warp_pixels(pixels, np.array(matrix, np.float64), (4, 4))


# ---- people ----------------------------------------------------------------------------------------------------------


def test_people_are_cut_out_as_the_reference_does() -> None:
    """By OpenCV's own three points, its mixing, and torchvision's conversion and normalisation."""
    pixels, crop = np.asarray(photo(1)), PersonCrop()
    boxes = np.array([[100.0, 50, 180, 210], [10.5, 20.25, 310.5, 120.25], [-60, 300, 40, 420.5]], np.float32)
    found = cut_people(pixels, boxes, crop)
    assert found.array.shape == (3, 3, 256, 192)
    assert found.array.dtype == np.float32
    for person, region, box in zip(found.array, found.regions, boxes, strict=True):
        assert region.centre.tolist() == [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]
        side = region.scale[0] * 200
        here = np.array([region.centre, region.centre - [0, side / 2], region.centre - [side / 2, side / 2]])
        there = np.array([[96, 128], [96, 32], [0, 32]])
        matrix = cv2.getAffineTransform(here.astype(np.float32), there.astype(np.float32))
        assert np.abs(matrix - crop_matrix(region, crop.size)).max() < 1e-5
        theirs = normalize(to_tensor(warp_pixels(pixels, matrix, crop.size)), crop.mean, crop.std)
        assert np.abs(person - theirs.numpy()).max() < 0.02  # of the matrix' last digits: a grey level


def test_one_person_or_several_make_no_difference() -> None:
    pixels = np.asarray(photo(2))
    boxes = np.array([[10, 20, 90, 200], [200, 100, 350, 380]], np.float32)
    both = cut_people(pixels, boxes, PersonCrop())
    for number in range(2):
        alone = cut_people(pixels, boxes[number : number + 1], PersonCrop())
        assert np.array_equal(alone.array[0], both.array[number])
    assert cut_people(pixels, np.zeros((0, 4), np.float32), PersonCrop()).array.shape == (0, 3, 256, 192)


def test_boxes_of_a_picture_that_came_smaller() -> None:
    """A photograph of more pixels than are held comes at a fraction of its size: its boxes are in those of the file."""
    small = photo(3).resize((128, 96))
    large = np.asarray(small.resize((512, 384), Image.Resampling.NEAREST))
    box = np.array([[100, 60, 300, 330]], np.float32)
    whole = cut_people(large, box, PersonCrop()).array
    of_copy = cut_people(np.asarray(small), box, PersonCrop(), (384, 512)).array
    assert (
        np.abs(whole - of_copy).mean()
        < 0.1
        < np.abs(whole - cut_people(np.asarray(small), box, PersonCrop()).array).mean()
    )


def test_boxes_of_annotations() -> None:
    """In the picture, and a pixel smaller, as in training; nothing is left of one that lies outside."""
    boxes = np.array([[-5, 10, 50, 60], [90, 90, 120, 130], [20, 20, 20.5, 90], [150, 0, 160, 9]], np.float64)
    found = clipped_boxes(boxes, 100, 110)
    assert found.tolist() == [[0, 10, 54, 59], [90, 90, 109, 99], [20, 20, 20, 89], [150, 0, 109, 8]]


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ([[5, 5, 5, 9]], r"expected a box x1 < x2, y1 < y2 in pixels, got \[5.0, 5.0, 5.0, 9.0\] \(number 0\)"),
        ([[0, 0, 9, 9], [0, 0, np.inf, 9]], "number 1"),
        ([[0, 0, np.nan, 9]], "number 0"),
        ([0, 0, 9, 9], r"expected boxes of shape \(P, 4\), got \(4,\)"),
    ],
)
def test_what_is_no_box_is_refused(box: list[list[float]], words: str) -> None:
    with refused(words):
        cut_people(np.zeros((9, 9, 3), np.uint8), np.array(box, np.float32), PersonCrop())
