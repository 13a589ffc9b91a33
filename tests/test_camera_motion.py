"""The camera-motion benchmark before anything is filmed: classes, paths, what a camera sees, which world is in which
split."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.measured_motion import AXIS, IN_PICTURE, THERE_AND_BACK, motion
from uniformer.camera_motion import doom, photos
from uniformer.camera_motion.classes import CLASSES, MIRRORED, REVERSED
from uniformer.camera_motion.footage import held
from uniformer.camera_motion.geometry import (
    parallax,
    picture,
    plane_homographies,
    rays,
    rotations,
    shrink,
    whole,
    window_of,
)
from uniformer.camera_motion.leaves import SIZE as LEAVES_SIZE
from uniformer.camera_motion.leaves import draw_leaves
from uniformer.camera_motion.make import SIZE, Request, plan
from uniformer.camera_motion.paths import AXES, PITCH, ROLL, YAW, ZOOM, X, Y, Z, draw_path
from uniformer.camera_motion.visibility import (
    Parallax,
    is_as_large,
    is_hidden,
    shows_something,
    size_in_picture,
    visible_parallax,
)
from uniformer.errors import InputError
from uniformer.labels import flip_sensitive

if importlib.util.find_spec("skimage") is None:
    pytest.skip("needs scikit-image", allow_module_level=True)


# ---------------------------------------------------------------------------------------------- measuring what is seen


def test_the_measurement_knows_a_motion_that_it_is_shown() -> None:
    noise = shrink(torch.rand(1, 480, 640, generator=torch.Generator().manual_seed(0)) * 255, 2)
    for axis, (component, sign) in IN_PICTURE.items():
        if axis in (X, Y, Z):
            continue
        poses = np.zeros((5, 7))
        poses[:, axis] = np.linspace(0, 0.4 if axis == ZOOM else 12, 5)
        looks = rotations(poses[:, YAW], poses[:, PITCH], poses[:, ROLL]) @ rays(60 * 0.7 ** poses[:, ZOOM])
        plane = plane_homographies(
            np.array([0, 0, 1.0]), np.array([1.0, 0, 0]), np.array([0, -0.75, 0]), np.zeros((5, 3)), looks
        )
        seen = motion(picture(noise, plane, whole(SIZE))[0][:, 0].byte().numpy()).sum(0)
        expected = np.zeros(4)
        expected[component] = sign
        scale = np.array([10, 10, 0.1, 0.1])
        assert np.sign(seen[component]) == sign, (AXES[axis], seen)
        assert np.abs(seen / scale).argmax() == component, (AXES[axis], seen)


# ------------------------------------------------------------------------------------------------------ classes, paths


def test_names_and_their_partners() -> None:
    assert len(CLASSES) == 20
    assert list(CLASSES) == sorted(CLASSES)
    for partner in (REVERSED, MIRRORED):
        assert partner.keys() == CLASSES.keys()
        assert all(partner[partner[name]] == name for name in CLASSES)
    assert {name for name in CLASSES if REVERSED[name] == name} == {"static", "shake", *THERE_AND_BACK}
    found = flip_sensitive(list(CLASSES))  # what training must not mirror, known by the words in the names
    assert {a: b for pair in found for a, b in (pair, pair[::-1])} == {a: b for a, b in MIRRORED.items() if a != b}


@pytest.mark.parametrize("label", CLASSES)
def test_a_path_goes_where_its_class_says(label: str) -> None:
    for seed in range(30):
        path = draw_path(label, np.random.default_rng(seed))
        poses = path.poses(np.linspace(0, 1, 49))
        width = 2 * np.tan(np.radians(path.fov) / 2)
        shift = (poses - poses[0]) / (width, width, 1, path.fov, path.fov, 60, 1)
        if label in AXIS:
            axis, sign = AXIS[label]
            assert shift[-1, axis] * sign > 0.04
            others = np.delete(np.abs(shift[-1]), axis)
            assert others.max() < 0.6 * abs(shift[-1, axis])
            played_back = shift[::-1] - shift[-1]
            partner, other_sign = AXIS[REVERSED[label]]
            assert played_back[-1, partner] * other_sign > 0.04
        elif label in THERE_AND_BACK:
            axis, sign = THERE_AND_BACK[label]
            turn = np.abs(shift[:, axis]).argmax()
            assert 15 < turn < 33
            assert shift[turn, axis] * sign > 0.08
            assert abs(shift[-1, axis]) < 0.4 * abs(shift[turn, axis])
        else:
            assert np.abs(shift[-1]).max() < 0.05
            spread = float(np.hypot(*shift[:, [YAW, PITCH]].std(0)))
            assert spread < 0.018 if label == "static" else np.abs(shift - shift.mean(0)).max() > 0.015
        assert path.fields_of_view(poses).min() > 30
        assert path.fields_of_view(poses).max() < 92


def test_an_unknown_class_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"unknown class 'pan_lft' \(did you mean 'pan_left'"):
        draw_path("pan_lft", np.random.default_rng(0))


def test_what_a_camera_sees() -> None:
    """Axes and senses, each by hand: a plane at distance 2, half a width of 1, seen with a right angle of view."""
    still = np.zeros(1)
    forward = rotations(still, still, still) @ rays(still + 90)
    plane = (np.array([0, 0, 2.0]), np.array([1.0, 0, 0]), np.array([0, -1.0, 0]))
    there = plane_homographies(*plane, np.zeros((1, 3)), forward)[0]
    a, b, near = there @ (0.5, 0, 1)  # right edge of the plane: 1 / 2
    assert (a / near, b, near) == pytest.approx((1, 0, 0.5))
    turned = rotations(still + 45, still, still)[0] @ (0, 0, 1)
    assert turned[0] == pytest.approx(np.sqrt(0.5))  # yaw is to the right
    assert (rotations(still, still + 30, still)[0] @ (0, 0, 1))[1] == pytest.approx(0.5)  # pitch is up
    assert (rotations(still, still, still + 30)[0] @ (0, 1, 0))[0] == pytest.approx(0.5)  # roll: the top to the right
    window = window_of(there[None], SIZE)
    assert window is not None
    edges = (window.rows.start, window.rows.stop, window.columns.start, window.columns.stop)
    assert edges == pytest.approx((20, 100, 40, 120), abs=1)
    assert window_of(plane_homographies(*plane, np.array([[0, 0, 3.0]]), forward), SIZE) is None  # it is behind


def test_parallax_is_what_turning_and_zooming_cannot_show() -> None:
    width = 2 * np.tan(np.radians(60) / 2)
    room = np.full((12, 16), 0.5)  # a wall at distance 2
    room[8:] = 1.0  # and before it, in a third of the picture, something at distance 1
    aside = np.array([0.2 * width, 0, 0])
    assert parallax(room, aside, 60) == pytest.approx((0.2 - 0.1, 0.1))
    assert parallax(room, -aside[[1, 0, 2]], 60) == pytest.approx((0.2 - 0.1, 0.1))
    bottom = np.abs(whole((12, 16)).points().numpy()[:2].reshape(2, 12, 16)[:, 8:])  # halves of a width from the middle
    grown = np.hypot(*bottom) / 2 * (1 / (1 - 0.2) - 1 / (1 - 0.1))  # more than the wall does
    assert grown.min() < parallax(room, np.array([0, 0, 0.2]), 60)[0] < grown.max()
    assert parallax(np.full((12, 16), 0.5), aside, 60) == pytest.approx((0, 0.1))
    room[8:] = 0.5
    room[11] = 1.0  # a twelfth is too little to be seen
    assert parallax(room, aside, 60) == pytest.approx((0, 0.1))


def test_only_moves_must_show_parallax() -> None:
    wall = np.ones((12, 16))
    for label in CLASSES:
        path = draw_path(label, np.random.default_rng(0))
        moves = label.startswith(("truck", "pedestal", "push", "pull"))
        seen = visible_parallax(wall, path)
        assert (seen is not None) == moves, label
        assert is_hidden(seen) == moves, label
    assert not is_hidden(Parallax(width=0.02, share=0.2))
    assert is_hidden(Parallax(width=0.019, share=0.9))  # slow: little of the width
    assert is_hidden(Parallax(width=0.1, share=0.19))  # fast: little of what there is to see


@pytest.mark.parametrize("label", CLASSES)
def test_a_move_is_as_large_as_its_size_where_the_median_distance_is_one(label: str) -> None:
    moments = np.linspace(0, 1, 49)
    for seed in range(5):
        path = draw_path(label, np.random.default_rng(seed))
        poses = path.poses(moments)
        travelled = poses[:, Z] - poses[0, Z]
        wall = np.ones((49, 6, 8)) / (1 - travelled)[:, None, None]  # at distance 1 when it starts
        seen = size_in_picture(wall, poses, path)
        assert (seen is None) == (not path.motion[:3].any())
        if seen is None:
            assert is_as_large(seen, path)
            continue
        assert seen == pytest.approx(path.size, rel=0.06)
        wall[:, :2] = 5.0  # a third that is near does not count, nor do moves look larger
        assert size_in_picture(wall, poses, path) == pytest.approx(seen)
        assert is_as_large(seen, path)
        assert not is_as_large(size_in_picture(wall / 1.3, poses, path), path)
        assert not is_as_large(size_in_picture(wall * 1.3, poses, path), path)


@pytest.mark.parametrize("label", ["pan_left", "truck_right", "tilt_up", "pull_out", "roll_left"])
def test_there_is_something_wherever_the_camera_looks(label: str) -> None:
    """Two widths to the side are a turn of 150 degrees: a room has four walls."""
    pictures = [photos.load_photo(path) for path in photos.find_photos("train", None)[:2]]
    for seed in range(3):
        rng = np.random.default_rng(seed)
        path = draw_path(label, rng, largeness=1.0)
        views, near = photos.film(photos.build_scene(pictures, path, rng), path, np.linspace(0, 1, 7), (30, 40))
        assert (near > 0).float().mean() > 0.999
        assert (views.sum(1) > 0).float().mean() > 0.95


def test_what_passes_crosses_the_view_wherever_the_camera_turns() -> None:
    texture = torch.full((3, 90, 90), 200.0)
    for label in ("static", "pan_left", "truck_right"):
        for seed in range(5):
            rng = np.random.default_rng(seed)
            path = draw_path(label, rng, largeness=0.5)
            moments = np.linspace(0, 1, 33)
            passer = photos._passer(texture, path.poses(moments).mean(0), np.tan(np.radians(path.fov) / 2), rng)
            _, near = photos.film([passer], path, moments, (30, 40))
            columns = [(frame > 0).any(0).nonzero().float().mean() for frame in near if (frame > 0).any()]
            steps = torch.stack(columns).diff()
            assert len(columns) > 3
            assert (steps.sign() == steps[steps != 0][0].sign()).float().mean() > 0.7  # one way, at whatever speed


def test_drawn_pictures_are_like_photographs() -> None:
    """The power of their spectrum falls by about the square of the frequency, as that of photographs does."""
    for seed in range(3):
        drawn = draw_leaves(np.random.default_rng(seed))
        assert drawn.shape == (*LEAVES_SIZE, 3)
        assert drawn.dtype == np.uint8
        assert (drawn == draw_leaves(np.random.default_rng(seed))).all()
        grey = drawn.mean(2)[:512, :512]
        window = np.hanning(512)[:, None] * np.hanning(512)
        power = np.abs(np.fft.rfft2((grey - grey.mean()) * window)) ** 2
        frequency = np.hypot(np.fft.fftfreq(512)[:, None], np.fft.rfftfreq(512)) * 512
        octaves = [np.log2(power[(frequency >= f) & (frequency < 2 * f)].mean()) for f in (4, 8, 16, 32, 64)]
        slope = np.polyfit(np.arange(5), octaves, 1)[0]
        assert -3.2 < slope < -1.2, (seed, octaves)


def test_held_frames_are_shown_in_order() -> None:
    found = [tuple(held(24, np.random.default_rng(seed))) for seed in range(200)]
    assert {len(set(frames)) for frames in found} == {24, 12, 8}
    assert all(list(frames) == sorted(frames) and frames[0] == 0 for frames in found)
    assert sum(len(set(frames)) == 24 for frames in found) > 140


def test_shrink_is_the_mean_of_squares() -> None:
    values = torch.rand(3, 13, 17)
    expected = torch.nn.functional.avg_pool2d(values, 4)
    torch.testing.assert_close(shrink(values, 4), expected)
    assert shrink(values, 1) is values


def test_what_shows_nothing_is_seen_to_show_nothing() -> None:
    spots = torch.rand(1, 3, 15, 20, generator=torch.Generator().manual_seed(0)) * 255
    texture = torch.nn.functional.interpolate(spots, size=SIZE, mode="bilinear")
    still = texture.expand(4, -1, -1, -1)
    moving = torch.stack([texture[0].roll(9 * i, -1) for i in range(4)])
    assert shows_something(moving, moves=True)
    assert shows_something(still, moves=False)
    assert not shows_something(still, moves=True)
    assert not shows_something(moving * 0.02, moves=True)  # too dark
    assert not shows_something(moving * 0.02 + 120, moves=True)  # a bare wall
    corner = still.clone()
    corner[1:, :, :20, :20] = 255
    assert not shows_something(corner, moves=True)


# -------------------------------------------------------------------------------------------------------------- splits


def test_no_world_is_in_two_splits() -> None:
    levels = [level for split in doom.LEVELS.values() for level in split]
    assert len(levels) == len(set(levels)) == 68
    assert {split: len(levels) for split, levels in doom.LEVELS.items()} == {"train": 51, "val": 9, "test": 8}
    names = [name for split in photos.PHOTOS.values() for name in split]
    assert len(names) == len(set(names))
    assert all(path.is_file() for split in photos.PHOTOS for path in photos.find_photos(split, None))


def test_a_photograph_keeps_its_split_when_others_come(tmp_path: Path) -> None:
    def splits() -> dict[str, str]:
        own = {split: set(photos.find_photos(split, None)) for split in photos.PHOTOS}
        return {p.name: s for s in own for p in set(photos.find_photos(s, tmp_path)) - own[s]}

    for i in range(0, 60, 2):
        (tmp_path / f"{i}.png").touch()
    before = splits()
    for i in range(1, 60, 2):
        (tmp_path / f"{i}.png").touch()
    assert len(before) == 30
    assert before.items() <= splits().items()
    assert set(splits().values()) == {"train", "val", "test"}


def test_a_plan_is_balanced_and_takes_turns() -> None:
    chunks = list(plan(Request(90, 20, 5, 0, ("doom", "photos"), None)))
    assert [(c.split, c.world, len(c.labels)) for c in chunks] == [
        ("train", "doom", 20),
        ("train", "photos", 20),
        ("train", "doom", 20),
        ("train", "photos", 20),
        ("train", "doom", 10),
        ("val", "doom", 20),
        ("test", "doom", 5),
    ]
    assert all(len(set(c.labels)) == len(c.labels) for c in chunks)
