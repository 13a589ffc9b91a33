"""Several feeds watched by one network: at the speed of the world, or as fast as it goes.

a thread a feed: frames -> its `Stream`   |   here: clips that are due, of all streams together -> network -> answers

At the speed of the world the newest counts: a frame that comes too late is not cropped, and while the network computes
a stream moves on, so that the next answer is to its newest frame. What was left out is counted, see `Stream`.
"""

from __future__ import annotations

import threading
import time as clocks
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

from uniformer.errors import InputError, counted, first_line
from uniformer.inference.predictor import Predictor
from uniformer.inference.stream import Answer, Stream, answers_to
from uniformer.reading.feeds import LOOK, Feed
from uniformer.tasks.task import Failure

LATE = 0.25  # seconds behind from which on a frame is not cropped ...
KEPT = 0.2  # ... unless the last one that was is so many seconds before it
DRIFT = 1e-3  # seconds a second by which clocks may part without anything being late


class Ended(NamedTuple):
    """A feed is over."""

    source: str
    error: str | None  #: why it broke off, or gave no answer at all


News = Answer | Failure | Ended


@dataclass
class Watched:
    """A feed, and the stream of its frames."""

    feed: Feed
    stream: Stream
    has_ended: bool = False
    error: str | None = None
    is_told: bool = False  #: that it has ended

    def frames(self, admit: Callable[[float], float | None]) -> Generator[None]:
        """Take the feed's frames, one a step. `admit` says when that of some time came, None where it is left out.

        What goes wrong is the feed's `error`. It is closed at last, by the thread that reads it.
        """
        name, stream = self.feed.name, self.stream
        try:
            with self.feed:
                for time, picture in self.feed.arrivals():
                    arrived = admit(time)
                    if arrived is None:
                        stream.left_out += 1
                    else:
                        stream.add(picture(), time, arrived=arrived)
                    yield
        except InputError as error:
            self.error = str(error)
        except Exception as error:  # a decoder's or a system's own: of this feed, not of the others
            self.error = f"{name}: cannot be read: {type(error).__name__}: {first_line(error)}"
        if self.error is None and not stream.answered and not stream.due:
            what = counted(stream.frames, "frame") if stream.frames else "no frame"
            self.error = f"{name}: expected a clip of {stream.window:.2f} s, it ended after {what}"
        self.has_ended = True


def watch(
    predictor: Predictor, watched: Sequence[Watched], *, live: bool = True, stop: threading.Event | None = None
) -> Iterator[News]:
    """Answers as they come, of every stream in the order of its time, until all feeds have ended or `stop` is set.

    With `live` recordings run at their own speed, and what comes too late is left out; without it every frame is taken
    and every answer given, as fast as it goes. Each feed that is over is told, also one that broke off or ended before
    a clip was whole, and the others go on. An answer that is not finite is a `Failure`.
    """
    return (_live if live else _every)(predictor, watched, stop or threading.Event())


def _every(predictor: Predictor, watched: Sequence[Watched], stop: threading.Event) -> Iterator[News]:
    frames = [one.frames(lambda time: clocks.monotonic()) for one in watched]
    while not stop.is_set() and not all(one.is_told for one in watched):
        for one, steps in zip(watched, frames, strict=True):
            for _ in steps:
                if one.stream.due or stop.is_set():
                    break
        yield from _news(predictor, watched)


def _news(predictor: Predictor, watched: Sequence[Watched]) -> Iterator[News]:
    """Answers that are due, and the ends of feeds after their last answers."""
    over = [one for one in watched if one.has_ended and not one.is_told]  # seen first: what is due then is their last
    yield from answers_to(predictor, [one.stream.clip() for one in watched if one.stream.due])
    for one in over:
        one.is_told = True
        yield Ended(one.feed.name, one.error)


# ---- at the speed of the world ---------------------------------------------------------------------------------------


def _live(predictor: Predictor, watched: Sequence[Watched], stop: threading.Event) -> Iterator[News]:
    news = threading.Condition()
    over = threading.Event()  # of the caller, who may leave before the end

    def capture(one: Watched) -> None:
        with closing(one.frames(Pace(one.feed.has_end, over))) as steps:
            for _ in steps:
                if over.is_set():
                    return
                if one.stream.due:
                    with news:
                        news.notify()
        with news:
            news.notify()

    for one in watched:  # daemons: a feed that waits for its server keeps no process from ending
        threading.Thread(target=capture, args=(one,), name=f"capture {one.feed.name}", daemon=True).start()
    try:
        while not stop.is_set() and not all(one.is_told for one in watched):
            with news:
                news.wait_for(lambda: any(one.stream.due or one.has_ended > one.is_told for one in watched), LOOK)
            yield from _news(predictor, watched)
    finally:
        over.set()


class Pace:
    """When frames come, by `time.monotonic`: those of a recording when their time has come, others at once; None for
    one that is to be left out. `over` ends waiting.

    Of a live feed the least late frame tells when its time 0 was, and clocks that part slowly are followed.
    """

    def __init__(self, has_end: bool, over: threading.Event):
        self._has_end, self._over = has_end, over
        self._begin: float | None = None  # when time 0 was, or would have been
        self._last = 0.0
        self._taken = -KEPT  # the time of the last frame that was not left out

    def __call__(self, time: float) -> float | None:
        now = clocks.monotonic()
        begin = now - time if self._begin is None else self._begin
        if not self._has_end:
            begin = min(now - time, begin + DRIFT * max(time - self._last, 0.0))
        elif begin + time > now:
            self._over.wait(begin + time - now)
        self._begin, self._last = begin, time
        if now - (begin + time) > LATE and time < self._taken + KEPT:
            return None
        self._taken = time
        return begin + time
