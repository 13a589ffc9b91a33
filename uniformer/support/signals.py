"""Signals that ask a process to stop, for what runs until then."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stopped_by_signals() -> Iterator[threading.Event]:
    """An event that the first SIGINT or SIGTERM sets; a second one acts as usual."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # where Python takes no signals
        yield stop
        return
    before = {which: signal.getsignal(which) for which in (signal.SIGINT, signal.SIGTERM)}

    def end(which: int, _: Any) -> None:
        stop.set()
        signal.signal(which, before[signal.Signals(which)])

    for which in before:
        signal.signal(which, end)
    try:
        yield stop
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)
