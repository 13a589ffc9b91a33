"""Times follow the frames in the order shown: clocks that step back, jump, repeat or hold, mended and noted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests import odd_media
from tests.tiny import CLIPS, save_tiny
from uniformer import Predictor, timeline
from uniformer.reading.clock import clock_of
from uniformer.reading.video import open_video
from uniformer.reading.views import load_views

FRAMES = 50
EVEN = [40 * i for i in range(FRAMES)]

Film = Callable[..., Path]


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Film:
    """A maker of films of 50 numbered frames, without B-frames, with the times asked for."""
    folder = tmp_path_factory.mktemp("films")
    sources: dict[int, Path] = {}

    def make(name: str, stamps: list[int], last: int = 40, first: int = 0) -> Path:
        if first not in sources:
            sources[first] = odd_media.encode(
                folder / f"source_{first}.mp4",
                frames=FRAMES,
                options={"g": "12", "bf": "0"},
                number=lambda i: first + i,
            )
        form = "mpegts" if name.endswith(".ts") else None
        return odd_media.restamped(sources[first], folder / name, stamps, last, form)

    return make


def numbers(path: Path) -> list[int]:
    with open_video(path) as reader:
        return [odd_media.number_in(picture) for picture in reader.read(range(reader.info.num_frames))]


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [0, 36_000_000], ids=["from 0", "the second part hours before the first"])
def test_recordings_put_one_behind_the_other(start: int, film: Film, tmp_path: Path) -> None:
    first, second = film("a.ts", [start + t for t in EVEN]), film("b.ts", [13 + t for t in EVEN], first=FRAMES)
    path = tmp_path / "both.ts"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    assert numbers(path) == list(range(2 * FRAMES))
    with open_video(path) as reader:
        assert (reader.info.fps, reader.info.duration) == (pytest.approx(25), pytest.approx(4))
        np.testing.assert_allclose(reader.times(range(100)), 0.04 * np.arange(100), atol=1e-4)
        assert len(reader.notes) == 1
        assert "1 time missing, doubled or not in the order of the frames: mended" in reader.notes[0]
    predictor = Predictor(save_tiny(tmp_path / "net.safetensors", CLIPS))
    result = timeline(path, predictor)
    assert result.duration == pytest.approx(4)
    assert result.rows[-1].end <= result.duration
    assert any("mended" in note for note in result.notes)
    assert any("mended" in note for note in load_views(path, CLIPS).notes)


def with_one(place: int, stamp: int) -> list[int]:
    return [*EVEN[:place], stamp, *EVEN[place + 1 :]]


BAD_STAMPS = {
    "an hour ahead": with_one(20, 3_600_000),
    "five seconds ahead": with_one(20, 5_000),
    "behind": with_one(20, 300),
    "that of the frame before": with_one(20, EVEN[19]),
    "that of the frame after": with_one(20, EVEN[21]),
}


def flv_with_times(source: Path, path: Path, stamps: list[int]) -> Path:
    """A film in FLV with these times, which no muxer would write: 24 bits of milliseconds, and 8 more above them."""
    data, place, left = bytearray(source.read_bytes()), 13, list(stamps)
    while place < len(data):
        size = int.from_bytes(data[place + 1 : place + 4], "big")
        if data[place] == 9 and data[place + 12] == 1:  # video, and no header
            time = left.pop(0)
            data[place + 4 : place + 8] = (time & 0xFFFFFF).to_bytes(3, "big") + bytes([time >> 24])
        place += size + 15
    assert not left
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("case", BAD_STAMPS)
def test_one_bad_stamp_costs_one_frame_its_time(case: str, film: Film, tmp_path: Path) -> None:
    path = flv_with_times(film("even.flv", EVEN), tmp_path / "bad.flv", BAD_STAMPS[case])
    assert numbers(path) == list(range(FRAMES))
    with open_video(path) as reader:
        np.testing.assert_allclose(reader.times(range(FRAMES)), 0.04 * np.arange(FRAMES), atol=0.0401 * one_off(case))
        others = [i for i in range(FRAMES) if i not in (20, 21)]
        np.testing.assert_allclose(reader.times(others), 0.04 * np.array(others), atol=1e-9)
        assert (np.diff(reader.times(range(FRAMES))) > 0).all()
        assert (reader.info.fps, reader.info.duration) == (pytest.approx(25), pytest.approx(2))
        assert reader.notes


def one_off(case: str) -> bool:
    """Whether the time of a frame is another's, so that nothing tells which of the two has its own."""
    return "that of" in case


def test_a_doubled_time_in_a_file_that_is_sought_in(film: Film) -> None:
    path = film("doubled.mkv", BAD_STAMPS["that of the frame before"])
    assert numbers(path) == list(range(FRAMES))
    with open_video(path) as reader:
        np.testing.assert_allclose(reader.times(range(FRAMES)), 0.04 * np.arange(FRAMES), atol=1e-9)
        assert [odd_media.number_in(picture) for picture in reader.read([40, 3])] == [40, 3]
        assert reader.notes


def test_a_bad_stamp_among_b_frames_leaves_the_frames_in_their_order(tmp_path: Path) -> None:
    path = odd_media.encode(tmp_path / "b.mp4", options={"bf": "2"}, container_options={"use_editlist": "0"})
    data = bytearray(path.read_bytes())
    entry = data.index(b"ctts") + 12 + 8 * 20  # how much later than decoded the frames of the 21st run are shown
    data[entry + 4 : entry + 8] = (3600 * 12_800).to_bytes(4, "big")
    path.write_bytes(data)
    assert numbers(path) == list(range(60))
    with open_video(path) as reader:
        assert np.abs(reader.times(range(60)) - 0.04 * np.arange(60)).max() < 1e-6
        assert reader.notes


@pytest.mark.parametrize("name", ["held.mp4", "held.mkv"])
def test_a_last_frame_that_is_held(name: str, film: Film) -> None:
    with open_video(film(name, EVEN, last=8000)) as reader:
        assert reader.info.fps == pytest.approx(25)
        assert reader.info.duration == pytest.approx(1.96 + 8)
        assert not reader.notes


@pytest.mark.parametrize("name", ["jump.ts", "jump.flv"])
def test_an_hour_s_jump_of_the_clock(name: str, film: Film) -> None:
    with open_video(film(name, [t + 3_600_000 * (t >= 1000) for t in EVEN])) as reader:
        assert reader.info.duration == pytest.approx(2)
        np.testing.assert_allclose(reader.times(range(FRAMES)), 0.04 * np.arange(FRAMES), atol=1e-4)
        assert reader.notes


def test_a_frame_that_the_file_says_is_shown_for_an_hour(film: Film) -> None:
    path = film("long.mp4", [t + 3_600_000 * (t >= 1000) for t in EVEN])
    with open_video(path) as reader:
        assert reader.info.duration == pytest.approx(3602, rel=0.05)
        assert reader.times([24, 25]).tolist() == [0.96, 3601.0]
        assert not reader.notes


# ---- the rule --------------------------------------------------------------------------------------------------------

HOUR = 3_600_000
CLOCKS: dict[str, tuple[list[int | None], list[float] | None, int]] = {
    "even": ([0, 40, 80, 120], [0, 40, 80, 120], 0),
    "uneven": ([0, 40, 500, 8500], [0, 40, 500, 8500], 0),
    "doubled": ([0, 40, 40, 120], [0, 40, 80, 120], 1),
    "doubled with the next": ([0, 40, 80, 80, 160], [0, 40, 80, 120, 160], 1),
    "one too late": ([0, 40, 5000, 120, 160], [0, 40, 80, 120, 160], 1),
    "one hours too late": ([0, 40, 9 * HOUR, 120, 160], [0, 40, 80, 120, 160], 1),
    "one too early": ([500, 540, 0, 620, 660], [500, 540, 580, 620, 660], 1),
    "set back": ([0, 40, 80, 7, 47, 87], [0, 40, 80, 120, 160, 200], 1),
    "set ahead": ([0, 40, 80, HOUR, HOUR + 40], [0, 40, 80, 120, 160], 1),
    "set twice": ([HOUR, HOUR + 40, HOUR + 80, 0, 40, 80, 0, 40], [HOUR + 40 * i for i in range(8)], 2),
    "one missing": ([0, None, 80, 120], [0, 40, 80, 120], 1),
    "the first and the last missing": ([None, 40, 80, 120, None], [0, 40, 80, 120, 160], 2),
    "the last doubled": ([0, 40, 80, 80], [0, 40, 80, 120], 1),
    "one frame": ([7], [7], 0),
    "none": ([None, None, None], None, 0),
    "all one": ([5, 5, 5, 5], None, 0),
    "mostly missing": ([0, None, None, None, 40], None, 0),
    "the last one in a thousand years": ([0, 40, 80, 10**16], [0, 40, 80, 120], 1),
    "the last of three": ([0, 40, 10**16], [0, 40, 80], 1),
    "a frame a quarter of an hour": ([0, 900_000, 1_800_000], [0, 900_000, 1_800_000], 0),
}


@pytest.mark.parametrize("case", CLOCKS)
def test_clocks(case: str) -> None:
    stamps, ticks, mended = CLOCKS[case]
    clock = clock_of(stamps, [0] * len(stamps), 1000.0, None)
    if ticks is None:
        assert clock is None
    else:
        assert clock is not None
        assert (clock.ticks.tolist(), clock.mended, clock.hold) == (pytest.approx(ticks), mended, None)
        assert clock.ticks.dtype == (np.float64 if mended else np.int64)


def test_how_long_a_frame_is_shown_is_believed_where_the_whole_is_as_long() -> None:
    stamps, holds = [0, 40, 80, HOUR], [40, 40, HOUR - 80, 8000]
    told, alone = clock_of(stamps, holds, 1000.0, HOUR + 8000), clock_of(stamps, holds, 1000.0, 120)
    assert told is not None
    assert alone is not None
    assert (told.ticks.tolist(), told.hold) == (stamps, None)  # eight seconds are less than the mean
    assert (alone.ticks.tolist(), alone.hold, alone.mended) == ([0, 40, 80, 120], 8000, 1)
    years = clock_of([0, 40, 80, 10**12], [40, 40, 10**12, 40], 1000.0, 2 * 10**12)
    assert years is not None
    assert years.ticks.tolist() == [0, 40, 80, 120]  # whatever the file says
