"""Where the numbers and the parts of a media file are: sizes, counts, offsets, times, and the boxes that hold them.

For damage that a decoder takes seriously: a file with a bit turned is refused at its checksum, one that says in sound
form that it has two billion frames is believed.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from typing import NamedTuple

BOXES = frozenset((b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"moof", b"traf", b"mvex"))
PNG = b"\x89PNG\r\n\x1a\n"


class Part(NamedTuple):
    """A box, chunk, segment or block, its own header included."""

    start: int
    body: int  #: where the header ends
    end: int


def parts_of(data: bytes | bytearray) -> list[Part]:
    """Of an MP4, PNG, JPEG, GIF, WebP or AVI, as far as it is sound; none of other files."""
    start = bytes(data[:12])
    if start.startswith(PNG):
        return list(_chunks(data, 8, "big", trailer=4, padded=False))
    if start.startswith(b"\xff\xd8"):
        return list(_segments(data))
    if start.startswith(b"GIF8"):
        return list(_blocks(data))
    if start.startswith(b"RIFF"):
        return list(_chunks(data, 12, "little", trailer=0, padded=True))
    return list(_boxes(data, 0, len(data)))


def _boxes(data: bytes | bytearray, start: int, end: int) -> Iterator[Part]:
    while end - start >= 8:
        size, kind = int.from_bytes(data[start : start + 4], "big"), bytes(data[start + 4 : start + 8])
        if not 8 <= size <= end - start or not kind.isalnum():
            return
        yield Part(start, start + 8, start + size)
        if kind in BOXES:
            yield from _boxes(data, start + 8, start + size)
        start += size


def _chunks(data: bytes | bytearray, start: int, order: str, trailer: int, padded: bool) -> Iterator[Part]:
    """Of a PNG (size, kind, data, checksum) or of a RIFF file (kind, size, data, to an even length)."""
    while start + 8 <= len(data):
        at = start if order == "big" else start + 4
        size = int.from_bytes(data[at : at + 4], "big" if order == "big" else "little")
        end = start + 8 + size + trailer + (size % 2 if padded else 0)
        if end > len(data):
            return
        yield Part(start, start + 8, end)
        start = end


def _segments(data: bytes | bytearray) -> Iterator[Part]:
    """Of a JPEG; the last one goes to the end of what is compressed."""
    start = 2
    while start + 4 <= len(data) and data[start] == 0xFF:
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        if data[start + 1] == 0xDA:
            while end + 1 < len(data) and not (data[end] == 0xFF and data[end + 1] not in (0, *range(0xD0, 0xD8))):
                end += 1
        yield Part(start, start + 4, min(end, len(data)))
        start = end


def _blocks(data: bytes | bytearray) -> Iterator[Part]:
    """Of a GIF: extensions and pictures."""
    start = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    while start + 10 < len(data) and data[start] in (0x21, 0x2C):
        at = start + 2
        if data[start] == 0x2C:
            at = start + 11 + (3 << (data[start + 9] & 7) + 1 if data[start + 9] & 0x80 else 0)
        while at < len(data) and data[at]:
            at += data[at] + 1
        yield Part(start, start + 10, min(at + 1, len(data)))
        start = at + 1


NUMBERS = (0, 1, 2, 7, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0xFFFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)


def set_number(data: bytearray, other: bytes, draw: random.Random) -> None:
    """A field of one, two, four or eight bytes in a header, or near the start of what it heads, is another."""
    parts = parts_of(data)
    for _ in range(draw.choice([1, 1, 2, 4])):
        part = draw.choice(parts) if parts else Part(0, 0, min(len(data), 256))
        size, order = draw.choice([1, 2, 2, 4, 4, 4, 8]), draw.choice(["big", "little"])
        place = part.start + draw.randrange(0, max(1, min(part.end - part.start, 64) - size), 2 if size > 1 else 1)
        old = int.from_bytes(data[place : place + size], "big" if order == "big" else "little")
        new = draw.choice([*NUMBERS, old + 1, max(old - 1, 0), 2 * old, old * 1000, len(data)])
        data[place : place + size] = (new % 256**size).to_bytes(size, "big" if order == "big" else "little")


def copy_part(data: bytearray, other: bytes, draw: random.Random) -> None:
    """A part comes again, up to a thousand times, there or elsewhere."""
    parts = parts_of(data)
    if parts:
        part, to = draw.choice(parts), draw.choice(parts)
        times = min(draw.choice([1, 2, 30, 1000]), max(1, 2_000_000 // (part.end - part.start)))
        data[to.start : to.start] = bytes(data[part.start : part.end]) * times


def drop_part(data: bytearray, other: bytes, draw: random.Random) -> None:
    if parts := parts_of(data):
        part = draw.choice(parts)
        del data[part.start : part.end]


def take_part(data: bytearray, other: bytes, draw: random.Random) -> None:
    """A part of another file."""
    parts, theirs = parts_of(data), parts_of(other)
    if parts and theirs:
        part, new = draw.choice(parts), draw.choice(theirs)
        data[part.start : part.end] = other[new.start : new.end]


def exif_entry(data: bytearray, other: bytes, draw: random.Random) -> None:
    """A field of an EXIF or TIFF directory: the tag, the type, the count, or the value or where it is."""
    starts = [place for mark in (b"II*\0", b"MM\0*") if (place := data.find(mark)) >= 0]
    if not starts:
        return set_number(data, other, draw)
    start = draw.choice(starts)
    order = "little" if data[start : start + 2] == b"II" else "big"
    place, size = draw.choice([(4, 4), (8, 2), *((10 + 12 * i + at, n) for i in range(4) for at, n in FIELDS)])
    new = draw.choice([*NUMBERS, 3, 4, 5, 6, 8, 12, 13, 0x0112])
    end = min(start + place + size, len(data))
    data[start + place : end] = (new % 256**size).to_bytes(size, "big" if order == "big" else "little")[
        : end - start - place
    ]
    return None


FIELDS = ((0, 2), (2, 2), (4, 4), (8, 4))
STRUCTURED = (set_number, set_number, copy_part, drop_part, take_part, exif_entry)


def with_checksums(data: bytearray) -> None:
    """Those of a PNG made right, so that what was changed is believed."""
    if data.startswith(PNG):
        for part in parts_of(data):
            data[part.end - 4 : part.end] = zlib.crc32(data[part.start + 4 : part.end - 4]).to_bytes(4, "big")
