"""Cuts between shots: found to the frame, and not seen where there are none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, repeat

import numpy as np
import pytest

from tests.films import Pixels, pan, shake
from tests.odd_media import real_clips
from uniformer.reading.video import open_video
from uniformer.timelines.shots import AROUND, Look, look_at, with_cuts


def cuts(frames: Iterable[Pixels]) -> list[int]:
    """The first frames of all shots but the first one."""
    marked = list(with_cuts((number, look_at(frame)) for number, frame in enumerate(frames)))
    assert [number for number, _ in marked] == list(range(len(marked)))  # every frame once, in order
    assert not marked or marked[0][1]
    return [number for number, is_first in marked if is_first][1:]


@pytest.mark.parametrize("length", [1, 2, 5, 30])
def test_a_cut_is_found_to_the_frame(length: int) -> None:
    assert cuts(chain(pan(0, 20), pan(1, length), pan(2, 20))) == [20, 20 + length]


def test_shots_of_one_frame_at_either_end() -> None:
    assert cuts(chain(pan(3, 1), pan(1, 20), pan(0, 1))) == [1, 21]


@pytest.mark.parametrize("frames", [0, 1, 2])
def test_hardly_any_frames(frames: int) -> None:
    assert cuts(pan(0, frames)) == []


def test_a_cut_to_another_size_of_picture_is_one_too() -> None:
    assert cuts(chain(pan(0, 10), (frame[:48, :64] for frame in pan(1, 10)))) == [10]


@pytest.mark.parametrize("step", [1, 4, 10])  # the last is 8 % of the width in each frame
def test_a_pan_is_no_cut(step: float) -> None:
    assert [cuts(pan(number, 40, step)) for number in range(4)] == [[]] * 4


@pytest.mark.parametrize("pixels", [1, 5, 10])
def test_a_shaking_camera_is_no_cut(pixels: float) -> None:
    assert [cuts(shake(number, 40, pixels)) for number in range(4)] == [[]] * 4


@pytest.mark.parametrize("length", [1, 2])
def test_a_flash_is_no_cut(length: int) -> None:
    frames = np.stack(list(pan(2, 30)))
    frames[12 : 12 + length] = frames[12 : 12 + length] // 3 + 160
    assert cuts(frames) == []


def test_changing_light_is_no_cut() -> None:
    gain = 1 + 0.3 * np.sin(np.arange(60) / 2)
    assert cuts(np.clip(frame * g, 0, 255).astype(np.uint8) for frame, g in zip(pan(1, 60), gain, strict=True)) == []


def test_a_dissolve_is_not_found() -> None:
    """As documented: only hard cuts are."""
    shares = np.clip((np.arange(40) - 10) / 20, 0, 1)
    pairs = zip(pan(0, 40), pan(1, 40), shares, strict=True)
    assert cuts((a * (1 - share) + b * share).astype(np.uint8) for a, b, share in pairs) == []


@pytest.mark.parametrize(
    ("clip", "known"), [("bikes.mp4", [30, 76, 137, 187, 242]), ("bigbuckbunny.mp4", []), ("carphone_pristine.mp4", [])]
)
def test_real_clips(clip: str, known: list[int]) -> None:
    """Cuts counted by eye, frame by frame."""
    (path,) = [path for path in real_clips() if path.name == clip]
    with open_video(path) as reader:
        assert cuts(picture() for _, picture in reader.all_pictures()) == known


def test_no_more_frames_are_held_than_said() -> None:
    taken = 0

    def endless() -> Iterator[tuple[int, Look]]:
        nonlocal taken
        for look in repeat(look_at(next(pan(0, 1)))):
            yield taken, look
            taken += 1

    marked = with_cuts(endless())
    for expected in range(200):
        assert next(marked)[0] == expected
        assert taken - expected <= AROUND + 1
