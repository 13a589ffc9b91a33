"""From answers to events: what begins when and ends when, without flicker.

probabilities -> smoothed over time -> an event begins where they rise to one level, and ends where below another
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from uniformer.errors import InputError
from uniformer.inference.stream import Answer, told_time
from uniformer.reading.transforms import Floats


@dataclass(frozen=True)
class Event:
    """A class that has begun, or has ended."""

    source: str
    name: str
    index: int  #: of the class
    start: float  #: seconds on the stream's clock
    end: float | None  #: None while it lasts
    score: float  #: the smoothed probability: as it began, or the mean over the event once it has ended
    told: float  #: the time of the newest frame when this was known

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; times in seconds, to the millisecond."""
        kind = "start" if self.end is None else "end"
        return {
            "event": kind, "source": self.source, "name": self.name, "index": self.index,
            "start": told_time(self.start), "end": self.end if self.end is None else told_time(self.end),
            "score": round(self.score, 4), "told": told_time(self.told),
        }  # fmt: skip


@dataclass
class _Open:
    """An event while it lasts."""

    start: float
    scores: float = 0.0  # their sum
    count: int = 0


class Events:
    """The events of one stream.

    An answer holds for the time nearest to its clip's middle, as in timelines: events begin and end half-way between
    the middles of two answers, the first with its clip. Where a clip was begun anew, all end with the clip before.

    Args:
        classes: names of the rows of probabilities.
        enter: the smoothed probability at which an event begins.
        leave: the one below which it ends; lower, so that one that hovers does not flicker.
        smooth: seconds after which an answer counts for 1/e in the mean of all so far; 0 takes each as it is.

    Raises `InputError` unless 0 < leave <= enter < 1 and smooth is not negative.
    """

    def __init__(self, classes: tuple[str, ...], *, enter: float = 0.5, leave: float = 0.3, smooth: float = 0.5):
        if not 0 < leave <= enter < 1:
            raise InputError(f"expected levels with 0 < leave <= enter < 1, got enter {enter:g} and leave {leave:g}")
        if not 0 <= smooth < math.inf:
            raise InputError(f"expected smooth of 0 seconds or more, got {smooth:g}")
        self._classes, self._enter, self._leave, self._smooth = classes, enter, leave, smooth
        self._mean: Floats | None = None
        self._last: Answer | None = None
        self._open: dict[int, _Open] = {}

    def add(self, answer: Answer) -> Iterator[Event]:
        """The events that an answer ends, then those that it begins."""
        last = self._last
        if last is not None and last.run != answer.run:
            yield from self.close()
            last = None
        border = answer.start if last is None else (last.middle + answer.middle) / 2
        self._last, self._mean = answer, self._smoothed(answer, last)
        for index in [index for index in self._open if self._mean[index] < self._leave]:
            yield self._ended(index, border, answer)
        for index in np.flatnonzero(self._mean >= self._enter).tolist():
            if index not in self._open:
                self._open[index] = _Open(border)
                score = float(self._mean[index])
                yield Event(answer.source, self._name(index), index, border, None, score, answer.end)
        for index, event in self._open.items():
            event.scores, event.count = event.scores + float(self._mean[index]), event.count + 1

    def close(self) -> Iterator[Event]:
        """The stream is over, or its clip begins anew: what is open ends with the last clip."""
        last, self._last, self._mean = self._last, None, None
        for index in list(self._open):
            assert last is not None
            yield self._ended(index, last.end, last)

    def _smoothed(self, answer: Answer, last: Answer | None) -> Floats:
        if self._mean is None or last is None or not self._smooth:
            return answer.probabilities
        share = 1 - math.exp((last.end - answer.end) / self._smooth)
        return np.asarray(self._mean + np.float32(share) * (answer.probabilities - self._mean))

    def _ended(self, index: int, end: float, answer: Answer) -> Event:
        event = self._open.pop(index)
        score = event.scores / event.count
        return Event(answer.source, self._name(index), index, event.start, end, score, answer.end)

    def _name(self, index: int) -> str:
        return self._classes[index] if self._classes else f"class {index}"
