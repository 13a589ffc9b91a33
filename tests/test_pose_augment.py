"""People cut out of pictures for training: the crop, and the key points with it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from uniformer.config import PersonCrop
from uniformer.reading.dense_options import PoseAugment
from uniformer.reading.people import crop_matrix, region_of
from uniformer.reading.pictures import Pixels
from uniformer.reading.pose_augment import Body, draw_cut
from uniformer.reading.warp import warp_pixels

CROP = PersonCrop(size=(256, 192))
STILL = PoseAugment(flip=0, half_body=0, scale=0, rotation_prob=0, shift_prob=0)
BODY = Body(np.array([[1, 2], [3, 4], [6, 7], [8, 9]]), np.arange(10) < 5)
BOX = (60.0, 40.0, 90.0, 150.0)
# A standing person: nose, eyes, shoulders, navel, knees, feet.
POINTS = np.array(
    [[105, 50, 2], [95, 60, 2], [115, 60, 2], [80, 90, 2], [130, 90, 1], [105, 120, 2], [90, 150, 2], [120, 150, 2],
     [85, 185, 2], [125, 185, 2]], np.float32,
)  # fmt: skip
WIDTH = 220


def dotted() -> Pixels:
    """A bright dot at every key point, each in a channel of its own."""
    pixels = np.zeros((240, WIDTH, len(POINTS)), np.uint8)
    for number, (x, y, _) in enumerate(POINTS.astype(int)):
        pixels[y - 2 : y + 3, x - 2 : x + 3, number] = 255
    return pixels


def centre_of(dot: Pixels) -> np.ndarray | None:
    """Where a dot (H, W) is, where all of it is to be seen."""
    if not dot.any() or dot[[0, -1]].any() or dot[:, [0, -1]].any():
        return None
    rows, columns = np.indices(dot.shape)
    return np.array([(columns * dot).sum(), (rows * dot).sum()]) / dot.sum()


@pytest.mark.parametrize("seed", range(40))
def test_key_points_stay_on_their_dots(seed: int) -> None:
    """Moved, halved, scaled, turned and mirrored; in a mirrored picture left is right."""
    cut = draw_cut(POINTS, BOX, WIDTH, CROP, PoseAugment(half_body=0.5), BODY, np.random.default_rng(seed))
    crop = warp_pixels(dotted(), cut.matrix, CROP.size)
    is_mirrored = np.linalg.det(cut.matrix[:, :2]) < 0
    partner = {1: 2, 2: 1, 3: 4, 4: 3, 6: 7, 7: 6, 8: 9, 9: 8} if is_mirrored else {}
    found = {k: centre_of(crop[..., partner.get(k, k)]) for k in range(10)}
    assert sum(place is not None for place in found.values()) >= 3
    for k, place in found.items():
        assert place is None or np.abs(place - cut.points[k]).max() < 0.3, k
    assert cut.visible.all()


def test_all_draws_occur() -> None:
    """Dots that leave the crop are not compared above; here is what is drawn how often."""
    cuts = [draw_cut(POINTS, BOX, WIDTH, CROP, PoseAugment(), BODY, np.random.default_rng(n)) for n in range(600)]
    linear = np.stack([cut.matrix[:, :2] for cut in cuts])
    mirrored = np.linalg.det(linear) < 0
    assert 250 < mirrored.sum() < 350
    degrees = np.degrees(np.arctan2(linear[:, 1, 0], linear[:, 1, 1]))
    assert 190 < (np.abs(degrees) < 1e-3).sum() < 290  # 0.4 of them
    assert 70 < np.abs(degrees).max() <= 80.001
    zoom = np.sqrt(np.abs(np.linalg.det(linear)))
    usual = zoom_of(region_of(BOX, CROP.size).scale)
    assert usual / 1.5 * 0.999 <= zoom.min() < usual / 1.4
    assert zoom.max() > 2 * usual  # half bodies are nearer


def zoom_of(scale: np.ndarray) -> float:
    return float(CROP.size[1] / (scale[0] * 200))


def test_without_draws_it_is_the_crop_of_prediction() -> None:
    cut = draw_cut(POINTS, BOX, WIDTH, CROP, STILL, BODY, np.random.default_rng(0))
    wanted = crop_matrix(region_of(BOX, CROP.size), CROP.size)
    assert np.array_equal(cut.matrix, wanted)
    assert np.allclose(cut.points, POINTS[:, :2] @ wanted[:, :2].T + wanted[:, 2])
    wide = draw_cut(POINTS, BOX, WIDTH, replace(CROP, enlarge=2.5), STILL, BODY, np.random.default_rng(0))
    assert np.allclose(wide.matrix[:, :2], wanted[:, :2] / 2)


def test_mirrored_crops_show_the_mirrored_picture() -> None:
    flipped = draw_cut(POINTS, BOX, WIDTH, CROP, replace(STILL, flip=1.0), BODY, np.random.default_rng(0))
    pixels = dotted()
    box = (WIDTH - 1 - BOX[0] - BOX[2], *BOX[1:])  # the reference's centres are mirrored as pixels are
    other = crop_matrix(region_of(box, CROP.size), CROP.size)
    wanted = warp_pixels(np.ascontiguousarray(pixels[:, ::-1]), other, CROP.size)
    assert np.abs(warp_pixels(pixels, flipped.matrix, CROP.size).astype(int) - wanted).max() <= 8  # a 32nd of a pixel
    x, y, _ = POINTS[4]  # what was the right shoulder is the left one
    assert np.allclose(flipped.points[3], other[:, :2] @ [WIDTH - 1 - x, y] + other[:, 2])


def test_half_bodies() -> None:
    """Around the mean of one half's visible points; the upper one in 69 of 100 crops, as in the reference."""
    halves = []
    for seed in range(300):
        cut = draw_cut(POINTS, BOX, WIDTH, CROP, replace(STILL, half_body=1.0), BODY, np.random.default_rng(seed))
        means = [cut.points[BODY.upper].mean(0), cut.points[~BODY.upper].mean(0)]
        at_centre = [bool(np.abs(mean - [96, 128]).max() < 1e-3) for mean in means]
        assert sum(at_centre) == 1
        halves.append(at_centre[0])
        half = cut.points[BODY.upper if at_centre[0] else ~BODY.upper]
        sides = np.ptp(half, axis=0) / [192, 256]
        assert np.isclose(sides.max(), 1 / 1.5)
    assert 185 < sum(halves) < 230
    few = POINTS.copy()
    few[:2, 2] = 0  # eight are too few
    cut = draw_cut(few, BOX, WIDTH, CROP, replace(STILL, half_body=1.0), BODY, np.random.default_rng(0))
    assert np.array_equal(cut.matrix, crop_matrix(region_of(BOX, CROP.size), CROP.size))
    assert cut.visible.tolist() == [False] * 2 + [True] * 8


def test_key_points_all_in_one_place_are_no_half() -> None:
    heap = np.tile(np.array([[100, 100, 2]], np.float32), (10, 1))
    cut = draw_cut(heap, BOX, WIDTH, CROP, replace(STILL, half_body=1.0), BODY, np.random.default_rng(0))
    assert np.isfinite(cut.points).all()
    assert np.array_equal(cut.matrix, crop_matrix(region_of(BOX, CROP.size), CROP.size))


def test_centres_are_moved_by_a_fifth() -> None:
    augment = replace(STILL, shift_prob=0.3)
    usual = crop_matrix(region_of(BOX, CROP.size), CROP.size)
    moved = np.stack(
        [
            draw_cut(POINTS, BOX, WIDTH, CROP, augment, BODY, np.random.default_rng(n)).matrix[:, 2] - usual[:, 2]
            for n in range(400)
        ]
    ) / (usual[0, 0] * np.array(BOX[2:]))
    assert 90 < (moved != 0).any(1).sum() < 150
    assert 0.18 < np.abs(moved).max() <= 0.2 + 1e-6
