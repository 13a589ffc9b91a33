"""The largest memory that a process has had, and little of it from now on.

The kernel's `VmHWM` begins anew with a program; `ru_maxrss` begins with what the process had that started it, and the
test suite's own is large.
"""

from __future__ import annotations

import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np


def peak_kilobytes() -> int:
    return _status("VmHWM")


@contextmanager
def at_most_more(megabytes: int) -> Iterator[None]:
    """This process gets no more than that beyond what it has."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, ((_status("VmSize") << 10) + (megabytes << 20), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def is_given_back() -> bool:
    """Whether a large block goes back to the system when it is free again, see `support.memory.keep_memory`."""
    block = np.empty(1 << 28, np.uint8)
    held = _status("VmSize")
    del block
    return held - _status("VmSize") >= 1 << 17  # kB


def _status(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])
