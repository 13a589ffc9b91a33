"""Reading video: `open_video` gives the frames of a file or a folder of images by number, decoding few others.

Which frame is which is settled first, see `index.py`; then the wanted ones are decoded from the keyframes before them.
"""

from __future__ import annotations

import importlib.util
import os
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from uniformer.errors import InputError, MissingExtra, counted, first_line
from uniformer.reading.container import frames_of, open_container, packets_of
from uniformer.reading.conversion import Conversion
from uniformer.reading.frames import Picture, VideoInfo, VideoReader, open_folder, open_frames
from uniformer.reading.index import scan
from uniformer.reading.limits import CONVERTED, MAX_PIXELS, Work
from uniformer.reading.pictures import Pixels, starts_as_image
from uniformer.reading.sources import Encoded, Media, encoded, head, is_path

__all__ = ["MAX_PIXELS", "VideoInfo", "VideoReader", "open_frames", "open_video", "probe"]


def open_video(source: Media, *, backend: Literal["pyav", "torchcodec"] = "pyav") -> VideoReader:
    """Open a video file, or a folder of frames, for reading frames by number.

    Args:
        source: a file in any usual container and codec, as a path, bytes, a binary file object or an http(s) address
            (`sources.encoded`), or a folder of images (`frames.open_folder`).
        backend: "pyav" needs nothing beside this package; "torchcodec" needs its extra and a system FFmpeg, decodes the
            same frames, and reads mp4, mov, webm and mkv files only. Folders are read by Pillow with either.

    Raises:
        InputError: there is no such file, it is empty, not a video, holds no frame that can be decoded, or its frames
            have more than `MAX_PIXELS` pixels.
        MissingExtra: the backend is "torchcodec" and its package is not installed.
    """
    if backend not in ("pyav", "torchcodec"):
        raise InputError(f"expected the backend 'pyav' or 'torchcodec', got {backend!r}")
    if is_path(source) and os.path.isdir(source):  # unlike the method of Path, False where permission is missing
        return open_folder(Path(source))
    if backend == "torchcodec" and importlib.util.find_spec("torchcodec") is None:
        raise MissingExtra("torchcodec", "torchcodec", "the backend 'torchcodec'")
    medium = encoded(source, "a video")
    try:
        if not isinstance(medium.file, Path) and starts_as_image(head(medium.file)):
            raise InputError(f"{medium.name}: expected a video for a network of clips, found an image")
        return FileReader(medium) if backend == "pyav" else TorchcodecReader(medium)
    except BaseException:
        medium.close()
        raise


def probe(source: Media) -> VideoInfo:
    """Frames, rate, size and codec of a video, as `open_video(source).info`. Raises what `open_video` raises."""
    with open_video(source) as reader:
        return reader.info


class FileReader(VideoReader):
    """Frames of a video file by PyAV (which carries FFmpeg), converted as `Conversion` does."""

    def __init__(self, medium: Encoded):
        self._medium, self._name = medium, medium.name
        self._bytes = medium.size
        self._container, self._stream, first, self._index = scan(medium, self._work())
        try:
            self._picture = Conversion(self._name, first, self._stream.thread_count)
            super().__init__(self._describe())
            self._note_clock()
        except BaseException:
            self._container.close()
            raise

    def close(self) -> None:
        self._container.close()
        self._medium.close()

    def _describe(self) -> VideoInfo:
        clock, count, stream = self._index.clock, self._index.num_frames, self._stream
        width, height = self._picture.size
        rate, duration = stream.average_rate, None
        if stream.time_base and clock is not None and clock.ticks[-1] > clock.ticks[0]:
            span = Fraction(clock.ticks[-1].item() - clock.ticks[0].item()) * stream.time_base
            rate = (count - 1) / span
            duration = None if clock.hold is None else float(span + clock.hold * stream.time_base)
        return VideoInfo(
            path=self._name,
            num_frames=count,
            fps=float(rate) if rate else None,
            duration=duration or (float(count / rate) if rate else None),
            width=width,
            height=height,
            rotation=self._picture.orientation.rotation,
            codec=stream.codec_context.codec.canonical_name,
            container=self._container.format.name,
        )

    def _times(self) -> NDArray[np.float64]:
        clock, base = self._index.clock, self._stream.time_base
        if clock is not None and base:
            return (clock.ticks - clock.ticks[0]) * float(base)
        if self.info.fps is None:
            raise InputError(f"{self._name}: expected a video with a clock, found neither times nor a frame rate")
        return np.arange(self._index.num_frames) / self.info.fps

    def _note_clock(self) -> None:
        if self._index.clock is not None and self._stream.time_base:
            self.start = float(self._index.clock.ticks[0]) * float(self._stream.time_base)
        if self._index.clock is not None and (mended := self._index.clock.mended):
            found = counted(mended, "time")
            self.notes.append(f"{found} missing, doubled or not in the order of the frames: mended")

    def _work(self) -> Work:
        """What one pass over the file may cost."""
        return Work(self._name, self._bytes)

    def _pictures(self, wanted: Sequence[int]) -> Iterator[tuple[int, Picture]]:
        if not self._index.is_seekable:
            left = set(wanted)
            for number, picture in self.all_pictures():
                left.discard(number)
                yield number, picture
                if not left:
                    return
            return
        work = self._work()
        for key, run in self._index.runs(wanted):
            yield from self._run(key, set(run), work)

    def _run(self, key: tuple[int, int], left: set[int], work: Work) -> Iterator[tuple[int, Picture]]:
        """Seek to a keyframe and decode until all of `left` have come. Gives up where the container does not obey."""
        time, position = key
        earliest = bisect_left(self._index.pts, time) if position else 0  # those before it lack what they refer to
        with suppress(FFmpegError):
            self._container.seek(time, stream=self._stream)
            packets = packets_of(self._container, self._stream, work)
            first = next(packets, None)
            if first is None or first.pts is None or self._index.positions.get(first.pts, position + 1) > position:
                return
            times = {self._index.pts[number] for number in left}
            for frame in frames_of(self._stream, self._needed(chain([first], packets), times), work):
                number = self._number(frame)
                if number is not None and number >= earliest:
                    left.discard(number)
                    yield number, partial(self._convert, frame, work)
                if not left:
                    return

    def _needed(self, packets: Iterable[Packet], times: set[int]) -> Iterator[Packet]:
        """The packets to decode for the frames shown at `times`, less those that no other frame refers to."""
        context = self._stream.codec_context
        if context.codec.intra_only:  # MJPEG, ProRes
            yield from (packet for packet in packets if packet.pts in times)
        elif context.codec.canonical_name == "h264":  # says of each frame whether another may refer to it
            try:
                for packet in packets:
                    context.skip_frame = "DEFAULT" if packet.pts in times else "NONREF"
                    yield packet
            finally:
                context.skip_frame = "DEFAULT"
        else:
            yield from packets

    def all_pictures(self) -> Iterator[tuple[int, Picture]]:
        self._container.close()  # not every container can be rewound; a fresh one starts in the same state each time
        self._container, self._stream = open_container(self._medium)
        work, in_order = self._work(), -1
        for frame in frames_of(self._stream, packets_of(self._container, self._stream, work), work):
            in_order += 1
            number = self._number(frame) if self._index.is_seekable else in_order
            if number is not None and number < self.info.num_frames:
                yield number, partial(self._convert, frame, work)

    def _number(self, frame: VideoFrame) -> int | None:
        """The frame's number by its presentation time, None if the index does not know it."""
        pts = self._index.pts
        if frame.pts is None:
            return None
        number = bisect_left(pts, frame.pts)
        return number if number < len(pts) and pts[number] == frame.pts else None

    def _convert(self, frame: VideoFrame, work: Work) -> Pixels:
        work.spend(CONVERTED * self._picture.pixels)
        return self._picture(frame)


class TorchcodecReader(FileReader):
    """The same frames decoded by torchcodec in its exact mode. PyAV still says which frames there are, and when."""

    def __init__(self, medium: Encoded):
        super().__init__(medium)
        try:
            self._decoder = self._open_decoder()
        except BaseException:
            self.close()
            raise

    def _open_decoder(self) -> Any:
        if not self._index.is_seekable:
            raise InputError(
                f"{self._name}: torchcodec finds the wrong frames in {self.info.container}: use the backend 'pyav'"
            )
        try:
            from torchcodec.decoders import VideoDecoder

            file = self._medium.from_start()
            decoder = VideoDecoder(
                os.fspath(file) if isinstance(file, Path) else file.read(),  # a copy: PyAV goes on with the file itself
                dimension_order="NHWC",
                num_ffmpeg_threads=self._stream.thread_count,
                seek_mode="exact",
            )
        except (ImportError, OSError, RuntimeError, ValueError) as error:  # without FFmpeg: thousands of characters
            raise InputError(
                f"{self._name}: torchcodec (it needs FFmpeg's libraries) cannot open it: {first_line(error)}"
            ) from None
        if len(decoder) != self.info.num_frames:
            raise InputError(
                f"{self._name}: expected {self.info.num_frames} frames, torchcodec found {len(decoder)}: use 'pyav'"
            )
        return decoder

    def _pictures(self, wanted: Sequence[int]) -> Iterator[tuple[int, Picture]]:
        work, pixels = self._work(), self.info.width * self.info.height
        for (_, position), run in self._index.runs(wanted):  # it decodes from the keyframe on, as PyAV would
            reached = max(self._index.positions[self._index.pts[number]] for number in run)
            work.spend((reached - position) * pixels + (1 + CONVERTED) * pixels * len(run))
        for number in wanted:
            try:
                frame = self._decoder.get_frame_at(number).data  # (H, W, 3), rotated already
            except (RuntimeError, IndexError) as error:
                raise InputError(
                    f"{self._name}: torchcodec fails at frame {number} ('pyav' may not): {first_line(error)}"
                ) from None
            yield number, frame.numpy
