"""How many samples an MP4 or QuickTime file lists, before FFmpeg makes room for each: four bytes can claim 80 million,
which takes it 5 GB. ISO 14496-12 names the boxes.
"""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Iterator
from typing import IO, NamedTuple

from uniformer.errors import InputError
from uniformer.reading.sources import Encoded

MAX_SAMPLES = 1 << 24  # of all tracks; FFmpeg holds 60 bytes of each
# What FFmpeg looks into, wherever it stands: also a header that was marked as free.
HOLDERS = frozenset(
    (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf", b"mvex", b"udta", b"cmov", b"free", b"hoov")
)
MAX_HEADER = 1 << 26  # bytes that a compressed header may come to


class _Box(NamedTuple):
    kind: bytes
    start: int  #: of its content
    end: int


def check_samples(medium: Encoded) -> None:
    """Raises `InputError` for a file that lists more than `MAX_SAMPLES`, counted once for each of a track's edits."""
    with medium.opened() as file:
        count = _samples(file, _Box(b"", 0, file.seek(0, os.SEEK_END)))
    if count > MAX_SAMPLES:
        what = f"a video of at most {MAX_SAMPLES} samples"
        raise InputError(f"{medium.name}: expected {what}, found one that lists {count}")


def _boxes(file: IO[bytes], start: int, end: int) -> Iterator[_Box]:
    """The boxes from one place to another, as far as they are sound."""
    while end - start >= 8:
        file.seek(start)
        head = file.read(16)
        size, kind, content = int.from_bytes(head[:4], "big"), head[4:8], start + 8
        if size == 1:
            size, content = int.from_bytes(head[8:16], "big"), start + 16
        until = end if size == 0 else min(start + size, end)
        if len(head) < 8 or until < content:
            return
        yield _Box(kind, content, until)
        start = until


def _samples(file: IO[bytes], box: _Box, is_sound: bool = False) -> int:
    """What a box lists, those in it included."""
    total, edits, ticks = 0, 1, (0, 0)
    for inner in _boxes(file, box.start, box.end):
        if inner.kind == b"cmvd":
            total += _compressed(file, inner)
        elif inner.kind == b"edts":
            edits = max(1, sum(_number(file, one, 4) for one in _boxes(file, *inner[1:]) if one.kind == b"elst"))
        elif inner.kind == b"hdlr":
            is_sound = _number(file, inner, 8) == int.from_bytes(b"soun", "big")
        elif inner.kind in HOLDERS:
            total += _samples(file, inner, is_sound)
        elif inner.kind in (b"stsz", b"stz2"):
            total += _number(file, inner, 8)
        elif inner.kind == b"trun":
            total += _number(file, inner, 4)
        elif inner.kind == b"stts":
            ticks = _number(file, inner, 4), _number(file, inner, 12)
    # Plain sound is listed as a sample each tick, of which FFmpeg holds none: it takes them by the chunk
    return 0 if is_sound and ticks == (1, 1) else total * edits


def _number(file: IO[bytes], box: _Box, at: int) -> int:
    file.seek(box.start + at)
    return int.from_bytes(file.read(4), "big") if box.start + at + 4 <= box.end else 0


def _compressed(file: IO[bytes], box: _Box) -> int:
    """Of a header that QuickTime compressed."""
    file.seek(box.start + 4)  # after the size that it comes to
    try:
        data = zlib.decompressobj().decompress(file.read(min(box.end - box.start, MAX_HEADER)), MAX_HEADER)
    except zlib.error:
        return 0
    return _samples(io.BytesIO(data), _Box(b"cmov", 0, len(data)))
