"""A video as pictures: the frames that there are, in order, and those that cannot be decoded, by their numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import odd_media
from tests.tiny import refused
from uniformer.reading.moments import count_of, moments_of
from uniformer.reading.video import open_video


@pytest.mark.parametrize("every", [1, 7, 60, 500])
def test_every_frame_or_every_so_many(every: int, tmp_path: Path) -> None:
    with open_video(odd_media.h264(tmp_path)) as reader:
        found = []
        for number, time, picture in moments_of(reader, every):
            assert picture is not None
            assert odd_media.number_in(picture()) == number
            assert time == pytest.approx(number / 25)
            found.append(number)
        assert found == list(range(0, 60, every))
        assert len(found) == count_of(reader, every)


def test_lost_frames_are_told(tmp_path: Path) -> None:
    with open_video(odd_media.broken_middle(tmp_path)) as reader:
        moments = [(number, picture is not None) for number, _, picture in moments_of(reader)]
        readable = [number for number, _ in reader.all_pictures()]
    assert [number for number, _ in moments] == list(range(reader.info.num_frames))
    assert [number for number, is_there in moments if is_there] == readable
    assert 0 < len(readable) < len(moments)


def test_a_film_without_a_frame_is_refused(tmp_path: Path) -> None:
    with refused("expected a video"), open_video(odd_media.header_only(tmp_path)) as reader:
        list(moments_of(reader))
