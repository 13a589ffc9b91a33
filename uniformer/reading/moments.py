"""A video as pictures, one after the other: every frame or every n-th, with its number and time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from uniformer.errors import InputError
from uniformer.reading.frames import Picture, VideoReader


class Moment(NamedTuple):
    """A frame of a video."""

    number: int  #: from 0
    time: float | None  #: seconds from the first frame; None of a video without a clock
    picture: Picture | None  #: converts it to pixels (H, W, 3), until the next one is asked for; None if it is damaged


def count_of(reader: VideoReader, every: int) -> int:
    """How many moments there are."""
    return -(-reader.info.num_frames // every)


def moments_of(reader: VideoReader, every: int = 1) -> Iterator[Moment]:
    """The frames 0, `every`, 2 `every`, ... of a video, decoded one after the other, those that cannot be included.

    Raises `InputError` where no frame at all can be decoded.
    """
    count = reader.info.num_frames
    try:
        times: list[float] | list[None] = reader.times(range(count)).tolist()
    except InputError:  # it has no clock
        times = [None] * count
    awaited, found = 0, False
    for number, picture in reader.all_pictures():
        found = True
        while awaited < number:
            yield Moment(awaited, times[awaited], None)
            awaited += every
        if number == awaited:
            yield Moment(number, times[number], picture)
            awaited += every
    if not found:
        raise InputError(f"{reader.info.path}: expected a video, found no frame that can be decoded")
    for number in range(awaited, count, every):
        yield Moment(number, times[number], None)
