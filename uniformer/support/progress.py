"""How far work has come, and where the time goes: one progress bar for all commands, at a terminal only, so that logs
stay readable, and one stopwatch."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from uniformer.errors import visible

OnProgress = Callable[[int, int], None]  #: called with the number done, and of how many

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
    """A bar while the block runs; one that draws nothing when not `shown`, or where no one watches."""
    if not (shown and sys.stderr.isatty() and os.environ.get("RANK", "0") == "0"):  # one bar of all processes of a run
        yield Bar(None, lambda line: print(visible(line), file=sys.stderr))
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=None)

        def say(line: str) -> None:
            bar.console.print(visible(line), markup=False, highlight=False)

        yield Bar(lambda done, total: bar.update(task, completed=done, total=total), say)


@dataclass
class Pace:
    """Where the time goes."""

    samples: int = 0
    waiting: float = 0.0  #: seconds for data
    working: float = 0.0  #: seconds for everything else

    def add(self, samples: int, waiting: float, working: float) -> None:
        self.samples, self.waiting, self.working = (
            self.samples + samples,
            self.waiting + waiting,
            self.working + working,
        )

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
