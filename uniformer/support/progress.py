"""How far work has come, and where the time goes: a progress bar at a terminal, now and then a line elsewhere, so that
logs stay readable; and one stopwatch."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from uniformer.errors import visible

OnProgress = Callable[[int, int], None]  #: called with the number done, and of how many

EVERY = 10.0  # seconds between two lines of progress at least
DATA_BOUND = 0.2  # share of the time waiting for data from which on loading is what limits a run


class Bar:
    """Called with (done, of how many); `say` prints a line without tearing the bar."""

    def __init__(self, update: OnProgress | None, say: Callable[[str], None]):
        self._update = update
        self.say = say

    def __call__(self, done: int, total: int) -> None:
        if self._update is not None:
            self._update(done, total)


@contextmanager
def progress_bar(name: str, *, shown: bool = True) -> Iterator[Bar]:
    """A bar while the block runs, or lines where standard error is no terminal; neither when not `shown`."""
    is_main = os.environ.get("RANK", "0") == "0"  # one bar of all processes of a run
    if not (shown and is_main and sys.stderr.isatty()):
        yield Bar(Lines(name, _print) if shown and is_main else None, _print)
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=None)

        def say(line: str) -> None:
            bar.console.print(visible(line), markup=False, highlight=False)

        yield Bar(lambda done, total: bar.update(task, completed=done, total=total), say)


class Lines:
    """Progress for a log: a line after ten seconds and every ten from then on, and in long work after every tenth of
    the time that has gone, so that a day has no thousand of them. `clock` gives seconds."""

    def __init__(self, name: str, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic):
        self._name, self._say, self._clock = name, say, clock
        self._began = self._said = clock()

    def __call__(self, done: int, total: int) -> None:
        now = self._clock()
        gone = now - self._began
        if now - self._said < max(EVERY, (self._said - self._began) / 10) or done >= total:
            return
        self._said = now
        left = f", about {_duration(gone * (total - done) / done)} to go" if done else ""
        self._say(f"{self._name}: {done} of {total} ({done / total:.0%}) in {_duration(gone)}{left}")


def _print(line: str) -> None:
    print(visible(line), file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


@dataclass
class Pace:
    """Where the time goes."""

    samples: int = 0
    waiting: float = 0.0  #: seconds for data
    working: float = 0.0  #: seconds for everything else

    def add(self, samples: int, waiting: float, working: float) -> None:
        self.samples += samples
        self.waiting += waiting
        self.working += working

    @property
    def rate(self) -> float:
        """Samples a second."""
        return self.samples / max(self.waiting + self.working, 1e-9)

    @property
    def waiting_share(self) -> float:
        return self.waiting / max(self.waiting + self.working, 1e-9)

    def verdict(self, noun: str) -> str:
        """What limits the run, in words."""
        could = self.samples / max(self.working, 1e-9)
        if self.waiting_share >= DATA_BOUND:
            return f"decode-bound: {self.rate:.3g} {noun}/s, the model could take {could:.3g}"
        return f"model-bound: {self.rate:.3g} {noun}/s, {self.waiting_share:.0%} of the time waiting for data"
