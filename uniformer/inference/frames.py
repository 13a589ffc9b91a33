"""The frames of a video as pictures for a dense network: an answer for each, as they come."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from uniformer.reading.frames import Picture, VideoReader
from uniformer.reading.moments import Moment, moments_of
from uniformer.reading.pictures import Pixels
from uniformer.tasks.pictured import PictureResult
from uniformer.tasks.task import Failure

if TYPE_CHECKING:
    from uniformer.inference.predictor import Predictor
    from uniformer.reading.views import Views


class Frame(NamedTuple):
    """A frame of a video that can be decoded, on its way through the network."""

    number: int
    time: float | None
    pixels: Pixels


class Seen(NamedTuple):
    """What came of a frame."""

    number: int
    time: float | None
    picture: Picture | None  #: gives its pixels, before the next frame is asked for; None where it cannot be decoded
    answer: PictureResult | Failure | None  #: None where it was known already


def see_frames(
    predictor: Predictor, reader: VideoReader, source: str, *, every: int = 1, known: Container[int] = ()
) -> Iterator[Seen]:
    """Every frame of a video, or every so many, in order; those that are `known` are passed by the network.

    Memory does not grow with the video. A frame that cannot be decoded is a `Failure`, and the others go on. Raises
    `InputError` where none can be.
    """

    def kind(moment: Moment) -> str:
        return "lost" if moment.picture is None else "known" if moment.number in known else "new"

    for what, moments in groupby(moments_of(reader, every), kind):
        if what == "new":
            yield from _answers(predictor, _decoded(moments), source)
            continue
        for number, time, picture in moments:
            lost = Failure(source, f"{source}: frame {number} cannot be decoded", number, time, lasts=True)
            yield Seen(number, time, picture, None if number in known else lost)


def _decoded(moments: Iterable[Moment]) -> Iterator[Frame]:
    for number, time, picture in moments:
        assert picture is not None
        yield Frame(number, time, picture())


def _answers(predictor: Predictor, frames: Iterator[Frame], source: str) -> Iterator[Seen]:
    def load(frame: Frame) -> Views:
        return predictor.task.load(frame.pixels)

    for frame, answer in predictor.answers(frames, load, lambda frame: f"{source}, frame {frame.number}"):
        placed = replace(answer, source=source, frame=frame.number, time=frame.time)
        yield Seen(frame.number, frame.time, partial(np.asarray, frame.pixels), placed)
