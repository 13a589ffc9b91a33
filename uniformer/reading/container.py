"""A video file taken apart by FFmpeg (in PyAV): its container, the packets in it, the frames that they decode to."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable, Iterator, Mapping, Set
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import IO

import av
from av.audio.stream import AudioStream
from av.codec.context import Flags
from av.container import InputContainer
from av.error import ArgumentError, FFmpegError
from av.packet import Packet
from av.stream import Discard, Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from uniformer.errors import InputError
from uniformer.reading.limits import (
    BYTE_READ,
    MAX_PIXELS,
    NOTHING_DECODED,
    PACKET_DECODED,
    PACKET_READ,
    Work,
    check_pixels,
)
from uniformer.reading.mp4 import check_samples
from uniformer.reading.pictures import scans_in
from uniformer.reading.sources import Encoded

# Containers (FFmpeg's names), by what their packets are worth. Playlists and all else that can name further files or
# addresses are in no list, so they are refused: a file that came from outside must not make us open another one.
SEEKABLE = frozenset({"mov", "matroska"})  # a packet is a frame with its own time; keyframes are found
FRAMED = frozenset({"avi", "gif", "flv", "asf", "ogg", "ivf", "nut"})  # a packet is a frame; decode in order
PARSED = frozenset({"mpegts", "mpeg", "mpegvideo", "h264", "hevc", "m4v", "mjpeg", "obu", "mxf", "wtv", "dv"})
# In the last, packets are cut by guesswork or may hold half a frame: only decoding everything tells how many there are.
SENT = frozenset({"rtsp", "rtp", "sdp", "mpjpeg"})  # as cameras and servers send them
SERVERS = {  # by the scheme of an address, the protocols that may follow from it
    **dict.fromkeys(("http", "https"), "http,https,tcp,tls,httpproxy"),
    **dict.fromkeys(("rtsp", "rtsps"), "rtsp,rtsps,rtp,udp,tcp,tls"),
}

MAX_THREADS = 8  # of one decoder; more hardly help
THREAD_PIXELS = 1 << 25  # of the frames that threads hold, each its own: one of 8K, four of 4K
MAX_READ_ERRORS = 100  # a damaged container that fails this often gives nothing more


def open_container(medium: Encoded) -> tuple[InputContainer, VideoStream]:
    """A fresh container and its main video stream, with limits and threads set. Raises `InputError`."""
    container = _opened(medium)
    stream = _main_video(container, medium.name)
    _discard_others(container, stream)
    threads = _threads(stream.width * stream.height)
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    stream.codec_context.thread_type = "AUTO" if threads > 1 else "NONE"
    stream.codec_context.thread_count = threads
    return container, stream


def open_address(url: str, timeout: float) -> tuple[InputContainer, VideoStream]:
    """What a server sends, as it comes, and its main video stream, in one thread: more would hold frames back.

    The address may lead to no file here and to no other kind of address. `timeout` is the seconds to wait for the
    server, then for each packet. Raises `InputError`.
    """
    container = _av_open(
        url, url, SENT | SEEKABLE | FRAMED | PARSED, SERVERS[url.partition("://")[0].lower()], timeout=timeout,
        options={"rtsp_transport": "tcp"} if url.lower().startswith("rtsp") else {},
    )  # fmt: skip
    stream = _main_video(container, url)
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    stream.codec_context.thread_type = "NONE"
    stream.codec_context.flags |= Flags.low_delay
    return container, stream


def _main_video(container: InputContainer, name: str) -> VideoStream:
    try:
        stream = container.streams.best("video")
        if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
            raise InputError(f"{name}: expected a video, found no video stream in it")
        if stream.codec_context is None:
            raise InputError(f"{name}: expected a video, found one in a codec that this FFmpeg cannot decode")
        check_pixels(name, stream.width, stream.height)
        return stream
    except BaseException:
        container.close()
        raise


def open_sound(medium: Encoded) -> tuple[InputContainer, AudioStream] | None:
    """A fresh container and its main sound; None where there is none. Raises `InputError` as `open_container`."""
    container = _opened(medium)
    stream = container.streams.best("audio")
    if not isinstance(stream, AudioStream):
        container.close()
        return None
    _discard_others(container, stream)
    return container, stream


def sound_codec(stream: AudioStream) -> str:
    """What FFmpeg calls its codec."""
    return "an unknown codec" if stream.codec_context is None else stream.codec_context.codec.canonical_name


def _opened(medium: Encoded) -> InputContainer:
    check_samples(medium)
    file = medium.from_start()
    # The prefix keeps a colon in a name from being taken for a protocol
    where = f"file:{file.absolute()}" if isinstance(file, Path) else file
    return _av_open(where, medium.name, SEEKABLE | FRAMED | PARSED, "file")


def _av_open(
    file: str | IO[bytes],
    name: str,
    formats: Set[str],
    protocols: str,
    *,
    timeout: float | None = None,
    options: Mapping[str, str] = MappingProxyType({}),
) -> InputContainer:
    try:
        return av.open(
            file,
            "r",
            metadata_errors="ignore",  # old AVI files carry Latin-1
            options={"max_pixels": str(MAX_PIXELS)},
            container_options={
                "protocol_whitelist": protocols,
                "format_whitelist": ",".join(sorted(formats)),
                **options,
            },
            timeout=timeout,
        )
    except FFmpegError as error:
        reason = "not a format that is read" if isinstance(error, ArgumentError) else error.strerror
        what = "a file" if timeout is None else "an address"
        raise InputError(f"{name}: expected a video, found {what} that does not open as one: {reason}") from None


def _discard_others(container: InputContainer, stream: Stream) -> None:
    if "mov" in container.format.name.split(","):  # whose other streams may lie over all of the file, many times
        for other in container.streams:
            other.discard = Discard.default if other is stream else Discard.all


def _threads(pixels: int) -> int:
    """One in a worker process (of a DataLoader, say), where the others use the other cores; else what pays, and what
    frames of so many pixels allow."""
    if multiprocessing.parent_process() is not None:
        return 1
    return max(1, min(os.cpu_count() or 1, MAX_THREADS, THREAD_PIXELS // max(pixels, 1)))


def packets_of(container: InputContainer, stream: VideoStream | AudioStream, work: Work) -> Iterator[Packet]:
    """What is left of the packets, less the empty ones (which would end decoding); goes on after errors of reading."""
    for _ in range(MAX_READ_ERRORS):
        try:
            for packet in container.demux(stream):
                work.spend(PACKET_READ + BYTE_READ * packet.size)
                if packet.size:
                    yield packet
            return
        except FFmpegError:
            continue
        except IndexError:  # PyAV's own, after the last packet, where a damaged file grew a stream on the way
            return


def frames_of(stream: VideoStream, packets: Iterable[Packet], work: Work) -> Iterator[VideoFrame]:
    """Decoded frames as shown one after the other; packets that fail to decode are passed over."""
    context = stream.codec_context
    for packet in chain(packets, [None]):  # None drains the decoder
        try:
            decoded = stream.decode(packet)
        except FFmpegError:
            decoded = []
        if packet is not None:
            passes = scans_in(bytes(packet)) if context.codec.canonical_name == "mjpeg" else 1
            least = PACKET_DECODED if decoded else NOTHING_DECODED
            work.spend(least + max(passes, 1) * context.width * context.height)
        yield from decoded
