"""Frames as they come: of a file, an address, a camera, or raw on standard input. Each with its time, in order.

A feed is read once, from now on; `video.open_video` is for files whose frames are asked for by number.
"""

from __future__ import annotations

import os
import re
import select
import time as clocks
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from threading import Event
from typing import Any, NamedTuple

import numpy as np
from av.error import FFmpegError
from av.packet import Packet

from uniformer.config import MOST_PIXELS
from uniformer.errors import InputError, MissingExtra, shown
from uniformer.reading.clock import LONG
from uniformer.reading.container import SERVERS, frames_of, open_address
from uniformer.reading.conversion import Conversion
from uniformer.reading.frames import Picture
from uniformer.reading.limits import Work, check_pixels
from uniformer.reading.sources import TIMEOUT, is_url
from uniformer.reading.views import open_clip
from uniformer.support.closing import Closing

LOOK = 0.2  # seconds between two looks at whether to stop
WAITS = (0.2, 5.0)  # seconds until a lost feed is tried again: at first, and at most, doubled in between


class Arrival(NamedTuple):
    """A frame that has come."""

    time: float  #: seconds since the feed's first frame, rising
    picture: Picture  #: gives its pixels (H, W, 3), until the next one is asked for


class Feed(Closing, ABC):
    """Frames of one source as they come. A context manager."""

    name: str
    fps: float | None = None  #: frames a second, where the source says so
    size: tuple[int, int] | None = None  #: height and width of its first frame, where they are known before it comes
    has_end: bool = True  #: a recording: its times say when a frame is shown, and what ends is over

    @abstractmethod
    def arrivals(self) -> Iterator[Arrival]:
        """Its frames. Ends with the source. Raises `InputError` where it breaks off."""


class RawForm(NamedTuple):
    """What raw frames are: rgb24, one after the other, without anything between."""

    width: int
    height: int
    fps: float

    @classmethod
    def parse(cls, text: str) -> RawForm:
        """'640x480@25'. Raises `InputError`."""
        found = re.fullmatch(r"(\d{1,5})x(\d{1,5})@(\d{1,4}(?:\.\d{1,6})?)", text)
        if found is None or not (int(found[1]) and int(found[2]) and float(found[3])):
            raise InputError(f"expected the form of raw frames, such as 640x480@25, got {shown(text)}")
        check_pixels("raw frames", int(found[1]), int(found[2]), MOST_PIXELS[0])
        return cls(int(found[1]), int(found[2]), float(found[3]))


def open_feed(source: str, *, raw: RawForm | None = None, stop: Event | None = None) -> Feed:
    """The feed of a source: a file, an http(s) or rtsp address, the number of a camera, or `-` for raw frames.

    `stop` ends a feed that waits for its next frame. Raises `InputError` where there is nothing of the kind to be read,
    `MissingExtra` for a camera without OpenCV.
    """
    if source == "-":
        if raw is None:
            raise InputError("expected the form of the raw frames on standard input, such as --raw 640x480@25")
        return RawFeed(0, raw, stop)
    if re.fullmatch(r"[0-9]{1,3}", source):
        return CameraFeed(int(source))
    if is_url(source):
        return AddressFeed(source)
    return FileFeed(source)


class FileFeed(Feed):
    """A video file, as `open_video` reads it."""

    def __init__(self, path: str):
        self.name = path
        self._reader = open_clip(path)
        self.fps, info = self._reader.info.fps, self._reader.info
        self.size = info.height, info.width
        if self.fps is None:
            self.close()
            raise InputError(f"{path}: expected a video with a clock for a stream, found image files")

    def arrivals(self) -> Iterator[Arrival]:
        times = self._reader.times(range(self._reader.info.num_frames)).tolist()
        for number, picture in self._reader.all_pictures():
            yield Arrival(times[number], picture)

    def close(self) -> None:
        self._reader.close()


class RawFeed(Feed):
    """Frames of rgb24 from a pipe or a file, by its descriptor; `fps` of them a second."""

    has_end = False  # they come as they come

    def __init__(self, descriptor: int, form: RawForm, stop: Event | None = None):
        self.name, self.fps, self.size = "-", form.fps, (form.height, form.width)
        self._file, self._stop = descriptor, stop or Event()

    def arrivals(self) -> Iterator[Arrival]:
        assert self.size is not None
        assert self.fps is not None
        height, width = self.size
        number = 0
        while frame := self._read(height * width * 3):
            pixels = np.frombuffer(frame, np.uint8).reshape(height, width, 3)
            yield Arrival(number / self.fps, partial(np.asarray, pixels))
            number += 1

    def _read(self, size: int) -> bytearray | None:
        """So many bytes; None at the end. Raises `InputError` where that cuts a frame."""
        data = bytearray()
        while len(data) < size:
            while not select.select([self._file], [], [], LOOK)[0]:
                if self._stop.is_set():
                    return None
            part = os.read(self._file, min(size - len(data), 1 << 20))
            if not part:
                if data:
                    raise InputError(f"-: expected raw frames of {size} bytes, the last one ends after {len(data)}")
                return None
            data += part
        return data


class AddressFeed(Feed):
    """What a server sends (http, https, rtsp), decoded as it comes. A recording, where the server says how long it is;
    anything else goes on for ever."""

    def __init__(self, url: str, timeout: float = TIMEOUT):
        if url.partition("://")[0].lower() not in SERVERS:
            raise InputError(f"{url}: expected an address of {', '.join(SERVERS)}")
        self.name = url
        self._container, self._stream = open_address(url, timeout)
        self._work = Work(url, 1 << 60)  # what never ends is held to no sum: it is dropped where it comes too fast
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.fps = float(rate) if rate else None
        self.has_end = bool(self._container.duration and self._container.duration > 0)

    def arrivals(self) -> Iterator[Arrival]:
        clock, base = SteadyClock(1 / (self.fps or 30)), self._stream.time_base
        convert: Conversion | None = None
        broken: list[FFmpegError] = []
        for frame in frames_of(self._stream, self._packets(broken), self._work):
            if convert is None:
                check_pixels(self.name, frame.width, frame.height)
                convert = Conversion(self.name, frame, 1)
            stamp = None if frame.pts is None or base is None else float(frame.pts * base)
            yield Arrival(clock(stamp), partial(convert, frame))
        for error in broken:
            raise InputError(f"{self.name}: the server broke off: {error.strerror}")

    def _packets(self, broken: list[FFmpegError]) -> Iterator[Packet]:
        """Until the server ends or breaks off, so that what came before is still decoded."""
        try:
            yield from (packet for packet in self._container.demux(self._stream) if packet.size)
        except FFmpegError as error:
            broken.append(error)

    def close(self) -> None:
        self._container.close()


class CameraFeed(Feed):
    """A camera by its number, or whatever else OpenCV opens, frames at the time at which they come."""

    has_end = False

    def __init__(self, device: int | str):
        try:
            import cv2
        except ModuleNotFoundError:
            raise MissingExtra("opencv-python-headless", "camera", "reading a camera") from None
        self.name = str(device)
        logging = cv2.utils.logging  # OpenCV says on standard error what it tries
        level = logging.setLogLevel(logging.LOG_LEVEL_SILENT)
        try:
            self._capture: Any = cv2.VideoCapture(device)
        finally:
            logging.setLogLevel(level)
        if not self._capture.isOpened():
            self._capture.release()
            raise InputError(f"camera {device}: expected a camera, OpenCV cannot open it")
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the newest frame, where the camera allows it
        fps = float(self._capture.get(cv2.CAP_PROP_FPS))
        self.fps = fps if 0 < fps <= 1000 else None

    def arrivals(self) -> Iterator[Arrival]:
        begin: float | None = None
        while True:
            is_there, image = self._capture.read()
            if not is_there:
                return
            now = clocks.monotonic()
            begin = now if begin is None else begin
            yield Arrival(now - begin, partial(_red_first, image))

    def close(self) -> None:
        self._capture.release()


def _red_first(image: Any) -> Any:
    """OpenCV's blue, green, red (H, W, 3) as red, green, blue."""
    return np.ascontiguousarray(image[:, :, ::-1])


class SteadyClock:
    """Times from a server's stamps, from 0 and rising: a clock that is set back, jumps far or says nothing goes on from
    the frame before, `usual` seconds later."""

    def __init__(self, usual: float):
        self._usual = usual
        self._last: float | None = None
        self._shift = 0.0

    def __call__(self, stamp: float | None) -> float:
        if self._last is None:
            self._last, self._shift = 0.0, -(stamp or 0.0)
            return 0.0
        time = self._last + self._usual if stamp is None else stamp + self._shift
        if not 0 < time - self._last <= LONG:
            time = self._last + self._usual
            self._shift = time - (stamp or 0.0)
        self._last = time
        return time


class LastingFeed(Feed):
    """A feed without an end that is opened again by `open_it` where it breaks off; the clock goes on meanwhile.

    Args:
        patience: seconds without a frame until it is given up; 0 never tries again.
        say: told, in a line, when it is lost and when it is back.
    """

    def __init__(
        self,
        feed: Feed,
        open_it: Callable[[], Feed],
        *,
        patience: float,
        say: Callable[[str], None],
        stop: Event | None = None,
    ):
        self._open, self._patience, self._say, self._stop = open_it, patience, say, stop or Event()
        self._feed = feed
        self.name, self.fps, self.size, self.has_end = feed.name, feed.fps, feed.size, feed.has_end

    def arrivals(self) -> Iterator[Arrival]:
        last: float | None = None
        shift = 0.0
        seen = clocks.monotonic()  # when the last frame came
        while True:
            why = "it ended"
            is_first = True
            try:
                for time, picture in self._feed.arrivals():
                    now = clocks.monotonic()
                    if is_first and last is not None:
                        shift = last + now - seen - time
                        self._say(f"{self.name}: back after {now - seen:.1f} s")
                    last, seen, is_first = shift + time, now, False
                    yield Arrival(last, picture)
            except InputError as error:
                if not self._patience:
                    raise
                why = str(error)
            if not self._patience or self._stop.is_set():
                return
            if last is None:
                raise InputError(f"{self.name}: expected frames, none came: {why}")
            if not is_first:
                self._say(f"{self.name}: lost at {last:.1f} s ({why}): trying again")
            self._feed.close()
            if not self._again(seen):
                return

    def _again(self, seen: float) -> bool:
        """Open it anew, sooner or later; False where that is to stop. Raises `InputError` when it is given up."""
        wait, most = WAITS
        why = "it sends no frames"
        while not self._stop.wait(wait):
            if clocks.monotonic() - seen > self._patience:
                raise InputError(f"{self.name}: given up after {self._patience:g} s without a frame: {why}")
            try:
                self._feed = self._open()
                return True
            except InputError as error:
                why = str(error)
            wait = min(2 * wait, most)
        return False

    def close(self) -> None:
        self._feed.close()
