"""The largest memory that a process has had, and little of it from now on.

The kernel's `VmHWM` begins anew with a program; `ru_maxrss` begins with what the process had that started it, and the
test suite's own is large.
"""

from __future__ import annotations

import re
import resource
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np

from tests.training_processes import SERVER

T = TypeVar("T")


def peak_kilobytes() -> int:
    return _status("VmHWM")


def alone(work: Callable[..., T], *arguments: object) -> T:
    """What it gives in a process of its own: what earlier tests have freed would be more than its due."""
    with ProcessPoolExecutor(1, mp_context=SERVER) as pool:
        return pool.submit(work, *arguments).result()


@contextmanager
def at_most_more(megabytes: int) -> Iterator[None]:
    """This process gets no more than that beyond what it has; for one that is new, see `alone`."""
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
