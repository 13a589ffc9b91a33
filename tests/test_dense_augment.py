"""Pictures with boxes, masks and maps of labels, changed together at random for training."""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from typing import Any

import cv2
import numpy as np
import pytest

from tests.tiny import refused
from uniformer.labels import IGNORED
from uniformer.reading.colour import _saturated, _turned, recoloured
from uniformer.reading.dense_augment import augment_detection, augment_segmentation
from uniformer.reading.dense_options import (
    MULTI_SCALE,
    PHOTOMETRIC,
    Colour,
    DetectionAugment,
    PoseAugment,
    SegmentationAugment,
)
from uniformer.reading.pictures import Pixels
from uniformer.reading.scene import Scene, _nearest, cropped, mirrored, resized, scene_of
from uniformer.support.settings import from_table, to_toml
from uniformer.support.texts import parse_toml

# Two coloured rectangles on grey: x1, y1, x2, y2 of the red and the blue one.
RECTANGLES = np.array([[40, 30, 110, 90], [150, 70, 170, 125]], np.float32)
COLOURS = ((255, 0, 0), (0, 0, 255))
SMALL = DetectionAugment(
    sides=(96, 128, 160), longest=260, crop_prob=0.5, crop_sides=(90, 120), crop=(60, 110), smallest=16
)


def picture(height: int = 150, width: int = 210) -> tuple[Pixels, np.ndarray]:
    """The picture and the masks (2, H, W) of its rectangles."""
    pixels = np.full((height, width, 3), 128, np.uint8)
    masks = np.zeros((2, height, width), bool)
    for (x1, y1, x2, y2), colour, mask in zip(RECTANGLES.astype(int), COLOURS, masks, strict=True):
        pixels[y1:y2, x1:x2] = colour
        mask[y1:y2, x1:x2] = True
    return pixels, masks


def box_around(shown: np.ndarray) -> np.ndarray:
    rows, columns = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def coloured(pixels: Pixels, instance: int) -> np.ndarray:
    """Where the picture has more of a rectangle's colour than of the ground's."""
    return np.abs(pixels.astype(int) - COLOURS[instance]).sum(2) < np.abs(pixels.astype(int) - 128).sum(2)


# ---- moving together -------------------------------------------------------------------------------------------------


def test_boxes_and_masks_of_the_reference() -> None:
    """Worked numbers of the original pipeline: scaled, clipped, mirrored."""
    whole = np.zeros((3, 60, 90), bool)
    whole[0, 5:33, 4:40] = whole[1] = whole[2, 10:, 70:] = True
    given = np.array([[3.5, 4.25, 40.0, 33.0], [0.0, 0.0, 90.0, 60.0], [70.0, 10.0, 95.0, 70.0]])
    scene = resized(scene_of(np.zeros((60, 90, 3), np.uint8), given), (80, 120))
    wanted = [
        [4.6666669845581055, 5.6666669845581055, 53.333335876464844, 44.0],
        [0.0, 0.0, 120.0, 80.0],
        [93.33333587646484, 13.333333969116211, 120.0, 80.0],
    ]
    assert scene.boxes.tolist() == wanted
    assert scene.taken(whole).sum((1, 2)).tolist() == [1776, 9600, 1716]
    assert mirrored(scene).boxes.tolist() == [
        [66.66666412353516, 5.6666669845581055, 115.33333587646484, 44.0],
        [0.0, 0.0, 120.0, 80.0],
        [0.0, 13.333333969116211, 26.666664123535156, 80.0],
    ]


def test_masks_are_scaled_as_by_opencv() -> None:
    rng = np.random.default_rng(0)
    for length, wanted in [(60, 80), (1, 5), (7, 3), (640, 1067), *rng.integers(1, 1400, (300, 2)).tolist()]:
        line = np.arange(length, dtype=np.float32)[None]
        theirs = cv2.resize(line, (wanted, 1), interpolation=cv2.INTER_NEAREST)[0]
        assert np.array_equal(_nearest(length, wanted), theirs), (length, wanted)


@pytest.mark.parametrize("seed", range(60))
def test_boxes_and_masks_stay_on_what_they_are_of(seed: int) -> None:
    pixels, whole = picture()
    scene = augment_detection(scene_of(pixels, RECTANGLES), SMALL, np.random.default_rng(seed))
    masks = scene.taken(whole)
    for box, instance in zip(scene.boxes, scene.instances, strict=True):
        if (box[2:] - box[:2]).min() < 3:  # next to nothing is left of it
            continue
        found = box_around(coloured(scene.pixels, instance))
        assert np.abs(found - box).max() <= 1, (found, box)
        assert np.abs(box_around(masks[instance]) - box).max() <= 1
        assert (masks[instance] != coloured(scene.pixels, instance)).mean() < 0.02
    gone = set(range(2)) - set(scene.instances.tolist())
    assert not any(masks[instance].sum() > 6 * max(scene.size) for instance in gone)


def test_what_a_crop_leaves_outside_is_gone() -> None:
    pixels, whole = picture()
    scene = cropped(scene_of(pixels, RECTANGLES), (60, 140), (80, 60))
    assert scene.instances.tolist() == [1]
    assert scene.boxes.tolist() == [[10, 10, 30, 65]]
    assert scene.pixels.shape == (80, 60, 3)
    assert box_around(scene.taken(whole[1])).tolist() == [10, 10, 30, 65]
    nothing = cropped(scene, (0, 40), (8, 8))
    assert nothing.boxes.shape == (0, 4)
    assert len(nothing.instances) == 0


def test_a_picture_that_was_read_smaller() -> None:
    """Boxes and masks are of the picture as annotated, the pixels a third as many each way."""
    pixels, whole = picture()
    scene = scene_of(np.ascontiguousarray(pixels[1::3, 1::3]), RECTANGLES, (150, 210))
    assert np.allclose(scene.boxes, RECTANGLES / 3)
    assert scene.taken(whole).shape == (2, 50, 70)
    assert np.abs(box_around(scene.taken(whole[0])) - RECTANGLES[0] / 3).max() <= 1


def test_a_seed_is_a_scene() -> None:
    pixels, _ = picture()

    def drawn(seed: int) -> Scene:
        augment = replace(SMALL, colour=PHOTOMETRIC)
        return augment_detection(scene_of(pixels, RECTANGLES), augment, np.random.default_rng(seed))

    first, again = drawn(3), drawn(3)
    assert np.array_equal(first.pixels, again.pixels)
    assert np.array_equal(first.boxes, again.boxes)
    assert len({drawn(seed).pixels.tobytes() for seed in range(8)}) == 8


# ---- the published recipes -------------------------------------------------------------------------------------------


def test_sizes_of_the_published_schedules() -> None:
    """1x: one size, the crop of the test pictures. 3x: short sides of 480 to 800, after a crop as often as not."""
    pixels = np.zeros((427, 640, 3), np.uint8)
    rng = np.random.default_rng(0)
    assert {augment_detection(scene_of(pixels), DetectionAugment(), rng).size for _ in range(3)} == {(800, 1199)}
    assert DetectionAugment() == DetectionAugment(flip=0.5, sides=(800,), longest=1333, crop_prob=0)
    assert MULTI_SCALE.sides == (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    pixels = np.zeros((42, 64, 3), np.uint8)
    sides = tuple(side // 10 for side in MULTI_SCALE.sides)
    small = replace(MULTI_SCALE, sides=sides, longest=133, crop_sides=(40, 50, 60), crop=(38, 60))
    sizes = [augment_detection(scene_of(pixels), small, rng).size for _ in range(300)]
    assert {min(size) for size in sizes} >= set(sides)
    assert max(max(size) for size in sizes) <= 133
    uncropped = sum(abs(width / height - 64 / 42) < 0.03 for height, width in sizes)
    assert 110 < uncropped < 200


def test_crops_are_bounded_by_the_picture() -> None:
    pixels = np.zeros((50, 400, 3), np.uint8)
    augment = replace(SMALL, crop_prob=1.0, crop_sides=(50,), longest=1000, crop=(60, 110), sides=(64,))
    for seed in range(20):
        height, width = augment_detection(scene_of(pixels), augment, np.random.default_rng(seed)).size
        assert height == 64
        assert 60 / 50 - 0.05 < width / height < 110 / 50 + 0.05


def test_a_picture_thousands_of_times_as_long_as_wide() -> None:
    """Its short side would round to no pixel at all."""
    augment = DetectionAugment(sides=(64,), longest=128)
    scene = augment_detection(scene_of(np.zeros((1, 9000, 3), np.uint8)), augment, np.random.default_rng(0))
    assert scene.size == (1, 128)


# ---- segmentation ----------------------------------------------------------------------------------------------------

PLAIN = SegmentationAugment(longest=400, shortest=100, crop=(96, 96), colour=Colour())


def blocks(height: int, width: int) -> tuple[Pixels, np.ndarray]:
    """A picture whose grey, in blocks of 20, is 10 times the label."""
    labels = np.random.default_rng(1).integers(0, 25, (height // 20, width // 20)).astype(np.uint8)
    label_map = labels.repeat(20, 0).repeat(20, 1)
    return np.repeat(label_map[..., None] * np.uint8(10), 3, 2), label_map


@pytest.mark.parametrize("seed", range(25))
def test_labels_stay_on_their_pixels(seed: int) -> None:
    pixels, label_map = blocks(120, 200)
    scene = augment_segmentation(scene_of(pixels), label_map, PLAIN, np.random.default_rng(seed))
    labels = scene.taken(label_map)
    assert labels.shape == scene.size
    assert max(scene.size) <= 96
    same = (np.abs(scene.pixels[..., 0].astype(int) - 10 * labels.astype(int)) < 5).mean()
    assert same > 0.85  # all but those beside an edge, where the picture is blurred
    inner = cv2.erode((cv2.morphologyEx(labels, cv2.MORPH_GRADIENT, np.ones((3, 3))) == 0).astype(np.uint8), None)
    inner[[0, 1, -2, -1]] = inner[:, [0, 1, -2, -1]] = 0  # an edge may lie just outside the crop
    assert np.array_equal(np.rint(scene.pixels[..., 0] / 10)[inner > 0], labels[inner > 0])


def test_ratios_are_those_of_the_pair() -> None:
    """Each drawn ratio makes whole limits, and the picture the largest within both."""
    pixels, label_map = blocks(100, 200)
    augment = replace(PLAIN, crop=(1600, 1600), ratio=(0.5, 2.0))
    heights = [
        augment_segmentation(scene_of(pixels), label_map, augment, np.random.default_rng(seed)).size[0]
        for seed in range(60)
    ]
    assert min(heights) < 62
    assert max(heights) > 185
    assert all(50 <= height <= 200 for height in heights)
    fixed = replace(augment, ratio=(1.999, 1.999))
    assert augment_segmentation(scene_of(pixels), label_map, fixed, np.random.default_rng(0)).size == (199, 398)


def test_crops_have_no_class_that_is_nearly_all() -> None:
    """Where ten tries find one: a stripe of another class, and pixels that have none."""
    label_map = np.zeros((100, 400), np.uint8)
    label_map[:, 180:220], label_map[:, 300:] = 1, IGNORED
    pixels = np.zeros((100, 400, 3), np.uint8)
    augment = replace(PLAIN, ratio=(1.0, 1.0), crop=(96, 96), tries=200)
    for seed in range(20):
        labels = augment_segmentation(scene_of(pixels), label_map, augment, np.random.default_rng(seed)).taken(
            label_map
        )
        counts = np.bincount(labels[labels != IGNORED], minlength=2)
        assert counts.min() > 0
        assert counts.max() / counts.sum() < 0.75
    everything = replace(augment, tries=10)
    scene = augment_segmentation(scene_of(pixels), np.zeros_like(label_map), everything, np.random.default_rng(0))
    assert scene.size == (96, 96)  # nothing varied is to be found: it is taken as it is


# ---- colours ---------------------------------------------------------------------------------------------------------


def test_saturation_and_hue_are_opencv_s() -> None:
    """Up to its rounding of hue to two degrees and of saturation to a 255th."""
    pixels = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)

    def apart(channel: int, values: np.ndarray, ours: Pixels) -> np.ndarray:
        changed = hsv.copy()
        changed[..., channel] = values
        return np.abs(cv2.cvtColor(changed, cv2.COLOR_HSV2RGB).astype(int) - ours)

    for factor in (0.5, 0.9, 1.5):
        theirs = (hsv[..., 1].astype(np.float32) * factor).clip(0, 255).astype(np.uint8)
        off = apart(1, theirs, _saturated(pixels, factor))
        assert (off.max() <= 6, off.mean() < 0.6) == (True, True), off.max()
    for steps in (-18, 5, 17):
        off = apart(0, (hsv[..., 0].astype(int) + steps) % 180, _turned(pixels, 2 * steps))
        assert (off.max() <= 6, off.mean() < 0.6) == (True, True), off.max()


def test_turning_the_hue() -> None:
    rainbow = np.array([[[255, 0, 0], [255, 255, 0], [0, 255, 0], [0, 0, 255], [90, 90, 90], [0, 0, 0]]], np.uint8)
    assert _turned(rainbow, 120).tolist() == [
        [[0, 255, 0], [0, 255, 255], [0, 0, 255], [255, 0, 0], [90, 90, 90], [0, 0, 0]]
    ]
    assert _turned(rainbow, -60)[0, 0].tolist() == [255, 0, 255]
    assert _saturated(rainbow, 0.5)[0, 0].tolist() == [255, 128, 128]


def test_colours_are_changed_within_their_bounds() -> None:
    pixels = np.full((4, 4, 3), (100, 100, 100), np.uint8)
    assert recoloured(pixels, Colour(), np.random.default_rng(0)) is pixels
    bright, steep = Colour(brightness=20, prob=1.0), Colour(contrast=0.5, prob=1.0)
    values = {int(recoloured(pixels, bright, np.random.default_rng(seed))[0, 0, 0]) for seed in range(200)}
    assert min(values) == 80
    assert max(values) in (118, 119, 120)
    values = {int(recoloured(pixels, steep, np.random.default_rng(seed))[0, 0, 0]) for seed in range(200)}
    assert min(values) in (50, 51)
    assert max(values) in (148, 149, 150)
    unchanged = sum(
        np.array_equal(recoloured(pixels, replace(bright, prob=0.25), np.random.default_rng(seed)), pixels)
        for seed in range(400)
    )
    assert 240 < unchanged < 360


def test_contrast_comes_before_the_colours_or_after() -> None:
    """Both orders occur: cut off at 255 first, a colour keeps less of its saturation."""
    pixels = np.full((1, 1, 3), (250, 200, 150), np.uint8)
    colour = Colour(contrast=0.5, saturation=0.5, prob=1.0)
    orders = set()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        rng.random(), rng.uniform(), rng.random()  # brightness, that stays as it is; contrast, that changes
        contrast = rng.uniform(0.5, 1.5)
        rng.random()
        saturation = rng.uniform(0.5, 1.5)
        found = recoloured(pixels, colour, np.random.default_rng(seed))
        first = _saturated(_scaled(pixels, contrast), saturation)
        last = _scaled(_saturated(pixels, saturation), contrast)
        if np.abs(first.astype(int) - last).max() > 3:
            orders.add((np.array_equal(found, first), np.array_equal(found, last)))
    assert orders == {(True, False), (False, True)}


def _scaled(pixels: Pixels, factor: float) -> Pixels:
    return (pixels.astype(np.float32) * np.float32(factor)).clip(0, 255).astype(np.uint8)


# ---- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("augment", [MULTI_SCALE, SegmentationAugment(), PoseAugment(sigma=3.0)])
def test_settings_go_through_toml(augment: Any) -> None:
    table = parse_toml(to_toml(asdict(augment)), "settings")
    assert from_table(type(augment), table) == augment


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        (DetectionAugment, {"flip": 1.5}, "expected flip in [0, 1]"),
        (DetectionAugment, {"sides": ()}, "expected sides"),
        (DetectionAugment, {"sides": (1400,)}, "expected longest"),
        (DetectionAugment, {"crop": (600, 384)}, "expected crop as (least, most)"),
        (DetectionAugment, {"most_pixels": 3}, "expected most_pixels"),
        (SegmentationAugment, {"ratio": (2.0, 0.5)}, "expected ratio"),
        (SegmentationAugment, {"crop": (500, 512)}, "expected crop as multiples of 32"),
        (SegmentationAugment, {"shortest": 4096}, "expected shortest and longest"),
        (PoseAugment, {"rotation": 120.0}, "expected rotation"),
        (PoseAugment, {"sigma": 0.0}, "expected sigma"),
        (Colour, {"hue": 270.0}, "expected hue"),
        (Colour, {"contrast": -0.5}, "expected contrast in [0, 1]"),
    ],
)
def test_settings_that_make_no_sense_are_refused(kind: Any, settings: dict[str, Any], words: str) -> None:
    with refused(re.escape(words)):
        kind(**settings)
