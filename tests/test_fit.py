"""How far a camera goes, by the classical fit: a photograph moved digitally, whose amounts are known exactly."""

from __future__ import annotations

import sys
from importlib.resources import as_file, files

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from uniformer.errors import MissingExtra
from uniformer.timelines.fit import Amounts, Tracker, measure, total

FRAMES, RATE = 25, 12.0  # two seconds
WIDTH, HEIGHT = 192, 128
TIMES = np.arange(FRAMES) / RATE


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    with as_file(files("uniformer.assets").joinpath("photos")) as folder:
        largest = max(folder.glob("*.jpg"), key=lambda path: path.stat().st_size)
        return Image.open(largest).convert("RGB").resize((900, 600), Image.Resampling.LANCZOS)


def moved(
    photo: Image.Image, x: float = 0, y: float = 0, growth: float = 0, roll: float = 0
) -> list[npt.NDArray[np.uint8]]:
    """What a window over the photograph shows while it goes by so much: widths to the right, heights up, doublings,
    degrees clockwise."""
    frames = []
    for share in np.linspace(-0.5, 0.5, FRAMES):
        scale = 2 ** (-growth * share)
        angle = np.radians(roll * share)
        cos, sin = scale * np.cos(angle), scale * np.sin(angle)
        cx, cy = photo.width / 2 + share * x * WIDTH, photo.height / 2 - share * y * HEIGHT
        matrix = (
            cos, -sin, cx - cos * WIDTH / 2 + sin * HEIGHT / 2,
            sin, cos, cy - sin * WIDTH / 2 - cos * HEIGHT / 2,
        )  # fmt: skip
        frames.append(np.asarray(photo.transform((WIDTH, HEIGHT), Image.Transform.AFFINE, matrix, Image.BICUBIC)))
    return frames


def amounts_of(frames: list[npt.NDArray[np.uint8]]) -> Amounts:
    found = total(measure(frames, TIMES))
    assert found is not None
    return found


@pytest.mark.parametrize(
    "truth",
    [
        {"x": 0.1},
        {"x": -1.5},
        {"y": 0.1},
        {"y": -1.5},
        {"growth": 0.2},
        {"growth": -1.0},
        {"roll": 25.0},
        {"roll": -5.0},
        {"x": 0.4, "y": 0.2, "growth": 0.3, "roll": -10.0},
    ],
)
def test_a_made_move_is_measured_to_a_few_per_cent(photo: Image.Image, truth: dict[str, float]) -> None:
    found = amounts_of(moved(photo, **truth))
    for name, near in {"x": 0.01, "y": 0.01, "growth": 0.01, "roll": 0.3}.items():
        true = truth.get(name, 0.0)
        assert getattr(found, name) == pytest.approx(true, rel=0.03, abs=near), name
    assert found.seconds == pytest.approx(TIMES[-1])
    assert found.inliers > 0.8
    assert found.parallax < 0.2


def test_what_stands_still_has_no_amounts(photo: Image.Image) -> None:
    """But for the noise of a sensor."""
    rng = np.random.default_rng(0)
    still = [np.clip(f + rng.normal(0, 3, f.shape), 0, 255).astype(np.uint8) for f in moved(photo)]
    found = amounts_of(still)
    assert max(abs(found.x), abs(found.y), abs(found.growth)) < 0.01
    assert abs(found.roll) < 0.5


def test_something_that_crosses_does_not_move_the_camera(photo: Image.Image) -> None:
    """Something that goes through a third of the picture while the camera turns right."""
    frames = moved(photo, x=0.3)
    other = moved(photo.transpose(Image.Transpose.ROTATE_180), x=1.0)
    for place, (frame, thing) in enumerate(zip(frames, other, strict=True)):
        left = round((WIDTH - 70) * (1 - place / (FRAMES - 1)))
        mixed = frame.copy()
        mixed[20:110, left : left + 70] = thing[20:110, left : left + 70]
        frames[place] = mixed
    found = amounts_of(frames)
    assert found.x == pytest.approx(0.3, rel=0.1)
    assert found.parallax > 0.15


def test_amounts_of_a_part_and_of_a_second(photo: Image.Image) -> None:
    steps = measure(moved(photo, x=0.6), TIMES)
    half = total(steps, 0.5, 1.5)
    assert half is not None
    assert half.x == pytest.approx(0.3, rel=0.03)
    assert half.seconds == pytest.approx(1.0)
    inside = total(steps, 0.51, 0.55)  # less than a step
    assert inside is not None
    assert inside.per_second().x == pytest.approx(0.3, rel=0.1)
    assert inside.per_second().parallax == inside.parallax
    assert total(np.array(steps), 0.5, 1.5) == half
    assert total(steps, 3, 4) is None


def test_frames_that_come_too_fast_are_passed_over(photo: Image.Image) -> None:
    frames = moved(photo, x=0.5)
    fast = [frame for frame in frames for _ in range(5)]  # 60 a second
    steps = measure(fast, np.arange(len(fast)) / (5 * RATE))
    assert len(steps) == FRAMES - 1
    found = total(steps)
    assert found is not None
    assert found.x == pytest.approx(0.5, rel=0.03)


def test_nothing_to_follow_is_no_step() -> None:
    """Black frames, and a size that changes, are not measured rather than guessed."""
    tracker = Tracker()
    assert tracker.add(np.zeros((60, 80, 3), np.uint8), 0.0) is None
    assert tracker.add(np.zeros((60, 80, 3), np.uint8), 0.1) is None
    assert tracker.add(np.zeros((50, 80, 3), np.uint8), 0.2) is None
    assert tracker.add(np.zeros((1, 1, 3), np.uint8), 0.3) is None
    assert total([]) is None


def test_there_and_back_is_no_way(photo: Image.Image) -> None:
    frames = moved(photo, x=-0.4)
    there = frames[FRAMES // 2 :]  # from the middle to the left
    found = total(measure([*there, *there[-2::-1]], np.arange(2 * len(there) - 1) / RATE))
    assert found is not None
    assert found.x == pytest.approx(0, abs=0.01)
    assert found.x_and_back == pytest.approx(-0.2, rel=0.05)
    assert found.growth_and_back == pytest.approx(0, abs=0.01)


def test_shaking_is_told_from_going(photo: Image.Image) -> None:
    rng = np.random.default_rng(0)
    smooth = moved(photo, x=0.5)
    steps = measure(smooth, TIMES)
    order = rng.permutation(FRAMES)
    shaken = measure([smooth[i] for i in order], TIMES)
    calm, wild = total(steps), total(shaken)
    assert calm is not None
    assert wild is not None
    assert wild.shake > 0.1 > 10 * calm.shake


def test_without_opencv_one_line_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingExtra, match=r"uniformer\[motion\]"):
        Tracker()
