"""Where the frames of a video file are, and when they are shown.

One pass over the packets, without decoding them, gives the time of every frame and the keyframes to start from. Where
the container, or what it says, makes that unsafe, frames are counted by decoding them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from uniformer.errors import InputError
from uniformer.reading.clock import Clock, clock_of
from uniformer.reading.container import PARSED, SEEKABLE, frames_of, open_container, packets_of
from uniformer.reading.limits import MAX_PIXELS, Work
from uniformer.reading.sources import Encoded

SEEK_PAYS = 8  # packets between two wanted frames from which a seek is no dearer than decoding them (2 threads)
MAX_PACKETS = 1 << 22  # 20 hours at 60 frames a second; what is kept of each takes 200 bytes
REORDERED = 16  # frames between a packet's place and its frame's, at most, in any codec


@dataclass(frozen=True)
class Index:
    """Where the frames are. Frames are numbered as shown, packets as stored."""

    num_frames: int
    clock: Clock | None  #: when each frame is shown
    pts: list[int]  #: presentation times of the frames as stored, rising; empty where seeking is unsafe
    positions: dict[int, int]  #: presentation time -> packet number, of every packet. Empty where seeking is unsafe
    keys: list[tuple[int, int]]  #: (presentation time, packet number) of the keyframes, rising

    @property
    def is_seekable(self) -> bool:
        return bool(self.positions)

    def runs(self, wanted: Sequence[int]) -> list[tuple[tuple[int, int], list[int]]]:
        """The wanted frames (rising) as (keyframe to start from, frames decoded from there)."""
        key_times = [pts for pts, _ in self.keys]
        runs: list[tuple[tuple[int, int], list[int]]] = []
        reached = 0  # packet number up to which the last run decodes
        for number in wanted:
            pts = self.pts[number]
            # Frames shown before a keyframe but stored after it (open GOP) need the keyframe before: compare times.
            key = self.keys[max(bisect_right(key_times, pts) - 1, 0)]
            if not runs or key[1] - reached >= SEEK_PAYS:
                runs.append((key, []))
            runs[-1][1].append(number)
            reached = max(reached, self.positions[pts])
        return runs


class _Shown(NamedTuple):
    """A frame, as its packet or the decoder tells of it, in ticks of the stream."""

    pts: int | None
    duration: int  #: 0 where it is not known


class Scanned(NamedTuple):
    """A file that is open for reading, and what is in it."""

    container: InputContainer
    stream: VideoStream
    first: VideoFrame
    frames: Index


def scan(medium: Encoded, work: Work) -> Scanned:
    """Open a file and see where its frames are: one pass over the packets that decodes until one frame has come.

    Frames are decoded to the end where packets are cut by guesswork, or where times contradict the order of packets.
    Raises `InputError` where no frame can be decoded, or there is too much to look at.
    """
    container, stream = open_container(medium)
    try:
        first, packets, shown = _pass_over(medium.name, container, stream, work)
        if first is not None and not shown:
            container.close()  # a file in memory has one place to read from
            shown = _decoded(medium, work)
            container, stream = open_container(medium)
        if first is None or not shown:
            raise InputError(
                f"{medium.name}: expected a video, found no frame of up to {MAX_PIXELS} pixels that can be decoded"
            )
        return Scanned(container, stream, first, _index(packets, shown, container, stream))
    except BaseException:
        container.close()
        raise


def _pass_over(
    name: str, container: InputContainer, stream: VideoStream, work: Work
) -> tuple[VideoFrame | None, list[tuple[int | None, bool]], list[_Shown]]:
    """The first frame, the packets (presentation time, is a keyframe), and the frames as shown: none where only a
    decoder can tell."""
    formats = set(container.format.name.split(","))
    packets: list[tuple[int | None, bool]] = []  # presentation time, is a keyframe
    shown: list[_Shown] = []

    def seen() -> Iterator[Packet]:
        for packet in packets_of(container, stream, work):
            packets.append((packet.pts, packet.is_keyframe))
            if len(packets) > MAX_PACKETS:
                raise InputError(f"{name}: expected a video of at most {MAX_PACKETS} packets, found more")
            if not packet.is_discard and not _is_hidden(stream, packet):  # an edit list may discard even keyframes
                shown.append(_Shown(packet.pts, packet.duration or 0))
            yield packet

    rest = seen()
    frames = frames_of(stream, rest, work)
    first = next(frames, None)
    if formats & PARSED and first is not None:
        shown = [_Shown(frame.pts, frame.duration) for frame in (first, *frames)]
    else:
        deque(rest, maxlen=0)
        shown = _in_order(shown, stream.codec_context.has_b_frames)
    return first, packets, shown


def _index(
    packets: Sequence[tuple[int | None, bool]],
    shown: Sequence[_Shown],
    container: InputContainer,
    stream: VideoStream,
) -> Index:
    stamps = [frame.pts for frame in shown]
    clock = None
    if stream.time_base:
        second, length = float(1 / stream.time_base), _length(container, stream)
        clock = clock_of(stamps, [frame.duration for frame in shown], second, length)
    pts = [stamp for stamp in stamps if stamp is not None]
    is_rising = len(pts) == len(stamps) and all(a < b for a, b in pairwise(pts))
    positions = {pts: position for position, (pts, _) in enumerate(packets) if pts is not None}
    is_indexed = SEEKABLE & set(container.format.name.split(","))
    if not is_indexed or not is_rising or len(positions) < len(packets):
        return Index(len(shown), clock, [], {}, [])
    keys = [
        (pts, position)
        for position, (pts, is_key) in enumerate(packets)
        if pts is not None and (is_key or position == 0)  # decoding has to start somewhere
    ]
    return Index(len(shown), clock, pts, positions, sorted(keys))


def _in_order(stored: list[_Shown], may_reorder: bool) -> list[_Shown]:
    """Frames as shown, from packets as stored; none where their times are not in an order that a decoder could give."""
    missing = sum(frame.pts is None for frame in stored)
    if missing:
        return [] if may_reorder and missing < len(stored) else stored
    order = sorted(range(len(stored)), key=lambda place: stored[place].pts or 0)
    most = REORDERED if may_reorder else 0
    if any(abs(place - position) > most for position, place in enumerate(order)):
        return []
    return [stored[place] for place in order]


def _decoded(medium: Encoded, work: Work) -> list[_Shown]:
    """All frames as shown, from the decoder."""
    container, stream = open_container(medium)
    with closing(container):
        frames = frames_of(stream, packets_of(container, stream, work), work)
        return [_Shown(frame.pts, frame.duration) for frame in frames]


def _length(container: InputContainer, stream: VideoStream) -> int | None:
    """Ticks that the file says the video is shown for."""
    if stream.duration is not None:
        return stream.duration
    if container.duration is None or not stream.time_base:
        return None
    return int(Fraction(container.duration, 1_000_000) / stream.time_base)


def _is_hidden(stream: VideoStream, packet: Packet) -> bool:
    """VP8 alone puts frames that are only referred to into packets of their own (RFC 6386, 9.1: show_frame)."""
    return stream.codec_context.codec.canonical_name == "vp8" and not memoryview(packet)[0] & 0x10
