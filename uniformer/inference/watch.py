"""Several feeds watched by one network: at the speed of the world, or as fast as it goes.

a thread a feed: frames -> its `Stream`   |   here: clips that are due, of all streams together -> network -> answers

At the speed of the world the newest counts: a frame that comes too late is not cropped, and while the network computes
a stream moves on, so that the next answer is to its newest frame. What was left out is counted, see `Stream`.
"""

from __future__ import annotations

import threading
import time as clocks
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from uniformer.errors import InputError, first_line
from uniformer.inference.predictor import Predictor
from uniformer.inference.stream import Answer, Stream, answers_to
from uniformer.reading.feeds import LOOK, Feed
from uniformer.tasks.task import Failure

LATE = 0.25  # seconds behind from which on a frame is not cropped ...
KEPT = 0.2  # ... unless the last one that was is so many seconds before it
DRIFT = 1e-3  # seconds a second by which clocks may part without anything being late


@dataclass
class Watched:
    """A feed, and the stream of its frames."""

    feed: Feed
    stream: Stream
    ended: bool = False
    failure: Failure | None = field(default=None)

    def fail(self, error: Exception) -> None:
        known = isinstance(error, InputError)
        name = self.feed.name
        why = str(error) if known else f"{name}: cannot be read: {type(error).__name__}: {first_line(error)}"
        self.failure = Failure(name, why)

    def short(self) -> Failure | None:
        """Why there was no answer at all, where its frames ended before the first."""
        if self.failure is not None or self.stream.answered:
            return None
        what = f"{self.stream.frames} frames" if self.stream.frames else "no frame"
        window = f"a clip of {self.stream.window:.2f} s"
        return Failure(self.feed.name, f"{self.feed.name}: expected {window}, it ended after {what}")


def watch(
    predictor: Predictor, watched: Sequence[Watched], *, live: bool = True, stop: threading.Event | None = None
) -> Iterator[Answer | Failure]:
    """Answers as they come, of every stream in the order of its time, until all feeds have ended or `stop` is set.

    With `live` recordings run at their own speed, and what comes too late is left out; without it every frame is taken
    and every answer given, as fast as it goes. A feed that breaks off, or ends before a clip was whole, gives a
    `Failure`, and the others go on.
    """
    stop = stop or threading.Event()
    yield from (_live if live else _every)(predictor, watched, stop)
    for one in watched:
        failure = one.failure or (None if stop.is_set() else one.short())
        if failure is not None:
            yield failure


def _every(predictor: Predictor, watched: Sequence[Watched], stop: threading.Event) -> Iterator[Answer | Failure]:
    feeds = {id(one): one.feed.arrivals() for one in watched}

    def advance(one: Watched) -> None:
        """To its next answer, or its end."""
        try:
            for time, picture in feeds[id(one)]:
                one.stream.add(picture(), time)
                if one.stream.due or stop.is_set():
                    return
        except Exception as error:  # a decoder's or a system's own: of this feed, not of the others
            one.fail(error)
        one.ended = True

    while not stop.is_set() and (going := [one for one in watched if not one.ended]):
        for one in going:
            advance(one)
        yield from _answer(predictor, going)


def _answer(predictor: Predictor, watched: Sequence[Watched]) -> Iterator[Answer | Failure]:
    yield from answers_to(predictor, [one.stream.clip() for one in watched if one.stream.due])


# ---- at the speed of the world ---------------------------------------------------------------------------------------


def _live(predictor: Predictor, watched: Sequence[Watched], stop: threading.Event) -> Iterator[Answer | Failure]:
    news = threading.Condition()
    over = threading.Event()  # of the caller, who may leave before the end

    def is_over() -> bool:
        return stop.is_set() or over.is_set()

    def capture(one: Watched) -> None:
        pace, taken = Pace(one.feed.has_end), -KEPT
        try:
            for time, picture in one.feed.arrivals():
                arrived = pace.arrival(time, over)
                if is_over():
                    break
                if clocks.monotonic() - arrived > LATE and time < taken + KEPT:
                    one.stream.left_out += 1
                    continue
                one.stream.add(picture(), time, arrived=arrived)
                taken = time
                if one.stream.due:
                    with news:
                        news.notify()
        except Exception as error:  # of this feed, not of the others
            one.fail(error)
        one.ended = True
        with news:
            news.notify()

    for one in watched:  # daemons: a feed that waits for its server keeps no process from ending
        threading.Thread(target=capture, args=(one,), name=f"capture {one.feed.name}", daemon=True).start()
    try:
        while not stop.is_set():
            with news:
                news.wait_for(lambda: any(one.stream.due for one in watched) or _all_ended(watched), LOOK)
            if _all_ended(watched) and not any(one.stream.due for one in watched):
                return
            yield from _answer(predictor, watched)
    finally:
        over.set()


def _all_ended(watched: Sequence[Watched]) -> bool:
    return all(one.ended for one in watched)


class Pace:
    """When frames are there, by `time.monotonic`: those of a recording when their time has come, others at once."""

    def __init__(self, has_end: bool):
        self._has_end = has_end
        self._begin: float | None = None  # when time 0 was, or would have been
        self._last = 0.0

    def arrival(self, time: float, over: threading.Event) -> float:
        """When the frame of this time came, or was to come, for which a recording is waited for unless it is `over`.

        Of a live feed the least late frame tells when its time 0 was, and clocks that part slowly are followed.
        """
        now = clocks.monotonic()
        if self._begin is None:
            self._begin = now - time
        if self._has_end:
            if (left := self._begin + time - now) > 0:
                over.wait(left)
            return self._begin + time
        self._begin = min(now - time, self._begin + DRIFT * max(time - self._last, 0.0))
        self._last = time
        return self._begin + time
