"""The frames of a video as pictures for a dense network: an answer for each, as they come."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from uniformer.reading.frames import Picture, VideoReader
from uniformer.reading.moments import Moment, moments_of
from uniformer.tasks.pictured import PictureResult
from uniformer.tasks.task import Failure

if TYPE_CHECKING:
    from uniformer.inference.predictor import Predictor
    from uniformer.reading.views import Views


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
            yield from _answers(predictor, map(_decoded, moments), source)
            continue
        for number, time, picture in moments:
            lost = Failure(source, f"{source}: frame {number} cannot be decoded", number, time, lasts=True)
            yield Seen(number, time, picture, None if number in known else lost)


def _decoded(moment: Moment) -> Moment:
    """With pixels that stay when the next one is asked for."""
    assert moment.picture is not None
    return moment._replace(picture=partial(np.asarray, moment.picture()))


def _answers(predictor: Predictor, moments: Iterator[Moment], source: str) -> Iterator[Seen]:
    def load(moment: Moment) -> Views:
        assert moment.picture is not None
        return predictor.task.load(moment.picture())

    for moment, answer in predictor.answers(moments, load, lambda moment: f"{source}, frame {moment.number}"):
        yield Seen(*moment, replace(answer, source=source, frame=moment.number, time=moment.time))
