"""Feeds: the frames of files, raw bytes, servers and cameras, as they come, and those that come back."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tests import odd_media
from tests.live_server import live
from tests.media_server import serve
from tests.tiny import refused
from uniformer.errors import InputError, MissingExtra
from uniformer.reading.feeds import (
    AddressFeed,
    Arrival,
    CameraFeed,
    Feed,
    FileFeed,
    LastingFeed,
    RawFeed,
    RawForm,
    SteadyClock,
    open_feed,
)
from uniformer.reading.video import open_video

SENT = 30  # frames of what servers send


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A transport stream, keyframes often, without reordered frames."""
    path = tmp_path_factory.mktemp("sent") / "live.ts"
    return odd_media.encode(path, frames=SENT, options={"g": "5", "bf": "0"}).read_bytes()


def numbers(feed: Feed, most: int = 10_000) -> list[int]:
    """Those drawn in the frames, and their times checked to rise."""
    found, last = [], -1.0
    for time, picture in feed.arrivals():
        assert time > last
        last = time
        found.append(odd_media.number_in(picture()))
        if len(found) == most:
            break
    return found


@pytest.mark.parametrize("make", [odd_media.h264, odd_media.variable_rate, odd_media.size_change, odd_media.rotated])
def test_a_file_gives_what_its_reader_gives(make: odd_media.Maker, tmp_path: Path) -> None:
    path = make(tmp_path)
    with open_video(path) as reader, open_feed(str(path)) as feed:
        count = reader.info.num_frames
        frames, times = reader.read(range(count)), reader.times(range(count))
        found = [(time, picture()) for time, picture in feed.arrivals()]
        assert (feed.fps, feed.size) == (reader.info.fps, (reader.info.height, reader.info.width))
    assert [time for time, _ in found] == pytest.approx(times)
    assert all(np.array_equal(one, other) for (_, one), other in zip(found, frames, strict=True))


def through_a_pipe(data: bytes, form: str = "8x4@10") -> Iterator[Arrival]:
    here, there = os.pipe()

    def write() -> None:
        with os.fdopen(there, "wb") as file:
            file.write(data)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield from RawFeed(here, RawForm.parse(form)).arrivals()
    finally:
        thread.join()
        os.close(here)


def test_raw_frames() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5000, 4, 8, 3), np.uint8)
    found = [(time, picture()) for time, picture in through_a_pipe(frames.tobytes())]
    assert [time for time, _ in found] == pytest.approx(np.arange(5000) / 10)
    assert np.array_equal(np.stack([frame for _, frame in found]), frames)
    with refused("expected raw frames of 96 bytes, the last one ends after 10"):
        list(through_a_pipe(bytes(106)))


@pytest.mark.parametrize("form", ["", "8x4", "8x4@", "0x4@10", "8x4@0", "-8x4@10", "8x4@1e3", "99999x99999@1"])
def test_a_form_that_is_none(form: str) -> None:
    with refused("expected"):
        RawForm.parse(form)


def test_raw_frames_end_where_that_is_asked() -> None:
    here, there = os.pipe()
    stop = threading.Event()
    stop.set()
    assert list(RawFeed(here, RawForm(8, 4, 10.0), stop).arrivals()) == []
    os.close(here)
    os.close(there)


# ---- servers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [odd_media.fragmented, odd_media.vp9])
def test_a_recording_on_a_server_is_the_file(make: odd_media.Maker, tmp_path: Path) -> None:
    path = make(tmp_path)
    with open_video(path) as reader, serve({path.name: path.read_bytes()}) as server:
        frames = reader.read(range(reader.info.num_frames))
        with open_feed(f"{server.url}/{path.name}") as feed:
            found = [picture() for _, picture in feed.arrivals()]
    assert len(found) == len(frames)
    assert all(np.array_equal(one, other) for one, other in zip(found, frames, strict=True))


@pytest.mark.parametrize("scheme", ["http", "rtsp"])
def test_what_a_server_sends_without_an_end(scheme: str, sent: bytes) -> None:
    with live(sent, scheme) as server, open_feed(server.url) as feed:
        assert not feed.has_end
        assert numbers(feed, SENT - 2) == list(range(SENT - 2))  # the last ones wait in the decoder for more


@pytest.mark.parametrize("scheme", ["http", "rtsp"])
def test_a_server_that_dies_and_returns(scheme: str, sent: bytes) -> None:
    said: list[str] = []
    with live(sent, scheme) as server:

        def told(line: str) -> None:
            said.append(line)
            if "lost" in line:
                server.start()

        url = server.url
        feed = LastingFeed(AddressFeed(url), lambda: AddressFeed(url), patience=600, say=told)
        times: list[float] = []
        with feed:
            for time, picture in feed.arrivals():
                times.append(time)
                picture()
                if len(times) == 10:
                    server.die()
                if len(said) == 2:
                    break
        assert server.clients == 2
    assert [line.split(": ")[1].split()[0] for line in said] == ["lost", "back"]
    assert len(times) > 10
    assert all(before < after for before, after in pairwise(times))


def test_a_server_that_stays_away_is_given_up(sent: bytes) -> None:
    said: list[str] = []
    with live(sent, hangs_up=True) as server:
        url = server.url
        feed = LastingFeed(AddressFeed(url), lambda: AddressFeed(url), patience=1e-3, say=said.append)
        with feed, refused("given up after 0.001 s without a frame"):
            numbers(feed)
        with LastingFeed(AddressFeed(url), lambda: AddressFeed(url), patience=0, say=said.append) as feed:
            found: list[int] = []
            with refused("the server broke off"):  # nothing is tried again
                found += (odd_media.number_in(picture()) for _, picture in feed.arrivals())
            assert found == list(range(SENT))
    assert len(said) == 1


def test_addresses_that_lead_nowhere(tmp_path: Path) -> None:
    with refused("expected an address of http, https, rtsp, rtsps"):
        open_feed("ftp://127.0.0.1/film.mp4")
    playlist = odd_media.playlist(tmp_path).read_bytes()
    with serve({"list.m3u8": playlist, "text": b"nothing of the kind" * 99}) as server:
        for name in ("list.m3u8", "text", "gone", "to_file", "to_ftp", "page"):
            with refused("expected a video, found an address that does not open as one"):
                open_feed(f"{server.url}/{name}")
    with refused("Connection refused"):
        open_feed(server.url)


def test_a_clock_goes_on_whatever_a_server_says() -> None:
    clock = SteadyClock(0.04)
    stamps = [50.0, 50.04, 50.08, None, 50.16, 3.0, 3.04, 1e6, None, 1e6 + 0.08]
    times = [clock(stamp) for stamp in stamps]
    assert times == pytest.approx([0, 0.04, 0.08, 0.12, 0.16, 0.2, 0.24, 0.28, 0.32, 0.36])


# ---- cameras ---------------------------------------------------------------------------------------------------------


def test_frames_through_opencv(tmp_path: Path) -> None:
    """No camera is at hand where tests run: a file goes the same way."""
    path = odd_media.h264(tmp_path)
    with open_video(path) as reader, CameraFeed(str(path)) as feed:
        frames = reader.read(range(reader.info.num_frames))
        assert (feed.fps, feed.has_end) == (25.0, False)
        found = [(time, picture()) for time, picture in feed.arrivals()]
    assert len(found) == len(frames)
    assert all(before[0] < after[0] for before, after in pairwise(found))
    for (_, one), other in zip(found, frames, strict=True):
        assert np.abs(one.astype(int) - other).max() <= 2  # another conversion of colours


def test_a_camera_that_is_not_there_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    with refused("camera 97: expected a camera"):
        open_feed("97")
    assert capfd.readouterr() == ("", "")


def test_a_camera_without_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(MissingExtra, match=r"uniformer\[camera\]"):
        open_feed("0")


def test_what_is_no_feed(tmp_path: Path) -> None:
    with refused("no such file"):
        FileFeed(str(tmp_path / "none.mp4"))
    with refused("expected the form of the raw frames"):
        open_feed("-")
    (tmp_path / "frames").mkdir()
    from PIL import Image

    Image.fromarray(odd_media.picture(1)).save(tmp_path / "frames" / "1.png")
    with pytest.raises(InputError, match="expected a video with a clock"):
        FileFeed(str(tmp_path / "frames"))
