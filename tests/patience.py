"""Waiting in tests: for a condition, never for a time. How long a thing takes depends on what else the machine does."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 900  #: seconds until a test that hangs is ended; nothing that works is to come near it


def wait_until(condition: Callable[[], object], alive: Callable[[], bool] = lambda: True) -> None:
    """Until `condition()` holds. Fails when what was to bring it about is no longer `alive()` and it still does not."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if not alive():
            assert condition(), "it ended before what was waited for"
            return
        assert time.monotonic() < end, f"waited {PATIENCE} s in vain"
        time.sleep(0.001)
