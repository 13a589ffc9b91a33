"""One progress bar for all commands: on standard error, at a terminal only, so that logs stay readable."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[int, int], None]  # done, of how many


class Bar:
    """Called with (done, of how many); `say` prints a line without tearing the bar."""

    def __init__(self, update: Report | None, say: Callable[[str], None]):
        self._update = update
        self.say = say

    def __call__(self, done: int, total: int) -> None:
        if self._update is not None:
            self._update(done, total)


@contextmanager
def progress_bar(name: str, *, shown: bool = True) -> Iterator[Bar]:
    """A bar while the block runs; one that draws nothing when not `shown`, or where no one watches."""
    if not (shown and sys.stderr.isatty()):
        yield Bar(None, lambda line: print(line, file=sys.stderr))
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=None)

        def say(line: str) -> None:
            bar.console.print(line, markup=False, highlight=False)

        yield Bar(lambda done, total: bar.update(task, completed=done, total=total), say)
