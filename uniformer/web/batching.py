"""One thread that computes for many requests: what they ask of a network within some milliseconds goes through it
together.

A request runs as it would alone, by a `Predictor` in a thread of its own, and meets the others only here:

    decode (a few at a time)  ->  `Shared` waits  ->  `Computing` joins, computes, parts  ->  decode the answer

So batches change no answer but as `Predictor.run` does: what else went along moves no digit, how much did may move the
last ones of float32.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from queue import Empty, SimpleQueue
from threading import Semaphore, Thread
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from uniformer.errors import UnfitInput
from uniformer.reading.tiles import tiles_of
from uniformer.reading.transforms import Floats
from uniformer.reading.views import Views
from uniformer.reading.whole import TiledViews
from uniformer.tasks.task import Outputs, Task

if TYPE_CHECKING:
    from uniformer.inference.engine import Network

MOST_TILES = 64  #: of a picture that one request may ask for
NOTHING = np.empty(0, np.float32)


class OutOfTime(Exception):
    """A request has had its time."""


class NetworkFailed(Exception):
    """A network could not compute: no fault of what it was fed."""


class Turn:
    """What a request may use: one of the places of those that decode, until it is over.

    Args:
        places: as many as may decode at once.
        until: when its time is over, by `time.monotonic`.
    """

    def __init__(self, places: Semaphore, until: float):
        self._places, self._until = places, until

    def left(self) -> float:
        """Seconds. Raises `OutOfTime` where there are none."""
        seconds = self._until - time.monotonic()
        if seconds <= 0:
            raise OutOfTime
        return seconds

    def __enter__(self) -> Turn:
        if not self._places.acquire(timeout=self.left()):
            raise OutOfTime
        return self

    def __exit__(self, *_: object) -> None:
        self._places.release()

    def outputs(self, asked: Future[Outputs]) -> Outputs:
        """What comes of `asked`; others decode meanwhile. Raises `OutOfTime`, and what computing raised."""
        self._places.release()
        try:
            return asked.result(self.left())
        except TimeoutError:
            raise OutOfTime from None
        finally:
            asked.cancel()  # where nobody waits for it any more
            self._places.acquire()


class Ask(NamedTuple):
    """Views that are to go through a network, together with others of its kind."""

    kind: object
    views: Floats  #: (V, ...); `NOTHING` for what goes alone
    compute: Callable[[Floats], Outputs]
    answer: Future[Outputs]


class Computing:
    """The thread in which all networks of a process compute.

    Args:
        batch_size: views that go through together, at most; those of one request are never parted.
        wait: seconds that the first of a batch waits for more.
        others: how many requests are at work, so that nobody waits for more than can come.
        seen: is told the number of views of each batch.
    """

    def __init__(
        self,
        batch_size: int,
        wait: float,
        *,
        others: Callable[[], int],
        seen: Callable[[int], None] = lambda n: None,
    ):
        self._batch_size, self._wait, self._others, self._seen = batch_size, wait, others, seen
        self._asked: SimpleQueue[Ask | None] = SimpleQueue()
        self._waiting: list[Ask] = []
        self._ended = False
        self._thread = Thread(target=self._work, name="compute", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Compute what was asked for, and end."""
        self._asked.put(None)
        self._thread.join()

    def ask(self, kind: object, views: Floats, compute: Callable[[Floats], Outputs]) -> Future[Outputs]:
        """`compute(views)` in the thread, for views of one kind together: what follows from each must not depend on
        the others."""
        answer: Future[Outputs] = Future()
        self._asked.put(Ask(kind, views, compute, answer))
        return answer

    def _work(self) -> None:
        while group := self._next():
            _answer([ask for ask in group if ask.answer.set_running_or_notify_cancel()], self._seen)

    def _next(self) -> list[Ask]:
        """The one that waits longest, and those of its kind that have room beside it; none at the end."""
        if not self._waiting and not self._take(None):
            return []
        until = time.monotonic() + self._wait
        while self._take(0) or (self._has_room() and len(self._waiting) < self._others() and self._take(until)):
            pass
        group, rest, room = list[Ask](), list[Ask](), self._batch_size
        for ask in self._waiting:
            joins = not group or (ask.kind == group[0].kind and len(ask.views) <= room)
            (group if joins else rest).append(ask)
            room -= len(ask.views) if joins else 0
        self._waiting = rest
        return group

    def _has_room(self) -> bool:
        """Whether one more like the first would join it."""
        first, *others = self._waiting
        views = sum(len(ask.views) for ask in others if ask.kind == first.kind)
        return 0 < len(first.views) <= self._batch_size - len(first.views) - views

    def _take(self, until: float | None) -> bool:
        """Let one more wait, which is there or comes until then; whether one did."""
        try:
            timeout = None if until is None else max(0.0, until - time.monotonic())
            ask = None if self._ended else self._asked.get(timeout=timeout)
        except Empty:
            return False
        self._ended |= ask is None
        self._waiting += [] if ask is None else [ask]
        return ask is not None


def _answer(group: Sequence[Ask], seen: Callable[[int], None]) -> None:
    """Compute for all together; where that fails, for each alone, so that only the one at fault has none."""
    if not group:
        return
    views = [ask.views for ask in group]
    try:
        outputs = group[0].compute(views[0] if len(group) == 1 else np.concatenate(views))
    except Exception as error:
        if len(group) == 1:
            group[0].answer.set_exception(error)
        else:
            for ask in group:
                _answer([ask], seen)
        return
    seen(sum(map(len, views)))
    first = 0
    for ask in group:
        last = first + len(ask.views)
        ask.answer.set_result(outputs if len(group) == 1 else tuple(each[first:last] for each in outputs))
        first = last


class Shared:
    """A network as one request sees it, an `engine.Network`: it computes in a thread for all."""

    def __init__(self, computing: Computing, turn: Turn, network: Network):
        self._computing, self._turn, self._network = computing, turn, network
        self.contract, self.report = network.contract, network.report

    def __call__(self, views: Floats, batch_size: int) -> Outputs:
        kind = id(self._network), views.shape[1:], batch_size
        return self._ask(kind, views, partial(_computed, self._network, batch_size))

    def whole(self, task: Task, views: Views, batch_size: int) -> Outputs:
        if isinstance(views, TiledViews):
            height, width = views.picture.shape[:2]
            tiles = sum(1 for _ in tiles_of(height, width, views.side))
            if tiles > MOST_TILES:  # nothing else is computed meanwhile
                raise UnfitInput(f"expected at most {MOST_TILES} tiles, {width}x{height} has {tiles} of {views.side}")
        return self._ask(object(), NOTHING, lambda _: self._network.whole(task, views, batch_size))

    def _ask(self, kind: object, views: Floats, compute: Callable[[Floats], Outputs]) -> Outputs:
        try:
            return self._turn.outputs(self._computing.ask(kind, views, compute))
        except (OutOfTime, UnfitInput):
            raise
        except Exception as error:  # its own words may name files of this machine
            raise NetworkFailed from error

    @property
    def compute(self) -> str:
        return self._network.compute

    @property
    def exact_form(self) -> str:
        return self._network.exact_form

    @property
    def device_type(self) -> str:
        return self._network.device_type

    @property
    def weights(self) -> str:
        return self._network.weights


def _computed(network: Any, batch_size: int, views: Floats) -> Outputs:
    outputs: Outputs = network(views, batch_size)
    return outputs
