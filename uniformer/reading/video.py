"""Reading video: `open_video` gives the frames of a file or a folder of images by number, decoding few others.

Which frame is which is settled first: one pass over the packets, without decoding them, gives the presentation time of
every frame and the keyframes to start from. Where a container makes that unsafe, frames are counted by decoding them.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from av.container import InputContainer
from av.error import ArgumentError, FFmpegError
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from uniformer.errors import InputError, MissingExtra, first_line
from uniformer.reading.frames import Orientation, Picture, VideoInfo, VideoReader, open_folder, open_frames
from uniformer.reading.pictures import MAX_PIXELS, Pixels, check_pixels, starts_as_image
from uniformer.reading.sources import Encoded, Media, encoded, head, is_path

__all__ = ["MAX_PIXELS", "VideoInfo", "VideoReader", "open_frames", "open_video", "probe"]

# Containers (FFmpeg's names), by what their packets are worth. Playlists and all else that can name further files or
# addresses are in no list, so they are refused: a file that came from outside must not make us open another one.
SEEKABLE = frozenset({"mov", "matroska"})  # a packet is a frame with its own time; keyframes are found
FRAMED = frozenset({"avi", "gif", "flv", "asf", "ogg", "ivf", "nut"})  # a packet is a frame; decode in order
PARSED = frozenset({"mpegts", "mpeg", "mpegvideo", "h264", "hevc", "m4v", "mjpeg", "obu", "mxf", "wtv", "dv"})
# In the last, packets are cut by guesswork or may hold half a frame: only decoding everything tells how many there are.

MAX_THREADS = 8  # of one decoder; more hardly help and each holds a frame
MAX_READ_ERRORS = 100  # a damaged container that fails this often gives nothing more
SEEK_PAYS = 8  # packets between two wanted frames from which a seek is no dearer than decoding them (2 threads)


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


@dataclass(frozen=True)
class Index:
    """Where the frames are. Frames are numbered as shown, packets as stored."""

    num_frames: int
    pts: list[int]  #: presentation times of the frames, rising; empty where some are missing or not unique
    positions: dict[int, int]  #: presentation time -> packet number, of every packet. Empty where seeking is unsafe
    keys: list[tuple[int, int]]  #: (presentation time, packet number) of the keyframes, rising

    @property
    def is_seekable(self) -> bool:
        return bool(self.positions)


class FileReader(VideoReader):
    """Frames of a video file by PyAV (which carries FFmpeg), turned as the container says.

    Pixels that are not square stay so, as in the readers that the published models were trained with.
    """

    def __init__(self, medium: Encoded):
        self._medium, self._name = medium, medium.name
        self._reformatter = VideoReformatter()
        self._container, self._stream = _open(medium)
        try:
            first, self._index = _scan(self._container, self._stream, medium.name)
            self._size = first.width, first.height
            self._orientation = _orientation(first)
            super().__init__(self._describe())
        except BaseException:
            self._container.close()
            raise

    def close(self) -> None:
        self._container.close()
        self._medium.close()

    def _describe(self) -> VideoInfo:
        index, stream = self._index, self._stream
        width, height = reversed(self._size) if self._orientation.transpose else self._size
        rate = stream.average_rate
        if stream.time_base and index.pts and index.pts[-1] > index.pts[0]:
            rate = (index.num_frames - 1) / ((index.pts[-1] - index.pts[0]) * stream.time_base)
        return VideoInfo(
            path=self._name,
            num_frames=index.num_frames,
            fps=float(rate) if rate else None,
            duration=float(index.num_frames / rate) if rate else None,
            width=width,
            height=height,
            rotation=self._orientation.rotation,
            codec=stream.codec_context.codec.canonical_name,
            container=self._container.format.name,
        )

    def _times(self) -> NDArray[np.float64]:
        index, base = self._index, self._stream.time_base
        if index.pts and base:
            return (np.asarray(index.pts) - index.pts[0]) * float(base)
        if self.info.fps is None:
            raise InputError(f"{self._name}: expected a video with a clock, found neither times nor a frame rate")
        return np.arange(index.num_frames) / self.info.fps

    def _pictures(self, wanted: Sequence[int]) -> Iterator[tuple[int, Picture]]:
        if not self._index.is_seekable:
            left = set(wanted)
            for number, picture in self.all_pictures():
                left.discard(number)
                yield number, picture
                if not left:
                    return
            return
        for key, run in _runs(self._index, wanted):
            yield from self._run(key, set(run))

    def _run(self, key: tuple[int, int], left: set[int]) -> Iterator[tuple[int, Picture]]:
        """Seek to a keyframe and decode until all of `left` have come. Gives up where the container does not obey."""
        time, position = key
        earliest = bisect_left(self._index.pts, time) if position else 0  # those before it lack what they refer to
        with suppress(FFmpegError):
            self._container.seek(time, stream=self._stream)
            packets = _packets(self._container, self._stream)
            first = next(packets, None)
            if first is None or first.pts is None or self._index.positions.get(first.pts, position + 1) > position:
                return
            times = {self._index.pts[number] for number in left}
            for frame in _frames(self._stream, self._needed(chain([first], packets), times)):
                number = self._number(frame)
                if number is not None and number >= earliest:
                    left.discard(number)
                    yield number, partial(self._convert, frame)
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
        self._container, self._stream = _open(self._medium)
        in_order = -1
        for frame in _frames(self._stream, _packets(self._container, self._stream)):
            in_order += 1
            number = self._number(frame) if self._index.is_seekable else in_order
            if number is not None and number < self.info.num_frames:
                yield number, partial(self._convert, frame)

    def _number(self, frame: VideoFrame) -> int | None:
        """The frame's number by its presentation time, None if the index does not know it."""
        pts = self._index.pts
        if frame.pts is None:
            return None
        number = bisect_left(pts, frame.pts)
        return number if number < len(pts) and pts[number] == frame.pts else None

    def _convert(self, frame: VideoFrame) -> Pixels:
        """RGB as shown, (H, W, 3). A stream may change its size half-way: every frame takes the first one's."""
        width, height = self._size
        try:
            rgb = self._reformatter.reformat(frame, width, height, "rgb24", threads=self._stream.thread_count)
        except FFmpegError as error:
            raise InputError(f"{self._name}: {frame.format.name} frames cannot be made RGB: {error.strerror}") from None
        return self._orientation.apply(np.asarray(rgb.to_ndarray(), np.uint8))


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
        for number in wanted:
            try:
                frame = self._decoder.get_frame_at(number).data  # (H, W, 3), rotated already
            except (RuntimeError, IndexError) as error:
                raise InputError(
                    f"{self._name}: torchcodec fails at frame {number} ('pyav' may not): {first_line(error)}"
                ) from None
            yield number, frame.numpy


def _open(medium: Encoded) -> tuple[InputContainer, VideoStream]:
    """A fresh container and its main video stream, with limits and threads set. Raises `InputError`."""
    file, name = medium.from_start(), medium.name
    try:
        container = av.open(
            # The prefix keeps a colon in a name from being taken for a protocol
            f"file:{file.absolute()}" if isinstance(file, Path) else file,
            "r",
            metadata_errors="ignore",  # old AVI files carry Latin-1
            options={"max_pixels": str(MAX_PIXELS)},
            container_options={
                "protocol_whitelist": "file",
                "format_whitelist": ",".join(sorted(SEEKABLE | FRAMED | PARSED)),
            },
        )
    except FFmpegError as error:
        reason = "not a format that is read" if isinstance(error, ArgumentError) else error.strerror
        raise InputError(f"{name}: expected a video, found a file that does not open as one: {reason}") from None
    try:
        stream = container.streams.best("video")
        if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
            raise InputError(f"{name}: expected a video, found no video stream in it")
        if stream.codec_context is None:
            raise InputError(f"{name}: expected a video, found one in a codec that this FFmpeg cannot decode")
        check_pixels(name, stream.width, stream.height)
    except BaseException:
        container.close()
        raise
    threads = _threads()
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    stream.codec_context.thread_type = "AUTO" if threads > 1 else "NONE"
    stream.codec_context.thread_count = threads
    return container, stream


def _threads() -> int:
    """One in a worker process (of a DataLoader, say), where the others use the other cores; else what pays."""
    if multiprocessing.parent_process() is not None:
        return 1
    return min(os.cpu_count() or 1, MAX_THREADS)


def _packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet]:
    """What is left of the packets, less the empty ones (which would end decoding); goes on after errors of reading."""
    for _ in range(MAX_READ_ERRORS):
        try:
            for packet in container.demux(stream):
                if packet.size:
                    yield packet
            return
        except FFmpegError:
            continue
        except IndexError:  # PyAV's own, after the last packet, where a damaged file grew a stream on the way
            return


def _frames(stream: VideoStream, packets: Iterable[Packet]) -> Iterator[VideoFrame]:
    """Decoded frames as shown one after the other; packets that fail to decode are passed over."""
    for packet in chain(packets, [None]):  # None drains the decoder
        try:
            decoded = stream.decode(packet)
        except FFmpegError:
            continue
        yield from decoded


def _scan(container: InputContainer, stream: VideoStream, name: str) -> tuple[VideoFrame, Index]:
    """The first frame, and where all are: one pass over the packets that decodes until one frame has come."""
    formats = set(container.format.name.split(","))
    packets: list[tuple[int | None, bool]] = []  # presentation time, is a keyframe
    shown: list[int | None] = []  # presentation times

    def seen() -> Iterator[Packet]:
        for packet in _packets(container, stream):
            packets.append((packet.pts, packet.is_keyframe))
            if not packet.is_discard and not _is_hidden(stream, packet):  # an edit list may discard even keyframes
                shown.append(packet.pts)
            yield packet

    rest = seen()
    frames = _frames(stream, rest)
    first = next(frames, None)
    if formats & PARSED and first is not None:
        shown = [first.pts, *(frame.pts for frame in frames)]
    else:
        deque(rest, maxlen=0)
    if first is None or not shown:
        raise InputError(f"{name}: expected a video, found no frame of up to {MAX_PIXELS} pixels that can be decoded")
    known = [pts for pts in shown if pts is not None]
    is_timed = len(set(known)) == len(shown)
    positions = {pts: position for position, (pts, _) in enumerate(packets) if pts is not None}
    if not is_timed or not formats & SEEKABLE or len(positions) < len(packets):
        return first, Index(len(shown), sorted(known) if is_timed else [], {}, [])
    keys = [
        (pts, position)
        for position, (pts, is_key) in enumerate(packets)
        if pts is not None and (is_key or position == 0)  # decoding has to start somewhere
    ]
    return first, Index(len(shown), sorted(known), positions, sorted(keys))


def _orientation(frame: VideoFrame) -> Orientation:
    """From the display matrix (nine 32-bit numbers) that the container may give."""
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    return Orientation() if matrix is None else Orientation.of(*np.frombuffer(matrix, np.int32)[[0, 1, 3, 4]].tolist())


def _is_hidden(stream: VideoStream, packet: Packet) -> bool:
    """VP8 alone puts frames that are only referred to into packets of their own (RFC 6386, 9.1: show_frame)."""
    return stream.codec_context.codec.canonical_name == "vp8" and not memoryview(packet)[0] & 0x10


def _runs(index: Index, wanted: Sequence[int]) -> list[tuple[tuple[int, int], list[int]]]:
    """The wanted frames (rising) as (keyframe to start from, frames decoded from there)."""
    key_times = [pts for pts, _ in index.keys]
    runs: list[tuple[tuple[int, int], list[int]]] = []
    reached = 0  # packet number up to which the last run decodes
    for number in wanted:
        pts = index.pts[number]
        # Frames shown before a keyframe but stored after it (open GOP) need the keyframe before: compare times.
        key = index.keys[max(bisect_right(key_times, pts) - 1, 0)]
        if not runs or key[1] - reached >= SEEK_PAYS:
            runs.append((key, []))
        runs[-1][1].append(number)
        reached = max(reached, index.positions[pts])
    return runs
